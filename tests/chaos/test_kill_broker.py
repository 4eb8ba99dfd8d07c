"""Promise 4 under fire: broker and relay are killed in the middle of a stream."""

import asyncio
import random
from collections import Counter
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
from servers.kafka import Broker
from servers.service import SECRET, TENANT, Service, command
from whatsms_events.storage.database import Database
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.log.relay_row import RelayRows
from whatsms_events.twin.faults import Faults
from whatsms_events.twin.ledger import Ledger
from whatsms_events.twin.sender import Sender
from whatsms_events.twin.world import World

KILLS = 10 if LONG else 3
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(2700)]


async def published_through(log: Database, prefix: str) -> int:
    """Return the relay's lower bound."""
    row = await RelayRows(log).load(prefix)
    return row.published_through if row is not None else 0


async def unpublished(log: Database, prefix: str) -> bool:
    """Tell whether the log is ahead of what is known to be visible."""
    return await published_through(log, prefix) < await EventLog(log).end()


async def test_kills_of_broker_and_relay_in_mid_stream_leave_each_event_in_kafka_once(
    quick_broker: Broker, postgres_url: str, topic_prefix: str, tmp_path: Path
) -> None:
    """Several kill -9 of the broker and of the relay while events stream: Kafka holds the log, once, in order."""
    settings: dict[str, dict[str, object]] = {
        "database": {"url": postgres_url},
        "kafka": {
            "bootstrap_servers": quick_broker.bootstrap,
            "topic_prefix": topic_prefix,
            "partitions": 4,
            "timeout_s": 5,
        },
        "relay": {"check_interval_s": 0.5},
    }
    receiver = Service(tmp_path / "receiver", roles="receiver", settings=settings)
    relay = Service(tmp_path / "relay", roles="relay,consumer", settings=settings)
    command(receiver, "db", "upgrade")
    command(receiver, "topics", "create")
    await receiver.start()
    await relay.start()
    rng = random.Random(4)
    victims = ["broker"] * KILLS + ["relay"] * KILLS
    rng.shuffle(victims)
    ledger, stop = Ledger(), asyncio.Event()
    world = World(4, start=datetime.now(UTC), tenant_id=TENANT, pace=200)
    faults = Faults(seed=4, redeliver=0.02, reorder=0.05)
    sender = Sender(receiver.webhook_url, SECRET.encode(), ledger, faults=faults, rate=200, tries=100, drain_s=60)
    log, projection = await opened(postgres_url, postgres_url)
    in_mid_stream: Counter[str] = Counter()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(sender.run(world, stop))
        for number, victim in enumerate(victims):
            before = await published_through(log, topic_prefix)

            async def going_on(before: int = before) -> bool:
                return await published_through(log, topic_prefix) > before

            await until(going_on, 90, f"publishing before kill {number} ({victim})")
            await asyncio.sleep(rng.random() / 2)  # a seeded moment between two transactions, or in one
            server = quick_broker if victim == "broker" else relay
            in_mid_stream[victim] += await unpublished(log, topic_prefix)
            await server.kill()
            await server.start()
        stop.set()
    assert not ledger.given_up
    assert min(in_mid_stream[victim] for victim in ("broker", "relay")) >= (KILLS // 2 if LONG else 1), in_mid_stream

    async def all_published() -> bool:
        return await published_through(log, topic_prefix) == await EventLog(log).end()

    await until(all_published, 120, "everything published")
    await until_applied(log, projection, 120)
    await relay.stop()
    await receiver.stop()
    await assert_kept(ledger, log)
    assert_published(quick_broker.bootstrap, topic_prefix, await whole_log(log), await EventLog(log).log_id())
    await assert_like_a_clean_rebuild(log, projection, tmp_path)
    await log.close()
    await projection.close()
