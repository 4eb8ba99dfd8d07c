"""What every row of the bench is given: folder, cores, generator, how long; and the rate of ingest to compare with."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Final

from bench import targets
from bench.corpus import Corpus, Requests
from bench.load import Cores, Load, Round

from servers.process import Server
from servers.service import SECRET, TENANT, Service

FIRST: Final = 3_000
"""Deliveries that warm a server up, and show how many it may need for a round."""

SPARE: Final = 1.6
"""How many more deliveries are prepared for a round than the round before took."""


class SkippedError(Exception):
    """A row cannot be measured on this machine; the message says what is missing."""


@dataclass(slots=True)
class Stage:
    """The circumstances of one run of the bench."""

    folder: Path
    load: Load
    rounds: int
    seconds: float
    python: str
    events: int
    _folders: int = field(default=0, init=False)

    @property
    def cores(self) -> Cores:
        """Which core is whose."""
        return self.load.cores

    def new_folder(self) -> Path:
        """Make an empty folder."""
        self._folders += 1
        made = self.folder / str(self._folders)
        made.mkdir()
        return made

    def deliveries(self, *, signed: bool = True, seed: int = 1) -> Requests:
        """Return a new file of deliveries; the same seed gives the same tickets, contacts and messages."""
        bodies = Corpus(TENANT, datetime.now(UTC), seed=seed).bodies()
        file = self.new_folder() / "requests"
        return Requests(file, bodies, targets.PATH, SECRET.encode() if signed else None)


@dataclass(slots=True)
class Door:
    """A server that takes deliveries, the deliveries that it has not had yet, and how many a second it took last."""

    stage: Stage
    server: Server
    port: int
    requests: Requests
    repeats: bool  # it does not mind to get the same deliveries again
    last_rate: float = 0.0

    async def warm(self, connections: int) -> None:
        """Let it do everything once, and learn its rate."""
        self.requests.have(FIRST)
        await self.round(connections, seconds=min(1.0, self.stage.seconds), prepared=True)

    async def round(
        self, connections: int, *, seconds: float | None = None, rate: float = 0.0, prepared: bool = False
    ) -> Round:
        """Measure one round."""
        seconds = self.stage.seconds if seconds is None else seconds
        if not prepared and not self.repeats:
            self.requests.have(int((rate or self.last_rate * SPARE) * seconds) + FIRST)
        done = await self.stage.load.run(
            self.port,
            self.requests,
            connections=connections,
            seconds=seconds,
            rate=rate,
            again=self.repeats,
            pids=(targets.pid_of(self.server),),
        )
        self.requests.next = 0 if self.repeats else done.next
        self.last_rate = done.answered / done.seconds
        return done


@asynccontextmanager
async def bare_door(stage: Stage) -> AsyncIterator[Door]:
    """Run bare aiohttp, which is sent the same deliveries again and again."""
    async with targets.running(targets.bare(stage.new_folder()), stage.cores.server) as server:
        yield Door(stage, server, server.public_port, stage.deliveries(), repeats=True)


@asynccontextmanager
async def service_door(stage: Stage, service: Service) -> AsyncIterator[Door]:
    """Run the service."""
    async with targets.running(service, stage.cores.server):
        yield Door(stage, service, service.public_port, stage.deliveries(), repeats=False)


async def in_turns(rounds: int, *turns: Callable[[], Awaitable[Round]]) -> list[list[Round]]:
    """Let each one have each round, the first of a round being the last of the next. Returns the rounds of each."""
    done: list[list[Round]] = [[] for _ in turns]
    numbered = list(enumerate(turns))
    for number in range(rounds):
        for at, turn in numbered if number % 2 == 0 else numbered[::-1]:
            done[at].append(await turn())
    return done


def figures(name: str, rounds: list[Round]) -> dict[str, object]:
    """Return the medians of a server's rounds, for the reader."""
    return {
        f"{name}/s": median(one.rate for one in rounds),
        f"{name} p99 ms": median(one.p99_ms for one in rounds),
        f"{name} CPU us": median(one.cpu_us for one in rounds),
    }
