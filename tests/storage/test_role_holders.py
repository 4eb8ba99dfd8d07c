"""Which process holds a role, on real files and real PostgreSQL sessions."""

import asyncio
import sys

from whatsms_events.storage.database import DatabaseTarget, open_log
from whatsms_events.storage.role_holders import role_holders
from whatsms_events.storage.role_lock import RoleLock, lock_file

HOLD = (
    "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); input()"
)


async def test_the_holder_of_a_role_is_named(database_url: str) -> None:
    """A role that this process holds is ours, one that nobody holds is not there, and looking takes nothing."""
    log, other = [await open_log(DatabaseTarget(database_url), migrate=True) for _ in range(2)]
    mine, theirs = RoleLock(log, "relay"), RoleLock(other, "consumer")
    assert await role_holders(log, ["relay", "consumer"]) == {}
    assert await mine.take()
    assert await theirs.take()
    found = await role_holders(log, ["relay", "consumer", "sealer"])
    assert set(found) == {"relay", "consumer"}
    assert found["relay"].ours
    assert found["consumer"].ours == (log.dialect == "sqlite"), "on PostgreSQL it is another session"
    assert (found["relay"].since is not None) == (log.dialect == "postgresql")
    await theirs.release()
    assert set(await role_holders(log, ["relay", "consumer"])) == {"relay"}
    await mine.release()
    await other.close()
    await log.close()


async def test_another_process_is_named_by_its_number(tmp_path: object) -> None:
    """On SQLite the holder is the process that the kernel names."""
    log = await open_log(DatabaseTarget(f"sqlite:///{tmp_path}/log.db"), migrate=True)
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", HOLD, str(lock_file(log, "relay"))),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert program.stdout is not None
    assert await program.stdout.readline() == b"held\n"
    found = await role_holders(log, ["relay"])
    assert (found["relay"].ours, found["relay"].who) == (False, f"process {program.pid} on this machine")
    await program.communicate(b"\n")
    assert await role_holders(log, ["relay"]) == {}
    await log.close()
