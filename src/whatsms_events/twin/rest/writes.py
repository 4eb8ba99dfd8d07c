"""The half of the API that writes: it changes the account, and webhooks follow as after any change.

A queue or agent given as null is removed; one that is absent stays. Unknown fields are ignored.
"""

from collections.abc import Sequence
from typing import Final

from whatsms_events.twin.account import Account
from whatsms_events.twin.dialects import Json
from whatsms_events.twin.entities import Id, Named, Ticket
from whatsms_events.twin.rest.answers import (
    Ask,
    find,
    read_choice,
    read_extra_info,
    read_id,
    read_optional,
    read_text,
    read_time,
    refuse,
)
from whatsms_events.twin.rest.reads import NO_CONTACT, NO_TICKET, STATUSES
from whatsms_events.twin.shapes import Shape

CHANNELS: Final = ("whatsapp", "sms", "telegram")
MEDIA_TYPES: Final = ("image", "document", "audio", "video")
_NOTHING: Final = "Nenhum campo para atualizar"


class Writes:
    """The half of the API that writes."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def create_ticket(self, ask: Ask) -> Json:
        """Open a ticket for a contact."""
        body = ask.body
        contact = find(self._account.contacts, self._id(body.get("contactId"), "contactId"), NO_CONTACT)
        ticket = self._account.open_ticket(
            contact,
            read_choice(body, "channel", CHANNELS, "whatsapp"),
            status=read_choice(body, "status", STATUSES, "pending"),
            user=self._user(body),
            queue=self._queue(body),
        )
        return {"ticket": self._account.shapes.answer(Shape.TICKET_CREATED, ticket)}

    def update_ticket(self, ask: Ask) -> Json:
        """Set a ticket's state, agent or queue."""
        ticket = self._ticket(ask.id, "id")
        body = ask.body
        if not body.keys() & {"status", "userId", "queueId"}:
            refuse(400, _NOTHING)
        status = read_choice(body, "status", STATUSES, ticket.status)
        user = self._user(body) if "userId" in body else ticket.user
        queue = self._queue(body) if "queueId" in body else ticket.queue
        closing = status != ticket.status
        ticket.status, ticket.user, ticket.queue = status, user, queue
        self._account.touch_ticket(ticket, closing=closing)
        return {"ticket": self._account.shapes.answer(Shape.TICKET_UPDATED, ticket)}

    def send_message(self, ask: Ask) -> Json:
        """Send a message to a ticket's contact; its acks follow."""
        ticket = self._ticket(ask.id, "id")
        body = ask.body
        text = read_text(body, "body")
        url, quoted = read_optional(body, "mediaUrl"), read_optional(body, "quotedMsgId")
        media = None
        if body.get("mediaType") is not None:
            media = (read_choice(body, "mediaType", MEDIA_TYPES), None)
            if not url:
                refuse(400, "O campo 'mediaUrl' é obrigatório com 'mediaType'")
        if quoted is not None:
            find(self._account.messages, quoted, "Mensagem não encontrada")
        message = self._account.add_message(
            ticket.contact, ticket, text, from_me=True, media=media, media_url=url, quoted=quoted
        )
        self._account.asked.append(message)
        return {"message": self._account.shapes.answer(Shape.MESSAGE_CREATED, message)}

    def create_contact(self, ask: Ask) -> Json:
        """Add a contact; no two contacts may have the same number."""
        body = ask.body
        name, number = read_text(body, "name"), read_text(body, "number")
        email, picture_url = read_optional(body, "email"), read_optional(body, "profilePicUrl")
        extra_info = read_extra_info(body)
        if any(contact.number == number for contact in self._account.contacts.values()):
            refuse(400, "Já existe um contacto com este número")
        contact = self._account.add_contact(
            name=name, number=number, email=email, picture_url=picture_url, extra_info=extra_info
        )
        return {"contact": self._account.shapes.answer(Shape.CONTACT_CREATED, contact)}

    def update_contact(self, ask: Ask) -> Json:
        """Set a contact's name, e-mail or further facts."""
        contact = find(self._account.contacts, self._id(ask.id, "id"), NO_CONTACT)
        body = ask.body
        if not body.keys() & {"name", "email", "extraInfo"}:
            refuse(400, _NOTHING)
        name = read_text(body, "name") if "name" in body else contact.name
        email = read_optional(body, "email") if "email" in body else contact.email
        extra_info = read_extra_info(body) if "extraInfo" in body else contact.extra_info
        contact.name, contact.email, contact.extra_info = name, email, extra_info
        self._account.touch_contact(contact)
        return {"contact": self._account.shapes.answer(Shape.CONTACT_UPDATED, contact)}

    def create_campaign(self, ask: Ask) -> Json:
        """Add a campaign; it is sent when it is scheduled, or now."""
        name, text = read_text(ask.body, "name"), read_text(ask.body, "message")
        campaign = self._account.add_campaign(name, text, read_time(ask.body, "scheduledAt"))
        self._account.asked.append(campaign)
        return {"campaign": self._account.shapes.answer(Shape.CAMPAIGN_CREATED, campaign)}

    def assign_agent(self, ask: Ask) -> Json:
        """Give a ticket to an AI agent, or take it away from one."""
        if "agentId" not in ask.body:
            refuse(400, "O campo 'agentId' é obrigatório")
        ticket = self._ticket(ask.body.get("ticketId"), "ticketId")
        agent = self._named(ask.body, "agentId", self._account.ai_agents, "Agente IA não encontrado")
        ticket.ai_agent_id = None if agent is None else agent.id
        self._account.touch_ticket(ticket, closing=False)
        return {"ticket": {"aiAgentId": None} | self._account.shapes.answer(Shape.TICKET_ASSIGNED, ticket)}

    def _id(self, value: object, name: str) -> Id:
        return read_id(self._account.dialect, value, name)

    def _ticket(self, value: object, name: str) -> Ticket:
        return find(self._account.tickets, self._id(value, name), NO_TICKET)

    def _user(self, body: Json) -> Named | None:
        return self._named(body, "userId", self._account.users, "Utilizador não encontrado")

    def _queue(self, body: Json) -> Named | None:
        return self._named(body, "queueId", self._account.queues, "Fila não encontrada")

    def _named(self, body: Json, name: str, among: Sequence[Named], text: str) -> Named | None:
        """Return what the field names, or None where it is null or absent."""
        if body.get(name) is None:
            return None
        return find({named.id: named for named in among}, self._id(body[name], name), text)
