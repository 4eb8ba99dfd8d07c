"""The log as a replay reads it: each event once more from its bytes, with today's code, for tables and for topics."""

from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from typing import Final
from uuid import UUID

from whatsms_events.domain.events import Checkpoint, LogEntry
from whatsms_events.domain.replay import WHOLE, Selection, read_again
from whatsms_events.errors import IntegrityError, InvalidEventError
from whatsms_events.storage.log.event_log import EventLog, StoredEvent
from whatsms_events.storage.projection.apply import ProjectionState, ReadItem
from whatsms_events.workers.sources import Reading

BLANKED_LIMIT: Final = 10_000
"""About so many positions are remembered: one is enough to refuse a swap."""

DISCARD: Final = "`whatsms-events replay discard` removes it; then begin anew."


class RereadSource:
    """What a shadow is filled from, up to the position `through`: this is a source for the consumer.

    `blanked` has the positions of rows of which retention had left nothing when they were read here. A row of somebody
    who was forgotten has no bytes, but what is left of its data: that is taken as it stands.
    """

    def __init__(self, event_log: EventLog) -> None:
        self._log = event_log
        self.through = 0
        self.blanked = set[int]()  # a reading may be repeated

    async def open(self, state: ProjectionState) -> None:
        """Check that the shadow was made from this log."""
        log_id = await self._log.log_id()
        if state.log_id not in (None, log_id):
            raise IntegrityError(f"the shadow was made from log {state.log_id}, this is log {log_id}. {DISCARD}")

    async def read(self, state: ProjectionState, limit: int) -> Reading:
        """Return the next rows. What today's code refuses is parked; what retention blanked is left out."""
        log_id = await self._log.log_id()
        try:
            found = await self._log.read_stored_from(state.checkpoint, limit, Selection(last=self.through))
        except IntegrityError as exc:
            raise IntegrityError(f"the shadow does not fit: {exc}. {DISCARD}") from exc
        after = replace(state, log_id=log_id)
        if found:
            last = found[-1].entry
            checkpoint = Checkpoint(log_id=log_id, position=last.position, event_id=last.event.id)
            after = replace(after, checkpoint=checkpoint, applied_through=last.position)
        items = [_item(one.entry, one.raw) for one in found if _is_left(one)]
        if len(items) < len(found) and len(self.blanked) < BLANKED_LIMIT:
            self.blanked.update(one.entry.position for one in found if not _is_left(one))
        return Reading(items, after, skipped=len(found) - len(items))

    async def close(self) -> None:
        """Do nothing: this source has no connection of its own."""


def _is_left(one: StoredEvent) -> bool:
    """Tell whether anything is left to read: where only the bytes are gone, what was read of them stands."""
    return one.raw is not None or bool(one.entry.event.data)


def _item(entry: LogEntry, raw: bytes | None) -> ReadItem:
    event, at = entry.event, entry.position
    if raw is None:
        return ReadItem("log", at, event.data, (), entry)
    try:
        again = read_again(event, raw, at)
    except InvalidEventError as exc:
        return ReadItem(source="log", at=at, raw=event.data, headers=(), read=exc, of=entry)
    return ReadItem("log", at, again.data, (), LogEntry(position=at, event=again))


class RereadLog:
    """What shadow topics are filled from: this is a log for the relay, cut to a selection.

    What the selection leaves out comes without data, so the relay moves past it. What today's code refuses comes as it
    was published, and is counted in `refused` by reason.
    """

    def __init__(self, event_log: EventLog, selection: Selection = WHOLE) -> None:
        self.read_limit = event_log.read_limit
        self._log = event_log
        self._selection = selection
        self.refused = Counter[str]()
        self.position = selection.first - 1  # how far it was read

    async def log_id(self) -> UUID:
        """Return the log's identity."""
        return await self._log.log_id()

    async def read_from(self, checkpoint: Checkpoint | None, limit: int) -> list[LogEntry]:
        """Return the next events of the selection, and the others without their data."""
        found = await self._log.read_stored_from(checkpoint, limit, self._selection)
        entries = [self._entry(one) for one in found]
        if found:
            self.position = max(self.position, found[-1].entry.position)
        return entries

    async def ids_at(self, positions: Collection[int]) -> dict[int, UUID]:
        """Return the ids of the events at these positions."""
        return await self._log.ids_at(positions)

    def _entry(self, one: StoredEvent) -> LogEntry:
        entry = one.entry
        if one.raw is None:
            return entry  # what is left of it: nothing, or what was read of bytes that are gone
        try:
            return LogEntry(position=entry.position, event=read_again(entry.event, one.raw, entry.position))
        except InvalidEventError as exc:
            if entry.position > self.position:  # a relay that opens again reads some once more
                self.refused[exc.reason] += 1
            return entry
