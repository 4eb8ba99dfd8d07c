"""How a row of the projection follows from the claims about it: registers, least and greatest values, and doubt.

The row follows from the claims and their positions, in whatever order they are applied. Where other positions would
give another value, the register is marked as doubtful.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

import msgspec

from whatsms_events.domain import doubt
from whatsms_events.domain.doubt import LOADING, Aside, Heard
from whatsms_events.domain.resources import GROUPS, NAMED, RESOURCES, columns

Table = Literal["ticket", "message", "message_revision", "contact", "campaign"]
Value: TypeAlias = str | int | None
"""What a column holds; times are microseconds since 1970, flags are `bool` (an `int`), lists are JSON."""

COLUMNS: Final[Mapping[Table, frozenset[str]]] = {
    **{entity: columns(entity) for entity in RESOURCES},
    "message_revision": frozenset({"content", "media_url", "first_at"}),
}
"""The columns of each table that the fold writes, beside key, `known`, `doubtful` and `versions`."""

OBSERVATION, OWN, SNAPSHOT, LOADED = 2, 1, 0, -1
"""Ranks at the same version time: what a backfill read; the event about the thing; the thing shown beside another, with
a time of its own; the same without one (`doubt.LOADING` is already subtracted from its version time)."""

BELOW: Final = 1 << 59
"""Subtracted from a version time, it gives one below every real time (years 1 to 9999 span less), in the same order."""

UNCOMPARED: Final = frozenset(one.name for fields in RESOURCES.values() for one in fields if one.compared == "path")
"""URLs are signed anew on each read, so a new URL is no new value. They are stored, and never in doubt."""


# Several of these are made for each event: a struct of msgspec costs a fifth of a tuple with names, and a tenth of a
# dataclass. None of them can be part of a cycle, so the collector need not look at them.


class Key(msgspec.Struct, frozen=True, order=True, gc=False, cache_hash=True):
    """Which row. For a revision `id` is the message's and `digest` that of its content."""

    table: Table
    tenant: str
    id: str
    digest: str = ""


class Version(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Who wrote a register last, and whether its value is in doubt. `aside` is what else `doubt` needs to know.

    Without `aside` the only possible doubt is that two different values were seen at this very time and rank.
    """

    time: int
    rank: int
    position: int
    doubtful: bool = False
    aside: Aside | None = None

    @property
    def place(self) -> doubt.ClaimPlace:
        """Return version time and rank: what decides before the position does."""
        return self.time, self.rank

    @property
    def latest(self) -> int:
        """Return the highest position of a claim of this register, even of one that did not win."""
        own = None if self.aside is None else self.aside.own
        return self.position if own is None else max(self.position, own.key)


def written(versions: Mapping[str, Version]) -> str:
    """Return versions as JSON, in one order whatever the batches were.

    A version is an array, and its last elements are left out where they have their defaults. They are cut off the text:
    within all that a version holds, only the version itself has `false` or `true` behind a comma.
    """
    return _json.encode(versions).replace(b",false,null]", b"]").replace(b",true,null]", b",true]").decode()


def tell_doubt(written_versions: str) -> bool:
    """Tell whether any of the versions that were written like this is in doubt.

    Only a version in doubt has `true` behind a comma, see `written`. To search the text takes a tenth of the time that
    a look at each version takes.
    """
    return ",true" in written_versions


class Row(msgspec.Struct, frozen=True, gc=False):
    """A row of the projection. `values` has every column of `COLUMNS`; `known` is false for a stub."""

    known: bool
    values: Mapping[str, Value]
    versions: Mapping[str, Version]

    @property
    def doubtful(self) -> bool:
        """Tell whether any register is in doubt."""
        return True in [version.doubtful for version in self.versions.values()]


Registers = dict[str, Value]

NO_REGISTERS: Final[Mapping[str, Value]] = MappingProxyType({})
NOTHING: Final[Mapping[str, int]] = MappingProxyType({})
_FREE: Final[Mapping[str, str]] = MappingProxyType({})


class Claim(msgspec.Struct, frozen=True, gc=False):
    """What one event says about one row, at a version time (microseconds) and rank.

    `registers`: the newest wins. `least` and `most`: the smallest and the largest value wins, whatever the time.
    `fixed`: what the key implies. A claim without any of them makes a stub.
    `arrived`: `time` only tells when the event came to us.
    """

    key: Key
    time: int
    rank: int
    registers: Mapping[str, Value]
    known: bool = False
    least: Mapping[str, int] = NOTHING
    most: Mapping[str, int] = NOTHING
    fixed: Mapping[str, str] = _FREE
    arrived: bool = False


_BLANK: Final[Mapping[Table, dict[str, Value]]] = {table: dict.fromkeys(names) for table, names in COLUMNS.items()}
_COLUMN: Final = {group: id_column for group, (id_column, _) in GROUPS.items()}
"""The columns of those registers whose name differs from their column's."""

_NAMED_ONLY: Final = frozenset(NAMED)
_json = msgspec.json.Encoder(order="deterministic")
_named = msgspec.json.Decoder(tuple[str | None, str | None])


def merge(row: Row | None, claim: Claim, position: int) -> Row:
    """Return the row after the claim that stands at `position`; the very same object where nothing changes."""
    return merge_in_order(row, ((claim, position),))


def merge_in_order(row: Row | None, told: Sequence[tuple[Claim, int]]) -> Row:
    """Return the row after all these claims of it, each with its position; the same object where no claim changes it.

    A row of a message has some thirty values and ten versions. They are copied once for all claims, so many claims of
    one row cost a third of what they cost one by one.
    """
    if row is None:
        first = told[0][0]
        values, versions, known = _BLANK[first.key.table].copy(), dict[str, Version](), False
        values.update(first.fixed)
    elif len(told) == 1 and names_only(told[0][0]):  # a short way for what nearly all such rows are told
        return row
    else:
        values, versions, known = {**row.values}, {**row.versions}, row.known
    changed = row is None
    for claim, position in told:
        if claim.registers and _decide(versions, values, claim, position):
            changed = True
        if (claim.least or claim.most) and _bound(values, claim):
            changed = True
        # To be told that a thing is gone is not to see it: a stub stays one.
        if claim.known and not known and claim.registers.get("gone") is not True:
            known = changed = True
    if row is not None and not changed:
        return row
    if not _NAMED_ONLY.isdisjoint(versions):
        _show_names(values)
    return Row(known, values, versions)


def names_only(claim: Claim) -> bool:
    """Tell whether a claim only names a thing: nothing follows for a row that is there, or that was claimed before."""
    return not (claim.registers or claim.known or claim.least or claim.most)


def _bound(values: dict[str, Value], claim: Claim) -> bool:
    """Put the claim's least and greatest values into `values` where they are smaller or larger; tell whether any is."""
    changed = False
    for name, low in claim.least.items():
        present = values[name]
        if not isinstance(present, int) or low < present:
            values[name], changed = low, True
    for name, high in claim.most.items():
        present = values[name]
        if not isinstance(present, int) or high > present:
            values[name], changed = high, True
    return changed


def _decide(versions: dict[str, Version], values: dict[str, Value], claim: Claim, position: int) -> bool:
    """Put each register that the claim changes into `versions` and `values`; tell whether it changes any."""
    time, rank, told = claim.time, claim.rank, not claim.arrived
    fresh = Version(time, rank, position)  # one object for all registers that need no other
    if told and not versions:
        _fill(versions, values, claim.registers, fresh)
        return True
    changed = False
    for name, value in claim.registers.items():
        last, column = versions.get(name), _COLUMN.get(name, name)
        present = values[column]
        if last is None:
            usual = told
        else:  # nearly always a later claim of the same value and rank: a shortcut for what `_weigh` says
            usual = told and last.rank == rank and last.position < position and last.aside is None
            usual = usual and present == value and (last.time < time or (last.time == time and not last.doubtful))
        if usual:
            versions[name], values[column], changed = fresh, value, True
            continue
        if name in UNCOMPARED:
            version, winner = _weigh_url(last, present, fresh, value)
        else:
            version, winner = _weigh(last, present, claim, value, fresh)
        if version is not last and (version != last or winner != present):
            versions[name], values[column], changed = version, winner, True
    return changed


def _fill(versions: dict[str, Version], values: dict[str, Value], told: Mapping[str, Value], fresh: Version) -> None:
    """Put registers into a row that has none yet, all at once: there is nothing to weigh them against."""
    versions.update(dict.fromkeys(told, fresh))
    values.update(told)
    for name in _COLUMN:
        if name in told:
            values[_COLUMN[name]] = values.pop(name)


def _weigh(held: Version | None, present: Value, claim: Claim, value: Value, fresh: Version) -> tuple[Version, Value]:
    """Return the register's version and value after this claim, whose own version is `fresh`."""
    time, rank, position = fresh.time, fresh.rank, fresh.position
    if held is None:
        aside = Aside(False, doubt.nothing_known(time)) if claim.arrived else None
        return (fresh if aside is None else Version(time, rank, position, aside=aside)), value
    same, before, place = present == value, (held.time, held.rank), (time, rank)
    wins = before < place
    if wins and _leaves_no_more(held, claim, position, same=same):
        return (fresh if held.aside is None else Version(time, rank, position, aside=held.aside)), value
    if before > place and _says_nothing(held, claim):
        return held, present
    contested, known = _contest(held, claim, same=same)
    said = doubt.digest(value)
    stood = said if same else doubt.digest(present)
    own, loaded = _own(held, stood, claim, said, position), _loaded(held, stood, claim, said)
    if wins:
        version, winner = fresh, value
    elif before == place:
        # One event may show the same row twice: at the same position the later claim stands.
        version = Version(time, rank, max(held.position, position))
        winner = value if position >= held.position else present
    else:
        version, winner = held, present
    return _with_aside(version, said if winner is value else stood, Aside(contested, known, own, loaded)), winner


# The next two functions are shortcuts for the usual cases: the rules of doubt give the same, but several times slower.


def _leaves_no_more(held: Version, claim: Claim, position: int, *, same: bool) -> bool:
    """Tell whether a claim that wins leaves no doubt, and nothing to remember that `held` does not remember."""
    if claim.arrived:
        return False
    if held.aside is not None:
        kept = not held.doubtful and held.aside.known is None and held.aside.loaded is None
        return kept and same and claim.rank == held.rank == LOADED
    if held.rank == OWN:
        return same and claim.rank == OWN and position >= held.position
    if held.rank == LOADED:
        return held.time <= claim.time - LOADING or (same and claim.rank == LOADED)
    return True


def _says_nothing(held: Version, claim: Claim) -> bool:
    """Tell whether a claim that loses changes nothing, not even what the register remembers."""
    recent = claim.rank == LOADED and claim.time > held.time - LOADING
    return held.aside is None and claim.rank in (SNAPSHOT, LOADED) and not recent


def _weigh_url(held: Version | None, present: Value, fresh: Version, value: Value) -> tuple[Version, Value]:
    """Choose among URLs, which are never in doubt: at one time and rank the greatest, since nothing marks a choice."""
    if held is None or held.place < fresh.place:
        return fresh, value
    if held.place > fresh.place:
        return held, present
    winner = max(present, value, key=lambda url: (url is not None, url or ""))
    return Version(fresh.time, fresh.rank, max(held.position, fresh.position)), winner


def _contest(held: Version, claim: Claim, *, same: bool) -> tuple[bool, doubt.ClaimPlace | None]:
    """Return whether the winner is contested, and `Aside.known`.

    The winner is not in doubt where the last claim that confirms its value, at a time that was told, is above every
    claim of another value. Two values at the same time and rank always leave it in doubt.
    """
    aside = held.aside
    contested, known = (held.doubtful, None) if aside is None else (aside.contested, aside.known)
    before, place = held.place, (claim.time, claim.rank)
    if before < place:
        return _succeed(contested, known, before, claim, same=same)
    if before == place and not same:
        return True, None
    if known is None:
        return contested, known
    if same and not claim.arrived and place > known:
        # The winner's only time was its arrival; now a told time confirms it, and at the very same time for good.
        return False, None if before == place else place
    return (True, place) if not same and place >= known else (contested, known)


def _succeed(
    contested: bool, known: doubt.ClaimPlace | None, before: doubt.ClaimPlace, claim: Claim, *, same: bool
) -> tuple[bool, doubt.ClaimPlace | None]:
    """Return what `_contest` does, for a claim that wins."""
    if not claim.arrived:
        return False, None
    floor = doubt.nothing_known(claim.time)
    last = known or before if same else before
    return (contested or not same, last) if last > floor else (False, floor)


def _own(held: Version, stood: int, claim: Claim, said: int, position: int) -> Heard | None:
    """Return what own events said, by position. None: there was none, or only the one that wins.

    `stood` and `said` are the digests of the value that is held and of the claim's.
    """
    own = None if held.aside is None else held.aside.own
    if own is None and held.rank == OWN:
        own = Heard(held.position, stood)
    return doubt.hear(own, position, said) if claim.rank == OWN else own


def _loaded(held: Version, stood: int, claim: Claim, said: int) -> Heard | None:
    """Return what was loaded, by version time. None: nothing was, or only the claim that wins."""
    loaded = None if held.aside is None else held.aside.loaded
    if loaded is None and held.rank == LOADED:
        loaded = Heard(held.time, stood)
    return doubt.hear(loaded, claim.time, said) if claim.rank == LOADED else loaded


def _with_aside(version: Version, of: int, aside: Aside) -> Version:
    """Return the version with its doubt, for a value with this digest, and with the smallest `aside` that suffices."""
    time, rank, position = version.time, version.rank, version.position
    contested, known, own = aside.contested, aside.known, aside.own
    loaded, doubtful = doubt.recent(aside.loaded, time), contested
    if own is not None or loaded is not None:
        doubtful = contested or _outdated(version, own, of) or _preceded(version, loaded, of)
        if rank == OWN and own == Heard(position, of):
            own = None
        if rank == LOADED and loaded == Heard(time, of):
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
    return values[_COLUMN.get(name, name)]


def _show_names(values: dict[str, Value]) -> None:
    """Write the name of each reference: the one that was told for the id that is held, else null."""
    for register, group in NAMED.items():
        if register in values:
            id_column, name_column = GROUPS[group]
            told = values[register]
            of, name = (None, None) if told is None else _named.decode(str(told))
            values[name_column] = name if of == values[id_column] else None
