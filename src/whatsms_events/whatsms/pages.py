"""This module says where a list goes on after one page, and notices where a server does not turn pages at all.

The names of the query's parameters are not known for certain, and a server ignores a name that it does not know:
every page would be the first one, for ever.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Generic, TypeVar

import msgspec

from whatsms_events.errors import UpstreamPagingError

T = TypeVar("T")

SLACK_PAGES: Final = 5
"""Tickets that change while somebody reads move to the first page and shift the others: up to half the pages, and never
fewer than these, may be read beyond what `count` says."""

PAGE_LIMIT: Final = 10_000


class Place(msgspec.Struct, frozen=True):
    """Where a walk over a list goes on: keep it (it is plain JSON), and the walk can be resumed.

    `previous` is the digest of the page before, `shown` how many items there were up to it.
    """

    number: int = 1
    previous: str = ""
    shown: int = 0


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """A list answer as it was read. `names` tells one page from another: an id, or the JSON of what has none."""

    items: list[T]
    unusable: int
    count: int | None
    has_more: bool | None
    names: tuple[str, ...]


def nothing_listed() -> Listing[Any]:
    """Return the listing of an empty list."""
    return Listing(items=[], unusable=0, count=None, has_more=False, names=())


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list, as of a moment. `next` is None at the list's end; `unusable` items had no id."""

    items: list[T]
    count: int | None
    has_more: bool
    number: int
    as_of: datetime
    next: Place | None
    unusable: int


def turn(place: Place, listing: Listing[T], as_of: datetime, *, list_name: str, parameter: str) -> Page[T]:
    """Return the page that was read at `place`; raise UpstreamPagingError where the pages lead nowhere."""
    size = len(listing.names)
    shown = place.shown + size
    count = _usable_count(listing)
    more = _more(listing, count, shown)
    following: Place | None = None
    if more and size:
        digest = hashlib.sha256("\n".join(sorted(listing.names)).encode("utf-8", "replace")).hexdigest()
        following = Place(number=place.number + 1, previous=digest, shown=shown)
        wrong = _wrong(place, following, count)
        if wrong:
            look = f"look at the setting whatsms.page_parameter, now {parameter!r}"
            raise UpstreamPagingError(f"GET {list_name}, page {place.number}: {wrong}; {look}")
    return Page(
        items=listing.items,
        count=listing.count,
        has_more=following is not None,
        number=place.number,
        as_of=as_of,
        next=following,
        unusable=listing.unusable,
    )


def _usable_count(listing: Listing[T]) -> int | None:
    """Return how many items the list has in all; None where `count` can only be the number on this page."""
    if listing.has_more and listing.count is not None and listing.count <= len(listing.names):
        return None
    return listing.count


def _more(listing: Listing[T], count: int | None, shown: int) -> bool:
    """Tell whether there are more pages. Where the vendor does not say so, only an empty page is the end."""
    if listing.has_more is not None:
        return listing.has_more
    return True if count is None else shown < count


def _wrong(place: Place, following: Place, count: int | None) -> str:
    """Return why this page and the earlier ones cannot be pages of one list, or an empty text where they can."""
    if following.previous == place.previous:
        return "the same items as on the page before, and more announced"
    if count is not None:
        # By the real size of a page, which may not be the one asked for; in integers, as no float holds every count.
        pages = -(-count * place.number // following.shown)
        if place.number > pages + max(SLACK_PAGES, pages // 2):
            return f"{count} items announced, {following.shown} shown, and still no end"
    return f"no end after {PAGE_LIMIT} pages" if place.number >= PAGE_LIMIT else ""
