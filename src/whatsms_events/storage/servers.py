"""This module connects to the PostgreSQL server that takes writes, where a URL names one server or several.

After a failover the old primary may stay up and go on answering reads from old data. So each connection is asked
whether it may write: when it is made, each second that it is used from the pool, and whenever the server refuses a
write (SQLSTATE 25006). A connection that may not write is thrown away, with all connections that are as old.
"""

import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
import structlog
from sqlalchemy import event, exc
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine

from whatsms_events.errors import StorageUnavailableError
from whatsms_events.storage.postgres_url import PostgresUrl
from whatsms_events.storage.trouble import READ_ONLY, READ_ONLY_SAYS, state_of, translated

CONNECT_TIMEOUT_S: Final = 5.0
"""For all servers together: one that swallows every packet must not use up the others' time."""

CHECK_INTERVAL_S: Final = 1.0
ANSWER_S: Final = 2.5
CLOSE_S: Final = 2.0

LOCK_TIMEOUT_MS: Final = 2500
"""Longest wait for a lock of the database: shorter than a sender waits for its answer."""

IDLE_IN_TRANSACTION_MS: Final = 10_000
"""A process that froze inside a transaction loses it, and with it the log's lock."""

_SETTINGS: Final = {
    "lock_timeout": LOCK_TIMEOUT_MS,
    "idle_in_transaction_session_timeout": IDLE_IN_TRANSACTION_MS,
    # A frozen or unplugged holder of a role lock is noticed by the server within half a minute.
    "tcp_keepalives_idle": 10,
    "tcp_keepalives_interval": 5,
    "tcp_keepalives_count": 4,
}
# This works on a standby too. It asks the transaction, since a setting made by SET counts for its session only.
WRITABLE: Final = "current_setting('transaction_read_only') = 'off'"
# After connecting, since a pooler refuses a connection that brings a parameter it does not know.
_SET_UP: Final = f"SELECT {WRITABLE} AS writable, " + ", ".join(
    f"set_config('{name}', '{value}', false)" for name, value in _SETTINGS.items()
)

log = structlog.get_logger()


class Servers:
    """The servers of one database. An instance remembers which of them took writes last, for all who share it."""

    def __init__(
        self,
        url: PostgresUrl,
        password: str | None,
        tls: ssl.SSLContext | None,
        *,
        connect_timeout_s: float,
        statement_timeout_s: float,
        schema: str | None = None,
    ) -> None:
        self._schema = schema
        self._hosts = url.hosts
        self._arguments: dict[str, Any] = {
            "user": url.user,
            "password": password,
            "database": url.database,
            "ssl": tls,
            "timeout": connect_timeout_s / len(url.hosts),
            "command_timeout": statement_timeout_s,
            "server_settings": {"application_name": "whatsms-events"},
        }
        self._last = url.hosts[0]

    async def connect(self) -> Any:
        """Return an asyncpg.Connection to the server that takes writes; the one that took them last is tried first.

        Where none does, raise StorageUnavailableError with what each server said.
        """
        told = {}
        for host in sorted(self._hosts, key=lambda one: one != self._last):
            try:
                connection = await self._connect_to(*host)
            except StorageUnavailableError as error:
                told[host] = error
                continue
            if host != self._last:
                log.warning("database.moved", host=host[0], port=host[1])
                self._last = host
            return connection
        if len(told) == 1:
            raise next(iter(told.values()))
        raise StorageUnavailableError("; ".join(f"{host}:{port}: {told[host, port]}" for host, port in self._hosts))

    async def _connect_to(self, host: str, port: int) -> Any:
        with translated():
            connection = await asyncpg.connect(host=host, port=port, **self._arguments)
            try:
                writable = await connection.fetchval(_SET_UP, timeout=ANSWER_S)
                if self._schema is not None:
                    await connection.execute(f'SET search_path TO "{self._schema}"', timeout=ANSWER_S)
            except BaseException:
                connection.terminate()
                raise
        if not writable:
            connection.terminate()
            raise StorageUnavailableError(READ_ONLY_SAYS)
        return connection

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[Any]:
        """Lend a connection of the caller's own; after an error it is cut off, since nobody knows its state."""
        connection = await self.connect()
        try:
            yield connection
        except BaseException:
            connection.terminate()
            raise
        await closed(connection)


async def closed(connection: Any) -> None:
    """Close in good order, or by force where the server does not answer."""
    try:
        with translated():
            await connection.close(timeout=CLOSE_S)
    except StorageUnavailableError:
        connection.terminate()


def leave_when_read_only(engine: AsyncEngine) -> None:
    """Let a pool throw all its connections away as soon as one of them finds that its server takes no writes."""

    def on_connect(_connection: Any, record: Any) -> None:
        record.info["looked_at"] = time.monotonic()

    def on_checkout(connection: Any, record: Any, _proxy: Any) -> None:
        if time.monotonic() - record.info["looked_at"] < CHECK_INTERVAL_S:
            return
        if not connection.run_async(may_write):
            raise exc.InvalidatePoolError  # not to the caller: the pool connects anew, and gives it that
        record.info["looked_at"] = time.monotonic()

    def on_error(context: ExceptionContext) -> None:
        if state_of(context.original_exception) == READ_ONLY:
            context.is_disconnect = True

    event.listen(engine.sync_engine, "connect", on_connect)
    event.listen(engine.sync_engine, "checkout", on_checkout)
    event.listen(engine.sync_engine, "handle_error", on_error)


async def may_write(connection: Any) -> bool:
    """Tell whether the server answers and takes writes."""
    try:
        with translated():
            return bool(await connection.fetchval(f"SELECT {WRITABLE}", timeout=ANSWER_S))
    except StorageUnavailableError:
        return False
