"""How the rows that a batch of events is about are loaded, folded and saved, many in one statement."""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from operator import itemgetter
from typing import Any, Final

import msgspec
from sqlalchemy import Dialect, Select, select
from sqlalchemy import Table as SqlTable
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from whatsms_events.domain.events import LogEntry
from whatsms_events.domain.fold import merge_all
from whatsms_events.domain.gone import in_doubt
from whatsms_events.domain.rows import COLUMNS, Claim, Key, Row, Table, Version, written
from whatsms_events.domain.search import searched
from whatsms_events.errors import UnstorableError
from whatsms_events.storage import tables
from whatsms_events.storage.database import CHUNK, among
from whatsms_events.storage.trouble import translated

_TABLES: Final[Mapping[Table, SqlTable]] = {name: tables.projection_metadata.tables[name] for name in COLUMNS}

_COLUMNS: Final = {
    name: tuple(one.name for one in table.c if one.name in COLUMNS[name]) for name, table in _TABLES.items()
}
"""The columns of the fold, in the order of the table."""

_values: Final = {name: itemgetter(*columns) for name, columns in _COLUMNS.items()}
"""The values of a row in the order of the table."""

TURN: Final = 200
"""After so many events (some milliseconds) the other tasks of the loop have their turn: a receiver must answer."""

_versions = msgspec.json.Decoder(dict[str, Version])


class ClaimedEvent(msgspec.Struct, frozen=True, gc=False):
    """One event of a batch: its number there, what it claims, and which of its times could not be read."""

    number: int
    entry: LogEntry
    claims: Sequence[Claim]
    unreadable: Sequence[str]


class Folding:
    """The rows of one transaction: as they were when it began, and as they are.

    `hot` are rows that need not be loaded, since they are just what the database holds.
    """

    def __init__(self, hot: Mapping[Key, Row]) -> None:
        self._hot = hot
        self._before: dict[Key, Row] = {}
        self._current: dict[Key, Row] = {}
        self._changed: set[Key] = set()

    @property
    def rows(self) -> Mapping[Key, Row]:
        """Each row that was looked at, as it is saved."""
        return self._current

    def changes(self, table: Table) -> Iterator[tuple[Row | None, Row]]:
        """Return each changed row of a table, before (None for a new one) and after."""
        return ((self._before.get(key), self._current[key]) for key in self._changed if key.table == table)

    async def fold(self, connection: AsyncConnection, readings: Sequence[ClaimedEvent]) -> dict[int, str]:
        """Load, fold and save all at once; where the database refuses a row, by halves, until its event is alone.

        Returns the refused events by number, with what the database said; nothing of them is saved.
        """
        try:
            with translated():
                async with connection.begin_nested():
                    await self._fold(connection, readings)
        except UnstorableError as error:
            if len(readings) == 1:
                return {readings[0].number: str(error)}
            middle = len(readings) // 2
            first = await self.fold(connection, readings[:middle])
            return first | await self.fold(connection, readings[middle:])
        return {}

    async def _fold(self, connection: AsyncConnection, readings: Sequence[ClaimedEvent]) -> None:
        unseen = {claim.key for one in readings for claim in one.claims} - self._current.keys()
        before = {key: row for key in unseen if (row := self._hot.get(key)) is not None}
        missing = unseen - before.keys()
        found = await load(connection, missing)
        # The question may bring rows that nobody asked for: what is held must not be replaced by them.
        before.update((key, row) for key, row in found.items() if key in missing)
        current = {**self._current, **before}
        changed: dict[Key, Row] = {}
        for number, one in enumerate(readings, 1):
            after = merge_all(one.claims, one.entry.position, current)
            current.update(after)
            changed.update(after)
            if number % TURN == 0:
                await asyncio.sleep(0)
        await save(connection, changed)
        self._before.update(before)
        self._current = current
        self._changed |= changed.keys()


async def load(connection: AsyncConnection, keys: Collection[Key]) -> dict[Key, Row]:
    """Return those of the rows that exist."""
    wanted: dict[tuple[Table, str], list[Key]] = defaultdict(list)
    for key in sorted(keys):
        wanted[key.table, key.tenant].append(key)
    found: dict[Key, Row] = {}
    for (table, tenant), group in wanted.items():
        for start in range(0, len(group), CHUNK):
            query = _select(connection, table, tenant, group[start : start + CHUNK])
            found.update(_row(table, tenant, record) for record in await connection.execute(query))
    return found


async def save(connection: AsyncConnection, rows: Mapping[Key, Row]) -> None:
    """Write whole rows, new ones and old ones."""
    records: dict[Table, list[tuple[Any, ...]]] = defaultdict(list)
    for key, row in rows.items():
        records[key.table].append(_record(key, row))
    for table, group in records.items():
        # Straight to the driver: all values are plain, and binding them by name costs as much as the fold.
        await connection.exec_driver_sql(_upsert(connection.dialect, table), group)


def _select(connection: AsyncConnection, table: Table, tenant: str, keys: list[Key]) -> Select[Any]:
    """Ask for id, digest or `known`, versions, and the columns of the fold: in this order `_row` reads them."""
    column = _TABLES[table].c
    revision = table == "message_revision"
    id_, mark = (column.message_id, column.digest) if revision else (column.id, column.known)
    query = select(id_, mark, column.versions, *(column[name] for name in _COLUMNS[table]))
    query = query.where(column.tenant == tenant, among(connection, id_, sorted({key.id for key in keys})))
    if revision:
        # Where two messages share a wording, this may bring rows that nobody asked for.
        query = query.where(among(connection, mark, sorted({key.digest for key in keys})))
    return query


@cache
def _upsert(dialect: Dialect, table: Table) -> str:
    """Return the statement; its parameters are the columns in the order of the table."""
    source = _TABLES[table]
    statement = (postgresql.insert if dialect.name == "postgresql" else sqlite.insert)(source)
    changes = {column.name: statement.excluded[column.name] for column in source.c if not column.primary_key}
    return str(
        statement.on_conflict_do_update(index_elements=list(source.primary_key), set_=changes).compile(dialect=dialect)
    )


def _row(table: Table, tenant: str, record: Sequence[Any]) -> tuple[Key, Row]:
    id_, mark, versions, *values = record
    fields = dict(zip(_COLUMNS[table], values, strict=True))
    if table == "message_revision":
        return Key(table, tenant, id_, mark), Row(known=True, values=fields, versions=_versions.decode(versions))
    return Key(table, tenant, id_), Row(known=mark, values=fields, versions=_versions.decode(versions))


def _record(key: Key, row: Row) -> tuple[Any, ...]:
    """Return the columns in the order of the table."""
    values = _values[key.table](row.values)
    versions = written(row.versions)
    if key.table == "message_revision":
        return (key.tenant, key.id, key.digest, *values, versions)
    doubtful = row.doubtful or in_doubt(row.values["gone"], row.versions)
    found_by = searched(row.values) if key.table == "contact" else ()
    return (key.tenant, key.id, row.known, doubtful, *values, versions, *found_by)
