"""A sender that never tries again: constant load on kept and on fresh connections, where each failure is written down.

It speaks HTTP itself, since a client library may hide that a connection was closed under a request.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from servers.ports import HOST
from servers.service import SLUG
from whatsms_events.clock import within
from whatsms_events.domain.signature import HEADER, sign

PAUSE_S = 0.005
"""Between two deliveries of one sender, so that the machine has time for the service too."""

ANSWER_S = 60.0


class Steady:
    """The load. `secret` may be changed while it runs; `under_way` counts deliveries by the secret that signed them."""

    def __init__(self, port: int, secret: str, *, kept: int = 4, fresh: int = 4, slug: str = SLUG) -> None:
        self.port = port
        self.secret = secret
        self.accepted: list[bytes] = []
        self.by_kind = Counter[str]()
        self.failures: list[str] = []
        self.under_way = Counter[str]()
        self._slug = slug
        self._senders = [self._kept] * kept + [self._fresh] * fresh
        self._numbers = itertools.count()

    @asynccontextmanager
    async def sending(self) -> AsyncIterator[None]:
        """Send while the body runs, then wait for the last answers."""
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for sender in self._senders:
                tasks.create_task(sender(stop))
            try:
                yield
            finally:
                stop.set()

    async def _kept(self, stop: asyncio.Event) -> None:
        """Send on one connection until an answer says that it closes."""
        while not stop.is_set():
            try:
                reader, writer = await asyncio.open_connection(HOST, self.port)
            except OSError as exc:
                self.failures.append(f"kept: no connection: {exc}")
                continue
            while not stop.is_set() and await self._deliver("kept", reader, writer):
                await within(stop, PAUSE_S)
            writer.close()

    async def _fresh(self, stop: asyncio.Event) -> None:
        """Send each delivery on a connection of its own."""
        while not stop.is_set():
            try:
                reader, writer = await asyncio.open_connection(HOST, self.port)
            except OSError as exc:
                self.failures.append(f"fresh: no connection: {exc}")
                continue
            await self._deliver("fresh", reader, writer)
            writer.close()
            await within(stop, PAUSE_S)

    async def _deliver(self, kind: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Send one delivery and note what became of it; return whether the connection stays."""
        secret = self.secret
        self.under_way[secret] += 1
        try:
            async with asyncio.timeout(ANSWER_S):
                return await self._answered(kind, secret, reader, writer)
        except (OSError, EOFError, TimeoutError) as exc:
            self.failures.append(f"{kind}: {type(exc).__name__}: {exc}")
            return False
        finally:
            self.under_way[secret] -= 1

    async def _answered(
        self, kind: str, secret: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        number = next(self._numbers)
        body = b'{"event":"ticket.created","timestamp":"2026-05-01T12:00:00Z","data":{"ticket":{"id":"%d"}}}' % number
        head = (
            f"POST /webhooks/{self._slug} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {len(body)}\r\n"
            f"{HEADER}: {sign(body, secret.encode())}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        said = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = next(int(line.split(":")[1]) for line in said.split("\r\n") if line.startswith("content-length:"))
        await reader.readexactly(length)
        if said.split()[1] != "200":
            self.failures.append(f"{kind}: {said.splitlines()[0]}")
        else:
            self.accepted.append(body)
            self.by_kind[kind] += 1
        return "connection: close" not in said
