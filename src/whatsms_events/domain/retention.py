"""How long what is kept is kept: the terms of every tenant and kind, and which rows of the log are due.

Theory of operation. The log is read from its oldest row on, once, in pieces, for each group: the tenants that share a
term. A group's place is the position up to which everything of it is done. A piece moves the place to its last row that
is older than the term, whoever's row it is, so that groups with one term stay together.

Positions follow commits, and the times of rows nearly do. A row behind the place that is too young is left, and the
place notes where the first such row is and when the earliest is due: then the reading begins there again. So a receiver
whose clock was wrong neither holds up the others nor has its rows taken early. A row counts by its own `received_at`
alone.
"""

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final, Literal, NamedTuple, get_args

from whatsms_events.domain.events import to_micros

RetentionKind = Literal["raw", "data", "texts", "parked", "discarded", "items", "drift"]
"""What has a term of its own. `raw` is the bytes as they came, `data` what was read of them: the bytes go with it.

`discarded` is what was parked, from when it was discarded; it goes with what is parked where that is over sooner.
"""

KINDS: Final[tuple[RetentionKind, ...]] = get_args(RetentionKind)

AHEAD: Final = timedelta(days=1)
"""Rows that come from so far in the future do not hold up what is behind them."""

_MICROS: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class RetentionTerms:
    """How long each kind is kept: None, or a kind that is not there, means for ever. `own`: by tenant id."""

    default: Mapping[RetentionKind, timedelta | None]
    own: Mapping[str, Mapping[RetentionKind, timedelta | None]] = field(default_factory=dict)

    def kept(self, tenant: str | None, kind: RetentionKind) -> timedelta | None:
        """Return how long a tenant's things are kept, None for ever. The bytes never outlive the data."""
        mine = {**self.default, **(self.own.get(tenant, {}) if tenant is not None else {})}
        found = mine.get(kind)
        if kind == "raw" and (data := mine.get("data")) is not None:
            return data if found is None else min(found, data)
        return found

    def restorable_until(self, tenant: str | None, parked_at: datetime, discarded_at: datetime) -> datetime | None:
        """Return until when what was parked and discarded is kept, None for ever."""
        began: dict[RetentionKind, datetime] = {"parked": parked_at, "discarded": discarded_at}
        over = [at + kept for kind, at in began.items() if (kept := self.kept(tenant, kind)) is not None]
        return min(over, default=None)


@dataclass(frozen=True, slots=True)
class Group:
    """The tenants that keep a kind for one time: these, or all but these, also those that are not configured."""

    kind: RetentionKind
    kept: timedelta
    tenants: frozenset[str]
    but: bool

    def has(self, tenant: str | None) -> bool:
        """Tell whether a tenant is one of them; None is nobody's, so the default is its term."""
        return (tenant in self.tenants) != self.but

    @property
    def key(self) -> str:
        """Return what tells this group from others: where a term or a tenant changes, the log is read anew for it."""
        parts = [self.kind, str(self.kept // _MICROS), "but" if self.but else "only", *sorted(self.tenants)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def cutoff(self, now: datetime) -> int:
        """Return the latest time, in microseconds, of what is due now."""
        return to_micros(now) - self.kept // _MICROS

    def left(self, place: "Place") -> list[int]:
        """Return the time of the oldest row that was passed as too young; nothing where none was."""
        return [] if place.left_due is None else [place.left_due - self.kept // _MICROS]


def groups(terms: RetentionTerms, kind: RetentionKind) -> list[Group]:
    """Return the groups of a kind, the default first. What is kept for ever has none."""
    default = _apart(terms, None, kind)
    own: dict[timedelta | None, set[str]] = defaultdict(set)
    for tenant in terms.own:
        if (kept := _apart(terms, tenant, kind)) != default:
            own[kept].add(tenant)
    others = frozenset(itertools.chain.from_iterable(own.values()))
    found = [] if default is None else [Group(kind, default, others, but=True)]
    some = ((kept, tenants) for kept, tenants in own.items() if kept is not None)
    return found + [Group(kind, kept, frozenset(tenants), but=False) for kept, tenants in sorted(some)]


def _apart(terms: RetentionTerms, tenant: str | None, kind: RetentionKind) -> timedelta | None:
    """Return how long a kind is kept; None for bytes that go with the data, at the same time."""
    kept = terms.kept(tenant, kind)
    return None if kind == "raw" and kept == terms.kept(tenant, "data") else kept


class KeptRow(NamedTuple):
    """A row of the log as one that blanks sees it. `received_at` in microseconds, `size` of `raw` in bytes."""

    position: int
    tenant: str
    received_at: int
    size: int
    has_raw: bool
    has_data: bool


@dataclass(frozen=True, slots=True)
class Place:
    """How far a group is. `left_at`: the first row that was passed as too young; `left_due`: when one is due."""

    through: int = 0
    left_at: int | None = None
    left_due: int | None = None

    def at(self, now: datetime) -> "Place":
        """Return where to read on now: from what was left, once some of it is due."""
        if self.left_at is None or self.left_due is None or to_micros(now) < self.left_due:
            return self
        return Place(self.left_at - 1)


@dataclass(frozen=True, slots=True)
class Sweep:
    """What is to be blanked of a piece, and the place afterwards."""

    due: tuple[int, ...]
    place: Place


def sweep(rows: Sequence[KeptRow], place: Place, group: Group, now: datetime, *, size_limit: int) -> Sweep:
    """Judge the rows behind a place, in order. The place does not move where the first ones are still to be kept.

    Of what is due about `size_limit` bytes are taken, one row at least.
    """
    taken = _within(_old(rows, group, now), group, now, size_limit)
    mine = [row for row in taken if group.has(row.tenant) and (row.has_raw or (row.has_data and group.kind == "data"))]
    cutoff = group.cutoff(now)
    young = [row for row in mine if row.received_at > cutoff]
    if taken:
        place = replace(place, through=taken[-1].position)
    if young:
        due = min(row.received_at for row in young) + group.kept // _MICROS
        first = young[0].position
        place = replace(
            place,
            left_at=first if place.left_at is None else min(place.left_at, first),
            left_due=due if place.left_due is None else min(place.left_due, due),
        )
    return Sweep(tuple(row.position for row in mine if row.received_at <= cutoff), place)


def _old(rows: Sequence[KeptRow], group: Group, now: datetime) -> Sequence[KeptRow]:
    """Return the rows up to the last one that is older than the term; all where all come from the future."""
    cutoff, ahead = group.cutoff(now), to_micros(now + AHEAD)
    last = max((number for number, row in enumerate(rows, 1) if row.received_at <= cutoff), default=0)
    return rows if all(row.received_at > ahead for row in rows) else rows[:last]


def _within(rows: Sequence[KeptRow], group: Group, now: datetime, size_limit: int) -> Sequence[KeptRow]:
    cutoff = group.cutoff(now)

    def sizes() -> Iterator[int]:
        yield from (row.size if group.has(row.tenant) and row.received_at <= cutoff else 0 for row in rows)

    fitting = sum(total <= size_limit for total in itertools.accumulate(sizes()))
    return rows[: max(1, fitting)]
