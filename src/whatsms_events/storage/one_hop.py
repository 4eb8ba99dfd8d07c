"""This module lets SQLite run a statement and give all of its rows in one hop into its thread and back.

aiosqlite has a thread for each connection, and each of its calls is a hop. SQLAlchemy makes four of them for each
statement: it asks for a cursor, executes, takes the rows, and closes the cursor. A hop costs more processor time than
most of our statements, because the two threads take turns with the interpreter: a transaction that reads one row took
780 us with four hops a statement, and takes 530 us with one.

SQLAlchemy takes all rows of a statement at once anyway, unless it is asked to stream them, which nobody here does.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Self

import aiosqlite

_Whole = tuple[Sequence[Any], Any, int, int | None]
"""A statement's rows, what they consist of, how many rows it changed, and the id of the last one."""


async def connect(database: str) -> "OneHop":
    """Open a database that is given as a URI of SQLite. Raises sqlite3.Error."""
    connection = OneHop(database)
    await connection
    return connection


class OneHop(aiosqlite.Connection):
    """aiosqlite's connection, but for its cursors."""

    def __init__(self, database: str) -> None:
        super().__init__(partial(sqlite3.connect, database, uri=True), iter_chunk_size=1)
        self._thread.daemon = True  # a connection that nobody closed must not keep the process alive

    def cursor(self) -> "Cursor":  # type: ignore[override]
        """Return a cursor; unlike aiosqlite's it has nothing to wait for."""
        return Cursor(self)

    async def whole(self, statement: str, values: Iterable[Any], *, many: bool) -> _Whole:
        """Execute a statement in the connection's thread, or one for each of many values. Raises sqlite3.Error."""
        return await self._execute(self._in_thread, statement, values, many)  # type: ignore[no-any-return, no-untyped-call]

    def _in_thread(self, statement: str, values: Iterable[Any], many: bool) -> _Whole:
        cursor = self._conn.cursor()
        try:
            (cursor.executemany if many else cursor.execute)(statement, values)  # type: ignore[arg-type]
            return cursor.fetchall(), cursor.description, cursor.rowcount, cursor.lastrowid
        finally:
            cursor.close()


class Cursor:
    """What SQLAlchemy asks of a cursor. After `execute` everything is here, and SQLite's own cursor is closed."""

    def __init__(self, connection: OneHop) -> None:
        self._connection = connection
        self._rows: Sequence[Any] = ()
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None
        self.arraysize = 1

    async def __aenter__(self) -> Self:
        return self

    async def execute(self, statement: str, values: Iterable[Any] = ()) -> None:
        """Execute a statement and take all of its rows. Raises sqlite3.Error."""
        await self._take(statement, values, many=False)

    async def executemany(self, statement: str, values: Iterable[Iterable[Any]]) -> None:
        """Execute a statement once for each group of values. Raises sqlite3.Error."""
        await self._take(statement, values, many=True)

    async def fetchall(self) -> Sequence[Any]:
        """Return the rows."""
        return self._rows

    async def close(self) -> None:
        """Do nothing: there is nothing left to close."""

    async def _take(self, statement: str, values: Iterable[Any], *, many: bool) -> None:
        whole = await self._connection.whole(statement, values, many=many)
        self._rows, self.description, self.rowcount, self.lastrowid = whole
