"""This module reads the event log from a position on. Positions are the order of commits, so nothing is skipped.

All appends go through the committer, but for a parked delivery that is tried again: `parked` appends that.
"""

import bisect
import itertools
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgspec
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Integer,
    Row,
    Select,
    String,
    bindparam,
    case,
    func,
    null,
    select,
    type_coerce,
)

from whatsms_events.domain.events import Checkpoint, Event, EventType, LogEntry, from_micros
from whatsms_events.domain.replay import WHOLE, Selection
from whatsms_events.errors import IntegrityError
from whatsms_events.storage.database import Database
from whatsms_events.storage.log.selected import matches
from whatsms_events.storage.tables import event_log, log

READ_LIMIT: Final = 10_000
READ_LIMIT_BYTES: Final = 8 * 1024 * 1024
"""Raw bytes in one read. The row that exceeds it is still returned, so that one huge event cannot stop a reader."""

_IDS_LIMIT: Final = 500

_TYPES: Final = {event_type.value: event_type for event_type in EventType}  # looked up once per event

# As the driver gives it: text of SQLite, which `_id` reads in a third of the time that SQLAlchemy takes.
_ID: Final = type_coerce(event_log.c.id, String).label("id")

_EVENT = (
    event_log.c.position,
    _ID,
    event_log.c.type,
    event_log.c.tenant,
    event_log.c.occurred_at,
    event_log.c.received_at,
    event_log.c.origin,
    event_log.c.subject,
    event_log.c.ticket_id,
    event_log.c.contact_id,
    event_log.c.message_id,
)


class StoredEvent(NamedTuple):
    """An event with the bytes that it came as: None where retention blanked them, or where it is not `wanted`."""

    entry: LogEntry
    raw: bytes | None
    wanted: bool


class EventLog:
    """The log as its readers see it. All verbs raise StorageUnavailableError where the database is away.

    A read gives `read_limit` rows at most, and about `read_limit_bytes`.
    """

    def __init__(
        self, database: Database, *, read_limit: int = READ_LIMIT, read_limit_bytes: int = READ_LIMIT_BYTES
    ) -> None:
        self.read_limit = read_limit
        self._database = database
        self._read_limit_bytes = read_limit_bytes
        self._log_id: UUID | None = None

    async def log_id(self) -> UUID:
        """Return the log's identity, made once with its tables."""
        if self._log_id is None:
            async with self._database.read() as connection:
                self._log_id = (await connection.execute(select(log.c.log_id))).scalar_one()
        return self._log_id

    async def end(self) -> int:
        """Return the highest position, 0 when the log is empty."""
        async with self._database.read() as connection:
            highest = (await connection.execute(select(func.max(event_log.c.position)))).scalar_one()
        return 0 if highest is None else int(highest)

    async def read(self, after: int, limit: int) -> list[LogEntry]:
        """Return the events after a position, in order: at most `limit`, and about 8 MiB."""
        return [_entry(row) for row in await self._rows(_behind(WHOLE), limit, start=after + 1)]

    async def read_from(self, checkpoint: Checkpoint | None, limit: int) -> list[LogEntry]:
        """Return the events after a checkpoint, from the beginning where it is None.

        The checkpoint's own row is read too: raise IntegrityError where it holds another event, or the log is another
        one. So a log that was restored from an older copy never goes unnoticed.
        """
        return [_entry(row) for row in await self._rows_from(checkpoint, limit)]

    async def read_stored_from(
        self, checkpoint: Checkpoint | None, limit: int, selection: Selection = WHOLE
    ) -> list[StoredEvent]:
        """Return what `read_from` returns, each with its bytes, up to the last position of the selection.

        What the selection leaves out comes too, as not wanted, without data and bytes: so a reader can move past it.
        """
        rows = await self._rows_from(checkpoint, limit, selection, with_raw=True)
        return [_stored(row) for row in rows]

    async def read_at(self, positions: Sequence[int]) -> list[StoredEvent]:
        """Return the events at these positions, in order, with their bytes: at most about 8 MiB, but one at least."""
        query = _query(event_log.c.position.in_(sorted(positions)[:_IDS_LIMIT]), WHOLE, with_raw=True)
        rows = await self._rows(query, _IDS_LIMIT)
        return [_stored(row) for row in rows]

    async def _rows_from(
        self, checkpoint: Checkpoint | None, limit: int, selection: Selection = WHOLE, *, with_raw: bool = False
    ) -> Sequence[Row[Any]]:
        query = _behind(selection, with_raw=with_raw)
        if checkpoint is None:
            return await self._rows(query, limit, start=selection.first, last=selection.last)
        if checkpoint.log_id != await self.log_id():
            raise IntegrityError(f"the checkpoint is of log {checkpoint.log_id}, this is log {await self.log_id()}")
        own = checkpoint.position
        last = None if selection.last is None else max(selection.last, own)
        rows = await self._rows(query, limit + 1, start=own, own=own, last=last)
        if not rows or (rows[0].position, _id(rows[0].id)) != (own, checkpoint.event_id):
            raise IntegrityError(
                f"the log does not hold event {checkpoint.event_id} at position {checkpoint.position}: "
                "it was restored from an older copy, or it is another log"
            )
        return rows[1:]

    async def ids_at(self, positions: Collection[int]) -> dict[int, UUID]:
        """Return the ids of the events at these positions; positions that are empty are left out."""
        wanted = sorted(positions)
        found: dict[int, UUID] = {}
        async with self._database.read() as connection:
            for start in range(0, len(wanted), _IDS_LIMIT):
                some = event_log.c.position.in_(wanted[start : start + _IDS_LIMIT])
                rows = await connection.execute(select(event_log.c.position, event_log.c.id).where(some))
                found.update((row.position, row.id) for row in rows)
        return found

    async def raw(self, position: int) -> bytes | None:
        """Return the bytes as they were received, None where nothing is or retention blanked them."""
        async with self._database.read() as connection:
            rows = await connection.execute(select(event_log.c.raw).where(event_log.c.position == position))
            return rows.scalar_one_or_none()

    async def latest_raw(self, tenant: str, count: int) -> list[tuple[int, bytes]]:
        """Return position and bytes of a tenant's last deliveries, the latest first; at most about 8 MiB of them."""
        some = event_log.c.tenant == tenant, event_log.c.origin == "webhook", event_log.c.raw.is_not(None)
        latest = event_log.c.position.desc()
        sizes = select(func.length(event_log.c.raw)).where(*some).order_by(latest).limit(count)
        async with self._database.read() as connection:
            totals = list(itertools.accumulate((await connection.execute(sizes)).scalars()))
            fitting = max(1, bisect.bisect_right(totals, self._read_limit_bytes))
            query = select(event_log.c.position, event_log.c.raw).where(*some).order_by(latest)
            rows = await connection.execute(query.limit(min(count, fitting)))
            return [(int(position), raw) for position, raw in rows]

    async def _rows(
        self, query: Select[Any], limit: int, *, start: int = 0, own: int = 0, last: int | None = None
    ) -> Sequence[Row[Any]]:
        """Return events in order, as `_entry` and `_stored` take them, but for the data of the one at `own`.

        That row does not count towards the size limit. Otherwise a reader whose checkpoint is at a row over the limit
        would get that row alone, again and again.
        """
        given = {"start": start, "own": own, "last": last}
        limits = {"rows": min(limit, self.read_limit), "bytes": self._read_limit_bytes}
        async with self._database.read() as connection:
            rows: Sequence[Row[Any]] = (await connection.execute(query, given | limits)).all()
        return rows


@lru_cache(maxsize=16)
def _behind(selection: Selection, *, with_raw: bool = False) -> Select[Any]:
    """Return the query for what a selection has from `start` on; to make it takes as long as to read 100 events."""
    place = event_log.c.position >= bindparam("start")
    if selection.last is not None:
        place &= event_log.c.position <= bindparam("last")
    return _query(place, selection, with_raw=with_raw)


def _query(place: ColumnElement[bool], selection: Selection, *, with_raw: bool) -> Select[Any]:
    shown = (event_log.c.position != bindparam("own")) & matches(selection)
    columns = [*_EVENT, case((shown, event_log.c.data), else_=null()).label("data")]
    if with_raw:
        columns += [case((shown, event_log.c.raw), else_=null()).label("raw"), shown.label("wanted")]
    query = select(*columns).where(place, event_log.c.position <= _last(place, shown))
    return query.order_by(event_log.c.position)


def _last(place: ColumnElement[bool], shown: ColumnElement[bool]) -> ColumnElement[int]:
    """Return the position to stop at. The sizes are those of `raw`: both databases know them without reading it.

    Nearly always all rows fit. One sum tells that in half the time that a sum up to each row takes.
    """
    size = case((shown, func.coalesce(func.length(event_log.c.raw), 0)), else_=0)
    some = (
        select(event_log.c.position, size.label("size"))
        .where(place)
        .order_by(event_log.c.position)
        .limit(bindparam("rows", type_=Integer))
        .subquery()
    )
    limit = bindparam("bytes", type_=BigInteger)
    all_of_them = select(case((func.sum(some.c.size) < limit, func.max(some.c.position))))
    before = func.sum(some.c.size).over(order_by=some.c.position) - some.c.size
    sums = select(some.c.position, before.label("before")).subquery()
    those_that_fit = select(func.max(sums.c.position)).where(sums.c.before < limit)
    return func.coalesce(all_of_them.scalar_subquery(), those_that_fit.scalar_subquery())


def _stored(row: Row[Any]) -> StoredEvent:
    return StoredEvent(_entry(row[:-2]), row.raw, bool(row.wanted))


def _id(found: str | UUID) -> UUID:
    return msgspec.convert(found, UUID) if isinstance(found, str) else found


def _entry(row: Sequence[Any]) -> LogEntry:
    """Return the event of a row: the columns of `_EVENT` and the data, by their places, since names cost far more."""
    position, id_, type_, tenant, occurred_at, received_at, origin, subject, ticket_id, contact_id, message_id, data = (
        row
    )
    event_type = _TYPES.get(type_)
    if event_type is None:
        raise IntegrityError(f"position {position} has a type that this release does not know: {type_}")
    event = Event(
        id=_id(id_),
        type=event_type,
        tenant=tenant,
        occurred_at=None if occurred_at is None else from_micros(occurred_at),
        received_at=from_micros(received_at),
        origin=origin,
        subject=subject,
        ticket_id=ticket_id,
        contact_id=contact_id,
        message_id=message_id,
        data=b"" if data is None else data.encode("utf-8"),
    )
    return LogEntry(position=position, event=event)
