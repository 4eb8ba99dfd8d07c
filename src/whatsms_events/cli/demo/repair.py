"""Run one reconcile of the demo's tenant beside the service, with the service's own backfill."""

import asyncio
from typing import Final

from whatsms_events.backfill.worker import Backfill, Progress
from whatsms_events.cli.backfill.foreground import Patience
from whatsms_events.clock import within
from whatsms_events.config.settings import Settings
from whatsms_events.service.parts import make_committer
from whatsms_events.service.stores import Stores
from whatsms_events.service.supervisor import Job, Supervisor
from whatsms_events.service.upstream import GRACE_S, Upstream, lock_of, plan_of, role_of

TICK_S: Final = 0.05
STUCK_S: Final = 30.0
"""A repair without any progress for so long is given up: the client has then tried often."""


class Repair:
    """One reconcile as `settings` say. `trouble` is why it has not finished, empty once it has."""

    def __init__(self, settings: Settings, slug: str) -> None:
        self.progress: Progress | None = None  # before it begins
        self.trouble = "it did not begin"
        self._settings = settings
        self._slug = slug
        self._supervisor = Supervisor()

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

    async def run(self, stores: Stores, stop: asyncio.Event) -> None:
        """Run to the end, or until `stop`, or until it halts or gets nowhere; raise StorageUnavailableError."""
        settings, slug = self._settings, self._slug
        committer = make_committer(settings, stores.log, self._supervisor.wake)
        upstream, lock = Upstream(settings, stores.log, stores.projection), lock_of(stores.log, slug)
        backfill = await upstream.reconcile(slug, committer, lock, plan_of(settings).options)
        job = Job(role_of(slug), backfill, TICK_S, GRACE_S)
        async with self._supervisor.running(committer, writers=[job], readers=[]):
            self.trouble = await self._over(backfill, stop)

    async def _over(self, backfill: Backfill, stop: asyncio.Event) -> str:
        """Wait for the end, and keep the progress for the view; return why it did not finish, or nothing."""
        stuck = Patience(STUCK_S)
        while not stop.is_set():
            self.progress, before = backfill.progress, self.progress
            if self.finished:
                return ""
            why = self._supervisor.states.get(role_of(self._slug), ("standby", ""))[1]
            if self._supervisor.halted:
                return why
            if stuck.over(fine=self.progress != before):
                return why or f"nothing went on for {STUCK_S:.0f} s"
            await within(stop, TICK_S)
        return "it was stopped"
