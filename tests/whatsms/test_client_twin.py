"""The client against the twin's REST half: every endpoint, in each dialect, on good days and on bad ones."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pytest

from servers.virtual_time import virtual
from whatsms.vendor import most_in_a_minute
from whatsms_events.errors import (
    UpstreamInvalidError,
    UpstreamNotFoundError,
    UpstreamPagingError,
    UpstreamUnauthorizedError,
    UpstreamUnavailableError,
    UpstreamUncertainError,
)
from whatsms_events.twin.account import Account
from whatsms_events.twin.dialects import DIALECTS
from whatsms_events.twin.rest.faults import RestFault, RestFaults
from whatsms_events.twin.rest.server import API_KEY, Rest, RestServer
from whatsms_events.twin.world import World
from whatsms_events.whatsms import Client
from whatsms_events.whatsms.limits import Budget, Limits
from whatsms_events.whatsms.pages import Place

pytestmark = pytest.mark.twin

NIF = [{"name": "NIF", "value": "1"}]
START = datetime(2026, 1, 15, 10, 30, tzinfo=UTC)


def lived(dialect: str = "documented", *, webhooks: int = 1500) -> World:
    """Make a world that has lived for a while."""
    world = World(1, start=START, tenant_id="t", dialect=DIALECTS[dialect])
    for _ in islice(world.webhooks(), webhooks):
        pass
    world.pause()
    return world


@asynccontextmanager
async def twin_of(
    world: World, faults: RestFaults | None = None, **options: Any
) -> AsyncIterator[tuple[Account, Rest, Client]]:
    """Serve a world, and open a client of it."""
    rest = Rest(world.account, faults=faults)
    options.setdefault("limits", Limits())
    async with RestServer(rest) as server, Client(server.url, API_KEY, **options) as client:
        yield world.account, rest, client


@pytest.mark.parametrize("dialect", DIALECTS)
@virtual
async def test_lists_show_what_the_twin_holds(dialect: str) -> None:
    """Walks give every ticket, contact, campaign and message once, as it is; ids are text in each dialect."""
    async with twin_of(lived(dialect)) as (account, rest, client):
        tickets = {str(one.id): one async for one in client.tickets.list(page_size=30)}
        contacts = {str(one.id): one async for one in client.contacts.list(page_size=30)}
        campaigns = {str(one.id): one async for one in client.campaigns.list()}
        busiest = max(account.tickets.values(), key=lambda ticket: len(ticket.messages))
        messages = [one async for one in client.messages.list(str(busiest.id), page_size=7)]
        opened = [one async for one in client.tickets.list(status="open")]
        found = [one async for one in client.contacts.list(str(busiest.contact.number))]
        of_one = [one async for one in client.tickets.list(contact_id=str(busiest.contact.id))]
    assert set(tickets) == {str(key) for key in account.tickets}
    assert {key: one.status for key, one in tickets.items()} == {
        str(key): one.status for key, one in account.tickets.items()
    }
    assert {key: one.name for key, one in contacts.items()} == {
        str(key): one.name for key, one in account.contacts.items()
    }
    assert set(campaigns) == {str(key) for key in account.campaigns}
    assert {str(one.id) for one in messages} == {str(message.id) for message in busiest.messages}
    assert {str(one.id) for one in opened} == {key for key, one in tickets.items() if one.status == "open"}
    assert [str(one.id) for one in found] == [str(busiest.contact.id)]
    assert str(busiest.id) in {str(one.id) for one in of_one}
    assert rest.statuses.keys() == {200}


@pytest.mark.parametrize("dialect", DIALECTS)
@virtual
async def test_details_and_writes_are_the_twins(dialect: str) -> None:
    """Each verb does at the twin what it says, and what comes back names it."""
    async with twin_of(lived(dialect)) as (account, rest, client):
        agents = await client.agents.list()
        contact = await client.contacts.create(
            "João", "351910000001", email="j@x.pt", extra_info=[{"name": "NIF", "value": "1"}]
        )
        ticket = await client.tickets.create(str(contact.id), status="open", channel="whatsapp")
        sent = await client.messages.send(str(ticket.id), "Olá 👋")
        reply = await client.messages.send(
            str(ticket.id), "E isto?", media_url="https://x/y.png", media_type="image", quoted_message_id=str(sent.id)
        )
        renamed = await client.contacts.update(str(contact.id), name="João M.", extra_info=[])
        closed = await client.tickets.update(str(ticket.id), status="closed")
        with_agent = await client.agents.assign(str(ticket.id), str(agents[0].id))
        without = await client.agents.assign(str(ticket.id), None)
        campaign = await client.campaigns.create("P", "Olá {{name}}", scheduled_at=START + timedelta(days=1))
        shown = await client.tickets.observe(str(ticket.id))
        known = await client.contacts.get(str(contact.id))
        with pytest.raises(UpstreamNotFoundError):
            await client.contacts.get("404404404")
        with pytest.raises((UpstreamNotFoundError, UpstreamInvalidError)):  # where ids are integers, this is none
            await client.contacts.get("../tickets")
        with pytest.raises(UpstreamInvalidError):
            await client.messages.send(str(ticket.id), "")
        now = account.now
    assert (contact.name, renamed.name, known.name, known.email) == ("João", "João M.", "João M.", "j@x.pt")
    assert (sent.body, sent.from_me) == ("Olá 👋", True)
    assert sent.ack in (0, 1)
    assert reply.id != sent.id
    assert (closed.id, closed.status, shown.value.status) == (ticket.id, "closed", "closed")
    assert with_agent.ai_agent_id == agents[0].id
    assert not without.ai_agent_id
    assert campaign.name == "P"
    assert {str(key) for key in account.tickets} >= {str(ticket.id)}
    assert timedelta() <= now - shown.as_of < timedelta(seconds=2)
    assert rest.message_list_reads == 0


@virtual
async def test_the_twins_limits_are_never_met() -> None:
    """With its own limits, which are the vendor's, a busy client gets no 429."""
    async with twin_of(lived(webhooks=200)) as (account, rest, client):
        ticket = str(next(iter(account.tickets)))

        async def send() -> None:
            for _ in range(25):
                await client.messages.send(ticket, "Olá")

        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(send())
            for _ in range(400):
                group.create_task(client.tickets.page(Place()))
    assert rest.statuses[429] == 0
    assert sum(rest.statuses.values()) == 500


@pytest.mark.parametrize("retry_after", ["seconds", "date", "missing", "absurd"])
@virtual
async def test_a_walk_on_a_bad_day_shows_everything(retry_after: Any) -> None:
    """With 429 storms, 500, HTML, cut and slow answers a list is read whole, within the budget in every minute."""
    faults = RestFaults(
        seed=1,
        bad_date=0.3,
        count_null=0.3,
        slow=0.05,
        limited=0.15,
        error=0.05,
        html_502=0.05,
        html_200=0.05,
        cut=0.05,
        retry_after=retry_after,
        retry_after_s=7,
    )
    async with twin_of(lived(), faults, budget=Budget(120), attempts=10) as (account, rest, client):
        tickets = [str(one.id) async for one in client.tickets.list(page_size=1)]
    assert sorted(tickets) == sorted(str(key) for key in account.tickets)
    assert rest.statuses[429] > 3
    assert most_in_a_minute([seen.at for seen in rest.requests]) <= 120


@virtual
async def test_faults_of_lists_are_noticed() -> None:
    """An ignored page parameter stops the walk; more for ever and a count of null do not."""
    async with twin_of(lived(), RestFaults(has_more=1.0, count_null=1.0)) as (account, rest, client):
        assert len([one async for one in client.tickets.list(page_size=10)]) == len(account.tickets)
        rest.faults = RestFaults(page_ignored=1.0)
        with pytest.raises(UpstreamPagingError, match=r"whatsms\.page_parameter"):
            _ = [one async for one in client.tickets.list(page_size=10)]


@virtual
async def test_single_faults_are_told_apart() -> None:
    """401 in the middle stops, a lost answer to a POST is uncertain, one to a read is tried again."""
    async with twin_of(lived(webhooks=400)) as (account, rest, client):
        ticket = str(next(iter(account.tickets)))
        rest.demand(RestFault.UNAUTHORIZED, 1, after=1)
        with pytest.raises(UpstreamUnauthorizedError):
            _ = [one async for one in client.tickets.list(page_size=5)]
        for fault in (RestFault.CUT, RestFault.HTML_502, RestFault.HTML_200, RestFault.ERROR):
            before = sum(rest.counts.values())
            rest.demand(fault)
            with pytest.raises(UpstreamUncertainError):
                await client.messages.send(ticket, "Olá")
            rest.demand(fault)
            assert (await client.tickets.get(ticket)).id == ticket
            assert sum(rest.counts.values()) == before + 3
        rest.demand(RestFault.LIMITED, 6)
        with pytest.raises(UpstreamUnavailableError):
            await client.tickets.get(ticket)
