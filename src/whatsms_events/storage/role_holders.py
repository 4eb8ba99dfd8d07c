"""Who holds the role locks, whichever process it is: for people who ask where a role runs.

Nothing is taken and nothing waits. SQLite's locks are read from the kernel's list, which a container shows of its own
processes alone; PostgreSQL knows which sessions hold its advisory locks.
"""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sqlalchemy import text

from whatsms_events.storage.database import Database
from whatsms_events.storage.role_lock import advisory_key, lock_file

PROC_LOCKS: Final = Path("/proc/locks")

_HELD: Final = text(
    "SELECT (l.classid::bigint << 32) | l.objid::bigint AS key, a.pid, host(a.client_addr) AS address, a.backend_start "
    "FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid WHERE l.locktype = 'advisory' AND l.objsubid = 1 "
    "AND l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


@dataclass(frozen=True, slots=True)
class RoleHolder:
    """Who holds a role: this process, or which other one, and since when its session is open where that is known."""

    ours: bool
    who: str
    since: datetime | None = None


async def role_holders(database: Database, roles: Collection[str]) -> Mapping[str, RoleHolder]:
    """Return who holds each role that anybody holds. Raise StorageUnavailableError where the database is away.

    On a system without such a list of locks, nothing is known of roles on SQLite.
    """
    if database.dialect == "postgresql":
        return await _sessions(database, roles)
    return _processes(database, roles)


async def _sessions(database: Database, roles: Collection[str]) -> Mapping[str, RoleHolder]:
    wanted = {advisory_key(role): role for role in roles}
    own = None if database.locks is None else database.locks.pid
    found: dict[str, RoleHolder] = {}
    async with database.read() as connection:
        for key, pid, address, since in await connection.execute(_HELD):
            if key in wanted:
                who = f"a process on {address or 'the database server'}, database session {pid}"
                found[wanted[key]] = RoleHolder(pid == own, who, since.astimezone(UTC))
    return found


def _processes(database: Database, roles: Collection[str]) -> Mapping[str, RoleHolder]:
    """Return what the kernel lists: `1: FLOCK  ADVISORY  WRITE 4711 fe:00:10135121 0 EOF`."""
    wanted: dict[int, str] = {}
    for role in roles:
        try:
            wanted[lock_file(database, role).stat().st_ino] = role
        except OSError:  # nobody ever took it
            continue
    try:
        lines = PROC_LOCKS.read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    found: dict[str, RoleHolder] = {}
    for fields in map(str.split, lines):
        if len(fields) < 6 or fields[1] != "FLOCK" or fields[3] != "WRITE":
            continue
        inode = int(fields[5].rpartition(":")[2])
        if inode in wanted:
            pid = int(fields[4])
            found[wanted[inode]] = RoleHolder(pid == os.getpid(), f"process {pid} on this machine")
    return found
