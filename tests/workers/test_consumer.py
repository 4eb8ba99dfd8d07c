"""The consumer on real databases and real Kafka: each event applied once, from the log and from Kafka."""

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewPartitions  # type: ignore[attr-defined]  # it has no __all__
from sqlalchemy import delete, select, text, update
from structlog.testing import capture_logs

from servers.compare import assert_like_a_clean_rebuild, assert_shows, rows_of, until
from servers.kafka import Broker, RunningKafka
from servers.metric import counted
from servers.postgres import end_lock_holder
from servers.working import working
from whatsms_events.config.settings import (
    ConsumerSettings,
    Kafka,
    Privacy,
    ReceiverSettings,
    RelaySettings,
    Settings,
)
from whatsms_events.domain.normalize import normalize
from whatsms_events.domain.resume import Published
from whatsms_events.domain.verdicts import Append
from whatsms_events.errors import FencedError, IntegrityError
from whatsms_events.kafka.connection import KafkaTarget
from whatsms_events.kafka.topics import create_topics
from whatsms_events.service.parts import make_committer, make_consumer, make_relay
from whatsms_events.service.stores import Stores
from whatsms_events.service.supervisor import Supervisor
from whatsms_events.storage import tables
from whatsms_events.storage.database import Database, DatabaseTarget, open_log, open_projection
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.log.relay_row import RelayRows
from whatsms_events.storage.projection.apply import POISON_LIMIT, STRAYS_KEPT, Projection
from whatsms_events.storage.role_lock import RoleLock
from whatsms_events.twin.world import World
from whatsms_events.workers.consumer import Consumer
from whatsms_events.workers.relay import Relay

TENANT = "tenant-1"
START = datetime(2026, 1, 15, 10, 30, tzinfo=UTC)
DEADLINE_S = 120.0


class Bench:
    """A log, a projection, and what fills and reads them."""

    def __init__(self, log: Database, projection: Database, folder: Path) -> None:
        self.log, self.projection, self.folder = log, projection, folder
        self.event_log = EventLog(log)
        self.stream = World(11, start=START, tenant_id=TENANT).webhooks()
        self.kafka: KafkaTarget | None = None
        self.prefix = ""
        self.privacy = Privacy()

    def settings(self, batch_limit: int = 50) -> Settings:
        """Return the settings of a service that would do this: with Kafka where the bench has one."""
        kafka = Kafka() if self.kafka is None else Kafka(bootstrap_servers=self.kafka.bootstrap_servers)
        return Settings(
            kafka=kafka.model_copy(update={"topic_prefix": self.prefix} if self.prefix else {}),
            receiver=ReceiverSettings(batch_limit=100),
            relay=RelaySettings(batch_limit=50, check_interval_s=0.1),
            consumer=ConsumerSettings(batch_limit=batch_limit, poll_interval_s=0.05),
            privacy=self.privacy,
        )

    async def append(self, count: int) -> int:
        """Append the next webhooks of the world; return the log's end."""
        supervisor = Supervisor()
        committer = make_committer(self.settings(), self.log, supervisor.wake)
        async with supervisor.running(committer, writers=[], readers=[]):
            bodies = [webhook.body for webhook in itertools.islice(self.stream, count)]
            await asyncio.gather(*(committer.submit(self.appending(body), deadline_s=60) for body in bodies))
        return await self.event_log.end()

    @staticmethod
    def appending(body: bytes) -> Append:
        """Return what the receiver would submit."""
        event = normalize(body, tenant=TENANT, received_at=datetime.now(UTC))
        return Append(event=event, raw=body, sha256=hashlib.sha256(body).digest())

    def from_log(self, role: str = "consumer", *, handle: Database | None = None) -> Consumer:
        """Return a consumer of the log, where wanted on its own handle of the projection."""
        settings = self.settings().model_copy(update={"kafka": Kafka()})
        projection = handle or self.projection
        return make_consumer(settings, Stores(self.log, projection), lock=RoleLock(projection, role))

    def from_kafka(
        self,
        role: str = "consumer",
        *,
        relay_rows: RelayRows | None = None,
        handle: Database | None = None,
        lock: RoleLock | None = None,
        batch_limit: int = 50,
    ) -> Consumer:
        """Return a consumer of Kafka."""
        assert self.kafka is not None
        projection = handle or self.projection
        return make_consumer(
            self.settings(batch_limit),
            Stores(self.log, projection),
            rows=relay_rows,
            lock=lock or RoleLock(projection, role),
            monotonic=itertools.count(step=10).__next__,  # so that it looks at what was published each time
        )

    async def begin_with_kafka(self) -> None:
        """Let a consumer see the log while it is empty: from then on Kafka is the source."""
        first = self.from_kafka()
        await first.run_once()
        await first.close()

    def relay(self) -> Relay:
        """Return a relay."""
        assert self.kafka is not None
        # By this clock a second passes at each look at it, so each piece checks what is visible.
        return make_relay(self.settings(), self.kafka, self.log, monotonic=itertools.count(0.0, 1.0).__next__)

    async def publish(self) -> None:
        """Publish the whole log and see that it is visible."""
        relay = self.relay()
        end = await self.event_log.end()
        async with asyncio.timeout(DEADLINE_S):
            while (row := await RelayRows(self.log).load(self.prefix)) is None or row.published_through < end:
                await relay.run_once()
        await relay.close()

    async def apply_all(self, consumer: Consumer) -> None:
        """Run the consumer until the projection shows the whole log."""
        end = await self.event_log.end()
        async with asyncio.timeout(DEADLINE_S):
            while (await Projection(self.projection).state()).applied_through < end:
                await consumer.run_once()
        await consumer.close()

    async def applied(self) -> int:
        """Return how many events were applied so far."""
        return (await Projection(self.projection).state()).applied

    async def parked(self) -> list[Mapping[str, Any]]:
        """Return every parked event."""
        query = select(tables.parked_event).order_by(tables.parked_event.c.source, tables.parked_event.c.at)
        async with self.projection.read() as connection:
            return [row._asdict() for row in await connection.execute(query)]

    async def blank(self, *positions: int) -> None:
        """Take what retention takes, by SQL."""
        blanked = update(tables.event_log).where(tables.event_log.c.position.in_(positions))
        async with self.log.write() as connection:
            await connection.execute(blanked.values(data=None, raw=None))


@asynccontextmanager
async def opened(log_url: str, projection_url: str, folder: Path) -> AsyncIterator[Bench]:
    """Open a log and a projection."""
    log = await open_log(DatabaseTarget(url=log_url), migrate=True)
    projection = await open_projection(DatabaseTarget(url=projection_url), migrate=True)
    try:
        yield Bench(log, projection, folder)
    finally:
        await log.close()
        await projection.close()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """Give an empty log and projection on SQLite."""
    async with opened(f"sqlite:///{tmp_path / 'log.db'}", f"sqlite:///{tmp_path / 'projection.db'}", tmp_path) as made:
        yield made


async def connect(bench: Bench, kafka: Broker | RunningKafka, prefix: str) -> Bench:
    """Give the bench topics of its own on the real broker."""
    bench.kafka, bench.prefix = KafkaTarget(bootstrap_servers=kafka.bootstrap), prefix
    await create_topics(bench.kafka, prefix, partitions=3, replication_factor=1, retention_ms=-1)
    return bench


@pytest.fixture
async def with_kafka(bench: Bench, kafka: RunningKafka, topic_prefix: str) -> Bench:
    """Give the same with topics of its own on the real broker."""
    return await connect(bench, kafka, topic_prefix)


async def test_every_event_of_the_log_is_applied_once_also_after_restarts(bench: Bench) -> None:
    """Consumers that end after each few batches go on from the checkpoint: nothing twice, nothing left out."""
    end = await bench.append(300)
    while (await Projection(bench.projection).state()).applied_through < end:
        consumer = bench.from_log()
        await consumer.run_once()
        await consumer.run_once()
        await consumer.close()
    assert await bench.applied() == end
    await assert_like_a_clean_rebuild(bench.log, bench.projection, bench.folder)


async def test_every_event_of_kafka_is_applied_once_also_after_restarts(with_kafka: Bench) -> None:
    """The same through Kafka: offsets, positions and rows are of one transaction."""
    bench = with_kafka
    await bench.begin_with_kafka()
    end = await bench.append(300)
    await bench.publish()
    async with asyncio.timeout(DEADLINE_S):
        while (await Projection(bench.projection).state()).applied_through < end:
            consumer = bench.from_kafka()
            for _ in range(4):
                await consumer.run_once()
            await consumer.close()
    assert await bench.applied() == end
    await assert_like_a_clean_rebuild(bench.log, bench.projection, bench.folder)


async def test_a_new_projection_reads_the_log_first_and_then_only_what_is_new_in_kafka(with_kafka: Bench) -> None:
    """What the log has given is skipped in Kafka by its position; events after it come from Kafka."""
    bench = with_kafka
    await bench.append(120)
    await bench.publish()
    await bench.apply_all(bench.from_kafka())
    assert await bench.applied() == 120
    await bench.append(80)
    await bench.publish()
    await bench.apply_all(bench.from_kafka())
    assert await bench.applied() == 200
    await assert_like_a_clean_rebuild(bench.log, bench.projection, bench.folder)


async def test_kafka_may_be_switched_off_and_on_again(with_kafka: Bench) -> None:
    """Reading goes on in the log where Kafka got to, and back, and the tables are those of a clean run."""
    bench = with_kafka
    for source in (bench.from_kafka, bench.from_log, bench.from_kafka, bench.from_log):
        await bench.append(60)
        await bench.publish()
        await bench.apply_all(source())
    await assert_like_a_clean_rebuild(bench.log, bench.projection, bench.folder)


class BusyRelayRows(RelayRows):
    """The relay's row as the consumer finds it while more is published at the worst moment: just before it looks."""

    def __init__(self, bench: Bench, relay: Relay) -> None:
        super().__init__(bench.log)
        self._bench = bench
        self._relay = relay
        self.left = 12

    async def load(self, prefix: str) -> Published | None:
        """Publish some more, then tell how far that went."""
        if self.left:
            self.left -= 1
            await self._bench.append(16)
            for _ in range(2):  # the second one sees that it is visible, and saves
                await self._relay.run_once()
        return await super().load(prefix)


async def add_partitions(bench: Bench, count: int) -> None:
    """Add partitions to the topic that has most events."""
    assert bench.kafka is not None
    admin = AdminClient({"bootstrap.servers": bench.kafka.bootstrap_servers, "log_level": 0})
    topic = f"{bench.prefix}.conversations"
    await asyncio.to_thread(admin.create_partitions([NewPartitions(topic, count)])[topic].result, 10)


async def test_applied_through_never_runs_ahead_of_what_was_applied(with_kafka: Bench) -> None:
    """At each step the projection shows every event up to `applied_through`, while others are being published.

    Also through partitions that are added, and through restarts of relay and consumer.
    """
    bench = with_kafka
    await bench.begin_with_kafka()
    relay, state = bench.relay(), await Projection(bench.projection).state()
    steps: set[int] = set()
    busy = BusyRelayRows(bench, relay)
    consumer = bench.from_kafka(relay_rows=busy, batch_limit=7)
    async with asyncio.timeout(DEADLINE_S):
        while state.applied_through < 192:
            await consumer.run_once()
            state = await Projection(bench.projection).state()
            entries = await bench.event_log.read(0, state.applied_through) if state.applied_through else []
            assert [entry.position for entry in entries] == list(range(1, state.applied_through + 1))
            await assert_shows(bench.projection, entries)
            if state.applied_through not in steps and len(steps) in (3, 6):
                await relay.close()
                await consumer.close()
                await add_partitions(bench, 3 + len(steps))
            steps.add(state.applied_through)
    assert len(steps) > 7, "it moved in a few leaps only: this has shown nothing"
    assert not busy.left
    await consumer.close()
    await relay.close()
    assert state.applied == 192


async def test_of_two_consumers_at_once_one_loses_as_a_whole(bench: Bench) -> None:
    """Two consumers that both think they are alone: the one that comes second is fenced and leaves nothing behind."""
    await bench.append(200)
    one, other = bench.from_log("consumer"), bench.from_log("other")
    await one.run_once()
    await other.run_once()  # it read the state after the first, so it is the newer one
    before = await rows_of(bench.projection)
    with pytest.raises(FencedError):
        await one.run_once()
    assert await rows_of(bench.projection) == before
    await bench.apply_all(other)
    await one.close()
    assert await bench.applied() == 200
    await assert_like_a_clean_rebuild(bench.log, bench.projection, bench.folder)


async def _other_log_id(bench: Bench) -> None:
    async with bench.log.write() as connection:
        await connection.execute(update(tables.log).values(log_id=uuid4()))
    bench.event_log = EventLog(bench.log)


async def _lost_tail(bench: Bench) -> None:
    async with bench.log.write() as connection:
        await connection.execute(delete(tables.event_log).where(tables.event_log.c.position > 40))


async def _other_tail(bench: Bench) -> None:
    async with bench.log.write() as connection:
        await connection.execute(update(tables.event_log).where(tables.event_log.c.position == 60).values(id=uuid4()))


@pytest.mark.parametrize("damage", [_other_log_id, _lost_tail, _other_tail])
async def test_a_log_that_is_not_the_one_it_was_stops_the_consumer(
    bench: Bench, damage: Callable[[Bench], Awaitable[None]]
) -> None:
    """Another log, a log restored from an older copy, another event at the checkpoint: never read past silently."""
    await bench.append(60)
    await bench.apply_all(bench.from_log())
    await damage(bench)
    consumer = bench.from_log()
    with pytest.raises(IntegrityError):
        await consumer.run_once()
    await consumer.close()


async def test_another_logs_record_in_the_topics_stops_the_consumer(with_kafka: Bench, tmp_path: Path) -> None:
    """A record with an unknown log id is never applied."""
    bench = with_kafka
    await bench.append(30)
    await bench.publish()
    other = await open_log(DatabaseTarget(url=f"sqlite:///{tmp_path / 'other.db'}"), migrate=True)
    stranger = Bench(other, bench.projection, tmp_path)
    stranger.kafka, stranger.prefix = bench.kafka, bench.prefix
    consumer = stranger.from_kafka()
    with pytest.raises(IntegrityError, match="belongs to one log"):
        await _until_stopped(consumer)
    await consumer.close()
    await other.close()


async def _until_stopped(consumer: Consumer) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            await consumer.run_once()


async def test_an_offset_out_of_range_stops_the_consumer_and_names_the_replay(with_kafka: Bench) -> None:
    """Saved offsets that Kafka does not have (topics recreated) are never replaced by a guess."""
    bench = with_kafka
    await bench.begin_with_kafka()
    await bench.append(30)
    await bench.publish()
    await bench.apply_all(bench.from_kafka())
    async with bench.projection.write() as connection:
        await connection.execute(text("UPDATE projection_offset SET next_offset = next_offset + 1000000"))
    consumer = bench.from_kafka()
    with pytest.raises(IntegrityError, match="replay projection"):
        await _until_stopped(consumer)
    await consumer.close()


async def test_partitions_that_are_added_while_it_runs_are_read(with_kafka: Bench) -> None:
    """After partitions were added, records in them are applied, and `applied_through` waits for them."""
    bench = with_kafka
    consumer = bench.from_kafka()
    await consumer.run_once()
    await bench.append(60)
    await bench.publish()
    await consumer.run_once()
    await add_partitions(bench, 6)
    end = await bench.append(200)
    await bench.publish()
    await bench.apply_all(consumer)
    assert await bench.applied() == end
    await assert_like_a_clean_rebuild(bench.log, bench.projection, bench.folder)


async def test_a_record_read_twice_changes_nothing(bench: Bench) -> None:
    """A projection whose checkpoint is set back applies the same rows again and stays as it was."""
    await bench.append(150)
    await bench.apply_all(bench.from_log())
    before = await rows_of(bench.projection)
    projection = Projection(bench.projection)
    state = await projection.state()
    await projection.apply([], state, replace(state, checkpoint=None, applied_through=0))
    await bench.apply_all(bench.from_log())
    assert await rows_of(bench.projection) == before


async def test_a_second_consumer_stands_by_until_the_first_is_closed(bench: Bench) -> None:
    """On its own handle of the projection it does nothing, asks nothing, and goes on where the first one stopped."""
    await bench.append(120)
    handle = await open_projection(DatabaseTarget(url=f"sqlite:///{bench.projection.path}"), migrate=False)
    first, second = bench.from_log(), bench.from_log(handle=handle)
    assert await first.run_once() == 50
    assert await second.run_once() == 0
    assert not second.active
    await first.close()
    assert await second.run_once() == 50
    assert await first.run_once() == 0
    await bench.apply_all(second)
    await handle.close()
    assert await bench.applied() == 120
    await assert_like_a_clean_rebuild(bench.log, bench.projection, bench.folder)


async def test_on_postgresql_a_second_consumer_takes_over_from_a_frozen_one(
    kafka: RunningKafka, topic_prefix: str, postgres_url: str, tmp_path: Path
) -> None:
    """Log and projection on PostgreSQL, through Kafka: each event is applied once, the frozen one is fenced."""
    async with opened(postgres_url, postgres_url, tmp_path) as bench:
        await connect(bench, kafka, topic_prefix)
        await bench.begin_with_kafka()
        await bench.append(200)
        await bench.publish()
        lock = RoleLock(bench.projection, "consumer", monotonic=lambda: 0.0)  # its second of trust never ends
        frozen = bench.from_kafka(lock=lock)
        async with asyncio.timeout(DEADLINE_S):
            while not await frozen.run_once():
                pass
        handle = await open_projection(DatabaseTarget(url=postgres_url), migrate=False)
        other = bench.from_kafka(handle=handle)
        assert await other.run_once() == 0
        assert not other.active
        await end_lock_holder(postgres_url)
        await bench.apply_all(other)
        assert await bench.applied() == 200
        before = await rows_of(bench.projection)
        with pytest.raises(FencedError):
            await _until_stopped(frozen)
        assert await rows_of(bench.projection) == before
        await bench.append(40)
        await bench.publish()
        await bench.apply_all(frozen)
        await handle.close()
        assert await bench.applied() == 240
        await assert_like_a_clean_rebuild(bench.log, bench.projection, bench.folder)


def produce(bench: Bench, *values: bytes | None, headers: Mapping[str, bytes | None] | None = None) -> tuple[str, int]:
    """Write records that are not the relay's into a partition; return where, and the offset of the first."""
    assert bench.kafka is not None
    offsets: list[int | None] = []
    producer = Producer({"bootstrap.servers": bench.kafka.bootstrap_servers, "log_level": 0})
    for value in values:
        producer.produce(
            f"{bench.prefix}.contacts",
            value,
            partition=1,
            headers=dict(headers or {"theirs": b"\xff"}),
            on_delivery=lambda _error, message: offsets.append(message.offset()),
        )
    assert producer.flush(10) == 0
    assert offsets[0] is not None
    return f"{bench.prefix}.contacts/1", offsets[0]


async def test_foreign_records_in_kafka_are_parked_and_the_rest_is_applied(with_kafka: Bench) -> None:
    """What names no log is parked once with place, bytes, headers and what is missing; the offsets move on."""
    bench = with_kafka
    await bench.begin_with_kafka()
    await bench.append(60)
    await bench.publish()
    source, at = await asyncio.to_thread(produce, bench, b"hello \xff", None)
    before = strayed()
    with capture_logs() as lines:
        await bench.apply_all(bench.from_kafka())
    assert strayed() - before == 2
    assert [(line["source"], line["log_level"]) for line in lines if line["event"] == "consumer.strays"] == [
        (source, "warning")
    ]
    offsets = (await Projection(bench.projection).state()).offsets
    assert offsets[f"{bench.prefix}.contacts", 1].next_offset == at + 2
    again = bench.from_kafka()
    for _ in range(3):
        assert await again.run_once() == 0, "what was parked is behind us"
    await again.close()
    parked = await bench.parked()
    assert [(row["source"], row["at"], row["raw"], row["reason"], row["detail"]) for row in parked] == [
        (source, at, b"hello \xff", "stray", "no header ce_logid"),
        (source, at + 1, b"", "stray", "no header ce_logid"),
    ]
    assert parked[0]["headers"] == '[["theirs","/w=="]]'
    assert await bench.applied() == 60
    async with bench.projection.write() as connection:
        await connection.execute(delete(tables.parked_event))  # the log has none of it
    await assert_like_a_clean_rebuild(bench.log, bench.projection, bench.folder)


def strayed() -> float:
    """Read the metric of strays that consumers met."""
    return counted("stray_records", role="consumer", topic="contacts")


async def test_a_flood_of_foreign_records_stops_nothing(with_kafka: Bench) -> None:
    """Somebody's program that writes on and on says nothing about ours: all is passed, the first few are parked."""
    bench = with_kafka
    await bench.begin_with_kafka()
    await bench.append(60)
    await bench.publish()
    before = strayed()
    await asyncio.to_thread(produce, bench, *[b"hello"] * 1000)
    await bench.append(20)
    await bench.publish()
    await bench.apply_all(bench.from_kafka())
    assert (await bench.applied(), strayed() - before) == (80, 1000)
    assert len(await bench.parked()) == STRAYS_KEPT


async def test_a_record_of_our_log_that_lacks_a_header_is_poison_and_named(with_kafka: Bench) -> None:
    """What names our log was written by our code: parked with what is missing, and too much of it halts.

    Nothing of the batch that halted is saved, and looks change nothing.
    """
    bench = with_kafka
    await bench.begin_with_kafka()
    await bench.append(60)
    await bench.publish()
    ours = {"ce_logid": str(await bench.event_log.log_id()).encode(), "ce_specversion": b"1.0", "ce_id": None}
    await asyncio.to_thread(produce, bench, b"{}", headers=ours)
    await bench.apply_all(bench.from_kafka())
    (parked,) = await bench.parked()
    assert (parked["reason"], parked["detail"]) == ("record", "header ce_id cannot be read")
    before, rows = await Projection(bench.projection).state(), await rows_of(bench.projection)
    await asyncio.to_thread(produce, bench, *[b"{}"] * (POISON_LIMIT + 1), headers=ours)
    async with working("consumer", bench.from_kafka()) as states:
        await until(lambda: [state for state, _ in states].count("halted") > 3, DEADLINE_S, "it halts, and looks")
    since = states[[state for state, _ in states].index("halted") :]  # a slow consumer is active before that
    assert "more than 20 of the last" in since[0][1]
    assert {state for state, _ in since[:-1]} == {"halted"}, "no look takes it for mended"
    after = await Projection(bench.projection).state()
    key = f"{bench.prefix}.contacts", 1
    assert (after.offsets[key], after.applied, after.applied_through) == (before.offsets[key], 60, 60)
    assert await rows_of(bench.projection) == rows
    assert await bench.parked() == [parked]


async def test_a_record_of_another_log_stops_the_consumer_whatever_else_it_lacks(with_kafka: Bench) -> None:
    """A tombstone that names another log is no stray record: another relay writes here."""
    bench = with_kafka
    await bench.begin_with_kafka()
    await asyncio.to_thread(produce, bench, None, headers={"ce_logid": str(uuid4()).encode()})
    consumer = bench.from_kafka()
    with pytest.raises(IntegrityError, match="one topic prefix belongs to one log"):
        await _until_stopped(consumer)
    await consumer.close()


async def test_a_halted_consumer_goes_on_when_the_cause_is_gone(with_kafka: Bench) -> None:
    """Its projection was another log's, and is its own again: it halted, wrote nothing, and goes on by itself."""
    bench = with_kafka
    await bench.begin_with_kafka()
    await bench.append(30)
    await bench.publish()
    await bench.apply_all(bench.from_kafka())
    end, log_id = await bench.append(30), await bench.event_log.log_id()
    await bench.publish()
    await own_projection(bench, uuid4())
    before = await Projection(bench.projection).state()
    async with working("consumer", bench.from_kafka()) as states:
        await until(lambda: [state for state, _ in states].count("halted") > 3, DEADLINE_S, "it halts, and looks")
        assert "the projection was made from log" in states[0][1]
        assert await Projection(bench.projection).state() == before
        await own_projection(bench, log_id)

        async def applied() -> bool:
            return (await Projection(bench.projection).state()).applied_through == end

        await until(applied, DEADLINE_S, "it goes on by itself")
    assert await bench.applied() == 60
    await assert_like_a_clean_rebuild(bench.log, bench.projection, bench.folder)


async def own_projection(bench: Bench, log_id: UUID) -> None:
    """Let the projection say that it was made from this log."""
    async with bench.projection.write() as connection:
        await connection.execute(update(tables.projection).values(log_id=log_id))


async def test_a_halted_consumer_goes_on_when_its_topics_are_there(
    bench: Bench, kafka: RunningKafka, topic_prefix: str
) -> None:
    """It names the command that makes them, and needs no restart after that."""
    bench.kafka, bench.prefix = KafkaTarget(bootstrap_servers=kafka.bootstrap), topic_prefix
    end = await bench.append(30)
    async with working("consumer", bench.from_kafka()) as states:
        await until(lambda: states and states[-1][0] == "halted", DEADLINE_S, "it halts")
        assert "whatsms-events topics create" in states[-1][1]
        await create_topics(bench.kafka, topic_prefix, partitions=3, replication_factor=1, retention_ms=-1)

        async def applied() -> bool:
            return (await Projection(bench.projection).state()).applied_through == end

        await until(applied, DEADLINE_S, "it goes on by itself")


def skipped() -> float:
    """Read the metric of what the consumer skipped."""
    return counted("consumer_skipped")


async def test_blanked_rows_of_the_log_are_skipped_and_counted(bench: Bench) -> None:
    """Rows whose data retention removed are passed over, at the log's end too, and are never poison."""
    await bench.append(60)
    await bench.blank(*range(1, 31), 45, 60)
    before = skipped()
    await bench.apply_all(bench.from_log())
    assert skipped() - before == 32
    state = await Projection(bench.projection).state()
    assert (state.applied, state.applied_through) == (28, 60)
    assert await bench.parked() == []


async def test_blanked_rows_are_not_missed_in_kafka(with_kafka: Bench) -> None:
    """What was blanked before it was published is not in Kafka: `applied_through` passes it, and nothing is parked."""
    bench = with_kafka
    await bench.begin_with_kafka()
    await bench.append(60)
    await bench.blank(*range(1, 31), 45, 60)
    await bench.publish()
    await bench.apply_all(bench.from_kafka())
    state = await Projection(bench.projection).state()
    assert (state.applied, state.applied_through) == (28, 60)
    assert await bench.parked() == []
