"""The record of one event is found on real Kafka, by few reads, or it is said why it is not there."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions  # type: ignore[attr-defined]  # it has no __all__

from servers.compare import whole_log
from servers.kafka import RunningKafka
from servers.ports import HOST, free_port
from whatsms_events.domain.events import LogEntry
from whatsms_events.domain.records import place_of, to_record
from whatsms_events.domain.trace import RecordPlace
from whatsms_events.kafka.connection import KafkaReader, KafkaTarget
from whatsms_events.kafka.lookup import Lookup
from whatsms_events.service.record_finder import RecordFinder
from whatsms_events.storage.database import Database, DatabaseTarget, open_projection
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.trace import Traces
from workers.test_relay import Stage, append, headers, opened

COUNT = 400
EACH = 23


@pytest.fixture
async def stage(kafka: RunningKafka, topic_prefix: str) -> AsyncIterator[Stage]:
    """Give a prefix with topics of two partitions."""
    made = Stage(kafka.bootstrap, topic_prefix)
    await made.create(partitions=2)
    yield made
    await made.aclose()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """Give an empty log."""
    async with opened(tmp_path / "log.db") as found:
        yield found


async def publish(stage: Stage, database: Database, count: int) -> list[LogEntry]:
    """Append events and publish the log, in transactions of 50 with their markers between; return the whole log."""
    await append(database, count)
    relay = stage.relay(database)
    await stage.drain(relay, database)
    await relay.close()
    return await whole_log(database)


async def find(stage: Stage, database: Database, entry: LogEntry, *, near: int = 5) -> RecordPlace:
    """Look a record up."""
    log_id = await EventLog(database).log_id()
    lookup = Lookup(stage.target, stage.prefix, log_id, monotonic=time.monotonic, near=near)
    through = await stage.through(database)
    return await lookup.find(to_record(entry, log_id), entry.position, through)


async def places(stage: Stage) -> dict[int, RecordPlace]:
    """Return where a client that is not ours sees each position."""
    found = {}
    for message in await stage.visible():
        place = place_of(headers(message))
        if place is not None:
            at = str(message.topic()), message.partition(), message.offset()
            since = datetime.fromtimestamp(message.timestamp()[1] / 1000, UTC)
            found[place[1]] = RecordPlace("published", *at, since)
    return found


async def test_each_record_is_found_where_another_client_sees_it(
    stage: Stage, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Topic, partition, offset and time are those of the witness, among markers and strays, and few records are read;
    what is not published yet is told from what is.
    """
    stray = Producer({"bootstrap.servers": stage.target.bootstrap_servers})
    for number in range(40):
        stray.produce(f"{stage.prefix}.conversations", b"stray", partition=number % 2)
    await asyncio.to_thread(stray.flush)
    entries = await publish(stage, database, COUNT)
    wanted, reads = await places(stage), 0
    read = KafkaReader.read

    async def counted(self: KafkaReader, *, limit: int, timeout_s: float) -> object:
        nonlocal reads
        reads += 1
        return await read(self, limit=limit, timeout_s=timeout_s)

    monkeypatch.setattr(KafkaReader, "read", counted)
    some = [entries[0], entries[-1], *entries[7::EACH]]
    for entry in some:
        assert await find(stage, database, entry) == wanted[entry.position]
    # Halving some hundred offsets takes six or seven looks; a look may have to wait for its first record.
    assert reads < 25 * len(some)
    await append(database, 1)
    late = (await whole_log(database))[-1]
    assert (await find(stage, database, late)).state == "not_published"


async def test_what_is_not_there_any_more_is_told_apart(stage: Stage, database: Database) -> None:
    """A record that retention removed, one that was never published because it was blanked, and one that went to
    another partition before partitions were added, are told apart; the last is found.
    """
    entries = await publish(stage, database, 100)
    wanted = await places(stage)
    topic = f"{stage.prefix}.conversations"
    admin = AdminClient({"bootstrap.servers": stage.target.bootstrap_servers, "log_level": 0})
    await asyncio.to_thread(admin.create_partitions([NewPartitions(topic, 5)])[topic].result, 10)
    mine = [entry for entry in entries if wanted[entry.position].topic == topic]
    for entry in mine[::9]:
        assert await find(stage, database, entry) == wanted[entry.position]
    ends = dict.fromkeys(range(2), 0)
    for place in wanted.values():
        if place.topic == topic and place.partition in ends and place.offset is not None:
            ends[place.partition] = max(ends[place.partition], place.offset)
    removed = admin.delete_records([TopicPartition(topic, number, end) for number, end in ends.items()])
    for done in removed.values():
        await asyncio.to_thread(done.result, 10)
    states = {entry.position: (await find(stage, database, entry)).state for entry in (mine[0], mine[1])}
    assert set(states.values()) == {"past_retention"}
    contact = next(entry for entry in entries if (wanted[entry.position].topic or "").endswith(".contacts"))
    ghost = LogEntry(position=contact.position + 1, event=contact.event)
    assert (await find(stage, database, ghost)).state == "not_found"


async def test_a_trace_names_the_record_of_its_event(stage: Stage, database: Database, tmp_path: Path) -> None:
    """From the event's id to its topic, partition and offset; without Kafka, and with one that is away, it says so."""
    entries = await publish(stage, database, 20)
    wanted = await places(stage)
    projection = await open_projection(DatabaseTarget(f"sqlite:///{tmp_path / 'projection.db'}"), migrate=True)
    facts = await Traces(database, projection).event(entries[7].event.id)
    await projection.close()
    assert facts is not None
    assert await RecordFinder(database, stage.target, stage.prefix).find(facts) == wanted[entries[7].position]
    assert await RecordFinder(database, None, stage.prefix).find(facts) == RecordPlace("off")
    for target, prefix in (
        (stage.target, f"{stage.prefix}x"),
        (KafkaTarget(f"{HOST}:{free_port()}", timeout_s=0.5), "x"),
    ):
        assert await RecordFinder(database, target, prefix).find(facts) == RecordPlace("unavailable")
