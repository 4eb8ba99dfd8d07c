"""This module opens, checks and migrates a database, and has the few differences between SQLite and PostgreSQL.

The log is durable or it is not opened: SQLite `synchronous=FULL`, PostgreSQL `fsync`, `full_page_writes` and
`synchronous_commit` on. The projection holds its own checkpoint, so there a power cut only makes it older (NORMAL).
"""

import asyncio
import fcntl
import os
import secrets
import ssl
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import structlog
from sqlalchemy import ColumnElement, Connection, Table, Text, any_, literal, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from whatsms_events.errors import ConfigError, NotFoundError, StorageUnavailableError
from whatsms_events.storage import engines, postgres_url, schema
from whatsms_events.storage.held_file import HeldFile
from whatsms_events.storage.lock_session import LockSession
from whatsms_events.storage.move_mark import moved_problem
from whatsms_events.storage.servers import CONNECT_TIMEOUT_S, Servers
from whatsms_events.storage.trouble import POOLER_SAYS, state_of, translated

POLL_S: Final = 0.05
MARK_LIMIT: Final = 2**31 - 1  # SQLite's `application_id` is a signed number of 32 bits

CHUNK: Final = 1000
"""Ids in one question. SQLite allows 32,766 variables, and a much longer list costs more than a second question."""

# Errors that waiting does not mend: user or password (28), database (3D), and a file that is no database.
_WRONG: Final = ("28", "3D", "SQLITE_NOTADB", "SQLITE_CORRUPT")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class DatabaseTarget:
    """Where a database is. `url` is `sqlite:////absolute/path` or `postgresql://user@host:port/name`, no password.

    Of several hosts with commas between them the one that takes writes is used. The timeouts are for PostgreSQL, and
    so is `schema`: where the tables are, None for where the server looks by itself.
    """

    url: str
    password: str | None = None
    tls: bool = False
    tls_ca_file: Path | None = None
    connect_timeout_s: float = CONNECT_TIMEOUT_S
    statement_timeout_s: float = engines.STATEMENT_TIMEOUT_S
    schema: str | None = None

    @property
    def timeout_s(self) -> float:
        """How long a server may take to be connected to and to answer one question."""
        return self.connect_timeout_s + self.statement_timeout_s

    @property
    def is_sqlite(self) -> bool:
        """Tell whether it is a file of SQLite."""
        return self.url.startswith("sqlite")


def insert(connection: AsyncConnection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """Return an INSERT that knows ON CONFLICT, which is no part of SQLAlchemy's own."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def among(connection: AsyncConnection, column: ColumnElement[str], values: Sequence[str]) -> ColumnElement[bool]:
    """Return the condition that the column has one of the values, at most CHUNK of them."""
    if connection.dialect.name == "postgresql":
        # One array, so that the statement is prepared once and not again for each number of ids.
        return column == any_(literal(list(values), postgresql.ARRAY(Text)))
    return column.in_(values)


class Database:
    """An open database: a writing and a reading side, the committer's own connection, and on PostgreSQL the locks."""

    def __init__(
        self,
        part: schema.Part,
        writer: AsyncEngine,
        reader: AsyncEngine,
        lend: Callable[[], AbstractAsyncContextManager[Any]],
        *,
        path: Path | None = None,
        held: HeldFile | None = None,
        locks: LockSession | None = None,
        turns: int | None = None,
    ) -> None:
        """Exactly one of `path` and `locks` is given: a file, or the session that holds locks on a server."""
        self.part: schema.Part = part
        self.path = path
        self.locks = locks
        self.dialect: Literal["sqlite", "postgresql"] = "sqlite" if path is not None else "postgresql"
        self._writer = writer
        self._reader = reader
        self._lend = lend
        self._turns: AbstractAsyncContextManager[None] = nullcontext() if turns is None else asyncio.Semaphore(turns)
        self._held = held
        self._keeper: AsyncConnection | None = None

    def in_turns(self, turns: int) -> "Database":
        """Return the same database for a group of many users: together they have at most `turns` transactions open.

        The others wait for their turn, so that the pool is free for roles that must not wait. Each
        statement has a deadline, and so has each turn.
        """
        return Database(
            self.part,
            self._writer,
            self._reader,
            self._lend,
            path=self.path,
            held=self._held,
            locks=self.locks,
            turns=turns,
        )

    def check(self) -> None:
        """Raise StorageReplacedError where SQLite's files are not those that are open here. Takes microseconds.

        If a check after a commit succeeds, the commit is in the file at the path.
        """
        if self._held is not None:
            self._held.check()

    def free_bytes(self) -> int | None:
        """Return how many bytes its disk has for us; None for a server, and where the file is not there."""
        if self.path is None:
            return None
        try:
            disk = os.statvfs(self.path)
        except OSError:  # `check` says what is wrong with the file
            return None
        return disk.f_bavail * disk.f_frsize

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Open one transaction that may write; it commits at the end of the block and rolls back on an error."""
        self.check()
        with translated():
            async with self._turns, self._writer.begin() as connection:
                yield connection
        self.check()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Open one transaction that only reads. Keep it short: on SQLite an open reader lets the WAL grow."""
        self.check()
        with translated():
            async with self._turns, self._reader.begin() as connection:
                yield connection

    @asynccontextmanager
    async def driver(self) -> AsyncIterator[Any]:
        """Lend the committer its own connection, in autocommit: aiosqlite.Connection or asyncpg.Connection.

        It comes from no pool, so nobody competes for it. Where the block ends with an error it is thrown away, since
        nobody knows its state.
        """
        self.check()
        with translated():
            async with self._lend() as connection:
                yield connection

    async def hold(self) -> None:
        """Keep one connection to a SQLite file open, so that `check` can compare the path with the open file.

        While a connection is open, no other process that closes the file removes its WAL.
        """
        if self._held is None or self._keeper is not None:
            return
        with translated():
            keeper = await self._writer.connect()
            try:
                self._held.hold(await _mark(keeper))
            except BaseException:
                await keeper.close()
                raise
        self._keeper = keeper

    async def close(self) -> None:
        """Give every connection back."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            await keeper.close()
        if self.locks is not None:
            await self.locks.close()
        await self._writer.dispose()
        if self._reader is not self._writer:
            await self._reader.dispose()
        held, self._held = self._held, None
        if held is not None:
            held.release()


async def _mark(keeper: AsyncConnection) -> int:
    """Return the mark of the file, given to it now where it has none yet."""
    connection: Any = (await keeper.get_raw_connection()).driver_connection

    async def found() -> int:
        ((mark,),) = await connection.execute_fetchall("PRAGMA application_id")
        return int(mark)

    if mark := await found():
        return mark
    async with keeper.begin():
        if not await found():  # asked again under the lock: of two processes that open a new file, one gives it
            await keeper.exec_driver_sql(f"PRAGMA application_id = {1 + secrets.randbelow(MARK_LIMIT)}")
    await connection.execute_fetchall("PRAGMA wal_checkpoint(PASSIVE)")  # into the file itself
    return await found()


def is_there(target: DatabaseTarget) -> bool:
    """Tell whether there is a database to open. An empty file is none: it was made, and not migrated yet."""
    file = make_url(target.url).database if target.is_sqlite else None
    if file is None:
        return True
    try:
        return Path(file).stat().st_size > 0
    except OSError:
        return False


def place_of(target: DatabaseTarget) -> str:
    """Return what people call the place of a database: the path of its file, or server and name."""
    parts = None if target.is_sqlite else postgres_url.parse(target.url)
    return str(make_url(target.url).database) if parts is None else parts.place


def expect_log(target: DatabaseTarget) -> None:
    """Raise NotFoundError where there is no log: a command that reads or mends a log must not make an empty one."""
    if not is_there(target):
        place = make_url(target.url).database
        raise NotFoundError(
            f"there is no log at {place}: `serve` makes it; else see --config, data_dir and database.url"
        )


async def open_log(target: DatabaseTarget, *, migrate: bool, even_moved: bool = False) -> Database:
    """Open the event log. Without `migrate` no log is made: raise NotFoundError where there is none.

    Raise ConfigError where it is not durable or not at head, or has moved, StorageUnavailableError if away.
    """
    if not migrate:
        expect_log(target)
    return await _open("log", target, migrate=migrate, even_moved=even_moved)


async def open_projection(target: DatabaseTarget, *, migrate: bool) -> Database:
    """Open the projection. Raise ConfigError where it is not at head, StorageUnavailableError if away."""
    return await _open("projection", target, migrate=migrate)


async def upgrade(part: schema.Part, target: DatabaseTarget) -> None:
    """Migrate one part to head; a no-op where it is there."""
    database = unopened(part, replace(target, statement_timeout_s=engines.MIGRATION_TIMEOUT_S))
    try:
        with _named(part, target):
            await _check_server(database, target)
            await _migrate(database, target)
    finally:
        await database.close()


async def check_server(target: DatabaseTarget) -> None:
    """Look at a server of PostgreSQL; raise ConfigError where it cannot be used, StorageUnavailableError if away."""
    database = unopened("log", target)
    try:
        with _named("log", target):
            await _check_server(database, target)
    finally:
        await database.close()


async def _check_server(database: Database, target: DatabaseTarget) -> None:
    if database.path is not None:
        return
    async with asyncio.timeout(target.timeout_s):
        async with database.driver() as connection:
            encoding = await connection.fetchval("SHOW server_encoding")
            pid = await connection.fetchval("SELECT pg_backend_pid()")
            pooled = pid != connection.get_server_pid()
            if pooled:  # in transaction mode two connections that are open can have one session
                async with database.driver() as other:
                    if await other.fetchval("SELECT pg_backend_pid()") == pid:
                        raise ConfigError(f"database.url: {POOLER_SAYS}")
    if encoding != "UTF8":
        raise ConfigError(
            f"database.url: the database's encoding is {encoding}, which cannot hold every text: make one with "
            "CREATE DATABASE ... TEMPLATE template0 ENCODING 'UTF8'"
        )


async def schema_problem(database: Database) -> str | None:
    """Return None where the schema is at head, else one line that says what to do."""
    async with database.read() as connection:
        return await connection.run_sync(schema.problem, database.part)


async def _migrate(database: Database, target: DatabaseTarget) -> None:
    async with asyncio.timeout(target.connect_timeout_s + engines.MIGRATION_TIMEOUT_S), _alone(database):
        if await schema_problem(database) is not None:
            async with database.write() as connection:
                await connection.run_sync(schema.upgrade, database.part)


@asynccontextmanager
async def _alone(database: Database) -> AsyncIterator[None]:
    """Let one process at a time make a SQLite file: of several that switch it to WAL, SQLite lets all but one fail."""
    if database.path is None:  # PostgreSQL has a lock of its own for it, see schema.upgrade
        yield
        return
    path = database.path.with_name(f"{database.path.name}.migrate.lock")
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, engines.PRIVATE_MODE)
    try:
        while not _flocked(file):  # noqa: ASYNC110 - another process unlocks it, and nobody tells
            await asyncio.sleep(POLL_S)  # the caller's deadline bounds it
        yield
    finally:
        os.close(file)


def _flocked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def _open(part: schema.Part, target: DatabaseTarget, *, migrate: bool, even_moved: bool = False) -> Database:
    if not migrate and not is_there(target):
        raise ConfigError(f"{make_url(target.url).database} is not there: run `whatsms-events db upgrade`")
    database = unopened(part, target)
    try:
        await make_ready(database, target, migrate=migrate, even_moved=even_moved)
    except BaseException:
        await database.close()
        raise
    return database


async def make_ready(database: Database, target: DatabaseTarget, *, migrate: bool, even_moved: bool = False) -> None:
    """Connect, migrate if wanted, and check; may be repeated until it succeeds.

    Raise ConfigError where waiting mends nothing: not durable, not at head, no such user, password or database, no
    database at all, a log that has moved or is a copy that is not whole (but for `even_moved`). Raise
    StorageUnavailableError where the database is away, starting, locked or full.
    """
    with _named(database.part, target):
        await _check_server(database, target)
        if migrate:
            await _migrate(database, target)
        async with asyncio.timeout(target.timeout_s):
            problem = await schema_problem(database)
            if problem is None and database.part == "log":
                async with database.write() as connection:
                    problem = await connection.run_sync(durability_problem)
                    if problem is None and not even_moved:
                        problem = await connection.run_sync(moved_problem)
            if problem is None:
                await database.hold()
    if problem is not None:
        raise ConfigError(problem)


@contextmanager
def _named(part: schema.Part, target: DatabaseTarget) -> Iterator[None]:
    """Say in the error which database it was."""
    try:
        yield
    except (StorageUnavailableError, TimeoutError) as error:
        reason = str(error) or "no answer in time"
        kind = ConfigError if _is_wrong(error) else StorageUnavailableError
        raise kind(f"the {part} database at {place_of(target)} cannot be used: {reason}") from error


def _is_wrong(error: BaseException | None) -> bool:
    """Tell whether the configuration is wrong, so that waiting mends nothing."""
    while error is not None:
        if state_of(error).startswith(_WRONG) or isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__
    return False


def _warn_of_readers(path: Path) -> None:
    """Warn where other users can read the file. Its mode stays: somebody may have let a group read it, for backups."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & ~engines.PRIVATE_MODE:
        log.warning("database.readable", file=str(path), reason=f"others can read it, mode {mode:04o}: chmod 600")


def durability_problem(connection: Connection) -> str | None:
    """Return None where a commit on this connection survives a power cut, else which setting is wrong."""
    if connection.dialect.name == "sqlite":
        wanted = {"PRAGMA journal_mode": {"wal"}, "PRAGMA synchronous": {"2", "3"}}
    else:
        wanted = {
            "SHOW fsync": {"on"},
            "SHOW full_page_writes": {"on"},
            "SHOW synchronous_commit": {"on", "remote_apply", "remote_write", "local"},
        }
    for query, allowed in wanted.items():
        value = str(connection.execute(text(query)).scalar_one())
        if value not in allowed:
            name = query.split()[1]
            return f"the log is not durable: {name} is {value}, needs {' or '.join(sorted(allowed))}; refusing to start"
    return None


def unopened(part: schema.Part, target: DatabaseTarget) -> Database:
    """Return a database that nobody has spoken to yet; raise ConfigError. Call `make_ready` before it is used."""
    if target.is_sqlite:
        url = make_url(target.url)
        path = engines.sqlite_file(url)
        _warn_of_readers(path)
        held = HeldFile(path)
        writer, reader, own = engines.sqlite(path, engines.LOG if part == "log" else engines.PROJECTION, held.check)
        return Database(part, writer, reader, partial(engines.lend, own), path=path, held=held)
    parts = postgres_url.parse(target.url)
    if parts is None:
        raise ConfigError("database.url: use postgresql://user@host:5432/name or sqlite:////absolute/path/log.db")
    tls = engines.authorities(target.tls_ca_file) if target.tls else None
    servers = Servers(
        parts,
        target.password,
        tls,
        connect_timeout_s=target.connect_timeout_s,
        statement_timeout_s=target.statement_timeout_s,
        schema=target.schema,
    )
    pool = engines.postgresql(servers)
    return Database(part, pool, pool, servers.lend, locks=LockSession(servers.connect))
