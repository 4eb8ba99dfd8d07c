"""What a register remembers beside its winner, so that the order of arrival never decides anything unseen.

A register is in doubt where nobody can tell whether its winner is the truth. Each reason is a small rule here; `rows`
applies them. The rules look at the whole set of claims, never at the order in which they are applied, and remember a
fixed number of facts about it.

Theory of operation. Most rules ask: is there a claim of one kind, with *another value than the winner's*, beyond some
threshold? The winner may change later, and then "another value" means other claims. Two facts answer it for every
possible winner: the highest claim of the kind with its value, and the highest one with any other value. `Heard` is
these two facts.
"""

import zlib
from typing import Final, TypeAlias

import msgspec

LOADING: Final = 5 * 1_000_000
"""A thing shown beside another, without a time of its own, was loaded up to five seconds before the event was stamped:
a Node program loads a row, awaits something else, and stamps. In microseconds."""

ClaimPlace: TypeAlias = tuple[int, int]
"""A version time and a rank: what decides between two claims before their position does."""


# As structs these are made in a third of the time that tuples with names take, and the collector need not look at them.


class Heard(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The highest key among claims of one kind, the digest of its value, and the highest key with another value."""

    key: int
    digest: int
    other: int | None = None


class Aside(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a register remembers beside its winner.

    `contested`: a claim with another value stands no lower than the last one that confirms the winner.
    `known`: where the winner's time is only when it arrived, the place of the last claim that confirms or (if
    contested) contradicts it; None where the winner's time was told.
    `own`: events about the thing itself, by position. `loaded`: what other events showed of it, by version time.
    """

    contested: bool
    known: ClaimPlace | None = None
    own: Heard | None = None
    loaded: Heard | None = None


def digest(value: str | int | None) -> int:
    """Return 32 bits that stand for a value, so that a long text is not kept a second time.

    Two values with the same 32 bits (one pair in four billion) hide a doubt, and do no other harm.
    """
    return zlib.crc32(repr(value).encode())


def hear(heard: Heard | None, key: int, of: int) -> Heard:
    """Return `heard` after one more claim, with this key and digest; the order in which claims come does not matter."""
    if heard is None:
        return Heard(key, of)
    if of == heard.digest:
        return heard if key <= heard.key else Heard(key, of, heard.other)
    # Of two values at one key the larger digest leads, so that both orders leave the same.
    if (key, of) > (heard.key, heard.digest):
        return Heard(key, of, heard.key)
    return heard if heard.other is not None and key <= heard.other else Heard(heard.key, heard.digest, key)


def against(heard: Heard | None, of: int) -> int | None:
    """Return the highest key of a claim that had another value than the one with this digest."""
    if heard is None:
        return None
    return heard.key if heard.digest != of else heard.other


def recent(heard: Heard | None, time: int) -> Heard | None:
    """Return the part of what was loaded that may be older than a claim of this time, although stamped after it.

    A loaded thing's version time is LOADING before its stamp. Version times of winners only grow, so what is left out
    here would never count again.
    """
    if heard is None or heard.key <= time - LOADING:
        return None
    if heard.other is not None and heard.other <= time - LOADING:
        return Heard(heard.key, heard.digest)
    return heard


_FLOOR: Final = -(1 << 58)
"""Below all real times, and above all times from which `rows.BELOW` was subtracted."""


def nothing_known(time: int) -> ClaimPlace:
    """Return the place below every claim that may contradict an arrived one (`Claim.arrived`) of this time.

    Claims that a rule puts below all real times cannot contradict one of a real time.
    """
    return (_FLOOR if time > _FLOOR else -(1 << 62), 0)
