"""This module reads what log, projection and backfill know of one event or one thing, found by whatever names it.

The log has no index by anything but position and id, since an index costs every append. So what is found by a hash, and
the events about one thing, are looked for backwards over a bounded number of positions; the answer says how far.
"""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal, Protocol, TypeVar, get_args
from uuid import UUID

import msgspec
from sqlalchemy import ColumnElement, RowMapping, Table, func, or_, select

from whatsms_events.domain import fold
from whatsms_events.domain.events import Entity, EventType, LogEntry, decode, entity, from_micros, to_micros
from whatsms_events.domain.rows import OBSERVATION, Key, Row
from whatsms_events.domain.trace import EventTrace, trace
from whatsms_events.errors import InvalidEventError
from whatsms_events.storage.database import Database
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.projection.holdings import Holdings
from whatsms_events.storage.repair import looks
from whatsms_events.storage.repair.looks import Look
from whatsms_events.storage.tables import (
    ENTITIES,
    backfill_drift,
    backfill_run,
    event_log,
    parked_delivery,
    parked_event,
    redelivery,
)

TracedKind = Literal["event", "parked", "ticket", "message", "contact", "campaign"]
KINDS: Final[tuple[TracedKind, ...]] = get_args(TracedKind)

REACH: Final = 100_000
"""Positions that are looked through backwards, unless somebody asks for more."""

NEAR: Final = 10_000
"""So many a page looks through at first; it has a link that looks through REACH of them, which takes longer."""

PIECE: Final = 10_000
"""Positions in one question."""

EVENTS_LIMIT: Final = 50
HASH_DIGITS: Final = 64

THE_LOG: Final = "The log"
THE_PARKED: Final = "What was parked at the door"
"""What two parts of an answer are called, for people."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Match:
    """One thing that a text may name, of one tenant (its id)."""

    kind: TracedKind
    tenant: str
    id: str


@dataclass(frozen=True, slots=True)
class Confirmed:
    """What the REST API confirmed of a thing. `observed_at`: the latest field that an observation told.

    `run` is the last reconcile that has finished; `compared`: it looked at such things. `differed` is what it found.
    """

    observed_at: datetime | None
    look: Look | None
    run: int | None
    started_at: datetime | None
    finished_at: datetime | None
    compared: bool
    differed: str | None


@dataclass(frozen=True, slots=True)
class Redelivered:
    """How often the same bytes came again, and when they last did."""

    count: int = 0
    last_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Became:
    """What the projection knows of an event: where the tables are, why it is parked, what became of each field.

    `trace` is None where the event cannot be read any more, or never could be.
    """

    applied_through: int
    parked: str | None
    discarded: bool
    trace: EventTrace | None


@dataclass(frozen=True, slots=True)
class EventFacts:
    """What log and projection know of one event. What could not be read is None, see `AskPart`."""

    entry: LogEntry
    log_id: UUID
    sha256: bytes
    size: int | None
    blanked: bool
    signed_by: str | None
    redelivered: Redelivered | None
    became: Became | None
    thing: "ThingFacts | None"


@dataclass(frozen=True, slots=True)
class ThingFacts:
    """What is known of a ticket, message, contact or campaign. `row` is None where nobody ever named it."""

    kind: Entity
    tenant: str
    id: str
    row: Row | None
    rest: Confirmed | None
    """None where it could not be read, see `AskPart`."""


@dataclass(frozen=True, slots=True)
class ParkedFacts:
    """What is known of a delivery that was parked at the door."""

    id: UUID
    tenant: str
    reason: str
    received_at: datetime
    sha256: bytes
    signed_by: str | None
    count: int
    discarded_at: datetime | None


@dataclass(frozen=True, slots=True)
class ShortEvent:
    """An event in a list."""

    position: int
    id: UUID
    type: str
    received_at: datetime
    origin: str


class AskPart(Protocol):
    """How a part of a trace is asked for: what cannot be read raises, or is None, as whoever asks wants it.

    `what` names the part for people.
    """

    async def __call__(self, what: str, question: Awaitable[T], /) -> T | None:
        """Return what the question brings."""


async def whole(_what: str, question: Awaitable[T]) -> T | None:
    """AskPart for a part without which there is no answer."""
    return await question


class _RunOptions(msgspec.Struct):
    """The part of a run's options that says what it looked at."""

    messages: str = "off"


class Traces:
    """The questions. All raise StorageUnavailableError."""

    def __init__(self, log: Database, projection: Database) -> None:
        self._log = log
        self._projection = projection
        self._event_log = EventLog(log)
        self._holdings = Holdings(projection)

    async def matches(
        self, text: str, tenants: Sequence[str], *, reach: int | None = REACH, ask: AskPart = whole
    ) -> list[Match]:
        """Return everything that a text may name with these tenants: an id of any kind, or the hash of a delivery.

        `reach` None looks for a hash in the whole log.
        """
        found: list[Match] = []
        key, digest = _uuid(text), _digest(text)
        if key is not None:
            found += await ask(THE_LOG, self._named("event", event_log, key)) or []
            found += await ask(THE_PARKED, self._named("parked", parked_delivery, key)) or []
        if digest is not None and not found:
            found += await ask(THE_LOG, self._same_bytes(digest, tenants, reach)) or []
            found += await ask(THE_PARKED, self._parked_bytes(digest, tenants)) or []
        found = [one for one in found if one.tenant in tenants]
        for kind, table in ENTITIES.items():
            found += await ask(f"The table of {kind}s", self._things(kind, table, text, tenants)) or []
        return found

    async def _named(self, kind: TracedKind, table: Table, key: UUID) -> list[Match]:
        async with self._log.read() as connection:
            rows = await connection.execute(select(table.c.tenant).where(table.c.id == key))
            return [Match(kind, tenant, str(key)) for tenant in rows.scalars()]

    async def _things(self, kind: Entity, table: Table, text: str, tenants: Sequence[str]) -> list[Match]:
        named = select(table.c.tenant).where(table.c.tenant.in_(list(tenants)), table.c.id == text)
        async with self._projection.read() as connection:
            rows = await connection.execute(named.order_by(table.c.tenant))
            return [Match(kind, tenant, text) for tenant in rows.scalars()]

    async def _same_bytes(self, digest: bytes, tenants: Sequence[str], reach: int | None) -> list[Match]:
        same = (event_log.c.sha256 == digest) & event_log.c.tenant.in_(list(tenants))
        rows, _floor = await self._backwards(same, reach, len(tenants))  # a body may have come to several tenants
        return [Match("event", row["tenant"], str(row["id"])) for row in rows]

    async def _parked_bytes(self, digest: bytes, tenants: Sequence[str]) -> list[Match]:
        table = parked_delivery.c
        query = select(table.tenant, table.id).where(table.sha256 == digest, table.tenant.in_(list(tenants)))
        async with self._log.read() as connection:  # a body is parked once for a tenant
            parked = (await connection.execute(query.order_by(table.tenant).limit(len(tenants)))).all()
        return [Match("parked", tenant, str(key)) for tenant, key in parked]

    async def position_at(self, moment: datetime) -> int:
        """Return about the last position that was received by then, found by halving.

        Times grow with positions, but for what the clocks of several receivers differ by.
        """
        table, low = event_log.c, 0
        async with self._log.read() as connection:
            high = int(await connection.scalar(select(func.max(table.position))) or 0)
            while low < high:
                middle = (low + high + 1) // 2
                here = select(table.received_at).where(table.position >= middle).order_by(table.position).limit(1)
                if int(await connection.scalar(here) or 0) > to_micros(moment):
                    high = middle - 1
                else:
                    low = middle
        return low

    async def _backwards(
        self, condition: ColumnElement[bool], reach: int | None, limit: int, until: int | None = None
    ) -> tuple[list[RowMapping], int]:
        """Return the last rows that match, newest first, and the position behind which all were looked at.

        Where `until` is given, no position after it is looked at.
        """
        columns = [event_log.c[name] for name in ("position", "id", "tenant", "type", "received_at", "origin")]
        async with self._log.read() as connection:
            high = int(await connection.scalar(select(func.max(event_log.c.position))) or 0)
        high = high if until is None else min(high, until)
        low = 0 if reach is None else max(0, high - reach)
        found: list[RowMapping] = []
        while high > low and len(found) < limit:
            floor = max(low, high - PIECE)
            query = select(*columns).where(event_log.c.position > floor, event_log.c.position <= high, condition)
            query = query.order_by(event_log.c.position.desc()).limit(limit - len(found))
            async with self._log.read() as connection:
                found += list((await connection.execute(query)).mappings())
            high = floor
        # Where the list is full there may be more between its last row and the end of the piece.
        return found, found[-1]["position"] - 1 if len(found) == limit and found else high

    async def event(self, event_id: UUID, *, ask: AskPart = whole) -> EventFacts | None:
        """Return what is known of an event, None where there is none by this id."""
        found = await ask(THE_LOG, self._logged(event_id))
        if found is None:
            return None
        event, about = found.entry.event, entity(found.entry.event.type)
        thing = None
        if event.subject is not None:
            thing = await ask(f"The {about}", self.thing(about, event.tenant, event.subject, ask=ask))
        return replace(
            found,
            redelivered=await ask("How often it came", self._redelivered(event_id)),
            became=await ask("What became of it in the tables", self._became(found.entry)),
            thing=thing,
        )

    async def _logged(self, event_id: UUID) -> EventFacts | None:
        """Return what the log alone knows of an event."""
        table = event_log.c
        columns = (table.position, table.sha256, table.signed_by, func.length(table.raw).label("size"))
        async with self._log.read() as connection:
            row = (await connection.execute(select(*columns).where(table.id == event_id))).one_or_none()
        if row is None:
            return None
        (entry,) = await self._event_log.read(row.position - 1, 1)
        return EventFacts(
            entry=entry,
            log_id=await self._event_log.log_id(),
            sha256=row.sha256,
            size=row.size,
            blanked=row.size is None,
            signed_by=row.signed_by,
            redelivered=None,
            became=None,
            thing=None,
        )

    async def _redelivered(self, event_id: UUID) -> Redelivered:
        query = select(redelivery.c.count, redelivery.c.last_received_at).where(redelivery.c.id == event_id)
        async with self._log.read() as connection:
            row = (await connection.execute(query)).one_or_none()
        return Redelivered() if row is None else Redelivered(row[0], from_micros(row[1]))

    async def _became(self, entry: LogEntry) -> Became:
        parked, discarded = await self._parked(entry.position)
        through = await self._holdings.applied_through()
        return Became(through, parked, discarded, await self._trace(entry))

    async def parked(self, delivery_id: UUID) -> ParkedFacts | None:
        """Return what is known of a parked delivery, None where there is none by this id."""
        table = parked_delivery.c
        columns = (table.tenant, table.reason, table.received_at, table.sha256, table.signed_by, table.discarded_at)
        async with self._log.read() as connection:
            query = select(*columns, table.count.label("came")).where(table.id == delivery_id)
            row = (await connection.execute(query)).one_or_none()
        if row is None:
            return None
        return ParkedFacts(
            id=delivery_id,
            tenant=row.tenant,
            reason=row.reason,
            received_at=from_micros(row.received_at),
            sha256=row.sha256,
            signed_by=row.signed_by,
            count=row.came,
            discarded_at=None if row.discarded_at is None else from_micros(row.discarded_at),
        )

    async def _parked(self, position: int) -> tuple[str | None, bool]:
        """Return why an event could not be applied, None where it is not parked, and whether it was discarded."""
        table = parked_event.c
        query = select(table.reason, table.discarded_at).where(table.source == "log", table.at == position)
        async with self._projection.read() as connection:
            row = (await connection.execute(query)).one_or_none()
        return (None, False) if row is None else (row.reason, row.discarded_at is not None)

    async def _trace(self, entry: LogEntry) -> EventTrace | None:
        """Return what became of an event in the tables; None where it cannot be read any more, or never could be."""
        try:
            claims = fold.claims(entry.event, decode(entry.event))
        except InvalidEventError:
            return None
        rows = await self._holdings.rows({claim.key for claim in claims})
        return trace(claims, entry.position, rows)

    async def thing(self, kind: Entity, tenant: str, thing_id: str, *, ask: AskPart = whole) -> ThingFacts:
        """Return what is known of a thing."""
        key = Key(kind, tenant, thing_id)
        row = (await self._holdings.rows({key})).get(key)
        rest = await ask("What WhatSMS confirmed", self._rest(kind, tenant, thing_id, row))
        return ThingFacts(kind, tenant, thing_id, row, rest)

    async def _rest(self, kind: Entity, tenant: str, thing_id: str, row: Row | None) -> Confirmed:
        told = [] if row is None else [one.time for one in row.versions.values() if one.rank == OBSERVATION]
        runs = (
            select(backfill_run.c.run, backfill_run.c.started_at, backfill_run.c.finished_at, backfill_run.c.options)
            .where(backfill_run.c.tenant == tenant, backfill_run.c.kind == "reconcile")
            .where(backfill_run.c.finished_at.is_not(None))
            .order_by(backfill_run.c.run.desc())
        )
        async with self._log.read() as connection:
            looked = await looks.load(connection, tenant, kind, [thing_id])
            run = (await connection.execute(runs.limit(1))).one_or_none()
            drift = backfill_drift.c
            found = select(drift.kind).where(drift.entity == kind, drift.id == thing_id)
            differed = None if run is None else await connection.scalar(found.where(drift.run == run.run).limit(1))
        options = _RunOptions() if run is None else msgspec.json.decode(run.options, type=_RunOptions)
        return Confirmed(
            observed_at=from_micros(max(told)) if told else None,
            look=looked.get(thing_id),
            run=None if run is None else run.run,
            started_at=None if run is None else from_micros(run.started_at),
            finished_at=None if run is None else from_micros(run.finished_at),
            compared=run is not None and (kind != "message" or options.messages != "off"),
            differed=differed,
        )

    async def events_about(
        self, kind: Entity, tenant: str, thing_id: str, *, reach: int | None = REACH, until: int | None = None
    ) -> tuple[list[ShortEvent], int]:
        """Return the last events about a thing, newest first, and the position behind which all were looked at.

        Where `until` is given, they are the last ones up to that position.
        """
        table = event_log.c
        types = [one.value for one in EventType if entity(one) == kind]
        named: dict[Entity, ColumnElement[str | None]] = {
            "ticket": table.ticket_id, "message": table.message_id, "contact": table.contact_id,
        }  # fmt: skip
        about: list[ColumnElement[bool]] = [(table.subject == thing_id) & table.type.in_(types)]
        about += [named[kind] == thing_id] if kind in named else []
        rows, floor = await self._backwards((table.tenant == tenant) & or_(*about), reach, EVENTS_LIMIT, until)
        return [
            ShortEvent(row["position"], row["id"], row["type"], from_micros(row["received_at"]), row["origin"])
            for row in rows
        ], floor


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _digest(text: str) -> bytes | None:
    try:
        return bytes.fromhex(text) if len(text) == HASH_DIGITS else None
    except ValueError:
        return None
