"""Real proxies with the files of `deploy/proxy` before a real receiver: a delivery arrives byte by byte as sent."""

import asyncio
import gzip
import hashlib
import io
import json
import re
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import aiohttp
import pytest

from conftest import missing
from servers.compare import opened
from servers.https import DEPLOY, Caddy, HttpsProxy, Nginx
from servers.process import UnavailableError
from servers.service import SECRET, SLUG, Service
from test_journey import delivery
from whatsms_events.config.settings import Settings
from whatsms_events.domain.signature import HEADER, sign
from whatsms_events.storage import audit
from whatsms_events.web.app import KEEPALIVE_S
from whatsms_events.web.receiver import BODY_DEADLINE_S

LIMIT: Final = Settings().receiver.body_limit_bytes
CHUNK: Final = 7000


def contact(**data: object) -> bytes:
    """Return a delivery about a contact."""
    return delivery("contact.created", "2026-01-15T10:30:00Z", contact=data)


EVENTS: Final = {
    "as the vendor writes it": contact(id="c-1", name="Ana"),
    "a newline at its end": contact(id="c-2", name="Ana") + b"\n",
    "carriage returns and blanks around": b" \r\n\t" + contact(id="c-3", name="Ana") + b"\r\n\r\n",
    "emoji in UTF-8": json.dumps(
        json.loads(contact(id="c-4", name="\U0001f469\u200d\U0001f4bb Jo\u00e3o")), ensure_ascii=False
    ).encode(),
    "one megabyte": contact(id="c-5", name="Ana", note="\u00e9" * 170_000),
}
ODD: Final = {
    "a byte order mark": b"\xef\xbb\xbf" + contact(id="c-6", name="Ana"),
    "no text at all": bytes(range(256)) * 40,
    "what looks like chunks": b"5\r\nhello\r\n0\r\n\r\n",
}
"""Bodies that are signed, and parked because they cannot be read."""


@pytest.fixture(params=[Caddy, Nginx])
def kind(request: pytest.FixtureRequest) -> type[HttpsProxy]:
    """Give each proxy in turn."""
    chosen: type[HttpsProxy] = request.param
    return chosen


def signed(body: bytes) -> dict[str, str]:
    """Return the header that signs a body."""
    return {HEADER: sign(body, SECRET.encode())}


async def in_chunks(body: bytes) -> AsyncIterator[bytes]:
    """Give a body piece by piece, so that its length is not announced."""
    for at in range(0, len(body), CHUNK):
        yield body[at : at + CHUNK]


@pytest.mark.process
async def test_a_delivery_goes_through_a_proxy_unchanged(kind: type[HttpsProxy], tmp_path: Path) -> None:
    """Over HTTPS each signed body is committed byte by byte, announced or in chunks; the rest is answered rightly."""
    service = Service(tmp_path / "service", roles="receiver")
    try:
        proxy = kind(tmp_path / "proxy", f"127.0.0.1:{service.public_port}")
    except UnavailableError as exc:
        missing(str(exc))
    await service.start()
    try:
        await proxy.start()
        # One connection: what is kept alive after each answer is part of what is tested.
        connector = aiohttp.TCPConnector(ssl=proxy.trusting(), limit=1)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=120)) as session:
            hook = f"{proxy.url}/webhooks/{SLUG}"
            await every_body_arrives(session, hook, service)
            await what_is_too_large_is_refused(session, hook, service)
            for path, status in ((f"/webhooks/{SLUG}", 200), ("/webhooks/nobody", 404), ("/metrics", 404), ("/", 404)):
                async with session.get(f"{proxy.url}{path}") as answer:
                    assert answer.status == status, path
            await service.kill()
            async with session.post(hook, data=b"{}", headers=signed(b"{}")) as answer:
                assert answer.status == 503
                assert int(answer.headers["Retry-After"]) > 0
    finally:
        await proxy.stop()
        await service.stop()


@pytest.mark.process
async def test_a_delivery_waits_in_caddy_while_the_receiver_is_restarted(tmp_path: Path) -> None:
    """A delivery that comes while no receiver runs is answered by the next one: the sender notices a delay only."""
    service = Service(tmp_path / "service", roles="receiver")
    try:
        proxy = Caddy(tmp_path / "proxy", f"127.0.0.1:{service.public_port}", patience="120s")
    except UnavailableError as exc:
        missing(str(exc))
    await service.start()
    try:
        await proxy.start()
        connector = aiohttp.TCPConnector(ssl=proxy.trusting())
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=120)) as session:

            async def told(body: bytes) -> int:
                async with session.post(f"{proxy.url}/webhooks/{SLUG}", data=body, headers=signed(body)) as answer:
                    return answer.status

            assert await told(EVENTS["as the vendor writes it"]) == 200
            await service.stop()
            async with asyncio.TaskGroup() as tasks:
                waiting = [tasks.create_task(told(body)) for body in EVENTS.values()]
                await service.start()
            assert [task.result() for task in waiting] == [200] * len(EVENTS)
    finally:
        await proxy.stop()
        await service.stop()


async def every_body_arrives(session: aiohttp.ClientSession, hook: str, service: Service) -> None:
    """Post each body, look at the answers, and compare what the log and the parked deliveries hold."""
    for bodies, status in ((EVENTS, 200), (ODD, 202)):
        for name, body in bodies.items():
            async with session.post(hook, data=body, headers=signed(body)) as answer:
                assert answer.status == status, (name, await answer.text())
            # The same again: this time nobody says how long it is.
            async with session.post(f"{hook}/", data=in_chunks(body), headers=signed(body)) as answer:
                assert answer.status == status, (name, await answer.text())
                assert status != 200 or (await answer.json())["duplicate"], name
    packed = gzip.compress(contact(id="c-7", name="Ana"), mtime=0)
    headers = signed(packed) | {"Content-Encoding": "gzip"}
    async with session.post(hook, data=packed, headers=headers) as answer:
        assert answer.status == 202
    waiting = contact(id="c-8", name="Ana")
    async with session.post(hook, data=waiting, headers=signed(waiting), expect100=True) as answer:
        assert answer.status == 200
    log, projection = await opened(
        f"sqlite:///{service.folder / 'log.db'}", f"sqlite:///{service.folder / 'projection.db'}"
    )
    held, parked = await audit.hashes(log), await audit.parked_hashes(log)
    await log.close()
    await projection.close()
    assert sorted(held) == sorted(hashlib.sha256(body).digest() for body in (*EVENTS.values(), waiting))
    assert sorted(parked) == sorted(hashlib.sha256(body).digest() for body in (*ODD.values(), packed))


async def what_is_too_large_is_refused(session: aiohttp.ClientSession, hook: str, service: Service) -> None:
    """Above its own limit the receiver refuses and says how large the body was; the proxy stops what is far above."""
    for size in (LIMIT + 1, 2 * LIMIT):
        body = b"x" * size
        try:
            async with session.post(hook, data=io.BytesIO(body), headers=signed(body)) as answer:
                assert answer.status == 413, size
        except aiohttp.ClientError:
            assert size > LIMIT + 1  # a proxy may hang up on whoever goes on sending
    async with session.get(f"{service.private_url}/metrics") as answer:
        text = await answer.text()
    # Caddy passes on what was announced, and the receiver refuses that before any of it is read.
    assert number(r"^whatsms_events_largest_refused_bytes (\S+)$", text) in {LIMIT + 1, 2 * LIMIT}


def number(pattern: str, text: str) -> float:
    """Return the number that a file gives."""
    (found,) = re.findall(pattern, text, re.MULTILINE)
    return float(found)


def test_limits_and_times_fit_the_receiver() -> None:
    """Both proxies let through more than the receiver takes, wait longer than it does, and hang up before it does.

    A receiver that stops leaves idle connections open for `idle_s`: the configurations shipped beside a proxy say
    longer than the proxies keep one, so that no delivery goes into a connection that is being closed.
    """
    caddy, nginx = ((DEPLOY / name).read_text(encoding="utf-8") for name in ("Caddyfile", "nginx.conf"))
    assert (
        LIMIT
        < number(r"^\s*max_size (\d+)MiB$", caddy) * 2**20
        == number(r"client_max_body_size (\d+)m;", nginx) * 2**20
    )
    kept_s = number(r"^\s*keepalive (\d+)s$", caddy)
    assert kept_s == number(r"^\s*keepalive_timeout (\d+)s;", nginx) < KEEPALIVE_S
    for beside in ("systemd", "compose"):
        text = (DEPLOY.parent / beside / "whatsms.toml").read_text(encoding="utf-8")
        assert tomllib.loads(text)["receiver"]["idle_s"] > kept_s
    assert number(r"read_body (\d+)s", caddy) == number(r"client_body_timeout (\d+)s", nginx) > BODY_DEADLINE_S
    waits = Settings().receiver.deadline_s + BODY_DEADLINE_S
    assert number(r"response_header_timeout (\d+)s", caddy) == number(r"proxy_read_timeout (\d+)s", nginx) > waits


@pytest.mark.parametrize("name", ["Caddyfile", "nginx.conf"])
def test_nothing_in_a_proxy_touches_a_body(name: str) -> None:
    """No file has a word that would encode, decode or replace."""
    words = (DEPLOY / name).read_text(encoding="utf-8")
    code = "\n".join(line for line in words.splitlines() if not line.strip().startswith("#"))
    assert not re.search(r"\b(gzip|gunzip|encode|replace|sub_filter|proxy_set_body|mirror|rewrite)\b", code)
