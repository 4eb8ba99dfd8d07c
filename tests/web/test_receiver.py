"""The table "what bad input gets", over real HTTP and raw sockets, with a real log behind it."""

import asyncio
import gc
import gzip
import hashlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import structlog
from prometheus_client import REGISTRY
from sqlalchemy import select

from servers.file_lock import locked
from servers.metric import sample
from servers.postgres import Postgres, create_database
from whatsms_events.domain.signature import HEADER, sign
from whatsms_events.storage.database import Database, DatabaseTarget, open_log
from whatsms_events.storage.log.committer import Committer
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.tables import event_log, parked_delivery, redelivery
from whatsms_events.web.app import Listener
from whatsms_events.web.receiver import Receiver, Tenant, Throttle

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
SECRET = b"whsec-canary-secret"
LIMIT = 100_000
TENANT = Tenant("acme", "tenant-1", {"old": b"whsec-old", "new": SECRET})
CANARY = "Zaphod-Canary-4711"
POST = "POST /webhooks/acme HTTP/1.1\r\nHost: x\r\n"
SEEMS_SIGNED = f"{POST}{HEADER}: sha256={'0' * 64}\r\n"  # who has no signature is refused before the body
OUTCOMES = (
    *("accepted", "duplicate", "parked", "too_large", "encoding", "stalled", "broken", "overloaded", "unavailable"),
    *("failed", "signature_missing", "signature_doubled", "signature_malformed", "signature_wrong"),
)


def delivery(number: int = 1, **changed: Any) -> bytes:
    """Return the vendor's documented body."""
    body = {
        "event": "message.received",
        "tenantId": "tenant-1",
        "timestamp": "2026-11-23T11:59:58Z",
        "data": {
            "message": {"id": f"m-{number}", "body": CANARY, "fromMe": False},
            "ticket": {"id": "t-1", "status": "open"},
            "contact": {"id": "c-1", "name": CANARY, "number": "351900000000"},
        },
        **changed,
    }
    return json.dumps(body).encode()


@dataclass
class Door:
    """A running receiver, a client for it, and the log behind it."""

    url: str
    client: aiohttp.ClientSession
    database: Database
    receiver: Receiver
    listener: Listener
    stop: asyncio.Event
    committing: "asyncio.Task[None]"

    async def post(self, body: bytes, *, slug: str = "acme", secret: bytes = SECRET, encoding: str = "") -> "Answer":
        """Send a signed delivery."""
        encoded = {"Content-Encoding": encoding} if encoding else {}
        return await self.send("POST", f"/webhooks/{slug}", body, {HEADER: sign(body, secret), **encoded})

    async def send(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> "Answer":
        """Send anything; follow no redirect."""
        async with self.client.request(
            method, self.url + path, data=body, headers=headers, allow_redirects=False
        ) as response:
            return Answer(response.status, response.headers.copy(), await response.read())

    async def raw(self, request: bytes, *, close: bool = False) -> bytes:
        """Send bytes that no client would, and return all that comes back."""
        at = urlsplit(self.url)
        reader, writer = await asyncio.open_connection(at.hostname, at.port)
        writer.write(request)
        await writer.drain()
        answer = b"" if close else await asyncio.wait_for(reader.read(), 60)
        writer.close()
        return answer

    async def log_rows(self) -> list[tuple[int, bytes]]:
        """Return position and bytes of the log."""
        async with self.database.read() as connection:
            rows = await connection.execute(select(event_log.c.position, event_log.c.raw))
            return [(row.position, row.raw) for row in rows]

    async def parked(self) -> list[tuple[str, bytes, str | None]]:
        """Return reason, bytes and encoding of what is parked."""
        columns = (parked_delivery.c.reason, parked_delivery.c.raw, parked_delivery.c.content_encoding)
        async with self.database.read() as connection:
            return [(row.reason, row.raw, row.content_encoding) for row in await connection.execute(select(*columns))]


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)

    def is_problem(self, status: int) -> bool:
        """Say whether this is an error answer that gives nothing away; 503, and only that, says when to come again."""
        assert self.headers["Content-Type"] == "application/problem+json"
        assert self.headers["Server"] == "whatsms-events"
        assert set(self.json) == {"type", "title", "status"}
        assert self.headers.get("Retry-After") == ("5" if self.status == 503 else None)
        return bool(self.status == self.json["status"] == status)


@asynccontextmanager
async def opened(url: str, *, tenants: Sequence[Tenant] = (TENANT,), **changed: Any) -> AsyncIterator[Door]:
    """Run a receiver on a log."""
    database = await open_log(DatabaseTarget(url), migrate=True)
    queue: dict[str, Any] = {"batch_limit": 500, "queue_limit": 1000, "queue_limit_bytes": 1 << 28}
    limits = {"body_limit_bytes": LIMIT, "in_flight_limit_bytes": 1 << 24, "deadline_s": 10.0}
    queue.update({name: changed.pop(name) for name in list(changed) if name in queue})
    committer = Committer(database, **queue, on_commit=lambda _end: None, shared=len(tenants) > 1)
    receiver = Receiver({one.slug: one for one in tenants}, committer, **{"now": lambda: NOON, **limits, **changed})
    listener = Listener(receiver.handle, on_unparsable=receiver.count_unparsable, take=receiver.take)
    stop = asyncio.Event()
    task = asyncio.create_task(committer.run(stop))
    url = await listener.start("127.0.0.1", 0)
    async with aiohttp.ClientSession() as client:
        yield Door(url, client, database, receiver, listener, stop, task)
    await listener.stop(2)
    stop.set()
    await asyncio.wait_for(task, 60)
    await database.close()


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    """Run a receiver on SQLite."""
    async with opened(f"sqlite:///{tmp_path / 'log.db'}") as found:
        yield found


def counted(outcome: str, slug: str = "acme") -> float:
    """Return how many deliveries had this outcome so far."""
    return sample("whatsms_events_deliveries_total", {"tenant": slug, "outcome": outcome}) or 0.0


@pytest.fixture
def counts() -> Callable[[str], float]:
    """Give the rise of an outcome since the test began."""
    before = {outcome: counted(outcome) for outcome in OUTCOMES}
    return lambda outcome: counted(outcome) - before[outcome]


async def test_signed_delivery_is_acknowledged_with_id_and_position(database_url: str) -> None:
    """A 200 names the event's id and position, and the exact bytes stand there."""
    async with opened(database_url) as door:
        answer = await door.post(delivery())
        assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
        (entry,) = await EventLog(door.database).read(0, 9)
        assert answer.json == {"id": str(entry.event.id), "position": 1, "duplicate": False}
        assert entry.event.received_at == NOON
        assert await door.log_rows() == [(1, delivery())]
        assert answer.headers["Server"] == "whatsms-events"


async def test_same_bytes_fifty_times_in_parallel_are_one_event(database_url: str) -> None:
    """Fifty POSTs of the same bytes: one event, one position, 49 times `duplicate: true`, each redelivery counted."""
    async with opened(database_url) as door:
        answers = await asyncio.gather(*(door.post(delivery()) for _ in range(50)))
        assert {(answer.status, answer.json["id"], answer.json["position"]) for answer in answers} == {
            (200, answers[0].json["id"], 1)
        }
        assert sorted(answer.json["duplicate"] for answer in answers) == [False] + [True] * 49
        assert len(await door.log_rows()) == 1
        async with door.database.read() as connection:
            assert (await connection.execute(select(redelivery.c.count))).scalar_one() == 49


async def test_both_secrets_open_the_door_during_a_rotation(door: Door) -> None:
    """A delivery signed with any of the tenant's secrets is accepted."""
    assert (await door.post(delivery(1), secret=b"whsec-old")).status == 200
    assert (await door.post(delivery(2), secret=SECRET)).status == 200


async def test_unknown_slug_is_404_and_counted(door: Door) -> None:
    """A slug that nobody configured is 404 for every method, and the name does not become a label."""
    before = counted("unknown_slug", "")
    assert (await door.post(delivery(), slug="nobody")).is_problem(404)
    assert (await door.send("GET", "/webhooks/nobody")).is_problem(404)
    assert (await door.send("POST", "/", b"x")).is_problem(404)
    assert counted("unknown_slug", "") == before + 1
    assert counted("unknown_slug", "nobody") == 0


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("", "missing"),
        (f"{HEADER}: \r\n", "malformed"),
        (f"{HEADER}: sha256=abc\r\n", "malformed"),
        (f"{HEADER}: {sign(delivery(), SECRET).removeprefix('sha256=')}\r\n", "malformed"),
        (f"{HEADER}: sha256=\xff\xfe{'é' * 62}\r\n", "malformed"),
        (f"{HEADER}: {sign(delivery(), b'other')}\r\n", "wrong"),
        (f"{HEADER}: {sign(delivery(), SECRET)}\r\n" * 2, "doubled"),
    ],
)
async def test_bad_signature_is_401_and_counted_by_reason(
    door: Door, counts: Callable[[str], float], header: str, reason: str
) -> None:
    """A signature that is missing, malformed, doubled, not ASCII or wrong is 401, and nothing is kept."""
    body = delivery()
    head = (
        f"POST /webhooks/acme HTTP/1.1\r\nHost: x\r\n{header}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    answer = await door.raw(head.encode("latin-1") + body)
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert json.loads(answer.split(b"\r\n\r\n")[1]) == {"type": "about:blank", "title": "Unauthorized", "status": 401}
    assert counts(f"signature_{reason}") == 1
    assert (await door.log_rows(), await door.parked()) == ([], [])


async def test_the_door_knows_how_many_signatures_it_refused(door: Door) -> None:
    """Only refused signatures count, each for the tenant whose door it was: nothing that is accepted, large or lost."""
    assert (await door.post(delivery())).status == 200
    assert (await door.post(b"x" * (LIMIT + 1))).status == 413
    assert (await door.post(delivery(), slug="nobody")).status == 404
    assert door.receiver.refused_signatures("acme") == 0
    assert (await door.post(delivery(), secret=b"whsec-wrong")).status == 401
    assert (await door.send("POST", "/webhooks/acme", delivery())).status == 401
    assert [door.receiver.refused_signatures(slug) for slug in ("acme", "nobody")] == [2, 0]


@pytest.mark.parametrize(
    "head",
    [
        b"POST /webhooks/acme HTTP/1.1\r\nHost: x\r\nX-Odd: \0\r\nContent-Length: 0\r\n\r\n",
        b"POST /webhooks/acme HTTP/1.1\r\nHost: x\r\n: nameless\r\nContent-Length: 0\r\n\r\n",
        b"POST /webhooks/acme HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 6\r\n\r\n",
        b"POST /webhooks/acme HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /webhooks/acme HTTP/1.1\r\nHost: x\r\n" + b"X-Long: " + b"a" * 20_000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 not http at all\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_400_and_quotes_nothing(
    door: Door, head: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    """Bytes that cannot be parsed get 400 as problem+json without a word of theirs, and no traceback is logged."""
    answer = await door.raw(head)
    assert answer.split(b" ")[1] == b"400"
    assert b"application/problem+json" in answer
    assert b"aiohttp" not in answer
    assert b"X-Odd" not in answer
    assert "Traceback" not in "".join(capfd.readouterr())
    assert (await door.post(delivery())).status == 200


async def test_hostile_header_values_are_never_a_500(door: Door) -> None:
    """Header bytes that are no text, in every header the receiver looks at, change nothing for a signed delivery."""
    body = delivery()
    for name in ("Content-Type", "Content-Encoding", "Host", "Accept-Encoding", "User-Agent", "Expect"):
        head = (
            f"POST /webhooks/acme HTTP/1.1\r\n{name}: \xff\xfe\xe9\r\n{HEADER}: {sign(body, SECRET)}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        answer = await door.raw(head.encode("latin-1") + body)
        assert answer.split(b" ")[1] in (b"200", b"202", b"400", b"401"), name


async def test_body_over_the_limit_is_413(door: Door, counts: Callable[[str], float]) -> None:
    """A body whose length is announced as too large is refused before it is read."""
    assert (await door.post(b"x" * (LIMIT + 1))).is_problem(413)
    announced = f"POST /webhooks/acme HTTP/1.1\r\nHost: x\r\nContent-Length: {10**15}\r\nConnection: close\r\n\r\n"
    at = urlsplit(door.url)
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    writer.write(announced.encode())
    assert (await asyncio.wait_for(reader.readline(), 60)).startswith(b"HTTP/1.1 413 ")
    writer.close()
    assert counts("too_large") == 2
    assert (await door.post(delivery())).status == 200


async def test_chunked_body_over_the_limit_is_413_without_holding_it(
    tmp_path: Path, counts: Callable[[str], float]
) -> None:
    """A chunked body that announces nothing is cut off at the limit, and never more than the limit is held."""
    async with opened(f"sqlite:///{tmp_path / 'log.db'}", in_flight_limit_bytes=LIMIT) as door:
        at = urlsplit(door.url)
        reader, writer = await asyncio.open_connection(at.hostname, at.port)
        writer.write(f"{SEEMS_SIGNED}Transfer-Encoding: chunked\r\n\r\n".encode())
        for _ in range(3 * LIMIT // 10_000):
            writer.write(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
            await writer.drain()
        assert (await asyncio.wait_for(reader.readline(), 60)).startswith(b"HTTP/1.1 413 ")
        writer.close()
        assert counts("too_large") == 1
        assert in_flight() == 0


async def test_largest_refused_size_is_shown_of_what_may_be_the_vendors(tmp_path: Path) -> None:
    """The gauge shows the largest size that was refused, announced or read, and not what a scanner announces."""
    async with opened(f"sqlite:///{tmp_path / 'log.db'}") as door:

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(40):
                yield b"x" * 10_000

        assert (await door.send("POST", "/webhooks/acme", b"x" * (LIMIT + 900))).is_problem(413)
        assert not sample("whatsms_events_largest_refused_bytes")
        for size in (LIMIT + 200, LIMIT + 100):
            assert (await door.post(b"x" * size)).is_problem(413)
            assert sample("whatsms_events_largest_refused_bytes") == LIMIT + 200
        assert (await door.send("POST", "/webhooks/acme", pieces(), {HEADER: sign(b"", SECRET)})).is_problem(413)
        assert (sample("whatsms_events_largest_refused_bytes") or 0) >= LIMIT + 200


async def test_chunked_body_within_the_limit_is_accepted(door: Door) -> None:
    """A chunked delivery is as good as any."""

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(delivery()), 50):
            yield delivery()[start : start + 50]

    answer = await door.send("POST", "/webhooks/acme", pieces(), {HEADER: sign(delivery(), SECRET)})
    assert answer.status == 200
    assert await door.log_rows() == [(1, delivery())]


async def test_chunks_that_are_no_chunks_are_refused(tmp_path: Path) -> None:
    """A body that breaks its chunked encoding is never accepted, and gives its bytes back."""
    async with opened(f"sqlite:///{tmp_path / 'log.db'}", body_deadline_s=0.3) as door:
        head = f"{SEEMS_SIGNED}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n".encode()
        at = urlsplit(door.url)
        reader, writer = await asyncio.open_connection(at.hostname, at.port)
        writer.write(head)
        await asyncio.sleep(0.05)
        writer.write(b"what?\r\n")
        assert (await asyncio.wait_for(reader.readline(), 60)).split(b" ")[1] in (b"400", b"408")
        writer.close()
        assert in_flight() == 0


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "GZIP, identity", "rot13"])
async def test_compressed_body_is_parked_as_it_came_when_its_wire_bytes_verify(door: Door, encoding: str) -> None:
    """The signature is of the bytes on the wire: such a body is kept with its encoding, and answered 202."""
    wire = gzip.compress(delivery())
    answer = await door.post(wire, encoding=encoding)
    assert answer.status == 202
    assert answer.json["parked"] == "encoding"
    assert await door.parked() == [("encoding", wire, encoding.lower())]
    assert await door.log_rows() == []


async def test_compressed_body_that_does_not_verify_is_415(door: Door, counts: Callable[[str], float]) -> None:
    """A compressed body signed before it was compressed, or not at all, is 415, and nothing is unpacked or kept."""
    bomb = gzip.compress(b"\0" * 50_000_000)
    signed_before = {HEADER: sign(delivery(), SECRET), "Content-Encoding": "gzip"}
    assert (await door.send("POST", "/webhooks/acme", gzip.compress(delivery()), signed_before)).is_problem(415)
    assert (await door.send("POST", "/webhooks/acme", bomb, {"Content-Encoding": "gzip"})).is_problem(415)
    assert counts("encoding") == 2
    assert await door.parked() == []


async def test_identity_is_no_encoding(door: Door) -> None:
    """`Content-Encoding: identity` means that there is none."""
    assert (await door.post(delivery(), encoding="identity")).status == 200


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "empty"),
        (b"not json", "not_json"),
        (b"[" * 50_000, "too_deep"),
        (b'{"a":NaN}', "not_json"),
        (b"[]", "not_object"),
        (b"\xff\xfe", "not_utf8"),
        (delivery(event="message.exploded"), "unknown_event"),
        (delivery(tenantId="somebody else"), "other_tenant"),
        (json.dumps({"event": "message.received", "tenantId": "tenant-1"}).encode(), "no_data"),
        (delivery(event="message.ack", data={"messageIds": ["A1", "A2"], "ack": 4, "ticketId": "t1"}), "many"),
        (delivery(event="message.ack", data=[{"message": {"id": "A1"}}, {"message": {"id": "A2"}}]), "many"),
    ],
)
async def test_signed_but_not_understood_is_parked(door: Door, body: bytes, reason: str) -> None:
    """A signed delivery that cannot be an event is kept with its bytes and its reason, and answered 202."""
    answer = await door.post(body)
    assert (answer.status, answer.json["parked"]) == (202, reason)
    assert [(why, raw) for why, raw, _ in await door.parked()] == [(reason, body)]
    assert (await door.post(body)).json == answer.json
    assert len(await door.parked()) == 1


async def test_a_compressed_body_without_a_possible_signature_is_not_read(door: Door) -> None:
    """It is refused while its body is still on its way."""
    head = b"POST /webhooks/acme HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 900\r\n\r\n"
    assert (await door.raw(head)).startswith(b"HTTP/1.1 415 ")


async def test_a_tenant_that_floods_does_not_shut_the_door_of_another(tmp_path: Path) -> None:
    """While one tenant's deliveries fill their half of the queue, another one's is taken and committed."""
    other = Tenant("other", "tenant-2", {"only": SECRET})
    async with opened(f"sqlite:///{tmp_path / 'log.db'}", tenants=(TENANT, other), queue_limit=8) as door:
        async with locked(tmp_path / "log.db"):
            flood = [asyncio.create_task(door.post(delivery(number))) for number in range(20)]
            await until(lambda: sum(post.done() for post in flood) == 16)
            calm = asyncio.create_task(door.post(delivery(99, tenantId="tenant-2"), slug="other"))
            await until(lambda: sample("whatsms_events_queued_deliveries") == 5)
        assert (await calm).status == 200
        assert sorted(answer.status for answer in await asyncio.gather(*flood)) == [200] * 4 + [503] * 16


async def test_the_path_may_be_written_in_other_ways(door: Door) -> None:
    """A query, an escape or an absolute URL leads to the same door."""
    for number, path in enumerate(["/webhooks/acme?source=whatsms", "/webhooks/ac%6De", "/webhooks/acme/?"]):
        body = delivery(number)
        answer = await door.raw(
            f"POST {path} HTTP/1.1\r\nHost: x\r\n{HEADER}: {sign(body, SECRET)}\r\nContent-Length: {len(body)}\r\n"
            "Connection: close\r\n\r\n".encode()
            + body
        )
        assert answer.startswith(b"HTTP/1.1 200 "), path


async def test_get_and_head_say_that_the_url_is_right(door: Door) -> None:
    """GET and HEAD on a configured slug are 200 without data; other methods are 405."""
    for path in ("/webhooks/acme", "/webhooks/acme/"):
        for method in ("GET", "HEAD"):
            answer = await door.send(method, path)
            assert (answer.status, answer.body) == (200, b"")
        refused = await door.send("PUT", path, b"{}")
        assert refused.is_problem(405)
        assert refused.headers["Allow"] == "GET,HEAD,POST"


async def test_trailing_slash_and_any_content_type_are_fine(door: Door) -> None:
    """Neither a slash at the end nor a content type, nor its absence, is a condition; nothing is redirected."""
    for number, kind in enumerate(["text/plain", "application/json; charset=latin-1", "x"]):
        body = delivery(number)
        headers = {HEADER: sign(body, SECRET), "Content-Type": kind}
        assert (await door.send("POST", "/webhooks/acme/", body, headers)).status == 200


async def test_expect_100_is_answered_and_the_rest_ignored(door: Door) -> None:
    """A client that asks before it sends is told to go on; an expectation nobody knows is ignored."""
    body = delivery()
    async with door.client.post(
        door.url + "/webhooks/acme", data=body, headers={HEADER: sign(body, SECRET)}, expect100=True
    ) as response:
        assert response.status == 200
    odd = await door.raw(b"POST /webhooks/acme HTTP/1.1\r\nHost: x\r\nExpect: Zaphod\r\nConnection: close\r\n\r\n")
    assert odd.startswith(b"HTTP/1.1 401 ")
    assert b"Zaphod" not in odd


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what the server does on its side."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - polled: it happens behind a socket
            await asyncio.sleep(0.01)


def in_flight() -> float:
    """Return the bytes that the receiver says it holds."""
    return sample("whatsms_events_in_flight_bytes") or 0.0


async def test_stalled_body_has_a_deadline_and_gives_its_room_back(
    tmp_path: Path, counts: Callable[[str], float]
) -> None:
    """A client that stops in the middle of its body is sent away; until then what it sent takes room, and no more."""
    limits: dict[str, Any] = {"body_deadline_s": 0.3, "in_flight_limit_bytes": 500}
    async with opened(f"sqlite:///{tmp_path / 'log.db'}", **limits) as door:
        at = urlsplit(door.url)
        reader, writer = await asyncio.open_connection(at.hostname, at.port)
        writer.write(f"{SEEMS_SIGNED}Content-Length: 900\r\n\r\n".encode() + b"x" * 450)
        await until(lambda: in_flight() == 450)
        assert (await door.post(delivery())).is_problem(503)
        assert (await asyncio.wait_for(reader.readline(), 60)).startswith(b"HTTP/1.1 408 ")
        writer.close()
        assert in_flight() == 0
        assert (await door.post(delivery())).status == 200
        assert (counts("stalled"), counts("overloaded")) == (1, 1)


async def test_client_that_goes_away_in_its_body_leaves_nothing(door: Door, counts: Callable[[str], float]) -> None:
    """A connection that breaks in the middle of a body is no delivery, and its bytes are given back."""
    await door.raw(f"{SEEMS_SIGNED}Content-Length: 900\r\n\r\nhalf".encode(), close=True)
    await until(lambda: counts("broken") == 1)
    assert in_flight() == 0
    assert await door.log_rows() == []


async def test_a_body_that_breaks_off_is_freed_at_once(door: Door, counts: Callable[[str], float]) -> None:
    """Nothing keeps what came of it until the collector runs, which is seldom, and no limit counts it any more."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)  # what the collector finds is kept, to be looked at
    try:
        for _ in range(3):
            await door.raw(f"{SEEMS_SIGNED}Content-Length: 9000\r\n\r\nhalf".encode(), close=True)
        await until(lambda: counts("broken") == 3)
        # The connections' own tasks end behind the count. One that has not ended is no garbage, and fails nothing.
        await asyncio.sleep(0.05)
        gc.collect()
        kept = {one.f_code.co_name for one in gc.garbage if isinstance(one, FrameType)}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not kept & {"_read", "_read_on", "_deliver", "readany"}


async def test_client_that_goes_away_before_its_answer_is_in_the_log(
    door: Door, counts: Callable[[str], float]
) -> None:
    """A delivery that was sent whole is kept, although nobody waits for the answer any more."""
    body = delivery()
    head = f"{POST}{HEADER}: {sign(body, SECRET)}\r\nContent-Length: {len(body)}\r\n\r\n"
    await door.raw(head.encode() + body, close=True)
    await until(lambda: counts("accepted") == 1)
    assert await door.log_rows() == [(1, body)]
    assert (await door.post(body)).json["duplicate"]


async def test_locked_database_is_503_and_nothing_is_lost(tmp_path: Path, counts: Callable[[str], float]) -> None:
    """While the log's file is locked the answer is 503 with Retry-After, in time; sent again it is one event."""
    async with opened(f"sqlite:///{tmp_path / 'log.db'}", deadline_s=0.3) as door:
        async with locked(tmp_path / "log.db"):
            refused = await asyncio.gather(*(door.post(delivery(number)) for number in range(5)))
            assert all(answer.is_problem(503) for answer in refused)
            assert counts("overloaded") + counts("unavailable") == 5
            assert counts("accepted") == 0
        async with asyncio.timeout(60):
            for number in range(5):
                while (await door.post(delivery(number))).status != 200:  # noqa: ASYNC110 - a real server
                    await asyncio.sleep(0.05)
        assert sorted(raw for _, raw in await door.log_rows()) == sorted(delivery(number) for number in range(5))


def answering(server: Postgres) -> list[int]:
    """Return the server's processes: the one that was started, and one for each connection beside it."""
    found = subprocess.run(["pgrep", "-P", str(server.pid)], capture_output=True, text=True, check=True)
    return [int(server.pid or 0), *map(int, found.stdout.split())]


async def test_frozen_postgresql_is_503_in_time_and_nothing_is_lost_or_doubled(
    own_postgres: Postgres, counts: Callable[[str], float]
) -> None:
    """While PostgreSQL answers nothing at all: 503 within the deadline; thawed and sent again, one event each."""
    deadline_s = 1.0
    url = await create_database(own_postgres.url)
    async with opened(url, deadline_s=deadline_s) as door:
        assert (await door.post(delivery(0))).status == 200
        frozen = answering(own_postgres)
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        started = time.monotonic()
        refused = await asyncio.gather(*(door.post(delivery(number)) for number in range(1, 6)))
        took = time.monotonic() - started
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
        assert all(answer.is_problem(503) for answer in refused)
        assert deadline_s <= took < deadline_s + 30
        assert counts("accepted") == 1
        async with asyncio.timeout(60):
            for number in range(1, 6):
                while (await door.post(delivery(number))).status != 200:  # noqa: ASYNC110 - a real server
                    await asyncio.sleep(0.05)
        assert sorted(raw for _, raw in await door.log_rows()) == sorted(delivery(number) for number in range(6))


async def test_full_queue_is_503_at_once(tmp_path: Path, counts: Callable[[str], float]) -> None:
    """A queue at its limit sends deliveries away instead of letting them wait for their deadline."""
    async with opened(f"sqlite:///{tmp_path / 'log.db'}", queue_limit=2, deadline_s=60) as door:
        async with locked(tmp_path / "log.db"):
            waiting = [asyncio.create_task(door.post(delivery(number))) for number in range(8)]
            async with asyncio.timeout(60):
                sent_away = [await answer for answer in islice(asyncio.as_completed(waiting), 6)]
            assert all(answer.is_problem(503) for answer in sent_away)
            rest = [one for one in waiting if not one.done()]
            assert len(rest) == 2
        assert {answer.status for answer in await asyncio.gather(*rest)} == {200}
        assert counts("overloaded") == 6


async def test_stopping_answers_what_is_in_flight_and_takes_no_more(
    tmp_path: Path, counts: Callable[[str], float]
) -> None:
    """When told to stop, every delivery on its way is committed and gets its 200; new connections are refused."""
    async with opened(f"sqlite:///{tmp_path / 'log.db'}") as door:
        async with locked(tmp_path / "log.db"):
            load = [asyncio.create_task(door.post(delivery(number))) for number in range(20)]
            await until(lambda: sample("whatsms_events_queued_deliveries") == 20)
            stopping = asyncio.create_task(door.listener.stop(10))
            await until(lambda: not listens(door))
            assert not stopping.done()
            assert not [post for post in load if post.done()]
        answers = await asyncio.gather(*load)
        await stopping
        assert [answer.status for answer in answers] == [200] * 20
        assert sorted(raw for _, raw in await door.log_rows()) == sorted(delivery(number) for number in range(20))
        assert counts("accepted") == 20


def listens(door: Door) -> bool:
    """Tell whether the door takes a new connection."""
    at = urlsplit(door.url)
    with socket.socket() as one:
        return one.connect_ex((at.hostname, at.port)) == 0


async def test_committer_that_stopped_is_503(door: Door) -> None:
    """A delivery that comes while the process is stopping is sent away, never half taken."""
    door.stop.set()
    await door.committing
    assert (await door.post(delivery())).is_problem(503)


async def test_nothing_private_is_logged_or_answered(door: Door) -> None:
    """No body, name, number, signature or secret is in a log line, an answer or a metric, whatever the outcome."""
    body, marked = delivery(), delivery(event=CANARY)
    with structlog.testing.capture_logs() as lines:
        answers = [
            await door.post(body),
            await door.post(body),
            await door.post(marked),
            await door.post(marked, secret=b"wrong"),
            await door.post(body, slug=CANARY),
            await door.post(gzip.compress(body), secret=b"wrong", encoding=CANARY),
            await door.send("POST", "/webhooks/acme", body, {HEADER: CANARY}),
        ]
    shown = repr(lines) + repr([(answer.headers, answer.body) for answer in answers])
    shown += repr([metric for metric in REGISTRY.collect()])  # noqa: C416
    for secret in (CANARY, "351900000000", SECRET.decode(), sign(body, SECRET), hashlib.sha256(body).hexdigest()):
        assert secret not in shown
    assert {"delivery.accepted", "delivery.parked", "delivery.rejected"} <= {line["event"] for line in lines}


async def test_rejections_are_one_line_for_each_reason_and_interval(tmp_path: Path) -> None:
    """A thousand bad signatures are a few lines; the next line after the interval says how many were left out."""
    clock = [1000.0]
    async with opened(f"sqlite:///{tmp_path / 'log.db'}", monotonic=lambda: clock[0]) as door:
        with structlog.testing.capture_logs() as lines:
            for _ in range(30):
                await door.post(delivery(), secret=b"wrong")
            clock[0] += 11
            await door.post(delivery(), secret=b"wrong")
    assert [(line["outcome"], line["suppressed"]) for line in lines] == [
        ("signature_wrong", 0),
        ("signature_wrong", 29),
    ]


def test_throttle_tells_kinds_apart() -> None:
    """One kind of line does not hold back another."""
    throttle = Throttle(10.0, lambda: 0.0)
    assert [throttle.due(("acme", "a")), throttle.due(("acme", "a")), throttle.due(("acme", "b"))] == [0, None, 0]
