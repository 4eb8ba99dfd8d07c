"""Retention on real databases: what is over is blanked, nothing else, and never before everybody has it."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, select, update

from servers.examples import examples
from servers.metric import counted, shown
from storage.log.test_blanking import marked, marks_in
from storage.log.test_event_log import fill
from storage.log.test_parked import fill as fill_parked
from storage.log.test_parked import park
from whatsms_events.domain.events import to_micros
from whatsms_events.domain.retention import RetentionKind, RetentionTerms
from whatsms_events.domain.seals import SEAL_ROWS
from whatsms_events.storage.database import Database, DatabaseTarget, open_log, open_projection
from whatsms_events.storage.log.blanking import BLANKING
from whatsms_events.storage.log.parked import Parked
from whatsms_events.storage.log.relay_row import RelayRows
from whatsms_events.storage.log.seals import Seals
from whatsms_events.storage.log.verify import verify
from whatsms_events.storage.projection.apply import Projection
from whatsms_events.storage.projection.parked import ParkedEvents, ReadPlace
from whatsms_events.storage.role_lock import RoleLock
from whatsms_events.storage.tables import (
    backfill_drift,
    backfill_item,
    backfill_run,
    event_log,
    parked_delivery,
    parked_event,
    projection,
)
from whatsms_events.workers.retention import BlankingPace, Retention

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
DAY = timedelta(days=1)
THIRTY = RetentionTerms({"data": 30 * DAY})


class Bench:
    """A log and a projection, and a retention whose clocks the test moves."""

    def __init__(self, log: Database, tables: Database) -> None:
        self.log, self.tables = log, tables
        self.now = NOW
        self.time = 0.0

    def retention(self, terms: RetentionTerms = THIRTY, *, prefix: str | None = None, rows: int = 4) -> Retention:
        """Return a worker as a process makes it."""
        return Retention(
            self.log,
            self.tables,
            terms,
            prefix=prefix,
            now=lambda: self.now,
            monotonic=lambda: self.time,
            pace=BlankingPace(rows=rows, size_bytes=100_000, texts=rows),
        )

    async def done(self, working: Retention) -> None:
        """Let it work until nothing is due."""
        while True:
            self.time += 3600
            if not await working.run_once():
                return

    async def append(self, *ages: float, tenant: str = "acme") -> None:
        """Append a row for each age in days, numbered on."""
        async with self.log.read() as connection:
            before = len((await connection.execute(select(event_log.c.position))).all())
        rows = [
            marked(number, tenant=tenant, received_at=self.now - age * DAY)
            for number, age in enumerate(ages, before + 1)
        ]
        await fill(self.log, rows)

    async def applied(self, through: int) -> None:
        """Let the projection be so far."""
        await Projection(self.tables).state()
        async with self.tables.write() as connection:
            await connection.execute(update(projection).values(applied_through=through))

    async def published(self, through: int, prefix: str = "whatsms") -> None:
        """Let the relay be so far."""
        rows, log_id = RelayRows(self.log), await Seals(self.log).log_id()
        claimed = await rows.claim(prefix, log_id, self.now)
        await rows.save(prefix, replace(claimed, published_through=through), self.now)

    async def kept(self) -> list[tuple[int, bool, bool]]:
        """Return of each row its position, and whether it has bytes and data."""
        table = event_log.c
        query = select(table.position, table.raw.is_not(None), table.data.is_not(None)).order_by(table.position)
        async with self.log.read() as connection:
            return [(row[0], bool(row[1]), bool(row[2])) for row in await connection.execute(query)]

    async def whole(self) -> list[int]:
        """Return the positions that have bytes."""
        return [position for position, has_raw, _ in await self.kept() if has_raw]

    async def rows(self, database: Database, table: Any) -> list[Mapping[str, Any]]:
        """Return the rows of a table."""
        async with database.read() as connection:
            return [dict(row) for row in (await connection.execute(select(table))).mappings()]


@pytest.fixture
async def bench(database_url: str, tmp_path: Path) -> AsyncIterator[Bench]:
    """Give both databases, of each kind."""
    log = await open_log(DatabaseTarget(database_url), migrate=True)
    beside = database_url if log.path is None else f"sqlite:///{tmp_path / 'projection.db'}"
    tables = await open_projection(DatabaseTarget(beside), migrate=True)
    yield Bench(log, tables)
    await tables.close()
    await log.close()


async def test_what_is_over_is_blanked_and_nothing_else(bench: Bench) -> None:
    """Rows older than their days lose bytes and data; a day later the next ones do; those of a tenant without an end,
    and of one with bytes alone, stay as they should.
    """
    await bench.append(40, 35, 31, 29.5)
    await bench.append(40, 39, tenant="for-ever")
    await bench.append(40, 2, tenant="bytes")
    await bench.applied(99)
    terms = RetentionTerms(THIRTY.default, {"for-ever": {"data": None}, "bytes": {"data": None, "raw": DAY}})
    working, before = bench.retention(terms), counted("retention_blanked", kind="data")
    await bench.done(working)
    nothing, all_of_it, data = (False, False), (True, True), (False, True)
    wanted = [nothing] * 3 + [all_of_it] * 3 + [data] * 2
    assert [(raw, data) for _, raw, data in await bench.kept()] == wanted
    assert counted("retention_blanked", kind="data") - before == 3
    assert shown("retention_oldest_timestamp_seconds", kind="data") == (NOW - 29.5 * DAY).timestamp()
    assert shown("retention_behind_seconds", kind="data") == 0
    bench.now += DAY
    await bench.done(bench.retention(terms))  # another process goes on
    assert (await bench.kept())[3] == (4, False, False)


@pytest.mark.parametrize("prefix", [None, "whatsms"])
async def test_nothing_is_blanked_that_somebody_has_not_taken(bench: Bench, prefix: str | None) -> None:
    """The projection's place is the limit, and with Kafka the relay's too; what is held up so is shown as behind."""
    await bench.append(*[40.0] * 9)
    working = bench.retention(prefix=prefix)
    await bench.done(working)
    assert len(await bench.whole()) == 9, "neither has taken anything"
    await bench.applied(6)
    await bench.published(3)
    await bench.done(working)
    assert await bench.whole() == ([7, 8, 9] if prefix is None else [4, 5, 6, 7, 8, 9])
    assert shown("retention_behind_seconds", kind="data") == 10 * 86400
    await bench.published(9)
    await bench.applied(9)
    await bench.done(working)
    assert await bench.whole() == []


async def test_a_term_that_changes_is_looked_at_from_the_beginning(bench: Bench) -> None:
    """Where a tenant had longer days, and has them no more, its older rows are found although others' were done."""
    await bench.append(40)
    await bench.append(40, tenant="zoo")
    await bench.append(35)
    await bench.applied(3)
    await bench.done(bench.retention(RetentionTerms(THIRTY.default, {"zoo": {"data": 365 * DAY}})))
    assert await bench.whole() == [2]
    await bench.done(bench.retention())
    assert await bench.whole() == []


async def test_one_process_blanks_at_a_time(bench: Bench, database_url: str) -> None:
    """While somebody else has the lock, as a copy of the log has, nothing is blanked; afterwards it is."""
    await bench.append(40)
    await bench.applied(1)
    other = await open_log(DatabaseTarget(database_url), migrate=False)  # of another process
    copying, working = RoleLock(other, BLANKING), bench.retention()
    assert await copying.take()
    assert await working.run_once() == 0
    assert (working.active, await bench.whole()) == (False, [1])
    await copying.release()
    await bench.done(working)
    assert (working.active, await bench.whole()) == (True, [])
    assert await copying.take(), "the lock is given back after each piece"
    await other.close()


async def test_it_rests_so_that_others_can_append(bench: Bench) -> None:
    """After a piece nothing is done although more is due; then the next piece is; where nothing is, a minute passes."""
    await bench.append(*[40.0] * 9)
    await bench.applied(9)
    working = bench.retention(rows=5)
    assert [await working.run_once() for _ in range(3)] == [5, 0, 0]
    bench.time += 30
    assert [await working.run_once() for _ in range(3)] == [4, 0, 0]
    bench.time += 30
    assert await working.run_once() == 0
    await bench.append(40)
    await bench.applied(10)
    bench.time += 30
    assert await working.run_once() == 0
    bench.time += 31
    assert await working.run_once() == 1
    assert await bench.whole() == []


async def test_a_steady_load_starves_nobody(bench: Bench) -> None:
    """While rows of a busy tenant fall due all the time, a quiet one's rows and what is parked go too, and spells end:
    the log shows how old the oldest row is, and each spell blanks what was due when it began.
    """
    await bench.append(40, 40, tenant="quiet")
    await bench.append(*[1 - 0.001 * number for number in range(100)], tenant="busy")
    await fill_parked(bench.log, park(1))
    async with bench.log.write() as connection:
        await connection.execute(update(parked_delivery).values(received_at=to_micros(NOW - 40 * DAY)))
    await bench.applied(102)
    terms = RetentionTerms({"data": None, "raw": DAY, "parked": 7 * DAY}, {"quiet": {"raw": 7 * DAY}})
    pace = BlankingPace(rows=4, rest=0, look_s=0)
    working = Retention(
        bench.log, bench.tables, terms, prefix=None, now=lambda: bench.now, monotonic=lambda: bench.time, pace=pace
    )
    done = []
    for _ in range(30):
        bench.now += 0.001 * DAY
        done.append(await working.run_once())
    assert 0 in done
    assert await bench.rows(bench.log, parked_delivery) == []
    whole = await bench.whole()
    assert whole[0] > 20, "the busy one's go as well"


async def test_a_long_spell_shows_how_far_it_is(bench: Bench) -> None:
    """Where more is due than ten minutes blank, the metrics say how far it is before everything is done."""
    await bench.append(*[60.0 - number for number in range(20)])
    await bench.applied(20)
    working = bench.retention()
    assert await working.run_once() == 4
    bench.time += 601
    assert await working.run_once() == 4
    assert shown("retention_oldest_timestamp_seconds", kind="data") == (NOW - 52 * DAY).timestamp()


async def test_a_rest_has_an_end(bench: Bench) -> None:
    """However long a piece held the log, as beside a door that is saturated, the next one comes after two seconds."""
    await bench.append(*[40.0] * 9)
    await bench.applied(9)
    pace = BlankingPace(rows=5, rest=1e9, rest_limit_s=2)
    working = Retention(
        bench.log, bench.tables, THIRTY, prefix=None, now=lambda: NOW, monotonic=lambda: bench.time, pace=pace
    )
    done = []
    for time in (0, 1.9, 2.1):
        bench.time = time
        done.append(await working.run_once())
    assert done == [5, 0, 4]


async def test_a_blanked_log_is_still_proven(bench: Bench) -> None:
    """`log verify` checks seals, chain and hashes of a log whose rows are blanked, and says how many are."""
    await bench.append(*[40.0] * 5, 1)
    seals = Seals(bench.log)
    await seals.add(None, 6, NOW)
    await bench.applied(6)
    await bench.done(bench.retention())
    seen = await verify(bench.log)
    assert (seen.flaw, seen.rows, seen.blanked, seen.sealed_through) == (None, 6, 5, 6)
    assert SEAL_ROWS > 6


async def test_no_file_holds_what_is_over(tmp_path: Path) -> None:
    """At the end of a spell neither the database nor anything beside it has a byte of what was blanked."""
    path = tmp_path / "log.db"
    log = await open_log(DatabaseTarget(f"sqlite:///{path}"), migrate=True)
    tables = await open_projection(DatabaseTarget(f"sqlite:///{tmp_path / 'projection.db'}"), migrate=True)
    try:
        bench = Bench(log, tables)
        await fill(log, [marked(number, received_at=NOW - 40 * DAY) for number in range(1, 200)])
        await fill(log, [marked(number, received_at=NOW - DAY) for number in range(200, 220)])
        await bench.applied(219)
        await bench.done(bench.retention(rows=50))
        assert marks_in(path) == set(range(200, 220))
    finally:
        await tables.close()
        await log.close()


async def test_by_products_go_when_their_time_is_over(bench: Bench) -> None:
    """Parked deliveries and events, runs that stand still with their items, and old drift are removed as rows; younger
    ones, runs that go on, and what the last reconcile found, stay.
    """
    await fill_parked(bench.log, *(park(number) for number in range(6)))
    old, young = to_micros(NOW - 40 * DAY), to_micros(NOW - DAY)
    run = {"kind": "reconcile", "cause": "", "options": "{}", "generation": 1, "progress": "{}"}
    item = {"entity": "ticket", "state": "seen", "due_at": 0, "log_end": 0, "rounds": 0, "messages": "none"}
    drift = {"entity": "ticket", "kind": "stale", "fields": "[]", "found_at": old}
    event = {"source": "log", "reason": "x", "detail": "", "raw": b"x", "headers": "[]"}
    async with bench.log.write() as connection:
        await connection.execute(update(parked_delivery).values(received_at=young))
        some = select(parked_delivery.c.id).limit(4).scalar_subquery()
        await connection.execute(update(parked_delivery).where(parked_delivery.c.id.in_(some)).values(received_at=old))
        runs = [("still", old, None), ("alive", young, None), ("acme", old, old), ("acme", old, old)]
        for number, (tenant, moved, finished) in enumerate(runs, 1):
            values = run | {"tenant": tenant, "started_at": old, "updated_at": moved, "finished_at": finished}
            await connection.execute(insert(backfill_run).values(run=number, **values))
            await connection.execute(
                insert(backfill_item), [item | {"run": number, "id": f"{one}"} for one in range(600)]
            )
            await connection.execute(
                insert(backfill_drift), [drift | {"run": number, "id": f"{one}"} for one in range(3)]
            )
    async with bench.tables.write() as connection:
        rows = [event | {"at": at, "parked_at": old if at < 3 else young, "tenant": None} for at in range(5)]
        await connection.execute(insert(parked_event), rows)
    await bench.applied(0)
    kinds: tuple[RetentionKind, ...] = ("parked", "items", "drift")
    await bench.done(bench.retention(RetentionTerms(dict.fromkeys(kinds, 30 * DAY))))
    assert len(await bench.rows(bench.log, parked_delivery)) == 2
    assert [row["at"] for row in await bench.rows(bench.tables, parked_event)] == [3, 4]
    assert sorted(row["run"] for row in await bench.rows(bench.log, backfill_run)) == [2, 3, 4]
    assert {row["run"] for row in await bench.rows(bench.log, backfill_item)} == {2, 3, 4}, "sweeps take finished ones"
    assert sorted({row["run"] for row in await bench.rows(bench.log, backfill_drift)}) == [2, 4]
    assert shown("retention_oldest_timestamp_seconds", kind="parked") == (NOW - DAY).timestamp()


async def test_what_was_discarded_goes_by_its_own_time(bench: Bench) -> None:
    """What was discarded longer ago than its term goes, whenever it came; what is parked, and what was discarded since,
    stays.
    """
    await fill_parked(bench.log, *(park(number) for number in range(3)))
    parked, events = Parked(bench.log), ParkedEvents(bench.tables)
    event = {"source": "log", "reason": "x", "detail": "", "raw": b"x", "headers": "[]", "parked_at": to_micros(NOW)}
    async with bench.tables.write() as connection:
        await connection.execute(insert(parked_event), [event | {"at": at} for at in range(3)])
    for number, ago in ((0, 8 * DAY), (1, DAY)):
        assert await parked.discard(park(number).id, NOW - ago)
        assert await events.discard(ReadPlace("log", number), NOW - ago)
    await bench.applied(0)
    await bench.done(bench.retention(RetentionTerms({"discarded": 7 * DAY})))
    kept = {row["id"] for row in await bench.rows(bench.log, parked_delivery)}
    assert kept == {park(1).id, park(2).id}
    assert {row["at"] for row in await bench.rows(bench.tables, parked_event)} == {1, 2}
    assert shown("retention_oldest_timestamp_seconds", kind="discarded") == (NOW - DAY).timestamp()


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happens: rows come, somebody gets further, or time passes; then retention works."""

    ages: tuple[int, ...] = ()
    applied: int = 0
    published: int = 0
    days: int = 0


STEPS = st.lists(
    st.builds(
        Step,
        ages=st.lists(st.integers(-3, 50), max_size=5).map(tuple),
        applied=st.integers(0, 8),
        published=st.integers(0, 8),
        days=st.integers(0, 20),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=examples(15))
@given(STEPS)
@pytest.mark.slow
def test_whatever_happens_in_between_nothing_goes_too_early(steps: list[Step]) -> None:
    """Rows that come in any order, relay and projection at any pace, and time: no row is blanked that is younger than
    its days or that one of the two has not taken; and in the end, when all is over and taken, none is left.
    """

    async def lived(bench: Bench) -> None:
        working, applied, published = bench.retention(prefix="whatsms"), 0, 0
        came: dict[int, datetime] = {}
        for step in [*steps, Step(applied=99, published=99, days=100)]:
            bench.now += step.days * DAY
            await bench.append(*step.ages)
            came |= {number: bench.now - age * DAY for number, age in enumerate(step.ages, len(came) + 1)}
            applied, published = min(applied + step.applied, len(came)), min(published + step.published, len(came))
            await bench.applied(applied)
            await bench.published(published)
            whole = set(await bench.whole())
            await bench.done(working)
            gone = whole - set(await bench.whole())
            assert all(one <= min(applied, published) for one in gone)
            assert all(came[one] <= bench.now - 30 * DAY for one in gone)
        assert await bench.whole() == []

    async def on_files(folder: Path) -> None:
        log = await open_log(DatabaseTarget(f"sqlite:///{folder / 'log.db'}"), migrate=True)
        tables = await open_projection(DatabaseTarget(f"sqlite:///{folder / 'projection.db'}"), migrate=True)
        try:
            await lived(Bench(log, tables))
        finally:
            await tables.close()
            await log.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(on_files(Path(folder)))
