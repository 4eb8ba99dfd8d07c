"""This module finds everything that log, projection and backfill hold of one person, in bounded pages.

The log has no index by contact or ticket: it would cost every append, and could not find an event that only names the
person in a nested snapshot. So the log is read once, piece by piece, and of what is not theirs the database returns ids
only. In the same way all messages of the tenant are looked at, for what the person wrote in groups, and whatever is
parked or still compared by a backfill, which is little. Contacts, tickets and their messages are found by key.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal
from uuid import UUID

import msgspec
from sqlalchemy import ColumnElement, Select, Table, func, literal, or_, select, tuple_

from whatsms_events.domain.named import delivered, inflated
from whatsms_events.domain.person import Person, message_ids
from whatsms_events.storage.database import CHUNK, Database, among
from whatsms_events.storage.log.event_log import EventLog, StoredEvent
from whatsms_events.storage.projection.parked import ReadPlace
from whatsms_events.storage.projection.person_rows import chunks, contacts_of, messages_of, tickets_of
from whatsms_events.storage.tables import (
    backfill_drift,
    backfill_item,
    backfill_look,
    backfill_run,
    contact,
    event_log,
    message,
    message_revision,
    parked_delivery,
    parked_event,
    ticket,
)

PIECE: Final = 5000
"""Positions of the log, or messages, that one question looks at."""

PAGE: Final = 100
"""Rows in one page that come with their texts or bytes."""

RowsOf = Literal["contact", "ticket", "message", "message_revision"]
RepairsOf = Literal["backfill_item", "backfill_drift", "backfill_look"]
HeldRow = dict[str, Any]
"""A row with all columns of its table."""


@dataclass(frozen=True, slots=True)
class EventOf:
    """An event that is a person's (`own`), or is somebody else's and names them in what it shows beside its thing."""

    stored: StoredEvent
    own: bool


@dataclass(frozen=True, slots=True)
class EventsOf:
    """What was found behind the page before, up to and with the position `through`."""

    through: int
    events: list[EventOf]


@dataclass(frozen=True, slots=True)
class ParkedOf:
    """A parked delivery that names a person; its time is in microseconds.

    `plain` is the body before it was compressed; None where its form is not read: then nobody knows whom it names.
    """

    id: UUID
    received_at: int
    reason: str
    raw: bytes
    plain: bytes | None

    @property
    def readable(self) -> bool:
        """Tell whether it surely names the person."""
        return self.plain is not None


@dataclass(frozen=True, slots=True)
class ParkedEventOf:
    """A parked event that names a person, with the bytes that it was read as; its time is in microseconds."""

    place: ReadPlace
    event_id: UUID | None
    position: int | None
    parked_at: int
    reason: str
    raw: bytes


class People:
    """The finder. All verbs raise StorageUnavailableError. A page may be empty, so that its caller can count pages."""

    def __init__(self, log: Database, projection: Database, *, piece: int = PIECE) -> None:
        self._log = log
        self._projection = projection
        self._event_log = EventLog(log)
        self._piece = piece

    async def person(self, tenant: str, named: str) -> Person:
        """Return the person with this contact id, or else with this number, as the projection knows them.

        Where there is no contact, the text is taken for an id and a number: the log may know them all the same.
        """
        async with self._projection.read() as connection:
            found = await contacts_of(connection, tenant, named)
            ids = frozenset(row.id for row in found.rows) or frozenset((named,))
            tickets = await tickets_of(connection, tenant, ids)
        numbers = {row.number for row in found.rows if row.number} | (set() if found.by_id else {named})
        return Person(tenant, ids, frozenset(numbers), tickets, known=bool(found.rows))

    async def events_of(self, person: Person, *, after: int = 0, through: int | None = None) -> AsyncIterator[EventsOf]:
        """Yield every event that is the person's or names them, in the order of the log, with data and bytes.

        There is a page for each piece of the log: so a caller can show how far it is, stop, and go on after `through`.
        """
        end = await self._event_log.end() if through is None else through
        while after < end:
            last = min(after + self._piece, end)
            found = await self._events(person, after, last)
            waiting = sorted(found)
            while waiting:
                loaded = await self._event_log.read_at(waiting[:PAGE])
                through = loaded[-1].entry.position if loaded else last
                waiting = [one for one in waiting if one > through]
                through = through if waiting else last
                yield EventsOf(through, [one for stored in loaded if (one := _event(person, stored, found))])
            if not found:
                yield EventsOf(last, [])
            after = last

    async def _events(self, person: Person, after: int, last: int) -> dict[int, bool]:
        """Return the positions of a piece whose events may concern the person, and of each whether it surely does."""
        table = event_log.c
        named = or_(*(self._has(table.data, needle) for needle in person.needles())).label("named")
        ids = (table.position, table.ticket_id, table.contact_id, table.message_id)
        query = select(*ids, named).where(table.position > after, table.position <= last)
        found: dict[int, bool] = {}
        unplaced: dict[str, list[int]] = {}
        for row in await _all(self._log, query.where(table.tenant == person.tenant)):
            if person.owns(ticket_id=row["ticket_id"], contact_id=row["contact_id"]):
                found[row["position"]] = True
                continue
            if row["named"]:
                found[row["position"]] = False
            if row["message_id"] is not None and row["contact_id"] is None:  # an ack may name its message alone
                unplaced.setdefault(row["message_id"], []).append(row["position"])
        for one in await self._messages_of(person, list(unplaced)):
            found |= dict.fromkeys(unplaced[one], True)
        return found

    def _has(self, column: ColumnElement[Any], text: str) -> ColumnElement[bool]:
        position = func.strpos if self._log.dialect == "postgresql" else func.instr
        return func.coalesce(position(column, text), 0) > 0

    async def _messages_of(self, person: Person, ids: Sequence[str]) -> set[str]:
        """Return those of the messages that are the person's, as the projection knows them."""
        table = message.c
        found: set[str] = set()
        async with self._projection.read() as connection:
            for some in chunks(ids, CHUNK):
                query = select(table.id, table.ticket_id, table.contact_id).where(table.tenant == person.tenant)
                for row in await connection.execute(query.where(among(connection, table.id, some))):
                    if person.owns(ticket_id=row.ticket_id, contact_id=row.contact_id):
                        found.add(row.id)
        return found

    async def rows_of(self, person: Person) -> AsyncIterator[tuple[RowsOf, list[HeldRow]]]:
        """Yield pages of the projection's rows, as its tables hold them: contacts, tickets, messages, revisions."""
        for some in chunks(sorted(person.contacts), PAGE):
            yield "contact", await self._rows(person, contact, contact.c.id, some)
        for some in chunks(sorted(person.tickets), PAGE):
            yield "ticket", await self._rows(person, ticket, ticket.c.id, some)
        async for ids in self.messages_of(person):
            for some in chunks(ids, PAGE):
                yield "message", await self._rows(person, message, message.c.id, some)
                yield (
                    "message_revision",
                    await self._rows(person, message_revision, message_revision.c.message_id, some),
                )

    async def _rows(
        self, person: Person, table: Table, column: ColumnElement[str], ids: Sequence[str]
    ) -> list[HeldRow]:
        async with self._projection.read() as connection:
            query = select(table).where(table.c.tenant == person.tenant, among(connection, column, ids))
            return [dict(row) for row in (await connection.execute(query.order_by(*table.primary_key))).mappings()]

    async def messages_of(self, person: Person) -> AsyncIterator[list[str]]:
        """Yield pages of ids: the messages in the person's tickets, and then those that they wrote elsewhere."""
        found = messages_of(self._projection, person.tenant, person.contacts, person.tickets, piece=self._piece)
        async for rows in found:
            yield [row.id for row in rows]

    async def parked_of(self, person: Person) -> AsyncIterator[list[ParkedOf]]:
        """Yield pages of parked deliveries that name the person or a message of theirs, or that cannot be read."""
        table = parked_delivery.c
        columns = table.id, table.received_at, table.reason, table.content_encoding, table.raw
        query = select(*columns).where(table.tenant == person.tenant).order_by(table.received_at, table.id).limit(PAGE)
        rows = await _all(self._log, query)
        while rows:
            plain = [inflated(row["raw"], row["content_encoding"]) for row in rows]
            named = await self._named(person, [one or b"" for one in plain])
            yield [
                ParkedOf(row["id"], row["received_at"], row["reason"], row["raw"], one)
                for row, one, yes in zip(rows, plain, named, strict=True)
                if yes or one is None
            ]
            last = literal(rows[-1]["received_at"]), literal(rows[-1]["id"], table.id.type)
            rows = await _all(self._log, query.where(tuple_(table.received_at, table.id) > tuple_(*last)))

    async def parked_events_of(self, person: Person) -> AsyncIterator[list[ParkedEventOf]]:
        """Yield pages of parked events that name the person or a message of theirs.

        Records that name no log have no tenant, so they are looked at whoever is asked for.
        """
        table = parked_event.c
        columns = table.source, table.at, table.event_id, table.position, table.parked_at, table.reason, table.raw
        query = select(*columns).where((table.tenant == person.tenant) | table.tenant.is_(None))
        query = query.order_by(table.source, table.at).limit(PAGE)
        rows = await _all(self._projection, query)
        while rows:
            named = await self._named(person, [row["raw"] for row in rows])
            yield [_parked_event(row) for row, yes in zip(rows, named, strict=True) if yes]
            last = literal(rows[-1]["source"]), literal(rows[-1]["at"])
            rows = await _all(self._projection, query.where(tuple_(table.source, table.at) > tuple_(*last)))

    async def _named(self, person: Person, raws: Sequence[bytes]) -> list[bool]:
        """Tell of each whether it names the person, or a message that is theirs."""
        yes = [person.is_named_in_bytes(raw) for raw in raws]
        ids = [[] if found else message_ids(delivered(raw)) for raw, found in zip(raws, yes, strict=True)]
        theirs = await self._messages_of(person, sorted({one for some in ids for one in some}))
        return [found or bool(theirs.intersection(some)) for found, some in zip(yes, ids, strict=True)]

    async def repairs_of(self, person: Person) -> AsyncIterator[tuple[RepairsOf, list[HeldRow]]]:
        """Yield pages of what backfills keep: items that they still compare, what differed, and when they looked.

        A drift or a look has nothing of anybody but an id, names of fields, and times.
        """
        runs = select(backfill_run.c.run).where(backfill_run.c.tenant == person.tenant)
        of: dict[RepairsOf, tuple[Table, ColumnElement[bool]]] = {
            "backfill_item": (backfill_item, backfill_item.c.run.in_(runs)),
            "backfill_drift": (backfill_drift, backfill_drift.c.run.in_(runs)),
            "backfill_look": (backfill_look, backfill_look.c.tenant == person.tenant),
        }
        for name, (table, mine) in of.items():
            key = list(table.primary_key)
            query = select(table).where(mine).order_by(*key).limit(PAGE)
            rows = await _all(self._log, query)
            while rows:
                yield name, await self._theirs(person, rows)
                last = [literal(rows[-1][column.name], column.type) for column in key]
                rows = await _all(self._log, query.where(tuple_(*key) > tuple_(*last)))

    async def _theirs(self, person: Person, rows: Sequence[HeldRow]) -> list[HeldRow]:
        messages = await self._messages_of(person, sorted({row["id"] for row in rows if row["entity"] == "message"}))
        ids = {"contact": person.contacts, "ticket": person.tickets, "message": messages}
        return [
            row
            for row in rows
            if row["id"] in ids.get(row["entity"], ())
            or row.get("ticket_id") in person.tickets
            or any(person.is_named_in(value) for value in shown_of(row))
        ]


def _event(person: Person, stored: StoredEvent, found: dict[int, bool]) -> EventOf | None:
    own = found[stored.entry.position]
    if not own and not person.is_named_in(msgspec.json.decode(stored.entry.event.data or b"null")):
        return None
    return EventOf(stored, own)


def _parked_event(row: HeldRow) -> ParkedEventOf:
    place = ReadPlace(row["source"], row["at"])
    return ParkedEventOf(place, row["event_id"], row["position"], row["parked_at"], row["reason"], row["raw"])


def shown_of(row: HeldRow) -> Iterator[Any]:
    """Yield the JSON values that a backfill's item keeps: as they are, or within its worker's own form."""
    for name in ("payload", "raw", "found"):
        if not (kept := row.get(name)):
            continue
        if name == "payload":
            kept = msgspec.msgpack.decode(kept)
            yield from (msgspec.json.decode(one) for one in kept.values() if isinstance(one, bytes) and one)
        else:
            yield delivered(kept)


async def _all(database: Database, query: Select[Any]) -> list[HeldRow]:
    async with database.read() as connection:
        return [dict(row) for row in (await connection.execute(query)).mappings()]
