"""How each secret of a tenant is used: when a delivery first and last fitted it, and how many did, by its name.

A receiver counts in memory and adds to the table every few seconds, never for each delivery. Several receivers add to
the same rows. What a process that is killed has not added yet is lost: seconds of a use that is judged by hours.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Final

import structlog
from sqlalchemy import case, select
from sqlalchemy.ext.asyncio import AsyncConnection

from whatsms_events.clock import within
from whatsms_events.domain.events import from_micros, to_micros
from whatsms_events.domain.rotation import SecretUse
from whatsms_events.errors import StorageUnavailableError, UnstorableError
from whatsms_events.storage.database import Database, insert
from whatsms_events.storage.tables import secret_use

SAVE_S: Final = 5.0
LAST_SAVE_S: Final = 2.0
"""A process that stops waits no longer for a database that is away."""

log = structlog.get_logger()


class SecretUses:
    """The table of the uses, and what this process has counted and not added to it yet."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._unsaved: dict[tuple[str, str], SecretUse] = {}

    def add(self, tenant: str, name: str, count: int, at: datetime) -> None:
        """Count deliveries that fitted a secret."""
        use, known = SecretUse(tenant, name, at, at, count), self._unsaved.get((tenant, name))
        self._unsaved[tenant, name] = use if known is None else known.and_later(use)

    async def run(self, stop: asyncio.Event) -> None:
        """Add to the table every few seconds until `stop`, and then once more; keep what cannot be added now."""
        while not await within(stop, SAVE_S):
            with suppress(StorageUnavailableError, UnstorableError):
                await self.save()
        try:
            async with asyncio.timeout(LAST_SAVE_S):
                await self.save()
        except (StorageUnavailableError, UnstorableError, TimeoutError) as exc:
            log.warning("secrets.uncounted", error=type(exc).__name__, waiting=len(self._unsaved))

    async def save(self) -> None:
        """Add what was counted to the table. Where a commit is not answered, a few may be counted twice."""
        if not self._unsaved:
            return
        saving, self._unsaved = self._unsaved, {}
        try:
            async with self._database.write() as connection:
                await _add(connection, [saving[key] for key in sorted(saving)])
        except BaseException:
            for key, use in saving.items():
                self._unsaved[key] = use.and_later(self._unsaved[key]) if key in self._unsaved else use
            raise

    async def all(self) -> list[SecretUse]:
        """Return how every secret was used that ever was, as far as it is in the table."""
        async with self._database.read() as connection:
            rows = (await connection.execute(select(secret_use).order_by(secret_use.c.tenant, secret_use.c.name))).all()
        return [
            SecretUse(row.tenant, row.name, from_micros(row.first_at), from_micros(row.last_at), row[4]) for row in rows
        ]


async def _add(connection: AsyncConnection, uses: Sequence[SecretUse]) -> None:
    """Add to the rows; in one order in every process, or two that add at the same moment could block each other."""
    statement = insert(connection, secret_use).values([_row(use) for use in uses])
    own, new = secret_use.c, statement.excluded
    changed = {
        "first_at": case((new.first_at < own.first_at, new.first_at), else_=own.first_at),
        "last_at": case((new.last_at > own.last_at, new.last_at), else_=own.last_at),
        "count": own.count + new.count,
    }
    await connection.execute(statement.on_conflict_do_update(index_elements=["tenant", "name"], set_=changed))


def _row(use: SecretUse) -> dict[str, object]:
    return {
        "tenant": use.tenant,
        "name": use.name,
        "first_at": to_micros(use.first_at),
        "last_at": to_micros(use.last_at),
        "count": use.count,
    }
