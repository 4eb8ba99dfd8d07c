"""Connections of senders that count wrongly, break off or half-close, over raw sockets with a real log behind them."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import structlog

from servers.file_lock import locked
from servers.metric import sample
from web.test_receiver import OUTCOMES, POST, SECRET, Door, delivery, opened
from whatsms_events.domain.signature import HEADER, sign

PATIENCE_S = 60.0
TEXT = "Olá, é João: ação já!"  # six characters more than it has in ASCII
BODY = delivery(1, note=TEXT).replace(json.dumps(TEXT).encode(), json.dumps(TEXT, ensure_ascii=False).encode())
MISSING = len(BODY) - len(BODY.decode())
CHUNKED = f"{POST}{HEADER}: {sign(BODY, SECRET)}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()

Counts = Callable[..., float]

BOTH_LOOPS = True


def request(body: bytes, *, length: int | None = None, more: str = "") -> bytes:
    """Return a signed delivery as it goes over the wire; `length` is what it announces."""
    announced = len(body) if length is None else length
    return f"{POST}{HEADER}: {sign(body, SECRET)}\r\n{more}Content-Length: {announced}\r\n\r\n".encode() + body


def statuses(answer: bytes) -> list[int]:
    """Return the status of each answer that came back."""
    return [int(found) for found in re.findall(rb"HTTP/1\.[01] (\d{3})", answer)]


@dataclass
class Wire:
    """One connection of a client that does as it is told."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def to(cls, door: Door) -> "Wire":
        """Connect."""
        at = urlsplit(door.url)
        return cls(*await asyncio.open_connection(at.hostname, at.port))

    async def send(self, data: bytes) -> None:
        """Send bytes."""
        self.writer.write(data)
        await self.writer.drain()

    async def rest(self) -> bytes:
        """Return what comes until the server closes."""
        answer = await asyncio.wait_for(self.reader.read(), PATIENCE_S)
        self.writer.close()
        return answer

    async def status(self) -> int:
        """Read one answer and return its status."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
        length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        await self.reader.readexactly(int(length.split(b":")[1]))
        return int(head.split(b" ")[1])


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    """Run a receiver whose deadlines no test waits for."""
    async with opened(f"sqlite:///{tmp_path / 'log.db'}", body_deadline_s=600.0, deadline_s=60.0) as found:
        yield found


@pytest.fixture
def counts() -> Counts:
    """Give the rise of an outcome since the test began."""

    def now(outcome: str, slug: str = "acme") -> float:
        labels = {"tenant": slug, "outcome": outcome}
        return sample("whatsms_events_deliveries_total", labels) or 0.0

    names = [(outcome, slug) for outcome in (*OUTCOMES, "unparsable", "leftover") for slug in ("acme", "")]
    before = {name: now(*name) for name in names}
    return lambda outcome, slug="acme": now(outcome, slug) - before[outcome, slug]


async def counted(counts: Counts, outcome: str, expected: int = 1, slug: str = "acme") -> None:
    """Wait until an outcome has risen so far."""
    async with asyncio.timeout(PATIENCE_S):
        while counts(outcome, slug) < expected:  # noqa: ASYNC110 - polled: it happens behind a socket
            await asyncio.sleep(0.01)
    assert counts(outcome, slug) == expected


@pytest.mark.parametrize("cut", ["one segment", "cut where the length ends", "cut within the body", "cut in the rest"])
async def test_length_that_counts_characters_is_refused_and_seen(door: Door, counts: Counts, cut: str) -> None:
    """A `Content-Length` that is too small by the accents: 401, and the rest of the body is counted and logged."""
    wire, whole = await Wire.to(door), request(BODY, length=len(BODY) - MISSING)
    at = {"cut where the length ends": -MISSING, "cut within the body": -MISSING - 40, "cut in the rest": -2}.get(cut)
    with structlog.testing.capture_logs() as lines:
        await wire.send(whole if at is None else whole[:at])
        if cut == "cut where the length ends":
            assert await wire.status() == 401
        if at is not None:
            await wire.send(whole[at:])
        answer = await wire.rest()
        await counted(counts, "leftover")
    assert MISSING == 6
    assert statuses(answer) == ([] if cut == "cut where the length ends" else [401])
    assert counts("signature_wrong") == 1
    refused = {line["outcome"]: line for line in lines if line["event"] == "delivery.unparsable"}
    assert refused["leftover"]["tenant"] == "acme"
    assert refused["leftover"]["error"] == "BadHttpMethod"
    assert TEXT[-4:] not in repr(lines)
    assert await door.log_rows() == []


@pytest.mark.parametrize("waits", [True, False], ids=["behind the answer", "pipelined"])
async def test_good_request_behind_a_wrong_length_is_never_refused(door: Door, counts: Counts, *, waits: bool) -> None:
    """What comes behind the rest of a body gets no answer, never the one for the rest: its sender comes again."""
    wire, good = await Wire.to(door), request(delivery(2))
    await wire.send(request(BODY, length=len(BODY) - MISSING)[: -MISSING if waits else None])
    if waits:
        assert await wire.status() == 401
    await wire.send((BODY[-MISSING:] if waits else b"") + good)
    assert statuses(await wire.rest()) == ([] if waits else [401])
    await counted(counts, "leftover")
    assert (await door.post(delivery(2))).status == 200


@pytest.mark.parametrize("garbage", [b"\0\0", b"not http\r\n\r\n", b'{"more": 1}', b"\x16\x03\x01\x02\x00"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_good_request_in_front_of_garbage_is_answered(
    door: Door, counts: Counts, garbage: bytes, *, chunked: bool
) -> None:
    """A delivery that came whole is committed and gets its 200, whatever comes behind it in the same segment."""
    wire = await Wire.to(door)
    framed = CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
    await wire.send((framed if chunked else request(BODY)) + garbage)
    assert statuses(await wire.rest()) == [200]
    await counted(counts, "leftover")
    assert [raw for _, raw in await door.log_rows()] == [BODY]


@pytest.mark.parametrize(
    ("head", "slug"),
    [
        (b"POST /webhooks/acme HTTP/1.1\r\nHost: x\r\nX-Odd: Zaphod\0\r\n\r\n", "acme"),
        (b"POST /webhooks/acme/ HTTP/1.1\r\nHost: x\r\nX Odd: Zaphod\r\n\r\n", "acme"),
        (b"POST /webhooks/acme HTTP/1.1\r\nContent-Length: 0\r\n\r\n", "acme"),
        (b"POST /webhooks/acme HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", "acme"),
        (b"POST /webhooks/acme HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", "acme"),
        (b"POST /webhooks/acme HTTP/1.1\r\nHost: x\r\nContent-Length: five\r\n\r\nhello", "acme"),
        (b"POST /webhooks/acme HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "acme"),
        (b"POST /webhooks/acme HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", "acme"),
        (b"POST /webhooks/acme HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 20_000 + b"\r\n\r\n", "acme"),
        (b"POST /webhooks/acme?Zaphod=" + b"a" * 20_000, "acme"),
        (b"POST /webhooks/acme HTTP/9.9\r\nHost: x\r\n\r\n", "acme"),
        (b"POST /webhooks/Zaphod HTTP/1.1\r\nX-Odd: \0\r\n\r\n", ""),
        (b"BOGUS /webhooks/acme HTTP/1.1\r\nHost: x\r\n\r\n", "acme"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ""),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03Zaphod\r\n\r\n", ""),
        (b"SSH-2.0-Zaphod\r\n", ""),
    ],
)
async def test_what_cannot_be_parsed_is_400_counted_and_logged(
    door: Door, counts: Counts, head: bytes, slug: str
) -> None:
    """A request that cannot be parsed is 400, counted for the tenant of its path, and one line without a byte of it."""
    with structlog.testing.capture_logs() as lines:
        answer = await door.raw(head)
    assert statuses(answer) == [400]
    assert b"problem+json" in answer
    assert counts("unparsable", slug) == 1
    (line,) = [line for line in lines if line["event"] == "delivery.unparsable"]
    assert (line["tenant"], line["outcome"], line["log_level"]) == (slug, "unparsable", "warning")
    assert "Zaphod" not in repr(lines) + answer.decode("latin-1")


async def test_unparsable_request_on_a_used_connection_names_its_own_path(door: Door, counts: Counts) -> None:
    """A second request on a connection that cannot be parsed is a request, not the rest of the first one: 400."""
    wire = await Wire.to(door)
    await wire.send(request(BODY))
    assert await wire.status() == 200
    await wire.send(b"POST /webhooks/acme HTTP/1.1\r\nHost: x\r\nX-Odd: \0\r\n\r\n")
    assert await wire.status() == 400
    assert await wire.rest() == b""
    assert (counts("unparsable"), counts("leftover")) == (1, 0)


async def test_refusals_that_cannot_be_parsed_are_one_line_in_an_interval(door: Door, counts: Counts) -> None:
    """Strangers who send garbage fill no log."""
    with structlog.testing.capture_logs() as lines:
        for _ in range(20):
            await door.raw(b"\x16\x03\x01\r\n\r\n")
    assert counts("unparsable", "") == 20
    assert len([line for line in lines if line["event"] == "delivery.unparsable"]) == 1


@pytest.mark.parametrize("together", [True, False], ids=["with the head", "later"])
async def test_chunks_that_are_no_chunks_are_400_at_once(door: Door, counts: Counts, *, together: bool) -> None:
    """A body that breaks its chunked encoding is refused when it does, not at the body's deadline."""
    wire = await Wire.to(door)
    await wire.send(CHUNKED + b"5\r\nhello\r\n" + (b"what?\r\n" if together else b""))
    if not together:
        await held(5)
        await wire.send(b"what?\r\n")
    assert statuses(await wire.rest()) == [400]
    assert counts("broken") == 1


async def held(size: int) -> None:
    """Wait until the receiver holds so many bytes."""
    async with asyncio.timeout(PATIENCE_S):
        while (sample("whatsms_events_in_flight_bytes") or 0.0) != size:  # noqa: ASYNC110 - polled
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("name", ["websocket", "h2c", "nonsense"])
async def test_upgrade_that_is_asked_for_is_ignored(door: Door, name: str) -> None:
    """A delivery that asks for another protocol is taken as it is, and so is the next one on its connection."""
    wire = await Wire.to(door)
    for number in (1, 2):
        await wire.send(request(delivery(number), more=f"Connection: Upgrade\r\nUpgrade: {name}\r\n"))
        assert await wire.status() == 200
    wire.writer.close()
    assert len(await door.log_rows()) == 2


async def test_pipelined_requests_are_answered_in_order(door: Door) -> None:
    """Requests that come in one segment are each answered, whatever their framing."""
    wire = await Wire.to(door)
    await wire.send(b"".join(request(delivery(number)) for number in range(20)) + b"GET / HTTP/1.0\r\n\r\n")
    assert statuses(await wire.rest()) == [200] * 20 + [404]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("number", [1, 2, 20])
async def test_half_closed_client_gets_every_answer(door: Door, number: int, *, chunked: bool) -> None:
    """A client that sends whole requests, then FIN, and waits: 200 for each, and then the connection ends."""
    wire, bodies = await Wire.to(door), [delivery(one) for one in range(number)]
    for body in bodies:
        framed = f"{POST}{HEADER}: {sign(body, SECRET)}\r\nTransfer-Encoding: chunked\r\n\r\n{len(body):x}\r\n".encode()
        await wire.send(framed + body + b"\r\n0\r\n\r\n" if chunked else request(body))
    wire.writer.write_eof()
    answer = await wire.rest()
    assert statuses(answer) == [200] * number
    assert answer.count(b"Connection: close") <= 1
    assert [raw for _, raw in await door.log_rows()] == bodies


async def test_half_closed_client_waits_for_its_commit(tmp_path: Path) -> None:
    """A FIN that comes while the delivery waits for its commit takes nothing away: the answer comes after it."""
    async with opened(f"sqlite:///{tmp_path / 'log.db'}", deadline_s=60.0) as door:
        async with locked(tmp_path / "log.db"):
            wire = await Wire.to(door)
            await wire.send(request(BODY))
            await held(len(BODY))
            wire.writer.write_eof()
            silent = await Wire.to(door)  # a FIN behind it: when that one was seen, so was the first
            silent.writer.write_eof()
            assert await silent.rest() == b""
            assert not wire.reader.at_eof()
        assert statuses(await wire.rest()) == [200]


async def test_half_closed_client_that_only_asks_is_answered(door: Door) -> None:
    """A GET with FIN is 200, and FIN alone ends the connection without a word or a count."""
    wire = await Wire.to(door)
    await wire.send(b"GET /webhooks/acme HTTP/1.1\r\nHost: x\r\n\r\n")
    wire.writer.write_eof()
    answer = await wire.rest()
    assert statuses(answer) == [200]
    silent = await Wire.to(door)
    silent.writer.write_eof()
    assert await silent.rest() == b""


@pytest.mark.parametrize(
    ("sent", "outcome"),
    [
        (request(BODY)[:-1], "broken"),
        (request(BODY)[: -len(BODY)], "broken"),
        (CHUNKED + b"%x\r\n%b\r\n" % (len(BODY), BODY), "broken"),
        (CHUNKED + b"%x\r\n%b\r\n0\r\n" % (len(BODY), BODY), "broken"),
        (CHUNKED, "broken"),
        (request(BODY)[:60], "unparsable"),
        (request(BODY)[: -len(BODY) - 2], "unparsable"),
        (b"POST /webhooks/acme HT", "unparsable"),
    ],
)
async def test_request_that_is_not_whole_at_the_fin_is_400_at_once(
    door: Door, counts: Counts, sent: bytes, outcome: str
) -> None:
    """FIN within a body or a head: 400 at once, not at a deadline, and counted for the tenant."""
    wire = await Wire.to(door)
    with structlog.testing.capture_logs() as lines:
        await wire.send(sent)
        wire.writer.write_eof()
        answer = await wire.rest()
    assert statuses(answer) == [400]
    assert counts(outcome) == 1
    assert {line["event"] for line in lines} == {
        "delivery.unparsable" if outcome == "unparsable" else "delivery.rejected"
    }
    assert await door.log_rows() == []


async def test_second_request_that_is_not_whole_does_not_take_the_first_with_it(door: Door, counts: Counts) -> None:
    """Two requests and FIN within the second: 200 for the first, 400 for the second."""
    wire = await Wire.to(door)
    await wire.send(request(delivery(1)) + request(delivery(2))[:-3])
    wire.writer.write_eof()
    assert statuses(await wire.rest()) == [200, 400]
    assert (counts("accepted"), counts("broken")) == (1, 1)


async def test_refused_client_that_half_closes_is_let_go(door: Door) -> None:
    """A client that is refused before its body came, and sends no more, is not waited for."""
    wire = await Wire.to(door)
    await wire.send(f"{POST}Content-Length: 50\r\n\r\nhalf".encode())
    wire.writer.write_eof()
    assert statuses(await wire.rest()) == [401]
