"""Reading ahead while a batch is saved changes nothing but the time that it takes."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.histories import HISTORY, History, numbered
from servers.examples import examples
from storage.projection.test_hot import PICTURES, empty, item, tables_of, ticket
from whatsms_events.errors import BrokerUnavailableError, InvalidEventError, StorageUnavailableError, TransientError
from whatsms_events.storage import tables
from whatsms_events.storage.database import Database, DatabaseTarget, open_projection
from whatsms_events.storage.projection.apply import Projection, ProjectionState, ReadItem
from whatsms_events.storage.projection.hot import HotRows
from whatsms_events.storage.role_lock import RoleLock
from whatsms_events.workers.consumer import NEAR_LIMIT, Consumer
from whatsms_events.workers.sources import Reading

Batches = Sequence[Sequence[ReadItem]]


class Listed:
    """A source that gives batches from a list; `applied_through` of a state counts those that were applied.

    The readings whose numbers, from 1, are in `failing` raise an error, and as with Kafka the place where it reads on
    is its own: it is moved by each reading, and set by `open` alone.
    """

    def __init__(self, batches: Batches, failing: Sequence[int] = ()) -> None:
        self._batches = batches
        self._failing = failing
        self._place: int | None = None
        self.readings = 0
        self.limits: list[int] = []

    async def open(self, state: ProjectionState) -> None:
        """Read on behind the state."""
        self._place = state.applied_through

    async def close(self) -> None:
        """Read no more until opened."""
        self._place = None

    async def read(self, state: ProjectionState, limit: int) -> Reading:
        """Return the next batch, whatever the limit."""
        self.limits.append(limit)
        place = self._place
        assert place is not None, "it is not open"
        assert place == state.applied_through, "a reading was lost"
        self.readings += 1
        if place >= len(self._batches):
            return Reading([], state)
        self._place = place + 1
        if self.readings in self._failing:
            raise BrokerUnavailableError("away")
        return Reading(self._batches[place], replace(state, applied_through=place + 1))


@contextmanager
def failing(database: Database, outcomes: Iterator[str | None]) -> Iterator[None]:
    """Let each transaction that writes succeed (None), fail ("before"), or commit without an answer ("after")."""
    usual = database.write

    @asynccontextmanager
    async def write() -> AsyncIterator[AsyncConnection]:
        outcome = next(outcomes, None)
        async with usual() as connection:
            yield connection
            if outcome == "before":
                raise StorageUnavailableError("away")
        if outcome == "after":
            raise StorageUnavailableError("no answer")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(database, "write", write)
        yield


AHEAD, PLAIN = 1, 1_000_000
"""Limits of a batch with which a consumer always reads ahead, and never."""


def consumer_of(
    database: Database, source: Listed, limit: int = AHEAD, rows: int = 1000, near: int = NEAR_LIMIT
) -> Consumer:
    """Return a consumer of the listed batches."""
    projection = Projection(database, hot=HotRows(rows=rows))
    return Consumer(projection, source, RoleLock(database, "consumer"), batch_limit=limit, near_limit=near)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """Give an empty projection."""
    opened = await open_projection(DatabaseTarget(url=f"sqlite:///{tmp_path / 'projection.db'}"), migrate=True)
    await Projection(opened).state()  # its row is there
    yield opened
    await opened.close()


async def through(database: Database) -> int:
    """Return how many batches are applied."""
    return (await Projection(database).state()).applied_through


@pytest.mark.parametrize("limit", [AHEAD, PLAIN])
async def test_a_batch_that_is_read_ahead_sees_what_the_one_before_it_saved(database: Database, limit: int) -> None:
    """A picture's first content comes late, while its URL is being saved: the URL stays."""
    consumer = consumer_of(database, Listed(PICTURES), limit)
    while await consumer.run_once():
        pass
    async with database.read() as connection:
        urls = (await connection.execute(select(tables.message.c.media_url).where(tables.message.c.id == "m1"))).all()
    assert urls == [("B",)]
    await consumer.close()


async def test_the_next_batch_is_read_before_the_last_one_is_reported(database: Database) -> None:
    """Far behind it reads ahead by one batch, near the end by none."""
    batches = [[ticket(1, "a")], [ticket(2, "b")], [ticket(3, "c")]]
    source = Listed(batches)
    consumer = consumer_of(database, source)
    assert [await consumer.run_once(), source.readings, await through(database)] == [1, 2, 1]
    await consumer.close()
    source = Listed(batches)
    consumer = consumer_of(database, source, PLAIN)
    assert [await consumer.run_once(), source.readings, await through(database)] == [1, 1, 2]
    await consumer.close()


async def test_an_error_of_the_reading_waits_until_the_batch_before_it_is_saved(database: Database) -> None:
    """That batch counts as applied and the role stays active; then the error is raised, and the reading repeated."""
    consumer = consumer_of(database, Listed([[ticket(1, "a")], [ticket(2, "b")]], failing=[2]))
    assert await consumer.run_once() == 1
    assert (consumer.active, await through(database)) == (True, 1)
    with pytest.raises(BrokerUnavailableError):
        await consumer.run_once()
    assert not consumer.active
    assert await consumer.run_once() == 1
    assert await through(database) == 2
    await consumer.close()


@pytest.mark.parametrize("outcome", ["before", "after"])
async def test_a_save_that_fails_drops_what_was_read_on_top_of_it(database: Database, outcome: str) -> None:
    """Both batches are read again from what is saved, and the error of the save is the one that is raised."""
    source = Listed([[ticket(1, "a")], [ticket(2, "b")]], failing=[2])
    consumer = consumer_of(database, source)
    with failing(database, iter([outcome])), pytest.raises(StorageUnavailableError):
        await consumer.run_once()
    assert await through(database) == (1 if outcome == "after" else 0)
    while await consumer.run_once():
        pass
    assert await through(database) == 2
    await consumer.close()


async def test_a_refused_event_leaves_the_role_active(database: Database) -> None:
    """What is parked is no failure of the batch, and a batch of poison alone is one that was applied."""
    poison = ReadItem(source="t/0", at=7, raw=b"", headers=(), read=InvalidEventError("record", "ce_id"))
    consumer = consumer_of(database, Listed([[ticket(1, "a")], [poison], [ticket(3, "c")]]))
    for _ in range(3):
        assert await consumer.run_once() == 1
        assert consumer.active
    assert await consumer.run_once() == 0
    assert consumer.active
    await consumer.close()


async def test_batches_grow_while_it_is_far_behind_and_are_small_near_the_end(database: Database) -> None:
    """The limit doubles with each full batch up to the setting, and is the small one again after any other, or after
    a failure.
    """
    sizes = [2, 4, 1, 2, 1, 1]
    batches: list[Sequence[ReadItem]] = []
    for size in sizes:
        batches.append([ticket(len(batches) * 10 + number, "open") for number in range(1, size + 1)])
    source = Listed(batches)
    consumer = consumer_of(database, source, limit=6, near=2)
    assert [await consumer.run_once() for _ in range(3)] == sizes[:3]
    assert source.limits == [2, 4, 6]
    assert await consumer.run_once() == 2
    assert source.limits == [2, 4, 6, 2, 4]
    with failing(database, iter(["before"])), pytest.raises(StorageUnavailableError):
        await consumer.run_once()
    assert await consumer.run_once() == 1
    assert source.limits[5:] == [2, 2]
    await consumer.close()


OUTCOMES = st.lists(st.sampled_from([None, None, "before", "after"]), max_size=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder for the file of all examples."""
    return tmp_path_factory.mktemp("law")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(40))
@given(
    history=HISTORY,
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    outcomes=OUTCOMES,
    unread=st.lists(st.integers(1, 8), max_size=3),
    rows=st.sampled_from([0, 2, 1000]),
    again=st.booleans(),
)
async def test_the_same_log_gives_the_same_tables_with_and_without_reading_ahead(
    folder: Path,
    *,
    history: History,
    sizes: Sequence[int],
    outcomes: Sequence[str | None],
    unread: Sequence[int],
    rows: int,
    again: bool,
) -> None:
    """To the byte: whatever the batches were, what stayed in memory, what failed, and what was read twice."""
    database = await open_projection(DatabaseTarget(url=f"sqlite:///{folder / 'projection.db'}"), migrate=True)
    items = [item(one) for one in numbered(history)]
    await empty(database)
    plain = Projection(database, hot=HotRows(rows=0))
    await plain.apply(items, await plain.state(), await plain.state())
    wanted = await tables_of(database)
    await empty(database)
    await Projection(database).state()
    batches: list[Sequence[ReadItem]] = []
    start = 0
    while start < len(items):
        size = sizes[len(batches) % len(sizes)]
        batches.append(items[max(0, start - again) : start + size])  # the last one once more, as after a rebalance
        start += size
    consumer = consumer_of(database, Listed(batches, unread), AHEAD, rows)
    with failing(database, iter(outcomes)):
        while await through(database) < len(batches):
            try:
                await consumer.run_once()
            except TransientError:
                assert not consumer.active
    await consumer.close()
    assert await tables_of(database) == wanted
    await database.close()
