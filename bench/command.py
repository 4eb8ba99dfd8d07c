"""The bench's command line: which rows, how many rounds, how long."""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from bench import behind, blanking, console, door, feed, fresh, long, start
from bench.load import Cores, FailedError, Load, compiled
from bench.report import Finding, write
from bench.stage import SkippedError, Stage

from servers.process import StartError, UnavailableError

Row = Callable[[Stage], Awaitable[list[Finding]]]
Keep = Callable[[Sequence[Finding], Sequence[str]], None]

ROWS: Final[Mapping[str, Row]] = {
    "ingest": door.ingest,
    "fastapi": door.fastapi,
    "latency": door.latency,
    "flood": door.flood,
    "two": door.two,
    "feed": feed.feed,
    "all": behind.together,
    "relay": behind.relay,
    "consumer": behind.consumer,
    "rebuild": behind.rebuild,
    "fresh": fresh.fresh,
    "startup": start.startup,
    "blanking": blanking.blanking,
    "memory": long.memory,
    "large": long.large,
    "console": console.console,
}
LONG: Final = frozenset({"memory", "large", "console"})
"""Rows that take too long for the default set."""

RESULTS: Final = Path(__file__).with_name("results")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    rows = "\n".join(f"  {name:9} {(row.__doc__ or '').splitlines()[0]}" for name, row in ROWS.items())
    made = argparse.ArgumentParser(
        prog="bench/run.py",
        description=f"Measure what is fast, as ratios to a reference in the same run.\n\nrows:\n{rows}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("rows", nargs="*", metavar="ROW", help="which rows; all but the long ones where none is named")
    made.add_argument("--rounds", type=int, default=5, help="of each server, in turns")
    made.add_argument("--seconds", type=float, default=2.0, help="of each round")
    made.add_argument(
        "--events", type=int, default=20_000, help="of relay, consumer, rebuild, memory, large; tickets of console"
    )
    made.add_argument("--python", default="", help="an interpreter that has fastapi, uvicorn, sqlalchemy, aiosqlite")
    made.add_argument("--name", default="latest", help="of the two files with the results")
    made.add_argument("--results", type=Path, default=RESULTS, help="their folder")
    return made


async def measure(stage: Stage, rows: Sequence[str], keep: Keep, table: Mapping[str, Row] = ROWS) -> bool:
    """Measure row after row of the table, and keep the results after each. Return whether all went well.

    A row that this machine cannot measure is left out; a row that failed is a fault.
    """
    findings: list[Finding] = []
    missing: list[str] = []
    well = True
    for name in rows:
        print(f"{name} ...", flush=True)
        try:
            found = await table[name](stage)
        except (SkippedError, UnavailableError, FailedError, StartError) as exc:
            print(f"{name}: {exc}", file=sys.stderr)
            missing.append(f"{name}: {str(exc).partition(chr(10))[0]}")
            well &= isinstance(exc, SkippedError | UnavailableError)
        else:
            findings += found
            for finding in found:
                print(finding.line(), flush=True)
        keep(findings, missing)
    return well


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for, write the results, and return the exit status."""
    given = parser().parse_args(arguments)
    rows = given.rows or [name for name in ROWS if name not in LONG]
    if unknown := sorted(set(rows) - set(ROWS)):
        parser().error(f"unknown rows: {', '.join(unknown)}")
    how: dict[str, object] = {"rounds": f"{given.rounds} of {given.seconds:g} s, in turns"}

    def keep(findings: Sequence[Finding], missing: Sequence[str]) -> None:
        write(findings, missing, given.results, given.name, how)

    with tempfile.TemporaryDirectory(prefix="whatsms-bench-") as folder:
        try:
            load = Load(compiled(Path(folder)), Cores.found())
        except FailedError as exc:
            parser().error(str(exc))
        stage = Stage(Path(folder), load, given.rounds, given.seconds, given.python, given.events)
        well = asyncio.run(measure(stage, rows, keep))
    print(f"\n{(given.results / given.name).with_suffix('.md').read_text()}")
    return 0 if well else 1
