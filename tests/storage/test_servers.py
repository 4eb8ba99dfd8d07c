"""Which of several PostgreSQL servers is used, and what leaves it when it takes writes no more."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from sqlalchemy import select, text

from servers.compare import until
from servers.ports import HOST, free_port
from servers.postgres import Postgres, Standby, ask, set_for_all
from servers.proxy import TcpProxy
from whatsms_events.errors import ConfigError, StorageUnavailableError
from whatsms_events.storage.database import Database, DatabaseTarget, check_server, open_log, upgrade
from whatsms_events.storage.reads import write_problem
from whatsms_events.storage.role_lock import RoleLock

PIDS = "SELECT pid FROM pg_stat_activity WHERE application_name = 'whatsms-events'"
LIMIT_S = 60.0


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    """Open a migrated log."""
    database = await open_log(DatabaseTarget(url), migrate=True)
    try:
        yield database
    finally:
        await database.close()


def beside(url: str, *ports: int, first: bool = True) -> str:
    """Return the URL with other hosts before or behind its own."""
    head, _, name = url.rpartition("/")
    user, _, own = head.rpartition("@")
    others = [f"{HOST}:{port}" for port in ports]
    return f"{user}@{','.join([*others, own] if first else [own, *others])}/{name}"


async def port_of(database: Database) -> int:
    """Return the port of the server that a connection of the pool is on."""
    async with database.read() as connection:
        return int((await connection.execute(text("SELECT inet_server_port()"))).scalar_one())


# Which server.


async def test_standby_that_stands_first_is_passed_over(standby: Standby) -> None:
    """Of a standby and its primary the primary is used, wherever it stands in the URL, and libpq's words may ask so."""
    primary = standby.primary
    for url in (beside(primary.url, standby.port), beside(primary.url, standby.port, first=False)):
        async with opened(f"{url}?target_session_attrs=read-write") as log:
            assert await port_of(log) == primary.port
            assert await write_problem(log) is None


async def test_server_that_swallows_every_packet_does_not_use_up_the_others_time(postgres_url: str) -> None:
    """With a first host that answers nothing, and one where nobody listens, the third one is reached in time."""
    async with TcpProxy(free_port()) as proxy:
        proxy.stall()
        async with opened(beside(postgres_url, proxy.port, free_port())) as log:
            assert await write_problem(log) is None


async def test_no_server_that_takes_writes_is_said_of_each(standby: Standby) -> None:
    """Where none takes writes the error says of each server why not."""
    await standby.primary.stop()
    with pytest.raises(StorageUnavailableError) as caught:
        await open_log(DatabaseTarget(beside(standby.url, standby.primary.port)), migrate=False)
    assert f"{HOST}:{standby.primary.port}: ConnectionRefusedError" in str(caught.value)
    assert f"{HOST}:{standby.port}: the server is read-only" in str(caught.value)


# A server that turned read-only.


async def test_write_that_is_refused_throws_the_whole_pool_away(own_postgres: Postgres) -> None:
    """A server that says 25006 is left by every connection of the pool, and the error says what it is."""
    async with opened(own_postgres.url) as log:
        async with log.read() as one, log.read() as two, log.read() as three:
            pids = {(await each.execute(text("SELECT pg_backend_pid()"))).scalar_one() for each in (one, two, three)}
        await set_for_all(own_postgres, "default_transaction_read_only", "on")
        await until(lambda: refused(log), LIMIT_S, "writes to be refused")
        await set_for_all(own_postgres, "default_transaction_read_only", "off")
        await until(lambda: left(log, own_postgres, pids), LIMIT_S, "the old connections to be gone")
        assert await write_problem(log) is None


async def refused(log: Database) -> bool:
    """Tell whether a write is refused, and as read-only."""
    try:
        await write_problem(log)
    except StorageUnavailableError as exc:
        return "the server is read-only" in str(exc)
    return False


async def left(log: Database, server: Postgres, pids: set[int]) -> bool:
    """Use the pool once, and tell whether none of these connections is there any more."""
    await write_problem(log)
    connection = await asyncpg.connect(server.url)
    now = {row["pid"] for row in await connection.fetch(PIDS)}
    await connection.close()
    return not now & pids


async def test_who_only_reads_leaves_a_server_that_only_reads(own_postgres: Postgres) -> None:
    """A pool that never writes finds within a second of use that its server turned read-only: what it would read there
    is the past.
    """
    async with opened(own_postgres.url) as log:

        async def turned_away() -> bool:
            try:
                await port_of(log)
            except StorageUnavailableError as exc:
                return "the server is read-only" in str(exc)
            return False

        assert not await turned_away()
        await set_for_all(own_postgres, "default_transaction_read_only", "on")
        await until(turned_away, LIMIT_S, "a reader to be turned away")
        await set_for_all(own_postgres, "default_transaction_read_only", "off")

        async def served() -> bool:
            return not await turned_away()

        await until(served, LIMIT_S, "readers to be served again")


async def test_lock_on_a_server_that_only_reads_is_lost(own_postgres: Postgres) -> None:
    """A role whose session is on a server that turned read-only has lost it, although it keeps the lock."""
    async with opened(own_postgres.url) as log:
        lock, other = RoleLock(log, "relay"), RoleLock(log, "consumer")
        assert await lock.take()
        assert await other.take()

        async def lost() -> bool:
            return not await lock.held()

        async def taken() -> bool:
            try:
                return await lock.take()
            except StorageUnavailableError:
                return False

        # A server's processes hear of a changed setting one by one, in a moment of their own.
        await set_for_all(own_postgres, "default_transaction_read_only", "on")
        await until(lost, LIMIT_S, "the lock to be lost")
        assert not await other.held()
        with pytest.raises(StorageUnavailableError, match="the server is read-only"):
            await lock.take()
        await set_for_all(own_postgres, "default_transaction_read_only", "off")
        await until(taken, LIMIT_S, "the lock to be taken again")
        await lock.release()


# The encoding.


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "WIN1252", "EUC_JP"])
async def test_database_that_cannot_hold_every_text_is_refused(postgres_url: str, encoding: str) -> None:
    """Only UTF8 holds an emoji: `db upgrade`, the start and `config check` refuse every other encoding by its name."""
    url = postgres_url + "_narrow"
    name = url.rsplit("/", 1)[1]
    await ask(postgres_url, f"CREATE DATABASE \"{name}\" TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
    target = DatabaseTarget(url)
    try:
        for opening in (upgrade("log", target), open_log(target, migrate=False), check_server(target)):
            with pytest.raises(ConfigError, match=f"encoding is {encoding}, which cannot hold every text"):
                await opening
    finally:
        await ask(postgres_url, f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.mark.parametrize("kind", ["LOCALE_PROVIDER icu ICU_LOCALE 'pt' LOCALE 'C'", "LOCALE 'C.UTF-8'"])
async def test_other_sort_orders_of_utf8_are_fine(postgres_url: str, kind: str) -> None:
    """The encoding matters and nothing beside it: neither ICU's rules nor a client encoding that somebody preset."""
    url = postgres_url + "_wide"
    name = url.rsplit("/", 1)[1]
    await ask(postgres_url, f"CREATE DATABASE \"{name}\" TEMPLATE template0 ENCODING 'UTF8' {kind}")
    await ask(postgres_url, f"ALTER DATABASE \"{name}\" SET client_encoding = 'LATIN1'")
    try:
        async with opened(url) as log, log.read() as connection:
            assert (await connection.execute(select(text("'olá 🎉'")))).scalar_one() == "olá 🎉"
    finally:
        await ask(postgres_url, f'DROP DATABASE "{name}" WITH (FORCE)')


# What a server says.


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("whatsms@", "stranger@"), '28000: role "stranger" does not exist; look at the user'),
        (("/test_", "/other_"), "3D000: database .* does not exist; create the database"),
    ],
)
async def test_servers_words_about_accounts_and_names_are_shown(
    postgres_url: str, change: tuple[str, str], says: str
) -> None:
    """What the server says of the classes 28 and 3D is shown, with what to do; waiting would mend nothing."""
    with pytest.raises(ConfigError, match=says):
        await open_log(DatabaseTarget(postgres_url.replace(*change)), migrate=False)


async def test_server_without_a_free_connection_is_quoted(own_postgres: Postgres) -> None:
    """What the server says of the class 53 is shown: no connection is left, and what to do about it."""
    await upgrade("log", DatabaseTarget(own_postgres.url))
    await ask(own_postgres.url, "CREATE ROLE few LOGIN CONNECTION LIMIT 0")
    few = own_postgres.url.replace("whatsms@", "few@")
    with pytest.raises(StorageUnavailableError, match=r"53300: too many connections for role .*raise max_connections"):
        await open_log(DatabaseTarget(few), migrate=False)


async def test_words_about_a_row_are_never_shown(postgres_url: str) -> None:
    """What the server says of a value stays with the server: only its class and number are shown.

    What it says of a table or a column that is not there names that alone, and our statements have no value in them.
    """
    async with opened(postgres_url) as log:
        with pytest.raises(StorageUnavailableError) as caught:
            async with log.read() as connection:
                await connection.execute(text("DO $$ BEGIN RAISE EXCEPTION 'Maria has 9 messages'; END $$"))
    assert "Maria" not in str(caught.value)
    assert "P0001" in str(caught.value)


async def test_connection_that_an_administrator_ended_is_told_so(postgres_url: str) -> None:
    """What the server says of the class 57 is shown."""
    async with opened(postgres_url) as log:

        async def end_itself() -> None:
            async with log.read() as connection:
                await connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

        with pytest.raises(StorageUnavailableError, match="terminating connection due to administrator command"):
            await end_itself()
        assert await write_problem(log) is None
