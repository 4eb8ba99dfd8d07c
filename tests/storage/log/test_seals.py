"""Seals over the log and the check of them, on real databases."""

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import delete, insert, select, update

from storage.log.test_event_log import append, fill
from whatsms_events.domain.seals import SEAL_ROWS, Flaw, SealedRow, make_seal
from whatsms_events.errors import IntegrityError
from whatsms_events.storage.database import Database, DatabaseTarget, open_log
from whatsms_events.storage.log.seals import Seals
from whatsms_events.storage.log.verify import CheckedLog, verify
from whatsms_events.storage.role_lock import RoleLock
from whatsms_events.storage.tables import event_log, seal
from whatsms_events.workers.sealer import LOOK_S, Sealer

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
INTERVAL_S = 60.0


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.time


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """Give an empty log on each kind of database."""
    found = await open_log(DatabaseTarget(database_url), migrate=True)
    yield found
    await found.close()


def sealer(database: Database, clock: Clock, *, range_bytes: int = 8 << 20) -> Sealer:
    """Return a sealer of the database."""
    seals, lock = Seals(database, range_bytes=range_bytes), RoleLock(database, "sealer")
    return Sealer(seals, lock, interval_s=INTERVAL_S, now=lambda: NOW, monotonic=clock)


async def sealed(database: Database, rows: int, *, range_bytes: int = 300) -> None:
    """Fill an empty log with rows of about 30 bytes, and seal them in ranges of about ten."""
    await fill(database, [append(number, size=15) for number in range(rows)])
    clock = Clock()
    working = sealer(database, clock, range_bytes=range_bytes)
    await seal_all(working, clock)
    await working.close()


async def seal_all(working: Sealer, clock: Clock) -> int:
    """Let a sealer seal everything that is there; return how many rows that were."""
    done = 0
    for _look in range(3):
        clock.time += INTERVAL_S
        while count := await working.run_once():
            done += count
    return done


async def execute(database: Database, *statements: Any) -> None:
    """Change the log behind everybody's back."""
    async with database.write() as connection:
        for statement in statements:
            await connection.execute(statement)


async def flaw_of(database: Database, **options: Any) -> Flaw | None:
    """Return the first flaw that a check finds."""
    return (await verify(database, **options)).flaw


async def test_full_ranges_are_sealed_at_once_and_the_rest_after_a_while(database: Database) -> None:
    """A range of SEAL_ROWS waits for nothing; the rows behind it are sealed once they have waited; each row once."""
    await fill(database, [append(number) for number in range(SEAL_ROWS + 5)])
    clock = Clock()
    working = sealer(database, clock)
    assert [await working.run_once() for _ in range(2)] == [SEAL_ROWS, 0]
    clock.time += LOOK_S
    assert (await working.run_once(), await Seals(database).sealed_through()) == (0, SEAL_ROWS)
    clock.time += INTERVAL_S
    assert (await working.run_once(), await Seals(database).sealed_through()) == (5, SEAL_ROWS + 5)
    assert await seal_all(working, clock) == 0
    seen = await verify(database)
    assert (seen.flaw, seen.rows, seen.seals, seen.through) == (None, SEAL_ROWS + 5, 2, SEAL_ROWS + 5)
    await working.close()


async def test_one_of_two_processes_seals(database: Database) -> None:
    """While one sealer works the other stands by, and goes on with the same chain when the first has gone."""
    clock = Clock()
    first, second = sealer(database, clock), sealer(database, clock)
    await fill(database, [append(number) for number in range(SEAL_ROWS)])
    assert (await first.run_once(), await second.run_once()) == (SEAL_ROWS, 0)
    assert (first.active, second.active) == (True, False)
    await first.close()
    await fill(database, [append(number) for number in range(SEAL_ROWS, SEAL_ROWS + 9)])
    assert await seal_all(second, clock) == 9
    await second.close()
    assert (await verify(database)).seals == 2


async def test_sealing_beside_appends_seals_each_row_once(database: Database) -> None:
    """While rows are appended by two committers, sealer and check go on: every row is sealed once, none is missed."""
    clock = Clock()
    working = sealer(database, clock, range_bytes=1000)

    async def appended(start: int) -> None:
        for batch in range(start, start + 300, 30):
            await fill(database, [append(number, size=15) for number in range(batch, batch + 30)])

    async def watched() -> None:
        while (await verify(database)).rows < 600:
            clock.time += INTERVAL_S
            await working.run_once()
            assert await flaw_of(database) is None

    await asyncio.gather(appended(0), appended(1000), watched())
    await seal_all(working, clock)
    async with database.read() as connection:
        counts = (await connection.execute(select(seal.c.count))).scalars().all()
    assert sum(counts) == 600
    assert await flaw_of(database) is None
    await working.close()


async def test_the_check_names_the_first_bad_position_and_what_is_wrong(database: Database) -> None:
    """Whatever somebody changes in the database, the check names the first position that it concerns, and how."""
    await sealed(database, 50)
    assert await flaw_of(database) is None
    at = {position: event_log.c.position == position for position in range(1, 60)}
    async with database.read() as connection:
        rows = {row.position: row._asdict() for row in await connection.execute(select(event_log))}
        seals = {row.first: row._asdict() for row in await connection.execute(select(seal))}
    assert len(seals) == 5

    async def check(flaw: Flaw, *statements: Any) -> None:
        await execute(database, *statements)
        assert await flaw_of(database) == flaw
        await execute(database, delete(event_log), delete(seal))
        await execute(database, insert(event_log).values(list(rows.values())))
        await execute(database, insert(seal).values(list(seals.values())))
        assert await flaw_of(database) is None

    moved = update(event_log).where(at[41]).values(position=60)
    await check(Flaw(17, "row_missing"), delete(event_log).where(at[17]), delete(event_log).where(at[30]))
    await check(Flaw(50, "row_missing"), delete(event_log).where(at[50]))
    await check(Flaw(41, "row_missing"), moved)
    await check(Flaw(23, "hash_differs"), update(event_log).where(at[23]).values(raw=b"x"))
    await check(Flaw(24, "row_changed"), update(event_log).where(at[24]).values(sha256=bytes(32)))
    await check(Flaw(25, "row_changed"), update(event_log).where(at[25]).values(id=UUID(int=25)))
    await check(Flaw(26, "row_changed"), update(event_log).where(at[26]).values(data="{}"))
    await check(Flaw(27, "row_changed"), update(event_log).where(at[27]).values(subject="t-2"))
    await check(Flaw(28, "row_changed"), update(event_log).where(at[28]).values(received_at=0))
    new_first, new_last = sorted(seals)[2], seals[sorted(seals)[2]]["last"]
    added = {**rows[1], "position": new_last, "id": UUID(int=7)}
    await check(
        Flaw(new_last, "row_added"),
        delete(seal).where(seal.c.first >= new_first),
        delete(event_log).where(event_log.c.position >= new_first),
        insert(event_log).values([rows[position] for position in range(new_first, new_last)]),
        *await resealed(database, rows, new_first, new_last - 1, new_last),
        insert(event_log).values(added),
    )
    await check(Flaw(new_first, "seal_missing"), delete(seal).where(seal.c.first == new_first))
    await check(Flaw(new_first, "seal_differs"), update(seal).where(seal.c.first == new_first).values(hash=bytes(32)))
    await check(Flaw(new_first, "seal_differs"), update(seal).where(seal.c.first == new_first).values(marks=b""))
    await check(Flaw(new_first, "seal_differs"), update(seal).where(seal.c.first == new_first).values(count=1))


async def resealed(database: Database, rows: dict[int, Any], first: int, last: int, through: int) -> list[Any]:
    """Return the statement that seals the rows from `first` to `last` as a range that goes on to `through`."""
    before = await Seals(database).before(first)
    some = [SealedRow(**{name: rows[at][name] for name in SealedRow._fields}) for at in range(first, last + 1)]
    ghost = some[-1]._replace(position=through)
    made = make_seal(await Seals(database).log_id(), before, [*some, ghost], NOW)
    kept = made.marks[: len(made.marks) // (last - first + 2) * (last - first + 1)]
    values = {"first": first, "last": through, "count": made.count - 1, "hash": made.hash, "marks": kept}
    return [insert(seal).values(**values, sealed_at=0)]


async def test_changed_rows_with_seals_made_anew_break_the_chain(database: Database) -> None:
    """Who changes a row and makes its seal anew breaks the next seal; who makes all anew loses the printed head."""
    await sealed(database, 50)
    head = (await verify(database)).head
    assert head is not None
    firsts = await first_positions(database)
    await execute(database, update(event_log).where(event_log.c.position == firsts[1]).values(subject="t-9"))
    async with database.read() as connection:
        later = [row._asdict() for row in await connection.execute(select(seal).where(seal.c.first >= firsts[2]))]
    await execute(database, delete(seal).where(seal.c.first >= firsts[1]))
    before = await Seals(database).last()
    await Seals(database).add(before, firsts[2] - 1, NOW)
    await execute(database, insert(seal).values(later))
    assert await flaw_of(database) == Flaw(firsts[2], "seal_differs")
    await execute(database, delete(seal))
    clock = Clock()
    working = sealer(database, clock, range_bytes=300)
    await seal_all(working, clock)
    await working.close()
    seen = await verify(database, head=head)
    assert (seen.flaw, seen.head_found) == (None, False)
    # One row with the old hash is no seal of the chain, wherever it stands.
    for first, after in ((2, 0), (50, 0), (50, 50), (0, 0)):
        forged = {"first": first, "last": first, "count": 1, "hash": head, "marks": b"", "sealed_at": 0}
        await execute(database, insert(seal).values(**forged))
        assert await flaw_of(database, after=after, head=head) == Flaw(first, "seal_differs")
        await execute(database, delete(seal).where(seal.c.hash == head))
    assert await flaw_of(database) is None


async def test_a_head_is_found_where_the_chain_that_was_checked_has_it(database: Database) -> None:
    """The head of an earlier check is found by a whole check and by one that goes on where that one ended, however many
    seals were made since; not by one that ends before it. A damaged row between the two is found too.
    """
    await sealed(database, 30)
    await fill(database, [append(number, size=15) for number in range(30, 33)])
    old = await verify(database)
    assert (old.through, old.sealed_through) == (33, 30)
    clock = Clock()
    working = sealer(database, clock, range_bytes=300)
    await seal_all(working, clock)  # the rows behind the head, which the earlier check saw without a seal
    await fill(database, [append(number, size=15) for number in range(33, 60)])
    await seal_all(working, clock)
    await working.close()
    for after in (0, 5, 30, old.through, 45, 60):
        seen = await verify(database, after=after, head=old.head)
        assert (seen.flaw, seen.head_found, seen.through) == (None, True, 60), after
    assert not (await verify(database, through=15, head=old.head)).head_found
    await execute(database, update(event_log).where(event_log.c.position == 32).values(subject="t-9"))
    assert await flaw_of(database, after=old.through) is None
    assert await flaw_of(database, after=old.through, head=old.head) == Flaw(32, "row_changed")


async def first_positions(database: Database) -> list[int]:
    """Return where each seal begins."""
    async with database.read() as connection:
        return list((await connection.execute(select(seal.c.first).order_by(seal.c.first))).scalars())


async def test_blanked_rows_stay_checkable(database: Database) -> None:
    """Retention takes bytes and data away, and the check still proves the rest of the row and counts what is blank."""
    await sealed(database, 30)
    blanked = event_log.c.position <= 12
    await execute(database, update(event_log).where(blanked).values(raw=None, data=None))
    seen = await verify(database)
    assert (seen.flaw, seen.rows, seen.blanked) == (None, 30, 12)
    await execute(database, update(event_log).where(event_log.c.position == 5).values(type="ticket.closed"))
    assert await flaw_of(database) == Flaw(5, "row_changed")


async def test_a_check_goes_on_where_an_earlier_one_ended(database: Database) -> None:
    """From any position on, within a range or between two, the rest of the chain is checked and nothing before it."""
    await sealed(database, 50)
    await fill(database, [append(number) for number in range(50, 60)])
    rng, firsts = random.Random(5), await first_positions(database)
    await execute(database, update(event_log).where(event_log.c.position == 1).values(raw=b"x"))
    for after in (*firsts[1:], *(first + rng.randrange(5) for first in firsts[1:]), 50, 55, 60):
        seen = await verify(database, after=after)
        assert (seen.flaw, seen.through) == (None, 60), after
        assert seen.after <= after
    assert (await verify(database, after=firsts[1], through=firsts[3])).through == firsts[4] - 1
    pieces: list[CheckedLog] = []
    await verify(database, after=firsts[1], on_progress=pieces.append)
    assert [one.through for one in pieces] == sorted({one.through for one in pieces})
    await execute(database, update(event_log).where(event_log.c.position == 57).values(raw=b"x"))
    assert await flaw_of(database, after=firsts[2]) == Flaw(57, "hash_differs")


async def test_a_log_that_ends_before_the_check_should_begin_is_not_right(database: Database) -> None:
    """Where an earlier check ended at a position that the log does not reach any more, the first row that is missing is
    named; a log that ends just there is right.
    """
    await sealed(database, 50)
    assert (await verify(database, after=50)).flaw is None
    assert await flaw_of(database, after=51) == Flaw(51, "row_missing")
    firsts = await first_positions(database)
    await execute(database, delete(seal).where(seal.c.first >= firsts[3]))
    await execute(database, delete(event_log).where(event_log.c.position >= firsts[3]))
    for through in (None, 60):
        seen = await verify(database, after=50, through=through)
        assert (seen.flaw, seen.through) == (Flaw(firsts[3], "row_missing"), firsts[3] - 1)
    assert (await verify(database, after=firsts[3] - 1)).flaw is None


async def test_a_log_that_lost_its_end_halts_the_sealer(database: Database) -> None:
    """Where rows at the end are gone that were sealed, the sealer halts and names the check, and looks again."""
    await sealed(database, 20)
    working = sealer(database, Clock())
    async with database.read() as connection:
        kept = (await connection.execute(select(event_log).where(event_log.c.position > 15))).mappings().all()
    await execute(database, delete(event_log).where(event_log.c.position > 15))
    with pytest.raises(IntegrityError, match=r"sealed up to position 20 and ends at 15.*log verify"):
        await working.run_once()
    with pytest.raises(IntegrityError):
        await working.look()
    assert await flaw_of(database) == Flaw(16, "row_missing")
    await execute(database, insert(event_log).values([dict(row) for row in kept]))
    await working.look()
    assert await working.run_once() == 0
    await working.close()
