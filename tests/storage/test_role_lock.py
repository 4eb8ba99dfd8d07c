"""One holder at a time, on real files and real PostgreSQL sessions."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from whatsms_events.storage.database import Database, DatabaseTarget, open_log
from whatsms_events.storage.role_lock import CHECK_INTERVAL_S, RoleLock


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.time


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """Give a migrated log on each kind of database."""
    found = await open_log(DatabaseTarget(database_url), migrate=True)
    yield found
    await found.close()


async def test_role_has_one_holder(database: Database) -> None:
    """Of two candidates one gets the role, at once; the other when it is given up; another role is another lock."""
    first, second, other = (RoleLock(database, role) for role in ("relay", "relay", "consumer"))
    assert await first.take()
    assert await first.take(), "taking what is held changes nothing"
    assert not await second.take()
    assert not await second.held()
    assert await other.take()
    await first.release()
    await first.release()
    assert await second.take()
    assert not await first.take()
    await second.release()
    await other.release()


async def test_lock_returns_no_locked_connection_to_the_pool(postgres_url: str) -> None:
    """After the release nobody holds the lock, whatever the pool does with the connection."""
    database = await open_log(DatabaseTarget(postgres_url), migrate=True)
    lock = RoleLock(database, "relay")
    assert await lock.take()
    await lock.release()
    connection = await asyncpg.connect(postgres_url)
    assert await connection.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0
    await connection.close()
    await database.close()


async def test_terminated_session_loses_the_role(postgres_url: str) -> None:
    """A holder whose session the server ended notices within a second of work, and the lock is free at once."""
    database, clock = await open_log(DatabaseTarget(postgres_url), migrate=True), Clock()
    holder, candidate = RoleLock(database, "relay", monotonic=clock), RoleLock(database, "relay")
    assert await holder.take()
    connection = await asyncpg.connect(postgres_url)
    await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
    await connection.close()
    assert await candidate.take()
    assert await holder.take(), "not looked at yet"
    clock.time += CHECK_INTERVAL_S
    assert not await holder.take()
    assert not await holder.take()
    await candidate.release()
    assert await holder.take()
    await holder.release()
    await database.close()


async def test_one_session_holds_all_locks_of_a_process_and_all_are_lost_with_it(postgres_url: str) -> None:
    """Twenty roles cost one connection; where its server ends it each role knows that it has lost its lock."""
    database = await open_log(DatabaseTarget(postgres_url), migrate=True)
    locks = [RoleLock(database, f"backfill.{number}") for number in range(20)]
    assert all([await lock.take() for lock in locks])
    connection = await asyncpg.connect(postgres_url)
    held = "SELECT array[count(*), count(DISTINCT pid)] FROM pg_locks WHERE locktype = 'advisory'"
    assert await connection.fetchval(held) == [20, 1]
    await connection.execute("SELECT pg_terminate_backend(pid, 10000) FROM pg_locks WHERE locktype = 'advisory'")
    assert not any([await lock.held() for lock in locks])
    assert all([await lock.take() for lock in locks])
    assert await connection.fetchval(held) == [20, 1]
    await connection.close()
    await database.close()


async def test_lock_that_is_lost_in_an_earlier_session_is_not_given_back_in_a_later_one(postgres_url: str) -> None:
    """Who held a role in a session that is gone neither holds nor frees what another one of the process took since."""
    database, clock = await open_log(DatabaseTarget(postgres_url), migrate=True), Clock()
    late, other = RoleLock(database, "relay", monotonic=clock), RoleLock(database, "relay")
    assert await late.take()
    connection = await asyncpg.connect(postgres_url)
    await connection.execute("SELECT pg_terminate_backend(pid, 10000) FROM pg_locks WHERE locktype = 'advisory'")
    assert await other.take()
    assert not await late.held()
    await late.release()
    assert await other.held()
    assert await connection.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 1
    await connection.close()
    await database.close()


async def test_replaced_lock_file_is_no_lock(tmp_path: Path) -> None:
    """Who holds a lock on a file that is not there any more has nothing."""
    database, clock = await open_log(DatabaseTarget(f"sqlite:///{tmp_path / 'log.db'}"), migrate=True), Clock()
    holder, candidate = RoleLock(database, "relay", monotonic=clock), RoleLock(database, "relay")
    assert await holder.take()
    assert (tmp_path / "log.db.relay.lock").exists()
    (tmp_path / "log.db.relay.lock").unlink()
    assert await candidate.take()
    clock.time += CHECK_INTERVAL_S
    assert not await holder.take()
    await candidate.release()
    await database.close()


async def test_killed_holder_frees_the_role(tmp_path: Path) -> None:
    """The operating system gives a dead process's role back at once."""
    database = await open_log(DatabaseTarget(f"sqlite:///{tmp_path / 'log.db'}"), migrate=True)
    program = (
        "import asyncio, sys\n"
        "from whatsms_events.storage.database import DatabaseTarget, open_log\n"
        "from whatsms_events.storage.role_lock import RoleLock\n"
        "async def main():\n"
        "    lock = RoleLock(await open_log(DatabaseTarget(sys.argv[1]), migrate=False), 'relay')\n"
        "    print(await lock.take(), flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, f"sqlite:///{tmp_path / 'log.db'}", stdout=asyncio.subprocess.PIPE
    )
    assert holder.stdout is not None
    assert await holder.stdout.readline() == b"True\n"
    lock = RoleLock(database, "relay")
    assert not await lock.take()
    holder.kill()
    await holder.wait()
    assert await lock.take()
    await lock.release()
    await database.close()
