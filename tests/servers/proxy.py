"""A TCP proxy between a client and a server that cuts, stalls, or loses an answer on purpose."""

import asyncio
import contextlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from servers.ports import HOST, free_port

CHUNK: Final = 64 * 1024
CONNECT_S: Final = 5.0
# Kafka's numbers of requests: tests lose the answers of some, and look at what others ask for.
PRODUCE: Final = 0
METADATA: Final = 3
METADATA_VERSION: Final = 8  # the highest that `topics_of` reads: aiokafka's are lower, librdkafka's are higher
INIT_PRODUCER_ID: Final = 22
ADD_PARTITIONS_TO_TXN: Final = 24
END_TXN: Final = 26
ANY_BYTES: Final = -1


def frames(rest: bytearray) -> Iterator[bytes]:
    """Take Kafka's whole requests or answers out of `rest`: each is its length in four bytes, then itself."""
    while len(rest) >= 4:
        (length,) = struct.unpack_from(">i", rest)
        if len(rest) < 4 + length:
            return
        yield bytes(rest[4 : 4 + length])
        del rest[: 4 + length]


def topics_of(request: bytes) -> list[str] | None:
    """Return the names that a request for metadata asks for; None where it asks for all topics."""
    (client_id,) = struct.unpack_from(">h", request, 8)
    at = 10 + max(client_id, 0)
    (count,) = struct.unpack_from(">i", request, at)
    names, at = [], at + 4
    for _ in range(count):
        (size,) = struct.unpack_from(">h", request, at)
        names.append(request[at + 2 : at + 2 + size].decode())
        at += 2 + size
    return None if count < 0 else names


@dataclass(eq=False, slots=True)
class Link:
    """One client's connection, and ours to the server for it."""

    client_reader: asyncio.StreamReader
    client: asyncio.StreamWriter
    server_reader: asyncio.StreamReader
    server: asyncio.StreamWriter
    lost_id: int | None = None  # the request whose answer gets lost; ANY_BYTES: the next bytes, whatever they answer
    unread: bytearray = field(default_factory=bytearray)  # the part of a request that is not whole yet
    unsent: bytearray = field(default_factory=bytearray)  # likewise of an answer

    def cut(self) -> None:
        """Break both connections at once."""
        self.client.transport.abort()
        self.server.transport.abort()


class TcpProxy:
    """Forwards to one server, by a port of its own that stays the same. Use it in the loop that started it.

    `kafka` says that the server speaks Kafka, so that `lose_answer` can wait for a request of one kind.
    `faults` counts the connections that were broken by `cut_after` and `lose_answer`; `metadata` has the names of each
    request of aiokafka's for metadata, None where it asked for all topics.
    """

    def __init__(self, port: int, *, kafka: bool = False) -> None:
        self.upstream = port
        self.port = free_port()
        self.kafka = kafka
        self.faults = 0
        self.metadata: list[list[str] | None] = []
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None] | None] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server: asyncio.Server | None = None
        self._refusing = False
        self._bytes_left: int | None = None
        self._lost_kind: int | None = None

    @property
    def address(self) -> str:
        """The address for clients."""
        return f"{HOST}:{self.port}"

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, HOST, self.port)

    async def stop(self) -> None:
        """Cut everything and listen no longer."""
        if self._server is not None:
            self._server.close()
        self.cut()
        tasks = [task for task in self._tasks if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def cut(self, *, refuse: bool = False) -> None:
        """Break every connection now; with `refuse` new ones too, until `resume`."""
        self._refusing = refuse
        for link in self._links:
            link.cut()

    def stall(self) -> None:
        """Forward nothing until `resume`; connections stay open, and new ones are taken."""
        self._flowing.clear()

    def resume(self) -> None:
        """Forward and take connections again; faults that were asked for and did not happen yet are forgotten."""
        self._refusing, self._bytes_left, self._lost_kind = False, None, None
        self._flowing.set()

    def cut_after(self, count: int) -> None:
        """Forward `count` more bytes of clients, counted over all of them, then break the connection of the last."""
        self._bytes_left = count

    def lose_answer(self, kind: int = ANY_BYTES) -> None:
        """Forward the next request of this kind, wait until it is answered, then break the connection instead.

        `kind` is Kafka's number of a request (PRODUCE, END_TXN ...); ANY_BYTES takes whatever a client sends next.
        """
        if kind != ANY_BYTES and not self.kafka:
            raise ValueError("only a proxy for Kafka knows kinds of requests")
        self._lost_kind = kind

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        link = None
        try:
            if self._refusing:
                return
            async with asyncio.timeout(CONNECT_S):
                link = Link(reader, writer, *await asyncio.open_connection(HOST, self.upstream))
            self._links.add(link)
            for end in (link.client, link.server):
                end.transport.set_write_buffer_limits(high=0)  # drain() returns when all is with the kernel
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._forward_requests(link))
                pumps.create_task(self._forward_answers(link))
        except OSError:  # the server is not there; the client sees its connection broken
            pass
        finally:
            writer.transport.abort()
            if link is not None:
                self._links.discard(link)
            self._tasks.discard(task)

    async def _forward_requests(self, link: Link) -> None:
        with broken_after(link):
            while data := await link.client_reader.read(CHUNK):
                await self._flowing.wait()
                self._choose_lost(link, data)
                last = self._bytes_left is not None and len(data) >= self._bytes_left
                if self._bytes_left is not None:
                    data, self._bytes_left = data[: self._bytes_left], self._bytes_left - len(data)
                link.server.write(data)
                await link.server.drain()
                if last:
                    self._bytes_left = None
                    self.faults += 1
                    return

    def _choose_lost(self, link: Link, data: bytes) -> None:
        if not self.kafka:
            if self._lost_kind is not None:
                link.lost_id, self._lost_kind = ANY_BYTES, None
            return
        link.unread += data
        for request in frames(link.unread):
            kind, version, number = struct.unpack_from(">hhi", request)
            if kind == METADATA and version <= METADATA_VERSION:
                self.metadata.append(topics_of(request))
            if self._lost_kind in (kind, ANY_BYTES):
                link.lost_id, self._lost_kind = number, None

    async def _forward_answers(self, link: Link) -> None:
        with broken_after(link):
            while data := await link.server_reader.read(CHUNK):
                await self._flowing.wait()
                kept = self._cut_lost(link, data)
                link.client.write(kept)
                await link.client.drain()
                if len(kept) < len(data):
                    self.faults += 1
                    return

    def _cut_lost(self, link: Link, data: bytes) -> bytes:
        """Return the part of `data` before the answer that gets lost."""
        if not self.kafka:
            return b"" if link.lost_id is not None else data
        before = len(link.unsent)  # bytes of the first answer that went out with earlier data
        link.unsent += data
        at = 0
        for answer in frames(link.unsent):
            if struct.unpack_from(">i", answer)[0] == link.lost_id:
                return data[: max(at - before, 0)]
            at += 4 + len(answer)
        return data


@contextlib.contextmanager
def broken_after(link: Link) -> Iterator[None]:
    """Break both sides of the link as soon as one ends, however it ends."""
    try:
        yield
    except OSError:
        pass
    finally:
        link.cut()
