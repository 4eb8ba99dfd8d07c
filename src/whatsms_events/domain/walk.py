"""How a list of the vendor's is read: page by page, filter by filter, in passes until one brings nothing new.

Theory of operation. Items move between pages while somebody reads (tickets are sorted by last change), so one pass may
miss some. A pass is over when each of its walks (one per filter) has come to its last page. Another pass follows where
the last one brought ids that were not known, and where any walk had more than one page: a list that fits onto one page
is seen at one moment, and nothing can move away from under the reader. Passes are bounded; a list that still brings
something new in its last pass is reported as not stable.
"""

from typing import Final, Literal, NamedTuple

import msgspec
from msgspec.structs import replace

from whatsms_events.domain.repair import Answered, Meaning

PASSES: Final = 4
"""Passes over a list of entities at most."""

MESSAGE_PASSES: Final = 3
"""Passes over a ticket's list of messages at most."""


class Walks(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far the walks over one list got.

    `tries` counts how often in a row the page that comes next had no usable answer, `anew` how often the walk was begun
    anew because its pages led nowhere. `stuck`: a walk was given up, so no further pass is made.
    """

    number: int = 0  # which of the pass's walks
    pass_number: int = 1
    fresh: int = 0  # ids that this pass brought
    paged: bool = False  # whether any walk of this pass had a second page
    shown: bool = False  # whether any page was read
    stuck: bool = False
    tries: int = 0
    anew: int = 0


Then = Literal[
    "page",  # read the next page of the walk
    "walk",  # read the next walk from its first page
    "pass",  # read all walks once more
    "over",  # the list is read
    "unstable",  # the list is read, and its last pass still brought something new
]


class WalkStep(NamedTuple):
    """Where the walks stand, and what to do."""

    walks: Walks
    then: Then


def read(walks: Walks, *, fresh: int, paged: bool) -> Walks:
    """Return the walks with one more page that was read."""
    return replace(walks, fresh=walks.fresh + fresh, paged=walks.paged or paged, shown=True, tries=0)


def tries(walks: Walks, answered: Answered) -> int:
    """Return how often this came already: pages that lead nowhere are counted by themselves."""
    return walks.anew if answered == "paging" else walks.tries


def failed(walks: Walks, meaning: Meaning) -> Walks:
    """Return the walks after an answer that is no page."""
    return replace(walks, anew=walks.anew + 1) if meaning == "anew" else replace(walks, tries=walks.tries + 1)


def step(walks: Walks, *, more: bool, in_pass: int, passes: int) -> WalkStep:
    """Return what follows a page, where `in_pass` walks make a pass and at most `passes` are made."""
    if more:
        return WalkStep(walks, "page")
    walks = replace(walks, number=walks.number + 1, tries=0, anew=0)
    if walks.number < in_pass:
        return WalkStep(walks, "walk")
    settled = not walks.paged or walks.fresh == 0 or walks.stuck
    if settled or passes == 1:
        return WalkStep(walks, "over")
    if walks.pass_number == passes:
        return WalkStep(walks, "unstable")
    return WalkStep(replace(walks, number=0, pass_number=walks.pass_number + 1, fresh=0, paged=False), "pass")
