"""What the vendor showed and the row we hold in, a verdict and the observation that mends the row out.

The fold itself says what an observation claims, and that is what is compared: so a finding is made only where its
observation changes the row, and none is left once that is applied.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from whatsms_events.domain import fold
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
from whatsms_events.domain.rows import GROUPS, OBSERVATION, UNCOMPARED, Claim, Key, Row, Table, value_of
from whatsms_events.errors import InvalidEventError

Kind = Literal["missed", "stale", "extra", "unannounced", "doubtful"]
KINDS: Final[tuple[Kind, ...]] = (
    "missed",  # there, and not known here
    "stale",  # known here with another value, or as gone
    "extra",  # held here, no longer there
    "unannounced",  # a difference of a campaign that no webhook tells of: the vendor has one event for them, the end
    "doubtful",  # two values were seen here at the same time, and the answer settles which it is
)

AGES: Final = ("under_1h", "under_1d", "under_7d", "older", "unknown")
_AGE_LIMITS_S: Final = (3600, 86_400, 7 * 86_400)

COMPARED: Final[Mapping[Table, tuple[str, ...]]] = {
    "ticket": (
        *("gone", "status", "channel", "contact_id", "user", "queue", "ai_agent_id"),
        "last_message",  # the caller leaves it out where a message explains it: webhooks of messages do not carry it
    ),
    "contact": ("gone", "name", "number", "email", "is_group", "extra_info"),
    "campaign": ("gone", "name", "status", "scheduled_at", "sent_count", "failed_count"),
    "message": ("gone", "body", "from_me", "media_type", "deleted", "quoted_message_id"),
}
"""The registers that make a difference, beside the ack of a message of ours. The rest is stored with an observation:
URLs are signed anew on each read, times and the ticket of a message are no state of it."""

_json: Final = msgspec.json.Encoder()
_canonical: Final = msgspec.json.Encoder(order="deterministic")
_NOBODY: Final = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Sighting:
    """What a page or an answer showed of one entity, as of a time of the vendor's clock.

    `log_end` is the log's end before it was asked for. `ticket_id`, for a message: the ticket whose list showed it.
    """

    entity: Entity
    id: str
    payload: Payload
    as_of: datetime
    log_end: int
    ticket_id: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One entity whose state differs. `fields` are registers; `age_s` is how old the difference is, where known."""

    entity: Entity
    id: str
    kind: Kind
    fields: tuple[str, ...]
    age_s: float | None


Verdict = Finding | Literal["same", "waits"]


def compare(tenant: str, sighting: Sighting, row: Row | None) -> Verdict:
    """Return what is to be observed, "same" if nothing, "waits" where the row is newer than what was seen: read again.

    Only a field that matters makes it wait: one that differs or is doubtful. Raises InvalidEventError where the
    payload is not about the sighting's id.
    """
    _, claim = _claimed(tenant, sighting, row)
    if claim.registers.get("gone") is True:
        return _compare_absence(sighting, claim, row)
    fields = _differing(claim, row)
    doubtful = tuple(name for name in claim.registers if _doubtful(claim, row, name))
    if _newer(sighting, claim, row, {*fields, *doubtful}):
        return "waits"
    kind: Kind
    if row is None or not row.known:
        kind = "missed"
    elif fields:
        kind = "stale"
    elif doubtful:
        return Finding(sighting.entity, sighting.id, "doubtful", doubtful, None)
    else:
        return "same"
    if sighting.entity == "campaign" and not _announced(claim, kind, fields):
        return Finding(sighting.entity, sighting.id, "unannounced", fields, None)
    return Finding(sighting.entity, sighting.id, kind, fields, _age_s(claim, row, kind, fields))


def observation(tenant: str, sighting: Sighting, row: Row | None, *, received_at: datetime) -> tuple[Event, bytes]:
    """Return the event that says what was seen, and the raw document to keep beside it.

    Its id is a UUID of version 8 without time bits, frozen by test vectors: the hash of tenant, type, id, what is
    compared, and the row's position. So it comes once, however often it is appended, and again after the row moved.
    Raises InvalidEventError as `compare` does.
    """
    event, claim = _claimed(tenant, sighting, row)
    at = position(row)
    identity = _canonical.encode([event.type, sighting.id, at, _compared(claim, row)])
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
    """Return the sighting that there is no such thing, whose finding is `extra`.

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
    """Return the highest position that wrote any register of the row, 0 for none."""
    return 0 if row is None else max((version.position for version in row.versions.values()), default=0)


def age_bucket(age_s: float | None) -> str:
    """Return which of AGES it is."""
    if age_s is None:
        return AGES[-1]
    return next((name for name, limit in zip(AGES, _AGE_LIMITS_S, strict=False) if age_s < limit), AGES[-2])


def _claimed(tenant: str, sighting: Sighting, row: Row | None) -> tuple[Event, Claim]:
    """Return the observation, still without its id, and what it claims about the entity itself."""
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
    # A message's other claim, of a lower rank, says only where it is.
    (claim,) = (one for one in fold.claims(event, payload) if one.key == key and one.rank == OBSERVATION)
    return event, claim


def _again(sighting: Sighting, row: Row | None) -> Payload:
    """Return the payload; of what we hold as gone and now see, one that says that it is not."""
    shown = getattr(sighting.payload, sighting.entity)
    if row is None or row.values["gone"] is not True or shown.gone is not UNSET:
        return sighting.payload
    return msgspec.structs.replace(sighting.payload, **{sighting.entity: msgspec.structs.replace(shown, gone=False)})


def _compare_absence(sighting: Sighting, claim: Claim, row: Row | None) -> Verdict:
    """Compare with nothing there: any event since then means that there may be something."""
    if row is None or row.values["gone"] is True:
        return "same"
    if _newer(sighting, claim, row, row.versions):
        return "waits"
    return Finding(sighting.entity, sighting.id, "extra", ("gone",), None)


def _newer(sighting: Sighting, claim: Claim, row: Row | None, names: Iterable[str]) -> bool:
    """Tell whether any of these registers was written after the log's end then, or would stand against the claim."""
    held = [row.versions[name] for name in names if name in row.versions] if row is not None else []
    return any(one.position > sighting.log_end or one[:2] >= (claim.time, claim.rank) for one in held)


def _doubtful(claim: Claim, row: Row | None, name: str) -> bool:
    """Tell whether two values were seen of a register at one time, the claim's own being one of them."""
    if row is None or name not in row.versions or name in UNCOMPARED:
        return False
    version, value = row.versions[name], value_of(row.values, name)
    return version.doubtful or (version[:2] == (claim.time, claim.rank) and value != claim.registers[name])


def _differing(claim: Claim, row: Row | None) -> tuple[str, ...]:
    """Return the compared registers that differ; null is in every column that nobody wrote."""
    found = []
    for name, shown in _compared(claim, row).items():
        present = None if row is None else _plain(name, value_of(row.values, name))
        if name == "ack":
            differs = shown > (present or 0)  # it never goes down
        elif name in GROUPS:
            differs = _another(shown, present or (None, None))
        else:
            differs = shown != present
        if differs:
            found.append(name)
    return tuple(found)


def _another(shown: tuple[str | None, ...], held: tuple[str | None, ...]) -> bool:
    """Tell whether it is another agent or queue: by the id, and by the name where both have one."""
    names = {shown[1], held[1]} - {None}
    return shown[0] != held[0] or len(names) > 1


def _compared(claim: Claim, row: Row | None) -> dict[str, Any]:
    """Return what the claim says of each compared register, in a form in which equal means the same."""
    shown = {name: _plain(name, claim.registers[name]) for name in COMPARED[claim.key.table] if name in claim.registers}
    ours = claim.registers.get("from_me", None if row is None else row.values.get("from_me"))
    # What a contact wrote has an ack without a dependable meaning.
    return shown | dict(claim.most) if ours is True else shown


def _plain(name: str, value: Any) -> Any:
    """Return the value; null for what is as good as absent: an empty text or list, false, zero."""
    if name == "extra_info" and value is not None:
        # In an order of our own: that table has none.
        return sorted(_canonical.encode(_pair(item)).decode() for item in msgspec.json.decode(value)) or None
    return value or None


def _pair(item: Any) -> Any:
    """Return of a contact's further field what is documented: webhooks of relatives show more columns of its table."""
    named = isinstance(item, dict) and "name" in item
    return {"name": item["name"], "value": item.get("value")} if named else item


def _announced(claim: Claim, kind: Kind, fields: Sequence[str]) -> bool:
    """Tell whether a webhook would have told of this difference of a campaign: only its end is announced."""
    ended = claim.registers.get("status") == "finished" and (kind == "missed" or "status" in fields)
    return ended or "gone" in fields


def _age_s(claim: Claim, row: Row | None, kind: Kind, fields: Iterable[str]) -> float | None:
    """Return for how long it has differed at most: since it was made, changed, or last told of here."""
    since: Any = claim.registers.get("created_at" if kind == "missed" else "updated_at")
    if since is None and kind == "stale" and row is not None:
        since = min((row.versions[name].time for name in fields if name in row.versions), default=None)
    return None if since is None else max(0, claim.time - since) / 1_000_000
