"""What became of one event: which fields of the tables hold what it said, and which hold what another one said.

It is computed by the fold itself, from the event and the rows as they are now. No value is in it, only places: version
time, rank and position, which decide in this order.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, NamedTuple

from whatsms_events.domain.events import from_micros
from whatsms_events.domain.fold import merge_all
from whatsms_events.domain.rows import BELOW, LOADED, OBSERVATION, OWN, SNAPSHOT, Claim, Key, Row, Version, value_of

RecordState = Literal["published", "not_published", "past_retention", "not_found", "off", "unavailable"]

FieldOutcome = Literal["holds", "lost", "not_applied"]
"""`holds`: the field holds what the event said. `lost`: it holds what another event said."""

RANKS: Final[Mapping[int, str]] = {OBSERVATION: "observation", OWN: "own", SNAPSHOT: "snapshot", LOADED: "loaded"}
FALLBACK: Final = "fallback"
"""The rank shown of a claim that counts only where nobody says better."""


@dataclass(frozen=True, slots=True)
class RecordPlace:
    """Where an event is in Kafka and since when, or why it is not there. The time is by the relay's clock."""

    state: RecordState
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None
    published_at: datetime | None = None


class FieldPlace(NamedTuple):
    """What decides which claim a field holds. `position` is None where the field keeps no position (acks)."""

    time: datetime | None
    rank: str
    position: int | None


@dataclass(frozen=True, slots=True)
class FieldTrace:
    """What became of one thing that an event said about one field. `winner` is None where the event's word holds.

    `same`: the field holds the same value, whoever said it. `doubtful`: nobody can tell which is right.
    """

    table: str
    id: str
    field: str
    outcome: FieldOutcome
    own: FieldPlace
    winner: FieldPlace | None
    same: bool
    doubtful: bool


@dataclass(frozen=True, slots=True)
class EventTrace:
    """Every field that an event is about.

    `changes`: applying the event now would change something. It was not applied yet, or is read otherwise today.
    """

    fields: Sequence[FieldTrace]
    changes: bool


def trace(claims: Sequence[Claim], position: int, rows: Mapping[Key, Row]) -> EventTrace:
    """Return what became of an event's claims, by the rows as they are; `rows` has every row of them that exists."""
    fields = [found for claim in claims for found in _fields(claim, position, rows.get(claim.key))]
    return EventTrace(fields, changes=bool(merge_all(claims, position, rows)))


def field_place(version: Version) -> FieldPlace:
    """Return the place of what a register holds."""
    return _place(version.time, version.rank, version.position)


def _place(time: int, rank: int, position: int | None) -> FieldPlace:
    fallback = time < -(BELOW >> 1)
    return FieldPlace(_time(time + BELOW if fallback else time), FALLBACK if fallback else RANKS[rank], position)


def _time(micros: int) -> datetime | None:
    try:
        return from_micros(micros)
    except OverflowError:  # seconds before the year 1
        return None


def _fields(claim: Claim, position: int, row: Row | None) -> Iterator[FieldTrace]:
    own = _place(claim.time, claim.rank, position)
    for name, value in claim.registers.items():
        version = None if row is None else row.versions.get(name)
        if row is None or version is None:
            yield _trace(claim, name, "not_applied", own, None, same=False)
            continue
        same, doubtful = value_of(row.values, name) == value, version.doubtful
        ours, theirs = (claim.time, claim.rank, position), (*version.place, version.position)
        if ours == theirs:
            yield _trace(claim, name, "holds", own, None, same=same, doubtful=doubtful)
        else:
            outcome: FieldOutcome = "lost" if ours < theirs else "not_applied"
            yield _trace(claim, name, outcome, own, field_place(version), same=same, doubtful=doubtful)
    yield from _extremes(claim, row, own)


def _extremes(claim: Claim, row: Row | None, own: FieldPlace) -> Iterator[FieldTrace]:
    """Trace acks and first times: of these the smallest or the largest counts, whoever said it."""
    for values, is_least in ((claim.least, True), (claim.most, False)):
        for name, value in values.items():
            held = None if row is None else row.values[name]
            if not isinstance(held, int) or (held > value if is_least else held < value):
                yield _trace(claim, name, "not_applied", own, None, same=False)
            elif held == value:
                yield _trace(claim, name, "holds", own, None, same=True)
            else:
                earlier = FieldPlace(_time(held) if is_least else None, "earlier" if is_least else "higher", None)
                yield _trace(claim, name, "lost", own, earlier, same=False)


def _trace(
    claim: Claim,
    field: str,
    outcome: FieldOutcome,
    own: FieldPlace,
    winner: FieldPlace | None,
    *,
    same: bool,
    doubtful: bool = False,
) -> FieldTrace:
    return FieldTrace(claim.key.table, claim.key.id, field, outcome, own, winner, same, doubtful)
