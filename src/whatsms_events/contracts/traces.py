"""The schemas of what `/api/v1/{slug}/trace/{id}` tells of an event, a parked delivery or a thing: never a value."""

from typing import Final, get_args

from whatsms_events.contracts.schemas import FLAG, HEX, IDENTIFIER, INTEGER, TEXT, TIME, enum, listed, nullable, row
from whatsms_events.domain.bodies import JsonObject
from whatsms_events.domain.drift import DriftKind
from whatsms_events.domain.events import Entity, EventType, Origin
from whatsms_events.domain.trace import FALLBACK, RANKS, FieldOutcome, RecordState
from whatsms_events.storage.trace import KINDS

_TEXT_OR_NULL: Final = nullable(TEXT)
_TIME_OR_NULL: Final = nullable(TIME)
_INTEGER_OR_NULL: Final = nullable(INTEGER)


def trace_components(ack: JsonObject) -> dict[str, JsonObject]:
    """Return the components of a trace by name; `ack` is the schema of how far a message got."""
    event = {
        **_named(("event",), IDENTIFIER),
        "type": enum(EventType),
        "origin": enum(get_args(Origin)),
        "occurred_at": _TIME_OR_NULL,
        "subject": _TEXT_OR_NULL,
        "delivery": row({
            "sha256": HEX,
            "size": _INTEGER_OR_NULL,
            "blanked": FLAG,
            "signed_by": _TEXT_OR_NULL,
            "first_received_at": TIME,
            "redelivered": _INTEGER_OR_NULL,
            "last_redelivered_at": _TIME_OR_NULL,
        }),
        "log": row({"log_id": IDENTIFIER, "position": INTEGER}),
        "record": _record(),
        "tables": _tables(),
        "thing": nullable(row(_thing(ack))),
    }  # fmt: skip
    short = row({
        "position": INTEGER,
        "id": IDENTIFIER,
        "type": enum(EventType),
        "received_at": TIME,
        "origin": enum(get_args(Origin)),
    })  # fmt: skip
    thing = {**_named(get_args(Entity), TEXT), **_thing(ack), "events": listed(short), "looked_behind": INTEGER}
    return {
        "TraceMatch": row(_named(KINDS, TEXT)),
        "TraceOfEvent": row(event),
        "TraceOfParked": row({**_named(("parked",), IDENTIFIER), "reason": TEXT, "delivery": row(_parked())}),
        "TraceOfThing": row(thing),
    }


def _named(kinds: tuple[str, ...], identifier: JsonObject) -> dict[str, JsonObject]:
    return {"kind": enum(kinds), "tenant": _TEXT_OR_NULL, "tenant_id": TEXT, "id": identifier}


def _parked() -> dict[str, JsonObject]:
    told = {"sha256": HEX, "signed_by": _TEXT_OR_NULL, "first_received_at": TIME, "count": INTEGER}
    return {**told, "discarded_at": nullable(TIME)}


def _record() -> JsonObject:
    place = {"topic": _TEXT_OR_NULL, "partition": _INTEGER_OR_NULL, "offset": _INTEGER_OR_NULL}
    return row({"state": enum(get_args(RecordState)), **place, "published_at": _TIME_OR_NULL})


def _tables() -> JsonObject:
    place = row(_place())
    field = row({
        "table": TEXT,
        "id": TEXT,
        "field": TEXT,
        "outcome": enum(get_args(FieldOutcome)),
        "own": place,
        "winner": nullable(place),
        "same": FLAG,
        "doubtful": FLAG,
    })  # fmt: skip
    return row({
        "state": enum(("parked", "applied", "not_applied")),
        "parked": _TEXT_OR_NULL,
        "discarded": FLAG,
        "applied_through": INTEGER,
        "changes": nullable(FLAG),
        "fields": listed(field),
    })  # fmt: skip


def _place() -> dict[str, JsonObject]:
    # Of acks the rank says why another event won.
    ranks = enum((*RANKS.values(), FALLBACK, "earlier", "higher"))
    return {"time": _TIME_OR_NULL, "rank": ranks, "position": _INTEGER_OR_NULL}


def _thing(ack: JsonObject) -> dict[str, JsonObject]:
    run = {
        "run": INTEGER,
        "started_at": _TIME_OR_NULL,
        "finished_at": _TIME_OR_NULL,
        "compared": FLAG,
        "difference": nullable(enum(get_args(DriftKind))),
    }
    looked = {"first_at": TIME, "last_at": TIME, "looks": INTEGER, "position": INTEGER}
    rest = {"observed_at": _TIME_OR_NULL, "looked_at": nullable(row(looked)), "last_reconcile": nullable(row(run))}
    return {
        "held": FLAG,
        "known": FLAG,
        "doubtful": listed(TEXT),
        "fields": listed(row({"field": TEXT, **_place()})),
        "ack": nullable(ack),
        "rest": row(rest),
    }
