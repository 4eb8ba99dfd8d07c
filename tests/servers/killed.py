"""A replay that is killed before one of the statements of its swap, again and again, in forks of a program of its own.

`python -m servers.killed LOG PROJECTION POINT...` spoils the tables, lets a replay begin to swap, kills it with SIGKILL
before its statement number POINT, and prints for each point which tables are there then: the old ones or the new ones.
Nothing is forked where a thread or a loop runs.
"""

import asyncio
import hashlib
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event, update

from servers.compare import rows_of
from whatsms_events.cli.replay.projection import Wanted, replay_projection
from whatsms_events.config.settings import DatabaseSettings, Settings
from whatsms_events.domain.replay import WHOLE
from whatsms_events.service.stores import projection_target
from whatsms_events.storage import tables
from whatsms_events.storage.database import open_projection

FIRST = "DELETE FROM ticket"
"""With this the writing of a swap begins."""


def forked(work: Callable[[], Coroutine[Any, Any, bytes]]) -> tuple[int, bytes]:
    """Run work in a fork; return how the fork ended, and what the work returned."""
    here, there = os.pipe()
    pid = os.fork()
    if not pid:
        os.dup2(2, 1)  # what a command prints is not what we say
        os.write(there, asyncio.run(work()))
        os._exit(0)
    os.close(there)
    status = os.waitpid(pid, 0)[1]
    said = os.read(here, 1000)
    os.close(here)
    return status, said


async def spoil(settings: Settings) -> bytes:
    """Let the tables say what no event says."""
    projection = await open_projection(projection_target(settings), migrate=False)
    async with projection.write() as connection:
        await connection.execute(update(tables.ticket).values(status="spoilt"))
        await connection.execute(update(tables.message).values(from_me=None))
        await connection.execute(tables.contact.delete())
    await projection.close()
    return await seen(settings)


async def seen(settings: Settings) -> bytes:
    """Return a digest of all tables."""
    projection = await open_projection(projection_target(settings), migrate=False)
    rows = await rows_of(projection)
    await projection.close()
    return hashlib.sha256(repr(rows).encode()).digest()


def replaying(settings: Settings, point: int) -> Callable[[], Coroutine[Any, Any, bytes]]:
    """Return a replay that swaps and is killed before this statement of its swap; 0 means never."""

    async def work() -> bytes:
        passed = 0

        def on_statement(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            nonlocal passed
            passed += bool(passed or statement.startswith(FIRST))
            if point and passed == point:
                os.kill(os.getpid(), signal.SIGKILL)

        event.listen(Engine, "before_cursor_execute", on_statement)
        await replay_projection(settings, Wanted(WHOLE, go=True, swap=True))
        return str(passed).encode()

    return work


def main(database_url: str, folder: str, *points: str) -> None:
    """Kill at each point, and say what is there; after the last point a replay that is not killed ends the story."""
    settings = Settings(database=DatabaseSettings(url=database_url or None), data_dir=Path(folder))
    clean = forked(lambda: seen(settings))[1]
    for point in map(int, points):
        old = forked(lambda: spoil(settings))[1]
        assert old != clean
        status, said = forked(replaying(settings, point))
        assert os.WIFSIGNALED(status) == bool(point), said
        now = forked(lambda: seen(settings))[1]
        sys.stdout.write(f"{point} {({old: 'old', clean: 'new'}).get(now, 'BROKEN')} {said.decode()}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
