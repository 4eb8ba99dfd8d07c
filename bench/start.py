"""The row about a command that says something at once."""

import os
import sys
import time
from pathlib import Path
from statistics import median
from typing import Final

from bench.load import FailedError, on
from bench.report import Bar, Finding, ratios
from bench.stage import Stage

STARTS: Final = 5
"""Starts in a round; the fastest counts, since other work on the machine only ever adds to one."""


async def startup(stage: Stage) -> list[Finding]:
    """`whatsms-events --help`, against `python -c "import aiohttp"`."""
    program = str(Path(sys.executable).with_name("whatsms-events"))
    commands = [[program, "--help"], [sys.executable, "-c", "import aiohttp"]]
    with on(stage.cores.server):
        for command in commands:
            _started(command)  # the files are in memory from here on
        found = [[_fastest(command) for command in commands] for _ in range(stage.rounds)]
    own, references = [one[0] for one in found], [one[1] for one in found]
    details = {"ours ms": median(own) * 1000, "reference ms": median(references) * 1000}
    values = ratios(own, references)
    return [Finding("startup", "--help", "import aiohttp", values, bar=Bar(1.5, 1, below=True), details=details)]


def _fastest(command: list[str]) -> float:
    return min(_started(command) for _ in range(STARTS))


def _started(command: list[str]) -> float:
    """Return the seconds from start to end of a command; raise FailedError where it fails."""
    started = time.perf_counter()
    nothing = os.open(os.devnull, os.O_WRONLY)
    pid = os.posix_spawn(command[0], command, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, nothing, 1)])
    _, status = os.waitpid(pid, 0)
    os.close(nothing)
    if status:
        raise FailedError(f"{command} ended with {status}")
    return time.perf_counter() - started
