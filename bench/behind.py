"""The rows about what is behind the door: relay, consumer, rebuild, and all of it together."""

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

import aiohttp
from bench import progress, targets
from bench.corpus import Requests
from bench.door import CONNECTIONS
from bench.progress import APPENDED, APPLIED, PUBLISHED, Paced
from bench.report import Bar, Finding, ratios
from bench.stage import Door, Stage, service_door

from servers.service import Service

START_EVENTS: Final = 500
"""Two times so many events make the tables ready: those that come second must come by Kafka."""

WHOLE_S: Final = 3600.0
INGEST: Final = "durable ingest of the same events"


@dataclass(slots=True)
class Log:
    """A log in a folder, on SQLite or PostgreSQL, with or without Kafka, and what was measured of it in each round."""

    stage: Stage
    folder: Path
    deliveries: Requests  # those that it did not have yet
    url: str | None = None
    kafka: Mapping[str, str] = field(default_factory=dict)
    ingested: list[float] = field(default_factory=list)
    published: list[Paced] = field(default_factory=list)
    applied: list[Paced] = field(default_factory=list)

    @classmethod
    def new(cls, stage: Stage, url: str | None = None, kafka: Mapping[str, str] | None = None) -> "Log":
        """Return an empty log."""
        return cls(stage, stage.new_folder(), stage.deliveries(), url, kafka or {})

    def service(self, roles: str) -> Service:
        """Return a process with these roles."""
        return targets.service(self.folder, roles=roles, database=self.url, kafka=self.kafka)

    async def fill(self, count: int) -> int:
        """Let a receiver take so many deliveries, note how fast it was, and return how many events they became."""
        self.deliveries.have(count)
        async with service_door(self.stage, self.service("receiver")) as door:
            door.requests = self.deliveries
            done = await door.round(CONNECTIONS, seconds=WHOLE_S, prepared=True)
            self.ingested.append(done.rate)
            return await appended(door)

    async def begin(self) -> None:
        """Make the tables, and see that the consumer has its places in Kafka."""
        if self.url is not None:
            targets.upgrade(self.service("receiver"))
        if not self.kafka:
            return
        targets.create_topics(self.service("relay"))
        for _ in range(2):
            count = await self.fill(START_EVENTS)
            await progress.run(self.stage, self.service("relay,consumer"), APPLIED, count)
        self.ingested.clear()

    async def round(self, *, consume: bool) -> None:
        """Fill the log, publish it, and apply it, one after the other, each alone on its core."""
        count = await self.fill(self.stage.events)
        self.published.append(await progress.run(self.stage, self.service("relay"), PUBLISHED, count))
        if consume:
            self.applied.append(await progress.run(self.stage, self.service("consumer"), APPLIED, count))

    def finding(self, row: str, case: str, paced: list[Paced], bar: Bar) -> Finding:
        """Return how fast a role was, as a ratio to the ingest of its round."""
        details = {
            "events/s": median(one.rate for one in paced),
            "CPU us": median(one.cpu_us for one in paced),
            "ingest/s": median(self.ingested),
        }
        return Finding(row, case, INGEST, ratios([one.rate for one in paced], self.ingested), bar=bar, details=details)


async def appended(door: Door) -> int:
    """Return how many events a receiver has appended since it was started."""
    assert isinstance(door.server, Service)  # noqa: S101 - only the service has a log
    async with aiohttp.ClientSession() as session:
        return int((await progress.counted(session, door.server, APPENDED))[0])


@asynccontextmanager
async def kafka_log(stage: Stage, *, on_postgres: bool = False) -> AsyncIterator[Log]:
    """Give a log with Kafka that has begun."""
    async with targets.broker(stage.new_folder(), stage.cores) as broker:
        kafka = {"bootstrap_servers": broker.bootstrap, "topic_prefix": "bench"}
        if on_postgres:
            async with targets.postgres(stage.cores) as server:
                log = Log.new(stage, await targets.database(server), kafka)
                await log.begin()
                yield log
        else:
            log = Log.new(stage, kafka=kafka)
            await log.begin()
            yield log


async def relay(stage: Stage) -> list[Finding]:
    """Publish a log on SQLite to Kafka, against the ingest of the same events."""
    async with kafka_log(stage) as log:
        for _ in range(stage.rounds):
            await log.round(consume=False)
    return [log.finding("relay", "SQLite to Kafka", log.published, Bar(4, 8))]


async def consumer(stage: Stage) -> list[Finding]:
    """Apply events from Kafka to a projection on SQLite and on PostgreSQL, against the ingest of the same events."""
    findings = []
    for name, on_postgres in (("SQLite", False), ("PostgreSQL", True)):
        async with kafka_log(stage, on_postgres=on_postgres) as log:
            for _ in range(stage.rounds):
                await log.round(consume=True)
        findings.append(log.finding("consumer", f"Kafka to {name}", log.applied, Bar(2.5, 4)))
    return findings


async def rebuild(stage: Stage) -> list[Finding]:
    """Make the projection anew from a log on SQLite, against the ingest of that log."""
    log = Log.new(stage)
    count = await log.fill(stage.events)
    for _ in range(stage.rounds):
        for file in log.folder.glob("projection.db*"):
            file.unlink()
        log.applied.append(await progress.run(stage, log.service("consumer"), APPLIED, count))
    log.ingested *= stage.rounds
    return [log.finding("rebuild", f"SQLite, {count} events", log.applied, Bar(3, 5))]


async def together(stage: Stage) -> list[Finding]:
    """Accept and apply with all roles in one process on SQLite, with and without Kafka, against ingest alone."""
    findings = [await _together(stage, "SQLite, no Kafka", {})]
    async with targets.broker(stage.new_folder(), stage.cores) as broker:
        kafka = {"bootstrap_servers": broker.bootstrap, "topic_prefix": "bench"}
        findings.append(await _together(stage, "SQLite, Kafka", kafka))
    return findings


async def _together(stage: Stage, case: str, kafka: Mapping[str, str]) -> Finding:
    service = targets.service(stage.new_folder(), roles="receiver,relay,consumer", kafka=kafka)
    if kafka:
        targets.create_topics(service)
    async with (
        service_door(stage, targets.service(stage.new_folder())) as alone,
        service_door(stage, service) as all_roles,
    ):
        for door in (alone, all_roles):
            await door.warm(CONNECTIONS)
        await _sustained(all_roles, published=bool(kafka))
        accepted, sustained = [], []
        for _ in range(stage.rounds):
            accepted.append((await alone.round(CONNECTIONS)).rate)
            sustained.append(await _sustained(all_roles, published=bool(kafka)))
    details = {"applied/s": median(sustained), "ingest alone/s": median(accepted)}
    values = ratios(sustained, accepted)
    return Finding("all", case, "ingest alone in the same rounds", values, bar=Bar(0.45, 0.60), details=details)


async def _sustained(door: Door, *, published: bool) -> float:
    """Return deliveries a second, from the first one until all of the round are applied (and published)."""
    service = door.server
    assert isinstance(service, Service)  # noqa: S101 - only the service has roles
    started = time.monotonic()
    done = await door.round(CONNECTIONS)
    count = await appended(door)
    for name in (APPLIED, PUBLISHED)[: 1 + published]:
        await progress.reach(service, name, count)
    return done.accepted / (time.monotonic() - started)
