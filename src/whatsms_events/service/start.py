"""Wait at the start of a process until its databases can be used.

A wrong configuration ends the process at once: waiting does not mend it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from whatsms_events.errors import StorageUnavailableError
from whatsms_events.workers.loop import Bell, backoff

log = structlog.get_logger()
T = TypeVar("T")


class Start:
    """The start of a process. `problem` is the reason why it has not started yet, and `on_problem` is given each one.

    `on_wait` is called where a database is away.
    """

    def __init__(self, on_problem: Callable[[str], None], on_wait: Callable[[], None]) -> None:
        self.problem: str | None = "starting: the databases are being opened"
        self._on_problem = on_problem
        self._on_wait = on_wait
        on_problem(self.problem)

    async def prepared(self, prepare: Callable[[], Awaitable[T]], stop: asyncio.Event) -> T | None:
        """Repeat `prepare` while a database is away, and return its result; None where `stop` came first.

        Raise whatever else `prepare` raises, such as ConfigError, in a group.
        """
        async with asyncio.TaskGroup() as tasks:
            preparing = tasks.create_task(self._repeat(prepare))
            stopping = tasks.create_task(stop.wait())
            await asyncio.wait({preparing, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            preparing.cancel()  # without effect where it is done
        if preparing.cancelled():
            return None
        self.problem = None
        return preparing.result()

    async def _repeat(self, prepare: Callable[[], Awaitable[T]]) -> T:
        failures, bell = 0, Bell()
        while True:
            try:
                return await prepare()
            except StorageUnavailableError as exc:
                failures += 1
                self._wait(f"waiting: {exc}")
            await bell.wait(backoff(failures))

    def _wait(self, problem: str) -> None:
        if problem != self.problem:
            log.warning("service.waiting", reason=problem)
        self.problem = problem
        self._on_problem(problem)
        self._on_wait()
