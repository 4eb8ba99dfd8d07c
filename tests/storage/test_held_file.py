"""Whether a path still leads to the file that is open: what an operator may do, and what no operator did."""

import asyncio
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest

from whatsms_events.errors import StorageReplacedError
from whatsms_events.storage import tables
from whatsms_events.storage.database import Database, DatabaseTarget, open_log

MAINTENANCE = [
    "VACUUM",
    "PRAGMA wal_checkpoint(TRUNCATE)",
    "PRAGMA wal_checkpoint(RESTART)",
    "REINDEX",
    "ANALYZE",
    "PRAGMA optimize",
    "VACUUM INTO 'copy.db'",
    "CREATE TABLE mine AS SELECT randomblob(100000)",
    "DROP TABLE mine",
    "SELECT count(*) FROM event_log",
]


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[Database]:
    """Give an open log in `log.db`."""
    database = await open_log(DatabaseTarget(f"sqlite:///{tmp_path / 'log.db'}"), migrate=True)
    yield database
    await database.close()


async def write(log: Database, rows: int = 1) -> None:
    """Commit some rows."""
    async with log.write() as connection:
        values = [{"id": uuid4(), "count": 1, "last_received_at": 1} for _ in range(rows)]
        await connection.execute(tables.redelivery.insert(), values)


def elsewhere(folder: Path, *statements: str) -> None:
    """Execute in another process, each statement on a connection of its own."""
    code = (
        "import sqlite3, sys\n"
        "for one in sys.argv[1:]:\n"
        "    c = sqlite3.connect('log.db', isolation_level=None, timeout=30); c.execute(one).fetchall(); c.close()\n"
    )
    subprocess.run([sys.executable, "-c", code, *statements], cwd=folder, check=True, timeout=300)


def descriptors() -> int:
    """Return how many descriptors this process has open; 0 where the system does not tell."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


async def test_what_sqlite_and_its_tools_do_is_no_mishap(log: Database, tmp_path: Path) -> None:
    """Checkpoints, VACUUM, other processes that write and leave, and a backup: the file stays ours, and is written."""
    for statement in MAINTENANCE:
        elsewhere(tmp_path, statement)
        log.check()
        await write(log, 500)
        elsewhere(tmp_path, "PRAGMA wal_checkpoint(PASSIVE)", "PRAGMA wal_checkpoint(TRUNCATE)")
        log.check()
    elsewhere(tmp_path, *["PRAGMA user_version = 1", "PRAGMA wal_checkpoint(PASSIVE)"] * 20)
    log.check()


async def test_processes_that_write_in_turn_are_no_mishap(log: Database, tmp_path: Path) -> None:
    """Another process grows the file while this one does: the count of changes never seems to go back."""
    growing = [f"CREATE TABLE mine_{number} AS SELECT randomblob(20000)" for number in range(100)]
    code = (
        "import sqlite3, sys\n"
        "c = sqlite3.connect('log.db', isolation_level=None, timeout=30)\n"
        "for one in sys.argv[1:]:\n"
        "    c.execute(one); c.execute('PRAGMA wal_checkpoint(PASSIVE)')\n"
    )
    other = await asyncio.create_subprocess_exec(sys.executable, "-c", code, *growing, cwd=tmp_path)
    while other.returncode is None:
        await write(log, 50)
        log.check()
    assert await other.wait() == 0


async def test_each_opening_sees_the_same_mark(log: Database, tmp_path: Path) -> None:
    """The mark is given once, and is the file's own: it goes with the file and not with the process."""
    del log
    with closing(sqlite3.connect(tmp_path / "log.db")) as file:
        (mark,) = file.execute("PRAGMA application_id").fetchone()
    again = await open_log(DatabaseTarget(f"sqlite:///{tmp_path / 'log.db'}"), migrate=False)
    again.check()
    await again.close()
    with closing(sqlite3.connect(tmp_path / "log.db")) as file:
        assert file.execute("PRAGMA application_id").fetchone() == (mark,)
    assert mark


async def test_no_connection_to_another_file_is_kept(log: Database, tmp_path: Path) -> None:
    """While another file is at the path nothing is read or written, none is made, and afterwards all goes on."""
    path, away = tmp_path / "log.db", tmp_path / "away.db"
    path.rename(away)
    for _ in range(5):
        with pytest.raises(StorageReplacedError, match="was removed or moved"):
            async with log.read():
                pass
    assert not path.exists()
    shutil.copy(away, path)
    with pytest.raises(StorageReplacedError, match="was replaced"):
        await write(log)
    away.rename(path)
    await write(log)
    async with log.read() as connection:
        assert len((await connection.execute(tables.redelivery.select())).all()) == 1


async def test_a_commit_into_a_file_that_went_away_meanwhile_is_no_success(log: Database, tmp_path: Path) -> None:
    """The file goes between the statement and the commit: whoever wrote is told that nobody may rely on it."""

    async def write_and_lose() -> None:
        async with log.write() as connection:
            values = {"id": uuid4(), "count": 1, "last_received_at": 1}
            await connection.execute(tables.redelivery.insert(), values)
            (tmp_path / "log.db").unlink()

    with pytest.raises(StorageReplacedError):
        await write_and_lose()


async def test_a_link_that_leads_elsewhere_now_is_seen(tmp_path: Path) -> None:
    """The path may be a link, also its folder; what counts is the file that it leads to."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "one")
    log = await open_log(DatabaseTarget(f"sqlite:///{tmp_path / 'data' / 'log.db'}"), migrate=True)
    await write(log)
    (tmp_path / "next").symlink_to(tmp_path / "two")
    (tmp_path / "next").rename(tmp_path / "data")
    with pytest.raises(StorageReplacedError):
        await write(log)
    await log.close()


async def test_descriptors_are_given_back(tmp_path: Path) -> None:
    """Opening and closing many logs leaves none open: one descriptor for a file, until its last user has closed."""
    before = descriptors()
    url = f"sqlite:///{tmp_path / 'log.db'}"
    first = await open_log(DatabaseTarget(url), migrate=True)
    for _ in range(5):
        await (await open_log(DatabaseTarget(url), migrate=False)).close()
        first.check()
    await first.close()
    assert descriptors() <= before
