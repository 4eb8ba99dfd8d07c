"""How long a silence of the webhooks is usual, and whether this one means that they no longer reach us.

Being quiet is no fault: people sleep. A silence counts only where something else says that there was news.
"""

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Final, Literal

SilenceVerdict = Literal["heard", "quiet", "activity", "rejects"]
"""heard: no longer than usual. quiet: longer, but no sign of a fault. The other two: a fault, and what shows it."""

GAPS_MINIMUM: Final = 10
"""Fewer say nothing about what is usual; then the floor alone decides when to look."""

LIMIT_S: Final = 86_400.0
"""However rare webhooks are, after a day without one it is worth the look."""

PROBES_MINIMUM: Final = 2
"""Looks in a row that show news: after the first the webhook may still be on its way."""

REJECTS_MINIMUM: Final = 3
"""Refused signatures since the last accepted webhook: one may be a person who tries the URL."""


def usual_gap(arrivals: Sequence[datetime]) -> float | None:
    """Return the seconds that at most pass between two arrivals nine times out of ten; None for too few arrivals.

    One conversation makes several webhooks within seconds, so most gaps are tiny and a mean or a median tells only how
    fast the vendor sends: what counts is the gap between conversations, among the larger ones. A night or a weekend is
    the largest of all and must not count, or a webhook that stopped would go unnoticed for weeks: it is one gap of a
    day's many, and beyond the nine tenths. After a burst, which leaves nothing but tiny gaps, the answer is too small:
    this costs a few looks too early, and the floor of `patience` bounds it.
    """
    moments = sorted(arrivals)
    gaps = sorted((later - earlier).total_seconds() for earlier, later in pairwise(moments))
    if len(gaps) < GAPS_MINIMUM:
        return None
    return gaps[(len(gaps) * 9 - 1) // 10]


def patience(gap: float | None, *, gaps: float, floor_s: float) -> float:
    """Return the seconds of silence from which on it is worth a look: `gaps` usual gaps, within floor and a day."""
    return max(floor_s, min(LIMIT_S, gaps * (gap or 0.0)))


def verdict(silent_s: float, patience_s: float, *, probes: int, rejects: int) -> SilenceVerdict:
    """Return what a silence means.

    `probes` are the looks in a row at the REST API that showed news of this silence, `rejects` the signatures refused
    since it began. Refused signatures tell more, so they are named where both are there.
    """
    if silent_s < patience_s:
        return "heard"
    if rejects >= REJECTS_MINIMUM:
        return "rejects"
    return "activity" if probes >= PROBES_MINIMUM else "quiet"
