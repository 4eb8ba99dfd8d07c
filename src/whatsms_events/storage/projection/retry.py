"""Retry parked events: read them again with today's code, and apply what can be applied by now."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from whatsms_events.domain.events import EventType, LogEntry
from whatsms_events.domain.records import from_record
from whatsms_events.errors import InvalidEventError
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.projection.apply import Projection, ReadItem, Retried
from whatsms_events.storage.projection.parked import ParkedBytes, ParkedEvents, ReadPlace

PIECE: Final = 200
"""So many in one transaction: the consumer waits meanwhile."""

FIRST_PIECE: Final = 10
"""A piece has twice as many as the one before: so nobody waits for much longer than it was said to be enough."""

LOG: Final = "log"

ELSEWHERE: Final = "not_in_this_log"
"""Counted for parked events that this log does not hold; they are left alone."""


class Retry:
    """Retries of one projection's parked events."""

    def __init__(self, projection: Projection, parked: ParkedEvents, event_log: EventLog) -> None:
        self._projection = projection
        self._parked = parked
        self._log = event_log

    async def one(self, place: ReadPlace) -> Retried | None:
        """Retry one, also a stray; return None where it is not parked."""
        one, found = await self._parked.at(place), await self._parked.bytes_of(place)
        return None if one is None or one.discarded_at is not None or found is None else await self._retry([found])

    async def all(
        self,
        reason: str | None = None,
        *,
        after: ReadPlace | None = None,
        enough: Callable[[], bool] = lambda: False,
    ) -> Retried:
        """Retry all but strays, or those with one reason, each once, until `enough` says so after a piece.

        It begins after a place, where one is given: `go_on` of the time before.
        """
        types, parked, gone, piece = Counter[EventType](), Counter[str](), 0, FIRST_PIECE
        while page := await self._parked.retriable(after, piece, reason=reason):
            done = await self._retry(page)
            types += Counter(done.types)
            parked += Counter(done.parked)
            gone += done.gone
            after, piece = page[-1].place, min(2 * piece, PIECE)
            if enough():
                return Retried(types, parked, gone, go_on=after)
        return Retried(types, parked, gone)

    async def _retry(self, found: Sequence[ParkedBytes]) -> Retried:
        items: list[ReadItem] = []
        elsewhere = 0
        for one in found:
            item = await self._read(one)
            if item is None:
                elsewhere += 1
            else:
                items.append(item)
        done = await self._projection.retry(items)
        return Retried(done.types, Counter(done.parked) + Counter({ELSEWHERE: elsewhere}), done.gone)

    async def _read(self, one: ParkedBytes) -> ReadItem | None:
        """Read the event as its source would give it today; None where this log does not hold it.

        Then the log is another one or a restored one, and the event is left as it is parked.
        """
        read: LogEntry | InvalidEventError | None
        try:
            read = await self._from_log(one) if one.place.source == LOG else from_record(one.headers, one.raw)[1]
        except InvalidEventError as exc:
            read = exc
        if read is None:
            return None
        return ReadItem(one.place.source, one.place.at, one.raw, one.headers, read)

    async def _from_log(self, one: ParkedBytes) -> LogEntry | None:
        """Return the row of the log; its data is what was parked, since retention may have blanked it there."""
        entries = await self._log.read(one.place.at - 1, 1)
        if not entries or (entries[0].position, entries[0].event.id) != (one.place.at, one.event_id):
            return None
        event = msgspec.structs.replace(entries[0].event, data=one.raw)
        return LogEntry(position=one.place.at, event=event)
