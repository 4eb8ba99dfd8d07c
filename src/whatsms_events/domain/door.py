"""What a tenant's deliveries say of their sender: whether we understand it, and whether its clock is right.

Both classes are told the time, keep a bounded memory, and report each change once; a gauge shows what lasts.
"""

from collections import deque
from datetime import datetime, timedelta
from typing import Final, Literal

PARKED_MINIMUM: Final = 5
"""So many parked in a row for one reason raise the alarm. A new event type or an odd body is parked once or twice,
while others are accepted; a configuration that does not fit parks everything."""

PARKED_AGAIN: Final = timedelta(hours=1)
"""An alarm that ends and begins again is told once in this time: a new type of event may come in bursts."""


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
        """Count a parked delivery, and return whether a person is to be told now."""
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
"""Synchronised clocks differ by less than a second, and a prompt delivery takes a few seconds. From about a minute on,
an event would be taken for older than a look at the API that came before it."""

OFFSET_LASTING: Final = timedelta(minutes=15)
"""So long a difference must last: a queue that the vendor works off after a failure looks the same, but ends sooner."""


class ClockOffset:
    """The lasting difference between our clock at the door and the vendor's `timestamp`.

    Most deliveries may be late (retries, a queue) and some may be stamped with another time than that of sending. A
    wrong clock moves the prompt ones too: so the difference is the lower quartile of the last deliveries.
    """

    def __init__(self) -> None:
        self.alarm = False
        self._last_s: deque[float] = deque(maxlen=OFFSET_WINDOW)
        self._off_since: datetime | None = None

    @property
    def offset_s(self) -> float | None:
        """Return how many seconds arrivals come after `timestamp` (negative: before it); None for too few of them."""
        if len(self._last_s) < OFFSET_MINIMUM:
            return None
        return sorted(self._last_s)[len(self._last_s) // 4]

    def accepted(self, occurred_at: datetime, now: datetime) -> Literal["differs", "agrees"] | None:
        """Take in a delivery that is no repetition, and return what changed: the alarm began, or it ended."""
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
