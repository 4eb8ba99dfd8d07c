"""OpenAPI 3.1 of the private listener: its routes, and for each what is asked for and what is answered.

Paths and methods come from the routes, parameters and sentences from `docs/read-api.md`, which tests hold to the real
answers, schemas from `answers`. A route that has no row in `ANSWERS`, or none in that page, is an error here.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, get_args

from whatsms_events.contracts.answers import answer_components, page, ref
from whatsms_events.contracts.prose import PathWords, Prose
from whatsms_events.contracts.schemas import DIALECT, FLAG, INTEGER, TEXT, enum, listed, nullable, row
from whatsms_events.domain.bodies import JsonObject
from whatsms_events.domain.drift import DriftKind
from whatsms_events.domain.events import Entity, EventType
from whatsms_events.domain.feed import ENDED
from whatsms_events.storage.conversations import FOUND_LIMIT
from whatsms_events.storage.reads import PAGE_LIMIT
from whatsms_events.storage.trace import KINDS
from whatsms_events.web.answers import PROBLEM_JSON, RETRY_AFTER_S
from whatsms_events.web.api import ACK_HOURS, DAY_HOURS
from whatsms_events.web.feed import LAST_EVENT_ID
from whatsms_events.web.questions import DEFAULT_LIMIT, TOP

VERSION: Final = "3.1.1"
JSON: Final = "application/json"

GUARDED: Final = ("/api/", "/contracts")
"""Where paths begin that the token guards; the probes are open."""

_POSITION: Final[JsonObject] = {**INTEGER, "minimum": 0, "maximum": TOP}


@dataclass(frozen=True, slots=True)
class GoodAnswer:
    """What a path answers with 200: JSON of this schema, or bytes of another media type."""

    schema: JsonObject
    media_type: str = JSON
    also: Mapping[int, JsonObject] | None = None
    """Further statuses with JSON of their own, no problems."""
    refuses: tuple[int, ...] = ()
    """Further statuses by which it is refused."""


_FEED: Final[JsonObject] = {
    "anyOf": [
        row(
            {
                "id": {**TEXT, "pattern": "^[0-9]+-[0-9a-f-]{36}$", "description": "To go on behind this event."},
                "event": enum(EventType),
                "data": {**TEXT, "contentMediaType": JSON, "contentSchema": ref("LoggedEvent")},
            }
        ),
        row(
            {
                "id": {**TEXT, "description": "As of the last event."},
                "event": {**TEXT, "const": ENDED},
                "data": {**TEXT, "contentMediaType": JSON, "contentSchema": row({"reason": TEXT, "detail": TEXT})},
            },
            optional=("id",),
        ),
    ],
}
"""Each block of the event feed as readers of Server-Sent Events see it: an event, and at last why the feed ends."""

ANSWERS: Final[Mapping[str, GoodAnswer]] = {
    "/api/v1/events": GoodAnswer(page("events", "LoggedEvent", next=_POSITION, end=_POSITION)),
    "/api/v1/events/{position}": GoodAnswer(ref("LoggedEventInFull")),
    "/api/v1/parked/deliveries": GoodAnswer(page("deliveries", "ParkedDelivery")),
    "/api/v1/parked/events": GoodAnswer(page("events", "ParkedEvent")),
    "/api/v1/privacy": GoodAnswer(ref("PrivacyReport")),
    "/api/v1/settings": GoodAnswer(ref("RunningSettings")),
    "/api/v1/stream": GoodAnswer(_FEED, "text/event-stream"),
    "/api/v1/{slug}/tickets": GoodAnswer(page("tickets", "Ticket")),
    "/api/v1/{slug}/tickets/{id}": GoodAnswer(ref("Ticket")),
    "/api/v1/{slug}/tickets/{id}/messages": GoodAnswer(page("messages", "Message")),
    "/api/v1/{slug}/messages": GoodAnswer(page("messages", "Message")),
    "/api/v1/{slug}/messages/{id}": GoodAnswer(ref("MessageInFull")),
    "/api/v1/{slug}/contacts": GoodAnswer(page("contacts", "Contact")),
    "/api/v1/{slug}/contacts/{id}": GoodAnswer(ref("Contact")),
    "/api/v1/{slug}/contacts/{id}/export": GoodAnswer(ref("PersonExport"), refuses=(409,)),
    "/api/v1/{slug}/campaigns": GoodAnswer(page("campaigns", "Campaign")),
    "/api/v1/{slug}/campaigns/{id}": GoodAnswer(ref("Campaign")),
    "/api/v1/{slug}/conversations": GoodAnswer(
        page("conversations", "FoundConversation", complete=FLAG, next={"type": "null"})
    ),
    "/api/v1/{slug}/acks": GoodAnswer(ref("SentMessages")),
    "/api/v1/{slug}/acks/stuck": GoodAnswer(
        page("tickets", "StuckTicket", messages=INTEGER, complete=FLAG, next={"type": "null"})
    ),
    "/api/v1/{slug}/backfill": GoodAnswer(page("runs", "Run", next={"type": "null"})),
    "/api/v1/{slug}/drift": GoodAnswer(
        page("drift", "Difference", run=nullable(INTEGER), finished_at=nullable({**TEXT, "format": "date-time"}))
    ),
    "/api/v1/{slug}/rejects": GoodAnswer(page("rejects", "RejectedDelivery", next={"type": "null"})),
    "/api/v1/{slug}/rejects/{number}": GoodAnswer({}, "application/octet-stream"),
    "/api/v1/{slug}/trace/{id}": GoodAnswer(
        row(
            {
                "matches": listed(ref("TraceMatch")),
                "trace": {"anyOf": [ref("TraceOfEvent"), ref("TraceOfParked"), ref("TraceOfThing"), {"type": "null"}]},
            }
        )
    ),
    "/contracts": GoodAnswer(TEXT, "text/html"),
    "/contracts/{file}": GoodAnswer({}, "*/*"),
    "/livez": GoodAnswer(row({"alive": {"const": True}})),
    "/readyz": GoodAnswer(ref("Readiness"), also={503: ref("Readiness")}),
    "/readyz/{role}": GoodAnswer(ref("Readiness"), also={503: ref("Readiness")}),
    "/metrics": GoodAnswer(TEXT, "text/plain"),
}
"""What each path answers. Every new route has its row here."""

_PLAIN: Final[JsonObject] = {**TEXT, "pattern": r"^[^\u0000]*$"}
"""A text that is looked for: no database holds a NUL, so a question with one is refused."""

_QUERY: Final[Mapping[str, JsonObject]] = {
    "after": {**TEXT, "description": "The `next` of the page before; opaque."},
    "limit": {
        "type": "integer",
        "minimum": 1,
        "maximum": PAGE_LIMIT,
        "default": DEFAULT_LIMIT,
        "description": "How many rows a page may have.",
    },
    "status": {**_PLAIN, "description": "Only those with this status."},
    "contact": {**_PLAIN, "description": "Only those of the contact with this id."},
    "tenant": {**_PLAIN, "description": "Only those of the tenant with this slug."},
    "type": {**enum(EventType), "description": "Only events of this type."},
    "ticket": {**_PLAIN, "description": "Only events of the ticket with this id."},
    "entity": {**enum(get_args(Entity)), "description": "Only differences of this entity."},
    "kind": {**enum(get_args(DriftKind)), "description": "Only differences of this kind."},
    "find": {
        **TEXT,
        "pattern": r"^[^\u0000]*[^\s\u0000][^\u0000]*$",
        "description": "An id, or the beginning of a name or number; blanks around it are dropped.",
    },
    "hours": {
        "type": "integer",
        "minimum": 1,
        "maximum": ACK_HOURS,
        "default": DAY_HOURS,
        "description": "How long the period is that ends now.",
    },
    "discarded": {
        "type": "integer",
        "enum": [0, 1],
        "default": 0,
        "description": "1 to list what was discarded and can be restored.",
    },
    "raw": {"type": "integer", "enum": [0, 1], "default": 0, "description": "1 to get the bytes that came."},
}
"""Each parameter of a query by its name."""

_QUERY_OF: Final[Mapping[tuple[str, str], JsonObject]] = {
    ("/api/v1/{slug}/trace/{id}", "kind"): {**enum(KINDS), "description": "Only what is of this kind."},
    ("/api/v1/{slug}/conversations", "limit"): {
        "type": "integer",
        "minimum": 1,
        "maximum": FOUND_LIMIT,
        "default": FOUND_LIMIT,
        "description": "How many conversations are answered.",
    },
    ("/api/v1/events", "after"): {**_POSITION, "default": 0, "description": "The position to go on behind."},
    ("/api/v1/stream", "after"): {
        **TEXT,
        "pattern": "^[0-9]{1,19}(-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})?$",
        "default": "0",
        "description": "What to go on behind: a position, or the `id` of a block of this feed.",
    },
}
"""The same, where one path means something else by it."""

_REQUIRED: Final = frozenset((("/api/v1/{slug}/conversations", "find"),))
"""The parameters of queries without which a path answers 400."""

_HEADERS_OF: Final[Mapping[str, Mapping[str, JsonObject]]] = {
    "/api/v1/stream": {
        LAST_EVENT_ID: {
            **TEXT,
            "description": "The `id` of the last block that was read, to go on behind it; counts more than `after`.",
        }
    }
}
"""The headers that a path looks at."""

_PLACEHOLDERS: Final[Mapping[str, JsonObject]] = {
    "slug": {**TEXT, "description": "The name of the tenant's section in the configuration."},
    "id": {**TEXT, "description": "The vendor's id; in a trace also the id of an event, or a SHA-256."},
    "position": {**_POSITION, "description": "A position of the log."},
    "number": {**INTEGER, "minimum": 0, "description": "The number of a reject."},
    "role": {**TEXT, "description": "A role of the process."},
    "file": {**TEXT, "description": "The name of a document, such as `asyncapi.json`."},
}

_REFUSALS: Final[Mapping[int, str]] = {
    400: "A parameter is unknown, given twice, or cannot be read; `parameter` names it.",
    401: "The bearer token is missing or wrong.",
    403: "The token may not do this: `scope` names what it lacks. Or no token is set, and the request's Host is not "
    "this machine's.",
    404: "There is nothing here by that name.",
    409: "The answer would be too large, or take too long: use the command.",
    429: "Too many wrong tokens came at a time; come again.",
    503: "The database is in trouble; come again.",
}


_UNGRANTED: Final = (401, 403, 429)
"""How whoever may not ask is refused."""


def read_api(routes: Iterable[tuple[str, str]], prose: Prose, *, version: str, url: str) -> JsonObject:
    """Return the document of these routes; raise LookupError for one that nothing describes."""
    paths: dict[str, JsonObject] = {}
    for method, path in sorted(routes, key=lambda one: one[1]):
        if path not in ANSWERS:
            raise LookupError(f"{method} {path} has no row in ANSWERS (contracts/openapi.py): say what it answers")
        if path not in prose.paths:
            raise LookupError(f"{method} {path} has no row in docs/read-api.md: say what it takes and answers")
        paths.setdefault(path, {})[method.lower()] = _operation(method, path, prose.paths[path])
    return {
        "openapi": VERSION,
        "jsonSchemaDialect": DIALECT,
        "info": {
            "title": "whatsms-events, the private listener",
            "version": version,
            "description": "What the service knows, as JSON: tickets, messages, contacts, campaigns, the log of "
            "events, what was parked, and how backfills went. It only reads.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": url, "description": "The default of `private.host` and `private.port`."}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": answer_components(prose.fields),
            "responses": {f"Refused{status}": _refusal(status, why) for status, why in _REFUSALS.items()},
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "`private.token`, or one of `private.tokens` with the scope `read` or more; where "
                    "none is set, every request from this machine is served.",
                }
            },
        },
    }


def _operation(method: str, path: str, words: PathWords) -> JsonObject:
    guarded = path.startswith(GUARDED)
    reading = path.startswith("/api/")
    answered = ANSWERS[path]
    statuses = [400, *_UNGRANTED, *answered.refuses, *([503] if reading else [])] if guarded else []
    if "{" in path or "tenant" in words.parameters:
        statuses.append(404)
    responses: JsonObject = {"200": _answer(answered.schema, answered.media_type)}
    responses |= {str(status): _answer(schema, JSON) for status, schema in (answered.also or {}).items()}
    responses |= {str(status): {"$ref": f"#/components/responses/Refused{status}"} for status in sorted(statuses)}
    headers = _HEADERS_OF.get(path, {})
    parameters = [
        *(_parameter("path", name, _PLACEHOLDERS, path) for name in re.findall(r"\{(\w+)\}", path)),
        *(_parameter("query", name, _QUERY, path) for name in words.parameters),
        *(_parameter("header", name, headers, path) for name in headers),
    ]
    return {
        "operationId": operation_id(method, path.removeprefix("/api/v1")),
        "summary": _summary(words.answers, path),
        "description": words.answers,
        "tags": [words.section],
        **({} if guarded else {"security": []}),
        **({"parameters": parameters} if parameters else {}),
        "responses": dict(sorted(responses.items())),
    }


def operation_id(method: str, path: str) -> str:
    """Return a name for generated code, such as `getTicketsById`."""
    parts = [f"By{one[1:-1].capitalize()}" if one[0] == "{" else one for one in path.split("/") if one]
    parts = [one for one in parts if one != "BySlug"]
    return method.lower() + "".join(word[0].upper() + word[1:] for one in parts for word in one.split("-"))


def _summary(text: str, path: str) -> str:
    """Return the first part of a sentence, as a heading; where an example stands there, the path."""
    words = re.split(r"[;:,(] ?", text.replace("`", ""), maxsplit=1)[0].strip()
    return words[:1].upper() + words[1:] if words[:1].isalpha() else path


def _answer(schema: JsonObject, media_type: str) -> JsonObject:
    return {"description": "The answer.", "content": {media_type: {"schema": schema} if schema else {}}}


def _parameter(place: str, name: str, known: Mapping[str, JsonObject], path: str) -> JsonObject:
    schema = _QUERY_OF.get((path, name), known.get(name))
    if schema is None:
        raise LookupError(f"the parameter {name} of {path} has no row in contracts/openapi.py: say what it is")
    schema = dict(schema)
    description = schema.pop("description")
    required = place == "path" or (path, name) in _REQUIRED
    return {"name": name, "in": place, "required": required, "description": description, "schema": schema}


def _refusal(status: int, why: str) -> JsonObject:
    answer: JsonObject = {"description": why, "content": {PROBLEM_JSON: {"schema": ref("Problem")}}}
    if status in (429, 503):
        after = {"description": "Seconds.", "schema": {"type": "integer", "examples": [RETRY_AFTER_S]}}
        answer["headers"] = {"Retry-After": after}
    if status == 401:
        answer["headers"] = {"WWW-Authenticate": {"schema": dict(TEXT)}}
    return answer
