"""The whole walk as its users see it: a signed POST, and the ticket by the read API; again; after a crash; by Kafka."""

import asyncio
import hashlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from servers.compare import assert_published, decoded_by_the_sdk, opened, until, whole_log
from servers.kafka import RunningKafka
from servers.service import SECRET, SLUG, TENANT, Service, command
from servers.witness import read_committed
from whatsms_events.domain.records import TOPICS
from whatsms_events.domain.signature import HEADER, sign
from whatsms_events.storage.log.event_log import EventLog

pytestmark = pytest.mark.process

DELIVERIES = sorted(
    path for path in (Path(__file__).parent / "deliveries").glob("*.json") if not path.name.endswith(".event.json")
)
NINE = 9


def as_tenant(path: Path) -> bytes:
    """Return a sample delivery, sent by the tenant of these tests."""
    envelope = json.loads(path.read_bytes())
    return json.dumps(envelope | {"tenantId": TENANT}).encode()


async def post(session: aiohttp.ClientSession, service: Service, body: bytes) -> dict[str, Any]:
    """Send a signed delivery and return the answer with its status."""
    async with session.post(service.webhook_url, data=body, headers={HEADER: sign(body, SECRET.encode())}) as answer:
        said: dict[str, Any] = await answer.json()
        return said | {"status": answer.status}


async def get(session: aiohttp.ClientSession, service: Service, path: str) -> Any:
    """Ask the read API."""
    async with session.get(f"{service.private_url}{path}") as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


def delivery(event: str, at: str, **data: Any) -> bytes:
    """Return a delivery of the tenant of these tests."""
    return json.dumps({"event": event, "tenantId": TENANT, "timestamp": at, "data": data}).encode()


async def told(session: aiohttp.ClientSession, service: Service) -> None:
    """Tell a short story: a message, its ticket, an answer, its acks (one before the message), and the end."""
    contact = {"id": "c-1", "name": "João Silva", "number": "351910000000"}
    story = [
        delivery("message.ack", "2026-01-15T10:31:05Z", message={"id": "m-2", "ack": 3}),
        delivery(
            "message.received",
            "2026-01-15T10:30:00Z",
            message={"id": "m-1", "body": "Olá", "fromMe": False, "createdAt": "2026-01-15T10:30:00Z"},
            ticket={"id": "t-1", "status": "open"},
            contact=contact,
        ),
        delivery(
            "message.sent",
            "2026-01-15T10:31:00Z",
            message={"id": "m-2", "body": "Bom dia", "fromMe": True, "ack": 1, "createdAt": "2026-01-15T10:31:00Z"},
            ticket={"id": "t-1", "status": "open"},
        ),
        delivery(
            "ticket.updated",
            "2026-01-15T10:32:00Z",
            ticket={"id": "t-1", "status": "open", "queue": {"id": "q-1", "name": "Suporte"}, "contact": contact},
        ),
        delivery("ticket.closed", "2026-01-15T10:40:00Z", ticket={"id": "t-1"}),
    ]
    for body in story:
        assert (await post(session, service, body))["status"] == 200


async def see(session: aiohttp.ClientSession, service: Service) -> None:
    """Check that the read API shows the story."""

    async def closed() -> bool:
        found = await get(session, service, f"/api/v1/{SLUG}/tickets?status=closed")
        return [ticket["id"] for ticket in found["tickets"]] == ["t-1"]

    await until(closed, 30, "the ticket is closed")
    ticket = await get(session, service, f"/api/v1/{SLUG}/tickets/t-1")
    assert ticket["queue"] == {"id": "q-1", "name": "Suporte"}
    assert ticket["contact_id"] == "c-1"
    messages = (await get(session, service, f"/api/v1/{SLUG}/tickets/t-1/messages"))["messages"]
    assert [message["id"] for message in messages] == ["m-1", "m-2"]
    sent = await get(session, service, f"/api/v1/{SLUG}/messages/m-2")
    assert sent["ack"]["level"] == 3
    assert sent["ack"]["delivered_at"] == "2026-01-15T10:31:05Z"
    assert sent["ack"]["pending_at"] == "2026-01-15T10:31:00Z"
    contacts = (await get(session, service, f"/api/v1/{SLUG}/contacts"))["contacts"]
    assert [contact["name"] for contact in contacts] == ["João Silva"]


async def test_from_a_signed_post_to_a_ticket_on_sqlite(tmp_path: Path) -> None:
    """With nothing but files: a story told by webhooks is queried, also after a kill; redeliveries change nothing."""
    service = Service(tmp_path / "service")
    await service.start()
    async with aiohttp.ClientSession() as session:
        await told(session, service)
        await see(session, service)
        before = await get(session, service, "/api/v1/events")
        await service.kill()
        await service.start()
        await told(session, service)
        await see(session, service)
        assert await get(session, service, "/api/v1/events") == before
    await service.stop()


async def test_fifty_copies_in_parallel_are_one_event(tmp_path: Path) -> None:
    """The same bytes 50 times at once: one is new, 49 are duplicates with its id and position, and counted."""
    service = Service(tmp_path / "service")
    await service.start()
    body = delivery("contact.updated", "2026-01-15T10:30:00Z", contact={"id": "c-9", "name": "Ana"})
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=50)) as session:
        answers = await asyncio.gather(*(post(session, service, body) for _ in range(50)))
        assert {answer["status"] for answer in answers} == {200}
        assert len({(answer["id"], answer["position"]) for answer in answers}) == 1
        assert sum(not answer["duplicate"] for answer in answers) == 1
        event = await get(session, service, f"/api/v1/events/{answers[0]['position']}?raw=1")
    assert event["redelivered"] == 49
    await service.stop()
    with sqlite3.connect(service.folder / "log.db") as file:
        assert file.execute("SELECT raw, sha256 FROM event_log").fetchall() == [(body, hashlib.sha256(body).digest())]
    file.close()


@pytest.mark.parametrize("path", DELIVERIES, ids=lambda path: path.stem)
def test_samples_are_json(path: Path) -> None:
    """Each sample can be sent by another tenant, which the journey below needs."""
    assert json.loads(path.read_bytes())["event"]


async def test_from_a_signed_post_to_kafka_and_postgresql(
    postgres_url: str, kafka: RunningKafka, topic_prefix: str, tmp_path: Path
) -> None:
    """On PostgreSQL and Kafka with every role in a process of its own: the story is queried, and every sample of all
    nine types is read once by a consumer that is not ours, decoded by the CloudEvents SDK, and rebuilt whole.
    """
    settings: dict[str, dict[str, object]] = {
        "database": {"url": postgres_url},
        "kafka": {"bootstrap_servers": kafka.bootstrap, "topic_prefix": topic_prefix, "partitions": 3},
    }
    services = {
        role: Service(tmp_path / role, roles=role, settings=settings) for role in ("receiver", "relay", "consumer")
    }
    receiver = services["receiver"]
    command(receiver, "db", "upgrade")
    command(receiver, "topics", "create")
    await asyncio.gather(*(service.start() for service in services.values()))
    async with aiohttp.ClientSession() as session:
        await told(session, receiver)
        await see(session, services["consumer"])
        for path in DELIVERIES:
            assert (await post(session, receiver, as_tenant(path)))["status"] == 200, path.name
    log, projection = await opened(postgres_url, postgres_url)
    entries = await whole_log(log)
    assert len({entry.event.type for entry in entries}) == NINE

    topics = [f"{topic_prefix}.{suffix}" for suffix in TOPICS]

    def all_there() -> bool:
        return len(read_committed(kafka.bootstrap, topics)) >= len(entries)

    await until(all_there, 60, "everything published")
    assert_published(kafka.bootstrap, topic_prefix, entries, await EventLog(log).log_id())
    by_id = {str(entry.event.id): entry for entry in entries}
    for message in read_committed(kafka.bootstrap, topics):
        event = decoded_by_the_sdk(message)
        entry = by_id[event.get_id()]
        assert event.get_type() == f"pt.whatsms.{entry.event.type}"
        assert event.get_subject() == entry.event.subject
        if entry.event.occurred_at is not None:  # where there is no time, the SDK makes one up
            assert event.get_time() == entry.event.occurred_at
        assert event.get_extension("sequence") == f"{entry.position:019d}"
        assert event.get_extension("tenant") == TENANT
        assert event.get_data() == json.loads(entry.event.data)
    for service in services.values():
        await service.stop()
    await log.close()
    await projection.close()
