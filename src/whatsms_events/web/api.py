"""The read API: tickets, messages, contacts, campaigns, events, and what was parked, as JSON.

Lists take `limit` and `after`, the opaque `next` of the page before, and answer `{"<plural>": [...], "next": ...}`.
A parameter that cannot be read is 400, and the answer names it. A thing that is not there is 404.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Final, get_args

import msgspec
from aiohttp import web

from whatsms_events.clock import now
from whatsms_events.domain.delays import STUCK_AFTER, STUCK_UNTIL
from whatsms_events.domain.drift import DriftKind
from whatsms_events.domain.events import Entity, EventType
from whatsms_events.domain.personal import hidden
from whatsms_events.storage.acks import PARTS, SentMessages
from whatsms_events.storage.conversations import FOUND_LIMIT, Conversations, found_ids
from whatsms_events.storage.reads import Queries, Resource, RowPage, RowView
from whatsms_events.storage.repair.reports import Reports
from whatsms_events.web.access import require
from whatsms_events.web.hiding import events_for_eyes, for_eyes, may_see, parked_for_eyes, showed
from whatsms_events.web.questions import (
    BY_ARRIVAL,
    BY_PLACE,
    TOP,
    Int64,
    bad,
    entity_id,
    json_answer,
    key_after,
    not_found,
    number,
    one_answer,
    one_of,
    page_answer,
    page_limit,
    parameters,
    position,
)
from whatsms_events.web.views import of_tenant, shown_found, shown_period, shown_runs, shown_stuck

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

FILTERS: Final[Mapping[Resource, Mapping[str, str]]] = {
    "tickets": {"status": "status", "contact": "contact_id"},
    "contacts": {},
    "campaigns": {},
    "messages": {},
}
"""Per list of a tenant: query parameter -> column."""

TABLES: Final[Mapping[Resource, Entity]] = {
    "tickets": "ticket",
    "contacts": "contact",
    "campaigns": "campaign",
    "messages": "message",
}
"""The table that each list shows."""

_TYPES: Final = frozenset(map(str, EventType))
_ENTITIES: Final = {str(name): name for name in get_args(Entity)}
_KINDS: Final = {str(name): name for name in get_args(DriftKind)}

RUNS: Final = 50
"""Backfill runs shown of a tenant; more are not kept."""

DAY_HOURS: Final = 24
ACK_HOURS: Final = 31 * 24
"""The longest period whose messages are looked at."""

_BY_ID: Final = msgspec.json.Decoder(tuple[str])
_BY_TIME: Final = msgspec.json.Decoder(tuple[Int64 | None, str])
_BY_DRIFT: Final = msgspec.json.Decoder(tuple[str, str, str])


class Api:
    """The read API. `tenants` maps each slug to its tenant id."""

    def __init__(
        self, queries: Queries, tenants: Mapping[str, str], reports: Reports, *, now: Callable[[], datetime] = now
    ) -> None:
        self._queries = queries
        self._conversations_of = Conversations(queries)
        self._sent = SentMessages(queries)
        self._now = now
        self._reports = reports
        self.change(tenants)

    def change(self, tenants: Mapping[str, str]) -> None:
        """Know these tenants from now on."""
        self._tenants = tenants
        self._slugs = {tenant_id: slug for slug, tenant_id in tenants.items()}

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return every route."""
        paths: dict[str, Handler] = {
            "/api/v1/events": self._events,
            "/api/v1/events/{position:[0-9]+}": self._event,
            "/api/v1/parked/deliveries": self._parked_deliveries,
            "/api/v1/parked/events": self._parked_events,
            "/api/v1/{slug}/tickets/{id}/messages": self._ticket_messages,
            "/api/v1/{slug}/messages/{id}": self._message,
            "/api/v1/{slug}/conversations": self._conversations,
            "/api/v1/{slug}/acks": self._acks,
            "/api/v1/{slug}/acks/stuck": self._stuck,
            "/api/v1/{slug}/backfill": self._backfill,
            "/api/v1/{slug}/drift": self._drift,
        }
        for resource in FILTERS:
            paths[f"/api/v1/{{slug}}/{resource}"] = partial(self._entities, resource)
            paths.setdefault(f"/api/v1/{{slug}}/{resource}/{{id}}", partial(self._entity, resource))
        return [web.get(path, handler) for path, handler in paths.items()]

    async def _entities(self, resource: Resource, request: web.Request) -> web.Response:
        filters = FILTERS[resource]
        asked = parameters(request, "after", "limit", *filters)
        wanted = {column: asked.get(name) for name, column in filters.items()}
        after, limit = key_after(asked, _BY_ID), page_limit(asked)
        page = await self._queries.entities(resource, self._tenant(request), wanted, after=after, limit=limit)
        return page_answer(resource, _seen(request, resource, page))

    async def _entity(self, resource: Resource, request: web.Request) -> web.Response:
        parameters(request)
        found = await self._queries.entity(resource, self._tenant(request), entity_id(request))
        return _one(found, partial(for_eyes, request, TABLES[resource]))

    async def _ticket_messages(self, request: web.Request) -> web.Response:
        asked = parameters(request, "after", "limit")
        tenant, ticket_id = self._tenant(request), entity_id(request)
        after, limit = key_after(asked, _BY_TIME), page_limit(asked)
        if await self._queries.entity("tickets", tenant, ticket_id) is None:
            raise not_found()
        page = await self._queries.messages(tenant, ticket_id, after=after, limit=limit)
        return page_answer("messages", _seen(request, "messages", page))

    async def _message(self, request: web.Request) -> web.Response:
        parameters(request)
        found = await self._queries.message(self._tenant(request), entity_id(request))
        return _one(found, partial(for_eyes, request, "message"))

    async def _parked_deliveries(self, request: web.Request) -> web.Response:
        asked = parameters(request, "after", "limit", "discarded")
        after, discarded = key_after(asked, BY_ARRIVAL), number(asked, "discarded", 0, 0, 1) == 1
        page = await self._queries.parked_deliveries(after=after, limit=page_limit(asked), discarded=discarded)
        return self._tenants_page(request, "deliveries", page)

    async def _parked_events(self, request: web.Request) -> web.Response:
        asked = parameters(request, "after", "limit", "discarded")
        after, discarded = key_after(asked, BY_PLACE), number(asked, "discarded", 0, 0, 1) == 1
        page = await self._queries.parked_events(after=after, limit=page_limit(asked), discarded=discarded)
        return self._tenants_page(request, "events", page)

    def _tenants_page(self, request: web.Request, plural: str, page: RowPage) -> web.Response:
        rows = [parked_for_eyes(request, self._of_tenant(row)) for row in page.rows]
        return page_answer(plural, RowPage(rows, page.next))

    def _of_tenant(self, row: RowView) -> RowView:
        return of_tenant(row, self._slugs)

    async def _events(self, request: web.Request) -> web.Response:
        asked = parameters(request, "after", "limit", "tenant", "type", "ticket")
        after, limit = number(asked, "after", 0, 0, TOP), page_limit(asked)
        tenant = self._slug(asked["tenant"]) if "tenant" in asked else None
        event_type = asked.get("type")
        if event_type is not None and event_type not in _TYPES:
            raise bad("type", "is no event type")
        page = await self._queries.events(
            after=after, limit=limit, tenant=tenant, event_type=event_type, ticket=asked.get("ticket")
        )
        if after > page.end:
            # Positions are never given back: this reader has seen another log, or one that was longer.
            raise bad("after", f"is past the end of the log, {page.end}")
        rows = events_for_eyes(request, [self._of_tenant(row) for row in page.rows])
        return json_answer({"events": rows, "next": page.next, "end": page.end})

    async def _event(self, request: web.Request) -> web.Response:
        asked = parameters(request, "raw")
        raw = number(asked, "raw", 0, 0, 1) == 1
        if raw:
            require(request, "personal")
        found = await self._queries.event(position(request), raw=raw)
        return _one(found, lambda rows: events_for_eyes(request, [self._of_tenant(row) for row in rows]))

    async def _conversations(self, request: web.Request) -> web.Response:
        asked = parameters(request, "find", "limit")
        tenant, limit = self._tenant(request), number(asked, "limit", FOUND_LIMIT, 1, FOUND_LIMIT)
        text = asked.get("find", "").strip()
        if not text:
            raise bad("find", "must be given: an id, or the beginning of a name or number")
        page = await self._conversations_of.find(tenant, text, personal=may_see(request), limit=limit)
        showed(request, "search", *found_ids(page))
        personal = may_see(request)
        return json_answer(shown_found(page, lambda contact: contact if personal else hidden("contact", contact)))

    async def _acks(self, request: web.Request) -> web.Response:
        hours = number(parameters(request, "hours"), "hours", DAY_HOURS, 1, ACK_HOURS)
        until = self._now()
        since = until - timedelta(hours=hours)
        parts = await self._sent.period(self._tenant(request), since, until, parts=min(hours, PARTS))
        return json_answer(shown_period(parts, since, until))

    async def _stuck(self, request: web.Request) -> web.Response:
        parameters(request)
        page = await self._sent.stuck(self._tenant(request), self._now(), after=STUCK_AFTER, until=STUCK_UNTIL)
        return json_answer(shown_stuck(page))

    async def _backfill(self, request: web.Request) -> web.Response:
        parameters(request)
        tenant = self._tenant(request)
        async with self._queries.turn():
            runs = await self._reports.runs(tenant, RUNS)
        return json_answer(shown_runs(runs))

    async def _drift(self, request: web.Request) -> web.Response:
        asked = parameters(request, "after", "limit", "entity", "kind")
        tenant, after, limit = self._tenant(request), key_after(asked, _BY_DRIFT), page_limit(asked)
        entity, kind = one_of(asked, "entity", _ENTITIES), one_of(asked, "kind", _KINDS)
        async with self._queries.turn():
            runs = await self._reports.runs(tenant, RUNS, kind="reconcile")
        last = next((one for one in runs if one.finished_at is not None and one.stopped_by is None), None)
        if last is None:
            return json_answer({"run": None, "finished_at": None, "drift": [], "next": None})
        run = last.run.number
        async with self._queries.turn():
            page = await self._reports.drift(run, entity=entity, kind=kind, after=after, limit=limit)
        return page_answer("drift", page, run=run, finished_at=last.finished_at)

    def _tenant(self, request: web.Request) -> str:
        return self._slug(request.match_info["slug"])

    def _slug(self, slug: str) -> str:
        if slug not in self._tenants:
            raise not_found()
        return self._tenants[slug]


def _seen(request: web.Request, resource: Resource, page: RowPage) -> RowPage:
    return RowPage(for_eyes(request, TABLES[resource], page.rows), page.next)


def _one(found: RowView | None, seen: Callable[[Sequence[RowView]], Sequence[RowView]]) -> web.Response:
    """Return one row as the one who asks may see it; raise 404 where there is none."""
    return one_answer(None if found is None else seen([found])[0])
