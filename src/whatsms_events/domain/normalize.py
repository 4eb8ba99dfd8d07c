"""How a delivery's raw body becomes a normalised event, and why other bodies are refused (`REASONS`).

The resource is looked for in `data.<resource>`, then in `data` itself, then in flat names (`messageId`, `ack`): the
vendor's page shows the first form for one of its nine events and is silent about the rest. Deliveries of exactly that
form are read by `documented`, which is faster; all others, and all that are refused, here.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple, TypeVar, assert_never
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from whatsms_events.domain import bodies, documented
from whatsms_events.domain.bodies import JsonObject, kind
from whatsms_events.domain.documented import Facts
from whatsms_events.domain.events import (
    CampaignPayload,
    Contact,
    ContactPayload,
    Entity,
    Event,
    EventType,
    Extra,
    MessagePayload,
    Payload,
    Ticket,
    TicketPayload,
    encode,
    entity,
    event_id,
    parse_time,
)
from whatsms_events.domain.fields import read_campaign, read_contact, read_message, read_ticket
from whatsms_events.domain.many import listed
from whatsms_events.domain.secrets import without_secrets
from whatsms_events.domain.tenant import same
from whatsms_events.domain.times import credible, read_time
from whatsms_events.errors import InvalidEventError

REASONS: Final = (
    "empty",  # nothing but blanks
    "not_utf8",
    "not_json",  # also NaN, Infinity and a byte order mark, which are not JSON
    "too_deep",  # nested deeper than bodies.DEPTH_LIMIT
    "number",  # a number no program can hold: 1e999, or an integer of thousands of digits
    "not_object",  # an array or a bare value
    "other_tenant",
    "unknown_event",
    "no_data",  # `data` is missing or no object
    "no_id",  # the message, ticket, contact or campaign it is about is not named
    "many",  # it is about several of them at once: `data` is a list, or a list names others
    "too_large",  # grows beyond data_limit_bytes() when written in our form
)
"""Why a body was refused: the closed set of `InvalidEventError.reason` here."""


BODY_BYTES: Final = 5 * 1024 * 1024
"""The default limit of a body. Our topics always take the record of a body of this size."""


class About(NamedTuple):
    """The ids an event is found by, as far as its payload names them."""

    subject: str | None
    ticket_id: str | None
    contact_id: str | None
    message_id: str | None


def normalize(body: bytes, *, tenant: str, received_at: datetime) -> Event:
    """Return the event in a verified body; raise InvalidEventError and nothing else, whatever the bytes.

    A missing or null `tenantId` is accepted: the signature has proved whose delivery it is.
    """
    facts = documented.read(body, tenant)
    return event_of(read(body, tenant) if facts is None else facts, body, tenant=tenant, received_at=received_at)


def read(body: bytes, tenant: str) -> Facts:
    """Return what a body says, whatever its shape; raise InvalidEventError where it is no event."""
    envelope = bodies.decode(body)
    _check_tenant(envelope.pop("tenantId", None), tenant)
    told = envelope.pop("event", None)
    known = _READERS.get(told) if type(told) is str else None
    if known is None:
        raise InvalidEventError("unknown_event", "event")
    event_type, name, read_payload = known
    data = _one(envelope.pop("data", None))
    stamp = envelope.get("timestamp", UNSET)
    stamped_at = parse_time(stamp)  # of ISO text alone: the id rests on it, whatever else is read as a time
    occurred_at = read_time(stamp) if stamped_at is None else credible(stamped_at)
    if occurred_at is not None or stamp is None:
        del envelope["timestamp"]
    payload = read_payload(data, envelope)
    _check_subject(event_type, name, payload)
    return Facts(event_type, stamped_at, occurred_at, payload)


def event_of(facts: Facts, body: bytes, *, tenant: str, received_at: datetime) -> Event:
    """Return the event of a body that was read; raise InvalidEventError where it grows beyond its limit."""
    about = ids(facts.payload)
    encoded = encode(facts.payload)
    if len(encoded) > data_limit_bytes(len(body)):
        raise InvalidEventError("too_large", f"{len(encoded)} bytes from {len(body)}")
    return Event(
        id=event_id(tenant, body, facts.stamped_at),
        type=facts.type,
        tenant=tenant,
        occurred_at=facts.occurred_at,
        received_at=received_at,
        origin="webhook",
        subject=about.subject,
        ticket_id=about.ticket_id,
        contact_id=about.contact_id,
        message_id=about.message_id,
        data=encoded,
    )


def _one(data: object) -> JsonObject:
    """Return the delivery's `data`; raise InvalidEventError where it is no object, or a list of several things."""
    if type(data) is list and data:
        raise InvalidEventError("many", f"data: {len(data)}")
    if type(data) is not dict:
        raise InvalidEventError("no_data", f"data: {kind(data)}")
    return data


def identify(body: bytes, *, tenant: str) -> UUID:
    """Return the id of any body, the same that `normalize` gives where it can read it."""
    try:
        stamp = bodies.decode(body).get("timestamp")
    except InvalidEventError:
        stamp = None
    return event_id(tenant, body, parse_time(stamp))


def data_limit_bytes(body_bytes: int) -> int:
    """Return how large `Event.data` of a body can be: one and a half times the body, and 64 KiB for small ones.

    Our names and times are a little longer than the vendor's. Only numbers grow without measure (1e9 is written
    1000000000.0), and a record over the topic's `max.message.bytes` would stop the relay for good.
    """
    return body_bytes + body_bytes // 2 + 65536


def record_limit_bytes(body_bytes: int) -> int:
    """Return how large the Kafka record of a body can be: its data, and a place for key, headers and framing.

    64 KiB is far more than those take: the longest headers are ids, of 256 bytes at most.
    """
    return data_limit_bytes(body_bytes) + 65536


def ids(payload: Payload) -> About:
    """Return the ids an event with this payload is found by."""
    match payload:
        case MessagePayload():
            message, ticket = payload.message, payload.ticket
            subject = _text(message.id)
            ticket_id = _id_of(ticket) or _text(message.ticket_id)
            # The contact that the message names wrote it; the contact beside it may be the group.
            contact_id = _text(message.contact_id) or _id_of(payload.contact) or _contact_of(ticket)
            return About(subject, ticket_id, contact_id, subject)
        case TicketPayload():
            subject = _text(payload.ticket.id)
            return About(subject, subject, _contact_of(payload.ticket) or _id_of(payload.contact), None)
        case ContactPayload():
            subject = _text(payload.contact.id)
            return About(subject, None, subject, None)
        case CampaignPayload():
            return About(_text(payload.campaign.id), None, None, None)
        case _:
            assert_never(payload)


def _text(value: str | None | UnsetType) -> str | None:
    return value if type(value) is str else None


def _id_of(resource: Ticket | Contact | None | UnsetType) -> str | None:
    return None if resource is None or resource is UNSET else _text(resource.id)


def _contact_of(ticket: Ticket | None | UnsetType) -> str | None:
    return None if ticket is None or ticket is UNSET else _text(ticket.contact_id) or _id_of(ticket.contact)


def _check_tenant(given: Any, tenant: str) -> None:
    if given is None or (type(given) is str and same(given, tenant)) or (type(given) is int and str(given) == tenant):
        return
    raise InvalidEventError("other_tenant", "tenantId")


def _check_subject(event_type: EventType, name: Entity, payload: Payload) -> None:
    resource = getattr(payload, name)
    subject = _text(resource.id)
    several = listed(name, subject, (payload.extra, resource.extra))
    if several is not None:
        raise InvalidEventError("many", several)
    if subject is None:
        raise InvalidEventError("no_id", event_type.value)


# An object to a payload: one function per event type or group of types, picked from `_READERS`.

_T = TypeVar("_T")


def _split(data: JsonObject, name: str) -> tuple[JsonObject, Extra]:
    """Return the resource and what stood beside it; `data` itself is the resource where it holds no object `name`."""
    if type(data.get(name)) is not dict:
        return data, {}
    return data.pop(name), data


def _take(place: Extra, name: str, read: Callable[[JsonObject, Extra], _T]) -> _T | None | UnsetType:
    """Take a nested resource out of `place`; UNSET where there is none, and what is no object stays."""
    found = place.get(name, UNSET)
    if found is not None and type(found) is not dict:
        return UNSET
    del place[name]
    return None if found is None else read(found, {})


def _extra(beside: Extra, envelope: Extra) -> Extra:
    """Return the unknown fields of `data` and of the envelope; the latter get a prefix where both use a name."""
    for name, value in envelope.items():
        beside[f"envelope.{name}" if name in beside else name] = value
    return without_secrets(beside) if beside else beside


def _read_message(data: JsonObject, envelope: Extra) -> MessagePayload:
    source, beside = _split(data, "message")
    # Beside the message, as on the vendor's page; else inside it, as with its relatives and in flat data.
    ticket = _take(beside, "ticket", read_ticket)
    contact = _take(beside, "contact", read_contact)
    message = read_message(source, beside)
    if ticket is UNSET:
        ticket = _take(message.extra, "ticket", read_ticket)
    if contact is UNSET:
        contact = _take(message.extra, "contact", read_contact)
    elif message.contact_id is UNSET and type(author := message.extra.get("contact")) is dict:
        # With another contact beside the message, the one inside it is the author: the other may be the group.
        message = msgspec.structs.replace(message, contact_id=read_contact(dict(author), {}).id)
    return MessagePayload(message=message, ticket=ticket, contact=contact, extra=_extra(beside, envelope))


def _read_ticket(data: JsonObject, envelope: Extra) -> TicketPayload:
    source, beside = _split(data, "ticket")
    contact = _take(beside, "contact", read_contact)
    ticket = read_ticket(source, beside)
    return TicketPayload(ticket=ticket, contact=contact, extra=_extra(beside, envelope))


def _read_closed(data: JsonObject, envelope: Extra) -> TicketPayload:
    """Read `ticket.closed`: where the ticket shows no status, the event's name is the status.

    The vendor documents the name alone. Without this a bare `{"ticketId": ...}` would close nothing.
    """
    payload = _read_ticket(data, envelope)
    if type(payload.ticket.status) is str:
        return payload
    return msgspec.structs.replace(payload, ticket=msgspec.structs.replace(payload.ticket, status="closed"))


def _read_contact(data: JsonObject, envelope: Extra) -> ContactPayload:
    source, beside = _split(data, "contact")
    return ContactPayload(contact=read_contact(source, beside), extra=_extra(beside, envelope))


def _read_finished(data: JsonObject, envelope: Extra) -> CampaignPayload:
    """Read `campaign.finished`: where the campaign shows no status, the event's name is the status, as above."""
    source, beside = _split(data, "campaign")
    campaign = read_campaign(source, beside)
    if type(campaign.status) is not str:
        campaign = msgspec.structs.replace(campaign, status="finished")
    return CampaignPayload(campaign=campaign, extra=_extra(beside, envelope))


# Ours (`*.observed`) are not here: a webhook that claims to be an observation is an unknown event.
_BY_TYPE: Final[Mapping[EventType, Callable[[JsonObject, Extra], Payload]]] = {
    EventType.MESSAGE_RECEIVED: _read_message,
    EventType.MESSAGE_SENT: _read_message,
    EventType.MESSAGE_ACK: _read_message,
    EventType.TICKET_CREATED: _read_ticket,
    EventType.TICKET_UPDATED: _read_ticket,
    EventType.TICKET_CLOSED: _read_closed,
    EventType.CONTACT_CREATED: _read_contact,
    EventType.CONTACT_UPDATED: _read_contact,
    EventType.CAMPAIGN_FINISHED: _read_finished,
}
_READERS: Final = {event_type.value: (event_type, entity(event_type), read) for event_type, read in _BY_TYPE.items()}
