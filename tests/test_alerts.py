"""The alert rules, held to the metrics of the code, to their own tests, to the runbook, and to a real Prometheus."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import aiohttp
import promql_parser
import pytest
import yaml
from prometheus_client import Counter, Histogram

from conftest import missing
from servers.compare import until
from servers.metric import labels_of
from servers.process import UnavailableError
from servers.prometheus import DEPLOY, Prometheus, program
from servers.service import SLUG, Service
from test_dashboards import KNOWN, METRICS, OF_PROMETHEUS, Query, matchers
from test_docs import OPERATE, ROOT, rows, section
from test_journey import delivery
from test_pages import slug
from whatsms_events.domain import fields
from whatsms_events.domain.records import STRAY
from whatsms_events.domain.signature import HEADER, sign

TEXT: Final = (DEPLOY / "rules.yml").read_text(encoding="utf-8")
RULES: Final[list[dict[str, Any]]] = [
    rule for group in yaml.load(TEXT, yaml.CSafeLoader)["groups"] for rule in group["rules"]
]
ALERTS: Final = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED: Final = {rule["record"] for rule in RULES if "record" in rule}
TEST_FILES: Final = ("rules_test.yml", "rules_days_test.yml")
CASES: Final[list[dict[str, Any]]] = [
    case
    for name in TEST_FILES
    for test in yaml.load((DEPLOY / name).read_text(encoding="utf-8"), yaml.CSafeLoader)["tests"]
    for case in test["alert_rule_test"]
]

VALUES: Final = KNOWN | {
    "role": {*KNOWN["role"], "backfill.acme", "watchdog.acme"},
    "field": {fields.ENVELOPE_TIME, "updatedAt"},
    "reason": {STRAY},
    "tenant": {""},
    "job": {"whatsms-events"},
}
"""The values that a rule may name, by label."""


@pytest.fixture(scope="session")
def promtool() -> str:
    """Give the path of a real promtool."""
    try:
        return program("promtool")
    except UnavailableError as exc:
        missing(str(exc))


def expression(rule: dict[str, Any]) -> Query:
    """Return a rule's query, parsed."""
    return Query(rule["expr"], "", promql_parser.parse(rule["expr"]))


def title(rule: dict[str, Any]) -> str:
    """Return the name of a rule."""
    return str(rule.get("alert") or rule.get("record"))


each_rule = pytest.mark.parametrize("rule", RULES, ids=title)
each_alert = pytest.mark.parametrize("name", ALERTS)


# promtool.


def checked(*words: str) -> str:
    """Run promtool beside the rules, assert that it is content, and return what it said."""
    ran = subprocess.run(words, cwd=DEPLOY, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def test_promtool_takes_rules_and_configuration(promtool: str) -> None:
    """Every rule and the configuration that names them are valid, and nothing is linted."""
    assert f"SUCCESS: {len(RULES)} rules found" in checked(promtool, "check", "rules", "--lint-fatal", "rules.yml")
    assert "rules.yml" in checked(promtool, "check", "config", "--lint-fatal", "prometheus.yml")


@pytest.mark.parametrize("name", TEST_FILES)
@pytest.mark.slow
def test_the_rules_pass_their_own_tests(promtool: str, name: str) -> None:
    """Each alert fires where it should, with labels and texts, and stays quiet where it should."""
    assert "SUCCESS" in checked(promtool, "test", "rules", name)


@each_alert
def test_each_alert_is_tested_for_firing_and_for_staying_quiet(name: str) -> None:
    """It fires in one case at least, with all its labels and texts, and is quiet in another."""
    cases = [case["exp_alerts"] for case in CASES if case["alertname"] == name]
    assert [] in cases
    (fired, *_) = [case for case in cases if case]
    for one in fired:
        assert one["exp_labels"]["severity"] == ALERTS[name]["labels"]["severity"]
        assert set(one["exp_annotations"]) == set(ALERTS[name]["annotations"])
        assert not re.search(r"\{\{|<no value>", str(one))


# The rules and the code.


@each_rule
def test_each_rule_names_metrics_labels_and_values_that_exist(rule: dict[str, Any]) -> None:
    """Each metric is one of the code's, of Prometheus' own or a recorded one, with labels and values that it has."""
    query = expression(rule)
    known = {"job", "instance"}
    for selector in query.selectors:
        labels = {"job", "instance"}
        if selector.name in RECORDED:
            labels |= recorded_labels(selector.name)
        elif selector.name not in OF_PROMETHEUS:
            labels |= set(labels_of(METRICS[selector.name]))
        known |= labels
        for label, matcher in matchers(selector).items():
            assert label in labels, f"{selector}: {label}"
            for value in matcher.value.split("|"):
                assert any(re.fullmatch(value, one) for one in VALUES[label]), f"{selector}: {value}"
    assert set(groups(query)) <= known
    for text in rule.get("annotations", {}).values():
        assert set(re.findall(r"\$labels\.(\w+)", text)) <= known


def groups(query: Query) -> Iterator[str]:
    """List the labels that a query groups by."""
    for node in query.nodes:
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            yield from node.modifier.labels


def recorded_labels(name: str) -> set[str]:
    """Return the labels of a recorded series: the name begins with them, as is the custom."""
    return set(re.findall(r"[a-z]+", name.partition(":")[0]))


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_recorded_series_are_named_by_their_labels(name: str) -> None:
    """`level:metric:operation`: the level is what the query groups by, and each recorded series is used by an alert."""
    (rule,) = [one for one in RULES if one.get("record") == name]
    assert set(groups(expression(rule))) == recorded_labels(name)
    assert len(name.split(":")) == 3
    assert any(name in one["expr"] for one in ALERTS.values())


@each_rule
def test_increases_are_of_counters_and_nothing_else_is_of_counters(rule: dict[str, Any]) -> None:
    """A counter's value means nothing: it is asked for by its increase, or where it has just appeared."""
    query = expression(rule)
    increasing = {
        str(one.vector_selector)
        for node in query.nodes
        if isinstance(node, promql_parser.Call) and node.func.name == "increase"
        for one in node.args
    }
    for selector in query.selectors:
        metric = METRICS.get(selector.name)
        counts = isinstance(metric, Counter | Histogram)
        appears = f"{selector.name} unless {selector.name} offset" in query.text
        assert counts or str(selector) not in increasing, str(selector)
        assert not counts or str(selector) in increasing or appears, str(selector)


# The alerts and who is woken by them.


@each_alert
def test_each_alert_says_what_to_do_and_leads_to_its_section(name: str) -> None:
    """Its texts are sentences, its severity is one of two, and its link is the section of its name in the runbook."""
    alert = ALERTS[name]
    assert re.fullmatch(r"Whatsms([A-Z][a-z]*)+", name)
    assert alert["labels"] in ({"severity": "page"}, {"severity": "ticket"})
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    for sentence in (alert["annotations"]["summary"], alert["annotations"]["description"]):
        assert re.match(r"[A-Z]|\{\{ \$value \}\} ", sentence)
        assert sentence.endswith(".")
        assert len(sentence.split()) > 8
    path, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    assert anchor == slug(name)
    assert re.search(rf"^#### {name}$", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)


@each_alert
def test_each_alert_says_why_it_waits_as_long_as_it_does(name: str) -> None:
    """A comment stands above each `for`."""
    body = re.split(r"^      - ", TEXT.split(f"- alert: {name}\n")[1], flags=re.MULTILINE)[0]
    assert re.search(r"^ +# .*\n +for: \d+[smhd]$", body, re.MULTILINE), body
    assert ALERTS[name]["for"]


@each_alert
def test_each_section_says_what_it_means_how_to_see_it_and_what_to_do(name: str) -> None:
    """Three steps, in this order; the table of alerts has its severity."""
    part = re.split(r"^#{2,4} ", OPERATE.split(f"\n#### {name}\n")[1], flags=re.MULTILINE)[0]
    steps = re.findall(r"^- \*\*(It means|See|Do)\*\*", part, re.MULTILINE)
    assert steps == ["It means", "See", "Do"]
    row = [f"[{name}](#{slug(name)})", ALERTS[name]["labels"]["severity"]]
    assert row in [cells[:2] for cells in rows(section(OPERATE, "Watch it"))]


def test_the_runbook_has_no_alert_that_does_not_exist() -> None:
    """Every section and every row of an alert has a rule."""
    assert sorted(re.findall(r"^#### (Whatsms\w+)$", OPERATE, re.MULTILINE)) == sorted(ALERTS)
    alerts = [row[0] for row in rows(section(OPERATE, "Watch it")) if row[0].startswith("[Whatsms")]
    assert sorted(alerts) == sorted(f"[{name}](#{slug(name)})" for name in ALERTS)
    assert set(re.findall(r"\bWhatsms[A-Z]\w+", OPERATE)) == set(ALERTS)


# A real Prometheus.

SHORT: Final = {"[15m]": "[20s]", "[5m]": "[10s]", "for: 10m": "for: 2s"}
"""With these in the test's own copy of the rules a quarter of an hour is short enough to wait for."""


@pytest.mark.process
async def test_a_real_prometheus_sees_an_alert_begin_and_end(tmp_path: Path) -> None:
    """It scrapes a service by a token, evaluates every rule without an error, fires on wrong signatures, and clears."""
    token = {"token": "a-token-for-prometheus-alone", "scopes": "metrics"}
    service = Service(tmp_path / "service", settings={"private.tokens.prometheus": token})
    target = service.private_url.removeprefix("http://")
    try:
        server = Prometheus(tmp_path / "prometheus", target, SHORT, token=token["token"])
    except UnavailableError as exc:
        missing(str(exc))
    await service.start()
    try:
        await server.start()
        await until(lambda: all_evaluated(server), 120, "each rule is evaluated")
        assert [one["metric"]["job"] for one in await query(server, "up == 1")] == ["whatsms-events"]
        assert await query(server, "process_start_time_seconds") != []
        assert await firing(server) == {}
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{service.private_url}/metrics") as closed:
                assert closed.status == 401

            async def rejected() -> bool:
                good = delivery("ticket.closed", "2026-01-15T10:40:00Z", ticket={"id": "t-2"})
                wrong = {HEADER: sign(good, b"another secret")}
                async with session.post(service.webhook_url, data=good, headers=wrong) as answer:
                    assert answer.status == 401
                return "WhatsmsRejectsRising" in await firing(server)

            await until(rejected, 300, "the alert fires")
        alert = (await firing(server))["WhatsmsRejectsRising"]
        assert {**alert["labels"]} == {
            "alertname": "WhatsmsRejectsRising", "job": "whatsms-events", "tenant": SLUG, "severity": "page",
        }  # fmt: skip
        assert f"deliveries of {SLUG} were refused" in alert["annotations"]["summary"]

        async def clear() -> bool:
            return await firing(server) == {}

        await until(clear, 300, "the alert clears")
    finally:
        await server.stop()
        await service.stop()


async def query(server: Prometheus, text: str) -> list[dict[str, Any]]:
    """Return the series that a query finds."""
    found: list[dict[str, Any]] = (await server.ask("query", query=text))["result"]
    return found


async def all_evaluated(server: Prometheus) -> bool:
    """Tell whether each rule has been evaluated since the service is scraped; fail where one had an error."""
    found = [rule for group in (await server.ask("rules"))["groups"] for rule in group["rules"]]
    assert [one["lastError"] for one in found if one.get("lastError")] == []
    scraped = await query(server, "whatsms_events_log_end_position")
    return bool(scraped) and len(found) == len(RULES) and all(one["health"] == "ok" for one in found)


async def firing(server: Prometheus) -> dict[str, Any]:
    """Return the alerts that fire, by name."""
    return {
        one["labels"]["alertname"]: one for one in (await server.ask("alerts"))["alerts"] if one["state"] == "firing"
    }
