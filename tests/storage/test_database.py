"""Opening, checking and migrating, on the real databases."""

import asyncio
import os
import shutil
import sqlite3
import sys
import time
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import trustme
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, MetaData, Pool, create_engine, event, text
from sqlalchemy.schema import SchemaItem

from servers import postgres
from servers.file_lock import locked
from servers.postgres import Postgres
from whatsms_events.errors import ConfigError, NotFoundError, StorageUnavailableError, UnstorableError
from whatsms_events.storage import schema, tables
from whatsms_events.storage.database import (
    Database,
    DatabaseTarget,
    durability_problem,
    open_log,
    open_projection,
    schema_problem,
    upgrade,
)
from whatsms_events.storage.servers import LOCK_TIMEOUT_MS

METADATA: dict[schema.Part, MetaData] = {"log": tables.log_metadata, "projection": tables.projection_metadata}


async def opened(part: schema.Part, url: str, *, migrate: bool = True) -> Database:
    """Open one part, migrated."""
    if part == "log":
        return await open_log(DatabaseTarget(url=url), migrate=migrate)
    return await open_projection(DatabaseTarget(url=url), migrate=migrate)


@pytest.mark.parametrize("part", ["log", "projection"])
async def test_an_unmigrated_database_is_refused_by_name_of_the_command(database_url: str, part: schema.Part) -> None:
    """A schema behind head stops the start, and the message names `whatsms-events db upgrade`; where a log's file is
    not there at all, that is said.
    """
    no_file = part == "log" and database_url.startswith("sqlite")
    kind, says = (NotFoundError, "there is no log at") if no_file else (ConfigError, "whatsms-events db upgrade")
    with pytest.raises(kind, match=says):
        await opened(part, database_url, migrate=False)
    await upgrade(part, DatabaseTarget(url=database_url))
    await (await opened(part, database_url, migrate=False)).close()


@pytest.mark.parametrize("part", ["log", "projection"])
async def test_migrations_make_what_the_tables_say(database_url: str, part: schema.Part) -> None:
    """After all migrations the database differs in nothing from `storage.tables`, and down leaves nothing behind."""
    database = await opened(part, database_url)

    def differences(connection: Connection) -> list[object]:
        def ours(name: str | None, kind: str, _parents: object) -> bool:
            return kind != "table" or name in METADATA[part].tables

        def of_this_dialect(item: SchemaItem, *_about: object) -> bool:
            return bool(item.info.get("only", connection.dialect.name) == connection.dialect.name)

        opts = {"include_name": ours, "include_object": of_this_dialect}
        context = MigrationContext.configure(connection, opts=opts)
        return list(compare_metadata(context, METADATA[part]))

    async with database.read() as connection:
        assert await connection.run_sync(differences) == []
    await database.close()


async def test_log_and_projection_share_one_postgresql_database(postgres_url: str) -> None:
    """Both histories live in one database, each with its own version."""
    log, projection = await opened("log", postgres_url), await opened("projection", postgres_url)
    assert await schema_problem(log) is None
    assert await schema_problem(projection) is None
    await log.close()
    await projection.close()


async def test_several_processes_may_migrate_at_once(database_url: str) -> None:
    """Six upgrades in parallel: one migrates, the others find the work done, and there is one log identity."""
    target = DatabaseTarget(url=database_url)
    await asyncio.gather(*(upgrade("log", target) for _ in range(6)))
    database = await opened("log", database_url)
    async with database.read() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM log"))).scalar_one() == 1
    await database.close()


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """A schema that a later release made is not touched."""
    url = f"sqlite:///{tmp_path / 'log.db'}"
    await (await opened("log", url)).close()
    with sqlite3.connect(tmp_path / "log.db") as file:
        file.execute("UPDATE alembic_version_log SET version_num = '9999_future'")
    file.close()
    with pytest.raises(ConfigError, match="9999_future"):
        await opened("log", url, migrate=False)


async def test_the_log_on_sqlite_is_durable(tmp_path: Path) -> None:
    """Every writing connection of the log reads back WAL and synchronous=FULL; the projection's read back NORMAL."""
    log = await opened("log", f"sqlite:///{tmp_path / 'log.db'}")
    async with log.driver() as committer, log.write() as connection:
        assert (await connection.execute(text("PRAGMA synchronous"))).scalar_one() == 2
        assert (await connection.execute(text("PRAGMA journal_mode"))).scalar_one() == "wal"
        assert [tuple(row) for row in await committer.execute_fetchall("PRAGMA synchronous")] == [(2,)]
    await log.close()
    projection = await opened("projection", f"sqlite:///{tmp_path / 'projection.db'}")
    async with projection.write() as connection:
        assert (await connection.execute(text("PRAGMA synchronous"))).scalar_one() == 1
    await projection.close()


@pytest.mark.parametrize(
    "pragma", ["PRAGMA synchronous=NORMAL", "PRAGMA synchronous=OFF", "PRAGMA journal_mode=DELETE"]
)
def test_a_connection_to_sqlite_that_is_not_durable_is_refused(tmp_path: Path, pragma: str) -> None:
    """Weaker settings than WAL and FULL are named as what makes the log not durable."""
    engine = create_engine(f"sqlite:///{tmp_path / 'log.db'}")
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        connection.exec_driver_sql("PRAGMA synchronous=FULL")
        assert durability_problem(connection) is None
        connection.exec_driver_sql(pragma)
        assert pragma.split()[1].partition("=")[0] in str(durability_problem(connection))
    engine.dispose()


async def test_a_log_on_sqlite_whose_connections_are_not_durable_does_not_open(tmp_path: Path) -> None:
    """Were the pragma ever weaker than FULL, `open_log` itself refuses, also where the file was opened before."""
    url = f"sqlite:///{tmp_path / 'log.db'}"
    await (await opened("log", url)).close()

    def weaken(connection: Any, _record: object, _proxy: object) -> None:
        connection.cursor().execute("PRAGMA synchronous=NORMAL")

    event.listen(Pool, "checkout", weaken)
    try:
        for migrate in (True, False):
            with pytest.raises(ConfigError, match="the log is not durable: synchronous is 1"):
                await opened("log", url, migrate=migrate)
    finally:
        event.remove(Pool, "checkout", weaken)
    await (await opened("log", url, migrate=False)).close()


async def test_a_log_on_a_postgresql_server_that_is_not_durable_is_refused(
    own_postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server run without fsync, or without full page writes, is refused and the setting named; else it opens."""
    await (await opened("log", own_postgres.url)).close()
    for name in ("fsync", "full_page_writes"):
        with monkeypatch.context() as patch:
            patch.setitem(postgres.SETTINGS, name, "off")
            await own_postgres.stop()
            await own_postgres.start()
        for migrate in (True, False):
            with pytest.raises(ConfigError, match=f"the log is not durable: {name} is off"):
                await opened("log", own_postgres.url, migrate=migrate)
    await own_postgres.stop()
    await own_postgres.start()
    await (await opened("log", own_postgres.url, migrate=False)).close()


async def test_a_log_on_postgresql_that_is_not_durable_is_refused(postgres_url: str) -> None:
    """With synchronous_commit off for this database the log does not open, and the setting is named."""
    await (await opened("log", postgres_url)).close()
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(f'ALTER DATABASE "{postgres_url.rsplit("/", 1)[1]}" SET synchronous_commit = off')
    await connection.close()
    with pytest.raises(ConfigError, match="synchronous_commit is off"):
        await opened("log", postgres_url)


async def test_sqlite_keeps_each_value_as_it_is(tmp_path: Path) -> None:
    """However a value is bound, what is stored and its type are the usual ones."""
    database = await opened("log", f"sqlite:///{tmp_path / 'log.db'}")
    for value, stored in ((None, "null"), (True, "integer"), (False, "integer"), (b"\x00\xff", "blob"), ("a", "text")):
        async with database.read() as connection:
            found = (await connection.exec_driver_sql("SELECT ?, typeof(?)", (value, value))).one()
        assert tuple(found) == (value, stored)
    await database.close()


async def test_a_database_that_is_away_is_unavailable() -> None:
    """No server at the address: StorageUnavailableError, not a driver's own error."""
    with pytest.raises(StorageUnavailableError):
        await opened("log", "postgresql://nobody@127.0.0.1:1/nothing")


async def test_a_file_that_cannot_be_written_is_a_configuration_error(tmp_path: Path) -> None:
    """A folder in the place of the file is named at once."""
    (tmp_path / "log.db").mkdir()
    with pytest.raises(ConfigError, match=r"log\.db"):
        await opened("log", f"sqlite:///{tmp_path / 'log.db'}")


async def test_refused_data_is_told_from_a_database_in_trouble(database_url: str) -> None:
    """A row that breaks a constraint or cannot be bound is UnstorableError. A missing table or column is
    StorageUnavailableError, which names it and says what that means.
    """
    log = await opened("log", database_url)
    with pytest.raises(UnstorableError):
        async with log.write() as connection:
            await connection.execute(tables.redelivery.insert(), {"id": uuid4(), "count": None, "last_received_at": 1})
    with pytest.raises(UnstorableError):
        async with log.write() as connection:
            await connection.execute(tables.redelivery.insert(), {"id": uuid4(), "count": 1, "last_received_at": 2**70})
    for missing in ("SELECT * FROM not_there", "SELECT not_there FROM redelivery"):
        with pytest.raises(StorageUnavailableError, match=r"not_there.*another release made this database"):
            async with log.read() as connection:
                await connection.execute(text(missing))
    await log.close()


async def test_a_locked_file_is_unavailable_within_its_deadline(tmp_path: Path) -> None:
    """While another process holds SQLite's lock, a writer is told so after LOCK_TIMEOUT_MS, and works again after."""
    log = await opened("log", f"sqlite:///{tmp_path / 'log.db'}")
    async with locked(tmp_path / "log.db"):
        began = time.monotonic()
        with pytest.raises(StorageUnavailableError):
            async with log.write():
                pass
        assert time.monotonic() - began < LOCK_TIMEOUT_MS / 1000 + 30
    async with log.write() as connection:
        await connection.execute(text("DELETE FROM redelivery"))
    await log.close()


async def test_postgresql_over_tls_with_a_password(own_postgres: Postgres, tmp_path: Path) -> None:
    """With `tls`, its CA and the password the log opens, encrypted; with another password or CA it does not."""
    authority, stranger = trustme.CA(), trustme.CA()
    identity = authority.issue_cert("127.0.0.1")
    data = own_postgres.folder / "data"
    admin = await asyncpg.connect(own_postgres.url)
    await admin.execute("CREATE DATABASE guarded")
    await admin.execute("ALTER ROLE whatsms PASSWORD 'twenty blue herons'")
    await admin.close()
    await own_postgres.stop()
    identity.private_key_pem.write_to_path(str(data / "server.key"))
    identity.cert_chain_pems[0].write_to_path(str(data / "server.crt"))
    for name in ("server.key", "server.crt"):
        (data / name).chmod(0o600)
        shutil.chown(data / name, own_postgres.user or os.getuid())
    (data / "pg_hba.conf").write_text(
        "host postgres all 127.0.0.1/32 trust\nhostssl guarded all 127.0.0.1/32 scram-sha-256\n"
    )
    with (data / "postgresql.conf").open("a") as file:
        file.write("ssl = on\n")
    await own_postgres.start()
    for name, ca in (("ca.pem", authority), ("other.pem", stranger)):
        ca.cert_pem.write_to_path(str(tmp_path / name))
    url = own_postgres.url.replace("/postgres", "/guarded")
    good = DatabaseTarget(url=url, password="twenty blue herons", tls=True, tls_ca_file=tmp_path / "ca.pem")
    log = await open_log(good, migrate=True)
    async with log.read() as connection:
        query = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        assert (await connection.execute(text(query))).scalar_one() is True
    await log.close()
    for change in (
        {"password": "another"},
        {"password": None},
        {"tls_ca_file": tmp_path / "other.pem"},
    ):
        with pytest.raises(ConfigError) as raised:
            await open_log(replace(good, **change), migrate=False)
        assert "herons" not in str(raised.value)


SSL_REQUEST = (80877103).to_bytes(4)


async def says(state: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Refuse a client of PostgreSQL with this SQLSTATE, as a server does before it knows anybody."""
    if (await reader.read(1000))[4:8] == SSL_REQUEST:
        writer.write(b"N")  # no TLS here
        await reader.read(1000)
    fields = b"".join(kind + value.encode() + b"\0" for kind, value in ((b"S", "FATAL"), (b"C", state), (b"M", "no")))
    writer.write(b"E" + (len(fields) + 5).to_bytes(4) + fields + b"\0")
    await writer.drain()
    writer.close()


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("28P01", ConfigError),  # wrong password
        ("28000", ConfigError),  # no such user, or not from here
        ("3D000", ConfigError),  # no such database
        ("57P03", StorageUnavailableError),  # starting up, or shutting down
        ("57P01", StorageUnavailableError),  # ended by an administrator
        ("53300", StorageUnavailableError),  # too many connections
    ],
)
async def test_what_waiting_mends_is_told_from_what_it_does_not(state: str, kind: type[Exception]) -> None:
    """A server that refuses: wrong names and passwords are configuration, everything that passes is unavailable."""
    server = await asyncio.start_server(partial(says, state), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        with pytest.raises((ConfigError, StorageUnavailableError)) as raised:
            await opened("log", f"postgresql://whatsms@127.0.0.1:{port}/whatsms")
        assert type(raised.value) is kind
        assert f"127.0.0.1:{port}/whatsms" in str(raised.value)
    finally:
        server.close()


async def test_a_second_opening_in_one_process_leaves_the_first_its_locks(tmp_path: Path) -> None:
    """A file that is opened twice here and closed once is still locked: another process that looks at it and leaves
    does not remove the WAL that is in use, and what is committed then is there afterwards.
    """
    url, path = f"sqlite:///{tmp_path / 'log.db'}", tmp_path / "log.db"
    first = await opened("log", url)
    await (await opened("log", url, migrate=False)).close()
    look = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM log').fetchall(); c.close()"
    looking = await asyncio.create_subprocess_exec(sys.executable, "-c", look, str(path))
    assert await looking.wait() == 0
    assert path.with_name("log.db-wal").exists()
    async with first.write() as connection:
        await connection.execute(tables.redelivery.insert(), {"id": uuid4(), "count": 1, "last_received_at": 1})
    await first.close()
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT count(*) FROM redelivery").fetchone() == (1,)


async def test_a_damaged_file_is_said_in_words(tmp_path: Path) -> None:
    """Where SQLite has a name alone for what is wrong, the message says it in words."""
    log = await opened("log", f"sqlite:///{tmp_path / 'log.db'}")
    with pytest.raises(StorageUnavailableError, match=r"SQLITE_READONLY.*cannot be written by this user"):
        async with log.read() as connection:
            await connection.execute(text("DELETE FROM redelivery"))
    await log.close()
