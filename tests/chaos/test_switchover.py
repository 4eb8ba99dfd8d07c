"""Promise 1 and the roles where the database changes places with its standby, and stays up as one that only reads."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import aiohttp
import pytest

from servers.compare import (
    assert_kept,
    assert_like_a_clean_rebuild,
    assert_published,
    opened,
    until,
    until_applied,
    whole_log,
)
from servers.kafka import RunningKafka
from servers.ports import HOST
from servers.postgres import Postgres, Standby, ask, set_for_all
from servers.proxy import TcpProxy
from servers.service import SECRET, SLUG, TENANT, Service, command
from servers.upstream import FAST, KEY, sections
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.twin.faults import Faults
from whatsms_events.twin.ledger import Ledger
from whatsms_events.twin.rest.limits import RestLimits
from whatsms_events.twin.rest.server import Rest, RestServer
from whatsms_events.twin.sender import Sender
from whatsms_events.twin.world import World

LIMIT_S = 90.0
"""For a busy machine; an idle one needs a few seconds, and ten are promised: see what is recorded."""

OURS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'whatsms-events'"
Recorder = Callable[[str, object], None]
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a test's service works."""

    standby: Standby
    kafka: RunningKafka
    prefix: str
    folder: Path

    @property
    def both(self) -> str:
        """The URL of both servers, the primary first."""
        primary = self.standby.primary
        return primary.url.replace(f"{HOST}:{primary.port}", f"{HOST}:{primary.port},{HOST}:{self.standby.port}")


@pytest.fixture
def place(standby: Standby, kafka: RunningKafka, topic_prefix: str, tmp_path: Path) -> Place:
    """Give a primary with its standby, a broker, and a folder."""
    return Place(standby, kafka, topic_prefix, tmp_path)


@dataclass
class Stage:
    """A running service with every role, under load, and its two database servers."""

    service: Service
    standby: Standby
    ledger: Ledger

    async def get(self, path: str) -> Any:
        """Ask the private listener."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.service.private_url}{path}") as answer:
            return await answer.json(content_type=None)

    async def reached(self, server: Postgres) -> dict[str, int]:
        """Return how far each role is, by what is on a server."""
        row = await ask(
            server.url,
            "SELECT json_build_object('backfill', (SELECT max(updated_at) FROM backfill_run),"
            " 'relay', (SELECT max(published_through) FROM relay),"
            " 'consumer', (SELECT max(applied_through) FROM projection),"
            " 'receiver', (SELECT max(position) FROM event_log))",
        )
        return {role: at or 0 for role, at in json.loads(row).items()}

    async def works_on(self, server: Postgres, since: dict[str, int]) -> bool:
        """Tell whether every role got further on this server than it was, and whether the read API shows it."""
        now = await self.reached(server)
        shown = await self.get(f"/api/v1/events?after={since['receiver']}&limit=1")
        return all(now[role] > before for role, before in since.items()) and bool(shown.get("events"))

    async def until_all_work_on(self, server: Postgres) -> float:
        """Wait until every role gets on with its work on this server; return how long it took in seconds."""
        began, since = monotonic(), await self.reached(server)
        await until(lambda: self.works_on(server, since), LIMIT_S, f"every role on {server.port}")
        return monotonic() - began


@asynccontextmanager
async def staged(url: str, place: Place) -> AsyncIterator[Stage]:
    """Run a service with every role on this URL, and send to it; check at the end that no 2xx was lost."""
    standby, kafka, prefix, folder = place.standby, place.kafka, place.prefix, place.folder
    world = World(7, start=datetime.now(UTC), tenant_id=TENANT, pace=200)
    rest = Rest(world.account, api_key=KEY, limits=RestLimits(requests=FAST))
    async with RestServer(rest) as upstream:
        settings = sections(upstream.url, backfill={"interval_s": 1})
        settings |= {
            "database": {"url": url},
            "kafka": {"bootstrap_servers": kafka.bootstrap, "topic_prefix": prefix, "partitions": 2},
        }
        service = Service(folder / "service", roles="receiver,relay,consumer,backfill", settings=settings)
        await asyncio.to_thread(command, service, "db", "upgrade")  # the proxy in front lives in this loop
        await asyncio.to_thread(command, service, "topics", "create")
        await service.start()
        stage, stop = Stage(service, standby, Ledger()), asyncio.Event()
        faults = Faults(seed=7, redeliver=0.05, drop=0.02)
        sender = Sender(
            service.webhook_url, SECRET.encode(), stage.ledger, faults=faults, rate=60, tries=200, drain_s=60
        )
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(sender.run(world, stop))
            try:
                yield stage
            except BaseException:
                await service.kill()
                raise
            finally:
                stop.set()
        log, projection = await opened(standby.url, standby.url)
        await until_applied(log, projection, LIMIT_S)
        await service.stop()
        assert not stage.ledger.given_up
        await assert_kept(stage.ledger, log)
        assert_published(kafka.bootstrap, prefix, await whole_log(log), await EventLog(log).log_id())
        await assert_like_a_clean_rebuild(log, projection, folder)
        await log.close()
        await projection.close()


async def assert_all_say_so(stage: Stage) -> None:
    """Wait until readiness says that nothing can be written, and of each role that it cannot."""

    async def said() -> bool:
        found = await stage.get("/readyz")
        whys = [found["details"][role]["why"] for role in ("relay", "consumer", f"backfill.{SLUG}")]
        return "read-only" in found["checks"]["log_writable"] and all("read-only" in why for why in whys)

    await until(said, LIMIT_S, "readiness to say which roles cannot write")


@pytest.mark.parametrize("address", ["both hosts", "one address that moves"])
async def test_old_primary_that_stays_up_and_only_reads_holds_no_role(
    place: Place, address: str, record_testsuite_property: Recorder
) -> None:
    """Under load the primary turns read-only with every connection left open, and the standby takes over: no 2xx is
    lost, readiness says meanwhile which roles cannot write, and each role leaves the old server for the new one.
    """
    standby = place.standby
    primary = standby.primary
    async with TcpProxy(primary.port) as proxy:
        moving = primary.url.replace(f":{primary.port}", f":{proxy.port}")
        url = place.both if address == "both hosts" else moving
        async with staged(url, place) as stage:
            await stage.until_all_work_on(primary)
            await set_for_all(primary, "default_transaction_read_only", "on")
            await assert_all_say_so(stage)
            await standby.promote()
            proxy.upstream = standby.port
            record_testsuite_property("every role moved, in seconds", await stage.until_all_work_on(standby))
            await until(lambda: left(primary), LIMIT_S, "the old primary to be left by every connection")


async def left(server: Postgres) -> bool:
    """Tell whether none of our connections is on a server any more."""
    return bool(await ask(server.url, OURS) == 0)


async def test_primary_and_standby_change_places(place: Place, record_testsuite_property: Recorder) -> None:
    """Under load the primary is stopped, its standby promoted, and the old one comes back as a standby: no 2xx is
    lost, and every role works on the new primary although the old one stands first in the URL and answers.
    """
    standby = place.standby
    primary = standby.primary
    async with staged(place.both, place) as stage:
        await stage.until_all_work_on(primary)
        await primary.stop()
        await standby.lead()
        record_testsuite_property("every role moved, in seconds", await stage.until_all_work_on(standby))
        assert await left(primary)
