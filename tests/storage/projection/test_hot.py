"""Rows that stay in memory between batches are just those of the database, and never more than they may be."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.histories import HISTORY, History
from domain.histories import entry as happened
from servers.examples import examples
from whatsms_events.domain.events import EventType, LogEntry, Message, MessagePayload, Ticket, TicketPayload
from whatsms_events.domain.rows import COLUMNS, Key, Row
from whatsms_events.errors import FencedError, StorageUnavailableError, UnstorableError
from whatsms_events.storage import tables
from whatsms_events.storage.database import Database, DatabaseTarget, open_projection
from whatsms_events.storage.projection.apply import Projection, ProjectionState, ReadItem
from whatsms_events.storage.projection.hot import ROW_BYTES, SHORT, HotRows
from whatsms_events.storage.projection.rows import ALIKE

TABLES = (*(tables.projection_metadata.tables[name] for name in COLUMNS), tables.projection, tables.parked_event)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """Give an empty projection on each kind of database."""
    opened = await open_projection(DatabaseTarget(url=database_url), migrate=True)
    yield opened
    await opened.close()


def item(one: LogEntry) -> ReadItem:
    """Return the entry as the log gives it."""
    return ReadItem(source="log", at=one.position, raw=one.event.data, headers=(), read=one)


async def tables_of(database: Database) -> dict[str, list[tuple[object, ...]]]:
    """Return the entities as they lie in the database, in order."""
    async with database.read() as connection:
        return {
            table.name: [
                tuple(row) for row in await connection.execute(select(table).order_by(*table.primary_key.columns))
            ]
            for table in TABLES[: len(COLUMNS)]
        }


async def empty(database: Database) -> None:
    """Take everything away."""
    async with database.write() as connection:
        for table in TABLES:
            await connection.execute(delete(table))


@contextmanager
def unanswered(database: Database) -> Iterator[None]:
    """Let each commit reach the database, and its answer not reach us."""
    usual = database.write

    @asynccontextmanager
    async def write() -> AsyncIterator[AsyncConnection]:
        async with usual() as connection:
            yield connection
        raise StorageUnavailableError("no answer")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(database, "write", write)
        yield


def row(text: str = "") -> Row:
    """Return a row with a text."""
    return Row(known=True, values={"body": text, "media_url": None, "ack": None}, versions={})


def key(number: int) -> Key:
    """Return the key of a message."""
    return Key("message", "t1", f"m{number}")


def test_rows_are_those_of_one_generation() -> None:
    """Asked at the generation that they were kept for they are all there; at any other one none is, from then on."""
    hot = HotRows()
    assert hot.at(0) == {}
    hot.keep({key(1): row("a")}, 1)
    assert hot.at(1) == {key(1): row("a")}
    hot.keep({key(2): row("b")}, 2)
    assert hot.at(2) == {key(1): row("a"), key(2): row("b")}
    hot.keep({key(3): row("c")}, 4)  # nobody asked at 3: what another transaction wrote there is not known
    assert hot.at(4) == {key(3): row("c")}
    assert hot.at(7) == {}
    assert hot.at(4) == {}


def test_the_rows_used_last_stay_within_both_limits() -> None:
    """By number and by size, also where one row alone is too large."""
    hot = HotRows(rows=3)
    for number in range(1, 5):
        hot.keep({key(number): row(), key(1): row()}, number)
    assert list(hot.at(4)) == [key(3), key(4), key(1)]
    hot = HotRows(size_bytes=3 * ROW_BYTES)
    hot.keep({key(1): row("a" * ROW_BYTES)}, 1)
    hot.keep({key(2): row()}, 2)
    assert len(hot.at(2)) == 2
    hot.keep({key(1): row("b" * (SHORT + 1))}, 3)
    hot.keep({key(3): row()}, 4)
    assert list(hot.at(4)) == [key(1), key(3)], (
        "the text that a row no longer has still counted, or its new one did not"
    )
    hot.keep({key(4): row("c" * 3 * ROW_BYTES)}, 5)
    assert len(hot.at(5)) == 0


def picture(position: int, seconds: float, name: str = "m1", **fields: object) -> ReadItem:
    """Return an event about a picture with an empty body."""
    shown = Message(id=name, **{"body": "", "media_type": "image", **fields})  # type: ignore[arg-type]
    return item(happened(position, EventType.MESSAGE_RECEIVED, MessagePayload(message=shown), seconds, received=300))


PICTURES = (
    (picture(1, 100),),
    (picture(2, 200, media_url="B"), picture(3, 300, deleted=True), picture(4, 300, "m2")),
    (picture(5, 60),),
)
"""The first content of m1 comes late, after its URL was told, and other rows of the same wordings are asked for."""


@pytest.mark.parametrize("size", [0, 1, 2, 100])
async def test_a_row_that_is_held_is_never_replaced_by_an_older_one(database: Database, size: int) -> None:
    """A question that brings more rows than asked for changes none of those that are held."""
    projection = Projection(database, hot=HotRows(rows=size))
    state = await projection.state()
    for batch in PICTURES:
        state = (await projection.apply(batch, state, state)).state
    async with database.read() as connection:
        urls = (await connection.execute(select(tables.message.c.media_url).where(tables.message.c.id == "m1"))).all()
        told = (await connection.execute(select(tables.message_revision.c.media_url))).scalars().all()
    assert urls == [("B",)]
    assert sorted(told, key=str) == ["B", None, None]


def ticket(position: int, status: str) -> ReadItem:
    """Return an event that changes a ticket."""
    payload = TicketPayload(ticket=Ticket(id="k1", status=status))
    return item(happened(position, EventType.TICKET_UPDATED, payload, position))


async def status(database: Database) -> list[str]:
    """Return the status of each ticket."""
    async with database.read() as connection:
        return list((await connection.execute(select(tables.ticket.c.status))).scalars())


async def test_a_lost_generation_drops_the_rows_before_anything_is_folded(database: Database) -> None:
    """Another consumer wrote meanwhile: ours goes on from its rows."""
    ours, theirs = Projection(database), Projection(database)
    state = (await ours.apply([ticket(1, "open")], await ours.state(), await ours.state())).state
    await theirs.apply([ticket(9, "closed")], state, state)
    with pytest.raises(FencedError):
        await ours.apply([ticket(2, "pending")], state, state)
    state = await ours.state()
    await ours.apply([ticket(2, "pending")], state, state)
    assert await status(database) == ["closed"]


async def test_another_generation_than_the_last_one_drops_the_rows(database: Database) -> None:
    """Where the state was read anew at another generation, no failure has to come first."""
    ours, theirs = Projection(database), Projection(database)
    state = (await ours.apply([ticket(1, "open")], await ours.state(), await ours.state())).state
    state = (await theirs.apply([ticket(9, "closed")], state, state)).state
    await ours.apply([ticket(2, "pending")], state, state)
    assert await status(database) == ["closed"]


async def test_a_transaction_that_fails_leaves_no_row_in_memory(database: Database) -> None:
    """What it would have saved is not there, and what was held before is asked for again."""
    hot = HotRows()
    projection = Projection(database, hot=hot)
    state = await projection.state()
    state = (await projection.apply([ticket(1, "open")], state, state)).state
    assert len(hot) == 1
    with pytest.raises(UnstorableError):
        await projection.apply([ticket(9, "closed")], state, replace(state, applied_through=1 << 70))
    assert len(hot) == 0
    await projection.apply([ticket(2, "pending")], state, state)
    assert await status(database) == ["pending"]


async def test_a_commit_without_an_answer_leaves_no_row_in_memory(database: Database) -> None:
    """Nobody knows whether it is saved: all is asked anew."""
    hot = HotRows()
    projection = Projection(database, hot=hot)
    state = await projection.state()
    with unanswered(database), pytest.raises(StorageUnavailableError):
        await projection.apply([ticket(9, "closed")], state, state)
    assert len(hot) == 0
    state = await projection.state()
    await projection.apply([ticket(2, "pending")], state, state)
    assert await status(database) == ["closed"]


FAULT = st.sampled_from([None, None, None, "lost", "failed", "unanswered"])
BATCHES = st.lists(st.tuples(st.integers(1, 5), FAULT), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder for the file of all examples."""
    return tmp_path_factory.mktemp("law")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(40))
@given(history=HISTORY, batches=BATCHES, rows=st.sampled_from([0, 1, 3, 1000]), tenants=st.sampled_from([1, ALIKE]))
async def test_the_same_log_gives_the_same_tables_whatever_stays_in_memory(
    folder: Path, history: History, batches: Sequence[tuple[int, str | None]], rows: int, tenants: int
) -> None:
    """To the byte: with and without rows in memory, in batches of any size, with failures between them.

    Where the same happens to many tenants at once, only what differs of their rows is written.
    """
    database = await open_projection(DatabaseTarget(url=f"sqlite:///{folder / 'projection.db'}"), migrate=True)
    items = [
        item(happened(number, kind, payload, seconds, received=received, tenant=f"t{tenant}"))
        for number, (kind, payload, seconds, received) in enumerate(history, 1)
        for tenant in range(tenants)
    ]
    await empty(database)
    plain = Projection(database, hot=HotRows(rows=0))
    state = await plain.state()
    await plain.apply(items, state, state)
    wanted = await tables_of(database)
    await empty(database)
    projection, start, turn = Projection(database, hot=HotRows(rows=rows)), 0, 0
    state = await projection.state()
    while start < len(items):
        events, fault = batches[turn % len(batches)]
        size = events * tenants
        if fault is not None and turn < 3 * len(batches):
            await fail(database, projection, items[start : start + size], state, fault)
            state = await projection.state()
        state = (await projection.apply(items[start : start + size], state, state)).state
        start, turn = start + size, turn + 1
    assert await tables_of(database) == wanted
    await database.close()


async def fail(
    database: Database, projection: Projection, batch: Sequence[ReadItem], state: ProjectionState, fault: str
) -> None:
    """Apply the batch in vain: the generation is lost, the save fails, or nobody answers the commit."""
    if fault == "lost":
        await Projection(database).apply(batch[:1], state, state)
        with pytest.raises(FencedError):
            await projection.apply(batch, state, state)
    elif fault == "failed":
        with pytest.raises(UnstorableError):
            await projection.apply(batch, state, replace(state, applied_through=1 << 70))
    else:
        with unanswered(database), pytest.raises(StorageUnavailableError):
            await projection.apply(batch, state, state)
