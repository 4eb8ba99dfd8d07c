"""Whether what the vendor shows differs from the row we hold, and the observation that mends the row.

The comparison uses the claims that the fold makes of an observation: so there is a finding only where its observation
changes the row, and no finding is left once the observation is applied.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from whatsms_events.domain import differences, fold, gone
from whatsms_events.domain.events import (
    Campaign,
    CampaignPayload,
    Contact,
    ContactPayload,
    Entity,
    Event,
    EventType,
    Message,
    MessagePayload,
    Payload,
    Ticket,
    TicketPayload,
    encode,
    event_id,
)
from whatsms_events.domain.normalize import ids
from whatsms_events.domain.resources import NAMED
from whatsms_events.domain.rows import OBSERVATION, UNCOMPARED, Claim, Key, Row, value_of
from whatsms_events.errors import InvalidEventError

DriftKind = Literal[
    "missed",  # there, and not known here
    "stale",  # known here with another value, or as gone
    "extra",  # held here, no longer there
    "unannounced",  # it differs, but no webhook had to tell: all of a campaign but its end, and what `is_quiet`
    "doubtful",  # two values were seen here at the same time, and the answer settles which it is
]

Age = Literal["under_1h", "under_1d", "under_7d", "older", "unknown"]
AGES: Final[tuple[Age, ...]] = ("under_1h", "under_1d", "under_7d", "older", "unknown")
_AGE_LIMITS_S: Final = (3600, 86_400, 7 * 86_400)

_json: Final = msgspec.json.Encoder()
_canonical: Final = msgspec.json.Encoder(order="deterministic")
_NOBODY: Final = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Sighting:
    """What a page or an answer showed of one entity, as of a time of the vendor's clock.

    `log_end` is the log's end before the request. `ticket_id`, for a message: the ticket whose list showed it.
    `explained`, for a ticket: a held message explains the last message that was shown, or none was shown.
    """

    entity: Entity
    id: str
    payload: Payload
    as_of: datetime
    log_end: int
    ticket_id: str | None = None
    explained: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """One entity whose state differs. `fields` are registers; `age_s` is how old the difference is, where known."""

    entity: Entity
    id: str
    kind: DriftKind
    fields: tuple[str, ...]
    age_s: float | None


class Count(msgspec.Struct, frozen=True, kw_only=True):
    """One cell of the drift report: so many differences of this entity, kind and age were found."""

    entity: Entity
    kind: DriftKind
    age: Age
    count: int


Verdict = Finding | Literal["same", "waits"]


def compare(tenant: str, sighting: Sighting, row: Row | None) -> Verdict:
    """Return what is to be observed; "same" for nothing; "waits" if the row is newer than the sighting: look again.

    It waits only for a field that matters: one that is doubtful, or that differs and of which a webhook would have
    told; others are left to the next run. Raises InvalidEventError where the payload is not about the sighting's id.
    """
    _, claim, place = _claimed(tenant, sighting, row)
    if claim.registers.get("gone") is True:
        return _compare_absence(sighting, claim, row)
    fields = differences.differing(claim, place, row)
    loud = tuple(name for name in fields if not differences.is_quiet(claim, row, name, explained=sighting.explained))
    unsure = [name for name in claim.registers if _doubtful(claim, row, name)]
    named = [name for name, group in NAMED.items() if group in fields and name in claim.registers]
    doubtful = tuple(dict.fromkeys(NAMED.get(name, name) for name in unsure))
    known = row is not None and row.known
    if _newer(sighting, claim, row, {*fields, *unsure, *named}):
        return "waits" if loud or doubtful or not known else "same"
    if known and not fields and not doubtful:
        return "same"
    if known and not loud and doubtful:
        both = tuple(dict.fromkeys((*doubtful, *fields)))
        return Finding(sighting.entity, sighting.id, "doubtful", both, None)
    kind: DriftKind = "stale" if known else "missed"
    if (known and not loud) or (sighting.entity == "campaign" and not _announced(claim, kind, fields)):
        return Finding(sighting.entity, sighting.id, "unannounced", fields, None)
    return Finding(sighting.entity, sighting.id, kind, fields, _age_s(claim, row, kind, loud))


def observation(tenant: str, sighting: Sighting, row: Row | None, *, received_at: datetime) -> tuple[Event, bytes]:
    """Return the event that says what was seen, and the raw document to keep beside it.

    Its id is a UUID of version 8 without time bits, frozen by test vectors: the hash of tenant, type, id, what is
    compared, and the row's position. So the log has it once, however often it is appended, until the row changes.
    Raises InvalidEventError as `compare` does.
    """
    event, claim, _ = _claimed(tenant, sighting, row)
    at = position(row)
    identity = _canonical.encode([event.type, sighting.id, at, differences.identity(claim, row)])
    event = msgspec.structs.replace(event, id=event_id(tenant, identity, None), received_at=received_at)
    raw = {
        "event": event.type,
        "tenantId": tenant,
        "timestamp": sighting.as_of,
        "position": at,
        "data": msgspec.Raw(event.data),
    }
    return event, _json.encode(raw)


def absence(
    entity: Entity, entity_id: str, *, as_of: datetime, log_end: int, merged_into: str | None = None
) -> Sighting:
    """Return the sighting of a thing that does not exist; its finding is `extra`.

    `merged_into`: the ticket or contact that the vendor named in its place.
    """
    payload = _GONE[entity](entity_id, UNSET if merged_into is None else merged_into)
    return Sighting(entity, entity_id, payload, as_of, log_end)


_GONE: Final[Mapping[Entity, Callable[[str, str | UnsetType], Payload]]] = {
    "message": lambda one, _into: MessagePayload(message=Message(id=one, gone=True)),
    "ticket": lambda one, into: TicketPayload(ticket=Ticket(id=one, gone=True, merged_into=into)),
    "contact": lambda one, into: ContactPayload(contact=Contact(id=one, gone=True, merged_into=into)),
    "campaign": lambda one, _into: CampaignPayload(campaign=Campaign(id=one, gone=True)),
}


def position(row: Row | None) -> int:
    """Return the highest log position of an event that claimed any register of the row, 0 for none."""
    return 0 if row is None else max((version.latest for version in row.versions.values()), default=0)


def count(counts: Iterable[Count], findings: Iterable[Finding]) -> tuple[Count, ...]:
    """Return the counts with these findings added, in the order of their names."""
    total = Counter({(one.entity, one.kind, one.age): one.count for one in counts})
    total.update((one.entity, one.kind, age_bucket(one.age_s)) for one in findings)
    return tuple(
        Count(entity=entity, kind=kind, age=age, count=number) for (entity, kind, age), number in sorted(total.items())
    )


def age_bucket(age_s: float | None) -> Age:
    """Return which of AGES it is."""
    if age_s is None:
        return AGES[-1]
    return next((name for name, limit in zip(AGES, _AGE_LIMITS_S, strict=False) if age_s < limit), AGES[-2])


def _claimed(tenant: str, sighting: Sighting, row: Row | None) -> tuple[Event, Claim, dict[str, Any]]:
    """Return the observation, still without its id, what it claims about the entity, and about a message's place."""
    payload = _again(sighting, row)
    about = ids(payload)
    if about.subject != sighting.id:
        raise InvalidEventError("no_id", sighting.entity)
    event = Event(
        id=_NOBODY,
        type=EventType(f"{sighting.entity}.observed"),
        tenant=tenant,
        occurred_at=sighting.as_of,
        received_at=sighting.as_of,
        origin="backfill",
        subject=about.subject,
        ticket_id=about.ticket_id or sighting.ticket_id,
        contact_id=about.contact_id,
        message_id=about.message_id,
        data=encode(payload),
    )
    key = Key(sighting.entity, tenant, sighting.id)
    mine = [one for one in fold.claims(event, payload) if one.key == key]
    (claim,) = (one for one in mine if one.rank == OBSERVATION)
    # A message's other claim, of a lower rank, says only where it is.
    place = {name: value for one in mine if one is not claim for name, value in one.registers.items()}
    return event, claim, place


def _again(sighting: Sighting, row: Row | None) -> Payload:
    """Return the payload; if we hold the thing as gone or in doubt and now see it, one that says it is not gone."""
    shown = getattr(sighting.payload, sighting.entity)
    if row is None or shown.gone is not UNSET or not (_is_gone(row) or _may_be_gone(row)):
        return sighting.payload
    return msgspec.structs.replace(sighting.payload, **{sighting.entity: msgspec.structs.replace(shown, gone=False)})


def _is_gone(row: Row) -> bool:
    return gone.is_gone(row.values["gone"], row.versions)


def _may_be_gone(row: Row) -> bool:
    return gone.in_doubt(row.values["gone"], row.versions)


def _compare_absence(sighting: Sighting, claim: Claim, row: Row | None) -> Verdict:
    """Compare a row with an absence: any event since the look means that the thing may exist."""
    if row is None or _is_gone(row):
        return "same"
    if _newer(sighting, claim, row, row.versions):
        return "waits"
    return Finding(sighting.entity, sighting.id, "extra", ("gone",), None)


def _newer(sighting: Sighting, claim: Claim, row: Row | None, names: Iterable[str]) -> bool:
    """Tell whether any of these registers was written after the sighting's `log_end`, or would win over the claim."""
    held = [row.versions[name] for name in names if name in row.versions] if row is not None else []
    return any(one.latest > sighting.log_end or one.place >= (claim.time, claim.rank) for one in held)


def _doubtful(claim: Claim, row: Row | None, name: str) -> bool:
    """Tell whether a register is in doubt, or holds another value than the claim's at the same time and rank."""
    if row is None or name not in row.versions or name in UNCOMPARED:
        return False
    if name == "gone" and _may_be_gone(row):
        return True
    version, value = row.versions[name], value_of(row.values, name)
    return version.doubtful or (version.place == (claim.time, claim.rank) and value != claim.registers[name])


def _announced(claim: Claim, kind: DriftKind, fields: Sequence[str]) -> bool:
    """Tell whether a webhook would have told of this difference of a campaign: only its end is announced."""
    ended = claim.registers.get("status") == "finished" and (kind == "missed" or "status" in fields)
    return ended or "gone" in fields


def _age_s(claim: Claim, row: Row | None, kind: DriftKind, fields: Iterable[str]) -> float | None:
    """Return the seconds for which it can have differed: since it was created, changed, or last told of here."""
    since: Any = claim.registers.get("created_at" if kind == "missed" else "updated_at")
    if since is None and kind == "stale" and row is not None:
        since = min((row.versions[name].time for name in fields if name in row.versions), default=None)
    return None if since is None else max(0, claim.time - since) / 1_000_000
