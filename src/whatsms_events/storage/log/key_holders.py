"""Which processes append to a log, and which `privacy.key` each of them has, by a fingerprint that tells nothing of it.

Each process that appends writes its row anew every SHOW_S seconds, and removes it when it stops. A row that is older
than LIVE_S is of a process that was killed. So who forgets a person sees every process that would keep what comes late.
"""

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import delete, select

from whatsms_events.domain.events import from_micros, to_micros
from whatsms_events.domain.marks import Marker
from whatsms_events.storage.database import Database, insert
from whatsms_events.storage.tables import key_holder

SHOW_S: Final = 20.0

LIVE_S: Final = 90.0
"""A process that did not write its row for so long is gone; clocks of two machines may differ by a little."""

KEPT_S: Final = 86_400.0
"""Rows of processes that were killed are removed after a day, by the next process that writes its own."""


@dataclass(frozen=True, slots=True)
class KeyHolder:
    """A process that appends. `fingerprint` is None where it has no key."""

    process: str
    fingerprint: str | None
    started_at: datetime
    seen_at: datetime


class KeyHolders:
    """The table. All verbs raise StorageUnavailableError where the database is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def show(self, one: KeyHolder) -> None:
        """Write the row of a process, and remove those of processes that are long gone."""
        started, seen = to_micros(one.started_at), to_micros(one.seen_at)
        row = {"process": one.process, "fingerprint": one.fingerprint, "started_at": started, "seen_at": seen}
        async with self._database.write() as connection:
            await connection.execute(delete(key_holder).where(key_holder.c.seen_at < seen - int(KEPT_S * 1e6)))
            await connection.execute(
                insert(connection, key_holder)
                .values(row)
                .on_conflict_do_update(index_elements=["process", "started_at"], set_=row)
            )

    async def leave(self, one: KeyHolder) -> None:
        """Remove the row of a process that stops."""
        mine = key_holder.c.process == one.process, key_holder.c.started_at == to_micros(one.started_at)
        async with self._database.write() as connection:
            await connection.execute(delete(key_holder).where(*mine))

    async def live(self, now: datetime) -> Sequence[KeyHolder]:
        """Return the processes that append now, by name."""
        since = to_micros(now) - int(LIVE_S * 1e6)
        query = select(key_holder).where(key_holder.c.seen_at >= since).order_by(key_holder.c.process)
        async with self._database.read() as connection:
            return [
                KeyHolder(row.process, row.fingerprint, from_micros(row.started_at), from_micros(row.seen_at))
                for row in await connection.execute(query)
            ]


def own_name() -> str:
    """Return what this process is called: its machine, or container, and its number there."""
    return f"{socket.gethostname()} {os.getpid()}"


def unlike(marker: Marker, holders: Sequence[KeyHolder]) -> Sequence[str]:
    """Say of each process that has another key, or none, that it has."""
    return [
        f"{one.process} has " + ("no key" if one.fingerprint is None else f"the key {one.fingerprint}")
        for one in holders
        if one.fingerprint != marker.fingerprint
    ]
