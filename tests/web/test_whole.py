"""Deliveries that come whole go past aiohttp: they are read as aiohttp reads them, and answered like any other."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser
from aiohttp.http_exceptions import HttpProcessingError
from hypothesis import example, given
from hypothesis import strategies as st

from servers.file_lock import locked
from servers.metric import sample
from web.test_connection import PATIENCE_S, Wire, held, request, statuses
from web.test_receiver import SECRET, Door, delivery, opened
from whatsms_events.domain.signature import HEADER, sign
from whatsms_events.web.app import Listener
from whatsms_events.web.rejects import Rejects
from whatsms_events.web.whole import Tell, Whole, read

BOTH_LOOPS = True

ODD = "Expect: nothing we know\r\n"
"""A header that changes no answer, but leaves a delivery to aiohttp."""

FIELDS = (
    *("Host: x", "host:x", "Host: y", "User-Agent: a b", "X: ", "X:\t\x7f", "X: é", "X : 1", ": 1", " folded"),
    *(f"{HEADER}: sha256={'0' * 64}", f"{HEADER.lower()}:sha256={'aB' * 32} ", f"{HEADER}: sha256=1", f"{HEADER}: "),
    *("Content-Length: 5", "content-length:5 ", "Content-Length: 05", "Content-Length: +5", "Content-Length: 4"),
    *("Transfer-Encoding: chunked", "Content-Encoding: gzip", "Connection: close", "Connection: keep-alive"),
    *("Connection: upgrade", "Upgrade: h2c", "Upgrade: websocket", "Expect: 100-continue", "Trailer: X"),
    *("Content-Type: text/plain", "Connection: Close", "X-Forwarded-For: 1", "TE: trailers", "X: 1\rY: 2"),
    *("X" * 300 + ": 1", "X: " + "1" * 9000, "Proxy-Connection: close", "Sec-WebSocket-Key1: 1"),
)
LINES = (
    *("POST /webhooks/acme HTTP/1.1", "POST /webhooks/acme HTTP/1.0", "post /webhooks/acme HTTP/1.1", "GET / HTTP/1.1"),
    *("POST /a?b#c HTTP/1.1", "POST http://x/webhooks/acme HTTP/1.1", "POST * HTTP/1.1", "POST  / HTTP/1.1"),
    "POST /é HTTP/1.1",
)
USUAL = ("Host: x", f"{HEADER}: sha256={'0' * 64}", "Content-Length: 5")


@st.composite
def segments(draw: st.DrawFn) -> bytes:
    """Return what may come in one segment: mostly a delivery, mostly with something odd about it."""
    line = draw(st.sampled_from(LINES) | st.just(LINES[0]))
    fields = draw(st.permutations([*USUAL, *draw(st.lists(st.sampled_from(FIELDS), max_size=3))]))
    left_out = draw(st.none() | st.integers(0, len(fields) - 1))
    end = draw(st.sampled_from(["\r\n", "\r\n", "\n"]))
    lines = [line, *(one for place, one in enumerate(fields) if place != left_out), "", ""]
    made = bytearray(end.join(lines).encode("latin-1") + draw(st.sampled_from([b"hello", b"hell", b"hello!", b""])))
    for at, byte in draw(st.lists(st.tuples(st.integers(0, len(made) - 1), st.integers(0, 255)), max_size=1)):
        made[at] = byte
    return bytes(made)


async def parsed(data: bytes) -> list[tuple[Any, bytes]]:
    """Return the requests, and as much of their bodies as came, that aiohttp finds."""
    loop = asyncio.get_running_loop()
    parser = HttpRequestParser(BaseProtocol(loop), loop, 65536, auto_decompress=False)
    messages, upgraded, tail = parser.feed_data(data)
    assert not upgraded
    assert not tail
    return [(message, content.read_nowait() if content.is_eof() else b"") for message, content in messages]


@given(segments())
@example(b"POST /webhooks/acme HTTP/1.1\r\n" + "\r\n".join([*USUAL, "", "hello"]).encode())
@example(b"POST /webhooks/acme HTTP/1.1\r\n" + "\r\n".join([*USUAL, "Proxy-Connection: close", "", "hello"]).encode())
def test_what_is_read_is_what_aiohttp_reads(data: bytes) -> None:
    """Whatever is read here is one request for aiohttp too, with the same path, headers, body and end, and no more."""
    whole = read(data)
    if whole is None:
        return
    ((message, body),) = asyncio.run(parsed(data))
    assert (message.method, message.path) == (whole.method, whole.raw_path)
    assert message.raw_headers == tuple(whole.raw_headers)
    assert (tuple(message.version), message.chunked, message.upgrade) == ((1, 1), False, False)
    assert message.compression is None
    assert (body, message.should_close) == (whole.body, whole.closes)


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("field", ["X: 1", *FIELDS])
def test_what_is_refused_is_never_read(line: str, field: str) -> None:
    """What aiohttp would refuse, or answer in another way, is left to it."""
    data = "\r\n".join([line, *USUAL, field, "", "hello"]).encode("latin-1")
    try:
        requests = asyncio.run(parsed(data))
    except (HttpProcessingError, AssertionError):
        requests = []
    if len(requests) != 1:
        assert read(data) is None


async def answered(door: Door, data: bytes) -> tuple[str, dict[str, str], str]:
    """Return an answer: its first line, its headers but for the date, and its body without id and position."""
    wire = await Wire.to(door)
    await wire.send(data)
    head, _, body = (await wire.rest()).decode().partition("\r\n\r\n")
    first, *lines = head.split("\r\n")
    fields = dict(line.split(": ", 1) for line in lines)
    del fields["Date"]
    assert int(fields.pop("Content-Length")) == len(body)
    return first, fields, body.partition(',"')[2]


def forged(body: bytes, *, more: str) -> bytes:
    """Return a delivery that somebody else signed."""
    return request(body, more=more).replace(sign(body, SECRET).encode(), sign(body, b"another").encode())


@pytest.mark.parametrize("case", ["parked", "redelivered", "wrong", "stopped"])
async def test_answers_are_those_of_aiohttp(tmp_path: Path, case: str) -> None:
    """A delivery that came whole gets the answer that it would get by way of aiohttp, but for the order of its head."""
    body = b"[1, 2]" if case == "parked" else delivery()
    async with opened(f"sqlite:///{tmp_path / 'log.db'}") as door:
        assert (await door.post(body)).status in (200, 202)
        if case == "stopped":
            door.stop.set()
            await asyncio.wait_for(door.committing, PATIENCE_S)
        make = forged if case == "wrong" else request
        found = [await answered(door, make(body, more=f"Connection: close\r\n{odd}")) for odd in ("", ODD)]
        assert found[0] == found[1]


SHOWN: tuple[tuple[str, dict[str, str]], ...] = (
    ("whatsms_events_deliveries_total", {"tenant": "acme", "outcome": "accepted"}),
    ("whatsms_events_deliveries_total", {"tenant": "acme", "outcome": "signature_wrong"}),
    ("whatsms_events_delivery_duration_seconds_count", {}),
    ("whatsms_events_delivery_size_bytes_count", {}),
    ("whatsms_events_delivery_size_bytes_sum", {}),
    ("whatsms_events_delivery_delay_seconds_count", {}),
)


def shown() -> list[float]:
    """Return what the metrics of the door show."""
    return [sample(name, labels) or 0.0 for name, labels in SHOWN]


@pytest.mark.parametrize("odd", ["", ODD], ids=["whole", "by aiohttp"])
async def test_what_is_counted_is_the_same_on_both_ways(tmp_path: Path, odd: str) -> None:
    """Outcomes, durations, sizes and delays are counted whichever way a delivery goes."""
    async with opened(f"sqlite:///{tmp_path / 'log.db'}") as door:
        before = shown()
        await answered(door, request(delivery(), more=f"Connection: close\r\n{odd}"))
        await answered(door, forged(delivery(), more=f"Connection: close\r\n{odd}"))
        rise = [now - then for now, then in zip(shown(), before, strict=True)]
        assert rise == [1, 1, 2, 1, len(delivery()), 1]


async def test_who_was_refused_is_told_even_where_the_reject_cannot_be_kept(tmp_path: Path) -> None:
    """A mistake of ours behind the verdict takes no answer away: the sender would wait without an end."""

    def broken() -> datetime:
        raise ArithmeticError

    rejects = Rejects({"acme": "tenant-1"}, 1, now=broken)
    async with opened(f"sqlite:///{tmp_path / 'log.db'}", rejects=rejects) as door:
        wire = await Wire.to(door)
        await wire.send(forged(delivery(), more=""))
        assert await wire.status() == 401
        wire.writer.close()


@pytest.fixture
async def bypass(tmp_path: Path) -> AsyncIterator[Door]:
    """Run a receiver behind a door that aiohttp cannot answer at, and whose idle connections end soon."""

    async def nobody(request: web.BaseRequest) -> web.StreamResponse:
        raise AssertionError(request.raw_path)

    async with opened(f"sqlite:///{tmp_path / 'log.db'}", deadline_s=60.0) as door:
        other = Listener(nobody, take=door.receiver.take, keepalive_s=0.2)
        door.url = await other.start("127.0.0.1", 0)
        yield door
        await other.stop(2)


async def test_a_delivery_that_came_whole_goes_past_aiohttp(bypass: Door) -> None:
    """A delivery in one segment, however many come one after the other, is committed without a handler of aiohttp."""
    wire = await Wire.to(bypass)
    for number in range(3):
        await wire.send(request(delivery(number)))
        assert await wire.status() == 200
    wire.writer.close()
    assert [raw for _, raw in await bypass.log_rows()] == [delivery(number) for number in range(3)]


async def test_an_idle_connection_is_closed_and_one_that_waits_is_not(bypass: Door, tmp_path: Path) -> None:
    """A connection is closed once it has been idle for its time; while a delivery waits for its commit it is kept."""
    wire = await Wire.to(bypass)
    await wire.send(request(delivery(1)))
    assert await wire.status() == 200
    async with locked(tmp_path / "log.db"):
        waiting = await Wire.to(bypass)
        await waiting.send(request(delivery(2)))
        assert await wire.rest() == b""  # closed: the time of the one that waits is over as well
        later = await Wire.to(bypass)
        assert await later.rest() == b""
    assert await waiting.status() == 200
    waiting.writer.close()


async def test_what_comes_behind_a_delivery_waits_for_its_answer(tmp_path: Path) -> None:
    """Requests that come while a delivery waits for its commit are answered behind it, in their order."""
    async with opened(f"sqlite:///{tmp_path / 'log.db'}", deadline_s=60.0) as door:
        async with locked(tmp_path / "log.db"):
            wire, bodies = await Wire.to(door), [delivery(number) for number in range(4)]
            await wire.send(request(bodies[0]))
            await held(len(bodies[0]))
            asked = b"GET /webhooks/acme HTTP/1.1\r\nHost: x\r\n\r\n"
            await wire.send(asked + request(bodies[1]) + request(bodies[2])[:-9])
            await wire.send(request(bodies[2])[-9:] + b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            await wire.send(request(bodies[3]))
            wire.writer.write_eof()
        assert statuses(await wire.rest()) == [200, 200, 200, 200, 404, 200]
        assert [raw for _, raw in await door.log_rows()] == bodies


async def seen(door: Door) -> None:
    """Wait until the receiver has read what was sent to it before."""
    silent = await Wire.to(door)
    silent.writer.write_eof()
    assert await silent.rest() == b""


@pytest.mark.parametrize("why", ["its sender wants that", "the receiver stops"])
async def test_an_answer_that_closes_arrives_whatever_was_sent_behind_the_delivery(tmp_path: Path, why: str) -> None:
    """A connection that is closed over bytes which nobody read would be reset, and the answer lost with it."""
    async with opened(f"sqlite:///{tmp_path / 'log.db'}", deadline_s=60.0) as door:
        async with locked(tmp_path / "log.db"):
            wire, closes = await Wire.to(door), why == "its sender wants that"
            await wire.send(request(delivery(1), more="Connection: close\r\n" if closes else ""))
            await held(len(delivery(1)))
            for number in (2, 3):
                await wire.send(request(delivery(number)))
                await seen(door)
            stopping = None if closes else asyncio.create_task(door.listener.stop(PATIENCE_S))
            await asyncio.sleep(0)  # the first step of the stop: from then on each answer closes its connection
        assert statuses(await wire.rest()) == [200]
        if stopping is not None:
            await stopping


async def test_what_is_unfinished_behind_a_delivery_at_the_fin_is_refused(tmp_path: Path) -> None:
    """A half-close within what came too early: the delivery is answered, then what is unfinished is 400."""
    async with opened(f"sqlite:///{tmp_path / 'log.db'}", deadline_s=60.0) as door:
        async with locked(tmp_path / "log.db"):
            cuts = (-3, -len(delivery(2)) - 9)  # within the body, and within the head
            wires = [await Wire.to(door) for _ in cuts]
            for number, wire in enumerate(wires):
                await wire.send(request(delivery(number)))
                await held(sum(len(delivery(one)) for one in range(number + 1)))
            for cut, wire in zip(cuts, wires, strict=True):
                await wire.send(request(delivery(2))[:cut])
                wire.writer.write_eof()
            await seen(door)
        assert [statuses(await wire.rest()) for wire in wires] == [[200, 400], [200, 400]]


async def test_a_delivery_under_way_is_answered_though_the_drain_is_over() -> None:
    """Once a stopping receiver waits no longer, it still has a moment to write the answers that come."""
    taken: asyncio.Future[Tell] = asyncio.get_running_loop().create_future()

    async def nobody(request: web.BaseRequest) -> web.StreamResponse:
        raise AssertionError(request.raw_path)

    def take(_whole: Whole, tell: Tell) -> bool:
        taken.set_result(tell)
        return True

    listener = Listener(nobody, take=take)
    at = urlsplit(await listener.start("127.0.0.1", 0))
    wire = Wire(*await asyncio.open_connection(at.hostname, at.port))
    await wire.send(request(delivery()))
    tell = await asyncio.wait_for(taken, PATIENCE_S)
    stopping = asyncio.create_task(listener.stop(0))
    for _ in range(20):
        await asyncio.sleep(0)  # nothing outside tells that the drain is over; a stop without one takes a few turns
    tell((200, "{}"))
    assert statuses(await wire.rest()) == [200]
    await stopping


def test_the_line_of_a_delivery_is_that_which_came() -> None:
    """The request line is rebuilt from the path."""
    whole = Whole(b"/webhooks/acme", b"", b"", False, b"")
    assert whole.line == b"POST /webhooks/acme HTTP/1.1"
