"""The JSON of an entity: all of it as webhooks tell it, or the part that an answer of the REST API shows."""

from dataclasses import dataclass
from enum import Enum
from typing import assert_never

from whatsms_events.twin.dialects import Dialect, Json
from whatsms_events.twin.entities import Campaign, Contact, Message, Named, Ticket


class Shape(Enum):
    """An answer of the REST API: the names that it shows, as in the examples on the vendor's page.

    What is not set (`aiAgentId`, `quotedMsgId`, `isDeleted`; on the page no example has them) is not shown at all.
    """

    TICKET_LISTED = ("id", "status", "channel", "contact", "lastMessage", "createdAt")
    TICKET = ("id", "status", "channel", "contact", "user", "queue", "aiAgentId", "createdAt", "updatedAt")
    TICKET_CREATED = ("id", "status", "channel", "createdAt")
    TICKET_UPDATED = ("id", "status", "updatedAt")
    TICKET_ASSIGNED = ("id", "aiAgentId", "updatedAt")
    MESSAGE_LISTED = (
        *("id", "body", "fromMe", "mediaType", "mediaUrl", "ack", "createdAt"),
        *("quotedMsgId", "isDeleted"),
    )
    MESSAGE_CREATED = ("id", "body", "fromMe", "ack", "createdAt")
    CONTACT_LISTED = ("id", "name", "number", "email", "profilePicUrl", "isGroup", "createdAt")
    CONTACT = ("id", "name", "number", "email", "extraInfo", "createdAt")
    CONTACT_CREATED = ("id", "name", "number", "createdAt")
    CONTACT_UPDATED = ("id", "name", "updatedAt")
    CAMPAIGN_LISTED = ("id", "name", "status", "scheduledAt", "sentCount", "failedCount", "createdAt")
    CAMPAIGN_CREATED = ("id", "name", "status", "createdAt")


@dataclass(frozen=True, slots=True)
class Shapes:
    """Shows entities as the dialect writes them."""

    dialect: Dialect

    def answer(self, shape: Shape, entity: Ticket | Message | Contact | Campaign) -> Json:
        """Return the entity as this answer of the REST API shows it."""
        match entity:
            case Ticket():
                shown = self.ticket(entity)
            case Message():
                shown = self.message(entity)
            case Contact():
                shown = self.contact(entity)
            case Campaign():
                shown = self.campaign(entity)
            case _:
                assert_never(entity)
        hidden = () if self.dialect.updated_at else ("updatedAt",)
        return {name: shown[name] for name in shape.value if name in shown and name not in hidden}

    def contact(self, contact: Contact, *, updated: bool = True) -> Json:
        """Return all of a contact; `updatedAt` only where it is `updated`."""
        shown: Json = {
            "id": contact.id,
            "name": contact.name,
            "number": contact.number,
            "email": contact.email,
            "profilePicUrl": contact.profile_pic_url,
            "isGroup": contact.is_group,
            "extraInfo": contact.extra_info,
            "createdAt": self.dialect.time(contact.created_at),
        }
        return shown | {"updatedAt": self.dialect.time(contact.updated_at)} if updated else shown

    def ticket(self, ticket: Ticket) -> Json:
        """Return all of a ticket."""
        shown = {
            "id": ticket.id,
            "status": ticket.status,
            "channel": ticket.channel,
            "contact": brief(ticket.contact),
            "user": _named(ticket.user),
            "queue": _named(ticket.queue),
            "lastMessage": ticket.last_message,
            "createdAt": self.dialect.time(ticket.created_at),
            "updatedAt": self.dialect.time(ticket.updated_at),
        }
        return shown if ticket.ai_agent_id is None else shown | {"aiAgentId": ticket.ai_agent_id}

    def message(self, message: Message) -> Json:
        """Return all of a message, with `isDeleted` and `quotedMsgId` where they are set."""
        shown = {
            "id": message.id,
            "body": message.body,
            "fromMe": message.from_me,
            "mediaType": message.media_type,
            "mediaUrl": message.media_url,
            "ack": message.ack,
            "createdAt": self.dialect.time(message.created_at),
        }
        if message.quoted is not None:
            shown["quotedMsgId"] = message.quoted
        return shown | {"isDeleted": True} if message.deleted else shown

    def told(self, message: Message) -> Json:
        """Return the message as webhooks tell it: the vendor's one example has no `ack`, and no `mediaUrl` on text."""
        told = self.message(message)
        if message.media_url is None:
            del told["mediaUrl"]
        if not message.from_me and not self.dialect.zero_acks:
            del told["ack"]
        return told

    def campaign(self, campaign: Campaign) -> Json:
        """Return all of a campaign."""
        return {
            "id": campaign.id,
            "name": campaign.name,
            "status": campaign.status,
            "scheduledAt": campaign.scheduled_at and self.dialect.time(campaign.scheduled_at),
            "sentCount": campaign.sent_count,
            "failedCount": campaign.failed_count,
            "createdAt": self.dialect.time(campaign.created_at),
        }


def brief(contact: Contact) -> Json:
    """Return the contact as other resources name it."""
    return {"id": contact.id, "name": contact.name, "number": contact.number}


def _named(named: Named | None) -> Json | None:
    return None if named is None else {"id": named.id, "name": named.name}
