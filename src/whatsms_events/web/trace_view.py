"""This module gives what is known of an event or a thing the JSON shape that the read API and the command `trace` show.

No value of a field is in it, only names, places and times, so it shows no text, name or number of anybody. Every field
is explained in `docs/read-api.md`.
"""

from collections.abc import Mapping, Sequence

from whatsms_events.domain import message_acks
from whatsms_events.domain.acks import LEVELS
from whatsms_events.domain.events import from_micros
from whatsms_events.domain.trace import FieldPlace, FieldTrace, RecordPlace, field_place
from whatsms_events.storage.reads import RowView
from whatsms_events.storage.trace import Became, Confirmed, EventFacts, Match, ParkedFacts, ShortEvent, ThingFacts


def shown_matches(matches: Sequence[Match], slugs: Mapping[str, str]) -> list[RowView]:
    """Return everything that a text may name."""
    return [
        {"kind": one.kind, "tenant": slugs.get(one.tenant), "tenant_id": one.tenant, "id": one.id} for one in matches
    ]


def shown_event(found: EventFacts, record: RecordPlace, slugs: Mapping[str, str]) -> RowView:
    """Return the passport of an event: how it came in, where it is, and what became of it in the tables."""
    event, position = found.entry.event, found.entry.position
    return {
        "kind": "event",
        "tenant": slugs.get(event.tenant),
        "tenant_id": event.tenant,
        "id": event.id,
        "type": event.type,
        "origin": event.origin,
        "occurred_at": event.occurred_at,
        "subject": event.subject,
        "delivery": {
            "sha256": found.sha256.hex(),
            "size": found.size,
            "blanked": found.blanked,
            "signed_by": found.signed_by,
            "first_received_at": event.received_at,
            "redelivered": None if found.redelivered is None else found.redelivered.count,
            "last_redelivered_at": None if found.redelivered is None else found.redelivered.last_at,
        },
        "log": {"log_id": found.log_id, "position": position},
        "record": _record(record),
        "tables": None if found.became is None else _tables(found.entry.position, found.became),
        "thing": None if found.thing is None else _thing(found.thing),
    }


def _record(place: RecordPlace) -> RowView:
    return {
        "state": place.state,
        "topic": place.topic,
        "partition": place.partition,
        "offset": place.offset,
        "published_at": place.published_at,
    }


def _tables(position: int, found: Became) -> RowView:
    applied = position <= found.applied_through
    return {
        "state": "parked" if found.parked is not None else "applied" if applied else "not_applied",
        "parked": found.parked,
        "discarded": found.discarded,
        "applied_through": found.applied_through,
        "changes": None if found.trace is None else found.trace.changes,
        "fields": [_field(one) for one in (() if found.trace is None else found.trace.fields)],
    }


def _field(one: FieldTrace) -> RowView:
    return {
        "table": one.table,
        "id": one.id,
        "field": one.field,
        "outcome": one.outcome,
        "own": _place(one.own),
        "winner": None if one.winner is None else _place(one.winner),
        "same": one.same,
        "doubtful": one.doubtful,
    }


def _place(place: FieldPlace) -> RowView:
    return {"time": place.time, "rank": place.rank, "position": place.position}


def shown_parked(found: ParkedFacts, slugs: Mapping[str, str]) -> RowView:
    """Return what is known of a parked delivery; `parked show` writes its bytes."""
    return {
        "kind": "parked",
        "tenant": slugs.get(found.tenant),
        "tenant_id": found.tenant,
        "id": found.id,
        "reason": found.reason,
        "delivery": {
            "sha256": found.sha256.hex(),
            "signed_by": found.signed_by,
            "first_received_at": found.received_at,
            "count": found.count,
            "discarded_at": found.discarded_at,
        },
    }


def shown_thing(
    found: ThingFacts, events: Sequence[ShortEvent], looked_behind: int, slugs: Mapping[str, str]
) -> RowView:
    """Return what is known of a thing, with its last events, newest first."""
    return {
        "kind": found.kind,
        "tenant": slugs.get(found.tenant),
        "tenant_id": found.tenant,
        "id": found.id,
        **_thing(found),
        "events": [
            {
                "position": one.position,
                "id": one.id,
                "type": one.type,
                "received_at": one.received_at,
                "origin": one.origin,
            }
            for one in events
        ],
        "looked_behind": looked_behind,
    }


def _thing(found: ThingFacts) -> RowView:
    row = found.row
    versions = {} if row is None else row.versions
    return {
        "held": row is not None,
        "known": row is not None and row.known,
        "doubtful": sorted(name for name, version in versions.items() if version.doubtful),
        "fields": [{"field": name, **_place(field_place(one))} for name, one in sorted(versions.items())],
        "ack": _ack(found),
        "rest": None if found.rest is None else _rest(found.rest),
    }


def _ack(found: ThingFacts) -> RowView | None:
    if found.kind != "message" or found.row is None:
        return None
    ack = message_acks.ack(found.row.values)
    times = {f"{name}_at": None if at is None else from_micros(at) for name, at in ack.times.items()}
    return {
        "level": ack.level,
        "name": LEVELS.get(ack.level or 0),
        **times,
        "failed_at": None if ack.failed_at is None else from_micros(ack.failed_at),
        "by_then": list(ack.by_then),
    }


def _rest(rest: Confirmed) -> RowView:
    run = None
    if rest.run is not None:
        run = {
            "run": rest.run,
            "started_at": rest.started_at,
            "finished_at": rest.finished_at,
            "compared": rest.compared,
            "difference": rest.differed,
        }
    looked = None
    if rest.look is not None:
        looked = {
            "first_at": rest.look.first_at,
            "last_at": rest.look.last_at,
            "looks": rest.look.looks,
            "position": rest.look.position,
        }
    return {"observed_at": rest.observed_at, "looked_at": looked, "last_reconcile": run}
