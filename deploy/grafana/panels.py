"""Panels and boards in Grafana's words: what a line of `boards` becomes in the JSON that Grafana reads.

This is the classic model (`schemaVersion` 39), which every Grafana from 10 on reads from files. It is written by plain
functions: the boards need a few kinds of panels with the same options each. Grafana's own builders for Python
(grafana-foundation-sdk) would make each panel a chain of twenty calls, and had no release for ten months; as a witness
they are good, so a test lets them read what is written here.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, Literal

from deploy.grafana.queries import Query

Json = dict[str, object]
Colour = Literal["green", "orange", "red", "blue"]
Word = tuple[str, Colour]

SOURCE: Final[Json] = {"type": "prometheus", "uid": "${datasource}"}
TAG: Final = "whatsms-events"
NOW: Final[Json] = {"range": False, "instant": True}
"""A target that asks for the last value alone."""
LAST: Final[Json] = {"calcs": ["lastNotNull"], "fields": "", "values": False}
STEPS: Final = ((None, "green"), (1, "orange"), (2, "red"))
GREEN: Final[Json] = {"mode": "absolute", "steps": [{"color": "green", "value": None}]}
COLUMNS: Final = 24
HEIGHTS: Final = {"stat": 4, "table": 7, "text": 9, "state-timeline": 7, "timeseries": 7, "bargauge": 7}


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel: a question, its queries, and what a bad answer means.

    `section` is the title of the runbook's section that says what to do then.
    """

    kind: str
    title: str
    unit: str
    queries: tuple[Query, ...]
    about: str
    section: str
    defaults: Json = field(default_factory=dict)
    options: Json = field(default_factory=dict)
    target: Json = field(default_factory=dict)
    more: Json = field(default_factory=dict)

    def as_json(self, number: int, place: Json, runbook: str) -> Json:
        """Return what Grafana reads."""
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": f"{self.about} Runbook: {self.section}.",
            "gridPos": place,
            "links": [{"title": self.section, "url": f"{runbook}#{anchor(self.section)}", "targetBlank": True}],
            **self._asking(),
            "options": self.options,
            **self.more,
        }

    def _asking(self) -> Json:
        if not self.queries:
            return {}
        targets = [
            {
                "datasource": SOURCE, "editorMode": "code", "expr": query.expr, "legendFormat": query.legend,
                "range": True, "refId": chr(ord("A") + at), **self.target,
            }
            for at, query in enumerate(self.queries)
        ]  # fmt: skip
        fields = {"defaults": {"unit": self.unit, **self.defaults}, "overrides": []}
        return {"datasource": SOURCE, "targets": targets, "fieldConfig": fields}


def anchor(section: str) -> str:
    """Return the anchor of a title in Markdown."""
    return re.sub(r"[^\w -]", "", section.lower()).replace(" ", "-")


def graph(title: str, unit: str, queries: Query | Sequence[Query], about: str, section: str) -> Panel:
    """Make a panel of lines over time, with the last value of each beneath."""
    asked = (queries,) if isinstance(queries, Query) else tuple(queries)
    custom: Json = {
        "drawStyle": "line", "fillOpacity": 5, "lineWidth": 1, "showPoints": "never", "spanNulls": False,
        "lineInterpolation": "linear", "stacking": {"group": "A", "mode": "none"}, "thresholdsStyle": {"mode": "off"},
    }  # fmt: skip
    defaults: Json = {
        "color": {"mode": "palette-classic"}, "custom": custom, "mappings": [], "thresholds": GREEN,
    }  # fmt: skip
    options: Json = {
        "legend": {"calcs": ["lastNotNull"], "displayMode": "table", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return Panel("timeseries", title, unit, asked, about, section, defaults, options)


def _mappings(words: Mapping[int, Word]) -> list[Json]:
    options = {str(at): {"color": colour, "index": at, "text": text} for at, (text, colour) in words.items()}
    return [{"type": "value", "options": options}]


def states(title: str, query: Query, words: Mapping[int, Word], about: str, section: str) -> Panel:
    """Make a panel of bands over time, in which each value has its word and colour."""
    defaults: Json = {
        "color": {"mode": "thresholds"}, "custom": {"fillOpacity": 70, "lineWidth": 0},
        "mappings": _mappings(words), "thresholds": GREEN,
    }  # fmt: skip
    options: Json = {
        "alignValue": "left", "mergeValues": True, "rowHeight": 0.9, "showValue": "auto",
        "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": False},
        "tooltip": {"mode": "single", "sort": "none"},
    }  # fmt: skip
    return Panel("state-timeline", title, "none", (query,), about, section, defaults, options)


def answer(title: str, expr: str, words: Mapping[int, Word], nothing: Word, about: str, section: str) -> Panel:
    """Make a panel that answers its question by one word, now; `nothing` is the word where no process says anything."""
    text, colour = nothing
    mappings = _mappings(words)
    result = {"color": colour, "index": len(words), "text": text}
    mappings.append({"type": "special", "options": {"match": "null+nan", "result": result}})
    defaults: Json = {
        "noValue": text, "mappings": mappings, "color": {"mode": "thresholds"},
        "thresholds": {"mode": "absolute", "steps": [{"color": color, "value": at} for at, color in STEPS]},
    }  # fmt: skip
    options: Json = {
        "colorMode": "background", "graphMode": "none", "justifyMode": "center", "textMode": "value",
        "orientation": "auto", "reduceOptions": LAST,
    }  # fmt: skip
    query = Query(expr, title)
    return Panel("stat", title, "none", (query,), about, section, defaults, options, NOW, {"interval": "5m"})


def bars(title: str, unit: str, query: Query, about: str, section: str) -> Panel:
    """Make a panel of one bar for each series, over the whole time shown."""
    defaults: Json = {"color": {"mode": "palette-classic"}, "mappings": [], "thresholds": GREEN, "min": 0}
    options: Json = {
        "displayMode": "basic", "orientation": "horizontal", "showUnfilled": True, "valueMode": "color",
        "minVizWidth": 8, "minVizHeight": 16, "reduceOptions": LAST,
    }  # fmt: skip
    return Panel("bargauge", title, unit, (query,), about, section, defaults, options, NOW)


def table(title: str, query: Query, columns: Sequence[str], about: str, section: str) -> Panel:
    """Make a table of the series that are there now, with these of their labels."""
    defaults: Json = {"custom": {"align": "auto"}, "mappings": [], "thresholds": GREEN, "noValue": "none"}
    options: Json = {"showHeader": True, "cellHeight": "sm"}
    shown: list[Json] = [
        {"id": "filterFieldsByName", "options": {"include": {"names": list(columns)}}},
        {"id": "organize", "options": {"indexByName": {name: at for at, name in enumerate(columns)}}},
    ]
    target = NOW | {"format": "table"}
    more: Json = {"transformations": shown}
    return Panel("table", title, "none", (query,), about, section, defaults, options, target, more)


def text(title: str, content: str, about: str, section: str) -> Panel:
    """Make a panel that only says something."""
    return Panel("text", title, "none", (), about, section, options={"mode": "markdown", "content": content})


@dataclass(frozen=True, slots=True)
class Row:
    """A part of a board: a title, and its panels from left to right."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard. `answers` stand above all rows, side by side."""

    uid: str
    title: str
    about: str
    rows: tuple[Row, ...]
    answers: tuple[Panel, ...] = ()

    def as_json(self, runbook: str) -> Json:
        """Return what Grafana reads; `runbook` is the address of docs/operate.md for whoever reads the board."""
        return {
            "uid": f"whatsms-events-{self.uid}", "id": None, "title": f"whatsms-events: {self.title}",
            "description": self.about, "tags": [TAG], "schemaVersion": 39, "version": 1, "editable": False,
            "graphTooltip": 1, "timezone": "browser", "refresh": "30s", "time": {"from": "now-6h", "to": "now"},
            "timepicker": {}, "weekStart": "", "fiscalYearStartMonth": 0, "liveNow": False, "links": [_OTHERS],
            "annotations": {"list": []}, "templating": {"list": _variables()}, "panels": self._panels(runbook),
        }  # fmt: skip

    def _panels(self, runbook: str) -> list[Json]:
        found: list[Json] = []
        y = 0
        for title, panels in (("", self.answers), *((row.title, row.panels) for row in self.rows)):
            if title:
                found.append(_bar(len(found) + 1, title, y))
                y += 1
            for line in _lines(panels, 3 if title else len(panels)):
                height = max(HEIGHTS[panel.kind] for panel in line)
                for panel, (x, width) in zip(line, _widths(len(line)), strict=True):
                    found.append(panel.as_json(len(found) + 1, {"h": height, "w": width, "x": x, "y": y}, runbook))
                y += height
        return found


def _bar(number: int, title: str, y: int) -> Json:
    place = {"h": 1, "w": COLUMNS, "x": 0, "y": y}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}


def _lines(panels: Sequence[Panel], most: int) -> list[Sequence[Panel]]:
    """Share panels out into lines of at most `most`, as evenly as can be."""
    count = -(-len(panels) // most) if panels else 0
    return [panels[at * len(panels) // count : (at + 1) * len(panels) // count] for at in range(count)]


def _widths(count: int) -> list[tuple[int, int]]:
    """Return where each panel of a line begins, and how wide it is: together they fill the line."""
    edges = [-(-at * COLUMNS // count) for at in range(count + 1)]
    return [(left, right - left) for left, right in pairwise(edges)]


_OTHERS: Final[Json] = {
    "type": "dashboards", "title": "Other boards", "tags": [TAG], "asDropdown": False, "includeVars": True,
    "keepTime": True, "targetBlank": False, "icon": "external link", "tooltip": "", "url": "",
}  # fmt: skip
"""Every other board of ours, with the same time and the same choice."""


def _variables() -> list[Json]:
    source: Json = {
        "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "current": {},
        "hide": 0, "includeAll": False, "multi": False, "options": [], "refresh": 1, "regex": "", "skipUrlSync": False,
    }  # fmt: skip
    last = 'whatsms_events_last_accepted_timestamp_seconds{job=~"$job",instance=~"$instance"}'
    return [
        source,
        _variable("job", "whatsms_events_build_info", ".+"),
        _variable("instance", 'whatsms_events_build_info{job=~"$job"}', ".+"),
        _variable("tenant", last, ".*"),  # deliveries to an unknown slug have an empty tenant
    ]


def _variable(name: str, selection: str, everything: str) -> Json:
    query = f"label_values({selection}, {name})"
    return {
        "name": name, "label": name.title(), "type": "query", "datasource": SOURCE,
        "query": {"query": query, "refId": name}, "refresh": 2, "sort": 1, "multi": True,
        "includeAll": True, "allValue": everything, "hide": 0, "options": [], "regex": "", "skipUrlSync": False,
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }  # fmt: skip
