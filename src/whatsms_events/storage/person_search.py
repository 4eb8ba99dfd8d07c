"""Who a person is, and where they are in everything that is held: the one finder of `export` and `forget`.

So what is forgotten is what would have been exported. Nothing is changed here. What tells who somebody is, and texts
of theirs that go, are remembered in memory alone: so the proof at the end can look for the very values.
"""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from whatsms_events.domain.before import parked_before
from whatsms_events.domain.events import Entity, decode, encode, to_micros
from whatsms_events.domain.forms import inflated
from whatsms_events.domain.marks import Find, KnownPerson, Marker, Suppressions, is_no_id
from whatsms_events.domain.named import calls_contact, delivered, leaves, named_in_bytes, tenants_named
from whatsms_events.domain.ownership import contact_ids, ticket_ids
from whatsms_events.domain.personal import personal_values, spellings, texts_in
from whatsms_events.domain.suppression import judged
from whatsms_events.errors import InvalidEventError
from whatsms_events.storage.database import Database
from whatsms_events.storage.log.authors import authored
from whatsms_events.storage.log.erasure import TICKETS_KEPT, Counts, Erasure, Erasures, LogRow, ParkedBody, ShownItem
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.log.merges import merged_with, merges
from whatsms_events.storage.log.suppression import SuppressionTable
from whatsms_events.storage.projection.erasure import Before, FoundPerson, PersonalRows, crowded
from whatsms_events.storage.projection.person_rows import CONTACTS_LIMIT

NEEDLES: Final = 50
"""So many texts are looked for in every row at the end: long ones, which no other person's rows have by chance."""

NEEDLE_CHARS: Final = 10

TOLD_LIMIT: Final = 50
"""So many places are named in a result."""


class PersonSearch:
    """Looks for one person. All verbs raise StorageUnavailableError where a database is away."""

    def __init__(self, log: Database, projection: Database, now: Callable[[], datetime]) -> None:
        self._log = log
        self._erasures = Erasures(log)
        self._event_log = EventLog(log)
        self._rows = PersonalRows(projection)
        self._now = now
        self._emails: frozenset[str] = frozenset()
        self._numbers: tuple[bytes, ...] = ()
        self._telling: frozenset[str] = frozenset()  # number, mail address, picture
        self._values: set[str] = set()  # texts that were blanked; all are in memory alone

    async def person(
        self,
        tenant: str,
        who: str,
        before: Before | None = None,
        *,
        contact_ids: Collection[str] = (),
        ticket_ids: Collection[str] = (),
    ) -> FoundPerson:
        """Return who is meant by an id or a number, as tables and log know them; no contacts where nobody is known.

        What the vendor merged with a contact of theirs is theirs too, whatever number it had. Both must be known as
        contacts: "0", "none" and a group are nobody. A message whose author an unknown field names is
        theirs as well. Otherwise as `PersonalRows.person`, whose errors it raises.
        """
        person = await self._rows.person(tenant, who, before, contact_ids=contact_ids, ticket_ids=ticket_ids)
        end = await self._event_log.end()
        if not person.contacts:
            find = replace(person, contacts=frozenset((who,))).known(to_micros(self._now())).find
            one = Erasure(0, tenant, who, self._now(), end, until=end)
            contacts, tickets = await self._ids_in_log(one, find)
            if not contacts and await self._called_beside(one):
                contacts.add(who)
            person = await self._rows.person(tenant, who, before, contact_ids=contacts, ticket_ids=tickets)
        told = await merges(self._log, tenant, end) if person.contacts else []
        people = await self._rows.people(tenant, {one for pair in told for one in pair})
        pairs = [pair for pair in told if people.issuperset(pair)]
        while pairs and (merged := merged_with(person.contacts, pairs)) != person.contacts:
            known = person.tickets | frozenset(ticket_ids)
            person = await self._rows.person(tenant, who, before, contact_ids=merged, ticket_ids=known)
        told_of = await authored(self._log, tenant, end, person.known(0).find)
        tickets = told_of.tickets | await self._not_shared(tenant, told_of.guessed - person.tickets, person, end)
        if tickets <= person.tickets and told_of.messages <= person.messages.keys():
            return person
        known = person.tickets | tickets | frozenset(ticket_ids)
        return await self._rows.person(
            tenant, who, before, contact_ids=person.contacts, ticket_ids=known, message_ids=told_of.messages
        )

    async def _not_shared(self, tenant: str, tickets: Collection[str], person: FoundPerson, end: int) -> set[str]:
        """Return which of these tickets the log shows with nobody else's contact."""
        shown = await self._erasures.contacts_in(tenant, tickets, end) if tickets else set()
        others = {one for one, contact in shown if contact not in person.contacts and not is_no_id(contact)}
        return {*tickets} - others

    async def marked(self, one: Erasure, marker: Marker | None) -> FoundPerson:
        """Return what the tables have that was marked with this erasure: the log may have told alone whose it was."""
        at, nobody = to_micros(one.forgotten_at), FoundPerson(frozenset())
        kept = await SuppressionTable(self._log).all()
        marks = {row.mark: at for row in kept if row.tenant == one.tenant and row.forgotten_at == at}
        if marker is None or not marks:
            return nobody
        return (await self._rows.marked(one.tenant, Suppressions(marker, marks).of(one.tenant))).get(at, nobody)

    def tells(self, person: FoundPerson) -> None:
        """Remember, in memory alone, what tells who the person is."""
        self._emails = person.emails
        self._numbers = tuple(one.encode() for one in person.numbers)
        self._telling = person.numbers | person.emails | person.pictures

    async def _ids_in_log(self, one: Erasure, find: Find) -> tuple[set[str], set[str]]:
        """Return the ids of contacts and of their tickets that the log shows; raise ConfigError as `person`."""
        contacts: set[str] = set()
        tickets: set[str] = set()
        after = 0
        while after < one.until and len(contacts) <= CONTACTS_LIMIT and len(tickets) < TICKETS_KEPT:
            rows, after = await self._erasures.rows(one.tenant, after, one.until)
            for row in rows:
                with contextlib.suppress(InvalidEventError):  # nobody can read it: then it shows no contact
                    payload = decode(row.event)
                    contacts |= contact_ids(row.event, payload, find)
                    tickets |= ticket_ids(row.event, payload, find)
                if one.contact_id not in contacts and calls_contact(delivered(row.event.data), one.contact_id):
                    contacts.add(one.contact_id)
        if len(contacts) > CONTACTS_LIMIT:
            raise crowded()
        return contacts, tickets

    async def _called_beside(self, one: Erasure) -> bool:
        """Tell whether something parked, or shown to a backfill, calls this id a contact's."""
        async for row in self.parked_bodies(one):
            if calls_contact(delivered(inflated(row.raw, row.encoding) or b""), one.contact_id):
                return True
        async for item in self._items(one.tenant):
            if any(
                calls_contact(delivered(told), one.contact_id) for told in told_in(item.payload, item.raw, item.found)
            ):
                return True
        return False

    async def _items(self, tenant: str) -> AsyncIterator[ShownItem]:
        after = (-1, "", "")
        while rows := await self._erasures.shown_items(tenant, after):
            for row in rows:
                yield row
            after = rows[-1][:3]

    async def looked_through(
        self, one: Erasure, find: Find, *, keep: bool = False
    ) -> AsyncIterator[tuple[dict[int, bytes], int]]:
        """Yield, piece by piece, what is left of each row that holds something, and how far that is."""
        after = one.through
        while after < one.until:
            rows, through = await self._erasures.rows(one.tenant, after, one.until)
            left: dict[int, bytes] = {}
            for row in rows:
                data = self.remaining(row, find, settled=row.position <= one.log_end, keep=keep)
                if data is not None:
                    left[row.position] = data
            yield left, through
            after = through

    def remaining(self, row: LogRow, find: Find, *, settled: bool, keep: bool = False) -> bytes | None:
        """Return what is left of a row; None where it holds nothing of the person."""
        event, raw = row.event, row.raw
        try:
            payload = decode(event)
        except InvalidEventError:  # no code can read it, or retention has blanked it
            told = event.data or raw or b""
            named = self.named(told, find)
            return b"" if named is not None and (settled or to_micros(event.received_at) <= named) else None
        left, theirs = judged(event, payload, find, settled=settled, late=False)
        if left is payload and (raw is None or not theirs):
            return event.data if settled and self._in_bytes_alone(row) else None
        if keep:
            self._keep(personal_values(payload), personal_values(left))
        return encode(left)

    def _in_bytes_alone(self, row: LogRow) -> bool:
        """Tell whether the bytes have the person's number, and the data that was read of them does not.

        So it is where a field was given twice, or stood in a place that nobody reads. Where the data has the number
        too, somebody else wrote it in a text. A part of a longer number or of a time is no number.
        """
        raw, data = row.raw or b"", row.event.data
        told = {one.decode() for one in self._numbers if one in raw and one not in data}
        return bool(told) and named_in_bytes(raw, KnownPerson(0, numbers=told).find) is not None

    def named(self, raw: bytes, find: Find) -> int | None:
        """Return when the person was forgotten whom unreadable bytes name; None where they name nobody forgotten."""
        at = named_in_bytes(raw, find)
        if at is None and self._emails and any(one in self._emails for _, one in leaves(delivered(raw))):
            return to_micros(self._now())
        return at

    def _keep(self, before: Sequence[Any], after: Sequence[Any]) -> None:
        """Remember, in memory alone, what was blanked and tells who somebody is."""
        stay = {text for one in after for text in texts_in(one)}
        gone = (text for one in before for text in texts_in(one) if text not in stay)
        for text in gone:
            if len(text) >= NEEDLE_CHARS and len(self._values) < NEEDLES:
                self._values.add(text)

    async def parked(self, one: Erasure, find: Find) -> AsyncIterator[UUID]:
        """Yield the parked deliveries that name the person and are from before the person was forgotten.

        Who parks learns of the marks a moment after they were written: what came meanwhile is judged as at the door.
        """
        async for row in self.parked_bodies(one):
            raw = inflated(row.raw, row.encoding)
            at = None if raw is None else self.named(raw, find)
            if raw is not None and at is not None and parked_before(row.received_at, raw, to_micros(one.forgotten_at)):
                yield row.id

    async def unread(self, one: Erasure) -> AsyncIterator[UUID]:
        """Yield the parked deliveries from before of which nobody here can tell whom they name."""
        async for row in self.parked_bodies(one):
            if row.received_at <= one.forgotten_at and inflated(row.raw, row.encoding) is None:
                yield row.id

    async def parked_bodies(self, one: Erasure) -> AsyncIterator[ParkedBody]:
        """Yield what is parked of the tenant, and what was parked elsewhere and names the tenant."""
        after = None
        while rows := await self._erasures.parked(one.tenant, after):
            for row in rows:
                if row.raw and (row.tenant == one.tenant or one.tenant in _tenants(row)):
                    yield row
            after = rows[-1].id

    async def backfilled(self, one: Erasure, find: Find, person: FoundPerson) -> dict[Entity, Collection[str]]:
        """Return the ids of whatever an unfinished backfill may hold of the person, by entity.

        A backfill is there to see what the tables do not know: so what it was shown is looked into too, and once more
        for what belongs to a contact or a ticket that was found so.
        """
        ids: dict[Entity, set[str]] = {entity: set(some) for entity, some in ids_of(person).items()}

        def named(kind: Any, value: str) -> int | None:
            return 0 if kind in ("contact", "ticket") and value in ids[kind] else find(kind, value)

        more = True
        while more:
            more = False
            async for row in self._items(one.tenant):
                told = ids.setdefault(row.entity, set())
                if row.id not in told and (row.ticket_id in ids["ticket"] or self._shows(row, named)):
                    told.add(row.id)
                    more = True
        return {**ids}

    def _shows(self, row: ShownItem, find: Find) -> bool:
        return any(self.named(one, find) is not None for one in told_in(row.payload, row.raw, row.found))

    async def parked_events(self, one: Erasure, find: Find, *, go: bool = True) -> dict[tuple[str, int], bytes]:
        """Return the parked events that hold something of the person, and what the log has of each by now."""
        found: dict[tuple[str, int], bytes] = {}
        after = ("", -1)
        while rows := await self._rows.parked(one.tenant, after):
            for source, at, position, raw in rows:
                if not raw or self.named(raw, find) is None or (position is not None and position > one.until):
                    continue
                entries = [] if position is None or not go else await self._event_log.read(position - 1, 1)
                left = entries[0].event.data if entries and entries[0].position == position else b""
                if left != raw:
                    found[source, at] = left
            after = rows[-1][:2]
        return found

    async def held(self, one: Erasure, find: Find, person: FoundPerson, before: Before, *, go: bool = True) -> Counts:
        """Look through everything from the log's beginning on, and count what holds something, by table.

        Without `go` the log is not blanked yet, so it still has all that a parked event holds.
        """
        counts: Counter[str] = Counter()
        async for left, _ in self.looked_through(replace(one, through=0), find):
            counts["event_log"] += len(left)
        counts["parked_delivery"] = len([key async for key in self.parked(one, find)])
        shown = await self.backfilled(one, find, person)
        counts["backfill_item"] = await self._erasures.backfilled(one.tenant, shown)
        counts.update(await self._rows.held(await self._rows.keys(one.tenant, person), person, before))
        counts["parked_event"] = len(await self.parked_events(one, find, go=go))
        return {name: count for name, count in counts.items() if count}

    async def named_elsewhere(self, one: Erasure) -> tuple[int, ...]:
        """Return positions of the tenant's rows that still show a value that was blanked: somebody else has it too."""
        needles, found = self._needles(), list[int]()
        after = 0
        while needles and after < one.until and len(found) < TOLD_LIMIT:
            rows, after = await self._erasures.rows(one.tenant, after, one.until)
            texts = ((row.position, row.event.data + (row.raw or b"")) for row in rows)
            found += [position for position, text in texts if any(needle in text for needle in needles)]
        return tuple(found[:TOLD_LIMIT])

    async def parked_elsewhere(self, one: Erasure) -> tuple[UUID, ...]:
        """Return the parked deliveries from before that still show such a value."""
        needles, found = self._needles(), list[UUID]()
        async for row in self.parked_bodies(one):
            raw = inflated(row.raw, row.encoding) or b""
            if row.received_at <= one.forgotten_at and any(needle in raw for needle in needles):
                found.append(row.id)
        return tuple(found[:TOLD_LIMIT])

    async def rows_elsewhere(self, one: Erasure) -> tuple[str, ...]:
        """Return rows of the tables, of backfills and of parked events that show such a value, by table and id."""
        needles, after = self._needles(), ("", -1)
        texts = {text for needle in needles for text in (needle.decode(), *self._telling, *self._values)}
        found = [row async for row in self._rows.showing(one.tenant, texts)] if texts else []
        async for item in self._items(one.tenant):
            told = b"".join(told_in(item.payload, item.raw, item.found))
            found += [f"backfill_item {item.entity} {item.id}"] if any(needle in told for needle in needles) else []
        while rows := await self._rows.parked(one.tenant, after):
            shown = ((source, at) for source, at, _, raw in rows if any(needle in (raw or b"") for needle in needles))
            found += [f"parked_event {source}:{at}" for source, at in shown]
            after = rows[-1][:2]
        return tuple(found[:TOLD_LIMIT])

    def _needles(self) -> list[bytes]:
        return [needle for value in self._telling | self._values for needle in spellings(value)]


def _tenants(row: ParkedBody) -> list[str]:
    """Return the tenants that a parked delivery names: it came to another one, whose id may have been mistyped."""
    return tenants_named(inflated(row.raw, row.encoding) or b"")


def told_in(payload: bytes | None, raw: bytes | None, found: bytes | None) -> list[bytes]:
    """Return everything that an item of a backfill was shown, each as JSON, or as it stands where it is not ours."""
    unpacked: Any = None
    with contextlib.suppress(msgspec.MsgspecError, UnicodeError):
        unpacked = msgspec.msgpack.decode(payload) if payload else None
    parts = unpacked.values() if isinstance(unpacked, dict) else (payload,)
    return [one for one in (*parts, raw, found) if isinstance(one, bytes) and one]


def ids_of(person: FoundPerson) -> dict[Any, Any]:
    """Return the ids that tie what a backfill holds to the person, by entity."""
    return {
        "contact": person.contacts,
        "ticket": person.tickets | person.groups.keys(),
        "message": person.messages.keys(),
    }
