"""The control endpoint: what it tells, what it sets, what it refuses."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import aiohttp
import pytest

from twin.api import KEY, lived
from whatsms_events.twin.control import Control
from whatsms_events.twin.faults import Faults
from whatsms_events.twin.ledger import Ledger
from whatsms_events.twin.rest.faults import RestFault
from whatsms_events.twin.rest.server import Rest, RestServer
from whatsms_events.twin.sender import Sender
from whatsms_events.twin.world import World

pytestmark = pytest.mark.twin


class Desk:
    """A twin's parts and its control endpoint, over HTTP."""

    def __init__(self, world: World, rest: Rest, sender: Sender, url: str, session: aiohttp.ClientSession) -> None:
        self.world = world
        self.rest = rest
        self.sender = sender
        self._url = url
        self._session = session

    async def get(self) -> Any:
        """Return the state."""
        async with self._session.get(self._url) as response:
            assert response.status == 200
            return await response.json()

    async def post(self, path: str, data: bytes | None = None, json: object = None) -> tuple[int, Any]:
        """Tell the twin something."""
        async with self._session.post(f"{self._url}/{path}", data=data, json=json) as response:
            return response.status, await response.json()


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    """Give a twin whose webhooks nobody gets."""
    async with opened(lived()) as desk:
        yield desk


@asynccontextmanager
async def opened(world: World) -> AsyncIterator[Desk]:
    """Serve the control endpoint of this world."""
    rest = Rest(world.account, api_key=KEY)
    sender = Sender(None, b"secret", Ledger(counts_only=True), faults=Faults(seed=5))
    routes = Control(world, rest, sender).routes()
    async with RestServer(rest, beside=routes) as server, aiohttp.ClientSession() as session:
        yield Desk(world, rest, sender, f"{server.origin}/control", session)


async def test_the_state_tells_clock_entities_webhooks_requests_and_faults(desk: Desk) -> None:
    """Everything that a test of a consumer wants to compare is in one JSON object."""
    state = await desk.get()
    assert state.keys() == {"now", "paused", "entities", "webhooks", "api", "faults"}
    account = desk.world.account
    assert state["now"] == account.now.isoformat(timespec="milliseconds")
    assert state["entities"] == {
        "contacts": len(account.contacts),
        "tickets": len(account.tickets),
        "messages": len(account.messages),
        "campaigns": len(account.campaigns),
    }
    assert state["webhooks"] == {"made": 0, "sent": 0, "pending": 0, "outcomes": {}}
    assert state["api"] == {"requests": {}, "statuses": {}, "message_list_reads": 0}
    assert state["faults"]["api"] == asdict(desk.rest.faults)
    assert state["faults"]["webhooks"] == asdict(desk.sender.faults)


async def test_faults_of_both_halves_are_set_at_run_time(desk: Desk) -> None:
    """What is given takes the place of what was set, the rest stays; demands are added; the answer shows all."""
    given = {
        "webhooks": {"drop": 0.5, "delay_s": 2},
        "api": {"limited": 1, "retry_after": "date"},
        "demand": {"webhooks": {"garbage": 3}, "api": {"html_502": 2}},
    }
    status, answered = await desk.post("faults", json=given)
    assert status == 200
    assert desk.sender.faults == Faults(seed=5, drop=0.5, delay_s=2.0)
    assert (desk.rest.faults.limited, desk.rest.faults.retry_after, desk.rest.faults.slow_s) == (1.0, "date", 2.0)
    assert desk.rest.demanded == {RestFault.HTML_502: 2}
    assert answered == (await desk.get())["faults"]
    assert answered["demanded"] == {"webhooks": {"garbage": 3}, "api": {"html_502": 2}}
    await desk.post("faults", json={"webhooks": {"redeliver": 0.1}})
    assert desk.sender.faults == Faults(seed=5, drop=0.5, delay_s=2.0, redeliver=0.1)
    assert (await desk.post("faults", json={}))[0] == 200


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b'{"webhooks": {"drop": NaN}}', "JSON"),
        (b"[]", "the body"),
        (b'{"drop": 1}', "'drop'"),
        (b'{"webhooks": []}', "webhooks"),
        (b'{"webhooks": {"drop": 1.5}}', "webhooks.drop"),
        (b'{"webhooks": {"drop": -0.1}}', "webhooks.drop"),
        (b'{"webhooks": {"drop": "1"}}', "webhooks.drop"),
        (b'{"webhooks": {"drop": true}}', "webhooks.drop"),
        (b'{"webhooks": {"drop": null}}', "webhooks.drop"),
        (b'{"webhooks": {"drops": 1}}', "'drops'"),
        (b'{"webhooks": {"seed": 1}}', "'seed'"),
        (b'{"webhooks": {"delay_s": 1e300}}', "webhooks.delay_s"),
        (b'{"webhooks": {"reorder_window": 0}}', "webhooks.reorder_window"),
        (b'{"api": {"slow_s": 601}}', "api.slow_s"),
        (b'{"api": {"retry_after": "amanha"}}', "api.retry_after"),
        (b'{"api": {"retry_after_s": 1.5}}', "api.retry_after_s"),
        (b'{"demand": {"api": {"html_502": 0}}}', "demand.api.html_502"),
        (b'{"demand": {"api": {"html_502": 10001}}}', "demand.api.html_502"),
        (b'{"demand": {"api": {"html_502": true}}}', "demand.api.html_502"),
        (b'{"demand": {"api": {"html": 1}}}', "'html'"),
        (b'{"demand": {"api": {"html_502": {"count": 0}}}}', "demand.api.html_502.count"),
        (b'{"demand": {"api": {"html_502": {"after": -1}}}}', "demand.api.html_502.after"),
        (b'{"demand": {"api": {"html_502": {"after": 1.5}}}}', "demand.api.html_502.after"),
        (b'{"demand": {"api": {"html_502": {"behind": 1}}}}', "'behind'"),
        (b'{"demand": {"webhooks": {"garbage": {"count": 1}}}}', "demand.webhooks.garbage"),
        (b'{"demand": {"webhooks": {"bang": 1}}}', "'bang'"),
        (b'{"demand": {"garbage": 1}}', "'garbage'"),
        (b'{"webhooks": {"drop": 1}, "api": {"cut": 2}}', "api.cut"),
    ],
)
async def test_what_cannot_be_set_is_refused_by_name_and_nothing_is_set(desk: Desk, given: bytes, named: str) -> None:
    """The answer is a 400 that names the field, also where another field was right."""
    before = (await desk.get())["faults"]
    status, body = await desk.post("faults", data=given)
    assert (status, body.keys()) == (400, {"error"})
    assert named in body["error"]
    assert (await desk.get())["faults"] == before


async def test_a_fault_comes_after_so_many_requests(desk: Desk) -> None:
    """A 401 in the middle of a walk: so many requests are answered first, then so many fail, then all is well again."""
    status, faults = await desk.post("faults", json={"demand": {"api": {"unauthorized": {"count": 2, "after": 3}}}})
    assert (status, faults["demanded"]["api"]) == (200, {"unauthorized": 2})
    headers = {"Authorization": f"Bearer {KEY}"}
    async with RestServer(desk.rest) as server, aiohttp.ClientSession(headers=headers) as session:
        statuses = [(await session.get(f"{server.url}/contacts")).status for _ in range(7)]
    assert statuses == [200, 200, 200, 401, 401, 200, 200]


async def test_life_is_paused_and_goes_on(desk: Desk) -> None:
    """Pause and resume say what is so now, also when told twice."""
    for path, paused in (("pause", True), ("pause", True), ("resume", False), ("resume", False)):
        assert await desk.post(path) == (200, {"paused": paused})
        assert (await desk.get())["paused"] is paused


async def test_dropped_webhooks_are_counted_while_the_twin_runs() -> None:
    """Told to drop everything for a while, the twin says how many it dropped, and how many it would have sent."""
    async with opened(lived()) as desk:
        stop = asyncio.Event()
        now = desk.world.now

        async def tell() -> None:
            await desk.post("faults", json={"webhooks": {"drop": 1}})
            before = desk.sender.ledger.by_outcome
            async with asyncio.timeout(60):
                while desk.sender.ledger.by_outcome["dropped"] < 20:  # noqa: ASYNC110 - counters have no event
                    await asyncio.sleep(0.02)
            assert desk.sender.ledger.by_outcome["unsent"] == before["unsent"]
            stop.set()

        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(tell())
            await desk.sender.run(desk.world, stop, clock=lambda: now + timedelta(seconds=100 * (loop.time() - began)))
        state = await desk.get()
        assert state["webhooks"]["outcomes"]["dropped"] >= 20
        assert state["webhooks"]["sent"] == 0
        assert state["webhooks"]["made"] == sum(state["webhooks"]["outcomes"].values())
