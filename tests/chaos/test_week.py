"""Promise 7 at its worst: a week of webhooks dropped, doubled, delayed and reordered, and an API that fails; one
reconcile later the projection is the vendor's truth, and the report names what differed and nothing else.
"""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import stamina
from sqlalchemy import func, select

from servers.compare import LONG, assert_published, assert_replay_differs_in_nothing, opened, until_applied, whole_log
from servers.each_dialect import HARD
from servers.kafka import RunningKafka
from servers.reconciling import ALL, KEY, House, house
from servers.service import SECRET, SLUG, TENANT, Service, command
from servers.week import (
    AFTER,
    WEEK,
    Name,
    acks_differing,
    differing,
    door,
    held_by,
    is_quiet,
    live_a_week,
    live_on,
    week_ago,
)
from whatsms_events.storage import tables
from whatsms_events.storage.database import Database
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.repair.reports import Options
from whatsms_events.twin.account import Account
from whatsms_events.twin.dialects import DIALECTS
from whatsms_events.twin.rest.faults import RestFault, RestFaults
from whatsms_events.twin.rest.limits import RestLimits
from whatsms_events.twin.rest.server import Rest, RestServer
from whatsms_events.twin.world import World
from whatsms_events.whatsms import Client
from whatsms_events.whatsms.limits import Limits
from whatsms_events.whatsms.pages import Place

START = datetime(2026, 5, 1, 8, tzinfo=UTC)
EVERYTHING = Options(details="all", messages="full")
PACE = 0.003 if LONG else 0.001
"""How busy the world is in its week. The checks in `lived` hold that enough happens in the short form, too."""

UNTOLD = 40 if LONG else 20
MOVED_S = 60.0
"""How far the world moves at each request, where it moves."""

OTHERS = sorted(DIALECTS.keys() - {"documented"})
RUNS = [("documented", 1), *((dialect, 10 + n) for n, dialect in enumerate(OTHERS) if LONG or dialect in HARD)]
if LONG:
    RUNS += [("documented", 2), ("documented", 3), *((dialect, 30 + n) for n, dialect in enumerate(OTHERS))]

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]


@pytest.fixture
def _impatient() -> Iterator[None]:
    """Let the client try again at once: how long it waits is proved elsewhere, in virtual time."""
    with stamina.set_testing(True, attempts=8):
        yield


def troubled(account: Account, seed: int) -> Rest:
    """Return an API with small pages that answers 502 and 500 now and then, rarely 429, and cuts connections.

    Each 429 costs a second, the least that a client pauses.
    """
    faults = RestFaults(seed=seed, retry_after_s=0, limited=0.005, html_502=0.02, cut=0.02, error=0.01)
    rest = Rest(account, api_key=KEY, faults=faults, limits=RestLimits(requests=1_000_000))
    rest.page_limit = 10
    return rest


@asynccontextmanager
async def lived(
    folder: Path, dialect: str, seed: int, pace: float = PACE, length: timedelta = WEEK
) -> AsyncIterator[tuple[House, str]]:
    """Give a house whose world lived a week, or so long, that came over HTTP with faults; and the door."""
    world = World(seed, start=START, tenant_id=TENANT, dialect=DIALECTS[dialect], pace=pace)
    rest = troubled(world.account, seed)
    async with house(f"sqlite:///{folder}/log.db", f"sqlite:///{folder}/projection.db", world, rest=rest) as here:
        here.tick_s, here.apply_each = 5, 10
        async with door(here) as url:
            ledger = await live_a_week(world, url, seed=seed, real_s=1.5, length=length)
            counts = ledger.by_outcome
            assert min(counts["accepted"], counts["duplicate"], counts["dropped"]) > 25, counts
            assert not ledger.given_up
            await here.apply()
            assert await out_of_order(here.log) > 25
            yield here, url


def open_untold(here: House, seed: int) -> set[str]:
    """Let people have opened tickets of which no webhook ever told; return their ids."""
    account, draw, untold = here.world.account, random.Random(seed), set[str]()
    for number in range(UNTOLD):
        contact = account.add_contact(name=f"Nova {number}", number=f"35192000{number:04}", email=None)
        ticket = account.open_ticket(contact, "whatsapp", status=draw.choice(("open", "pending", "closed")))
        ticket.created_at = ticket.updated_at = here.now() - WEEK * draw.random()
        untold.add(str(ticket.id))
    account.outbox.clear()
    return untold


def restless(here: House, seed: int) -> None:
    """Let a ticket of the list's second half move to its front at each request, as if somebody looked at it.

    Nothing else of it changes, so that there is a truth to compare with while pages shift under the reader.
    """
    draw, account = random.Random(seed), here.world.account

    def touch() -> None:
        by_change = sorted(account.tickets.values(), key=lambda one: one.updated_at)
        draw.choice(by_change[: len(by_change) // 2]).updated_at = here.now()

    here.rest.on_request = touch


async def one_walk(here: House) -> set[str]:
    """Return the tickets that somebody sees who reads the list once, page by page."""
    shown, place = set[str](), Place()
    async with Client(here.url, KEY, limits=Limits(requests_per_minute=600_000), now=here.now) as client:
        while True:
            page = await client.tickets.page(place)
            shown |= {str(one.id) for one in page.items}
            if page.next is None:
                return shown
            place = page.next


async def moves_away(here: House, untold: set[str]) -> bool:
    """Tell whether a ticket of these moves away from under somebody who reads the list once, in one of a few tries."""
    for _ in range(5):
        if untold - await one_walk(here):
            return True
    return False


async def out_of_order(log: Database) -> int:
    """Count the webhooks that came after one that had happened later."""
    rows = tables.event_log.c
    async with log.read() as connection:
        times = (await connection.execute(select(rows.occurred_at).order_by(rows.position))).scalars().all()
    latest = list(accumulate(times, max))
    return sum(at < before for at, before in zip(times, latest, strict=True))


def forget_some(account: Account) -> None:
    """Let the vendor delete a ticket, a contact with its tickets, and a campaign; nobody is told."""
    account.remove_ticket(next(iter(account.tickets)))
    account.remove_contact(next(reversed(account.contacts)))
    account.remove_campaign(next(iter(account.campaigns)))


async def named(log: Database) -> dict[Name, str]:
    """Return what the report of the last run names, with its kind."""
    drift, runs = tables.backfill_drift.c, tables.backfill_run.c
    query = select(drift.entity, drift.id, drift.kind).where(drift.run == select(func.max(runs.run)).scalar_subquery())
    async with log.read() as connection:
        rows = (await connection.execute(query)).all()
    found = {(row.entity, row.id): row.kind for row in rows}
    assert len(found) == len(rows), "an entity is named twice"
    return found


def assert_names(found: Mapping[Name, str], wanted: Mapping[Name, str], *, restless: bool = False) -> None:
    """Check that exactly these are named, each as what it is; if `restless`, tickets' times change while it reads."""
    assert {one: wanted[one] for one in wanted.keys() - found.keys()} == {}, "differed and were not named"
    unwanted = {one: found[one] for one in found.keys() - wanted.keys()}
    moved = {one: kind for one, kind in unwanted.items() if restless and (one[0], kind) == ("ticket", "unannounced")}
    assert unwanted == moved, "were named and did not differ"
    for one, why in wanted.items():
        # Of a campaign's life no webhook tells but its end.
        allowed = {"unannounced"} if one[0] == "campaign" else set[str]()
        if why in ("missed", "extra", "doubtful"):
            allowed.add(why)
        else:
            quiet = is_quiet(why)
            allowed |= {"stale"} if quiet is not True else set()
            allowed |= {"unannounced", "doubtful"} if quiet is not False else set()
        assert found[one] in allowed, (one, why, found[one])


async def assert_truth(account: Account, projection: Database, *, messages: bool) -> None:
    """Check that the projection is the vendor's truth."""
    held = await held_by(projection)
    assert differing(account, held, messages=messages) == {}
    if messages:
        assert acks_differing(account, held) == {}


async def assert_mends_exactly(here: House, options: Options = EVERYTHING, *, restless: bool = False) -> None:
    """Check that one reconcile makes the projection the truth and names what differed; that another finds nothing.

    If `restless`, the tickets' times change while it reads: the next one, read in peace, mends those.
    """
    account, messages = here.world.account, options.messages == "full"
    wanted = differing(account, await held_by(here.projection), messages=messages)
    report = await here.reconcile(options)
    found = await named(here.log)
    assert_names(found, wanted, restless=restless)
    counts = Counter((entity, kind) for (entity, _), kind in found.items())
    told: Counter[tuple[str, str]] = Counter()
    for one in report.drift:
        told[one.entity, one.kind] += one.count
    assert told == counts
    assert (report.unsettled, report.unstable) == (0, ())
    if restless and account.dialect.updated_at:  # else nobody sees them change
        left = differing(account, await held_by(here.projection), messages=messages)
        assert set(left.values()) == {"updated_at"}
        here.rest.on_request = lambda: None
        await here.reconcile(options)
        assert set((await named(here.log)).values()) == {"unannounced"}
    await assert_truth(account, here.projection, messages=messages)
    end = await EventLog(here.log).end()
    again = await here.reconcile(options)
    assert (again.drift, again.unsettled) == ([], 0)
    assert await EventLog(here.log).end() == end


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize(("dialect", "seed"), RUNS)
async def test_after_one_reconcile_all_is_as_the_vendor_has_it(tmp_path: Path, dialect: str, seed: int) -> None:
    """After a bad week one reconcile, of an API that fails and whose items move between pages, makes tickets, contacts,
    campaigns, messages and acks the vendor's; the report names exactly the entities whose state differed; another run
    finds nothing and appends nothing. A replay of the whole week makes the very same tables.
    """
    async with lived(tmp_path, dialect, seed) as (here, _url):
        forget_some(here.world.account)
        untold = open_untold(here, seed)
        restless(here, seed)
        assert await moves_away(here, untold), "nothing moved away from under the reader"
        here.rest.demand(RestFault.LIMITED, after=20)
        here.rest.demand(RestFault.HTML_502, after=20)
        wanted = differing(here.world.account, await held_by(here.projection), messages=True)
        assert {"ticket", "contact", "campaign", "message"} == {entity for entity, _ in wanted}
        await assert_mends_exactly(here, restless=True)
        await assert_replay_differs_in_nothing(here.log, here.projection)
        statuses = here.rest.statuses
        assert statuses[429], statuses
        assert statuses[502], statuses


@pytest.mark.usefixtures("_impatient")
async def test_with_default_settings_no_list_of_messages_is_read(tmp_path: Path) -> None:
    """Reading them may send read receipts: the week is mended but for messages, and the twin counts no such read."""
    async with lived(tmp_path, "documented", 4) as (here, _url):
        assert Options() == ALL
        await assert_mends_exactly(here, Options())
        assert here.rest.message_list_reads == 0


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize(("dialect", "seed"), [("documented", 5), *([("seconds", 6)] if LONG else [])])
async def test_people_live_on_while_it_reads(tmp_path: Path, dialect: str, seed: int) -> None:
    """While the reconcile reads, people live on: items move between pages, webhooks of what was just read come late, in
    another order or never. Once all is quiet a last run names exactly what still differs, and mends it.
    """
    async with lived(tmp_path, dialect, seed, 0.02 if LONG else 0.01, timedelta(days=1)) as (here, url):
        here.apply_each = 1  # the clock moves fast
        world, stop = here.world, asyncio.Event()
        world.resume()

        def move() -> None:
            # What it says is put back for the sender, which follows the clock.
            world.account.outbox.extend(world.advance(world.now + timedelta(seconds=MOVED_S)))

        async with asyncio.TaskGroup() as tasks:
            sending = tasks.create_task(live_on(world, url, stop, seed=-seed))
            here.rest.on_request = move
            await here.reconcile(EVERYTHING, limit_s=30 * 86_400)
            here.rest.on_request = lambda: None
            world.pause()
            world.account.outbox.extend(world.advance(world.now + AFTER))
            stop.set()
        assert sending.result().by_outcome["accepted"] > 30, "the world hardly moved"
        await here.apply()
        await assert_mends_exactly(here)


@pytest.mark.usefixtures("_impatient")
async def test_the_same_with_processes_on_postgresql_and_kafka(
    postgres_url: str, kafka: RunningKafka, topic_prefix: str, tmp_path: Path
) -> None:
    """A service of its own, PostgreSQL and Kafka, and `backfill run`: the same truth, the same names, and
    read_committed consumers see each observation once. A replay of the week differs in nothing and is swapped in.
    """
    world = World(7, start=week_ago() - timedelta(minutes=1), tenant_id=TENANT, pace=0.005 if LONG else 0.0015)
    rest = Rest(world.account, api_key=KEY, limits=RestLimits(requests=1_000_000))
    rest.page_limit = 10
    async with RestServer(rest) as server:
        service = Service(tmp_path / "service", settings=of_a_fleet(postgres_url, kafka, topic_prefix, server.url))
        command(service, "db", "upgrade")
        command(service, "topics", "create")
        await service.start()
        ledger = await live_a_week(world, service.webhook_url, seed=7, real_s=3, secret=SECRET.encode())
        assert not ledger.given_up
        forget_some(world.account)

        def keep_time() -> None:
            world.advance(datetime.now(UTC))

        rest.on_request = keep_time
        log, projection = await opened(postgres_url, postgres_url)
        await until_applied(log, projection, 60)
        wanted = differing(world.account, await held_by(projection), messages=True)
        for fault in (RestFault.LIMITED, RestFault.HTML_502, RestFault.CUT):
            rest.demand(fault, after=50)
        words = ("backfill", "run", "--tenant", SLUG, "--messages", "full", "--json")
        report = json.loads(await asyncio.to_thread(command, service, *words))
        assert sum(one["count"] for one in report["report"]["drift"]) == len(wanted)
        assert_names(await named(log), wanted)
        await assert_truth(world.account, projection, messages=True)
        end = await EventLog(log).end()
        again = json.loads(await asyncio.to_thread(command, service, *words))
        assert again["report"]["drift"] == []
        assert await EventLog(log).end() == end
        await until_applied(log, projection, 60)
        replay = ("replay", "projection", "--go", "--swap", "--json")
        replayed = json.loads(await asyncio.to_thread(command, service, *replay))
        assert (replayed["differs"], replayed["swapped"]) == (False, True)
        await assert_truth(world.account, projection, messages=True)
        await service.stop()
    assert_published(kafka.bootstrap, topic_prefix, await whole_log(log), await EventLog(log).log_id())
    await log.close()
    await projection.close()


def of_a_fleet(database_url: str, kafka: RunningKafka, prefix: str, api_url: str) -> dict[str, dict[str, Any]]:
    """Return the settings of a service on these servers that reads this API without waiting for anything."""
    return {
        "database": {"url": database_url},
        "kafka": {"bootstrap_servers": kafka.bootstrap, "topic_prefix": prefix, "partitions": 4},
        "whatsms": {"base_url": api_url, "requests_per_minute": 60_000},
        "backfill": {"requests_per_minute": 60_000, "settle_s": 0.5, "absence_s": 0.5},
        f"tenants.{SLUG}": {"api_key": KEY},
    }
