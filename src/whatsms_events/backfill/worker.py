"""Runs the backfill of one tenant: finds what the webhook missed, counts it and repairs it.

A run collects ids from lists, reads details, compares them with the projection and appends what differs as
observations. `domain/repair` decides; this package does what is decided. One run per tenant is under way at a time, and
every piece is saved, so that a restart goes on from there.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import msgspec
import structlog

from whatsms_events.backfill.compare import Comparison
from whatsms_events.backfill.details import read_detail
from whatsms_events.backfill.gone import judge_missing, scan_absences
from whatsms_events.backfill.pager import read_list, read_messages
from whatsms_events.backfill.run import LiveRun, Parts, Plan, Report, RunStanding
from whatsms_events.backfill.schedule import AskedRun, Schedule
from whatsms_events.domain.drift import Count
from whatsms_events.domain.repair import PHASES, Duty, Phase, State
from whatsms_events.domain.verdicts import Append
from whatsms_events.errors import UpstreamRefusedError
from whatsms_events.storage.log.commit import Outcome
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.log.suppression import HeldSuppressions
from whatsms_events.storage.projection.holdings import Holdings
from whatsms_events.storage.repair.reports import Kind, Options, item_counts
from whatsms_events.storage.repair.requests import Requests
from whatsms_events.storage.repair.runs import Checkpoints
from whatsms_events.storage.role_lock import RoleLock
from whatsms_events.whatsms import Client
from whatsms_events.whatsms.pages import Place

LOOK_S: Final = 5.0
"""How often the worker asks whether a run is due."""

SHOW_S: Final = 1.0
"""How often a run's items are counted for those who watch it."""

log = structlog.get_logger()

_DO: Final[Mapping[Duty, Callable[[LiveRun], Awaitable[bool]]]] = {
    "list": read_list,
    "scan": scan_absences,
    "look": read_detail,
    "list_messages": read_messages,
    "judge": judge_missing,
}
"""What each phase does; `report` ends the run. Each does one request or one piece of bookkeeping and saves it, together
with the next phase where this one is over. Each returns False where only waiting is left."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the run under way is, and what the last run found once it has finished."""

    kind: Kind | None = None
    phase: str = ""
    requests: int = 0
    shown: int = 0
    expected: int | None = None
    remaining: int = 0
    found: Counter[tuple[str, str]] = field(default_factory=Counter)
    finished: bool = False
    report: Report | None = None


class Backfill:
    """The backfill of one tenant: a worker for `loop.run`. The lock is for liveness; each save is fenced."""

    def __init__(
        self,
        slug: str,
        tenant: str,
        *,
        client: Client,
        checkpoints: Checkpoints,
        requests: Requests,
        holdings: Holdings,
        event_log: EventLog,
        submit: Callable[[Append], Awaitable[Outcome]],
        lock: RoleLock,
        plan: Plan,
        now: Callable[[], datetime],
        last_accepted: Callable[[], Awaitable[datetime | None]],
        suppressions: HeldSuppressions | None = None,
    ) -> None:
        """`last_accepted` tells when the tenant's last webhook was received, None where none ever was."""
        self.progress = Progress()
        self._parts = Parts(
            slug, tenant, client, checkpoints, requests, holdings, event_log, submit, plan, now, suppressions
        )
        self._lock = lock
        self._schedule = Schedule(self._parts, last_accepted)
        self._live: LiveRun | None = None
        self._comparison: Comparison | None = None
        self._look_at = datetime.min.replace(tzinfo=now().tzinfo)
        self._show_at = 0.0
        self._refused_in: Phase = "tickets"

    @property
    def active(self) -> bool:
        """Tell whether a run is under way in this process."""
        return self._live is not None

    @property
    def standing(self) -> RunStanding | None:
        """Where the run under way in this process stands, None where none is."""
        return None if self._live is None else self._live.standing

    def ask(self, kind: Kind, cause: str, options: Options) -> str | None:
        """Ask for a run; it begins when the one under way has finished, unless that is the very same.

        One alone can wait: where another one does, return so in words, and this one is not asked for.
        """
        self._look_at = self._parts.now()
        return self._schedule.ask(AskedRun(kind, cause, options))

    def ask_about(self, ticket_id: str) -> bool:
        """Ask for one look at a ticket, soon; False where too many wait already."""
        self._look_at = self._parts.now()
        return self._schedule.ask_about(ticket_id)

    async def run_once(self) -> int:
        """Do one bounded piece and return 1; 0 where there is nothing to do now.

        Raises UpstreamRefusedError where the vendor refuses us (key, rights, paging), FencedError where another
        process goes on with the run, TransientError where vendor, storage or consumer is away for now.
        """
        wait_s = (self._look_at - self._parts.now()).total_seconds()
        if self._live is None and 0 < wait_s <= LOOK_S:  # longer: the clock was set back
            return 0
        if not await self._lock.take():
            self._forget()
            return 0
        try:
            if self._live is None and not await self._begin():
                await self._lock.release()  # a command may want it
                return 0
            return await self._step()
        except BaseException as exc:
            live = self._live
            self._forget()
            if live is not None and isinstance(exc, UpstreamRefusedError):
                self._refused_in = live.standing.phase
                await live.save(msgspec.structs.replace(live.standing, stopped=str(exc)))
                log.error("backfill.stopped", tenant=self._parts.slug, reason=str(exc))  # noqa: TRY400 - written for the operator
            await self._lock.release()  # another process may have more luck
            raise

    async def look(self) -> None:
        """Ask for the first page of what was refused, and raise what the vendor says: one request of the budget."""
        client = self._parts.client
        await client.open()
        place, size = Place(), self._parts.plan.page_size
        match self._refused_in:
            case "contacts":
                await client.contacts.page(place, page_size=size)
            case "campaigns" | "again":
                await client.campaigns.page(place, page_size=size)
            case _:
                await client.tickets.page(place, page_size=size)

    async def close(self) -> None:
        """Give up the role and the connections; the run stays as it was saved."""
        self._forget()
        await self._parts.client.close()
        await self._lock.release()

    def _forget(self) -> None:
        self._live = self._comparison = None

    async def _begin(self) -> bool:
        """Take up the unfinished run, or begin one that is due; return whether there is one."""
        parts, now = self._parts, self._parts.now()
        self._look_at = now + timedelta(seconds=LOOK_S)
        if await parts.checkpoints.sweep():
            self._look_at = now  # a large run left more
            return False
        due = await self._schedule.due(now)
        if due is None:
            return False
        asked, doubts = due
        await parts.client.open()
        run = await parts.checkpoints.begin(parts.tenant, asked.kind, asked.cause, asked.options, now)
        live = LiveRun(parts, run, self._schedule.permit(run))
        begun = AskedRun(run.kind, run.cause, run.options)
        self._schedule.taken(begun, resumed=run.resumed)
        await self._schedule.answer_request(begun, resumed=run.resumed)
        if doubts is not None and not run.resumed:
            # Each doubt counts as looked at once now, whatever the result.
            again_at = now if doubts.campaigns else None
            standing = msgspec.structs.replace(live.standing, expected=len(doubts.looks), again_at=again_at)
            await live.save(standing, items=list(doubts.items.values()), looks=doubts.looks)
            self._schedule.met(doubts)
        self._live, self._comparison = live, Comparison(live)
        log.info("backfill.begun", tenant=parts.slug, kind=run.kind, cause=run.cause, resumed=run.resumed)
        return True

    async def _step(self) -> int:
        live, comparison = self._live, self._comparison
        assert live is not None  # noqa: S101 - begun
        assert comparison is not None  # noqa: S101 - begun
        duty = PHASES[live.standing.phase].do
        if duty == "report":
            await self._finish(live)
            return 1
        worked = await comparison.step() or await _DO[duty](live)
        if not worked:
            await live.pull_in()
        clock = asyncio.get_running_loop().time
        if (began := clock()) >= self._show_at:
            await self._show(live)
            # Counting a million items takes long.
            self._show_at = clock() + max(SHOW_S, 20 * (clock() - began))
        return int(worked)

    async def _finish(self, live: LiveRun) -> None:
        report = await live.finish()
        slug = self._parts.slug
        self._forget()
        self._look_at = self._parts.now()
        found = _by_kind(report.drift)
        looked_at = sum(report.looked_at.values())
        self.progress = Progress(
            kind=live.run.kind,
            requests=report.requests,
            shown=looked_at,
            found=found,
            finished=True,
            report=report,
        )
        whole = not report.unstable and not report.forbidden and not report.held_back
        (log.info if whole else log.warning)(
            "backfill.finished",
            tenant=slug,
            kind=report.kind,
            cause=report.cause,
            requests=report.requests,
            entities=looked_at,
            drift=found.total(),
            unsettled=report.unsettled,
            unstable=report.unstable,
            forbidden=report.forbidden,
            held_back=sorted(report.held_back),
        )

    async def _show(self, live: LiveRun) -> None:
        counted = await live.parts.checkpoints.count(live.run)
        by_state: Counter[State] = Counter()
        for (_entity, state), count in counted.items():
            by_state[state] += count
        items = item_counts(by_state)
        if items != live.standing.items:
            await live.save(msgspec.structs.replace(live.standing, items=items))
        standing = live.standing
        self.progress = Progress(
            kind=live.run.kind,
            phase=standing.phase,
            requests=standing.requests,
            shown=counted.total(),
            expected=standing.expected or None,
            remaining=items.remaining,
            found=_by_kind(standing.drift),
        )


def _by_kind(drift: Iterable[Count]) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    for one in drift:
        found[one.entity, one.kind] += one.count
    return found
