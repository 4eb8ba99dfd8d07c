"""What turns out to be a forgotten person's only afterwards is blanked too, by itself: they stay erased.

A late message may name a ticket, or nothing at all, that nobody had told of; later an event says whose it is. Every
LOOK_S seconds the tables are asked for such things. Where there are any, the erasure goes on with them, up to the
moment of before: what the person did since stays.
"""

from collections.abc import Callable
from typing import Final

import structlog

from whatsms_events.domain.events import to_micros
from whatsms_events.storage.database import Database
from whatsms_events.storage.log.erasure import TICKETS_KEPT, Erasure, Erasures
from whatsms_events.storage.projection.late_ties import LateTies, late_ties
from whatsms_events.storage.scrubbing import is_small, scrub
from whatsms_events.workers.forgetting import Forgetting

log = structlog.get_logger()

LOOK_S: Final = 900.0
"""How often is looked: all messages of a tenant are passed over, in about a second for a million."""

AGAIN_S: Final = 60.0
"""How soon after a look that came to no end: somebody else blanks or copies the log, or reads the files."""

POLL_S: Final = 10.0


class LateForgetting:
    """The one that looks. `monotonic` tells when it is time."""

    active = True
    """Every process with the tables looks; whoever finds something takes the role of `forget` meanwhile."""

    def __init__(
        self, log: Database, projection: Database, forgetting: Forgetting, *, monotonic: Callable[[], float]
    ) -> None:
        self._log, self._tables = log, projection
        self._erasures = Erasures(log)
        self._forgetting = forgetting
        self._monotonic = monotonic
        self._due_at = 0.0
        self._unscrubbed = False
        self._told: dict[int, LateTies] = {}

    async def run_once(self) -> int:
        """Blank what turned out to be somebody's, where it is time to look; return of how many people that was."""
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
        latest: dict[str, dict[str, Erasure]] = {}
        tickets: dict[str, set[str]] = {}
        for one in await self._erasures.all():
            tickets.setdefault(one.tenant, set()).update(one.ticket_ids)
            latest.setdefault(one.tenant, {}).update(dict.fromkeys(one.contact_ids | {one.contact_id}, one))
        found: dict[int, tuple[Erasure, LateTies]] = {}
        for tenant, of in latest.items():
            at = {contact: to_micros(one.forgotten_at) for contact, one in of.items() if one.finished_at is not None}
            for contact, late in (await late_ties(self._tables, tenant, at, frozenset(tickets[tenant]))).items():
                one, whole = found.setdefault(of[contact].number, (of[contact], LateTies()))
                if len(one.ticket_ids) < TICKETS_KEPT:  # of more, not all are written down: they would be new each time
                    whole.tickets.update(late.tickets)
                whole.messages.update(late.messages)
                for ticket, texts in late.groups.items():
                    whole.groups[ticket] |= texts
        return [(one, late) for one, late in found.values() if late not in (LateTies(), self._told.get(one.number))]
