"""Whose a part of an event is: of somebody who was forgotten, and if so, whether it is from before or new.

Which ties and which times tell it stands in `suppression`, which blanks what is theirs and from before.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from msgspec import UNSET, UnsetType

from whatsms_events.domain.authors import authored_at, contacts_shown
from whatsms_events.domain.before import received_before
from whatsms_events.domain.events import (
    Contact,
    ContactPayload,
    Event,
    EventType,
    MessagePayload,
    Payload,
    Ticket,
    TicketPayload,
    to_micros,
)
from whatsms_events.domain.marks import Find, MarkKind, is_no_id, is_number_of_group, number_name
from whatsms_events.domain.named import latest


class Mine(NamedTuple):
    """Of a part of an event: when its person was forgotten, and whether it is new since."""

    at: int
    new: bool


@dataclass(frozen=True, slots=True)
class Ownership:
    """One event that is looked at. `settled`: it stood in the log before the person was forgotten."""

    event: Event
    find: Find
    settled: bool = False

    def of_contact(self, payload: ContactPayload) -> Mine | None:
        """Tell whether the contact is theirs, and told anew."""
        contact, event = payload.contact, self.event
        at = self.contact_at(contact, event.contact_id)
        if at is None or event.type is EventType.CONTACT_FORGOTTEN:
            return None
        # A look at the REST API says how things stand, not that anything happened.
        if event.type is EventType.CONTACT_OBSERVED or isinstance(contact.updated_at, datetime):
            return Mine(at, self.changed_after(contact, at))
        if self.was_there(at):
            return Mine(at, new=False)
        if isinstance(contact.created_at, datetime):
            return Mine(at, to_micros(contact.created_at) > at)
        # A retry may be stamped when it is sent: so it is no news of a contact that was known then.
        known = self.at("contact", contact.id, event.contact_id)
        return Mine(at, known is None and self.happened_after(at))

    def of_message(self, payload: MessagePayload) -> Mine | None:
        """Tell whether the message is theirs, and new."""
        message, event = payload.message, self.event
        known = self.at("message", message.id)
        ats = [known, self.at("ticket", message.ticket_id, event.ticket_id), self.at("contact", message.contact_id)]
        if isinstance(payload.ticket, Ticket):
            ats.append(self._ticket_at(payload.ticket, None))
        ats.append(authored_at(event.type, payload, self.find))
        if not isinstance(message.contact_id, str):
            # Nobody is named as its author: then it belongs to whom the contact beside it is.
            ats.append(self.at("contact", event.contact_id))
            if isinstance(payload.contact, Contact):
                ats.append(self.contact_at(payload.contact))
        at = latest(*ats)
        if at is None:
            return None
        if self.was_there(at):
            return Mine(at, new=False)
        if known is not None:
            return Mine(at, new=False)  # whatever the vendor's clock says: its id was known then
        if isinstance(message.created_at, datetime):
            return Mine(at, new=to_micros(message.created_at) > at)
        return Mine(at, new=self.happened_after(at))

    def _ticket_at(self, ticket: Ticket, ticket_id: str | None) -> int | None:
        ats = [self.at("ticket", ticket.id, ticket_id), self.at("contact", ticket.contact_id)]
        if isinstance(ticket.contact, Contact):
            ats.append(self.contact_at(ticket.contact))
        return latest(*ats)

    def of_ticket(
        self, ticket: Ticket, ticket_id: str | None, beside: Contact | None | UnsetType = UNSET
    ) -> Mine | None:
        """Tell whether the ticket is theirs, and new."""
        known = self.at("ticket", ticket.id, ticket_id)
        at = self._ticket_at(ticket, ticket_id)
        told = ticket.contact_id or isinstance(ticket.contact, Contact)
        if at is None and not told and isinstance(beside, Contact):
            at = self.contact_at(beside)
        if at is None:
            return None
        if self.was_there(at):
            return Mine(at, new=False)
        if isinstance(ticket.created_at, datetime):
            return Mine(at, new=to_micros(ticket.created_at) > at)
        return Mine(at, new=known is None and self.happened_after(at))

    def beside(self, payload: MessagePayload) -> bool:
        """Tell whether the contact beside a message is theirs, and nothing else says whose the ticket is."""
        one, ticket = payload.contact, payload.ticket
        told = isinstance(ticket, Ticket) and (ticket.contact_id or isinstance(ticket.contact, Contact))
        if told or not isinstance(one, Contact) or one.is_group is True or is_number_of_group(one.number):
            return False
        return self.contact_at(one) is not None

    def contact_at(self, contact: Contact, contact_id: str | None = None) -> int | None:
        """Return when the person was forgotten whose contact this is, by its id, a second id, or its number."""
        number = number_name(contact.number) if isinstance(contact.number, str) else None
        return latest(self.at("contact", contact.id, contact_id), self.at("number", number))

    def changed_after(self, contact: Contact, at: int) -> bool:
        """Tell whether it changed since, or is a new one that nobody knew then."""
        times = [contact.updated_at]
        if self.at("contact", contact.id) is None:
            times.append(contact.created_at)
        return not self.was_there(at) and any(isinstance(one, datetime) and to_micros(one) > at for one in times)

    def at(self, kind: MarkKind, *values: str | None | UnsetType) -> int | None:
        """Return when the person was forgotten whose id, number or text one of these is; the latest of several."""
        found: int | None = None  # a loop: this is asked a hundred times for each event that is looked at
        for one in values:
            at = self.find(kind, one) if isinstance(one, str) else None
            if at is not None and (found is None or at > found):
                found = at
        return found

    def was_there(self, at: int) -> bool:
        """Tell whether the event was in the log, or at the door, before the moment `at`."""
        return self.settled or received_before(self.event.received_at, self.event.occurred_at, at)

    def happened_after(self, at: int) -> bool:
        """Tell whether the event says that it happened after the moment `at`."""
        occurred_at = self.event.occurred_at
        return occurred_at is not None and to_micros(occurred_at) > at


def contact_ids(event: Event, payload: Payload, find: Find) -> set[str]:
    """Return the ids of the contacts whom an event shows and `find` knows, by the id or by a number beside it."""
    whose = Ownership(event, find)
    people = (one for one in contacts_shown(payload) if one.is_group is not True)
    shown = [one.id for one in people if whose.contact_at(one) is not None]
    parts = (event, getattr(payload, "ticket", None), getattr(payload, "message", None))
    told = (getattr(part, "contact_id", None) for part in parts)
    named = [one for one in told if isinstance(one, str) and find("contact", one) is not None]
    return {one for one in (*shown, *named) if isinstance(one, str) and not is_no_id(one)}


def ticket_ids(event: Event, payload: Payload, find: Find) -> set[str]:
    """Return the id of the ticket that an event shows, where its contact is one whom `find` knows."""
    ticket, beside = getattr(payload, "ticket", None), getattr(payload, "contact", None)
    one = ticket.id if isinstance(ticket, Ticket) and isinstance(ticket.id, str) else event.ticket_id
    if not isinstance(ticket, Ticket) or one is None or is_no_id(one):
        return set()
    mine = Ownership(event, find).of_ticket(ticket, event.ticket_id, beside)
    return set() if mine is None else {one}


class Ties(NamedTuple):
    """What an event shows to be theirs, by id. A ticket is only `guessed` by the contact beside a message."""

    ticket: str | None = None
    guessed: str | None = None
    message: str | None = None


def ties_of(event: Event, payload: Payload, find: Find) -> Ties:
    """Return which ticket and which message are of somebody whom `find` knows. An ack shows no message."""
    whose, ticket_id = Ownership(event, find), event.ticket_id
    if isinstance(payload, TicketPayload):
        mine = whose.of_ticket(payload.ticket, ticket_id, payload.contact)
        return Ties(ticket=None if mine is None else ticket_id)
    if not isinstance(payload, MessagePayload):
        return Ties()
    theirs = event.type is not EventType.MESSAGE_ACK and whose.of_message(payload) is not None
    mine = whose.of_ticket(payload.ticket, None) if isinstance(payload.ticket, Ticket) else None
    return Ties(
        ticket=None if mine is None else ticket_id,
        guessed=ticket_id if mine is None and whose.beside(payload) else None,
        message=event.message_id if theirs else None,
    )
