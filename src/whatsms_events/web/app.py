"""This module runs the two HTTP servers, and is the one place where an error becomes a status.

Every error is answered as problem+json (RFC 9457). On the public listener the answer has the status and nothing else.
That listener has one handler, and no router, middleware or signal between it and the connection: they take a fifth of
the time of a delivery. The private listener is an application with routes.
"""

import asyncio
import logging
import socket
import traceback
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, Protocol

import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware

from whatsms_events.errors import SignatureError, TransientError, WhatsmsEventsError
from whatsms_events.web.access import Access, guard
from whatsms_events.web.answers import PROBLEM_JSON, SERVER, problem
from whatsms_events.web.connection import Connection, Unparsable
from whatsms_events.web.sockets import BACKLOG, bound, port_of
from whatsms_events.web.whole import Take

KEEPALIVE_S: Final = 75.0
"""Also the longest wait for the headers of a request. Proxies keep their connections for about a minute."""

LINGER_S: Final = 5.0
"""How long the rest of a refused body is read and dropped, so that the sender sees the answer and not a reset."""

CLOSE_S: Final = 1.0
"""How long a stopping server may still write its answers."""

LOOK_S: Final = 0.02
"""How often a stopping server looks at its connections."""

STATUSES: Final[tuple[tuple[type[WhatsmsEventsError], int], ...]] = ((SignatureError, 401), (TransientError, 503))
"""Class of error -> status; what is not here is our fault: 500."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
"""What a route of an application calls."""

Answering = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
"""What answers every request of a listener without routes."""

log = structlog.get_logger()


class Routes(Protocol):
    """A set of routes: the read API, the probes."""

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the routes to mount."""


def private_app(access: Access, *parts: Routes, dress: Middleware | None = None) -> web.Application:
    """Return what operators and probes reach. Where two routes fit, the one that is given first answers.

    `dress` stands around everything: it makes pages for people of what is refused.
    """
    around: list[Middleware] = [] if dress is None else [dress]
    app = web.Application(middlewares=[*around, _errors_to_statuses, guard(access)])
    app.on_response_prepare.append(_sign_off)
    for part in parts:
        app.add_routes(part.routes())
    return app


@web.middleware
async def _errors_to_statuses(request: web.Request, handler: Handler) -> web.StreamResponse:
    return await _answered(handler(request), request)


async def _answered(handling: Awaitable[web.StreamResponse], request: web.BaseRequest) -> web.StreamResponse:
    """Return the answer, or the one for the error that came instead."""
    try:
        return await handling
    except web.HTTPException as exc:
        if exc.status < 400 or exc.content_type == PROBLEM_JSON:
            raise
        answer = problem(exc.status)
        if hdrs.ALLOW in exc.headers:
            answer.headers[hdrs.ALLOW] = exc.headers[hdrs.ALLOW]
    except Exception as exc:  # noqa: BLE001 - the outermost edge: whatever it is, the sender is told to come again
        answer = problem(_status_of(exc, request))
    if not request.content.is_eof():
        answer.force_close()  # the rest of the body would be read as the next request
    return answer


def _status_of(exc: Exception, request: web.BaseRequest | None = None) -> int:
    """Return the status of an error, and report one that is our fault."""
    status = next((status for kind, status in STATUSES if isinstance(exc, kind)), 500)
    if status == 500:
        _report(request, exc)
    return status


def _report(request: web.BaseRequest | None, exc: BaseException) -> None:
    """Log what went wrong and where: a message or a traceback could hold what a person wrote."""
    resource = request.match_info.route.resource if isinstance(request, web.Request) else None
    ours = [f"{frame.f_globals.get('__name__')}:{line}" for frame, line in traceback.walk_tb(exc.__traceback__)]
    log.error(
        "request.failed",
        error=type(exc).__name__,
        place=ours[-1] if ours else None,
        path=resource.canonical if resource else None,
    )


async def _sign_off(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers[hdrs.SERVER] = SERVER  # aiohttp would name itself, Python, and both versions


class Listener:
    """A server on one address, of an application or of one handler that answers everything.

    `on_unparsable` is told of what cannot be parsed, and so reaches no handler. `take` is offered what came whole.
    """

    def __init__(
        self,
        answers: web.Application | Answering,
        *,
        on_unparsable: Callable[[Unparsable], None] = lambda _found: None,
        take: Take | None = None,
        keepalive_s: float = KEEPALIVE_S,
    ) -> None:
        self._answers = answers
        self._take = take
        self._keepalive_s = keepalive_s
        self._on_unparsable = on_unparsable
        self._stopping = False
        self._runner: web.BaseRunner | None = None
        self._servers: list[asyncio.Server] = []
        self.sockets: Sequence[socket.socket] = ()
        self.port = 0

    async def start(self, host: str, port: int) -> str:
        """Listen and answer, and return the URL; port 0 takes a free one, also told as `port`.

        Raise OSError where it is taken.
        """
        url = await self.listen(await bound(host, port), host)
        await self.accept()
        return url

    async def listen(self, sockets: Sequence[socket.socket], host: str | None = None) -> str:
        """Let the kernel take connections into its queue, and return the URL; nothing is answered before `accept`."""
        self._runner = self._make_runner()
        await self._runner.setup()
        connections = self._runner.server
        assert connections is not None  # noqa: S101 - set up above
        loop = asyncio.get_running_loop()
        protocol: Callable[[], Any] = partial(
            Connection,
            connections,
            answer=problem,
            on_unparsable=self._on_unparsable,
            take=self._take,
            status_of=_status_of,
            stopping=lambda: self._stopping,
            loop=loop,
            access_log=None,  # off: it costs as much as the request, and metrics count
            logger=_quiet_logger(),
            keepalive_timeout=self._keepalive_s,
            lingering_time=LINGER_S,
            auto_decompress=False,  # signatures are of the bytes on the wire
        )
        try:
            for one in sockets:
                one.listen(BACKLOG)
                server = await loop.create_server(protocol, sock=one, backlog=BACKLOG, start_serving=False)
                self._servers.append(server)
        except OSError:
            for one in sockets:
                one.close()
            await self._runner.cleanup()
            raise
        self.sockets, self.port = sockets, port_of(sockets[0])
        host = host or sockets[0].getsockname()[0]
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    async def accept(self) -> None:
        """Answer what comes, and what waits in the kernel's queue. Nothing happens where this was said before."""
        for server in self._servers:
            await server.start_serving()

    def turn_away(self) -> None:
        """Accept no more. Where another process has the sockets too, connections go on coming to that one."""
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()

    async def stop(self, drain_s: float, *, leave_s: float = 0.0, idle_s: float = 0.0) -> None:
        """Go on for `leave_s`, then accept no more, wait for the requests under way, at most `drain_s`, and close.

        From the beginning each answer ends its connection. One on which no request is under way gets `idle_s` for that:
        it may just have been accepted, or its next request be on its way.
        """
        if self._runner is None:
            return
        self._stopping = True
        opened: dict[Connection, float] = {}
        end = asyncio.get_running_loop().time() + leave_s
        while asyncio.get_running_loop().time() < end:
            self._close_idle(opened, idle_s)
            await asyncio.sleep(LOOK_S)
        self.turn_away()
        connections = self._runner.server
        if connections is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(drain_s):
                    while self._close_idle(opened, idle_s):  # noqa: ASYNC110 - nobody tells that one was idle long
                        await asyncio.sleep(LOOK_S)
            connections.pre_shutdown()
            await connections.shutdown(CLOSE_S)
        await self._runner.cleanup()

    def _close_idle(self, opened: dict[Connection, float], idle_s: float) -> int:
        """Close each connection that has had its time without a request, and return how many are left.

        None is closed that is read from: after aiohttp's close nothing is, so a body under way would never end. Nor one
        whose next request the kernel has already. So only a request that crosses our close on the network is lost to
        its sender. `opened` has since when each connection was looked at: a request in between would have ended it.
        """
        left, now = 0, asyncio.get_running_loop().time()
        connections = self._runner.server.connections if self._runner and self._runner.server else []
        for connection in connections:
            if not isinstance(connection, Connection):
                continue
            if connection.idle and now - opened.setdefault(connection, now) >= idle_s and not connection.unread:
                connection.force_close()
            else:
                left += 1
        return left

    def _make_runner(self) -> web.BaseRunner:
        answers = self._answers
        if isinstance(answers, web.Application):

            @web.middleware
            async def outermost(request: web.Request, handler: Handler) -> web.StreamResponse:
                return await self._serve(request, handler(request))

            answers.middlewares.insert(0, outermost)
            return web.AppRunner(answers, access_log=None)

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            return await self._serve(request, _answered(answers(request), request))

        return web.ServerRunner(web.Server(handle))

    async def _serve(self, request: web.BaseRequest, handling: Awaitable[web.StreamResponse]) -> web.StreamResponse:
        """Note which request is answered; once the server stops, each answer ends its connection."""
        if isinstance(request.protocol, Connection):
            request.protocol.begin(request)
        response = await handling
        if self._stopping:
            response.force_close()
        return response


class _Failures(logging.Handler):
    """What aiohttp logs by itself carries tracebacks, and with them values: only the kind of error gets out."""

    def emit(self, record: logging.LogRecord) -> None:
        """Pass on that something failed outside every handler."""
        kind = record.exc_info[0] if record.exc_info else None
        log.error("http.failed", error=kind.__name__ if kind else None)


def _quiet_logger() -> logging.Logger:
    quiet = logging.getLogger(__name__)
    quiet.propagate = False
    quiet.setLevel(logging.WARNING)
    quiet.handlers = [_Failures()]
    return quiet
