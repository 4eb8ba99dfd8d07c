"""A backfill's progress on both databases: what was saved is there after a crash, and only one process goes on."""

import asyncio
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from servers.noted import noted
from whatsms_events.domain.drift import Finding
from whatsms_events.domain.events import Entity
from whatsms_events.domain.repair import State
from whatsms_events.errors import FencedError, UnstorableError
from whatsms_events.storage import tables
from whatsms_events.storage.database import CHUNK, Database, DatabaseTarget, open_log
from whatsms_events.storage.repair.looks import KEPT, Doubt, Look, Subject, load
from whatsms_events.storage.repair.reports import Options, Run
from whatsms_events.storage.repair.runs import RUNS_KEPT, Checkpoints, Item

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
OPTIONS = Options(details="changed", messages="narrow")
STATES: tuple[State, ...] = ("listed", "wanted", "read", "found", "absent", "done")


def at(seconds: float) -> datetime:
    """Return a moment so much later."""
    return NOW + timedelta(seconds=seconds)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """Give a migrated log on each kind of database."""
    found = await open_log(DatabaseTarget(database_url), migrate=True)
    yield found
    await found.close()


@pytest.fixture
def checkpoints(database: Database) -> Checkpoints:
    """Give the checkpoints in it."""
    return Checkpoints(database)


async def begin(checkpoints: Checkpoints, tenant: str = "t1") -> Run:
    """Begin a reconcile, or take it up."""
    return await checkpoints.begin(tenant, "reconcile", "command", OPTIONS, NOW)


def item(number: int, *, entity: Entity = "ticket", state: State = "listed", due: float = 0) -> Item:
    """Return one as a list shows it."""
    return Item(
        entity=entity,
        id=f"k{number:05}",
        state=state,
        due_at=at(due),
        as_of=NOW,
        log_end=7,
        payload=b"\x00shown",
    )


async def looks(database: Database, tenant: str, subject: Subject, ids: Sequence[str]) -> dict[str, Look]:
    """Return how those of the subjects were looked at that ever were."""
    async with database.read() as connection:
        return await load(connection, tenant, subject, ids)


async def test_a_run_that_is_stopped_is_over_for_whoever_has_it(checkpoints: Checkpoints) -> None:
    """Stopping ends the tenant's run and no other's, fences the process that has it, keeps its progress, and counts
    neither as a whole reconcile nor as one to go on with; with none under way, or another one than was named, it does
    nothing.
    """
    assert await checkpoints.stop("t1", "ops", NOW) is None
    whole = await begin(checkpoints)
    await checkpoints.finish(whole, b"{}", NOW)
    run, other = await begin(checkpoints), await begin(checkpoints, "t2")
    await checkpoints.save(run, b'{"requests":7}', now=NOW, items=[item(1)])
    assert await checkpoints.stop("t1", "ops", at(5)) == run.number
    with pytest.raises(FencedError):
        await checkpoints.save(run, b"{}", now=at(6))
    await checkpoints.save(other, b"{}", now=at(6))
    last = await checkpoints.last("t1")
    assert last is not None
    assert (last.finished_at, last.stopped_by, last.report, last.run.progress) == (
        at(5),
        "ops",
        None,
        b'{"requests":7}',
    )
    (overview,) = [one for one in await checkpoints.overview() if one.tenant == "t1"]
    assert (overview.running, overview.finished_at) == (None, NOW)
    assert await checkpoints.sweep() == 1
    assert (await begin(checkpoints)).number != run.number
    assert await checkpoints.stop("t2", "ops", NOW, run=run.number) is None
    await checkpoints.save(other, b"{}", now=at(7))
    assert await checkpoints.stop("t2", "ops", NOW, run=other.number) == other.number


def doubt(number: int, position: int = 5) -> Doubt:
    """Return a ticket to be looked at as it stands at a position."""
    return Doubt("ticket", f"k{number:05}", position)


async def everything(checkpoints: Checkpoints, run: Run) -> dict[str, Item]:
    """Return every item by id."""
    found = await checkpoints.due(run, STATES, at(1e9), CHUNK)
    return {one.id: one for one in found}


async def rows_of(database: Database) -> dict[str, int]:
    """Count what each table of the backfill holds."""
    named = [table for name, table in tables.log_metadata.tables.items() if name.startswith("backfill_")]
    async with database.read() as connection:
        return {
            table.name: (await connection.execute(select(func.count()).select_from(table))).scalar_one()
            for table in named
        }


async def test_a_run_goes_on_where_it_was_after_a_crash(database_url: str) -> None:
    """Reopened after the process died, the run has its progress and its items, an observation's bytes to the last."""
    found = replace(
        item(2, state="found", due=-5),
        raw=b'{"a":"\xc3\xa9"}\n\x00',
        found=b'{"id":1}',
        rounds=3,
        messages="wanted",
        ticket_id="k9",
    )
    first = await open_log(DatabaseTarget(database_url), migrate=True)
    before = await begin(Checkpoints(first))
    assert (before.generation, before.resumed, before.progress, before.options) == (1, False, b"{}", OPTIONS)
    assert await Checkpoints(first).list_items(before, [item(1), item(2), item(3)], b'{"page":2}', now=at(1)) == 3
    await Checkpoints(first).save(before, '{"page":3,"name":"ß"}'.encode(), now=at(2), items=[found])
    await first.close()
    second = await open_log(DatabaseTarget(database_url), migrate=False)
    again = Checkpoints(second)
    # Whatever is asked for now, the unfinished run comes first.
    after = await again.begin("t1", "repair", "schedule", Options(), at(100))
    assert after == replace(before, generation=2, progress='{"page":3,"name":"ß"}'.encode())
    assert after.resumed
    assert await everything(again, after) == {"k00001": item(1), "k00002": found, "k00003": item(3)}
    assert await again.due(after, ("found",), at(100), 10) == [found]
    await second.close()


KILLED = """
import asyncio, sys
from datetime import UTC, datetime
from whatsms_events.storage.database import DatabaseTarget, open_log
from whatsms_events.storage.repair.reports import Options
from whatsms_events.storage.repair.runs import Checkpoints, Item

async def main():
    now = datetime.now(UTC)
    checkpoints = Checkpoints(await open_log(DatabaseTarget(sys.argv[1]), migrate=False))
    run = await checkpoints.begin("t1", "reconcile", "command", Options(), now)
    number = int(run.progress) if run.resumed else 0
    while True:
        number += 1
        items = [Item("ticket", f"{number}-{one}", "done", now, None, 0) for one in range(5)]
        await checkpoints.save(run, str(number).encode(), now=now, items=items)
        if number % 10 == 0:
            print(number, flush=True)

asyncio.run(main())
"""


@pytest.mark.process
async def test_kill_9_leaves_progress_and_items_that_agree(database_url: str) -> None:
    """Killed again and again in mid-save, a run has exactly the items of the progress it shows, and that only grows."""
    database = await open_log(DatabaseTarget(database_url), migrate=True)
    last = 0
    for _ in range(3):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", KILLED, database_url, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        printed = int(await process.stdout.readline())
        process.kill()
        await process.communicate()
        info = await Checkpoints(database).last("t1")
        assert info is not None
        reached = int(info.run.progress)
        assert reached >= printed > last
        assert await Checkpoints(database).count(info.run) == {("ticket", "done"): 5 * reached}
        last = reached
    await database.close()


async def test_a_process_that_froze_writes_nothing_any_more(database: Database, checkpoints: Checkpoints) -> None:
    """After another process took the run up, every writing verb of the older one is fenced and leaves no trace."""
    older = await begin(checkpoints)
    await checkpoints.list_items(older, [item(1)], b'{"by":"older"}', now=NOW)
    newer = await begin(checkpoints)
    counted, held = await rows_of(database), await everything(checkpoints, newer)
    finding = Finding(entity="ticket", id="k1", kind="stale", fields=("status",), age_s=1.0)
    changed = item(1, state="done")
    verbs: list[Callable[[], Awaitable[object]]] = [
        lambda: checkpoints.save(older, b"1", now=at(9), items=[changed, item(2)], drift=[finding], looks=[doubt(1)]),
        lambda: checkpoints.list_items(older, [replace(item(1), log_end=99), item(2)], b"1", now=at(9)),
        lambda: checkpoints.finish(older, b"{}", at(9)),
    ]
    for verb in verbs:
        with pytest.raises(FencedError, match="backfill run 1"):
            await verb()
        assert await rows_of(database) == counted
        assert await everything(checkpoints, newer) == held
    info = await checkpoints.last("t1")
    assert info is not None
    assert (info.run.progress, info.updated_at, info.finished_at) == (b'{"by":"older"}', NOW, None)
    await checkpoints.save(newer, b"2", now=at(9), items=[changed], drift=[finding])


async def test_a_finished_run_is_over_for_its_own_process_too(checkpoints: Checkpoints) -> None:
    """Nothing is saved into a finished run, and the next one has another number."""
    run = await begin(checkpoints)
    await checkpoints.finish(run, b"{}", at(1))
    with pytest.raises(FencedError):
        await checkpoints.save(run, b"1", now=at(2), items=[item(1)])
    following = await begin(checkpoints)
    assert following.number > run.number
    assert not following.resumed
    assert await checkpoints.count(following) == Counter()


async def test_processes_that_begin_at_once_share_one_run(database_url: str, database: Database) -> None:
    """Of eight that begin at the same moment one makes the run, each has a generation of its own, the last may save."""
    others = [await open_log(DatabaseTarget(database_url), migrate=False) for _ in range(3)]
    doors = [Checkpoints(one) for one in (database, *others)]
    runs = await asyncio.gather(*(begin(door) for door in doors * 2))
    assert len({run.number for run in runs}) == 1
    assert sorted(run.generation for run in runs) == list(range(1, 9))
    for run in sorted(runs, key=lambda run: run.generation)[:-1]:
        with pytest.raises(FencedError):
            await doors[0].save(run, b"1", now=NOW)
    await doors[0].save(max(runs, key=lambda run: run.generation), b"1", now=NOW)
    assert len(await doors[0].runs("t1", 10)) == 1
    for one in others:
        await one.close()


async def test_tenants_have_a_run_each(database: Database, checkpoints: Checkpoints) -> None:
    """Two tenants' runs go on beside each other, with items and looks of their own."""
    mine, theirs = await begin(checkpoints), await begin(checkpoints, "t2")
    assert mine.number != theirs.number
    await checkpoints.save(mine, b"1", now=NOW, items=[item(1)], looks=[doubt(1)])
    assert await checkpoints.list_items(theirs, [item(1), item(2)], b"1", now=NOW) == 2
    assert await checkpoints.count(mine) == {("ticket", "listed"): 1}
    assert await looks(database, "t2", "ticket", ["k00001"]) == {}
    await checkpoints.finish(mine, b"{}", NOW)
    assert await checkpoints.count(theirs) == {("ticket", "listed"): 2}


async def test_a_page_refreshes_only_what_waits_to_be_compared(checkpoints: Checkpoints) -> None:
    """Shown again, an item that is still listed has the newer view; one that went on stays; new ones are counted."""
    run = await begin(checkpoints)
    await checkpoints.list_items(run, [item(1), item(2)], b"1", now=NOW)
    read = replace(item(2, state="read", due=4), payload=b"detail")
    await checkpoints.save(run, b"2", now=NOW, items=[read])
    newer = [replace(item(number, due=60), payload=b"newer", as_of=at(50), log_end=90) for number in (1, 2, 3)]
    other = item(1, entity="contact")
    assert await checkpoints.list_items(run, [*newer, newer[2], other], b"3", now=at(51)) == 2
    found = await checkpoints.due(run, STATES, at(100), 10)
    assert found == [other, read, newer[0], newer[2]]
    assert await checkpoints.list_items(run, newer, b"3", now=at(52)) == 0
    assert await checkpoints.list_items(run, [], b"4", now=at(53)) == 0


async def test_a_page_that_shows_what_was_missing_takes_its_place(checkpoints: Checkpoints) -> None:
    """What no list showed waits for nothing but the run's end, and a list that shows it after all makes it listed."""
    run = await begin(checkpoints)
    await checkpoints.save(run, b"1", now=NOW, items=[item(1, state="missing"), item(2, state="missing")])
    assert await checkpoints.next_due(run) is None
    assert await checkpoints.list_items(run, [item(1, due=5), item(3, due=9)], b"2", now=NOW) == 1
    assert await checkpoints.count(run) == {("ticket", "listed"): 2, ("ticket", "missing"): 1}
    assert await checkpoints.next_due(run) == at(5)


async def test_a_page_with_an_item_the_database_refuses_is_refused_whole(checkpoints: Checkpoints) -> None:
    """Progress does not move past items that were not saved."""
    run = await begin(checkpoints)
    odd = replace(item(2), log_end=2**70)
    with pytest.raises(UnstorableError):
        await checkpoints.list_items(run, [item(1), odd], b'{"page":2}', now=NOW)
    assert await checkpoints.count(run) == Counter()
    assert (await begin(checkpoints)).progress == b"{}"


async def test_what_is_due_comes_in_the_order_it_became_due(checkpoints: Checkpoints) -> None:
    """Items of the wanted states whose time has come, longest due first, at most as many as asked for."""
    run = await begin(checkpoints)
    items = [item(number, state=STATES[number % 6], due=-number) for number in range(24)]
    later = item(99, state="read", due=30)
    await checkpoints.save(run, b"1", now=NOW, items=[*items, later])
    wanted = [one for one in reversed(items) if one.state in ("read", "listed")]
    assert await checkpoints.due(run, ("listed", "read"), NOW, 100) == wanted
    assert await checkpoints.due(run, ("listed", "read"), NOW, 3) == wanted[:3]
    assert await checkpoints.due(run, ("read",), at(30), 100) == [
        *(one for one in wanted if one.state == "read"),
        later,
    ]
    assert await checkpoints.next_due(run) == at(-22)  # 23 is done
    assert await checkpoints.next_due(run, ("read",)) == at(-20)
    await checkpoints.save(run, b"2", now=NOW, items=[replace(one, state="done") for one in items])
    assert await checkpoints.next_due(run) == at(30)
    await checkpoints.save(run, b"3", now=NOW, items=[replace(later, state="done")])
    assert await checkpoints.next_due(run) is None
    assert await checkpoints.count(run) == {("ticket", "done"): 25}


async def test_tickets_whose_messages_are_wanted_are_found_until_they_are_done(checkpoints: Checkpoints) -> None:
    """The second phase sees just the tickets marked for it, by id, whatever their state."""
    run = await begin(checkpoints)
    wanted = [replace(one, messages="wanted") for one in (item(3, state="done"), item(1, state="read"))]
    await checkpoints.save(run, b"1", now=NOW, items=[*wanted, item(2)])
    assert await checkpoints.tickets_to_read(run, 10) == wanted[::-1]
    assert await checkpoints.tickets_to_read(run, 1) == [wanted[1]]
    await checkpoints.save(run, b"2", now=NOW, items=[replace(wanted[1], messages="done")])
    assert await checkpoints.tickets_to_read(run, 10) == [wanted[0]]


async def test_what_was_shown_is_told_from_what_was_not(checkpoints: Checkpoints) -> None:
    """Of more ids than fit into one question, those that have an item of that entity."""
    run = await begin(checkpoints)
    items = [item(number) for number in range(0, 2500, 2)]
    await checkpoints.save(run, b"1", now=NOW, items=[*items, item(1, entity="contact")])
    asked = [item(number).id for number in range(2500)]
    assert await checkpoints.shown(run, "ticket", asked) == {one.id for one in items}
    assert await checkpoints.shown(run, "contact", asked) == {"k00001"}
    assert await checkpoints.shown(run, "campaign", []) == set()


async def test_looks_at_the_same_position_are_counted(database: Database, checkpoints: Checkpoints) -> None:
    """Looks are counted while the entity stands at one position, from one again at another; old ones are forgotten."""
    run = await begin(checkpoints)
    for second, position in ((0, 5), (10, 5), (20, 6)):
        await checkpoints.save(run, b"1", now=at(second), looks=[doubt(1, position), doubt(2)])
    await checkpoints.save(run, b"1", now=at(30), looks=[Doubt("contact", "k00001", 5)])
    assert await looks(database, "t1", "ticket", ["k00001", "k00002", "k00003"]) == {
        "k00001": Look(position=6, first_at=at(20), last_at=at(20), looks=1),
        "k00002": Look(position=5, first_at=at(0), last_at=at(20), looks=3),
    }
    asked = [doubt(1, 6), doubt(2), doubt(3), Doubt("last_message", "k00002", 5)]
    assert sorted(await checkpoints.not_looked_at("t1", asked)) == sorted(asked[2:])
    assert sorted(await checkpoints.not_looked_at("t1", asked, 2)) == sorted([asked[0], *asked[2:]])
    assert await checkpoints.not_looked_at("t1", [doubt(2, 4)], 1) == [doubt(2, 4)]
    assert await checkpoints.not_looked_at("t2", [doubt(2)], 1) == [doubt(2)]
    await checkpoints.finish(run, b"{}", at(25) + KEPT)
    assert await looks(database, "t1", "ticket", ["k00001", "k00002"]) == {}
    assert (await looks(database, "t1", "contact", ["k00001"])).keys() == {"k00001"}


async def test_finishing_leaves_nothing_of_people(database: Database, checkpoints: Checkpoints) -> None:
    """A finished run has its report and the ids of what it found; every item, and with it every text, is gone."""
    run = await begin(checkpoints)
    found = replace(item(1, state="found"), raw=b"secret", found=b"secret")
    finding = Finding(entity="ticket", id="k00001", kind="missed", fields=(), age_s=None)
    await checkpoints.save(
        run, b"1", now=NOW, items=[found, *(item(number) for number in range(2, 50))], drift=[finding]
    )
    assert (await rows_of(database))["backfill_item"] == 49
    await checkpoints.finish(run, b'{"drift":1}', at(60))
    assert await rows_of(database) == {
        "backfill_run": 1,
        "backfill_item": 0,
        "backfill_drift": 1,
        "backfill_look": 0,
        "backfill_request": 0,
    }
    info = await checkpoints.last("t1")
    assert info is not None
    assert (info.finished_at, info.report, info.run.progress) == (at(60), b'{"drift":1}', b"1")


async def test_old_runs_go_with_what_they_found(database: Database, checkpoints: Checkpoints) -> None:
    """The last 20 finished runs of each kind stay: repairs, which are many, do not push the reconciles out."""
    other = await begin(checkpoints, "t2")
    await checkpoints.finish(other, b"{}", NOW)
    finding = Finding(entity="ticket", id="k1", kind="stale", fields=("status",), age_s=2.5)
    for number in range(RUNS_KEPT + 3):
        run = await checkpoints.begin("t1", "repair" if number else "reconcile", "command", OPTIONS, at(number))
        await checkpoints.save(run, b"1", now=at(number), drift=[finding])
        await checkpoints.finish(run, b"{}", at(number))
    kept = await checkpoints.runs("t1", 100)
    assert Counter(info.run.kind for info in kept) == {"repair": RUNS_KEPT, "reconcile": 1}
    assert [info.run.started_at for info in kept[:RUNS_KEPT]] == [at(RUNS_KEPT + 2 - one) for one in range(RUNS_KEPT)]
    assert (await rows_of(database))["backfill_drift"] == RUNS_KEPT + 1
    assert len(await checkpoints.runs("t2", 100)) == 1


async def test_each_verb_is_one_commit(checkpoints: Checkpoints) -> None:
    """However much a verb writes, the disk is asked once: on SQLite a commit of the log is an fsync."""
    finding = Finding(entity="ticket", id="k1", kind="stale", fields=(), age_s=None)
    items = [item(number) for number in range(300)]
    with noted("commit") as commits:
        run = await begin(checkpoints)
        await checkpoints.list_items(run, items, b"1", now=NOW)
        await checkpoints.save(
            run, b"2", now=NOW, items=items, drift=[finding], looks=[doubt(number) for number in range(300)]
        )
        await checkpoints.finish(run, b"{}", NOW)
    assert len(commits) == 4


async def plans(database: Database, asked: Sequence[tuple[str, Any]]) -> dict[str, str]:
    """Return how the database would find the rows of each statement."""
    explain = "EXPLAIN QUERY PLAN" if database.dialect == "sqlite" else "EXPLAIN"
    found = {}
    async with database.write() as connection:
        for statement, parameters in asked:
            of_one = parameters[0] if isinstance(parameters, list) else parameters
            rows = await connection.exec_driver_sql(f"{explain} {statement}", of_one)
            found[statement] = "\n".join(str(row[-1]) for row in rows)
    return found


async def test_ten_thousand_items_are_no_burden(database: Database, checkpoints: Checkpoints) -> None:
    """Beside 10,000 items a page is saved, and what is due found, without a look at every item and without sorting."""
    run = await begin(checkpoints)
    items = [replace(item(number, state="wanted", due=-number), payload=b"shown") for number in range(10_000)]
    for start in range(0, len(items), 500):
        await checkpoints.list_items(run, items[start : start + 500], b"1", now=NOW)
    async with database.write() as connection:
        await connection.exec_driver_sql("ANALYZE")
    page = [replace(item(number, entity="contact"), id=uuid4().hex) for number in range(100)]
    with noted("before_cursor_execute") as asked:
        await checkpoints.list_items(run, page, b"1", now=NOW)
        await checkpoints.due(run, ("wanted", "read"), at(2e5), 10)
        await checkpoints.next_due(run, ("wanted", "read"))
        await checkpoints.tickets_to_read(run, 1)
        await checkpoints.shown(run, "contact", [one.id for one in page])
    found = await plans(database, [one for one in asked if "backfill_item" in one[0]])
    assert len(found) >= 5
    for statement, plan in found.items():
        assert not re.search("SCAN backfill_item|Seq Scan on backfill_item|TEMP B-TREE|Sort", plan), (statement, plan)


async def test_a_sweep_spares_a_run_that_begins_meanwhile(postgres_url: str) -> None:
    """Other tenants' runs begin while PostgreSQL is asked which are over: what they saved stays."""
    log = await open_log(DatabaseTarget(postgres_url), migrate=True)
    checkpoints, begun = Checkpoints(log), list[Run]()
    old = await begin(checkpoints)
    await checkpoints.save(old, b"1", now=NOW, items=[item(1)])

    class Slow:
        """A connection on which somebody begins a run of his own after each statement."""

        def __init__(self, connection: AsyncConnection) -> None:
            self._connection = connection

        async def execute(self, statement: Any) -> Any:
            """Execute it."""
            result = await self._connection.execute(statement)
            if len(begun) < 5:
                begun.append(await begin(checkpoints, f"new{len(begun)}"))
                await checkpoints.save(begun[-1], b"1", now=NOW, items=[item(1)])
            return result

    class Watched:
        """The log on such connections."""

        @asynccontextmanager
        async def read(self) -> AsyncIterator[Slow]:
            """Open one transaction."""
            async with log.read() as connection:
                yield Slow(connection)

    watched: Any = Watched()
    assert await Checkpoints(watched).sweep() == 0
    assert len(begun) > 1
    await checkpoints.finish(old, b"{}", NOW)
    assert await checkpoints.count(begun[0]) == {("ticket", "listed"): 1}
    await log.close()


async def test_what_waits_too_long_is_pulled_in(checkpoints: Checkpoints) -> None:
    """Open items of that run that are due after the latest time are due then; all others stay as they are."""
    run, other = await begin(checkpoints), await begin(checkpoints, "t2")
    items = [item(1, due=10), item(2, due=61), item(3, state="absent", due=9_999), item(4, state="done", due=9_999)]
    for one in (run, other):
        await checkpoints.save(one, b"1", now=NOW, items=items)
    await checkpoints.pull_in(run, at(60), now=NOW)
    states: list[State] = ["listed", "absent", "done"]
    due = {one.id: one.due_at for one in await checkpoints.due(run, states, at(10_000), 9)}
    assert due == {"k00001": at(10), "k00002": at(60), "k00003": at(60), "k00004": at(9_999)}
    assert [one.due_at for one in await checkpoints.due(other, states, at(10_000), 9)] == [
        at(10),
        at(61),
        at(9_999),
        at(9_999),
    ]
