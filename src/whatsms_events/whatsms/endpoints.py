"""This module has the vendor's endpoints as methods. Each raises UpstreamError where the API gives no usable answer.

An argument that is left out is not sent; None is sent as null. Words (status, channel, media type) are open sets: any
text may be sent, and any may come back.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime

from msgspec import UNSET, UnsetType

from whatsms_events.domain.events import Campaign, Contact, Message, Ticket
from whatsms_events.domain.fields import read_campaign, read_contact, read_message, read_ticket
from whatsms_events.whatsms.answers import Call
from whatsms_events.whatsms.endpoint import PAGE_SIZE_LIMIT, Endpoint, walk
from whatsms_events.whatsms.pages import Page, Place, nothing_listed
from whatsms_events.whatsms.resources import Agent, Observed, listing, read_agent, single

_Text = str | UnsetType
_TextOrNull = str | None | UnsetType
_Info = Sequence[Mapping[str, str]] | UnsetType
_Agents = list[Agent]  # within a class that has a method `list`, that name is the method


class Tickets(Endpoint):
    """`/tickets`: conversations. A list shows no user, queue and update time; a single ticket no last message."""

    def list(
        self, *, status: str | None = None, contact_id: str | None = None, page_size: int = PAGE_SIZE_LIMIT
    ) -> AsyncIterator[Ticket]:
        """Yield the tickets of all pages. Tickets that change meanwhile move: some may come twice or not at all."""
        return walk(lambda place: self.page(place, status=status, contact_id=contact_id, page_size=page_size))

    async def page(
        self,
        place: Place,
        *,
        status: str | None = None,
        contact_id: str | None = None,
        page_size: int = PAGE_SIZE_LIMIT,
    ) -> Page[Ticket]:
        """Return one page; keep the filters and the size the same over a walk."""
        filters = {self._names.status: status, self._names.contact: contact_id}
        return await self._page("/tickets", listing("tickets", read_ticket), place, page_size, filters=filters)

    async def get(self, id: str) -> Ticket:  # noqa: A002
        """Return a ticket; raise UpstreamNotFoundError where there is none."""
        return (await self.observe(id)).value

    async def observe(self, id: str) -> Observed[Ticket]:  # noqa: A002
        """Return a ticket, and as of when the vendor showed it so."""
        return await self._observe("/tickets/{id}", single("ticket", read_ticket), id)

    async def create(
        self,
        contact_id: str,
        *,
        status: _Text = UNSET,
        channel: _Text = UNSET,
        whatsapp_id: _TextOrNull = UNSET,
        queue_id: _TextOrNull = UNSET,
        user_id: _TextOrNull = UNSET,
    ) -> Ticket:
        """Open a ticket with a contact; return what the vendor says of it: id, status, channel, creation time."""
        return await self._write(
            "POST",
            "/tickets",
            single("ticket", read_ticket),
            contactId=contact_id,
            status=status,
            channel=channel,
            whatsappId=whatsapp_id,
            queueId=queue_id,
            userId=user_id,
        )

    async def update(
        self,
        id: str,  # noqa: A002
        *,
        status: _Text = UNSET,
        user_id: _TextOrNull = UNSET,
        queue_id: _TextOrNull = UNSET,
    ) -> Ticket:
        """Change a ticket; return its id, status and update time. In this family a `closed` may not close at once."""
        return await self._write(
            self._names.update_method,
            "/tickets/{id}",
            single("ticket", read_ticket),
            id,
            status=status,
            userId=user_id,
            queueId=queue_id,
        )


class Messages(Endpoint):
    """`/tickets/{id}/messages`. Reading them may tell the contact that they were read: do not do it just to look."""

    def list(self, ticket_id: str, *, page_size: int = PAGE_SIZE_LIMIT) -> AsyncIterator[Message]:
        """Yield a ticket's messages, page by page; they name no ticket themselves."""
        return walk(lambda place: self.page(ticket_id, place, page_size=page_size))

    async def page(self, ticket_id: str, place: Place, *, page_size: int = PAGE_SIZE_LIMIT) -> Page[Message]:
        """Return one page of a ticket's messages."""
        read = listing("messages", read_message)
        return await self._page("/tickets/{id}/messages", read, place, page_size, ids=(ticket_id,))

    async def send(
        self,
        ticket_id: str,
        body: str,
        *,
        media_url: _TextOrNull = UNSET,
        media_type: _TextOrNull = UNSET,
        quoted_message_id: _TextOrNull = UNSET,
    ) -> Message:
        """Send a text, or a medium with its caption; return the message: id, body, ack, creation time.

        Raises UpstreamUncertainError where it may have been sent: look into the ticket before you send it again.
        """
        return await self._write(
            "POST",
            "/tickets/{id}/messages",
            single("message", read_message),
            ticket_id,
            body=body,
            mediaUrl=media_url,
            mediaType=media_type,
            quotedMsgId=quoted_message_id,
        )


class Contacts(Endpoint):
    """`/contacts`: persons and groups. Items of a list have no extra info."""

    def list(self, search: str | None = None, *, page_size: int = PAGE_SIZE_LIMIT) -> AsyncIterator[Contact]:
        """Yield the contacts of all pages, or those found by a part of their name, number or e-mail address."""
        return walk(lambda place: self.page(place, search=search, page_size=page_size))

    async def page(self, place: Place, *, search: str | None = None, page_size: int = PAGE_SIZE_LIMIT) -> Page[Contact]:
        """Return one page; keep the search and the size the same over a walk."""
        filters = {self._names.search: search}
        return await self._page("/contacts", listing("contacts", read_contact), place, page_size, filters=filters)

    async def get(self, id: str) -> Contact:  # noqa: A002
        """Return a contact; raise UpstreamNotFoundError where there is none."""
        return (await self.observe(id)).value

    async def observe(self, id: str) -> Observed[Contact]:  # noqa: A002
        """Return a contact, and as of when the vendor showed it so."""
        return await self._observe("/contacts/{id}", single("contact", read_contact), id)

    async def create(
        self,
        name: str,
        number: str,
        *,
        email: _TextOrNull = UNSET,
        profile_pic_url: _TextOrNull = UNSET,
        extra_info: _Info = UNSET,
    ) -> Contact:
        """Make a contact; return its id, name, number and creation time. `extra_info` is of `{"name", "value"}`."""
        return await self._write(
            "POST",
            "/contacts",
            single("contact", read_contact),
            name=name,
            number=number,
            email=email,
            profilePicUrl=profile_pic_url,
            extraInfo=extra_info,
        )

    async def update(
        self,
        id: str,  # noqa: A002
        *,
        name: _Text = UNSET,
        email: _TextOrNull = UNSET,
        extra_info: _Info = UNSET,
    ) -> Contact:
        """Change a contact; return its id, name and update time."""
        read = single("contact", read_contact)
        method = self._names.update_method
        return await self._write(method, "/contacts/{id}", read, id, name=name, email=email, extraInfo=extra_info)


class Campaigns(Endpoint):
    """`/campaigns`: mass sendings. The API has no single campaign to read."""

    def list(self, status: str | None = None, *, page_size: int = PAGE_SIZE_LIMIT) -> AsyncIterator[Campaign]:
        """Yield the campaigns of all pages."""
        return walk(lambda place: self.page(place, status=status, page_size=page_size))

    async def page(
        self, place: Place, *, status: str | None = None, page_size: int = PAGE_SIZE_LIMIT
    ) -> Page[Campaign]:
        """Return one page; keep the filter and the size the same over a walk."""
        filters = {self._names.campaign_status: status}
        return await self._page("/campaigns", listing("campaigns", read_campaign), place, page_size, filters=filters)

    async def create(
        self,
        name: str,
        message: str,
        *,
        whatsapp_id: _TextOrNull = UNSET,
        contact_group_id: _TextOrNull = UNSET,
        scheduled_at: datetime | None | UnsetType = UNSET,
    ) -> Campaign:
        """Start a campaign, or plan it; return its id, name, status and creation time.

        `message` may hold `{{name}}` and `{{number}}`. Without `scheduled_at` (aware), or with None, it begins at once.
        """
        if isinstance(scheduled_at, datetime):
            if scheduled_at.tzinfo is None:
                raise ValueError("scheduled_at has no time zone")
            scheduled_at = scheduled_at.astimezone(UTC)
        return await self._write(
            "POST",
            "/campaigns",
            single("campaign", read_campaign),
            name=name,
            message=message,
            whatsappId=whatsapp_id,
            contactGroupId=contact_group_id,
            scheduledAt=scheduled_at,
        )


class Agents(Endpoint):
    """`/ai-agents`: language models that answer tickets."""

    async def list(self) -> _Agents:
        """Return all AI agents; this list has no pages."""
        answer = await self._transport.ask(
            Call("GET", "/ai-agents", listing("agents", read_agent), nothing=nothing_listed())
        )
        return answer.value.items

    async def assign(self, ticket_id: str, agent_id: str | None) -> Ticket:
        """Let an AI agent answer a ticket, or none (None); return the ticket's id, agent and update time."""
        read = single("ticket", read_ticket)
        return await self._write("POST", "/ai-agents/assign", read, ticketId=ticket_id, agentId=agent_id)
