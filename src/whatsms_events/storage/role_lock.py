"""A role's name in, whether this process has it out: so that one relay works while the others stand by.

For liveness only. A frozen holder wakes up and goes on for a moment, so what keeps two holders from doing harm is
elsewhere: the broker's fencing and the relay row's generation, the projection's generation.
"""

import fcntl
import hashlib
import os
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Final

from whatsms_events.errors import StorageUnavailableError
from whatsms_events.storage.database import Database, translated

CHECK_INTERVAL_S: Final = 1.0
ANSWER_S: Final = 5.0
"""A server that does not answer this long has lost us, or we have lost it."""


class RoleLock:
    """One role: `flock` on `<file>.<role>.lock` beside SQLite, a session's advisory lock on PostgreSQL."""

    def __init__(self, database: Database, role: str, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._lock: _FileLock | _AdvisoryLock = (
            _FileLock(Path(f"{database.path}.{role}.lock")) if database.path else _AdvisoryLock(database, role)
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
    """Belongs to a connection of its own, and ends with it. Not through a pooler in transaction mode."""

    def __init__(self, database: Database, role: str) -> None:
        self._database = database
        self._key = int.from_bytes(hashlib.sha256(f"whatsms-events role {role}".encode()).digest()[:8], signed=True)
        self._stack: AsyncExitStack | None = None
        self._connection: Any = None

    @property
    def taken(self) -> bool:
        return self._stack is not None

    async def take(self) -> bool:
        async with AsyncExitStack() as stack:
            connection = await stack.enter_async_context(self._database.driver())
            if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", self._key, timeout=ANSWER_S):
                return False
            self._connection, self._stack = connection, stack.pop_all()
        return True

    async def held(self) -> bool:
        # The lock lives as long as its session: a session that answers has it.
        try:
            with translated():
                await self._connection.fetchval("SELECT 1", timeout=ANSWER_S)
        except (StorageUnavailableError, TimeoutError):
            return False
        return True

    async def release(self) -> None:
        stack, self._stack = self._stack, None
        if stack is None:
            return
        # Unlocked before the pool gets the connection back; where that fails, the pool throws it away.
        with suppress(StorageUnavailableError, TimeoutError):
            async with stack:
                await self._connection.fetchval("SELECT pg_advisory_unlock($1)", self._key, timeout=ANSWER_S)
        self._connection = None
