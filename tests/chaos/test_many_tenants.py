"""Many tenants in one process on PostgreSQL: what repairs them takes no connection from what must not wait."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest

from servers.compare import assert_kept, assert_published, opened, until, until_applied, whole_log
from servers.kafka import RunningKafka
from servers.postgres import ask
from servers.service import SECRET, TENANT, Service, command
from servers.upstream import KEY, account, sections
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.twin.ledger import Ledger
from whatsms_events.twin.sender import Sender
from whatsms_events.twin.world import World

OTHERS = 11
FINISHED = "SELECT count(DISTINCT tenant) FROM backfill_run WHERE finished_at IS NOT NULL"
LOCKING = (
    "SELECT count(DISTINCT pid) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database"
    " WHERE datname = current_database() AND locktype = 'advisory'"
    " AND objsubid = 1 AND (classid::bigint << 32) + objid::bigint NOT IN (8607103471254897509, 2003329396)"
)
"""Sessions that hold role locks: neither the log's lock nor that of migrations."""

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]


async def test_first_backfills_of_many_tenants_leave_connections_to_everybody(
    postgres_url: str, kafka: RunningKafka, topic_prefix: str, tmp_path: Path
) -> None:
    """While twelve tenants are read for the first time, no role waits in vain for a connection, the service is ready
    whenever it is asked, each delivery is accepted, and all role locks are in one session.
    """
    async with account(minutes=3) as upstream:
        settings = sections(upstream.url) | {
            "database": {"url": postgres_url},
            "kafka": {"bootstrap_servers": kafka.bootstrap, "topic_prefix": topic_prefix, "partitions": 2},
        }
        for number in range(OTHERS):
            settings[f"tenants.t{number}"] = {"tenant_id": f"tenant-{number}", "api_key": KEY}
            settings[f"tenants.t{number}.webhook_secrets"] = {"current": SECRET}
        service = Service(tmp_path / "service", roles="receiver,relay,consumer,backfill", settings=settings)
        command(service, "db", "upgrade")
        command(service, "topics", "create")
        await service.start()
        ledger, stop, statuses, sessions = Ledger(), asyncio.Event(), set[int](), set[int]()
        world = World(5, start=datetime.now(UTC), tenant_id=TENANT, pace=200)
        sender = Sender(service.webhook_url, SECRET.encode(), ledger, rate=20, tries=50)

        async def all_finished() -> bool:
            assert_no_trouble(service)
            async with aiohttp.ClientSession() as session, session.get(f"{service.private_url}/readyz") as answer:
                statuses.add(answer.status)
            sessions.add(await ask(postgres_url, LOCKING))
            return bool(await ask(postgres_url, FINISHED) == OTHERS + 1)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(sender.run(world, stop))
            try:
                await until(all_finished, 400, "every tenant to be read")
            except BaseException:
                await service.kill()
                raise
            finally:
                stop.set()
        log, projection = await opened(postgres_url, postgres_url)
        await until_applied(log, projection, 120)
        await service.stop()
        await assert_kept(ledger, log)
        assert_published(kafka.bootstrap, topic_prefix, await whole_log(log), await EventLog(log).log_id())
        await log.close()
        await projection.close()
        assert_no_trouble(service)
        assert statuses == {200}
        assert max(sessions) == 1


def assert_no_trouble(service: Service) -> None:
    """Check that nobody had to do without the database."""
    lines = service.lines()
    assert not [line for line in lines if line.get("error") == "StorageUnavailableError" or line["event"] == "log.away"]
