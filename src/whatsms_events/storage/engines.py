"""This module makes SQLAlchemy's engines, and sets up each connection as SQLite or PostgreSQL needs it."""

import os
import sqlite3
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy import Connection, NullPool, event
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from whatsms_events.errors import ConfigError, StorageReplacedError
from whatsms_events.storage import one_hop
from whatsms_events.storage.servers import LOCK_TIMEOUT_MS, Servers, leave_when_read_only

STATEMENT_TIMEOUT_S: Final = 15.0
MIGRATION_TIMEOUT_S: Final = 3600.0
"""An index of tens of millions of messages takes minutes."""

REPAIR_TURNS: Final = 3
"""The most transactions at a time of all backfills and watchdogs together; each tenant may have one of each."""

CONSOLE_TURNS: Final = 2
"""The same of all pages of the console: whoever looks takes no connection away from a role."""

REPORT_TURNS: Final = 2
"""The same of what takes long: traces, exports of a person, and reports of what is held."""

POOL_SIZE: Final = 14 + CONSOLE_TURNS + REPORT_TURNS
"""As many as can be wanted at a time, however many tenants there are: relay, consumer, observer and the uses of
secrets one each, the probes two, the read API `reads.READERS`, the event feed three, backfills and watchdogs
REPAIR_TURNS, the console CONSOLE_TURNS, reports REPORT_TURNS. The committer and the role locks have connections of
their own.
"""

PRIVATE_MODE: Final = 0o600
SQLITE_MINIMUM: Final = (3, 35, 0)  # RETURNING and upserts

_PRAGMAS: Final = (
    # First: switching a new file to WAL needs a lock that another process may hold.
    f"PRAGMA busy_timeout={LOCK_TIMEOUT_MS}",
    "PRAGMA journal_mode=WAL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA wal_autocheckpoint=1000",
    "PRAGMA journal_size_limit=67108864",
    # What is blanked or deleted is overwritten with zeros, in whatever way this SQLite was built.
    "PRAGMA secure_delete=ON",
    # No page goes into a temporary file, which nobody would overwrite, but for VACUUM's.
    "PRAGMA temp_store=MEMORY",
)


LOG: Final = ("PRAGMA synchronous=FULL",)
PROJECTION: Final = (
    "PRAGMA synchronous=NORMAL",
    # A batch of the consumer changes thousands of pages. SQLite's own limits, 2 MiB and a checkpoint after 1,000 pages,
    # write the same page several times: four of twenty microseconds an event.
    "PRAGMA cache_size=-16384",
    "PRAGMA wal_autocheckpoint=4000",
)
"""How durable a file is, and what its writer needs."""


# For every value but a text, an integer or a float, `sqlite3` looks whether its type wants to be adapted, and makes an
# error inside for each that does not. To bind a row of the projection, of which half is null, took twice as long.
# What is registered here gives each value as `sqlite3` would have stored it anyway.
sqlite3.register_adapter(type(None), {None: None}.get)
sqlite3.register_adapter(bool, int)
sqlite3.register_adapter(bytes, bytes)


def sqlite_file(url: URL) -> Path:
    """Return the file, made where it is missing; raise ConfigError where that cannot be."""
    if sqlite3.sqlite_version_info < SQLITE_MINIMUM:
        raise ConfigError(f"SQLite {sqlite3.sqlite_version} is too old, 3.35 or later is needed")
    if url.database is None:
        raise ConfigError("database.url: name a file, the log does not live in memory")
    path = Path(url.database)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Never opened where it is there: closing it again would drop the locks of this process, see `held_file`.
        if not path.exists():
            # Personal data: for nobody else's eyes. SQLite gives the files beside it the same mode.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE_MODE))
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
    if not path.is_file() or not os.access(path, os.R_OK | os.W_OK):
        raise ConfigError(f"cannot write {path}: it is no file, or its mode does not let this user write it")
    return path


def sqlite(
    path: Path, writing: Sequence[str], check: Callable[[], None]
) -> tuple[AsyncEngine, AsyncEngine, AsyncEngine]:
    """Return a file's writing engine, its reading one, and the committer's own; `writing` is LOG or PROJECTION.

    `check` raises where the path does not lead to the file that is held: no connection to another one is kept.
    """
    # Two writing connections beside the committer's: one stays open until the end, and writers take turns anyway.
    writer = _sqlite_engine(path, 2, "BEGIN IMMEDIATE", *writing, check=check)
    own = _sqlite_engine(path, 0, "BEGIN IMMEDIATE", *writing, check=check)
    reader = _sqlite_engine(path, POOL_SIZE, "BEGIN", *writing[:1], "PRAGMA query_only=ON", check=check)
    return writer, reader, own


def _sqlite_engine(path: Path, size: int, begin: str, *pragmas: str, check: Callable[[], None]) -> AsyncEngine:
    pool: dict[str, Any] = {"pool_size": size, "max_overflow": 0, "pool_timeout": LOCK_TIMEOUT_MS / 1000}
    # `rw`: if the file is gone, SQLite must not make a new one, since every user could read that.
    connect = partial(one_hop.connect, f"file:{quote(str(path))}?mode=rw")
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database=str(path)),
        async_creator=connect,
        **(pool if size else {"poolclass": NullPool}),
    )

    def on_connect(connection: Any, _record: object) -> None:
        try:
            check()
        except StorageReplacedError:
            connection.close()
            raise
        connection.isolation_level = None  # transactions begin where we say, not where sqlite3 guesses
        cursor = connection.cursor()
        for pragma in (*_PRAGMAS, *pragmas):
            cursor.execute(pragma)
        cursor.close()

    def on_begin(connection: Connection) -> None:
        # IMMEDIATE: a transaction that reads first and writes later fails at once if somebody committed in between.
        connection.exec_driver_sql(begin)

    event.listen(engine.sync_engine, "connect", on_connect)
    event.listen(engine.sync_engine, "begin", on_begin)
    return engine


@asynccontextmanager
async def lend(engine: AsyncEngine) -> AsyncIterator[Any]:
    """Lend the driver's own connection; after an error it is thrown away, since nobody knows its state."""
    async with engine.connect() as connection:
        fairy = await connection.get_raw_connection()
        try:
            yield fairy.driver_connection
        except BaseException:
            await connection.invalidate()
            raise


def postgresql(servers: Servers) -> AsyncEngine:
    """Return the pool of connections to the server that takes writes."""
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=servers.connect,
        pool_size=POOL_SIZE,
        max_overflow=0,
        pool_timeout=LOCK_TIMEOUT_MS / 1000,
        pool_recycle=1800,  # so that a plan made before a migration does not live for ever
    )
    leave_when_read_only(engine)
    return engine


def authorities(file: Path | None) -> ssl.SSLContext:
    """Return whom to trust with TLS; raise ConfigError for a certificate file that cannot be used."""
    try:
        return ssl.create_default_context(cafile=file)
    except OSError as error:  # ssl.SSLError too, whose text is about OpenSSL's insides
        raise ConfigError(f"database.tls_ca_file: {file} holds no certificate in PEM form") from error
