"""This module yields everything that log, projection and backfill hold of one person, in bounded pages.

Who they are and what is theirs says the finder of `forget`, so what it would blank is what is found here. The log has
no index by contact or ticket: it would cost every append, and could not find an event that only names the person in a
nested snapshot. So the log is read once, piece by piece, and so is whatever is parked or still compared by a backfill.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from sqlalchemy import ColumnElement, Select, Table, literal, select, tuple_

from whatsms_events.clock import now as clock_now
from whatsms_events.domain.events import EventType
from whatsms_events.domain.forms import inflated
from whatsms_events.domain.last_message import plain
from whatsms_events.domain.marks import Find, shows
from whatsms_events.domain.named import delivered
from whatsms_events.storage.database import Database, among
from whatsms_events.storage.log.erasure import Erasure, Erasures, LogRow
from whatsms_events.storage.person_search import PersonSearch, told_in
from whatsms_events.storage.projection.erasure import FoundPerson
from whatsms_events.storage.projection.parked import ReadPlace
from whatsms_events.storage.projection.person_rows import chunks
from whatsms_events.storage.tables import (
    backfill_drift,
    backfill_item,
    backfill_look,
    backfill_run,
    contact,
    message,
    message_revision,
    parked_event,
    ticket,
)

PAGE: Final = 100
"""Rows in one page that come with their texts or bytes."""

RowsOf = Literal["contact", "ticket", "message", "message_revision"]
RepairsOf = Literal["backfill_item", "backfill_drift", "backfill_look"]
HeldRow = dict[str, Any]
"""A row with all columns of its table."""


@dataclass(frozen=True, slots=True)
class Person:
    """A person of one tenant (its id), as the finder knows them."""

    tenant: str
    found: FoundPerson

    @property
    def nobody(self) -> bool:
        """Tell whether nothing is known of anybody with this id, and it is no number: then nothing can be found."""
        return not self.found.contacts and not self.found.numbers

    @property
    def find(self) -> Find:
        """Return what tells whether an id, a number or a text is theirs."""
        return self.found.known(0).find

    def owns(self, row: LogRow) -> bool:
        """Tell whether an event is theirs: about their contact, in a ticket of theirs, or of a message of theirs.

        An ack that names another contact is of that one, who has read a message of theirs in a group.
        """
        event, found = row.event, self.found
        if event.contact_id in found.contacts or event.ticket_id in found.tickets:
            return True
        another = event.type is EventType.MESSAGE_ACK and event.contact_id is not None
        return event.message_id in found.messages and not another


@dataclass(frozen=True, slots=True)
class EventOf:
    """An event that is a person's (`own`), or is somebody else's and names them in what it shows beside its thing."""

    row: LogRow
    own: bool


@dataclass(frozen=True, slots=True)
class EventsOf:
    """What was found behind the page before, up to and with the position `through`."""

    through: int
    events: list[EventOf]


@dataclass(frozen=True, slots=True)
class ParkedOf:
    """A parked delivery that names a person.

    `plain` is the body before it was compressed; None where its form is not read: then nobody knows whom it names.
    """

    id: UUID
    received_at: datetime
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
    """What is held of one person. All verbs raise StorageUnavailableError. A page may be empty."""

    def __init__(self, log: Database, projection: Database, *, now: Callable[[], datetime] = clock_now) -> None:
        self._log = log
        self._projection = projection
        self._erasures = Erasures(log)
        self._now = now

    async def person(self, tenant: str, named: str) -> Person:
        """Return the person with this contact id, or else with this number. Raise ConfigError as `forget` does."""
        return Person(tenant, await PersonSearch(self._log, self._projection, self._now).person(tenant, named))

    def _search(self, person: Person) -> PersonSearch:
        search = PersonSearch(self._log, self._projection, self._now)
        search.tells(person.found)
        return search

    def _one(self, person: Person, until: int = 0) -> Erasure:
        return Erasure(0, person.tenant, "", self._now(), until, until=until)

    async def events_of(self, person: Person, *, after: int = 0, through: int | None = None) -> AsyncIterator[EventsOf]:
        """Yield every event that is the person's or names them, in the order of the log, with data and bytes.

        There is a page for each piece of the log: so a caller can show how far it is, stop, and go on after `through`.
        """
        end = await self._erasures.end() if through is None else through
        search, find = self._search(person), person.find
        while after < end:
            rows, after = await self._erasures.rows(person.tenant, after, end)
            found = [EventOf(row, person.owns(row)) for row in rows]
            theirs = (one for one in found if one.own or search.remaining(one.row, find, settled=True) is not None)
            yield EventsOf(after, [*theirs])

    async def rows_of(self, person: Person) -> AsyncIterator[tuple[RowsOf, list[HeldRow]]]:
        """Yield pages of the projection's rows, as its tables hold them: contacts, tickets, messages, revisions.

        Of tickets of groups there are those whose last message is the person's.
        """
        found = person.found
        for some in chunks(sorted(found.contacts | found.of_none), PAGE):
            yield "contact", await self._rows(person, contact, contact.c.id, some)
        for some in chunks(sorted(found.tickets), PAGE):
            yield "ticket", await self._rows(person, ticket, ticket.c.id, some)
        for some in chunks(sorted(found.groups), PAGE):
            rows = await self._rows(person, ticket, ticket.c.id, some)
            yield "ticket", [row for row in rows if _shows(row["last_message"], found.groups[row["id"]])]
        for some in chunks([*found.messages], PAGE):
            yield "message", await self._rows(person, message, message.c.id, some)
            yield "message_revision", await self._rows(person, message_revision, message_revision.c.message_id, some)

    async def _rows(
        self, person: Person, table: Table, column: ColumnElement[str], ids: Sequence[str]
    ) -> list[HeldRow]:
        async with self._projection.read() as connection:
            query = select(table).where(table.c.tenant == person.tenant, among(connection, column, ids))
            rows = (await connection.execute(query.order_by(*table.primary_key))).mappings().all()
        order = {one: number for number, one in enumerate(ids)}
        return sorted((dict(row) for row in rows), key=lambda row: order[row[column.key]])

    async def parked_of(self, person: Person) -> AsyncIterator[list[ParkedOf]]:
        """Yield the parked deliveries that name the person or a message of theirs, or that cannot be read."""
        search, find = self._search(person), person.find
        async for row in search.parked_bodies(self._one(person)):
            raw = inflated(row.raw, row.encoding)
            if raw is None or search.named(raw, find) is not None:
                yield [ParkedOf(row.id, row.received_at, row.reason, row.raw, raw)]

    async def parked_events_of(self, person: Person) -> AsyncIterator[list[ParkedEventOf]]:
        """Yield pages of parked events that name the person or a message of theirs.

        Records that name no log have no tenant, so they are looked at whoever is asked for.
        """
        search, find, table = self._search(person), person.find, parked_event.c
        columns = table.source, table.at, table.event_id, table.position, table.parked_at, table.reason, table.raw
        query = select(*columns).where((table.tenant == person.tenant) | table.tenant.is_(None))
        query = query.order_by(table.source, table.at).limit(PAGE)
        rows = await _all(self._projection, query)
        while rows:
            yield [_parked_event(row) for row in rows if row["raw"] and search.named(row["raw"], find) is not None]
            last = literal(rows[-1]["source"]), literal(rows[-1]["at"])
            rows = await _all(self._projection, query.where(tuple_(table.source, table.at) > tuple_(*last)))

    async def repairs_of(self, person: Person) -> AsyncIterator[tuple[RepairsOf, list[HeldRow]]]:
        """Yield pages of what backfills keep: items that they still compare, what differed, and when they looked.

        A drift or a look has nothing of anybody but an id, names of fields, and times.
        """
        shown = await self._search(person).backfilled(self._one(person), person.find, person.found)
        theirs = {str(entity): frozenset(ids) for entity, ids in shown.items()}
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
                yield name, [row for row in rows if _is_of(row, theirs)]
                last = [literal(rows[-1][column.name], column.type) for column in key]
                rows = await _all(self._log, query.where(tuple_(*key) > tuple_(*last)))


def _is_of(row: HeldRow, theirs: Mapping[str, frozenset[str]]) -> bool:
    entity = "ticket" if row["entity"] == "last_message" else row["entity"]
    return row["id"] in theirs.get(entity, ()) or row.get("ticket_id") in theirs["ticket"]


def _shows(last: str | None, texts: frozenset[str]) -> bool:
    return last is not None and any(shows(plain(last), one) for one in texts)


def _parked_event(row: HeldRow) -> ParkedEventOf:
    place = ReadPlace(row["source"], row["at"])
    return ParkedEventOf(place, row["event_id"], row["position"], row["parked_at"], row["reason"], row["raw"])


def shown_of(row: HeldRow) -> Iterator[Any]:
    """Yield the JSON values that a backfill's item keeps: as they are, or within its worker's own form."""
    if row.keys() >= {"payload", "raw", "found"}:
        yield from map(delivered, told_in(row["payload"], row["raw"], row["found"]))


async def _all(database: Database, query: Select[Any]) -> list[HeldRow]:
    async with database.read() as connection:
        return [dict(row) for row in (await connection.execute(query)).mappings()]
