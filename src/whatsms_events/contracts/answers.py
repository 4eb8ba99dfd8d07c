"""The JSON that the private listener answers, as schemas: from the tables of the database and the structs behind it."""

from collections.abc import Mapping
from typing import Any, Final, Protocol, get_args
from uuid import UUID

from whatsms_events.backfill.run import Report
from whatsms_events.contracts.schemas import (
    FLAG,
    HEX,
    IDENTIFIER,
    INTEGER,
    PERSONAL,
    TEXT,
    TIME,
    Words,
    components,
    enum,
    listed,
    nullable,
    row,
)
from whatsms_events.contracts.traces import trace_components
from whatsms_events.domain.acks import LEVELS
from whatsms_events.domain.bodies import JsonObject
from whatsms_events.domain.delays import OUTCOMES, RANGES
from whatsms_events.domain.drift import DriftKind
from whatsms_events.domain.events import SHAPES, Entity, EventType, Origin
from whatsms_events.domain.resources import ACK_COLUMNS, GROUPS, NAMED
from whatsms_events.storage import tables
from whatsms_events.storage.privacy import PLACES, Precision
from whatsms_events.storage.repair.reports import Kind, Options
from whatsms_events.web.export import FORMAT
from whatsms_events.web.views import FOUND_TICKET, ShownProgress

TEMPLATE: Final = "#/components/schemas/{name}"

_KINDS: Final[Mapping[type, JsonObject]] = {
    str: TEXT,
    int: INTEGER,
    bool: FLAG,
    float: {"type": "number"},
    bytes: HEX,  # of a row, only hashes are shown
    UUID: IDENTIFIER,
}
_HIDDEN: Final = ("versions", "raw", "headers", *tables.FOUND_BY)
"""Columns that no answer shows: our own book-keeping, bytes, and what repeats a field so that it is found."""

_SECTIONS: Final[Mapping[str, str]] = {
    "Ticket": "Tickets",
    "Message": "Messages",
    "MessageInFull": "Messages",
    "Contact": "Contacts",
    "Campaign": "Campaigns",
    "LoggedEvent": "Events",
    "LoggedEventInFull": "Events",
    "FoundConversation": "Conversations",
    "SentMessages": "Acks",
    "StuckTicket": "Acks",
    "Run": "Backfills",
    "Difference": "Drift",
    "ParkedDelivery": "Parked",
    "ParkedEvent": "Parked",
    "RejectedDelivery": "Rejects",
    "PersonExport": "Everything of one person",
    "PrivacyReport": "What is held of people",
    "RunningSettings": "Settings",
}
"""The section of `docs/read-api.md` that tells of the fields of each component."""

_SHARED: Final = "What every ticket, message, contact and campaign has"
_OF_ENTITIES: Final = frozenset(("Tickets", "Messages", "Contacts", "Campaigns"))


class _Type(Protocol):
    """What a column holds; SQLAlchemy is the storage's own."""

    @property
    def python_type(self) -> type:
        """The type of its values."""


def ref(name: str) -> JsonObject:
    """Return a reference to a component."""
    return {"$ref": TEMPLATE.format(name=name)}


def page(plural: str, item: str, **beside: JsonObject) -> JsonObject:
    """Return the schema of a page of a list; what stands beside the rows may replace its `next`."""
    following = {**nullable(TEXT), "description": "Give it as `after` to get the next page; null on the last one."}
    return row({plural: listed(ref(item)), "next": following, **beside})


def answer_components(fields: Words) -> dict[str, JsonObject]:
    """Return every component of the read API's document by its name; `fields` are the page's words by section."""
    words = {name.capitalize(): _words(f"{name.capitalize()}s", fields) for name in get_args(Entity)}
    payloads = components(SHAPES.values(), TEMPLATE, words=words)
    # The resources have their names in the answers about themselves.
    renamed = {name: f"Told{name}" if name.lower() in get_args(Entity) else name for name in payloads}
    told = {renamed[name]: _renamed(schema, renamed) for name, schema in payloads.items()}
    rows = {
        **_entities(),
        **_events(),
        **_parked(),
        **_backfills(),
        **_sent_messages(),
        "FoundConversation": _found(),
        "PersonExport": _export(),
        "PrivacyReport": _privacy(),
        "RejectedDelivery": row(
            {"number": INTEGER, "received_at": TIME, "reason": enum(("wrong",)), "size_bytes": INTEGER}
        ),
        "RunningSettings": row(
            {
                "salt": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
                "settings": {"type": "object"},
            }
        ),
    }
    for name, schema in rows.items():
        if name in _SECTIONS:
            schema["properties"] = _described(name, schema["properties"], _words(_SECTIONS[name], fields))
    return {**told, **rows, **trace_components(_ack()), **_others()}


def _words(section: str, fields: Words) -> Mapping[str, str]:
    shared = fields[_SHARED] if section in _OF_ENTITIES else {}
    return {**shared, **fields[section]}


def _described(component: str, schemas: Mapping[str, JsonObject], words: Mapping[str, str]) -> dict[str, JsonObject]:
    """Return an object's properties with what the page says of each; raise LookupError for one that it leaves out."""
    shown: dict[str, JsonObject] = {}
    for name, schema in schemas.items():
        if name not in words:
            raise LookupError(f"docs/read-api.md does not say what `{name}` of {component} is")
        personal = name in PERSONAL.get(component.removesuffix("InFull"), ())
        shown[name] = {**schema, "description": words[name]} | ({"x-personal": True} if personal else {})
        inside = shown[name].get("items", shown[name])
        if "properties" in inside:
            below = {key.removeprefix(f"{name}."): text for key, text in words.items() if key.startswith(f"{name}.")}
            inside["properties"] = _described(f"{component}.{name}", inside["properties"], below)
    return shown


def _renamed(schema: Any, names: Mapping[str, str]) -> Any:
    match schema:
        case {"$ref": str(target)}:
            return {**schema, **ref(names[target.rpartition("/")[2]])}
        case dict():
            return {key: _renamed(one, names) for key, one in schema.items()}
        case list():
            return [_renamed(one, names) for one in schema]
        case _:
            return schema


def _column(name: str, kind: _Type, *, nulls: bool) -> JsonObject:
    schema = TIME if name.endswith("_at") else _KINDS[kind.python_type]
    return nullable(schema) if nulls else dict(schema)


def _columns(table: str, *without: str) -> dict[str, JsonObject]:
    """Return the columns of a table that an answer shows as they are."""
    found = {**tables.log_metadata.tables, **tables.projection_metadata.tables}[table]
    return {
        str(column.name): _column(column.name, column.type, nulls=bool(column.nullable))
        for column in found.c
        if column.name not in (*_HIDDEN, *without)
    }


def _entities() -> dict[str, JsonObject]:
    """Return tickets, messages, contacts and campaigns as the projection shows them."""
    shared = {"doubtful": listed(TEXT), "gone": nullable(FLAG)}
    groups = {name: nullable(row({"id": nullable(TEXT), "name": nullable(TEXT)})) for name in GROUPS}
    inner = [column for pair in GROUPS.values() for column in pair]
    found = {
        "Ticket": _columns("ticket", "tenant", *inner, *NAMED) | groups | shared,
        "Message": _columns("message", "tenant", *ACK_COLUMNS) | {"ack": _ack()} | shared,
        "Contact": _columns("contact", "tenant") | {"extra_info": nullable(listed({}))} | shared,
        "Campaign": _columns("campaign", "tenant") | shared,
    }
    full = found["Message"] | {"revisions": listed(_revision()), "revisions_complete": FLAG}
    return {name: row(properties) for name, properties in {**found, "MessageInFull": full}.items()}


def _ack() -> JsonObject:
    levels = tuple(LEVELS.values())
    times = {f"{name}_at": nullable(TIME) for name in (*levels, "failed")}
    level = {"type": ["integer", "null"], "minimum": min(LEVELS), "maximum": max(LEVELS)}
    return row({"level": level, "name": nullable(enum(levels)), **times, "by_then": listed(enum(levels))})


def _revision() -> JsonObject:
    content = {"body": nullable(TEXT), "media_type": nullable(TEXT), "deleted": nullable(FLAG)}
    rest = {"number": INTEGER, "first_at": TIME, "media_url": nullable(TEXT)}
    return row({**rest, **content}, optional=content)


def _tenants() -> dict[str, JsonObject]:
    return {"tenant": nullable(TEXT), "tenant_id": dict(TEXT)}


def _events() -> dict[str, JsonObject]:
    data = {"anyOf": [*(ref(shape.__name__) for shape in SHAPES.values()), {"type": "null"}]}
    closed = {"type": enum(EventType), "origin": enum(get_args(Origin))}
    logged = _columns("event_log") | _tenants() | closed | {"data": data, "size": nullable(INTEGER)}
    full = logged | {
        "redelivered": nullable(INTEGER),
        "redelivered_at": nullable(TIME),
        "raw": {"type": ["string", "null"], "contentEncoding": "base64"},
    }
    return {"LoggedEvent": row(logged), "LoggedEventInFull": row(full, optional=("raw",))}


def _export() -> JsonObject:
    """Return all that is held of a person: the fields of `web.export`, in which the read API's rows stand."""
    data = {"anyOf": [*(ref(shape.__name__) for shape in SHAPES.values()), {"type": "null"}]}
    ids = {name: nullable(TEXT) for name in ("subject", "ticket_id", "contact_id", "message_id")}
    event = {
        "position": INTEGER,
        "id": IDENTIFIER,
        "type": enum(EventType),
        "occurred_at": nullable(TIME),
        "received_at": TIME,
        "origin": enum(get_args(Origin)),
        "own": FLAG,
        **ids,
        "data": data,
    }
    delivery = {"id": IDENTIFIER, "received_at": TIME, "reason": TEXT, "readable": FLAG, "content": {}}
    unapplied = {"source": TEXT, "at": INTEGER, "position": nullable(INTEGER), "event_id": nullable(IDENTIFIER)}
    unapplied |= {"parked_at": TIME, "reason": TEXT, "content": {}}
    repair = {"kind": enum(("item", "drift", "look")), "run": nullable(INTEGER), "entity": enum(get_args(Entity))}
    repair |= {"id": TEXT, "at": nullable(TIME), "fields": listed(TEXT), "shown": listed({})}
    return row(
        {
            "format": {"const": FORMAT},
            "made_at": TIME,
            "tenant": TEXT,
            "tenant_id": TEXT,
            "contact_ids": listed(TEXT),
            "numbers": listed(TEXT),
            "through": INTEGER,
            "contacts": listed(ref("Contact")),
            "tickets": listed(ref("Ticket")),
            "messages": listed(ref("MessageInFull")),
            "events": listed(row(event)),
            "parked_deliveries": listed(row(delivery)),
            "parked_events": listed(row(unapplied)),
            "comparisons": listed(row(repair)),
            "media_urls": listed(TEXT),
        }
    )


def _privacy() -> JsonObject:
    """Return what is held of people: the fields of `web.privacy`."""
    precision = enum(get_args(Precision))
    held = {"place": enum(PLACES), "rows": INTEGER, "precision": precision, "oldest_at": nullable(TIME)}
    tenant = {"tenant": TEXT, "tenant_id": TEXT, "people": INTEGER, "people_precision": precision}
    forgotten = {"contact_id": TEXT, "forgotten_at": TIME, "finished_at": nullable(TIME), "kafka_until": nullable(TIME)}
    tenant |= {"held": listed(row(held | {"due": nullable(INTEGER)}))}
    tenant |= {"forgotten_people": INTEGER, "forgotten": listed(row(forgotten)), "unread": listed(IDENTIFIER)}
    return row({"made_at": TIME, "tenants": listed(row(tenant))})


def _parked() -> dict[str, JsonObject]:
    delivery = _columns("parked_delivery") | _tenants() | {"size": INTEGER}
    event = _columns("parked_event") | _tenants() | {"tenant_id": nullable(TEXT), "size": INTEGER}
    return {"ParkedDelivery": row(delivery), "ParkedEvent": row(event)}


def _backfills() -> dict[str, JsonObject]:
    """Return runs, with their progress and report as the structs have them, and the rows of the drift report."""
    found = components((Options, ShownProgress, Report), TEMPLATE)
    inside = {name: _inlined(found[name], found) for name in ("Options", "ShownProgress", "Report")}
    progress = row(inside["ShownProgress"]["properties"])
    run = {
        "run": INTEGER,
        "kind": enum(get_args(Kind)),
        "cause": TEXT,
        "options": row(inside["Options"]["properties"]),
        "started_at": TIME,
        "updated_at": TIME,
        "stopped_by": nullable(TEXT),
        "finished_at": nullable(TIME),
        "remaining": INTEGER,
        "progress": nullable(progress),
        "report": nullable(_report(inside["Report"])),
    }
    entities, kinds = get_args(Entity), get_args(DriftKind)
    difference = {
        **_columns("backfill_drift", "run"),
        "entity": enum(entities),
        "kind": enum(kinds),
        "fields": listed(TEXT),
    }
    return {"Run": row(run), "Difference": row(difference)}


def _found() -> JsonObject:
    """Return what `conversations` answers of each contact that was found."""
    ticket, contact = _columns("ticket"), _columns("contact")
    return row(
        {
            "matched": enum(("id", "name", "number", "ticket")),
            "contact_id": nullable(TEXT),
            **{name: contact[name] for name in ("name", "number", "is_group")},
            "tickets": listed(row({name: ticket[name] for name in FOUND_TICKET})),
            "tickets_complete": FLAG,
        }
    )


def _sent_messages() -> dict[str, JsonObject]:
    """Return what became of the messages of a period, and which tickets have stuck ones."""
    counts = row(dict.fromkeys(OUTCOMES, INTEGER))
    ranges = {**listed(INTEGER), "minItems": len(RANGES), "maxItems": len(RANGES)}
    between = {"since": TIME, "until": TIME}
    part = {**between, "counts": counts, "delivered_after": ranges, "read_after": ranges, "complete": FLAG}
    ids = {name: nullable(TEXT) for name in ("ticket_id", "contact_id", "status")}
    return {
        "SentMessages": row({**between, "counts": counts, "bounds_s": listed(INTEGER), "parts": listed(row(part))}),
        "StuckTicket": row({**ids, "count": INTEGER, "oldest_at": TIME, "newest_at": TIME}),
    }


def _report(report: JsonObject) -> JsonObject:
    """Return the schema of a report, as the API passes it on: those of earlier releases lack some fields."""
    optional = {"ended", "forbidden", "forbidden_names", "held_back"}
    return row(report["properties"], optional=optional)


def _inlined(schema: Any, found: Mapping[str, JsonObject]) -> Any:
    """Return a schema with the components that it refers to in their places: none of these is recursive."""
    match schema:
        case {"$ref": str(target)}:
            inner = _inlined(found[target.rpartition("/")[2]], found)
            return {key: one for key, one in inner.items() if key not in ("title", "description")}
        case dict():
            return {key: _inlined(one, found) for key, one in schema.items()}
        case list():
            return [_inlined(one, found) for one in schema]
        case _:
            return schema


def _others() -> dict[str, JsonObject]:
    """Return what is no row: problems, and what the probes answer."""
    problem = {"type": TEXT, "title": TEXT, "status": INTEGER, "detail": TEXT, "parameter": TEXT}
    said = {"type": "object", "additionalProperties": TEXT}
    ready = {"ready": FLAG, "draining": FLAG, "checks": said, "roles": said, "details": {"type": "object"}}
    return {
        "Problem": row(problem, optional=("detail", "parameter"))
        | {"description": "Why a request was refused (RFC 9457); `parameter` names the one that is to blame."},
        "Readiness": row(ready),
    }
