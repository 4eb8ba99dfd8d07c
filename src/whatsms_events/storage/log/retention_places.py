"""This module keeps how far retention is in the log, and blanks a piece together with moving on."""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, select

from whatsms_events.domain.events import to_micros
from whatsms_events.domain.retention import Group, Place, Sweep
from whatsms_events.storage.database import Database, insert
from whatsms_events.storage.log.blanking import blank_rows
from whatsms_events.storage.tables import retention


@dataclass(frozen=True, slots=True)
class TakenPiece:
    """How many rows of a piece had anything, and for how long, in seconds, it kept others from appending."""

    rows: int
    held_s: float


class RetentionPlaces:
    """The table `retention`. All verbs raise StorageUnavailableError where the database is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> dict[str, Place]:
        """Return the places by the keys of their groups."""
        table = retention.c
        query = select(table.term, table.through, table.left_at, table.left_due)
        async with self._database.read() as connection:
            return {row.term: Place(row.through, row.left_at, row.left_due) for row in await connection.execute(query)}

    async def take(self, group: Group, sweep: Sweep, now: datetime) -> TakenPiece:
        """Blank what is due and move the place, in one transaction."""
        clock = asyncio.get_running_loop().time
        changes = {
            "through": sweep.place.through,
            "left_at": sweep.place.left_at,
            "left_due": sweep.place.left_due,
            "updated_at": to_micros(now),
        }
        async with self._database.write() as connection:
            began = clock()
            blanked = await blank_rows(connection, sweep.due, data=group.kind == "data")
            move = insert(connection, retention).values(term=group.key, kind=group.kind, **changes)
            await connection.execute(move.on_conflict_do_update(index_elements=["term"], set_=changes))
        return TakenPiece(blanked, clock() - began)

    async def keep(self, keys: Collection[str]) -> None:
        """Forget the places of all other groups: where one comes back, its rows are looked at again."""
        async with self._database.write() as connection:
            await connection.execute(delete(retention).where(retention.c.term.not_in(keys)))
