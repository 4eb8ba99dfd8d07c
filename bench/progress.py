"""How far a role of a running service is: what its counters, its processor time and its memory say while it works."""

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
from bench import targets
from bench.load import FailedError, cpu_s
from bench.stage import Stage
from prometheus_client.parser import text_string_to_metric_families

from servers.service import Service

LOOK_S: Final = 0.05
STALL_S: Final = 120.0
"""A role whose counter stands still for so long will not get there."""

EARLY: Final = 0.2
"""The first look that sees progress is where measuring begins, if it sees no more than this share of all."""

APPENDED: Final = "appended_total"
PUBLISHED: Final = "relay_published_total"
APPLIED: Final = "applied_total"


@dataclass(frozen=True, slots=True)
class Point:
    """What one look saw."""

    at: float
    done: float
    cpu_s: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Paced:
    """A role's way through its work, from the first event on."""

    points: Sequence[Point]

    @property
    def rate(self) -> float:
        """Events in a second."""
        return (self.points[-1].done - self.points[0].done) / (self.points[-1].at - self.points[0].at)

    @property
    def cpu_us(self) -> float:
        """Processor time for each event."""
        first, last = self.points[0], self.points[-1]
        return (last.cpu_s - first.cpu_s) / (last.done - first.done) * 1e6


def memory_bytes(pid: int) -> int:
    """Return how much memory a process has in use."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def counted(session: aiohttp.ClientSession, service: Service, *names: str) -> list[float]:
    """Return what a process's counters show, each over all of its labels."""
    sums = dict.fromkeys((f"whatsms_events_{name}" for name in names), 0.0)
    # By name: all metrics are some milliseconds of work, which twenty times a second is a tenth of what is measured.
    async with session.get(f"{service.private_url}/metrics", params=[("name[]", name) for name in sums]) as answer:
        text = await answer.text()
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            if one.name in sums:
                sums[one.name] += one.value
    return list(sums.values())


async def pause() -> None:
    """Wait until the next look."""
    await asyncio.sleep(LOOK_S)


async def reach(service: Service, name: str, count: float) -> Paced:
    """Watch a running service until its counter has reached the count; raise FailedError where it stands still."""
    pid, points, moved_at = targets.pid_of(service), list[Point](), time.monotonic()
    async with aiohttp.ClientSession() as session:
        while not points or points[-1].done < count:
            (done,) = await counted(session, service, name)
            now = time.monotonic()
            if not points or done > points[-1].done:
                moved_at = now
            if now - moved_at > STALL_S:
                raise FailedError(
                    f"{name} stands at {done:.0f} of {count:.0f}:\n" + "\n".join(map(str, service.lines()[-5:]))
                )
            points.append(Point(now, done, cpu_s(pid), memory_bytes(pid)))
            await pause()
    return Paced(from_first_event(points, count))


def from_first_event(points: list[Point], count: float) -> list[Point]:
    """Leave out the time before the work began. Work that is over at once is measured from the look before."""
    idle = [at for at, point in enumerate(points) if point.done == 0]
    first = idle[-1] + 1 if idle else 0
    return (
        points[first:]
        if points[first].done <= EARLY * count and first + 1 < len(points)
        else points[max(first - 1, 0) :]
    )


async def run(stage: Stage, service: Service, name: str, count: float) -> Paced:
    """Run a service on the measured core until its counter has reached the count."""
    async with targets.running(service, stage.cores.server):
        return await reach(service, name, count)
