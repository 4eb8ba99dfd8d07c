"""Where the consumer begins and goes on in Kafka: nothing is skipped silently, whatever retention and partitions do."""

import asyncio
import itertools
from collections.abc import Collection, Sequence
from uuid import uuid4

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic  # type: ignore[attr-defined]  # it has no __all__
from sqlalchemy import func, insert, select

from servers.kafka import Broker
from servers.proxy import TcpProxy
from whatsms_events.domain.records import TOPICS
from whatsms_events.domain.resume import Partition
from whatsms_events.errors import OffsetGoneError, StorageUnavailableError
from whatsms_events.kafka.connection import KafkaReader, KafkaTarget
from whatsms_events.storage import tables
from whatsms_events.storage.log.relay_row import RelayRows
from whatsms_events.storage.projection.apply import Applied, Projection, ProjectionState, ReadItem
from whatsms_events.storage.role_lock import RoleLock
from whatsms_events.workers import sources
from whatsms_events.workers.consumer import Consumer
from whatsms_events.workers.sources import KafkaSource
from workers.test_consumer import Bench, bench, connect, with_kafka

__all__ = ["bench", "with_kafka"]  # fixtures

DEADLINE_S = 120.0


def admin_of(bench: Bench) -> AdminClient:
    """Return librdkafka's admin client."""
    assert bench.kafka is not None
    return AdminClient({"bootstrap.servers": bench.kafka.bootstrap_servers, "log_level": 0})


async def retention_empties(bench: Bench, partitions: Collection[Partition]) -> None:
    """Remove every record of these partitions, as retention does."""
    assert bench.kafka is not None
    reader = await KafkaReader.open(bench.kafka)
    ends = await reader.ends(partitions)
    await reader.close()
    admin = admin_of(bench)
    for done in admin.delete_records([TopicPartition(*at, end) for at, end in ends.items() if end]).values():
        await asyncio.to_thread(done.result, 10)


async def add_partitions(bench: Bench, count: int) -> list[Partition]:
    """Let the topic of conversations have `count` partitions; return the new ones."""
    topic, admin = f"{bench.prefix}.conversations", admin_of(bench)
    await asyncio.to_thread(admin.create_partitions([NewPartitions(topic, count)])[topic].result, 10)
    return [(topic, number) for number in range(3, count)]


def all_partitions(bench: Bench) -> list[Partition]:
    """Return the partitions that every topic has from the start."""
    return [(f"{bench.prefix}.{name}", n) for name in ("conversations", "contacts", "campaigns") for n in range(3)]


def in_small_steps(bench: Bench) -> Consumer:
    """Return a consumer of Kafka that takes ten at a time."""
    assert bench.kafka is not None
    source = KafkaSource(
        bench.event_log,
        RelayRows(bench.log),
        bench.kafka,
        bench.prefix,
        poll_s=0.05,
        monotonic=itertools.count(step=10).__next__,
    )
    return Consumer(Projection(bench.projection), source, RoleLock(bench.projection, "consumer"), batch_limit=10)


async def follow(bench: Bench, consumer: Consumer, end: int) -> ProjectionState:
    """Run the consumer until it says that everything up to `end` is applied."""
    async with asyncio.timeout(DEADLINE_S):
        while (await Projection(bench.projection).state()).applied_through < end:
            await consumer.run_once()
    return await Projection(bench.projection).state()


async def test_a_first_fill_misses_nothing_that_retention_removes_meanwhile(with_kafka: Bench) -> None:
    """While a new projection reads the log, events are published and removed from Kafka again: they are applied."""
    bench = with_kafka
    await bench.append(20)
    consumer = in_small_steps(bench)
    await consumer.run_once()  # the log's end is noted, and half of it read
    end = await bench.append(40)
    await bench.publish()
    await retention_empties(bench, all_partitions(bench))
    state = await follow(bench, consumer, end)
    await consumer.close()
    assert state.applied == 60


async def test_an_added_partition_that_retention_emptied_stops_the_consumer(with_kafka: Bench) -> None:
    """Partitions added and emptied while the consumer was down: it stops and names the replay, and skips nothing."""
    bench = with_kafka
    consumer = bench.from_kafka()
    await consumer.run_once()
    end = await bench.append(60)
    await bench.publish()
    await follow(bench, consumer, end)
    await consumer.close()
    added = await add_partitions(bench, 6)
    end = await bench.append(200)
    await bench.publish()
    await retention_empties(bench, added)
    consumer = bench.from_kafka()
    with pytest.raises(OffsetGoneError, match="replay projection"):
        await follow(bench, consumer, end)
    await consumer.close()


async def test_a_broker_that_does_not_know_of_added_partitions_yet_holds_applied_through_back(
    with_kafka: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While metadata is stale, `applied_through` stays where everything is applied; with it fresh it moves on."""
    bench = with_kafka
    consumer = bench.from_kafka()
    await consumer.run_once()
    await bench.append(10)
    await bench.publish()
    await add_partitions(bench, 6)
    end = await bench.append(200)
    await bench.publish()

    async def stale(_target: KafkaTarget, prefix: str) -> dict[str, int]:
        return {f"{prefix}.{suffix}": 3 for suffix in TOPICS}

    with monkeypatch.context() as patched:
        patched.setattr(sources, "count_partitions", stale)
        for _ in range(40):
            await consumer.run_once()
            state = await Projection(bench.projection).state()
            assert state.applied_through == 0
    state = await follow(bench, consumer, end)
    await consumer.close()
    assert state.applied == 210


async def test_a_failed_commit_loses_no_record_of_kafka(with_kafka: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a batch could not be saved, the consumer reads Kafka again from its saved offsets."""
    bench = with_kafka
    consumer = bench.from_kafka()
    await consumer.run_once()
    end = await bench.append(150)
    await bench.publish()
    apply = Projection.apply
    failed: list[int] = []

    async def fails_once(
        projection: Projection, items: Sequence[ReadItem], before: ProjectionState, after: ProjectionState
    ) -> Applied:
        if items and not failed:
            failed.append(len(items))
            raise StorageUnavailableError("away")
        return await apply(projection, items, before, after)

    monkeypatch.setattr(Projection, "apply", fails_once)
    with pytest.raises(StorageUnavailableError):
        await follow(bench, consumer, end)
    state = await follow(bench, consumer, end)
    await consumer.close()
    assert failed
    assert state.applied == 150


async def test_poison_is_parked_once_whichever_way_it_comes(with_kafka: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that cannot be decoded, read from Kafka and again from the log after a switch, is parked once."""
    bench = with_kafka
    consumer = bench.from_kafka()
    await consumer.run_once()
    await bench.append(20)
    poison = {
        "id": uuid4(),
        "type": "ticket.updated",
        "tenant": "tenant-1",
        "received_at": 1,
        "origin": "webhook",
        "subject": "s",
        "sha256": bytes(32),
        "data": "{",
        "raw": b"{",
    }
    async with bench.log.write() as connection:
        await connection.execute(insert(tables.event_log), poison)
    await bench.publish()

    async def nothing_yet(_rows: RelayRows, _prefix: str) -> None:
        return None

    with monkeypatch.context() as patched:  # so that the log is read again from before
        patched.setattr(RelayRows, "load", nothing_yet)
        async with asyncio.timeout(DEADLINE_S):
            while (await Projection(bench.projection).state()).applied < 20 or not await parked(bench):
                await consumer.run_once()
    await consumer.close()
    assert (await Projection(bench.projection).state()).applied_through == 0
    await bench.apply_all(bench.from_log())
    assert await parked(bench) == 1


async def parked(bench: Bench) -> int:
    """Count the parked events."""
    async with bench.projection.read() as connection:
        return int((await connection.execute(select(func.count()).select_from(tables.parked_event))).scalar_one())


async def test_only_our_topics_are_asked_for_and_only_when_something_changed(
    bench: Bench, proxied_broker: tuple[Broker, TcpProxy]
) -> None:
    """In a cluster full of other topics, relay and consumer ask for their three, and not again while nothing changes.

    Partitions that are added are found all the same.
    """
    broker, proxy = proxied_broker
    admin = AdminClient({"bootstrap.servers": broker.direct, "log_level": 0})
    for made in admin.create_topics([NewTopic(f"other.{number}", 1, 1) for number in range(30)]).values():
        await asyncio.to_thread(made.result, 60)
    await connect(bench, broker, "p")
    end = await bench.append(60)
    relay, consumer = bench.relay(), bench.from_kafka()
    await relay.run_once()
    async with asyncio.timeout(DEADLINE_S):
        while (await follow(bench, consumer, end)).offsets == {}:
            await relay.run_once()
            await consumer.run_once()
    before = len(proxy.metadata)
    for _ in range(20):  # each looks at what is published, and at what is visible
        await relay.run_once()
        await consumer.run_once()
    assert len(proxy.metadata) == before > 0
    await relay.close()
    await add_partitions(bench, 6)
    await follow(bench, consumer, await published(bench, 200))
    await consumer.close()
    offsets = (await Projection(bench.projection).state()).offsets
    assert len([topic for topic, _ in offsets if topic == "p.conversations"]) == 6
    ours = {f"p.{suffix}" for suffix in TOPICS}
    assert None not in proxy.metadata, "all topics were asked for"
    assert {name for names in proxy.metadata for name in names or ()} == ours


async def published(bench: Bench, count: int) -> int:
    """Append and publish so many; return the log's end."""
    end = await bench.append(count)
    await bench.publish()
    return end
