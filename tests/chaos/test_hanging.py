"""Promise 4 where transactions hang: commits that were answered and never became visible, and what stays open."""

import asyncio
import hashlib
import itertools
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from confluent_kafka import KafkaException, Producer

from servers.compare import LONG, assert_published, until, whole_log
from servers.kafka import Broker, RunningKafka
from servers.metric import counted
from servers.service import TENANT
from servers.witness import last_stable_offsets
from whatsms_events.config.settings import Kafka, RelaySettings, Settings
from whatsms_events.domain.normalize import normalize
from whatsms_events.domain.records import TOPICS
from whatsms_events.domain.verdicts import Append
from whatsms_events.errors import FencedError, IntegrityError, TransientError
from whatsms_events.kafka.connection import KafkaReader, KafkaTarget
from whatsms_events.kafka.topics import create_topics
from whatsms_events.service.parts import make_committer, make_relay
from whatsms_events.service.supervisor import Supervisor
from whatsms_events.storage.database import Database, DatabaseTarget, open_log
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.log.relay_row import RelayRows
from whatsms_events.twin.world import World

KILLS = 10 if LONG else 3
PARTITIONS = 16
ROWS = 300
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]
BATCH_START, CONTROL = 12, 0x20  # Kafka's record batch: offset and length, then what the length is of; attributes
OURS, FOREIGN = "whatsms-events.{}", "somebody-else.{}"


class Stage:
    """A log, its relay and its topics; nothing but `run_once` moves the relay.

    While the relay's clock is `behind_s`, no check of what is visible is due.
    """

    def __init__(self, log: Database, target: KafkaTarget, prefix: str) -> None:
        self.log = log
        self.target = target
        self.prefix = prefix
        self.stream = World(5, start=datetime.now(UTC), tenant_id=TENANT, pace=1000).webhooks()
        self.behind_s = 0.0
        self.settings = Settings(kafka=Kafka(topic_prefix=prefix), relay=RelaySettings(check_interval_s=0.2))
        self.relay = make_relay(self.settings, target, log, monotonic=lambda: time.monotonic() - self.behind_s)

    async def append(self, count: int) -> None:
        """Append the world's next webhooks to the log."""
        supervisor, now = Supervisor(), datetime.now(UTC)
        committer = make_committer(self.settings, self.log, supervisor.wake)
        async with supervisor.running(committer, writers=[], readers=[]):
            bodies = [webhook.body for webhook in itertools.islice(self.stream, count)]
            appends = [
                Append(normalize(body, tenant=TENANT, received_at=now), body, hashlib.sha256(body).digest())
                for body in bodies
            ]
            await asyncio.gather(*(committer.submit(append, deadline_s=60) for append in appends))

    async def published_through(self) -> int:
        """Return the relay's lower bound."""
        row = await RelayRows(self.log).load(self.prefix)
        return row.published_through if row is not None else 0

    async def relayed(self) -> None:
        """Run the relay as its loop would, until all is known to be visible."""

        async def everything() -> bool:
            try:
                await self.relay.run_once()
            except (TransientError, FencedError):
                return False
            return await self.published_through() == await EventLog(self.log).end()

        await until(everything, 60, "everything published")

    async def assert_published(self) -> None:
        """Check that Kafka shows the log, each event once."""
        log = EventLog(self.log)
        assert_published(self.target.bootstrap_servers, self.prefix, await whole_log(self.log), await log.log_id())

    async def stable(self) -> dict[tuple[str, int], int]:
        """Return where each partition's readable part ends; a broker that is just back may need to be asked again."""
        topics = [f"{self.prefix}.{suffix}" for suffix in TOPICS]
        found: dict[tuple[str, int], int] = {}

        async def answered() -> bool:
            try:
                found.update(await asyncio.to_thread(last_stable_offsets, self.target.bootstrap_servers, topics))
            except KafkaException:
                return False
            return True

        await until(answered, 30, "the ends of the partitions")
        return found

    async def hanging(self) -> int:
        """Count partitions in which something stays open; markers that only come late are waited for."""
        stable = await self.stable()
        uncommitted = await KafkaReader.open(self.target, committed=False)
        try:
            ends = await uncommitted.ends(list(stable))
        finally:
            await uncommitted.close()
        return sum(stable[place] < end for place, end in ends.items())


@asynccontextmanager
async def staged(bootstrap: str, prefix: str, folder: Path, *, timeout_s: float) -> AsyncIterator[Stage]:
    """Give a stage with fresh topics and an empty log."""
    target = KafkaTarget(bootstrap_servers=bootstrap, timeout_s=timeout_s)
    await create_topics(target, prefix, partitions=PARTITIONS, replication_factor=1, retention_ms=-1)
    log = await open_log(DatabaseTarget(url=f"sqlite:///{folder / 'log.db'}"), migrate=True)
    stage = Stage(log, target, prefix)
    try:
        yield stage
    finally:
        await stage.relay.close()
        await log.close()


def openings(cause: str) -> float:
    """Return how often a relay of this process opened for this cause."""
    return counted("relay_openings", cause=cause)


def published() -> float:
    """Return how many records of events were committed by relays of this process, visible or not."""
    return sum(counted("relay_published", topic=suffix) for suffix in TOPICS)


def cut_off_markers(folder: Path, ends: Mapping[tuple[str, int], int]) -> int:
    """Cut off the marker at each partition's end, if it is behind `ends`, while the broker is dead; return how many.

    This is how a broker leaves partitions that dies in the wrong moment and leads none of them when it is to write the
    markers again ("likely deleted already" in its log): which moment that is depends on how busy the machine is.
    """
    cut = 0
    for (topic, number), end in ends.items():
        (file,) = folder.glob(f"**/{topic}-{number}/*.log")
        batches, at, last = file.read_bytes(), 0, 0
        while at < len(batches):
            last, at = at, at + BATCH_START + int.from_bytes(batches[at + 8 : at + BATCH_START], "big")
        if batches and batches[last + 22] & CONTROL and int.from_bytes(batches[last : last + 8], "big") >= end:
            os.truncate(file, last)
            cut += 1
    return cut


async def test_commits_that_were_answered_and_hang_are_filled_up_once(
    quick_broker: Broker, topic_prefix: str, tmp_path: Path
) -> None:
    """Kills of the broker after answered commits whose markers get lost: the live relay fills up, exactly once."""
    async with staged(quick_broker.bootstrap, topic_prefix, tmp_path, timeout_s=10) as stage:
        await stage.append(1)
        await stage.relayed()
        sent, noticed, rounds_that_hang = published(), openings("hanging"), 0
        before = known = await EventLog(stage.log).end()
        for _ in range(KILLS):
            ends = await stage.stable()
            # The second transaction can begin only when the first is complete: the broker sees nothing left to do.
            for count in (ROWS, 3):
                await stage.append(count)
                stage.behind_s = 1000.0
                assert await stage.relay.run_once() > 0
            await quick_broker.kill()
            assert await stage.published_through() == known, "what is known to be visible cannot get lost"
            assert cut_off_markers(quick_broker.folder, ends) > 0
            await quick_broker.start()
            rounds_that_hang += await stage.hanging() > 0
            stage.behind_s = 0.0
            await stage.relayed()
            known = await EventLog(stage.log).end()
        await stage.relay.close()
        await stage.assert_published()
        assert rounds_that_hang >= KILLS - 2, "too few rounds left a partition hanging: this proved little"
        assert openings("hanging") - noticed >= (KILLS // 2 if LONG else 1), (
            "the live relay noticed too little by itself"
        )
        assert published() - sent > known - before, "nothing was filled up"


async def left_open(stage: Stage, transactional_id: str, partition: int) -> Producer:
    """Write a record in a transaction that is neither committed nor aborted; return who could do it."""
    producer = Producer({"bootstrap.servers": stage.target.bootstrap_servers, "transactional.id": transactional_id})
    await asyncio.to_thread(producer.init_transactions, 10)
    producer.begin_transaction()
    producer.produce(f"{stage.prefix}.{TOPICS[0]}", b"open", partition=partition)
    assert await asyncio.to_thread(producer.flush, 10) == 0
    assert await stage.hanging() == 1
    return producer


async def test_what_hangs_of_our_own_is_cleared_by_the_live_relay(
    kafka: RunningKafka, topic_prefix: str, tmp_path: Path
) -> None:
    """With all its connections undisturbed the relay sees at its next check what hangs, opens again and clears it."""
    async with staged(kafka.bootstrap, topic_prefix, tmp_path, timeout_s=10) as stage:
        await stage.append(ROWS)
        await stage.relayed()
        before = await EventLog(stage.log).end()
        sent, noticed, failed = published(), openings("hanging"), openings("error")
        await left_open(stage, OURS.format(topic_prefix), 3)
        await until(lambda: opened_again(stage, noticed), 30, "the next check")
        assert (openings("hanging") - noticed, openings("error") - failed) == (1, 0)
        assert await stage.hanging() == 0
        await stage.append(ROWS)
        await stage.relayed()
        assert published() - sent == await EventLog(stage.log).end() - before, (
            "what was visible before is not published again"
        )
        await stage.assert_published()


async def opened_again(stage: Stage, noticed: float) -> bool:
    """Run the relay once; tell whether it has opened again for what hangs."""
    assert await stage.relay.run_once() == 0
    return openings("hanging") > noticed


async def test_what_hangs_of_somebody_else_halts_the_live_relay_and_is_named(
    kafka: RunningKafka, topic_prefix: str, tmp_path: Path
) -> None:
    """A foreign transaction that stays open is found at the next check, too; only a person can end it."""
    async with staged(kafka.bootstrap, topic_prefix, tmp_path, timeout_s=2) as stage:
        await stage.append(ROWS)
        await stage.relayed()
        foreign = await left_open(stage, FOREIGN.format(topic_prefix), 5)
        with pytest.raises(IntegrityError, match=rf"{topic_prefix}\.{TOPICS[0]}/5: a transaction .* stays open"):
            await until(lambda: opened_again(stage, openings("hanging")), 30, "the next check")
        assert not stage.relay.active
        await asyncio.to_thread(foreign.abort_transaction, 10)
        await stage.append(ROWS)
        await stage.relayed()
        await stage.assert_published()
