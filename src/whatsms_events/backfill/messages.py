"""A ticket in, its messages as items out: the second phase, which runs only where it was asked for.

Reading a ticket's messages may tell its contact that they were read, so the tickets are few (those with a known gap)
unless all were asked for.
"""

from dataclasses import replace
from typing import Final

import msgspec
import structlog

from whatsms_events.backfill.gaps import read_for
from whatsms_events.backfill.run import Course, Shown, Standing, pack, seen_at, without
from whatsms_events.domain.events import MessagePayload, encode
from whatsms_events.domain.repair import classify
from whatsms_events.errors import TransientError, UpstreamError, UpstreamPagingError
from whatsms_events.storage.repair.runs import Item
from whatsms_events.whatsms.pages import Place

TURNS: Final = 3
SCAN: Final = 500

log = structlog.get_logger()


async def read_messages(course: Course) -> bool:
    """Read the next page of the next ticket whose messages are wanted; return False where there is none."""
    if course.messages == "off":
        return False
    wanted = await course.parts.checkpoints.tickets_to_read(course.run, 1)
    if not wanted:
        return False
    ticket = wanted[0]
    if course.standing.ticket != ticket.id:
        await course.save(_fresh(course.standing, ticket.id))
    try:
        await _read_page(course, ticket)
    except UpstreamError as exc:
        await _go_on_without(course, ticket, exc)
        if isinstance(exc, TransientError):
            raise
    return True


async def _go_on_without(course: Course, ticket: Item, exc: UpstreamError) -> None:
    """Save what an answer that is no page means for the ticket's list; raise it where it is about all of them."""
    slug, standing = course.parts.slug, course.standing
    standing = msgspec.structs.replace(standing, requests=standing.requests + 1)
    tries = int(standing.stumbled) if isinstance(exc, UpstreamPagingError) else ticket.rounds
    match classify(exc, "messages" if standing.place.number == 1 else "more_messages", tries):
        case "end":
            number, ended = standing.place.number, standing.ended
            log.warning("list.ended", tenant=slug, list="messages", page=number, id=ticket.id, reason=str(exc))
            ended = {"messages": f"{exc}, page {number}", **ended}
            unstable = tuple(dict.fromkeys((*standing.unstable, "messages")))
            await _close(course, ticket, msgspec.structs.replace(standing, ended=ended, unstable=unstable))
        case "anew":
            # As many messages as a page holds may just have come.
            await course.save(msgspec.structs.replace(standing, place=Place(), stumbled=True))
        case "again":
            await course.save(standing, items=[replace(ticket, rounds=ticket.rounds + 1)])
        case "leave_out":
            left = without(_fresh(standing, None), slug, f"messages of ticket {ticket.id}", exc)
            await course.save(left, items=[_done(ticket)])
        case "leave":
            log.warning("messages.not_read", tenant=slug, id=ticket.id, reason=str(exc))
            left = msgspec.structs.replace(_fresh(standing, None), unsettled=standing.unsettled + 1)
            await course.save(left, items=[_done(ticket)])
        case _:
            raise exc


def _done(ticket: Item) -> Item:
    return replace(ticket, messages="done", payload=None if ticket.state == "done" else ticket.payload)


def _fresh(standing: Standing, ticket: str | None) -> Standing:
    return msgspec.structs.replace(standing, ticket=ticket, place=Place(), stumbled=False, turn=1, fresh=0, paged=False)


async def _read_page(course: Course, ticket: Item) -> None:
    parts, standing = course.parts, course.standing
    log_end, asked_at = await parts.event_log.end(), parts.now()
    page = await parts.client.messages.page(ticket.id, standing.place, page_size=parts.plan.page_size)
    due_at = course.settled_at()
    items = {
        one.id: Item(
            entity="message",
            id=one.id,
            state="read",
            due_at=due_at,
            as_of=seen_at(page.as_of, asked_at),
            log_end=log_end,
            ticket_id=ticket.id,
            payload=pack(Shown(payload=encode(MessagePayload(message=one)))),
        )
        for one in page.items
        if isinstance(one.id, str)
    }
    known = await parts.checkpoints.shown(course.run, "message", list(items))
    standing = msgspec.structs.replace(
        standing,
        requests=standing.requests + 1,
        unusable=standing.unusable + page.unusable,
        fresh=standing.fresh + len(items.keys() - known),
        paged=standing.paged or page.next is not None or page.number > 1,
    )
    if page.next is not None:
        await course.list_items(msgspec.structs.replace(standing, place=page.next), items)
        return
    stable = not standing.paged or standing.fresh == 0
    if not stable and standing.turn < TURNS:
        again = msgspec.structs.replace(standing, place=Place(), turn=standing.turn + 1, fresh=0, paged=False)
        await course.list_items(again, items)
        return
    await course.list_items(standing, items)
    await _close(course, ticket, standing)


async def _close(course: Course, ticket: Item, standing: Standing) -> None:
    """Count the messages that we hold and no list of this run showed, and close the ticket."""
    parts, unseen = course.parts, 0
    after = ""
    while held := await parts.holdings.message_ids(parts.tenant, ticket.id, after, SCAN):
        after = held[-1]
        unseen += len(set(held) - await parts.checkpoints.shown(course.run, "message", held))
    standing = _fresh(standing, None)
    standing = msgspec.structs.replace(standing, unseen=standing.unseen + unseen)
    await course.save(standing, items=[_done(ticket)], looks=await read_for(parts, ticket))
