"""Faults of the REST half: each one as a client sees it, on demand and by share."""

import asyncio
from collections import Counter

import aiohttp
import pytest

from servers.virtual_time import virtual
from twin.api import Api, lived, serving
from whatsms_events.twin.rest.faults import FINAL, OF_ITEMS, OF_LISTS, Mishaps, RestFault, RestFaults
from whatsms_events.twin.rest.ids import outer_id

HALVES = RestFaults(seed=3, limited=0.2, cut=0.2, count_null=0.3, bad_date=0.1)


async def status(api: Api, path: str = "/contacts") -> int:
    """Ask once; 0 where the connection broke."""
    try:
        async with api.session.get(api.server.url + path) as response:
            await response.read()
            return response.status
    except aiohttp.ClientPayloadError:
        return 0


async def test_the_page_parameter_can_be_ignored() -> None:
    """Every page is then the first one, and there is always more."""
    async with serving(faults=RestFaults(page_ignored=1.0)) as api:
        pages = [await api.get("/tickets", page=number, limit=5) for number in (1, 2, 99)]
        assert pages[0] == pages[1] == pages[2]
        assert pages[0]["hasMore"] is True


async def test_there_can_be_more_for_ever() -> None:
    """`hasMore` is then true on the last page, and on the empty ones behind it."""
    async with serving(faults=RestFaults(has_more=1.0)) as api:
        beyond = await api.get("/contacts", page=1000)
        assert (beyond["contacts"], beyond["hasMore"]) == ([], True)
        assert beyond["count"] == len(api.account.contacts)


async def test_the_count_can_be_null() -> None:
    """The number of entities is then not told; all else is."""
    async with serving() as api:
        api.rest.demand(RestFault.COUNT_NULL)
        first, second = await api.get("/contacts"), await api.get("/contacts")
        assert first == second | {"count": None}


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (RestFault.UNAUTHORIZED, 401),
        (RestFault.FORBIDDEN, 403),
        (RestFault.LIMITED, 429),
        (RestFault.ERROR, 500),
        (RestFault.HTML_502, 502),
        (RestFault.HTML_200, 200),
        (RestFault.CUT, 0),
    ],
)
async def test_a_demanded_fault_comes_so_often_and_in_the_middle(fault: RestFault, expected: int) -> None:
    """It befalls as many requests as were asked for, after as many as were to pass; then all is well again."""
    async with serving() as api:
        api.rest.demand(fault, 2, after=1)
        assert api.rest.demanded == {fault: 2}
        got = [await status(api, path) for path in ("/contacts", "/ai-agents", "/tickets", "/campaigns")]
        assert got == [200, expected, expected, 200]
        assert not api.rest.demanded
        assert [seen.status for seen in api.rest.requests] == got


async def test_errors_are_json_in_portuguese_and_proxies_speak_html() -> None:
    """Our own faults have the vendor's body; a proxy's page is HTML, also with status 200."""
    async with serving() as api:
        for fault in (RestFault.UNAUTHORIZED, RestFault.FORBIDDEN, RestFault.LIMITED, RestFault.ERROR):
            api.rest.demand(fault)
            _, body = await api.ask("GET", "/tickets")
            assert body.keys() == {"error"}
        for fault in (RestFault.HTML_502, RestFault.HTML_200):
            api.rest.demand(fault)
            async with api.session.get(api.server.url + "/tickets") as response:
                assert response.content_type == "text/html"
                assert (await response.text()).startswith("<html>")


async def test_a_write_is_done_where_only_its_answer_is_lost() -> None:
    """A 502, an HTML page and a cut connection leave the message sent; 401, 403, 429 and 500 leave nothing."""
    async with serving() as api:
        ticket = next(iter(api.account.tickets.values()))
        for fault in sorted(FINAL - OF_ITEMS):
            before = len(ticket.messages)
            api.rest.demand(fault)
            try:
                async with api.session.post(api.server.url + f"/tickets/{ticket.id}/messages", json={"body": "x"}):
                    pass
            except aiohttp.ClientPayloadError:
                pass
            done = len(ticket.messages) - before
            assert done == (fault in {RestFault.HTML_502, RestFault.HTML_200, RestFault.CUT}), fault


async def test_a_cut_answer_is_short() -> None:
    """The head says how long the answer is, half of it comes, and then the connection is closed."""
    async with serving() as api:
        api.rest.demand(RestFault.CUT)
        async with api.session.get(api.server.url + "/tickets") as response:
            assert response.status == 200
            assert int(response.headers["Content-Length"]) > 1000
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()
        assert await status(api) == 200


async def test_the_date_can_be_unreadable() -> None:
    """`Date` is then no date."""
    async with (
        serving(faults=RestFaults(bad_date=1.0)) as api,
        api.session.get(api.server.url + "/tickets") as response,
    ):
        assert response.headers["Date"] == "ontem"


@virtual
async def test_an_answer_can_be_slow_and_is_then_old() -> None:
    """It is made at once and sent later: what changed meanwhile is not in it, and `Date` is that of the sending."""
    async with serving(faults=RestFaults(slow_s=25.0)) as api:
        api.rest.demand(RestFault.SLOW)
        loop = asyncio.get_running_loop()
        ticket = next(iter(api.account.tickets.values()))
        ticket.status = "open"
        began = loop.time()

        async def close_meanwhile() -> None:
            await asyncio.sleep(10)
            ticket.status = "closed"

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(close_meanwhile())
            shown = await api.get(f"/tickets/{ticket.id}")
        assert shown["ticket"]["status"] == "open"
        assert 25 <= loop.time() - began < 26


async def test_a_slow_answer_does_not_hold_up_the_end() -> None:
    """When the server stops, answers that wait are sent at once."""
    async with serving(faults=RestFaults(slow=1.0, slow_s=500.0)) as api:

        async def asked() -> None:
            assert await status(api) == 200

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asked())
            async with asyncio.timeout(60):
                while not api.rest.requests:  # noqa: ASYNC110 - nothing tells that the server has read a request
                    await asyncio.sleep(0.01)
            api.rest.close()


async def test_shares_are_met_and_repeat_with_the_seed() -> None:
    """Over many requests each fault has its share, at run time another one, and the same seed draws the same faults."""
    requests = 400

    async def drawn() -> list[int]:
        async with serving(lived(webhooks=50), faults=RestFaults(seed=7, limited=0.3, error=0.2)) as api:
            first = [await status(api, "/ai-agents") for _ in range(requests)]
            api.rest.faults.limited = 0.0
            second = [await status(api, "/ai-agents") for _ in range(requests)]
            assert 429 not in second
            return first + second

    got = await drawn()
    assert got == await drawn()
    counts = Counter(got[:requests])
    assert 0.2 < counts[429] / requests < 0.4
    assert 0.08 < counts[500] / requests < 0.22


def test_a_request_gets_one_answer_and_lists_alone_the_faults_of_lists() -> None:
    """At most one fault makes the answer; faults of lists wait for a list."""
    mishaps = Mishaps(1)
    everything = RestFaults()
    for fault in RestFault:
        setattr(everything, fault.value, 1.0)
    assert len(mishaps.befall(everything, listing=True) & FINAL) == 1
    assert len(mishaps.befall(everything, listing=False, item="k1") & FINAL) == 1
    assert not mishaps.befall(everything, listing=False) & OF_ITEMS
    assert mishaps.befall(everything, listing=True) >= OF_LISTS
    assert not mishaps.befall(everything, listing=False) & OF_LISTS
    mishaps.demand(RestFault.HAS_MORE, 1, 0)
    assert mishaps.befall(RestFaults(), listing=False) == frozenset()
    assert mishaps.befall(RestFaults(), listing=True) == {RestFault.HAS_MORE}
    assert [mishaps.befall(HALVES, listing=True) for _ in range(3)] != [frozenset()] * 3


def test_each_fault_has_a_share() -> None:
    """The table of shares and the list of faults name the same."""
    shares = {name for name in RestFaults.__dataclass_fields__ if name not in {"seed", "slow_s"}}
    assert {name for name in shares if not name.startswith(("retry_after", "moved_"))} == {
        fault.value for fault in RestFault
    }


async def test_pages_behind_the_end_can_be_refused() -> None:
    """A full last page can announce more, and the one behind it can be 404 or 400; the first page never is."""
    async with serving(faults=RestFaults(full_more=1.0)) as api:
        size = len(api.account.contacts)
        api.rest.page_limit = size
        assert (await api.get("/contacts", limit=size))["hasMore"] is True
        assert (await api.get("/contacts", page=2, limit=size))["contacts"] == []
        for fault, status in (("beyond_404", 404), ("beyond_400", 400)):
            api.rest.faults = RestFaults(full_more=1.0)
            setattr(api.rest.faults, fault, 1.0)
            assert (await api.ask("GET", "/contacts", page=2, limit=size))[0] == status
            api.rest.faults.list_empty = 1.0
            assert (await api.get("/contacts"))["contacts"] == []


async def test_an_empty_list_can_be_null_or_204() -> None:
    """One that has something to show is as ever."""
    async with serving(faults=RestFaults(list_null=1.0)) as api:
        assert (await api.get("/contacts"))["contacts"]
        assert (await api.get("/contacts", search="nobody"))["contacts"] is None
        api.rest.faults = RestFaults(empty_204=1.0)
        assert (await api.get("/contacts"))["contacts"]
        async with api.session.get(api.server.url + "/contacts?search=nobody") as response:
            assert (response.status, await response.read()) == (204, b"")


async def test_a_byte_order_mark_can_stand_before_the_json() -> None:
    """Three bytes before each answer."""
    async with (
        serving(faults=RestFaults(bom=1.0)) as api,
        api.session.get(api.server.url + "/contacts") as response,
    ):
        assert (await response.read())[:4] == b"\xef\xbb\xbf{"


async def test_a_share_of_items_is_always_the_same_ones() -> None:
    """Of tickets and contacts by id: some are 403 each time, the others never."""
    async with serving(faults=RestFaults(seed=4, item_403=0.3)) as api:
        paths = [f"/contacts/{one}" for one in api.account.contacts] + [
            f"/tickets/{one}" for one in api.account.tickets
        ]
        got = [await status(api, path) for path in paths[:200]]
        assert 20 < Counter(got)[403] < 100
        assert [await status(api, path) for path in paths[:200]] == got


async def test_a_merged_one_is_in_no_list_and_names_the_other() -> None:
    """By id it is 410 with a `Link`, or a redirect that leads to where it was told to; who follows it is shown that."""
    async with serving(faults=RestFaults(seed=4, item_410=0.3)) as api:
        ids = [str(one) for one in api.account.contacts]
        gone = [one for one in ids[:50] if await status(api, f"/contacts/{one}") == 410]
        listed = (await api.get("/contacts", limit=100))["contacts"]
        assert gone
        assert not {one["id"] for one in listed} & {*gone}
        async with api.session.get(f"{api.server.url}/contacts/{gone[0]}") as response:
            link = response.headers["Link"].removeprefix("<").split(">")[0]
        assert await status(api, link.removeprefix("/api/v2")) == 200
        for target, leads in (
            ("other", link),
            ("relative", link.rsplit("/", 1)[1]),
            ("itself", f"/api/v2/contacts/{gone[0]}/"),
            ("list", "/api/v2/contacts"),
            ("login", "/login"),
            ("elsewhere", f"https://elsewhere.example{link}"),
        ):
            api.rest.faults = RestFaults(seed=4, item_moved=1.0, moved_status=308, moved_to=target)  # type: ignore[arg-type]
            path = f"{api.server.url}/contacts/{gone[0]}"
            async with api.session.get(path, allow_redirects=False) as response:
                assert response.status == 308
                assert target in ("other", "relative", "elsewhere") or response.headers["Location"] == leads
                assert response.headers["Location"].startswith(("/", "https://", "another"))


async def test_the_api_can_have_ids_of_its_own() -> None:
    """What webhooks name is 404, what the lists show is found, also as the contact of a ticket."""
    async with serving(faults=RestFaults(other_ids=1.0)) as api:
        ticket = next(iter(api.account.tickets.values()))
        assert (await api.ask("GET", f"/tickets/{ticket.id}"))[0] == 404
        shown = (await api.get(f"/tickets/{outer_id(ticket.id)}"))["ticket"]
        assert shown["id"] == outer_id(ticket.id)
        assert shown["contact"]["id"] == outer_id(ticket.contact.id)
        listed = (await api.get("/contacts", limit=100))["contacts"]
        assert {one["id"] for one in listed} <= {outer_id(one) for one in api.account.contacts}
