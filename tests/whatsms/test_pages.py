"""Pages end, whatever the vendor says of them; and a walk can be resumed."""

import re
from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servers.virtual_time import virtual
from whatsms.vendor import CLOCK, Answers, Say, Seen, in_turn, say, serving, talking
from whatsms_events.errors import UpstreamPagingError
from whatsms_events.whatsms import Client
from whatsms_events.whatsms.endpoint import Parameters
from whatsms_events.whatsms.limits import Limits
from whatsms_events.whatsms.pages import Listing, Page, Place, turn


def listing(*names: str, count: int | None = None, has_more: bool | None = None) -> Listing[str]:
    """Return a page's items."""
    return Listing(items=list(names), unusable=0, count=count, has_more=has_more, names=names)


def read(place: Place, shown: Listing[str]) -> Page[str]:
    """Turn a page."""
    return turn(place, shown, CLOCK, list_name="/tickets", parameter="page")


def through(pages: Iterable[list[str]], *, count: int | None) -> tuple[int, str]:
    """Walk over pages that announce more each time; return which one was the last, and why."""
    place = Place()
    for names in pages:
        try:
            page = read(place, listing(*names, count=count, has_more=True))
        except UpstreamPagingError as exc:
            where, why, look = re.split("(?<=[0-9]): |; ", str(exc))
            return place.number, why if "whatsms.page_parameter" in look else where
        assert page.next is not None
        place = page.next
    raise AssertionError("no guard stopped the walk")


def pager(total: int, *, size_limit: int = 100, count: object = ..., has_more: object = ...) -> Answers:
    """Return a list of so many tickets, paged; `count` and `has_more` may be changed, or left out with None."""

    def answer(seen: Seen) -> Say:
        size = min(int(seen.query.get("limit", 20)), size_limit)
        first = (int(seen.query.get("page", 1)) - 1) * size
        body: dict[str, object] = {"tickets": [{"id": f"t{n}"} for n in range(first, min(first + size, total))]}
        body["count"] = total if count is ... else count
        body["hasMore"] = first + size < total if has_more is ... else has_more
        return say({name: value for name, value in body.items() if value is not None})

    return answer


async def walk(client: Client, page_size: int = 10) -> list[str]:
    """Read the whole list."""
    return [str(ticket.id) async for ticket in client.tickets.list(page_size=page_size)]


@pytest.mark.parametrize("total", [0, 1, 9, 10, 11, 45])
@pytest.mark.parametrize(
    ("count", "has_more"), [(..., ...), (None, ...), (..., None), (None, None), ("12", ...), (..., "yes"), (-1, ...)]
)
@virtual
async def test_a_walk_shows_everything_once(total: int, count: object, has_more: object) -> None:
    """With `count`, `hasMore`, both or neither, a list that nobody changes is read whole, and its end is found."""
    async with talking(pager(total, count=count, has_more=has_more)) as (vendor, client):
        assert await walk(client) == [f"t{n}" for n in range(total)]
    assert len(vendor.seen) <= total // 10 + 2


@virtual
async def test_a_page_smaller_than_asked_is_no_end() -> None:
    """A server that gives fewer items than asked for is walked at its own page size."""
    async with talking(pager(45, size_limit=7)) as (vendor, client):
        assert len(set(await walk(client, page_size=100))) == 45
    assert len(vendor.seen) == 7


@pytest.mark.parametrize("name", ["pageNumber", "p"])
@virtual
async def test_a_page_parameter_that_is_ignored_stops_the_walk(name: str) -> None:
    """The second page is the first one again: the error names the setting and its value."""
    async with talking(pager(45), parameters=Parameters(page=name)) as (vendor, client):
        with pytest.raises(UpstreamPagingError, match=rf"whatsms\.page_parameter, now '{name}'"):
            await walk(client)
    assert len(vendor.seen) == 2


def test_a_page_parameter_that_is_ignored_while_the_list_moves_stops_the_walk() -> None:
    """Where every page is the first one, and that changes each time, the number of pages stops it."""
    pages = ([f"t{number + n}" for n in range(10)] for number in range(1, 1000))
    assert through(pages, count=100) == (16, "100 items announced, 160 shown, and still no end")


@virtual
async def test_more_for_ever_with_empty_pages_is_the_end() -> None:
    """An empty page ends the walk, also when more is announced."""
    async with talking(pager(25, has_more=True)) as (vendor, client):
        assert len(await walk(client)) == 25
    assert len(vendor.seen) == 4


@virtual
async def test_more_for_ever_with_the_last_page_again_stops_the_walk() -> None:
    """A server that shows its last page for ever is not walked for ever."""
    last = say({"tickets": [{"id": "t9"}], "count": 21, "hasMore": True})
    first = say({"tickets": [{"id": f"t{n}"} for n in range(20)], "count": 21, "hasMore": True})
    async with talking(in_turn(first, last)) as (vendor, client):
        with pytest.raises(UpstreamPagingError):
            await walk(client)
    assert len(vendor.seen) == 3


@pytest.mark.parametrize(("count", "pages"), [(15, 8), (100, 16), (1000, 151), (10, 10_000), (None, 10_000)])
def test_pages_without_an_end_have_one(count: int | None, pages: int) -> None:
    """Beyond the pages that `count` promises, and some slack, the walk stops; without a usable count at the cap."""
    endless = ([f"t{number}-{n}" for n in range(10)] for number in range(20_000))
    read_pages, why = through(endless, count=count)
    assert read_pages == pages
    assert "no end" in why


def test_a_busy_account_may_shift_pages() -> None:
    """Tickets that move to the front shift the others: a walk that meets some twice goes on to its end."""
    place: Place | None = Place()
    for number in range(1, 13):
        assert place is not None
        place = read(
            place, listing(*(f"t{number}-{n}" for n in range(10)), count=95 + number, has_more=number < 12)
        ).next
    assert place is None


def test_a_count_may_change_or_go() -> None:
    """`count` is taken from the page at hand only."""
    first = read(Place(), listing("a", "b", count=5, has_more=True))
    assert first.next is not None
    second = read(first.next, listing("c", "d", count=None, has_more=True))
    assert second.next is not None
    third = read(second.next, listing("e", count=6, has_more=False))
    assert (third.next, third.count, third.has_more, third.number) == (None, 6, False, 3)


@virtual
async def test_a_walk_is_resumed_from_its_place() -> None:
    """A place survives as JSON: another client goes on with the next page, and still notices a repeated one."""
    async with serving(pager(25)) as vendor:
        async with Client(vendor.url, "k", limits=Limits()) as client:
            first = await client.tickets.page(Place(), page_size=10)
        kept = msgspec.json.decode(msgspec.json.encode(first.next), type=Place)
        assert (kept.number, kept.shown) == (2, 10)
        async with Client(vendor.url, "k", limits=Limits()) as client:
            second = await client.tickets.page(kept, page_size=10)
            assert [ticket.id for ticket in second.items] == [f"t{n}" for n in range(10, 20)]
            vendor.answers = lambda seen: pager(25)(Seen(0, "GET", "", seen.query | {"page": "1"}, {}, b""))
            with pytest.raises(UpstreamPagingError):
                await client.tickets.page(kept, page_size=10)


@given(
    pages=st.lists(
        st.tuples(
            st.lists(st.integers(0, 30), max_size=8),
            st.none() | st.integers(0, 60),
            st.none() | st.booleans(),
        ),
        max_size=40,
    )
)
def test_every_walk_ends(pages: list[tuple[list[int], int | None, bool | None]]) -> None:
    """Whatever pages say, a walk goes on by one page at a time, and only where that page showed something."""
    place = Place()
    for names, count, has_more in pages:
        try:
            page = read(place, listing(*map(str, names), count=count, has_more=has_more))
        except UpstreamPagingError:
            return
        if page.next is None:
            assert not page.has_more
            return
        assert names
        assert page.next == Place(place.number + 1, page.next.previous, place.shown + len(names))
        place = page.next
