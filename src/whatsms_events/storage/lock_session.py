"""This module keeps one PostgreSQL session that holds all role locks of a process, however many roles it has.

An advisory lock lives as long as its session. Where the session is lost, or its server takes no writes any more, every
lock in it is lost. Sessions are numbered: a lock that was taken in an earlier session does not count.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from whatsms_events.errors import StorageUnavailableError
from whatsms_events.storage.servers import WRITABLE, closed
from whatsms_events.storage.trouble import READ_ONLY_SAYS, translated

ANSWER_S: Final = 5.0
"""If a server does not answer for so long, the session counts as lost."""

# CASE, so that a read-only server takes no lock: nobody could rely on it.
_TAKE: Final = f"SELECT CASE WHEN {WRITABLE} THEN pg_try_advisory_lock($1) END"
# A pooler in transaction mode would answer for another session, which does not hold the lock.
_LOOK: Final = f"SELECT CASE WHEN {WRITABLE} THEN pg_backend_pid() END"


class LockSession:
    """The session, opened for the first lock and kept. `connect` makes a connection of its own, beside every pool."""

    def __init__(self, connect: Callable[[], Awaitable[Any]]) -> None:
        self._connect = connect
        self._turn = asyncio.Lock()  # a connection answers one question at a time
        self._connection: Any = None
        self._pid = 0
        self._number = 0
        self._keys: set[int] = set()
        self._failures = 0
        self._why = ""

    @property
    def pid(self) -> int | None:
        """The server's number of this session; None where it is not open."""
        return None if self._connection is None else self._pid

    async def take(self, key: int) -> int | None:
        """Take a lock that is free; return the session's number, or None where it is taken, even by this process.

        Raise StorageUnavailableError where no server that takes writes answers.
        """
        failures = self._failures
        async with self._turn:
            if self._failures != failures:  # another role has just waited in vain: do not wait as long once more
                raise StorageUnavailableError(self._why)
            if self._connection is not None and not await self._looks_well():
                self._drop()
            if key in self._keys:
                return None
            if self._connection is None:
                await self._open()
            if await self._ask(_TAKE, key):
                self._keys.add(key)
                return self._number
            return None

    async def held(self, key: int, number: int) -> bool:
        """Tell whether the session of this number is there and has the lock."""
        async with self._turn:
            if number != self._number or key not in self._keys:
                return False
            if not await self._looks_well():
                self._drop()
            return key in self._keys

    async def release(self, key: int, number: int) -> None:
        """Give a lock back; where that fails, the session goes, and every lock with it."""
        async with self._turn:
            if number == self._number and key in self._keys:
                try:
                    await self._ask("SELECT pg_advisory_unlock($1)", key)
                except StorageUnavailableError:
                    return  # dropped
                self._keys.discard(key)

    async def close(self) -> None:
        """Give everything back."""
        async with self._turn:
            connection, self._connection = self._connection, None
            self._keys.clear()
            if connection is not None:
                await closed(connection)

    async def _open(self) -> None:
        try:
            self._connection = await self._connect()
        except StorageUnavailableError as error:
            self._failures += 1
            self._why = str(error)
            raise
        self._number += 1
        self._pid = await self._ask(_LOOK)

    async def _looks_well(self) -> bool:
        try:
            return bool(await self._ask(_LOOK) == self._pid)
        except StorageUnavailableError:
            return False

    async def _ask(self, query: str, *values: int) -> Any:
        """Return the answer; drop the session where there is none, or where the server takes no writes.

        It is dropped too where the caller is cancelled: nobody would know whether the lock was taken.
        """
        try:
            with translated():
                answer = await self._connection.fetchval(query, *values, timeout=ANSWER_S)
            if answer is None:
                raise StorageUnavailableError(READ_ONLY_SAYS)
        except BaseException:
            self._drop()
            raise
        return answer

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self._keys.clear()
        if connection is not None:
            connection.terminate()
