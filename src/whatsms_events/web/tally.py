"""Counting of deliveries, once for all that are answered in one turn of the event loop: those of a whole commit."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache

from whatsms_events import metrics
from whatsms_events.storage.log.commit import Outcome
from whatsms_events.web.senders import TenantSender

# `labels` takes longer than all the counting. The sets are closed, so the cache is small.
delivered = cache(metrics.DELIVERIES.labels)


class Tally:
    """What was answered in this turn of the event loop. It reaches the metrics and the senders in the next one."""

    def __init__(self, senders: Mapping[str, TenantSender], now: Callable[[], datetime]) -> None:
        self._senders = senders
        self._now = now
        self._outcomes = Counter[tuple[str, str]]()
        self._seconds: list[float] = []
        self._committed: defaultdict[str, list[Outcome]] = defaultdict(list)

    def add(self, slug: str, outcome: str, seconds: float) -> None:
        """Count a request that was answered, or refused, after so many seconds."""
        if not self._seconds:
            asyncio.get_running_loop().call_soon(self._tell)
        self._seconds.append(seconds)
        self._outcomes[slug, outcome] += 1

    def committed(self, slug: str, outcome: Outcome) -> None:
        """Let the tenant's sender know of a delivery that was committed; call `add` in the same turn."""
        self._committed[slug].append(outcome)

    def _tell(self) -> None:
        counted, took, committed = self._outcomes, self._seconds, self._committed
        self._outcomes, self._seconds, self._committed = Counter(), [], defaultdict(list)
        for (slug, outcome), count in counted.items():
            delivered(slug, outcome).inc(count)
        metrics.DELIVERY_SECONDS.observe_all(took)
        for slug, outcomes in committed.items():
            self._senders[slug].committed(outcomes, self._now())
