"""Promises 1, 2 and 5 under fire: the service is killed in the middle of a load, again and again."""

import asyncio
import random
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest

from servers.compare import (
    LONG,
    assert_kept,
    assert_like_a_clean_rebuild,
    assert_published,
    opened,
    until,
    until_applied,
    whole_log,
)
from servers.kafka import RunningKafka
from servers.service import SECRET, TENANT, Service, command
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.twin.faults import Faults
from whatsms_events.twin.ledger import Ledger
from whatsms_events.twin.sender import Sender
from whatsms_events.twin.world import World

KILLS = 20 if LONG else 8
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]


async def storm(service: Service, *, kills: int, seed: int) -> Ledger:
    """Send to the service while killing it `kills` times, each with deliveries in flight; return the ledger."""
    rng = random.Random(seed)
    ledger = Ledger()
    world = World(seed, start=datetime.now(UTC), tenant_id=TENANT, pace=1000)
    faults = Faults(seed=seed, redeliver=0.05, reorder=0.05)
    sender = Sender(service.webhook_url, SECRET.encode(), ledger, faults=faults, connections=16, tries=200, drain_s=60)
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(sender.run(world, stop))
        for number in range(kills):
            wanted = len(ledger.accepted) + rng.randrange(20, 300)

            def under_way(wanted: int = wanted) -> bool:
                return len(ledger.accepted) >= wanted and sender.in_flight > 0

            await until(under_way, 60, f"deliveries in flight before kill {number}")
            assert sender.in_flight > 0
            service.signal(signal.SIGKILL)
            await service.kill()
            await service.start()
        wanted = len(ledger.accepted) + 100
        await until(lambda: len(ledger.accepted) >= wanted, 60, "deliveries after the last kill")
        stop.set()
    assert not ledger.given_up
    assert ledger.by_outcome["error"] >= kills, "the kills cut no delivery short"
    return ledger


async def test_kills_on_sqlite_lose_nothing_that_got_a_2xx(tmp_path: Path) -> None:
    """After 20 kill -9 in mid-load every accepted body is in the log once, and the projection is a clean run's."""
    service = Service(tmp_path / "service")
    await service.start()
    ledger = await storm(service, kills=KILLS, seed=1)
    log, projection = await opened(
        f"sqlite:///{service.folder / 'log.db'}", f"sqlite:///{service.folder / 'projection.db'}"
    )
    await until_applied(log, projection, 60)
    await service.stop()
    await assert_kept(ledger, log)
    await assert_like_a_clean_rebuild(log, projection, tmp_path)
    await log.close()
    await projection.close()


async def test_kills_on_postgresql_and_kafka_lose_nothing_that_got_a_2xx(
    postgres_url: str, kafka: RunningKafka, topic_prefix: str, tmp_path: Path
) -> None:
    """The same on PostgreSQL and Kafka, and read_committed consumers see the log exactly once."""
    service = Service(
        tmp_path / "service",
        settings={
            "database": {"url": postgres_url},
            "kafka": {"bootstrap_servers": kafka.bootstrap, "topic_prefix": topic_prefix, "partitions": 4},
        },
    )
    command(service, "db", "upgrade")
    command(service, "topics", "create")
    await service.start()
    ledger = await storm(service, kills=KILLS, seed=2)
    log, projection = await opened(postgres_url, postgres_url)
    await until_applied(log, projection, 120)
    await service.stop()
    await assert_kept(ledger, log)
    assert_published(kafka.bootstrap, topic_prefix, await whole_log(log), await EventLog(log).log_id())
    await assert_like_a_clean_rebuild(log, projection, tmp_path)
    await log.close()
    await projection.close()
