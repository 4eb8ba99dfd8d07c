"""This module lists, shows, discards and restores parked events. `Projection.retry` retries them.

They could not be applied. What is discarded is kept, and can be restored, until retention takes it. Records that name
no log (reason `stray`) are parked too, but they are nobody's events: a retry leaves them out.
"""

import bisect
import itertools
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgspec
from sqlalchemy import ColumnElement, Select, func, literal, select, tuple_, update

from whatsms_events.domain.bodies import is_storable
from whatsms_events.domain.events import from_micros, to_micros
from whatsms_events.domain.records import STRAY
from whatsms_events.storage.database import Database
from whatsms_events.storage.tables import parked_event

PAGE_LIMIT: Final = 500
PAGE_BYTES: Final = 8 * 1024 * 1024

_headers = msgspec.json.Decoder(tuple[tuple[str, bytes], ...])


class ReadPlace(NamedTuple):
    """Where an event was read: "log" and its position, or "topic/partition" and an offset. Written source@at."""

    source: str
    at: int

    def __str__(self) -> str:
        """Write it as commands take it."""
        return f"{self.source}@{self.at}"


def parked_name(text: str) -> UUID | ReadPlace | None:
    """Return what a name means: the id of a parked delivery, or the place of a parked event; None for neither."""
    with suppress(ValueError):
        return UUID(text)
    source, at, digits = text.rpartition("@")
    if at and is_storable(source) and digits.isascii() and digits.isdigit() and len(digits) < 19:
        return ReadPlace(source, int(digits)) if source else None
    return None


@dataclass(frozen=True, slots=True)
class ParkedEvent:
    """An event that could not be applied. What of it is None could not be read; `size_bytes` is that of its bytes.

    `discarded_at` is None while it is parked.
    """

    place: ReadPlace
    event_id: UUID | None
    position: int | None
    tenant: str | None
    type: str | None
    reason: str
    detail: str
    parked_at: datetime
    size_bytes: int
    discarded_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ParkedBytes:
    """The bytes of a parked event as they were read: a record's value with its headers, or the data of a row."""

    place: ReadPlace
    event_id: UUID | None
    raw: bytes
    headers: tuple[tuple[str, bytes], ...]


_SHOWN = select(
    parked_event.c.source,
    parked_event.c.at,
    parked_event.c.event_id,
    parked_event.c.position,
    parked_event.c.tenant,
    parked_event.c.type,
    parked_event.c.reason,
    parked_event.c.detail,
    parked_event.c.parked_at,
    parked_event.c.discarded_at,
    func.length(parked_event.c.raw).label("size_bytes"),
)
_BYTES = select(
    parked_event.c.source, parked_event.c.at, parked_event.c.event_id, parked_event.c.raw, parked_event.c.headers
)
_PARKED: Final = parked_event.c.discarded_at.is_(None)
_RETRIABLE: Final = (_PARKED, parked_event.c.reason != STRAY)


class ParkedEvents:
    """The parked events of a projection. All verbs raise StorageUnavailableError where its database is away."""

    def __init__(self, database: Database, *, page_bytes: int = PAGE_BYTES) -> None:
        self._database = database
        self._page_bytes = page_bytes

    async def page(
        self, after: ReadPlace | None, limit: int, *, reason: str | None = None, discarded: bool = False
    ) -> list[ParkedEvent]:
        """Return a page without bytes, by place: of those that are parked, or of those that were `discarded`.

        Perhaps only those with one reason.
        """
        query = _page(_SHOWN, after, limit, reason).where(~_PARKED if discarded else _PARKED)
        async with self._database.read() as connection:
            return [_shown(row) for row in await connection.execute(query)]

    async def at(self, place: ReadPlace) -> ParkedEvent | None:
        """Return one without its bytes, also where it was discarded; None where it is not there."""
        query = _SHOWN.where(*_at(place))
        async with self._database.read() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else _shown(row)

    async def bytes_of(self, place: ReadPlace) -> ParkedBytes | None:
        """Return the bytes of one, also where it was discarded; None where it is not there."""
        query = _BYTES.where(*_at(place))
        async with self._database.read() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else _bytes(row)

    async def retriable(self, after: ReadPlace | None, limit: int, *, reason: str | None = None) -> list[ParkedBytes]:
        """Return a page of those that may be retried, with their bytes, about 8 MiB of them: all but strays."""
        sizes = _page(select(func.length(parked_event.c.raw)), after, limit, reason)
        async with self._database.read() as connection:
            found = (await connection.execute(sizes.where(*_RETRIABLE))).scalars().all()
            totals = list(itertools.accumulate(found))
            fitting = max(1, bisect.bisect_right(totals, self._page_bytes))
            query = _page(_BYTES, after, min(limit, fitting), reason).where(*_RETRIABLE)
            return [_bytes(row) for row in await connection.execute(query)]

    async def discard(self, place: ReadPlace, now: datetime) -> bool:
        """Discard one; return whether it was parked."""
        return await self._set_discarded(now, *_at(place), _PARKED) > 0

    async def discard_all(self, reason: str, now: datetime) -> int:
        """Discard all that are parked for a reason; return how many there were."""
        return await self._set_discarded(now, parked_event.c.reason == reason, _PARKED)

    async def restore(self, place: ReadPlace) -> bool:
        """Park one again that was discarded; return whether it was still there."""
        return await self._set_discarded(None, *_at(place), ~_PARKED) > 0

    async def restore_all(self, reason: str, discarded_at: datetime | None = None) -> int:
        """Park all again that were discarded with a reason and are still there; return how many.

        With the time of one discard: only what that one discarded.
        """
        which = ~_PARKED if discarded_at is None else parked_event.c.discarded_at == to_micros(discarded_at)
        return await self._set_discarded(None, parked_event.c.reason == reason, which)

    async def _set_discarded(self, at: datetime | None, *which: ColumnElement[bool]) -> int:
        changing = update(parked_event).where(*which).values(discarded_at=None if at is None else to_micros(at))
        async with self._database.write() as connection:
            return (await connection.execute(changing)).rowcount


def _at(place: ReadPlace) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return parked_event.c.source == place.source, parked_event.c.at == place.at


def _page(query: Select[Any], after: ReadPlace | None, limit: int, reason: str | None) -> Select[Any]:
    query = query.order_by(parked_event.c.source, parked_event.c.at).limit(min(limit, PAGE_LIMIT))
    if after is not None:
        place = tuple_(parked_event.c.source, parked_event.c.at)
        query = query.where(place > tuple_(literal(after.source), literal(after.at)))
    return query if reason is None else query.where(parked_event.c.reason == reason)


def _shown(row: Any) -> ParkedEvent:
    return ParkedEvent(
        place=ReadPlace(row.source, row.at),
        event_id=row.event_id,
        position=row.position,
        tenant=row.tenant,
        type=row.type,
        reason=row.reason,
        detail=row.detail,
        parked_at=from_micros(row.parked_at),
        size_bytes=row.size_bytes,
        discarded_at=None if row.discarded_at is None else from_micros(row.discarded_at),
    )


def _bytes(row: Any) -> ParkedBytes:
    return ParkedBytes(ReadPlace(row.source, row.at), row.event_id, row.raw, _headers.decode(row.headers))
