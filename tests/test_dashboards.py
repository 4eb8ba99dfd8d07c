"""The dashboards, held to the metrics that a running service exposes and to the rules of Grafana's dashboard-linter.

The linter itself (grafana/dashboard-linter) is a Go program; its rules are short, and stand here one by one. That
a real Prometheus answers each query is in tests/deploy/test_boards.py.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, get_args

import aiohttp
import promql_parser
import pytest
import yaml
from deploy.grafana import generate, queries
from prometheus_client import Counter, Gauge, Histogram, Info
from prometheus_client.parser import text_string_to_metric_families

from servers.metric import labels_of, name_of
from servers.service import Service
from test_docs import OPERATE
from test_metrics import misbehave, tell
from test_pages import slug
from whatsms_events import metrics
from whatsms_events.config.settings import Private
from whatsms_events.domain.acks import LEVELS
from whatsms_events.domain.drift import DriftKind
from whatsms_events.domain.events import EventType
from whatsms_events.domain.signature import REASONS
from whatsms_events.service.roles import Role
from whatsms_events.web import receiver

DEPLOY: Final = Path(__file__).resolve().parents[1] / "deploy"
FILES: Final = DEPLOY / "grafana" / "dashboards"
BOARDS: Final[dict[str, dict[str, Any]]] = {
    path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FILES.glob("*.json"))
}
OVERVIEW: Final = BOARDS["overview"]
PROMETHEUS: Final = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))

SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
RATE_INTERVAL: Final = "7m13s"
"""What stands for `$__rate_interval` and `$__range` here: nobody writes such a range by hand."""

ANSWERS: Final = ["Receiving", "Verifying", "Publishing", "Applying", "Repairing"]
UNITS: Final = {"reqps", "ops", "s", "bytes", "short", "none", "percentunit"}
"""Those of Grafana's units that are used: it takes any other word for a suffix."""

NOT_SHOWN: Final[dict[str, str]] = {
    "whatsms_events_secret_first_match_timestamp_seconds": "an alert asks which is older",
}
"""Metrics that no panel shows, with the reason."""

OF_PROMETHEUS: Final = {
    "ALERTS": {"alertname", "alertstate", "severity", "tenant", "role"},
    "up": set(),
    "process_start_time_seconds": set(),
    "process_cpu_seconds_total": set(),
    "process_resident_memory_bytes": set(),
    "process_open_fds": set(),
}
"""Series that are not ours, with their labels: those of alerts, and what every scrape of a Python process gives."""

KNOWN: Final = {
    "outcome": {
        *("accepted", "duplicate", "parked", "failed"),
        *(name for _kind, name in receiver.REFUSALS),
        *(f"signature_{reason}" for reason in REASONS),
    },
    "role": set(get_args(Role)),
    "stage": {"door", "fold"},
    "topic": {"log"},
    "type": set(EventType),
    "level": {*LEVELS.values(), "failed"},
    "kind": set(get_args(DriftKind)),
    "reason": {"blanked"},
    "alertstate": {"firing"},
    "instance": {""},
}
"""The values that a query may name, by label."""

Metric = Counter | Gauge | Histogram | Info
ENDS: Final[dict[type[Metric], tuple[str, ...]]] = {
    Counter: ("_total",),
    Gauge: ("",),
    Histogram: ("_bucket", "_sum", "_count"),
    Info: ("_info",),
}
METRICS: Final[dict[str, Metric]] = {
    name_of(one) + end: one
    for one in vars(metrics).values()
    for kind, ends in ENDS.items()
    if isinstance(one, kind)
    for end in ends
}
"""Every metric by the names of its samples."""


class Query(NamedTuple):
    """A query of a panel, with the variables replaced, and what it is made of."""

    text: str
    legend: str
    expr: Any

    @property
    def nodes(self) -> list[Any]:
        """Every part of it."""
        found: list[Any] = []
        promql_parser.walk(self.expr, found.append)
        return found

    @property
    def selectors(self) -> list[Any]:
        """Every selection of a metric."""
        return list(selectors(self.nodes))


def selectors(nodes: list[Any]) -> Iterator[Any]:
    """List each selection once, with a range or without."""
    seen = set()
    for node in nodes:
        one = node.vector_selector if isinstance(node, promql_parser.MatrixSelector) else node
        if isinstance(one, promql_parser.VectorSelector) and str(one) not in seen:
            seen.add(str(one))
            yield one


def parse(text: str, legend: str = "") -> Query:
    """Return a query; raise ValueError where it is no PromQL."""
    plain = text.replace("$__rate_interval", RATE_INTERVAL).replace("$__range", RATE_INTERVAL)
    plain = re.sub(r"\$(job|instance|tenant)\b", r"a-\1", plain)
    assert "$" not in plain, text
    return Query(text, legend, promql_parser.parse(plain))


PANELS: Final[dict[str, dict[str, Any]]] = {
    f"{name}: {panel['title']}": panel
    for name, board in BOARDS.items()
    for panel in board["panels"]
    if panel["type"] != "row"
}
QUERIES: Final = {
    f"{title}-{target['refId']}": parse(target["expr"], target["legendFormat"])
    for title, panel in PANELS.items()
    for target in panel.get("targets", ())
}
each_board = pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
each_panel = pytest.mark.parametrize("panel", PANELS.values(), ids=PANELS)
each_query = pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)


def matchers(selector: Any) -> dict[str, Any]:
    """Return the matchers of a selection by label."""
    found = {one.name: one for one in selector.matchers.matchers}
    assert len(found) == len(selector.matchers.matchers)
    return found


def labels_by_name(name: str) -> set[str]:
    """Return the labels that samples of a name have, beside those that every scrape adds."""
    return OF_PROMETHEUS[name] if name in OF_PROMETHEUS else set(labels_of(METRICS[name]))


# The boards as wholes.


def test_the_boards_are_what_the_generator_writes() -> None:
    """The JSON of each board is that of `deploy/grafana/boards.py`, and there is no other: `make docs` writes it."""
    assert {path.name: path.read_text(encoding="utf-8") for path in FILES.iterdir()} == generate.files()


def test_the_generator_writes_elsewhere_with_another_runbook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--runbook` and `--into` write boards whose panels link to where the operators read the runbook."""
    wiki = "https://wiki.example/operate"
    monkeypatch.setattr("sys.argv", ["generate", "--runbook", wiki, "--into", str(tmp_path / "boards")])
    generate.main()
    text = (tmp_path / "boards" / "door.json").read_text(encoding="utf-8")
    assert f'"url": "{wiki}#whatsmssilent"' in text
    assert "docs/operate.md#" not in text


@pytest.mark.parametrize("misspelt", [{"outcomes": "accepted"}, {"type": "x"}])
def test_a_label_that_a_metric_does_not_have_is_refused(misspelt: dict[str, str]) -> None:
    """A panel that selects by a label of another metric cannot be written."""
    with pytest.raises(ValueError, match="whatsms_events_deliveries has no label"):
        queries.chosen(metrics.DELIVERIES, **misspelt)


@each_board
def test_a_board_can_be_provisioned_anywhere(board: dict[str, Any]) -> None:
    """It has a stable uid, no id of one Grafana, a schema version, the tag of all, and is not edited in place."""
    assert re.fullmatch(r"whatsms-events-[a-z]{4,20}", board["uid"])
    assert board["id"] is None
    assert board["schemaVersion"] >= 36
    assert board["tags"] == ["whatsms-events"]
    assert board["editable"] is False
    assert board["title"].startswith("whatsms-events: ")
    assert board["description"].endswith(".")


def test_each_board_is_another_one() -> None:
    """No two boards have the same uid or title."""
    assert len({board["uid"] for board in BOARDS.values()}) == len({board["title"] for board in BOARDS.values()}) == 6


@each_board
def test_the_boards_lead_to_each_other(board: dict[str, Any]) -> None:
    """Each board links to all boards of the tag, with the same time and the same choice of processes and tenants."""
    (link,) = board["links"]
    assert (link["type"], link["tags"]) == ("dashboards", board["tags"])
    assert link["includeVars"] is link["keepTime"] is True


@each_board
def test_no_data_source_is_hard_coded(board: dict[str, Any]) -> None:
    """Whatever names a data source names the variable."""

    def sources(at: Any) -> Iterator[Any]:
        if isinstance(at, dict):
            yield from (value for name, value in at.items() if name == "datasource")
            at = list(at.values())
        if isinstance(at, list):
            for one in at:
                yield from sources(one)

    assert list(sources(board))
    assert all(one == SOURCE for one in sources(board))


@each_board
def test_the_variables_are_those_of_the_linter(board: dict[str, Any]) -> None:
    """`datasource`, `job` and `instance` as the linter wants them, and `tenant`; their lists follow the time shown."""
    variables = {one["name"]: one for one in board["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "instance", "tenant"]
    source = variables.pop("datasource")
    assert (source["type"], source["query"], source["label"]) == ("datasource", "prometheus", "Data source")
    for name, variable in variables.items():
        assert (variable["type"], variable["label"], variable["refresh"]) == ("query", name.title(), 2)
        assert (variable["multi"], variable["includeAll"]) == (True, True)
        # Deliveries to an unknown slug have an empty tenant.
        assert variable["allValue"] == (".*" if name == "tenant" else ".+")
        asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
        assert asked is not None
        assert asked[2] == name
        (selector,) = parse(asked[1]).selectors
        assert name in ("job", "instance") or name in labels_of(METRICS[selector.name])


def test_the_first_line_answers_in_words() -> None:
    """Five panels stand first, side by side, one for each question in order; each value has its words and colour."""
    panels = [panel for panel in OVERVIEW["panels"] if panel["gridPos"]["y"] == 0]
    assert [panel["title"] for panel in sorted(panels, key=lambda panel: panel["gridPos"]["x"])] == ANSWERS
    for panel in panels:
        assert panel["type"] == "stat"
        defaults = panel["fieldConfig"]["defaults"]
        assert [step["color"] for step in defaults["thresholds"]["steps"]] == ["green", "orange", "red"]
        words, nothing = defaults["mappings"]
        assert words["options"]["0"]["color"] == "green"
        assert all(option["text"] and option["color"] for option in words["options"].values())
        assert nothing["options"]["match"] == "null+nan"
        assert nothing["options"]["result"]["text"] == defaults["noValue"]
        # A word in capitals is one to act on: what it means stands in the description.
        for option in words["options"].values():
            assert option["color"] == "green" or option["text"] in panel["description"]


@each_board
def test_the_panels_fill_the_grid(board: dict[str, Any]) -> None:
    """Panels of one board have titles and numbers of their own, stand under a row, do not overlap and leave no gap."""
    panels = board["panels"]
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    assert taken == {(x, y) for x in range(24) for y in range(max(y for _x, y in taken) + 1)}
    assert len({panel["id"] for panel in panels}) == len({(one["type"] == "row", one["title"]) for one in panels})
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert board is OVERVIEW or panels[0]["type"] == "row"


# Each panel.


@each_panel
def test_each_panel_says_what_it_is_and_where_to_go(panel: dict[str, Any]) -> None:
    """A title, sentences about what is bad, and the runbook's section that says what to do, in words and as a link."""
    assert panel["title"].strip() == panel["title"] != ""
    assert "$" not in panel["title"]
    (link,) = panel["links"]
    about, _, section = panel["description"].partition(" Runbook: ")
    assert len(about) > 40
    assert about.endswith(".")
    assert section == f"{link['title']}."
    assert link["url"] == f"docs/operate.md#{slug(link['title'])}"
    assert re.search(rf"^#{{2,4}} {re.escape(link['title'])}$", OPERATE, re.MULTILINE), link["title"]


@each_panel
def test_each_panel_asks_something(panel: dict[str, Any]) -> None:
    """At least one query, each with a reference and a legend of its own, and a unit that Grafana knows."""
    if panel["type"] == "text":
        assert len(panel["options"]["content"]) > 100
        return
    targets = panel["targets"]
    assert targets
    assert len({one["refId"] for one in targets}) == len({one["legendFormat"] for one in targets}) == len(targets)
    assert all(one["legendFormat"] for one in targets)
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS


@each_panel
def test_words_stand_for_all_values_of_a_state(panel: dict[str, Any]) -> None:
    """A panel of bands has a word for each value, and a word in capitals is explained where it is one of ours."""
    if panel["type"] != "state-timeline":
        return
    (mapping,) = panel["fieldConfig"]["defaults"]["mappings"]
    assert list(mapping["options"]) == [str(at) for at in range(len(mapping["options"]))]
    for option in mapping["options"].values():
        assert not option["text"].isupper() or option["text"] in panel["description"]


# Each query.


@each_query
def test_each_query_asks_for_the_chosen_processes(query: Query) -> None:
    """Every selection is of the chosen jobs and instances, and of the chosen tenants where the metric knows tenants.

    But for alerts about the whole, which name no instance.
    """
    assert query.selectors
    for selector in query.selectors:
        whole = selector.name == "ALERTS" and matchers(selector)["instance"].value == ""
        knows = "tenant" in labels_by_name(selector.name) and selector.name != "ALERTS"
        for label in ["job", *([] if whole else ["instance"]), *(["tenant"] if knows else [])]:
            found = matchers(selector)[label]
            assert (found.op, found.value) == (promql_parser.MatchOp.Re, f"a-{label}")


@each_query
def test_each_query_names_metrics_and_labels_that_exist(query: Query) -> None:
    """Names, labels in matchers, groups and legends, and the values named are those of `metrics`."""
    known = {"job", "instance", "le"}
    for selector in query.selectors:
        labels = {"job", "instance", *labels_by_name(selector.name)}
        known |= labels | ({"version"} if selector.name == "whatsms_events_build_info" else set())
        for label, matcher in matchers(selector).items():
            assert label in labels, f"{selector}: {label}"
            if label in KNOWN and not matcher.value.startswith("a-"):
                for value in matcher.value.split("|"):
                    assert any(re.fullmatch(value, one) for one in KNOWN[label]), f"{selector}: {value}"
    groups: set[str] = set()
    for node in query.nodes:
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            groups |= set(node.modifier.labels)
    assert groups <= known
    shown = set(re.findall(r"\{\{(\w+)\}\}", query.legend))
    assert shown <= (groups - {"le"} or known)


@each_query
def test_counters_are_rates_and_gauges_are_not(query: Query) -> None:
    """Counters and histograms are asked for by rate or increase over what Grafana shows; gauges never are."""
    ranged: set[str] = set()
    for node in query.nodes:
        if isinstance(node, promql_parser.Call):
            inner = [one for one in node.args if isinstance(one, promql_parser.MatrixSelector)]
            assert bool(inner) == (node.func.name in {"rate", "increase"})
            for one in inner:
                assert one.range == promql_parser.parse_duration(RATE_INTERVAL)
                ranged.add(str(one.vector_selector))
    for selector in query.selectors:
        counts = selector.name.endswith("_total") or isinstance(METRICS.get(selector.name), Histogram)
        assert (str(selector) in ranged) == counts, str(selector)
    assert query.text.count("[") == len(re.findall(r"\[\$__(rate_interval|range)\]", query.text))


def test_quantiles_are_of_buckets() -> None:
    """A quantile is taken over buckets that kept their bounds."""
    quantiles = 0
    for query in QUERIES.values():
        for node in query.nodes:
            if isinstance(node, promql_parser.Call) and node.func.name == "histogram_quantile":
                quantiles += 1
                assert "le" in node.args[1].modifier.labels
                (selector,) = selectors(Query("", "", node).nodes)
                assert selector.name.endswith("_bucket")
    assert quantiles


def test_each_metric_is_shown_or_has_a_reason() -> None:
    """No metric is forgotten: a new one gets a panel, or a line above."""
    shown = {METRICS[one.name] for query in QUERIES.values() for one in query.selectors if one.name in METRICS}
    hidden = {METRICS.get(name) or METRICS[f"{name}_count"] for name in NOT_SHOWN}
    assert not shown & hidden
    assert shown | hidden == set(METRICS.values())


@pytest.mark.process
async def test_the_queries_ask_for_what_a_running_service_exposes(tmp_path: Path) -> None:
    """Every sample that a query names is of a metric that a real process shows, with just the labels that it has there.

    A labelled metric without a sample yet is shown by name and kind; its labels are the registry's, which the samples
    that there are agree with.
    """
    service = Service(tmp_path / "service")
    await service.start()
    async with aiohttp.ClientSession() as session:
        await tell(session, service)
        await misbehave(session, service)
        async with session.get(f"{service.private_url}/metrics") as answer:
            assert answer.status == 200
            families = list(text_string_to_metric_families(await answer.text()))
    await service.stop()
    ends = {"counter": ENDS[Counter], "gauge": ENDS[Gauge], "histogram": ENDS[Histogram]}
    exposed: set[str] = set()
    sampled = 0
    for family in families:
        if not family.name.startswith("whatsms_events_") or family.name.endswith("_created"):
            continue
        names = {family.name + end for end in ends[family.type]}
        exposed |= names
        for one in family.samples:
            if one.name in names:
                sampled += 1
                assert set(one.labels) - {"le", "version"} == set(labels_of(METRICS[one.name])), one
    asked = {selector.name for query in QUERIES.values() for selector in query.selectors} - OF_PROMETHEUS.keys()
    assert sampled > 50
    assert asked <= exposed


# What Prometheus scrapes.


def test_prometheus_scrapes_the_private_listener() -> None:
    """One job, at the path and the default address of the private listener, with the rules that stand beside it."""
    assert {
        "global": {"scrape_interval": "15s", "scrape_timeout": "10s", "evaluation_interval": "15s"},
        "rule_files": ["rules.yml"],
        "scrape_configs": [
            {
                "job_name": "whatsms-events",
                "metrics_path": "/metrics",
                "scheme": "http",
                "static_configs": [{"targets": [f"{Private().host}:{Private().port}"]}],
            }
        ],
    } == PROMETHEUS
