"""The rows about the door: how fast deliveries are accepted, durably, against a door that only says yes."""

from collections.abc import Sequence
from typing import Final

from bench import targets
from bench.load import Round
from bench.report import Bar, Finding, ratios
from bench.stage import Stage, bare_door, figures, in_turns, service_door

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
