"""From an event's bytes straight to its claims: the short way, without what no claim is made of.

The unknown fields of a payload claim nothing, and to read them takes longer than to read all the others. So here they
are passed over, unread. `fold.claims` of the whole payload gives the same, and `tests/domain/test_bare.py` holds the
two together.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from whatsms_events.domain import fields, fold, plain_acks
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
    decode,
    entity,
)
from whatsms_events.domain.rows import Claim

_UNREAD: Final = {"extra": "\0"}
"""Under this name no payload has a field, so msgspec passes over the one that is there, as over any unknown one."""


class _Contact(Contact, frozen=True, kw_only=True, omit_defaults=True, rename=_UNREAD):
    pass


class _Ticket(Ticket, frozen=True, kw_only=True, omit_defaults=True, rename=_UNREAD):
    contact: _Contact | None | UnsetType = UNSET


class _Message(Message, frozen=True, kw_only=True, omit_defaults=True, rename=_UNREAD):
    pass


class _Campaign(Campaign, frozen=True, kw_only=True, omit_defaults=True, rename=_UNREAD):
    pass


class _MessagePayload(MessagePayload, frozen=True, kw_only=True, rename=_UNREAD):
    message: _Message
    ticket: _Ticket | None | UnsetType = UNSET
    contact: _Contact | None | UnsetType = UNSET


class _TicketPayload(TicketPayload, frozen=True, kw_only=True, rename=_UNREAD):
    ticket: _Ticket
    contact: _Contact | None | UnsetType = UNSET


class _ContactPayload(ContactPayload, frozen=True, kw_only=True, rename=_UNREAD):
    contact: _Contact


class _CampaignPayload(CampaignPayload, frozen=True, kw_only=True, rename=_UNREAD):
    campaign: _Campaign


_SHAPES: Final[dict[Entity, type[Payload]]] = {
    "message": _MessagePayload,
    "ticket": _TicketPayload,
    "contact": _ContactPayload,
    "campaign": _CampaignPayload,
}
_decoders: Final = {name: msgspec.json.Decoder(shape) for name, shape in _SHAPES.items()}
_by_type: Final = {event_type: _decoders[entity(event_type)] for event_type in EventType}


def claims(event: Event) -> tuple[list[Claim], Sequence[str]]:
    """Return what an event claims, and which of its times could not be read.

    Raise InvalidEventError where the bytes are not the JSON form of a payload, or it names no id.
    """
    if fields.may_be_unreadable(event):
        whole = decode(event)
        return fold.claims(event, whole), fields.unreadable(event, whole)
    if (told := plain_acks.claims(event)) is not None:
        return told, ()
    try:
        payload: Payload = _by_type[event.type].decode(event.data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        payload = decode(event)  # this says what is wrong
    return fold.claims(event, payload), ()
