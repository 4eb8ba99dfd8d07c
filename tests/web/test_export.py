"""The export of a person by the read API: for whom, one at a time, and within limits."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pytest_aiohttp import AiohttpClient

from servers.people import ANA, ANAS_NUMBER, OTHER_TENANT, TENANT, Story, story
from web.listener import asking, bearer, probes
from whatsms_events.domain.scopes import scopes
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.person import People
from whatsms_events.storage.reads import Queries
from whatsms_events.web.app import private_app
from whatsms_events.web.export import PersonExport


@pytest.fixture
async def told(tmp_path: Path) -> AsyncIterator[Story]:
    """Give the story."""
    async with story(f"sqlite:///{tmp_path / 'log.db'}") as found:
        yield found


async def asked(
    told: Story, aiohttp_client: AiohttpClient, *places: str, scope: str = "read personal", **limits: Any
) -> list[tuple[int, Any]]:
    """Ask a listener for these exports at the same time; return status and answer of each."""
    people, queries = People(told.log, told.projection), Queries(told.log, told.projection)
    tenants = {"shop": TENANT, "other": OTHER_TENANT}
    exports = PersonExport(people, EventLog(told.log), queries, tenants, **limits)
    client = await aiohttp_client(private_app(asking(scopes=scopes(scope)), probes(), exports))

    async def one(place: str) -> tuple[int, Any]:
        async with client.get(f"/api/v1/{place}/export", headers=bearer()) as answer:
            return answer.status, await answer.json(content_type=None)

    return await asyncio.gather(*map(one, places))


async def test_an_export_is_for_the_scope_personal_alone(told: Story, aiohttp_client: AiohttpClient) -> None:
    """Who may only read is refused, and told the scope; of nobody, and of an unknown tenant, there is none."""
    ((status, found),) = await asked(told, aiohttp_client, f"shop/contacts/{ANA}")
    assert (status, found["contact_ids"], found["numbers"]) == (200, [ANA], [ANAS_NUMBER])
    ((status, refused),) = await asked(told, aiohttp_client, f"shop/contacts/{ANA}", scope="read")
    assert (status, refused["scope"]) == (403, "personal")
    for place in ("shop/contacts/nobody", f"nobody/contacts/{ANA}"):
        assert [status for status, _ in await asked(told, aiohttp_client, place)] == [404]
    ((status, other),) = await asked(told, aiohttp_client, f"other/contacts/{ANA}")
    assert (status, len(other["events"]), other["tickets"], other["comparisons"]) == (200, 1, [], [])


async def test_an_export_is_bounded(told: Story, aiohttp_client: AiohttpClient) -> None:
    """One is made at a time; one that is too large or takes too long is refused with the command that has no limit."""
    place = f"shop/contacts/{ANA}"
    assert sorted(status for status, _ in await asked(told, aiohttp_client, place, place)) == [200, 503]
    ((status, refused),) = await asked(told, aiohttp_client, place, limit_bytes=1000)
    assert (status, "more than 1000 bytes: use the command `export`" in refused["detail"]) == (409, True)
    ((status, refused),) = await asked(told, aiohttp_client, place, deadline_s=0)
    assert (status, "more than 0 s" in refused["detail"]) == (409, True)
