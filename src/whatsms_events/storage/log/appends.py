"""This module has the statements of a group commit, which go to the drivers directly.

Each is one statement in autocommit and one round trip. That of events says `ON CONFLICT (id) DO NOTHING`, never
`OR IGNORE`, which drops a refused row silently. Errors are the driver's own: the caller translates them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Protocol
from uuid import UUID

import asyncpg

from whatsms_events.domain.bodies import storable
from whatsms_events.domain.events import to_micros
from whatsms_events.domain.verdicts import Append, Park
from whatsms_events.errors import StorageUnavailableError
from whatsms_events.storage.database import Database
from whatsms_events.storage.log.suppression import READ_LIMIT, STATEMENT_TIMEOUT_S, MarkRow

EventRow = tuple[
    UUID,
    str,
    str,
    int | None,
    int,
    str,
    str | None,
    str | None,
    str | None,
    str | None,
    bytes,
    str,
    bytes | None,
    str | None,
]
"""The values of EVENT_COLUMNS, in their order."""

EVENT_COLUMNS: Final = (
    "id",
    "type",
    "tenant",
    "occurred_at",
    "received_at",
    "origin",
    "subject",
    "ticket_id",
    "contact_id",
    "message_id",
    "sha256",
    "data",
    "raw",
    "signed_by",
)

CountRow = tuple[UUID, int, int]
"""id, how often, last received_at."""

ParkRow = tuple[UUID, str, str, str, int, str | None, bytes, bytes, str | None, int]
"""id, tenant, reason, detail, received_at, content_encoding, sha256, raw, signed_by, count."""

TEXT_LIMIT: Final = 1024


def event_row(item: Append) -> EventRow:
    """Return the columns of an event."""
    event = item.event
    return (
        event.id,
        event.type.value,
        event.tenant,
        None if event.occurred_at is None else to_micros(event.occurred_at),
        to_micros(event.received_at),
        event.origin,
        event.subject,
        event.ticket_id,
        event.contact_id,
        event.message_id,
        item.sha256,
        event.data.decode("utf-8"),
        None if item.blanked else item.raw,
        item.signed_by,
    )


def park_row(item: Park, count: int) -> ParkRow:
    """Return the columns of a parked delivery. Its texts are made storable, since a refused row could not be parked."""
    return (
        item.id,
        _cut(item.tenant),
        item.reason,
        _cut(item.detail),
        to_micros(item.received_at),
        None if item.content_encoding is None else _cut(item.content_encoding),
        item.sha256,
        item.raw,
        item.signed_by,
        count,
    )


def _cut(text: str) -> str:
    return storable(text)[:TEXT_LIMIT]


@dataclass(frozen=True, slots=True)
class StoredRow:
    """The columns that tell a redelivery from a collision, and our own second try from a redelivery."""

    position: int
    tenant: str
    sha256: bytes
    received_at: int


class Appends(Protocol):
    """The statements. No id may come twice in one call."""

    async def insert(self, rows: Sequence[EventRow]) -> dict[UUID, int]:
        """Append in this order; return the positions of the rows that are new."""

    async def find(self, ids: Sequence[UUID]) -> dict[UUID, StoredRow]:
        """Return what is in the log under these ids."""

    async def confirm(self, ids: Sequence[UUID]) -> None:
        """Return once these rows, whose commit was not answered, are as durable as if it had been answered."""

    async def count(self, rows: Sequence[CountRow]) -> None:
        """Add to the redeliveries of these ids."""

    async def park(self, rows: Sequence[ParkRow]) -> dict[UUID, int]:
        """Park, or count one that is parked already; return how often each came so far."""

    async def marks(self, number: int) -> Sequence[MarkRow]:
        """Return the marks of people who were forgotten behind a number, as `SuppressionTable.behind` does."""


def appends(database: Database, connection: Any) -> Appends:
    """Return the statements of the database's dialect on a connection lent by its `driver`."""
    if database.dialect == "sqlite":
        return SqliteAppends(connection, database.check)
    return PostgresAppends(connection)


_MARKS: Final = (
    "SELECT number, tenant, mark, forgotten_at, key_check FROM suppression WHERE number > {} ORDER BY number LIMIT {}"
)
_EVENT: Final = ", ".join(EVENT_COLUMNS)
_PARKED: Final = "id, tenant, reason, detail, received_at, content_encoding, sha256, raw, signed_by, count"
_ADD_COUNT: Final = (
    "ON CONFLICT (id) DO UPDATE SET count = redelivery.count + excluded.count,"
    " last_received_at = excluded.last_received_at"
)
# A delivery that was discarded and comes again is parked again: it is as true as it was, and somebody waits for it.
_ADD_PARKED: Final = (
    "ON CONFLICT (id) DO UPDATE SET count = parked_delivery.count + excluded.count, discarded_at = NULL"
    " RETURNING id, count"
)


@lru_cache(maxsize=2048)
def _values(rows: int, columns: int) -> str:
    one = f"({','.join('?' * columns)})"
    return ",".join([one] * rows)


class SqliteAppends:
    """SQLite: one statement of many rows is one hop to the connection's thread; executemany takes a step for each row.

    `check` raises StorageReplacedError where the path leads to another file. It is called before each statement, so
    that nothing is written to a file that is gone, and after it, to be sure that the commit is in the right file.
    """

    def __init__(self, connection: Any, check: Callable[[], None]) -> None:
        self._connection = connection
        self._check = check

    async def insert(self, rows: Sequence[EventRow]) -> dict[UUID, int]:
        """Append in this order; return the positions of the rows that are new."""
        sql = f"INSERT INTO event_log ({_EVENT}) VALUES {_values(len(rows), 14)} ON CONFLICT (id) DO NOTHING RETURNING id, position"  # noqa: E501, S608 - names and question marks only
        keys = {row[0].hex: row[0] for row in rows}  # a UUID takes longer to make than to look up
        return {keys[key]: position for key, position in await self._fetch(sql, rows)}

    async def find(self, ids: Sequence[UUID]) -> dict[UUID, StoredRow]:
        """Return what is in the log under these ids."""
        sql = f"SELECT id, position, tenant, sha256, received_at FROM event_log WHERE id IN {_values(1, len(ids))}"  # noqa: S608 - question marks only
        rows = await self._execute(sql, [key.hex for key in ids])
        return {UUID(key): StoredRow(*rest) for key, *rest in rows}

    async def confirm(self, ids: Sequence[UUID]) -> None:
        """Do nothing: a row that can be read from SQLite's file is on the disk."""

    async def count(self, rows: Sequence[CountRow]) -> None:
        """Add to the redeliveries of these ids."""
        await self._fetch(
            f"INSERT INTO redelivery (id, count, last_received_at) VALUES {_values(len(rows), 3)} {_ADD_COUNT}",  # noqa: S608 - names and question marks only
            rows,
        )

    async def park(self, rows: Sequence[ParkRow]) -> dict[UUID, int]:
        """Park, or count one that is parked already; return how often each came so far."""
        sql = f"INSERT INTO parked_delivery ({_PARKED}) VALUES {_values(len(rows), 10)} {_ADD_PARKED}"  # noqa: S608 - names and question marks only
        return {UUID(key): count for key, count in await self._fetch(sql, rows)}

    async def marks(self, number: int) -> Sequence[MarkRow]:
        """Return the marks of people who were forgotten behind a number, as `SuppressionTable.behind` does."""
        return [(*row,) for row in await self._execute(_MARKS.format("?", READ_LIMIT), [number])]

    async def _fetch(self, sql: str, rows: Sequence[tuple[UUID, *tuple[Any, ...]]]) -> list[tuple[Any, ...]]:
        # SQLAlchemy keeps a UUID as 32 hex digits on SQLite.
        return await self._execute(sql, [value for key, *rest in rows for value in (key.hex, *rest)])

    async def _execute(self, sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Execute, step to the end (there the commit happens, and there its errors come), and return the rows."""
        self._check()
        found = list(await self._connection.execute_fetchall(sql, values))
        self._check()
        return found


_PG_INSERT: Final = f"""
INSERT INTO event_log ({_EVENT})
SELECT {_EVENT}
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::text[], $7::text[], $8::text[],
            $9::text[], $10::text[], $11::bytea[], $12::text[], $13::bytea[], $14::text[])
     WITH ORDINALITY AS arrived ({_EVENT}, place)
ORDER BY place
ON CONFLICT (id) DO NOTHING
RETURNING id, position
"""  # noqa: S608 - names only
_PG_FIND: Final = "SELECT id, position, tenant, sha256, received_at FROM event_log WHERE id = ANY($1::uuid[])"
# If the connection breaks while a commit waits for a standby, its rows become visible without that wait. Locking them
# is a change of its own, and the commit of that waits for the standby.
_PG_CONFIRM: Final = "SELECT 1 FROM event_log WHERE id = ANY($1::uuid[]) FOR KEY SHARE"
_PG_COUNT: Final = f"""
INSERT INTO redelivery (id, count, last_received_at)
SELECT * FROM unnest($1::uuid[], $2::integer[], $3::bigint[]) {_ADD_COUNT}
"""  # noqa: S608 - names only
_PG_PARK: Final = f"""
INSERT INTO parked_delivery ({_PARKED})
SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::bytea[],
                     $8::bytea[], $9::text[], $10::integer[]) {_ADD_PARKED}
"""  # noqa: S608 - names only


class PostgresAppends:
    """PostgreSQL: arrays in constant SQL, so that one prepared statement serves every size of batch."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def insert(self, rows: Sequence[EventRow]) -> dict[UUID, int]:
        """Append in this order (a trigger takes the log's lock); return the positions of the rows that are new."""
        return dict(await self._fetch(_PG_INSERT, rows))  # asyncpg's UUIDs are ours too: to make others takes longer

    async def find(self, ids: Sequence[UUID]) -> dict[UUID, StoredRow]:
        """Return what is in the log under these ids."""
        rows = await self._fetch(_PG_FIND, [(key,) for key in ids])
        return {UUID(int=key.int): StoredRow(*rest) for key, *rest in rows}

    async def confirm(self, ids: Sequence[UUID]) -> None:
        """Commit another row after these: the commit returns when a synchronous standby has that row, and so these."""
        await self._fetch(_PG_CONFIRM, [(key,) for key in ids])

    async def count(self, rows: Sequence[CountRow]) -> None:
        """Add to the redeliveries of these ids."""
        await self._fetch(_PG_COUNT, rows)

    async def park(self, rows: Sequence[ParkRow]) -> dict[UUID, int]:
        """Park, or count one that is parked already; return how often each came so far."""
        return {UUID(int=key.int): count for key, count in await self._fetch(_PG_PARK, rows)}

    async def marks(self, number: int) -> Sequence[MarkRow]:
        """Return the marks of people who were forgotten behind a number, as `SuppressionTable.behind` does."""
        found = await self._ask(_MARKS.format("$1", READ_LIMIT), number)
        return [(*row,) for row in found]

    async def _fetch(self, sql: str, rows: Sequence[tuple[Any, ...]]) -> list[Any]:
        columns = [list(column) for column in zip(*rows, strict=True)]
        return await self._ask(sql, *columns)

    async def _ask(self, sql: str, *columns: Any) -> list[Any]:
        try:
            return list(await self._connection.fetch(sql, *columns, timeout=STATEMENT_TIMEOUT_S))
        except asyncpg.InternalClientError as exc:  # a connection that breaks in the wrong moment is reported like this
            raise StorageUnavailableError(type(exc).__name__) from exc
