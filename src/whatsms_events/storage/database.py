"""A target in, an open, checked and migrated database out; here are the few differences of SQLite and PostgreSQL.

The log is durable or it is not opened: SQLite `synchronous=FULL`, PostgreSQL `fsync`, `full_page_writes` and
`synchronous_commit` on. The projection holds its own checkpoint, so there a power cut only makes it older (NORMAL).
"""

import asyncio
import fcntl
import os
import secrets
import sqlite3
import ssl
import stat
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import asyncpg
import structlog
from sqlalchemy import ColumnElement, Connection, Table, Text, any_, exc, literal, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from whatsms_events.errors import ConfigError, NotFoundError, StorageUnavailableError, UnstorableError
from whatsms_events.storage import engines, schema
from whatsms_events.storage.held_file import HeldFile

POLL_S: Final = 0.05
MARK_LIMIT: Final = 2**31 - 1  # SQLite's `application_id` is a signed number of 32 bits

CHUNK: Final = 1000
"""Ids in one question: SQLite allows 32,766 variables, and a list much longer costs more than a second question."""

# asyncpg's internal error is what a connection says whose backend died in the middle of an answer.
_POSTGRESQL_ERRORS: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

# What no retry can mend: class 22 data, class 23 constraints, 54 a program limit such as an index row too large.
_REFUSED: Final = ("22", "23", "54")

# What no waiting can mend: user or password (28), database (3D), and a file that holds something else.
_WRONG: Final = ("28", "3D", "SQLITE_NOTADB", "SQLITE_CORRUPT")

log = structlog.get_logger()


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

    def __init__(
        self,
        part: schema.Part,
        writer: AsyncEngine,
        reader: AsyncEngine,
        path: Path | None = None,
        held: HeldFile | None = None,
    ) -> None:
        self.part: schema.Part = part
        self.path = path
        self.dialect: Literal["sqlite", "postgresql"] = "sqlite" if path is not None else "postgresql"
        self._writer = writer
        self._reader = reader
        self._held = held
        self._keeper: AsyncConnection | None = None

    def check(self) -> None:
        """Raise StorageReplacedError where SQLite's files are not those that are open here. Costs microseconds.

        What a commit was before is at the path, so whoever asks afterwards may tell that it is kept.
        """
        if self._held is not None:
            self._held.check()

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Open one transaction that may write; it commits at the end of the block and rolls back on an error."""
        self.check()
        with translated():
            async with self._writer.begin() as connection:
                yield connection
        self.check()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Open one transaction that only reads. Keep it short: on SQLite an open reader lets the WAL grow."""
        self.check()
        with translated():
            async with self._reader.begin() as connection:
                yield connection

    @asynccontextmanager
    async def driver(self) -> AsyncIterator[Any]:
        """Lend the driver's own connection, in autocommit: aiosqlite.Connection or asyncpg.Connection.

        Where the block ends with an error the connection is thrown away, since nobody knows its state.
        """
        self.check()
        with translated():
            async with self._writer.connect() as connection:
                fairy = await connection.get_raw_connection()
                try:
                    yield fairy.driver_connection
                except BaseException:
                    await connection.invalidate()
                    raise

    async def hold(self) -> None:
        """Keep one connection to a SQLite file, and know from now on whether the path leads to what it holds.

        While a connection is open nobody removes the file's WAL in good order.
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
        if self._keeper is not None:
            await self._keeper.close()
        await self._writer.dispose()
        if self._reader is not self._writer:
            await self._reader.dispose()
        if self._held is not None:
            self._held.release()


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


async def _open(part: schema.Part, target: DatabaseTarget, *, migrate: bool) -> Database:
    if not migrate and not is_there(target):
        raise ConfigError(f"{make_url(target.url).database} is not there: run `whatsms-events db upgrade`")
    database = unopened(part, target)
    try:
        await make_ready(database, target, migrate=migrate)
    except BaseException:
        await database.close()
        raise
    return database


def unopened(part: schema.Part, target: DatabaseTarget) -> Database:
    """Return a database that nobody has spoken to yet; raise ConfigError. Call `make_ready` before it is used."""
    return _connect(part, target)


async def make_ready(database: Database, target: DatabaseTarget, *, migrate: bool) -> None:
    """Connect, migrate if wanted, and check; may be repeated until it succeeds.

    Raise ConfigError where waiting mends nothing: not durable, not at head, no such user, password or database, no
    database at all. Raise StorageUnavailableError where the database is away, starting, locked or full.
    """
    with _named(database.part, target):
        if migrate:
            await _migrate(database)
        async with asyncio.timeout(engines.CONNECT_TIMEOUT_S + engines.STATEMENT_TIMEOUT_S):
            problem = await schema_problem(database)
            if problem is None and database.part == "log":
                async with database.write() as connection:
                    problem = await connection.run_sync(durability_problem)
            if problem is None:
                await database.hold()
    if problem is not None:
        raise ConfigError(problem)


@contextmanager
def _named(part: schema.Part, target: DatabaseTarget) -> Iterator[None]:
    """Say in the error which database it was."""
    url = make_url(target.url)
    place = f"{url.host}:{url.port or 5432}/{url.database}" if url.host else url.database
    try:
        yield
    except (StorageUnavailableError, TimeoutError) as error:
        reason = str(error) or "no answer in time"
        kind = ConfigError if _is_wrong(error) else StorageUnavailableError
        raise kind(f"the {part} database at {place} cannot be used: {reason}") from error


def _is_wrong(error: BaseException | None) -> bool:
    """Tell whether the configuration is wrong, so that waiting mends nothing."""
    while error is not None:
        state = str(getattr(error, "sqlstate", None) or _sqlite_name(error))
        if state.startswith(_WRONG) or isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__
    return False


def _warn_of_readers(path: Path) -> None:
    """Say where others can read the file. Its mode stays: somebody may have let a group read it, for backups."""
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


def _connect(part: schema.Part, target: DatabaseTarget, statement_timeout_s: float | None = None) -> Database:
    url = make_url(target.url)
    match url.get_backend_name():
        case "sqlite":
            path = engines.sqlite_file(url)
            _warn_of_readers(path)
            held = HeldFile(path)
            writer, reader = engines.sqlite(url, path, "FULL" if part == "log" else "NORMAL", held.check)
            return Database(part, writer, reader, path, held)
        case "postgresql":
            wait_s = statement_timeout_s or engines.STATEMENT_TIMEOUT_S
            engine = engines.postgresql(
                url, target.password, tls=target.tls, tls_ca_file=target.tls_ca_file, statement_timeout_s=wait_s
            )
            return Database(part, engine, engine)
        case other:
            raise ConfigError(f"database.url: {other} is not supported, use sqlite or postgresql")
