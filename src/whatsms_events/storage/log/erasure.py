"""Erasing a person from the log and from what stands beside it: what is theirs goes, the rows stay in their places.

Whoever erases holds the role lock `BLANKING` meanwhile. Each verb is one transaction, and saves how far it got, so that
a process that is killed goes on from there. Nothing of the person is written down but ids and marks.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgspec
from sqlalchemy import ColumnElement, RowMapping, delete, func, insert, literal, null, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from whatsms_events.domain.events import Entity, Event, EventType, from_micros, to_micros
from whatsms_events.domain.verdicts import Append
from whatsms_events.storage.columns import UNFINISHED
from whatsms_events.storage.database import CHUNK, Database, among
from whatsms_events.storage.database import insert as upsert
from whatsms_events.storage.log.appends import EVENT_COLUMNS, event_row
from whatsms_events.storage.log.blanking import blank_rows
from whatsms_events.storage.log.suppression import KeptMark, add_marks
from whatsms_events.storage.projection.person_rows import chunks
from whatsms_events.storage.tables import (
    backfill_item,
    backfill_look,
    backfill_run,
    erasure,
    event_log,
    parked_delivery,
)

PIECE_ROWS: Final = 500
PIECE_BYTES: Final = 4 * 1024 * 1024
"""Of one piece of the log: what is blanked of it is blanked while nobody can append to SQLite's file."""

PARKED_PIECE: Final = 50
"""Parked deliveries in one question; each has a whole body."""

ITEMS_PIECE: Final = 500
"""Items of backfills in one question."""

LOOKED_AT: Final = 20_000
"""Positions of the log in one question that looks at ids alone."""

TICKETS_KEPT: Final = 10_000
"""So many of a person's tickets are written down; the tables have them by the contact too, and their marks stay."""

Counts = dict[str, int]
"""By table, how many rows hold something of the person."""


@dataclass(frozen=True, slots=True)
class Erasure:
    """One person who is forgotten, and how far that is.

    What stands up to `log_end` is from before, whatever its times say. The log is looked through up to `until`.
    `kafka_until` is None where no Kafka holds anything, or where it keeps for ever. `contact_ids` and `ticket_ids` are
    all that is known of the person: a process that goes on finds them here, when the tables do not tell any more.
    """

    number: int
    tenant: str
    contact_id: str
    forgotten_at: datetime
    log_end: int
    event_id: UUID | None = None
    through: int = 0
    until: int = 0
    kafka_until: datetime | None = None
    blanked: Counts | None = None
    finished_at: datetime | None = None
    contact_ids: frozenset[str] = frozenset()
    ticket_ids: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class LogRow:
    """A row of the log as one who erases sees it. `event.data` is empty where retention blanked it."""

    position: int
    event: Event
    raw: bytes | None


class ParkedBody(NamedTuple):
    """A parked delivery as one who erases sees it."""

    id: UUID
    received_at: datetime
    encoding: str | None
    raw: bytes
    tenant: str
    reason: str


class ShownItem(NamedTuple):
    """An item of an unfinished backfill as one who erases sees it. `payload` is MessagePack with JSON texts in it."""

    run: int
    entity: Entity
    id: str
    ticket_id: str | None
    payload: bytes | None
    raw: bytes | None
    found: bytes | None


class Erasures:
    """The verbs. All raise StorageUnavailableError where the database is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, one: Erasure, marks: Sequence[KeptMark]) -> Erasure:
        """Write that a person is forgotten from now on, with their marks; return it with its number and the log's end.

        Of `one` only the tenant, the ids and the moment are looked at.
        """
        async with self._database.write() as connection:
            end = int(await connection.scalar(select(func.max(event_log.c.position))) or 0)
            values = {
                "tenant": one.tenant,
                "contact_id": one.contact_id,
                **_ids(one),
                "forgotten_at": to_micros(one.forgotten_at),
                "log_end": end,
                "through": 0,
                "until": 0,
                "blanked": "{}",
            }
            made = await connection.execute(insert(erasure).values(values).returning(erasure.c.number))
            number = int(made.scalar_one())
            await add_marks(connection, marks)
        return replace(one, number=number, log_end=end, blanked={})

    async def of(self, tenant: str, contact_ids: Collection[str], moments: Collection[int]) -> list[Erasure]:
        """Return the erasures of these contacts, and those of these moments in microseconds, in their order.

        A mark has the moment of its erasure, and no two erasures of a tenant have the same.
        """
        wanted = frozenset(contact_ids)
        mine = [one for one in await self.all() if one.tenant == tenant]
        return [one for one in mine if wanted & one.contact_ids or to_micros(one.forgotten_at) in moments]

    async def all(self) -> list[Erasure]:
        """Return everybody who was forgotten, in that order."""
        async with self._database.read() as connection:
            rows = (await connection.execute(select(erasure).order_by(erasure.c.number))).mappings().all()
        return [_erasure(row) for row in rows]

    async def append(self, one: Erasure, item: Append, kafka_until: datetime | None) -> Erasure:
        """Append `contact.forgotten`, once, and note the log's end by now: up to there the log is looked through.

        On PostgreSQL this takes the log's lock, so whoever appends by then has appended before that end.
        """
        row = dict(zip(EVENT_COLUMNS, event_row(item), strict=True))
        async with self._database.write() as connection:
            new = upsert(connection, event_log).values(row).on_conflict_do_nothing(index_elements=["id"])
            await connection.execute(new)
            until = int(await connection.scalar(select(func.max(event_log.c.position))) or 0)
            moved = {
                "event_id": item.event.id,
                "until": until,
                "kafka_until": None if kafka_until is None else to_micros(kafka_until),
            }
            await connection.execute(update(erasure).where(erasure.c.number == one.number).values(moved))
        return replace(one, event_id=item.event.id, until=until, kafka_until=kafka_until)

    async def add(self, one: Erasure, marks: Sequence[KeptMark]) -> Erasure:
        """Save the ids of an erasure, and add marks that were found since.

        With marks the erasure is again as it was before its event: who appended meanwhile did not know them, so the
        log must be looked through up to another end, and from its beginning.
        """
        if marks:
            one = replace(one, event_id=None, through=0)
        values = {**_ids(one), "event_id": one.event_id, "through": one.through}
        async with self._database.write() as connection:
            await connection.execute(update(erasure).where(erasure.c.number == one.number).values(values))
            await add_marks(connection, marks)
        return one

    async def follow(self, one: Erasure) -> None:
        """Save of a finished erasure the ids and the place of what turned out to be theirs."""
        until = None if one.kafka_until is None else to_micros(one.kafka_until)
        values = {**_ids(one), "until": one.until, "kafka_until": until}
        async with self._database.write() as connection:
            await connection.execute(update(erasure).where(erasure.c.number == one.number).values(values))

    async def end(self) -> int:
        """Return the highest position, 0 when the log is empty."""
        async with self._database.read() as connection:
            return int(await connection.scalar(select(func.max(event_log.c.position))) or 0)

    async def rows(self, tenant: str, after: int, until: int) -> tuple[list[LogRow], int]:
        """Return a tenant's next rows with their bytes, and the position up to which nothing is left out."""
        table = event_log.c
        place = (table.tenant == tenant, table.position > after, table.position <= until)
        size = func.coalesce(func.length(table.raw), 0) + func.coalesce(func.length(table.data), 0)
        async with self._database.read() as connection:
            sizes = (
                await connection.execute(
                    select(table.position, size).where(*place).order_by(table.position).limit(PIECE_ROWS)
                )
            ).all()
            if not sizes:
                return [], until
            last, total = sizes[0][0], 0
            for position, one in sizes:
                total += int(one)
                if total > PIECE_BYTES and position != sizes[0][0]:
                    break
                last = position
            query = select(event_log).where(*place, table.position <= last).order_by(table.position)
            found = (await connection.execute(query)).mappings().all()
        return [log_row(row) for row in found], last

    async def blank(self, one: Erasure, left: dict[int, bytes], through: int) -> Erasure:
        """Blank rows, so that each keeps what is `left` of its data (empty: nothing), and save how far that is."""
        counts = dict(one.blanked or {})
        counts["event_log"] = counts.get("event_log", 0) + len(left)
        async with self._database.write() as connection:
            await blank_rows(connection, sorted(left))
            for position, data in left.items():
                if data:
                    kept = update(event_log).where(event_log.c.position == position)
                    await connection.execute(kept.values(data=data.decode()))
            moved = {"through": through, "blanked": msgspec.json.encode(counts).decode()}
            await connection.execute(update(erasure).where(erasure.c.number == one.number).values(moved))
        return replace(one, through=through, blanked=counts)

    async def contacts_in(self, tenant: str, tickets: Collection[str], until: int) -> set[tuple[str, str]]:
        """Return of each of these tickets the contacts with whom the log shows it: (ticket, contact)."""
        table, found = event_log.c, set[tuple[str, str]]()
        for after in range(0, until, LOOKED_AT):
            query = select(table.ticket_id, table.contact_id).where(
                table.position > after, table.position <= min(after + LOOKED_AT, until), table.tenant == tenant
            )
            async with self._database.read() as connection:
                for some in chunks(sorted(tickets)):
                    mine = query.where(among(connection, table.ticket_id, some), table.contact_id.is_not(None))
                    found |= {(ticket, contact) for ticket, contact in await connection.execute(mine.distinct())}
        return found

    async def received_through(self, tenant: str, at: int) -> int:
        """Return the last position of the tenant that was received up to a moment, in microseconds; 0 for none."""
        table = event_log.c
        query = select(table.position).where(table.tenant == tenant, table.received_at <= at)
        async with self._database.read() as connection:
            return int(await connection.scalar(query.order_by(table.position.desc()).limit(1)) or 0)

    async def blanked_behind(self, tenant: str, after: int, until: int) -> frozenset[int]:
        """Return the positions behind one, up to another one, whose bytes are gone."""
        table = event_log.c
        query = select(table.position).where(table.tenant == tenant, table.position > after, table.position <= until)
        async with self._database.read() as connection:
            return frozenset((await connection.execute(query.where(table.raw.is_(None)))).scalars())

    async def parked(self, tenant: str, after: UUID | None) -> list[ParkedBody]:
        """Return the next parked deliveries of a tenant by id, and those that name another one than they came to."""
        table = parked_delivery.c
        columns = (table.id, table.received_at, table.content_encoding, table.raw, table.tenant, table.reason)
        query = select(*columns).where(or_(table.tenant == tenant, table.reason == "other_tenant")).order_by(table.id)
        if after is not None:
            query = query.where(table.id > literal(after, table.id.type))
        async with self._database.read() as connection:
            rows = (await connection.execute(query.limit(PARKED_PIECE))).all()
        return [ParkedBody(one.id, from_micros(one.received_at), *one[2:]) for one in rows]

    async def blank_parked(self, ids: Sequence[UUID]) -> int:
        """Take the bytes of parked deliveries away; they stay parked, and cannot be read any more."""
        mine = parked_delivery.c.id.in_(list(ids))
        async with self._database.write() as connection:
            if connection.dialect.name == "sqlite":
                await connection.execute(update(parked_delivery).where(mine).values(raw=_zeros(parked_delivery.c.raw)))
            return (await connection.execute(update(parked_delivery).where(mine).values(raw=b""))).rowcount

    async def shown_items(self, tenant: str, after: tuple[int, str, str]) -> list[ShownItem]:
        """Return the next items of the tenant's unfinished runs that hold something, by run, entity and id."""
        table = backfill_item.c
        columns = (table.run, table.entity, table.id, table.ticket_id, table.payload, table.raw, table.found)
        place = tuple_(table.run, table.entity, table.id)
        behind = place > tuple_(*(literal(one, of.type) for one, of in zip(after, columns, strict=False)))
        runs = select(backfill_run.c.run).where(backfill_run.c.tenant == tenant, UNFINISHED)
        query = select(*columns).where(table.run.in_(runs), _holding(), behind)
        async with self._database.read() as connection:
            rows = await connection.execute(query.order_by(table.run, table.entity, table.id).limit(ITEMS_PIECE))
            return [ShownItem(*row) for row in rows]

    async def backfilled(self, tenant: str, ids: dict[Entity, Collection[str]]) -> int:
        """Count the items of unfinished runs that hold something that was shown of these."""
        async with self._database.read() as connection:
            found = 0
            for condition in await _items(connection, tenant, ids):
                query = select(func.count()).select_from(backfill_item)
                found += int(await connection.scalar(query.where(condition, _holding())) or 0)
            return found

    async def blank_backfilled(self, tenant: str, ids: dict[Entity, Collection[str]]) -> int:
        """Close the items of these in unfinished runs, and forget what looks at them remember.

        The runs' generation moves: a process that has items in memory may not write them back, and takes the run up
        again. The next run compares what was closed here.
        """
        closed = {"state": "done", "messages": "none", "payload": null(), "raw": null(), "found": null()}
        blanked = 0
        async with self._database.write() as connection:
            mine = backfill_run.c.tenant == tenant, UNFINISHED
            await connection.execute(update(backfill_run).where(*mine).values(generation=backfill_run.c.generation + 1))
            for condition in await _items(connection, tenant, ids):
                blanked += (await connection.execute(update(backfill_item).where(condition).values(closed))).rowcount
            tickets = sorted(ids.get("ticket", ()))
            for start in range(0, len(tickets), CHUNK):
                # Where a last message was looked for, the number beside it was made of its text.
                of = among(connection, backfill_look.c.id, tickets[start : start + CHUNK])
                told = backfill_look.c.tenant == tenant, backfill_look.c.entity == "last_message"
                await connection.execute(delete(backfill_look).where(*told, of))
        return blanked

    async def finish(self, one: Erasure, counts: Counts, now: datetime) -> Erasure:
        """Write that nothing of the person is left."""
        done = {"finished_at": to_micros(now), "blanked": msgspec.json.encode(counts).decode()}
        async with self._database.write() as connection:
            await connection.execute(update(erasure).where(erasure.c.number == one.number).values(done))
        return replace(one, finished_at=now, blanked=counts)


def _zeros(column: Any) -> Any:
    """Zeros of the same length: on SQLite a row that keeps its size is overwritten in its place."""
    return func.zeroblob(func.length(column))


def _holding() -> ColumnElement[bool]:
    table = backfill_item.c
    return or_(table.payload.is_not(None), table.raw.is_not(None), table.found.is_not(None))


async def _items(
    connection: AsyncConnection, tenant: str, ids: dict[Entity, Collection[str]]
) -> list[ColumnElement[bool]]:
    """Return conditions for the items of these in the tenant's unfinished runs."""
    runs = (
        await connection.execute(select(backfill_run.c.run).where(backfill_run.c.tenant == tenant, UNFINISHED))
    ).scalars()
    numbers = list(runs)
    found: list[ColumnElement[bool]] = []
    for entity, some in ids.items() if numbers else ():
        wanted = sorted(some)
        for start in range(0, len(wanted), CHUNK):
            of = among(connection, backfill_item.c.id, wanted[start : start + CHUNK])
            found.append(backfill_item.c.run.in_(numbers) & (backfill_item.c.entity == entity) & of)
    return found


def _ids(one: Erasure) -> dict[str, str]:
    contacts, tickets = sorted(one.contact_ids), sorted(one.ticket_ids)[:TICKETS_KEPT]
    return {"ids": msgspec.json.encode([contacts, tickets]).decode()}


def _erasure(row: RowMapping) -> Erasure:
    contact_ids, ticket_ids = map(frozenset, msgspec.json.decode(row["ids"], type=tuple[list[str], list[str]]))
    return Erasure(
        number=row["number"],
        tenant=row["tenant"],
        contact_id=row["contact_id"],
        forgotten_at=from_micros(row["forgotten_at"]),
        log_end=row["log_end"],
        event_id=row["event_id"],
        through=row["through"],
        until=row["until"],
        kafka_until=None if row["kafka_until"] is None else from_micros(row["kafka_until"]),
        blanked=msgspec.json.decode(row["blanked"], type=Counts),
        finished_at=None if row["finished_at"] is None else from_micros(row["finished_at"]),
        contact_ids=contact_ids,
        ticket_ids=ticket_ids,
    )


def log_row(row: RowMapping) -> LogRow:
    """Return a row of the log as it stands in the table."""
    event = Event(
        id=row["id"],
        type=EventType(row["type"]),
        tenant=row["tenant"],
        occurred_at=None if row["occurred_at"] is None else from_micros(row["occurred_at"]),
        received_at=from_micros(row["received_at"]),
        origin=row["origin"],
        subject=row["subject"],
        ticket_id=row["ticket_id"],
        contact_id=row["contact_id"],
        message_id=row["message_id"],
        data=b"" if row["data"] is None else row["data"].encode(),
    )
    return LogRow(row["position"], event, row["raw"])
