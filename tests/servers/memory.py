"""The temporary files of the tests are kept in memory, on a machine that has room for them.

Most tests commit to real databases, and each commit waits for the disk: half of the suite's time. In memory an fsync
costs nothing. The tests prove the same there: they kill processes and never cut the power, so what a process wrote
is there afterwards on a disk and in memory alike. That a log is durable is asked of its settings.
"""

import os
import tempfile
from pathlib import Path
from typing import Final

SHARED_MEMORY: Final = Path("/dev/shm")
ROOM_BYTES: Final = 4 * 1024**3
"""The whole suite has needed 0.9 GiB at a time; a failed test leaves its files to be looked at."""


def keep_files_in_memory() -> None:
    """Let this process and those that it starts make their temporary files in memory; `TMPDIR` has its say first."""
    if "TMPDIR" in os.environ or not _has_room(SHARED_MEMORY):
        return
    os.environ["TMPDIR"] = str(SHARED_MEMORY)
    tempfile.tempdir = None  # so that it is looked for again


def _has_room(folder: Path) -> bool:
    """Tell whether the folder takes our files, and programs, which containers often forbid it."""
    if not os.access(folder, os.W_OK):
        return False
    found = os.statvfs(folder)
    may_run = not found.f_flag & os.ST_NOEXEC
    return may_run and found.f_bavail * found.f_frsize >= ROOM_BYTES and _free_memory_bytes() >= ROOM_BYTES


def _free_memory_bytes() -> int:
    """Return what Linux says is free for programs; 0 elsewhere."""
    known = Path("/proc/meminfo")
    lines = known.read_text().splitlines() if known.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 0)
