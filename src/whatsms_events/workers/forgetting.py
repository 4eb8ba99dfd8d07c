"""Forgetting a person: everything that is held of them is blanked, and what comes late of them is blanked too.

Theory of operation. The order of the steps makes it complete, and each may be done again:

    1 marks     written in one transaction with the erasure itself; from then on who appends learns of them
    2 settle    until every process that appends holds the marks
    3 event     `contact.forgotten` is appended; the log's end after it is `until`: what is later was looked at already
    4 wait      until the projection has applied, and the relay has published, everything up to `until`
    5 person    looked for once more: what came meanwhile has its marks now
    6 log       looked through up to `until`, piece by piece; parked deliveries and backfills after it
    7 tables    the rows of the projection, and parked events
    8 proof     everything is looked through once more, and must hold nothing

A process that is killed leaves an erasure that is not finished; the next one goes on with it. What the person's number
was is gone from the tables then: but the marks know it again.
"""

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
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
    decode,
    encode,
    event_id,
    to_micros,
)
from whatsms_events.domain.marks import Find, Marker, Suppressions
from whatsms_events.domain.personal import personal_values, spellings, texts_in
from whatsms_events.domain.suppression import is_theirs, named_in, remaining
from whatsms_events.domain.verdicts import Append
from whatsms_events.errors import ConfigError, IntegrityError, InvalidEventError, NotFoundError, TransientError
from whatsms_events.storage.database import Database
from whatsms_events.storage.log.erasure import Counts, Erasure, Erasures, LogRow
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.log.relay_row import RelayRows
from whatsms_events.storage.log.suppression import (
    SETTLE_S,
    HeldSuppressions,
    KeptMark,
    SuppressionTable,
    key_problem,
)
from whatsms_events.storage.projection.erasure import PIECE, Before, FoundPerson, PersonalRows
from whatsms_events.storage.projection.holdings import Holdings

TICKETS_TOLD: Final = 1000
"""So many of the person's tickets are named in the event; a consumer finds the others by the contact."""

WAIT_S: Final = 60.0
LOOK_S: Final = 0.2
"""How long the projection and the relay are waited for, and how often they are asked."""

NEEDLES: Final = 50
"""So many texts are looked for in every row at the end: those that no other person's rows have by chance."""

NEEDLE_CHARS: Final = 10

_json = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Forgetfulness:
    """What forgetting a person touches, or touched: rows by table. `left` are positions that still hold a value."""

    contact_ids: tuple[str, ...]
    tickets: int
    messages: int
    counts: Counts
    erasure: Erasure | None = None
    left: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ForgettingWaits:
    """How long is waited: for who appends to learn of the marks, and for projection and relay."""

    settle_s: float = SETTLE_S
    behind_s: float = WAIT_S


class Forgetting:
    """Forgets people of one installation. `prefix` is that of the topics, None where there is no Kafka.

    `keeps_until` gives the time at which topics hold nothing that was published by now; None: they keep for ever.
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
    ) -> None:
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
        self._telling: frozenset[str] = frozenset()  # number, mail address, picture
        self._values: set[str] = set()  # texts that were blanked; both are in memory alone

    async def preview(self, tenant: str, who: str) -> Forgetfulness:
        """Say what forgetting would touch, and change nothing; raise NotFoundError where nothing is held of anybody."""
        person = await self._person(tenant, who, None)
        self._telling = person.values
        now = to_micros(self._now())
        end = await self._event_log.end()
        before = Before(end, frozenset(), now)
        one = Erasure(0, tenant, who, self._now(), end, until=end)
        counts: Counter[str] = Counter()
        async for left, _ in self._looked_through(one, person.known(now).find):
            counts["event_log"] += len(left)
        counts["parked_delivery"] = len([key async for key in self._parked(one, person.known(now).find)])
        counts["backfill_item"] = await self._erasures.backfilled(tenant, _ids(person))
        counts.update(await self._held(tenant, person, before))
        counts["parked_event"] = len(await self._parked_events(one, person.known(now).find, go=False))
        found = {name: count for name, count in counts.items() if count}
        if not found:
            raise NotFoundError(f"nothing is held of a contact {who}")
        return Forgetfulness(tuple(sorted(person.contacts)), len(person.tickets), len(person.messages), found)

    async def run(self, tenant: str, who: str) -> Forgetfulness:
        """Forget the person, or go on where an earlier process stopped.

        Raise TransientError where projection or relay stay behind: run it again once they have caught up. Raise
        ConfigError where there is no key, or no process of the service has shown that it has this one.
        """
        marker = await self._checked_key()
        person = await self._person(tenant, who, None)
        one = await self._erasures.unfinished(tenant, person.contacts)
        if one is None:
            one = await self._begin(marker, tenant, who, person)
        if one.event_id is None:
            await within(asyncio.Event(), self._waits.settle_s)
            one = await self._erasures.append(one, *self._event(one, person))
        await self._caught_up(one.until)
        person = await self._again(marker, one, who)
        find = await self._find(marker, one, person)
        one = await self._blank_log(one, find)
        before = await self._before(one)
        counts = Counter(one.blanked or {})
        counts.update(await self._blank_beside(one, find, person))
        counts.update(await self._blank_rows(one, find, person, before))
        left = await self._left(one, find, person, before)
        if left:
            raise IntegrityError(f"something of the person is still there ({left}): run this again, and report it")
        done = {name: count for name, count in counts.items() if count}
        one = await self._erasures.finish(one, done, self._now())
        named = await self._named_elsewhere(one)
        return Forgetfulness(
            tuple(sorted(person.contacts)), len(person.tickets), len(person.messages), done, one, named
        )

    async def apply(self, marks: Sequence[KeptMark]) -> Counts:
        """Blank what a log that was restored from a backup holds of people who were forgotten since.

        Everything that was received before the moment of a mark is from before; the tables' rows all are.
        """
        marker, end, total = self._key(), await self._event_log.end(), Counter[str]()
        held = Suppressions(marker, {one.mark: one.forgotten_at for one in marks})
        for tenant in sorted({one.tenant for one in marks}):
            find = held.of(tenant)
            one = Erasure(0, tenant, "", self._now(), 0, until=end)
            async for left, through in self._looked_through(one, find):
                one = await self._erasures.blank(one, left, through)
            total.update(one.blanked or {})
            ids = [key async for key in self._parked(one, find)]
            total["parked_delivery"] += await self._erasures.blank_parked(ids) if ids else 0
            for contact_id in await self._rows.contact_ids(tenant):
                at = find("contact", contact_id)
                if at is not None:
                    person = await self._rows.person(tenant, contact_id)
                    total["backfill_item"] += await self._erasures.blank_backfilled(tenant, _ids(person))
                    total.update(await self._blank_rows(one, find, person, Before(end, frozenset(), at)))
        return {name: count for name, count in total.items() if count}

    def _key(self) -> Marker:
        if self._marker is None:
            raise ConfigError("privacy.key: is needed to forget somebody; see docs/configure.md")
        return self._marker

    async def _checked_key(self) -> Marker:
        marker = self._key()
        checks = {one.key_check for one in await SuppressionTable(self._log).all()}
        problem = key_problem(marker, checks)
        if problem is not None:
            raise ConfigError(problem)
        if not checks:
            raise ConfigError(
                "privacy.key: no process of the service has started with it yet, so late deliveries would be kept; "
                "give it to every process, restart them, and run this again"
            )
        return marker

    async def _person(self, tenant: str, who: str, before: Before | None) -> FoundPerson:
        person = await self._rows.person(tenant, who, before)
        if person.group:
            raise ConfigError(f"{who}: is a group; forget the people who wrote in it, each by an id or a number")
        return person

    async def _begin(self, marker: Marker, tenant: str, who: str, person: FoundPerson) -> Erasure:
        now = self._now()
        contact_id = who if who in person.contacts else min(person.contacts)
        return await self._erasures.begin(tenant, contact_id, _marks(marker, tenant, person, to_micros(now)), now)

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

    async def _again(self, marker: Marker, one: Erasure, who: str) -> FoundPerson:
        """Return the person as everything up to `until` shows them, with the marks of what is new of it."""
        person = await self._person(one.tenant, who, await self._before(one))
        person = replace(person, contacts=person.contacts | {one.contact_id})
        kept = {row.mark for row in await SuppressionTable(self._log).all() if row.tenant == one.tenant}
        marks = _marks(marker, one.tenant, person, to_micros(one.forgotten_at))
        await self._erasures.add_marks([row for row in marks if row.mark not in kept])
        self._telling = person.values
        return person

    async def _find(self, marker: Marker, one: Erasure, person: FoundPerson) -> Find:
        """Return what finds the person: in the plain what is known, and by its mark what a killed process knew."""
        known = person.known(to_micros(one.forgotten_at)).find
        held = HeldSuppressions(self._log, marker.key)
        marked = Suppressions.of(await held.look(), one.tenant)

        def find(kind: Any, value: str) -> int | None:
            at = known(kind, value)
            return marked(kind, value) if at is None else at

        return find

    async def _looked_through(
        self, one: Erasure, find: Find, *, keep: bool = False
    ) -> AsyncIterator[tuple[dict[int, bytes], int]]:
        """Yield, piece by piece, what is left of each row that holds something, and how far that is."""
        after = one.through
        while after < one.until:
            rows, through = await self._erasures.rows(one.tenant, after, one.until)
            left: dict[int, bytes] = {}
            for row in rows:
                data = self._remaining(row, find, settled=row.position <= one.log_end, keep=keep)
                if data is not None:
                    left[row.position] = data
            yield left, through
            after = through

    def _remaining(self, row: LogRow, find: Find, *, settled: bool, keep: bool) -> bytes | None:
        """Return what is left of a row; None where it holds nothing of the person."""
        event, raw = row.event, row.raw
        try:
            payload = decode(event)
        except InvalidEventError:  # no code can read it, or retention has blanked it
            told = event.data or raw or b""
            named = self._named(told, find)
            return b"" if named is not None and (settled or to_micros(event.received_at) <= named) else None
        left = remaining(event, payload, find, settled=settled, late=False)
        if left is payload and (raw is None or not is_theirs(event, payload, find, settled=settled)):
            return None
        if keep:
            self._keep(personal_values(payload), personal_values(left))
        return encode(left)

    def _named(self, raw: bytes, find: Find) -> int | None:
        """Return when somebody was forgotten whom bytes name that nobody could read."""
        at = named_in(raw, find)
        if at is None and any(needle in raw for value in self._telling for needle in spellings(value)):
            return to_micros(self._now())
        return at

    def _keep(self, before: Sequence[Any], after: Sequence[Any]) -> None:
        """Remember, in memory alone, what was blanked and tells who somebody is."""
        stay = {text for one in after for text in texts_in(one)}
        gone = (text for one in before for text in texts_in(one) if text not in stay)
        for text in gone:
            if len(text) >= NEEDLE_CHARS and len(self._values) < NEEDLES:
                self._values.add(text)

    async def _blank_log(self, one: Erasure, find: Find) -> Erasure:
        async for left, through in self._looked_through(one, find, keep=True):
            one = await self._erasures.blank(one, left, through)
        return one

    async def _parked(self, one: Erasure, find: Find) -> AsyncIterator[UUID]:
        """Yield the parked deliveries that name the person and came before the person was forgotten."""
        after = None
        while rows := await self._erasures.parked(one.tenant, after):
            for key, received_at, raw in rows:
                if raw and received_at <= one.forgotten_at and self._named(raw, find) is not None:
                    yield key
            after = rows[-1][0]

    async def _blank_beside(self, one: Erasure, find: Find, person: FoundPerson) -> Counts:
        """Blank parked deliveries, and what unfinished backfills hold."""
        counts: Counts = {}
        ids = [key async for key in self._parked(one, find)]
        counts["parked_delivery"] = await self._erasures.blank_parked(ids) if ids else 0
        counts["backfill_item"] = await self._erasures.blank_backfilled(one.tenant, _ids(person))
        return counts

    async def _held(self, tenant: str, person: FoundPerson, before: Before) -> Counts:
        return await self._rows.held(await self._rows.keys(tenant, person), person, before)

    async def _blank_rows(self, one: Erasure, find: Find, person: FoundPerson, before: Before) -> Counts:
        counts: Counter[str] = Counter()
        keys = await self._rows.keys(one.tenant, person)
        for start in range(0, len(keys), PIECE):
            counts.update(await self._rows.blank(keys[start : start + PIECE], person, before))
        left = await self._parked_events(one, find)
        counts["parked_event"] = await self._rows.blank_parked(left) if left else 0
        return counts

    async def _parked_events(self, one: Erasure, find: Find, *, go: bool = True) -> dict[tuple[str, int], bytes]:
        """Return what is left of each parked event that holds something: what the log holds of it by now."""
        found: dict[tuple[str, int], bytes] = {}
        after = ("", -1)
        while rows := await self._rows.parked(one.tenant, after):
            for source, at, position, raw in rows:
                if not raw or self._named(raw, find) is None or (position is not None and position > one.until):
                    continue
                entries = [] if position is None or not go else await self._event_log.read(position - 1, 1)
                left = entries[0].event.data if entries and entries[0].position == position else b""
                if left != raw:
                    found[source, at] = left
            after = rows[-1][:2]
        return found

    async def _left(self, one: Erasure, find: Find, person: FoundPerson, before: Before) -> Counts:
        """Look through everything once more, and count what still holds something."""
        counts: Counter[str] = Counter()
        async for left, _ in self._looked_through(replace(one, through=0), find):
            counts["event_log"] += len(left)
        counts["parked_delivery"] = len([key async for key in self._parked(one, find)])
        counts["backfill_item"] = await self._erasures.backfilled(one.tenant, _ids(person))
        counts.update(await self._held(one.tenant, person, before))
        counts["parked_event"] = len(await self._parked_events(one, find))
        return {name: count for name, count in counts.items() if count}

    async def _named_elsewhere(self, one: Erasure) -> tuple[int, ...]:
        """Return positions of the tenant's rows that still show a value that was blanked: somebody else has it too."""
        needles = [needle for value in self._telling | self._values for needle in spellings(value)]
        found: list[int] = []
        after = 0
        while needles and after < one.until and len(found) < NEEDLES:
            rows, after = await self._erasures.rows(one.tenant, after, one.until)
            texts = ((row.position, row.event.data + (row.raw or b"")) for row in rows)
            found += [position for position, text in texts if any(needle in text for needle in needles)]
        return tuple(found[:NEEDLES])


def _ids(person: FoundPerson) -> dict[Any, Any]:
    return {
        "contact": person.contacts,
        "ticket": person.tickets | person.groups.keys(),
        "message": person.messages.keys(),
    }


def _marks(marker: Marker, tenant: str, person: FoundPerson, at: int) -> list[KeptMark]:
    names = person.known(at).names()
    return [KeptMark(tenant, marker.mark(tenant, kind, value), at, marker.check) for kind, value in names]
