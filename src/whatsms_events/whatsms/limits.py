"""This module keeps requests within the vendor's rate limits: they leave one by one, never in a burst."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Final

from aiolimiter import AsyncLimiter

from whatsms_events import metrics
from whatsms_events.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Quota:
    """Requests that are counted together, per API key. `method` and `template` are None for all of them."""

    name: str
    per_minute: int
    method: str | None = None
    template: str | None = None

    def counts(self, method: str, template: str) -> bool:
        """Tell whether this quota counts such requests."""
        return self.method in (None, method) and self.template in (None, template)


EVERYTHING: Final = Quota("everything", 300)
QUOTAS: Final = (
    EVERYTHING,
    Quota("messages", 60, "POST", "/tickets/{id}/messages"),
    Quota("campaigns", 10, "POST", "/campaigns"),
)
"""The vendor's page, "Limiti di velocità". It does not say whether the minute is fixed or rolling."""

PAUSE_FIRST_S: Final = 1.0
PAUSE_LIMIT_S: Final = 120.0
PAUSE_UNSAID_S: Final = 15.0
"""The pause after a 429 that names no time: five such pauses are longer than the vendor's minute."""

BUDGET_SHARE: Final = 0.95
CONNECTIONS: Final = 4


def clamp(seconds: float) -> float:
    """Return how long to pause where the vendor asks for so many seconds."""
    return min(max(seconds, PAUSE_FIRST_S), PAUSE_LIMIT_S)


def _smooth(per_minute: int, share: float) -> AsyncLimiter:
    """Return a limiter that lets one request through at a time: with any other numbers, the same rate allows a burst.

    A minute that n intervals fill exactly has n + 1 requests, so the rate is at most the limit less one.
    """
    rate = min(share * per_minute, max(per_minute - 1, per_minute / 2))
    return AsyncLimiter(1, 60 / rate)


class Lane:
    """A smooth rate beside the widest one. A request holds its lane until the widest rate lets it through too.

    Otherwise many could pass the narrow lane, wait together for the widest rate, and leave it as a burst.
    """

    def __init__(self, per_minute: int, share: float) -> None:
        self._limiter = _smooth(per_minute, share)
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> None:
        await self._lock.acquire()
        try:
            await self._limiter.acquire()
        except BaseException:
            self._lock.release()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()


class Budget:
    """What one client, or several together, may use: a few connections, and maybe a rate below that of the key."""

    def __init__(self, per_minute: int | None = None) -> None:
        if per_minute is not None and per_minute < 1:
            raise ConfigError(f"a budget of {per_minute} requests a minute: at least 1 is needed")
        self.lanes = () if per_minute is None else (Lane(per_minute, BUDGET_SHARE),)
        # A connection is taken before the widest rate: requests that waited for one behind it would leave as a burst.
        self.connections = asyncio.Semaphore(CONNECTIONS)


class Limits:
    """The limits of one API key. All clients of the key must share one object; it belongs to one event loop.

    `requests_per_minute` is what the vendor allows the key in all; `share` of each limit is used, since others (an n8n
    node, somebody's script) may use the same key.
    """

    def __init__(self, requests_per_minute: int = EVERYTHING.per_minute, share: float = 0.8) -> None:
        if requests_per_minute < 1 or not 0 < share <= 1:
            raise ConfigError(f"{requests_per_minute} requests a minute, of them {share}: no rate at all")
        self._everything = _smooth(requests_per_minute, share)
        self._narrow = [(quota, Lane(quota.per_minute, share)) for quota in QUOTAS if quota is not EVERYTHING]
        self._open = asyncio.Event()
        self._open.set()
        self._paused_until = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def pause(self, seconds: float) -> None:
        """Let no request through for so long (1 to 120 seconds). A longer pause that is going on stays."""
        loop = asyncio.get_running_loop()
        until = loop.time() + clamp(seconds)
        if until <= self._paused_until:
            return
        self._paused_until = until
        self._open.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(until, self._open.set)

    async def take(self, method: str, template: str, budget: Budget) -> None:
        """Wait until such a request may be sent. One of the budget's connections is then the caller's to give back.

        The narrowest rate comes first and the widest last, at the moment of sending: so the widest one is exact. A
        request in a lane when a pause begins starts again after it: a place kept over the pause would make a burst.
        """
        loop = asyncio.get_running_loop()
        since = loop.time()
        try:
            while True:
                await self._open.wait()
                await self._pass(method, template, budget)
                if self._open.is_set():
                    return
                budget.connections.release()
        finally:
            metrics.UPSTREAM_WAIT.inc(loop.time() - since)

    @asynccontextmanager
    async def turn(self, method: str, template: str, budget: Budget) -> AsyncIterator[None]:
        """Wait until such a request may be sent, and keep one of the budget's connections for it meanwhile."""
        await self.take(method, template, budget)
        try:
            yield
        finally:
            budget.connections.release()

    async def _pass(self, method: str, template: str, budget: Budget) -> None:
        narrow = [lane for quota, lane in self._narrow if quota.counts(method, template)]
        async with AsyncExitStack() as held:
            for lane in (*narrow, *budget.lanes):
                await held.enter_async_context(lane)
            await budget.connections.acquire()
            try:
                await self._everything.acquire()
            except BaseException:
                budget.connections.release()
                raise
