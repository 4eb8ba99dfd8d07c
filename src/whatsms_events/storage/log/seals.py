"""This module reads closed parts of the log with their seals, and adds a seal.

A row that can be read is in a closed range: positions are given out in the order of commits (promise 3), so no open
transaction can still append at or before it.
"""

import itertools
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Row, Select, func, insert, select

from whatsms_events.domain.events import from_micros, to_micros
from whatsms_events.domain.seals import SEAL_ROWS, Seal, SealedRow, make_seal
from whatsms_events.errors import IntegrityError
from whatsms_events.storage.database import Database
from whatsms_events.storage.tables import event_log, log, seal

RANGE_BYTES: Final = 8 * 1024 * 1024
"""Raw bytes in one seal; a range ends with the row that exceeds it. A check reads one range at a time."""

_WITHOUT_RAW: Final = tuple(event_log.c[name] for name in SealedRow._fields if name != "raw")  # the last of them


class Seals:
    """The table `seal`, and the rows that it is about. All verbs raise StorageUnavailableError."""

    def __init__(self, database: Database, *, range_bytes: int = RANGE_BYTES) -> None:
        self._database = database
        self._range_bytes = range_bytes
        self._log_id: UUID | None = None

    async def log_id(self) -> UUID:
        """Return the log's identity, which each seal is bound to."""
        if self._log_id is None:
            async with self._database.read() as connection:
                self._log_id = (await connection.execute(select(log.c.log_id))).scalar_one()
        return self._log_id

    async def last(self) -> Seal | None:
        """Return the last seal; None where nothing is sealed yet."""
        return await self._one(select(seal).order_by(seal.c.first.desc()).limit(1))

    async def covering(self, position: int) -> Seal | None:
        """Return the seal whose range has this position, None where there is none."""
        found = await self._one(select(seal).where(seal.c.first <= position).order_by(seal.c.first.desc()).limit(1))
        return found if found is not None and found.last >= position else None

    async def next(self, position: int) -> Seal | None:
        """Return the first seal that begins at this position or after it."""
        return await self._one(select(seal).where(seal.c.first >= position).order_by(seal.c.first).limit(1))

    async def before(self, first: int) -> Seal | None:
        """Return the last seal that begins before this position."""
        return await self._one(select(seal).where(seal.c.first < first).order_by(seal.c.first.desc()).limit(1))

    async def named(self, digest: bytes) -> Seal | None:
        """Return the first seal that bears this hash, None where none does: whether it is right, a check must tell."""
        return await self._one(select(seal).where(seal.c.hash == digest).order_by(seal.c.first).limit(1))

    async def _one(self, query: Select[Any]) -> Seal | None:
        async with self._database.read() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else _seal(row)

    async def rows(self, first: int, last: int) -> list[SealedRow]:
        """Return the rows of a sealed range with their bytes, one more than a seal can hold at most."""
        place = (event_log.c.position >= first, event_log.c.position <= last)
        query = select(*_WITHOUT_RAW, event_log.c.raw).where(*place).order_by(event_log.c.position)
        async with self._database.read() as connection:
            return [SealedRow._make(row) for row in await connection.execute(query.limit(SEAL_ROWS + 1))]

    async def unsealed(self, after: int) -> tuple[int, int, bool]:
        """Look at the next range behind a position: how many rows it has, where it ends, and whether it is full."""
        size = func.coalesce(func.length(event_log.c.raw), 0)
        query = select(event_log.c.position, size).where(event_log.c.position > after)
        async with self._database.read() as connection:
            found = (await connection.execute(query.order_by(event_log.c.position).limit(SEAL_ROWS))).all()
        totals = itertools.accumulate(int(row[1]) for row in found)
        count = next((number for number, total in enumerate(totals, 1) if total >= self._range_bytes), 0)
        full = count > 0 or len(found) == SEAL_ROWS
        count = count or len(found)
        return count, found[count - 1].position if found else after, full

    async def add(self, before: Seal | None, last: int, now: datetime) -> Seal:
        """Seal the rows behind the seal `before` up to a position; raise IntegrityError where none is there.

        Another seal that begins at the same position is in the way: then UnstorableError is raised.
        """
        query = select(*_WITHOUT_RAW).where(event_log.c.position <= last).order_by(event_log.c.position)
        query = query.where(event_log.c.position > (0 if before is None else before.last))
        log_id = await self.log_id()
        async with self._database.read() as connection:
            rows = [SealedRow._make([*row, None]) for row in await connection.execute(query.limit(SEAL_ROWS))]
        if not rows:
            raise IntegrityError(f"no row is left up to position {last}, where there were some a moment ago")
        made = make_seal(log_id, before, rows, now)
        values = {name: getattr(made, name) for name in ("first", "last", "count", "hash", "marks")}
        async with self._database.write() as connection:
            await connection.execute(insert(seal).values(**values, sealed_at=to_micros(made.sealed_at)))
        return made

    async def end(self) -> int:
        """Return the log's highest position, 0 where it is empty."""
        async with self._database.read() as connection:
            return (await connection.execute(select(func.max(event_log.c.position)))).scalar_one() or 0

    async def sealed_through(self) -> int:
        """Return the last position that is sealed, 0 where none is."""
        async with self._database.read() as connection:
            return (await connection.execute(select(func.max(seal.c.last)))).scalar_one() or 0


def _seal(row: Row[Any]) -> Seal:
    values = row._asdict()
    return Seal(**{**values, "sealed_at": from_micros(values["sealed_at"])})
