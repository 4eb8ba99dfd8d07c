"""A row and one claim about it in, the row that follows out: registers, least and greatest values, and doubt.

Every rule here gives the same row in whatever order the claims come, but for the value of a doubtful register.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, TypeAlias

Table = Literal["ticket", "message", "message_revision", "contact", "campaign"]
Value: TypeAlias = str | int | None
"""What a column holds; times are microseconds since 1970, flags are `bool` (an `int`), lists are JSON."""

COLUMNS: Final[Mapping[Table, tuple[str, ...]]] = {
    "ticket": (
        *("status", "channel", "contact_id", "user_id", "user_name", "queue_id", "queue_name"),
        *("ai_agent_id", "last_message", "created_at", "updated_at", "gone"),
    ),
    "message": (
        *("ticket_id", "contact_id", "from_me", "body", "media_type", "media_url", "deleted", "quoted_message_id"),
        *("created_at", "updated_at", "ack", "pending_at", "sent_at", "delivered_at", "read_at", "played_at"),
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

GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "user": ("user_id", "user_name"),
    "queue": ("queue_id", "queue_name"),
}
"""Registers of more than one column: a name without its id would be another one's."""

OBSERVATION, OWN, SNAPSHOT = 2, 1, 0
"""Ranks at the same version time: what a backfill read, the event about the thing, the thing shown beside another."""

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
    """Who wrote a register last. `doubtful`: two different values were seen at this very time and rank."""

    time: int
    rank: int
    position: int
    doubtful: bool


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
    """

    key: Key
    time: int
    rank: int
    registers: Mapping[str, Value | tuple[Value, ...]]
    known: bool = False
    least: Mapping[str, int] = _NOTHING
    most: Mapping[str, int] = _NOTHING
    fixed: Mapping[str, str] = MappingProxyType({})


_BLANK: Final[Mapping[Table, Row]] = {
    table: Row(known=False, values=dict.fromkeys(columns), versions={}) for table, columns in COLUMNS.items()
}


def merge(row: Row | None, claim: Claim, position: int) -> Row:
    """Return the row after the claim that stands at `position`; the very same object where nothing changes."""
    held = _BLANK[claim.key.table] if row is None else row
    values, versions = dict(held.values), dict(held.versions)
    version = Version(claim.time, claim.rank, position, False)
    # To be told that a thing is gone is not to see it: a stub stays one.
    known = held.known or (claim.known and claim.registers.get("gone") is not True)
    changed = row is None or known > held.known
    for name, value in claim.registers.items():
        last = versions.get(name)
        # Tuples compare time, then rank: the last two members are cut off, position does not outrank them.
        if last is None or last[:2] < version[:2]:
            versions[name] = version
            _set(values, name, value)
            changed = True
        elif last[:2] == version[:2] and _settle(values, versions, name, value, version):
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
    return Row(known=known, values=values, versions=versions) if changed or row is None else row


def _settle(
    values: dict[str, Value],
    versions: dict[str, Version],
    name: str,
    value: Value | tuple[Value, ...],
    version: Version,
) -> bool:
    """Choose between two writes of the same time and rank; return whether anything changed.

    The later position wins, in doubt where the values differ.
    """
    held, present = versions[name], value_of(values, name)
    position = max(held.position, version.position)
    if name in UNCOMPARED:
        # The position must not decide: nothing marks this field as one that another order shows otherwise.
        winner = max(present, value, key=lambda url: (url is not None, url or ""))
        settled = version._replace(position=position)
    else:
        # One event may show the same row twice: at the same position the later claim stands.
        winner = value if version.position >= held.position else present
        settled = version._replace(position=position, doubtful=held.doubtful or present != value)
    if settled == held and winner == present:
        return False
    versions[name] = settled
    _set(values, name, winner)
    return True


def value_of(values: Mapping[str, Value], name: str) -> Value | tuple[Value, ...]:
    """Return what a register holds: several columns of `values` for one of `GROUPS`."""
    columns = GROUPS.get(name)
    return values[name] if columns is None else tuple(values[column] for column in columns)


def _set(values: dict[str, Value], name: str, value: Value | tuple[Value, ...]) -> None:
    if isinstance(value, tuple):
        values.update(zip(GROUPS[name], value, strict=True))
    else:
        values[name] = value
