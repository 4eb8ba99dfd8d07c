"""Rates as a real server sees them, in virtual time: never more in any minute, never a burst, one pause for all."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest

from servers.metric import sample
from servers.virtual_time import virtual
from whatsms.vendor import MESSAGE, Say, Seen, client_of, html, in_turn, most_in_a_minute, say, talking
from whatsms_events.errors import ConfigError, UpstreamError, UpstreamLimitedError, UpstreamUnavailableError
from whatsms_events.whatsms import Client
from whatsms_events.whatsms.limits import QUOTAS, Budget, Limits
from whatsms_events.whatsms.pages import Place

PAGE = say({"tickets": []})
CAMPAIGN = say({"campaign": {"id": "k"}})
ANSWERS = {"/campaigns": CAMPAIGN, "/tickets/t/messages": say(MESSAGE)}


def documented(seen: Seen) -> Say:
    """Answer each request of these tests."""
    return ANSWERS.get(seen.path, PAGE)


async def times(count: int, call: Callable[[], Awaitable[Any]]) -> None:
    """Do it so often, all at once."""
    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(_done(call))


async def _done(call: Callable[[], Awaitable[Any]]) -> None:
    with contextlib.suppress(UpstreamError):
        await call()


def test_quotas_are_the_vendors_table() -> None:
    """The limits are data, as on the vendor's page."""
    assert [(quota.per_minute, quota.method, quota.template) for quota in QUOTAS] == [
        (300, None, None),
        (60, "POST", "/tickets/{id}/messages"),
        (10, "POST", "/campaigns"),
    ]


@virtual
async def test_requests_are_smooth() -> None:
    """A hundred at once leave one by one: the share of the limit in any minute, at even steps, and nothing is idle."""
    async with talking(PAGE) as (vendor, client):
        await times(500, lambda: client.tickets.page(Place()))
    assert most_in_a_minute(vendor.times) == 240
    steps = [after - at for at, after in pairwise(vendor.times)]
    assert min(steps) == pytest.approx(0.25, abs=0.005)
    assert max(steps) == pytest.approx(0.25, abs=0.005)


@pytest.mark.parametrize("share", [0.8, 1.0])
@virtual
async def test_quotas_are_nested(share: float) -> None:
    """Sending and campaigns keep to their own limits, and count in that of the key, which others still use up."""
    limits = Limits(share=share)
    async with talking(documented, limits=limits) as (vendor, client), asyncio.TaskGroup() as group:
        group.create_task(times(700, lambda: client.tickets.page(Place())))
        group.create_task(times(150, lambda: client.messages.send("t", "Olá")))
        group.create_task(times(20, lambda: client.campaigns.create("n", "m")))
    at = {path: [seen.at for seen in vendor.seen if seen.path == path] for path in ("/tickets", *ANSWERS)}
    assert [len(one) for one in at.values()] == [700, 20, 150]
    assert most_in_a_minute(vendor.times) <= 300 * share + 1e-6
    assert most_in_a_minute(at["/tickets/t/messages"]) <= min(60, 60 * share + 1)
    assert most_in_a_minute(at["/campaigns"]) <= min(10, 10 * share + 1)
    # Reads are not held up by those who wait for a narrow limit.
    assert most_in_a_minute(at["/tickets"]) >= 0.7 * 300 * share
    assert sum(at <= 120 for at in vendor.times) >= 0.98 * 600 * share


@virtual
async def test_clients_of_a_key_share_its_limits() -> None:
    """Two clients with the same limits are one in the eyes of the vendor."""
    limits = Limits()
    async with (
        talking(PAGE, limits=limits) as (vendor, one),
        client_of(vendor, limits=limits) as two,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(times(200, lambda: one.tickets.page(Place())))
        group.create_task(times(200, lambda: two.tickets.page(Place())))
    assert most_in_a_minute(vendor.times) == 240


@virtual
async def test_a_budget_leaves_the_rest_to_others() -> None:
    """A client with a budget stays below it, while another of the same key uses the rest."""
    limits = Limits()
    other_path = "/contacts"
    answers = {"/tickets": PAGE, other_path: say({"contacts": []})}
    async with (
        talking(lambda seen: answers[seen.path], limits=limits) as (vendor, other),
        client_of(vendor, limits=limits, budget=Budget(120)) as mine,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(times(200, lambda: mine.tickets.page(Place())))
        group.create_task(times(220, lambda: other.contacts.page(Place())))
    at = {path: [seen.at for seen in vendor.seen if seen.path == path] for path in answers}
    assert 110 <= most_in_a_minute(at["/tickets"]) <= 115
    assert most_in_a_minute(vendor.times) <= 240
    assert most_in_a_minute(at[other_path]) >= 120


@pytest.mark.parametrize(
    ("budget", "seed"), [(1, 1), (2, 2), (10, 3), *(pytest.param(120, seed, marks=pytest.mark.slow) for seed in (4, 5))]
)
@virtual
async def test_a_budget_is_never_exceeded_whatever_happens(budget: int, seed: int) -> None:
    """In hours of 429s of every kind, 5xx, cut connections, slow answers and cancelled calls, no minute at the server
    holds more requests than the budget, and the budget is used.
    """
    rng = random.Random(seed)
    kinds = [
        lambda: say({}, 429, Retry_After=str(rng.randrange(-5, 300))),
        lambda: say({}, 429, Retry_After="Thu, 15 Jan 2026 10:30:40 GMT", Date="Thu, 15 Jan 2026 10:30:00 GMT"),
        lambda: say({}, 429),
        lambda: html(502),
        lambda: html(200),
        lambda: Say(cut=0),
        lambda: Say(PAGE.body, after_s=rng.uniform(0, 40)),
    ]

    def answers(_seen: Seen) -> Say:
        return rng.choice(kinds)() if rng.random() < 0.15 else PAGE

    async def read(client: Client, count: int) -> None:
        for _ in range(count):
            try:
                async with asyncio.timeout(rng.choice([None, None, 30])):
                    await _done(lambda: client.tickets.page(Place()))
            except TimeoutError:
                pass

    async with talking(answers, budget=Budget(budget)) as (vendor, client):
        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(read(client, min(50, 5 * budget)))
        vendor.answers = in_turn(PAGE)
        began = asyncio.get_running_loop().time()
        await times(budget * 3, lambda: client.tickets.page(Place()))
        calm_s = asyncio.get_running_loop().time() - began
    assert most_in_a_minute(vendor.times) <= budget
    assert vendor.times[-1] > 240
    assert calm_s < 60 * 3 * (1.3 if budget > 10 else 2.1) + 120


@virtual
async def test_who_waited_for_a_connection_leaves_no_burst() -> None:
    """When a server that hung answers again, those who waited meanwhile go out at the usual steps."""

    def answers(_seen: Seen) -> Say:
        return Say(PAGE.body, after_s=29 if len(vendor.seen) <= 12 else 0)

    async with talking(answers, budget=Budget(120)) as (vendor, client):
        await times(200, lambda: client.tickets.page(Place()))
    assert vendor.times[11] > 58
    assert most_in_a_minute(vendor.times) <= 120


@virtual
async def test_a_429_stops_everybody_who_uses_the_key() -> None:
    """After one 429 none of the key's clients sends anything until the pause is over; then they go on smoothly."""
    limits = Limits()
    told = say({}, 429, Retry_After="50")

    def answers(seen: Seen) -> Say:
        return told if len(vendor.seen) == 40 else documented(seen)

    async with (
        talking(answers, limits=limits) as (vendor, one),
        client_of(vendor, limits=limits) as two,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(times(100, lambda: one.tickets.page(Place())))
        group.create_task(times(100, lambda: two.tickets.page(Place())))
        group.create_task(times(5, lambda: two.messages.send("t", "Olá")))
    assert len(vendor.seen) == 206
    steps = [after - at for at, after in pairwise(vendor.times)]
    assert 50 <= steps[39] <= 52
    assert min(steps) > 0.24
    assert max(steps[:39] + steps[40:]) < 2


@pytest.mark.parametrize(("value", "pause"), [("3", 3), ("0", 1), ("86400", 120), (None, 15), ("soon", 15)])
@virtual
async def test_a_pause_is_as_long_as_asked_within_reason(value: str | None, pause: float) -> None:
    """Retry-After is followed between 1 and 120 s; without one, 15 s."""
    told = say({}, 429) if value is None else say({}, 429, Retry_After=value)
    async with talking(in_turn(told, PAGE)) as (vendor, client):
        await client.tickets.page(Place())
    assert pause <= vendor.times[1] - vendor.times[0] <= pause + 1.5


@virtual
async def test_waiting_for_limits_uses_up_no_tries() -> None:
    """A call that waits for an hour behind others still has all its tries, and one lost try is one."""
    limits = Limits(requests_per_minute=2, share=0.5)
    async with talking(in_turn(html(502), html(502), PAGE), limits=limits, attempts=3) as (vendor, client):
        await client.tickets.page(Place())
        assert len(vendor.seen) == 3
        await times(60, lambda: client.tickets.page(Place()))
    assert len(vendor.seen) == 63
    assert vendor.times[-1] > 3600


@virtual
async def test_a_storm_of_429_ends_with_an_error_after_the_last_try() -> None:
    """A key that stays limited is given up: the error says how long the vendor wants peace."""
    async with talking(say({"error": "Limite"}, 429, Retry_After="200"), attempts=4) as (vendor, client):
        with pytest.raises(UpstreamLimitedError) as caught:
            await client.tickets.page(Place())
    assert len(vendor.seen) == 4
    assert (caught.value.retry_after_s, caught.value.text) == (120.0, "Limite")
    assert isinstance(caught.value, UpstreamUnavailableError)


@virtual
async def test_a_shorter_pause_does_not_end_a_longer_one() -> None:
    """Late answers to requests of before the pause shorten nothing."""
    limits, budget = Limits(), Budget()
    loop = asyncio.get_running_loop()
    limits.pause(60)
    limits.pause(5)
    async with limits.turn("GET", "/tickets", budget):
        assert loop.time() == pytest.approx(60, abs=0.1)
    limits.pause(5)
    limits.pause(30)
    async with limits.turn("GET", "/tickets", budget):
        assert loop.time() == pytest.approx(90, abs=0.1)


def value_of(name: str, **labels: str) -> float:
    """Return a metric's value."""
    return sample(name, labels) or 0.0


@virtual
async def test_requests_and_waits_are_counted() -> None:
    """Each try is counted by its outcome, and every second spent waiting."""
    outcomes = ("ok", "limited", "refused", "unavailable")
    name = "whatsms_events_upstream_requests_total"
    waits = "whatsms_events_upstream_wait_seconds_total"
    before = {one: value_of(name, outcome=one) for one in outcomes}
    waited = value_of(waits)
    answers = in_turn(html(502), say({}, 429, Retry_After="30"), PAGE, say({}, 404))
    async with talking(answers) as (_vendor, client):
        await client.tickets.page(Place())
        await times(1, lambda: client.tickets.page(Place()))
    assert {one: value_of(name, outcome=one) - before[one] for one in outcomes} == dict.fromkeys(outcomes, 1)
    assert value_of(waits) - waited == pytest.approx(29.5, abs=1)


@pytest.mark.parametrize("rate", [0, -1])
def test_a_rate_of_nothing_is_refused(rate: int) -> None:
    """A rate at which nothing is ever sent is a ConfigError."""
    with pytest.raises(ConfigError):
        Limits(rate)
    with pytest.raises(ConfigError):
        Limits(share=rate)
    with pytest.raises(ConfigError):
        Budget(rate)
