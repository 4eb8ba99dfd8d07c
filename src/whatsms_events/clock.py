"""Our clock, and the one way to wait for an event for a limited time."""

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
