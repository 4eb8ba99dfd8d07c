"""This module adds two things to aiohttp's connections: unparsable bytes are reported, and half-closes are answered.

aiohttp closes a connection as soon as its client has sent everything (a TCP half-close), and answers bytes that are no
request without telling anybody. Both hide faults of senders that only the receiver can show.
"""

import fcntl
import struct
import termios
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import structlog
from aiohttp import web
from aiohttp.http import HttpProcessingError

from whatsms_events.web.framing import Framing, path_of

NO_HEADER: Final = b"\0\r\n\r\n"
"""Bytes that end every unfinished head with a parse error, whatever the parser waits for."""

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
    """One connection, of a `Listener`."""

    __slots__ = ("_answer", "_ended", "_framing", "_on_unparsable", "_request")

    def __init__(
        self,
        server: web.Server,
        *,
        answer: Callable[[int], web.Response],
        on_unparsable: Callable[[Unparsable], None],
        **arguments: Any,
    ) -> None:
        super().__init__(server, **arguments)
        self._answer = answer
        self._on_unparsable = on_unparsable
        self._framing = Framing()
        self._request: web.BaseRequest | None = None  # the one that is being answered
        self._ended = False  # the client sends no more

    @property
    def idle(self) -> bool:
        """Tell whether no request is being read or answered on it."""
        return not self._framing.lines and self._framing.place in ("between", "broken")

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
        for piece in self._framing.feed(data) or (data,):
            super().data_received(piece)
        self._break_off()

    def eof_received(self) -> bool:  # type: ignore[override] # aiohttp returns None, by which asyncio closes at once
        """Go on answering the requests that came whole; refuse an unfinished one at once."""
        if self._ended:
            return True
        self._ended = True
        if self._framing.place == "head":
            super().data_received(NO_HEADER)
        self._break_off()
        self._close_after_the_last()
        return True

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
