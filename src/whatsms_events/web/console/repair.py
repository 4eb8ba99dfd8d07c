"""The page Repair: runs and how far they are, what differed field by field, and buttons to start and to stop one.

A button does what `whatsms-events backfill` does: the run is made by the backfill of this process, where it has one.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, get_args
from urllib.parse import urlencode

import msgspec
from aiohttp import web

from whatsms_events.domain.drift import Count, DriftKind
from whatsms_events.domain.events import Entity
from whatsms_events.storage.difference import Differences
from whatsms_events.storage.reads import RowPage
from whatsms_events.storage.repair.reports import PAGE_LIMIT, Options, Reports, RunInfo
from whatsms_events.storage.trace import NEAR, REACH
from whatsms_events.web.console import places
from whatsms_events.web.console.frame import Brought, ConsoleTenant, Frame, Visit
from whatsms_events.web.questions import TOP, bad, key_after, not_found, number, one_of, parameters
from whatsms_events.web.views import ShownProgress, opaque, shown_progress

REFRESH_S: Final = 2
LISTED: Final = 50
RUNS_SHOWN: Final = 10

_ENTITIES: Final = {str(name): name for name in get_args(Entity)}
_KINDS: Final = {str(name): name for name in get_args(DriftKind)}
_DETAILS: Final[Mapping[str, Literal["all", "changed"]]] = {"all": "all", "changed": "changed"}
_MESSAGES: Final[Mapping[str, Literal["off", "narrow", "full"]]] = {"off": "off", "narrow": "narrow", "full": "full"}
_after: Final = msgspec.json.Decoder(tuple[str, str, str])


@dataclass(frozen=True, slots=True)
class RepairVerbs:
    """What the buttons do. `here` names the tenants whose backfill this process has.

    `ask` begins a run of one of them, or returns in words why it cannot.
    `stop` takes a tenant's id, the name of the token's holder, who is noted as the one who stopped it, and perhaps the
    number of a run. It ends the tenant's unfinished run, or that run alone, whichever process has it, and returns its
    number. `halted` says why the backfill of a tenant waits for a person, None
    where it does not.
    """

    here: Callable[[], Collection[str]]
    ask: Callable[[str, Options], str | None]
    stop: Callable[[str, str, int | None], Awaitable[int | None]]
    usual: Callable[[], Options]
    halted: Callable[[str], str | None]


class ShownReport(msgspec.Struct, frozen=True, kw_only=True):
    """What is shown of a report; another release may have written it."""

    requests: int = 0
    looked_at: dict[str, int] = {}
    drift: tuple[Count, ...] = ()
    unseen: int = 0
    unsettled: int = 0
    unstable: tuple[str, ...] = ()
    ended: dict[str, str] = {}
    forbidden: int = 0
    forbidden_names: tuple[str, ...] = ()
    held_back: dict[str, dict[str, int]] = {}


_reports: Final = msgspec.json.Decoder(ShownReport | None)


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run as the page shows it."""

    info: RunInfo
    progress: ShownProgress
    report: ShownReport

    @property
    def state(self) -> str:
        """Say in a word how it is."""
        if self.info.finished_at is None:
            return "stuck" if self.progress.stopped else "running"
        return "stopped" if self.info.stopped_by is not None else "finished"

    @property
    def done(self) -> tuple[int, int, int]:
        """Return how many items are read, how many of them are compared too, and how many are known so far."""
        left = self.info.items
        whole = max(self.progress.expected, left.remaining)
        return whole - left.unread, whole - left.remaining, whole

    @property
    def found(self) -> int:
        """Return how many differences it found so far."""
        return sum(one.count for one in self.report.drift or self.progress.drift)


@dataclass(frozen=True, slots=True)
class TenantRepair:
    """A tenant's runs, what of its own the buttons can do here, and why its backfill has halted, where it has."""

    slug: str
    tenant: ConsoleTenant
    runs: Brought[list[RunRow]]
    here: bool
    halted: str | None = None

    @property
    def running(self) -> RunRow | None:
        """Return the run under way, of whichever process."""
        rows = self.runs.value or []
        return rows[0] if rows and rows[0].info.finished_at is None else None

    @property
    def last(self) -> RunRow | None:
        """Return the last reconcile that finished."""
        rows = self.runs.value or []
        return next((one for one in rows if one.info.run.kind == "reconcile" and one.state == "finished"), None)


class RepairPage:
    """The page and its buttons."""

    title = "Repair"
    path = "/repair"

    def __init__(self, frame: Frame, reports: Reports, differences: Differences, verbs: RepairVerbs) -> None:
        self._frame = frame
        self._reports = reports
        self._differences = differences
        self._verbs = verbs

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the routes."""
        frame = self._frame
        return [
            frame.get(self.path, self._page),
            frame.get("/repair/piece", self._piece),
            frame.get("/repair/run", self._run),
            frame.get("/repair/difference", self._difference),
            frame.post("/repair/start", self._start),
            frame.post("/repair/stop", self._stop),
        ]

    async def _page(self, visit: Visit) -> web.Response:
        parameters(visit.request, "said", "by")
        tenants = await self._tenants(visit)
        return visit.page("repair.html", tenants=tenants, usual=self._verbs.usual(), refresh_s=REFRESH_S)

    async def _piece(self, visit: Visit) -> web.Response:
        return visit.page("repair_piece.html", tenants=await self._tenants(visit), refresh_s=REFRESH_S)

    async def _tenants(self, visit: Visit) -> list[TenantRepair]:
        here, found = self._verbs.here(), []
        for slug, tenant in visit.frame.tenants.items():
            runs = await visit.asked(f"The runs of {slug}", self._runs(tenant.tenant_id, RUNS_SHOWN))
            found.append(TenantRepair(slug, tenant, runs, slug in here, self._verbs.halted(slug)))
        return found

    async def _runs(self, tenant_id: str, limit: int) -> list[RunRow]:
        return [_row(one) for one in await self._reports.runs(tenant_id, limit)]

    async def _run(self, visit: Visit) -> web.Response:
        asked = parameters(visit.request, "tenant", "run", "entity", "kind", "after")
        slug, tenant = _tenant(visit, asked)
        wanted, after = number(asked, "run", 0, 0, TOP), key_after(asked, _after)
        entity, kind = one_of(asked, "entity", _ENTITIES), one_of(asked, "kind", _KINDS)
        run = next(
            (one for one in await self._runs(tenant.tenant_id, PAGE_LIMIT) if one.info.run.number == wanted), None
        )
        if run is None:
            raise not_found()
        page = await visit.asked(
            "The differences", self._reports.drift(wanted, entity=entity, kind=kind, after=after, limit=LISTED)
        )
        return visit.page("repair_run.html", slug=slug, run=run, page=page, more=_more(asked, page), asked=asked)

    async def _difference(self, visit: Visit) -> web.Response:
        asked = parameters(visit.request, "tenant", "entity", "id", "run", "at", "far")
        slug, tenant = _tenant(visit, asked)
        entity = one_of(asked, "entity", _ENTITIES)
        if entity is None or "id" not in asked:
            raise bad("id", "and entity are needed")
        found_at = datetime.fromtimestamp(number(asked, "at", 0, 0, 2**33), visit.now.tzinfo)
        reach = REACH if "far" in asked else NEAR
        difference = await visit.asked(
            "The difference", self._differences.of(entity, tenant.tenant_id, asked["id"], found_at, reach=reach)
        )
        if difference.value is not None:  # what was typed may be a name or a number
            visit.showed(entity, asked["id"])
        return visit.page(
            "repair_difference.html",
            slug=slug,
            entity=entity,
            id=asked["id"],
            run=asked.get("run"),
            difference=difference,
            further=None if "far" in asked else places.place("/repair/difference", **asked, far=1),
            place=places.place,
        )

    async def _start(self, visit: Visit, fields: Mapping[str, str]) -> web.Response:
        slug, tenant = _tenant(visit, fields)
        if slug not in self._verbs.here():
            return visit.back(self.path, f"This process has no backfill of {slug}: nothing was begun.")
        details, messages = one_of(fields, "details", _DETAILS), one_of(fields, "messages", _MESSAGES)
        usual = self._verbs.usual()
        options = Options(
            details=details or usual.details,
            messages=messages or usual.messages,
            allow_gone=fields.get("allow_gone") == "yes",
        )
        last = await self._reports.last(tenant.tenant_id)  # before it may be the new one
        if (refused := self._verbs.ask(slug, options)) is not None:
            return visit.back(self.path, refused)
        visit.did("repair.start", slug, options=str(options))
        begins = "within seconds"
        if last is not None and last.finished_at is None:
            begins = f"when run {last.run.number} has ended"
        return visit.back(self.path, f"A run of {slug} is asked for: it begins {begins}.")

    async def _stop(self, visit: Visit, fields: Mapping[str, str]) -> web.Response:
        slug, tenant = _tenant(visit, fields)
        holder = visit.holder.name if visit.holder is not None else ""
        run = number(fields, "run", 0, 0, TOP) if "run" in fields else None
        stopped = await self._verbs.stop(tenant.tenant_id, holder, run)
        if stopped is not None:
            visit.did("repair.stop", slug, options=f"run {stopped}")
            return visit.back(self.path, f"Run {stopped} of {slug} is stopped. What it repaired stays.")
        over = "No run was under way." if run is None else f"Run {run} is not under way any more: nothing was stopped."
        return visit.back(self.path, over)


def _row(info: RunInfo) -> RunRow:
    try:
        report = _reports.decode(info.report or b"null") or ShownReport()
    except msgspec.MsgspecError:  # another release's
        report = ShownReport()
    return RunRow(info, shown_progress(info.run.progress), report)


def _tenant(visit: Visit, asked: Mapping[str, str]) -> tuple[str, ConsoleTenant]:
    slug = asked.get("tenant", "")
    if slug not in visit.frame.tenants:
        raise not_found()
    return slug, visit.frame.tenants[slug]


def _more(asked: Mapping[str, str], page: Brought[RowPage]) -> str | None:
    if page.value is None or page.value.next is None:
        return None
    return f"/repair/run?{urlencode({**asked, 'after': opaque(page.value.next)})}"
