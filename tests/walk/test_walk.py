"""Somebody new runs the service as the pages say, breaks it, is told by an alert, and repairs it as the runbook says.

Real parts: the commands in processes of their own, PostgreSQL, Apache Kafka, Prometheus with the rules and the boards
that we ship. Only time is shorter: the rules look back over seconds where they would over minutes.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from conftest import missing
from servers.compare import until
from servers.kafka import Broker, have_jars
from servers.ports import HOST, free_port
from servers.postgres import Postgres, ask
from servers.process import UnavailableError
from servers.prometheus import Prometheus
from walk.terminal import ROOT, Terminal, Window

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]

PATIENCE_S: Final = 240.0
OPERATE: Final = "docs/operate.md"
TWIN: Final = "docs/twin.md"
KAFKA: Final = "deploy/kafka/README.md"
QUICKSTART: Final = "docs/quickstart.md"

RECEIVER: Final = "whatsms-events serve --config whatsms.toml --roles receiver"
RELAY: Final = "whatsms-events serve --config whatsms.toml --roles relay --set private.port=8082"
CONSUMER: Final = "whatsms-events serve --config whatsms.toml --roles consumer,backfill --set private.port=8083"
BROKER: Final = "python3 deploy/kafka/kafka.py start --dir var/kafka"
RECONCILE: Final = "whatsms-events backfill run --config whatsms.toml --wait"

SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
SHORTER: Final = 60
WINDOW_S: Final = 10
"""A rate needs some scrapes, of which there is one a second."""


def shorter(rules: str) -> str:
    """Return rules with every time a sixtieth of what it is, and every window long enough for its scrapes."""

    def window(found: re.Match[str]) -> str:
        return f"{found[1]}{max(WINDOW_S, int(found[2]) * SECONDS[found[3]] // SHORTER)}s"

    def patience(found: re.Match[str]) -> str:
        return f"for: {int(found[1]) * SECONDS[found[2]] // SHORTER}s"

    rules = re.sub(r"(\[|offset )(\d+)([smhd])(?=\]|\b)", window, rules)
    rules = re.sub(r"for: (\d+)([smhd])", patience, rules)
    return rules.replace("age_seconds > 300", "age_seconds > 5")


@dataclass
class Walk:
    """Where the walk has got to: the terminal, its windows, and what watches them."""

    terminal: Terminal
    postgres: Postgres
    prometheus: Prometheus
    windows: dict[str, Window] = field(default_factory=dict)

    async def open(self, name: str, page: str, line: str) -> None:
        """Start something in a window of its own."""
        self.windows[name] = await self.terminal.open(page, line)

    async def firing(self) -> set[str]:
        """Return the names of the alerts that fire."""
        alerts = (await self.prometheus.ask("alerts"))["alerts"]
        return {one["labels"]["alertname"] for one in alerts if one["state"] == "firing"}

    async def fires(self, alert: str) -> None:
        """Wait until the alert fires. Then the runbook has its section, and panels that lead there have data."""

        async def told() -> bool:
            return alert in await self.firing()

        await until(told, PATIENCE_S, f"{alert} fires")
        assert f"\n#### {alert}\n" in (ROOT / OPERATE).read_text(encoding="utf-8")
        shown = [query for query in queries(alert) if (await self.prometheus.ask("query", query=query))["result"]]
        assert shown, f"no panel that leads to {alert} shows anything"

    async def clears(self) -> None:
        """Wait until no alert fires."""

        async def quiet() -> bool:
            return await self.firing() == set()

        await until(quiet, PATIENCE_S, "every alert clears")

    async def ready(self) -> None:
        """Wait until every process says that it is ready."""
        await until(self._ready, PATIENCE_S, "every process is ready")

    async def _ready(self) -> bool:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
            for port in ("8081", "8082", "8083"):
                try:
                    async with session.get(self.terminal.here(f"http://127.0.0.1:{port}/readyz")) as answer:
                        if answer.status != 200:
                            return False
                except (aiohttp.ClientError, TimeoutError):
                    return False
        return True

    def edit(self, shown: str, real: str) -> None:
        """Change the configuration, as with an editor."""
        file = self.terminal.folder / "whatsms.toml"
        before = file.read_text(encoding="utf-8")
        assert shown in before
        file.write_text(before.replace(shown, real), encoding="utf-8")


def queries(alert: str) -> list[str]:
    """List what the panels ask that lead to the section of an alert, as Grafana would ask it."""
    found = []
    for board in sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json")):
        for panel in panels(json.loads(board.read_text(encoding="utf-8"))):
            if alert.lower() in json.dumps(panel.get("links", [])):
                found += [str(target["expr"]) for target in panel.get("targets", [])]
    assert found, f"no panel leads to {alert}"
    asked = [re.sub(r"\$__rate_interval|\$__range", f"{WINDOW_S}s", one) for one in found]
    return [re.sub(r"\$\w+", ".*", one) for one in asked]


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    """List the panels of a board, those within rows too."""
    return [inner for one in board["panels"] for inner in (one, *one.get("panels", []))]


@pytest.fixture
async def walk(own_postgres: Postgres, tmp_path: Path) -> AsyncIterator[Walk]:
    """Give a machine with PostgreSQL and Prometheus, and a terminal in an empty folder."""
    ports = {shown: str(free_port()) for shown in ("8080", "8081", "8082", "8083", "8090", "9092")}
    database = own_postgres.url
    targets = "\n          - ".join(f"{HOST}:{ports[port]}" for port in ("8081", "8082", "8083"))
    try:
        have_jars()
        prometheus = Prometheus(tmp_path / "prometheus", targets, shorter)
    except UnavailableError as exc:
        missing(str(exc))
    terminal = Terminal(
        tmp_path / "terminal",
        {
            "postgresql://whatsms@db.example:5432/whatsms": database,
            "kafka.example:9092": f"{HOST}:{ports['9092']}",
            "localhost": HOST,
            **ports,
        },
        {
            "whatsms-events twin": f"--port {ports['8090']} --requests-per-minute 60000",
            "python3 deploy/kafka": f"--port {ports['9092']} --property broker.session.timeout.ms=2000",
        },
        {
            "DATABASE_URL": database,
            "TOKEN": "",
            # The broker lives for minutes: Java shall not compile it for hours, see `servers.kafka`.
            **Broker.environ,
            "WHATSMS_EVENTS_PUBLIC__PORT": ports["8080"],
            "WHATSMS_EVENTS_PRIVATE__PORT": ports["8081"],
            "WHATSMS_EVENTS_RECEIVER__KEEP_REJECTS": "5",
            "WHATSMS_EVENTS_WATCHDOG__FLOOR_S": "5",
            "WHATSMS_EVENTS_WATCHDOG__GAPS": "1",
            "WHATSMS_EVENTS_WATCHDOG__PROBE_INTERVAL_S": "2",
            "WHATSMS_EVENTS_WHATSMS__REQUESTS_PER_MINUTE": "60000",
            "WHATSMS_EVENTS_BACKFILL__REQUESTS_PER_MINUTE": "30000",
            "WHATSMS_EVENTS_BACKFILL__SETTLE_S": "1",
            "WHATSMS_EVENTS_BACKFILL__ABSENCE_S": "1",
        },
    )
    walked = Walk(terminal, own_postgres, prometheus)
    try:
        await prometheus.start()
        yield walked
    finally:
        await prometheus.stop()
        await asyncio.gather(*(window.stop() for window in walked.windows.values()))


async def test_somebody_new_runs_it_breaks_it_and_repairs_it(walk: Walk) -> None:
    """Each command is one of README or docs. Each fault is told by its alert, has a panel that shows it, is repaired as
    the runbook says, and then the alert clears; at the end nothing that was accepted is missing.
    """
    await it_runs(walk)
    await the_broker_stops(walk)
    await the_secret_is_wrong(walk)
    await the_consumer_is_killed(walk)
    await the_database_is_read_only(walk)
    await webhooks_are_dropped(walk)
    await nothing_is_missing(walk)


async def it_runs(walk: Walk) -> None:
    """Everything is started as the quickstart and the runbook say, and no alert fires."""
    terminal = walk.terminal
    config = terminal.block(TWIN, 'sk_test_twin"\nwebhook') + terminal.block(QUICKSTART, "[kafka]")
    (terminal.folder / "whatsms.toml").write_text(config, encoding="utf-8")
    await walk.open("broker", KAFKA, BROKER)
    terminal.run(QUICKSTART, "whatsms-events config check --config whatsms.toml")
    terminal.run(QUICKSTART, "whatsms-events db upgrade --config whatsms.toml")

    await until(lambda: serves(terminal.here("kafka.example:9092")), PATIENCE_S, "the broker serves")
    terminal.run(QUICKSTART, "whatsms-events topics create --config whatsms.toml")
    for name, line in {"receiver": RECEIVER, "relay": RELAY, "consumer": CONSUMER}.items():
        await walk.open(name, OPERATE, line)
    await walk.ready()
    await walk.open("twin", TWIN, "whatsms-events twin --target http://127.0.0.1:8080/webhooks/acme --past 600")
    assert '"ready":true' in terminal.run(OPERATE, "curl -s http://127.0.0.1:8081/readyz")

    async def arrived() -> bool:
        return bool(terminal.run(OPERATE, "curl -s http://127.0.0.1:8081/metrics").count('outcome="accepted"'))

    await until(arrived, PATIENCE_S, "a webhook was accepted")
    await walk.clears()


async def serves(address: str) -> bool:
    """Tell whether something listens there."""
    host, _, port = address.partition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return False
    writer.close()
    return True


async def the_broker_stops(walk: Walk) -> None:
    """Stop the broker: events wait in the log. It is started again, and they are published."""
    await walk.windows["broker"].stop()
    await walk.fires("WhatsmsRelayStalled")
    await walk.open("broker", KAFKA, BROKER)
    await walk.clears()


async def the_secret_is_wrong(walk: Walk) -> None:
    """Somebody sets a secret that the vendor does not have. `verify` says so, and the right one is set again."""
    walk.edit("whsec_test_twin", "whsec_mistyped")
    await walk.fires("WhatsmsRejectsRising")
    walk.terminal.run(OPERATE, 'curl -s -H "Authorization: Bearer $TOKEN" localhost:8081/api/v1/acme/rejects')
    said = walk.terminal.run(
        OPERATE,
        'curl -s -H "Authorization: Bearer $TOKEN" localhost:8081/api/v1/acme/rejects/1 '
        "| whatsms-events verify - --config whatsms.toml",
        status=1,
    )
    assert "whsec" not in said
    walk.edit("whsec_mistyped", "whsec_test_twin")
    await walk.clears()


async def the_consumer_is_killed(walk: Walk) -> None:
    """Kill the process: the receiver goes on. It is started again, and the tables catch up."""
    await walk.windows["consumer"].kill()
    await walk.fires("WhatsmsProcessDown")
    await walk.fires("WhatsmsConsumerLate")
    await walk.open("consumer", OPERATE, CONSUMER)
    await walk.ready()
    await walk.clears()


async def the_database_is_read_only(walk: Walk) -> None:
    """Somebody makes the server read-only: deliveries get 503. The setting is taken back as the runbook says."""
    await ask(walk.postgres.url, "ALTER SYSTEM SET default_transaction_read_only = on")
    await ask(walk.postgres.url, "SELECT pg_reload_conf()")
    await walk.fires("WhatsmsDeliveriesTurnedAway")
    said = walk.terminal.run(
        OPERATE,
        'psql "$DATABASE_URL" -c "SELECT pg_is_in_recovery() AS standby, '
        "current_setting('default_transaction_read_only') AS read_only\"",
    )
    assert re.search(r"f +\| on", said)
    walk.terminal.run(
        OPERATE,
        'psql "$DATABASE_URL" -c "ALTER SYSTEM RESET default_transaction_read_only" -c "SELECT pg_reload_conf()"',
    )
    await walk.ready()
    await walk.clears()


async def webhooks_are_dropped(walk: Walk) -> None:
    """Let the vendor send nothing although its account is active. Then it sends again."""
    walk.terminal.run(TWIN, """curl -X POST http://127.0.0.1:8090/control/faults -d '{"webhooks":{"drop":1}}'""")
    await walk.fires("WhatsmsSilent")
    walk.terminal.run(TWIN, """curl -X POST http://127.0.0.1:8090/control/faults -d '{"webhooks":{"drop":0}}'""")
    await walk.clears()


async def nothing_is_missing(walk: Walk) -> None:
    """Let the account stand still. A reconcile repairs what was lost, and the next one finds nothing.

    The log is whole, the tables are what the log says, and the receiver works with the configuration as it is.
    """
    walk.terminal.run(TWIN, "curl -X POST http://127.0.0.1:8090/control/pause")
    walk.terminal.run(OPERATE, RECONCILE)
    report = walk.terminal.run(OPERATE, RECONCILE)
    assert not re.search(r"missed|stale", report), report
    assert walk.terminal.run(OPERATE, "whatsms-events parked list --config whatsms.toml --limit 20") == ""
    run = partial(walk.terminal.run, OPERATE)
    run("whatsms-events log verify --config whatsms.toml")
    assert re.search(
        r"no difference|nothing differs", run("whatsms-events replay projection --config whatsms.toml --go")
    )
    assert "in use" in run("whatsms-events secrets status --config whatsms.toml")
    assert run("whatsms-events config diff --config whatsms.toml") == ""
    assert await walk.firing() == set()
