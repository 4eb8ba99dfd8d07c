"""Repeat the workers of one process beside its committer, and stop all of them in order.

Theory of operation. An event passes three groups. Each group is told to stop only when the group before it has ended:

    writers     backfills, watchdogs and the door for deliveries: they hand the committer what is to be appended
    committer   commits what it was handed, and ends
    readers     relay and consumer: they read the log, to which nothing is appended any more

So nothing that was accepted is cut off on its way. `serve`, `backfill run` and the demo are all run by this module.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog

from whatsms_events.domain.standing import RoleState
from whatsms_events.storage.log.committer import Committer
from whatsms_events.workers.loop import Bell, Worker, run, run_within

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Job:
    """A worker and how it is repeated. With `grace_s` a piece that still goes on so long after the stop is cut off."""

    role: str
    worker: Worker
    idle_s: float
    grace_s: float | None = None
    bell: Bell = field(default_factory=Bell)


async def _nothing() -> None:
    """Close no door: only a process that receives has one."""


class Supervisor:
    """The workers of one process. `advice` is added to the reason of a role that has halted."""

    def __init__(self, *, advice: str = "") -> None:
        self.states: dict[str, tuple[RoleState, str]] = {}
        self._advice = advice
        self._writers: Sequence[Job] = ()
        self._readers: Sequence[Job] = ()

    def wake(self, _end: int) -> None:
        """Let the readers look at the log at once: the committer calls this after each commit."""
        for job in self._readers:
            job.bell.ring()

    def look_again(self) -> None:
        """Let every role that has halted, or waits after an error, look at once whether it can go on."""
        log.info("service.looking")
        for job in (*self._readers, *self._writers):
            job.bell.hurry()

    def end(self, roles: Collection[str]) -> None:
        """Let these roles end, each after its piece; they do not begin again."""
        for job in (*self._readers, *self._writers):
            if job.role in roles:
                job.bell.stop()

    @property
    def halted(self) -> dict[str, str]:
        """Every role that has halted, with the reason."""
        return {role: why for role, (state, why) in self.states.items() if state == "halted"}

    @asynccontextmanager
    async def running(
        self,
        committer: Committer | None,
        *,
        writers: Sequence[Job],
        readers: Sequence[Job],
        close_door: Callable[[], Awaitable[None]] = _nothing,
    ) -> AsyncIterator[None]:
        """Repeat all jobs while the body runs; then stop them in order, and return when the last one has ended.

        `close_door` ends the taking in of deliveries; it is awaited while the writers stop. What a worker raises that
        no loop retries ends the body, and comes out in an exception group.
        """
        self._writers, self._readers = writers, readers
        flushed = asyncio.Event()
        commits = [] if committer is None else [committer.run(flushed)]
        async with (
            beside(map(self._repeat, readers), partial(_stop, readers)),
            beside(commits, flushed.set),
            beside(map(self._repeat, writers), partial(_stop, writers), close_door),
        ):
            yield

    async def _repeat(self, job: Job) -> None:
        """Repeat one worker. A halted one ends no process: a restart would fence others, and a look does not."""
        on_state = partial(self._note, job.role)
        repeated = run if job.grace_s is None else partial(run_within, grace_s=job.grace_s)
        await repeated(job.role, job.worker, job.bell, idle_s=job.idle_s, on_state=on_state)

    def _note(self, role: str, state: RoleState, why: str) -> None:
        halted = state == "halted" and self._advice
        self.states[role] = (state, f"{why}. {self._advice}" if halted else why)


def _stop(jobs: Sequence[Job]) -> None:
    for job in jobs:
        job.bell.stop()


@asynccontextmanager
async def beside(
    runs: Iterable[Coroutine[Any, Any, None]],
    stop: Callable[[], None],
    close: Callable[[], Awaitable[None]] = _nothing,
) -> AsyncIterator[None]:
    """Run these while the body runs; then call `stop`, which lets them end, and await `close` and the end of them."""
    async with asyncio.TaskGroup() as tasks:
        for one in runs:
            tasks.create_task(one)
        try:
            yield
        finally:
            stop()
            await close()
