"""The row about the console: how long its pages take where there are very many tickets (`--events` of them)."""

import re
import statistics
import time
from collections.abc import Mapping
from html import unescape
from typing import Final
from urllib.parse import urlencode
from uuid import UUID

import aiohttp
from bench import targets
from bench.console_rows import (
    DOOR_REASON,
    LAST_RUN,
    LOOKED_AT,
    RARE_KIND,
    RARE_REASON,
    write_database,
    write_files,
)
from bench.load import FailedError
from bench.report import Bar, Finding
from bench.stage import Stage

from servers.service import SLUG, Service

QUICK: Final = Bar(200, 100, below=True)
ASKED: Final = 60
"""How often each page is asked for in a round."""

ROLES: Final = "receiver,consumer"
RUN: Final = {"tenant": SLUG, "run": LAST_RUN}

PAGES: Final[Mapping[str, tuple[str, Mapping[str, object]]]] = {
    "Now": ("/", {}),
    "tickets by status and age": ("/conversations", {}),
    "closed tickets, the oldest": ("/conversations", {"status": "closed", "age": 4}),
    "found by a common name": ("/conversations", {"find": "joao"}),
    "found by the end of a number": ("/conversations", {"find": "4321"}),
    "found by nothing": ("/conversations", {"find": "nobody has this name"}),
    "a long conversation": ("/conversations/ticket", {"tenant": SLUG, "id": "t0"}),
    "acks of a day": ("/acks", {"hours": 24}),
    "acks of a month": ("/acks", {"hours": 744}),
    "the passport of a ticket": ("/passport", {"find": LOOKED_AT, "kind": "ticket"}),
    "the passport of an event": ("/passport", {"find": UUID(int=1)}),
    "Parked": ("/parked", {}),
    "parked deliveries with a common reason": ("/parked", {"reason": DOOR_REASON}),
    "parked deliveries with a rare reason": ("/parked", {"reason": RARE_REASON}),
    "parked events with a rare reason": ("/parked", {"stage": "fold", "reason": RARE_REASON}),
    "discarded deliveries": ("/parked", {"discarded": 1}),
    "discarded events with a rare reason": ("/parked", {"stage": "fold", "discarded": 1, "reason": RARE_REASON}),
    "a parked delivery and its bytes": ("/parked/one", {"name": UUID(int=1), "bytes": 1}),
    "Repair": ("/repair", {}),
    "what a run found": ("/repair/run", RUN),
    "what a run found of a rare kind": ("/repair/run", {**RUN, "kind": RARE_KIND}),
    "Live": ("/live", {}),
}
"""Each page that is measured, by what a person calls it."""

DIFFERENCE: Final = "a difference"
"""This one is reached from the page of its run, whose link knows when the difference was found."""


async def console(stage: Stage, *, asked: int = ASKED) -> list[Finding]:
    """Time the console's pages with `--events` tickets: of each the 95th percentile, which must be below 200 ms."""
    async with targets.postgres(stage.cores) as server:
        found = await _on_files(stage, asked)
        return found + await _on_postgresql(stage, asked, await targets.database(server))


async def _on_files(stage: Stage, asked: int) -> list[Finding]:
    folder = stage.new_folder()
    made = targets.service(folder, roles=ROLES)
    await _prepared(made, stage)
    write_files(folder, stage.events)
    return await _measured(made, stage, asked, "SQLite")


async def _on_postgresql(stage: Stage, asked: int, url: str) -> list[Finding]:
    made = targets.service(stage.new_folder(), roles=ROLES, database=url)
    targets.upgrade(made)
    await _prepared(made, stage)
    await write_database(url, stage.events)
    return await _measured(made, stage, asked, "PostgreSQL")


async def _prepared(made: Service, stage: Stage) -> None:
    """Let the service make its tables and their first rows."""
    async with targets.running(made, stage.cores.server):
        pass


async def _measured(made: Service, stage: Stage, asked: int, database: str) -> list[Finding]:
    times: dict[str, list[float]] = {name: [] for name in (*PAGES, DIFFERENCE)}
    async with targets.running(made, stage.cores.server), aiohttp.ClientSession(made.private_url) as session:
        pages = {name: f"{path}?{urlencode(query)}" for name, (path, query) in PAGES.items()}
        pages[DIFFERENCE] = await _linked(session, f"/repair/run?{urlencode(RUN)}")
        for _ in range(stage.rounds):
            for name, page in pages.items():
                times[name].append(await _round(session, page, asked))
    about = f"{stage.events} tickets, {database}"
    return [
        Finding("console", f"{name}, {about}", "", values, unit="ms at the 95th percentile", bar=QUICK)
        for name, values in times.items()
    ]


async def _linked(session: aiohttp.ClientSession, page: str) -> str:
    """Return the address to which the page of a run leads for the ticket that is looked at."""
    async with session.get(page) as answer:
        text = await answer.text()
    found = re.search(rf'href="(/repair/difference\?[^"]*&amp;id={LOOKED_AT}&amp;[^"]*)"', text)
    if found is None:
        raise FailedError(f"console: {page} leads to no difference of {LOOKED_AT}")
    return unescape(found[1])


async def _round(session: aiohttp.ClientSession, path: str, asked: int) -> float:
    """Ask for a page so often, one after the other, and return the 95th percentile in milliseconds."""
    took = []
    for _ in range(asked):
        started = time.perf_counter()
        async with session.get(path) as answer:
            await answer.read()
            if answer.status != 200:
                raise FailedError(f"console: {path} is answered with {answer.status}")
        took.append((time.perf_counter() - started) * 1000)
    return statistics.quantiles(took, n=20)[-1]
