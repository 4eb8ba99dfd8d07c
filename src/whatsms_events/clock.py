"""Our clock, and how to wait for an event for a limited time, or for one of several."""

import asyncio
from datetime import UTC, datetime


def now() -> datetime:
    """Return the time of this machine, in UTC."""
    return datetime.now(UTC)


async def within(event: asyncio.Event, seconds: float) -> bool:
    """Wait for the event for at most `seconds`; return whether the event came."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False


async def first_of(*events: asyncio.Event, seconds: float | None = None) -> None:
    """Wait until one of the events is set, for at most `seconds`."""
    async with asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(one.wait()) for one in events]
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for one in waiting:
            one.cancel()
