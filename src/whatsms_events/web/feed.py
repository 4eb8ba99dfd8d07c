"""`/api/v1/stream`: the log's events as they come, in its order, for readers without Kafka (Server-Sent Events).

A reader that comes again with the id of the last event it had (`Last-Event-ID`) skips nothing and meets nothing twice.
It is sent as much as it takes: what it does not take waits in the log and not in memory, but for about 128 KiB of
each reader, and what `behind` lets all of them hold of large events together. One that takes nothing for `stall_s` is
cut off, so that its place is free for another one.

The answers are plain ones of aiohttp's. The library aiohttp-sse encodes each event anew for each reader and has a task
that pings each of them; here the same bytes go to all readers, and one loop wakes them (`tail`).
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
import structlog
from aiohttp import hdrs, web

from whatsms_events import metrics
from whatsms_events.domain.events import EventType
from whatsms_events.domain.feed import BEAT, Place, last_words, place_of, progress, rest_of_block
from whatsms_events.errors import StorageUnavailableError
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.reads import Queries, RowView
from whatsms_events.web.access import NamedToken, holder
from whatsms_events.web.behind import HeldPieces
from whatsms_events.web.connection import Connection
from whatsms_events.web.hiding import hidden_event, may_see, showed
from whatsms_events.web.questions import (
    HEADERS,
    TOP,
    bad,
    busy,
    not_found,
    one_of,
    parameters,
)
from whatsms_events.web.tail import BEAT_S, PAGE, PAGE_BYTES, REST, REST_LIMIT_S, FeedFilter, FeedPiece, Tail
from whatsms_events.web.views import of_tenant

READERS: Final = 500
STALL_S: Final = 30.0
CLOSE_S: Final = 5.0
"""How long a reader that is cut off may take its last bytes."""

PIECE_BYTES: Final = 64 * 1024
"""Written at a time, so that a large event is not held by each reader's connection as a whole."""

LARGE: Final = 128 * 1024
"""A piece that is larger is held by readers together, see `behind`."""

BEHIND_BYTES: Final = 32 * 1024 * 1024
"""So much all readers together hold of large pieces: half a dozen of the largest events, each for many readers."""

PATIENCE_S: Final = 5.0
"""How long a reader waits for room for a large piece before a slower one is cut off."""

PLACES: Final = 3
"""Questions that the feed asks the log at a time: its loop, one reader that is behind, one that begins."""

RETRY: Final = b"retry: 3000\n\n"
"""Tells a browser to come again after three seconds; also the first bytes, which show that the feed is open."""

Reason = Literal["left", "stalled", "slow", "stopping", "settings", "session", "restored", "unavailable"]
_WORDS: Final[Mapping[Reason, str]] = {
    "stalled": "you have taken nothing for too long",
    "slow": "you take a large event slowly, and others wait for its room",
    "stopping": "this process stops",
    "settings": "the token or the tenants have changed",
    "session": "the session is over: sign in again",
    "restored": "the log was restored from an older copy: what you have may not be what it holds",
    "unavailable": "the database is away",
}
LAST_EVENT_ID: Final = "Last-Event-ID"
_TYPES: Final = {str(one): str(one) for one in EventType}

log = structlog.get_logger()


class OpenFeed:
    """One open feed: how far it is, and what it waits for."""

    def __init__(
        self, request: web.Request, response: web.StreamResponse, wanted: FeedFilter, place: Place, stall_s: float
    ) -> None:
        self.name = holder(request).name
        """The name of the token that opened it."""
        self._until = holder(request).until
        self._request = request
        self.response = response
        self.wanted = wanted
        self.place = place
        self.told = place
        """The place that the reader knows of."""
        self.written_at = time.monotonic()
        self.unwritten = b""
        """The rest of the block that was being written when the reader stalled."""
        self.ended: asyncio.Future[Reason] = asyncio.get_running_loop().create_future()
        self._stall_s = stall_s
        self._cut = False
        self._writing: asyncio.Timeout | None = None

    def left(self) -> bool:
        """Tell whether the reader has gone, as far as the kernel knows: nothing has to be written to find out."""
        transport, protocol = self._request.transport, self._request.protocol
        ended = isinstance(protocol, Connection) and protocol.ended
        return transport is None or transport.is_closing() or ended

    def over(self, now: float) -> bool:
        """Tell whether the session has ended in which it was opened; `now` in seconds since 1970."""
        return self._until is not None and now >= self._until

    def end(self, reason: Reason) -> None:
        """Let the feed end when what is being written is written; the first reason counts."""
        if not self.ended.done():
            self.ended.set_result(reason)

    def cut_off(self) -> None:
        """Let the feed end also in the middle of what is being written: others wait for the room that it takes."""
        self._cut = True
        self.end("slow")
        if self._writing is not None and not self._writing.expired():
            self._writing.reschedule(asyncio.get_running_loop().time())

    async def write(self, data: bytes) -> None:
        """Write piece by piece, each within the time for a stall; where that fails, the feed ends."""
        view = memoryview(data)
        try:
            while view and not self._cut:
                piece, view = view[:PIECE_BYTES], view[PIECE_BYTES:]
                async with asyncio.timeout(self._stall_s) as self._writing:
                    await self.response.write(piece)
        except TimeoutError:
            self.end("stalled")
        except ConnectionError:
            self.end("left")
        finally:
            self._writing = None
        if view:  # of what is too long to be told, no more than shows that
            self.unwritten = rest_of_block(bytes(view[: PIECE_BYTES + 1]))
        self.written_at = time.monotonic()

    async def take(self, taken: FeedPiece) -> None:
        """Write what was taken and note the place; one behind what the data names is told with the next beat."""
        if taken.data:
            await self.write(taken.data)
            self.told = taken.told
        self.place = taken.place

    async def beat(self) -> None:
        """Show that we are still here, and how far the reader is where its filter left out what came."""
        await self.write(BEAT if self.told == self.place else progress(self.place))
        self.told = self.place


class Feed:
    """The feed and all who read it. `tenants` maps each slug to its tenant id; `tokens` are those of the listener.

    `run` is to run beside it: without it readers are told nothing new.
    """

    def __init__(
        self,
        queries: Queries,
        event_log: EventLog,
        tenants: Mapping[str, str],
        tokens: Sequence[NamedToken],
        *,
        readers_limit: int = READERS,
        stall_s: float = STALL_S,
        close_s: float = CLOSE_S,
        beat_s: float = BEAT_S,
        behind_bytes: int = BEHIND_BYTES,
        patience_s: float = PATIENCE_S,
        tail: Tail | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._queries = queries
        self._log = event_log
        self._know(tenants, tokens)
        self._limit = readers_limit
        self._stall_s, self._close_s, self._beat_s = stall_s, close_s, beat_s
        self._readers: set[OpenFeed] = set()
        self._coming = 0
        self._closed = False
        self._tail = tail or Tail(queries, self._shown, on_restored=self._restored, beat_s=beat_s)
        self._behind = HeldPieces(behind_bytes, patience_s)
        self._reading = asyncio.Lock()
        self._rest_until = 0.0
        self._clock = clock

    def _know(self, tenants: Mapping[str, str], tokens: Sequence[NamedToken]) -> None:
        self._tenants = tenants
        self._slugs = {tenant_id: slug for slug, tenant_id in tenants.items()}
        self._tokens = {one.name: one for one in tokens}

    def change(self, tenants: Mapping[str, str], tokens: Sequence[NamedToken]) -> None:
        """Know these tenants and tokens from now on. The feeds that were opened with a token that has gone end.

        Where tenants have changed all end, since rows are shown in another way.
        """
        slugs, known = self._slugs, self._tokens
        self._know(tenants, tokens)
        if slugs != self._slugs:
            self._tail.forget()
        everybody = slugs != self._slugs or bool(known) != bool(self._tokens)
        for reader in self._readers:
            if everybody or known.get(reader.name) != self._tokens.get(reader.name):
                reader.end("settings")
        self._tail.wake()

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the one route."""
        return [web.get("/api/v1/stream", self._stream, allow_head=False)]  # a HEAD would wait for ever

    async def run(self) -> None:
        """Show readers what is new, until `stop`."""
        await self._tail.run()

    def stop(self) -> None:
        """End every feed, and begin none any more: the process stops."""
        self._closed = True
        self._end("stopping")
        self._tail.stop()

    def _restored(self) -> None:
        log.error("feed.restored")
        self._end("restored")

    def _end(self, reason: Reason) -> None:
        for reader in self._readers:
            reader.end(reason)
        self._tail.wake()

    def _shown(self, row: RowView, personal: bool) -> RowView:
        shown = of_tenant(row, self._slugs)
        return shown if personal else hidden_event(shown)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        asked = parameters(request, "after", "tenant", "type", "ticket")
        wanted = FeedFilter(
            tenant=self._tenant(asked["tenant"]) if "tenant" in asked else None,
            event_type=one_of(asked, "type", _TYPES),
            ticket=asked.get("ticket"),
            personal=may_see(request),
        )
        place, name = _begin(request, asked)
        if self._closed or self._count() + self._coming >= self._limit:
            metrics.FEED_ENDED.labels("stopping" if self._closed else "full").inc()
            raise busy("this process stops" if self._closed else "as many read the feed as may")
        self._coming += 1
        try:
            await self._check(place, name)
            response = await self._opened(request)
        finally:
            self._coming -= 1
        showed(request, "feed", place.position)
        return await self._serve(request, OpenFeed(request, response, wanted, place, self._stall_s))

    def _count(self) -> int:
        """Return how many read; where that is as many as may, those who have gone make room."""
        if len(self._readers) + self._coming >= self._limit:
            for reader in self._readers:
                if reader.left():
                    reader.end("left")
            self._tail.wake()
        return sum(not reader.ended.done() for reader in self._readers)

    def _tenant(self, slug: str) -> str:
        if slug not in self._tenants:
            raise not_found()
        return self._tenants[slug]

    async def _check(self, place: Place, name: str) -> None:
        """Raise 400 for a place that the log does not have, or where it holds another event than the reader had."""
        async with self._queries.turn():
            end = await self._log.end()
            held = await self._log.ids_at([place.position]) if place.event_id is not None else {}
        if place.position > end:
            raise bad(name, f"is past the end of the log, {end}")
        if not place.fits(held.get(place.position)):
            raise bad(name, "is not in this log: it was restored from an older copy, or it is another log")

    async def _opened(self, request: web.Request) -> web.StreamResponse:
        # Proxies must not wait until they have a buffer full (nginx knows the second header).
        headers = {**HEADERS, hdrs.CONTENT_TYPE: "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
        response = web.StreamResponse(headers=headers)
        response.force_close()
        await response.prepare(request)
        return response

    async def _serve(self, request: web.Request, reader: OpenFeed) -> web.StreamResponse:
        """Send the reader what it wants until one of us ends, and say why."""
        self._readers.add(reader)
        metrics.FEED_READERS.set(len(self._readers))
        self._tail.begin()
        try:
            reason = await self._follow(reader)
            metrics.FEED_ENDED.labels(reason).inc()
            if reason != "left":
                await self._close(request, reader, reason)
        finally:
            self._readers.discard(reader)
            metrics.FEED_READERS.set(len(self._readers))
            if not self._readers:
                self._tail.rest()
        return reader.response

    async def _follow(self, reader: OpenFeed) -> Reason:
        if self._closed:
            reader.end("stopping")
        await reader.write(RETRY)
        while not reader.ended.done():
            try:
                await self._go_on(reader)
            finally:
                self._behind.let_go(reader)
        return reader.ended.result()

    async def _go_on(self, reader: OpenFeed) -> None:
        """Send the reader what is next, or wait until there is something."""
        taken = self._tail.take(reader.place, reader.wanted)
        if taken is None or len(taken.data) > LARGE:
            taken = await self._in_turn(reader, taken)
        if reader.over(self._clock()):
            reader.end("session")
        elif taken is not None and taken.place != reader.place:
            await reader.take(taken)
        elif not reader.ended.done():
            await self._tail.moved()
            # The loop wakes all once in a beat; half of one ago, so that none is left out by an instant.
            if time.monotonic() - reader.written_at >= self._beat_s / 2:
                await reader.beat()

    async def _in_turn(self, reader: OpenFeed, taken: FeedPiece | None) -> FeedPiece | None:
        """Return what a reader gets that is behind, or takes something large, once there is room for it.

        Return None where its feed is to end.
        """
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(self._next(reader, taken))
            either: tuple[asyncio.Future[Any], ...] = (reading, reader.ended)
            while not any(one.done() for one in either):
                await asyncio.wait(either, timeout=self._beat_s, return_when=asyncio.FIRST_COMPLETED)
                if not reading.done():
                    await reader.beat()
            if not reading.done():
                reading.cancel()
        return None if reading.cancelled() else reading.result()

    async def _next(self, reader: OpenFeed, taken: FeedPiece | None) -> FeedPiece | None:
        """Return what was taken of the ring, else what others hold of the same, else a page of the log.

        Who reads the log waits for room before the next one reads: so one piece alone waits in memory.
        """
        key = reader.place, reader.wanted, self._tail.emptied
        if taken is not None:
            await self._behind.hold(taken, key, reader)
            return taken
        async with self._reading:
            found = self._behind.shared(key) or await self._read(reader)
            if found is not None and len(found.data) > LARGE:
                await self._behind.hold(found, key, reader)
            return found

    async def _read(self, reader: OpenFeed) -> FeedPiece | None:
        """Read a page of the log. One reader at a time does, and the next one waits for a multiple of what it took."""
        wanted = reader.wanted
        await asyncio.sleep(max(0.0, self._rest_until - time.monotonic()))  # as the loop rests, see `tail`
        begun = time.monotonic()
        try:
            page = await self._queries.events(
                after=reader.place.position,
                limit=PAGE,
                tenant=wanted.tenant,
                event_type=wanted.event_type,
                ticket=wanted.ticket,
                text_limit=PAGE_BYTES,
                name_after=True,
            )
        except StorageUnavailableError:
            reader.end("unavailable")
            return None
        if page.end < reader.place.position or not reader.place.fits(page.after_id):
            reader.end("restored")
            return None
        taken = self._tail.page(page, reader.place, wanted)
        worked_s = time.monotonic() - begun
        self._rest_until = time.monotonic() + min(REST_LIMIT_S, REST * worked_s)
        return taken

    async def _close(self, request: web.Request, reader: OpenFeed, reason: Reason) -> None:
        """Say why the feed ends. A reader that does not take even this, or half of a large event, is left without."""
        if reason in ("stalled", "slow"):
            log.warning("feed.cut_off", reason=reason)
        words = last_words(msgspec.json.encode({"reason": reason, "detail": _WORDS[reason]}))
        last = reader.unwritten + words if len(reader.unwritten) <= PIECE_BYTES else b""
        try:
            async with asyncio.timeout(self._close_s):
                await reader.response.write_eof(last)
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
        except ConnectionError:
            pass  # it has left meanwhile, and its connection with it


def _begin(request: web.Request, asked: Mapping[str, str]) -> tuple[Place, str]:
    """Return where a reader begins, and what told so: the last event that it had, else the place it names."""
    given = request.headers.getall(LAST_EVENT_ID, [])
    if len(given) > 1:
        raise bad(LAST_EVENT_ID, "is given twice")
    last = "".join(given)
    if not last:
        place = place_of(asked.get("after", "0"))
        if place is None or place.position > TOP:
            raise bad("after", "is neither a position of the log nor the id of a block of this feed")
        return place, "after"
    place = place_of(last)
    if place is None or place.position > TOP:
        raise bad(LAST_EVENT_ID, "is no id of an event of this feed")
    return place, LAST_EVENT_ID
