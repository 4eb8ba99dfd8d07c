"""The log as its readers see it, on real databases."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import delete, text, update

from whatsms_events.domain.events import Checkpoint, Event, EventType, event_id
from whatsms_events.domain.verdicts import Append
from whatsms_events.errors import IntegrityError
from whatsms_events.storage.database import Database, DatabaseTarget, open_log
from whatsms_events.storage.log.committer import Committer
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.tables import event_log

NOON = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """Give an empty log on each kind of database."""
    found = await open_log(DatabaseTarget(database_url), migrate=True)
    yield found
    await found.close()


def append(number: int, *, size: int = 0, occurred_at: datetime | None = NOON) -> Append:
    """Return an event of `size` bytes or a few."""
    raw = b'{"number": %d}' % number + b" " * size
    event = Event(
        id=event_id("acme", raw, occurred_at),
        type=EventType.TICKET_UPDATED,
        tenant="acme",
        occurred_at=occurred_at,
        received_at=NOON + timedelta(microseconds=number),
        origin="webhook",
        subject="t-1",
        ticket_id="t-1",
        contact_id=None,
        message_id=None,
        data=b'{"ticket":{"id":"t-1","status":"\xc3\xa9"}}',
    )
    return Append(event, raw, hashlib.sha256(raw).digest())


async def fill(database: Database, items: Sequence[Append]) -> None:
    """Commit the items in this order."""
    stop = asyncio.Event()
    committer = Committer(
        database, batch_limit=500, queue_limit=10_000, queue_limit_bytes=1 << 30, on_commit=lambda _end: None
    )
    task = asyncio.create_task(committer.run(stop))
    await asyncio.gather(*(committer.submit(item, deadline_s=60) for item in items))
    stop.set()
    await task


async def test_events_come_back_as_they_were_appended(database: Database) -> None:
    """Every field of an event survives the log, microseconds and missing times included."""
    items = [append(1), append(2, occurred_at=None)]
    await fill(database, items)
    assert [entry.event for entry in await EventLog(database).read(0, 10)] == [item.event for item in items]


async def test_pages_join_without_gap_or_overlap(database: Database) -> None:
    """Reading on from the last position gives each event once, in order, and nothing at the end."""
    reader = EventLog(database)
    assert (await reader.end(), await reader.read(0, 10)) == (0, [])
    items = [append(number) for number in range(25)]
    await fill(database, items)
    pages = [await reader.read(after, 10) for after in (0, 10, 20, 25)]
    assert [len(page) for page in pages] == [10, 10, 5, 0]
    assert [entry.event.id for page in pages for entry in page] == [item.event.id for item in items]
    assert await reader.end() == 25


async def test_a_read_is_bounded_in_bytes_and_never_stuck(database: Database) -> None:
    """Large events make short pages, and one that is larger than the limit comes alone."""
    await fill(database, [append(number, size=4000) for number in range(4)] + [append(9, size=50_000), append(10)])
    reader, after, sizes = EventLog(database, read_limit_bytes=10_000), 0, []
    while page := await reader.read(after, 100):
        sizes.append(len(page))
        after = page[-1].position
    assert sizes == [3, 2, 1]


async def test_reader_goes_on_from_its_own_row(database: Database) -> None:
    """A checkpoint whose event still stands at its position gives what follows; None gives everything."""
    await fill(database, [append(number) for number in range(5)])
    reader = EventLog(database)
    entries = await reader.read_from(None, 100)
    assert [entry.position for entry in entries] == [1, 2, 3, 4, 5]
    own = Checkpoint(log_id=await reader.log_id(), position=3, event_id=entries[2].event.id)
    assert [entry.position for entry in await reader.read_from(own, 1)] == [4]
    last = Checkpoint(log_id=await reader.log_id(), position=5, event_id=entries[4].event.id)
    assert await reader.read_from(last, 100) == []


async def test_reader_goes_on_behind_a_row_that_is_larger_than_a_read(database: Database) -> None:
    """The checkpoint's own row, which is read to be recognised, takes no place from what follows it."""
    await fill(database, [append(1, size=50_000), append(2, size=50_000), append(3), append(4, size=50_000)])
    reader, checkpoint, pages = EventLog(database, read_limit_bytes=10_000), None, []
    while page := await reader.read_from(checkpoint, 100):
        pages.append([entry.position for entry in page])
        assert all(entry.event.data for entry in page)
        checkpoint = Checkpoint(log_id=await reader.log_id(), position=page[-1].position, event_id=page[-1].event.id)
    assert pages == [[1], [2], [3, 4]]


@pytest.mark.parametrize("wrong", ["log", "event", "beyond", "gone"])
async def test_restored_or_foreign_log_is_never_read_past(database: Database, wrong: str) -> None:
    """A checkpoint that another log, or an older copy of this one, does not hold is an IntegrityError."""
    await fill(database, [append(number) for number in range(5)])
    reader = EventLog(database)
    third = (await reader.read(2, 1))[0]
    checkpoint = Checkpoint(
        log_id=uuid4() if wrong == "log" else await reader.log_id(),
        position=9 if wrong == "beyond" else 3,
        event_id=uuid4() if wrong == "event" else third.event.id,
    )
    if wrong == "gone":
        async with database.write() as connection:
            await connection.execute(delete(event_log).where(event_log.c.position == 3))
    with pytest.raises(IntegrityError):
        await reader.read_from(checkpoint, 10)


async def test_blanked_rows_keep_their_place(database: Database) -> None:
    """Where retention took raw and data, position and id stay, and data is empty."""
    await fill(database, [append(number) for number in range(3)])
    async with database.write() as connection:
        await connection.execute(update(event_log).where(event_log.c.position == 2).values(raw=None, data=None))
    reader = EventLog(database)
    assert [(entry.position, bool(entry.event.data)) for entry in await reader.read(0, 9)] == [
        (1, True),
        (2, False),
        (3, True),
    ]
    assert await reader.raw(2) is None
    assert await reader.raw(3) == append(2).raw
    assert await reader.raw(4) is None


async def test_ids_at_many_positions(database: Database) -> None:
    """Ids are told by position, however many are asked for; positions without a row are left out."""
    items = [append(number) for number in range(700)]
    await fill(database, items)
    found = await EventLog(database).ids_at([*range(1, 900)])
    assert found == {position: item.event.id for position, item in enumerate(items, start=1)}
    assert await EventLog(database).ids_at([]) == {}


async def test_type_of_a_newer_release_stops_the_reader(database: Database) -> None:
    """A row this release cannot understand is an IntegrityError, never skipped."""
    await fill(database, [append(1)])
    async with database.write() as connection:
        await connection.execute(update(event_log).values(type="ticket.merged"))
    with pytest.raises(IntegrityError, match="position 1"):
        await EventLog(database).read(0, 10)


async def test_log_id_is_the_same_for_every_reader(database: Database, database_url: str) -> None:
    """The identity is made once, and a second connection reads the same."""
    again = await open_log(DatabaseTarget(database_url), migrate=True)
    assert await EventLog(database).log_id() == await EventLog(again).log_id()
    await again.close()


async def test_every_pooled_connection_gives_up_locks_and_forgotten_transactions(postgres_url: str) -> None:
    """On PostgreSQL each connection of the pool waits a bounded time for a lock and loses an idle transaction."""
    database = await open_log(DatabaseTarget(postgres_url), migrate=True)
    names = ("lock_timeout", "idle_in_transaction_session_timeout")
    query = ", ".join(f"current_setting('{name}')" for name in names)
    async with AsyncExitStack() as stack:
        found = {}
        for number in range(8):  # all that the pool has, at the same time
            lend = database.write() if number % 2 else database.read()
            connection = await stack.enter_async_context(lend)
            pid, *settings = (await connection.execute(text(f"SELECT pg_backend_pid(), {query}"))).one()
            found[pid] = settings
    await database.close()
    assert list(found.values()) == [["2500ms", "10s"]] * 8
