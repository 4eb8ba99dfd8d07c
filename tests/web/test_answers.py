"""The answer to an accepted delivery, as clients of each kind see it on the wire."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from web.test_connection import Wire, statuses
from web.test_receiver import SECRET, Door, delivery, opened
from whatsms_events.domain.signature import HEADER, sign

BOTH_LOOPS = True


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    """Run a receiver on SQLite."""
    async with opened(f"sqlite:///{tmp_path / 'log.db'}") as found:
        yield found


def request(number: int, *, version: str = "1.1", more: str = "") -> bytes:
    """Return a signed delivery as it goes over the wire."""
    body = delivery(number)
    head = f"POST /webhooks/acme HTTP/{version}\r\nHost: x\r\n{HEADER}: {sign(body, SECRET)}\r\n{more}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def test_two_answers_on_one_connection_are_whole(door: Door) -> None:
    """An answer has its type, its length, the date and our name, and the next one follows right behind it."""
    wire = await Wire.to(door)
    await wire.send(request(1) + request(2, more="Connection: close\r\n"))
    first, second = (await wire.rest()).split(b"HTTP/1.1 200 OK\r\n")[1:]
    for answer in (first, second):
        head, body = answer.split(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        assert int(fields["Content-Length"]) == len(body)
        assert fields["Content-Type"] == "application/json"
        assert fields["Server"] == "whatsms-events"
        assert abs(parsedate_to_datetime(fields["Date"]) - datetime.now(UTC)) < timedelta(minutes=10)
    assert b"Connection" not in first
    assert b"Connection: close" in second


@pytest.mark.parametrize(
    ("version", "more", "kept"),
    [
        ("1.1", "", True),
        ("1.1", "Connection: close\r\n", False),
        ("1.0", "", False),
        ("1.0", "Connection: keep-alive\r\n", True),
    ],
)
async def test_a_connection_is_kept_as_the_client_asked(door: Door, version: str, more: str, *, kept: bool) -> None:
    """HTTP/1.1 keeps a connection unless it is told otherwise, HTTP/1.0 only where it is asked to."""
    wire = await Wire.to(door)
    await wire.send(request(1, version=version, more=more))
    if not kept:
        assert statuses(await wire.rest()) == [200]
        return
    assert await wire.status() == 200
    await wire.send(request(2, version=version, more="Connection: close\r\n"))
    assert statuses(await wire.rest()) == [200]


async def test_a_parked_delivery_is_answered_in_one_piece_too(door: Door) -> None:
    """202 with the id and the reason."""
    answer = await door.post(b"{")
    assert (answer.status, answer.json["parked"]) == (202, "not_json")
    assert int(answer.headers["Content-Length"]) == len(answer.body)
