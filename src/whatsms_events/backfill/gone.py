"""Finds what we hold and no list showed, and decides at a run's end what of it is marked as gone.

A list alone proves nothing, since pages may skip an item. A ticket or contact is missing if its id was answered with
"no such thing" twice, some time apart; a campaign, which has no request by id, if its list did not show it a second
time. Where too many of one kind are missing, there may be another cause (different ids, a key that does not see all):
then none is marked until somebody allows it.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
import structlog

from whatsms_events.backfill import shown
from whatsms_events.backfill.run import HeldBack, LiveRun, Report, RunStanding, moved_on
from whatsms_events.domain.events import Entity
from whatsms_events.domain.repair import BY_ID, ItemCame, advice, gone_limit
from whatsms_events.storage.repair.runs import Item

SCAN: Final = 500

_FOLLOWING: Final[Mapping[Entity, Entity]] = {"contact": "ticket", "ticket": "campaign"}
"""In this order our own ids are looked through; messages are counted where their ticket's list is read."""

_EVER: Final = datetime.max.replace(tzinfo=UTC)

log = structlog.get_logger()

_reports = msgspec.json.Decoder(Report)


async def scan_absences(live: LiveRun) -> bool:
    """Make items of what we hold and no list showed: one page of our ids at a time, entity after entity."""
    parts, standing = live.parts, live.standing
    entity = standing.entity
    held = [] if _unseen(standing, entity) else await parts.holdings.ids(entity, parts.tenant, standing.after, SCAN)
    if not held:
        await live.save(_next_entity(standing))
        return True
    there = [one for one, is_gone in held if not is_gone]
    known = await parts.checkpoints.shown(live.run, entity, there)
    unseen = [one for one in there if one not in known]
    standing = msgspec.structs.replace(standing, after=held[-1][0])
    if entity == "campaign" and unseen:
        again_at = parts.now() + timedelta(seconds=parts.plan.absence_s)
        standing = msgspec.structs.replace(standing, again_at=again_at)
    came: ItemCame = "hidden" if entity == "campaign" else "unlisted"
    await live.save(standing, items=[live.new(entity, one, came) for one in unseen])
    return True


def _unseen(standing: RunStanding, entity: Entity) -> bool:
    """Tell whether absence cannot be judged: no page was read, or an unstable list may have hidden campaigns."""
    return entity in standing.blind or (entity == "campaign" and "campaigns" in standing.unstable)


def _next_entity(standing: RunStanding) -> RunStanding:
    following = _FOLLOWING.get(standing.entity)
    if following is None:
        return moved_on(msgspec.structs.replace(standing, after=""))
    return msgspec.structs.replace(standing, entity=following, after="")


async def judge_missing(live: LiveRun) -> bool:
    """Release a batch of missing items to be marked as gone, or hold it back; return False where the phase only waits.

    Everything else must be compared first: only then the numbers of missing and of missed items are known.
    """
    checkpoints = live.parts.checkpoints
    if await checkpoints.next_due(live.run, BY_ID) is not None:
        await live.save(moved_on(live.standing, "touched"))
        return True
    if await checkpoints.next_due(live.run) is not None:
        return False
    found = await checkpoints.due(live.run, ["missing"], _EVER, SCAN)
    if not found:
        await live.save(moved_on(live.standing))
        return True
    entity = found[0].entity
    batch = [item for item in found if item.entity == entity]
    if entity == "campaign" and not _proven(live):
        standing = live.standing
        standing = msgspec.structs.replace(standing, unsettled=standing.unsettled + len(batch))
        await live.save(standing, items=[live.step(item, "unproven") for item in batch])
    elif await _may_go(live, entity):
        await _release(live, entity, batch)
    else:
        await live.save(live.standing, items=[live.step(item, "held_back") for item in batch])
    return True


def _proven(live: LiveRun) -> bool:
    """Tell whether two whole lists did not show what is missing; a repair reads one, and leaves it to a reconcile."""
    standing = live.standing
    return live.run.kind == "reconcile" and "campaigns" not in standing.unstable and standing.seen_at is not None


async def _may_go(live: LiveRun, entity: Entity) -> bool:
    """Tell whether the entity's missing items may be marked as gone; where not, save and log the numbers.

    A decision stands for the whole run, although each item that goes lowers the number that is held.
    """
    if entity in live.standing.held_back:
        return False
    if live.run.options.allow_gone:
        return True
    parts, standing = live.parts, live.standing
    counted = await parts.checkpoints.count(live.run)
    extra = counted[entity, "missing"] + standing.released.get(entity, 0)
    held = await parts.holdings.count(entity, parts.tenant)
    limit = standing.gone_limits.get(entity, gone_limit(held, parts.plan.gone_share))
    if extra <= limit and not await _held_back_before(live, entity):
        limits = {**standing.gone_limits, entity: limit}
        await live.save(msgspec.structs.replace(standing, gone_limits=limits))
        return True
    missed = sum(one.count for one in standing.drift if (one.entity, one.kind) == (entity, "missed"))
    seen = HeldBack(extra=extra, missed=missed, held=held, limit=limit)
    await live.save(msgspec.structs.replace(standing, held_back={**standing.held_back, entity: seen}))
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


async def _held_back_before(live: LiveRun, entity: Entity) -> bool:
    """Tell whether this is a repair and the last reconcile held the entity back: repairs must not do it bit by bit."""
    if live.run.kind == "reconcile":
        return False
    last = await live.parts.checkpoints.last(live.parts.tenant, "reconcile")
    if last is None or last.report is None:
        return False
    return entity in _reports.decode(last.report).held_back


async def _release(live: LiveRun, entity: Entity, batch: Sequence[Item]) -> None:
    """Let these be compared as if an answer had said that there is no such thing."""
    standing = live.standing
    released = {**standing.released, entity: standing.released.get(entity, 0) + len(batch)}
    items = [live.step(item, "may_go", **_as_listed(standing, item)) for item in batch]
    await live.save(msgspec.structs.replace(standing, released=released), items=items)


def _as_listed(standing: RunStanding, item: Item) -> dict[str, Any]:
    """Return the fields that a campaign's item lacks: when its list was read and did not show it."""
    if item.entity != "campaign" or standing.seen_at is None:
        return {}
    seen_at, log_end = standing.seen_at, standing.log_end
    return {"as_of": seen_at, "log_end": log_end, "payload": shown.absent(item, seen_at, log_end)}
