"""The row about freshness: how long after its delivery an event can be seen in Kafka and in the projection."""

import asyncio
import bisect
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import quantiles
from typing import Final

from bench import progress, targets
from bench.behind import appended
from bench.door import CONNECTIONS
from bench.load import FailedError
from bench.progress import APPLIED
from bench.report import Bar, Finding
from bench.stage import Door, Stage, service_door
from confluent_kafka import OFFSET_END, Consumer, Message, TopicPartition

from servers.service import Service
from whatsms_events.domain.records import TOPICS, place_of

LOOK_S: Final = 0.005
"""How often the projection is looked at; a figure may be too large by so much."""

PREFIX: Final = "bench"
PARTITIONS: Final = 12  # as `topics create` makes them
MINIMUM_S: Final = 4.0
"""A round at a tenth of the rate is at least this long, so that its 99th percentile says something."""

Partition = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Seen:
    """An event in Kafka: where, its position in the log, when its delivery came and when a reader saw it."""

    partition: Partition
    position: int
    received_at: float
    seen_at: float


class Witness:
    """Two threads that look at Kafka and at the projection's file until they are told to stop."""

    def __init__(self, bootstrap: str, file: Path) -> None:
        self.seen: list[Seen] = []
        self.looks: list[tuple[float, Mapping[Partition, int]]] = []
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._watch_kafka, args=(bootstrap,)),
            threading.Thread(target=self._watch_projection, args=(file,)),
        ]

    def start(self) -> None:
        """Begin to look."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Look no longer."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _watch_kafka(self, bootstrap: str) -> None:
        consumer = Consumer({
            "bootstrap.servers": bootstrap, "group.id": "bench", "isolation.level": "read_committed",
            "enable.auto.commit": False, "fetch.wait.max.ms": 10,
        })  # fmt: skip
        consumer.assign(
            [TopicPartition(f"{PREFIX}.{name}", number, OFFSET_END) for name in TOPICS for number in range(PARTITIONS)]
        )
        while not self._stopping.is_set():
            for message in consumer.consume(1000, timeout=0.01):
                if message.error() is None and (found := _seen(message)) is not None:
                    self.seen.append(found)
        consumer.close()

    def _watch_projection(self, file: Path) -> None:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
            while not self._stopping.wait(LOOK_S):
                rows = connection.execute("SELECT topic, partition, last_position FROM projection_offset").fetchall()
                self.looks.append((time.time(), {(topic, number): last for topic, number, last in rows}))

    def delays_in_kafka(self) -> list[float]:
        """Return for each event the seconds from its delivery until a read_committed reader had it."""
        return [one.seen_at - one.received_at for one in self.seen]

    def delays_in_projection(self) -> list[float]:
        """Return for each event the seconds from its delivery until the projection's place had passed it."""
        delays = []
        for one in self.seen:
            # The places only grow, so the first look that passed the event is found by halves.
            places = [self.looks[at][1].get(one.partition, 0) for at in (0, -1)]
            if places[0] < one.position <= places[1]:
                key = one.partition
                at = bisect.bisect_left(self.looks, one.position, key=lambda look: look[1].get(key, 0))
                delays.append(self.looks[at][0] - one.received_at)
        return delays


def _seen(message: Message) -> Seen | None:
    """Return what a record says; None for a record of somebody else."""
    found = message.headers()
    headers = {name: value for name, value in found if isinstance(value, bytes)} if isinstance(found, list) else {}
    place = place_of(tuple(headers.items()))
    if place is None:
        return None
    received_at = datetime.fromisoformat(headers["ce_recordedtime"].decode()).timestamp()
    return Seen((str(message.topic()), int(message.partition() or 0)), place[1], received_at, time.time())


async def fresh(stage: Stage) -> list[Finding]:
    """See events in Kafka and in the projection, at a tenth of the rate of ingest: seconds after their delivery."""
    kafka: list[float] = []
    projection: list[float] = []
    async with targets.broker(stage.new_folder(), stage.cores) as broker:
        settings = {"bootstrap_servers": broker.bootstrap, "topic_prefix": PREFIX}
        service = targets.service(stage.new_folder(), roles="receiver,relay,consumer", kafka=settings)
        targets.create_topics(service)
        async with service_door(stage, targets.service(stage.new_folder())) as alone:
            await alone.warm(CONNECTIONS)
            rate = (await alone.round(CONNECTIONS)).rate / 10
        async with service_door(stage, service) as door:
            await door.warm(CONNECTIONS)
            await _applied(door, service)
            for _ in range(stage.rounds):
                witness = Witness(broker.bootstrap, service.folder / "projection.db")
                await asyncio.to_thread(witness.start)
                await door.round(CONNECTIONS, seconds=max(MINIMUM_S, stage.seconds), rate=rate)
                await _applied(door, service)
                await asyncio.to_thread(witness.stop)
                kafka.append(_p99_ms(witness.delays_in_kafka()))
                projection.append(_p99_ms(witness.delays_in_projection()))
    case = f"at {rate:.0f}/s, SQLite, all roles in one process"
    bar = Bar(250, 100, below=True)
    return [
        Finding("fresh", f"p99 until in {where}, {case}", "", values, unit="ms", bar=bar)
        for where, values in (("Kafka", kafka), ("the projection", projection))
    ]


async def _applied(door: Door, service: Service) -> None:
    await progress.reach(service, APPLIED, await appended(door))


def _p99_ms(delays: Sequence[float]) -> float:
    if len(delays) < 2:
        raise FailedError("fresh: no event was seen")
    return quantiles(delays, n=100)[98] * 1000
