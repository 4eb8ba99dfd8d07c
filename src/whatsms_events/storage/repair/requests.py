"""The table `backfill_request`: a reconcile of a tenant that somebody asks for, for whichever process has its backfill.

A receiver knows that webhooks were missed, and the backfill may be another process. There is one row a tenant: a later
request takes the place of an earlier one, since one reconcile finds all that was missed before it began.
"""

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import delete, select

from whatsms_events.domain.events import to_micros
from whatsms_events.storage.database import Database, insert
from whatsms_events.storage.tables import backfill_request


class Request(NamedTuple):
    """What is asked for, and when by the clock of who asks, in microseconds: that tells it from a later one."""

    tenant: str
    cause: str
    asked_at: int


class Requests:
    """The requests of all tenants. Every verb raises StorageUnavailableError where the log is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def ask(self, tenant: str, cause: str, now: datetime) -> None:
        """Ask for a reconcile of a tenant."""
        row = {"tenant": tenant, "cause": cause, "asked_at": to_micros(now)}
        async with self._database.write() as connection:
            writing = insert(connection, backfill_request).values(row)
            changed = {name: writing.excluded[name] for name in ("cause", "asked_at")}
            await connection.execute(writing.on_conflict_do_update(index_elements=["tenant"], set_=changed))

    async def waiting(self, tenant: str) -> Request | None:
        """Return what is asked for and was not begun."""
        query = select(backfill_request).where(backfill_request.c.tenant == tenant)
        async with self._database.read() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else Request(*row)

    async def remove(self, begun: Request) -> None:
        """Remove a request whose reconcile has begun; one that was made since stays."""
        mine = (
            backfill_request.c.tenant == begun.tenant,
            backfill_request.c.cause == begun.cause,
            backfill_request.c.asked_at == begun.asked_at,
        )
        async with self._database.write() as connection:
            await connection.execute(delete(backfill_request).where(*mine))
