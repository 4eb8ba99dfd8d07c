"""Tables that were restored from an older copy still show who was forgotten since: they are blanked before they go on.

`forget` ends only when the tables show everything up to its position `until`. So tables that are not as far are an
older copy, or are filled anew. What the log holds up to `until` is blanked, so where the consumer reads the log it is
enough to blank the rows that are there; of rows that were made of the blanked log this changes nothing. Kafka holds
the older records for some time yet: until then tables that are not so far must be made from the log.
"""

from collections.abc import Callable
from datetime import datetime

import structlog

from whatsms_events.domain.events import to_micros
from whatsms_events.errors import IntegrityError
from whatsms_events.storage.database import Database
from whatsms_events.storage.log.erasure import Erasure, Erasures
from whatsms_events.storage.projection.apply import ProjectionState
from whatsms_events.storage.projection.erasure import PIECE, Before, PersonalRows
from whatsms_events.storage.scrubbing import scrub
from whatsms_events.workers.person_search import PersonSearch

log = structlog.get_logger()


class OlderTables:
    """Blanks tables before a consumer feeds them; `kafka`: it reads topics and not the log."""

    def __init__(self, log: Database, projection: Database, *, kafka: bool, now: Callable[[], datetime]) -> None:
        self._log, self._projection = log, projection
        self._erasures = Erasures(log)
        self._rows = PersonalRows(projection)
        self._kafka = kafka
        self._now = now

    async def check(self, state: ProjectionState) -> list[Erasure]:
        """Return the erasures that the tables have not met; raise IntegrityError where Kafka would undo one."""
        unmet = [
            one
            for one in await self._erasures.all()
            if one.finished_at is not None and one.until > state.applied_through
        ]
        held = [one for one in unmet if one.kafka_until is None or self._now() < one.kafka_until]
        if self._kafka and held:
            raise IntegrityError(
                f"the tables show the log up to {state.applied_through}, and somebody was forgotten up to "
                f"{held[-1].until}, whose older records Kafka may hold yet: make the tables from the log, with "
                "`whatsms-events replay projection --go --swap`"
            )
        return unmet if state.applied_through else []

    async def blank(self, state: ProjectionState) -> bool:
        """Blank who was forgotten behind the tables; tell whether there was anybody. It may be stopped at any point.

        Each transaction has PIECE rows at most, and all are done before the checkpoint moves.
        """
        unmet = await self.check(state)
        for one in unmet:
            rows = await self._blank(one)
            log.info("tables.older", position=one.until, rows=rows)
        if unmet:
            await scrub(self._projection)
        return bool(unmet)

    async def _blank(self, one: Erasure) -> int:
        forgotten_at = to_micros(one.forgotten_at)
        blanked = await self._erasures.blanked_behind(one.tenant, one.log_end, one.until)
        before = Before(one.log_end, blanked, forgotten_at)
        ids = one.contact_ids | {one.contact_id}
        person = await self._rows.person(one.tenant, one.contact_id, before, contact_ids=ids, ticket_ids=one.ticket_ids)
        changed = 0
        keys = await self._rows.keys(one.tenant, person)
        search = PersonSearch(self._log, self._projection, self._now)
        search.tells(person)
        left = await search.parked_events(one, person.known(forgotten_at).find)
        if left:
            changed += await self._rows.blank_parked(left)
        for start in range(0, len(keys), PIECE):
            changed += sum((await self._rows.blank(keys[start : start + PIECE], person, before)).values())
        return changed
