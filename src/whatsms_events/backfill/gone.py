"""What we hold and no list showed in, what may be marked as gone out.

Absence alone proves nothing (pages skip): a ticket or contact is not there when asking for it by id failed twice, some
time apart; a campaign, which cannot be asked for, when its list did not show it then either. And where too many of one
kind are not there, the reason may be another one (ids that do not meet, a key that does not see all): then none is
marked until somebody allows it.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
import structlog

from whatsms_events.backfill.details import missing
from whatsms_events.backfill.run import Course, HeldBack, Report, Standing
from whatsms_events.domain.events import Entity
from whatsms_events.domain.repair import advice, gone_limit
from whatsms_events.storage.repair.runs import Item

SCAN: Final = 500

_FOLLOWING: Final[dict[Entity, Entity | None]] = {
    "contact": "ticket",
    "ticket": "campaign",
    "campaign": None,
    "message": None,
}

_EVER: Final = datetime.max.replace(tzinfo=UTC)

log = structlog.get_logger()

_reports = msgspec.json.Decoder(Report)


async def scan_absences(course: Course) -> None:
    """Make items of what we hold and no list showed: one page of our ids at a time, entity after entity."""
    parts, standing = course.parts, course.standing
    entity = standing.entity
    assert entity != "message"  # noqa: S101 - the second phase looks for those
    held = [] if _unseen(standing, entity) else await parts.holdings.ids(entity, parts.tenant, standing.after, SCAN)
    if not held:
        await course.save(_next_entity(course, standing))
        return
    there = [one for one, is_gone in held if not is_gone]
    shown = await parts.checkpoints.shown(course.run, entity, there)
    unseen = [one for one in there if one not in shown]
    standing = msgspec.structs.replace(standing, after=held[-1][0])
    if entity == "campaign":
        standing = msgspec.structs.replace(standing, hidden=standing.hidden + len(unseen))
        items = [hidden(one, parts.now()) for one in unseen]
    else:
        items = [absent(entity, one, parts.now()) for one in unseen]
    await course.save(standing, items=items)


def _unseen(standing: Standing, entity: Entity) -> bool:
    """Tell whether nothing is absent: no page was read, or a part of what cannot be asked for by id may be hidden."""
    return entity in standing.blind or (entity == "campaign" and "campaigns" in standing.unstable)


def absent(entity: Entity, one: str, now: datetime) -> Item:
    """Return the item of a ticket or contact that no list showed: it is asked for by id."""
    return Item(entity=entity, id=one, state="absent", due_at=now, as_of=None, log_end=0)


def hidden(one: str, now: datetime) -> Item:
    """Return the item of a campaign that its list did not show: it is missing unless the list shows it later."""
    return Item(entity="campaign", id=one, state="missing", due_at=now, as_of=None, log_end=0)


def _next_entity(course: Course, standing: Standing) -> Standing:
    following = _FOLLOWING[standing.entity]
    if following is not None:
        return msgspec.structs.replace(standing, entity=following, after="")
    again_at = course.parts.now() + timedelta(seconds=course.parts.plan.absence_s)
    return msgspec.structs.replace(standing, phase="again", after="", again_at=again_at)


async def judge_missing(course: Course) -> bool:
    """Let some of what is not there go, or hold it back; return False where nothing is missing.

    For when nothing else is left to be done: only then it is known how many there are, and how many were missed.
    """
    found = await course.parts.checkpoints.due(course.run, ["missing"], _EVER, SCAN)
    if not found:
        return False
    entity = found[0].entity
    batch = [item for item in found if item.entity == entity]
    if entity == "campaign" and not _proven(course):
        standing = course.standing
        standing = msgspec.structs.replace(standing, unsettled=standing.unsettled + len(batch))
        await course.save(standing, items=[_closed(item) for item in batch])
    elif await _may_go(course, entity):
        await _release(course, entity, batch)
    else:
        await course.save(course.standing, items=[_closed(item) for item in batch])
    return True


def _proven(course: Course) -> bool:
    """Tell whether two whole lists did not show what is missing; a repair walks once, and leaves it to a reconcile."""
    standing = course.standing
    return course.run.kind == "reconcile" and "campaigns" not in standing.unstable and standing.seen_at is not None


def _closed(item: Item) -> Item:
    return replace(item, state="done", payload=None)


async def _may_go(course: Course, entity: Entity) -> bool:
    """Tell whether those of the entity that are missing may be marked as gone; where not, note and say what was seen.

    What was decided once in a run stands: the more go, the fewer are held.
    """
    if entity in course.standing.held_back:
        return False
    if course.run.options.allow_gone:
        return True
    parts, standing = course.parts, course.standing
    counted = await parts.checkpoints.count(course.run)
    extra = counted[entity, "missing"] + standing.released.get(entity, 0)
    held = await parts.holdings.count(entity, parts.tenant)
    limit = standing.gone_limits.get(entity, gone_limit(held, parts.plan.gone_share))
    if extra <= limit and not await _held_back_before(course, entity):
        limits = {**standing.gone_limits, entity: limit}
        await course.save(msgspec.structs.replace(standing, gone_limits=limits))
        return True
    missed = sum(count for name, count in standing.found.items() if name.startswith(f"{entity} missed "))
    seen = HeldBack(extra=extra, missed=missed, held=held, limit=limit)
    await course.save(msgspec.structs.replace(standing, held_back={**standing.held_back, entity: seen}))
    log.error(
        "backfill.gone_held_back",
        tenant=parts.slug,
        entity=entity,
        extra=extra,
        missed=missed,
        held=held,
        limit=limit,
        reason=f"none was marked as gone: {advice(missed, extra)} If they are really gone: "
        f"backfill run --tenant {parts.slug} --allow-gone",
    )
    return False


async def _held_back_before(course: Course, entity: Entity) -> bool:
    """Tell whether this is a repair and the last reconcile held the entity back: many small steps are a large one."""
    if course.run.kind == "reconcile":
        return False
    last = await course.parts.checkpoints.last(course.parts.tenant, "reconcile")
    if last is None or last.report is None:
        return False
    return entity in _reports.decode(last.report).held_back


async def _release(course: Course, entity: Entity, batch: Sequence[Item]) -> None:
    """Let these be compared like any other answer, which says that there is no such thing."""
    standing, due_at = course.standing, course.settled_at()
    if entity == "campaign":
        batch = [missing(replace(item, as_of=standing.seen_at, log_end=standing.log_end)) for item in batch]
    released = {**standing.released, entity: standing.released.get(entity, 0) + len(batch)}
    items = [replace(item, state="read", due_at=due_at) for item in batch]
    await course.save(msgspec.structs.replace(standing, released=released), items=items)
