"""Forgetting a person: everything that is held of them is blanked, and what comes late of them is blanked too.

Theory of operation. The order of the steps makes it complete, and each may be done again:

    1 marks     written in one transaction with the erasure itself; from then on who appends learns of them
    2 settle    until every process that appends holds the marks
    3 event     `contact.forgotten` is appended; the log's end after it is `until`: what is later was looked at already
    4 wait      until the projection has applied, and the relay has published, everything up to `until`
    5 person    looked for once more: what came meanwhile has its marks now. If there are new ones, all begins again
                with 2, because processes that appended up to `until` did not know them
    6 log       looked through up to `until`, piece by piece; parked deliveries and backfills after it
    7 tables    the rows of the projection, and parked events
    8 proof     everything is looked through once more, and must hold nothing

A process that is killed leaves an erasure that is not finished; the next one goes on with it. What the person's number
was is gone from the tables then, and whose a message was from the log: but the marks know both again.
"""

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec

from whatsms_events.clock import within
from whatsms_events.domain.events import (
    Contact,
    ContactPayload,
    Event,
    EventType,
    Forgotten,
    encode,
    event_id,
    to_micros,
)
from whatsms_events.domain.marks import Find, Marker, Suppressions, number_name
from whatsms_events.domain.verdicts import Append
from whatsms_events.errors import ConfigError, IntegrityError, NotFoundError, TransientError
from whatsms_events.storage.database import Database
from whatsms_events.storage.log.erasure import Counts, Erasure, Erasures
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.log.key_holders import KeyHolders, unlike
from whatsms_events.storage.log.relay_row import RelayRows
from whatsms_events.storage.log.suppression import (
    SETTLE_S,
    KeptMark,
    SuppressionTable,
    key_problem,
)
from whatsms_events.storage.person_search import TOLD_LIMIT, PersonSearch
from whatsms_events.storage.projection.erasure import PIECE, Before, FoundPerson, PersonalRows
from whatsms_events.storage.projection.holdings import Holdings
from whatsms_events.storage.projection.late_ties import LateTies
from whatsms_events.workers.alone import Alone

TICKETS_TOLD: Final = 1000
"""So many of the person's tickets are named in the event; a consumer finds the others by the contact."""

WAIT_S: Final = 60.0
LOOK_S: Final = 0.2
"""How long the projection and the relay are waited for, and how often they are asked."""

_json = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Forgetfulness:
    """What forgetting a person touches, or touched: rows by table. `left` are positions that still hold a value.

    `parked_left` are parked deliveries that do: they name somebody else, or nobody. `rows_left` are rows that do.
    `unread` are parked deliveries from before in a form that is not read here, so that nobody knows whom they name.
    """

    contact_ids: tuple[str, ...]
    tickets: int
    messages: int
    counts: Counts
    erasure: Erasure | None = None
    left: tuple[int, ...] = ()
    parked_left: tuple[UUID, ...] = ()
    unread: tuple[UUID, ...] = ()
    rows_left: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ForgettingWaits:
    """How long is waited: for who appends to learn of the marks, and for projection and relay."""

    settle_s: float = SETTLE_S
    behind_s: float = WAIT_S


class Forgetting:
    """Forgets people of one installation. `prefix` is that of the topics, None where there is no Kafka.

    `keeps_until` gives the time at which topics hold nothing that was published by now; None: they keep for ever.
    `marked` is called each time that marks were written: from then on a log restored from a backup must know them.
    """

    def __init__(
        self,
        log: Database,
        projection: Database,
        marker: Marker | None,
        *,
        prefix: str | None,
        keeps_until: Callable[[datetime], datetime | None],
        now: Callable[[], datetime],
        waits: ForgettingWaits = ForgettingWaits(),
        marked: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.alone = Alone(log)
        self._log = log
        self._marker = marker
        self._erasures = Erasures(log)
        self._event_log = EventLog(log)
        self._relay = RelayRows(log)
        self._rows = PersonalRows(projection)
        self._holdings = Holdings(projection)
        self._prefix = prefix
        self._keeps_until = keeps_until
        self._now = now
        self._waits = waits
        self._marked = marked
        self._search = PersonSearch(log, projection, now)

    async def preview(self, tenant: str, who: str) -> Forgetfulness:
        """Say what forgetting would touch, and change nothing; raise NotFoundError where nothing is held of anybody."""
        person = await self._person(tenant, who, None)
        person, found = await self._looked_for(tenant, who, person)
        if not found:
            raise NotFoundError(f"nothing is held of a contact {who}")
        return Forgetfulness(tuple(sorted(person.contacts)), len(person.tickets), len(person.messages), found)

    async def _looked_for(self, tenant: str, who: str, person: FoundPerson) -> tuple[FoundPerson, Counts]:
        """Return the person, and what is held of them, by table."""
        now = to_micros(self._now())
        end = await self._event_log.end()
        one = Erasure(0, tenant, who, self._now(), end, until=end)
        self._search.tells(person)
        find = person.known(now).find
        return person, await self._search.held(one, find, person, Before(end, frozenset(), now), go=False)

    async def run(self, tenant: str, who: str) -> Forgetfulness:
        """Forget the person, or go on where an earlier process stopped.

        Raise TransientError where projection or relay stay behind: run it again once they have caught up. Raise
        ConfigError where there is no key, or no process of the service has shown that it has this one.
        """
        async with self.alone:
            marker = await self.checked_key()
            person = await self._person(tenant, who, None)
            earlier = await self._erasures.of(tenant, person.contacts, await self._moments(marker, tenant, who))
            unfinished = [one for one in earlier if one.finished_at is None]
            if unfinished:
                return await self._go_on(marker, unfinished[0], who, resumed=True)
            person, found = await self._looked_for(tenant, who, person)
            if found:
                return await self._go_on(marker, await self._begin(marker, tenant, who, person), who)
        if not earlier:
            raise NotFoundError(f"nothing is held of a contact {who}")
        return Forgetfulness(tuple(sorted(earlier[-1].contact_ids)), 0, 0, {}, earlier[-1])

    async def _moments(self, marker: Marker, tenant: str, who: str) -> set[int]:
        """Return when somebody was forgotten who had this id or this number, in microseconds."""
        marks = {marker.mark(tenant, "contact", who)}
        if (number := number_name(who)) is not None:
            marks.add(marker.mark(tenant, "number", number))
        return {one.forgotten_at for one in await SuppressionTable(self._log).all() if one.mark in marks}

    async def _go_on(self, marker: Marker, one: Erasure, who: str, *, resumed: bool = False) -> Forgetfulness:
        """Do what is not done yet of an erasure. Where it is `resumed`, an earlier process may have blanked the log."""
        one, person = await self._told_to_all(marker, one, who)
        if resumed:
            person = person.joined(await self._search.marked(one, marker))
            person = await self._rows.with_messages(one.tenant, person, await self._before(one))
        find = await self._find(marker, one, person)
        one, counts = await self._blanked(one, find, person)
        done = {name: count for name, count in counts.items() if count}
        one = await self._erasures.finish(one, done, self._now())
        named, parked = await self._search.named_elsewhere(one), await self._search.parked_elsewhere(one)
        unread = tuple([key async for key in self._search.unread(one)][:TOLD_LIMIT])
        rows = await self._search.rows_elsewhere(one)
        contacts = tuple(sorted(person.contacts))
        return Forgetfulness(
            contacts, len(person.tickets), len(person.messages), done, one, named, parked, unread, rows
        )

    async def follow(self, one: Erasure, late: LateTies) -> Counts:
        """Blank what turned out to be somebody's who was forgotten earlier, up to that moment; return what that was.

        The erasure learns of it at the end, so whoever is killed before finds the same once more. Raise as `run`.
        """
        async with self.alone:
            marker, at = await self.checked_key(), to_micros(one.forgotten_at)
            contacts, tickets = one.contact_ids | {one.contact_id} | late.contacts, one.ticket_ids | late.tickets
            groups = {of: frozenset(texts) for of, texts in late.groups.items()}
            person = FoundPerson(contacts, tickets=tickets, messages=late.messages, groups=groups)
            kept = {row.mark for row in await SuppressionTable(self._log).all() if row.forgotten_at >= at}
            new = [row for row in _marks(marker, one.tenant, person, at) if row.mark not in kept]
            await SuppressionTable(self._log).add(new)
            await self._keep_marks()
            await within(asyncio.Event(), self._waits.settle_s)
            end = await self._event_log.end()
            one = replace(one, contact_ids=contacts, ticket_ids=tickets, through=0, until=end)
            await self._caught_up(one.until)
            self._search.tells(person)
            one, counts = await self._blanked(one, await self._find(marker, one, person), person)
            if one.kafka_until is not None:  # for as long again: what was late was published late
                one = replace(one, kafka_until=self._now() + (one.kafka_until - one.forgotten_at))
            await self._erasures.follow(one)
        return {name: count for name, count in counts.items() if count}

    async def _blanked(self, one: Erasure, find: Find, person: FoundPerson) -> tuple[Erasure, Counter[str]]:
        """Do steps 6 to 8; return the erasure, and what it has blanked by table. Raise IntegrityError."""
        one = await self._blank_log(one, find)
        before = await self._before(one)
        counts = Counter(one.blanked or {})
        counts.update(await self._blank_beside(one, find, person))
        counts.update(await self._blank_rows(one, find, person, before))
        left = await self._search.held(one, find, person, before)
        if left:
            raise IntegrityError(f"something of the person is still there ({left}): run this again, and report it")
        return one, counts

    async def _told_to_all(self, marker: Marker, one: Erasure, who: str) -> tuple[Erasure, FoundPerson]:
        """Do steps 2 to 5, again for as long as they bring new marks, and return the person as all know them then."""
        while True:
            if one.event_id is None:
                await within(asyncio.Event(), self._waits.settle_s)
                await self.alone.sure()
                person = await self._person(one.tenant, who, None, one.contact_ids, one.ticket_ids)
                one = await self._erasures.append(one, *self._event(one, person))
            await self._caught_up(one.until)
            one, person = await self._again(marker, one, who)
            if one.event_id is not None:
                return one, person

    def _key(self) -> Marker:
        if self._marker is None:
            raise ConfigError("privacy.key: is needed to forget somebody; see docs/configure.md")
        return self._marker

    async def checked_key(self) -> Marker:
        """Return what marks people; raise ConfigError where a process that appends has another key, or none."""
        marker = self._key()
        checks = {one.key_check for one in await SuppressionTable(self._log).all()}
        problem = key_problem(marker, checks)
        if problem is not None:
            raise ConfigError(problem)
        if others := unlike(marker, await KeyHolders(self._log).live(self._now())):
            raise ConfigError(
                f"privacy.key: here it is {marker.fingerprint}, and {'; '.join(others)}, so what comes late there "
                "would be kept: give every process this one, restart them, and run this again"
            )
        if not checks:
            raise ConfigError(
                "privacy.key: no process of the service has started with it yet, so late deliveries would be kept; "
                "give it to every process, restart them, and run this again"
            )
        return marker

    async def _person(
        self,
        tenant: str,
        who: str,
        before: Before | None,
        contacts: Collection[str] = (),
        tickets: Collection[str] = (),
    ) -> FoundPerson:
        person = await self._search.person(tenant, who, before, contact_ids=contacts, ticket_ids=tickets)
        if person.group:
            raise ConfigError(f"{who}: is a group; forget the people who wrote in it, each by an id or a number")
        return person

    async def _begin(self, marker: Marker, tenant: str, who: str, person: FoundPerson) -> Erasure:
        """Write the erasure and its marks. What was typed is never written down: it may be the number."""
        if not person.contacts:
            person = _nameless(marker, tenant, person)
        taken = {one.forgotten_at for one in await self._erasures.all()}
        now = self._now()
        while now in taken:  # a moment tells one erasure from another: see `_moments`
            now += timedelta(microseconds=1)
        contact_id = who if who in person.contacts else min(person.contacts)
        one = Erasure(0, tenant, contact_id, now, 0, contact_ids=person.contacts, ticket_ids=person.tickets)
        one = await self._erasures.begin(one, _marks(marker, tenant, person, to_micros(now)))
        await self._keep_marks()
        return one

    async def _keep_marks(self) -> None:
        if self._marked is not None:
            await self._marked()

    def _event(self, one: Erasure, person: FoundPerson) -> tuple[Append, datetime | None]:
        """Return the event that says who was forgotten. It is the same however often it is made."""
        until = None if self._prefix is None else self._keeps_until(self._now())
        told = Forgotten(
            contact_ids=sorted(person.contacts | {one.contact_id}),
            ticket_ids=sorted(person.tickets)[:TICKETS_TOLD],
            kafka_until=until if self._prefix is not None else msgspec.UNSET,
        )
        data = encode(ContactPayload(contact=Contact(id=one.contact_id), forgotten=told))
        event_type = EventType.CONTACT_FORGOTTEN
        identity = _json.encode([event_type, one.contact_id, to_micros(one.forgotten_at)])
        event = Event(
            id=event_id(one.tenant, identity, None),
            type=event_type,
            tenant=one.tenant,
            occurred_at=one.forgotten_at,
            received_at=one.forgotten_at,
            origin="operator",
            subject=one.contact_id,
            ticket_id=None,
            contact_id=one.contact_id,
            message_id=None,
            data=data,
        )
        raw = _json.encode({"event": event_type, "tenantId": one.tenant, "data": msgspec.Raw(data)})
        return Append(event, raw, hashlib.sha256(raw).digest()), until

    async def _caught_up(self, until: int) -> None:
        """Wait until projection and relay have taken everything up to a position; raise TransientError."""
        deadline = time.monotonic() + self._waits.behind_s
        while (behind := await self._behind(until)) is not None:
            if time.monotonic() >= deadline:
                raise TransientError(
                    f"{behind}, not up to {until}, so nothing is blanked yet: see that the service runs, and run this "
                    "again; what comes late is blanked already"
                )
            await within(asyncio.Event(), LOOK_S)

    async def _behind(self, until: int) -> str | None:
        applied = await self._holdings.applied_through()
        if applied < until:
            return f"the projection is applied up to {applied}"
        if self._prefix is None:
            return None
        published = await self._relay.load(self._prefix)
        through = 0 if published is None else published.published_through
        return f"the relay has published up to {through}" if through < until else None

    async def _before(self, one: Erasure) -> Before:
        blanked = await self._erasures.blanked_behind(one.tenant, one.log_end, one.until)
        return Before(one.log_end, blanked, to_micros(one.forgotten_at))

    async def _again(self, marker: Marker, one: Erasure, who: str) -> tuple[Erasure, FoundPerson]:
        """Return the person as everything up to `until` shows them, with the marks of what is new of it."""
        known = one.contact_ids | {one.contact_id}
        person = await self._person(one.tenant, who, await self._before(one), known, one.ticket_ids)
        at = to_micros(one.forgotten_at)
        kept = {row.mark for row in await SuppressionTable(self._log).all() if row.forgotten_at >= at}
        marks = _marks(marker, one.tenant, person, at)
        new = [row for row in marks if row.mark not in kept]
        one = replace(one, contact_ids=person.contacts, ticket_ids=person.tickets)
        await self.alone.sure()
        one = await self._erasures.add(one, new)
        if new:
            await self._keep_marks()
        self._search.tells(person)
        return one, person

    async def _find(self, marker: Marker, one: Erasure, person: FoundPerson) -> Find:
        """Return what finds the person: in the plain what is known, and by its mark what a killed process knew.

        Marks of who was forgotten earlier are left out: what these people did since stands before this erasure, and is
        theirs to keep.
        """
        at = to_micros(one.forgotten_at)
        known = person.known(at).find
        kept = await SuppressionTable(self._log).all()
        marks = {row.mark: at for row in kept if row.tenant == one.tenant and row.forgotten_at >= at}
        marked = Suppressions(marker, marks).of(one.tenant)

        def find(kind: Any, value: str) -> int | None:
            return at if known(kind, value) is not None else marked(kind, value)

        return find

    async def _blank_log(self, one: Erasure, find: Find) -> Erasure:
        async for left, through in self._search.looked_through(one, find, keep=True):
            await self.alone.sure()
            one = await self._erasures.blank(one, left, through)
        return one

    async def _blank_beside(self, one: Erasure, find: Find, person: FoundPerson) -> Counts:
        """Blank parked deliveries, and what unfinished backfills hold."""
        counts: Counts = {}
        ids = [key async for key in self._search.parked(one, find)]
        counts["parked_delivery"] = await self._erasures.blank_parked(ids) if ids else 0
        shown = await self._search.backfilled(one, find, person)
        counts["backfill_item"] = await self._erasures.blank_backfilled(one.tenant, shown)
        return counts

    async def _blank_rows(self, one: Erasure, find: Find, person: FoundPerson, before: Before) -> Counts:
        counts: Counter[str] = Counter()
        keys = await self._rows.keys(one.tenant, person)
        for start in range(0, len(keys), PIECE):
            await self.alone.sure()
            counts.update(await self._rows.blank(keys[start : start + PIECE], person, before))
        left = await self._search.parked_events(one, find)
        counts["parked_event"] = await self._rows.blank_parked(left) if left else 0
        return counts


def _nameless(marker: Marker, tenant: str, person: FoundPerson) -> FoundPerson:
    """Return somebody whom the vendor shows as no contact, but by a number, with an id of ours in a contact's place.

    It is made of the mark of the number, which tells nobody the number. Raise ConfigError where there is none.
    """
    if not person.numbers:
        raise ConfigError("something names this person, but neither a contact nor a number: see docs/privacy.md")
    mark = marker.mark(tenant, "number", min(person.numbers))
    return replace(person, contacts=frozenset((f"number-{mark.hex()}",)))


def _marks(marker: Marker, tenant: str, person: FoundPerson, at: int) -> list[KeptMark]:
    names = person.known(at).names()
    return [KeptMark(tenant, marker.mark(tenant, kind, value), at, marker.check) for kind, value in names]
