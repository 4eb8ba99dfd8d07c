"""A running service and a REST API in, one reconcile of a tenant out: with the service's own backfill, beside it."""

import asyncio
from functools import partial
from typing import Final

from whatsms_events.backfill.worker import Backfill, Progress
from whatsms_events.cli.backfill.foreground import Patience
from whatsms_events.clock import within
from whatsms_events.config.settings import Settings
from whatsms_events.service.parts import make_committer
from whatsms_events.service.upstream import GRACE_S, Upstream, lock_of, plan_of, role_of
from whatsms_events.storage.database import Database
from whatsms_events.workers.loop import Bell, RoleState, run_within

TICK_S: Final = 0.05
STUCK_S: Final = 30.0
"""Without any progress so long it is given up: the client has then tried often."""


class Repair:
    """One reconcile as `settings` say. `trouble` is why it has not finished, empty once it has."""

    def __init__(self, settings: Settings, slug: str) -> None:
        self.progress: Progress | None = None  # before it begins
        self.trouble = "it did not begin"
        self._settings = settings
        self._slug = slug
        self._why = ""
        self._halted = asyncio.Event()

    @property
    def finished(self) -> bool:
        """Tell whether everything was read, and what differed repaired."""
        return self.progress is not None and self.progress.finished

    @property
    def drift(self) -> dict[str, dict[str, int]]:
        """What was found and repaired, by entity and kind; nothing before the end."""
        report = None if self.progress is None else self.progress.report
        found: dict[str, dict[str, int]] = {}
        for one in () if report is None else report.drift:
            kinds = found.setdefault(one.entity, {})
            kinds[one.kind] = kinds.get(one.kind, 0) + one.count
        return found

    async def run(self, log: Database, projection: Database, stop: asyncio.Event) -> None:
        """Run to the end, or until `stop`, or until it halts or gets nowhere; raise StorageUnavailableError."""
        settings, slug = self._settings, self._slug
        committer = make_committer(settings, log, lambda _end: None)  # the service's readers look by themselves
        plan = plan_of(settings)
        backfill = await Upstream(settings, log, projection).backfill(slug, committer, lock_of(log, slug), plan)
        backfill.ask("reconcile", "command", plan.options)
        bell, flushed = Bell(), asyncio.Event()
        repeat = partial(run_within, role_of(slug), backfill, bell, idle_s=TICK_S, grace_s=GRACE_S)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(committer.run(flushed))
            tasks.create_task(repeat(on_state=self._note))
            try:
                self.trouble = await self._over(backfill, stop)
            finally:
                bell.stop()
                flushed.set()

    async def _over(self, backfill: Backfill, stop: asyncio.Event) -> str:
        """Wait for the end, and keep what is to be seen of it; return what stood in its way."""
        stuck = Patience(STUCK_S)
        while not stop.is_set():
            self.progress, before = backfill.progress, self.progress
            if self.finished:
                return ""
            if self._halted.is_set():
                return self._why
            if stuck.over(fine=self.progress != before):
                return self._why or f"nothing went on for {STUCK_S:.0f} s"
            await within(self._halted, TICK_S)
        return "it was stopped"

    def _note(self, state: RoleState, why: str) -> None:
        self._why = why
        if state == "halted":
            self._halted.set()
