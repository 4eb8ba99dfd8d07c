"""A URL in, engines out: how a connection is set up is all that differs between SQLite and PostgreSQL here."""

import os
import sqlite3
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy import Connection, event
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from whatsms_events.errors import ConfigError, StorageReplacedError

LOCK_TIMEOUT_MS: Final = 2500
"""Longest wait for a lock of the database: shorter than a sender waits for its answer."""

CONNECT_TIMEOUT_S: Final = 5.0
STATEMENT_TIMEOUT_S: Final = 15.0
MIGRATION_TIMEOUT_S: Final = 3600.0
"""An index of tens of millions of messages takes minutes."""

IDLE_IN_TRANSACTION_MS: Final = 10_000
"""A process that froze inside a transaction loses it, and with it the log's lock."""

PRIVATE_MODE: Final = 0o600
SQLITE_MINIMUM: Final = (3, 35, 0)  # RETURNING and upserts


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


def sqlite(url: URL, path: Path, synchronous: str, check: Callable[[], None]) -> tuple[AsyncEngine, AsyncEngine]:
    """Return the writing and the reading engine of a file, whose commits are as durable as `synchronous` says.

    `check` raises where the path does not lead to the file that is held: no connection to another one is kept.
    """
    # `rw`: where the file is gone SQLite makes no new one, which everybody could read.
    there = url.set(
        drivername="sqlite+aiosqlite", database=f"file:{quote(str(path))}", query={"mode": "rw", "uri": "true"}
    )
    # Three writing connections: one stays open until the end, the committer keeps one, and the rest (migrations,
    # parked, relay row) take turns.
    writer = _sqlite_engine(there, 3, "BEGIN IMMEDIATE", f"PRAGMA synchronous={synchronous}", check=check)
    reader = _sqlite_engine(there, 4, "BEGIN", f"PRAGMA synchronous={synchronous}", "PRAGMA query_only=ON", check=check)
    return writer, reader


def _sqlite_engine(url: URL, size: int, begin: str, *pragmas: str, check: Callable[[], None]) -> AsyncEngine:
    engine = create_async_engine(url, pool_size=size, max_overflow=0, pool_timeout=LOCK_TIMEOUT_MS / 1000)

    def on_connect(connection: Any, _record: object) -> None:
        try:
            check()
        except StorageReplacedError:
            connection.close()
            raise
        connection.isolation_level = None  # transactions begin where we say, not where sqlite3 guesses
        cursor = connection.cursor()
        # busy_timeout first: switching a new file to WAL needs a lock that another process may hold.
        for pragma in (
            f"PRAGMA busy_timeout={LOCK_TIMEOUT_MS}",
            "PRAGMA journal_mode=WAL",
            "PRAGMA foreign_keys=ON",
            "PRAGMA wal_autocheckpoint=1000",
            "PRAGMA journal_size_limit=67108864",
            *pragmas,
        ):
            cursor.execute(pragma)
        cursor.close()

    def on_begin(connection: Connection) -> None:
        # IMMEDIATE: a transaction that reads first and writes later fails at once if somebody committed in between.
        connection.exec_driver_sql(begin)

    event.listen(engine.sync_engine, "connect", on_connect)
    event.listen(engine.sync_engine, "begin", on_begin)
    return engine


def postgresql(
    url: URL, password: str | None, *, tls: bool, tls_ca_file: Path | None, statement_timeout_s: float
) -> AsyncEngine:
    """Return the engine of a server; raise ConfigError for a certificate file that cannot be used."""
    arguments: dict[str, Any] = {
        "timeout": CONNECT_TIMEOUT_S,
        "command_timeout": statement_timeout_s,
        "server_settings": {
            "application_name": "whatsms-events",
            "lock_timeout": str(LOCK_TIMEOUT_MS),
            "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_MS),
            # A frozen or unplugged holder of a role lock is noticed by the server within half a minute.
            "tcp_keepalives_idle": "10",
            "tcp_keepalives_interval": "5",
            "tcp_keepalives_count": "4",
        },
    }
    if password is not None:
        arguments["password"] = password
    if tls:
        try:
            arguments["ssl"] = ssl.create_default_context(cafile=tls_ca_file)
        except OSError as error:  # ssl.SSLError too, whose text is about OpenSSL's insides
            raise ConfigError(f"database.tls_ca_file: {tls_ca_file} holds no certificate in PEM form") from error
    # Recycled, so that a plan made before a migration does not live for ever.
    pool: dict[str, Any] = {"pool_size": 8, "max_overflow": 0, "pool_recycle": 1800}
    return create_async_engine(
        url.set(drivername="postgresql+asyncpg"), connect_args=arguments, pool_timeout=LOCK_TIMEOUT_MS / 1000, **pool
    )
