"""The lists that a backfill reads: of contacts, tickets and campaigns, and of one ticket's messages.

`pager` reads them all in the same way. What differs is here: how a page is asked for, what its items are, in how many
walks and passes the list is read, and what is done when it is read to its end.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, assert_never

import msgspec

from whatsms_events.backfill import shown
from whatsms_events.backfill.gaps import read_for
from whatsms_events.backfill.run import LiveRun, RunStanding, moved_on
from whatsms_events.domain.events import (
    Campaign,
    CampaignPayload,
    Contact,
    ContactPayload,
    Entity,
    Message,
    MessagePayload,
    Ticket,
    TicketPayload,
)
from whatsms_events.domain.repair import ASKED_BY_ID, Phase
from whatsms_events.domain.walk import MESSAGE_PASSES, PASSES, Walks
from whatsms_events.storage.repair.runs import Item
from whatsms_events.whatsms.pages import Page, Place

SCAN: Final = 500
"""Our own messages of a ticket that are looked up at once."""

Listed = Ticket | Contact | Campaign | Message


@dataclass(frozen=True, slots=True)
class List:
    """A list of the vendor's. `filters`: a pass is one walk for each; None asks for the whole list.

    `ticket`: whose messages these are. `expected`: whether its count is added to `RunStanding.expected`.
    """

    name: str
    entity: Entity
    filters: tuple[str | None, ...]
    passes: int
    ask: Callable[[Place, str | None], Awaitable[Page[Any]]]
    ticket: Item | None = None
    expected: bool = False


def list_of(live: LiveRun) -> List:
    """Return the list of entities that the run's phase reads."""
    client, size, phase = live.parts.client, live.parts.plan.page_size, live.standing.phase

    async def ask_contacts(place: Place, _status: str | None) -> Page[Contact]:
        return await client.contacts.page(place, page_size=size)

    async def ask_tickets(place: Place, status: str | None) -> Page[Ticket]:
        return await client.tickets.page(place, status=status, page_size=size)

    async def ask_campaigns(place: Place, _status: str | None) -> Page[Campaign]:
        return await client.campaigns.page(place, page_size=size)

    lists: Mapping[Phase, List] = {
        "contacts": List("contacts", "contact", (None,), PASSES, ask_contacts, expected=True),
        # The unfiltered list may hide closed tickets, as some of the vendor's relatives do.
        "tickets": List("tickets", "ticket", (None, "open", "pending", "closed"), PASSES, ask_tickets, expected=True),
        "campaigns": List("campaigns", "campaign", (None,), PASSES, ask_campaigns, expected=True),
        # Once more, for those that were hidden.
        "again": List("campaigns", "campaign", (None,), 1, ask_campaigns),
    }
    return lists[phase]


def messages_of(live: LiveRun, ticket: Item) -> List:
    """Return the list of a ticket's messages."""
    client, size = live.parts.client, live.parts.plan.page_size

    async def ask(place: Place, _status: str | None) -> Page[Message]:
        return await client.messages.page(ticket.id, place, page_size=size)

    return List("messages", "message", (None,), MESSAGE_PASSES, ask, ticket)


def item_of(live: LiveRun, of: List, one: Listed, as_of: datetime, log_end: int) -> Item:
    """Return the item of something that a page showed."""
    in_part = of.entity in ASKED_BY_ID and live.run.options.details == "all"
    ticket_id = None if of.ticket is None else of.ticket.id
    payload = live.parts.kept(of.entity, _payload(one), as_of, ticket_id)
    return live.new(
        of.entity,
        str(one.id),
        "shown" if of.ticket is not None else "listed_in_part" if in_part else "listed",
        as_of=as_of,
        log_end=log_end,
        ticket_id=ticket_id,
        payload=shown.listed(of.entity, payload, as_of, log_end),
    )


def _payload(one: Listed) -> TicketPayload | ContactPayload | CampaignPayload | MessagePayload:
    match one:
        case Ticket():
            return TicketPayload(ticket=one)
        case Contact():
            return ContactPayload(contact=one)
        case Campaign():
            return CampaignPayload(campaign=one)
        case Message():
            return MessagePayload(message=one)
        case _:
            assert_never(one)


async def close(
    live: LiveRun, of: List, standing: RunStanding, items: Mapping[str, Item], *, whole: bool = True
) -> None:
    """Save the last page of a list, and go on: to the next phase, or to the next ticket whose messages are wanted.

    `whole`: the list was read, so it is known which of our messages it did not show.
    """
    if of.ticket is not None:
        await _close_ticket(live, of.ticket, standing, items, whole=whole)
        return
    if not standing.walks.shown:
        standing = msgspec.structs.replace(standing, blind=(*standing.blind, of.entity))
    if standing.phase == "again":  # once is enough
        standing = msgspec.structs.replace(standing, again_at=None)
    await live.list_items(moved_on(standing), items)


async def _close_ticket(
    live: LiveRun, ticket: Item, standing: RunStanding, items: Mapping[str, Item], *, whole: bool
) -> None:
    if items:
        await live.list_items(live.standing, items)
    unseen = await _unseen(live, ticket) if whole else 0
    looks = await read_for(live.parts, ticket) if whole else []
    standing = msgspec.structs.replace(
        standing, ticket=None, place=Place(), walks=Walks(), unseen=standing.unseen + unseen
    )
    payload = None if ticket.state == "done" else ticket.payload
    await live.save(standing, items=[replace(ticket, messages="done", payload=payload)], looks=looks)


async def _unseen(live: LiveRun, ticket: Item) -> int:
    """Count the messages that we hold and no list of this run showed."""
    parts, unseen, after = live.parts, 0, ""
    while held := await parts.holdings.message_ids(parts.tenant, ticket.id, after, SCAN):
        after = held[-1]
        unseen += len(set(held) - await parts.checkpoints.shown(live.run, "message", held))
    return unseen
