"""The page Live shows events as they come: the browser reads the event feed by itself, and draws what it is told.

The page itself shows nothing of anybody; the feed notes in the log who opened it.
"""

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlencode

from aiohttp import web

from whatsms_events.domain.events import EventType
from whatsms_events.domain.feed import ENDED, Place
from whatsms_events.storage.reads import Queries
from whatsms_events.web.console.frame import Frame, Visit
from whatsms_events.web.questions import parameters

ROWS: Final = 200
"""Events that stay on the page."""

BEFORE: Final = 20
"""Positions before the end with which the page begins, so that it is not empty."""

_TYPES: Final = tuple(map(str, EventType))


class LivePage:
    """The page, with its filter. What comes is asked of the feed, whose own limits and rights apply."""

    title = "Live"
    path = "/live"

    def __init__(self, frame: Frame, queries: Queries) -> None:
        self._frame = frame
        self._queries = queries

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the page."""
        return [self._frame.get(self.path, self._page)]

    async def _page(self, visit: Visit) -> web.Response:
        query = parameters(visit.request, "tenant", "type", "ticket")
        asked = {
            "tenant": query.get("tenant", "") if query.get("tenant", "") in self._frame.tenants else "",
            "type": query.get("type", "") if query.get("type", "") in _TYPES else "",
            "ticket": query.get("ticket", "").strip(),
        }
        begin = await visit.asked("The log", self._begin())
        return visit.page(
            "live.html",
            asked=asked,
            feed=_feed(asked, begin.value),
            trouble=begin.trouble,
            ended=ENDED,
            tenants=tuple(self._frame.tenants),
            types=_TYPES,
            rows=ROWS,
        )

    async def _begin(self) -> Place:
        """Return the place to begin behind, with the event there: so the feed knows whether it is the same log."""
        position = max(0, (await self._queries.events(after=0, limit=1)).end - BEFORE)
        return Place(position, (await self._queries.events(after=position, limit=1, name_after=True)).after_id)


def _feed(asked: Mapping[str, str], begin: Place | None) -> str:
    """Return where the browser reads; without a place it is asked for when the page is loaded again."""
    wanted = {name: value for name, value in asked.items() if value}
    return "" if begin is None else f"/api/v1/stream?{urlencode({'after': str(begin), **wanted})}"
