"""Deliveries with a wrong signature are kept for `verify`: where a setting says so, few of them, and for a day."""

import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from web.listener import TOKEN, listener
from web.test_connection import Wire, request
from web.test_receiver import NOON, SECRET, Door, delivery, opened
from whatsms_events.domain.events import to_micros
from whatsms_events.domain.marks import Marker, Suppressions
from whatsms_events.domain.signature import HEADER, sign
from whatsms_events.storage.database import DatabaseTarget, open_projection
from whatsms_events.storage.reads import Queries
from whatsms_events.storage.repair.reports import Reports
from whatsms_events.web.api import Api
from whatsms_events.web.rejects import BODY_LIMIT_BYTES, KEPT_FOR, Rejects


class Clock:
    """A clock that is set by hand."""

    now = NOON

    def __call__(self) -> datetime:
        """Return the time."""
        return self.now


class Kept:
    """A door that keeps rejects, and a client that knows the token."""

    def __init__(self, door: Door, client: TestClient[Any, Any], clock: Clock, marks: list[Suppressions]) -> None:
        self.door = door
        self.clock = clock
        self.marks = marks
        self._client = client

    async def list(self, slug: str = "acme") -> list[dict[str, Any]]:
        """Return what is kept of a tenant."""
        async with self._client.get(f"/api/v1/{slug}/rejects", headers={"Authorization": f"Bearer {TOKEN}"}) as answer:
            assert answer.status == 200, answer.status
            return list((await answer.json())["rejects"])

    async def get(self, path: str, token: str = TOKEN) -> tuple[int, bytes]:
        """Ask for anything."""
        async with self._client.get(path, headers={"Authorization": f"Bearer {token}"}) as answer:
            return answer.status, await answer.read()


@asynccontextmanager
async def keeping(folder: Path, limit: int, **kept_for: timedelta) -> AsyncIterator[Kept]:
    """Run a door whose rejects are kept, and the private listener's application beside it."""
    clock, marks = Clock(), [Suppressions()]
    rejects = Rejects({"acme": "tenant-1"}, limit, now=clock, kept_for=kept_for, suppressions=lambda: marks[-1])
    async with opened(f"sqlite:///{folder / 'log.db'}", rejects=rejects, body_limit_bytes=1 << 20) as door:
        projection = await open_projection(DatabaseTarget(f"sqlite:///{folder / 'projection.db'}"), migrate=True)
        api = Api(Queries(door.database, projection), {"acme": "tenant-1"}, Reports(door.database))
        async with TestClient(TestServer(listener(rejects, api))) as client:
            yield Kept(door, client, clock, marks)
        await projection.close()


async def test_a_reject_is_kept_as_it_came(tmp_path: Path) -> None:
    """The list says when and why; the reject itself is the request with its headers and every byte of its body."""
    body = delivery(1) + b"\r\n\xff"
    async with keeping(tmp_path, 5) as kept:
        await kept.door.post(body, secret=b"another")
        await kept.door.post(delivery(2))
        (one,) = await kept.list()
        assert (one["reason"], one["received_at"]) == ("wrong", "2026-11-23T12:00:00Z")
        status, raw = await kept.get(f"/api/v1/acme/rejects/{one['number']}")
    assert status == 200
    head, _, rest = raw.partition(b"\r\n\r\n")
    assert rest == body
    assert head.startswith(b"POST /webhooks/acme HTTP/1.1\r\n")
    assert f"{HEADER}: sha256=".encode() in head


@pytest.mark.parametrize("more", ["", "Expect: nothing we know\r\n"])
async def test_a_reject_is_the_same_whichever_way_it_came(tmp_path: Path, more: str) -> None:
    """A delivery that came whole, and one that aiohttp read, are kept with the line, headers and bytes that came."""
    sent = request(delivery(1), more=more).replace(sign(delivery(1), SECRET).encode(), b"sha256=" + b"0" * 64)
    async with keeping(tmp_path, 1) as kept:
        wire = await Wire.to(kept.door)
        await wire.send(sent)
        assert await wire.status() == 401
        wire.writer.close()
        assert (await kept.get("/api/v1/acme/rejects/1"))[1] == sent


async def test_nothing_is_kept_unless_a_setting_says_so(tmp_path: Path) -> None:
    """The default keeps none: whoever sent it, it may hold what a person wrote."""
    async with keeping(tmp_path, 0) as kept:
        await kept.door.post(delivery(1), secret=b"another")
        assert await kept.list() == []


async def test_what_names_a_forgotten_person_goes(tmp_path: Path) -> None:
    """Kept before they were forgotten or come late, compressed too: it leaves the memory. Another's, and what is new,
    stays.
    """
    marker = Marker(b"key")

    def told(number: str, at: timedelta) -> bytes:
        stamp = f"{NOON + at:%Y-%m-%dT%H:%M:%SZ}"
        return json.dumps({"event": "x.y", "timestamp": stamp, "data": {"number": number}}).encode()

    hers, his = told("351910000731", timedelta(0)), told("351910000900", timedelta(0))
    new = told("351910000731", timedelta(minutes=2))
    async with keeping(tmp_path, 9) as kept:
        for body in (hers, gzip.compress(hers), his):
            await kept.door.post(body, secret=b"another")
        at = to_micros(NOON + timedelta(minutes=1))
        kept.marks.append(Suppressions(marker, {marker.mark("tenant-1", "number", "351910000731"): at}))
        kept.clock.now += timedelta(minutes=3)
        assert [one["number"] for one in await kept.list()] == [3]
        for body in (hers, new):
            await kept.door.post(body, secret=b"another")
        assert [one["number"] for one in await kept.list()] == [3, 5]


async def test_the_oldest_makes_room_and_large_ones_are_left_out(tmp_path: Path) -> None:
    """A flood leaves the last few; a body over the limit is not kept, since a part of it would explain nothing."""
    async with keeping(tmp_path, 2) as kept:
        for number in range(4):
            await kept.door.post(delivery(number), secret=b"another")
        await kept.door.post(b"x" * (BODY_LIMIT_BYTES + 1), secret=b"another")
        assert [one["number"] for one in await kept.list()] == [3, 4]


@pytest.mark.parametrize("moved", [KEPT_FOR, -timedelta(seconds=1)])
async def test_a_reject_is_gone_after_a_day(tmp_path: Path, moved: timedelta) -> None:
    """After a day, and when the clock is set back behind it, nothing of it can be read."""
    async with keeping(tmp_path, 2) as kept:
        await kept.door.post(delivery(1), secret=b"another")
        kept.clock.now = NOON + moved
        assert await kept.list() == []
        assert (await kept.get("/api/v1/acme/rejects/1"))[0] == 404


async def test_a_tenant_may_keep_rejects_for_another_time(tmp_path: Path) -> None:
    """Its own time counts, whatever the others'."""
    async with keeping(tmp_path, 2, acme=2 * KEPT_FOR, zoo=timedelta(hours=1)) as kept:
        await kept.door.post(delivery(1), secret=b"another")
        kept.clock.now = NOON + KEPT_FOR
        assert len(await kept.list()) == 1
        kept.clock.now = NOON + 2 * KEPT_FOR
        assert await kept.list() == []


async def test_rejects_need_the_token_and_a_tenant(tmp_path: Path) -> None:
    """Without the token 401; a tenant that is not configured, or a number that is not kept, is 404."""
    async with keeping(tmp_path, 2) as kept:
        for path in ("/api/v1/acme/rejects", "/api/v1/acme/rejects/1"):
            assert (await kept.get(path, token="another"))[0] == 401
        for path in ("/api/v1/nobody/rejects", "/api/v1/acme/rejects/7"):
            assert (await kept.get(path))[0] == 404
        assert (await kept.get("/api/v1/acme/rejects?limit=1"))[0] == 400


async def test_headers_that_a_proxy_adds_for_itself_are_not_kept(tmp_path: Path) -> None:
    """Cookies and credentials have nothing to do with the signature."""
    async with keeping(tmp_path, 2) as kept:
        headers = {HEADER: f"sha256={'0' * 64}", "Cookie": "session=canary", "Authorization": "Basic canary"}
        await kept.door.send("POST", "/webhooks/acme", delivery(1), headers)
        _, raw = await kept.get("/api/v1/acme/rejects/1")
    assert b"canary" not in raw.partition(b"\r\n\r\n")[0]
    assert b"Content-Length" in raw
