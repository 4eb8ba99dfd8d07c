"""One account at WhatSMS: its contacts, tickets, messages and campaigns, and verbs that change them and announce it.

The entities are the truth that the REST API shows; what a verb announces is put into `outbox` as webhooks.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from whatsms_events.domain.events import EventType
from whatsms_events.twin import texts
from whatsms_events.twin.dialects import Dialect, Json, bodies
from whatsms_events.twin.entities import Campaign, Contact, Id, Message, Named, Ticket
from whatsms_events.twin.shapes import Shapes, brief

_LATE = 0.02
"""Share of webhooks that are held up for some seconds: how an ack comes before its message."""
_LATE_S = (1.0, 6.0)
_TICKETS_PER_CAMPAIGN = 50


@dataclass(frozen=True, slots=True)
class Webhook:
    """One delivery the vendor owes, due by the world's clock; `retry` is the body of a retry where its bytes differ."""

    body: bytes
    event_type: EventType
    due: datetime
    retry: bytes | None = None


class Account:
    """The state of one tenant, at the time `now`, which the world sets.

    `asked` is what came through the API, for `life` to go on with. `removed` are the ids of what was deleted: the verbs
    announce nothing about them any more. `unit_s` scales lateness; `keep` bounds tickets, and campaigns in proportion:
    the oldest are forgotten with their messages, and with the contact when it has no other ticket.
    """

    def __init__(
        self, rng: random.Random, *, start: datetime, tenant_id: str, dialect: Dialect, unit_s: float, keep: int
    ) -> None:
        self.now = self.started = start
        self.tenant_id = tenant_id
        self.dialect = dialect
        self.shapes = Shapes(dialect)
        self.unit_s = unit_s
        self.outbox: list[Webhook] = []
        self.asked: list[Message | Campaign] = []
        self.removed: set[Id] = set()
        self.contacts: dict[Id, Contact] = {}
        self.tickets: dict[Id, Ticket] = {}
        self.messages: dict[Id, Message] = {}
        self.campaigns: dict[Id, Campaign] = {}
        self.tickets_of: dict[Id, list[Ticket]] = {}
        self._rng = rng
        self._keep = keep
        self._last_id = 0
        self.users = [Named(self._new_id(), name) for name in texts.AGENTS]
        self.queues = [Named(self._new_id(), name) for name in texts.QUEUES]
        self.ai_agents = [Named(self._new_id(), name) for name in texts.AI_AGENTS]

    # Contacts.

    def add_contact(
        self,
        *,
        name: str | None,
        number: str,
        email: str | None,
        is_group: bool = False,
        picture_url: str | None = None,
        extra_info: Sequence[dict[str, str]] = (),
    ) -> Contact:
        """Add a contact; announces `contact.created`."""
        contact = Contact(self._new_id(), name, number, email, self.now, self.now, is_group, picture_url)
        contact.extra_info = [*extra_info]
        if self._rng.random() < 0.5 and picture_url is None:
            contact.profile_pic_url = f"https://media.whatsms.example/public/{contact.id}.jpg"
        self.contacts[contact.id] = contact
        self.tickets_of[contact.id] = []
        self._announce(EventType.CONTACT_CREATED, {"contact": self.show_contact(contact, updated=False)})
        return contact

    def touch_contact(self, contact: Contact) -> None:
        """Set the contact's time and announce `contact.updated`: after a change, and often after none."""
        if contact.id in self.removed:
            return
        contact.updated_at = self.now
        self._announce(EventType.CONTACT_UPDATED, {"contact": self.show_contact(contact)})

    def show_contact(self, contact: Contact, *, updated: bool = True) -> Json:
        """Return all of the contact, as webhooks tell it."""
        return self.shapes.contact(contact, updated=updated)

    # Tickets.

    def open_ticket(
        self,
        contact: Contact,
        channel: str,
        *,
        status: str = "pending",
        user: Named | None = None,
        queue: Named | None = None,
    ) -> Ticket:
        """Add a ticket; announces `ticket.created`."""
        ticket = Ticket(self._new_id(), contact, channel, self.now, self.now, status=status, user=user, queue=queue)
        self.tickets[ticket.id] = ticket
        self.contacts.setdefault(contact.id, contact)  # may have been forgotten meanwhile
        self.tickets_of.setdefault(contact.id, []).append(ticket)
        self._announce(EventType.TICKET_CREATED, {"ticket": self.show_ticket(ticket)})
        self._forget_tickets()
        return ticket

    def touch_ticket(self, ticket: Ticket, *, closing: bool = True) -> None:
        """Announce `ticket.updated` after a change of state, agent or queue; a closed one `ticket.closed`, or both.

        Without `closing` the ticket was closed before: its change is announced as an update only.
        """
        if ticket.id in self.removed:
            return
        ticket.updated_at = self.now
        closed = ticket.status == "closed" and closing
        if not closed or self._rng.random() < 0.2:
            self._announce(EventType.TICKET_UPDATED, {"ticket": self.show_ticket(ticket)})
        if closed:
            self._announce(EventType.TICKET_CLOSED, {"ticket": self.show_ticket(ticket)})

    def show_ticket(self, ticket: Ticket) -> Json:
        """Return all of the ticket, as webhooks tell it."""
        return self.shapes.ticket(ticket)

    # Messages.

    def add_message(
        self,
        contact: Contact,
        ticket: Ticket | None,
        body: str,
        *,
        from_me: bool,
        media: tuple[str, str | None] | None = None,
        media_url: str | None = None,
        quoted: Id | None = None,
    ) -> Message:
        """Add a message (`media` is its type and file name); announces `message.received` or `message.sent`.

        To a ticket that the vendor deleted nothing is added.
        """
        # On the vendor's page a message just sent has ack 1, and one that came in has 3.
        ack = 0 if self.dialect.zero_acks else 1 if from_me else 3
        message = Message(self._new_message_id(), contact, ticket, body, from_me, ack, self.now, quoted=quoted)
        if media is not None:
            message.media_type, name = media
            message.media_url = name and f"https://media.whatsms.example/public/{message.id}-{name}"
        message.media_url = media_url or message.media_url
        if ticket is not None and ticket.id in self.removed:
            self.removed.add(message.id)
            return message
        self.messages[message.id] = message
        if ticket is not None:
            ticket.messages.append(message)
            ticket.last_message = texts.cut(body)
            ticket.updated_at = self.now
        self.announce_message(message)
        return message

    def announce_message(self, message: Message) -> None:
        """Announce a message, also once more after an edit or a deletion: the same id, other content."""
        if message.id in self.removed:
            return
        self._announce(
            EventType.MESSAGE_SENT if message.from_me else EventType.MESSAGE_RECEIVED,
            {
                "message": self.shapes.told(message),
                "ticket": message.ticket and {"id": message.ticket.id, "status": message.ticket.status},
                "contact": brief(message.contact),
            },
        )

    def acknowledge(self, message: Message, ack: int | None) -> None:
        """Announce `message.ack` with this value; the message keeps its highest, a failure only before delivery."""
        if message.id in self.removed:
            return
        if ack is not None and (ack > message.ack or (ack <= 0 and message.ack < 3)):
            message.ack = ack
        ticket = message.ticket and {"id": message.ticket.id}
        self._announce(EventType.MESSAGE_ACK, {"message": {"id": message.id, "ack": ack}, "ticket": ticket})

    def show_message(self, message: Message) -> Json:
        """Return all of the message, as a ticket's list shows it."""
        return self.shapes.message(message)

    # Campaigns.

    def add_campaign(self, name: str, message: str, scheduled_at: datetime | None = None) -> Campaign:
        """Add a campaign that is to start at once, or when it is scheduled; nothing announces it."""
        campaign = Campaign(self._new_id(), name, message, scheduled_at or self.now, self.now, self.now)
        self.campaigns[campaign.id] = campaign
        if len(self.campaigns) > max(1, self._keep // _TICKETS_PER_CAMPAIGN):
            self._forget_messages(self.campaigns.pop(next(iter(self.campaigns))).messages)
        return campaign

    def finish_campaign(self, campaign: Campaign) -> None:
        """Set the campaign finished; announces `campaign.finished`, also when called again."""
        if campaign.id in self.removed:
            return
        campaign.status = "finished"
        campaign.updated_at = self.now
        self._announce(EventType.CAMPAIGN_FINISHED, {"campaign": self.show_campaign(campaign)})

    def show_campaign(self, campaign: Campaign) -> Json:
        """Return all of the campaign, as `GET /campaigns` shows it."""
        return self.shapes.campaign(campaign)

    # Deletions: nothing announces them.

    def remove_contact(self, contact_id: Id) -> None:
        """Delete the contact with its tickets and their messages; raise KeyError where there is none."""
        del self.contacts[contact_id]
        for ticket in [*self.tickets_of[contact_id]]:
            self.remove_ticket(ticket.id)
        del self.tickets_of[contact_id]
        self.removed.add(contact_id)

    def remove_ticket(self, ticket_id: Id) -> None:
        """Delete the ticket with its messages; raise KeyError where there is none."""
        ticket = self.tickets.pop(ticket_id)
        self.tickets_of[ticket.contact.id].remove(ticket)
        self.removed |= {ticket_id, *(message.id for message in ticket.messages)}
        self._forget_messages(ticket.messages)

    def remove_message(self, message_id: Id) -> None:
        """Delete the message without a trace; raise KeyError where there is none."""
        message = self.messages.pop(message_id)
        if message.ticket is not None:
            message.ticket.messages.remove(message)
        self.removed.add(message_id)

    def remove_campaign(self, campaign_id: Id) -> None:
        """Delete the campaign; raise KeyError where there is none."""
        del self.campaigns[campaign_id]
        self.removed.add(campaign_id)

    # The machinery.

    def _announce(self, event_type: EventType, data: Json) -> None:
        sent = self.now
        if self._rng.random() < _LATE:
            sent += timedelta(seconds=self._rng.uniform(*_LATE_S) * self.unit_s)
        body, retry = bodies(self.dialect, event_type, self.tenant_id, data, occurred=self.now, sent=sent)
        self.outbox.append(Webhook(body, event_type, sent, retry))

    def _new_id(self) -> Id:
        self._last_id += 1
        return self._last_id if self.dialect.integer_ids else _uuid(self._rng)

    def _new_message_id(self) -> Id:
        # The relatives with integer ids show the provider's own id for messages.
        return f"3EB0{self._rng.getrandbits(72):018X}" if self.dialect.integer_ids else _uuid(self._rng)

    def _forget_tickets(self) -> None:
        if len(self.tickets) <= self._keep:
            return
        ticket = self.tickets.pop(next(iter(self.tickets)))
        self._forget_messages(ticket.messages)
        left = self.tickets_of[ticket.contact.id]
        left.remove(ticket)
        if not left:
            del self.tickets_of[ticket.contact.id]
            self.contacts.pop(ticket.contact.id, None)

    def _forget_messages(self, messages: list[Message]) -> None:
        for message in messages:
            self.messages.pop(message.id, None)


def _uuid(rng: random.Random) -> str:
    return str(UUID(int=rng.getrandbits(128), version=4))
