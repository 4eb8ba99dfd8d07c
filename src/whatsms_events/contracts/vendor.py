"""OpenAPI 3.1 of the vendor's REST API as the twin serves it, for whoever writes against either.

Paths come from the twin's endpoints, bodies and filters from the arguments of our client, answers from the names that
the twin shows and from the shapes that `domain/documented` reads.
"""

import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from whatsms_events.contracts.asyncapi import open_schema
from whatsms_events.contracts.openapi import VERSION, operation_id
from whatsms_events.contracts.schemas import DIALECT, components, orderly, row
from whatsms_events.domain import documented
from whatsms_events.domain.bodies import JsonObject
from whatsms_events.twin.rest.answers import PAGE_SIZE, TEXTS
from whatsms_events.twin.rest.reads import Reads
from whatsms_events.twin.rest.server import PREFIX, RestEndpoint, rest_endpoints
from whatsms_events.twin.rest.writes import Writes
from whatsms_events.twin.shapes import Shape
from whatsms_events.whatsms.endpoint import PAGE_SIZE_LIMIT, Parameters
from whatsms_events.whatsms.endpoints import Agents, Campaigns, Contacts, Messages, Tickets
from whatsms_events.whatsms.resources import Agent

_TEMPLATE: Final = "#/components/schemas/{name}"
_TEXT: Final[JsonObject] = {"type": "string"}
_NAMES: Final = Parameters()
_FILTERS: Final[Mapping[str, str]] = {
    "status": _NAMES.status,
    "contact_id": _NAMES.contact,
    "search": _NAMES.search,
}
"""Arguments of the client's lists -> parameters of the query."""

_RENAMED: Final = {
    field.name: field.encode_name
    for shape in (documented.MessageShape, documented.ContactShape)
    for field in msgspec.structs.fields(shape)
}
"""The vendor's names that do not follow from ours."""

_PATH_ARGUMENTS: Final = frozenset(("self", "id", "ticket_id", "place", "page_size"))


@dataclass(frozen=True, slots=True)
class _Asked:
    """How our client asks for an endpoint, and what comes back: one thing or a list of them, in these names."""

    method: Callable[..., Any]
    key: str
    shown: Shape | None


_ASKED: Final[Mapping[tuple[str, str], _Asked]] = {
    ("GET", "/tickets"): _Asked(Tickets.page, "tickets", Shape.TICKET_LISTED),
    ("POST", "/tickets"): _Asked(Tickets.create, "ticket", Shape.TICKET_CREATED),
    ("GET", "/tickets/{id}"): _Asked(Tickets.get, "ticket", Shape.TICKET),
    ("PUT", "/tickets/{id}"): _Asked(Tickets.update, "ticket", Shape.TICKET_UPDATED),
    ("PATCH", "/tickets/{id}"): _Asked(Tickets.update, "ticket", Shape.TICKET_UPDATED),
    ("GET", "/tickets/{id}/messages"): _Asked(Messages.page, "messages", Shape.MESSAGE_LISTED),
    ("POST", "/tickets/{id}/messages"): _Asked(Messages.send, "message", Shape.MESSAGE_CREATED),
    ("GET", "/contacts"): _Asked(Contacts.page, "contacts", Shape.CONTACT_LISTED),
    ("POST", "/contacts"): _Asked(Contacts.create, "contact", Shape.CONTACT_CREATED),
    ("GET", "/contacts/{id}"): _Asked(Contacts.get, "contact", Shape.CONTACT),
    ("PUT", "/contacts/{id}"): _Asked(Contacts.update, "contact", Shape.CONTACT_UPDATED),
    ("PATCH", "/contacts/{id}"): _Asked(Contacts.update, "contact", Shape.CONTACT_UPDATED),
    ("GET", "/campaigns"): _Asked(Campaigns.page, "campaigns", Shape.CAMPAIGN_LISTED),
    ("POST", "/campaigns"): _Asked(Campaigns.create, "campaign", Shape.CAMPAIGN_CREATED),
    ("GET", "/ai-agents"): _Asked(Agents.list, "agents", None),
    ("POST", "/ai-agents/assign"): _Asked(Agents.assign, "ticket", Shape.TICKET_ASSIGNED),
}

_SHAPES: Final = {
    "ticket": documented.TicketShape,
    "message": documented.MessageShape,
    "contact": documented.ContactShape,
    "campaign": documented.CampaignShape,
}


def vendor_api(*, version: str) -> JsonObject:
    """Return the document; raise LookupError for an endpoint that nothing describes."""
    nothing: Any = None  # endpoints are asked for, never called
    paths: dict[str, JsonObject] = {}
    for endpoint in rest_endpoints(Reads(nothing), Writes(nothing)):
        paths.setdefault(PREFIX + endpoint.template, {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": VERSION,
        "jsonSchemaDialect": DIALECT,
        "info": {
            "title": "WhatSMS's REST API v2, as the twin serves it",
            "version": version,
            "description": "Made from the vendor's page, which leaves open the names of parameters and the verb of "
            "updates. Ids may be integers, and fields may be missing: `docs/twin.md` names the twin's dialects.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "http://127.0.0.1:8090", "description": "`whatsms-events twin` says where it listens."}],
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "schemas": {
                **{name: open_schema(schema) for name, schema in components(_SHAPES.values(), _TEMPLATE).items()},
                "Agent": _agent(),
                "Error": row({"error": {**_TEXT, "description": "A text for people, in Portuguese."}}),
            },
            "responses": {f"Refused{status}": _refusal(status) for status in (400, 401, 404, 429)},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "The account's API key."}},
        },
    }


def _operation(endpoint: RestEndpoint) -> JsonObject:
    asked = _ASKED.get((endpoint.method, endpoint.template))
    if asked is None:
        raise LookupError(f"{endpoint.method} {endpoint.template} has no row in contracts/vendor.py")
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": _TEXT}
        for name in re.findall(r"\{(\w+)\}", endpoint.template)
    ]
    reading = endpoint.method == "GET"
    if endpoint.paged:
        parameters += _page_parameters(asked)
    refused = {str(status): {"$ref": f"#/components/responses/Refused{status}"} for status in (400, 401, 429)}
    if "{" in endpoint.template or not reading:
        refused["404"] = {"$ref": "#/components/responses/Refused404"}
    operation: JsonObject = {
        "operationId": operation_id(endpoint.method, endpoint.template),
        "summary": inspect.cleandoc(endpoint.verb.__doc__ or "").partition("\n")[0],
        "tags": [asked.key.removesuffix("s").capitalize()],
        **({"parameters": parameters} if parameters else {}),
        "responses": {str(endpoint.status): _answer(endpoint, asked), **dict(sorted(refused.items()))},
    }
    if not reading:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _body(asked.method)}},
        }
    return operation


def _page_parameters(asked: _Asked) -> list[JsonObject]:
    names = [_FILTERS[name] for name in inspect.signature(asked.method).parameters if name in _FILTERS]
    pages: list[JsonObject] = [
        {"name": _NAMES.page, "in": "query", "schema": {"type": "integer", "minimum": 1, "default": 1}},
        {
            "name": _NAMES.limit,
            "in": "query",
            "schema": {"type": "integer", "minimum": 1, "default": PAGE_SIZE},
            "description": f"How many a page has; more than {PAGE_SIZE_LIMIT} count as {PAGE_SIZE_LIMIT}.",
        },
    ]
    return [*pages, *({"name": name, "in": "query", "schema": _TEXT} for name in names)]


def _body(method: Callable[..., Any]) -> JsonObject:
    """Return the schema of what the client's method sends: its arguments, by the vendor's names."""
    hints = typing.get_type_hints(method)
    properties: dict[str, JsonObject] = {}
    optional = set()
    # What stands in the path is no field of the body; only this one method takes a ticket's id for the body.
    elsewhere = _PATH_ARGUMENTS - ({"ticket_id"} if method is Agents.assign else set())
    for name, argument in inspect.signature(method).parameters.items():
        if name in elsewhere:
            continue
        vendor = _vendor_name(name)
        properties[vendor] = _argument(hints[name])
        if argument.default is UNSET:
            optional.add(vendor)
    return row(properties, optional=optional)


def _vendor_name(name: str) -> str:
    first, *rest = name.split("_")
    return _RENAMED.get(name, first + "".join(map(str.capitalize, rest)))


def _argument(hint: Any) -> JsonObject:
    """Return the schema of an argument as it is sent; one that is left out is not sent at all."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    kinds = [kind for kind in (typing.get_args(hint) if union else (hint,)) if kind is not UnsetType]
    shown = [{**msgspec.json.schema(kind), **({"format": "date-time"} if kind is datetime else {})} for kind in kinds]
    return orderly({"anyOf": shown} if len(shown) > 1 else shown[0])


def _answer(endpoint: RestEndpoint, asked: _Asked) -> JsonObject:
    item = _ref("Agent") if asked.shown is None else _shown(asked.key.removesuffix("s"), asked.shown)
    if endpoint.paged:
        schema = row({
            asked.key: {"type": "array", "items": item},
            "count": {"type": "integer", "description": "How many there are on all pages."},
            "hasMore": {"type": "boolean"},
        })  # fmt: skip
    else:
        schema = row({asked.key: {"type": "array", "items": item} if asked.shown is None else item})
    return {"description": "Done.", "content": {"application/json": {"schema": schema}}}


def _shown(kind: str, shape: Shape) -> JsonObject:
    """Return the schema of a resource in an answer that shows these names."""
    name = _SHAPES[kind].__name__
    properties = {field: {"$ref": f"#/components/schemas/{name}/properties/{field}"} for field in shape.value}
    return row(properties, optional=[field for field in shape.value if field != "id"])


def _agent() -> JsonObject:
    found = components([Agent], _TEMPLATE)["Agent"]
    properties = {_vendor_name(name): schema for name, schema in found["properties"].items() if name != "extra"}
    return row(properties, optional=[name for name in properties if name != "id"])


def _refusal(status: int) -> JsonObject:
    answer: JsonObject = {
        "description": TEXTS[status],
        "content": {"application/json": {"schema": _ref("Error")}},
    }
    if status == 429:
        answer["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    return answer


def _ref(name: str) -> JsonObject:
    return {"$ref": _TEMPLATE.format(name=name)}
