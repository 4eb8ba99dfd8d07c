"""A tenant in, one backfill run to its end in this process out; beside it who commits and applies what it appends.

It may stand beside a `serve`, whose consumer then does the applying, or run alone.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from whatsms_events.backfill.worker import Backfill
from whatsms_events.cli.backfill.view import NAMES, View
from whatsms_events.cli.running import stop_on_signals
from whatsms_events.clock import within
from whatsms_events.config.settings import Settings
from whatsms_events.errors import TransientError
from whatsms_events.service.parts import log_target, make_committer, make_consumer, projection_target
from whatsms_events.service.upstream import GRACE_S, Upstream, lock_of, plan_of, role_of
from whatsms_events.storage.database import Database, expect_log, open_log, open_projection
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.projection.apply import Projection
from whatsms_events.storage.reads import Page
from whatsms_events.storage.repair.reports import Options, Reports, RunInfo
from whatsms_events.storage.role_lock import RoleLock
from whatsms_events.workers.loop import Bell, RoleState, run, run_within

TICK_S: Final = 0.5
LOCK_S: Final = 5.0
"""A `serve` that is idle has the lock for a moment now and then, to look whether a run is due."""

WAIT_S: Final = 1800.0
"""A run that is waited for and has saved nothing for so long is not waited for any longer."""

ELSEWHERE_S: Final = 30.0
STUCK_S: Final = 10.0
BEHIND_S: Final = 600.0
"""A projection that is behind and does not move so long has nobody who feeds it."""

CAUGHT_UP_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Done:
    """A run that has finished, and the first names of what it found."""

    info: RunInfo
    names: Page


class Foreground:
    """One reconcile of one tenant. `view` shows how it goes; with `wait` another process's run may end first."""

    def __init__(self, settings: Settings, slug: str, wanted: Options, view: View, *, wait: bool = False) -> None:
        self._settings = settings
        self._slug = slug
        self._wanted = wanted
        self._view = view
        self._wait = wait
        self._reading, self._repairing = Bell(), Bell()
        self._states: dict[str, tuple[RoleState, str]] = {}
        self._before = 0  # the last reconcile that had finished when this one was asked for

    async def run(self) -> Done | str:
        """Run to the end; return what was found, or why it stopped."""
        stop, settings = stop_on_signals(), self._settings
        async with AsyncExitStack() as stack:
            log, projection = await _opened(stack, settings)
            lock = lock_of(log, self._slug)
            stack.push_async_callback(lock.release)
            if not await self._take(lock, Reports(log), stop):
                return self._stopped() if stop.is_set() else await self._holder(Reports(log))
            last = await self._last(Reports(log))
            self._before = last.run.number if last is not None and last.finished_at is not None else 0
            committer = make_committer(settings, log, lambda _end: self._reading.ring())
            # Nothing is due by itself: this process has one thing to do.
            plan = replace(plan_of(settings), interval_s=0, outage_s=0, repair_interval_s=0)
            backfill = await Upstream(settings, log, projection).backfill(self._slug, committer, lock, plan)
            backfill.ask("reconcile", "command", self._wanted)
            consumer, flushed = make_consumer(settings, log, projection), asyncio.Event()
            feed = partial(run, "consumer", consumer, self._reading, idle_s=settings.consumer.poll_interval_s)
            repair = partial(run_within, role_of(self._slug), backfill, self._repairing, idle_s=TICK_S, grace_s=GRACE_S)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(committer.run(flushed))
                tasks.create_task(feed(on_state=self._note("consumer")))
                tasks.create_task(repair(on_state=self._note("backfill")))
                try:
                    return await self._over(stop, backfill, Reports(log), Lag(EventLog(log), Projection(projection)))
                finally:
                    self._repairing.stop()
                    self._reading.stop()
                    flushed.set()

    def _note(self, role: str) -> Callable[[RoleState, str], None]:
        def on_state(state: RoleState, why: str) -> None:
            self._states[role] = (state, why)

        return on_state

    async def _take(self, lock: RoleLock, reports: Reports, stop: asyncio.Event) -> bool:
        """Take the lock: within LOCK_S, or with `wait` whenever it is given up, while the run there goes on."""
        patience, seen = Patience(WAIT_S), None
        while not await _taken(lock, stop):
            other = await self._unfinished(reports) if self._wait else None
            moved_at = None if other is None else (other.run.number, other.updated_at)
            if not self._wait or stop.is_set() or patience.over(fine=moved_at != seen):
                return False
            seen = moved_at
            self._view.show_waiting(other)
        return True

    async def _holder(self, reports: Reports) -> str:
        """Say who has the lock."""
        words = f"another process, a `serve` or a `backfill run`, works on {self._slug} now"
        if (other := await self._unfinished(reports)) is not None:
            begun = other.run.started_at.isoformat(timespec="seconds")
            words += f": a {other.run.kind} ({other.run.cause}) that began {begun}"
        if self._wait:
            return f"{words}; it has saved nothing for {WAIT_S / 60:.0f} minutes"
        return f"{words}; --wait waits for its end, `whatsms-events backfill status` shows how far it is"

    async def _unfinished(self, reports: Reports) -> RunInfo | None:
        """Return the tenant's run that has not finished, of whichever process."""
        last = await reports.last(self._settings.tenants[self._slug].tenant_id)
        return last if last is not None and last.finished_at is None else None

    async def _over(self, stop: asyncio.Event, backfill: Backfill, reports: Reports, lag: "Lag") -> Done | str:
        """Wait for the end, and show how it goes."""
        lost = Patience(ELSEWHERE_S)
        while not stop.is_set():
            await within(stop, TICK_S)
            with suppress(TransientError):  # the loops behind say what is away, and try again
                await lag.look()
            self._view.show(backfill.progress, self._trouble(lag))
            if backfill.progress.finished and (info := await self._finished(reports)) is not None:
                await _caught_up(stop, lag)
                return Done(info, await reports.drift(info.run.number, limit=NAMES))
            halted = [f"{role}: {why}" for role, (state, why) in self._states.items() if state == "halted"]
            if halted:
                return self._stopped(*halted)
            if lag.stuck_s > BEHIND_S:
                return self._stopped(self._trouble(lag))
            if lost.over(fine=backfill.active or self._why("backfill") != ""):
                return self._stopped("another process took the run over")
        return self._stopped()

    def _trouble(self, lag: "Lag") -> str:
        """Return what it waits for, if that is not the vendor's next answer."""
        if lag.stuck_s > STUCK_S:
            words = f"waits for the projection, which shows events up to {lag.through} of {lag.end}"
            fed_by_kafka = self._settings.kafka.bootstrap_servers is not None
            return f"{words}; Kafka feeds it: is a relay running (`serve --roles relay`)?" if fed_by_kafka else words
        return self._why("backfill") or self._why("consumer")

    def _why(self, role: str) -> str:
        return self._states.get(role, ("standby", ""))[1]

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


async def _opened(stack: AsyncExitStack, settings: Settings) -> tuple[Database, Database]:
    """Open log and projection as `serve` does; but a log that is not there is not made."""
    expect_log(log_target(settings))
    on_sqlite = log_target(settings).url.startswith("sqlite")
    log = await open_log(log_target(settings), migrate=on_sqlite)
    stack.push_async_callback(log.close)
    projection = await open_projection(projection_target(settings), migrate=on_sqlite)
    stack.push_async_callback(projection.close)
    return log, projection


async def _taken(lock: RoleLock, stop: asyncio.Event) -> bool:
    """Take the lock, within LOCK_S."""
    patience = Patience(LOCK_S)
    while not stop.is_set():
        if await lock.take():
            return True
        if patience.over(fine=False):
            return False
        await within(stop, TICK_S)
    return False


async def _caught_up(stop: asyncio.Event, lag: Lag) -> None:
    """Wait until the projection shows what was appended, at most CAUGHT_UP_S: a reader would look for it at once."""
    patience = Patience(CAUGHT_UP_S)
    while lag.through < lag.end and not stop.is_set() and not patience.over(fine=False):
        await within(stop, TICK_S / 5)
        await lag.look()
