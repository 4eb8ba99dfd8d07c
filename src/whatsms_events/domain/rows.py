"""A row and one claim about it in, the row that follows out: registers, least and greatest values, and doubt.

The row follows from the claims and their positions, in whatever order they are applied. Where other positions would
give another value, the register is marked as doubtful.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec

from whatsms_events.domain import doubt
from whatsms_events.domain.doubt import Aside, Heard

Table = Literal["ticket", "message", "message_revision", "contact", "campaign"]
Value: TypeAlias = str | int | None
"""What a column holds; times are microseconds since 1970, flags are `bool` (an `int`), lists are JSON."""

COLUMNS: Final[Mapping[Table, tuple[str, ...]]] = {
    "ticket": (
        *("status", "channel", "contact_id", "user_id", "user_name", "queue_id", "queue_name"),
        *("user_named", "queue_named"),
        *("ai_agent_id", "last_message", "created_at", "updated_at", "gone"),
    ),
    "message": (
        *("ticket_id", "contact_id", "from_me", "body", "media_type", "media_url", "deleted", "quoted_message_id"),
        *("created_at", "updated_at", "ack", "pending_at", "sent_at", "delivered_at", "read_at", "played_at"),
        *("pending_by", "sent_by", "delivered_by", "read_by", "played_by"),
        *("failed_at", "gone"),
    ),
    "message_revision": ("content", "media_url", "first_at"),
    "contact": (
        *("name", "number", "email", "profile_pic_url", "is_group", "extra_info", "created_at", "updated_at", "gone"),
    ),
    "campaign": (
        *("name", "status", "message", "scheduled_at", "sent_count", "failed_count"),
        *("created_at", "updated_at", "gone"),
    ),
}
"""The columns of each table that the fold writes, beside key, `known`, `doubtful` and `versions`."""

GROUPS: Final[Mapping[str, tuple[str, str]]] = {
    "user": ("user_id", "user_name"),
    "queue": ("queue_id", "queue_name"),
}
"""What is shown as one thing, id and name. It is two registers: who it is (`user`), and the last that was told with a
name (`user_named`, JSON of id and name). `user_name` follows: the name where that is of this id, else null."""

NAMED: Final[Mapping[str, str]] = {f"{group}_named": group for group in GROUPS}
"""The registers of names, by register: the group that they belong to."""

OBSERVATION, OWN, SNAPSHOT, LOADED = 2, 1, 0, -1
"""Ranks at the same version time: what a backfill read, the event about the thing, the thing shown beside another with
a time of its own, and without one: see `doubt.LOADING`, which is taken from that version time already."""

BELOW: Final = 1 << 59
"""Taken from a version time, it makes one below every real time (years 1 to 9999 span less), order kept."""

UNCOMPARED: Final = frozenset({"profile_pic_url", "media_url"})
"""URLs are signed anew on each read: another one is no other value. They are stored, and never in doubt."""


class Key(NamedTuple):
    """Which row. For a revision `id` is the message's and `digest` that of its content."""

    table: Table
    tenant: str
    id: str
    digest: str = ""


class Version(NamedTuple):
    """Who wrote a register last, and whether its value is in doubt. `aside` is what else `doubt` needs to know.

    Without `aside` all doubt there can be is that two different values were seen at this very time and rank.
    """

    time: int
    rank: int
    position: int
    doubtful: bool = False
    aside: Aside | None = None

    @property
    def latest(self) -> int:
        """Return the highest position that said something of this register, also what did not win."""
        own = None if self.aside is None else self.aside.own
        return self.position if own is None else max(self.position, own.key)


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the projection. `values` has every column of `COLUMNS`; `known` is false for a stub."""

    known: bool
    values: Mapping[str, Value]
    versions: Mapping[str, Version]

    @property
    def doubtful(self) -> bool:
        """Tell whether any register is in doubt."""
        return any(version.doubtful for version in self.versions.values())


_NOTHING: Final[Mapping[str, int]] = MappingProxyType({})


class Claim(NamedTuple):
    """What one event says about one row, at a version time (microseconds) and rank.

    `registers`: the newest wins. `least` and `most`: the smallest and the largest value wins, whatever the time.
    `fixed`: what the key implies. A claim without any of them makes a stub.
    `arrived`: the time is only when it came.
    """

    key: Key
    time: int
    rank: int
    registers: Mapping[str, Value]
    known: bool = False
    least: Mapping[str, int] = _NOTHING
    most: Mapping[str, int] = _NOTHING
    fixed: Mapping[str, str] = MappingProxyType({})
    arrived: bool = False


_BLANK: Final[Mapping[Table, Row]] = {
    table: Row(known=False, values=dict.fromkeys(columns), versions={}) for table, columns in COLUMNS.items()
}
_named = msgspec.json.Decoder(tuple[str | None, str | None])


def merge(row: Row | None, claim: Claim, position: int) -> Row:
    """Return the row after the claim that stands at `position`; the very same object where nothing changes."""
    held = _BLANK[claim.key.table] if row is None else row
    if row is not None and not (claim.registers or claim.known or claim.least or claim.most):
        return row  # only named: a stub is all it asks for
    values, versions = dict(held.values), dict(held.versions)
    # To be told that a thing is gone is not to see it: a stub stays one.
    known = held.known or (claim.known and claim.registers.get("gone") is not True)
    changed = row is None or known > held.known
    for name, value in claim.registers.items():
        last, column = versions.get(name), _column(name)
        weigh = _weigh_url if name in UNCOMPARED else _weigh
        version, winner = weigh(last, values[column], claim, value, position)
        if version != last or winner != values[column]:
            versions[name], values[column] = version, winner
            changed = True
    for name, low in claim.least.items():
        present = values[name]
        if not isinstance(present, int) or low < present:
            values[name], changed = low, True
    for name, high in claim.most.items():
        present = values[name]
        if not isinstance(present, int) or high > present:
            values[name], changed = high, True
    if row is None:
        values.update(claim.fixed)
    if not changed:
        return held
    _show_names(values)
    return Row(known=known, values=values, versions=versions)


def _weigh(held: Version | None, present: Value, claim: Claim, value: Value, position: int) -> tuple[Version, Value]:
    """Return who wrote the register last and what it holds, once the claim is among those that were heard."""
    time, rank = place = (claim.time, claim.rank)
    if held is None:
        aside = Aside(False, doubt.nothing_known(time)) if claim.arrived else None
        return Version(time, rank, position, False, aside), value
    same, wins = present == value, held[:2] < place
    if same and wins and rank == held.rank and held.aside is None and not claim.arrived and position >= held.position:
        return Version(time, rank, position), value  # the usual case: the same again, later
    contested, known = _contest(held, claim, same=same)
    own, loaded = _own(held, present, claim, value, position), _loaded(held, present, claim, value)
    if wins:
        version, winner = Version(time, rank, position), value
    elif held[:2] == place:
        # One event may show the same row twice: at the same position the later claim stands.
        version = Version(time, rank, max(held.position, position))
        winner = value if position >= held.position else present
    else:
        version, winner = held, present
    return _with_aside(version, winner, Aside(contested, known, own, loaded)), winner


def _weigh_url(
    held: Version | None, present: Value, claim: Claim, value: Value, position: int
) -> tuple[Version, Value]:
    """Choose among URLs, which are never in doubt: at one time and rank the greatest, since nothing marks a choice."""
    place = (claim.time, claim.rank)
    if held is None or held[:2] < place:
        return Version(*place, position), value
    if held[:2] > place:
        return held, present
    winner = max(present, value, key=lambda url: (url is not None, url or ""))
    return Version(*place, max(held.position, position)), winner


def _contest(held: Version, claim: Claim, *, same: bool) -> tuple[bool, doubt.Place | None]:
    """Return whether the winner is contested, and what is known of a winner whose time is only when it arrived.

    The winner stands undoubted where the last claim that confirms its value, at a time that was told, is above every
    claim of another value. Two values at one time and rank are a case of it.
    """
    contested, known = (held.doubtful, None) if held.aside is None else held.aside[:2]
    before, place = held[:2], (claim.time, claim.rank)
    if before < place:
        return _succeed(contested, known, before, claim, same=same)
    if before == place and not same:
        return True, None
    if known is None:
        return contested, known
    if same and not claim.arrived and place > known:
        # It arrived, and now somebody tells the same with a time: also of this very time, which settles it.
        return False, None if before == place else place
    return (True, place) if not same and place >= known else (contested, known)


def _succeed(
    contested: bool, known: doubt.Place | None, before: doubt.Place, claim: Claim, *, same: bool
) -> tuple[bool, doubt.Place | None]:
    """Return what `_contest` does, for a claim that wins."""
    if not claim.arrived:
        return False, None
    floor = doubt.nothing_known(claim.time)
    last = known or before if same else before
    return (contested or not same, last) if last > floor else (False, floor)


def _own(held: Version, present: Value, claim: Claim, value: Value, position: int) -> Heard | None:
    """Return what own events said, by position. None stands for nothing; where one wins, for that alone."""
    own = None if held.aside is None else held.aside.own
    if own is None and held.rank == OWN:
        own = Heard(held.position, doubt.digest(present))
    return doubt.hear(own, position, doubt.digest(value)) if claim.rank == OWN else own


def _loaded(held: Version, present: Value, claim: Claim, value: Value) -> Heard | None:
    """Return what was loaded, by version time. None stands for nothing; where such a one wins, for that alone."""
    loaded = None if held.aside is None else held.aside.loaded
    if loaded is None and held.rank == LOADED:
        loaded = Heard(held.time, doubt.digest(present))
    return doubt.hear(loaded, claim.time, doubt.digest(value)) if claim.rank == LOADED else loaded


def _with_aside(version: Version, winner: Value, aside: Aside) -> Version:
    """Return the version with its doubt, and with as little aside as says the same."""
    time, rank, position = version[:3]
    contested, known, own, loaded = aside
    loaded, doubtful = doubt.recent(loaded, time), contested
    if own is not None or loaded is not None:
        of = doubt.digest(winner)
        doubtful = contested or _outdated(version, own, of) or _preceded(version, loaded, of)
        if rank == OWN and own == (position, of, None):
            own = None
        if rank == LOADED and loaded == (time, of, None):
            loaded = None
    plain = known is None and own is None and loaded is None
    return Version(time, rank, position, doubtful, None if plain else Aside(contested, known, own, loaded))


def _outdated(version: Version, own: Heard | None, of: int) -> bool:
    """Tell whether an own event came after the observation that wins, and says something else.

    It is late, or the vendor's clock is behind: nobody can tell.
    """
    late = doubt.against(own, of)
    return version.rank == OBSERVATION and late is not None and late > version.position


def _preceded(version: Version, loaded: Heard | None, of: int) -> bool:
    """Tell whether something that was stamped soon after the winner shows it otherwise.

    It was loaded before, or the thing has changed since: nobody can tell.
    """
    return version.rank >= OWN and doubt.against(loaded, of) is not None


def value_of(values: Mapping[str, Value], name: str) -> Value:
    """Return what a register holds."""
    return values[_column(name)]


def _column(name: str) -> str:
    return GROUPS[name][0] if name in GROUPS else name


def _show_names(values: dict[str, Value]) -> None:
    """Write each name that is known of the id that stands there: another id's is not shown."""
    for register, group in NAMED.items():
        if register in values:
            id_column, name_column = GROUPS[group]
            told = values[register]
            of, name = (None, None) if told is None else _named.decode(str(told))
            values[name_column] = name if of == values[id_column] else None
