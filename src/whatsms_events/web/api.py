"""A GET with a bearer token in, one page or one thing as JSON out; on the private listener only.

Lists take `limit` and `after`, the opaque `next` of the page before, and answer `{"<plural>": [...], "next": ...}`.
What cannot be read is 400 and names the parameter; what is not there is 404; errors are problem+json (RFC 9457).
"""

import base64
import hmac
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from aiohttp import hdrs, web

from whatsms_events.domain.events import EventType
from whatsms_events.errors import ConfigError
from whatsms_events.storage.queries import PAGE_LIMIT, Key, Page, Queries, Resource, Shown

DEFAULT_LIMIT: Final = 50
TOP: Final = 2**63 - 1
"""The highest position that a database can hold."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_FILTERS: Final[Mapping[Resource, Mapping[str, str]]] = {
    "tickets": {"status": "status", "contact": "contact_id"},
    "contacts": {},
    "campaigns": {},
}
"""Per resource: query parameter -> column."""

_TYPES: Final = frozenset(map(str, EventType))

_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=TOP)]
_BY_ID: Final = msgspec.json.Decoder(tuple[str])
_BY_TIME: Final = msgspec.json.Decoder(tuple[_Int64 | None, str])
_BY_ARRIVAL: Final = msgspec.json.Decoder(tuple[_Int64, UUID])
_BY_PLACE: Final = msgspec.json.Decoder(tuple[str, _Int64])

_encoder = msgspec.json.Encoder()
_DIGITS: Final = re.compile(r"[0-9]{1,19}")
_HEADERS: Final[Mapping[str, str]] = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
"""Answers hold what people wrote: no cache may keep them, no browser may take them for a page."""


class Api:
    """The read API. `tenants` maps each slug to its tenant id; with `token` None nobody is asked for one."""

    def __init__(self, queries: Queries, tenants: Mapping[str, str], token: str | None) -> None:
        if token is not None and not token.strip():
            raise ConfigError("private.token is empty")
        self._queries = queries
        self._tenants = tenants
        self._token = None if token is None else token.encode()

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return every route, each behind the token."""
        paths: dict[str, Handler] = {
            "/api/v1/events": self._events,
            "/api/v1/events/{position:[0-9]+}": self._event,
            "/api/v1/parked/deliveries": self._parked_deliveries,
            "/api/v1/parked/events": self._parked_events,
            "/api/v1/{slug}/tickets/{id}/messages": self._messages,
            "/api/v1/{slug}/messages/{id}": self._message,
        }
        for resource in _FILTERS:
            paths[f"/api/v1/{{slug}}/{resource}"] = partial(self._entities, resource)
            paths[f"/api/v1/{{slug}}/{resource}/{{id}}"] = partial(self._entity, resource)
        return [web.get(path, self._guarded(handler)) for path, handler in paths.items()]

    def _guarded(self, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            if self._token is not None:
                _authenticate(request, self._token)
            return await handler(request)

        return guarded

    async def _entities(self, resource: Resource, request: web.Request) -> web.Response:
        filters = _FILTERS[resource]
        asked = _parameters(request, "after", "limit", *filters)
        wanted = {column: asked.get(name) for name, column in filters.items()}
        after, limit = _after(asked, _BY_ID), _limit(asked)
        page = await self._queries.entities(resource, self._tenant(request), wanted, after=after, limit=limit)
        return _page(resource, page)

    async def _entity(self, resource: Resource, request: web.Request) -> web.Response:
        _parameters(request)
        return _one(await self._queries.entity(resource, self._tenant(request), _id(request)))

    async def _messages(self, request: web.Request) -> web.Response:
        asked = _parameters(request, "after", "limit")
        tenant, ticket_id = self._tenant(request), _id(request)
        after, limit = _after(asked, _BY_TIME), _limit(asked)
        if await self._queries.entity("tickets", tenant, ticket_id) is None:
            raise _not_found()
        return _page("messages", await self._queries.messages(tenant, ticket_id, after=after, limit=limit))

    async def _message(self, request: web.Request) -> web.Response:
        _parameters(request)
        return _one(await self._queries.message(self._tenant(request), _id(request)))

    async def _parked_deliveries(self, request: web.Request) -> web.Response:
        asked = _parameters(request, "after", "limit")
        page = await self._queries.parked_deliveries(after=_after(asked, _BY_ARRIVAL), limit=_limit(asked))
        return _page("deliveries", page)

    async def _parked_events(self, request: web.Request) -> web.Response:
        asked = _parameters(request, "after", "limit")
        page = await self._queries.parked_events(after=_after(asked, _BY_PLACE), limit=_limit(asked))
        return _page("events", page)

    async def _events(self, request: web.Request) -> web.Response:
        asked = _parameters(request, "after", "limit", "tenant", "type")
        after, limit = _number(asked, "after", 0, 0, TOP), _limit(asked)
        tenant = self._slug(asked["tenant"]) if "tenant" in asked else None
        event_type = asked.get("type")
        if event_type is not None and event_type not in _TYPES:
            raise _bad("type", "is no event type")
        page = await self._queries.events(after=after, limit=limit, tenant=tenant, event_type=event_type)
        if after > page.end:
            # Positions are never given back: this reader has seen another log, or one that was longer.
            raise _bad("after", f"is past the end of the log, {page.end}")
        return _json({"events": page.rows, "next": page.next, "end": page.end})

    async def _event(self, request: web.Request) -> web.Response:
        asked = _parameters(request, "raw")
        raw = _number(asked, "raw", 0, 0, 1) == 1
        digits = request.match_info["position"]
        if not _DIGITS.fullmatch(digits) or int(digits) > TOP:
            raise _not_found()
        return _one(await self._queries.event(int(digits), raw=raw))

    def _tenant(self, request: web.Request) -> str:
        return self._slug(request.match_info["slug"])

    def _slug(self, slug: str) -> str:
        if slug not in self._tenants:
            raise _not_found()
        return self._tenants[slug]


def _authenticate(request: web.Request, token: bytes) -> None:
    given = request.headers.getall(hdrs.AUTHORIZATION, [])
    scheme, _, credentials = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    # Bytes: compare_digest refuses text beyond ASCII, and aiohttp hands undecodable header bytes on as surrogates.
    presented = credentials.strip().encode("utf-8", "surrogateescape")
    if not hmac.compare_digest(presented, token) or scheme.lower() != "bearer":
        challenge = {**_HEADERS, "WWW-Authenticate": 'Bearer realm="whatsms-events"'}
        raise _problem(web.HTTPUnauthorized, "a bearer token is needed", headers=challenge)


def _parameters(request: web.Request, *allowed: str) -> dict[str, str]:
    """Return the query by name; 400 for one we do not know (a misspelt filter must not show everything) or doubled."""
    asked: dict[str, str] = {}
    for name, value in request.query.items():
        if name not in allowed:
            raise _bad(ascii(name)[1:-1][:64], "is not known here")
        if name in asked:
            raise _bad(name, "is given twice")
        if not _storable(value):
            raise _bad(name, "is not text")
        asked[name] = value
    return asked


def _id(request: web.Request) -> str:
    value = request.match_info["id"]
    if not _storable(value):
        raise _not_found()
    return value


def _storable(value: str) -> bool:
    """Tell whether a database can hold the text: PostgreSQL takes no NUL, neither takes half of a surrogate pair."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\x00" not in value


def _limit(asked: Mapping[str, str]) -> int:
    return _number(asked, "limit", DEFAULT_LIMIT, 1, PAGE_LIMIT)


def _number(asked: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = asked.get(name, str(default))
    if not _DIGITS.fullmatch(text) or not low <= int(text) <= high:
        raise _bad(name, f"must be a whole number from {low} to {high}")
    return int(text)


def _after(asked: Mapping[str, str], key: msgspec.json.Decoder[Any]) -> Key | None:
    """Read the `next` of an earlier page back."""
    text = asked.get("after")
    if text is None:
        return None
    try:
        found: Key = key.decode(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (ValueError, msgspec.MsgspecError) as exc:
        raise _bad("after", "is not the `next` of such a list") from exc
    if not all(_storable(part) for part in found if isinstance(part, str)):
        raise _bad("after", "is not the `next` of such a list")
    return found


def _page(plural: str, page: Page) -> web.Response:
    following = None if page.next is None else base64.urlsafe_b64encode(_encoder.encode(page.next)).decode().rstrip("=")
    return _json({plural: page.rows, "next": following})


def _one(found: Shown | None) -> web.Response:
    if found is None:
        raise _not_found()
    return _json(found)


def _json(value: object) -> web.Response:
    return web.Response(body=_encoder.encode(value), content_type="application/json", headers=_HEADERS)


def _bad(name: str, what: str) -> web.HTTPException:
    return _problem(web.HTTPBadRequest, f"{name} {what}", parameter=name)


def _not_found() -> web.HTTPException:
    return _problem(web.HTTPNotFound, "there is nothing here by that name")


def _problem(
    kind: type[web.HTTPException], detail: str, *, headers: Mapping[str, str] = _HEADERS, **more: str
) -> web.HTTPException:
    status = HTTPStatus(kind.status_code)
    body = {"type": "about:blank", "title": status.phrase, "status": int(status), "detail": detail, **more}
    return kind(
        text=_encoder.encode(body).decode(),
        content_type="application/problem+json",
        headers=headers,
    )
