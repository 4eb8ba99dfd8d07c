"""Asks for one ticket or contact by its id, and saves what the answer means for its item."""

from dataclasses import replace
from typing import Final, assert_never

import msgspec
import structlog
from msgspec import UNSET

from whatsms_events.backfill import shown
from whatsms_events.backfill.run import LiveRun, moved_on, without
from whatsms_events.domain.events import ContactPayload, Payload, TicketPayload
from whatsms_events.domain.repair import BY_ID, ITEMS, classify, decide, is_left, looked
from whatsms_events.domain.sighting import seen_at
from whatsms_events.errors import TransientError, UpstreamError, UpstreamGoneError, UpstreamRefusedError
from whatsms_events.storage.repair.runs import Item
from whatsms_events.whatsms.resources import Observed

AHEAD: Final = 100
"""Items that are loaded at once from the database: loading each by itself takes as long as its request."""

log = structlog.get_logger()


async def read_detail(live: LiveRun) -> bool:
    """Ask for the next entity that is due to be looked at; return False where the phase only waits.

    The phase is over when no item waits for anything any more: an item that is compared may have to be read again.
    """
    parts = live.parts
    if not live.next:
        live.next.extend(await parts.checkpoints.due(live.run, BY_ID, parts.now(), AHEAD))
    if live.next:
        await _look(live, live.next.popleft())
        return True
    if await parts.checkpoints.next_due(live.run) is not None:
        return False
    await live.save(moved_on(live.standing))
    return True


async def _look(live: LiveRun, item: Item) -> None:
    """Ask for one item; raise UpstreamError where the run cannot go on for now."""
    parts = live.parts
    log_end, asked_at = await parts.event_log.end(), parts.now()
    try:
        found = await _observe(live, item)
    except UpstreamError as exc:
        await _go_on_without(live, item, exc, log_end)
        return
    standing = msgspec.structs.replace(live.standing, requests=live.standing.requests + 1)
    seen = seen_at(found.as_of, asked_at)
    await parts.learn()
    kept = parts.kept(item.entity, found.value, seen, item.ticket_id)
    read = live.step(item, "shown", as_of=seen, log_end=log_end, payload=shown.detailed(item, kept))
    await live.save(standing, items=[read])


async def _go_on_without(live: LiveRun, item: Item, exc: UpstreamError, log_end: int) -> None:
    """Save what an answer that shows nothing means for the item; raise it where the run cannot go on for now."""
    came = looked(decide("item", classify(exc), item.rounds))
    if came is None:
        raise exc
    now, slug = live.parts.now(), live.parts.slug
    standing = msgspec.structs.replace(
        live.standing,
        requests=live.standing.requests + 1,
        unsettled=live.standing.unsettled + is_left(item.state, came),
    )
    if came in ("absent", "gone"):
        item = replace(item, as_of=now, log_end=log_end)
    if ITEMS[item.state][came].state == "missing":
        into = exc.merged_into if isinstance(exc, UpstreamGoneError) else None
        absent = shown.absent(item, now, log_end, merged_into=into)
        item = replace(item, payload=absent, messages="none")  # what is gone has no messages to list
    if came == "leave_out":
        standing = without(standing, slug, f"{item.entity} {item.id}", exc)
    if came == "leave":
        log.warning("detail.not_read", tenant=slug, entity=item.entity, id=item.id, reason=str(exc))
    await live.save(standing, items=[live.step(item, came)])
    if isinstance(exc, TransientError):  # the vendor may be away: the loop waits, and the other items come first now
        raise exc


async def _observe(live: LiveRun, item: Item) -> Observed[Payload]:
    client = live.parts.client
    match item.entity:
        case "ticket":
            ticket = await client.tickets.observe(item.id)
            _check_same(item, ticket.value.id)
            # The list alone is believed about the last message.
            named = msgspec.structs.replace(ticket.value, id=item.id, last_message=UNSET)
            return Observed(value=TicketPayload(ticket=named), as_of=ticket.as_of)
        case "contact":
            contact = await client.contacts.observe(item.id)
            _check_same(item, contact.value.id)
            return Observed(
                value=ContactPayload(contact=msgspec.structs.replace(contact.value, id=item.id)), as_of=contact.as_of
            )
        case "campaign" | "message":
            raise AssertionError(f"{item.entity} cannot be asked for by id")
        case _:
            assert_never(item.entity)


def _check_same(item: Item, told: object) -> None:
    """Raise UpstreamRefusedError where the answer has another id, as it may have for a merged ticket or contact.

    Such an answer shows another person's data. An answer without an id counts as the one that was asked for.
    """
    if isinstance(told, str) and told.casefold() != item.id.casefold():
        raise UpstreamRefusedError(f"GET /{item.entity}s/{{id}}: the answer shows another id")
