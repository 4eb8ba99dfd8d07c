"""The vendor's three nested rate limits of one API key, in sliding windows."""

import math
from collections import deque
from dataclasses import dataclass
from typing import Final

SENDING: Final = ("POST", "/tickets/{id}/messages")
CAMPAIGNS: Final = ("POST", "/campaigns")


@dataclass(frozen=True, slots=True)
class RestLimits:
    """How many requests of each scope are answered in any `window_s`; the defaults are the vendor's."""

    requests: int = 300
    messages: int = 60
    campaigns: int = 10
    window_s: float = 60.0


class Windows:
    """What was answered lately. A refused request does not count, so that a client in a storm gets out of it."""

    def __init__(self, limits: RestLimits) -> None:
        self.limits = limits
        self._every: deque[float] = deque()
        self._narrow: dict[tuple[str, str], deque[float]] = {SENDING: deque(), CAMPAIGNS: deque()}

    def take(self, method: str, template: str, now: float) -> int:
        """Count a request and return 0, or return the whole seconds until there is room for it; `now` in seconds."""
        scopes = [(self._every, self.limits.requests)]
        if (narrow := self._narrow.get((method, template))) is not None:
            limit = self.limits.messages if (method, template) == SENDING else self.limits.campaigns
            scopes.append((narrow, limit))
        wait_s = max(self._wait(times, limit, now) for times, limit in scopes)
        if wait_s > 0:
            return max(1, math.ceil(wait_s))
        for times, _ in scopes:
            times.append(now)
        return 0

    def _wait(self, times: deque[float], limit: int, now: float) -> float:
        while times and now - times[0] >= self.limits.window_s:
            times.popleft()
        if len(times) < limit:
            return 0.0
        return times[-limit] + self.limits.window_s - now if limit else self.limits.window_s
