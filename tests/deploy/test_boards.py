"""The boards, read by Grafana's own types, and each of their queries answered by a real Prometheus."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
import yaml
from grafana_foundation_sdk.cog import encoder, plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from conftest import missing
from servers.compare import until
from servers.kafka import RunningKafka
from servers.process import UnavailableError
from servers.prometheus import Prometheus
from servers.service import Service, command
from servers.upstream import account, sections
from test_dashboards import BOARDS, DEPLOY, FILES, QUERIES
from test_journey import delivery, post
from test_metrics import misbehave, produce, tell

GRAFANA: Final = DEPLOY / "grafana" / "provisioning"

EMPTY: Final = {
    "pipeline: Feeds that ended-A": "nobody reads the feed",
    "privacy: Blanked when it came late-A": "nobody was forgotten",
    "privacy: Refused at the private listener-A": "no token is set, and nobody comes under a strange name",
    "privacy: How long Kafka still has them-A": "nobody was forgotten",
    "privacy: Left to you: not followed-A": "nobody was forgotten",
    "overview: How late Kafka is-A": "nothing waits for Kafka, but for moments",
    "pipeline: How late Kafka is-A": "nothing waits for Kafka, but for moments",
    "pipeline: Rows skipped-A": "no relay was killed while it published",
    "privacy: Blanked by retention-A": "nothing is so old that its days are over",
    "privacy: Age of the oldest that has an end-A": "it is looked at once a minute, first before anything was there",
}
"""Queries that find nothing while the service of this test works well, with the reason."""

VARIABLES: Final = {"$__rate_interval": "10s", "$__range": "10m", "$job": ".+", "$instance": ".+", "$tenant": ".*"}
"""What Grafana would put in, with everything chosen."""


@pytest.mark.parametrize("name", BOARDS)
def test_grafanas_own_types_know_every_field(name: str) -> None:
    """What Grafana's types for Python read of a board and write again is the board: no field is misspelt."""
    plugins.register_default_plugins()
    given = json.loads((FILES / f"{name}.json").read_text(encoding="utf-8"))
    read = encoder.JSONEncoder(sort_keys=True).encode(Dashboard.from_json(given))
    assert given.pop("id") is None  # they leave it out, and Grafana's files have it so
    assert list(lost(given, json.loads(read))) == []


def lost(given: Any, read: Any, where: str = "") -> list[str]:
    """List what is not as it was; defaults that the types add are no matter."""
    if isinstance(given, dict) and isinstance(read, dict):
        return [one for key in given for one in lost(given[key], read.get(key), f"{where}.{key}")]
    if isinstance(given, list) and isinstance(read, list) and len(given) == len(read):
        return [one for at, pair in enumerate(zip(given, read, strict=True)) for one in lost(*pair, f"{where}[{at}]")]
    return [] if given == read else [f"{where}: {given!r} became {read!r}"]


def test_a_misspelt_field_of_a_panel_would_be_found() -> None:
    """The test above tests something: an option that Grafana does not have is lost on the way."""
    plugins.register_default_plugins()
    panel = {"type": "stat", "options": {"colorMode": "none", "colourMode": "none"}}
    read = encoder.JSONEncoder().encode(Dashboard.from_json({"panels": [panel]}))
    assert lost({"panels": [panel]}, json.loads(read)) == [".panels[0].options.colourMode: 'none' became None"]


def test_grafana_is_given_the_data_source_and_the_boards() -> None:
    """What Grafana reads at its start names one Prometheus and the folder of the boards."""
    (source,) = yaml.safe_load((GRAFANA / "datasources" / "prometheus.yaml").read_text(encoding="utf-8"))["datasources"]
    assert (source["type"], source["access"], source["isDefault"]) == ("prometheus", "proxy", True)
    # Grafana makes $__rate_interval four of these: it must be what Prometheus really scrapes by.
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]
    (provider,) = yaml.safe_load((GRAFANA / "dashboards" / "boards.yaml").read_text(encoding="utf-8"))["providers"]
    assert provider["type"] == "file"
    assert provider["disableDeletion"] is True


@pytest.mark.process
async def test_a_real_prometheus_answers_every_query(kafka: RunningKafka, topic_prefix: str, tmp_path: Path) -> None:
    """Each query of each panel finds something at a service that does all it can do, or has its reason in EMPTY."""
    brokers: dict[str, object] = {"bootstrap_servers": kafka.bootstrap, "topic_prefix": topic_prefix, "partitions": 1}
    async with account() as there:
        settings = sections(there.url, backfill={"repair_interval_s": 0}) | {"kafka": brokers}
        service = Service(tmp_path / "service", roles="receiver,relay,consumer,backfill", settings=settings)
        try:
            server = Prometheus(tmp_path / "prometheus", service.private_url.removeprefix("http://"), {})
        except UnavailableError as exc:
            missing(str(exc))
        command(service, "topics", "create")
        await service.start()
        left = set(QUERIES) - set(EMPTY)
        try:
            await server.start()
            async with aiohttp.ClientSession() as session:
                await tell(session, service)
                await misbehave(session, service)
                produce(kafka.bootstrap, f"{topic_prefix}.contacts", b"nothing of ours", [])
                await until(lambda: all_found(server, session, service, left), 240, "each query finds something")
        except TimeoutError as exc:
            raise AssertionError(f"these find nothing: {sorted(left)}") from exc
        finally:
            await server.stop()
            await service.stop()


async def all_found(server: Prometheus, session: aiohttp.ClientSession, service: Service, left: set[str]) -> bool:
    """Go on telling, take the queries that find something out of `left`, and tell whether none is left."""
    number = time.time_ns()
    stamp = datetime.fromtimestamp(time.time() - 30, UTC).isoformat()
    sent = {"id": f"m-{number}", "body": "Olá", "fromMe": True, "ack": 1, "createdAt": stamp}
    for body in (
        delivery("message.sent", stamp, message=sent, ticket={"id": "t-1", "status": "open"}),
        *(delivery("message.ack", stamp, message={"id": f"m-{number}", "ack": ack}) for ack in (2, 3, 4)),
        delivery("ticket.updated", f"the day {number}", ticket={"id": "t-1", "status": "open"}),
    ):
        assert (await post(session, service, body))["status"] == 200
    left -= {name for name in left if await finds(server, name)}
    return not left


async def finds(server: Prometheus, name: str) -> bool:
    """Tell whether a query finds any series now."""
    text = QUERIES[name].text
    for variable, value in VARIABLES.items():
        text = text.replace(variable, value)
    return bool((await server.ask("query", query=text))["result"])
