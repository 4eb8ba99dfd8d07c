"""A replay that is killed leaves one whole projection, whatever it was doing."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.commands import make_log
from servers.compare import LONG
from whatsms_events.storage.database import DatabaseTarget, upgrade
from workers.test_consumer import opened

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

TESTS = Path(__file__).resolve().parents[1]
POINTS = range(1, 15) if LONG else (14,)
"""A deletion and a writing for each of six tables, the checkpoint, and the generation; then comes the commit."""


def shadows(folder: Path) -> Iterator[Path]:
    """Return what is left of a shadow."""
    return folder.glob("*shadow*")


async def test_a_kill_at_any_moment_of_a_swap_leaves_one_whole_projection(database_url: str, tmp_path: Path) -> None:
    """Before the commit the tables are the old ones, behind it the new ones, and nothing between. A shadow that was
    left is used by the next replay, which ends what was begun.
    """
    on_files = database_url.startswith("sqlite")
    if on_files:
        make_log(tmp_path)
    else:
        await upgrade("log", DatabaseTarget(database_url))
        await upgrade("projection", DatabaseTarget(database_url))
    projection = database_url.replace("log.db", "projection.db")
    async with opened(database_url, projection, tmp_path) as bench:
        await bench.append(150)
        await bench.apply_all(bench.from_log())
    points = [*map(str, POINTS), "15", "0"]  # 15: behind the commit, before the replay is said to have ended
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "servers.killed", "" if on_files else database_url, str(tmp_path), *points],
        cwd=TESTS,
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = dict(line.split()[:2] for line in done.stdout.splitlines())
    assert told == {point: "new" if point in ("15", "0") else "old" for point in points}
    assert not list(shadows(tmp_path))
