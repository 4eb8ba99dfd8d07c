"""This module blanks what was written in messages once its days are over, and leaves the messages.

A pass reads every message, revision and ticket by its key, without the texts themselves. Each piece that blanks moves
the projection's generation, since a consumer may hold the rows in memory: the consumer then begins anew.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import delete, literal, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from whatsms_events.domain.personal import blanked_row
from whatsms_events.domain.retention import Group
from whatsms_events.domain.rows import Key, Table, Version
from whatsms_events.domain.texts import TEXTS, is_over, told_at
from whatsms_events.storage.database import Database
from whatsms_events.storage.projection.rows import load, save
from whatsms_events.storage.tables import message_revision, projection, projection_metadata

TABLES: Final[tuple[Table, ...]] = ("message", "message_revision", "ticket")

_versions = msgspec.json.Decoder(dict[str, Version])


@dataclass(frozen=True, slots=True)
class TextsPiece:
    """What a piece of a pass did: where to go on (None at the end), rows it read, rows it blanked, and the oldest left.

    `oldest`: by the key of a group, in microseconds.
    """

    place: Key | None
    rows: int
    blanked: int
    oldest: Mapping[str, int]


class Texts:
    """The texts of one projection. Verbs raise StorageUnavailableError where the database is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def expire(self, after: Key | None, groups: Sequence[Group], now: datetime, limit: int) -> TextsPiece:
        """Read the next rows behind a key, and blank what is over; None begins a pass."""
        table = TABLES[0] if after is None else after.table
        found = await self._read(table, after, limit)
        over: set[Key] = set()
        oldest: dict[str, int] = {}
        for key, time in found:
            group = _group_of(key.tenant, groups)
            if group is None or time is None:
                continue
            if time <= group.cutoff(now):
                over.add(key)
            else:
                oldest[group.key] = min(time, oldest.get(group.key, time))
        blanked = await self._blank(over, groups, now) if over else 0
        place = found[-1][0] if len(found) == limit else _behind(table)
        return TextsPiece(place, len(found), blanked, oldest)

    async def _read(self, table: Table, after: Key | None, limit: int) -> list[tuple[Key, int | None]]:
        """Return the next keys of a table, each with the time of its texts: None where it has none."""
        source = projection_metadata.tables[table]
        key = list(source.primary_key)
        held = [source.c[name].is_not(None).label(name) for name in TEXTS[table]]
        first_at = source.c.first_at if table == "message_revision" else literal(0)
        query = select(*key, source.c.versions, first_at, *held).order_by(*key).limit(limit)
        if after is not None and after.id:
            place = (after.tenant, after.id, after.digest)[: len(key)]
            query = query.where(tuple_(*key) > tuple_(*map(literal, place)))
        found = []
        async with self._database.read() as connection:
            for row in await connection.execute(query):
                names = [name for name, there in zip(TEXTS[table], row[len(key) + 2 :], strict=True) if there]
                time = max(row[len(key) + 1], told_at(names, _versions.decode(row.versions))) if names else None
                found.append((Key(table, *row[: len(key)]), time))
        return found

    async def _blank(self, over: Collection[Key], groups: Sequence[Group], now: datetime) -> int:
        """Blank these rows, as they are now: a newer text may have come since they were read."""
        async with self._database.write() as connection:
            # The consumer's own first statement: one of the two waits, and the consumer begins anew.
            await connection.execute(update(projection).values(generation=projection.c.generation + 1))
            revisions = [key for key in over if key.table == "message_revision"]
            rows = await load(connection, [key for key in over if key.table != "message_revision"])
            cutoffs = {key: group.cutoff(now) for key in rows if (group := _group_of(key.tenant, groups)) is not None}
            old = {key: row for key, row in rows.items() if key in cutoffs and is_over(key.table, row, cutoffs[key])}
            await save(connection, dict(blanked_row(key, row) for key, row in old.items()))
            return len(old) + await _forget(connection, revisions)


async def _forget(connection: AsyncConnection, revisions: Sequence[Key]) -> int:
    """Remove revisions: without its wording one says nothing. What tells it again later makes it anew."""
    column, removed = message_revision.c, 0
    for one in revisions:
        mine: Any = column.tenant == one.tenant, column.message_id == one.id, column.digest == one.digest
        removed += (await connection.execute(delete(message_revision).where(*mine))).rowcount
    return removed


def _behind(table: Table) -> Key | None:
    """Return where the next table begins; None behind the last one."""
    following = TABLES.index(table) + 1
    return Key(TABLES[following], "", "") if following < len(TABLES) else None


def _group_of(tenant: str, groups: Sequence[Group]) -> Group | None:
    return next((group for group in groups if group.has(tenant)), None)
