"""A short way to what a plain ack claims: more than half of all events are one.

A plain ack names a message, how far it got, and perhaps its ticket and contact by their ids; it shows nothing else of
them. Nothing is decided here: `fold.claims` gives the same for it by the rules for every message, in several times the
time, and `tests/domain/test_plain_acks.py` holds the two together. Whatever shows more is left to these rules.
"""

from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from whatsms_events.domain import acks
from whatsms_events.domain.doubt import LOADING
from whatsms_events.domain.events import Event, EventType, Flag, Number, Text, to_micros
from whatsms_events.domain.fold import SKEW
from whatsms_events.domain.rows import BELOW, LOADED, NO_REGISTERS, NOTHING, OWN, SNAPSHOT, Claim, Key, Registers

_NONE: Final = Raw(b"{}")


# JSON that has any other field is none of a plain ack, and msgspec says so. What is unknown is passed over, unread.


class _Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    id: Text = UNSET
    from_me: Flag = UNSET
    ack: Number = UNSET
    extra: Raw = _NONE


class _Ticket(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    id: Text = UNSET
    extra: Raw = _NONE


class _Payload(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    message: _Message
    ticket: _Ticket | None | UnsetType = UNSET
    contact: None | UnsetType = UNSET
    extra: Raw = _NONE


_ACK: Final = EventType.MESSAGE_ACK  # a member of an enumeration is found by a call each time
_LEVELS: Final = {ack: (f"{level}_at", {"ack": ack}) for ack, level in acks.LEVELS.items()}
"""The column of each level's time, and what every ack of this level claims to be the greatest."""

_decode: Final = msgspec.json.Decoder(_Payload).decode


def claims(event: Event) -> list[Claim] | None:
    """Return the claims of a plain ack; None where the event is another one, or is at fault."""
    if event.type is not _ACK or not event.subject:
        return None
    try:
        payload = _decode(event.data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    received = to_micros(event.received_at)
    latest, occurred_at = received + SKEW, event.occurred_at
    at = received if occurred_at is None else to_micros(occurred_at)
    return _claims(event, event.subject, payload, min(at, latest), arrived=occurred_at is None or at > latest)


def _claims(event: Event, subject: str, payload: _Payload, at: int, *, arrived: bool) -> list[Claim]:
    tenant, ticket_id, contact_id = event.tenant, event.ticket_id, event.contact_id
    message, ticket = payload.message, payload.ticket
    registers: Registers = {} if message.from_me is UNSET else {"from_me": message.from_me}
    if ticket_id:
        registers["ticket_id"] = ticket_id
    least: Mapping[str, int] = NOTHING
    most: Mapping[str, int] = NOTHING
    ack = message.ack
    if isinstance(ack, int):
        if (level := _LEVELS.get(ack)) is not None:
            least, most = {level[0]: at}, level[1]
        elif acks.failed(ack):
            least = {"failed_at": at}
    claimed = [Claim(Key("message", tenant, subject), at, OWN, registers, False, least, most, arrived=arrived)]
    if contact_id:  # it may be the author or a group
        fallback: Registers = {"contact_id": contact_id}
        claimed.append(Claim(Key("message", tenant, subject), at - BELOW, SNAPSHOT, fallback, arrived=arrived))
    if ticket:
        if shown := ticket.id or ticket_id:
            claimed.append(Claim(Key("ticket", tenant, shown), at - LOADING, LOADED, NO_REGISTERS, arrived=arrived))
    elif ticket_id:
        claimed.append(Claim(Key("ticket", tenant, ticket_id), at, SNAPSHOT, NO_REGISTERS))
    if contact_id:
        claimed.append(Claim(Key("contact", tenant, contact_id), at, SNAPSHOT, NO_REGISTERS))
    return claimed
