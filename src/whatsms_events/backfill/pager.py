"""A list of the vendor's API in, items out: pages with their log end, passes until one brings nothing new.

Items move between pages while somebody reads (tickets stand by their last change), so one pass may miss some.
"""

from datetime import datetime
from typing import Final, assert_never

import structlog
from msgspec.structs import replace

from whatsms_events.backfill.run import PHASES, Course, Phase, Shown, Standing, pack, seen_at, split_listed
from whatsms_events.domain.events import (
    Campaign,
    CampaignPayload,
    Contact,
    ContactPayload,
    Entity,
    Payload,
    Ticket,
    TicketPayload,
)
from whatsms_events.domain.repair import asked_page, classify
from whatsms_events.errors import UpstreamError, UpstreamPagingError, UpstreamRefusedError, UpstreamUnavailableError
from whatsms_events.storage.repair.runs import Item, State
from whatsms_events.whatsms.pages import Page, Place

WALKS: Final[dict[Phase, tuple[str | None, ...]]] = {
    "contacts": (None,),
    # The unfiltered list may hide closed tickets, as some of the vendor's relatives do.
    "tickets": (None, "open", "pending", "closed"),
    "campaigns": (None,),
    "again": (None,),  # campaigns once more, for those that were missing
}

TURNS: Final = 4
"""Passes over a list at most; one that still brings something new is reported as not stable."""

ENTITIES: Final[dict[Phase, Entity]] = {
    "contacts": "contact",
    "tickets": "ticket",
    "campaigns": "campaign",
    "again": "campaign",
}


log = structlog.get_logger()


async def read_page(course: Course) -> None:
    """Read the page the run stands at, save what it shows, and move on; raise UpstreamError where that ends no list."""
    parts = course.parts
    log_end, asked_at = await parts.event_log.end(), parts.now()
    try:
        page = await _ask(course, _status(course.standing))
    except UpstreamError as exc:
        if not await _go_on_without(course, exc):
            raise
    else:
        await _take_page(course, page, seen_at(page.as_of, asked_at), log_end)


def _status(standing: Standing) -> str | None:
    return WALKS[standing.phase][standing.walk]


async def _go_on_without(course: Course, exc: UpstreamError) -> bool:
    """Save what an answer that is no page means for its list; return False where the run cannot go on for now."""
    standing = replace(course.standing, requests=course.standing.requests + 1)
    asked = asked_page(standing.place.number, filtered=_status(standing) is not None)
    tries = int(standing.stumbled) if isinstance(exc, UpstreamPagingError) else standing.tries
    match classify(exc, asked, tries):
        case "end":
            await _end(course, standing, exc)
        case "doubt" if await _answers(course):
            await _end(course, replace(standing, requests=standing.requests + 1), exc)
        case "anew":
            # As many as a page holds may have moved to the front just now.
            await course.save(replace(standing, place=Place(), stumbled=True))
        case "again" | "doubt":
            await course.save(replace(standing, tries=standing.tries + 1))
            return False
        case _:
            return False
    return True


async def _answers(course: Course) -> bool:
    """Tell whether the vendor answers anything else, with one item of another list: if not it is away."""
    client = course.parts.client
    try:
        if course.standing.phase == "contacts":
            await client.tickets.page(Place(), page_size=1)
        else:
            await client.contacts.page(Place(), page_size=1)
    except UpstreamUnavailableError:
        return False
    except UpstreamRefusedError:
        return True
    return True


async def _end(course: Course, standing: Standing, exc: UpstreamError) -> None:
    """End the walk where it stands: what it showed is compared, and the report names the list as not stable."""
    status, number = _status(standing), standing.place.number
    plural = "campaigns" if standing.phase == "again" else standing.phase
    name = plural if status is None else f"{plural}:{status}"
    reason = str(exc) if isinstance(exc, UpstreamPagingError) else f"{exc}, page {number}"
    log.warning("list.ended", tenant=course.parts.slug, list=name, page=number, reason=str(exc))
    standing = replace(
        standing,
        unstable=_named(standing, name),
        ended={name: reason, **standing.ended},
        # What comes without end is not asked for in further passes; what is refused costs one request.
        stuck=standing.stuck or isinstance(exc, UpstreamUnavailableError),
    )
    await course.save(advance(standing, None))


def _named(standing: Standing, name: str) -> tuple[str, ...]:
    """Return the lists that are not stable, this one among them."""
    return tuple(dict.fromkeys((*standing.unstable, name)))


async def _take_page(
    course: Course, page: Page[Ticket] | Page[Contact] | Page[Campaign], as_of: datetime, log_end: int
) -> None:
    parts, standing = course.parts, course.standing
    phase = standing.phase
    # Compared so late that what was on its way when the page was made has been received.
    due_at = course.settled_at()
    wants_details = phase in ("contacts", "tickets") and course.run.options.details == "all"
    state: State = "wanted" if wants_details else "listed"
    items = {
        one.id: _item(one, state, as_of, log_end, parts.now() if wants_details else due_at)
        for one in page.items
        if isinstance(one.id, str)
    }
    known = await parts.checkpoints.shown(course.run, ENTITIES[phase], list(items))
    standing = replace(
        standing,
        requests=standing.requests + 1,
        unusable=standing.unusable + page.unusable,
        fresh=standing.fresh + len(items.keys() - known),
        paged=standing.paged or page.next is not None or page.number > 1,
        expected=_expected(standing, page),
        log_end=log_end if page.number == 1 else standing.log_end,
        seen_at=as_of if page.number == 1 else standing.seen_at,
        tries=0,
        shown=True,
    )
    await course.list_items(advance(standing, page.next), items)


def advance(standing: Standing, place: Place | None) -> Standing:
    """Return where to read on: the next page, else the next walk, else another pass, else the next phase."""
    if place is not None:
        return replace(standing, place=place)
    standing = replace(standing, place=Place(), walk=standing.walk + 1, stumbled=False, tries=0)
    if standing.walk < len(WALKS[standing.phase]):
        return standing
    # A list that fits onto one page is seen at one moment: nothing can move away from under the reader.
    done = not standing.paged or standing.fresh == 0 or standing.phase == "again" or standing.stuck
    if not done and standing.turn < TURNS:
        return replace(standing, walk=0, turn=standing.turn + 1, fresh=0, paged=False)
    unstable = standing.unstable if done else _named(standing, standing.phase)
    blind = standing.blind if standing.shown else (*standing.blind, ENTITIES[standing.phase])
    following = PHASES[PHASES.index(standing.phase) + 1]
    standing = replace(standing, phase=following, unstable=unstable, blind=blind, stuck=False, shown=False)
    return replace(standing, walk=0, turn=1, fresh=0, paged=False)


async def _ask(course: Course, status: str | None) -> Page[Ticket] | Page[Contact] | Page[Campaign]:
    client, place, size = course.parts.client, course.standing.place, course.parts.plan.page_size
    match course.standing.phase:
        case "contacts":
            return await client.contacts.page(place, page_size=size)
        case "tickets":
            return await client.tickets.page(place, status=status, page_size=size)
        case "campaigns" | "again":
            return await client.campaigns.page(place, page_size=size)
        case "absences" | "messages":
            raise AssertionError(course.standing.phase)
        case _:
            assert_never(course.standing.phase)


def _expected(standing: Standing, page: Page[Ticket] | Page[Contact] | Page[Campaign]) -> int:
    """Add what the first page of a phase says the list holds."""
    first = page.number == 1 and standing.walk == 0 and standing.turn == 1 and standing.phase != "again"
    return standing.expected + (page.count or 0) if first else standing.expected


def _item(one: Ticket | Contact | Campaign, state: State, as_of: datetime, log_end: int, due_at: datetime) -> Item:
    payload: Payload
    entity: Entity
    match one:
        case Ticket():
            entity, payload = "ticket", TicketPayload(ticket=one)
        case Contact():
            entity, payload = "contact", ContactPayload(contact=one)
        case Campaign():
            entity, payload = "campaign", CampaignPayload(campaign=one)
        case _:
            assert_never(one)
    rest, listed = split_listed(entity, payload)
    shown = Shown(payload=rest, listed=listed, listed_as_of=as_of, listed_log_end=log_end)
    return Item(
        entity=entity, id=str(one.id), state=state, due_at=due_at, as_of=as_of, log_end=log_end, payload=pack(shown)
    )
