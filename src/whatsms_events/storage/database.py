"""A target in, an open, checked and migrated database out; here are the few differences of SQLite and PostgreSQL.

The log is durable or it is not opened: SQLite `synchronous=FULL`, PostgreSQL `fsync`, `full_page_writes` and
`synchronous_commit` on. The projection holds its own checkpoint, so there a power cut only makes it older (NORMAL).
"""

import asyncio
import fcntl
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal

import asyncpg
from sqlalchemy import ColumnElement, Connection, Table, Text, any_, exc, literal, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from whatsms_events.errors import ConfigError, NotFoundError, StorageUnavailableError, UnstorableError
from whatsms_events.storage import engines, schema

POLL_S: Final = 0.05

CHUNK: Final = 1000
"""Ids in one question: SQLite allows 32,766 variables, and a list much longer costs more than a second question."""

# asyncpg's internal error is what a connection says whose backend died in the middle of an answer.
_POSTGRESQL_ERRORS: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

# What no retry can mend: class 22 data, class 23 constraints, 54 a program limit such as an index row too large.
_REFUSED: Final = ("22", "23", "54")


@dataclass(frozen=True, slots=True)
class DatabaseTarget:
    """Where a database is. `url` is `sqlite:////absolute/path` or `postgresql://user@host:port/name`, no password."""

    url: str
    password: str | None = None
    tls: bool = False
    tls_ca_file: Path | None = None


@contextmanager
def translated() -> Iterator[None]:
    """Raise StorageUnavailableError, or UnstorableError for refused data, for what databases and drivers raise."""
    try:
        yield
    except exc.DBAPIError as error:
        raise _translate(error.orig or error) from error
    except (exc.SQLAlchemyError, sqlite3.Error, *_POSTGRESQL_ERRORS, OSError) as error:
        raise _translate(error) from error
    except (OverflowError, UnicodeEncodeError) as error:  # a value that a driver could not bind
        raise UnstorableError(type(error).__name__) from error


def _translate(error: BaseException) -> StorageUnavailableError | UnstorableError:
    """Tell refused data from everything else. Messages carry class and SQLSTATE only: the drivers' carry values."""
    # SQLSTATE, or SQLite's own name such as SQLITE_FULL: what went wrong, and never a value.
    state = str(getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or _sqlite_name(error))
    # By name, since SQLAlchemy wraps the drivers' classes in its own of the same names.
    names = {cls.__name__ for cls in type(error).__mro__}
    summary = f"{type(error).__name__} {state}".strip()
    if state.startswith(_REFUSED) or names & {"IntegrityError", "DataError"}:
        return UnstorableError(summary)
    return StorageUnavailableError(summary)


def _sqlite_name(error: BaseException) -> str:
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorname", "")
    return "" if error.__cause__ is None else _sqlite_name(error.__cause__)


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
    """An open database: a writing and a reading side, and the driver's own connection for the committer."""

    def __init__(self, part: schema.Part, writer: AsyncEngine, reader: AsyncEngine, path: Path | None) -> None:
        self.part: schema.Part = part
        self.path = path
        self.dialect: Literal["sqlite", "postgresql"] = "sqlite" if path is not None else "postgresql"
        self._writer = writer
        self._reader = reader

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Open one transaction that may write; it commits at the end of the block and rolls back on an error."""
        with translated():
            async with self._writer.begin() as connection:
                yield connection

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Open one transaction that only reads. Keep it short: on SQLite an open reader lets the WAL grow."""
        with translated():
            async with self._reader.begin() as connection:
                yield connection

    @asynccontextmanager
    async def driver(self) -> AsyncIterator[Any]:
        """Lend the driver's own connection, in autocommit: aiosqlite.Connection or asyncpg.Connection.

        Where the block ends with an error the connection is thrown away, since nobody knows its state.
        """
        with translated():
            async with self._writer.connect() as connection:
                fairy = await connection.get_raw_connection()
                try:
                    yield fairy.driver_connection
                except BaseException:
                    await connection.invalidate()
                    raise

    async def close(self) -> None:
        """Give every connection back."""
        await self._writer.dispose()
        if self._reader is not self._writer:
            await self._reader.dispose()


def is_there(target: DatabaseTarget) -> bool:
    """Tell whether there is something to open; a file without a byte is one that nobody has come to migrate yet."""
    url = make_url(target.url)
    if url.get_backend_name() != "sqlite" or url.database is None:
        return True
    try:
        return Path(url.database).stat().st_size > 0
    except OSError:
        return False


def expect_log(target: DatabaseTarget) -> None:
    """Raise NotFoundError where there is no log: whoever asks it, or mends it, must not make an empty one elsewhere."""
    if not is_there(target):
        place = make_url(target.url).database
        raise NotFoundError(
            f"there is no log at {place}: `serve` makes it; else see --config, data_dir and database.url"
        )


async def open_log(target: DatabaseTarget, *, migrate: bool) -> Database:
    """Open the event log; where it may not `migrate` it makes none and raises NotFoundError.

    Raise ConfigError where it is not durable or not at head, StorageUnavailableError if away.
    """
    if not migrate:
        expect_log(target)
    return await _open("log", target, migrate=migrate)


async def open_projection(target: DatabaseTarget, *, migrate: bool) -> Database:
    """Open the projection. Raise ConfigError where it is not at head, StorageUnavailableError if away."""
    return await _open("projection", target, migrate=migrate)


async def upgrade(part: schema.Part, target: DatabaseTarget) -> None:
    """Migrate one part to head; a no-op where it is there."""
    database = _connect(part, target, engines.MIGRATION_TIMEOUT_S)
    try:
        with _named(part, target):
            await _migrate(database)
    finally:
        await database.close()


async def schema_problem(database: Database) -> str | None:
    """Return None where the schema is at head, else one line that says what to do."""
    async with database.read() as connection:
        return await connection.run_sync(schema.problem, database.part)


async def _migrate(database: Database) -> None:
    async with asyncio.timeout(engines.CONNECT_TIMEOUT_S + engines.MIGRATION_TIMEOUT_S), _alone(database):
        if await schema_problem(database) is not None:
            async with database.write() as connection:
                await connection.run_sync(schema.upgrade, database.part)


@asynccontextmanager
async def _alone(database: Database) -> AsyncIterator[None]:
    """Let one process at a time make a SQLite file: of several that switch it to WAL, SQLite lets all but one fail."""
    if database.path is None:  # PostgreSQL has a lock of its own for it, see schema.upgrade
        yield
        return
    with database.path.with_name(f"{database.path.name}.migrate.lock").open("w") as file:
        while not _flocked(file):  # noqa: ASYNC110 - another process unlocks it, and nobody tells
            await asyncio.sleep(POLL_S)  # the caller's deadline bounds it
        yield


def _flocked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def _open(part: schema.Part, target: DatabaseTarget, *, migrate: bool) -> Database:
    if not migrate and not is_there(target):
        raise ConfigError(f"{make_url(target.url).database} is not there: run `whatsms-events db upgrade`")
    database = _connect(part, target)
    try:
        with _named(part, target):
            if migrate:
                await _migrate(database)
            async with asyncio.timeout(engines.CONNECT_TIMEOUT_S + engines.STATEMENT_TIMEOUT_S):
                problem = await schema_problem(database)
                if problem is None and part == "log":
                    async with database.write() as connection:
                        problem = await connection.run_sync(durability_problem)
        if problem is not None:
            raise ConfigError(problem)
    except BaseException:
        await database.close()
        raise
    return database


@contextmanager
def _named(part: schema.Part, target: DatabaseTarget) -> Iterator[None]:
    """Say in the error which database it was."""
    url = make_url(target.url)
    place = f"{url.host}:{url.port or 5432}/{url.database}" if url.host else url.database
    try:
        yield
    except (StorageUnavailableError, TimeoutError) as error:
        reason = str(error) or "no answer in time"
        raise StorageUnavailableError(f"the {part} database at {place} cannot be used: {reason}") from error


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


def _connect(part: schema.Part, target: DatabaseTarget, statement_timeout_s: float | None = None) -> Database:
    url = make_url(target.url)
    match url.get_backend_name():
        case "sqlite":
            path = engines.sqlite_file(url)
            return Database(part, *engines.sqlite(url, "FULL" if part == "log" else "NORMAL"), path)
        case "postgresql":
            wait_s = statement_timeout_s or engines.STATEMENT_TIMEOUT_S
            engine = engines.postgresql(
                url, target.password, tls=target.tls, tls_ca_file=target.tls_ca_file, statement_timeout_s=wait_s
            )
            return Database(part, engine, engine, None)
        case other:
            raise ConfigError(f"database.url: {other} is not supported, use sqlite or postgresql")
