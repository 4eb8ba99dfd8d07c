"""Tables that were restored from an older copy still show who was forgotten since: they are blanked before they go on.

`forget` ends only when the tables show everything up to its position `until`. So tables that are not as far are an
older copy, or are filled anew. What the log holds up to `until` is blanked, so it is enough to blank the rows that are
there, and to read on in the log; of rows that were made of the blanked log this changes nothing. Kafka may still have
the older records as they were: so a consumer of Kafka forgets where it was in the topics. It then begins as one of a
new projection does, with the rest of the log, and passes over the records that tell what the log has told.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

import structlog

from whatsms_events.domain.events import to_micros
from whatsms_events.domain.marks import Marker
from whatsms_events.storage.database import Database
from whatsms_events.storage.log.erasure import Erasure, Erasures
from whatsms_events.storage.person_search import PersonSearch
from whatsms_events.storage.projection.apply import Projection, ProjectionState
from whatsms_events.storage.projection.erasure import PIECE, Before, PersonalRows
from whatsms_events.storage.scrubbing import scrub

log = structlog.get_logger()


class OlderTables:
    """Blanks tables before a consumer feeds them."""

    def __init__(
        self, log: Database, projection: Database, marker: Marker | None, *, now: Callable[[], datetime]
    ) -> None:
        self._log, self._projection = log, projection
        self._marker = marker
        self._erasures = Erasures(log)
        self._rows = PersonalRows(projection)
        self._now = now

    async def expected(self, state: ProjectionState) -> ProjectionState:
        """Return the state as `blank` would leave it, but for the generation. Nothing is changed."""
        return replace(state, offsets={}) if await self._unmet(state) else state

    async def blank(self, state: ProjectionState) -> bool:
        """Blank who was forgotten behind the tables; tell whether there was anybody. It may be stopped at any point.

        Each transaction has PIECE rows at most, and all are done before the places in the topics are forgotten and the
        checkpoint moves. A place that stayed would bring the older records behind it.
        """
        unmet = await self._unmet(state)
        for one in unmet:
            rows = await self._blank(one)
            log.info("tables.older", position=one.until, rows=rows)
        if unmet:
            await Projection(self._projection).leave_topics()
            await scrub(self._projection)
        return bool(unmet)

    async def _unmet(self, state: ProjectionState) -> list[Erasure]:
        """Return the erasures that the tables have not met; none where the tables show nothing yet."""
        if not state.applied_through and not state.offsets:
            return []
        finished = [one for one in await self._erasures.all() if one.finished_at is not None]
        return [one for one in finished if one.until > state.applied_through]

    async def _blank(self, one: Erasure) -> int:
        forgotten_at = to_micros(one.forgotten_at)
        blanked = await self._erasures.blanked_behind(one.tenant, one.log_end, one.until)
        before = Before(one.log_end, blanked, forgotten_at)
        search = PersonSearch(self._log, self._projection, self._now)
        marked = await search.marked(one, self._marker)
        person = await self._rows.person(
            one.tenant,
            one.contact_id,
            before,
            contact_ids=one.contact_ids | {one.contact_id} | marked.contacts,
            ticket_ids=one.ticket_ids | marked.tickets,
            message_ids=marked.messages.keys(),
        )
        changed = 0
        keys = await self._rows.keys(one.tenant, person)
        search.tells(person)
        left = await search.parked_events(one, person.known(forgotten_at).find)
        if left:
            changed += await self._rows.blank_parked(left)
        for start in range(0, len(keys), PIECE):
            changed += sum((await self._rows.blank(keys[start : start + PIECE], person, before)).values())
        return changed
