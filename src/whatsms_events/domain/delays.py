"""How long messages of ours took from step to step, as counts in a fixed set of ranges, and what became of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

BOUNDS_S: Final = (2, 10, 60, 600, 3600, 86_400)
"""Upper bounds of the ranges, in seconds; what took longer is in one more range behind them."""

RANGES: Final = (
    "under 2 s",
    "2 to 10 s",
    "10 s to 1 min",
    "1 to 10 min",
    "10 min to 1 h",
    "1 h to 1 day",
    "over 1 day",
)
"""The name of each range; one more than there are bounds."""

STEPS: Final = ("delivered", "read")
"""The steps that take time: sent to delivered, and delivered to read."""

OUTCOMES: Final = ("ours", "sent", "delivered", "read", "played", "failed")
"""What is counted of our messages: all, those that reached a level (or a higher one), and those that failed."""

STUCK_AFTER: Final = timedelta(days=1)
"""From this age on a message that was not delivered is stuck."""

STUCK_UNTIL: Final = timedelta(days=8)
"""A message that did not arrive within a week never will: it must not be counted for ever."""


@dataclass(frozen=True, slots=True)
class PeriodPart:
    """Our messages of one part of a period, that is `since` (included) until `until` (not included).

    `counts` has one number for each of OUTCOMES; `delays` for each of STEPS one number for each of RANGES. `complete`
    is false where the part has more messages than were read.
    """

    since: datetime
    until: datetime
    counts: tuple[int, ...]
    delays: tuple[tuple[int, ...], ...]
    complete: bool


def total(parts: Sequence[PeriodPart]) -> tuple[int, ...]:
    """Return the counts of all parts together, in the order of OUTCOMES."""
    return tuple(map(sum, zip(*(one.counts for one in parts), strict=True))) if parts else (0,) * len(OUTCOMES)
