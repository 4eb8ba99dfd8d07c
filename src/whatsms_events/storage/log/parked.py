"""This module lists, shows, retries, discards and restores parked deliveries. The committer parks them.

A retry loses nothing: one transaction removes the parked delivery and appends its event. What is discarded is kept, and
can be restored, until retention takes it; a retry leaves it alone.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, RowMapping, delete, func, literal, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from whatsms_events.domain.events import from_micros, to_micros
from whatsms_events.domain.suppression import suppressed
from whatsms_events.domain.verdicts import Append
from whatsms_events.errors import ConfigError
from whatsms_events.storage.database import Database
from whatsms_events.storage.log.appends import EVENT_COLUMNS, event_row
from whatsms_events.storage.log.suppression import HeldSuppressions
from whatsms_events.storage.tables import event_log, parked_delivery

PAGE_LIMIT: Final = 500


class ArrivalPlace(NamedTuple):
    """Where a parked delivery stands among the others: when it came first, in microseconds, and its id."""

    received_at: int
    id: UUID


@dataclass(frozen=True, slots=True)
class ParkedDelivery:
    """A delivery that could not become an event; `count` is how often it came, `size_bytes` that of its body.

    `signed_by` is the name of the secret that verified it; None where an earlier release parked it. `discarded_at` is
    None while it is parked.
    """

    id: UUID
    tenant: str
    reason: str
    detail: str
    received_at: datetime
    content_encoding: str | None
    sha256: bytes
    signed_by: str | None
    count: int
    size_bytes: int
    discarded_at: datetime | None = None

    @property
    def place(self) -> ArrivalPlace:
        """Return where it stands among the others."""
        return ArrivalPlace(to_micros(self.received_at), self.id)


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a parked delivery: the event's position, and whether it was in the log before."""

    position: int
    duplicate: bool


_SHOWN = select(
    parked_delivery.c.id,
    parked_delivery.c.tenant,
    parked_delivery.c.reason,
    parked_delivery.c.detail,
    parked_delivery.c.received_at,
    parked_delivery.c.content_encoding,
    parked_delivery.c.sha256,
    parked_delivery.c.signed_by,
    parked_delivery.c.count,
    parked_delivery.c.discarded_at,
    func.length(parked_delivery.c.raw).label("size_bytes"),
)
_PLACE = tuple_(parked_delivery.c.received_at, parked_delivery.c.id)
_PARKED: Final = parked_delivery.c.discarded_at.is_(None)


class Parked:
    """The parked deliveries of the log's database. All verbs raise StorageUnavailableError where it is away.

    `privacy_key` is the key of the marks of people who were forgotten, None where it is not given.
    """

    def __init__(self, database: Database, privacy_key: bytes | None = None) -> None:
        self._database = database
        self._held = HeldSuppressions(database, privacy_key)

    async def list(
        self, after: ArrivalPlace | None, limit: int, *, reason: str | None = None, discarded: bool = False
    ) -> list[ParkedDelivery]:
        """Return a page without bodies, oldest first, after a place (also where nothing stands there by now).

        Perhaps only those with one reason; and those that are parked, or those that were `discarded`.
        """
        query = _SHOWN.order_by(parked_delivery.c.received_at, parked_delivery.c.id).limit(min(limit, PAGE_LIMIT))
        query = query.where(parked_delivery.c.discarded_at.is_not(None) if discarded else _PARKED)
        if reason is not None:
            query = query.where(parked_delivery.c.reason == reason)
        if after is not None:
            query = query.where(
                tuple_(literal(after.received_at), literal(after.id, parked_delivery.c.id.type)) < _PLACE
            )
        async with self._database.read() as connection:
            return [_parked(row) for row in (await connection.execute(query)).mappings()]

    async def show(self, parked_id: UUID) -> tuple[ParkedDelivery, bytes] | None:
        """Return one and its bytes, also where it was discarded; None where it is not there."""
        query = _SHOWN.add_columns(parked_delivery.c.raw).where(parked_delivery.c.id == parked_id)
        async with self._database.read() as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
        return None if row is None else (_parked(row), row["raw"])

    async def take(self, parked_id: UUID, append: Append) -> Taken | None:
        """Append the event that a parked delivery became, and remove the delivery; return None where none is parked.

        What it tells of people who were forgotten since it came is blanked. Raise UnstorableError where the database
        refuses the event: then it stays parked. Raise ConfigError where those people could not be recognised.
        """
        suppressions = await self._held.look()
        if self._held.problem is not None:
            raise ConfigError(f"privacy.key: {self._held.problem}")
        if suppressions:
            append = suppressed(append, suppressions)
        insert = postgresql.insert if self._database.dialect == "postgresql" else sqlite.insert
        row = dict(zip(EVENT_COLUMNS, event_row(append), strict=True))
        append_it = insert(event_log).values(row).on_conflict_do_nothing(index_elements=["id"])
        find_it = select(event_log.c.position).where(event_log.c.id == append.event.id)
        async with self._database.write() as connection:
            # Removing comes first: if two retry at the same time, the second waits here and finds nothing.
            gone = await connection.execute(delete(parked_delivery).where(parked_delivery.c.id == parked_id, _PARKED))
            if gone.rowcount == 0:
                return None
            position = (await connection.execute(append_it.returning(event_log.c.position))).scalar_one_or_none()
            if position is not None:
                return Taken(position, duplicate=False)
            return Taken((await connection.execute(find_it)).scalar_one(), duplicate=True)

    async def discard(self, parked_id: UUID, now: datetime) -> bool:
        """Discard one; return whether it was parked."""
        return await self._set_discarded(now, parked_delivery.c.id == parked_id, _PARKED) > 0

    async def discard_all(self, reason: str, now: datetime) -> int:
        """Discard all that are parked for a reason; return how many there were."""
        return await self._set_discarded(now, parked_delivery.c.reason == reason, _PARKED)

    async def restore(self, parked_id: UUID) -> bool:
        """Park one again that was discarded; return whether it was still there."""
        return await self._set_discarded(None, parked_delivery.c.id == parked_id, ~_PARKED) > 0

    async def restore_all(self, reason: str, discarded_at: datetime | None = None) -> int:
        """Park all again that were discarded with a reason and are still there; return how many.

        With the time of one discard: only what that one discarded.
        """
        which = ~_PARKED if discarded_at is None else parked_delivery.c.discarded_at == to_micros(discarded_at)
        return await self._set_discarded(None, parked_delivery.c.reason == reason, which)

    async def _set_discarded(self, at: datetime | None, *which: ColumnElement[bool]) -> int:
        changing = update(parked_delivery).where(*which).values(discarded_at=None if at is None else to_micros(at))
        async with self._database.write() as connection:
            return (await connection.execute(changing)).rowcount


def _parked(row: RowMapping) -> ParkedDelivery:
    return ParkedDelivery(
        id=row["id"],
        tenant=row["tenant"],
        reason=row["reason"],
        detail=row["detail"],
        received_at=from_micros(row["received_at"]),
        content_encoding=row["content_encoding"],
        sha256=row["sha256"],
        signed_by=row["signed_by"],
        count=row["count"],
        size_bytes=row["size_bytes"],
        discarded_at=None if row["discarded_at"] is None else from_micros(row["discarded_at"]),
    )
