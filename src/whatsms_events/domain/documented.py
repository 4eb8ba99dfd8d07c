"""The fast way to read a delivery that has exactly the documented shape: one typed decoder.

Nothing is decided here: whatever is not plainly of that shape (another field, a value of another type, a long id, an
odd time, an escaped NUL) is left to the tolerant reader of `normalize`, which gives the same event for all that is read
here. `tests/domain/test_documented.py` holds both to that.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import reduce
from operator import or_
from typing import Annotated, Any, Final, NamedTuple, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field

from whatsms_events.domain import events
from whatsms_events.domain.events import (
    CampaignPayload,
    ContactPayload,
    EventType,
    Flag,
    MessagePayload,
    Number,
    Payload,
    Text,
    TicketPayload,
    parse_time,
)
from whatsms_events.domain.times import credible
from whatsms_events.domain.values import SHORT_CHARS

ShortId: TypeAlias = Annotated[str, Meta(min_length=1, max_length=SHORT_CHARS)]
OptionalId: TypeAlias = ShortId | None | UnsetType
ShortWord: TypeAlias = Annotated[str, Meta(max_length=SHORT_CHARS)] | None | UnsetType
"""Longer ones are shortened, and an empty id names nothing: both are for the tolerant reader."""


class Facts(NamedTuple):
    """What a delivery says: all of its event but what follows from the bytes and from us.

    `stamped_at` is what `parse_time` reads of `timestamp`, for the event's id.
    """

    type: EventType
    stamped_at: datetime | None
    occurred_at: datetime | None
    payload: Payload


# The resources: the fields of the tables in `resources`, by the vendor's names.


class RefShape(events.Ref, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """An agent or a queue: the same names with us, so it is taken over as it is."""

    id: ShortId


class ContactShape(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """A contact, whole or as other resources name it."""

    id: ShortId
    name: Text = UNSET
    number: ShortWord = UNSET
    email: Text = UNSET
    profile_pic_url: Text = UNSET
    is_group: Flag = UNSET
    extra_info: list[dict[str, str | None]] | None | UnsetType = UNSET
    created_at: Text = UNSET
    updated_at: Text = UNSET


class TicketShape(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """A ticket, whole or as other resources name it."""

    id: ShortId
    status: ShortWord = UNSET
    channel: ShortWord = UNSET
    contact: ContactShape | None | UnsetType = UNSET
    contact_id: OptionalId = UNSET
    user: RefShape | None | UnsetType = UNSET
    queue: RefShape | None | UnsetType = UNSET
    ai_agent_id: OptionalId = UNSET
    last_message: Text = UNSET
    created_at: Text = UNSET
    updated_at: Text = UNSET


class MessageShape(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """A message."""

    id: ShortId
    body: Text = UNSET
    from_me: Flag = UNSET
    media_type: ShortWord = UNSET
    media_url: Text = UNSET
    quoted_message_id: OptionalId = field(default=UNSET, name="quotedMsgId")
    ack: Number = UNSET
    deleted: Flag = field(default=UNSET, name="isDeleted")
    ticket_id: OptionalId = UNSET
    contact_id: OptionalId = UNSET
    created_at: Text = UNSET
    updated_at: Text = UNSET


class CampaignShape(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """A campaign."""

    id: ShortId
    name: Text = UNSET
    status: ShortWord = UNSET
    message: Text = UNSET
    scheduled_at: Text = UNSET
    sent_count: Number = UNSET
    failed_count: Number = UNSET
    created_at: Text = UNSET
    updated_at: Text = UNSET


# What stands in `data`.


class MessageData(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message, and whose it is."""

    message: MessageShape
    ticket: TicketShape | None | UnsetType = UNSET
    contact: ContactShape | None | UnsetType = UNSET


class TicketData(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A ticket, and whose it is."""

    ticket: TicketShape
    contact: ContactShape | None | UnsetType = UNSET


class ContactData(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A contact."""

    contact: ContactShape


class CampaignData(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A campaign."""

    campaign: CampaignShape


# From the vendor's fields to ours, by name: a loop over the fields takes three times as long.


def _moment(text: Text) -> datetime | None | UnsetType:
    """Return the time; raise msgspec's ValidationError where the tolerant reader must look."""
    if text is None or text is UNSET:
        return text
    read = parse_time(text)
    if read is None or credible(read) is None:
        raise msgspec.ValidationError("time")
    return read


def _contact(told: ContactShape | None | UnsetType) -> events.Contact | None | UnsetType:
    return told if told is None or told is UNSET else _whole_contact(told)


def _whole_contact(told: ContactShape) -> events.Contact:
    return events.Contact(
        id=told.id,
        name=told.name,
        number=told.number,
        email=told.email,
        profile_pic_url=told.profile_pic_url,
        is_group=told.is_group,
        extra_info=told.extra_info,
        created_at=_moment(told.created_at),
        updated_at=_moment(told.updated_at),
    )


def _ticket(told: TicketShape, status: Text) -> events.Ticket:
    return events.Ticket(
        id=told.id,
        status=status,
        channel=told.channel,
        contact=_contact(told.contact),
        contact_id=told.contact_id,
        user=told.user,
        queue=told.queue,
        ai_agent_id=told.ai_agent_id,
        last_message=told.last_message,
        created_at=_moment(told.created_at),
        updated_at=_moment(told.updated_at),
    )


def _message(told: MessageShape) -> events.Message:
    return events.Message(
        id=told.id,
        body=told.body,
        from_me=told.from_me,
        media_type=told.media_type,
        media_url=told.media_url,
        quoted_message_id=told.quoted_message_id,
        ack=told.ack,
        deleted=told.deleted,
        ticket_id=told.ticket_id,
        contact_id=told.contact_id,
        created_at=_moment(told.created_at),
        updated_at=_moment(told.updated_at),
    )


def _about_message(data: MessageData) -> MessagePayload:
    ticket = data.ticket
    return MessagePayload(
        message=_message(data.message),
        ticket=ticket if ticket is None or ticket is UNSET else _ticket(ticket, ticket.status),
        contact=_contact(data.contact),
    )


def _about_ticket(data: TicketData) -> TicketPayload:
    return TicketPayload(ticket=_ticket(data.ticket, data.ticket.status), contact=_contact(data.contact))


def _about_closed(data: TicketData) -> TicketPayload:
    """Take the event's name for the status where the ticket shows none, as the tolerant reader does."""
    status = data.ticket.status
    shown = "closed" if status is None or status is UNSET else status
    return TicketPayload(ticket=_ticket(data.ticket, shown), contact=_contact(data.contact))


def _about_contact(data: ContactData) -> ContactPayload:
    return ContactPayload(contact=_whole_contact(data.contact))


def _about_finished(data: CampaignData) -> CampaignPayload:
    """Take the event's name for the status where the campaign shows none, as above."""
    told = data.campaign
    campaign = events.Campaign(
        id=told.id,
        name=told.name,
        status="finished" if told.status is None or told.status is UNSET else told.status,
        message=told.message,
        scheduled_at=_moment(told.scheduled_at),
        sent_count=told.sent_count,
        failed_count=told.failed_count,
        created_at=_moment(told.created_at),
        updated_at=_moment(told.updated_at),
    )
    return CampaignPayload(campaign=campaign)


_SHAPES: Final[Mapping[EventType, tuple[type[Struct], Callable[[Any], Payload]]]] = {
    EventType.MESSAGE_RECEIVED: (MessageData, _about_message),
    EventType.MESSAGE_SENT: (MessageData, _about_message),
    EventType.MESSAGE_ACK: (MessageData, _about_message),
    EventType.TICKET_CREATED: (TicketData, _about_ticket),
    EventType.TICKET_UPDATED: (TicketData, _about_ticket),
    EventType.TICKET_CLOSED: (TicketData, _about_closed),
    EventType.CONTACT_CREATED: (ContactData, _about_contact),
    EventType.CONTACT_UPDATED: (ContactData, _about_contact),
    EventType.CAMPAIGN_FINISHED: (CampaignData, _about_finished),
}


def _envelope(event_type: EventType) -> Any:
    """Return the struct of a whole delivery of this type, told from the others by `event`."""
    return msgspec.defstruct(
        event_type.name,
        [("tenantId", str), ("timestamp", str), ("data", _SHAPES[event_type][0])],
        tag_field="event",
        tag=event_type.value,
        frozen=True,
        forbid_unknown_fields=True,
    )


_ENVELOPES: Final = {_envelope(event_type): (event_type, read) for event_type, (_, read) in _SHAPES.items()}
_decoder: Final[msgspec.json.Decoder[Any]] = msgspec.json.Decoder(reduce(or_, _ENVELOPES))


def read(body: bytes, tenant: str) -> Facts | None:
    """Return what a delivery of the documented shape says; None for every other one."""
    # A NUL can come as this escape alone, and no database takes it.
    if b"\\" in body and b"\\u0000" in body:
        return None
    try:
        told = _decoder.decode(body)
        if told.tenantId != tenant:
            return None
        occurred_at = parse_time(told.timestamp)
        if occurred_at is None or credible(occurred_at) is None:
            return None
        event_type, convert = _ENVELOPES[type(told)]
        return Facts(event_type, occurred_at, occurred_at, convert(told.data))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
