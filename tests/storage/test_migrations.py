"""Databases that an earlier release made are taken over as they are, rows and all."""

import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, Table, insert, inspect, select, text

from whatsms_events.domain.doubt import Aside, Heard
from whatsms_events.domain.rows import Claim, Key, Version, merge
from whatsms_events.domain.search import searched
from whatsms_events.errors import ConfigError
from whatsms_events.storage import schema, tables
from whatsms_events.storage.database import Database, DatabaseTarget, open_log, open_projection, unopened, upgrade
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.projection.holdings import Holdings
from whatsms_events.storage.projection.rows import save
from whatsms_events.storage.repair.looks import Doubt
from whatsms_events.storage.repair.reports import Options
from whatsms_events.storage.repair.runs import Checkpoints

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
ID, BYTES = UUID(int=5), b"\x00\xff"

Rows = Sequence[tuple[Table, dict[str, Any]]]

LOG: Rows = (
    (
        tables.event_log,
        {"position": 41, "id": ID, "type": "ticket.closed", "tenant": "t1", "occurred_at": 5, "received_at": 6}
        | {"origin": "webhook", "subject": "k1", "ticket_id": "k1", "contact_id": None, "message_id": None}
        | {"sha256": BYTES, "data": '{"ticket":{"id":"k1"}}', "raw": BYTES},
    ),
    (tables.redelivery, {"id": ID, "count": 3, "last_received_at": 9}),
    (
        tables.parked_delivery,
        {"id": ID, "tenant": "t1", "reason": "json", "detail": "x", "received_at": 8, "content_encoding": None}
        | {"sha256": BYTES, "raw": BYTES, "count": 2},
    ),
    (tables.relay, {"prefix": "p", "published_through": 40, "partitions": "{}", "updated_at": 7}),
)
DOUBT = msgspec.json.encode({"status": [5, 1, 41, True]}).decode()
PROJECTION: Rows = (
    (tables.projection, {"one": 1, "generation": 9, "position": 0, "applied_through": 41, "applied": 41}),
    (tables.projection_offset, {"topic": "t", "partition": 3, "next_offset": 8, "last_position": 41}),
    (tables.ticket, {"tenant": "t1", "id": "k1", "known": True, "doubtful": True, "status": "open", "versions": DOUBT}),
    (tables.contact, {"tenant": "t1", "id": "p1", "known": False, "doubtful": False, "name": "Zoë", "versions": "{}"}),
    (tables.message, {"tenant": "t1", "id": "m1", "known": True, "doubtful": False, "ack": 3, "versions": "{}"}),
    (
        tables.message_revision,
        {"tenant": "t1", "message_id": "m1", "digest": "d", "content": "{}", "first_at": 5, "versions": "{}"},
    ),
    (tables.campaign, {"tenant": "t1", "id": "c1", "known": True, "doubtful": False, "versions": "{}"}),
)


async def make_first(part: schema.Part, url: str, rows: Rows) -> None:
    """Make a database as the first release did, and fill it."""

    def fill(connection: Connection) -> None:
        command.upgrade(schema.configuration(part, connection), f"0001_{part}")
        assert schema.current(connection, part) == f"0001_{part}"
        for table, row in rows:
            connection.execute(insert(table), row)

    database = unopened(part, DatabaseTarget(url))
    async with database.write() as connection:
        await connection.run_sync(fill)
    await database.close()


async def holds(database: Database, rows: Rows) -> None:
    """Assert that each row is there as it was, and alone."""
    async with database.read() as connection:
        for table, row in rows:
            found = (await connection.execute(select(*(table.c[name] for name in row)))).mappings().all()
            assert [dict(one) for one in found] == [row], table.name


async def test_a_log_of_the_first_release_is_taken_over(database_url: str) -> None:
    """Without the upgrade it is refused by name of the command; with it every row is there, and a backfill can run."""
    await make_first("log", database_url, LOG)
    with pytest.raises(ConfigError, match=r"0001_log, this release needs .*db upgrade"):
        await open_log(DatabaseTarget(database_url), migrate=False)
    await upgrade("log", DatabaseTarget(database_url))
    log = await open_log(DatabaseTarget(database_url), migrate=False)
    await holds(log, LOG)
    assert [entry.position for entry in await EventLog(log).read(0, 10)] == [41]
    run = await Checkpoints(log).begin("t1", "reconcile", "command", Options(), NOW)
    await Checkpoints(log).finish(run, b"{}", NOW)
    await log.close()


async def test_a_projection_of_the_first_release_is_taken_over(database_url: str) -> None:
    """Every row is there after the upgrade, none is marked as gone, and what is in doubt is found."""
    await make_first("projection", database_url, PROJECTION)
    with pytest.raises(ConfigError, match=r"0001_projection, this release needs .*db upgrade"):
        await open_projection(DatabaseTarget(database_url), migrate=False)
    projection = await open_projection(DatabaseTarget(database_url), migrate=True)
    await holds(projection, PROJECTION)
    holdings = Holdings(projection)
    rows = await holdings.rows({Key(table, "t1", "k1") for table in ("ticket", "contact")})
    assert rows[Key("ticket", "t1", "k1")].values["gone"] is None
    assert await holdings.ids("message", "t1", "", 9) == [("m1", False)]
    assert await holdings.unsure("t1", 9) == [Doubt("contact", "p1", 0), Doubt("ticket", "k1", 41)]
    await projection.close()


async def test_a_name_that_was_told_stays_its_agents(database_url: str) -> None:
    """After the upgrade a name is that of the id beside it, with its version: an older event does not rename it, and
    the same agent without a name keeps it.
    """
    versions = msgspec.json.encode({"user": [5, 1, 41, False], "status": [5, 1, 41, False]}).decode()
    row = {"tenant": "t1", "id": "k1", "known": True, "doubtful": False, "versions": versions}
    rows = ((tables.ticket, row | {"user_id": "5", "user_name": 'Zoë "Z"\n', "queue_id": "7"}),)
    await make_first("projection", database_url, rows)
    projection = await open_projection(DatabaseTarget(database_url), migrate=True)
    (held,) = (await Holdings(projection).rows({Key("ticket", "t1", "k1")})).values()
    await projection.close()
    assert held.versions["user_named"] == held.versions["user"] == Version(5, 1, 41)
    told = '["5","Zoë \\"Z\\"\\n"]'
    assert (held.values["user_named"], held.values["queue_named"]) == (told, None)
    older = Claim(Key("ticket", "t1", "k1"), 4, 1, {"user": "5", "user_named": '["5","Old"]'})
    nameless = Claim(Key("ticket", "t1", "k1"), 6, 1, {"user": "5"})
    other = msgspec.structs.replace(nameless, registers={"user": "6"})
    for claim in (older, nameless, other, msgspec.structs.replace(nameless, time=7)):
        held = merge(held, claim, 50 + claim.time)
    assert (held.values["user_id"], held.values["user_name"]) == ("5", 'Zoë "Z"\n')


async def test_people_of_earlier_releases_are_found(database_url: str) -> None:
    """After the upgrade each contact has what it is found by, just as if it were saved today; several pages of them."""
    names = ["João da Silva", "Zoë", None, "🌸"]
    row = {"tenant": "t1", "known": True, "doubtful": False, "versions": "{}"}
    rows = tuple(
        (tables.contact, row | {"id": f"p{number:04}", "name": names[number % 4], "number": f"+55 {number:06}"})
        for number in range(2100)
    )
    await make_first("projection", database_url, rows)
    projection = await open_projection(DatabaseTarget(database_url), migrate=True)
    kept = select(tables.contact.c.name, tables.contact.c.number, *(tables.contact.c[name] for name in tables.FOUND_BY))
    async with projection.read() as connection:
        found = (await connection.execute(kept)).all()
    await projection.close()
    assert len(found) == len(rows)
    for name, number, *by in found:
        assert tuple(by) == searched({"name": name, "number": number})


async def test_versions_of_earlier_releases_mean_the_same_and_are_written_as_now(database_url: str) -> None:
    """Whatever a version remembers, it is read as before, and its text is what a rebuild writes."""
    said = Heard(4, 9, None)
    asides = (
        *(None, Aside(False), Aside(True), Aside(False, (3, 1)), Aside(True, (3, 1), None, None)),
        *(Aside(False, None, said), Aside(False, None, None, said), Aside(True, None, said, Heard(4, 9, 3))),
    )
    versions = {
        f"register_{number}_{doubtful}": Version(5, 1, 41, doubtful, aside)
        for number, aside in enumerate(asides)
        for doubtful in (False, True)
    }
    wholly = msgspec.json.encode(versions, order="deterministic").decode()
    earlier = {name: one if one.aside is not None else [5, 1, 41, one.doubtful] for name, one in versions.items()}
    without = msgspec.json.encode(earlier, order="deterministic").decode()
    row = {"tenant": "t1", "known": True, "doubtful": True}
    rows = ((tables.ticket, row | {"id": "a", "versions": wholly}), (tables.ticket, row | {"id": "b"}))
    await make_first("projection", database_url, (rows[0], (rows[1][0], rows[1][1] | {"versions": without})))
    projection = await open_projection(DatabaseTarget(database_url), migrate=True)
    written = select(tables.ticket.c.versions).order_by(tables.ticket.c.id)
    held = await Holdings(projection).rows({Key("ticket", "t1", "a"), Key("ticket", "t1", "b")})
    async with projection.write() as connection:
        texts = (await connection.execute(written)).scalars().all()
        await save(connection, held)
        again = (await connection.execute(written)).scalars().all()
    await projection.close()
    assert [one.versions for one in held.values()] == [versions, versions]
    assert texts == again
    assert "[5,1,41]" in texts[0]
    assert "[5,1,41,true]" in texts[0]


@pytest.mark.parametrize("part", ["log", "projection"])
async def test_every_migration_can_be_taken_back(database_url: str, part: schema.Part) -> None:
    """Down to the first release gives its tables again, with their rows; the last step leaves none."""
    rows = LOG if part == "log" else PROJECTION
    await make_first(part, database_url, rows)

    def shape(connection: Connection) -> dict[str, list[str]]:
        seen = MetaData()
        seen.reflect(connection)
        names = sorted(set(seen.tables) - {schema.version_table(part)})
        indexes = {f"{name} indexes": inspect(connection).get_indexes(name) for name in names}
        columns = {name: sorted(column.name for column in seen.tables[name].c) for name in names}
        return columns | {name: sorted(str(one["name"]) for one in found) for name, found in indexes.items()}

    def down(connection: Connection, to: str) -> None:
        command.downgrade(schema.configuration(part, connection), to)

    database = unopened(part, DatabaseTarget(database_url))
    async with database.write() as connection:
        first = await connection.run_sync(shape)
    await upgrade(part, DatabaseTarget(database_url))
    async with database.write() as connection:
        assert await connection.run_sync(shape) != first
        await connection.run_sync(down, f"0001_{part}")
        assert await connection.run_sync(shape) == first
    await holds(database, rows)
    async with database.write() as connection:
        await connection.run_sync(down, "base")
        assert await connection.run_sync(shape) == {}
    await database.close()


@pytest.mark.parametrize("part", ["log", "projection"])
def test_files_are_named_after_their_migrations(part: schema.Part) -> None:
    """What a start reads from the names of the files is what alembic reads in them, in the same order."""
    scripts = ScriptDirectory.from_config(schema.configuration(part)).walk_revisions()
    assert schema.revisions(part) == tuple(script.revision for script in scripts)


LOOK = """
import asyncio, sys
from whatsms_events.storage.database import DatabaseTarget, open_log

async def main():
    await (await open_log(DatabaseTarget(sys.argv[1]), migrate=True)).close()
    print("alembic" in sys.modules)

asyncio.run(main())
"""


def test_a_start_that_migrates_nothing_loads_no_alembic(tmp_path: Path) -> None:
    """Alembic is a tenth of what a start takes: it is loaded to make a log, and not to open one that is at head."""
    line = [sys.executable, "-c", LOOK, f"sqlite:///{tmp_path / 'log.db'}"]
    said = [subprocess.run(line, check=True, capture_output=True, text=True, timeout=300).stdout for _ in range(2)]
    assert said == ["True\n", "False\n"]


async def test_a_migration_may_take_longer_than_a_statement(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index of a large table takes minutes: what bounds the statements of a running service does not bound it."""
    usual = schema.upgrade

    def slow(connection: Connection, part: schema.Part) -> None:
        # Stands for an index that is built: longer than the limits below, which bound a statement.
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_sleep(1.5)"))
        else:
            time.sleep(1.5)
        usual(connection, part)

    with monkeypatch.context() as hasty:
        hasty.setattr(schema, "upgrade", slow)
        await upgrade("log", DatabaseTarget(database_url, connect_timeout_s=0.9, statement_timeout_s=0.5))
    log = await open_log(DatabaseTarget(database_url), migrate=False)
    await log.close()
