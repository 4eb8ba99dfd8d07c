"""How the service as a whole stands, by what its databases show, whichever process does the work.

Every question is bounded: it reads a few rows by a key, or the last so many of a table and says that there may be more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Column, RowMapping, Select, Table, func, null, select

from whatsms_events.domain.events import from_micros
from whatsms_events.storage.database import Database
from whatsms_events.storage.tables import event_log, parked_delivery, parked_event, projection, relay

COUNT_LIMIT: Final = 5_000
"""Parked things that are counted by reason; if there are more, nobody needs to know by how much."""


@dataclass(frozen=True, slots=True)
class Flow:
    """How far events got. Positions are None where that step does not exist or never began.

    `end_at`: when the last event of the log was taken in; `unpublished_at`: the same of the first event
    that waits for the relay. `relay_at`: when a relay last saved its place.
    """

    end: int
    end_at: datetime | None
    published: int | None
    unpublished_at: datetime | None
    relay_at: datetime | None


@dataclass(frozen=True, slots=True)
class ParkedCount:
    """What is parked for one reason: how many, and since when the oldest waits. `stage` is door or fold.

    `discarded_at` is None, or the time of the one discard that took them.
    """

    stage: str
    reason: str
    count: int
    oldest_at: datetime
    discarded_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ParkedCounts:
    """What is parked at one place, by reason, most first; `whole` is False where only the first were counted.

    Of what was discarded there is one for each discard, the newest first.
    """

    rows: Sequence[ParkedCount]
    whole: bool


class Pulse:
    """Asks log and projection. All verbs raise StorageUnavailableError where the database is away."""

    def __init__(self, log: Database, projection: Database, *, count_limit: int = COUNT_LIMIT) -> None:
        self._log = log
        self._projection = projection
        self._count_limit = count_limit

    async def flow(self, prefix: str | None) -> Flow:
        """Return how far the log and its relay are; `prefix` is None where nothing is published."""
        place, came = event_log.c.position, event_log.c.received_at
        async with self._log.read() as connection:
            last = (await connection.execute(select(place, came).order_by(place.desc()).limit(1))).one_or_none()
            end, end_at = (0, None) if last is None else (last.position, from_micros(last.received_at))
            if prefix is None:
                return Flow(end, end_at, None, None, None)
            mine = select(relay.c.published_through, relay.c.updated_at).where(relay.c.prefix == prefix)
            row = (await connection.execute(mine)).one_or_none()
            through = 0 if row is None else row.published_through
            waiting = (await connection.execute(_after(through))).scalar()
        relay_at = None if row is None else from_micros(row.updated_at)
        return Flow(end, end_at, through, None if waiting is None else from_micros(waiting), relay_at)

    async def applied(self) -> tuple[int, datetime | None]:
        """Return up to which position events are applied, and when the first one came that is not."""
        async with self._projection.read() as connection:
            through = (await connection.execute(select(projection.c.applied_through))).scalar_one_or_none() or 0
        async with self._log.read() as connection:
            waiting = (await connection.execute(_after(through))).scalar()
        return through, None if waiting is None else from_micros(waiting)

    async def parked_at_door(self) -> ParkedCounts:
        """Return which deliveries are parked, counted in the order in which they came."""
        table = parked_delivery.c
        some = select(table.reason, table.received_at.label("at"), null().label("discarded_at"))
        some = some.where(table.discarded_at.is_(None)).order_by(table.received_at, table.id)
        return await self._counted(self._log, "door", some)

    async def discarded_at_door(self) -> ParkedCounts:
        """Return which deliveries were discarded, counted from the newest discard on."""
        return await self._counted(self._log, "door", _discarded(parked_delivery, parked_delivery.c.received_at))

    async def parked_at_fold(self) -> ParkedCounts:
        """Return which events are parked, counted in the order of the places where they were read."""
        table = parked_event.c
        some = select(table.reason, table.parked_at.label("at"), null().label("discarded_at"))
        some = some.where(table.discarded_at.is_(None)).order_by(table.source, table.at)
        return await self._counted(self._projection, "fold", some)

    async def discarded_at_fold(self) -> ParkedCounts:
        """Return which events were discarded, counted from the newest discard on."""
        return await self._counted(self._projection, "fold", _discarded(parked_event, parked_event.c.parked_at))

    async def _counted(self, database: Database, stage: str, some: Select[Any]) -> ParkedCounts:
        first = some.limit(self._count_limit).subquery()
        by = first.c.reason, first.c.discarded_at
        counting = select(*by, func.count().label("count"), func.min(first.c.at).label("at")).group_by(*by)
        async with database.read() as connection:
            rows = (await connection.execute(counting)).mappings().all()
        found = [_count(stage, row) for row in rows]
        found.sort(key=lambda one: (_newest(one.discarded_at), -one.count, one.reason))
        return ParkedCounts(found, whole=sum(one.count for one in found) < self._count_limit)


def _count(stage: str, row: RowMapping) -> ParkedCount:
    gone = row["discarded_at"]
    at = None if gone is None else from_micros(gone)
    return ParkedCount(stage, row["reason"], row["count"], from_micros(row["at"]), at)


def _newest(at: datetime | None) -> float:
    return 0.0 if at is None else -at.timestamp()


def _after(position: int) -> Select[Any]:
    """Return the question when the first event after a position was taken in."""
    place = event_log.c.position
    return select(event_log.c.received_at).where(place > position).order_by(place).limit(1)


def _discarded(table: Table, at: Column[int]) -> Select[Any]:
    """Return the question for what was discarded of a table, the newest first; `at` is when a row was parked."""
    when = table.c.discarded_at
    return select(table.c.reason, at.label("at"), when).where(when.is_not(None)).order_by(when.desc())
