"""A process that starts while what it needs is away: it waits and says for what, or leaves where that is no use."""

import asyncio
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import aiohttp
import pytest

from servers.compare import until
from servers.ports import HOST, free_port
from servers.postgres import Postgres
from servers.service import SECRET, Service, command
from service.test_service import ended, files, readiness
from test_journey import delivery, told
from test_metrics import sample, shows
from whatsms_events.domain.signature import HEADER, sign

pytestmark = pytest.mark.process

STOP_S = 10.0
WAITS = "waiting: the {} database at "


async def refused(session: aiohttp.ClientSession, service: Service) -> bool:
    """Send a delivery and tell whether it was sent away with 503 and Retry-After; False while nobody listens."""
    body = delivery("ticket.closed", "2026-01-15T10:40:00Z", ticket={"id": "t-1"})
    try:
        async with session.post(
            service.webhook_url, data=body, headers={HEADER: sign(body, SECRET.encode())}
        ) as answer:
            return answer.status == 503 and "Retry-After" in answer.headers
    except aiohttp.ClientError:
        return False


async def waits(session: aiohttp.ClientSession, service: Service, words: str) -> bool:
    """Tell whether the process is up, not ready, and says that it waits for this."""
    try:
        status, body = await readiness(session, service)
    except aiohttp.ClientError:
        return False
    return status == 503 and words in str(body["checks"].get("start", ""))


async def test_a_database_that_is_away_at_the_start_is_waited_for(own_postgres: Postgres, tmp_path: Path) -> None:
    """With the server down: alive, not ready, and /readyz names the database and the reason; a delivery is sent away
    with 503 and Retry-After, and the read API answers 503. Once the server is up, all of it works without a restart.
    """
    service = Service(tmp_path / "service", settings={"database": {"url": own_postgres.url}})
    command(service, "db", "upgrade")
    await own_postgres.stop()
    service.spawn()
    async with aiohttp.ClientSession() as session:
        where = f"{HOST}:{own_postgres.port}/postgres"
        await until(lambda: waits(session, service, WAITS.format("log") + where), 60, "it waits")
        assert await refused(session, service)
        await shows(session, service, {sample("deliveries_total", tenant="acme", outcome="unavailable"): 1})
        async with session.get(f"{service.private_url}/livez") as answer:
            assert answer.status == 200
        async with session.get(f"{service.private_url}/api/v1/events") as answer:
            assert answer.status == 503
        assert (await readiness(session, service, "receiver"))[0] == 503
        await own_postgres.start()
        await until(service.serves, 60, "it has stopped waiting")
        await told(session, service)
    assert service.pid is not None
    said = [line for line in service.lines() if line["event"] == "service.waiting"]
    assert said[0]["level"] == "warning"
    assert where in str(said[0]["reason"])
    assert len({str(line["reason"]) for line in said}) == len(said), "each reason is said once"
    await service.stop()


@pytest.mark.parametrize("silent", [False, True], ids=["refused", "silent"])
async def test_a_start_that_waits_can_be_stopped(tmp_path: Path, *, silent: bool) -> None:
    """Where nobody listens, and where somebody listens and never answers: SIGTERM ends it in seconds, with status 0."""
    port = free_port()
    gone = asyncio.Event()

    async def nothing(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gone.wait()
        writer.close()

    server = await asyncio.start_server(nothing, HOST, port) if silent else None
    service = Service(
        tmp_path / "service", settings={"database": {"url": f"postgresql://nobody@{HOST}:{port}/nothing"}}
    )
    service.spawn()
    async with aiohttp.ClientSession() as session:
        await until(lambda: waits(session, service, "" if silent else WAITS.format("log")), 60, "it waits")
        service.signal(signal.SIGTERM)
        assert await ended(service, STOP_S) == 0
    gone.set()
    if server is not None:
        server.close()
    assert [line["event"] for line in service.lines()][-2:] == ["service.stopping", "service.stopped"]


@pytest.mark.parametrize("part", ["log", "projection"])
async def test_a_file_that_another_process_has_locked_is_waited_for(tmp_path: Path, part: str) -> None:
    """While somebody else holds SQLite's lock on log or projection the start waits; then it goes on by itself."""
    first = Service(tmp_path / "service")
    await first.start()
    await first.stop()
    url = files(first.folder)[part == "projection"]
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = DELETE")  # its lock keeps readers out too
        other.execute("BEGIN EXCLUSIVE")
        first.spawn()
        async with aiohttp.ClientSession() as session:
            await until(lambda: waits(session, first, WAITS.format(part)), 60, "it waits")
            assert await refused(session, first)
            other.execute("ROLLBACK")
            await until(first.serves, 60, "it has stopped waiting")
            await told(session, first)
    await first.stop()


async def test_wrong_configuration_leaves_at_once(postgres_url: str, tmp_path: Path) -> None:
    """A database that the server does not know, one that was never migrated, and a file that holds something else: the
    process ends with status 2 and a line that names it, since no waiting mends that.
    """
    unknown = Service(tmp_path / "unknown", settings={"database": {"url": f"{postgres_url}_not"}})
    empty = Service(tmp_path / "empty", settings={"database": {"url": postgres_url}})
    other = Service(tmp_path / "other")
    (other.folder / "log.db").write_bytes(b"a letter to my mother\n" * 1000)
    for service, words in ((unknown, "3D000"), (empty, "db upgrade"), (other, "SQLITE_NOTADB")):
        service.spawn()
        assert await ended(service, 60) == 2
        assert words in (service.folder / "output.log").read_text().splitlines()[-1]
