"""A server on loopback that answers as it is told, and remembers what it was asked: no WhatSMS, only its manners."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from whatsms_events.whatsms import Client
from whatsms_events.whatsms.limits import Limits

KEY = "sk_live_canary0123456789"
TICKET = {"ticket": {"id": "t1", "status": "open"}}
MESSAGE = {"message": {"id": "m1", "body": "Olá", "fromMe": True, "ack": 1}}
CLOCK = datetime(2026, 1, 15, 10, 30, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as it came in."""

    at: float
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """Return the body, decoded."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Say:
    """An answer. `cut` closes the connection behind so many bytes of the body, or behind `raw`; `after_s` it takes."""

    body: bytes = b""
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    cut: int | None = None
    after_s: float = 0.0
    raw: bytes = b""


Answers = Callable[[Seen], Say]


def say(value: Any, status: int = 200, **headers: str) -> Say:
    """Return a JSON answer."""
    named = [(name.replace("_", "-"), text) for name, text in headers.items()]
    return Say(json.dumps(value).encode(), status, (("Content-Type", "application/json"), *named))


def html(status: int, text: str = "<html><h1>Bad Gateway</h1></html>") -> Say:
    """Return what a proxy says."""
    return Say(text.encode(), status, (("Content-Type", "text/html"),))


def in_turn(*answers: Say) -> Answers:
    """Return answers one after the other; the last one for ever."""
    left = list(answers)
    return lambda _seen: left.pop(0) if len(left) > 1 else left[0]


class Vendor:
    """The server: `.url`, `.seen`, and `.answers`, which may be changed while it runs."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.seen: list[Seen] = []
        self.url = ""

    @property
    def times(self) -> list[float]:
        """When each request came, by the loop's clock."""
        return [seen.at for seen in self.seen]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Remember the request and answer it."""
        at = asyncio.get_running_loop().time()
        body = await request.read()
        path = request.raw_path.partition("?")[0].removeprefix("/api/v2")
        self.seen.append(Seen(at, request.method, path, dict(request.query), dict(request.headers), body))
        told = self.answers(self.seen[-1])
        if told.after_s:
            await asyncio.sleep(told.after_s)
        if told.cut is None or request.transport is None:  # None: the client has given up
            return web.Response(body=told.body, status=told.status, headers=list(told.headers))
        if told.cut == 0:
            request.transport.write(told.raw)
            request.transport.close()
            return web.Response()
        response = web.StreamResponse(status=told.status, headers=list(told.headers))
        response.content_length = len(told.body)
        await response.prepare(request)
        await response.write(told.body[: told.cut])
        request.transport.close()
        return response


@asynccontextmanager
async def serving(answers: Answers | Say) -> AsyncIterator[Vendor]:
    """Run the server."""
    vendor = Vendor(answers if callable(answers) else in_turn(answers))
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", vendor.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        vendor.url = f"http://127.0.0.1:{runner.addresses[0][1]}/api/v2"
        yield vendor
    finally:
        await runner.cleanup()


def client_of(vendor: Vendor, **options: Any) -> Client:
    """Return a client of this server, with limits of its own."""
    options.setdefault("limits", Limits())
    return Client(vendor.url, KEY, **options)


@asynccontextmanager
async def talking(answers: Answers | Say, **options: Any) -> AsyncIterator[tuple[Vendor, Client]]:
    """Run the server and an open client of it."""
    async with serving(answers) as vendor, client_of(vendor, **options) as client:
        yield vendor, client


def most_in_a_minute(times: list[float]) -> int:
    """Return the most requests in any 60 s."""
    return max((sum(begin <= at < begin + 60 for at in times) for begin in times), default=0)
