"""Counters as they stood at the end of each of the last minutes, and how much each minute brought."""

import itertools
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

MINUTES: Final = 60

LOOKED: Final = timedelta(seconds=10)
"""A minute whose last look came so long before its end, or later, counts as looked at to its end."""


class Trail:
    """The last minutes of some counters by their names. One that nobody could read is left out of its minute."""

    def __init__(self, minutes: int = MINUTES) -> None:
        self._minutes = minutes
        self._marks: deque[tuple[int, datetime, Mapping[str, int]]] = deque(maxlen=minutes + 1)

    def note(self, at: datetime, counters: Mapping[str, int | None]) -> None:
        """Note how the counters stand. The last note of a minute counts; a clock that was set back begins anew."""
        minute, known = _minute(at), {name: value for name, value in counters.items() if value is not None}
        if self._marks and self._marks[-1][0] > minute:
            self._marks.clear()
        if not self._marks:  # what comes from now on is this minute's
            self._marks.append((minute - 1, at, known))
        if self._marks[-1][0] == minute:
            self._marks.pop()
        self._marks.append((minute, at, known))

    def rates(self, name: str, at: datetime) -> list[float | None]:
        """Return how much each of the last minutes brought, the oldest first; None where nobody looked.

        Where a minute was not looked at, what came until the next look is spread over both. Less than nothing, as after
        a restored backup, counts as nothing.
        """
        oldest = _minute(at) - self._minutes + 1
        found: list[float | None] = [None] * self._minutes
        known = [(minute, counters[name]) for minute, _at, counters in self._marks if name in counters]
        for (before, low), (minute, high) in itertools.pairwise(known):
            for one in range(max(before + 1, oldest), min(minute, oldest + self._minutes - 1) + 1):
                found[one - oldest] = max(0, high - low) / (minute - before)
        return found

    def passed(self, name: str, value: int) -> tuple[datetime, datetime] | None:
        """Return between which times a counter came to a value; None where it was there before, or is not yet."""
        known = [(minute, at, counters[name]) for minute, at, counters in self._marks if name in counters]
        for (_, looked, low), (minute, _, high) in itertools.pairwise(known):
            if low < value <= high:
                return _begins(min(_minute(looked + LOOKED), minute)), _begins(minute + 1)
        return None


def _minute(at: datetime) -> int:
    return int(at.timestamp() // 60)


def _begins(minute: int) -> datetime:
    return datetime.fromtimestamp(60 * minute, UTC)
