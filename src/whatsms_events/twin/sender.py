"""Sends a world's webhooks as signed POSTs over real HTTP, tries again until each is answered, and keeps a ledger."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Final

import aiohttp
from yarl import URL

from whatsms_events.clock import within
from whatsms_events.domain import signature
from whatsms_events.twin.faults import Demand, Disorder, Dispatch, Faults
from whatsms_events.twin.ledger import Attempt, AttemptOutcome, Ledger, ReceiverAnswer, digest_of, outcome_of
from whatsms_events.twin.world import World

_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 2.0
_TICK_S: Final = 0.005
"""The feed waits at least so long: shorter waits cost more processor time than the smoother rate is worth."""
_CLOCK_TICK_S: Final = 0.05
_ROOM_CHECK_S: Final = 0.1
_ANSWER_LIMIT_BYTES: Final = 65536


class Sender:
    """Sends to one URL over up to `connections` kept connections; without a URL it only counts what it would send.

    `rate` is webhooks per second (None: as fast as it goes); after a pause it catches up. A delivery that got
    429, 5xx or no answer is tried up to `tries` times with growing pauses, or after `Retry-After` (at most
    `retry_after_limit_s`). At most `pending_limit` deliveries are alive at a time: then the world waits. After the end
    of a run they have `drain_s` to be answered.
    """

    def __init__(
        self,
        url: str | None,
        secret: bytes,
        ledger: Ledger,
        *,
        faults: Faults = Faults(),  # noqa: B008 - frozen
        rate: float | None = None,
        connections: int = 8,
        timeout_s: float = 5.0,
        tries: int = 12,
        retry_after_limit_s: float = 5.0,
        drain_s: float = 30.0,
        pending_limit: int = 1000,
        oversized_bytes: int = 5 * 1024 * 1024,
    ) -> None:
        self.ledger = ledger
        self.webhooks = 0
        self.in_flight = 0
        self.pending = 0
        self._url = None if url is None else URL(url)
        self._secret = secret
        self._disorder = Disorder(faults, oversized_bytes=oversized_bytes)
        self._rate = rate
        self._connections = connections
        self._timeout_s = timeout_s
        self._tries = tries
        self._retry_after_limit_s = retry_after_limit_s
        self._drain_s = drain_s
        self._pending_limit = pending_limit
        self._jitter = random.Random(faults.seed)  # noqa: S311 - no secret rests on it
        self._slots = asyncio.Semaphore(connections)
        self._room = asyncio.Event()
        self._idle = asyncio.Event()
        self._over = asyncio.Event()

    def demand(self, kind: Demand, count: int = 1) -> None:
        """Ask for a fault `count` times; it comes with the next webhooks, also while a run is going on."""
        self._disorder.demand(kind, count)

    @property
    def demanded(self) -> Counter[Demand]:
        """The faults that were asked for and have not come yet."""
        return +self._disorder.demands

    @property
    def faults(self) -> Faults:
        """The faults by share; set others at any time, also while a run is going on."""
        return self._disorder.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._disorder.faults = faults

    async def run(
        self,
        world: World,
        stop: asyncio.Event | None = None,
        *,
        seconds: float | None = None,
        limit: int | None = None,
        clock: Callable[[], datetime] | None = None,
    ) -> Ledger:
        """Send the world's webhooks until `stop`, `seconds` or `limit` webhooks; return the ledger when all is settled.

        With a `clock` the world follows that clock, and each webhook is sent when it is due: `rate`, `seconds` and
        `limit` do not count then. May be called again with the same world, which then goes on.
        """
        self._over.clear()
        stop = stop or asyncio.Event()
        feed = self._feed(world, stop, seconds, limit) if clock is None else self._follow(world, stop, clock)
        async with self._session() as session, asyncio.TaskGroup() as tasks:
            async for delivery in feed:
                self.pending += 1
                tasks.create_task(self._deliver(session, delivery))
            self._idle.clear()
            if self.pending:
                await within(self._idle, self._drain_s)
            self._over.set()
        return self.ledger

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections),
            timeout=aiohttp.ClientTimeout(total=self._timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Content-Type": "application/json", "User-Agent": "whatsms-twin"},
        )

    async def _feed(
        self, world: World, stop: asyncio.Event, seconds: float | None, limit: int | None
    ) -> AsyncIterator[Dispatch]:
        clock = asyncio.get_running_loop().time
        started = clock()
        stream = world.webhooks()
        count = 0
        # The bounds are looked at before a webhook is taken: one that was taken and not sent would be lost unrecorded.
        while not stop.is_set() and (limit is None or count < limit):
            now = clock()
            if seconds is not None and now - started >= seconds:
                break
            ahead_s = started + count / self._rate - now if self._rate else 0.0
            if ahead_s > 0:
                await within(stop, max(ahead_s, _TICK_S))
            elif self.pending >= self._pending_limit:
                self._room.clear()
                await within(self._room, _ROOM_CHECK_S)
            else:
                count += 1
                self.webhooks += 1
                for delivery in self._disorder.take(next(stream)):
                    yield delivery
        for delivery in self._disorder.rest():
            yield delivery

    async def _follow(
        self, world: World, stop: asyncio.Event, clock: Callable[[], datetime]
    ) -> AsyncIterator[Dispatch]:
        while not stop.is_set():
            for webhook in world.advance(clock()):
                while self.pending >= self._pending_limit and not stop.is_set():
                    self._room.clear()
                    await within(self._room, _ROOM_CHECK_S)
                self.webhooks += 1
                for delivery in self._disorder.take(webhook):
                    yield delivery
            await within(stop, _CLOCK_TICK_S)
        for delivery in self._disorder.rest():
            yield delivery

    async def _deliver(self, session: aiohttp.ClientSession, delivery: Dispatch) -> None:
        """Send until there is a final answer, the tries are used up, or the drain is over."""
        try:
            if delivery.fault == Demand.DROP:
                self._note(delivery, delivery.body, "dropped")
                return
            if self._url is None:
                self._note(delivery, delivery.body, "unsent")
                return
            if delivery.delay_s:
                await within(self._over, delivery.delay_s)
            for number in range(1, self._tries + 1):
                pause_s = await self._try(session, self._url, delivery, number)
                if pause_s is None or delivery.once:
                    return
                if number < self._tries and await within(self._over, pause_s):
                    break
            self._note(delivery, delivery.again, "given_up")
        finally:
            self.pending -= 1
            if self.pending <= self._pending_limit // 2:
                self._room.set()
            if not self.pending:
                self._idle.set()

    async def _try(self, session: aiohttp.ClientSession, url: URL, delivery: Dispatch, number: int) -> float | None:
        """Send once; return the seconds to wait before the next try, or None where the answer is final."""
        body = delivery.body if number == 1 else delivery.again
        async with self._slots:
            self.in_flight += 1
            sent_at = time.time()
            try:
                if number == 1 and delivery.fault == Demand.CUT:
                    await self._cut(url, body)
                    raise aiohttp.ClientConnectionError("cut on purpose")
                status, retry_after, answer = await self._post(session, url, delivery, body)
            except (aiohttp.ClientError, TimeoutError, OSError) as exc:
                self._note(delivery, body, "error", sent_at=sent_at, number=number, error=type(exc).__name__)
                return self._backoff(number)
            finally:
                self.in_flight -= 1
        outcome, said = outcome_of(status, answer)
        self._note(delivery, body, outcome, sent_at=sent_at, number=number, status=status, said=said)
        if outcome != "unavailable":
            return None
        return self._backoff(number) if retry_after is None else min(retry_after, self._retry_after_limit_s)

    async def _post(
        self, session: aiohttp.ClientSession, url: URL, delivery: Dispatch, body: bytes
    ) -> tuple[int, float | None, bytes]:
        secret = self._secret + b"-wrong" if delivery.fault == Demand.WRONG_SECRET else self._secret
        headers = {signature.HEADER: signature.sign(body, secret)}
        async with session.post(url, data=body, headers=headers, allow_redirects=False) as response:
            if (response.content_length or 0) > _ANSWER_LIMIT_BYTES:
                raise aiohttp.ClientPayloadError("answer too long")
            seconds = response.headers.get("Retry-After", "")
            return response.status, float(seconds) if seconds.isdecimal() else None, await response.read()

    async def _cut(self, url: URL, body: bytes) -> None:
        """Send a request that ends in the middle of its body."""
        head = (
            f"POST {url.raw_path_qs} HTTP/1.1\r\nHost: {url.authority}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            f"{signature.HEADER}: {signature.sign(body, self._secret)}\r\n\r\n"
        )
        async with asyncio.timeout(self._timeout_s):
            _, writer = await asyncio.open_connection(url.host, url.port, ssl=url.scheme == "https" or None)
            try:
                writer.write(head.encode("ascii") + body[: len(body) // 2])
                await writer.drain()
            finally:
                writer.close()
                await writer.wait_closed()

    def _backoff(self, number: int) -> float:
        return min(_FIRST_PAUSE_S * 2.0 ** (number - 1), _LONGEST_PAUSE_S) * self._jitter.uniform(0.5, 1.0)

    def _note(
        self,
        delivery: Dispatch,
        body: bytes,
        outcome: AttemptOutcome,
        *,
        sent_at: float | None = None,
        number: int = 0,
        status: int | None = None,
        said: ReceiverAnswer = ReceiverAnswer(),  # noqa: B008 - frozen
        error: str | None = None,
    ) -> None:
        now = time.time()
        self.ledger.record(
            Attempt(
                sha256=digest_of(body),
                event_type=delivery.event_type,
                outcome=outcome,
                sent_at=now if sent_at is None else sent_at,
                number=number,
                took_s=0.0 if sent_at is None else round(now - sent_at, 6),
                status=status,
                id=said.id,
                position=said.position,
                duplicate=said.duplicate,
                parked=said.parked,
                error=error,
                fault=delivery.fault,
            )
        )
