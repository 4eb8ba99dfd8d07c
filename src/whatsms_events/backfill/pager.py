"""Reads one page of a list, saves what the page shows, and moves on to what `domain/walk` says comes next."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import structlog
from msgspec.structs import replace

from whatsms_events.backfill.lists import List, close, item_of, list_of, messages_of
from whatsms_events.backfill.run import LiveRun, RunStanding, moved_on, without
from whatsms_events.domain import walk
from whatsms_events.domain.repair import UNUSABLE, Answered, asked_page, classify, decide
from whatsms_events.domain.sighting import seen_at
from whatsms_events.domain.walk import Walks
from whatsms_events.errors import TransientError, UpstreamError, UpstreamRefusedError, UpstreamUnavailableError
from whatsms_events.storage.repair.runs import Item
from whatsms_events.whatsms.pages import Page, Place

log = structlog.get_logger()


async def read_list(live: LiveRun) -> bool:
    """Read the next page of the phase's list of entities; return False where its time has not come."""
    standing = live.standing
    if standing.phase == "again":
        if standing.again_at is None:
            await live.save(moved_on(standing))
            return True
        if live.parts.now() < standing.again_at:
            return False
    await _read_page(live, list_of(live))
    return True


async def read_messages(live: LiveRun) -> bool:
    """Read the next page of the next ticket whose messages are wanted; with none left the phase is over."""
    wanted = [] if live.messages == "off" else await live.parts.checkpoints.tickets_to_read(live.run, 1)
    if not wanted:
        await live.save(moved_on(live.standing))
        return True
    ticket = wanted[0]
    if live.standing.ticket != ticket.id:
        await live.save(replace(live.standing, ticket=ticket.id, walks=Walks(), place=Place()))
    await _read_page(live, messages_of(live, ticket))
    return True


async def _read_page(live: LiveRun, of: List) -> None:
    """Read the page that the run stands at; raise UpstreamError where the run cannot go on for now."""
    parts, standing = live.parts, live.standing
    log_end, asked_at = await parts.event_log.end(), parts.now()
    try:
        page = await of.ask(standing.place, of.filters[standing.walks.number])
    except UpstreamError as exc:
        await _go_on_without(live, of, exc)
    else:
        await _take_page(live, of, page, seen_at(page.as_of, asked_at), log_end)


async def _take_page(live: LiveRun, of: List, page: Page[Any], as_of: datetime, log_end: int) -> None:
    standing = live.standing
    await live.parts.learn()
    items = {one.id: item_of(live, of, one, as_of, log_end) for one in page.items if isinstance(one.id, str)}
    known = await live.parts.checkpoints.shown(live.run, of.entity, list(items))
    paged = page.next is not None or page.number > 1
    standing = replace(
        standing,
        requests=standing.requests + 1,
        unusable=standing.unusable + page.unusable,
        expected=_expected(of, standing, page),
        walks=walk.read(standing.walks, fresh=len(items.keys() - known), paged=paged),
    )
    if standing.phase == "again" and page.number == 1:
        standing = replace(standing, log_end=log_end, seen_at=as_of)
    await _move(live, of, standing, page.next, items)


def _expected(of: List, standing: RunStanding, page: Page[Any]) -> int:
    """Return `expected` with the count that the first page of a phase tells added to it."""
    first = of.expected and page.number == 1 and (standing.walks.number, standing.walks.pass_number) == (0, 1)
    return standing.expected + (page.count or 0) if first else standing.expected


async def _move(live: LiveRun, of: List, standing: RunStanding, place: Place | None, items: Mapping[str, Item]) -> None:
    """Save what a page showed together with what follows: another page, walk or pass, or the end of the list."""
    walks, then = walk.step(standing.walks, more=place is not None, in_pass=len(of.filters), passes=of.passes)
    standing = replace(standing, walks=walks, place=place or Place())
    if then in ("page", "walk", "pass"):
        await live.list_items(standing, items)
        return
    if then == "unstable" and of.ticket is None:  # a gap in a ticket's messages shows in its last message
        standing = _unstable(standing, of.name)
    await close(live, of, standing, items)


async def _go_on_without(live: LiveRun, of: List, exc: UpstreamError) -> None:
    """Save what an answer that is no page means for its list; raise it where the run cannot go on for now."""
    standing = replace(live.standing, requests=live.standing.requests + 1)
    walks, answered, status = standing.walks, classify(exc), of.filters[standing.walks.number]
    asked = asked_page(standing.place.number, filtered=status is not None, of_messages=of.ticket is not None)
    meaning = decide(asked, answered, walk.tries(walks, answered))
    if meaning == "doubt":
        meaning = "end" if await _answers(live) else "again"
        standing = replace(standing, requests=standing.requests + (meaning == "end"))
    match meaning:
        case "end":
            await _end(live, of, standing, answered, exc)
        case "anew":
            # A whole page of items may have moved to the front just now, so that the same page came twice.
            await live.save(replace(standing, place=Place(), walks=walk.failed(walks, meaning)))
        case "again":
            await live.save(replace(standing, walks=walk.failed(walks, meaning)))
            raise exc
        case "leave" | "leave_out" if of.ticket is not None:
            await _leave(live, of, of.ticket, exc, left_out=meaning == "leave_out")
            if isinstance(exc, TransientError):  # the vendor may be away: the loop waits
                raise exc
        case _:
            raise exc


async def _answers(live: LiveRun) -> bool:
    """Ask for one item of another list, to tell whether the vendor answers at all."""
    client = live.parts.client
    try:
        if live.standing.phase == "contacts":
            await client.tickets.page(Place(), page_size=1)
        else:
            await client.contacts.page(Place(), page_size=1)
    except UpstreamUnavailableError:
        return False
    except UpstreamRefusedError:
        return True
    return True


async def _end(live: LiveRun, of: List, standing: RunStanding, answered: Answered, exc: UpstreamError) -> None:
    """End the walk where it stands: what it showed is compared, and the report names the list as not stable."""
    slug, status, number = live.parts.slug, of.filters[standing.walks.number], standing.place.number
    name = of.name if status is None else f"{of.name}:{status}"
    reason = str(exc) if answered == "paging" else f"{exc}, page {number}"
    standing = replace(_unstable(standing, name), ended={name: reason, **standing.ended})
    if of.ticket is not None:
        log.warning("list.ended", tenant=slug, list=name, page=number, id=of.ticket.id, reason=str(exc))
        await close(live, of, standing, {})
        return
    log.warning("list.ended", tenant=slug, list=name, page=number, reason=str(exc))
    # After an answer that may come without end no further pass is made; a refusal would cost one request only.
    stuck = standing.walks.stuck or answered in UNUSABLE
    await _move(live, of, replace(standing, walks=replace(standing.walks, stuck=stuck)), None, {})


async def _leave(live: LiveRun, of: List, ticket: Item, exc: UpstreamError, *, left_out: bool) -> None:
    """Close a ticket whose messages cannot be read: they are not ours to see, or are left to the next run."""
    slug, standing = live.parts.slug, replace(live.standing, requests=live.standing.requests + 1)
    if left_out:
        standing = without(standing, slug, f"messages of ticket {ticket.id}", exc)
    else:
        log.warning("messages.not_read", tenant=slug, id=ticket.id, reason=str(exc))
        standing = replace(standing, unsettled=standing.unsettled + 1)
    await close(live, of, standing, {}, whole=False)


def _unstable(standing: RunStanding, name: str) -> RunStanding:
    """Return the standing with one more list that is not stable."""
    return replace(standing, unstable=tuple(dict.fromkeys((*standing.unstable, name))))
