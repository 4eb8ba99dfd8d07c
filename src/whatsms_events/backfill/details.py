"""One item that wants a closer look in, its detail or its absence out."""

from dataclasses import replace
from datetime import timedelta
from typing import Final, assert_never

import msgspec
import structlog
from msgspec import UNSET

from whatsms_events.backfill.run import Course, Shown, pack, seen_at, unpack, without
from whatsms_events.domain import drift
from whatsms_events.domain.events import ContactPayload, Payload, TicketPayload, encode
from whatsms_events.domain.repair import classify
from whatsms_events.errors import TransientError, UpstreamError, UpstreamGoneError, UpstreamRefusedError
from whatsms_events.storage.repair.runs import Item, State
from whatsms_events.whatsms.resources import Observed

AHEAD: Final = 100
"""Items that are fetched at once to be looked at: asking for each by itself takes as long as looking at it."""

log = structlog.get_logger()


async def read_detail(course: Course) -> bool:
    """Ask for the next entity that is due to be looked at by id; return False where none is."""
    parts = course.parts
    if not course.next:
        course.next.extend(await parts.checkpoints.due(course.run, ("wanted", "absent"), parts.now(), AHEAD))
    if not course.next:
        return False
    item = course.next.popleft()
    log_end, asked_at = await parts.event_log.end(), parts.now()
    standing = msgspec.structs.replace(course.standing, requests=course.standing.requests + 1)
    try:
        found = await _observe(course, item)
    except UpstreamError as exc:
        await _go_on_without(course, item, exc, log_end)
        if isinstance(exc, TransientError):
            raise
    else:
        read = _read(course, item, replace(found, as_of=seen_at(found.as_of, asked_at)), log_end)
        await course.save(standing, items=[read])
    return True


async def _go_on_without(course: Course, item: Item, exc: UpstreamError, log_end: int) -> None:
    """Save what an answer that shows nothing means for the item; raise it where it is about all of them."""
    standing = msgspec.structs.replace(course.standing, requests=course.standing.requests + 1)
    match classify(exc, "item", item.rounds):
        case "absent":
            read = _not_found(course, item, log_end)
        case "gone":
            into = exc.merged_into if isinstance(exc, UpstreamGoneError) else None
            read = missing(replace(item, as_of=course.parts.now(), log_end=log_end), merged_into=into)
        case "again":
            # It may be this very one that the vendor stumbles over: the others come first now.
            read = replace(item, rounds=item.rounds + 1, due_at=course.settled_at())
        case "leave_out":
            standing, read = without(standing, course.parts.slug, f"{item.entity} {item.id}", exc), _given_up(item)
            await course.save(standing, items=[read])
            return
        case "leave":
            log.warning("detail.not_read", tenant=course.parts.slug, entity=item.entity, id=item.id, reason=str(exc))
            read = _given_up(item)
        case _:
            raise exc
    if read.state == "done":
        standing = msgspec.structs.replace(standing, unsettled=standing.unsettled + 1)
    await course.save(standing, items=[read])


def _given_up(item: Item) -> Item:
    return replace(item, state="done", payload=None)


async def _observe(course: Course, item: Item) -> Observed[Payload]:
    client = course.parts.client
    match item.entity:
        case "ticket":
            ticket = await client.tickets.observe(item.id)
            _check_same(item, ticket.value.id)
            # Its last message the list tells.
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


def _check_same(item: Item, shown: object) -> None:
    """Raise UpstreamRefusedError where the answer is about another one, as a vendor may answer for one that was merged.

    What it shows is another person's. An answer without an id is about the one that was asked for.
    """
    if isinstance(shown, str) and shown.casefold() != item.id.casefold():
        raise UpstreamRefusedError(f"GET /{item.entity}s/{{id}}: the answer shows another id")


def _read(course: Course, item: Item, found: Observed[Payload], log_end: int) -> Item:
    before = unpack(item) if item.payload else Shown(payload=b"")
    return replace(
        item,
        state="read",
        due_at=course.settled_at(),
        as_of=found.as_of,
        log_end=log_end,
        payload=pack(msgspec.structs.replace(before, payload=encode(found.value))),
    )


def _not_found(course: Course, item: Item, log_end: int) -> Item:
    """Look again later after the first time; after the second it is not there, unless a list of this run showed it."""
    now = course.parts.now()
    if item.payload is not None and item.rounds:
        return _given_up(item)  # pages and details disagree: neither proves anything
    # Only an answer that there is none leaves a time: rounds count failures too.
    if item.state == "absent" and item.as_of is not None:
        return missing(replace(item, as_of=now, log_end=log_end))
    again_at = now + timedelta(seconds=course.parts.plan.absence_s)
    state: State = "absent" if item.payload is None else "wanted"
    return replace(item, state=state, rounds=max(item.rounds, 1), due_at=again_at, as_of=now, log_end=log_end)


def missing(item: Item, *, merged_into: str | None = None) -> Item:
    """Return the item as one that is not there, to be judged with all the others that are not."""
    assert item.as_of is not None  # noqa: S101 - of the look that found nothing
    sighting = drift.absence(item.entity, item.id, as_of=item.as_of, log_end=item.log_end, merged_into=merged_into)
    return replace(item, state="missing", payload=pack(Shown(payload=encode(sighting.payload), gone=True)))
