"""The rows about size: what a long log costs. They take as long as the log that they are asked to make (`--events`)."""

import time
from collections.abc import Sequence
from statistics import median
from typing import Final

import aiohttp
from bench import progress, targets
from bench.behind import WHOLE_S, Log, appended, kafka_log
from bench.door import CONNECTIONS
from bench.load import FailedError
from bench.progress import APPLIED, PUBLISHED, Paced
from bench.report import Bar, Finding
from bench.stage import Door, Stage, service_door

from servers.service import SLUG, Service
from whatsms_events import clock
from whatsms_events.storage.database import DatabaseTarget, open_log, open_projection
from whatsms_events.workers.observer import Observer

FLAT: Final = Bar(1.10, 1.02, below=True)
EARLY: Final = 10_000
"""The size that a long log is compared with; a tenth of the long one where that is shorter."""

PORTION: Final = 50_000
"""Deliveries that are prepared at a time: the file of ten million would not fit every disk."""

ASKED: Final = 30
PAGES: Final = ("tickets", "messages", "contacts")


async def memory(stage: Stage) -> list[Finding]:
    """Compare the memory of each role after `--events` events with the same after 10,000."""
    early = min(EARLY, stage.events // 10)
    async with kafka_log(stage) as log:
        async with service_door(stage, log.service("receiver")) as door:
            door.requests = log.deliveries
            await _fill(door, early)
            before = progress.memory_bytes(targets.pid_of(door.server))
            await _fill(door, stage.events - early)
            after = progress.memory_bytes(targets.pid_of(door.server))
            count = await appended(door)
        published = await progress.run(stage, log.service("relay"), PUBLISHED, count)
        applied = await progress.run(stage, log.service("consumer"), APPLIED, count)
    sizes = {"receiver": (before, after), "relay": _sizes(published, early), "consumer": _sizes(applied, early)}
    return [
        Finding(
            "memory", f"{role}, {stage.events} events", f"{early} events", [last / first], bar=FLAT,
            details={"MiB before": first / 2**20, "MiB after": last / 2**20},
        )
        for role, (first, last) in sizes.items()
    ]  # fmt: skip


def _sizes(paced: Paced, early: int) -> tuple[int, int]:
    """Return the memory at the first look that saw so many events, and at the last one."""
    return next(one.memory_bytes for one in paced.points if one.done >= early), paced.points[-1].memory_bytes


async def _fill(door: Door, count: int) -> float:
    """Let a receiver take so many deliveries; return the rate of the last portion."""
    rate = 0.0
    while count > 0:
        door.requests.forget()
        door.requests.have(min(count, PORTION))
        count -= door.requests.total
        rate = (await door.round(CONNECTIONS, seconds=WHOLE_S, prepared=True)).rate
    return rate


async def large(stage: Stage) -> list[Finding]:
    """Compare appends, pages of the API, a relay's start and the observer on a log of `--events` with one of 10,000."""
    early = min(EARLY, stage.events // 10)
    async with kafka_log(stage) as log:
        before = await _grown(log, early)
        after = await _grown(log, stage.events - early)
    return [
        Finding(
            "large", f"{name}, {stage.events} events", f"{early} events", [after[name] / before[name]], bar=FLAT,
            details={"ms before": before[name] * 1000, "ms after": after[name] * 1000},
        )
        for name in before
    ]  # fmt: skip


async def _grown(log: Log, count: int) -> dict[str, float]:
    """Let the log grow, bring Kafka and the projection up to its end, and return the seconds of each thing."""
    stage, took = log.stage, {}
    async with service_door(stage, log.service("receiver")) as door:
        door.requests = log.deliveries
        took["one append"] = 1 / await _fill(door, count)
        new = await appended(door)
    await progress.run(stage, log.service("relay"), PUBLISHED, new)
    consumer = log.service("consumer")
    async with targets.running(consumer, stage.cores.server):
        await progress.reach(consumer, APPLIED, new)
        took |= {f"a page of {name}": await _page_s(consumer, name) for name in PAGES}
    took["a relay's start"] = median([await _start_s(log) for _ in range(3)])
    return took | {"the observer's look": await _look_s(log)}


async def _page_s(service: Service, name: str) -> float:
    """Return the usual time of a page of the read API."""
    took = []
    async with aiohttp.ClientSession() as session:
        for _ in range(ASKED):
            started = time.perf_counter()
            async with session.get(f"{service.private_url}/api/v1/{SLUG}/{name}") as answer:
                await answer.read()
                if answer.status != 200:
                    raise FailedError(f"large: {name} is answered with {answer.status}")
            took.append(time.perf_counter() - started)
    return median(took)


async def _start_s(log: Log) -> float:
    """Return how long a relay takes from the start of its process until it has opened."""
    service, started = log.service("relay"), time.perf_counter()
    before = _openings(service.lines())
    async with targets.running(service, log.stage.cores.server):
        while _openings(service.lines()) == before:
            await progress.pause()
        return time.perf_counter() - started


def _openings(lines: Sequence[dict[str, object]]) -> int:
    return sum(line["event"] == "relay.opened" for line in lines)


async def _look_s(log: Log) -> float:
    """Return the usual time of one look of the observer."""
    found = await open_log(DatabaseTarget(f"sqlite:///{log.folder / 'log.db'}"), migrate=False)
    projection = await open_projection(DatabaseTarget(f"sqlite:///{log.folder / 'projection.db'}"), migrate=False)
    try:
        prefix = log.kafka["topic_prefix"]
        observer, took = Observer(found, projection, prefix=prefix, slugs={}, keyed=(), now=clock.now), []
        for _ in range(ASKED):
            started = time.perf_counter()
            await observer.look()
            took.append(time.perf_counter() - started)
        return median(took)
    finally:
        await found.close()
        await projection.close()
