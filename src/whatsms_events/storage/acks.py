"""What became of the messages that we sent: how many got how far, how long the steps took, and which are stuck.

A period is cut into parts, and of each part so many messages are read at most, the newest first: a day of a campaign
must not take longer than a quiet one. A part of which not all were read says so.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Final

from sqlalchemy import ColumnElement, bindparam, func, select, text, true

from whatsms_events.domain.acks import DELIVERED
from whatsms_events.domain.delays import BOUNDS_S, RANGES, PeriodPart
from whatsms_events.domain.events import from_micros, to_micros
from whatsms_events.storage import tables
from whatsms_events.storage.columns import FAILED, OURS, UNDELIVERED
from whatsms_events.storage.database import among
from whatsms_events.storage.projection.holdings import UNDELIVERED_LIMIT
from whatsms_events.storage.reads import Queries

PARTS: Final = 24
"""So many parts has a period at most."""

PART_MESSAGES: Final = 500
"""So many messages are read of each part."""

STUCK_LIMIT: Final = 100
"""Tickets with stuck messages that are listed."""

FAILED_LIMIT: Final = 50
"""Failed messages that are listed."""

_SENT, _READ, _PLAYED = 2, 4, 5


@dataclass(frozen=True, slots=True)
class Stuck:
    """A ticket with messages of ours that were not delivered: how many, and when the oldest and newest were made.

    `ticket_id` is None for those that name no ticket.
    """

    ticket_id: str | None
    contact_id: str | None
    status: str | None
    count: int
    oldest_at: datetime
    newest_at: datetime


@dataclass(frozen=True, slots=True)
class StuckPage:
    """The tickets, the one with the oldest stuck message first; not `complete` where there are more."""

    tickets: list[Stuck]
    messages: int
    complete: bool


@dataclass(frozen=True, slots=True)
class Failed:
    """A message of ours that failed and did not arrive: when it was made, and when WhatSMS said that it failed."""

    id: str
    ticket_id: str | None
    created_at: datetime
    failed_at: datetime


@dataclass(frozen=True, slots=True)
class FailedPage:
    """The messages that failed, the newest first; not `complete` where there are more."""

    messages: list[Failed]
    complete: bool


class SentMessages:
    """The questions. All raise StorageUnavailableError; each takes one of the readers' places of `queries`."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries

    async def period(
        self, tenant: str, since: datetime, until: datetime, *, parts: int, limit: int = PART_MESSAGES
    ) -> list[PeriodPart]:
        """Return the messages that we made from `since` until `until`, in so many equal parts, oldest first.

        A message counts where it was created. One that failed and was delivered all the same did not fail.
        """
        width = (until - since) / parts
        edges = [since + number * width for number in range(parts)] + [until]
        async with self._queries.asking(tables.message) as connection:
            found = []
            for begin, end in itertools.pairwise(edges):
                asked = {"tenant": tenant, "since": to_micros(begin), "until": to_micros(end), "size": limit + 1}
                row = (await connection.execute(_part(), asked)).one()
                found.append(_read_part(begin, end, row, limit))
        return found

    async def failed(self, tenant: str, since: datetime, until: datetime, *, limit: int = FAILED_LIMIT) -> FailedPage:
        """Return the messages that we made from `since` until `until` and that failed, the newest first."""
        table = tables.message.c
        query = select(table.id, table.ticket_id, table.created_at, table.failed_at).where(
            table.tenant == tenant, FAILED
        )
        query = query.where(table.created_at >= to_micros(since), table.created_at < to_micros(until))
        query = query.order_by(table.created_at.desc(), table.id.desc()).limit(limit + 1)
        async with self._queries.asking(tables.message) as connection:
            rows = (await connection.execute(query)).all()
        found = [Failed(row.id, row.ticket_id, from_micros(row.created_at), from_micros(row.failed_at)) for row in rows]
        return FailedPage(found[:limit], complete=len(found) <= limit)

    async def stuck(
        self, tenant: str, now: datetime, *, after: timedelta, until: timedelta, limit: int = STUCK_LIMIT
    ) -> StuckPage:
        """Return the tickets with messages of ours that were made between `until` and `after` ago and not delivered.

        At most UNDELIVERED_LIMIT messages are looked at, the oldest first; deleted ones are left out.
        """
        table = tables.message.c
        query = select(table.ticket_id, table.created_at).where(table.tenant == tenant, UNDELIVERED)
        query = query.where(table.deleted.is_not(True), table.created_at >= to_micros(now - until))
        query = query.where(table.created_at < to_micros(now - after)).order_by(table.created_at)
        some = query.limit(UNDELIVERED_LIMIT).subquery()
        grouped = select(
            some.c.ticket_id,
            func.count().label("messages"),
            func.min(some.c.created_at).label("oldest"),
            func.max(some.c.created_at).label("newest"),
            func.sum(func.count()).over().label("all"),
        ).group_by(some.c.ticket_id)
        grouped = grouped.order_by(text("oldest"), some.c.ticket_id).limit(limit + 1)
        async with self._queries.asking(tables.message) as connection:
            rows = (await connection.execute(grouped)).all()
            ids = [row.ticket_id for row in rows if row.ticket_id is not None]
            ticket = tables.ticket.c
            held = select(ticket.id, ticket.contact_id, ticket.status)
            held = held.where(ticket.tenant == tenant, among(connection, ticket.id, ids))
            known = {row.id: row for row in await connection.execute(held)} if ids else {}
        messages = int(rows[0].all) if rows else 0
        return StuckPage(
            [_stuck(row, known.get(row.ticket_id)) for row in rows[:limit]],
            messages,
            complete=len(rows) <= limit and messages < UNDELIVERED_LIMIT,
        )


def _stuck(row: Any, ticket: Any) -> Stuck:
    return Stuck(
        ticket_id=row.ticket_id,
        contact_id=None if ticket is None else ticket.contact_id,
        status=None if ticket is None else ticket.status,
        count=row.messages,
        oldest_at=from_micros(row.oldest),
        newest_at=from_micros(row.newest),
    )


@cache
def _part() -> Any:
    """Ask for the counts of one part: OUTCOMES, then the ranges of each step.

    It is made once: to put so many conditions together takes longer than the database does.
    """
    table = tables.message.c
    columns = ("created_at", "ack", "failed_at", "sent_at", "delivered_at", "read_at")
    query = select(*(table[name] for name in columns)).where(table.tenant == bindparam("tenant"), OURS)
    query = query.where(table.created_at >= bindparam("since"), table.created_at < bindparam("until"))
    some = query.order_by(table.created_at.desc()).limit(bindparam("size")).subquery()
    one, delivered = some.c, func.coalesce(some.c.ack, 0) >= DELIVERED
    conditions: list[ColumnElement[bool]] = [
        true(), one.ack >= _SENT, delivered, one.ack >= _READ, one.ack >= _PLAYED,
        one.failed_at.is_not(None) & ~delivered,
    ]  # fmt: skip
    sent = func.coalesce(one.sent_at, one.created_at)
    for delay in (one.delivered_at - sent, one.read_at - one.delivered_at):
        conditions += _ranges(delay)
    return select(*(func.count().filter(where).label(f"n{number}") for number, where in enumerate(conditions)))


def _ranges(delay: ColumnElement[int]) -> list[ColumnElement[bool]]:
    """Return a condition for each of RANGES. A delay below zero, of clocks that differ, is a short one."""
    bounds = [bound * 1_000_000 for bound in BOUNDS_S]
    first, last = delay < bounds[0], delay >= bounds[-1]
    between = [(delay >= low) & (delay < high) for low, high in itertools.pairwise(bounds)]
    return [first, *between, last]


def _read_part(since: datetime, until: datetime, row: Sequence[int], limit: int) -> PeriodPart:
    outcomes = len(row) - 2 * len(RANGES)
    counts, delays = tuple(row[:outcomes]), tuple(row[outcomes:])
    size = len(RANGES)
    # One more than the limit is read, to tell whether there are more; a single message more among hundreds is no lie.
    return PeriodPart(since, until, counts, (delays[:size], delays[size:]), complete=counts[0] <= limit)
