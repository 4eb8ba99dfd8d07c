"""This module does for a connection what aiohttp does not.

aiohttp closes a connection as soon as its client has sent everything (a TCP half-close), and answers bytes that are no
request without telling anybody: here half-closes are answered, and unparsable bytes are reported.

Deliveries that came whole go past aiohttp: `take` gets them, and their answers are written to the transport. aiohttp
knows nothing of such a request, so it is idle meanwhile. Therefore only one is taken at a time, on a connection on
which aiohttp has nothing to answer; what comes behind it waits for its answer. And the time after which an idle
connection is closed is kept here.
"""

import asyncio
import fcntl
import struct
import termios
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import structlog
from aiohttp import web
from aiohttp.http import HttpProcessingError

from whatsms_events.web.answers import CLOSE, on_wire, problem_on_wire
from whatsms_events.web.framing import Framing, path_of
from whatsms_events.web.whole import Replied, Take, Whole, read

NO_HEADER: Final = b"\0\r\n\r\n"
"""Bytes that end every unfinished head with a parse error, whatever the parser waits for."""

HELD_LIMIT_BYTES: Final = 64 * 1024
"""So much is read behind a delivery that was taken. To close over what nobody read would take its answer away."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Unparsable:
    """Bytes that are no request. `path` is what they ask for, None where that cannot be read.

    `behind` is the path of the request before them on the connection, None where they came first. `error` is a class
    of aiohttp's, or of ours.
    """

    path: str | None
    behind: str | None
    error: str


class Connection(web.RequestHandler):
    """One connection, of a `Listener`. `status_of` is asked for the status of an error, `stopping` at each answer."""

    __slots__ = (
        *("_answer", "_ended", "_framing", "_held", "_idle_since", "_last_answer", "_on_unparsable", "_request"),
        *("_status_of", "_stopping", "_take", "_timer", "_whole"),
    )

    def __init__(
        self,
        server: web.Server,
        *,
        answer: Callable[[int], web.Response],
        on_unparsable: Callable[[Unparsable], None],
        take: Take | None,
        status_of: Callable[[Exception], int],
        stopping: Callable[[], bool],
        **arguments: Any,
    ) -> None:
        super().__init__(server, **arguments)
        self._take = take
        self._status_of = status_of
        self._stopping = stopping
        self._whole: Whole | None = None  # the delivery that was taken, until it is answered
        self._held = b""  # what came behind it
        self._last_answer: asyncio.Future[None] | None = None  # who waits for its answer, to close
        self._timer: asyncio.TimerHandle | None = None
        self._idle_since = 0.0
        self._answer = answer
        self._on_unparsable = on_unparsable
        self._framing = Framing()
        self._request: web.BaseRequest | None = None  # the one that is being answered
        self._ended = False  # the client sends no more

    @property
    def idle(self) -> bool:
        """Tell whether no request is being read or answered on it."""
        return not self._framing.lines and self._framing.place in ("between", "broken") and not self._held

    @property
    def unread(self) -> bool:
        """Tell whether bytes have come that nobody has read yet: the beginning of a request."""
        wire = None if self.transport is None else self.transport.get_extra_info("socket")
        if wire is None or wire.fileno() < 0:
            return False
        (count,) = struct.unpack("i", fcntl.ioctl(wire.fileno(), termios.FIONREAD, struct.pack("i", 0)))
        return bool(count)

    @property
    def ended(self) -> bool:
        """Tell whether the client sends no more. It may still read, but who reads without an end has left."""
        return self._ended

    def begin(self, request: web.BaseRequest) -> None:
        """Note which request is answered now."""
        self._request = request
        self._break_off()

    def data_received(self, data: bytes) -> None:
        """Parse what came, request by request: aiohttp forgets those that came with bytes it refuses."""
        if self._framing.place == "broken":
            return
        if self._whole is not None or self._held:
            self._hold(data)
            return
        if self._take is not None and self._framing.rests and self._is_taken(self._take, data):
            return
        for piece in self._framing.feed(data) or (data,):
            super().data_received(piece)
        self._break_off()

    def _is_taken(self, take: Take, data: bytes) -> bool:
        """Tell whether this is a delivery that came whole, and was taken."""
        if self.transport is None or self.writing_paused:
            return False
        whole = read(data)
        if whole is None:
            return False
        self._whole = whole
        if not take(whole, self._tell):
            self._whole = None
            return False
        self._framing.begin(whole.line)
        self.keep_alive(True)  # stops aiohttp's timer, which knows nothing of this request
        self._close_in_time()
        return True

    def _tell(self, told: Replied | Exception) -> None:
        """Write the answer to the delivery that was taken."""
        whole, self._whole = self._whole, None
        self._framing.answered()
        self._idle_since = asyncio.get_running_loop().time()
        if self._last_answer is not None and not self._last_answer.done():
            self._last_answer.set_result(None)
        if whole is None or self.transport is None or self.transport.is_closing():
            return
        closes = whole.closes or self._stopping() or (self._ended and not self._held)
        connection = CLOSE if closes else ""
        if isinstance(told, Exception):
            self.transport.write(problem_on_wire(self._status_of(told), connection=connection))
        else:
            self.transport.write(on_wire(*told, connection=connection))
        if closes:
            self.force_close()  # what is written is still sent
        elif self._held:
            asyncio.get_running_loop().call_soon(self._go_on)  # whoever tells may be walking through its queue

    def _hold(self, data: bytes) -> None:
        """Keep what came too early; read no more where it is much."""
        self._held += data
        if self.transport is not None and len(self._held) > HELD_LIMIT_BYTES:
            self.transport.pause_reading()

    def _go_on(self) -> None:
        """Read what came too early, and go on reading."""
        held, self._held = self._held, b""
        if self.transport is not None:
            self.transport.resume_reading()
            self.data_received(held)
            if self._ended:
                self._end()

    def _close_in_time(self) -> None:
        """Close the connection once it has been idle for as long as aiohttp would leave it."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self.keepalive_timeout, self._look)

    def _look(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        end = self._idle_since + self.keepalive_timeout
        if self._whole is not None or self._request is not None:
            self._close_in_time()
        elif loop.time() < end:
            self._timer = loop.call_at(end, self._look)
        else:
            self.force_close()

    def close(self) -> None:
        """Take no more, and close once what is under way is answered."""
        self._take = None
        super().close()

    async def shutdown(self, timeout: float | None = 15.0) -> None:
        """Close, and wait before that for the delivery that was taken, as aiohttp does for its own requests."""
        if self._whole is not None:
            self._last_answer = asyncio.get_running_loop().create_future()
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._last_answer
        await super().shutdown(timeout)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget what was held; a delivery that was taken is committed nevertheless."""
        self._take, self._held = None, b""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override] # aiohttp returns None, by which asyncio closes at once
        """Go on answering the requests that came whole; refuse an unfinished one at once."""
        if self._ended:
            return True
        self._ended = True
        if not self._held:
            self._end()
        return True

    def _end(self) -> None:
        """Refuse what is unfinished, since its rest will never come; close where nothing is left to answer."""
        if self._framing.place == "head":
            super().data_received(NO_HEADER)
        self._break_off()
        self._close_after_the_last()

    def _break_off(self) -> None:
        """Fail the body that is being read where its rest will never come."""
        framing, request = self._framing, self._request
        endless = framing.place == "broken" or (self._ended and framing.place in ("body", "chunk"))
        if endless and request is not None and len(framing.lines) == 1 and not request.content.is_eof():
            request.content.set_exception(web.RequestPayloadError("the body ends too early, or its chunks are none"))

    def _close_after_the_last(self) -> None:
        if self._ended and not self._framing.lines and self._framing.place != "head":
            self.force_close()  # what is written is still sent

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer; the last one to a client that sends no more ends the connection."""
        if self._ended and len(self._framing.lines) <= 1:
            resp.force_close()
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self._framing.answered()
            self._idle_since = asyncio.get_running_loop().time()
            if self._request is request:
                self._request = None
            if request.content.exception() is not None:
                request.content.feed_eof()  # or aiohttp would wait for the rest of the body, and report the error again
            self._close_after_the_last()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it quotes what was sent
    ) -> web.StreamResponse:
        """Answer for an error outside every route; close the connection.

        Bytes behind a request that are no next request are mostly the rest of its body: the sender counted characters
        for `Content-Length`. They get no answer, since the sender would take it for the answer to its next request.
        Raise ConnectionError for them, which makes aiohttp close.
        """
        if exc is not None:
            exc.with_traceback(None)  # it and its frames hold each other, and with them what was read
        if isinstance(exc, ConnectionError):
            raise exc  # raised below: aiohttp asks for an answer to each error
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun")
        if isinstance(exc, HttpProcessingError):
            found = Unparsable(path_of(self._framing.begun()), path_of(self._framing.last), type(exc).__name__)
            self._on_unparsable(found)
            if found.path is None and found.behind is not None:
                raise ConnectionAbortedError("no request")
        else:
            log.debug("http.refused", status=status, error=type(exc).__name__)
        answer = self._answer(status)
        answer.force_close()
        return answer
