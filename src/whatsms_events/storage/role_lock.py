"""A role lock lets one process at a time do a role's work, so that one relay works while the others stand by.

The lock is for liveness only. A frozen holder can wake up and go on for a moment. What keeps two holders from doing
harm is elsewhere: the broker's fencing, the generation in the relay's row, and the projection's generation.
"""

import fcntl
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from whatsms_events.errors import StorageUnavailableError
from whatsms_events.storage.database import Database
from whatsms_events.storage.lock_session import LockSession
from whatsms_events.storage.trouble import translated

CHECK_INTERVAL_S: Final = 1.0


class RoleLock:
    """One role: `flock` on `<file>.<role>.lock` beside SQLite, an advisory lock on PostgreSQL."""

    def __init__(self, database: Database, role: str, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._lock: _FileLock | _AdvisoryLock = (
            _AdvisoryLock(database.locks, role) if database.locks is not None else _FileLock(lock_file(database, role))
        )
        self._monotonic = monotonic
        self._sure_until = 0.0

    async def take(self) -> bool:
        """Tell whether this process has the role, taking it where it is free. Never waits for another holder.

        Made to be called before each piece of work: a lock that is held is looked at again once a second. Raises
        StorageUnavailableError where a free lock cannot be asked for.
        """
        if self._lock.taken:
            return self._monotonic() < self._sure_until or await self.held()
        if await self._lock.take():
            self._sure_until = self._monotonic() + CHECK_INTERVAL_S
        return self._lock.taken

    async def held(self) -> bool:
        """Look whether the lock is still ours; where it is not, it is given up."""
        if self._lock.taken and not await self._lock.held():
            await self.release()
        self._sure_until = self._monotonic() + CHECK_INTERVAL_S
        return self._lock.taken

    async def release(self) -> None:
        """Give the role up; nothing happens where it is not held."""
        await self._lock.release()


def lock_file(database: Database, role: str) -> Path:
    """Return the file whose lock is the role's, beside SQLite."""
    return Path(f"{database.path}.{role}.lock")


def advisory_key(role: str) -> int:
    """Return the key of the advisory lock that is the role's, on PostgreSQL."""
    return int.from_bytes(hashlib.sha256(f"whatsms-events role {role}".encode()).digest()[:8], signed=True)


class _FileLock:
    """Freed by the operating system when the process ends, however it ends. Local file systems only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    @property
    def taken(self) -> bool:
        return self._file is not None

    async def take(self) -> bool:
        with translated():
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        except OSError as exc:
            os.close(file)
            raise StorageUnavailableError(f"{self._path.name}: {exc.strerror}") from exc
        self._file = file
        if not await self.held():
            await self.release()
        return self.taken

    async def held(self) -> bool:
        # A lock on a file that was deleted or replaced keeps nobody out.
        try:
            return self._file is not None and os.path.samestat(os.fstat(self._file), self._path.stat())
        except OSError:
            return False

    async def release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


class _AdvisoryLock:
    """A lock in the one session that holds all of this process's. Not through a pooler in transaction mode."""

    def __init__(self, session: LockSession, role: str) -> None:
        self._session = session
        self._key = advisory_key(role)
        self._number: int | None = None  # of the session it was taken in

    @property
    def taken(self) -> bool:
        return self._number is not None

    async def take(self) -> bool:
        self._number = await self._session.take(self._key)
        return self.taken

    async def held(self) -> bool:
        return self._number is not None and await self._session.held(self._key, self._number)

    async def release(self) -> None:
        number, self._number = self._number, None
        if number is not None:
            await self._session.release(self._key, number)
