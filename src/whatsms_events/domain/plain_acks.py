"""A short way to what a plain ack claims: more than half of all events are one.

A plain ack names a message, how far it got, and perhaps its ticket and contact by their ids; it shows nothing else of
them. Nothing is decided here: `fold.claims` gives the same for it by the rules for every message, in four times the
time, and `tests/domain/test_plain_acks.py` holds the two together. Whatever shows more is left to these rules.
"""

from operator import attrgetter
from typing import Final

from msgspec import UNSET

from whatsms_events.domain import acks
from whatsms_events.domain.doubt import LOADING
from whatsms_events.domain.events import Contact, Event, EventType, Message, MessagePayload, Ticket
from whatsms_events.domain.rows import BELOW, LOADED, NO_REGISTERS, NOTHING, OWN, SNAPSHOT, Claim, Key, Registers

_MESSAGE_TELLS: Final = tuple(sorted({*Message.__struct_fields__} - {"id", "from_me", "ack", "extra"}))
_TICKET_TELLS: Final = tuple(sorted({*Ticket.__struct_fields__} - {"id", "extra"}))

_told_of_message: Final = attrgetter(*_MESSAGE_TELLS)
_told_of_ticket: Final = attrgetter(*_TICKET_TELLS)
_MESSAGE_TELLS_NOTHING: Final = (UNSET,) * len(_MESSAGE_TELLS)
_TICKET_TELLS_NOTHING: Final = (UNSET,) * len(_TICKET_TELLS)

_ACK: Final = EventType.MESSAGE_ACK  # a member of an enumeration is found by a call each time
_TIMES: Final = {ack: f"{level}_at" for ack, level in acks.LEVELS.items()}


def is_plain(event: Event, payload: MessagePayload) -> bool:
    """Tell whether the event is a plain ack."""
    ticket = payload.ticket
    return (
        event.type is _ACK
        and _told_of_message(payload.message) == _MESSAGE_TELLS_NOTHING
        and not isinstance(payload.contact, Contact)
        and (not isinstance(ticket, Ticket) or _told_of_ticket(ticket) == _TICKET_TELLS_NOTHING)
    )


def claims(event: Event, payload: MessagePayload, subject: str, at: int, *, arrived: bool) -> list[Claim]:
    """Return the claims of a plain ack about the message `subject` that happened `at`; see `rows.Claim.arrived`."""
    tenant, ticket_id, contact_id = event.tenant, event.ticket_id, event.contact_id
    message, ticket = payload.message, payload.ticket
    registers: Registers = {} if message.from_me is UNSET else {"from_me": message.from_me}
    if ticket_id:
        registers["ticket_id"] = ticket_id
    least, most, ack = NOTHING, NOTHING, message.ack
    if isinstance(ack, int):
        if (name := _TIMES.get(ack)) is not None:
            least, most = {name: at}, {"ack": ack}
        elif acks.failed(ack):
            least = {"failed_at": at}
    key = Key("message", tenant, subject)
    claimed = [Claim(key, at, OWN, registers, False, least, most, arrived=arrived)]
    if contact_id:  # it may be the author or a group
        claimed.append(Claim(key, at - BELOW, SNAPSHOT, {"contact_id": contact_id}, arrived=arrived))
    if isinstance(ticket, Ticket):
        if shown := ticket.id or ticket_id:
            claimed.append(Claim(Key("ticket", tenant, shown), at - LOADING, LOADED, NO_REGISTERS, arrived=arrived))
    elif ticket_id:
        claimed.append(Claim(Key("ticket", tenant, ticket_id), at, SNAPSHOT, NO_REGISTERS))
    if contact_id:
        claimed.append(Claim(Key("contact", tenant, contact_id), at, SNAPSHOT, NO_REGISTERS))
    return claimed
