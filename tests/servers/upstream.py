"""An account at an offline WhatSMS, with a past that no webhook told of, and what a service needs to read it."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from servers.ports import HOST
from servers.service import SECRET, SLUG, TENANT
from whatsms_events.twin.rest.limits import RestLimits
from whatsms_events.twin.rest.server import Rest, RestServer
from whatsms_events.twin.world import World

KEY: Final = "sk_test_of_the_service"
FAST: Final = 60_000

Sections = dict[str, dict[str, object]]


@dataclass(frozen=True, slots=True)
class Account:
    """The account, its REST API, and the configuration that finds it."""

    world: World
    rest: Rest
    url: str
    config: str

    @property
    def entities(self) -> int:
        """Count what a reconcile looks at."""
        account = self.world.account
        return len(account.tickets) + len(account.contacts) + len(account.campaigns)


def sections(url: str, *, key: str = KEY, backfill: Mapping[str, object] | None = None) -> Sections:
    """Return the sections of a configuration that reads this REST API without waiting for anything."""
    return {
        "whatsms": {"base_url": url, "requests_per_minute": FAST},
        "backfill": {"requests_per_minute": FAST, "settle_s": 0, "absence_s": 0, **(backfill or {})},
        f"tenants.{SLUG}": {"api_key": key},
    }


def toml(url: str) -> str:
    """Return the same as a file, with a tenant."""
    given = sections(url) | {"public": {"host": HOST, "port": 0}, "private": {"port": 0}}
    given[f"tenants.{SLUG}"]["tenant_id"] = TENANT
    given[f"tenants.{SLUG}.webhook_secrets"] = {"current": SECRET}
    lines = [
        f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
        for name, values in given.items()
    ]
    return "\n".join(lines)


@asynccontextmanager
async def account(seed: int = 11, minutes: float = 30) -> AsyncIterator[Account]:
    """Give an account that stands still, with a past that nobody was told of."""
    world = World(seed, start=datetime.now(UTC) - timedelta(minutes=minutes), tenant_id=TENANT, pace=2)
    world.advance(datetime.now(UTC))
    rest = Rest(world.account, api_key=KEY, limits=RestLimits(requests=FAST))
    async with RestServer(rest) as server:
        yield Account(world, rest, server.url, toml(server.url))
