"""The relay against real Apache Kafka, read back by a client that is not ours."""

import asyncio
import math
import re
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, Final
from uuid import UUID, uuid4

import pytest
from aiokafka.producer.message_accumulator import BatchBuilder
from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it has no __all__
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    ResourcePatternType,
    ResourceType,
)
from sqlalchemy import insert, update
from structlog.testing import capture_logs

from servers.compare import until
from servers.kafka import Broker, RunningKafka
from servers.metric import counted, shown
from servers.postgres import end_lock_holder
from servers.witness import read_committed
from servers.working import working
from whatsms_events.domain.events import LogEntry
from whatsms_events.domain.normalize import record_limit_bytes
from whatsms_events.domain.records import (
    MARKER_HEADER,
    TOPICS,
    KafkaRecord,
    log_id_of,
    partition_of,
    place_of,
    to_record,
)
from whatsms_events.domain.resume import Partition
from whatsms_events.errors import (
    BrokerUnavailableError,
    ConfigError,
    FencedError,
    IntegrityError,
    StorageUnavailableError,
    TransientError,
    WhatsmsEventsError,
)
from whatsms_events.kafka import producer as kafka_producer
from whatsms_events.kafka import visible
from whatsms_events.kafka.connection import KafkaTarget
from whatsms_events.kafka.topics import check_topics, count_partitions, create_topics
from whatsms_events.storage.database import Database, DatabaseTarget, open_log
from whatsms_events.storage.log.event_log import READ_LIMIT, EventLog
from whatsms_events.storage.log.relay_row import RelayRows
from whatsms_events.storage.role_lock import RoleLock
from whatsms_events.storage.tables import event_log
from whatsms_events.workers import relay as relay_module
from whatsms_events.workers.relay import TOPICS_LOOK_S, Relay

BODY_LIMIT = 5 * 1024 * 1024
TYPES = ["message.received", "message.ack", "ticket.updated", "contact.updated", "campaign.finished"]


def now() -> datetime:
    """Tell the time."""
    return datetime.now(UTC)


@asynccontextmanager
async def opened(place: Path | str) -> AsyncIterator[Database]:
    """Open a log in a file or at a URL, made where there is none."""
    url = f"sqlite:///{place}" if isinstance(place, Path) else place
    database = await open_log(DatabaseTarget(url), migrate=True)
    try:
        yield database
    finally:
        await database.close()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """Give an empty log."""
    async with opened(tmp_path / "log.db") as found:
        yield found


async def append(database: Database, count: int, *, data: str = '{"message":{"id":"m"}}') -> None:
    """Append events of all kinds, about thirty tickets."""
    rows = [
        {
            "id": uuid4(),
            "type": TYPES[n % len(TYPES)],
            "tenant": "t",
            "received_at": 1_700_000_000_000_000 + n,
            "origin": "webhook",
            "subject": f"s{n % 40}",
            "ticket_id": f"k{n % 30}" if n % 2 else None,
            "sha256": bytes(32),
            "data": data,
            "raw": b"{}",
        }
        for n in range(count)
    ]
    async with database.write() as connection:
        await connection.execute(insert(event_log), rows)


def headers(message: Message) -> tuple[tuple[str, bytes], ...]:
    """Give a message's headers the type they have."""
    found = message.headers() or []
    assert isinstance(found, list)
    return tuple((name, value) for name, value in found if isinstance(value, bytes))


def positions(records: list[KafkaRecord]) -> list[int]:
    """Read the positions that records say they have."""
    places = [place_of(record.headers) for record in records]
    return [place[1] for place in places if place is not None]


class KilledError(Exception):
    """The relay ends here."""


class Clock:
    """A relay's clock: the real one, moved on by `ahead_s`. A clock that is stopped ends the relay's piece."""

    ahead_s = 0.0
    stopped = False

    def __call__(self) -> float:
        """Return the time."""
        if self.stopped:
            raise KilledError
        return time.monotonic() + self.ahead_s


class Stage:
    """One prefix on one broker and the logs, relays and witnesses that meet there."""

    def __init__(self, bootstrap: str, prefix: str, *, timeout_s: float = 30.0) -> None:
        self.target = KafkaTarget(bootstrap, timeout_s=timeout_s)
        self.prefix = prefix
        self.clocks: dict[Relay, Clock] = {}
        self.topics = [f"{prefix}.{suffix}" for suffix in TOPICS]

    async def create(self, *, partitions: int = 4, retention_ms: int = 30 * 86_400_000) -> None:
        """Create the topics."""
        await create_topics(
            self.target,
            self.prefix,
            partitions=partitions,
            replication_factor=1,
            retention_ms=retention_ms,
        )

    def relay(
        self,
        database: Database,
        *,
        role: str = "relay",
        check_interval_s: float = 0.0,
        batch_limit: int = 50,
        lock: RoleLock | None = None,
        body_limit_bytes: int = BODY_LIMIT,
        stray_limit: int = visible.STRAY_LIMIT,
        read_limit: int = READ_LIMIT,
        record: Callable[[LogEntry, UUID], KafkaRecord] = to_record,
    ) -> Relay:
        """Make a relay; another role than the usual one makes a relay that no lock holds back."""
        clock = Clock()
        made = Relay(
            EventLog(database, read_limit=read_limit),
            RelayRows(database),
            self.target,
            self.prefix,
            lock or RoleLock(database, role),
            batch_limit=batch_limit,
            check_interval_s=check_interval_s,
            transaction_timeout_s=10.0,
            body_limit_bytes=body_limit_bytes,
            now=now,
            monotonic=clock,
            stray_limit=stray_limit,
            record=record,
        )
        self.clocks[made] = clock
        return made

    async def kill(self, relay: Relay) -> None:
        """End the relay as a kill would: what it knows is lost."""
        self.clocks[relay].stopped = True
        with pytest.raises(KilledError):
            await relay.run_once()
        self.clocks[relay].stopped = False
        assert not relay.active

    async def aclose(self) -> None:
        """Close every relay that a test has left open."""
        for relay in self.clocks:
            await relay.close()

    async def drain(self, relay: Relay, database: Database, *, deadline_s: float = 60.0) -> None:
        """Run until every row is proven to be visible, as the loop would: through whatever is tried again."""
        until, end = time.monotonic() + deadline_s, await EventLog(database).end()
        while await self.through(database) < end:
            assert time.monotonic() < until, "the relay does not get through"
            try:
                await relay.run_once()
            except TransientError:
                await asyncio.sleep(0.2)

    async def through(self, database: Database) -> int:
        """Read the lower bound as a consumer does."""
        row = await RelayRows(database).load(self.prefix)
        return 0 if row is None else row.published_through

    async def visible(self) -> list[Message]:
        """Read everything that a read_committed consumer sees."""
        return await asyncio.to_thread(read_committed, self.target.bootstrap_servers, self.topics)

    async def assert_equal(self, database: Database, *, counts: Callable[[int], int] = lambda _: 4) -> None:
        """Check that Kafka holds the log: each event once, in log order in its partition, byte for byte."""
        wanted, found = await self.wanted(database, counts), await self.found()
        assert {at: positions(records) for at, records in found.items()} == {
            at: positions(records) for at, records in wanted.items()
        }
        assert found == wanted

    async def wanted(
        self, database: Database, counts: Callable[[int], int] = lambda _: 4
    ) -> dict[Partition, list[KafkaRecord]]:
        """Say what belongs into each partition."""
        log, wanted, position = EventLog(database), defaultdict(list), 0
        while entries := await log.read(position, 1000):
            for entry in entries:
                record = to_record(entry, await log.log_id())
                partition = (f"{self.prefix}.{record.topic}", partition_of(record.key, counts(entry.position)))
                wanted[partition].append(record)
            position = entries[-1].position
        return wanted

    async def found(self) -> dict[Partition, list[KafkaRecord]]:
        """Say what a read_committed consumer sees in each partition."""
        found = defaultdict(list)
        for message in await self.visible():
            topic, key, value = str(message.topic()), message.key(), message.value()
            if log_id_of(headers(message)) is None:
                continue  # somebody else's
            assert isinstance(key, bytes)
            assert isinstance(value, bytes)
            record = KafkaRecord(topic.removeprefix(f"{self.prefix}."), key, value, headers(message))
            found[topic, int(message.partition() or 0)].append(record)
        return found

    async def leave_behind(self, database: Database, random: Random) -> int:
        """Publish the next rows of some partitions only, as a broker does that loses the markers of the others.

        Before that, check that each partition shows the log's rows from the first on, and all of them up to the lower
        bound. Returns the highest position that is visible afterwards.
        """
        through, wanted, found = await self.through(database), await self.wanted(database), await self.found()
        # Not by the relay's own id: what a relay has left open is left to its successor.
        producer = await kafka_producer.Producer.open(
            self.target, self.topics, transactional_id=f"a broker of {self.prefix}", transaction_timeout_s=10.0
        )
        shares = [0.0, 0.5, 1.0, *random.choices([0.0, 0.5, 1.0], k=len(wanted))]  # each kind at least once
        batches: dict[Partition, kafka_producer.Batch] = {}
        behind, highest = 0, 0
        for (at, records), share in zip(sorted(wanted.items()), shares, strict=False):
            shown, missing = found.get(at, []), records[len(found.get(at, [])) :]
            assert shown == records[: len(shown)], at
            assert all(position > through for position in positions(missing)), at
            some = missing[: int(share * len(missing))]
            for record in some:
                assert batches.setdefault(at, producer.batch()).append(record, timestamp_ms=int(time.time() * 1000))
            behind += len(some) < len(missing)
            highest = max(highest, *positions(shown + some))
        await producer.transact(batches)
        await producer.close()
        assert batches
        assert behind, "no partition was left behind"
        return highest


@pytest.fixture
async def stage(kafka: RunningKafka, topic_prefix: str, database: Database) -> AsyncIterator[Stage]:
    """Give fresh topics on the session's broker."""
    assert database
    async with aclosing(Stage(kafka.bootstrap, topic_prefix)) as made:
        await made.create()
        yield made


@pytest.fixture
async def quick_broker(new_broker: Broker) -> AsyncIterator[Broker]:
    """Give a broker of this test alone that is back sooner after a kill: its dead session ends after 2 s."""
    new_broker.properties |= {"broker.session.timeout.ms": "2000", "broker.heartbeat.interval.ms": "250"}
    try:
        await new_broker.start()
        yield new_broker
    finally:
        await new_broker.remove()


@asynccontextmanager
async def alone(broker: Broker, *, timeout_s: float, partitions: int = 4) -> AsyncIterator[Stage]:
    """Give fresh topics on a broker of the test's own."""
    async with aclosing(Stage(broker.bootstrap, "p", timeout_s=timeout_s)) as made:
        await made.create(partitions=partitions)
        yield made


async def test_every_event_is_published_once_in_order(stage: Stage, database: Database) -> None:
    """What the log holds is what a foreign read_committed client sees, and the row says so."""
    await append(database, 230)
    relay = stage.relay(database)
    assert [await relay.run_once() for _ in range(6)] == [50, 50, 50, 50, 30, 0]
    assert relay.active
    await append(database, 20)
    assert await relay.run_once() == 20
    await relay.close()
    assert await stage.through(database) == 250, "closing saves what is visible"
    await stage.assert_equal(database)


async def test_the_next_rows_are_prepared_while_a_transaction_is_written(
    stage: Stage, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No full transaction ends before the next rows were read, and these are not read again to be published."""
    await append(database, 120)
    reads, read_from, transact = 0, EventLog.read_from, kafka_producer.Producer.transact

    async def counted_read(*args: Any) -> Any:
        nonlocal reads
        entries, reads = await read_from(*args), reads + 1
        return entries

    async def held_transact(producer: kafka_producer.Producer, batches: Any, *, commit: bool = True) -> None:
        wanted, full = reads + 1, sum(batch.builder.record_count() for batch in batches.values()) == 50

        async def read() -> bool:
            return reads == wanted

        if full:
            await until(read, 60, "the next rows were read")
        await transact(producer, batches, commit=commit)

    monkeypatch.setattr(EventLog, "read_from", counted_read)
    monkeypatch.setattr(kafka_producer.Producer, "transact", held_transact)
    relay = stage.relay(database)
    assert [await relay.run_once() for _ in range(3)] == [50, 50, 20]
    assert reads == 3, "the rows behind the 20 are not there yet, and nobody looks for them in the meantime"
    await relay.close()
    await stage.assert_equal(database)


async def test_a_transaction_takes_several_reads_of_the_log(stage: Stage, database: Database) -> None:
    """Far behind, a transaction is as large as its limit allows, also where one read of the log gives less."""
    await append(database, 120)
    relay = stage.relay(database, batch_limit=100, read_limit=31)
    assert [await relay.run_once() for _ in range(3)] == [100, 20, 0]
    await relay.close()
    await stage.assert_equal(database)


async def test_others_have_a_turn_while_a_transaction_is_filled(stage: Stage, database: Database) -> None:
    """A large transaction never keeps the rest of the process waiting until all of its rows are sorted."""
    turns, seen = 0, list[int]()

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)  # takes one turn of the loop, and no time

    def noted(entry: LogEntry, log_id: UUID) -> KafkaRecord:
        seen.append(turns)
        return to_record(entry, log_id)

    await append(database, 1000)
    relay = stage.relay(database, batch_limit=1000, record=noted)
    others = asyncio.create_task(take_turns())
    try:
        assert await relay.run_once() == 1000
    finally:
        others.cancel()
    assert max(Counter(seen).values()) <= 100, "at most so many rows between two turns"
    await relay.close()
    await stage.assert_equal(database)


@pytest.mark.parametrize("error", [StorageUnavailableError("away"), IntegrityError("restored")])
async def test_what_fails_while_rows_are_prepared_is_raised_after_the_transaction(
    stage: Stage, database: Database, error: WhatsmsEventsError, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The running transaction comes to its end and counts as published; then the error takes the role away."""
    await append(database, 120)
    relay, published = stage.relay(database), counted("relay_published", topic=TOPICS[0])
    read_from, transact = EventLog.read_from, kafka_producer.Producer.transact
    failed, reads = asyncio.Event(), 0

    async def failing_read(*args: Any) -> Any:
        nonlocal reads
        reads += 1
        if reads == 2:
            failed.set()
            raise error
        return await read_from(*args)

    async def held_transact(producer: kafka_producer.Producer, batches: Any, *, commit: bool = True) -> None:
        if commit:
            await failed.wait()
        await transact(producer, batches, commit=commit)

    monkeypatch.setattr(EventLog, "read_from", failing_read)
    monkeypatch.setattr(kafka_producer.Producer, "transact", held_transact)
    with pytest.raises(type(error), match=str(error)):
        await relay.run_once()
    assert not relay.active
    assert len(await stage.visible()) == 50
    assert counted("relay_published", topic=TOPICS[0]) - published == 30
    await stage.drain(relay, database)
    await relay.close()
    await stage.assert_equal(database)


async def test_prepared_rows_are_dropped_with_the_session(stage: Stage, database: Database) -> None:
    """Rows that were prepared for the partitions of one opening go by what the next opening finds."""
    await append(database, 150)
    relay = stage.relay(database)
    assert await relay.run_once() == 50
    await grow(stage, 7)
    await stage.kill(relay)
    await stage.drain(relay, database)
    await relay.close()
    await stage.assert_equal(database, counts=lambda position: 4 if position <= 50 else 7)


async def test_a_row_that_no_batch_takes_is_never_passed_over(stage: Stage, database: Database) -> None:
    """Where not even an empty batch takes a record, the relay names the position and stops there."""
    await append(database, 10)
    relay = stage.relay(database)
    assert await relay.run_once() == 10
    await append(database, 10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BatchBuilder, "append", lambda *_args, **_kwargs: None)  # as aiokafka's does once it is full
        with pytest.raises(IntegrityError, match="position 11: not even an empty batch takes its record"):
            await relay.run_once()
    await stage.drain(relay, database)
    await stage.assert_equal(database)


async def test_reopening_publishes_nothing_again(stage: Stage, database: Database) -> None:
    """A relay that stopped without saving skips what is visible, partition by partition."""
    await append(database, 120)
    first = stage.relay(database, check_interval_s=1000)
    await first.run_once()
    await first.run_once()
    await stage.kill(first)
    assert await stage.through(database) == 0
    skipped = counted("relay_skipped", reason="visible")
    second = stage.relay(database, role="second")
    await stage.drain(second, database)
    assert counted("relay_skipped", reason="visible") - skipped == 100
    await second.close()
    await first.close()
    await stage.assert_equal(database)


async def test_standby_waits_for_the_lock(stage: Stage, database: Database, tmp_path: Path) -> None:
    """A second relay, on its own handle, does nothing while the first has the role, and takes over when it closed."""
    await append(database, 10)
    async with opened(tmp_path / "log.db") as handle:
        first, second = stage.relay(database), stage.relay(handle)
        assert await first.run_once() == 10
        await append(database, 10)
        assert await second.run_once() == 0
        assert not second.active
        await first.close()
        assert await second.run_once() == 10
        assert await first.run_once() == 0
        await second.close()
    await stage.assert_equal(database)


async def test_on_postgresql_a_second_relay_takes_over_from_a_frozen_one(
    kafka: RunningKafka, topic_prefix: str, postgres_url: str
) -> None:
    """With the log on PostgreSQL: stand by, take over once the session is gone; the frozen one wakes up and is fenced.

    Nothing is lost or doubled, and the frozen one is a candidate again.
    """
    async with (
        aclosing(Stage(kafka.bootstrap, topic_prefix)) as stage,
        opened(postgres_url) as database,
        opened(postgres_url) as handle,
    ):
        await stage.create()
        await append(database, 120)
        lock = RoleLock(database, "relay", monotonic=lambda: 0.0)  # its second of trust never ends: it is frozen
        frozen, other = stage.relay(database, check_interval_s=1000, lock=lock), stage.relay(handle)
        assert await frozen.run_once() == 50
        assert await other.run_once() == 0
        await end_lock_holder(postgres_url)
        await stage.drain(other, handle)
        await append(handle, 30)
        with pytest.raises(FencedError):
            await frozen.run_once()
        assert await frozen.run_once() == 0, "the other one has the role"
        await stage.drain(other, handle)
        await other.close()
        await append(handle, 10)
        assert await frozen.run_once() == 10
        await frozen.close()
        await stage.assert_equal(database)


async def test_overtaken_relay_is_fenced_and_publishes_nothing_more(stage: Stage, database: Database) -> None:
    """A relay that wakes up after another one opened ends with FencedError, and nothing is there twice."""
    await append(database, 100)
    frozen, other = stage.relay(database, check_interval_s=1000), stage.relay(database, role="other")
    await frozen.run_once()
    await stage.drain(other, database)
    await append(database, 50)
    with pytest.raises(FencedError):
        await frozen.run_once()
    assert not frozen.active
    await stage.drain(other, database)
    await stage.assert_equal(database)
    await frozen.close()
    await other.close()


async def test_overtaken_relay_cannot_move_the_lower_bound(stage: Stage, database: Database) -> None:
    """What a frozen relay takes for visible is not saved once another one has opened."""
    await append(database, 60)
    frozen, other = stage.relay(database, check_interval_s=1000), stage.relay(database, role="other")
    await frozen.run_once()
    await other.run_once()
    stage.clocks[frozen].ahead_s = 1000
    with pytest.raises(FencedError, match="another relay opened topic prefix"):
        await frozen.run_once()
    assert await stage.through(database) == 0
    await stage.drain(other, database)
    await other.close()
    await stage.assert_equal(database)


async def test_restored_older_log_is_refused(stage: Stage, database: Database, tmp_path: Path) -> None:
    """A log that lost published events does not give their positions to others: the relay refuses to start."""
    await append(database, 50)
    relay = stage.relay(database)
    await stage.drain(relay, database)
    with sqlite3.connect(tmp_path / "log.db") as live, sqlite3.connect(tmp_path / "old.db") as copy:
        live.backup(copy)
    live.close()
    copy.close()
    await append(database, 50)
    await stage.drain(relay, database)
    await relay.close()
    async with opened(tmp_path / "old.db") as restored:
        await append(restored, 70)
        refused = stage.relay(restored)
        with pytest.raises(IntegrityError, match="restored from an older copy"):
            await refused.run_once()
        await refused.close()
    await stage.assert_equal(database)


async def test_another_log_is_refused(stage: Stage, database: Database, tmp_path: Path) -> None:
    """One prefix belongs to one log: a first start on another log's topics is refused."""
    await append(database, 10)
    relay = stage.relay(database)
    await stage.drain(relay, database)
    await relay.close()
    async with opened(tmp_path / "other.db") as other:
        await append(other, 10)
        refused = stage.relay(other)
        with pytest.raises(IntegrityError, match="one topic prefix belongs to one log"):
            await refused.run_once()
        await refused.close()


async def test_recreated_topic_is_refused(stage: Stage, database: Database) -> None:
    """Topics that were deleted and created again are not filled from the lower bound on."""
    await append(database, 50)
    relay = stage.relay(database)
    await stage.drain(relay, database)
    await relay.close()
    await recreate(stage)
    with pytest.raises(IntegrityError, match="the topic was recreated"):
        await relay.run_once()
    await relay.close()


async def delete_topics(stage: Stage) -> None:
    """Delete the topics, and wait until the broker knows them no longer."""
    admin = AdminClient({"bootstrap.servers": stage.target.bootstrap_servers})
    for deleted in admin.delete_topics(stage.topics).values():
        await asyncio.to_thread(deleted.result, 10)

    async def gone() -> bool:
        found = await asyncio.to_thread(admin.list_topics, timeout=5)
        return not set(stage.topics) & set(found.topics)

    await until(gone, 60, "the topics are gone")


async def recreate(stage: Stage) -> None:
    """Delete the topics and create them again."""
    await delete_topics(stage)
    await stage.create()


Stray = tuple[bytes | None, list[tuple[str, bytes | None]]]
"""Value and headers of a record that is not ours."""


def write(stage: Stage, *records: Stray, topic: int = 0, partition: int = 2) -> None:
    """Write records of somebody else's, as any producer does. Without another place the relay writes there too."""
    foreign = Producer({"bootstrap.servers": stage.target.bootstrap_servers, "message.max.bytes": 8_000_000})
    for value, found in records:
        foreign.produce(stage.topics[topic], value, headers=[*found], partition=partition)
        foreign.poll(0)
    assert foreign.flush(60) == 0


STRAYS: Final[dict[str, list[Stray]]] = {
    "a line of kafka-console-producer": [(b"hello", [])],
    "a tombstone": [(None, [])],
    "a header without a value": [(b"{}", [("ce_logid", None), ("ce_id", None)])],
    "headers that are no text": [(b"\xff", [("ce_logid", b"\xff\xfe"), ("ce_sequence", b"\x00")])],
    "a CloudEvent of another program": [(b"{}", [("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_type", b"x")])],
    "a huge record": [(b"x" * 7_000_000, [])],
    "thousands": [(b"hello", [])] * 5000,
}


@pytest.mark.parametrize("strays", STRAYS.values(), ids=STRAYS.keys())
async def test_records_that_name_no_log_are_passed_over(stage: Stage, database: Database, strays: list[Stray]) -> None:
    """Before our first record and behind our last: the relay opens, says so once, and each row is visible once."""
    await asyncio.to_thread(write, stage, strays[0], topic=2, partition=3)
    await append(database, 60)
    relay, said = stage.relay(database), []
    for _ in range(2):
        with capture_logs() as lines:
            await stage.drain(relay, database)
        await relay.close()
        said.append([line for line in lines if line["event"] == "relay.strays"])
        await asyncio.to_thread(write, stage, *strays)
        before = strayed(0)
        await append(database, 30)
    with capture_logs() as lines:
        await stage.drain(relay, database)
    await relay.close()
    said.append([line for line in lines if line["event"] == "relay.strays"])
    assert [len(some) for some in said] == [1, 1, 1]
    assert (said[0][0]["source"], said[0][0]["records"]) == (f"{stage.topics[2]}/3", 1)
    assert said[1][0]["log_level"] == "warning"
    assert strayed(0) - before == len(strays)
    await stage.assert_equal(database)


async def test_a_topic_that_keeps_for_ever_is_told(kafka: RunningKafka, topic_prefix: str, database: Database) -> None:
    """Each opening names the topics without a limit, and looks again after an hour: the metric says infinity, and once
    the topics have a limit it says when a record is surely gone.
    """
    stage = Stage(kafka.bootstrap, topic_prefix)
    await stage.create(partitions=1, retention_ms=-1)
    relay = stage.relay(database)
    try:
        with capture_logs() as lines:
            await relay.run_once()
        (said,) = [line for line in lines if line["event"] == "relay.keeps_for_ever"]
        assert (said["log_level"], said["topics"]) == ("warning", stage.topics)
        assert kept() == {math.inf}
        await set_retention(stage, days=7)

        async def told() -> bool:
            stage.clocks[relay].ahead_s += TOPICS_LOOK_S  # an hour later
            await relay.run_once()
            return kept() == {8 * 86_400}

        await until(told, 20, "the look at the topics")  # a broker answers with old settings for a moment
    finally:
        await stage.aclose()


def kept() -> set[float | None]:
    """Read the metric of how long topics keep records."""
    return {shown("topic_keeps_seconds", topic=suffix) for suffix in TOPICS}


async def set_retention(stage: Stage, *, days: int) -> None:
    """Change the topics as an operator does."""
    entry = ConfigEntry("retention.ms", str(days * 86_400_000), incremental_operation=AlterConfigOpType.SET)
    admin = AdminClient({"bootstrap.servers": stage.target.bootstrap_servers})
    for topic in stage.topics:
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
        await asyncio.to_thread(admin.incremental_alter_configs([resource])[resource].result, 10)


def strayed(topic: int) -> float:
    """Read the metric of strays that relays met."""
    return counted("stray_records", role="relay", topic=TOPICS[topic])


async def test_strays_hide_neither_another_log_nor_a_recreated_topic(stage: Stage, database: Database) -> None:
    """Behind them the last record that names a log must be this log's own, and be there."""
    await append(database, 20)
    relay = stage.relay(database)
    await stage.drain(relay, database)
    await relay.close()
    other = to_record((await EventLog(database).read(0, 1))[0], uuid4())
    # It names a log; that nothing else of it can be read makes it no stray.
    await asyncio.to_thread(
        write, stage, (b"{}", [("ce_logid", dict(other.headers)["ce_logid"])]), *[(b"hello", [])] * 30
    )
    with pytest.raises(IntegrityError, match=rf"{stage.topics[0]}/2 offset \d+ names a log, but no position"):
        await relay.run_once()
    await asyncio.to_thread(write, stage, (b"{}", list(other.headers)), *[(b"hello", [])] * 30)
    with pytest.raises(IntegrityError, match=rf"{stage.topics[0]}/2 offset \d+ belongs to log"):
        await relay.run_once()
    await recreate(stage)
    for number in range(4):
        await asyncio.to_thread(write, stage, (b"hello", []), topic=0, partition=number)
    with pytest.raises(IntegrityError, match="the topic was recreated"):
        await relay.run_once()
    await relay.close()


async def test_strays_without_end_halt_the_relay_until_they_are_removed(stage: Stage, database: Database) -> None:
    """The look back is bounded: the message says who to stop and what to remove; then the relay goes on by itself."""
    await append(database, 60)
    relay = stage.relay(database, stray_limit=200)
    await stage.drain(relay, database)
    await relay.close()
    await asyncio.to_thread(write, stage, *[(b"hello", [])] * 600)
    await append(database, 30)
    async with halted(relay) as why:
        assert "records name no log" in why
        (end,) = re.findall(r"kafka-delete-records\.sh` up to offset (\d+)", why)
        admin = AdminClient({"bootstrap.servers": stage.target.bootstrap_servers})
        removed = admin.delete_records([TopicPartition(stage.topics[0], 2, int(end))])
        for one in removed.values():
            await asyncio.to_thread(one.result, 10)
        await until(lambda: is_through(stage, database), 60, "it goes on by itself")
    wanted, found = await stage.wanted(database), await stage.found()
    at = (stage.topics[0], 2)
    assert positions(found.pop(at, [])) == [one for one in positions(wanted.pop(at)) if one > 60]
    assert found == wanted


async def is_through(stage: Stage, database: Database) -> bool:
    """Tell whether every row is proven to be visible."""
    return await stage.through(database) == await EventLog(database).end()


@asynccontextmanager
async def halted(relay: Relay) -> AsyncIterator[str]:
    """Run a relay likewise, and give why it halted."""
    async with working("relay", relay) as states:
        await until(lambda: states and states[-1][0] == "halted", 60, "the relay has halted")
        yield states[-1][1]


async def test_foreign_open_transaction_is_named(stage: Stage, database: Database) -> None:
    """Somebody else's transaction that stays open stops the opening, and the message says how to end it."""
    foreign = Producer({"bootstrap.servers": stage.target.bootstrap_servers, "transactional.id": stage.prefix})
    await asyncio.to_thread(foreign.init_transactions, 10)
    foreign.begin_transaction()
    foreign.produce(stage.topics[2], b"hello", partition=1)
    foreign.flush(10)
    stage.target = replace(stage.target, timeout_s=1.5)
    relay = stage.relay(database)
    with pytest.raises(
        IntegrityError, match=rf"{stage.topics[2]}/1: a transaction .* abort --topic .* --start-offset 0"
    ):
        await relay.run_once()
    await asyncio.to_thread(foreign.abort_transaction, 10)
    await append(database, 10)
    await stage.drain(relay, database)
    await relay.close()
    await stage.assert_equal(database)


async def test_refused_batch_never_leads_to_a_transaction_with_a_hole(stage: Stage, database: Database) -> None:
    """Where the broker refuses one batch of a transaction, nothing of it becomes visible, and a person is asked."""
    await append(database, 20)
    relay = stage.relay(database)
    await stage.drain(relay, database)
    await limit_messages(stage, stage.topics[1], 2000)
    noise = Random(1).randbytes(20_000).hex()  # compression must not make it small
    await append(database, 20, data=f'{{"message":{{"id":"{noise}"}}}}')
    with pytest.raises(IntegrityError, match=r"larger than the topic's max\.message\.bytes"):
        await relay.run_once()
    assert len(await stage.visible()) == 20
    with pytest.raises(IntegrityError, match=r"max\.message\.bytes"):
        await relay.run_once()
    await limit_messages(stage, stage.topics[1], 8 * 1024 * 1024)
    await stage.drain(relay, database)
    await relay.close()
    await stage.assert_equal(database)


async def test_a_halted_relay_goes_on_when_a_limit_was_raised_again(stage: Stage, database: Database) -> None:
    """max.message.bytes lowered under it and restored: it halts, names topic and limit, and goes on by itself."""
    await append(database, 20)
    relay = stage.relay(database)
    await stage.drain(relay, database)
    await limit_messages(stage, stage.topics[1], 2000)
    noise = Random(1).randbytes(20_000).hex()
    await append(database, 20, data=f'{{"message":{{"id":"{noise}"}}}}')
    async with halted(relay) as why:
        assert stage.topics[1] in why
        assert "max.message.bytes" in why
        await limit_messages(stage, stage.topics[1], 8 * 1024 * 1024)
        await until(lambda: is_through(stage, database), 60, "it goes on by itself")
    await stage.assert_equal(database)


async def test_a_record_that_still_does_not_fit_is_not_tried_again(stage: Stage, database: Database) -> None:
    """A topic that takes what the body limit asks for, but not this record: no producer until its limit was raised."""
    enough = record_limit_bytes(20_000)
    await limit_messages(stage, stage.topics[0], enough)
    noise = Random(1).randbytes(enough).hex()
    await append(database, 1, data=f'{{"message":{{"id":"{noise}"}}}}')
    relay = stage.relay(database, body_limit_bytes=20_000)
    async with halted(relay) as why:
        (size,) = re.findall(rf"{stage.topics[0]}: (\d+) bytes are larger", why)
        opened_before = openings()
        for limit in (enough + 1, int(size) - 1):
            await limit_messages(stage, stage.topics[0], limit)
            with pytest.raises(IntegrityError, match=rf"{size} bytes are larger"):
                await relay.look()
        assert openings() == opened_before
        await limit_messages(stage, stage.topics[0], int(size))
        await until(lambda: is_through(stage, database), 60, "it goes on by itself")
    await stage.assert_equal(database)


def openings() -> float:
    """Count openings of all causes."""
    causes = ("start", "error", "hanging")
    return sum(counted("relay_openings", cause=cause) for cause in causes)


async def test_a_halted_relay_starts_no_producer_to_look(
    stage: Stage, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two logs on one prefix: the wrong one looks and looks, and the rightful one publishes on and is never fenced."""
    await append(database, 20)
    rightful = stage.relay(database)
    await stage.drain(rightful, database)
    async with opened(tmp_path / "other.db") as other:
        await append(other, 10)
        wrong = stage.relay(other)
        async with halted(wrong) as why:
            assert "one topic prefix belongs to one log" in why
            await append(database, 10)
            with pytest.raises(FencedError):  # by the opening that halted, once
                await rightful.run_once()
            looks = await looking(wrong, monkeypatch)
            for _ in range(3):
                await append(database, 10)
                await until(looks, 60, "it looks again")
                await rightful.run_once()
            await stage.drain(rightful, database)
        await wrong.close()
    await rightful.close()
    await stage.assert_equal(database)


async def looking(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Return what tells whether the relay has looked once more, from begin to end, since the last time it told so."""
    real, done = relay.look, 0

    async def counted() -> None:
        nonlocal done
        try:
            await real()
        finally:
            done += 1

    def more() -> bool:
        nonlocal done
        more, done = done > 1, 0 if done > 1 else done
        return more

    monkeypatch.setattr(relay, "look", counted)
    return more


async def test_a_halted_relay_stays_halted_where_log_and_kafka_still_disagree(stage: Stage, database: Database) -> None:
    """Missing topics: it goes on when they are there. Recreated topics: it does not, and opens nothing."""
    relay = stage.relay(database)
    await append(database, 20)
    await delete_topics(stage)
    async with halted(relay) as why:
        assert "whatsms-events topics create" in why
        await stage.create()
        await until(lambda: is_through(stage, database), 60, "it goes on by itself")
    await recreate(stage)
    before = openings()
    async with halted(relay) as why:
        assert "recreated" in why
        for _ in range(3):
            with pytest.raises(IntegrityError, match="recreated"):
                await relay.look()
    assert openings() == before


async def test_a_halted_relay_goes_on_when_a_foreign_transaction_has_ended(stage: Stage, database: Database) -> None:
    """It stays halted while that transaction is open, and passes over what it left."""
    foreign = Producer({"bootstrap.servers": stage.target.bootstrap_servers, "transactional.id": stage.prefix})
    await asyncio.to_thread(foreign.init_transactions, 10)
    foreign.begin_transaction()
    foreign.produce(stage.topics[2], b"hello", partition=1)
    foreign.flush(10)
    stage.target = replace(stage.target, timeout_s=3)
    await append(database, 10)
    relay = stage.relay(database)
    async with halted(relay) as why:
        assert "--start-offset 0" in why
        with pytest.raises(IntegrityError, match="stays open at offset 0"):
            await relay.look()
        await asyncio.to_thread(foreign.commit_transaction, 10)
        await until(lambda: is_through(stage, database), 60, "it goes on by itself")
    await stage.assert_equal(database)


async def test_a_relay_goes_on_when_a_right_was_given_back(new_broker: Broker, database: Database) -> None:
    """A right to see, or to write, that was taken away: it halts or tries again, and goes on when it is given back."""
    new_broker.properties |= {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
    }
    try:
        await new_broker.start()
        async with alone(new_broker, timeout_s=5) as stage:
            relay = stage.relay(database)
            await append(database, 10)
            await stage.drain(relay, database)
            for denied, state in ((AclOperation.ALL, "halted"), (AclOperation.WRITE, "standby")):
                await deny(new_broker, stage.topics[0], denied)
                async with working("relay", relay) as states:

                    async def refused(states: list[tuple[str, str]] = states, state: str = state) -> bool:
                        await append(database, 1)
                        return bool(states) and states[-1][0] == state and "Authorization" in states[-1][1]

                    await until(refused, 60, "the relay says so")
                    await allow(new_broker, stage.topics[0])
                    await until(lambda: is_through(stage, database), 60, "it goes on by itself")
                await stage.assert_equal(database)
            await deny(new_broker, stage.topics[0], AclOperation.DESCRIBE_CONFIGS)

            async def hidden() -> bool:
                try:
                    await check_topics(stage.target, stage.prefix, body_limit_bytes=BODY_LIMIT)
                except ConfigError as exc:
                    return "does not show its settings" in str(exc)
                return False

            await until(hidden, 60, "the settings are hidden")
            found = await count_partitions(stage.target, stage.prefix)
            assert found == dict.fromkeys(stage.topics, 4), "who only reads needs no right to see settings"
    finally:
        await new_broker.remove()


async def deny(broker: Broker, topic: str, denied: AclOperation) -> None:
    """Take a right to the topic away from everybody."""
    wanted = [(AclOperation.ALL, AclPermissionType.ALLOW), (denied, AclPermissionType.DENY)]
    bindings = [
        AclBinding(ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, "User:ANONYMOUS", "*", operation, permission)
        for operation, permission in wanted
    ]
    admin = AdminClient({"bootstrap.servers": broker.direct})
    for done in admin.create_acls(bindings).values():
        await asyncio.to_thread(done.result, 10)


async def allow(broker: Broker, topic: str) -> None:
    """Give every right back."""
    anybody: Any = None  # as its documentation says; its types do not
    every = AclBindingFilter(
        ResourceType.TOPIC,
        topic,
        ResourcePatternType.LITERAL,
        anybody,
        anybody,
        AclOperation.ANY,
        AclPermissionType.ANY,
    )
    admin = AdminClient({"bootstrap.servers": broker.direct})
    for done in admin.delete_acls([every]).values():
        await asyncio.to_thread(done.result, 10)


async def limit_messages(stage: Stage, topic: str, size: int) -> None:
    """Change a topic's max.message.bytes, and wait until the broker says so: it answers before it has taken it in."""
    entry = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": stage.target.bootstrap_servers})
    await asyncio.to_thread(admin.incremental_alter_configs([resource])[resource].result, 10)
    asked = ConfigResource(ConfigResource.Type.TOPIC, topic)

    async def taken_in() -> bool:
        described = await asyncio.to_thread(admin.describe_configs([asked])[asked].result, 10)
        return bool(described["max.message.bytes"].value == str(size))

    await until(taken_in, 10, "the topic's limit")


async def test_largest_events_go_through(stage: Stage, database: Database) -> None:
    """Events near the body limit are split into transactions of bounded size, and every one arrives."""
    await append(database, 7, data='{"message":{"id":"' + "é" * (BODY_LIMIT // 2 - 100) + '"}}')
    relay = stage.relay(database)
    await stage.drain(relay, database)
    await relay.close()
    await stage.assert_equal(database)


async def test_blanked_rows_are_skipped_and_counted(stage: Stage, database: Database) -> None:
    """Rows whose data retention removed are passed over; the lower bound passes them too."""
    await append(database, 30)
    async with database.write() as connection:
        await connection.execute(update(event_log).where(event_log.c.position <= 12).values(data=None, raw=None))
    before = counted("relay_skipped", reason="blanked")
    relay = stage.relay(database)
    await stage.drain(relay, database)
    await relay.close()
    assert counted("relay_skipped", reason="blanked") - before == 12
    assert len(await stage.visible()) == 18


async def test_topic_emptied_by_retention_gets_only_what_is_new(stage: Stage, database: Database) -> None:
    """Where retention removed every record, the database's word stands: later rows appear there, and no row twice."""
    await append(database, 100)
    relay = stage.relay(database)
    await stage.drain(relay, database)
    await relay.close()
    emptied = stage.topics[0]
    admin = AdminClient({"bootstrap.servers": stage.target.bootstrap_servers})
    for deleted in admin.delete_records([TopicPartition(emptied, n, OFFSET_END) for n in range(4)]).values():
        assert (await asyncio.to_thread(deleted.result, 10)).low_watermark > 0
    assert not [at for at, records in (await stage.found()).items() if at[0] == emptied and records]
    for _ in range(2):
        await append(database, 30)
        relay = stage.relay(database)
        await stage.drain(relay, database)
        await relay.close()
    wanted, found = await stage.wanted(database), await stage.found()
    assert {at: positions(records) for at, records in found.items()} == {
        at: [position for position in positions(records) if position > 100 or at[0] != emptied]
        for at, records in wanted.items()
    }
    assert {topic for topic, _ in found} == set(stage.topics)


async def grow(stage: Stage, partitions: int) -> None:
    """Add partitions to every topic."""
    admin = AdminClient({"bootstrap.servers": stage.target.bootstrap_servers})
    for grown in admin.create_partitions([NewPartitions(topic, partitions) for topic in stage.topics]).values():
        await asyncio.to_thread(grown.result, 10)
    until = time.monotonic() + 60
    while any(len(admin.list_topics(topic, timeout=5).topics[topic].partitions) < partitions for topic in stage.topics):
        assert time.monotonic() < until
        await asyncio.sleep(0.05)


async def test_partitions_added_under_a_live_relay_wait_for_its_next_opening(stage: Stage, database: Database) -> None:
    """The live relay goes on by the counts it opened with; rows behind its last one go by the new counts."""
    await append(database, 50)
    relay = stage.relay(database)
    assert await relay.run_once() == 50
    await grow(stage, 7)
    await append(database, 50)
    assert await relay.run_once() == 50
    await stage.kill(relay)
    await append(database, 60)
    relay = stage.relay(database)
    await stage.drain(relay, database)
    await relay.close()
    await stage.assert_equal(database, counts=lambda position: 4 if position <= 100 else 7)


class CrashError(WhatsmsEventsError):
    """The relay ends here, as by a kill: nothing that comes after is done."""


STEPS: Final[dict[str, tuple[Any, str, int]]] = {
    "the producer was started": (kafka_producer.Producer, "open", 1),
    "the row was claimed": (RelayRows, "claim", 1),
    "the opening abort was written": (kafka_producer.Producer, "write", 1),
    "the opening abort was ended": (kafka_producer.Producer, "transact", 1),
    "nothing was open any more": (relay_module, "hanging", 1),
    "the partitions were looked at": (relay_module, "look", 1),
    "the opening was saved": (RelayRows, "save", 1),
    "rows were written": (kafka_producer.Producer, "write", 2),
    "their commit was answered": (kafka_producer.Producer, "transact", 2),
    "another commit was answered": (kafka_producer.Producer, "transact", 3),
    "the lower bound was saved": (RelayRows, "save", 2),
}
"""Each step of an opening and a fill-up: whose call, and the how manieth of one relay's life."""


async def crash_after(step: str, relay: Relay) -> None:
    """Run the relay until it has done this step, and no further."""
    owner, name, number = STEPS[step]
    real, calls = getattr(owner, name), 0

    async def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        done, calls = await real(*args, **kwargs), calls + 1
        if calls < number:
            return done
        if isinstance(done, kafka_producer.Producer):
            await done.close()  # a process that ends takes its connections with it
        raise CrashError(step)

    async def live() -> None:
        for _ in range(100):  # as long as it only passes over what is visible
            await relay.run_once()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, counted)
        with pytest.raises(CrashError, match=step):
            await live()
    assert not relay.active


async def test_crash_after_each_step_of_a_fill_up_loses_and_doubles_nothing(stage: Stage, database: Database) -> None:
    """Partitions are behind, and the relay ends after each of its steps in turn: each row becomes visible once.

    The lower bound never passes a row that is not visible.
    """
    random = Random(7)
    await append(database, 60)
    await stage.drain(first := stage.relay(database), database)
    await first.close()
    for step in STEPS:
        await append(database, 45)
        await stage.leave_behind(database, random)
        await crash_after(step, stage.relay(database, batch_limit=15))
    last = stage.relay(database)
    await stage.drain(last, database)
    await last.close()
    await stage.assert_equal(database)


async def test_partitions_added_in_the_middle_of_a_fill_up_keep_every_key_in_its_order(
    stage: Stage, database: Database
) -> None:
    """What is missing up to the highest visible row goes by the old counts, through crashes; what is behind it not."""
    await append(database, 60)
    await stage.drain(first := stage.relay(database), database)
    await first.close()
    await append(database, 60)
    boundary = await stage.leave_behind(database, Random(3))
    assert 60 < boundary <= 120
    await append(database, 60)
    await grow(stage, 7)
    for step in list(STEPS)[-6:]:
        await crash_after(step, stage.relay(database, batch_limit=5))
    last = stage.relay(database)
    await stage.drain(last, database)
    await last.close()
    await stage.assert_equal(database, counts=lambda position: 4 if position <= boundary else 7)


async def test_added_partitions_are_used_from_a_position_on(stage: Stage, database: Database) -> None:
    """Rows up to the highest visible one stay where their keys were; later ones go by the new counts, for ever."""
    await append(database, 100)
    relay = stage.relay(database)
    await stage.drain(relay, database)
    await relay.close()
    await grow(stage, 7)
    await append(database, 50)
    for _ in range(2):
        relay = stage.relay(database, check_interval_s=1000)
        await relay.run_once()
        await stage.kill(relay)
        await append(database, 50)
    relay = stage.relay(database)
    await stage.drain(relay, database)
    await relay.close()
    await stage.assert_equal(database, counts=lambda position: 4 if position <= 100 else 7)


async def test_opening_abort_is_marked_and_never_visible(stage: Stage, database: Database) -> None:
    """The record of the opening abort says what it is to who reads uncommitted, and nobody else sees it."""
    relay = stage.relay(database)
    assert await relay.run_once() == 0
    await relay.close()
    assert await stage.visible() == []
    uncommitted = await asyncio.to_thread(all_headers, stage)
    assert uncommitted == [[MARKER_HEADER]] * 12


def all_headers(stage: Stage) -> list[list[str]]:
    """Read the headers of every record, also of aborted ones."""
    consumer = Consumer(
        {
            "bootstrap.servers": stage.target.bootstrap_servers,
            "group.id": "x",
            "isolation.level": "read_uncommitted",
            "enable.auto.commit": False,
        }
    )
    consumer.assign([TopicPartition(topic, n, OFFSET_BEGINNING) for topic in stage.topics for n in range(4)])
    found: list[list[str]] = []
    until = time.monotonic() + 60
    while len(found) < 12 and time.monotonic() < until:
        messages = [message for message in consumer.consume(100, timeout=0.2) if message.error() is None]
        found += [list(dict(message.headers() or ())) for message in messages]
    consumer.close()
    return found


async def test_missing_topics_name_the_command(kafka: RunningKafka, database: Database) -> None:
    """Without its topics the relay stops, says which command makes them, and makes none by looking."""
    stage = Stage(kafka.bootstrap, f"none{uuid4().hex}")
    with pytest.raises(IntegrityError, match="whatsms-events topics create"):
        await stage.relay(database).run_once()
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    assert not set(stage.topics) & set(admin.list_topics(timeout=5).topics)


async def test_opening_48_partitions_is_quick(kafka: RunningKafka, topic_prefix: str, database: Database) -> None:
    """Looking through 48 partitions takes seconds at most, also where they end in aborted records only."""
    async with aclosing(Stage(kafka.bootstrap, topic_prefix, timeout_s=20)) as stage:
        await stage.create(partitions=16)
        await append(database, 400)
        relay = stage.relay(database)
        await stage.drain(relay, database)
        for _ in range(3):
            await stage.kill(relay)
            started = time.monotonic()
            await relay.run_once()
            took = time.monotonic() - started
    assert took < 60


@pytest.mark.chaos
async def test_broker_away_is_noticed_in_time_and_leaves_nothing_behind(
    quick_broker: Broker, database: Database
) -> None:
    """Frozen or dead, at work or while opening: BrokerUnavailableError within the deadline, and no task remains."""
    async with alone(quick_broker, timeout_s=1.5) as stage:
        relay = stage.relay(database)
        mine = asyncio.all_tasks()
        for leave in (quick_broker.freeze, quick_broker.kill):
            await append(database, 10)
            await stage.drain(relay, database)
            stage.clocks[relay].ahead_s -= 1000  # the next check is far away
            await append(database, 10)
            await leave()
            for _ in range(2):
                started = time.monotonic()
                with pytest.raises(BrokerUnavailableError):
                    await relay.run_once()
                assert time.monotonic() - started < 60
                assert not relay.active
                assert asyncio.all_tasks() == mine
            if quick_broker.pid is None:
                await quick_broker.start()
            else:
                await quick_broker.thaw()
        await stage.drain(relay, database)
        await relay.close()
        await stage.assert_equal(database)
