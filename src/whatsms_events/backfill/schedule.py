"""Decides which run of a tenant is due, and what a repair begins with."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from whatsms_events.backfill.run import MODES, Mode, Parts, Plan, new_item
from whatsms_events.domain.events import Entity
from whatsms_events.domain.repair import ItemCame
from whatsms_events.domain.rows import Key
from whatsms_events.storage.repair.looks import Doubt
from whatsms_events.storage.repair.reports import Kind, Options, Reports, Run, RunInfo
from whatsms_events.storage.repair.requests import Request
from whatsms_events.storage.repair.runs import Item

PEOPLE_LIMIT: Final = 50
"""Tickets that people wait for: more than that is a case for a reconcile."""

BY_PERSON: Final = ("command", "console")
"""Causes of runs that somebody asked for."""

REPAIR_LIMIT: Final = 200
"""Entities of one repair: more than that is a case for a reconcile."""


Accepted = Callable[[], Awaitable[datetime | None]]
"""Tells when the last webhook of a tenant was accepted; None where there was none."""


@dataclass(frozen=True, slots=True)
class AskedRun:
    """A run that somebody or the schedule asks for."""

    kind: Kind
    cause: str
    options: Options


@dataclass(slots=True)
class Doubts:
    """What a repair is about, each thing as it stands: its items are read by id, or (`campaigns`) found in a list."""

    plan: Plan
    now: datetime
    items: dict[tuple[Entity, str], Item] = field(default_factory=dict)
    campaigns: bool = False
    looks: list[Doubt] = field(default_factory=list)

    def add(self, doubt: Doubt, ticket: str | None) -> None:
        """Add a doubt; `ticket` is the ticket of a message, and comparing that ticket finds the gap."""
        self.looks.append(doubt)
        match doubt.subject:
            case "campaign":
                self.campaigns = True
                self._meet("campaign", doubt.id, "hidden")
            case "contact" | "ticket":
                self._meet(doubt.subject, doubt.id, "unlisted")
            case "message" if ticket is not None:
                self._meet("ticket", ticket, "unlisted")

    def _meet(self, entity: Entity, one: str, came: ItemCame) -> None:
        self.items[entity, one] = new_item(entity, one, came, self.plan, self.now)


class Schedule:
    """Knows which run of one tenant is due. What is asked for, by a command or in the log, comes before the clock."""

    def __init__(self, parts: Parts, last_accepted: Accepted) -> None:
        self.asked: AskedRun | None = None
        self._tickets: dict[str, None] = {}  # that people ask about, in the order of their questions
        self._granted = (0, 0)  # number and generation of the run whose messages may be read as it wants
        self._parts = parts
        self._last_accepted = last_accepted
        self._request: Request | None = None
        self._repair_at = datetime.min.replace(tzinfo=UTC)
        self._away: bool | None = None  # whether there was an outage before this process; None: not looked yet

    def ask(self, asked: AskedRun) -> str | None:
        """Note what a person wants; where another run waits already, leave it at that and return so in words."""
        waits = self.asked
        if waits is not None and (waits.kind, waits.options) != (asked.kind, asked.options):
            return f"another run waits already: {waits.options}"
        self.asked = asked
        return None

    def ask_about(self, ticket_id: str) -> bool:
        """Note that somebody wants to know how a ticket is; False where too many wait already."""
        if ticket_id not in self._tickets and len(self._tickets) >= PEOPLE_LIMIT:
            return False
        self._tickets[ticket_id] = None
        return True

    async def due(self, now: datetime) -> tuple[AskedRun, Doubts | None] | None:
        """Return the run to begin or to go on with, and what a new repair is about; None where none is."""
        parts = self._parts
        if self._away is None:
            self._away = await was_away(parts.checkpoints, parts.tenant, self._last_accepted, parts.plan.outage_s, now)
        last = await parts.checkpoints.last(parts.tenant)
        if last is not None and last.finished_at is None:
            return AskedRun(last.run.kind, last.run.cause, last.run.options), None
        if self._tickets:  # somebody sits and waits, and the run is a short one
            return AskedRun("repair", "console", Options(messages="off")), await self._of_people(now)
        self._request = await parts.requests.waiting(parts.tenant)
        asked = self.asked or self._requested() or await self._by_itself(now)
        if asked is None or asked.kind == "reconcile":
            return None if asked is None else (asked, None)
        doubts = await self._doubts(asked, now)
        if not doubts.looks:
            self.taken(asked, resumed=False)
            return None
        return asked, doubts

    def taken(self, begun: AskedRun, *, resumed: bool) -> None:
        """Forget the request where the run that was begun is the one that was asked for.

        A run that was resumed counts for a person, who is shown whose run it is. It does not count for the clock, which
        asks because of something that may have happened after that run had read it.
        """
        if begun.kind == "reconcile" and not resumed:
            self._away = False
        asked = self.asked
        if asked is not None and (asked.kind, asked.options) == (begun.kind, begun.options):
            self.asked = asked if resumed and asked.cause not in BY_PERSON else None

    def met(self, doubts: Doubts) -> None:
        """Forget the tickets that a run looks at which was begun for them."""
        for one in doubts.looks:
            self._tickets.pop(one.id, None)

    async def answer_request(self, begun: AskedRun, *, resumed: bool) -> None:
        """Remove the request of a receiver once a reconcile has begun, whoever asked for that.

        One that was resumed does not count: it may have read before something was missed.
        """
        if self._request is not None and begun.kind == "reconcile" and not resumed:
            await self._parts.requests.remove(self._request)
        self._request = None

    def permit(self, run: Run) -> Mode:
        """Return how many lists of messages may be read for a run, before `taken`: no more than this process was told.

        A run may read what the run itself wants if this process began it, or if a person asks this process for it, as
        long as no other process takes the run over. Any other run may read what the settings of this process say.
        Somebody who stopped a run because contacts got read receipts must not see it go on by itself.
        """
        asked = self.asked if self.asked is not None and self.asked.cause in BY_PERSON else None
        wanted = asked is not None and (asked.kind, asked.options) == (run.kind, run.options)
        if not run.resumed or wanted or (run.number, run.generation - 1) == self._granted:
            self._granted = (run.number, run.generation)
            return run.options.messages
        return min(run.options.messages, self._parts.plan.options.messages, key=MODES.index)

    def _requested(self) -> AskedRun | None:
        """Return what a receiver asks for in the log, whichever process that is."""
        return self._request and AskedRun("reconcile", self._request.cause, self._parts.plan.options)

    async def _by_itself(self, now: datetime) -> AskedRun | None:
        """Return what nobody asked for: after an outage, by the clock, or because something is in doubt."""
        parts, plan = self._parts, self._parts.plan
        reconcile = await parts.checkpoints.last(parts.tenant, "reconcile")
        if plan.interval_s and reconcile is None:
            return AskedRun("reconcile", "initial", plan.options)
        if self._away:
            return AskedRun("reconcile", "outage", plan.options)
        if plan.interval_s and _passed(reconcile, now, plan.interval_s):
            return AskedRun("reconcile", "schedule", plan.options)
        wait_s = (self._repair_at - now).total_seconds()
        if plan.repair_interval_s and not 0 < wait_s <= plan.repair_interval_s:  # longer: the clock was set back
            self._repair_at = now + timedelta(seconds=plan.repair_interval_s)
            return AskedRun("repair", "doubt", plan.options)
        return None

    async def _of_people(self, now: datetime) -> Doubts:
        """Return the tickets that people ask about, whether or not anything of them is in doubt."""
        parts, doubts = self._parts, Doubts(self._parts.plan, now)
        rows = await parts.holdings.rows({Key("ticket", parts.tenant, one) for one in self._tickets})
        for one in self._tickets:
            row = rows.get(Key("ticket", parts.tenant, one))
            versions = () if row is None else row.versions.values()
            doubts.add(Doubt("ticket", one, max((version.latest for version in versions), default=0)), None)
        return doubts

    async def _doubts(self, asked: AskedRun, now: datetime) -> Doubts:
        """Return doubtful entities and stubs, without those that were looked at in their present state."""
        parts, doubts = self._parts, Doubts(self._parts.plan, now)
        async for page in self._unsure(messages=asked.options.messages != "off"):
            tickets = dict(page)
            for doubt in await parts.checkpoints.not_looked_at(parts.tenant, list(tickets)):
                doubts.add(doubt, tickets[doubt])
            if len(doubts.looks) >= REPAIR_LIMIT:
                break
        return doubts

    async def _unsure(self, *, messages: bool) -> AsyncIterator[list[tuple[Doubt, str | None]]]:
        """Give pages of what is unsure; where messages may be read these too, with the ticket each is read from."""
        holdings, tenant = self._parts.holdings, self._parts.tenant
        after = ("", "")
        while held := await holdings.unsure(tenant, REPAIR_LIMIT, after):
            yield [(doubt, None) for doubt in held]
            after = (held[-1].subject, held[-1].id)
        last: tuple[str, str] | None = None
        while messages and (told := await holdings.unsure_messages(tenant, REPAIR_LIMIT, last)):
            yield [(doubt, ticket) for ticket, doubt in told]
            last = (told[-1][0], told[-1][1].id)


async def was_away(reports: Reports, tenant: str, last_accepted: Accepted, outage_s: float, now: datetime) -> bool:
    """Tell whether nothing was accepted for long: the receivers may have been away, and what came then is lost."""
    accepted, silent_from = await last_accepted(), now - timedelta(seconds=outage_s)
    if not outage_s or accepted is None or accepted >= silent_from:
        return False
    reconcile = await reports.last(tenant, "reconcile")
    return reconcile is None or reconcile.run.started_at < silent_from


def _passed(last: RunInfo | None, now: datetime, interval_s: float) -> bool:
    """Tell whether it is time again; a run that began in the future was begun by a clock that was set back since."""
    return last is None or not timedelta() <= now - last.run.started_at < timedelta(seconds=interval_s)
