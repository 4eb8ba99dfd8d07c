"""Run one reconcile of a tenant to its end in this process, with a committer and a consumer beside it.

It may stand beside a `serve`, whose consumer then does the applying, or run alone.
"""

import asyncio
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Final

from whatsms_events.backfill.worker import Backfill
from whatsms_events.cli.backfill.view import NAMES, View
from whatsms_events.cli.running import stop_on_signals
from whatsms_events.clock import within
from whatsms_events.config.settings import Settings
from whatsms_events.errors import TransientError
from whatsms_events.service.parts import make_committer, make_consumer
from whatsms_events.service.stores import log_target, on_sqlite, opened_stores
from whatsms_events.service.supervisor import Job, Supervisor
from whatsms_events.service.upstream import GRACE_S, Upstream, lock_of, role_of
from whatsms_events.storage.database import expect_log
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.projection.apply import Projection
from whatsms_events.storage.reads import RowPage
from whatsms_events.storage.repair.reports import Options, Reports, RunInfo
from whatsms_events.storage.role_lock import RoleLock


@dataclass(frozen=True, slots=True)
class CommandWaits:
    """The limits of the command's waits, in seconds; it looks again after each `tick_s`.

    `lock_s`: for the lock, which an idle `serve` takes for a moment now and then. `other_s`: for another process's run
    that saves nothing. `taken_over_s`: for the role, while another process has it. `stuck_s`: for a projection that
    does not move, before the command says so; `behind_s`: before it gives up. `caught_up_s`: after the run, for the
    projection to show what was appended.
    """

    tick_s: float = 0.5
    lock_s: float = 5.0
    other_s: float = 1800.0
    taken_over_s: float = 30.0
    stuck_s: float = 10.0
    behind_s: float = 600.0
    caught_up_s: float = 30.0


WAITS: Final = CommandWaits()


@dataclass(frozen=True, slots=True)
class Done:
    """A run that has finished, and the first names of what it found."""

    info: RunInfo
    names: RowPage


class Foreground:
    """One reconcile of one tenant. `view` shows how it goes; with `wait` another process's run may end first."""

    def __init__(
        self,
        settings: Settings,
        slug: str,
        wanted: Options,
        view: View,
        *,
        wait: bool = False,
        waits: CommandWaits = WAITS,
    ) -> None:
        self._settings = settings
        self._slug = slug
        self._wanted = wanted
        self._view = view
        self._wait = wait
        self._waits = waits
        self._supervisor = Supervisor()
        self._before = 0  # the last reconcile that had finished when this one was asked for

    async def run(self) -> Done | str:
        """Run to the end; return what was found, or why it stopped. A log that is not there is not made."""
        stop, settings, slug = stop_on_signals(), self._settings, self._slug
        expect_log(log_target(settings))
        async with AsyncExitStack() as stack:
            stores = await stack.enter_async_context(opened_stores(settings, migrate=on_sqlite(settings)))
            lock, reports = lock_of(stores.log, slug), Reports(stores.log)
            stack.push_async_callback(lock.release)
            if not await self._take(lock, reports, stop):
                return self._stopped() if stop.is_set() else await self._holder(reports)
            last = await self._last(reports)
            self._before = last.run.number if last is not None and last.finished_at is not None else 0
            committer = make_committer(settings, stores.log, self._supervisor.wake)
            upstream = Upstream(settings, stores.log, stores.projection)
            backfill = await upstream.reconcile(slug, committer, lock, self._wanted)
            consumer = Job("consumer", make_consumer(settings, stores), settings.consumer.poll_interval_s)
            repair = Job(role_of(slug), backfill, self._waits.tick_s, GRACE_S)
            async with self._supervisor.running(committer, writers=[repair], readers=[consumer]):
                lag = Lag(EventLog(stores.log), Projection(stores.projection))
                return await self._over(stop, backfill, reports, lag)

    async def _take(self, lock: RoleLock, reports: Reports, stop: asyncio.Event) -> bool:
        """Take the lock within `lock_s`; with `wait`, as long as the other process's run makes progress."""
        patience, seen = Patience(self._waits.other_s), None
        while not await self._taken(lock, stop):
            other = await self._unfinished(reports) if self._wait else None
            moved_at = None if other is None else (other.run.number, other.updated_at)
            if not self._wait or stop.is_set() or patience.over(fine=moved_at != seen):
                return False
            seen = moved_at
            self._view.show_waiting(other)
        return True

    async def _taken(self, lock: RoleLock, stop: asyncio.Event) -> bool:
        """Take the lock, within `lock_s`."""
        patience = Patience(self._waits.lock_s)
        while not stop.is_set():
            if await lock.take():
                return True
            if patience.over(fine=False):
                return False
            await within(stop, self._waits.tick_s)
        return False

    async def _caught_up(self, stop: asyncio.Event, lag: "Lag") -> None:
        """Wait until the projection shows what was appended, at most `caught_up_s`: a reader looks for it at once."""
        patience = Patience(self._waits.caught_up_s)
        while lag.through < lag.end and not stop.is_set() and not patience.over(fine=False):
            await within(stop, self._waits.tick_s / 5)
            await lag.look()

    async def _holder(self, reports: Reports) -> str:
        """Say who has the lock."""
        words = f"another process, a `serve` or a `backfill run`, works on {self._slug} now"
        if (other := await self._unfinished(reports)) is not None:
            begun = other.run.started_at.isoformat(timespec="seconds")
            words += f": a {other.run.kind} ({other.run.cause}) that began {begun}"
        if self._wait:
            return f"{words}; it has saved nothing for {self._waits.other_s / 60:.0f} minutes"
        return f"{words}; --wait waits for its end, `whatsms-events backfill status` shows how far it is"

    async def _unfinished(self, reports: Reports) -> RunInfo | None:
        """Return the tenant's run that has not finished, of whichever process."""
        last = await reports.last(self._settings.tenants[self._slug].tenant_id)
        return last if last is not None and last.finished_at is None else None

    async def _over(self, stop: asyncio.Event, backfill: Backfill, reports: Reports, lag: "Lag") -> Done | str:
        """Wait for the end, and show how it goes."""
        lost = Patience(self._waits.taken_over_s)
        while not stop.is_set():
            await within(stop, self._waits.tick_s)
            with suppress(TransientError):  # the loops behind say what is away, and try again
                await lag.look()
            self._view.show(backfill.progress, self._trouble(lag))
            if backfill.progress.finished and (info := await self._finished(reports)) is not None:
                await self._caught_up(stop, lag)
                return Done(info, await reports.drift(info.run.number, limit=NAMES))
            if halted := self._supervisor.halted:
                return self._stopped(*(f"{role.split('.')[0]}: {why}" for role, why in halted.items()))
            if lag.stuck_s > self._waits.behind_s:
                return self._stopped(self._trouble(lag))
            if lost.over(fine=backfill.active or self._why(role_of(self._slug)) != ""):
                return self._stopped("another process took the run over")
        return self._stopped()

    def _trouble(self, lag: "Lag") -> str:
        """Return what it waits for, if that is not the vendor's next answer."""
        if lag.stuck_s > self._waits.stuck_s:
            words = f"waits for the projection, which shows events up to {lag.through} of {lag.end}"
            fed_by_kafka = self._settings.kafka.bootstrap_servers is not None
            return f"{words}; Kafka feeds it: is a relay running (`serve --roles relay`)?" if fed_by_kafka else words
        return self._why(role_of(self._slug)) or self._why("consumer")

    def _why(self, role: str) -> str:
        return self._supervisor.states.get(role, ("standby", ""))[1]

    def _stopped(self, *why: str) -> str:
        """Say why it stopped and how it goes on."""
        again = f"what was done is kept: `whatsms-events backfill run --tenant {self._slug}` goes on from there"
        return "\n".join(("stopped" + "".join(f": {one}" for one in why), again))

    async def _finished(self, reports: Reports) -> RunInfo | None:
        """Return the run that was asked for once it has finished; an older one may have had to be finished before."""
        last = await self._last(reports)
        if last is None or last.finished_at is None or last.run.number <= self._before:
            return None
        return last if last.run.options == self._wanted else None

    async def _last(self, reports: Reports) -> RunInfo | None:
        return await reports.last(self._settings.tenants[self._slug].tenant_id, "reconcile")


class Patience:
    """Tells when something has not been fine for so long."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._fine_at = time.monotonic()

    def over(self, *, fine: bool) -> bool:
        """Look once."""
        if fine:
            self._fine_at = time.monotonic()
        return time.monotonic() - self._fine_at > self._seconds


class Lag:
    """How far the projection is behind the log, and for how long it has not moved."""

    def __init__(self, event_log: EventLog, projection: Projection) -> None:
        self._event_log = event_log
        self._projection = projection
        self._moved_at = time.monotonic()
        self.through = self.end = 0

    async def look(self) -> None:
        """Look once; raise StorageUnavailableError."""
        through = (await self._projection.state()).applied_through
        self.end = await self._event_log.end()
        if through != self.through or through >= self.end:
            self._moved_at = time.monotonic()
        self.through = through

    @property
    def stuck_s(self) -> float:
        """For how many seconds it is behind without moving."""
        return time.monotonic() - self._moved_at
