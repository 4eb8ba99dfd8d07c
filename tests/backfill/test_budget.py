"""Promise 7 in the vendor's eyes: a backfill keeps to its budget, whatever it is answered, and gives way.

Measured at the twin, in time that is controlled and not slept.
"""

import asyncio
import contextlib
from bisect import bisect_left
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from servers.compare import LONG
from servers.held_time import held, held_time, hold_databases
from servers.reconciling import ALL, KEY, House, differences, house, truth
from servers.virtual_time import virtual
from whatsms_events.backfill.worker import Backfill
from whatsms_events.config.settings import Settings
from whatsms_events.domain.verdicts import Append
from whatsms_events.errors import UpstreamError
from whatsms_events.service.upstream import Upstream
from whatsms_events.storage.log.commit import Outcome
from whatsms_events.twin.rest.faults import RestFault, RestFaults
from whatsms_events.twin.rest.limits import RestLimits
from whatsms_events.twin.rest.server import Rest, RestServer
from whatsms_events.twin.world import World
from whatsms_events.whatsms import Client
from whatsms_events.whatsms.limits import Budget, Limits
from whatsms_events.whatsms.pages import Place

pytestmark = pytest.mark.twin

START = datetime(2026, 5, 1, 8, tzinfo=UTC)
TENANT = "5f0c9a52-7d0f-4f0e-9c1f-2d6a5b1b7a10"
BUDGET = 120
READING_S = 5400 if LONG else 1800
"""The default of `backfill.requests_per_minute`."""


def most_in_a_minute(times: Sequence[float]) -> int:
    """Return the most requests in any 60 s."""
    return max((bisect_left(times, begin + 60) - index for index, begin in enumerate(times)), default=0)


def at(rest: Rest, *statuses: int) -> list[float]:
    """Return when requests came, all or those that were answered so; 0 is none at all."""
    return [seen.at for seen in rest.requests if not statuses or seen.status in statuses]


class Clocked(House):
    """A house that lives by the loop's clock; what waits for a thread holds it."""

    def now(self) -> datetime:
        """Return the time, and set the vendor's clock by it."""
        self.keep_time()
        return self.world.now

    def keep_time(self) -> None:
        """Set the vendor's clock."""
        self.world.account.now = START + timedelta(hours=1, seconds=asyncio.get_running_loop().time())

    async def tick(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    async def apply(self) -> None:
        """Bring the projection up to the log's end."""
        with held():
            await super().apply()

    async def _submit(self, item: Append) -> Outcome:
        with held():
            return await super()._submit(item)


@asynccontextmanager
async def backfilling(
    folder: Path, tickets: int, faults: RestFaults, limits: Limits
) -> AsyncIterator[tuple[Clocked, Backfill]]:
    """Give an account with so many tickets that nobody told us of, and a backfill that is asked to find them."""
    world = World(1, start=START, tenant_id=TENANT)
    world.pause()
    account = world.account
    contact = account.add_contact(name="Ana", number="351910000000", email=None)
    for _ in range(tickets):
        account.now += timedelta(seconds=1)
        account.open_ticket(contact, "whatsapp")
    account.outbox.clear()
    rest = Rest(account, api_key=KEY, faults=faults)
    async with AsyncExitStack() as stack:
        urls = (f"sqlite:///{folder}/log.db", f"sqlite:///{folder}/projection.db")
        with held():
            here = await stack.enter_async_context(house(*urls, world, rest=rest, kind=Clocked))
        assert isinstance(here, Clocked)
        rest.limits, rest.on_request = RestLimits(), here.keep_time
        here.apply_each = 50
        backfill = here.backfill(limits=limits, budget=Budget(BUDGET))
        stack.push_async_callback(backfill.close)
        backfill.ask("reconcile", "command", ALL)
        yield here, backfill


@asynccontextmanager
async def talking(rest: Rest, *budgets: int | None) -> AsyncIterator[tuple[Client, ...]]:
    """Give open clients of one key with these budgets; time is virtual."""
    limits = Limits()
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(RestServer(rest))
        clients = [Client(server.url, KEY, limits=limits, budget=Budget(budget)) for budget in budgets]
        yield tuple([await stack.enter_async_context(client) for client in clients])


def account_of(tickets: int) -> Rest:
    """Return the API of an account with so many tickets that stands still."""
    world = World(1, start=START, tenant_id=TENANT)
    contact = world.account.add_contact(name="Ana", number="351910000000", email=None)
    for _ in range(tickets):
        world.account.open_ticket(contact, "whatsapp")
    return Rest(world.account, api_key=KEY)


async def read_as_a_backfill(client: Client, ids: Sequence[str], seconds: float) -> None:
    """Read list and details one after the other, as a backfill does, for so long; what fails for good is left."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end:
        with contextlib.suppress(UpstreamError):
            place: Place | None = Place()
            while place is not None:
                place = (await client.tickets.page(place, page_size=20)).next
        for one in ids:
            with contextlib.suppress(UpstreamError):
                await client.tickets.observe(one)


@held_time
async def test_a_backfill_keeps_to_its_budget_whatever_it_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole backfill that meets 429, 502 and cut connections: no 60 s at the twin hold more than the budget, retries
    included; after each 429 nothing is sent until its time is over; and it ends with the truth.
    """
    hold_databases(monkeypatch)
    faults = RestFaults(seed=1, limited=0.004, html_502=0.02, cut=0.02, retry_after_s=40)
    async with backfilling(tmp_path, 500, faults, Limits()) as (here, backfill):
        await here.drive(backfill)
        sent, refused = at(here.rest), at(here.rest, 429)
        assert most_in_a_minute(sent) <= BUDGET
        assert most_in_a_minute(sent) > 0.9 * BUDGET, "the budget is not used"
        assert sent[-1] - sent[0] > 4 * 60
        assert refused, "no 429 came"
        assert at(here.rest, 502), "no 502 came"
        assert_gives_way(sent, refused, 40)
        assert not differences(await here.held("ticket"), truth(here.world)["ticket"])


@held_time
async def test_it_gives_way_to_others_who_use_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else takes 220 of the vendor's 300 requests a minute: the vendor refuses, the backfill stays within its
    budget, waits as long as it is told after each 429, and ends all the same.
    """
    hold_databases(monkeypatch)
    async with backfilling(tmp_path, 400, RestFaults(), Limits()) as (here, backfill):
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(greedy(here.url, 220, stop))
            await here.drive(backfill)
            stop.set()
        ours = [seen for seen in here.rest.requests if seen.template != AGENTS]
        refused = [seen.at for seen in ours if seen.status == 429]
        sent = [seen.at for seen in ours]
        assert refused, "the vendor never refused us"
        assert most_in_a_minute(sent) <= BUDGET
        assert_gives_way(sent, refused, 1)
        assert len(refused) < len(ours) / 20, "it runs into the limit again and again"
        assert most_in_a_minute([seen.at for seen in here.rest.requests if seen.status == 200]) <= 300
        assert not differences(await here.held("ticket"), truth(here.world)["ticket"])


@pytest.mark.slow
@virtual
async def test_for_long_no_minute_holds_more_than_the_budget() -> None:
    """Pages and details for half an hour, or longer, with every failure there is: no 60 s hold more than the budget."""
    rest = account_of(50)
    rest.faults = RestFaults(
        seed=2, limited=0.003, error=0.01, html_502=0.01, html_200=0.01, cut=0.01, retry_after_s=30
    )
    async with talking(rest, BUDGET) as (client,):
        await read_as_a_backfill(client, ids_of(rest), READING_S)
    sent = at(rest)
    assert sent[-1] - sent[0] > READING_S - 100
    assert most_in_a_minute(sent) <= BUDGET
    assert len(sent) > 0.6 * READING_S / 60 * BUDGET
    assert_gives_way(sent, at(rest, 429), 30)


@virtual
async def test_all_who_have_the_key_share_its_pause() -> None:
    """A 429 that the backfill gets keeps the watchdog's client from asking too, and the other way round."""
    rest = account_of(5)
    rest.faults.retry_after_s = 50
    async with talking(rest, BUDGET, None) as (backfill, other):
        for first, second in ((backfill, other), (other, backfill)):
            rest.demand(RestFault.LIMITED)
            before = len(rest.requests)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(read_as_a_backfill(first, ids_of(rest), 5))
                await asyncio.sleep(1)
                tasks.create_task(read_as_a_backfill(second, ids_of(rest), 5))
            times = [seen.at for seen in rest.requests][before:]
            (refused,) = [seen.at for seen in rest.requests if seen.status == 429][-1:]
            assert refused == times[0]
            assert_gives_way(times, [refused], 50)


AGENTS = "/ai-agents"


async def greedy(url: str, per_minute: float, stop: asyncio.Event) -> None:
    """Use the key as somebody's script does, which cares for no answer."""
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session:
        while not stop.is_set():
            async with session.get(url + AGENTS):
                await asyncio.sleep(60 / per_minute)


def ids_of(rest: Rest) -> list[str]:
    """Return the ids of the account's tickets."""
    return [str(one) for one in rest.account.tickets]


def assert_gives_way(sent: Sequence[float], refused: Sequence[float], seconds: float) -> None:
    """Check that after each 429 nothing was sent for so long."""
    for moment in refused:
        after = [one for one in sent if one > moment]
        assert not after or after[0] - moment >= seconds, f"{after[0] - moment:.1f} s after a 429"


@virtual
async def test_backfill_and_watchdog_of_a_tenant_share_the_budget() -> None:
    """Both ask as fast as they may, with the clients that a service gives them: together they stay within it."""
    rest = account_of(20)
    nowhere: Any = None  # no database is asked
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(RestServer(rest))
        tenant: Any = {"tenant_id": TENANT, "api_key": KEY, "webhook_secrets": {"current": "whsec-tests-only"}}
        whatsms: Any = {"base_url": server.url}
        upstream = Upstream(Settings(whatsms=whatsms, tenants={"acme": tenant}), nowhere, nowhere)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(2):
                client = await stack.enter_async_context(upstream.client("acme"))
                tasks.create_task(read_as_a_backfill(client, ids_of(rest), 600))
    assert most_in_a_minute(at(rest)) <= BUDGET
    assert len(at(rest)) > 0.8 * 10 * BUDGET
