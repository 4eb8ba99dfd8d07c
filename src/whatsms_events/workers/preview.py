"""What some events of the log would change in the live tables if they were applied once more, with today's code.

This is the comparison for a part of the log: a shadow that was made of a part could not be compared row by row. Nothing
is written. The fold knows neither order nor repetition, so events that are read as before change nothing. A field that
today's code does not read any more is not seen here: only a shadow of the whole log shows that.
"""

from collections import Counter
from dataclasses import replace

from whatsms_events.domain import fold
from whatsms_events.domain.events import Checkpoint, LogEntry, decode
from whatsms_events.domain.findings import ROWS_LIMIT, TableFinding, findings
from whatsms_events.domain.replay import Selection, read_again
from whatsms_events.domain.rows import Key, Row
from whatsms_events.errors import IntegrityError, InvalidEventError
from whatsms_events.storage.log.event_log import EventLog, StoredEvent
from whatsms_events.storage.projection.holdings import Holdings


class Preview:
    """The comparison of a selection with the live tables, up to the position `through` to which these are applied."""

    def __init__(self, event_log: EventLog, holdings: Holdings, selection: Selection, *, through: int) -> None:
        last = through if selection.last is None else min(through, selection.last)
        self._log, self._holdings = event_log, holdings
        self._selection = replace(selection, last=last)
        self._checkpoint: Checkpoint | None = None
        self._changes: dict[Key, tuple[Row | None, Row]] = {}
        self._rows = Counter[str]()
        self.events = 0
        self.blanked = 0
        self.refused = Counter[str]()

    @property
    def position(self) -> int:
        """How far it has read."""
        return self._checkpoint.position if self._checkpoint is not None else self._selection.first - 1

    @property
    def through(self) -> int:
        """The last position that it reads."""
        return self._selection.last or 0

    async def run_once(self, limit: int) -> int:
        """Read and compare the next events; return how many rows of the log that were, 0 at the end."""
        found = await self._log.read_stored_from(self._checkpoint, limit, self._selection)
        if not found:
            return 0
        last = found[-1].entry
        entries = [entry for one in found if (entry := self._read(one)) is not None]
        await self._compare(entries)
        self.events += len(entries)
        self._checkpoint = Checkpoint(log_id=await self._log.log_id(), position=last.position, event_id=last.event.id)
        return len(found)

    def findings(self, *, examples: int, personal: bool) -> tuple[TableFinding, ...]:
        """Return what was found so far."""
        return findings(self._rows, self._changes, examples=examples, personal=personal)

    def _read(self, one: StoredEvent) -> LogEntry | None:
        if not one.wanted:
            return None
        if one.raw is None and one.entry.event.data:
            return one.entry  # the bytes are gone, and what was read of them stands
        if one.raw is None:
            self.blanked += 1
            return None
        try:
            event = read_again(one.entry.event, one.raw, one.entry.position)
        except InvalidEventError as exc:
            self.refused[exc.reason] += 1
            return None
        return LogEntry(position=one.entry.position, event=event)

    async def _compare(self, entries: list[LogEntry]) -> None:
        claimed = [(entry, fold.claims(entry.event, decode(entry.event))) for entry in entries]
        keys = {claim.key for _, claims in claimed for claim in claims}
        self._rows.update(key.table for key in keys)
        held: dict[Key, Row] = await self._holdings.rows(keys)
        current = held | {key: self._changes[key][1] for key in keys & self._changes.keys()}
        for entry, claims in claimed:
            for key, row in fold.merge_all(claims, entry.position, current).items():
                current[key] = row
                before = self._changes[key][0] if key in self._changes else held.get(key)
                self._changes[key] = (before, row)
        if len(self._changes) > ROWS_LIMIT:
            raise IntegrityError(
                f"more than {ROWS_LIMIT} rows would change up to position {self.position}: choose fewer events, or "
                "compare the whole log with `replay projection --go`"
            )
