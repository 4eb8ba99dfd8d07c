"""What events mean: signed bodies posted to the real service on SQLite, and what the read API then shows."""

import itertools
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from servers.compare import until
from servers.service import SECRET, SLUG, TENANT, Service
from whatsms_events.domain.signature import HEADER, sign

pytestmark = pytest.mark.process

DELIVERIES = Path(__file__).parent / "deliveries"
NOON = datetime(2026, 6, 10, 12, tzinfo=UTC)
LIMIT_S = 120


class Story:
    """A running service, and who tells it of events and asks what it makes of them."""

    def __init__(self, service: Service, session: aiohttp.ClientSession) -> None:
        self._service = service
        self._session = session

    async def tell(self, body: bytes) -> int:
        """Send a signed delivery and return its position."""
        headers = {HEADER: sign(body, SECRET.encode())}
        async with self._session.post(self._service.webhook_url, data=body, headers=headers) as answer:
            said = await answer.json()
            assert (answer.status, said["duplicate"]) == (200, False), said
            return int(said["position"])

    async def told(self, *bodies: bytes) -> None:
        """Send deliveries one after the other, and wait until the projection shows them."""
        end = [await self.tell(body) for body in bodies][-1]

        async def applied() -> bool:
            return await self.metric("whatsms_events_applied_through_position") >= end

        await until(applied, LIMIT_S, "applied")

    async def ask(self, path: str) -> Any:
        """Ask the read API of the tenant."""
        async with self._session.get(f"{self._service.private_url}/api/v1/{path}") as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def ticket(self, ticket_id: str) -> Any:
        """Return a ticket."""
        return await self.ask(f"{SLUG}/tickets/{ticket_id}")

    async def message(self, message_id: str) -> Any:
        """Return a message."""
        return await self.ask(f"{SLUG}/messages/{message_id}")

    async def metric(self, name: str) -> float:
        """Return what a metric shows, 0 where it does not show yet."""
        async with self._session.get(f"{self._service.private_url}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name} ")), 0.0)


@pytest.fixture
async def story(tmp_path: Path) -> AsyncIterator[Story]:
    """Give a service that runs with nothing but files."""
    service = Service(tmp_path / "service")
    await service.start()
    async with aiohttp.ClientSession() as session:
        yield Story(service, session)
    await service.stop()


def delivery(event: str, stamp: object, **data: object) -> bytes:
    """Return a delivery; a number of seconds is a time after noon, anything else is the stamp as it is."""
    when = at(stamp) if isinstance(stamp, float) else stamp
    return json.dumps({"event": event, "tenantId": TENANT, "timestamp": when, "data": data}).encode()


def at(seconds: float) -> str:
    """Return a time after noon as a Node program writes it."""
    return (NOON + timedelta(seconds=seconds)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def sample(name: str) -> bytes:
    """Return one of tests/deliveries, sent by the tenant of these tests."""
    return json.dumps(json.loads((DELIVERIES / f"{name}.json").read_bytes()) | {"tenantId": TENANT}).encode()


async def test_times_that_are_numbers_are_times(story: Story) -> None:
    """Seconds, milliseconds, both as text, and a Long: the older close that comes last does not win."""
    second = 1781092800
    long = {"low": second, "high": 0, "unsigned": True}
    forms: Sequence[object] = (second, second * 1000 + 123, str(second), str(second * 1000 + 123), long)
    for number, form in enumerate(forms):
        one = f"n{number}"
        opened = delivery("ticket.updated", at(0), ticket={"id": one, "status": "open", "updatedAt": at(60)})
        closed = delivery("ticket.closed", at(0), ticket={"id": one, "status": "closed", "updatedAt": form})
        stamped = delivery("ticket.updated", form, ticket={"id": one, "channel": "sms", "createdAt": form})
        await story.told(opened, closed, stamped)
        ticket = await story.ticket(one)
        assert (ticket["status"], ticket["doubtful"], ticket["channel"]) == ("open", [], "sms"), form
        assert ticket["created_at"].startswith("2026-06-10T12:00:00")
    events = (await story.ask("events?type=ticket.updated"))["events"]
    assert all(event["occurred_at"] is not None for event in events)


async def test_what_arrival_alone_decided_is_doubtful_and_counted(story: Story) -> None:
    """Two events whose times nobody can read: the later arrival is shown, marked as doubtful, and counted by field."""
    name = 'whatsms_events_unreadable_times_total{field="%s"}'
    for number, stamp in enumerate(("10/06/2026 12:00", "1970-01-01T00:00:00.000Z", -5, 1781092800123456, True, "")):
        one = f"u{number}"
        before = await story.metric(name % "timestamp")
        await story.told(
            delivery("ticket.updated", stamp, ticket={"id": one, "status": "open", "channel": "sms"}),
            delivery("ticket.updated", stamp, ticket={"id": one, "status": "closed", "channel": "sms"}),
        )
        ticket = await story.ticket(one)
        assert (ticket["status"], ticket["doubtful"]) == ("closed", ["status"]), stamp
        assert await story.metric(name % "timestamp") == before + 2
    created = delivery("ticket.created", at(0), ticket={"id": "u", "createdAt": "2026-W24-3"})
    await story.told(created)
    assert (await story.ticket("u"))["created_at"] is None
    assert await story.metric(name % "createdAt") == 1


async def test_a_group_message_moves_no_ticket_and_keeps_its_author(story: Story) -> None:
    """A message's contactId is who wrote it; a contact beside a message fills an empty ticket and changes none."""
    group, p8 = {"id": "cg", "name": "Obra Norte", "isGroup": True}, {"id": "p8"}
    await story.told(
        delivery("ticket.created", at(0), ticket={"id": "tg", "status": "open", "contact": group}),
        delivery("message.ack", at(10), message={"id": "g1", "ack": 4, "contactId": "p7"}, ticket={"id": "tg"}),
        delivery(
            "message.received", at(20), message={"id": "g2", "body": "x", "contactId": "p7"}, contact=group
        ).replace(b'"data": {', b'"data": {"ticketId": "tg", '),
        delivery("message.received", at(30), message={"id": "g2", "ack": 1}, ticket={"id": "tg"}, contact=group),
        delivery(
            "message.received", at(40), message={"id": "g3", "body": "y"}, ticket={"id": "tg"}, contact={"id": "p8"}
        ),
        delivery("message.received", at(50), message={"id": "g4"}, ticket={"id": "new"}, contact=p8),
        delivery(
            "message.received",
            at(60),
            message={"id": "g5", "contact": {"id": "p9"}},
            ticket={"id": "tg"},
            contact=group,
        ),
    )
    assert (await story.ticket("tg"))["contact_id"] == "cg"
    assert (await story.message("g1"))["contact_id"] == "p7"
    assert ((await story.message("g2"))["contact_id"], (await story.message("g2"))["ticket_id"]) == ("p7", "tg")
    assert (await story.message("g3"))["contact_id"] == "p8"
    assert (await story.message("g5"))["contact_id"] == "p9"
    assert (await story.ticket("new"))["contact_id"] == "p8"
    assert (await story.ask(f"{SLUG}/contacts/p7"))["known"] is False


async def test_a_name_stays_known_for_its_id(story: Story) -> None:
    """An agent or a queue that comes by its id alone keeps the name known for that id; another id shows none."""
    named, other = {"id": 5, "name": "Ana"}, {"id": 6, "name": "Rui"}
    await story.told(
        delivery("ticket.updated", at(0), ticket={"id": "k", "user": named, "queue": {"id": 7, "name": "Vendas"}}),
        delivery("ticket.updated", at(1), ticket={"id": "k", "userId": 5, "queueId": 8}),
    )
    ticket = await story.ticket("k")
    assert (ticket["user"], ticket["queue"]) == ({"id": "5", "name": "Ana"}, {"id": "8", "name": None})
    await story.told(
        delivery("ticket.updated", at(2), ticket={"id": "k", "user": None}),
        delivery("ticket.updated", at(3), ticket={"id": "k", "userId": 5}),
    )
    assert (await story.ticket("k"))["user"] == {"id": "5", "name": "Ana"}
    late = delivery("ticket.updated", at(1.5), ticket={"id": "k", "user": other})
    await story.told(delivery("ticket.updated", at(4), ticket={"id": "k", "userId": 6}), late)
    assert (await story.ticket("k"))["user"] == {"id": "6", "name": "Rui"}


async def test_a_ticket_as_it_was_loaded_before_does_not_open_it_again(story: Story) -> None:
    """A snapshot stamped within five seconds after a close leaves it closed, in doubt, whichever comes first."""
    for number, (delay, order) in enumerate(itertools.product((0.1, 5.0, 5.1), (1, -1))):
        one = f"s{number}"
        bodies = (
            delivery("ticket.closed", at(0), ticket={"id": one, "status": "closed"}),
            delivery("message.sent", at(delay), message={"id": f"m{one}"}, ticket={"id": one, "status": "open"}),
        )
        await story.told(*bodies[::order])
        ticket = await story.ticket(one)
        stale = delay <= 5
        assert (ticket["status"], ticket["doubtful"]) == (("closed", ["status"]) if stale else ("open", [])), (
            delay,
            order,
        )


async def test_the_bodies_of_relatives_become_what_they_are(story: Story) -> None:
    """Whole database rows: what is in them is known, a reaction is a message, an edit a revision, no secret is kept."""
    names = (
        *("message.received.row", "message.received.edited_row", "message.ack.whole_row", "message.ack.error"),
        *("message.received.group", "message.received.reaction", "ticket.updated.transfer"),
        *("ticket.closed.other_names", "contact.updated.lid", "campaign.finished.counts_as_text"),
    )
    await story.told(*map(sample, names))
    edited = await story.message("3EB0C41D9A77F00112")
    wordings = [one["body"] for one in edited["revisions"]]
    assert wordings == ["Segue o contrato.\nObrigada!", "Segue o contrato corrigido."]
    assert edited["ack"]["level"] is None, "a contact's own"
    acked = await story.message("0b7b0f3e-6a51-4a86-a0a4-6d5b8f3f7d10")
    assert (acked["known"], acked["body"], acked["ack"]["level"]) == (True, "Confirmado", 2)
    failed = await story.message("3EB0F00DBEEF")
    assert (failed["known"], failed["from_me"], failed["ack"]["failed_at"]) == (
        False,
        True,
        "2026-06-10T12:00:00.421000Z",
    )
    group = await story.message("3EB0GRP01")
    assert (group["contact_id"], (await story.ticket("820"))["contact_id"]) == ("777", "740")
    reaction, quoted = await story.message("3EB0REACT1"), await story.message("3EB0OLD-812")
    assert (reaction["body"], reaction["media_type"], reaction["contact_id"]) == ("👍🏽", "reactionMessage", "731")
    assert (reaction["quoted_message_id"], quoted["known"], quoted["body"]) == ("3EB0OLD-812", False, None)
    ticket = await story.ticket("97")
    assert (ticket["status"], ticket["channel"], ticket["user"]) == ("pending", "telegram", None), "updated at 12:04"
    assert (await story.ask(f"{SLUG}/contacts/777"))["number"] == "215085806727321@lid"
    campaign = await story.ask(f"{SLUG}/campaigns/14")
    assert (campaign["sent_count"], campaign["failed_count"]) == (148, 2)
    events: Sequence[Mapping[str, Any]] = (await story.ask("events"))["events"]
    assert len(events) == len(names)
    assert "not-a-secret" not in json.dumps(events)
    assert "rawPayload" in json.dumps(events)


async def test_a_secret_never_leaves_the_raw_bytes(story: Story) -> None:
    """By its name, at any depth, in lists, in JSON within a text, in the envelope: the API never shows it."""
    inner = {"accessToken": "SECRET-1", "list": [{"deep": {"client_secret": "SECRET-2", "kept": 1}}]}
    row = {"id": "m", "body": "hi", "whatsapp": {"session": "SECRET-3", "sessionId": 3}, "dataJson": json.dumps(inner)}
    contact = {"id": "c", "senhaApp": "SECRET-4", "key": {"remoteJid": "j"}}
    body = json.loads(delivery("message.received", at(0), message=row, contact=contact, apiKey="SECRET-5", extra=inner))
    whole = json.dumps({**body, "apikey": "SECRET-6", "password": ["SECRET-7"]}).encode()
    await story.told(whole)
    (event,) = (await story.ask("events"))["events"]
    text = json.dumps(event)
    assert "SECRET" not in text
    assert event["data"]["message"]["extra"]["whatsapp"] == {"sessionId": 3}
    assert event["data"]["contact"]["extra"] == {"key": {"remoteJid": "j"}}
    assert event["data"]["extra"]["extra"] == {"list": [{"deep": {"kept": 1}}]}
    assert json.loads(event["data"]["message"]["extra"]["dataJson"]) == {"list": [{"deep": {"kept": 1}}]}
    raw = await story.ask(f"events/{event['position']}?raw=1")
    assert raw["size"] == len(whole)
