"""The twin's REST half over real HTTP, as the tests ask it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import aiohttp

from whatsms_events.twin.account import Account
from whatsms_events.twin.dialects import DIALECTS
from whatsms_events.twin.rest.faults import RestFaults
from whatsms_events.twin.rest.limits import RestLimits
from whatsms_events.twin.rest.server import Rest, RestServer
from whatsms_events.twin.world import World

START = datetime(2026, 1, 15, 10, 30, tzinfo=UTC)
TENANT = "6f1d3a52-1111-4222-8333-944445555666"
KEY = "sk_test_of_this_test"
ROOMY = RestLimits(requests=100_000, messages=100_000, campaigns=100_000)

Answer = tuple[int, Any]


@dataclass
class Api:
    """A world, the server of its REST half, and a session with the right key."""

    world: World
    rest: Rest
    server: RestServer
    session: aiohttp.ClientSession

    @property
    def account(self) -> Account:
        """The truth."""
        return self.world.account

    async def ask(self, method: str, path: str, body: object = None, **query: object) -> Answer:
        """Ask; return the status and the JSON."""
        params = {name: str(value) for name, value in query.items()}
        async with self.session.request(method, self.server.url + path, params=params, json=body) as response:
            return response.status, await response.json()

    async def get(self, path: str, **query: object) -> Any:
        """Return the JSON of what has to be there."""
        status, body = await self.ask("GET", path, **query)
        assert status == 200, body
        return body

    async def post(self, path: str, **body: object) -> Answer:
        """Ask for something new."""
        return await self.ask("POST", path, body)

    async def put(self, path: str, **body: object) -> Answer:
        """Ask for a change."""
        return await self.ask("PUT", path, body)


def lived(dialect: str = "documented", *, webhooks: int = 3000, seed: int = 1) -> World:
    """Make a world that has lived for a while."""
    world = World(seed, start=START, tenant_id=TENANT, dialect=DIALECTS[dialect])
    for _ in islice(world.webhooks(), webhooks):
        pass
    world.account.outbox.clear()
    return world


@asynccontextmanager
async def serving(
    world: World | None = None, *, limits: RestLimits = ROOMY, faults: RestFaults | None = None
) -> AsyncIterator[Api]:
    """Serve a world's account."""
    world = world or lived()
    rest = Rest(world.account, api_key=KEY, limits=limits, faults=faults)
    headers = {"Authorization": f"Bearer {KEY}"}
    async with RestServer(rest) as server, aiohttp.ClientSession(headers=headers) as session:
        yield Api(world, rest, server, session)
