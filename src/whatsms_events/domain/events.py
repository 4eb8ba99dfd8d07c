"""The normalised event: its types, its four payload shapes, their JSON form, its id and its place in the log.

Absent is not null: a field the vendor did not send is `UNSET` and missing in the JSON; one it sent as null is `None`.
`gone` is none of the vendor's fields: with it an observation says that the vendor no longer has the thing, or has it.
"""

import hashlib
import re
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, assert_never
from uuid import UUID

import msgspec
from msgspec import UNSET, Struct, UnsetType

from whatsms_events.errors import InvalidEventError


class EventType(StrEnum):
    """The vendor's nine, the four of ours that say what a backfill saw, and the one that says who was forgotten."""

    MESSAGE_RECEIVED = "message.received"
    MESSAGE_SENT = "message.sent"
    MESSAGE_ACK = "message.ack"
    TICKET_CREATED = "ticket.created"
    TICKET_UPDATED = "ticket.updated"
    TICKET_CLOSED = "ticket.closed"
    CONTACT_CREATED = "contact.created"
    CONTACT_UPDATED = "contact.updated"
    CAMPAIGN_FINISHED = "campaign.finished"
    MESSAGE_OBSERVED = "message.observed"
    TICKET_OBSERVED = "ticket.observed"
    CONTACT_OBSERVED = "contact.observed"
    CAMPAIGN_OBSERVED = "campaign.observed"
    CONTACT_FORGOTTEN = "contact.forgotten"


OURS: Final = frozenset(
    (
        *(EventType.MESSAGE_OBSERVED, EventType.TICKET_OBSERVED),
        *(EventType.CONTACT_OBSERVED, EventType.CAMPAIGN_OBSERVED),
        EventType.CONTACT_FORGOTTEN,
    )
)
"""The types that no webhook tells."""


Origin = Literal["webhook", "backfill", "operator"]
"""Who told: the vendor's webhook, an answer of its REST API, or who runs this service."""

Entity = Literal["message", "ticket", "contact", "campaign"]

Text = str | None | UnsetType
Number = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)] | None | UnsetType
Flag = bool | None | UnsetType
Time = Annotated[datetime, msgspec.Meta(tz=True)] | None | UnsetType
Extra = dict[str, Any]


class Ref(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An agent or a queue as a ticket names it."""

    id: Text = UNSET
    name: Text = UNSET


class Contact(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A person or group as the vendor knows it. `number` is text: it may be a LID, a group id or a chat id.

    `gone` and `merged_into` come from a backfill: the vendor no longer has it, and named this other id in its place.
    """

    id: Text = UNSET
    name: Text = UNSET
    number: Text = UNSET
    email: Text = UNSET
    profile_pic_url: Text = UNSET
    is_group: Flag = UNSET
    extra_info: list[Any] | None | UnsetType = UNSET
    created_at: Time = UNSET
    updated_at: Time = UNSET
    gone: Flag = UNSET
    merged_into: Text = UNSET
    extra: Extra = {}


class Ticket(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A conversation. `status` and `channel` are open sets; `closed` is never final.

    `gone` and `merged_into` are as with a contact.
    """

    id: Text = UNSET
    status: Text = UNSET
    channel: Text = UNSET
    contact: Contact | None | UnsetType = UNSET
    contact_id: Text = UNSET
    user: Ref | None | UnsetType = UNSET
    queue: Ref | None | UnsetType = UNSET
    ai_agent_id: Text = UNSET
    last_message: Text = UNSET
    created_at: Time = UNSET
    updated_at: Time = UNSET
    gone: Flag = UNSET
    merged_into: Text = UNSET
    extra: Extra = {}


class Message(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a person, an agent or a program wrote. The same id again with other content is a revision.

    `ack` is the vendor's integer as it came (see `acks`); `media_type` is an open set.
    """

    id: Text = UNSET
    body: Text = UNSET
    from_me: Flag = UNSET
    media_type: Text = UNSET
    media_url: Text = UNSET
    quoted_message_id: Text = UNSET
    ack: Number = UNSET
    deleted: Flag = UNSET
    ticket_id: Text = UNSET
    contact_id: Text = UNSET
    created_at: Time = UNSET
    updated_at: Time = UNSET
    gone: Flag = UNSET
    extra: Extra = {}


class Campaign(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A mass sending. Counts are the vendor's at that moment and go on changing."""

    id: Text = UNSET
    name: Text = UNSET
    status: Text = UNSET
    message: Text = UNSET
    scheduled_at: Time = UNSET
    sent_count: Number = UNSET
    failed_count: Number = UNSET
    created_at: Time = UNSET
    updated_at: Time = UNSET
    gone: Flag = UNSET
    extra: Extra = {}


class MessagePayload(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`message.received`, `.sent`, `.ack` and `.observed`: the message, and what was shown beside it."""

    message: Message
    ticket: Ticket | None | UnsetType = UNSET
    contact: Contact | None | UnsetType = UNSET
    extra: Extra = {}


class TicketPayload(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`ticket.created`, `.updated`, `.closed` and `.observed`."""

    ticket: Ticket
    contact: Contact | None | UnsetType = UNSET
    extra: Extra = {}


class Forgotten(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whose values are erased, by ids alone: those of the person's tickets, the first thousand of them.

    `contact_ids` has every id of the person. `kafka_until` is when our topics hold nothing of the person any more;
    null where they keep for ever.
    """

    contact_ids: list[str] = []
    ticket_ids: list[str] = []
    kafka_until: Time = UNSET


class ContactPayload(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`contact.created`, `.updated`, `.observed` and `.forgotten`. Only the last one has `forgotten`."""

    contact: Contact
    forgotten: Forgotten | UnsetType = UNSET
    extra: Extra = {}


class CampaignPayload(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`campaign.finished` and `.observed`."""

    campaign: Campaign
    extra: Extra = {}


Payload = MessagePayload | TicketPayload | ContactPayload | CampaignPayload


# Thousands of these two live at a time, and none of them can be part of a cycle: the collector need not look at them.


class Event(Struct, frozen=True, kw_only=True, gc=False):
    """One normalised fact. `data` is the payload in its JSON form; the log and Kafka hold these very bytes.

    `occurred_at` is the vendor's time (None where it was missing or unreadable), `received_at` our clock at the door.
    Ids are opaque text. `subject` is the id of what the event is about.
    """

    id: UUID
    type: EventType
    tenant: str
    occurred_at: datetime | None
    received_at: datetime
    origin: Origin
    subject: str | None
    ticket_id: str | None
    contact_id: str | None
    message_id: str | None
    data: bytes


class LogEntry(Struct, frozen=True, kw_only=True, gc=False):
    """An event at its position. `event.data` is empty where retention blanked it."""

    position: int
    event: Event


class Checkpoint(Struct, frozen=True, kw_only=True):
    """How far a reader of the log got: that log, that position, and the event that must still stand there."""

    log_id: UUID
    position: int
    event_id: UUID


def entity(event_type: EventType) -> Entity:
    """Return what events of this type are about."""
    match event_type:
        case EventType.MESSAGE_RECEIVED | EventType.MESSAGE_SENT | EventType.MESSAGE_ACK | EventType.MESSAGE_OBSERVED:
            return "message"
        case EventType.TICKET_CREATED | EventType.TICKET_UPDATED | EventType.TICKET_CLOSED | EventType.TICKET_OBSERVED:
            return "ticket"
        case (
            EventType.CONTACT_CREATED
            | EventType.CONTACT_UPDATED
            | EventType.CONTACT_OBSERVED
            | EventType.CONTACT_FORGOTTEN
        ):
            return "contact"
        case EventType.CAMPAIGN_FINISHED | EventType.CAMPAIGN_OBSERVED:
            return "campaign"
        case _:
            assert_never(event_type)


SHAPES: Final[dict[Entity, type[Payload]]] = {
    "message": MessagePayload,
    "ticket": TicketPayload,
    "contact": ContactPayload,
    "campaign": CampaignPayload,
}
"""Which payload an event about each entity carries."""

_encoder = msgspec.json.Encoder()
_decoders: dict[Entity, msgspec.json.Decoder[Payload]] = {
    name: msgspec.json.Decoder(shape) for name, shape in SHAPES.items()
}


_by_type = {event_type: _decoders[entity(event_type)] for event_type in EventType}


def encode(payload: Payload) -> bytes:
    """Return the payload's JSON form."""
    return _encoder.encode(payload)


def decode(event: Event) -> Payload:
    """Return the event's payload; raise InvalidEventError("data") where the bytes are not its JSON form."""
    return decode_as(event.type, event.data)


def decode_as(event_type: EventType, data: bytes | str) -> Payload:
    """Return the payload of an event of this type; raise InvalidEventError("data") as above."""
    try:
        return _by_type[event_type].decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidEventError("data", type(exc).__name__) from exc


# Our own parser: `datetime.fromisoformat` accepts more with each Python version, and that would change ids.
_ISO = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:[.,]([0-9]{1,9}))?"
    r"(?:[Zz]|([+-])([0-9]{2}):?([0-9]{2}))?"
)

# The forms of JavaScript and of the vendor's page: nearly all times have one. All versions of `fromisoformat` read both
# alike.
_USUAL = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}(?:\.[0-9]{3})?Z")


def parse_time(value: object) -> datetime | None:
    """Return an ISO 8601 date and time in UTC, cut to microseconds; without an offset it is UTC; None if unreadable.

    Frozen, since ids rest on it. `times.read_time` reads more.
    """
    if not isinstance(value, str):
        return None
    try:
        return datetime.fromisoformat(value) if _USUAL.fullmatch(value) else _parse_iso(value)
    except (ValueError, OverflowError):
        return None


def _parse_iso(text: str) -> datetime | None:
    match = _ISO.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, sign, off_hours, off_minutes = match.groups()
    micro = int((fraction or "0")[:6].ljust(6, "0"))
    zone: timezone = UTC
    if sign is not None:
        offset = timedelta(hours=int(off_hours), minutes=int(off_minutes))
        zone = timezone(-offset if sign == "-" else offset)
    moment = datetime(int(year), int(month), int(day), int(hour), int(minute), int(second), micro, tzinfo=zone)
    return moment.astimezone(UTC)


EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_MICROSECOND: Final = timedelta(microseconds=1)


def to_micros(moment: datetime) -> int:
    """Return microseconds since 1970, exactly (a float would not be)."""
    return (moment - EPOCH) // _MICROSECOND


def from_micros(value: int) -> datetime:
    """Return the aware UTC time of `to_micros`."""
    return EPOCH + value * _MICROSECOND  # in half of the time that `timedelta(microseconds=value)` takes


_HASH_BITS: Final = 74


def event_id(tenant: str, body: bytes, stamped_at: datetime | None) -> UUID:
    """Return the id of a delivery: a UUID version 8 (RFC 9562, 5.8), frozen by test vectors.

    48 bits of `stamped_at` in milliseconds (0 where it is None or before 1970), then the first 74 bits of SHA-256 of
    (tenant, NUL, body). `stamped_at` is what `parse_time` reads of the envelope's `timestamp`: what
    `times.read_time` reads beyond that changes no id. The same bytes give the same id for ever; ids sort by time.
    """
    digest = hashlib.sha256(tenant.encode("utf-8") + b"\x00" + body).digest()
    tail = int.from_bytes(digest[:10]) >> (80 - _HASH_BITS)
    millis = 0 if stamped_at is None else max(0, (stamped_at - EPOCH) // _MILLISECOND)  # below 2 ** 48 until 9999
    high, low = tail >> 62, tail & ((1 << 62) - 1)
    value = (millis << 80) | (8 << 76) | (high << 64) | (2 << 62) | low
    return msgspec.convert(value.to_bytes(16), UUID)  # the same as `UUID(int=value)` in a third of its time
