"""How the rows that a batch of events is about are loaded, folded and saved, many in one statement."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from operator import attrgetter, itemgetter
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, Dialect, Select, Text, any_, bindparam, func, select, tuple_, update
from sqlalchemy import Table as SqlTable
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from whatsms_events.domain import message_acks
from whatsms_events.domain.events import LogEntry
from whatsms_events.domain.gone import in_doubt
from whatsms_events.domain.rows import (
    COLUMNS,
    Claim,
    Key,
    Row,
    Table,
    Version,
    merge_in_order,
    names_only,
    tell_doubt,
    written,
)
from whatsms_events.domain.search import searched
from whatsms_events.errors import UnstorableError
from whatsms_events.storage import tables
from whatsms_events.storage.database import CHUNK
from whatsms_events.storage.trouble import translated

_TABLES: Final[Mapping[Table, SqlTable]] = {name: tables.projection_metadata.tables[name] for name in COLUMNS}

_COLUMNS: Final = {
    name: tuple(one.name for one in table.c if one.name in COLUMNS[name]) for name, table in _TABLES.items()
}
"""The columns of the fold, in the order of the table."""

_values: Final = {name: itemgetter(*columns) for name, columns in _COLUMNS.items()}
"""The values of a row in the order of the table."""

_MARKS: Final[Mapping[Table, tuple[str, ...]]] = {
    name: () if name == "message_revision" else ("known", "doubtful") for name in _TABLES
}
"""The columns of each table that tell something of the row as a whole."""

_FOUND: Final = frozenset({"name", "number"})
"""The columns of which a contact's search columns are made: see `domain.search`."""

_places: Final[Mapping[Table, Callable[[Key], tuple[str, ...]]]] = {
    name: attrgetter("tenant", "id", *(("digest",) if name == "message_revision" else ())) for name in _TABLES
}
"""The columns of the key of a row of each table."""

_NO_ROWS: Final[Mapping[Key, Row]] = {}

ALIKE: Final = 8
"""With fewer rows a statement of its own costs more than it saves. On SQLite it costs as much as eight whole rows, half
a millisecond; on PostgreSQL, which plans each statement, more."""

TURN: Final = 200
"""After so many events (some milliseconds) the other tasks of the loop have their turn: a receiver must answer."""

LONG_TURN: Final = 1000
"""The same for what takes some microseconds for each."""

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
        self._current: dict[Key, Row] = {}
        self._acks: list[tuple[str, float | None]] = []

    @property
    def rows(self) -> Mapping[Key, Row]:
        """Each row that was looked at, as it is saved."""
        return self._current

    @property
    def acks(self) -> Sequence[tuple[str, float | None]]:
        """What messages newly reached: see `message_acks.reached`."""
        return self._acks

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
        told = await _by_row(readings)
        held = await self._load(connection, told)
        changed: dict[Key, Row] = {}
        acks: list[tuple[str, float | None]] = []
        for number, (key, claims) in enumerate(told.items(), 1):
            row = held.get(key)
            after = merge_in_order(row, claims)
            if after is not row:
                changed[key] = after
                if key.table == "message":
                    acks += message_acks.reached(row, after)
            if number % TURN == 0:
                await asyncio.sleep(0)
        await save(connection, changed, held)
        held.update(changed)
        self._current = held
        self._acks += acks

    async def _load(self, connection: AsyncConnection, keys: Collection[Key]) -> dict[Key, Row]:
        """Return all rows that are held, with those of these that exist: in memory, or else in the database."""
        held, hot = {**self._current}, self._hot
        missing: list[Key] = []
        revisions: list[Key] = []
        for key in keys:
            if key not in held:
                row = hot.get(key)
                if row is not None:
                    held[key] = row
                else:
                    (revisions if key.table == "message_revision" else missing).append(key)
        held.update(await load(connection, missing))
        # What tells of a revision tells of its message too: a message that is not there has none.
        known = [key for key in revisions if Key("message", key.tenant, key.id) in held]
        held.update(await load(connection, known))
        return held


async def _by_row(readings: Sequence[ClaimedEvent]) -> dict[Key, list[tuple[Claim, int]]]:
    """Return what the events claim of each row, in their order, each claim with its position.

    What becomes of a row follows from the claims of it alone, so each row is folded at once. A claim that only names a
    row counts where no other claim comes before it.
    """
    told: dict[Key, list[tuple[Claim, int]]] = defaultdict(list)
    for number, one in enumerate(readings, 1):
        position = one.entry.position
        for claim in one.claims:
            key = claim.key
            if claim.registers or key not in told or not names_only(claim):
                told[key].append((claim, position))
        if number % LONG_TURN == 0:
            await asyncio.sleep(0)
    return told


async def load(connection: AsyncConnection, keys: Collection[Key]) -> dict[Key, Row]:
    """Return those of the rows that exist."""
    wanted: dict[tuple[Table, str], list[Key]] = defaultdict(list)
    for key in keys:
        wanted[key.table, key.tenant].append(key)
    found: dict[Key, Row] = {}
    for (table, tenant), group in wanted.items():
        group.sort(key=attrgetter("id"))
        for start in range(0, len(group), CHUNK):
            some = group[start : start + CHUNK]
            given = {"of": tenant, **_given(connection.dialect, table, some)}
            rows = await connection.execute(_select(connection.dialect, table), given)
            found.update(_row(table, tenant, record) for record in rows)
    return found


async def save(connection: AsyncConnection, rows: Mapping[Key, Row], held: Mapping[Key, Row] = _NO_ROWS) -> None:
    """Write rows: what differs of those in `held`, which are in the database just so, and the others whole.

    SQLite writes an index anew for each column that a statement names, whether its value is another one or not: the
    same rows written whole cost it twice as much. But a statement has its own price too, so rows are written whole
    where fewer than ALIKE of them differ in the same columns.
    """
    whole: dict[Table, list[tuple[Key, Row]]] = defaultdict(list)
    parts: dict[tuple[Table, tuple[str, ...]], list[tuple[Key, Row]]] = defaultdict(list)
    for key, row in rows.items():
        before = held.get(key)
        if before is None:
            whole[key.table].append((key, row))
        else:
            parts[key.table, _difference(key.table, before, row)].append((key, row))
    # Straight to the driver: all values are plain, and binding them by name costs as much as the fold.
    for (table, names), group in parts.items():
        if len(group) < ALIKE:
            whole[table] += group
        else:
            change, record, place = _change(connection.dialect, table, names), _recorder(table, names), _places[table]
            for some in _pieces(group):
                await connection.exec_driver_sql(change, [record(row) + place(key) for key, row in some])
    for table, group in whole.items():
        insert, record, place = _upsert(connection.dialect, table), _recorder(table, _COLUMNS[table]), _places[table]
        for some in _pieces(group):
            await connection.exec_driver_sql(insert, [place(key) + record(row) for key, row in some])


def _pieces(rows: Sequence[tuple[Key, Row]]) -> Iterator[Sequence[tuple[Key, Row]]]:
    return (rows[start : start + LONG_TURN] for start in range(0, len(rows), LONG_TURN))


@cache
def _select(dialect: Dialect, table: Table) -> Select[Any]:
    """Ask for id, digest or `known`, versions, and the columns of the fold: in this order `_row` reads them."""
    column = _TABLES[table].c
    revision = table == "message_revision"
    id_, mark = (column.message_id, column.digest) if revision else (column.id, column.known)
    query = select(id_, mark, column.versions, *(column[name] for name in _COLUMNS[table]))
    among = _among_pairs(dialect, id_, mark) if revision else _among(dialect, id_)
    return query.where(column.tenant == bindparam("of"), among)


def _among(dialect: Dialect, column: ColumnElement[str]) -> ColumnElement[bool]:
    """Return the condition that an id is one of those that `_given` gives, for a statement that is made once."""
    if dialect.name == "postgresql":
        return column == any_(bindparam("ids", type_=postgresql.ARRAY(Text)))
    return column.in_(select(_each()))


def _among_pairs(dialect: Dialect, id_: ColumnElement[str], digest: ColumnElement[str]) -> ColumnElement[bool]:
    """Return the same for id and digest, pair by pair: both databases would look for each id with each digest."""
    wanted: Select[Any]
    if dialect.name == "postgresql":
        wanted = select(*(func.unnest(bindparam(name, type_=postgresql.ARRAY(Text))) for name in ("ids", "digests")))
    else:
        wanted = select(*(func.json_extract(_each(), f"$[{number}]") for number in range(2)))
    return tuple_(id_, digest).in_(wanted)


@cache
def _each() -> ColumnElement[Any]:
    """Return what SQLite reads of the list in the parameter `ids`."""
    return func.json_each(bindparam("ids", type_=Text)).table_valued("value").c.value


def _given(dialect: Dialect, table: Table, keys: Sequence[Key]) -> dict[str, Any]:
    """Return the keys as parameters: a statement with one for each id takes longer to write than to run."""
    revision = table == "message_revision"
    if dialect.name == "postgresql":
        given = {"ids": [key.id for key in keys]}
        return {**given, "digests": [key.digest for key in keys]} if revision else given
    if any("\0" in key.id for key in keys):
        raise UnstorableError("an id has a NUL, which ends a text of JSON")  # as PostgreSQL refuses it
    return {"ids": msgspec.json.encode([(key.id, key.digest) if revision else key.id for key in keys]).decode()}


@cache
def _upsert(dialect: Dialect, table: Table) -> str:
    """Return the statement; its parameters are the columns in the order of the table."""
    source = _TABLES[table]
    statement = (postgresql.insert if dialect.name == "postgresql" else sqlite.insert)(source)
    changes = {column.name: statement.excluded[column.name] for column in source.c if not column.primary_key}
    return str(
        statement.on_conflict_do_update(index_elements=list(source.primary_key), set_=changes).compile(dialect=dialect)
    )


@lru_cache(maxsize=256)  # which columns differ is up to the events: there may be thousands of combinations
def _change(dialect: Dialect, table: Table, names: tuple[str, ...]) -> str:
    """Return the statement; its parameters are what `_recorder` makes of these columns, and the key."""
    source = _TABLES[table]
    mine = (column == bindparam(f"of_{column.name}") for column in source.primary_key)
    columns = (*_MARKS[table], *names, "versions", *(tables.FOUND_BY if _is_found_by(table, names) else ()))
    statement = update(source).where(*mine).values({name: bindparam(name) for name in columns})
    return str(statement.compile(dialect=dialect))


def _row(table: Table, tenant: str, record: Sequence[Any]) -> tuple[Key, Row]:
    id_, mark, versions, *values = record
    fields = dict(zip(_COLUMNS[table], values, strict=True))
    if table == "message_revision":
        return Key(table, tenant, id_, mark), Row(known=True, values=fields, versions=_versions.decode(versions))
    return Key(table, tenant, id_), Row(known=mark, values=fields, versions=_versions.decode(versions))


@lru_cache(maxsize=256)
def _recorder(table: Table, names: tuple[str, ...]) -> Callable[[Row], tuple[Any, ...]]:
    """Return what makes of a row its marks, these columns, its versions, and what a contact is found by: in this order.

    Several of these are made for each batch, and each row of it goes through one.
    """
    take, found_by, revision = _taker(names), _is_found_by(table, names), table == "message_revision"

    def record(row: Row) -> tuple[Any, ...]:
        versions, values = written(row.versions), row.values
        if revision:
            return (*take(values), versions)
        doubtful = tell_doubt(versions) or in_doubt(values["gone"], row.versions)
        told = row.known, doubtful, *take(values), versions
        return told + searched(values) if found_by else told

    return record


def _taker(names: Sequence[str]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    """Return what takes these columns of a row, which may be none, all at once."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda values: tuple([values[name] for name in names])


def _is_found_by(table: Table, names: Sequence[str]) -> bool:
    """Tell whether what a row is found by depends on these columns: only a contact is found by its name and number."""
    return table == "contact" and not _FOUND.isdisjoint(names)


def _difference(table: Table, before: Row, after: Row) -> tuple[str, ...]:
    """Return the columns of the fold that differ, in the order of the table."""
    get = _values[table]
    named = zip(_COLUMNS[table], get(before.values), get(after.values), strict=True)
    return tuple([name for name, old, new in named if old is not new and old != new])
