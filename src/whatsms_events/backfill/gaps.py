"""Decides which tickets' messages a narrow run reads, and remembers what each was read for.

A known gap is a last message that no message here explains, a ticket that was not known, or a message that is doubtful
or known by its ack only. Reading may send read receipts, so after READS readings that did not close a gap, the list is
read again only when something new was told of it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

from whatsms_events.backfill.run import Parts
from whatsms_events.backfill.shown import last_shown, unpack
from whatsms_events.domain.last_message import Told, explained
from whatsms_events.domain.rows import Key, Row
from whatsms_events.storage.repair.looks import Doubt
from whatsms_events.storage.repair.runs import Item

READS: Final = 2
"""How many runs read a ticket's list for the same unchanged gap: the first may have come too early."""

_PAGE: Final = 1000

MessagesByTicket = Mapping[str, Sequence[Told]]
"""By ticket, what was told of its last messages (`Holdings.recent_messages`)."""


async def find_gaps(parts: Parts, batch: Sequence[Item], rows: Mapping[Key, Row], told: MessagesByTicket) -> set[str]:
    """Return the tickets with a known gap, without those that were read READS times for all of their gaps."""
    tickets = {item.id: item for item in batch if item.entity == "ticket" and not unpack(item).gone}
    if not tickets:
        return set()
    found = {doubt: item.id for item in tickets.values() for doubt in _of_ticket(parts, item, rows, told)}
    found |= await _of_messages(parts, list(tickets))
    return {found[doubt] for doubt in await parts.checkpoints.not_looked_at(parts.tenant, list(found), READS)}


async def read_for(parts: Parts, ticket: Item) -> list[Doubt]:
    """Return the gaps for which a ticket's messages were just read, as they stand now."""
    last = last_shown(ticket) if ticket.payload is not None else None
    told = [_of_last_message(ticket.id, last)] if last else []
    return [*told, *await _of_messages(parts, [ticket.id])]


def _of_ticket(parts: Parts, item: Item, rows: Mapping[Key, Row], told: MessagesByTicket) -> list[Doubt]:
    last, row = last_shown(item), rows.get(Key("ticket", parts.tenant, item.id))
    if row is not None and row.known and explained(last, told.get(item.id, ())):
        return []
    return [_of_last_message(item.id, last or "")]


def _of_last_message(ticket_id: str, text: str) -> Doubt:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return Doubt("last_message", ticket_id, int.from_bytes(digest, signed=True))


async def _of_messages(parts: Parts, ticket_ids: Sequence[str]) -> dict[Doubt, str]:
    found: dict[Doubt, str] = {}
    after: tuple[str, str] | None = None
    while page := await parts.holdings.unsure_messages(parts.tenant, _PAGE, after, ticket_ids):
        found |= {doubt._replace(subject="message_in_list"): ticket for ticket, doubt in page}
        after = (page[-1][0], page[-1][1].id)
    return found
