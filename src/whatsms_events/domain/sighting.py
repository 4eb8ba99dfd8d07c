"""The moment as of which an answer of the vendor counts: the three rules about clocks that each sighting goes through.

An observation competes with webhooks by its time. A time that is too late hides what a webhook told; a time that is too
early lets an older webhook win for one run, and the next run mends that. So each rule moves the time back. One alone
moves it forward: a `Date` that is absurdly old is replaced by our own clock.
"""

from datetime import datetime, timedelta
from typing import Final

from whatsms_events.domain import fold

ABSURD: Final = timedelta(days=1)
"""A `Date` that is so much older than our clock is not believed."""

LAG_S: Final = 5.0
"""How far an API may be behind its own webhooks (a replica): an answer is taken for so much older, and a field that was
written within that time is read again."""

SKEW: Final = timedelta(microseconds=fold.SKEW)


def seen_at(shown_at: datetime, asked_at: datetime) -> datetime:
    """Return the moment to save with an answer whose `Date` says `shown_at`, where our clock said `asked_at` before.

    The `Date` may come from a proxy whose clock is ahead; what happened after the answer must not look older. So our
    own clock at the request is the latest moment, and stands in for a `Date` that is absurd.
    """
    return asked_at if asked_at - shown_at > ABSURD else min(shown_at, asked_at)


def as_of(seen: datetime, now: datetime, *, settle_s: float) -> datetime:
    """Return the moment as of which something that was seen is compared and observed.

    The first rule is in `seen_at`. By the second one no time is further ahead of our clock than the fold believes: our
    clock may have been set back since. By the third one an answer is LAG_S older than it says, because an API may be
    behind its own webhooks; the lag is never more than the settle delay, after which a webhook has arrived.
    """
    return min(seen, now + SKEW) - timedelta(seconds=min(LAG_S, settle_s))
