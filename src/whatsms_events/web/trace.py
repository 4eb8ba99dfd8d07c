"""`/api/v1/{slug}/trace/{id}`: what an id or the hash of a delivery may name, and all that is known where it is one."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, assert_never
from uuid import UUID

from aiohttp import web

from whatsms_events.domain.trace import RecordPlace
from whatsms_events.storage.reads import Queries, RowView
from whatsms_events.storage.trace import KINDS, REACH, THE_PARKED, AskPart, EventFacts, Match, ThingFacts, Traces, whole
from whatsms_events.web.hiding import may_see, trace_for_eyes
from whatsms_events.web.questions import entity_id, json_answer, not_found, one_of, parameters
from whatsms_events.web.trace_view import shown_event, shown_matches, shown_parked, shown_thing

FindRecord = Callable[[EventFacts], Awaitable[RecordPlace]]
"""Finds the record of an event in Kafka, or says why there is none; raises nothing where Kafka is away."""

_KINDS: Final = {str(name): name for name in KINDS}


class Tracing:
    """Answers with a trace. `tenants` maps each slug to its tenant id."""

    def __init__(self, traces: Traces, find: FindRecord, queries: Queries, tenants: Mapping[str, str]) -> None:
        self._traces = traces
        self._find = find
        self._queries = queries
        self.change(tenants)

    def change(self, tenants: Mapping[str, str]) -> None:
        """Know these tenants from now on."""
        self._tenants = tenants
        self._slugs = {tenant_id: slug for slug, tenant_id in tenants.items()}

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the one route."""
        return [web.get("/api/v1/{slug}/trace/{id}", self._trace)]

    async def _trace(self, request: web.Request) -> web.Response:
        asked, slug, text = parameters(request, "kind"), request.match_info["slug"], entity_id(request)
        kind = one_of(asked, "kind", _KINDS)
        if slug not in self._tenants:
            raise not_found()
        async with self._queries.turn():
            found = await self._traces.matches(text, [self._tenants[slug]])
        matches = [one for one in found if kind is None or one.kind == kind]
        if not matches:
            raise not_found()
        shown = await passport(self._traces, matches, self._find, self._slugs, turn=self._queries)
        if shown is not None:
            shown = trace_for_eyes(shown, personal=may_see(request))
        return json_answer({"matches": shown_matches(matches, self._slugs), "trace": shown})


def told_last(thing: ThingFacts) -> int | None:
    """Return the position of the newest event that told a field which the thing holds."""
    versions = {} if thing.row is None else thing.row.versions
    return max((one.position for one in versions.values()), default=None)


async def passport(
    traces: Traces,
    matches: Sequence[Match],
    find: FindRecord,
    slugs: Mapping[str, str],
    *,
    turn: Queries,
    reach: int | None = REACH,
    ask: AskPart = whole,
) -> RowView | None:
    """Return all that is known of the one thing that was found; None where it may be several, or could not be read."""
    if len(matches) != 1:
        return None
    (match,) = matches
    match match.kind:
        case "event":
            async with turn.turn():
                event = await traces.event(UUID(match.id), ask=ask)
            return None if event is None else shown_event(event, await find(event), slugs)
        case "parked":
            async with turn.turn():
                parked = await ask(THE_PARKED, traces.parked(UUID(match.id)))
            return None if parked is None else shown_parked(parked, slugs)
        case "ticket" | "message" | "contact" | "campaign":
            async with turn.turn():
                named = match.kind, match.tenant, match.id
                thing = await ask(f"The {match.kind}", traces.thing(*named, ask=ask))
                about = await ask("Its events in the log", traces.events_about(*named, reach=reach))
                last = None if thing is None else told_last(thing)
                if about is not None and not about[0] and last is not None and last <= about[1]:
                    # It was quiet for long: its events are around the newest one that told a field.
                    about = await ask("Its events in the log", traces.events_about(*named, reach=reach, until=last))
            events, floor = about or ([], 0)
            return None if thing is None else shown_thing(thing, events, floor, slugs)
        case _:
            assert_never(match.kind)
