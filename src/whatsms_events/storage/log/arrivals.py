"""This module reads from the log when a tenant's latest webhooks were accepted, whichever process accepted them.

The log has no index by tenant, since an index costs every append. So each look reads only what came since the last one.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import func, select

from whatsms_events.domain.events import from_micros
from whatsms_events.storage.database import Database
from whatsms_events.storage.tables import event_log

KEPT: Final = 200
PIECE: Final = 5_000
"""Positions looked through in one transaction."""

REACH: Final = 100_000
"""Positions that the first look reads: a tenant without a webhook among them counts as one that never sent any."""


@dataclass(frozen=True, slots=True)
class Latest:
    """When the latest webhooks were accepted, oldest first, at most KEPT; `position` is the highest of them, else 0."""

    times: tuple[datetime, ...] = ()
    position: int = 0

    @property
    def last(self) -> datetime | None:
        """When the last one was accepted; None where there is none."""
        return self.times[-1] if self.times else None


class Arrivals:
    """The accepted webhooks of one tenant, a redelivery not counted. It remembers how far it looked."""

    def __init__(self, database: Database, tenant: str, *, piece: int = PIECE, reach: int = REACH) -> None:
        self._database = database
        self._tenant = tenant
        self._piece = piece
        self._reach = reach
        self._through: int | None = None
        self._latest = Latest()

    async def latest(self) -> Latest:
        """Look at what came in since the last look; raise StorageUnavailableError where the database is away."""
        end = await self._end()
        low = max(0, end - self._reach) if self._through is None else self._through
        found: list[tuple[int, datetime]] = []
        high = end
        while high > low and len(found) < KEPT:
            floor = max(low, high - self._piece)
            found += await self._read(floor, high, KEPT - len(found))
            high = floor
        self._through = end
        if found:
            # A parked delivery that was tried again stands at the log's end with the time at which it came.
            times = sorted([*self._latest.times, *(received_at for _position, received_at in found)])
            self._latest = Latest(tuple(times[-KEPT:]), found[0][0])
        return self._latest

    async def _end(self) -> int:
        async with self._database.read() as connection:
            return (await connection.execute(select(func.max(event_log.c.position)))).scalar_one() or 0

    async def _read(self, after: int, through: int, limit: int) -> list[tuple[int, datetime]]:
        """Return position and time of the tenant's webhooks there, the newest first."""
        own = (event_log.c.tenant == self._tenant, event_log.c.origin == "webhook")
        query = (
            select(event_log.c.position, event_log.c.received_at)
            .where(event_log.c.position > after, event_log.c.position <= through, *own)
            .order_by(event_log.c.position.desc())
            .limit(limit)
        )
        async with self._database.read() as connection:
            return [(row.position, from_micros(row.received_at)) for row in await connection.execute(query)]
