"""The three nested limits of a key, in sliding windows of the loop's time."""

import asyncio
from email.utils import parsedate_to_datetime
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from servers.virtual_time import virtual
from twin.api import Api, serving
from whatsms_events.twin.rest.faults import RestFaults
from whatsms_events.twin.rest.limits import CAMPAIGNS, SENDING, RestLimits, Windows

SCOPES = st.sampled_from([("GET", "/tickets"), SENDING, CAMPAIGNS])


@given(st.lists(st.tuples(SCOPES, st.floats(0, 40)), max_size=60))
def test_no_window_has_more_than_the_limits(asked: list[tuple[tuple[str, str], float]]) -> None:
    """Whatever is asked when, in any 60 s no more than 5 requests, 3 messages and 2 campaigns are let in."""
    windows = Windows(RestLimits(requests=5, messages=3, campaigns=2))
    now = 0.0
    taken: list[tuple[tuple[str, str], float]] = []
    for scope, pause_s in asked:
        now += pause_s
        wait_s = windows.take(*scope, now)
        if not wait_s:
            taken.append((scope, now))
            continue
        assert 1 <= wait_s <= 60
    for scopes, limit in (({("GET", "/tickets"), SENDING, CAMPAIGNS}, 5), ({SENDING}, 3), ({CAMPAIGNS}, 2)):
        times = [at for scope, at in taken if scope in scopes]
        assert all(later - earlier >= 60 for earlier, later in zip(times, times[limit:], strict=False))


def test_who_waits_as_told_is_let_in() -> None:
    """After the seconds of the refusal there is room, and a refusal itself takes none."""
    windows = Windows(RestLimits(requests=3))
    assert [windows.take("GET", "/contacts", at) for at in (0.0, 10.5, 20.0)] == [0, 0, 0]
    assert windows.take("GET", "/contacts", 20.0) == 40
    assert windows.take("GET", "/contacts", 59.9) == 1
    assert windows.take("GET", "/contacts", 60.0) == 0
    assert windows.take("GET", "/contacts", 60.0) == 11
    assert Windows(RestLimits(requests=0)).take("GET", "/contacts", 0.0) == 60


async def statuses(
    api: Api, count: int, method: str = "GET", path: str = "/ai-agents", body: object = None
) -> list[int]:
    """Ask so often; give the statuses."""
    return [(await api.ask(method, path, body))[0] for _ in range(count)]


@virtual
async def test_the_vendors_limits_hold_over_http() -> None:
    """300 requests, 60 messages and 10 campaigns a minute and not one more; a minute later there is room again."""
    async with serving(limits=RestLimits()) as api:
        ticket_id = next(iter(api.account.tickets))
        campaign = {"name": "Verão", "message": "Olá"}
        for _ in range(2):
            assert await statuses(api, 11, "POST", "/campaigns", campaign) == [201] * 10 + [429]
            sent = await statuses(api, 61, "POST", f"/tickets/{ticket_id}/messages", {"body": "Olá"})
            assert sent == [201] * 60 + [429]
            assert await statuses(api, 231) == [200] * 230 + [429]
            await asyncio.sleep(61)
        times = [seen.at for seen in api.rest.requests if seen.status != 429]
        assert len(times) == 600
        assert all(later - earlier >= 60 for earlier, later in zip(times, times[300:], strict=False))
        assert all(earlier <= later for earlier, later in pairwise(times))


@virtual
async def test_a_429_says_when_to_come_again() -> None:
    """`Retry-After` is the time until there is room: in seconds, as a date by `Date`, missing or absurd as told."""
    limits = RestLimits(requests=1)
    async with serving(limits=limits, faults=RestFaults(retry_after="seconds")) as api:
        assert await statuses(api, 1) == [200]
        await asyncio.sleep(15)
        async with api.session.get(api.server.url + "/ai-agents") as response:
            assert response.status == 429
            assert response.headers["Retry-After"] == "45"
            assert (await response.json())["error"].startswith("Limite de pedidos atingido")
        api.rest.faults.retry_after = "date"
        async with api.session.get(api.server.url + "/ai-agents") as response:
            until = parsedate_to_datetime(response.headers["Retry-After"])
            assert (until - parsedate_to_datetime(response.headers["Date"])).total_seconds() == 45
        api.rest.faults.retry_after = "missing"
        async with api.session.get(api.server.url + "/ai-agents") as response:
            assert "Retry-After" not in response.headers
        api.rest.faults.retry_after = "absurd"
        told = set()
        for _ in range(40):
            async with api.session.get(api.server.url + "/ai-agents") as response:
                told.add(response.headers["Retry-After"])
        assert told == {"86400000", "-1", "1e9", "daqui a pouco", ""}
        api.rest.limits = RestLimits(requests=2)
        assert await statuses(api, 2) == [200, 429]


@virtual
async def test_who_has_no_key_takes_no_room() -> None:
    """Limits are of the key: a stranger's requests do not use them up."""
    async with serving(limits=RestLimits(requests=1)) as api:
        for _ in range(5):
            async with api.session.get(api.server.url + "/tickets", headers={"Authorization": "Bearer x"}) as response:
                assert response.status == 401
        assert await statuses(api, 2) == [200, 429]
