"""Keeps where one run of a backfill stands: what each piece saves, and what the run reports at its end."""

from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as with_fields
from datetime import datetime, timedelta
from typing import Any, Final, Literal

import msgspec
import structlog
from msgspec import Struct
from msgspec.structs import replace

from whatsms_events.domain import drift, normalize
from whatsms_events.domain.drift import Count, Finding
from whatsms_events.domain.events import Entity, Payload
from whatsms_events.domain.repair import FIRST, ITEMS, Due, ItemCame, Phase, PhaseEnd, following
from whatsms_events.domain.suppression import still_shown
from whatsms_events.domain.verdicts import Append
from whatsms_events.domain.walk import Walks
from whatsms_events.errors import UpstreamError
from whatsms_events.storage.log.commit import Outcome
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.log.suppression import HeldSuppressions
from whatsms_events.storage.projection.holdings import Holdings
from whatsms_events.storage.repair.looks import Doubt
from whatsms_events.storage.repair.reports import ItemCounts, Options, Run
from whatsms_events.storage.repair.requests import Requests
from whatsms_events.storage.repair.runs import Checkpoints, Item
from whatsms_events.whatsms import Client
from whatsms_events.whatsms.pages import Place

Mode = Literal["off", "narrow", "full"]
MODES: Final[tuple[Mode, ...]] = ("off", "narrow", "full")


@dataclass(frozen=True, slots=True)
class Plan:
    """When runs are due, and how they work; 0 for an interval means never.

    `settle_s`: an answer is compared so long after it came, when webhooks that were on their way have arrived.
    `absence_s`: what the vendor does not show is looked for once more, so long after. `gone_share`: the part of an
    entity that a run may mark as gone by itself. `data_limit_bytes`: what is larger as an event is left out, since a
    record over what topics take halts the relay. `texts_s`: texts that are older are neither compared nor taken in.
    """

    options: Options
    page_size: int
    interval_s: float
    outage_s: float
    repair_interval_s: float
    settle_s: float
    absence_s: float
    gone_share: float
    data_limit_bytes: int = normalize.data_limit_bytes(normalize.BODY_BYTES)
    texts_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Parts:
    """What a run works with."""

    slug: str
    tenant: str
    client: Client
    checkpoints: Checkpoints
    requests: Requests
    holdings: Holdings
    event_log: EventLog
    submit: Callable[[Append], Awaitable[Outcome]]
    plan: Plan
    now: Callable[[], datetime]
    suppressions: HeldSuppressions | None = None

    async def learn(self) -> None:
        """Look who was forgotten, before an answer is taken."""
        if self.suppressions is not None and self.suppressions.due:
            await self.suppressions.look()

    def kept(self, entity: Entity, payload: Payload, as_of: datetime, ticket_id: str | None) -> Payload:
        """Return what may be kept of what was shown: the vendor may still show somebody who was forgotten here.

        So neither are their values stored, nor does a field that is blanked here count as a difference.
        """
        if self.suppressions is None or not self.suppressions.now:
            return payload
        return still_shown(
            self.tenant, entity, payload, as_of=as_of, ticket_id=ticket_id, suppressions=self.suppressions.now
        )


class HeldBack(Struct, frozen=True, kw_only=True):
    """Why a run marked none of an entity as gone: it would have been more than `limit` of `held`.

    `extra`: held here, but not at the vendor. `missed`: at the vendor, but not here.
    """

    extra: int
    missed: int
    held: int
    limit: int


class RunStanding(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Where a run stands. Saved in one transaction with the items it is about, so a restart goes on from here.

    What another release saved in another form is not read: see `standing_of`.
    """

    phase: Phase = "contacts"
    walks: Walks = Walks()  # over the list that is being read
    place: Place = Place()  # in the list that is being read
    blind: tuple[Entity, ...] = ()  # entities of which no page was read: none of them counts as absent
    after: str = ""  # absences: the last id that was looked at
    entity: Entity = "contact"  # absences: of which entity
    again_at: datetime | None = None  # when the campaigns are listed once more; None: they need not be
    seen_at: datetime | None = None  # as of when the campaigns were listed once more
    log_end: int = 0  # the log's end before that
    ticket: str | None = None  # whose messages are being read
    requests: int = 0
    unusable: int = 0  # items without an id
    unseen: int = 0  # messages of ours that their ticket's list did not show
    unsettled: int = 0  # items that events kept touching, or that could not be read: left to the next run
    unstable: tuple[str, ...] = ()  # lists that brought something new in their last pass, or ended before their end
    ended: dict[str, str] = {}  # why, of those that ended before their end
    forbidden: int = 0  # items that the key has no right to
    forbidden_names: tuple[str, ...] = ()  # the first of them
    gone_limits: dict[Entity, int] = {}  # how many may go, once that was decided
    released: dict[Entity, int] = {}  # how many were released to be marked as gone
    held_back: dict[Entity, HeldBack] = {}
    expected: int = 0  # what the lists' counts promise
    drift: tuple[Count, ...] = ()
    items: ItemCounts | None = None  # as they were counted last, for whoever asks how far the run is
    stopped: str | None = None


class Report(Struct, frozen=True, kw_only=True):
    """What a finished run found. `looked_at` counts entities, `drift` those whose state differed from the vendor's.

    `unseen`: messages of ours that their ticket's list did not show; one message cannot be asked for, so that proves
    nothing. `ended` says why of those `unstable` lists that ended before their end. `forbidden_names` are the first
    of the `forbidden`: items that the key has no right to. `held_back`: what was not marked as gone, and why.
    """

    kind: str
    cause: str
    started_at: datetime
    finished_at: datetime
    requests: int
    looked_at: dict[str, int]
    drift: list[Count]
    unseen: int
    unsettled: int
    unusable: int
    unstable: tuple[str, ...]
    ended: dict[str, str] = {}
    forbidden: int = 0
    forbidden_names: tuple[str, ...] = ()
    held_back: dict[Entity, HeldBack] = {}


log = structlog.get_logger()

_UNSAVED: Final = b"{}"
_standings = msgspec.json.Decoder(RunStanding)
_json = msgspec.json.Encoder()

NAMES: Final = 20
"""Of many items that the key has no right to, so many are named: in the log and in the report."""


def standing_of(run: Run) -> RunStanding:
    """Return where a run stands: at its beginning where nothing was saved yet, or where another release saved it.

    A run that another release saved begins anew with the items that it has: what was found is appended, nothing is
    lost, and the report counts only what was found, and what was left out, since.
    """
    first = RunStanding(phase=FIRST[run.kind])
    try:
        return first if run.progress == _UNSAVED else _standings.decode(run.progress)
    except msgspec.ValidationError:
        # It may have campaigns that were hidden: their list is read once more, which proves that they are missing.
        return msgspec.structs.replace(first, again_at=run.started_at)


def step_item(item: Item, came: ItemCame, plan: Plan, now: datetime, **changes: Any) -> Item:
    """Return the item after what came, as the table `ITEMS` says, with these fields.

    A closed item keeps no personal data, except the payload of a ticket whose messages are still to be read.
    """
    step = ITEMS[item.state][came]
    item = with_fields(
        with_fields(item, **changes),
        state=step.state,
        due_at=now + timedelta(seconds=_wait_s(step.due, plan)),
        rounds=item.rounds + step.rounds,
    )
    if step.state != "done":
        return item
    return with_fields(item, payload=item.payload if item.messages == "wanted" else None, raw=None, found=None)


def _wait_s(due: Due, plan: Plan) -> float:
    return {"now": 0.0, "settled": plan.settle_s, "absence": plan.absence_s}[due]


def new_item(entity: Entity, one: str, came: ItemCame, plan: Plan, now: datetime, **fields: Any) -> Item:
    """Return the item of something that the run meets for the first time."""
    unmet = Item(entity=entity, id=one, state="new", due_at=now, as_of=None, log_end=0)
    return step_item(unmet, came, plan, now, **fields)


def moved_on(standing: RunStanding, end: PhaseEnd = "over") -> RunStanding:
    """Return the standing at the beginning of the phase that comes next."""
    return replace(standing, phase=following(standing.phase, end), walks=Walks(), place=Place())


class LiveRun:
    """One run under way. Every change of its standing is saved together with what it is about, or not at all."""

    def __init__(self, parts: Parts, run: Run, messages: Mode) -> None:
        """Take the run; `messages` is how many lists of messages this process may read for it."""
        self.parts = parts
        self.run = run
        self.messages = messages
        self.standing = replace(standing_of(run), stopped=None)  # what stopped it then may be mended now
        self.next: deque[Item] = deque()  # to be looked at; nobody else changes the items of a run

    def step(self, item: Item, came: ItemCame, **changes: Any) -> Item:
        """Return the item after what came just now."""
        return step_item(item, came, self.parts.plan, self.parts.now(), **changes)

    def new(self, entity: Entity, one: str, came: ItemCame, **fields: Any) -> Item:
        """Return the item of something that was met just now."""
        return new_item(entity, one, came, self.parts.plan, self.parts.now(), **fields)

    async def save(
        self,
        standing: RunStanding,
        *,
        items: Sequence[Item] = (),
        found: Sequence[Finding] = (),
        looks: Sequence[Doubt] = (),
    ) -> None:
        """Save; raise FencedError where another process goes on with this run."""
        now = self.parts.now()
        standing = replace(standing, drift=drift.count(standing.drift, found))
        await self.parts.checkpoints.save(
            self.run, _json.encode(standing), now=now, items=items, drift=found, looks=looks
        )
        self.standing = standing

    async def list_items(self, standing: RunStanding, items: Mapping[str, Item]) -> None:
        """Save what a page showed: new items, and newer views of those that a page may still change."""
        await self.parts.checkpoints.list_items(
            self.run, list(items.values()), _json.encode(standing), now=self.parts.now()
        )
        self.standing = standing

    async def finish(self) -> Report:
        """Close the run, delete its items, and return its report."""
        now, standing, run = self.parts.now(), self.standing, self.run
        looked_at: Counter[str] = Counter()
        for (entity, _state), count in (await self.parts.checkpoints.count(run)).items():
            looked_at[entity] += count
        report = Report(
            kind=run.kind,
            cause=run.cause,
            started_at=run.started_at,
            finished_at=now,
            requests=standing.requests,
            looked_at=dict(looked_at),
            drift=list(standing.drift),
            unseen=standing.unseen,
            unsettled=standing.unsettled,
            unusable=standing.unusable,
            unstable=standing.unstable,
            ended=standing.ended,
            forbidden=standing.forbidden,
            forbidden_names=standing.forbidden_names,
            held_back=standing.held_back,
        )
        await self.parts.checkpoints.finish(run, _json.encode(report), now)
        return report

    async def pull_in(self) -> None:
        """Shorten waits that exceed every wait of the plan: the clock was set back since they were noted."""
        now, plan, again_at = self.parts.now(), self.parts.plan, self.standing.again_at
        latest = now + timedelta(seconds=max(plan.settle_s, plan.absence_s))
        await self.parts.checkpoints.pull_in(self.run, latest, now=now)
        if again_at is not None and again_at > latest:
            await self.save(replace(self.standing, again_at=latest))


def without(standing: RunStanding, slug: str, what: str, error: UpstreamError) -> RunStanding:
    """Return the standing with one more item that the key has no right to; the first NAMES are named, and logged."""
    standing = replace(standing, forbidden=standing.forbidden + 1)
    if len(standing.forbidden_names) >= NAMES:
        return standing
    log.warning("detail.forbidden", tenant=slug, subject=what, reason=str(error))
    return replace(standing, forbidden_names=(*standing.forbidden_names, what))
