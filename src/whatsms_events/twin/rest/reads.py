"""The GET half of the API: lists page by page, in the order of the vendor's relatives, and single things by id.

A list is sorted anew for each page, and nothing breaks ties: what somebody changes meanwhile moves to another page.
"""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Final, TypeVar

from whatsms_events.twin.account import Account
from whatsms_events.twin.dialects import Json
from whatsms_events.twin.entities import Campaign, Contact, Message, Ticket
from whatsms_events.twin.rest.answers import PAGE_SIZE, Ask, find, read_choice, read_id, read_number, refuse
from whatsms_events.twin.rest.faults import RestFault
from whatsms_events.twin.shapes import Shape

STATUSES: Final = ("open", "pending", "closed")
CAMPAIGN_STATUSES: Final = ("pending", "running", "finished", "cancelled")
NO_TICKET: Final = "Ticket não encontrado"
NO_CONTACT: Final = "Contacto não encontrado"
_MODEL: Final = "cortecs:llama-4-maverick"
T = TypeVar("T", Ticket, Message, Contact, Campaign)


class Reads:
    """The GET half of the API."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def list_tickets(self, ask: Ask) -> Json:
        """Show tickets, the latest `updatedAt` first; `status` and `contactId` filter."""
        tickets = [ticket for ticket in self._account.tickets.values() if not ask.is_merged(str(ticket.id))]
        if "status" in ask.query:
            status = read_choice(ask.query, "status", STATUSES)
            tickets = [ticket for ticket in tickets if ticket.status == status]
        if "contactId" in ask.query:
            contact_id = read_id(self._account.dialect, ask.query["contactId"], "contactId")
            tickets = [ticket for ticket in tickets if ticket.contact.id == contact_id]
        tickets.sort(key=attrgetter("updated_at"), reverse=True)
        return self._page(ask, "tickets", tickets, Shape.TICKET_LISTED)

    def get_ticket(self, ask: Ask) -> Json:
        """Show one ticket."""
        return {"ticket": self._account.shapes.answer(Shape.TICKET, self._ticket(ask))}

    def list_messages(self, ask: Ask) -> Json:
        """Show a ticket's messages: the first page has the latest, each page in the order they were written."""
        messages = self._ticket(ask).messages[::-1]
        return self._page(ask, "messages", messages, Shape.MESSAGE_LISTED, turn=lambda part: part[::-1])

    def list_contacts(self, ask: Ask) -> Json:
        """Show contacts by name, those without one at the end; `search` looks into name, number and e-mail."""
        wanted = ask.query.get("search", "").casefold()
        contacts = [
            contact
            for contact in self._account.contacts.values()
            if any(wanted in text.casefold() for text in (contact.name, contact.number, contact.email) if text)
            and not ask.is_merged(str(contact.id))
        ]
        contacts.sort(key=lambda contact: (contact.name is None, contact.name or ""))
        return self._page(ask, "contacts", contacts, Shape.CONTACT_LISTED)

    def get_contact(self, ask: Ask) -> Json:
        """Show one contact."""
        contact = find(self._account.contacts, read_id(self._account.dialect, ask.id), NO_CONTACT)
        return {"contact": self._account.shapes.answer(Shape.CONTACT, contact)}

    def list_campaigns(self, ask: Ask) -> Json:
        """Show campaigns by name; `status` filters."""
        campaigns = sorted(self._account.campaigns.values(), key=attrgetter("name"))
        if "status" in ask.query:
            status = read_choice(ask.query, "status", CAMPAIGN_STATUSES)
            campaigns = [campaign for campaign in campaigns if campaign.status == status]
        return self._page(ask, "campaigns", campaigns, Shape.CAMPAIGN_LISTED)

    def list_agents(self, _ask: Ask) -> Json:
        """Show all AI agents, the way the vendor's example does."""
        return {
            "agents": [
                {
                    "id": agent.id,
                    "name": agent.name,
                    "model": _MODEL,
                    "isActive": True,
                    "enabledIntegrations": ["kivicare"],
                    "handoffEnabled": True,
                    "createdAt": self._account.dialect.time(self._account.started),
                }
                for agent in self._account.ai_agents
            ]
        }

    def _ticket(self, ask: Ask) -> Ticket:
        return find(self._account.tickets, read_id(self._account.dialect, ask.id), NO_TICKET)

    def _page(
        self,
        ask: Ask,
        plural: str,
        entities: Sequence[T],
        shape: Shape,
        turn: Callable[[Sequence[T]], Sequence[T]] = lambda part: part,
    ) -> Json:
        size = min(read_number(ask.query, "limit", PAGE_SIZE), ask.page_limit)
        number = read_number(ask.query, "page", 1)
        if RestFault.PAGE_IGNORED in ask.faults:
            number = 1
        if RestFault.LIST_EMPTY in ask.faults:
            entities = ()
        start = (number - 1) * size
        _refuse_beyond(ask, number, start >= len(entities))
        shown = [self._account.shapes.answer(shape, entity) for entity in turn(entities[start : start + size])]
        full = RestFault.FULL_MORE in ask.faults and len(shown) == size
        return {
            plural: None if RestFault.LIST_NULL in ask.faults and not shown else shown,
            "count": None if RestFault.COUNT_NULL in ask.faults else len(entities),
            "hasMore": RestFault.HAS_MORE in ask.faults or full or start + size < len(entities),
        }


def _refuse_beyond(ask: Ask, number: int, beyond: bool) -> None:
    """Refuse a page behind the end where such a fault befell the request; the first page is never behind it."""
    for fault, status in ((RestFault.BEYOND_404, 404), (RestFault.BEYOND_400, 400)):
        if fault in ask.faults and beyond and number > 1:
            refuse(status)
