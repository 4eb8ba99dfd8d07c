"""What goes wrong with requests to the API: by share and seed, and on demand."""

import random
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final, Literal

from msgspec import Meta

from whatsms_events.twin.faults import Share

Style = Literal["seconds", "date", "missing", "absurd"]
"""How `Retry-After` is written."""

Target = Literal["other", "relative", "itself", "list", "login", "elsewhere"]
"""Where a redirect leads: to another one of its kind by its path or relative to the one asked for, to the same one with
a slash behind it, to the list, to a page of the web site, or to another one of its kind at another origin."""


class RestFault(StrEnum):
    """What can go wrong with one request. Writes are done all the same where only the answer is lost."""

    PAGE_IGNORED = "page_ignored"
    """A list shows its first page, whatever was asked for."""
    HAS_MORE = "has_more"
    """A list says that there is more, also on the empty pages behind its end."""
    COUNT_NULL = "count_null"
    FULL_MORE = "full_more"
    """A list says that there is more whenever its page is full, also where that was the last one."""
    BEYOND_404 = "beyond_404"
    """A page behind the end of a list is refused."""
    BEYOND_400 = "beyond_400"
    LIST_EMPTY = "list_empty"
    """A list shows nothing, as if the account were new; by id all is there."""
    LIST_NULL = "list_null"
    """An empty list is null."""
    EMPTY_204 = "empty_204"
    """An empty list is 204, No Content."""
    OTHER_IDS = "other_ids"
    """The API knows everything by other ids than webhooks do, in requests and in answers."""
    BOM = "bom"
    """A byte order mark stands before the JSON."""
    ITEM_403 = "item_403"
    """A ticket or contact that is asked for by its id is 403: the key may not see it."""
    ITEM_410 = "item_410"
    """It was merged into another one: no list shows it, and by id it is 410 with a `Link` to that one."""
    ITEM_MOVED = "item_moved"
    """It was merged too, and by id it is a redirect: `moved_status` to `moved_to`."""
    BAD_DATE = "bad_date"
    """The `Date` header cannot be read."""
    SLOW = "slow"
    """The answer is made at once and sent `slow_s` later."""
    UNAUTHORIZED = "unauthorized"
    """401 although the key is right."""
    FORBIDDEN = "forbidden"
    LIMITED = "limited"
    """429 although there is room."""
    ERROR = "error"
    """500, and nothing was done."""
    HTML_502 = "html_502"
    """A proxy's page; a write was done."""
    HTML_200 = "html_200"
    """A proxy's page that looks like success; a write was done."""
    CUT = "cut"
    """The connection closes in the middle of the answer; a write was done."""


OF_LISTS: Final = frozenset(
    {
        *(RestFault.PAGE_IGNORED, RestFault.HAS_MORE, RestFault.COUNT_NULL, RestFault.FULL_MORE),
        *(RestFault.BEYOND_404, RestFault.BEYOND_400),
        *(RestFault.LIST_EMPTY, RestFault.LIST_NULL, RestFault.EMPTY_204),
    }
)
OF_ITEMS: Final = frozenset({RestFault.ITEM_403, RestFault.ITEM_410, RestFault.ITEM_MOVED})
"""Faults of single tickets and contacts, asked for by id. A share picks the same ones each time."""
MERGED: Final = (RestFault.ITEM_410, RestFault.ITEM_MOVED)
FINAL: Final = (
    frozenset(RestFault) - OF_LISTS - {*(RestFault.BAD_DATE, RestFault.SLOW, RestFault.BOM, RestFault.OTHER_IDS)}
)
"""Faults that take the place of the answer: at most one of them befalls a request."""


@dataclass(slots=True)
class RestFaults:
    """Shares (0 to 1) of requests that each fault befalls, by the fault's name; may be changed at any time."""

    seed: int = 0
    page_ignored: Share = 0.0
    has_more: Share = 0.0
    count_null: Share = 0.0
    full_more: Share = 0.0
    beyond_404: Share = 0.0
    beyond_400: Share = 0.0
    list_empty: Share = 0.0
    list_null: Share = 0.0
    empty_204: Share = 0.0
    other_ids: Share = 0.0
    bom: Share = 0.0
    item_403: Share = 0.0
    item_410: Share = 0.0
    item_moved: Share = 0.0
    bad_date: Share = 0.0
    slow: Share = 0.0
    unauthorized: Share = 0.0
    forbidden: Share = 0.0
    limited: Share = 0.0
    error: Share = 0.0
    html_502: Share = 0.0
    html_200: Share = 0.0
    cut: Share = 0.0
    slow_s: Annotated[float, Meta(ge=0, le=600)] = 2.0
    retry_after: Style = "seconds"
    retry_after_s: Annotated[int, Meta(ge=0, le=3600)] = 1
    """What an answer of `limited` tells; a limit that is really reached tells the real wait, in the same style."""
    moved_status: Literal[301, 302, 303, 307, 308] = 301
    moved_to: Target = "other"


@dataclass(slots=True)
class _Demand:
    fault: RestFault
    after: int
    count: int


class Mishaps:
    """Draws faults. The same seed, shares, demands and requests give the same faults."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)  # noqa: S311 - the same seed must give the same faults
        self._demands: list[_Demand] = []

    def demand(self, fault: RestFault, count: int, after: int) -> None:
        """Ask for the fault `count` times, when `after` more requests that it could befall have passed."""
        self._demands.append(_Demand(fault, after, count))

    @property
    def demanded(self) -> Counter[RestFault]:
        """What was asked for and has not come yet."""
        left: Counter[RestFault] = Counter()
        for demand in self._demands:
            left[demand.fault] += demand.count
        return left

    def befall(self, faults: RestFaults, *, listing: bool, item: str = "") -> frozenset[RestFault]:
        """Return what befalls the next request; `listing`: it asks for a list, `item`: for one by this id."""
        found: set[RestFault] = set()
        for fault in RestFault:
            if (fault in OF_LISTS and not listing) or (fault in OF_ITEMS and not item):
                continue
            if fault in FINAL and found & FINAL:
                continue
            share = getattr(faults, fault.value)
            drawn = _is_chosen(faults, fault, item) if fault in OF_ITEMS else self._chance(share)
            if self._is_demanded(fault) or drawn:
                found.add(fault)
        return frozenset(found)

    def absurd(self) -> str:
        """Return a `Retry-After` that makes no sense."""
        return self._rng.choice(("86400000", "-1", "1e9", "daqui a pouco", ""))

    def _chance(self, share: float) -> bool:
        return share > 0 and self._rng.random() < share

    def _is_demanded(self, fault: RestFault) -> bool:
        for demand in self._demands:
            if demand.fault is not fault:
                continue
            if demand.after:
                demand.after -= 1
                continue
            demand.count -= 1
            self._demands = [left for left in self._demands if left.count > 0]
            return True
        return False


def is_merged(faults: RestFaults, item: str) -> bool:
    """Tell whether a ticket or contact was merged into another one, by the shares: no list shows it."""
    return any(_is_chosen(faults, fault, item) for fault in MERGED)


def _is_chosen(faults: RestFaults, fault: RestFault, item: str) -> bool:
    """Tell whether an id is among the share that a fault befalls: the same ids each time."""
    share: float = getattr(faults, fault.value)
    return share > 0 and random.Random(f"{faults.seed} {fault} {item}").random() < share  # noqa: S311 - a draw by id
