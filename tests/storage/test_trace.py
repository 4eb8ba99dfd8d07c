"""What is known of one event or one thing, by any of its names, on real databases."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import pytest
from sqlalchemy import insert, update

from whatsms_events.domain.drift import Finding
from whatsms_events.domain.normalize import normalize
from whatsms_events.domain.verdicts import Append
from whatsms_events.storage.database import Database, DatabaseTarget, open_log, open_projection
from whatsms_events.storage.log.committer import Committer
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.projection.apply import Projection
from whatsms_events.storage.repair import looks
from whatsms_events.storage.repair.looks import Doubt
from whatsms_events.storage.repair.reports import Options
from whatsms_events.storage.repair.runs import Checkpoints
from whatsms_events.storage.role_lock import RoleLock
from whatsms_events.storage.tables import event_log, parked_delivery, parked_event
from whatsms_events.storage.trace import Match, Redelivered, Traces
from whatsms_events.workers.consumer import Consumer
from whatsms_events.workers.sources import LogSource

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
TENANTS = ("t1", "t2")


class Told:
    """A log and a projection, and what was told to them."""

    def __init__(self, log: Database, projection: Database) -> None:
        self.log, self.projection = log, projection
        self.traces = Traces(log, projection)
        self.ids: list[UUID] = []
        self.raws: list[bytes] = []

    async def tell(self, tenant: str, event: str, minute: int, data: str) -> None:
        """Append one delivery, signed with a secret."""
        at = NOON + timedelta(minutes=minute)
        raw = (
            f'{{"event":"{event}","tenantId":"{tenant}","timestamp":"{at:%Y-%m-%dT%H:%M:%SZ}","data":{data}}}'.encode()
        )
        item = Append(normalize(raw, tenant=tenant, received_at=at), raw, hashlib.sha256(raw).digest(), "current")
        stop = asyncio.Event()
        committer = Committer(
            self.log, batch_limit=9, queue_limit=99, queue_limit_bytes=1 << 20, on_commit=lambda _end: None
        )
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(committer.run(stop))
            await committer.submit(item, deadline_s=60)
            stop.set()
        self.ids.append(item.event.id)
        self.raws.append(raw)

    async def apply(self) -> None:
        """Apply everything to the projection."""
        source, lock = LogSource(EventLog(self.log)), RoleLock(self.log, "consumer")
        consumer = Consumer(Projection(self.projection), source, lock, batch_limit=100)
        while await consumer.run_once():
            pass
        await consumer.close()


T = TypeVar("T")


def present(found: T | None) -> T:
    """Return what must have been found."""
    assert found is not None
    return found


@pytest.fixture
async def told(database_url: str, tmp_path: Path) -> AsyncIterator[Told]:
    """Give two tenants' short stories, in which some ids are the same."""
    log = await open_log(DatabaseTarget(database_url), migrate=True)
    beside = database_url if log.path is None else f"sqlite:///{tmp_path / 'projection.db'}"
    projection = await open_projection(DatabaseTarget(beside), migrate=True)
    made = Told(log, projection)
    await made.tell("t1", "ticket.updated", 0, '{"ticket":{"id":"7","status":"open"}}')
    await made.tell(
        "t1", "message.sent", 1, '{"message":{"id":"m1","body":"x","fromMe":true,"ack":1},"ticket":{"id":"7"}}'
    )
    await made.tell("t1", "message.ack", 2, '{"message":{"id":"m1","ack":3}}')
    await made.tell("t2", "contact.created", 3, '{"contact":{"id":"7","name":"Ana"}}')
    await made.tell("t1", "ticket.closed", 4, '{"ticket":{"id":"7","status":"closed"}}')
    yield made
    await projection.close()
    await log.close()


async def test_a_name_is_found_whatever_it_names(told: Told) -> None:
    """An event's id, a delivery's hash, a parked delivery and a thing are found, each for its own tenant alone; an id
    that several things have is each of them.
    """
    await told.apply()
    parked, raw = UUID(int=9), b"?"
    async with told.log.write() as connection:
        await connection.execute(
            insert(parked_delivery).values(
                id=parked, tenant="t2", reason="not_json", detail="", received_at=1, raw=raw, count=2,
                sha256=hashlib.sha256(raw).digest(),
            )
        )  # fmt: skip
    find = told.traces.matches
    assert await find("7", TENANTS) == [Match("ticket", "t1", "7"), Match("contact", "t2", "7")]
    assert await find("7", ["t2"]) == [Match("contact", "t2", "7")]
    assert await find("m1", TENANTS) == [Match("message", "t1", "m1")]
    own = Match("event", "t1", str(told.ids[0]))
    assert await find(str(told.ids[0]), TENANTS) == [own]
    assert await find(str(told.ids[0]), ["t2"]) == []
    assert await find(hashlib.sha256(told.raws[0]).hexdigest(), TENANTS) == [own]
    assert await find(hashlib.sha256(told.raws[0]).hexdigest(), TENANTS, reach=2) == []
    assert await find(hashlib.sha256(told.raws[0]).hexdigest(), TENANTS, reach=None) == [own]
    assert await find(hashlib.sha256(raw).hexdigest(), TENANTS) == [Match("parked", "t2", str(parked))]
    async with told.log.write() as connection:  # the same bytes, parked for others before and behind this tenant
        digest, row = hashlib.sha256(raw).digest(), {"reason": "not_json", "detail": "", "received_at": 1, "count": 1}
        others = [row | {"id": UUID(int=n), "tenant": f"o{n}", "sha256": digest, "raw": raw} for n in (5, 6, 11, 12)]
        await connection.execute(insert(parked_delivery).values(others))
    assert await find(hashlib.sha256(raw).hexdigest(), ["t2"]) == [Match("parked", "t2", str(parked))]
    assert len(await find(hashlib.sha256(raw).hexdigest(), ["o5", "o6", "t2"])) == 3
    async with told.log.write() as connection:  # the same bytes, sent to the other tenant too
        same = {"tenant": "t2", "sha256": hashlib.sha256(told.raws[0]).digest(), "id": UUID(int=3)}
        columns = {"type": "ticket.updated", "received_at": 1, "origin": "webhook"}
        await connection.execute(insert(event_log).values(**columns, **same))
    other = Match("event", "t2", str(UUID(int=3)))
    assert await find(hashlib.sha256(told.raws[0]).hexdigest(), TENANTS) == [other, own]
    assert await find(hashlib.sha256(told.raws[0]).hexdigest(), ["t1"]) == [own]
    assert await find("nothing", TENANTS) == await find("0" * 64, TENANTS) == await find("é" * 64, TENANTS) == []
    facts = await told.traces.parked(parked)
    assert facts is not None
    assert (facts.reason, facts.count) == ("not_json", 2)


async def test_an_event_is_followed_through_log_and_tables(told: Told) -> None:
    """Its bytes' hash, secret, position and redeliveries, whether it was applied, and what won over it."""
    first = await told.traces.event(told.ids[0])
    assert first is not None
    became = present(first.became)
    assert (first.entry.position, became.applied_through) == (1, 0)
    assert present(became.trace).changes
    await told.apply()
    await told.tell("t1", "ticket.updated", 0, '{"ticket":{"id":"7","status":"open"}}')
    first = await told.traces.event(told.ids[0])
    assert first is not None
    assert (first.sha256, first.size) == (hashlib.sha256(told.raws[0]).digest(), len(told.raws[0]))
    assert (first.signed_by, first.redelivered) == ("current", Redelivered(1, NOON))
    became = present(first.became)
    assert (became.applied_through, became.parked, first.blanked) == (5, None, False)
    seen = present(became.trace)
    (status,) = seen.fields
    assert (status.outcome, seen.changes) == ("lost", False)
    assert status.winner is not None
    assert status.winner.position == 5
    assert first.thing is not None
    assert (first.thing.kind, first.thing.id, first.thing.row is not None) == ("ticket", "7", True)
    assert await told.traces.event(UUID(int=1)) is None


async def test_what_was_blanked_or_parked_is_said(told: Told) -> None:
    """Of an event whose data retention took nothing can be compared any more; one that was parked has its reason."""
    await told.apply()
    async with told.log.write() as connection:
        await connection.execute(update(event_log).where(event_log.c.position == 1).values(raw=None, data=None))
    async with told.projection.write() as connection:
        await connection.execute(
            insert(parked_event).values(
                source="log", at=1, reason="data", detail="", parked_at=1, raw=b"", headers="[]"
            )
        )
    found = await told.traces.event(told.ids[0])
    assert found is not None
    became = present(found.became)
    assert (found.blanked, became.trace, became.parked, found.size) == (True, None, "data", None)


async def test_a_position_is_found_by_time(told: Told) -> None:
    """Where the log was at a moment: before its first event, at one, between two, and after its last."""
    at = {-60: 0, 0: 1, 59: 1, 60: 2, 239: 4, 240: 5, 86_400: 5}
    found = {seconds: await told.traces.position_at(NOON + timedelta(seconds=seconds)) for seconds in at}
    assert found == at


async def test_a_thing_has_its_events_and_what_the_api_said_of_it(told: Told) -> None:
    """Its last events within reach, newest first, and the looks and the last reconcile of the backfill."""
    await told.apply()
    events, behind = await told.traces.events_about("ticket", "t1", "7")
    assert ([event.position for event in events], behind) == ([5, 2, 1], 0)
    events, behind = await told.traces.events_about("ticket", "t1", "7", reach=2)
    assert ([event.position for event in events], behind) == ([5], 3)
    events, behind = await told.traces.events_about("ticket", "t1", "7", reach=2, until=3)
    assert ([event.position for event in events], behind) == ([2], 1)
    assert [event.position for event in (await told.traces.events_about("message", "t1", "m1"))[0]] == [3, 2]
    assert [event.position for event in (await told.traces.events_about("contact", "t2", "7"))[0]] == [4]
    assert [event.position for event in (await told.traces.events_about("campaign", "t2", "7"))[0]] == []
    checkpoints = Checkpoints(told.log)
    run = await checkpoints.begin("t1", "reconcile", "command", Options(), NOON)
    await checkpoints.save(run, b"{}", now=NOON, drift=[Finding("ticket", "7", "stale", ("status",), 1.0)])
    before = present((await told.traces.thing("ticket", "t1", "7")).rest)
    assert (before.run, before.differed, before.compared) == (None, None, False)
    await checkpoints.finish(run, b"{}", NOON + timedelta(minutes=9))
    async with told.log.write() as connection:
        await looks.write(connection, "t1", [Doubt("ticket", "7", 5)], NOON)
    rest = present((await told.traces.thing("ticket", "t1", "7")).rest)
    assert (rest.run, rest.differed, rest.compared, rest.started_at) == (run.number, "stale", True, NOON)
    assert rest.look is not None
    assert (rest.look.looks, rest.look.position) == (1, 5)
    message = await told.traces.thing("message", "t1", "m1")
    rest = present(message.rest)
    assert (rest.compared, rest.differed, rest.observed_at) == (False, None, None)
    assert message.row is not None
    assert message.row.values["ack"] == 3
    nobody = await told.traces.thing("message", "t2", "m1")
    assert (nobody.row, present(nobody.rest).run) == (None, None)


async def test_an_observation_counts_as_told_by_the_api(told: Told) -> None:
    """The latest time for which an observation told a field is shown."""
    await told.apply()
    assert present((await told.traces.thing("ticket", "t1", "7")).rest).observed_at is None
    observed = NOON + timedelta(minutes=30)
    async with told.log.write() as connection:
        await connection.execute(
            insert(event_log).values(
                id=UUID(int=77), type="ticket.observed", tenant="t1", occurred_at=_micros(observed),
                received_at=_micros(observed), origin="backfill", subject="7", ticket_id="7", sha256=bytes(32),
                data='{"ticket":{"id":"7","status":"open"}}', raw=b"{}",
            )
        )  # fmt: skip
    await told.apply()
    thing = await told.traces.thing("ticket", "t1", "7")
    assert present(thing.rest).observed_at == observed


def _micros(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000)
