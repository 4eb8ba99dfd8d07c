"""The row about retention: what is left of ingest while a long log is blanked."""

import asyncio
from statistics import median
from typing import Final

import aiohttp
from bench import progress, targets
from bench.behind import Log
from bench.door import CONNECTIONS
from bench.load import FailedError
from bench.progress import APPLIED
from bench.report import Bar, Finding, ratios
from bench.stage import FIRST, SPARE, Stage, service_door

from servers.service import Service

ROLES: Final = "receiver,consumer"
OVER: Final = {"data_days": 1e-6}
"""A tenth of a second: whatever was applied is over."""

BLANKED: Final = "retention_blanked_total"
WARM_S: Final = 0.5
BAR: Final = Bar(0.9, 0.95)


async def blanking(stage: Stage) -> list[Finding]:
    """Accept deliveries while retention blanks a log of `--events` on SQLite, against the same without retention."""
    log = Log.new(stage)
    count = await log.fill(stage.events)
    await progress.run(stage, log.service("consumer"), APPLIED, count)
    quiet: list[float] = []
    busy: list[float] = []
    blanked: list[float] = []
    for number in range(stage.rounds):
        for blanks in (False, True) if number % 2 == 0 else (True, False):
            rate, rows = await _round(log, blanks=blanks)
            (busy if blanks else quiet).append(rate)
            if blanks:
                blanked.append(rows)
    details = {"ingest/s": median(busy), "ingest alone/s": median(quiet), "blanked/s": median(blanked)}
    case = f"SQLite, {count} events"
    return [Finding("blanking", case, "the same without retention", ratios(busy, quiet), bar=BAR, details=details)]


async def _round(log: Log, *, blanks: bool) -> tuple[float, float]:
    """Run the process for one round; return the rates at which it accepted and at which it blanked."""
    stage = log.stage
    service = targets.service(log.folder, roles=ROLES, retention=OVER if blanks else {})
    log.deliveries.forget()
    log.deliveries.have(int(log.ingested[0] * SPARE * stage.seconds) + 2 * FIRST)  # before: the blanking begins at once
    async with service_door(stage, service) as door:
        door.requests = log.deliveries
        await door.round(CONNECTIONS, seconds=WARM_S, prepared=True)
        if blanks:
            await _begun(service)
        before = await _blanked(service)
        done = await door.round(CONNECTIONS, prepared=True)
        rows = await _blanked(service) - before
        if blanks and not rows:
            raise FailedError("blanking: nothing was left to blank in a round: ask for more --events")
    return done.rate, rows / done.seconds


async def _begun(service: Service) -> None:
    """Wait until it blanks: a round without retention forgot its place, and it passes over what is blank already."""
    async with asyncio.timeout(progress.STALL_S):
        while not await _blanked(service):
            await progress.pause()


async def _blanked(service: Service) -> float:
    async with aiohttp.ClientSession() as session:
        return (await progress.counted(session, service, BLANKED))[0]
