"""Tickets that are being compared in, those whose messages a narrow run reads out, and what each is read for.

A known gap is a last message that no message here explains, a ticket that was not known, or a message that is doubtful
or known by its ack only. Reading may send read receipts: what reading did not mend is not read for ever.
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from whatsms_events.domain.last_message import explained
from whatsms_events.domain.rows import Key, Row
from whatsms_events.storage.checkpoints import Doubt, Item
from whatsms_events.workers.backfill_run import Parts, unpack

LOOKS: Final = 2
"""Runs that read a ticket for the same gap as it stands: one of them may have been refused, or have come too early."""

_PAGE: Final = 1000

Bodies = Mapping[str, Sequence[str]]
"""By ticket, what its messages say (`Holdings.recent_bodies`)."""


async def find_gaps(
    parts: Parts, batch: Sequence[Item], rows: Mapping[Key, Row], bodies: Bodies
) -> dict[str, list[Doubt]]:
    """Return by ticket what its messages are to be read for, but for what was looked at LOOKS times as it stands."""
    tickets = {item.id: item for item in batch if item.entity == "ticket" and not unpack(item).gone}
    if not tickets:
        return {}
    found = {doubt: item.id for item in tickets.values() for doubt in _of_ticket(parts, item, rows, bodies)}
    found |= await _of_messages(parts, list(tickets))
    gaps: dict[str, list[Doubt]] = defaultdict(list)
    for doubt in await parts.checkpoints.not_looked_at(parts.tenant, list(found), LOOKS):
        gaps[found[doubt]].append(doubt)
    return dict(gaps)


def _of_ticket(parts: Parts, item: Item, rows: Mapping[Key, Row], bodies: Bodies) -> list[Doubt]:
    last, row = unpack(item).last_message, rows.get(Key("ticket", parts.tenant, item.id))
    if row is not None and row.known and explained(last, bodies.get(item.id, ())):
        return []
    digest = hashlib.blake2b((last or "").encode(), digest_size=8).digest()
    return [Doubt("last_message", item.id, int.from_bytes(digest, signed=True))]


async def _of_messages(parts: Parts, ticket_ids: Sequence[str]) -> dict[Doubt, str]:
    found: dict[Doubt, str] = {}
    after = ("", "")
    while page := await parts.holdings.unsure_messages(parts.tenant, _PAGE, after, ticket_ids):
        found |= {doubt: ticket for ticket, doubt in page}
        after = (page[-1][0], page[-1][1].id)
    return found
