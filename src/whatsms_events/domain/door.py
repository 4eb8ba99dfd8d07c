"""What a tenant's deliveries say of their sender: whether we understand it, and whether its clock is right.

Both are given the time, hold a bounded memory, and tell a change once; what stays is for a gauge.
"""

from collections import deque
from datetime import datetime, timedelta
from typing import Final, Literal

PARKED_MINIMUM: Final = 5
"""Parked in a row for one reason: an event type that is new or one odd body comes once or twice and others go on being
accepted; a configuration that does not fit parks everything."""

PARKED_AGAIN: Final = timedelta(hours=1)
"""How often an alarm that ends and begins again is told: a new type of event may come in bursts."""


class ParkedInARow:
    """How many deliveries were parked for one reason since the last one that was accepted."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.count = 0
        self._told: dict[str, datetime] = {}  # reasons are a closed set

    @property
    def alarm(self) -> bool:
        """Tell whether so many in a row are a fault."""
        return self.count >= PARKED_MINIMUM

    def parked(self, reason: str, now: datetime) -> bool:
        """Count one, and return whether this is the one to tell a person of."""
        self.count = self.count + 1 if reason == self.reason else 1
        self.reason = reason
        if self.count != PARKED_MINIMUM:
            return False
        told = self._told.get(reason)
        if told is not None and told <= now < told + PARKED_AGAIN:
            return False
        self._told[reason] = now
        return True

    def accepted(self) -> bool:
        """Begin anew, and return whether this ends an alarm."""
        ended, self.reason, self.count = self.alarm, None, 0
        return ended


OFFSET_WINDOW: Final = 20
OFFSET_MINIMUM: Final = 10
"""Fewer deliveries say nothing: one may have been retried for an hour."""

OFFSET_LIMIT_S: Final = 60.0
"""Clocks that are kept differ by less than a second, and the prompt ones of many deliveries are under way for a few.
From about a minute on, an event is taken for older than a look at the API that it follows."""

OFFSET_LASTING: Final = timedelta(minutes=15)
"""A queue that the vendor works off after a hiccup of its own looks the same, and is over by then."""


class ClockOffset:
    """The lasting difference between our clock at the door and the vendor's `timestamp`.

    Most deliveries may be late (retries, a queue) and some may be stamped with another time than that of sending. What
    a wrong clock moves is the prompt ones too: so the difference is the lower quartile of the last deliveries.
    """

    def __init__(self) -> None:
        self.alarm = False
        self._last_s: deque[float] = deque(maxlen=OFFSET_WINDOW)
        self._off_since: datetime | None = None

    @property
    def offset_s(self) -> float | None:
        """Return the seconds that arrivals are behind `timestamp`, below zero where before it; None for too few."""
        if len(self._last_s) < OFFSET_MINIMUM:
            return None
        return sorted(self._last_s)[len(self._last_s) // 4]

    def accepted(self, occurred_at: datetime, now: datetime) -> Literal["differs", "agrees"] | None:
        """Take in a delivery that was not there before, and return what changed: an alarm began, or it ended."""
        self._last_s.append((now - occurred_at).total_seconds())
        offset_s = self.offset_s
        if offset_s is None or abs(offset_s) < OFFSET_LIMIT_S:
            self._off_since = None
            ended, self.alarm = self.alarm, False
            return "agrees" if ended else None
        if self._off_since is None or now < self._off_since:  # also where our clock was set back
            self._off_since = now
        if self.alarm or now - self._off_since < OFFSET_LASTING:
            return None
        self.alarm = True
        return "differs"
