"""PostgreSQL behind a real PgBouncer, whose pools a service may or may not use."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pytest

from cli.commands import run
from conftest import missing
from servers.compare import assert_kept, opened, until
from servers.pgbouncer import PgBouncer
from servers.process import UnavailableError
from servers.service import SECRET, TENANT, Service, command
from whatsms_events.errors import ConfigError
from whatsms_events.storage.database import DatabaseTarget, open_log
from whatsms_events.storage.role_lock import RoleLock
from whatsms_events.twin.ledger import Ledger
from whatsms_events.twin.sender import Sender
from whatsms_events.twin.world import World


@pytest.fixture
async def pooler(postgres_url: str, request: pytest.FixtureRequest) -> AsyncIterator[PgBouncer]:
    """Give a running PgBouncer in front of a fresh database, in the mode that the test names."""
    mode: Literal["session", "transaction"] = request.param
    try:
        server = PgBouncer(postgres_url, mode)
    except UnavailableError as exc:
        missing(str(exc))
    try:
        await server.start()
        yield server
    finally:
        await server.remove()


@pytest.mark.parametrize("pooler", ["session"], indirect=True)
async def test_receiver_works_behind_a_pooler_in_session_mode(pooler: PgBouncer, tmp_path: Path) -> None:
    """`db upgrade` and a receiver use a PgBouncer that knows no parameter of ours; nothing that got a 2xx is lost."""
    service = Service(tmp_path / "service", roles="receiver", settings={"database": {"url": pooler.url}})
    command(service, "db", "upgrade")
    await service.start()
    ledger, stop = Ledger(), asyncio.Event()
    sender = Sender(service.webhook_url, SECRET.encode(), ledger, rate=200, tries=50)
    async with asyncio.TaskGroup() as tasks:
        world = World(3, start=datetime.now(UTC), tenant_id=TENANT, pace=1000)
        tasks.create_task(sender.run(world, stop))
        await until(lambda: len(ledger.accepted) > 100, 60, "deliveries accepted")
        stop.set()
    await service.stop()
    log, projection = await opened(pooler.url, pooler.url)
    await assert_kept(ledger, log)
    await log.close()
    await projection.close()


@pytest.mark.parametrize("pooler", ["session"], indirect=True)
async def test_limits_of_a_session_hold_behind_a_pooler_too(pooler: PgBouncer) -> None:
    """What is set after connecting is in force: the wait for a lock, and for whoever froze inside a transaction."""
    log = await open_log(DatabaseTarget(pooler.url), migrate=True)
    lock = RoleLock(log, "relay")
    async with log.driver() as connection:
        assert await connection.fetchval("SHOW lock_timeout") == "2500ms"
        assert await connection.fetchval("SHOW idle_in_transaction_session_timeout") == "10s"
        assert await lock.take()
        assert not await RoleLock(log, "relay").take()
    await lock.release()
    await log.close()


@pytest.mark.parametrize("pooler", ["transaction"], indirect=True)
async def test_pooler_in_transaction_mode_is_refused_and_explained(
    pooler: PgBouncer, postgres_url: str, tmp_path: Path
) -> None:
    """Behind PgBouncer in transaction mode locks and limits would belong to nobody: it is refused, with the way out."""
    await (await open_log(DatabaseTarget(postgres_url), migrate=True)).close()
    with pytest.raises(ConfigError, match="pool_mode=session"):
        await open_log(DatabaseTarget(pooler.url), migrate=False)
    done = run(tmp_path, "config", "check", "--set", f"database.url={pooler.url}")
    assert done.status == 2
    assert "pool_mode=session" in done.err[-1]


@pytest.mark.parametrize("pooler", ["session"], indirect=True)
async def test_pooler_that_refuses_us_is_quoted(pooler: PgBouncer, tmp_path: Path) -> None:
    """A pooler's own words are shown, with what to do: here it knows no such user (class 08 of SQLSTATE)."""
    url = pooler.url.replace("whatsms@", "stranger@")
    done = run(tmp_path, "db", "upgrade", "--set", f"database.url={url}")
    assert done.status == 1
    (line,) = done.err
    assert '08P01: "trust" authentication failed; ' in line
    assert "behind a pooler, see its own log" in line
