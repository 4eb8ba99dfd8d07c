"""The page Passport draws the way of one event or delivery: from bytes over the log and Kafka to the tables."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar, get_args

from aiohttp import hdrs, web

from whatsms_events.domain.trace import RecordPlace
from whatsms_events.errors import NotFoundError
from whatsms_events.storage.reads import Queries
from whatsms_events.storage.trace import NEAR, REACH, EventFacts, Match, TracedKind, Traces
from whatsms_events.web.console import places
from whatsms_events.web.console.frame import HEADERS, Frame, Visit
from whatsms_events.web.console.way import Seen, way
from whatsms_events.web.hiding import trace_for_eyes
from whatsms_events.web.questions import TOP
from whatsms_events.web.trace import passport
from whatsms_events.web.trace_view import shown_matches
from whatsms_events.web.trace_words import outcome_words, place_words, rest_words

KAFKA_S: Final = 4.0
"""How long Kafka is searched: a page cannot wait as long as the command does."""

EVENT_AT: Final = "/passport/at"

T = TypeVar("T")

_KINDS: Final[dict[str, TracedKind]] = {str(name): name for name in get_args(TracedKind)}


class PassportPage:
    """The page; what is looked for stands in its query.

    `find` looks for the record of an event, and `applied` tells when this process saw that a position was applied.
    """

    title = "Passport"
    path = places.PASSPORT

    def __init__(
        self,
        frame: Frame,
        queries: Queries,
        traces: Traces,
        find: Callable[[EventFacts], Awaitable[RecordPlace]],
        applied: Seen,
        *,
        kafka_s: float = KAFKA_S,
    ) -> None:
        self._frame = frame
        self._queries = queries
        self._traces = traces
        self._find = find
        self._applied = applied
        self._kafka_s = kafka_s

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the page, and the way to the event at a position."""
        return [self._frame.get(self.path, self._page), self._frame.get(EVENT_AT, self._at)]

    async def _page(self, visit: Visit) -> web.Response:
        asked = places.asked_of(visit)
        text, kind = asked.get("find", "").strip(), asked.get("kind")
        slugs = {one.tenant_id: slug for slug, one in visit.frame.tenants.items()}
        wanted = [one for one, slug in slugs.items() if asked.get("tenant") in (None, slug)]
        reach = REACH if "far" in asked else NEAR
        parts, matches = _Parts(visit), list[Match]()
        if text and wanted:
            async with self._queries.turn():
                found = await self._traces.matches(text, wanted, ask=parts.ask)
            matches = [one for one in found if kind is None or one.kind == _KINDS.get(kind)]
        shown: Any = await passport(
            self._traces, matches, self._in_time, slugs, turn=self._queries, reach=reach, ask=parts.ask
        )
        if shown is not None:
            shown = trace_for_eyes(shown, personal=visit.may("personal"))
        known = {
            "text": text,
            "matches": shown_matches(matches, slugs),
            "shown": shown,
            "place": places.place,
            "unread": parts.unread,
        }
        words: dict[str, Any] = {"outcome": outcome_words, "told_by": place_words, "rest": rest_words}
        by_position = {} if shown is None else {one["position"]: one for one in shown.get("events", ())}
        known["by_position"], known["far"] = by_position, "far" in asked
        number = text if _is_position(text) else None
        return visit.page("passport.html", stops=way(shown, self._applied), number=number, **known, **words)

    async def _at(self, visit: Visit) -> web.Response:
        """Lead to the event at a position of the log."""
        text = places.asked_of(visit).get("position", "")
        row = None
        if _is_position(text):
            row = await self._queries.event(int(text), raw=False)
        if row is None:
            raise NotFoundError("there is no event at this position")
        to = places.place(self.path, find=row["id"], kind="event")
        return web.Response(status=303, headers={**HEADERS, hdrs.LOCATION: to})

    async def _in_time(self, found: EventFacts) -> RecordPlace:
        try:
            async with asyncio.timeout(self._kafka_s):
                return await self._find(found)
        except TimeoutError:
            return RecordPlace("unavailable")


class _Parts:
    """Asks for the parts of a passport, each by itself: of what cannot be read the page says so, and shows the rest."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self.unread: list[str] = []

    async def ask(self, what: str, question: Awaitable[T], /) -> T | None:
        """Return what a question brings, None where it brings nothing."""
        brought = await self._visit.asked(what, question)
        if brought.trouble and brought.trouble not in self.unread:
            self.unread.append(brought.trouble)
        return brought.value


def _is_position(text: str) -> bool:
    """Tell whether a text may be a position: Python takes long for thousands of digits, and then refuses them."""
    return text.isascii() and text.isdigit() and len(text) <= len(str(TOP)) and int(text) <= TOP
