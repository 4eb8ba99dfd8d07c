"""Replays to Kafka: shadow topics on a real broker get each event once, and live topics are not written."""

import asyncio
import itertools
import json
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from confluent_kafka import Message, Producer

from cli.commands import Done, run
from servers import warm
from servers.compare import assert_published, headers_of, until
from servers.kafka import RunningKafka
from servers.witness import read_committed
from whatsms_events.cli.replay import topics
from whatsms_events.cli.replay.topics import WantedTopics
from whatsms_events.domain.records import TOPICS
from whatsms_events.domain.replay import WHOLE
from whatsms_events.domain.resume import Partition
from whatsms_events.errors import BrokerUnavailableError
from whatsms_events.kafka import visible as visible_in_kafka
from whatsms_events.kafka.connection import KafkaReader
from whatsms_events.kafka.topics import create_topics
from whatsms_events.storage.log.relay_row import RelayRows
from whatsms_events.storage.log.replays import Replays
from whatsms_events.workers import relay as relay_module
from workers.test_consumer import DEADLINE_S, Bench, connect, opened

pytestmark = [pytest.mark.kafka, pytest.mark.process]


@pytest.fixture
async def with_kafka(tmp_path: Path, kafka: RunningKafka, topic_prefix: str) -> AsyncIterator[Bench]:
    """Give an empty log and projection on SQLite, with live topics of their own."""
    async with opened(f"sqlite:///{tmp_path / 'log.db'}", f"sqlite:///{tmp_path / 'projection.db'}", tmp_path) as made:
        yield await connect(made, kafka, topic_prefix)


def visible(bench: Bench, prefix: str) -> list[Message]:
    """Return what a read_committed reader sees under a prefix."""
    assert bench.kafka is not None
    return read_committed(bench.kafka.bootstrap_servers, [f"{prefix}.{suffix}" for suffix in TOPICS])


class Shadows:
    """Shadow topics of a log that is also published to live topics, and the command that fills them."""

    def __init__(self, bench: Bench, prefix: str = "") -> None:
        assert bench.kafka is not None
        self.bench = bench
        self.prefix = prefix or f"{bench.prefix}-shadow"
        self.words = [
            *("--prefix", self.prefix, "--set", f"data_dir={bench.folder}"),
            *("--set", f"kafka.bootstrap_servers={bench.kafka.bootstrap_servers}"),
            *("--set", f"kafka.topic_prefix={bench.prefix}", "--set", "kafka.partitions=3"),
            *("--set", "kafka.replication_factor=1", "--set", "relay.check_interval_s=0.1"),
        ]

    def replay(self, *words: str) -> Done:
        """Run the command to its end."""
        return run(self.bench.folder, "replay", "kafka", *self.words, *words)


async def test_a_killed_replay_to_kafka_goes_on_and_each_event_is_there_once(with_kafka: Bench) -> None:
    """A replay is killed with half of the log published. The next one publishes the rest: a read_committed reader sees
    each event once, in order, with its id, its position and the marks of the replay. Live topics are not written, and
    no prefix is taken that was written to before.
    """
    bench, shadows = with_kafka, Shadows(with_kafka)
    assert bench.kafka is not None
    end = await bench.append(200)
    await bench.publish()
    live = len(visible(bench, bench.prefix))
    assert (await asyncio.to_thread(shadows.replay)).status == 0

    with (bench.folder / "said").open("wb") as said:
        words = ["replay", "kafka", *shadows.words, "--go", "--rate", "60"]
        program = warm.start(words, bench.folder, stdout=said, stderr=said)

    async def half() -> bool:
        known = await RelayRows(bench.log).load(shadows.prefix)
        return known is not None and known.published_through > 60

    await until(half, DEADLINE_S, "the half of it is published")
    program.send_signal(signal.SIGKILL)
    await asyncio.to_thread(program.wait, 60)
    assert (await asyncio.to_thread(shadows.replay, "--type", "ticket.closed", "--go")).status == 2
    done = await asyncio.to_thread(shadows.replay, "--go", "--json")
    assert done.status == 0, done.err
    told = json.loads(done.out[0])
    entries = await bench.event_log.read(0, 1000)
    assert_published(bench.kafka.bootstrap_servers, shadows.prefix, entries, await bench.event_log.log_id())
    found = [headers_of(one) for one in visible(bench, shadows.prefix)]
    marks = {tuple(value for name, value in headers if name.startswith("ce_replay")) for headers in found}
    ((replay_id, _begun_at, first),) = marks
    assert (replay_id.decode(), int(first), sum(one["count"] for one in told["types"])) == (told["replay"], 1, end)

    again = await asyncio.to_thread(shadows.replay, "--go")
    assert (again.status, "were written to before" in again.err[-1]) == (1, True)
    assert await RelayRows(bench.log).load(shadows.prefix) is None
    await RelayRows(bench.log).claim("another-live-one", await bench.event_log.log_id(), datetime.now(UTC))
    other = Shadows(bench, "another-live-one")
    refused = await asyncio.to_thread(other.replay, "--go")
    assert (refused.status, "a relay of this log publishes to another-live-one" in refused.err[-1]) == (1, True)
    assert len(visible(bench, bench.prefix)) == live


async def test_topics_that_somebody_wrote_to_are_refused_at_each_try(with_kafka: Bench) -> None:
    """The command looks before it begins: no replay is left over that a second try would go on with, unchecked."""
    bench, shadows = with_kafka, Shadows(with_kafka)
    await bench.append(20)
    assert bench.kafka is not None
    kept_ms = bench.settings().kafka.retention_ms
    await create_topics(bench.kafka, shadows.prefix, partitions=3, replication_factor=1, retention_ms=kept_ms)
    other = Producer({"bootstrap.servers": bench.kafka.bootstrap_servers})
    other.produce(f"{shadows.prefix}.contacts", b"somebody else's")
    assert other.flush(DEADLINE_S) == 0
    for _ in range(2):
        done = await asyncio.to_thread(shadows.replay, "--go")
        assert (done.status, "were written to before" in done.err[-1]) == (1, True), done.err
    assert await Replays(bench.log).latest() == []
    assert len(visible(bench, shadows.prefix)) == 1


async def test_a_replay_to_kafka_ends_only_when_everything_is_known_to_be_visible(
    with_kafka: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the last commit seems to hang at the end, the relay opens again and looks, and only then the replay is
    published. Where it never learns that all is visible, the command fails, and the replay stays to be gone on with.
    """
    bench = with_kafka
    end = await bench.append(50)
    prefix = f"{bench.prefix}-shadow"
    settings = bench.settings()
    kafka = settings.kafka.model_copy(update={"partitions": 3, "replication_factor": 1})
    relaying = settings.relay.model_copy(update={"check_interval_s": 60.0})
    settings = settings.model_copy(update={"data_dir": bench.folder, "kafka": kafka, "relay": relaying})
    monkeypatch.setattr(topics, "stop_on_signals", asyncio.Event)
    known: list[int] = []
    forget, real = RelayRows.forget, visible_in_kafka.hanging
    hangs: Iterator[bool] = itertools.repeat(True)

    async def noted(rows: RelayRows, of: str) -> None:
        row = await rows.load(of)
        known.append(0 if row is None else row.published_through)
        await forget(rows, of)

    async def hanging(
        committed: KafkaReader,
        uncommitted: KafkaReader,
        partitions: Sequence[Partition],
        *,
        settle_s: float,
        monotonic: Callable[[], float],
    ) -> Mapping[Partition, int]:
        if settle_s == relay_module.SETTLE_S / 2 and next(hangs, False):  # what a relay asks that closes
            return {partitions[0]: 0}
        return await real(committed, uncommitted, partitions, settle_s=settle_s, monotonic=monotonic)

    monkeypatch.setattr(RelayRows, "forget", noted)
    monkeypatch.setattr(relay_module, "hanging", hanging)
    with pytest.raises(BrokerUnavailableError, match="the same command goes on"):
        await topics.replay_kafka(settings, WantedTopics(prefix, WHOLE, go=True))
    assert (known, [one.outcome for one in await Replays(bench.log).latest()]) == ([], [None])
    for one in (prefix, f"{prefix}-2"):
        hangs = iter([True])
        assert await topics.replay_kafka(settings, WantedTopics(one, WHOLE, go=True)) == 0
    assert known == [end, end]
    assert [one.outcome for one in await Replays(bench.log).latest()] == ["published", "published"]
    assert bench.kafka is not None
    for one in (prefix, f"{prefix}-2"):
        entries = await bench.event_log.read(0, 1000)
        assert_published(bench.kafka.bootstrap_servers, one, entries, await bench.event_log.log_id())


async def test_a_replay_to_kafka_ends_where_the_log_ended_when_it_was_begun(with_kafka: Bench) -> None:
    """Also where a later position was asked for: what is appended after it was begun is not in it, not even where the
    replay is resumed. The command names the position that it reached.
    """
    bench, shadows = with_kafka, Shadows(with_kafka)
    end = await bench.append(20)
    beyond = ("--go", "--to-position", "1000000")
    with (bench.folder / "said").open("wb") as said:
        words = ["replay", "kafka", *shadows.words, *beyond, "--rate", "2"]
        program = warm.start(words, bench.folder, stdout=said, stderr=said)

    async def begun() -> bool:
        return await RelayRows(bench.log).load(shadows.prefix) is not None

    await until(begun, DEADLINE_S, "it publishes")
    program.send_signal(signal.SIGKILL)
    await asyncio.to_thread(program.wait, 60)
    await bench.append(20)
    other = await asyncio.to_thread(shadows.replay, "--go", "--to-position", "25")
    assert (other.status, "a replay of other events" in other.err[-1]) == (2, True)
    done = await asyncio.to_thread(shadows.replay, *beyond)
    assert (done.status, f"up to position {end}, as replay" in done.out[-1]) == (0, True), done
    assert len(visible(bench, shadows.prefix)) == end
