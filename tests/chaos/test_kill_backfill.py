"""Promise 7 under fire: `backfill run` is killed in the middle, again and again, and goes on from its checkpoint."""

import asyncio
import json
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from math import ceil
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from servers.compare import LONG, opened, until
from servers.reconciling import KEY, house
from servers.service import SLUG, TENANT, Service
from servers.week import differing, held_by, rows_of
from whatsms_events.twin.rest.limits import RestLimits
from whatsms_events.twin.rest.server import Rest, RestServer
from whatsms_events.twin.world import World

Requests = Counter[tuple[str, str]]
Moments = Mapping[str, Callable[[], bool]]

TICKETS = 10_000 if LONG else 1_500
CONTACTS = 200
COST = 5
"""Requests that all the kills together may cost."""

POLL_S = 0.005

LISTS, DETAILS = ("GET", "/tickets"), ("GET", "/tickets/{id}")

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]


class Run(Service):
    """`backfill run` as a process of its own, which may be killed."""

    def words(self) -> Sequence[str]:
        """Say what to run."""
        return ["backfill", "run", "--tenant", SLUG, "--json", "--config", str(self.config)]

    async def serves(self) -> bool:
        """Tell whether it runs: it listens nowhere."""
        return self.pid is not None

    async def ended(self) -> dict[str, Any]:
        """Wait for its end, and return its report."""
        await until(lambda: self.pid is None, 900, "the end of the run")
        text = (self.folder / "output.log").read_text()
        assert self.status == 0, text[-2000:]
        report: dict[str, Any] = json.loads(text.splitlines()[-1])["report"]
        return report


class Place:
    """An account of many tickets that stands still, its API, and what is in a folder of ours before a run."""

    def __init__(self, tickets: int) -> None:
        self.world = World(1, start=datetime.now(UTC) - timedelta(hours=4), tenant_id=TENANT)
        self.world.pause()
        account = self.world.account
        contacts = [account.add_contact(name=f"C{n}", number=f"{n}", email=None) for n in range(CONTACTS)]
        self.told = list(account.outbox)
        account.outbox.clear()
        for number in range(tickets):
            account.now += timedelta(seconds=1)
            account.open_ticket(contacts[number % CONTACTS], "whatsapp", status="open")
        # Every other ticket is one that nobody told us of.
        self.missed = len(account.outbox[1::2])
        self.told += account.outbox[::2]
        account.outbox.clear()
        self.rest = Rest(account, api_key=KEY, limits=RestLimits(requests=1_000_000))
        self.rest.on_request = self._keep_time

    def _keep_time(self) -> None:
        self.world.account.now = datetime.now(UTC)

    async def take_in(self, folder: Path) -> None:
        """Put what was told into log and projection."""
        async with house(*urls(folder), self.world, rest=self.rest) as here:
            await here.take(self.told)

    def undisturbed(self, page: int) -> Requests:
        """Return what a run that nobody kills asks for: two passes over each list of more than a page, every detail."""
        tickets, contacts = len(self.world.account.tickets), len(self.world.account.contacts)
        walks = 2 * ceil(tickets / page) + 2  # all and open; pending and closed are empty
        lists = {("GET", "/contacts"): 2 * ceil(contacts / page), LISTS: 2 * walks, ("GET", "/campaigns"): 1}
        return Counter({**lists, ("GET", "/contacts/{id}"): contacts, DETAILS: tickets})

    def asked_for(self, wanted: tuple[str, str], count: int) -> Callable[[], bool]:
        """Return what tells that such a thing was asked for so often."""
        return lambda: self.rest.counts[wanted] >= count


def urls(folder: Path) -> tuple[str, str]:
    """Return where log and projection are."""
    return f"sqlite:///{folder / 'log.db'}", f"sqlite:///{folder / 'projection.db'}"


def run_in(folder: Path, url: str, *, details: str = "all", page: int = 100) -> Run:
    """Return a run with a raised budget; not started."""
    settings: Mapping[str, Mapping[str, object]] = {
        "whatsms": {"base_url": url, "requests_per_minute": 60_000},
        "backfill": {
            "requests_per_minute": 60_000,
            "page_size": page,
            "details": details,
            "settle_s": 1,
            "absence_s": 0,
        },
        f"tenants.{SLUG}": {"api_key": KEY},
    }
    return Run(folder, settings=settings)


def asked(folder: Path, query: str) -> int:
    """Ask the log's file for a number, as somebody who looks over its shoulder."""
    with closing(sqlite3.connect(folder / "log.db", timeout=5)) as file:
        return int(file.execute(query).fetchone()[0])


def appending(folder: Path, observed: int) -> Callable[[], bool]:
    """Return what tells that so many are appended and others are found and, for all we know, not appended."""
    done = f"SELECT count(*) >= {observed} FROM event_log WHERE origin = 'backfill'"
    found = "SELECT count(*) FROM backfill_item WHERE state = 'found'"
    return lambda: bool(asked(folder, done) and asked(folder, found))


async def killed(run: Run, moments: Moments) -> dict[str, Any]:
    """Start the run, kill it at each of these moments and start it again; return the last one's report."""
    await run.start()
    for what, reached in moments.items():
        async with asyncio.timeout(600):
            while not reached():
                assert run.pid is not None, f"it ended before: {what}"
                await asyncio.sleep(POLL_S)
        run.signal(signal.SIGKILL)
        await run.kill()
        await run.start()
    return await run.ended()


async def assert_mended(place: Place, folder: Path) -> None:
    """Check that each observation was appended once, and that the projection is the vendor's truth."""
    twice = "SELECT count(*) - count(DISTINCT type || subject) FROM event_log WHERE origin = 'backfill'"
    assert asked(folder, twice) == 0
    assert asked(folder, "SELECT count(*) FROM event_log WHERE origin = 'backfill'") == place.missed
    log, projection = await opened(*urls(folder))
    assert differing(place.world.account, await held_by(projection), messages=False) == {}
    await log.close()
    await projection.close()


def assert_cost_at_most(cost: int, counts: Requests, clean: Requests) -> None:
    """Check what was asked for in all, against a run that nobody killed."""
    more = counts - clean
    assert clean - counts == Counter(), "less was asked for than an undisturbed run asks for"
    assert more.total() <= cost, more


async def test_thousands_of_tickets_go_on_from_the_checkpoint_after_each_kill(tmp_path: Path) -> None:
    """Killed among the lists, among the details and while appending, five times in all: at most five requests more than
    an undisturbed run, counted at the twin; nothing is appended twice, and the projection is the vendor's truth.
    """
    place, folder = Place(TICKETS), tmp_path
    await place.take_in(folder)
    async with RestServer(place.rest) as server:
        report = await killed(
            run_in(folder, server.url),
            {
                "among the lists": place.asked_for(LISTS, TICKETS // 66),
                "among the details": place.asked_for(DETAILS, TICKETS // 4),
                "while appending": appending(folder, TICKETS * 15 // 100),
                "among the details again": place.asked_for(DETAILS, TICKETS * 7 // 10),
                "while appending the last": appending(folder, TICKETS * 4 // 10),
            },
        )
    assert_cost_at_most(COST, place.rest.counts, place.undisturbed(page=100))
    assert report["looked_at"] == {"contact": CONTACTS, "ticket": TICKETS}
    assert sum(one["count"] for one in report["drift"]) == place.missed
    await assert_mended(place, folder)


@pytest.mark.parametrize("details", ["all", "changed"])
async def test_a_killed_run_ends_like_one_that_nobody_killed(tmp_path: Path, details: str) -> None:
    """The same world read by two runs, one undisturbed, one killed three times: the same projection, the same drift,
    and at most a request more for each kill.
    """
    place, counts, reports, rows = Place(400), [], [], []
    (tmp_path / "clean").mkdir()
    await place.take_in(tmp_path / "clean")
    copytree(tmp_path / "clean", tmp_path / "killed")
    for name in ("clean", "killed"):
        folder = tmp_path / name
        place.rest.counts.clear()
        moments: Moments = {
            "among the lists": place.asked_for(LISTS, 60),
            "among the details": place.asked_for(DETAILS, 60),
            "while appending": appending(folder, 0),
        }
        async with RestServer(place.rest) as server:
            run = run_in(folder, server.url, details=details, page=10)
            reports.append(await killed(run, moments if name == "killed" else {}))
        counts.append(place.rest.counts.copy())
        await assert_mended(place, folder)
        rows.append(await shown(folder))
    if details == "all":
        assert counts[0] == place.undisturbed(page=10)
    assert_cost_at_most(len(moments), counts[1], counts[0])
    assert rows[0] == rows[1]
    told = [[(one["entity"], one["kind"], one["count"]) for one in report["drift"]] for report in reports]
    assert told[0] == told[1]


async def shown(folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the projection but for who wrote what when."""
    log, projection = await opened(*urls(folder))
    held = {name: await rows_of(projection, name) for name in ("ticket", "contact")}
    await log.close()
    await projection.close()
    return {
        name: {one: {key: value for key, value in row.items() if key != "versions"} for one, row in rows.items()}
        for name, rows in held.items()
    }
