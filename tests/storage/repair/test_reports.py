"""What is read of backfill runs afterwards, on both databases."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from servers.noted import noted
from whatsms_events.domain.drift import Finding
from whatsms_events.domain.repair import State
from whatsms_events.storage.database import Database, DatabaseTarget, open_log
from whatsms_events.storage.repair.reports import ItemCounts, Kind, Options, Overview, Reports
from whatsms_events.storage.repair.runs import Checkpoints, Item

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
FOUND = (
    Finding(entity="ticket", id="k2", kind="stale", fields=("status", "user"), age_s=90.5),
    Finding(entity="ticket", id="k1", kind="missed", fields=(), age_s=None),
    Finding(entity="ticket", id="k1", kind="doubtful", fields=("queue",), age_s=0.0),
    Finding(entity="contact", id="k1", kind="stale", fields=("name",), age_s=3.0),
)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """Give a migrated log on each kind of database."""
    found = await open_log(DatabaseTarget(database_url), migrate=True)
    yield found
    await found.close()


def at(seconds: float) -> datetime:
    """Return a moment so much later."""
    return NOW + timedelta(seconds=seconds)


async def run(
    database: Database, tenant: str, kind: Kind, *, found: Sequence[Finding] = (), left: int = 0, start: float = 0
) -> int:
    """Make a run: with items left over it is under way, else it is finished ten seconds later. Returns its number."""
    checkpoints = Checkpoints(database)
    begun = await checkpoints.begin(tenant, kind, "schedule", Options(), at(start))
    items = [Item("ticket", f"i{one}", "done" if one < 3 else "read", NOW, NOW, 1) for one in range(3 + left)]
    progress = f'{{"n":1,"items":{{"remaining":{left},"unread":0}}}}'.encode()
    await checkpoints.save(begun, progress, now=at(start + 5), items=items, drift=found)
    if not left:
        await checkpoints.finish(begun, b'{"over":true}', at(start + 10))
    return begun.number


async def test_the_last_run_is_the_newest_of_its_kind(database: Database) -> None:
    """The newest run of all, or of a kind, whether it is over or under way; None where there was none."""
    reports = Reports(database)
    assert await reports.last("t1") is None
    first = await run(database, "t1", "reconcile")
    second = await run(database, "t1", "repair", left=2, start=100)
    newest, reconcile = await reports.last("t1"), await reports.last("t1", "reconcile")
    assert newest is not None
    assert reconcile is not None
    assert (newest.run.number, newest.run.kind, newest.finished_at, newest.report) == (second, "repair", None, None)
    assert (newest.run.started_at, newest.updated_at, newest.run.cause) == (at(100), at(105), "schedule")
    assert (reconcile.run.number, reconcile.finished_at, reconcile.report) == (first, at(10), b'{"over":true}')
    assert await reports.runs("t1", 10) == [newest, reconcile]
    assert await reports.runs("t1", 1) == [newest]
    assert await reports.runs("t1", 10, kind="reconcile") == [reconcile]
    assert await reports.last("t2") is None


async def test_what_is_left_of_a_run_is_read_as_its_worker_counted_it(database: Database) -> None:
    """A million items are not counted for whoever asks: the worker's count is taken. They are counted where it has not
    counted yet, and where another release saved in a form of its own; a run that is over has none left.
    """
    checkpoints = Checkpoints(database)
    begun = await checkpoints.begin("t1", "reconcile", "command", Options(), NOW)
    states: Sequence[State] = ("done", "wanted", "absent", "read", "found")
    items = [Item("ticket", state, state, NOW, NOW, 1) for state in states]
    saved = {b"{}": (4, 2), b'{"items":[4]}': (4, 2), b'{"items":{"remaining":70,"unread":7}}': (70, 7)}
    for progress, (remaining, unread) in saved.items():
        await checkpoints.save(begun, progress, now=at(1), items=items)
        last = await checkpoints.last("t1")
        assert last is not None
        assert last.items == ItemCounts(remaining, unread)
    await checkpoints.stop("t1", "somebody", at(2))
    stopped = await checkpoints.last("t1")
    assert stopped is not None
    assert stopped.items == ItemCounts()


async def test_drift_is_read_page_by_page(database: Database) -> None:
    """Every finding of the run comes once, by entity, id and kind, also in pages of one; the other run's never."""
    number = await run(database, "t1", "reconcile", found=FOUND)
    await run(database, "t1", "reconcile", found=FOUND[:1])
    reports = Reports(database)
    expected = [
        {
            "entity": one.entity,
            "id": one.id,
            "kind": one.kind,
            "fields": list(one.fields),
            "age_s": one.age_s,
            "found_at": at(5),
        }
        for one in sorted(FOUND, key=lambda one: (one.entity, one.id, one.kind))
    ]
    whole = await reports.drift(number, limit=100)
    assert (whole.rows, whole.next) == (expected, None)
    rows, after = [], None
    while True:
        page = await reports.drift(number, after=after, limit=1)
        rows += page.rows
        after = page.next
        if after is None:
            break
    assert rows == expected
    tickets = await reports.drift(number, entity="ticket", limit=2)
    assert [row["kind"] for row in tickets.rows] == ["doubtful", "missed"]
    assert tickets.next == ("ticket", "k1", "missed")
    assert (await reports.drift(number, entity="ticket", after=tickets.next, limit=2)).rows == expected[3:]
    assert (await reports.drift(number, kind="stale", limit=9)).rows == [expected[0], expected[3]]
    assert (await reports.drift(999, limit=9)).rows == []


async def test_a_finding_of_a_later_round_replaces_the_earlier(database: Database) -> None:
    """The same entity found once more with the same kind is one row, with the later fields and the first time."""
    checkpoints = Checkpoints(database)
    begun = await checkpoints.begin("t1", "reconcile", "command", Options(), NOW)
    await checkpoints.save(begun, b"1", now=at(1), drift=FOUND[:1])
    again = Finding(entity="ticket", id="k2", kind="stale", fields=("status",), age_s=None)
    await checkpoints.save(begun, b"1", now=at(2), drift=[again])
    page = await checkpoints.drift(begun.number, limit=9)
    assert page.rows == [
        {"entity": "ticket", "id": "k2", "kind": "stale", "fields": ["status"], "age_s": None, "found_at": at(1)}
    ]


async def test_the_overview_says_how_every_tenant_stands(database: Database) -> None:
    """Per tenant what is under way and left, and what its last finished reconcile found: in two questions."""
    reports = Reports(database)
    assert await reports.overview() == []
    await run(database, "idle", "reconcile", found=FOUND)
    await run(database, "idle", "reconcile", found=FOUND[:3], start=50)
    await run(database, "idle", "repair", found=FOUND, start=70)
    await run(database, "busy", "reconcile", start=80)
    await run(database, "busy", "repair", found=FOUND, left=7, start=100)
    await run(database, "first", "reconcile", found=FOUND, left=4)
    await run(database, "repaired", "repair", found=FOUND)
    with noted("before_cursor_execute") as asked:
        overview = await reports.overview()
    assert [one.moved_at is not None for one in overview] == [True, True, False]
    assert [replace(one, moved_at=None) for one in overview] == [
        Overview("busy", running="repair", remaining=7, finished_at=at(90), drift={}, report=b'{"over":true}'),
        Overview("first", running="reconcile", remaining=4, finished_at=None, drift={}),
        Overview(
            "idle",
            running=None,
            remaining=0,
            finished_at=at(60),
            drift={("ticket", "stale"): 1, ("ticket", "missed"): 1, ("ticket", "doubtful"): 1},
            report=b'{"over":true}',
        ),
    ]
    assert len([one for one, _ in asked if one.startswith("SELECT")]) == 2
