"""One item that wants a closer look in, its detail or its absence out; and what no list showed becomes such an item.

Absence alone proves nothing (pages skip): a ticket or contact is gone when asking for it by id failed twice, some time
apart; a campaign, which cannot be asked for, when its list did not show it then either.
"""

from dataclasses import replace
from datetime import timedelta
from typing import Final, assert_never

import msgspec
from msgspec import UNSET

from whatsms_events.domain import drift
from whatsms_events.domain.events import ContactPayload, Entity, Payload, TicketPayload, encode
from whatsms_events.errors import (
    UpstreamForbiddenError,
    UpstreamLimitedError,
    UpstreamNotFoundError,
    UpstreamRefusedError,
    UpstreamUnauthorizedError,
    UpstreamUnavailableError,
)
from whatsms_events.storage.checkpoints import Item, State
from whatsms_events.whatsms.resources import Observed
from whatsms_events.workers.backfill_run import ROUNDS, Course, Shown, Standing, pack, seen_at, shown_payload, unpack

SCAN: Final = 500
AHEAD: Final = 100
"""Items that are fetched at once to be looked at: asking for each by itself takes as long as looking at it."""

_FOLLOWING: Final[dict[Entity, Entity | None]] = {
    "contact": "ticket",
    "ticket": "campaign",
    "campaign": None,
    "message": None,
}


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
    except (UpstreamUnauthorizedError, UpstreamForbiddenError, UpstreamLimitedError):
        raise
    except UpstreamNotFoundError:
        read = _not_found(course, item, log_end)
    except UpstreamRefusedError:  # an id that we have from somewhere and that the vendor calls none
        read = _given_up(item)
    except UpstreamUnavailableError:
        # It may be this very one that the vendor stumbles over: the others come first now.
        if item.rounds >= ROUNDS:
            standing = msgspec.structs.replace(standing, unsettled=standing.unsettled + 1)
            await course.save(standing, items=[_given_up(item)])
        else:
            again = replace(item, rounds=item.rounds + 1, due_at=course.settled_at())
            await course.save(standing, items=[again])
        raise
    else:
        read = _read(course, item, replace(found, as_of=seen_at(found.as_of, asked_at)), log_end)
    if read.state == "done":
        standing = msgspec.structs.replace(standing, unsettled=standing.unsettled + 1)
    await course.save(standing, items=[read])
    return True


def _given_up(item: Item) -> Item:
    return replace(item, state="done", payload=None)


async def _observe(course: Course, item: Item) -> Observed[Payload]:
    client = course.parts.client
    match item.entity:
        case "ticket":
            ticket = await client.tickets.observe(item.id)
            # The answer is about what was asked for, whatever id it shows. Its last message the list tells.
            named = msgspec.structs.replace(ticket.value, id=item.id, last_message=UNSET)
            return Observed(value=TicketPayload(ticket=named), as_of=ticket.as_of)
        case "contact":
            contact = await client.contacts.observe(item.id)
            return Observed(
                value=ContactPayload(contact=msgspec.structs.replace(contact.value, id=item.id)), as_of=contact.as_of
            )
        case "campaign" | "message":
            raise AssertionError(f"{item.entity} cannot be asked for by id")
        case _:
            assert_never(item.entity)


def _read(course: Course, item: Item, found: Observed[Payload], log_end: int) -> Item:
    before = unpack(item) if item.payload else Shown(payload=b"")
    # A list's last message goes with the first reading only: later ones are too far from it.
    shown = before if item.rounds == 0 else Shown(payload=before.payload)
    payload = _filled(item, before, found.value)
    return replace(
        item,
        state="read",
        due_at=course.settled_at(),
        as_of=found.as_of,
        log_end=log_end,
        payload=pack(msgspec.structs.replace(shown, payload=encode(payload))),
    )


def _filled(item: Item, before: Shown, payload: Payload) -> Payload:
    """Return a contact's detail with what only the list shows of it; a ticket's needs nothing of its list."""
    if not before.payload or not isinstance(payload, ContactPayload):
        return payload
    listed = shown_payload(item.entity, before)
    assert isinstance(listed, ContactPayload)  # noqa: S101 - of the same item
    fields = ("is_group", "profile_pic_url")
    lacking = {name: getattr(listed.contact, name) for name in fields if getattr(payload.contact, name) is UNSET}
    return msgspec.structs.replace(payload, contact=msgspec.structs.replace(payload.contact, **lacking))


def _not_found(course: Course, item: Item, log_end: int) -> Item:
    """Look again later after the first time; after the second it is gone, unless a list of this run showed it."""
    now = course.parts.now()
    if item.payload is not None and item.rounds:
        return _given_up(item)  # pages and details disagree: neither proves anything
    # Only an answer that there is none leaves a time: rounds count failures too.
    if item.state == "absent" and item.as_of is not None:
        return gone(course, replace(item, as_of=now, log_end=log_end))
    again_at = now + timedelta(seconds=course.parts.plan.absence_s)
    state: State = "absent" if item.payload is None else "wanted"
    return replace(item, state=state, rounds=max(item.rounds, 1), due_at=again_at, as_of=now, log_end=log_end)


def gone(course: Course, item: Item) -> Item:
    """Return the item as an answer that there is no such thing, to be compared like any other."""
    sighting = drift.absence(item.entity, item.id, as_of=item.as_of or course.parts.now(), log_end=item.log_end)
    shown = Shown(payload=encode(sighting.payload), gone=True)
    return replace(item, state="read", due_at=course.settled_at(), payload=pack(shown))


async def scan_absences(course: Course) -> None:
    """Make items of what we hold and no list showed: one page of our ids at a time, entity after entity."""
    parts, standing = course.parts, course.standing
    entity = standing.entity
    assert entity != "message"  # noqa: S101 - the second phase looks for those
    held = await parts.holdings.ids(entity, parts.tenant, standing.after, SCAN)
    if not held:
        await course.save(_next_entity(course, standing))
        return
    there = [one for one, is_gone in held if not is_gone]
    shown = await parts.checkpoints.shown(course.run, entity, there)
    unseen = [one for one in there if one not in shown]
    standing = msgspec.structs.replace(standing, after=held[-1][0])
    if entity == "campaign":
        await course.save(msgspec.structs.replace(standing, missing=(*standing.missing, *unseen)))
        return
    now = parts.now()
    items = [Item(entity=entity, id=one, state="absent", due_at=now, as_of=None, log_end=0) for one in unseen]
    await course.save(standing, items=items)


def _next_entity(course: Course, standing: Standing) -> Standing:
    following = _FOLLOWING[standing.entity]
    if following is not None:
        return msgspec.structs.replace(standing, entity=following, after="")
    again_at = course.parts.now() + timedelta(seconds=course.parts.plan.absence_s)
    return msgspec.structs.replace(standing, phase="again", after="", again_at=again_at)


async def close_missing(course: Course) -> None:
    """Take the campaigns that the second walk did not show either for gone, and go on to the next phase.

    A repair walks once: what it did not see it leaves to the next reconcile.
    """
    now, standing = course.parts.now(), course.standing
    following = msgspec.structs.replace(standing, phase="messages", missing=())
    if course.run.kind == "repair":
        await course.save(msgspec.structs.replace(following, unsettled=standing.unsettled + len(standing.missing)))
        return
    items = [
        gone(course, Item(entity="campaign", id=one, state="absent", due_at=now, as_of=now, log_end=standing.log_end))
        for one in standing.missing
    ]
    await course.save(following, items=items)
