"""What turns out to be a forgotten person's only afterwards is blanked too, by itself: they stay erased.

A late message may name a ticket, or nothing at all, that nobody had told of; later an event says whose it is. Or it
names a contact that is the person's by a number alone: an event that shows the contact with that number makes the door
write a mark of the contact. Every LOOK_S seconds the tables and marks are asked for such things. Where there are any,
they are blanked as `forget` does, up to the moment of the forgetting: what the person did since stays. A contact that
the tables know by another number stays too: it may have had the person's by mistake.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Final

import structlog

from whatsms_events import metrics
from whatsms_events.domain.events import Entity, to_micros
from whatsms_events.domain.marks import Marker, number_name
from whatsms_events.storage.database import Database
from whatsms_events.storage.log.erasure import TICKETS_KEPT, Erasure, Erasures
from whatsms_events.storage.log.suppression import SuppressionTable
from whatsms_events.storage.projection.erasure import PersonalRows
from whatsms_events.storage.projection.late_ties import LateTies, late_ties
from whatsms_events.storage.scrubbing import is_small, scrub
from whatsms_events.workers.forgetting import Forgetting

log = structlog.get_logger()

LOOK_S: Final = 900.0
"""How often is looked: all messages of a tenant are passed over, in about a second for a million."""

AGAIN_S: Final = 60.0
"""How soon after a look that came to no end: somebody else blanks or copies the log, or reads the files."""

LOOKS: Final = 2
"""So often are contacts looked through for new marks: at the first time the tables may not have the contact yet."""

POLL_S: Final = 10.0


class LateForgetting:
    """The one that looks. `monotonic` tells when it is time."""

    active = True
    """Every process with the tables looks; whoever finds something takes the role of `forget` meanwhile."""

    def __init__(
        self,
        log: Database,
        projection: Database,
        marker: Marker,
        forgetting: Forgetting,
        *,
        monotonic: Callable[[], float],
    ) -> None:
        self._log, self._tables = log, projection
        self._erasures = Erasures(log)
        self._forgetting = forgetting
        self._monotonic = monotonic
        self._due_at = 0.0
        self._unscrubbed = False
        self._told: dict[int, LateTies] = {}
        self._marker = marker
        self._marks = SuppressionTable(log)
        self._rows = PersonalRows(projection)
        self._looked_for: dict[str, tuple[int, int]] = {}
        self._anothers = defaultdict[str, set[str]](set)

    async def run_once(self) -> int:
        """Blank what turned out to be somebody's, where it is time to look; return how many people that concerned."""
        if self._monotonic() < self._due_at:
            return 0
        if not await self._forgetting.alone.possible():
            return 0  # an unfinished replay may stand for days: `forget` says so, here the next look does it
        self._due_at = self._monotonic() + AGAIN_S
        found = await self._found()
        for one, late in found:
            rows = await self._forgetting.follow(one, late)
            self._told[one.number], self._unscrubbed = late, True
            log.info("forgetting.followed", tenant=one.tenant, position=one.until, rows=sum(rows.values()))
        if self._unscrubbed:
            scrubbed = await scrub(self._log, rewrite=is_small(self._log)) and await scrub(self._tables, rewrite=True)
            self._unscrubbed = not scrubbed
        self._due_at = self._monotonic() + (AGAIN_S if self._unscrubbed else LOOK_S)
        return len(found)

    async def look(self) -> None:
        """Raise what `forget` would raise at once: another key, or none that fits."""
        await self._forgetting.checked_key()

    async def close(self) -> None:
        """Hold nothing: a role is held only while something is blanked."""

    async def _found(self) -> list[tuple[Erasure, LateTies]]:
        """Return the erasures for which the tables show something new."""
        every = await self._erasures.all()
        found: list[tuple[Erasure, LateTies]] = []
        for tenant in sorted({one.tenant for one in every}):
            found += await self._found_of(tenant, [one for one in every if one.tenant == tenant])
        return [(one, late) for one, late in found if late not in (LateTies(), self._told.get(one.number))]

    async def _found_of(self, tenant: str, erasures: Sequence[Erasure]) -> Collection[tuple[Erasure, LateTies]]:
        """Return the erasures of a tenant that have ended, each with what the tables show of its person by now."""
        known = {contact: one for one in erasures for contact in one.contact_ids | {one.contact_id}}
        new = await self._marked(tenant, erasures, known.keys())
        of = known | new
        at = {contact: to_micros(one.forgotten_at) for contact, one in of.items() if one.finished_at is not None}
        tickets = frozenset(ticket for one in erasures for ticket in one.ticket_ids)
        ties = await late_ties(self._tables, tenant, at, tickets, partial(self._moved, tenant, at))
        found: dict[int, tuple[Erasure, LateTies]] = {}
        for contact in at.keys() & (ties.keys() | new.keys()):
            one, late = found.setdefault(of[contact].number, (of[contact], LateTies()))
            late.add(ties.get(contact, LateTies()))
            if contact in new:
                late.contacts.add(contact)
            if len(one.ticket_ids) >= TICKETS_KEPT:  # not all are written down: they would be new each time
                late.tickets.clear()
        return found.values()

    async def _moved(self, tenant: str, at: Mapping[str, int], tickets: Mapping[str, str]) -> set[str]:
        """Return which tickets the log shows with somebody else's contact: they were moved to the person's."""
        new = tickets.keys() - self._anothers[tenant]
        told = await self._erasures.contacts_in(tenant, new, await self._erasures.end()) if new else set()
        for one in {one for one, contact in told if at.get(contact) != at[tickets[one]]}:
            _not_followed(tenant, "ticket", one)
            self._anothers[tenant].add(one)
        return self._anothers[tenant] & tickets.keys()

    async def _marked(self, tenant: str, erasures: Sequence[Erasure], known: Collection[str]) -> dict[str, Erasure]:
        """Return contacts that the door has marked as those of people who were forgotten, each with that erasure.

        A mark has the moment of its erasure. Whoever has another number by now, or none, is left to the operator.
        Contacts are looked through only where there are marks since the last looks.
        """
        rows = await self._marks.all()
        count, looks = self._looked_for.get(tenant, (0, 0))
        if (count, looks) == (len(rows), LOOKS):
            return {}
        moments = {to_micros(one.forgotten_at): one for one in erasures}
        marks = defaultdict[bytes, set[int]](set)
        for row in rows:
            if row.tenant == tenant:
                marks[row.mark].add(row.forgotten_at)
        found: dict[str, Erasure] = {}
        for contact in await self._rows.contact_ids(tenant):
            at = () if contact in known else marks.get(self._marker.mark(tenant, "tied", contact), ())
            if mine := moments.keys() & at:
                found[contact] = moments[max(mine)]
        for contact, number in (await self._rows.numbers(tenant, found)).items():
            name = number_name(number or "")
            at = () if name is None else marks.get(self._marker.mark(tenant, "number", name), ())
            if to_micros(found[contact].forgotten_at) not in at:
                _not_followed(tenant, "contact", contact)
                del found[contact]
        # What is found is found again until it is done.
        self._looked_for[tenant] = (len(rows), looks + 1 if count == len(rows) else 1) if not found else (0, 0)
        return found


def _not_followed(tenant: str, entity: Entity, id_: str) -> None:
    metrics.NOT_FOLLOWED.labels(entity).inc()
    log.warning("forgetting.not_followed", tenant=tenant, entity=entity, id=id_)
