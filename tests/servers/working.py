"""A worker repeated as a process repeats it, for tests of what halts it and how it goes on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from whatsms_events.workers.loop import Bell, Worker, run


@asynccontextmanager
async def working(role: str, worker: Worker) -> AsyncIterator[list[tuple[str, str]]]:
    """Run a worker as a process does, but for halts of a fraction of a second; give its states so far."""
    bell = Bell()
    states: list[tuple[str, str]] = []
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(
            run(role, worker, bell, idle_s=0.05, look_s=0.2, on_state=lambda *state: states.append(state))
        )
        try:
            yield states
        finally:
            bell.stop()
