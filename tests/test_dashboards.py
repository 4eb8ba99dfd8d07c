"""The dashboard, held to the metrics that a running service exposes and to the rules of Grafana's dashboard-linter.

The linter itself (grafana/dashboard-linter) is a Go program; its rules are short, and stand here one by one.
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
from prometheus_client import Counter, Gauge, Histogram, Info
from prometheus_client.parser import text_string_to_metric_families

from servers.metric import labels_of, name_of
from servers.service import Service
from test_metrics import misbehave, tell
from whatsms_events import metrics
from whatsms_events.config.settings import Private
from whatsms_events.domain.signature import REASONS
from whatsms_events.service.roles import Role
from whatsms_events.web import receiver

DEPLOY: Final = Path(__file__).resolve().parents[1] / "deploy"
BOARD: Final[dict[str, Any]] = json.loads((DEPLOY / "grafana" / "overview.json").read_text(encoding="utf-8"))
PROMETHEUS: Final = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))

SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
RATE_INTERVAL: Final = "7m13s"
"""What stands for `$__rate_interval` here: nobody writes such a range by hand."""

QUESTIONS: Final = ["Receiving", "Verifying", "Publishing", "Applying", "Repairing"]
UNITS: Final = {"reqps", "ops", "s", "bytes", "short", "none"}
"""Those of Grafana's units that are used: it takes any other word for a suffix."""

NOT_SHOWN: Final = {
    "whatsms_events_build_info": "the version answers none of the questions; it fills the variables job and instance",
    "whatsms_events_role_stalled_seconds": "for an alert; a panel shows the state of each role",
    "whatsms_events_parked_in_a_row": "for an alert; a panel shows what is parked at the door by reason",
    "whatsms_events_sealed_through_position": "for whoever proves the log; it answers none of the questions",
    "whatsms_events_seal_lag_events": "the same",
    "whatsms_events_free_bytes": "for an alert: whoever runs a machine has its disks on a board",
    "whatsms_events_undelivered_messages": "for an alert; what became of messages at the contacts is the next two",
    "whatsms_events_message_acks_total": "what became of messages at the contacts: not whether this service works",
    "whatsms_events_message_ack_delay_seconds": "the same",
    "whatsms_events_stray_records_total": "for an alert: zero but for somebody else's mistake",
}
"""Metrics that no panel shows, with the reason."""

KNOWN: Final = {
    "outcome": {
        *("accepted", "duplicate", "parked", "failed"),
        *(name for _kind, name in receiver.REFUSALS),
        *(f"signature_{reason}" for reason in REASONS),
    },
    "role": set(get_args(Role)),
    "stage": {"door", "fold"},
    "topic": {"log"},
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
    if isinstance(one, get_args(Metric))
    for end in ENDS[type(one)]
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
    plain = text.replace("$__rate_interval", RATE_INTERVAL)
    plain = re.sub(r"\$(job|instance|tenant)\b", r"a-\1", plain)
    assert "$" not in plain, text
    return Query(text, legend, promql_parser.parse(plain))


PANELS: Final[list[dict[str, Any]]] = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
QUERIES: Final = {
    f"{panel['title']}-{target['refId']}": parse(target["expr"], target["legendFormat"])
    for panel in PANELS
    for target in panel["targets"]
}
each_panel = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: str(panel["title"]))
each_query = pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)


def matchers(selector: Any) -> dict[str, Any]:
    """Return the matchers of a selection by label."""
    found = {one.name: one for one in selector.matchers.matchers}
    assert len(found) == len(selector.matchers.matchers)
    return found


# The dashboard as a whole.


def test_the_board_can_be_provisioned_anywhere() -> None:
    """It has a stable uid, no id of one Grafana, a schema version, tags, and is not edited in place."""
    assert re.fullmatch(r"[a-z0-9-]{8,40}", BOARD["uid"])
    assert BOARD["id"] is None
    assert BOARD["schemaVersion"] >= 36
    assert BOARD["tags"] == ["whatsms-events"]
    assert BOARD["editable"] is False
    assert BOARD["title"]
    assert BOARD["description"]


def test_no_data_source_is_hard_coded() -> None:
    """Whatever names a data source names the variable."""

    def sources(at: Any) -> Iterator[Any]:
        if isinstance(at, dict):
            yield from (value for name, value in at.items() if name == "datasource")
            at = list(at.values())
        if isinstance(at, list):
            for one in at:
                yield from sources(one)

    assert list(sources(BOARD))
    assert all(one == SOURCE for one in sources(BOARD))


def test_the_variables_are_those_of_the_linter() -> None:
    """`datasource`, `job` and `instance` as the linter wants them, and `tenant`; their lists follow the time shown."""
    variables = {one["name"]: one for one in BOARD["templating"]["list"]}
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


def test_the_first_row_answers_in_words() -> None:
    """Five panels stand first, side by side, one for each question in order; each value has its words and colour."""
    first = sorted((panel for panel in PANELS if panel["gridPos"]["y"] == 0), key=lambda panel: panel["gridPos"]["x"])
    assert [panel["title"] for panel in first] == QUESTIONS
    for panel in first:
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


def test_the_rows_go_from_receiving_to_repairing() -> None:
    """One row for each question, in order; no two panels overlap, and none leaves the grid."""
    assert [panel["title"] for panel in BOARD["panels"] if panel["type"] == "row"] == QUESTIONS
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)


# Each panel.


@each_panel
def test_each_panel_says_what_it_is_and_what_is_bad(panel: dict[str, Any]) -> None:
    """A title, a sentence or two, and a unit that Grafana knows."""
    assert panel["title"].strip() == panel["title"] != ""
    assert len(panel["description"]) > 40
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert "$" not in panel["title"]


@each_panel
def test_each_panel_asks_something(panel: dict[str, Any]) -> None:
    """At least one query, each with a reference and a legend of its own."""
    targets = panel["targets"]
    assert targets
    assert len({one["refId"] for one in targets}) == len({one["legendFormat"] for one in targets}) == len(targets)
    assert all(one["legendFormat"] for one in targets)


# Each query.


@each_query
def test_each_query_asks_for_the_chosen_processes(query: Query) -> None:
    """Every selection is of the chosen jobs and instances, and of the chosen tenants where the metric knows tenants."""
    assert query.selectors
    for selector in query.selectors:
        labels = ["job", "instance", *(["tenant"] if "tenant" in labels_of(METRICS[selector.name]) else [])]
        for label in labels:
            found = matchers(selector)[label]
            assert (found.op, found.value) == (promql_parser.MatchOp.Re, f"a-{label}")


@each_query
def test_each_query_names_metrics_and_labels_that_exist(query: Query) -> None:
    """Names, labels in matchers, groups and legends, and the values named are those of `metrics`."""
    known = {"job", "instance", "le"}
    for selector in query.selectors:
        metric = METRICS[selector.name]
        known |= set(labels_of(metric))
        for label, matcher in matchers(selector).items():
            assert label in {"job", "instance", *labels_of(metric)}, f"{selector}: {label}"
            if label in KNOWN:
                for value in matcher.value.split("|"):
                    assert any(re.fullmatch(value, one) for one in KNOWN[label]), f"{selector}: {value}"
    groups: set[str] = set()
    for node in query.nodes:
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            groups |= set(node.modifier.labels)
    assert groups <= known
    assert set(re.findall(r"\{\{(\w+)\}\}", query.legend)) <= groups - {"le"}


@each_query
def test_counters_are_rates_and_gauges_are_not(query: Query) -> None:
    """Counters and histograms are asked for by rate or increase over `$__rate_interval`; gauges never are."""
    ranged: set[str] = set()
    for node in query.nodes:
        if isinstance(node, promql_parser.Call):
            inner = [one for one in node.args if isinstance(one, promql_parser.MatrixSelector)]
            assert bool(inner) == (node.func.name in {"rate", "increase"})
            for one in inner:
                assert one.range == promql_parser.parse_duration(RATE_INTERVAL)
                ranged.add(str(one.vector_selector))
    for selector in query.selectors:
        assert (str(selector) in ranged) == isinstance(METRICS[selector.name], Counter | Histogram), str(selector)
    assert query.text.count("[") == query.text.count("[$__rate_interval]")


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
    shown = {METRICS[selector.name] for query in QUERIES.values() for selector in query.selectors}
    hidden = {METRICS.get(name) or METRICS[f"{name}_count"] for name in NOT_SHOWN}
    assert not shown & hidden
    assert shown | hidden == set(METRICS.values())


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
    asked = {selector.name for query in QUERIES.values() for selector in query.selectors}
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
