"""The rows about the door: how fast deliveries are accepted, durably, against a door that only says yes."""

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median
from typing import Final

from bench import targets
from bench.load import Round
from bench.report import Bar, Finding, ratios
from bench.stage import Door, SkippedError, Stage, bare_door, figures, in_turns, service_door

from servers.service import SECRET

CONNECTIONS: Final = 64
MANY: Final = 512
BARE: Final = "bare aiohttp in the same rounds"


async def ingest(stage: Stage) -> list[Finding]:
    """Durable ingest on SQLite and PostgreSQL, against bare aiohttp at as many connections."""
    findings = await against_bare(stage, "SQLite", CONNECTIONS, Bar(0.62, 0.80))
    findings += await against_bare(stage, "SQLite", MANY, Bar(1.05, 1.26))
    async with targets.postgres(stage.cores) as server:
        url = await targets.database(server)
        return findings + await against_bare(stage, "PostgreSQL", CONNECTIONS, Bar(0.55, 0.75), url=url)


async def against_bare(stage: Stage, name: str, connections: int, bar: Bar, *, url: str | None = None) -> list[Finding]:
    """Measure one database with so many connections: the ratio of rates, and that of processor time."""
    service = targets.service(stage.new_folder(), database=url)
    if url is not None:
        targets.upgrade(service)
    async with bare_door(stage) as bare, service_door(stage, service) as ours:
        bare.requests.have(10_000)
        for door in (bare, ours):
            await door.warm(connections)
        bares, own = await in_turns(stage.rounds, lambda: bare.round(connections), lambda: ours.round(connections))
    return compared("ingest", f"{name}, {connections} connections", own, bares, bar)


def compared(
    row: str, case: str, own: list[Round], references: list[Round], bar: Bar, *, reference: str = BARE
) -> list[Finding]:
    """Return the ratio of rates, which has the bar, and the ratio of processor time for each delivery."""
    details = figures("ours", own) | figures("reference", references)
    rates = ratios(_rates(own), _rates(references))
    # Upside down, so that here too 1 means as fast as the reference, and more is better.
    cpus = ratios([one.cpu_us for one in references], [one.cpu_us for one in own])
    return [
        Finding(row, case, reference, rates, bar=bar, details=details),
        Finding(row, f"{case}: processor time", reference, cpus),
    ]


def _rates(rounds: Sequence[Round]) -> list[float]:
    return [one.rate for one in rounds]


async def fastapi(stage: Stage) -> list[Finding]:
    """Durable ingest on SQLite, against FastAPI and SQLAlchemy with a commit for each request."""
    folder = stage.new_folder()
    command = [_python(stage, folder), str(targets.BENCH / "fastapi_app.py"), str(folder / "their.db"), SECRET]
    theirs = targets.Program(folder / "fastapi", command)
    async with (
        targets.running(theirs, stage.cores.server),
        service_door(stage, targets.service(stage.new_folder())) as ours,
    ):
        other = Door(stage, theirs, theirs.public_port, stage.deliveries(), repeats=False)
        for door in (other, ours):
            await door.warm(CONNECTIONS)
        others, own = await in_turns(stage.rounds, lambda: other.round(CONNECTIONS), lambda: ours.round(CONNECTIONS))
    reference = "FastAPI + SQLAlchemy in the same rounds"
    return compared("fastapi", f"SQLite, {CONNECTIONS} connections", own, others, Bar(15, 30), reference=reference)


def _python(stage: Stage, folder: Path) -> str:
    """Return an interpreter that has FastAPI: the one that was given, or one in an environment made for this run."""
    if stage.python:
        done = subprocess.run([stage.python, "-c", "import aiosqlite, fastapi, sqlalchemy, uvicorn"], check=False)
        if done.returncode:
            raise SkippedError(f"{stage.python} has not all of fastapi, uvicorn, sqlalchemy and aiosqlite")
        return stage.python
    made, wanted = folder / "venv", targets.BENCH / "requirements-fastapi.txt"
    subprocess.run([sys.executable, "-m", "venv", made], check=True)
    python = str(made / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(wanted)]
    if subprocess.run(install, check=False).returncode:
        raise SkippedError("FastAPI could not be installed; give an interpreter that has it with --python")
    return python


async def latency(stage: Stage) -> list[Finding]:
    """Compare the 99th percentile of latency at half of the service's own saturation with bare aiohttp's."""
    async with bare_door(stage) as bare, service_door(stage, targets.service(stage.new_folder())) as ours:
        bare.requests.have(10_000)
        for door in (bare, ours):
            await door.warm(CONNECTIONS)
        rate = (await ours.round(CONNECTIONS)).rate / 2
        bares, own = await in_turns(
            stage.rounds, lambda: bare.round(CONNECTIONS, rate=rate), lambda: ours.round(CONNECTIONS, rate=rate)
        )
    values = ratios([one.p99_ms for one in own], [one.p99_ms for one in bares])
    details = {"rate/s": rate} | figures("ours", own) | figures("reference", bares)
    return [
        Finding("latency", f"p99 at a constant {rate:.0f}/s", BARE, values, bar=Bar(4, 2, below=True), details=details)
    ]


async def flood(stage: Stage) -> list[Finding]:
    """Accept signed deliveries while ten times as many without a signature come in, against the same without them."""
    async with service_door(stage, targets.service(stage.new_folder())) as ours:
        await ours.warm(CONNECTIONS)
        full = (await ours.round(CONNECTIONS)).rate
        unsigned = Door(stage, ours.server, ours.port, stage.deliveries(signed=False), repeats=True)
        unsigned.requests.have(10_000)
        tenth = await _flooded(
            stage, ours, unsigned, case="a tenth of saturation", rate=full / 10, offered=full, bar=Bar(0.5, 0.8)
        )
        loop = await _flooded(stage, ours, unsigned, case="a closed loop", rate=0.0, offered=full * 10, bar=None)
        return [tenth, loop]


async def _flooded(
    stage: Stage, ours: Door, unsigned: Door, *, case: str, rate: float, offered: float, bar: Bar | None
) -> Finding:
    """Measure signed deliveries at a rate, 0 for a closed loop, with unsigned ones and without them."""
    floods: list[Round] = []

    async def within_flood() -> Round:
        async with asyncio.TaskGroup() as tasks:
            flooding = tasks.create_task(unsigned.round(CONNECTIONS, rate=offered))
            signed = tasks.create_task(ours.round(CONNECTIONS, rate=rate))
        floods.append(flooding.result())
        return signed.result()

    alone, within = await in_turns(stage.rounds, lambda: ours.round(CONNECTIONS, rate=rate), within_flood)
    details = {
        "signed/s": median(_rates(within)),
        "signed alone/s": median(_rates(alone)),
        "unsigned refused/s": median(one.answered / one.seconds for one in floods),
    }
    case = f"signed: {case}; unsigned: {offered:.0f}/s offered"
    return Finding("flood", case, "no flood", ratios(_rates(within), _rates(alone)), bar=bar, details=details)


async def two(stage: Stage) -> list[Finding]:
    """Two receivers on one PostgreSQL, against one of them; here every process may use every core."""
    everywhere = stage.cores.server | stage.cores.others
    async with targets.postgres(stage.cores) as server, AsyncExitStack() as stack:
        url = await targets.database(server)
        services = [targets.service(stage.new_folder(), database=url) for _ in range(2)]
        targets.upgrade(services[0])
        doors = []
        for number, service in enumerate(services):
            await stack.enter_async_context(targets.running(service, everywhere))
            deliveries = stage.deliveries(seed=number + 1)
            doors.append(Door(stage, service, service.public_port, deliveries, repeats=False))
            await doors[-1].warm(CONNECTIONS)

        async def together() -> Round:
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(door.round(CONNECTIONS // 2)) for door in doors]
            return _sum([one.result() for one in running])

        alone, both = await in_turns(stage.rounds, lambda: doors[0].round(CONNECTIONS), together)
    details = figures("two", both) | figures("one", alone)
    values = ratios(_rates(both), _rates(alone))
    return [Finding("two", f"PostgreSQL, {CONNECTIONS} connections", "one receiver", values, details=details)]


def _sum(rounds: Sequence[Round]) -> Round:
    """Return what servers did side by side as one round."""
    answered = sum(one.answered for one in rounds)
    return Round(
        answered=answered,
        accepted=sum(one.accepted for one in rounds),
        seconds=max(one.seconds for one in rounds),
        p50_ms=max(one.p50_ms for one in rounds),
        p99_ms=max(one.p99_ms for one in rounds),
        cpu_us=sum(one.cpu_us * one.answered for one in rounds) / answered,
        next=0,
    )
