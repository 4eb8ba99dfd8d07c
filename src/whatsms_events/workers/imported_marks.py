"""Marks of people who were forgotten come into a log that was restored from a backup: what it holds of them is blanked.

Nobody knows any more who they were: everything is found by marks alone, and what was received before the moment of a
mark is from before. The service stands meanwhile, so the tables are blanked first: whoever is killed finds in the log
what it had of them once more, and with it which values of the tables came from there.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from whatsms_events.domain.marks import Find, Marker, Suppressions
from whatsms_events.errors import IntegrityError
from whatsms_events.storage.database import Database
from whatsms_events.storage.log.erasure import Counts, Erasure, Erasures
from whatsms_events.storage.log.suppression import KeptMark
from whatsms_events.storage.person_search import PersonSearch
from whatsms_events.storage.projection.erasure import PIECE, Before, FoundPerson, PersonalRows
from whatsms_events.workers.alone import Alone

Marked = list[tuple[FoundPerson, Before]]


class ImportedMarks:
    """Blanks what a restored log and its tables hold of people who were forgotten since."""

    def __init__(self, log: Database, projection: Database, marker: Marker, *, now: Callable[[], datetime]) -> None:
        self.alone = Alone(log)
        self._marker = marker
        self._now = now
        self._erasures = Erasures(log)
        self._rows = PersonalRows(projection)
        self._search = PersonSearch(log, projection, now)

    async def apply(self, marks: Sequence[KeptMark]) -> Counts:
        """Blank what the marks tell of, and return how much, by table; raise IntegrityError where something is left."""
        held, total = Suppressions(self._marker, {one.mark: one.forgotten_at for one in marks}), Counter[str]()
        async with self.alone:
            until = await self._erasures.end()
            for tenant in sorted({one.tenant for one in marks}):
                find, one = held.of(tenant), Erasure(0, tenant, "", self._now(), 0, until=until)
                people = await self._people(one, find)
                for person, before in people:
                    total.update(await self._blank(one, find, person, before))
                async for left, through in self._search.looked_through(one, find):
                    await self.alone.sure()
                    one = await self._erasures.blank(one, left, through)
                total.update(one.blanked or {})
                ids = [key async for key in self._search.parked(one, find)]
                total["parked_delivery"] += await self._erasures.blank_parked(ids) if ids else 0
                total["parked_event"] += await self._parked_events(one, find)
                await self._prove(one, find, people)
        return {name: count for name, count in total.items() if count}

    async def _people(self, one: Erasure, find: Find) -> Marked:
        """Return who is in the tables, and what of it is from before: what the log has of them from then."""
        old: set[int] = set()
        async for left, _ in self._search.looked_through(one, find):
            old |= left.keys()
        found: Marked = []
        for at, person in (await self._rows.marked(one.tenant, find)).items():
            through = await self._erasures.received_through(one.tenant, at)
            before = Before(through, frozenset(old), at)
            found.append((await self._rows.with_messages(one.tenant, person, before), before))
        return found

    async def _blank(self, one: Erasure, find: Find, person: FoundPerson, before: Before) -> Counts:
        shown = await self._search.backfilled(one, find, person)
        counts = Counter({"backfill_item": await self._erasures.blank_backfilled(one.tenant, shown)})
        keys = await self._rows.keys(one.tenant, person)
        for start in range(0, len(keys), PIECE):
            await self.alone.sure()
            counts.update(await self._rows.blank(keys[start : start + PIECE], person, before))
        return counts

    async def _parked_events(self, one: Erasure, find: Find) -> int:
        left = await self._search.parked_events(one, find)
        return await self._rows.blank_parked(left) if left else 0

    async def _prove(self, one: Erasure, find: Find, people: Marked) -> None:
        """Look through log and tables once more, and raise IntegrityError where they hold something from before."""
        left = Counter[str]()
        async for rows, _ in self._search.looked_through(replace(one, through=0), find):
            left["event_log"] += len(rows)
        for person, before in people:
            left.update(await self._rows.held(await self._rows.keys(one.tenant, person), person, before))
        if held := {name: count for name, count in left.items() if count}:
            raise IntegrityError(f"something of these people is still there ({held}): run this again, and report it")
