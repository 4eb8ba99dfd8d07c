"""What must be equal after any failure: ledger and log, log and Kafka, projection and a clean rebuild of it."""

import asyncio
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from cloudevents.core.bindings.kafka import KafkaMessage, from_binary_event
from confluent_kafka import Message
from sqlalchemy import select

from servers.witness import read_committed
from whatsms_events import clock
from whatsms_events.domain import fold
from whatsms_events.domain.events import LogEntry, decode
from whatsms_events.domain.records import TOPICS, from_record
from whatsms_events.storage import audit, tables
from whatsms_events.storage.database import Database, DatabaseTarget, open_log, open_projection
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.log.selected import Selected
from whatsms_events.storage.projection.apply import Projection
from whatsms_events.storage.projection.rows import load
from whatsms_events.storage.projection.shadow import open_shadow, remove_shadow, shadow_of
from whatsms_events.storage.role_lock import RoleLock
from whatsms_events.twin.ledger import Ledger
from whatsms_events.workers.consumer import Consumer
from whatsms_events.workers.replay import ProjectionReplay
from whatsms_events.workers.sources import LogSource

POLL_S = 0.1

LONG = os.environ.get("WHATSMS_TEST_LONG") == "1"
"""Whether the long forms of tests run: more tickets, more seeds. `make test-long` sets it."""

PATIENCE_S = 120.0
"""The least limit of a wait: machines differ by a factor of four and are shared, and only a failure waits so long."""


async def whole_log(log: Database) -> list[LogEntry]:
    """Return every row of the log."""
    entries: list[LogEntry] = []
    while batch := await EventLog(log).read(entries[-1].position if entries else 0, 1000):
        entries += batch
    return entries


async def assert_kept(ledger: Ledger, log: Database) -> None:
    """Check that every body that got a 2xx is in the log or parked, once, and nothing that was not sent."""
    events, parked = Counter(await audit.hashes(log)), Counter(await audit.parked_hashes(log))
    assert ledger.accepted, "nothing was accepted, so this proves nothing"
    assert not [digest.hex() for digest in ledger.accepted if events[digest] != 1]
    assert not [digest.hex() for digest in ledger.parked if parked[digest] != 1]
    assert not set(events) - ledger.accepted - ledger.given_up
    assert not set(parked) - ledger.parked - ledger.given_up


def assert_published(bootstrap: str, prefix: str, entries: Sequence[LogEntry], log_id: UUID) -> None:
    """Check that a read_committed reader sees the log: each event once, whole, in log order within its partition."""
    messages = read_committed(bootstrap, [f"{prefix}.{suffix}" for suffix in TOPICS])
    last: dict[tuple[str | None, int | None], int] = defaultdict(int)
    seen: dict[int, LogEntry] = {}
    for message in messages:
        found_log, entry = from_record(headers_of(message), message.value())
        place = (message.topic(), message.partition())
        assert found_log == log_id
        assert entry.position > last[place], f"{place}: {entry.position} behind {last[place]}"
        assert entry.position not in seen, f"position {entry.position} was published twice"
        last[place] = entry.position
        seen[entry.position] = entry
    assert sorted(seen) == [entry.position for entry in entries]
    assert [seen[entry.position] for entry in entries] == list(entries)


def headers_of(message: Message) -> list[tuple[str, bytes]]:
    """Return a message's headers."""
    # Its stubs allow a dict too, which is only what a producer may give.
    return [(name, value or b"") for name, value in cast("list[tuple[str, bytes]]", message.headers() or [])]


async def until(reached: Callable[[], Any], deadline_s: float, what: str) -> None:
    """Poll until `reached()` (or what it awaits) is true. Raises TimeoutError naming `what`."""
    loop = asyncio.get_running_loop()
    deadline_s = max(deadline_s, PATIENCE_S)
    end = loop.time() + deadline_s
    while True:
        answer = reached()
        if await answer if asyncio.iscoroutine(answer) else answer:
            return
        if loop.time() > end:
            raise TimeoutError(f"not within {deadline_s:.0f} s: {what}")
        await asyncio.sleep(POLL_S)  # it polls a real server, which has no other way to tell


async def until_applied(log: Database, projection: Database, deadline_s: float) -> None:
    """Wait until the projection shows the whole log."""

    async def applied() -> bool:
        return bool((await Projection(projection).state()).applied_through == await EventLog(log).end())

    await until(applied, deadline_s, "everything applied")


ROWS = (tables.ticket, tables.message, tables.message_revision, tables.contact, tables.campaign, tables.parked_event)


async def rows_of(projection: Database) -> Mapping[str, list[tuple[Any, ...]]]:
    """Return every table of the projection, sorted by key; what only says when we looked is left out."""
    found: dict[str, list[tuple[Any, ...]]] = {}
    async with projection.read() as connection:
        for table in ROWS:
            columns = [column for column in table.c if column.name not in {"parked_at", "source", "at"}]
            query = select(*columns).order_by(*table.primary_key)
            found[table.name] = [tuple(row) for row in (await connection.execute(query)).all()]
    return found


async def assert_like_a_clean_rebuild(log: Database, projection: Database, folder: Path) -> None:
    """Check that the projection equals one that is made from the log in one go, in another database."""
    target = DatabaseTarget(url=f"sqlite:///{folder / 'rebuilt.db'}")
    clean = await open_projection(target, migrate=True)
    source = LogSource(EventLog(log))
    consumer = Consumer(Projection(clean), source, RoleLock(clean, "consumer"), batch_limit=500)
    while await consumer.run_once():
        pass
    await consumer.close()
    ours, theirs = await rows_of(projection), await rows_of(clean)
    await clean.close()
    for name, rows in theirs.items():
        assert ours[name] == rows, f"table {name} differs"
    assert ours["ticket"]


async def assert_replay_differs_in_nothing(log: Database, projection: Database) -> None:
    """Check that the tables are just what today's code makes of the raw bytes of the log."""
    assert projection.path is not None, "on PostgreSQL use the command"
    target = shadow_of(DatabaseTarget(url=f"sqlite:///{projection.path}"))
    shadow = await open_shadow(projection, target)
    lock = RoleLock(log, "replay")
    replay = ProjectionReplay(
        EventLog(log), Selected(log), projection, shadow, lock, batch_limit=500, swap=False, texts=(), now=clock.now
    )
    while await replay.run_once(await replay.aim()):
        pass
    outcome = await replay.finish(examples=5)
    await replay.close()
    await shadow.close()
    await remove_shadow(projection, target)
    assert [one for one in outcome.findings if one.differs] == []
    assert sum(one.rows for one in outcome.findings)


async def assert_shows(projection: Database, entries: Sequence[LogEntry]) -> None:
    """Check that the projection shows every one of these events: folded into its rows again, none changes one.

    Whatever else was applied does not matter, since the fold knows neither order nor repetition.
    """
    payloads = [(entry, decode(entry.event)) for entry in entries]
    keys = {claim.key for entry, payload in payloads for claim in fold.claims(entry.event, payload)}
    async with projection.read() as connection:
        rows = await load(connection, keys)
    assert not keys - rows.keys()
    for entry, payload in payloads:
        changed = fold.merge_all(fold.claims(entry.event, payload), entry.position, rows)
        assert not changed, f"position {entry.position} is not applied: {changed}"


async def opened(log_url: str, projection_url: str) -> tuple[Database, Database]:
    """Open both databases as another process would."""
    log = await open_log(DatabaseTarget(url=log_url), migrate=False)
    return log, await open_projection(DatabaseTarget(url=projection_url), migrate=False)


def decoded_by_the_sdk(message: Message) -> Any:
    """Return the event as the CloudEvents SDK reads it from the record."""
    headers = dict(headers_of(message))
    return from_binary_event(KafkaMessage(headers=headers, key=message.key(), value=message.value() or b""))
