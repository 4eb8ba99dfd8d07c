"""Retry parked events: read them again with today's code, and apply what can be applied by now."""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec

from whatsms_events.domain.events import LogEntry
from whatsms_events.domain.records import from_record
from whatsms_events.errors import InvalidEventError
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.projection.apply import Projection, ReadItem, Retried
from whatsms_events.storage.projection.parked import ParkedBytes, ParkedEvents, ReadPlace

PIECE: Final = 200
"""So many in one transaction: the consumer waits meanwhile."""

LOG: Final = "log"


class Retry:
    """Retries of one projection's parked events."""

    def __init__(self, projection: Projection, parked: ParkedEvents, event_log: EventLog) -> None:
        self._projection = projection
        self._parked = parked
        self._log = event_log

    async def one(self, place: ReadPlace) -> Retried | None:
        """Retry one, also a stray; return None where it is not there."""
        found = await self._parked.bytes_of(place)
        return None if found is None else await self._retry([found])

    async def all(self, reason: str | None = None) -> Retried:
        """Retry all but strays, or those with one reason, piece by piece; each is tried once."""
        applied, parked, after = 0, Counter[str](), None
        while page := await self._parked.retriable(after, PIECE, reason=reason):
            done = await self._retry(page)
            applied += done.applied
            parked += Counter(done.parked)
            after = page[-1].place
        return Retried(applied, parked)

    async def _retry(self, found: Sequence[ParkedBytes]) -> Retried:
        return await self._projection.retry([await self._read(one) for one in found])

    async def _read(self, one: ParkedBytes) -> ReadItem:
        """Read the event as its source would give it today."""
        read: LogEntry | InvalidEventError
        try:
            read = await self._from_log(one) if one.place.source == LOG else from_record(one.headers, one.raw)[1]
        except InvalidEventError as exc:
            read = exc
        return ReadItem(one.place.source, one.place.at, one.raw, one.headers, read)

    async def _from_log(self, one: ParkedBytes) -> LogEntry:
        """Return the row of the log; its data is what was parked, since retention may have blanked it there."""
        entries = await self._log.read(one.place.at - 1, 1)
        entry = entries[0] if entries else None
        if entry is None or (entry.position, entry.event.id) != (one.place.at, one.event_id):
            raise InvalidEventError("record", "the log does not hold this event at this position")
        return LogEntry(position=entry.position, event=msgspec.structs.replace(entry.event, data=one.raw))
