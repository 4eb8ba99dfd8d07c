"""The clock, the checkpoints and what was asked for in; which run of a tenant is due out, and what it begins with."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from whatsms_events.storage.checkpoints import Item, Kind, Options, Run, RunInfo
from whatsms_events.workers.backfill_run import MODES, Mode, Parts

REPAIR_LIMIT: Final = 200
"""Entities of one repair: more than that is a case for a reconcile."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A run that somebody or the schedule asks for."""

    kind: Kind
    cause: str
    options: Options


class Schedule:
    """What is due for one tenant. `asked` is what a command or the watchdog wants, before anything of the clock."""

    def __init__(self, parts: Parts, last_accepted: Callable[[], Awaitable[datetime | None]]) -> None:
        self.asked: Asked | None = None
        self._allowed: Mode = parts.plan.options.messages
        self._parts = parts
        self._last_accepted = last_accepted
        self._repair_at = datetime.min.replace(tzinfo=UTC)
        self._away: bool | None = None  # whether there was an outage before this process; None: not looked yet

    def ask(self, asked: Asked) -> None:
        """Note what a command or the watchdog wants."""
        self.asked = asked
        self._allowed = max(self._allowed, asked.options.messages, key=MODES.index)

    async def due(self, now: datetime) -> tuple[Asked, list[Item]] | None:
        """Return the run to begin or to go on with, and the items that a new repair begins with; None where none is."""
        if self._away is None:
            self._away = await self._was_away(now)
        last = await self._parts.checkpoints.last(self._parts.tenant)
        if last is not None and last.finished_at is None:
            return Asked(last.run.kind, last.run.cause, last.run.options), []
        asked = self.asked or await self._by_itself(now)
        if asked is None or asked.kind == "reconcile":
            return None if asked is None else (asked, [])
        unsure = await self._unsure(now)
        if not unsure:
            self.taken(asked, resumed=False)
            return None
        return asked, unsure

    def taken(self, begun: Asked, *, resumed: bool) -> None:
        """Forget what was asked for where the run that was begun is that very one.

        One that was resumed is it for a command, which says so; not for who knows of something that came since.
        """
        if begun.kind == "reconcile" and not resumed:
            self._away = False
        asked = self.asked
        if asked is not None and (asked.kind, asked.options) == (begun.kind, begun.options):
            self.asked = asked if resumed and asked.cause != "command" else None

    def messages(self, run: Run) -> Mode:
        """Return how many lists of messages may be read for a run: no more than this process was told to read.

        Somebody who stopped a run because contacts got read receipts must not see it go on by itself.
        """
        return min(run.options.messages, self._allowed, key=MODES.index)

    async def _by_itself(self, now: datetime) -> Asked | None:
        """Return what nobody asked for: after an outage, by the clock, or because something is in doubt."""
        parts, plan = self._parts, self._parts.plan
        reconcile = await parts.checkpoints.last(parts.tenant, "reconcile")
        if self._away and reconcile is not None:
            return Asked("reconcile", "outage", plan.options)
        if plan.interval_s and _passed(reconcile, now, plan.interval_s):
            return Asked("reconcile", "initial" if reconcile is None else "schedule", plan.options)
        wait_s = (self._repair_at - now).total_seconds()
        if plan.repair_interval_s and not 0 < wait_s <= plan.repair_interval_s:  # longer: the clock was set back
            self._repair_at = now + timedelta(seconds=plan.repair_interval_s)
            return Asked("repair", "doubt", plan.options)
        return None

    async def _was_away(self, now: datetime) -> bool:
        """Tell whether nothing was accepted for long: the process may have been away, and what came then is lost."""
        reconcile = await self._parts.checkpoints.last(self._parts.tenant, "reconcile")
        accepted, silent_from = await self._last_accepted(), now - timedelta(seconds=self._parts.plan.outage_s)
        if not self._parts.plan.outage_s or reconcile is None or accepted is None:
            return False
        return accepted < silent_from and reconcile.run.started_at < silent_from

    async def _unsure(self, now: datetime) -> list[Item]:
        """Return doubtful entities and stubs as items, but for those that were looked at as they stand."""
        parts = self._parts
        items: list[Item] = []
        held = await parts.holdings.unsure(parts.tenant, REPAIR_LIMIT)
        while held and len(items) < REPAIR_LIMIT:
            for entity in {one.entity for one in held}:
                mine = {one.id: one.position for one in held if one.entity == entity}
                looks = await parts.checkpoints.looks(parts.tenant, entity, list(mine))
                items += [
                    Item(entity=entity, id=one, state="wanted", due_at=now, as_of=None, log_end=position)
                    for one, position in mine.items()
                    if one not in looks or looks[one].position != position
                ]
            held = await parts.holdings.unsure(parts.tenant, REPAIR_LIMIT, (held[-1].entity, held[-1].id))
        return items


def _passed(last: RunInfo | None, now: datetime, interval_s: float) -> bool:
    """Tell whether it is time again; a run that began in the future was begun by a clock that was set back since."""
    return last is None or not timedelta() <= now - last.run.started_at < timedelta(seconds=interval_s)
