"""Blanking on real databases: what is blanked is gone, to the byte on SQLite, and nothing else changes."""

import hashlib
import re
import sqlite3
from collections.abc import AsyncIterator, Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from storage.log.test_event_log import fill
from whatsms_events.domain.events import Event, EventType, event_id
from whatsms_events.domain.verdicts import Append
from whatsms_events.storage.database import Database, DatabaseTarget, open_log, open_projection
from whatsms_events.storage.log.blanking import Blanking
from whatsms_events.storage.scrubbing import scrub
from whatsms_events.storage.tables import event_log, message

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
LENGTHS = (9, 60, 300, 900, 2500, 9000, 30_000)  # in one page, in several rows' page, and over many pages


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """Give an empty log on each kind of database."""
    found = await open_log(DatabaseTarget(database_url), migrate=True)
    yield found
    await found.close()


def marked(number: int, *, tenant: str = "acme", received_at: datetime = NOON) -> Append:
    """Return an event whose bytes and data are full of its number."""
    mark = f"<{number:07}>"
    body = mark * (LENGTHS[number % len(LENGTHS)] // 9)
    raw = b'{"raw":"%s"}' % body.encode()
    event = Event(
        id=event_id(tenant, raw, None),
        type=EventType.TICKET_UPDATED,
        tenant=tenant,
        occurred_at=None,
        received_at=received_at,
        origin="webhook",
        subject="t-1",
        ticket_id="t-1",
        contact_id="c-1",
        message_id=None,
        data=b'{"data":"%s"}' % body.encode(),
    )
    return Append(event, raw, hashlib.sha256(raw).digest())


async def everything(database: Database) -> list[dict[str, Any]]:
    """Return every row of the log."""
    async with database.read() as connection:
        rows = await connection.execute(select(event_log).order_by(event_log.c.position))
        return [dict(row) for row in rows.mappings()]


def files_of(path: Path) -> dict[str, bytes]:
    """Return what is in the database file and in every file beside it."""
    return {one.name: one.read_bytes() for one in path.parent.iterdir() if one.name.startswith(path.name)}


def marks_in(path: Path) -> set[int]:
    """Return the numbers of which any byte is left, in any file."""
    return {int(found) for content in files_of(path).values() for found in re.findall(rb"<(\d{7})>", content)}


async def blank_in_pieces(database: Database, positions: Sequence[int], piece: int = 40) -> int:
    """Blank these rows, a piece at a time."""
    blanking = Blanking(database)
    return sum([await blanking.blank(positions[at : at + piece]) for at in range(0, len(positions), piece)])


async def test_what_is_blanked_is_null_and_the_rest_stays(database: Database) -> None:
    """Bytes and data of the rows go; every other column, and every other row, is as before; twice is once."""
    await fill(database, [marked(number) for number in range(20)])
    before, blanking = await everything(database), Blanking(database)
    assert await blanking.blank([3, 4, 9, 99], data=True) == 3
    assert await blanking.blank([4, 5], data=False) == 1
    assert await blanking.blank([3, 5], data=False) == 0
    wanted = [
        row | ({"raw": None, "data": None} if row["position"] in (3, 4, 9) else {})
        | ({"raw": None} if row["position"] == 5 else {})
        for row in before
    ]  # fmt: skip
    assert await everything(database) == wanted


async def test_rows_are_seen_without_their_bytes(database: Database) -> None:
    """A row shows its place, its tenant, when it came, its size, and whether it has bytes and data."""
    await fill(database, [marked(number) for number in range(4)])
    blanking = Blanking(database)
    await blanking.blank([2])
    await blanking.blank([3], data=False)
    rows = await blanking.rows(1, 4, 2)
    assert [(row.position, row.size, row.has_raw, row.has_data) for row in rows] == [
        (2, 0, False, False),
        (3, 0, False, True),
    ]
    (last,) = await blanking.rows(3, 9, 9)
    assert (last.position, last.tenant, last.received_at, last.has_raw) == (
        4,
        "acme",
        int(NOON.timestamp()) * 10**6,
        True,
    )
    assert last.size == len(marked(3).raw)


@pytest.mark.parametrize("kept", [range(601, 701), ()])
async def test_no_byte_is_left_in_the_files(tmp_path: Path, kept: Collection[int]) -> None:
    """The database, its WAL and its shared memory hold nothing of a blanked row, and all of every other one."""
    path = tmp_path / "log.db"
    database = await open_log(DatabaseTarget(f"sqlite:///{path}"), migrate=True)
    try:
        await fill(database, [marked(number) for number in range(1, 701)])
        gone = [position for position in range(1, 701) if position not in kept]
        assert await blank_in_pieces(database, gone) == len(gone)
        assert marks_in(path) >= set(gone[-40:]), "the WAL shows that this test would see a byte"
        assert await scrub(database)
        assert marks_in(path) == set(kept)
        assert files_of(path)["log.db-wal"] == b""
        await fill(database, [marked(800)])  # the log goes on
        assert len(await everything(database)) == 701
    finally:
        await database.close()
    with sqlite3.connect(path) as file:
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_blanked_pages_are_taken_before_the_file_grows(tmp_path: Path) -> None:
    """What comes after the blanking fits into the file as it is."""
    path = tmp_path / "log.db"
    database = await open_log(DatabaseTarget(f"sqlite:///{path}"), migrate=True)
    try:
        await fill(database, [marked(number) for number in range(1, 401)])
        await scrub(database)
        size = path.stat().st_size
        await blank_in_pieces(database, range(1, 401))
        await fill(database, [marked(number) for number in range(401, 701)])
        await scrub(database)
        assert path.stat().st_size <= size
        await blank_in_pieces(database, range(401, 701))
        assert await scrub(database, rewrite=True)
        assert path.stat().st_size < size / 4, "rewritten, it gives its pages back"
        database.check()
    finally:
        await database.close()


async def test_a_reader_in_the_way_is_said(tmp_path: Path) -> None:
    """While somebody reads an older state, the WAL cannot be emptied: the scrubbing says so, and the next one does."""
    path = tmp_path / "log.db"
    database = await open_log(DatabaseTarget(f"sqlite:///{path}"), migrate=True)
    try:
        await fill(database, [marked(number) for number in range(1, 11)])
        async with database.read() as connection:
            await connection.execute(select(event_log.c.position))
            await Blanking(database).blank([1, 2])
            assert not await scrub(database)
        assert await scrub(database)
        assert marks_in(path) == set(range(3, 11))
    finally:
        await database.close()


async def test_rewriting_leaves_nothing_of_rows_that_grew(tmp_path: Path) -> None:
    """Rows that change their size leave copies in unused parts of pages; a file that is rewritten has none."""
    path = tmp_path / "projection.db"
    database = await open_projection(DatabaseTarget(f"sqlite:///{path}"), migrate=True)
    try:
        number, last = 0, {}
        for _ in range(30):
            rows = []
            for _ in range(60):
                number += 1
                key = f"m{number * 7919 % 1000}"
                body = f"<{number:07}>" * (LENGTHS[number % 4] // 9)
                last[key] = number
                rows.append(
                    {"tenant": "acme", "id": key, "known": True, "doubtful": False, "body": body, "versions": "{}"}
                )
            async with database.write() as connection:
                for row in rows:
                    await connection.execute(message.insert().prefix_with("OR REPLACE"), row)
        async with database.write() as connection:
            await connection.execute(message.update().where(message.c.id < "m5").values(body=None))
        assert await scrub(database, rewrite=True)
        assert marks_in(path) == {number for key, number in last.items() if key >= "m5"}
        database.check()
    finally:
        await database.close()


async def test_nothing_is_scrubbed_on_a_server(postgres_url: str) -> None:
    """PostgreSQL's own VACUUM removes dead rows: there is nothing to do from here, and that is no trouble."""
    database = await open_log(DatabaseTarget(postgres_url), migrate=True)
    try:
        assert await scrub(database, rewrite=True)
    finally:
        await database.close()
