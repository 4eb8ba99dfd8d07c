"""This module copies a log into another database, row by row with its positions and ids, and compares what it wrote.

Theory of operation. What only grows (events, seals) is copied while the source lives; the target itself says how far.
That is believed only while the target's last row and last seal are the source's too: a source that was restored from a
backup meanwhile may have given the same positions to other events.
What changes (redeliveries, parked deliveries, the relay's row, backfills) is copied in the last step, after the source
was shut in its own database. The target bears a mark from its first row on, and cannot be opened until the mark is
taken away. Rows that were blanked in the source since they were copied are blanked in the target at each beginning;
while the command runs it holds the role lock BLANKING, so none is. A crash at any point leaves one log that can be used
at most:

    source lives, target marked     copying; it may be stopped, and goes on behind the target's last position
    source shut, target marked      the last step; it is begun again, and begins what changes anew
    source shut, target whole       moved
"""

import hashlib
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import (
    ColumnElement,
    LargeBinary,
    Select,
    Table,
    Text,
    func,
    insert,
    literal,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from whatsms_events.domain.retention import KeptRow
from whatsms_events.errors import IntegrityError, TransientError
from whatsms_events.storage.database import Database
from whatsms_events.storage.log.blanking import Blanking
from whatsms_events.storage.log.moving import SHUT, Moving
from whatsms_events.storage.role_lock import RoleLock
from whatsms_events.storage.scrubbing import scrub
from whatsms_events.storage.tables import backfill_run, erasure, event_log, log, seal, suppression

BATCH_ROWS: Final = 1000
TOLD: Final = 100
"""Rows whose data are compared at a time."""

BATCH_BYTES: Final = 8 * 1024 * 1024
"""Of one batch, in the text and bytes of its rows; one row at least."""

GROWING: Final = (event_log, seal)
CHANGING: Final = tuple(table for table in SHUT if table not in (log, *GROWING))
NUMBERED: Final = (
    (event_log, event_log.c.position),
    (backfill_run, backfill_run.c.run),
    (erasure, erasure.c.number),
    (suppression, suppression.c.number),
)
"""Tables whose numbers the database gives out, and never twice."""

_SUM_LIMIT: Final = 1 << 256

CopiedRow = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Copied:
    """How far a copy is: the last position in the target, and the last one of the source when it was looked at.

    `shut`: the source takes nothing in any more, so only the last step is left.
    """

    log_id: UUID
    through: int
    end: int
    shut: bool


class LogCopy:
    """A copy from one open database to another. `from_place` and `to_place` are what each calls the other one.

    `blanking` is the source's role lock BLANKING.
    """

    def __init__(
        self,
        source: Database,
        target: Database,
        *,
        from_place: str,
        to_place: str,
        blanking: RoleLock,
        batch_rows: int = BATCH_ROWS,
    ) -> None:
        self._blanking = blanking
        self._source = source
        self._target = target
        self._from_place = from_place
        self._to_place = to_place
        self._batch_rows = batch_rows
        self._mark = Moving(target)
        self._source_mark = Moving(source)

    async def begin(self, now: datetime) -> Copied:
        """Make the target ready, and return how far it is; raise IntegrityError where it is something else.

        From here on until `close` nothing is blanked in the source. Raise TransientError where somebody just does it.
        """
        if not await self._blanking.take():
            raise TransientError("rows of the log are being blanked, or another copy of it is made: try again")
        mark = await self._source_mark.mark()
        if mark is not None and (mark.state, mark.place) != ("gone", self._to_place):
            raise IntegrityError(f"the source: {mark.problem}")
        async with self._source.read() as connection:
            own = (await connection.execute(select(log.c.log_id, log.c.created_at))).one()
        await self._mark.begin(own.log_id, own.created_at, self._from_place, now)
        through, end = await _last(self._target, event_log), await _last(self._source, event_log)
        await self._expect_same_last()
        await self._blank_what_was()
        return Copied(own.log_id, through, end, shut=mark is not None)

    async def close(self) -> None:
        """Let the source's rows be blanked again."""
        await self._blanking.release()

    async def _blank_what_was(self) -> None:
        """Blank the rows of the target that were blanked in the source since they were copied.

        Of a row without bytes the data may be others than were copied: what somebody who was forgotten left of them.
        """
        rows, copied, after, changed = Blanking(self._source), Blanking(self._target), 0, 0
        through = await _last(self._target, event_log)
        while some := await rows.rows(after, through, BATCH_ROWS):
            there = {row.position: row for row in await copied.rows(some[0].position - 1, through, BATCH_ROWS)}
            after = some[-1].position
            for data in (False, True):
                gone = [row.position for row in some if _lost(row, there.get(row.position), data=data)]
                changed += await copied.blank(gone, data=data)
            changed += await self._tell_again([row.position for row in some if row.has_data and not row.has_raw])
        if changed:
            await scrub(self._target)

    async def _tell_again(self, positions: Sequence[int]) -> int:
        """Let these rows of the target have the data that the source has now; return how many had others."""
        changed = 0
        for start in range(0, len(positions), TOLD):
            some = event_log.c.position.in_(positions[start : start + TOLD])
            query = select(event_log.c.position, event_log.c.data).where(some)
            async with self._source.read() as connection:
                told = {row.position: row.data for row in await connection.execute(query)}
            async with self._target.write() as connection:
                held = {row.position: row.data for row in await connection.execute(query)}
                for position in held.keys() & told.keys():
                    if held[position] != told[position]:
                        mine = update(event_log).where(event_log.c.position == position)
                        await connection.execute(mine.values(data=told[position]))
                        changed += 1
        return changed

    async def _expect_same_last(self) -> None:
        """Raise IntegrityError where the target's last row or last seal is not the source's at the same place.

        Then the source was restored from a backup, or changed, since it was copied. To go on behind the target's end
        would leave out what the source has taken in since.
        """
        for table in GROWING:
            key = next(iter(table.primary_key))
            last = await _last(self._target, table)
            query = select(table).where(key == last)
            if last and not _is_same(await _row(self._source, query), await _row(self._target, query), table):
                raise IntegrityError(
                    f"{table.name} {last} is not in the source what it is in the target: the source was restored from "
                    "a backup, or changed, since it was copied. This copy cannot go on: put an empty database in its "
                    "place, and give the same command again"
                )

    async def grow(self, on_progress: Callable[[int, int], None]) -> int:
        """Copy events and seals up to where the source ends now, and return the last position that was copied."""
        for table in GROWING:
            end = await _last(self._source, table)
            after = await _last(self._target, table)
            while after < end and (
                rows := await _batch(self._source, table, (after,) if after else None, self._batch_rows)
            ):
                await self._write(table, rows)
                after = rows[-1][0]
                if table is event_log:
                    on_progress(after, end)
        return await _last(self._target, event_log)

    async def _write(self, table: Table, rows: Sequence[CopiedRow]) -> None:
        """Write a batch, read it back and compare, in one transaction: what the target holds has been compared."""
        names = [column.name for column in table.c]
        if table is event_log:
            _check_bytes(names, rows)
        key = table.c[names[0]]
        query = select(table).where(key >= rows[0][0], key <= rows[-1][0]).order_by(key)
        async with self._target.write() as connection:
            await connection.execute(insert(table), [dict(zip(names, row, strict=True)) for row in rows])
            found = [tuple(row) for row in await connection.execute(query)]
            for wanted, there in itertools.zip_longest(rows, found):
                if wanted != there:
                    at = (wanted or there)[0]
                    raise IntegrityError(f"{table.name} {at} is another row in the target than in the source")

    async def finish(self, now: datetime, on_progress: Callable[[int, int], None]) -> Copied:
        """Shut the source, copy the rest, compare, and give the target free. The source is not opened again.

        Raise IntegrityError where source and target differ; then the target stays marked.
        """
        end = await self._source_mark.shut(self._to_place, now)
        await self._expect_same_last()
        if not await self._blanking.held():  # its session broke: somebody may have blanked meanwhile
            await self._blank_what_was()
        through = await self.grow(on_progress)
        if through != end:
            raise IntegrityError(f"the target ends at position {through}, and the source at {end}")
        for table in CHANGING:
            await self._replace(table)
        for table, number in NUMBERED:
            await _give_out_behind(self._target, table, number, await _given_out(self._source, table, number))
        await self._mark.whole()
        return Copied(await self._mark.log_id(), through, end, shut=True)

    async def _replace(self, table: Table) -> None:
        """Copy a table that changes, from its first row on, and compare both as sets."""
        async with self._target.write() as connection:
            await connection.execute(table.delete())
        names = [column.name for column in table.c]
        async for rows in _batches(self._source, table):
            async with self._target.write() as connection:
                await connection.execute(insert(table), [dict(zip(names, row, strict=True)) for row in rows])
        # As sets: the two databases may sort texts otherwise.
        if await _sum(self._source, table) != await _sum(self._target, table):
            raise IntegrityError(f"{table.name} is not the same in the target as in the source")

    async def take_back(self) -> None:
        """Open the source again, where the target is not whole: then nobody can have written there.

        Raise IntegrityError where the target may be in use.
        """
        source, mark = await self._source_mark.mark(), await self._mark.mark()
        if source is None or source.state != "gone":
            raise IntegrityError("the source is not shut: there is nothing to take back")
        same = await self._mark.log_id() == await self._source_mark.log_id()
        if source.place != self._to_place or mark is None or mark.state != "coming" or not same:
            raise IntegrityError(f"the log has moved to {source.place}, and is or may be in use there")
        await self._source_mark.open_again()


def _is_same(source: CopiedRow | None, target: CopiedRow | None, table: Table) -> bool:
    """Tell whether two rows are the same, but for what is blanked in the source and may be in the target still."""
    if source is None or target is None or table is not event_log:
        return source == target
    wanted, copied = (dict(zip((column.name for column in table.c), row, strict=True)) for row in (source, target))
    loose = {"raw", "data"} if wanted["raw"] is None else set()
    loose |= {"data"} if wanted["data"] is None else set()
    return all(one == copied[name] for name, one in wanted.items() if name not in loose)


def _lost(row: KeptRow, copied: KeptRow | None, *, data: bool) -> bool:
    """Tell whether a row of the source has lost its bytes, or its data, and the copy has them still."""
    if copied is None:
        return False
    return copied.has_data and not row.has_data if data else copied.has_raw and not row.has_raw


def _check_bytes(names: Sequence[str], rows: Sequence[CopiedRow]) -> None:
    position, raw, digest = (names.index(name) for name in ("position", "raw", "sha256"))
    for row in rows:
        if row[raw] is not None and hashlib.sha256(row[raw]).digest() != row[digest]:
            raise IntegrityError(
                f"the bytes at position {row[position]} are not those of their hash, in the source too: see "
                "`whatsms-events log verify`"
            )


async def _last(database: Database, table: Table) -> int:
    async with database.read() as connection:
        found = await connection.scalar(select(func.max(next(iter(table.primary_key)))))
    return int(found or 0)


async def _row(database: Database, query: Select[Any]) -> CopiedRow | None:
    async with database.read() as connection:
        found = (await connection.execute(query)).one_or_none()
    return None if found is None else tuple(found)


async def _batch(database: Database, table: Table, after: CopiedRow | None, limit: int = BATCH_ROWS) -> list[CopiedRow]:
    """Return the next rows behind a key, in the order of keys: `limit` and BATCH_BYTES at most, but one at least."""
    key = list(table.primary_key)
    past: list[ColumnElement[bool]] = []
    if after is not None:
        values = (literal(value, column.type) for value, column in zip(after, key, strict=True))
        past = [tuple_(*key) > tuple_(*values)]
    sized = [column for column in table.c if isinstance(column.type, Text | LargeBinary)]
    size = sum((func.coalesce(func.length(column), 0) for column in sized), literal(0))
    async with database.read() as connection:
        sizes = await connection.execute(select(size).select_from(table).where(*past).order_by(*key).limit(limit))
        totals = itertools.accumulate(int(one) for one in sizes.scalars())
        fitting = max(1, sum(total <= BATCH_BYTES for total in totals))
        rows = await connection.execute(select(table).where(*past).order_by(*key).limit(fitting))
        return [tuple(row) for row in rows]


async def _batches(database: Database, table: Table) -> AsyncIterator[list[CopiedRow]]:
    places = [list(table.c).index(column) for column in table.primary_key]
    after: CopiedRow | None = None
    while rows := await _batch(database, table, after):
        yield rows
        after = tuple(rows[-1][place] for place in places)


async def _sum(database: Database, table: Table) -> tuple[int, int]:
    """Return the number of rows, and a sum of their hashes that does not depend on their order."""
    count = total = 0
    async for rows in _batches(database, table):
        count += len(rows)
        for row in rows:
            total += int.from_bytes(hashlib.sha256(msgspec.msgpack.encode(row)).digest())
    return count, total % _SUM_LIMIT


async def _given_out(database: Database, table: Table, number: ColumnElement[int]) -> int:
    """Return the highest number that the table's counter gave out, also to rows that are gone."""
    async with database.read() as connection:
        highest = int(await connection.scalar(select(func.max(number))) or 0)
        if database.dialect == "sqlite":
            counted = await connection.scalar(text("SELECT seq FROM sqlite_sequence WHERE name = :name"), _named(table))
            return max(highest, int(counted or 0))
        counter = await _counter(connection, table, number)
        row = (await connection.execute(text(f"SELECT last_value, is_called FROM {counter}"))).one()  # noqa: S608 - PostgreSQL's own name
        return max(highest, int(row.last_value) if row.is_called else 0)


async def _give_out_behind(database: Database, table: Table, number: ColumnElement[int], last: int) -> None:
    """Let the table's counter go on behind a number, so that the target gives out none that the source gave out."""
    if not last:
        return
    async with database.write() as connection:
        if database.dialect == "sqlite":
            await connection.execute(text("DELETE FROM sqlite_sequence WHERE name = :name"), _named(table))
            values = _named(table) | {"last": last}
            await connection.execute(text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :last)"), values)
            return
        counter = await _counter(connection, table, number)
        await connection.execute(
            text("SELECT setval(CAST(:counter AS regclass), :last)"), {"counter": counter, "last": last}
        )


async def _counter(connection: AsyncConnection, table: Table, number: ColumnElement[int]) -> str:
    names = {"table": table.name, "number": number.key}
    return str(await connection.scalar(text("SELECT pg_get_serial_sequence(:table, :number)"), names))


def _named(table: Table) -> dict[str, Any]:
    return {"name": table.name}
