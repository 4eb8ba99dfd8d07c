"""This module blanks rows of the log in place: their bytes and data go, position, id, type, times and hash stay.

Retention and `forget` blank by the same verb. Whoever blanks holds the role lock BLANKING meanwhile, and so does a copy
of the log: a row that changed behind the copy would stay in the new place as it was.
"""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, LargeBinary, Text, case, cast, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from whatsms_events.domain.retention import KeptRow
from whatsms_events.storage.database import CHUNK, Database
from whatsms_events.storage.tables import event_log

BLANKING: Final = "blanking"
"""The role lock of everybody who blanks, and of `log copy`."""

PIECE_BYTES: Final = 4 * 1024 * 1024
"""Bytes of rows that are blanked in one transaction, about: SQLite overwrites all of them while nobody can append."""


class Blanking:
    """Rows of one log, to be blanked. All verbs raise StorageUnavailableError where the database is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def rows(self, after: int, through: int, limit: int) -> list[KeptRow]:
        """Return the rows behind a position, up to another one: at most `limit`. No bytes are read."""
        table = event_log.c
        query = select(
            table.position,
            table.tenant,
            table.received_at,
            func.coalesce(func.length(table.raw), 0),
            table.raw.is_not(None),
            table.data.is_not(None),
        ).where(table.position > after, table.position <= through)
        async with self._database.read() as connection:
            found = await connection.execute(query.order_by(table.position).limit(limit))
            return [
                KeptRow(position, tenant, received_at, int(size), bool(has_raw), bool(has_data))
                for position, tenant, received_at, size, has_raw, has_data in found
            ]

    async def blank(self, positions: Sequence[int], *, data: bool = True) -> int:
        """Blank the bytes of these rows, and their data too unless `data` is false; return how many rows had any.

        One transaction, so hand in a piece: a few hundred rows, about PIECE_BYTES. Afterwards the bytes are still in
        the WAL of SQLite, and in dead rows of PostgreSQL: see `storage.scrubbing`.
        """
        async with self._database.write() as connection:
            return await blank_rows(connection, positions, data=data)


async def blank_rows(connection: AsyncConnection, positions: Sequence[int], *, data: bool = True) -> int:
    """Blank rows of the log in the caller's transaction, as `Blanking.blank` does."""
    blanked = 0
    for start in range(0, len(positions), CHUNK):
        some = event_log.c.position.in_(positions[start : start + CHUNK])
        kept: ColumnElement[bool] = event_log.c.raw.is_not(None)
        if data:
            kept = kept | event_log.c.data.is_not(None)
        if connection.dialect.name == "sqlite":
            # First as zeros of the same length: a row that keeps its size stays where it is and is overwritten there.
            # A row that shrinks lets SQLite move its neighbours, and they must have nothing left to leave behind.
            await connection.execute(update(event_log).where(some, kept).values(_zeros(data=data)))
        gone: dict[str, Any] = {"raw": None, "data": None} if data else {"raw": None}
        blanked += (await connection.execute(update(event_log).where(some, kept).values(gone))).rowcount
    return blanked


def _zeros(*, data: bool) -> dict[str, Any]:
    raw, text = event_log.c.raw, event_log.c.data
    zeros = {"raw": case((raw.is_not(None), func.zeroblob(func.length(raw))))}
    if data:
        length = func.length(cast(text, LargeBinary))
        zeros["data"] = case((text.is_not(None), cast(func.zeroblob(length), Text)))
    return zeros
