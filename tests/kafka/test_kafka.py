"""The wrapper around aiokafka against real Apache Kafka: reading, topics, transactions, and a broker that goes away."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from aiokafka.client import AIOKafkaClient
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it has no __all__
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
)

from servers.compare import until
from servers.kafka import Broker, RunningKafka
from servers.proxy import ADD_PARTITIONS_TO_TXN, END_TXN, PRODUCE, TcpProxy
from servers.witness import read_committed
from whatsms_events.domain.records import KafkaRecord
from whatsms_events.domain.resume import Partition
from whatsms_events.errors import BrokerUnavailableError, ConfigError, FencedError, IntegrityError
from whatsms_events.kafka.connection import Fetched, KafkaReader, KafkaTarget
from whatsms_events.kafka.producer import BATCH_BYTES, Batch, Producer
from whatsms_events.kafka.topics import check_topics, count_partitions, create_topics

BODY_LIMIT = 5 * 1024 * 1024
SIZE = 8 * 1024 * 1024


async def create(target: KafkaTarget, prefix: str, *, partitions: int = 3) -> list[str]:
    """Create topics with the usual settings."""
    return await create_topics(target, prefix, partitions=partitions, replication_factor=1, retention_ms=-1)


@pytest.fixture
def target(kafka: RunningKafka) -> KafkaTarget:
    """Name the session's broker."""
    return KafkaTarget(kafka.bootstrap, timeout_s=10)


@asynccontextmanager
async def reading(target: KafkaTarget, *, committed: bool = True) -> AsyncIterator[KafkaReader]:
    """Open a reader for a block."""
    reader = await KafkaReader.open(target, committed=committed)
    try:
        yield reader
    finally:
        await reader.close()


@asynccontextmanager
async def producing(target: KafkaTarget, name: str) -> AsyncIterator[Producer]:
    """Open a producer for a block."""
    topics = [f"{name}.contacts"]
    producer = await Producer.open(target, topics, transactional_id=name, transaction_timeout_s=10)
    try:
        yield producer
    finally:
        await producer.close()


def batch(producer: Producer, *values: str) -> Batch:
    """Fill a batch."""
    made = producer.batch()
    for value in values:
        record = KafkaRecord("", b"key", value.encode(), (("name", b"value"),))
        assert made.append(record, timestamp_ms=int(time.time() * 1000))
    return made


async def collect(reader: KafkaReader, ends: dict[Partition, int]) -> list[Fetched]:
    """Read until every position has reached its end."""
    found: list[Fetched] = []
    until = time.monotonic() + 60
    while any(offset < ends[at] for at, offset in (await reader.positions()).items()):
        assert time.monotonic() < until
        found += await reader.read(limit=2, timeout_s=0.1)
    return found


async def test_topics_are_created_once_and_compared_afterwards(target: KafkaTarget, topic_prefix: str) -> None:
    """What is missing is created as asked, what is there is never changed, and each difference is named."""
    names = [f"{topic_prefix}.{suffix}" for suffix in ("conversations", "contacts", "campaigns")]
    assert await create(target, topic_prefix) == names
    assert await create(target, topic_prefix) == []
    with pytest.raises(IntegrityError, match=rf"{names[2]} has partitions 3, the settings ask for 4"):
        await create(target, topic_prefix, partitions=4)
    found = await check_topics(target, topic_prefix, body_limit_bytes=BODY_LIMIT)
    assert {topic.keeps_ms for topic in found.values()} == {None}


async def test_a_topic_forgets_by_a_date_that_can_be_named(target: KafkaTarget, topic_prefix: str) -> None:
    """Kafka removes whole segments, so a record stays for as long as its topic keeps and a segment takes: a day."""
    days = [30 * 86_400_000, 31 * 86_400_000]
    await create_topics(target, topic_prefix, partitions=1, replication_factor=1, retention_ms=days[0])
    found = await check_topics(target, topic_prefix, body_limit_bytes=BODY_LIMIT)
    assert {topic.keeps_ms for topic in found.values()} == {days[1]}


async def test_topics_that_lose_events_or_cannot_hold_them_are_refused(target: KafkaTarget, topic_prefix: str) -> None:
    """Compaction, and a topic smaller than the largest event, stop the relay before it begins."""
    await create(target, topic_prefix)
    with pytest.raises(IntegrityError, match=r"max\.message\.bytes 8388608: .* 9131072 for receiver\.body_limit_bytes"):
        await check_topics(target, topic_prefix, body_limit_bytes=6_000_000)
    name = f"{topic_prefix}.contacts"
    entry = ConfigEntry("cleanup.policy", "compact", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, name, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": target.bootstrap_servers})
    await asyncio.to_thread(admin.incremental_alter_configs([resource])[resource].result, 10)

    async def check_until_it_is_everywhere() -> None:
        for _ in range(100):
            await check_topics(target, topic_prefix, body_limit_bytes=BODY_LIMIT)
            await asyncio.sleep(0.05)

    with pytest.raises(IntegrityError, match=f"{name} has cleanup.policy compact"):
        await check_until_it_is_everywhere()


async def test_missing_topics_are_named_with_the_command(target: KafkaTarget, topic_prefix: str) -> None:
    """Whoever needs a topic that is not there is told how to make it."""
    with pytest.raises(IntegrityError, match="whatsms-events topics create"):
        await check_topics(target, topic_prefix, body_limit_bytes=BODY_LIMIT)
    with pytest.raises(IntegrityError, match=rf"{topic_prefix}\.conversations does not exist"):
        await count_partitions(target, topic_prefix)


async def test_looking_for_topics_makes_none(new_broker: Broker) -> None:
    """A broker that makes a topic for whoever names it makes none of ours because we look for them."""
    new_broker.properties |= {"auto.create.topics.enable": "true"}
    try:
        await new_broker.start()
        target = KafkaTarget(new_broker.bootstrap, timeout_s=10)
        for looking in (check_topics(target, "p", body_limit_bytes=BODY_LIMIT), count_partitions(target, "p")):
            with pytest.raises(IntegrityError, match="whatsms-events topics create"):
                await looking
        admin = AdminClient({"bootstrap.servers": target.bootstrap_servers})
        assert not [name for name in admin.list_topics(timeout=10).topics if name.startswith("p.")]
    finally:
        await new_broker.remove()


async def test_more_replicas_than_brokers_is_a_mistake_in_the_configuration(
    target: KafkaTarget, topic_prefix: str
) -> None:
    """What the broker refuses for good is ConfigError, with its words."""
    with pytest.raises(ConfigError, match="cannot be created: InvalidReplicationFactorError"):
        await create_topics(target, topic_prefix, partitions=1, replication_factor=3, retention_ms=-1)


async def test_committed_reader_sees_what_was_committed_only(target: KafkaTarget, topic_prefix: str) -> None:
    """Aborted and undecided records are hidden, ends is the last stable offset, positions pass over markers."""
    await create(target, topic_prefix)
    at = (f"{topic_prefix}.contacts", 1)
    async with (
        reading(target) as reader,
        reading(target, committed=False) as everything,
        producing(target, topic_prefix) as producer,
    ):
        await producer.transact({at: batch(producer, "a", "b", "c")})
        await producer.transact({at: batch(producer, "aborted")}, commit=False)
        await producer.write({at: batch(producer, "undecided")})
        assert await everything.ends([at]) == {at: 7}
        assert await reader.ends([at]) == {at: 6}
        assert await reader.beginnings([at]) == {at: 0}
        await reader.assign({at: 1})
        found = await collect(reader, {at: 6})
        assert [record.value for record in found] == [b"b", b"c"]
        assert found[0] == Fetched(at[0], 1, 1, found[0].timestamp_ms, b"key", b"b", (("name", b"value"),))
        assert await reader.positions() == {at: 6}
        await everything.assign({at: 0})
        assert len(await collect(everything, {at: 7})) == 5


async def test_offset_out_of_range_stops_the_reader(target: KafkaTarget, topic_prefix: str) -> None:
    """A position that the partition does not have is an error for a person, never a silent jump."""
    await create(target, topic_prefix)
    async with reading(target) as reader:
        await reader.assign({(f"{topic_prefix}.campaigns", 0): 17})
        with pytest.raises(
            IntegrityError, match=rf"{topic_prefix}\.campaigns/0 offset 17 is gone: removed by retention"
        ):
            await reader.read(limit=10, timeout_s=10)


async def test_added_partitions_are_seen(target: KafkaTarget, topic_prefix: str) -> None:
    """The count is asked for afresh each time; a reader that is given an added partition soon knows of it."""
    await create(target, topic_prefix)
    name = f"{topic_prefix}.contacts"
    async with reading(target) as reader:
        assert reader.partitions(name) is None
        await reader.assign({(name, 0): 0})
        await until(lambda: reader.partitions(name) == 3, 60, "the reader knows the topic")
        admin = AdminClient({"bootstrap.servers": target.bootstrap_servers})
        await asyncio.to_thread(admin.create_partitions([NewPartitions(name, 5)])[name].result, 10)

        async def added() -> bool:
            return (await count_partitions(target, topic_prefix))[name] == 5

        await until(added, 60, "the broker says so")
        await reader.assign({(name, 4): 0})
        await until(lambda: reader.partitions(name) == 5, 60, "the reader knows the added partitions")


async def test_successor_fences_the_older_producer(target: KafkaTarget, topic_prefix: str) -> None:
    """Opening aborts what the older one left open, and the older one can write nothing more."""
    await create(target, topic_prefix)
    at = (f"{topic_prefix}.contacts", 0)
    async with producing(target, topic_prefix) as dead:
        await dead.write({at: batch(dead, "half")})
    async with producing(target, topic_prefix) as older:
        await older.transact({at: batch(older, "first")})
        async with producing(target, topic_prefix) as newer:
            with pytest.raises(FencedError):
                await older.transact({at: batch(older, "late")})
            await newer.transact({at: batch(newer, "second")})
            with pytest.raises(FencedError):
                await older.transact({at: batch(older, "later")})
    messages = await asyncio.to_thread(read_committed, target.bootstrap_servers, [at[0]])
    assert [message.value() for message in messages] == [b"first", b"second"]


async def test_full_batch_takes_no_more_and_an_empty_one_takes_any(target: KafkaTarget, topic_prefix: str) -> None:
    """A batch is bounded; a record larger than the bound goes alone."""
    async with producing(target, topic_prefix) as producer:
        made, record = producer.batch(), KafkaRecord("", b"k", bytes(BATCH_BYTES), ())
        assert made.append(record, timestamp_ms=0)
        assert not made.append(record, timestamp_ms=0)


async def test_lost_answers_change_nothing(proxied_broker: tuple[Broker, TcpProxy]) -> None:
    """An answer that is lost on the way is asked for again by itself, or fails whole; nothing is there twice."""
    broker, proxy = proxied_broker
    target = KafkaTarget(broker.bootstrap, timeout_s=10)
    await create(target, "p")
    at, sure = ("p.contacts", 0), []
    for number, kind in enumerate((PRODUCE, ADD_PARTITIONS_TO_TXN, END_TXN)):
        async with producing(target, "p") as producer:
            proxy.lose_answer(kind)
            await producer.transact({at: batch(producer, f"v{number}")})
            sure.append(f"v{number}".encode())
            assert producer.disturbed() is False, "what was lost before the first look does not count"
            proxy.cut()
            await asyncio.sleep(0)
            await producer.transact({at: batch(producer, f"w{number}")})
            sure.append(f"w{number}".encode())
            assert producer.disturbed()
    messages = await asyncio.to_thread(read_committed, broker.direct, ["p.contacts"])
    assert [message.value() for message in messages] == sure


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
async def test_tls_and_password(sasl_broker: Broker, topic_prefix: str, mechanism: str) -> None:
    """Topics, producer and reader work over SASL_SSL; a wrong password or authority is BrokerUnavailableError."""
    security = sasl_broker.sasl_ssl
    assert security is not None
    target = KafkaTarget(
        sasl_broker.bootstrap,
        security_protocol="SASL_SSL",
        sasl_mechanism=mechanism,  # type: ignore[arg-type]
        username=security.user,
        password=security.password,
        ca_file=security.ca_file,
    )
    await create(target, topic_prefix)
    at = (f"{topic_prefix}.contacts", 2)
    async with producing(target, topic_prefix) as producer, reading(target) as reader:
        await producer.transact({at: batch(producer, "secret")})
        await reader.assign({at: 0})
        assert [record.value for record in await collect(reader, {at: 1})] == [b"secret"]
    for wrong in (replace(target, password="wrong"), replace(target, ca_file=None)):
        with pytest.raises(BrokerUnavailableError) as caught:
            await KafkaReader.open(wrong)
        assert "wrong" not in str(caught.value)


@pytest.mark.parametrize(
    "target",
    [
        KafkaTarget("localhost:1", security_protocol="SSL", ca_file=Path("missing.pem")),
        KafkaTarget("localhost:1", security_protocol="SASL_PLAINTEXT", sasl_mechanism="PLAIN", username="u"),
    ],
)
async def test_security_that_cannot_be_used_is_a_configuration_error(target: KafkaTarget) -> None:
    """A missing file or password is found before anything is connected."""
    with pytest.raises(ConfigError, match="kafka"):
        await KafkaReader.open(target)


async def test_nobody_there_is_noticed_at_once_and_leaves_nothing_behind() -> None:
    """A refused connection is BrokerUnavailableError for everything that opens, and no task remains."""
    target, before = KafkaTarget("127.0.0.1:9", timeout_s=1.5), asyncio.all_tasks()
    for opening in (
        KafkaReader.open(target),
        Producer.open(target, [], transactional_id="x", transaction_timeout_s=10),
        create(target, "p"),
        check_topics(target, "p", body_limit_bytes=1),
    ):
        started = time.monotonic()
        with pytest.raises(BrokerUnavailableError, match=r"127\.0\.0\.1:9"):
            await opening
        assert time.monotonic() - started < 60
        assert asyncio.all_tasks() == before


async def test_silent_peer_is_noticed_in_time_and_leaves_nothing_behind() -> None:
    """A peer that takes connections and never answers is left within the deadline, without a task or a socket."""
    async with aclosing(Silent()) as peer:
        await peer.start()
        target, before = KafkaTarget(f"127.0.0.1:{peer.port}", timeout_s=1.5), asyncio.all_tasks()
        for opening in (
            KafkaReader.open(target),
            Producer.open(target, [], transactional_id="x", transaction_timeout_s=10),
        ):
            started = time.monotonic()
            with pytest.raises(BrokerUnavailableError):
                await opening
            assert time.monotonic() - started < 60
        await peer.emptied()
        assert asyncio.all_tasks() == before


class Silent:
    """A listener that reads and says nothing."""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Transport] = set()
        self.port = 0

    async def start(self) -> None:
        """Listen."""
        peer = self

        class Protocol(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                assert isinstance(transport, asyncio.Transport)
                self.transport = transport
                peer._open.add(transport)

            def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
                peer._open.discard(self.transport)

        self._server = await asyncio.get_running_loop().create_server(Protocol, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def emptied(self) -> None:
        """Wait until every connection is closed."""
        until = time.monotonic() + 60
        while self._open:
            assert time.monotonic() < until, "a connection was left open"
            await asyncio.sleep(0.02)

    async def aclose(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()


async def test_an_assertion_of_aiokafka_is_a_broker_that_is_away(
    kafka: RunningKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that just came back knows no broker, and aiokafka asserts that it does: tried again, not a crash."""

    async def knows_nobody(*_: object) -> None:
        raise AssertionError("Did we not perform bootstrap?")

    monkeypatch.setattr(AIOKafkaClient, "coordinator_lookup", knows_nobody)
    with pytest.raises(BrokerUnavailableError):
        await Producer.open(
            KafkaTarget(bootstrap_servers=kafka.bootstrap), [], transactional_id="x", transaction_timeout_s=10
        )
