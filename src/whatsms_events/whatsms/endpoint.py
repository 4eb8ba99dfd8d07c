"""This module has what all endpoints share: parameter names, one page, one resource, a write, a walk over all pages."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

import msgspec
from msgspec import UNSET

from whatsms_events.domain.bodies import JsonObject
from whatsms_events.whatsms.answers import Call
from whatsms_events.whatsms.pages import Listing, Page, Place, nothing_listed, turn
from whatsms_events.whatsms.resources import Observed
from whatsms_events.whatsms.transport import Transport

T = TypeVar("T")

PAGE_SIZE_LIMIT: Final = 100


@dataclass(frozen=True, slots=True)
class Parameters:
    """Names that the vendor's page does not give, with the likely defaults. A server ignores a wrong name silently."""

    page: str = "page"
    limit: str = "limit"
    status: str = "status"
    contact: str = "contactId"
    search: str = "search"
    campaign_status: str = "status"
    update_method: Literal["PUT", "PATCH"] = "PUT"


class Endpoint:
    """What all endpoints need: the transport, and the names of the parameters."""

    def __init__(self, transport: Transport, parameters: Parameters) -> None:
        self._transport = transport
        self._names = parameters

    async def _page(
        self,
        template: str,
        read: Callable[[JsonObject], Listing[T]],
        place: Place,
        page_size: int,
        *,
        ids: tuple[str, ...] = (),
        filters: Mapping[str, str | None] | None = None,
    ) -> Page[T]:
        query = {name: value for name, value in (filters or {}).items() if value is not None}
        query[self._names.page] = str(place.number)
        query[self._names.limit] = str(min(max(page_size, 1), PAGE_SIZE_LIMIT))
        call = Call("GET", template, read, ids, query, nothing=nothing_listed())
        answer = await self._transport.ask(call)
        return turn(place, answer.value, answer.as_of, list_name=template, parameter=self._names.page)

    async def _observe(self, template: str, read: Callable[[JsonObject], T], id: str) -> Observed[T]:  # noqa: A002
        answer = await self._transport.ask(Call("GET", template, read, (id,)))
        return Observed(answer.value, answer.as_of)

    async def _write(self, method: str, template: str, read: Callable[[JsonObject], T], *ids: str, **values: Any) -> T:
        body = msgspec.json.encode({name: value for name, value in values.items() if value is not UNSET})
        return (await self._transport.ask(Call(method, template, read, ids, {}, body))).value


async def walk(page: Callable[[Place], Awaitable[Page[T]]]) -> AsyncIterator[T]:
    """Yield the items of all pages; the next page is asked for when the one before is used up."""
    place: Place | None = Place()
    while place is not None:
        shown = await page(place)
        for item in shown.items:
            yield item
        place = shown.next
