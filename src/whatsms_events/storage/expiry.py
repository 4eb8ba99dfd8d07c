"""This module removes what only serves the operator once its time is over: parked things, still runs, drift details.

They are rows of their own that nothing is built on, so they go as whole rows. Each verb takes one piece.
"""

import itertools
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Protocol

from sqlalchemy import ColumnElement, delete, func, or_, select, tuple_

from whatsms_events.domain.retention import Group, RetentionKind
from whatsms_events.storage.database import Database
from whatsms_events.storage.log.blanking import PIECE_BYTES
from whatsms_events.storage.tables import (
    backfill_drift,
    backfill_item,
    backfill_run,
    parked_delivery,
    parked_event,
)

PIECE: Final = 500
"""Rows in one transaction at most."""


class ByProduct(Protocol):
    """Rows that go when their time is over. Verbs raise StorageUnavailableError where the database is away."""

    async def expire(self, group: Group, now: datetime) -> int:
        """Remove a piece of what is over of these tenants; return how many rows, 0 where none is left."""

    async def oldest(self, group: Group) -> int | None:
        """Return the time of the oldest that is held of these tenants, in microseconds; None where none is."""


def by_products(log: Database, projection: Database) -> Mapping[RetentionKind, tuple[ByProduct, ...]]:
    """Return what has an end, by its kind."""
    return {
        "parked": (ParkedDeliveries(log), ParkedAtFold(projection)),
        "discarded": (ParkedDeliveries(log, discarded=True), ParkedAtFold(projection, discarded=True)),
        "items": (StillRuns(log),),
        "drift": (DriftDetails(log),),
    }


def whose(group: Group, tenant: ColumnElement[Any]) -> ColumnElement[bool]:
    """Return the condition that a row is of the group's tenants."""
    some = tenant.in_(sorted(group.tenants))
    return or_(tenant.is_(None), ~some) if group.but else some


class ParkedDeliveries:
    """Deliveries that could not be understood, by the time at which each first came.

    With `discarded` only those that were discarded, by the time at which each was.
    """

    def __init__(self, database: Database, *, discarded: bool = False) -> None:
        self._database = database
        self._since = parked_delivery.c.discarded_at if discarded else parked_delivery.c.received_at

    async def expire(self, group: Group, now: datetime) -> int:
        """Remove the oldest that are over."""
        table = parked_delivery.c
        over = self._since <= group.cutoff(now), whose(group, table.tenant)
        query = select(table.id, func.length(table.raw)).where(*over).order_by(table.received_at, table.id)
        async with self._database.read() as connection:
            found = (await connection.execute(query.limit(PIECE))).all()
        if not found:
            return 0
        some = [row.id for row in found[: _fitting([row[1] for row in found])]]
        async with self._database.write() as connection:
            return (await connection.execute(delete(parked_delivery).where(table.id.in_(some), *over))).rowcount

    async def oldest(self, group: Group) -> int | None:
        """Return when the oldest came, or was discarded."""
        return await _least(self._database, self._since, whose(group, parked_delivery.c.tenant))


class ParkedAtFold:
    """Events that could not be applied, by the time at which each was parked.

    With `discarded` only those that were discarded, by the time at which each was.
    """

    def __init__(self, database: Database, *, discarded: bool = False) -> None:
        self._database = database
        self._since = parked_event.c.discarded_at if discarded else parked_event.c.parked_at

    async def expire(self, group: Group, now: datetime) -> int:
        """Remove some that are over."""
        table = parked_event.c
        over = self._since <= group.cutoff(now), whose(group, table.tenant)
        key = tuple_(table.source, table.at)
        query = select(table.source, table.at, func.length(table.raw)).where(*over).order_by(table.source, table.at)
        async with self._database.read() as connection:
            found = (await connection.execute(query.limit(PIECE))).all()
        if not found:
            return 0
        some = [(row.source, row.at) for row in found[: _fitting([row[2] for row in found])]]
        async with self._database.write() as connection:
            return (await connection.execute(delete(parked_event).where(key.in_(some), *over))).rowcount

    async def oldest(self, group: Group) -> int | None:
        """Return when the first was parked, or discarded."""
        return await _least(self._database, self._since, whose(group, parked_event.c.tenant))


class StillRuns:
    """Backfills that began and stand still, by the time at which each was last saved.

    Their run goes with its items: what it was about to compare is long over, and the next run reads it again. A process
    that still holds the run is fenced. Items of finished runs go with the run's end.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def expire(self, group: Group, now: datetime) -> int:
        """Remove the items of one run that is over, piece by piece, and at last the run itself."""
        table, item = backfill_run.c, backfill_item.c
        key = tuple_(item.run, item.entity, item.id)
        over = table.finished_at.is_(None), table.updated_at <= group.cutoff(now), whose(group, table.tenant)
        async with self._database.write() as connection:
            run = await connection.scalar(select(table.run).where(*over).order_by(table.run).limit(1))
            if run is None:
                return 0
            some = select(item.run, item.entity, item.id).where(item.run == run).limit(PIECE)
            gone = (await connection.execute(delete(backfill_item).where(key.in_(some)))).rowcount
            if gone < PIECE:
                await connection.execute(delete(backfill_drift).where(backfill_drift.c.run == run))
                await connection.execute(delete(backfill_run).where(table.run == run))
            return max(gone, 1)

    async def oldest(self, group: Group) -> int | None:
        """Return when the run that stands still for the longest time was last saved."""
        return await _least(
            self._database,
            backfill_run.c.updated_at,
            backfill_run.c.finished_at.is_(None),
            whose(group, backfill_run.c.tenant),
        )


class DriftDetails:
    """Which fields of which things differed, by the time at which it was found: names, never values.

    What the last finished reconcile of each tenant found stays: gauges and reports count it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def expire(self, group: Group, now: datetime) -> int:
        """Remove some that are over."""
        table = backfill_drift.c
        key = table.run, table.entity, table.id, table.kind
        some = select(*key).where(table.run.in_(self._runs(group)), table.found_at <= group.cutoff(now)).limit(PIECE)
        async with self._database.read() as connection:
            if (await connection.execute(some.limit(1))).first() is None:
                return 0
        async with self._database.write() as connection:
            return (await connection.execute(delete(backfill_drift).where(tuple_(*key).in_(some)))).rowcount

    async def oldest(self, group: Group) -> int | None:
        """Return when the first of those that have an end was found."""
        return await _least(self._database, backfill_drift.c.found_at, backfill_drift.c.run.in_(self._runs(group)))

    @staticmethod
    def _runs(group: Group) -> Any:
        table = backfill_run.c
        last = (
            select(func.max(table.run))
            .where(table.kind == "reconcile", table.finished_at.is_not(None))
            .group_by(table.tenant)
        )
        return select(table.run).where(
            whose(group, table.tenant), table.finished_at.is_not(None), table.run.not_in(last)
        )


def _fitting(sizes: list[int]) -> int:
    return max(1, sum(total <= PIECE_BYTES for total in itertools.accumulate(sizes)))


async def _least(database: Database, column: ColumnElement[Any], *where: ColumnElement[bool]) -> int | None:
    async with database.read() as connection:
        found: int | None = await connection.scalar(select(func.min(column)).where(*where))
    return found
