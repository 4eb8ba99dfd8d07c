"""The load generator, `load.c`, as a process of its own on a core of its own."""

import asyncio
import json
import os
import subprocess
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.corpus import Requests

SOURCE: Final = Path(__file__).with_name("load.c")
COMPILER: Final = "cc"


class FailedError(Exception):
    """A row could not be measured to its end; the message says what went wrong."""


@dataclass(frozen=True, slots=True)
class Round:
    """What a server did in one round. `cpu_us` is its processor time for each answer, of all its threads."""

    answered: int
    accepted: int
    seconds: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    next: int

    @property
    def rate(self) -> float:
        """Accepted deliveries in a second."""
        return self.accepted / self.seconds


@dataclass(frozen=True, slots=True)
class Cores:
    """Where the measured server runs, and where everything else does: the generator, databases and brokers."""

    server: set[int]
    others: set[int]

    @classmethod
    def found(cls) -> "Cores":
        """Take the first core that this process may use for the server. With one core only, all share it."""
        mine = sorted(os.sched_getaffinity(0))
        return cls({mine[0]}, set(mine[1:]) or {mine[0]})


@contextmanager
def on(cores: Collection[int]) -> Iterator[None]:
    """Let what is started in here run on these cores: a process inherits them, with all threads that it makes."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, mine)


def compiled(folder: Path) -> Path:
    """Compile the generator and return the program; raise FailedError where there is no compiler."""
    program = folder / "load"
    try:
        subprocess.run([COMPILER, "-O2", "-o", program, SOURCE], check=True)
    except FileNotFoundError:
        raise FailedError(f"{COMPILER}: not found; the load generator is a C program") from None
    return program


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used so far, of all its threads, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Load:
    """The compiled generator and the cores that it may use."""

    program: Path
    cores: Cores

    async def run(
        self,
        port: int,
        requests: Requests,
        *,
        connections: int,
        seconds: float,
        rate: float = 0.0,
        again: bool = False,
        pids: tuple[int, ...] = (),
    ) -> Round:
        """Send the next requests for so many seconds; raise FailedError where an answer could not be read.

        `rate` 0 is a closed loop. With `again` the file begins again at its end, else the round ends there.
        """
        command = [self.program, port, connections, seconds, requests.file, requests.next, rate, int(again)]
        before = sum(cpu_s(pid) for pid in pids)
        with on(self.cores.others):
            process = await asyncio.create_subprocess_exec(*map(str, command), stdout=asyncio.subprocess.PIPE)
        output, _ = await process.communicate()
        used_s = sum(cpu_s(pid) for pid in pids) - before
        if process.returncode:
            raise FailedError(f"the load generator ended with {process.returncode}")
        return _round(json.loads(output), used_s)


def _round(found: dict[str, Any], used_s: float) -> Round:
    if found["broken"] or not found["answered"]:
        raise FailedError(f"{found['broken']} answers of {found['sent']} could not be read or did not come")
    return Round(
        answered=found["answered"],
        accepted=sum(count for status, count in found["statuses"].items() if status.startswith("2")),
        seconds=found["seconds"],
        p50_ms=found["p50_us"] / 1000,
        p99_ms=found["p99_us"] / 1000,
        cpu_us=used_s / found["answered"] * 1e6,
        next=found["next"],
    )
