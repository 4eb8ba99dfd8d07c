"""What a backfill repaired of one thing, field by field: what was held before, and what the vendor showed.

A drift keeps no values. So the difference is made again from the log, by the fold itself: the events about the thing up
to the observation, and then the observation. A drift knows when it was found, so they are looked for around that time,
however long ago it was.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import msgspec

from whatsms_events.domain import fold
from whatsms_events.domain.acks import LEVELS
from whatsms_events.domain.events import Entity, LogEntry, decode, from_micros
from whatsms_events.domain.personal import UNSHOWN
from whatsms_events.domain.resources import NAMED
from whatsms_events.domain.rows import Key, Row, Value, value_of
from whatsms_events.errors import InvalidEventError, NotFoundError
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.trace import NEAR, ShortEvent, Traces

OBSERVED: Final = ".observed"
_named: Final = msgspec.json.Decoder(tuple[str | None, str | None])

APPENDED: Final = timedelta(minutes=1)
"""How long after it was found an observation is in the log, unless the run stood still meanwhile."""


@dataclass(frozen=True, slots=True)
class FieldDifference:
    """One field: what was held, and what was seen. `personal` tells whether the values may be about a person."""

    name: str
    before: Value | datetime
    after: Value | datetime
    personal: bool


@dataclass(frozen=True, slots=True)
class Difference:
    """The last observation of a thing, when it came, and what it changed.

    `whole` is False where older events were not looked at: then what is missing before may have been held all the same.
    """

    position: int
    observed_at: datetime
    fields: Sequence[FieldDifference]
    whole: bool


class Differences:
    """Makes differences from the log. All verbs raise StorageUnavailableError."""

    def __init__(self, traces: Traces, event_log: EventLog) -> None:
        self._traces = traces
        self._log = event_log

    async def of(
        self, kind: Entity, tenant: str, thing_id: str, found_at: datetime, *, reach: int = NEAR
    ) -> Difference:
        """Return what the first observation of a thing since `found_at` changed, else the last one.

        So many positions before that time are looked through for what was held before. Raise NotFoundError where none
        of the events that can be found is an observation of the thing.
        """
        until = await self._traces.position_at(found_at + APPENDED)
        since = await self._traces.position_at(found_at)
        events, floor = await self._traces.events_about(
            kind, tenant, thing_id, reach=until - since + reach, until=until
        )
        if not any(_is_observation(one, kind, found_at) for one in events):
            events, floor = await self._traces.events_about(kind, tenant, thing_id)
        events = sorted(events, key=lambda one: one.position)
        observation = _observation(events, kind, found_at)
        rows: dict[Key, Row] = {}
        for one in events:
            if one.position < observation.position:
                rows |= _applied(await self._entry(one), rows)
        key = Key(kind, tenant, thing_id)
        before, seen = rows.get(key), _applied(await self._entry(observation), rows).get(key)
        return Difference(
            observation.position,
            observation.received_at,
            _differing(kind, before, seen),
            whole=floor == 0 and len(events) < EVENTS_WHOLE,
        )

    async def _entry(self, one: ShortEvent) -> LogEntry:
        (entry,) = await self._log.read(one.position - 1, 1)
        return entry


EVENTS_WHOLE: Final = 50
"""So many events `Traces` returns at most."""


def _observation(events: Sequence[ShortEvent], kind: Entity, found_at: datetime) -> ShortEvent:
    mine = [one for one in events if _is_observation(one, kind)]
    if not mine:
        raise NotFoundError("no observation of it is among the last events about it")
    return next((one for one in mine if _is_observation(one, kind, found_at)), mine[-1])


def _is_observation(one: ShortEvent, kind: Entity, since: datetime | None = None) -> bool:
    return one.type == f"{kind}{OBSERVED}" and (since is None or one.received_at >= since)


def _applied(entry: LogEntry, rows: Mapping[Key, Row]) -> dict[Key, Row]:
    """Return the rows that an event changes; one that cannot be read, or was blanked, changes nothing."""
    try:
        return fold.merge_all(fold.claims(entry.event, decode(entry.event)), entry.position, rows)
    except InvalidEventError:
        return {}


def _differing(kind: Entity, before: Row | None, seen: Row | None) -> list[FieldDifference]:
    if seen is None:
        return []
    found = []
    ack = ["ack"] if kind == "message" else []  # it has no version: the highest one counts
    for name in [*seen.versions, *ack]:
        old = None if before is None or name not in [*before.versions, *ack] else value_of(before.values, name)
        new = value_of(seen.values, name)
        if old != new:
            known = name in UNSHOWN[kind]
            called = f"{NAMED[name]}.name" if name in NAMED else name
            found.append(FieldDifference(called, _shown(name, old), _shown(name, new), personal=known))
    return sorted(found, key=lambda one: one.name)


def _shown(name: str, value: Value) -> Value | datetime:
    """Return a time as one, an ack in a word, of an agent or a queue the name, and anything else as it is held."""
    if name in NAMED and isinstance(value, str):
        return _named.decode(value)[1]
    if name == "ack" and isinstance(value, int):
        return LEVELS.get(value, value)
    return from_micros(value) if name.endswith("_at") and isinstance(value, int) else value
