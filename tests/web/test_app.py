"""Errors become statuses in one place, and listeners start and stop, over real HTTP."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
import structlog
from aiohttp import web

from web.listener import asking
from whatsms_events.errors import (
    BrokerUnavailableError,
    IntegrityError,
    OverloadedError,
    SignatureError,
    StorageUnavailableError,
)
from whatsms_events.web.app import Answering, Listener, private_app
from whatsms_events.web.sockets import bound

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

BOTH_LOOPS = True


class Parts:
    """Routes of one handler."""

    def __init__(self, path: str, handler: Handler) -> None:
        self._path = path
        self._handler = handler

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the one route."""
        return [web.get(self._path, self._handler), web.post(self._path, self._handler)]


def raising(error: BaseException) -> Answering:
    """Return a handler that fails."""

    async def handler(_request: web.BaseRequest) -> web.StreamResponse:
        raise error

    return handler


async def fine(_request: web.BaseRequest) -> web.StreamResponse:
    """Answer."""
    return web.json_response({"fine": True})


def routed(handler: Handler) -> web.Application:
    """Return an application with this handler at `/`, as the private listener has one."""
    return private_app(asking(None), Parts("/", handler), Parts("/livez", fine))


@asynccontextmanager
async def serving(answers: web.Application | Answering) -> AsyncIterator[str]:
    """Run a listener."""
    listener = Listener(answers)
    url = await listener.start("127.0.0.1", 0)
    try:
        yield url
    finally:
        await listener.stop(1.0)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (SignatureError("wrong"), 401),
        (OverloadedError("canary"), 503),
        (StorageUnavailableError("canary"), 503),
        (BrokerUnavailableError("canary"), 503),
        (IntegrityError("canary"), 500),
        (ValueError("canary"), 500),
        (web.HTTPBadRequest(text="canary"), 400),
        (TimeoutError("canary"), 500),
    ],
)
@pytest.mark.parametrize("routes", [True, False], ids=["an application", "one handler"])
async def test_error_becomes_its_status_and_says_nothing_else(
    error: BaseException, status: int, *, routes: bool
) -> None:
    """Each class of error has one status, as problem+json, without its message; only 503 says when to come again."""
    async with (
        serving(routed(raising(error)) if routes else raising(error)) as url,
        aiohttp.ClientSession() as client,
        client.get(url) as response,
    ):
        assert response.status == status
        assert response.content_type == "application/problem+json"
        assert response.headers["Server"] == "whatsms-events"
        assert response.headers.get("Retry-After") == ("5" if status == 503 else None)
        body = await response.text()
    assert "canary" not in body
    assert json.loads(body)["status"] == status


async def test_unexpected_error_is_logged_by_type_and_place_only() -> None:
    """What nobody foresaw is one line for the operator: kind, module and line, never a value or a traceback."""
    parts = Parts("/things/{id}", raising(KeyError("canary")))
    async with (
        serving(private_app(asking(None), parts, Parts("/livez", fine))) as url,
        aiohttp.ClientSession() as client,
    ):
        with structlog.testing.capture_logs() as lines:
            async with client.get(url + "/things/canary") as response:
                assert response.status == 500
    (line,) = lines
    assert (line["event"], line["log_level"], line["error"]) == ("request.failed", "error", "KeyError")
    assert line["path"] == "/things/{id}"
    assert line["place"].rpartition(":")[2].isdigit()
    assert "canary" not in repr(line)


async def test_problem_that_a_part_wrote_itself_is_passed_on() -> None:
    """An error that is problem+json already, as those of the read API, keeps its words and headers."""
    error = web.HTTPUnauthorized(
        text='{"detail": "a token is needed"}',
        content_type="application/problem+json",
        headers={"WWW-Authenticate": "Bearer"},
    )
    app = private_app(asking(None), Parts("/api", raising(error)), Parts("/livez", fine))
    async with serving(app) as url, aiohttp.ClientSession() as client, client.get(url + "/api") as response:
        assert (response.status, response.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert await response.json(content_type=None) == {"detail": "a token is needed"}


async def test_private_listener_serves_every_part() -> None:
    """API and probes are on the private listener; what is on none is 404."""
    app = private_app(asking(None), Parts("/api", fine), Parts("/livez", fine))
    async with serving(app) as url, aiohttp.ClientSession() as client:
        for path, status in (("/api", 200), ("/livez", 200), ("/webhooks/acme", 404)):
            async with client.get(url + path) as response:
                assert response.status == status
                assert response.headers["Server"] == "whatsms-events"


async def test_unread_body_never_becomes_the_next_request() -> None:
    """A refusal that left the body unread closes the connection: nothing is smuggled behind it."""
    async with serving(raising(OverloadedError(""))) as url:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n")
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
        assert b"503" in head
        assert b"Retry-After: 5\r\n" in head
        assert b"Connection: close" in head
        writer.close()


async def test_a_port_that_is_taken_is_refused() -> None:
    """A second listener on a port that another one has is an OSError."""
    first, second = (Listener(fine) for _ in range(2))
    await first.start("127.0.0.1", 0)
    with pytest.raises(OSError, match="in use"):
        await second.start("127.0.0.1", first.port)
    await first.stop(1)
    await second.stop(1)


async def test_stop_waits_for_the_request_that_is_being_answered() -> None:
    """A request that came before the stop gets its answer; an idle connection is closed, a new one refused."""
    entered, release = asyncio.Event(), asyncio.Event()

    async def slow(_request: web.BaseRequest) -> web.StreamResponse:
        entered.set()
        await release.wait()
        return web.Response(text="done")

    listener = Listener(slow)
    url = await listener.start("127.0.0.1", 0)
    async with aiohttp.ClientSession() as client:
        answer = asyncio.create_task(client.get(url))
        await entered.wait()
        stopping = asyncio.create_task(listener.stop(10))
        await asyncio.sleep(0)
        with pytest.raises(OSError, match=r"."):
            socket.create_connection(("127.0.0.1", listener.port), 1)
        assert not stopping.done()
        release.set()
        response = await answer
        assert (response.status, await response.text()) == (200, "done")
        await asyncio.wait_for(stopping, 60)


async def test_stop_does_not_wait_for_ever() -> None:
    """A request that does not end is cut off at the deadline."""
    entered = asyncio.Event()

    async def stuck(_request: web.BaseRequest) -> web.StreamResponse:
        entered.set()
        await asyncio.Event().wait()
        raise AssertionError

    listener = Listener(stuck)
    url = await listener.start("127.0.0.1", 0)
    async with aiohttp.ClientSession() as client:
        answer = asyncio.create_task(client.get(url))
        await entered.wait()
        await asyncio.wait_for(listener.stop(0.2), 60)
        with pytest.raises(aiohttp.ClientError):
            await answer


async def get(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    """Send a request on a connection, and return the head of its answer."""
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    await reader.readexactly(len(b'{"fine": true}'))
    return head


async def test_a_leaving_server_accepts_and_says_close() -> None:
    """While it leaves, new connections are answered, and each answer says that the connection closes; after that new
    ones are refused.
    """
    listener = Listener(fine)
    await listener.start("127.0.0.1", 0)
    kept = await asyncio.open_connection("127.0.0.1", listener.port)
    assert "Connection: close" not in await get(*kept)
    stopping = asyncio.create_task(listener.stop(60, leave_s=0.5, idle_s=60))
    await asyncio.sleep(0)
    for connection in (kept, await asyncio.open_connection("127.0.0.1", listener.port)):
        assert "Connection: close" in await get(*connection)
        assert await connection[0].read() == b""
        connection[1].close()
    await asyncio.wait_for(stopping, 60)
    with pytest.raises(OSError, match=r"."):
        await asyncio.open_connection("127.0.0.1", listener.port)


async def test_an_idle_connection_gets_its_time_and_no_more() -> None:
    """One that sends within `idle_s` gets its answer, one that has begun a request too; one that stays idle is closed,
    and none holds up the stop for longer than `drain_s`.
    """
    listener = Listener(fine)
    await listener.start("127.0.0.1", 0)
    fresh, begun, silent = [await asyncio.open_connection("127.0.0.1", listener.port) for _ in range(3)]
    assert "200 OK" in await get(*silent)
    begun[1].write(b"GET / HTT")
    stopping = asyncio.create_task(listener.stop(60, idle_s=2.0))
    await asyncio.sleep(0)
    assert "200 OK" in await get(*fresh)
    assert await asyncio.wait_for(silent[0].read(), 60) == b""
    assert not stopping.done()
    begun[1].write(b"P/1.1\r\nHost: x\r\n\r\n")
    assert b"200 OK" in await asyncio.wait_for(begun[0].read(), 60)
    await asyncio.wait_for(stopping, 60)
    for _reader, writer in (fresh, begun, silent):
        writer.close()


async def test_a_listener_that_does_not_accept_yet_keeps_connections_waiting() -> None:
    """Between `listen` and `accept` the kernel takes connections; they are answered then, and none is refused."""
    listener = Listener(fine)
    await listener.listen(await bound("127.0.0.1", 0))
    waiting = await asyncio.open_connection("127.0.0.1", listener.port)
    answer = asyncio.create_task(get(*waiting))
    done, _ = await asyncio.wait({answer}, timeout=0.05)
    assert not done
    await listener.accept()
    await listener.accept()
    assert "200 OK" in await asyncio.wait_for(answer, 60)
    waiting[1].close()
    await listener.stop(1)


async def test_a_request_that_the_kernel_has_keeps_its_connection_open() -> None:
    """A kept connection whose next request has come, but was not read yet, is not idle: the stop waits, and answers."""
    listener = Listener(fine)
    await listener.start("127.0.0.1", 0)
    with socket.create_connection(("127.0.0.1", listener.port), 60) as kept:

        def ask() -> None:
            kept.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")

        def hear() -> bytes:
            return kept.recv(4096)

        ask()
        assert b"200 OK" in await asyncio.to_thread(hear)
        ask()
        await listener.stop(60)  # no turn of the loop is between the two
        assert b"Connection: close" in await asyncio.to_thread(hear)
