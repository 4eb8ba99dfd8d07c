"""How far one run of a backfill got: what is saved with each piece of it, and what is reported at its end."""

from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

import msgspec
import structlog
from msgspec import UNSET, Struct
from msgspec.structs import replace

from whatsms_events.domain import normalize
from whatsms_events.domain.differences import LISTED_ONLY
from whatsms_events.domain.drift import Finding, age_bucket
from whatsms_events.domain.events import SHAPES, Entity, Payload, TicketPayload, encode
from whatsms_events.errors import UpstreamError
from whatsms_events.storage.log.appends import Append
from whatsms_events.storage.log.commit import Outcome
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.projection.holdings import Holdings
from whatsms_events.storage.repair.looks import Doubt
from whatsms_events.storage.repair.reports import Options, Run
from whatsms_events.storage.repair.runs import Checkpoints, Item
from whatsms_events.whatsms import Client
from whatsms_events.whatsms.pages import Place

Mode = Literal["off", "narrow", "full"]
MODES: Final[tuple[Mode, ...]] = ("off", "narrow", "full")
Phase = Literal["contacts", "tickets", "campaigns", "absences", "again", "messages"]
PHASES: Final[tuple[Phase, ...]] = ("contacts", "tickets", "campaigns", "absences", "again", "messages")
"""In this order. Details are read as soon as the three lists are done, whatever the phase."""


@dataclass(frozen=True, slots=True)
class Plan:
    """When runs are due and how they go about; 0 for an interval means never.

    `settle_s`: an answer is compared so long after it came, when webhooks that were on their way have arrived.
    `absence_s`: what the vendor does not show is looked for once more, so long after. `gone_share`: the part of an
    entity that a run may mark as gone by itself. `data_limit_bytes`: what is larger as an event is left out, since a
    record over what topics take halts the relay.
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


@dataclass(frozen=True, slots=True)
class Parts:
    """What a run works with."""

    slug: str
    tenant: str
    client: Client
    checkpoints: Checkpoints
    holdings: Holdings
    event_log: EventLog
    submit: Callable[[Append], Awaitable[Outcome]]
    plan: Plan
    now: Callable[[], datetime]


class HeldBack(Struct, frozen=True, kw_only=True):
    """What a run saw that marked none of an entity as gone, since it would have been more than `limit` of `held`.

    `extra`: held here and not there, `missed`: there and not here.
    """

    extra: int
    missed: int
    held: int
    limit: int


class Standing(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a run stands. Saved in one transaction with the items it is about, so a restart goes on from here."""

    phase: Phase = "contacts"
    walk: int = 0  # which of the phase's walks
    place: Place = Place()
    stumbled: bool = False  # whether the walk was begun anew for pages that led nowhere
    tries: int = 0  # how often in a row the page of this place had no usable answer
    stuck: bool = False  # whether a walk of this phase was given up: no further pass is made
    shown: bool = False  # whether any page of this phase was read
    blind: tuple[Entity, ...] = ()  # entities of which no page was read: nothing is absent
    turn: int = 1  # a pass is every walk of the phase once
    fresh: int = 0  # ids that this pass brought
    paged: bool = False  # whether any walk of this pass had a second page
    after: str = ""  # absences: the last id that was looked at
    entity: Entity = "contact"  # absences: of which entity
    hidden: int = 0  # campaigns that their list did not show, at first
    again_at: datetime | None = None
    seen_at: datetime | None = None  # as of when the first page of the walk is
    log_end: int = 0  # before the first page of the walk
    ticket: str | None = None  # whose messages are being read
    requests: int = 0
    unusable: int = 0  # items without an id
    unseen: int = 0  # messages of ours that their ticket's list did not show
    unsettled: int = 0  # items that events kept touching, or that could not be read: left to the next run
    unstable: tuple[
        str, ...
    ] = ()  # lists that still brought something new in their last pass, or ended before their end
    ended: dict[str, str] = {}  # why, of those that ended before their end
    forbidden: int = 0  # items that the key has no right to
    forbidden_names: tuple[str, ...] = ()  # the first of them
    gone_limits: dict[Entity, int] = {}  # how many may go, once that was decided
    released: dict[Entity, int] = {}  # how many go
    held_back: dict[Entity, HeldBack] = {}
    expected: int = 0  # what the lists' counts promise
    found: dict[str, int] = {}  # "entity kind age" -> entities
    stopped: str | None = None


class Count(Struct, frozen=True, kw_only=True):
    """One cell of the drift report."""

    entity: Entity
    kind: str
    age: str
    count: int


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


class Shown(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the vendor's answer said about an item: the payload's JSON; what only lists show of it, with their own time.

    `gone`: it answered twice that there is no such thing.
    """

    payload: bytes
    listed: bytes = b""
    listed_as_of: datetime | None = None
    listed_log_end: int = 0
    gone: bool = False


log = structlog.get_logger()

_UNSAVED: Final = b"{}"
_standings = msgspec.json.Decoder(Standing)
_shown = msgspec.msgpack.Decoder(Shown)
_payloads = {entity: msgspec.json.Decoder(shape) for entity, shape in SHAPES.items()}
_json = msgspec.json.Encoder()
_msgpack = msgspec.msgpack.Encoder()


ABSURD: Final = timedelta(days=1)
"""A `Date` that is so much older than our clock is no date."""


def seen_at(as_of: datetime, asked_at: datetime) -> datetime:
    """Return as of when an answer may be believed: never later than our clock when it was asked for.

    The vendor's `Date` may come from a proxy whose clock is ahead; what happened after the answer must not look older.
    """
    return asked_at if asked_at - as_of > ABSURD else min(as_of, asked_at)


def pack(shown: Shown) -> bytes:
    """Return what `Item.payload` holds."""
    return _msgpack.encode(shown)


def unpack(item: Item) -> Shown:
    """Return what `pack` made."""
    return _shown.decode(item.payload or b"")


def split_listed(entity: Entity, payload: Payload) -> tuple[bytes, bytes]:
    """Return the JSON of what details show too, and of what only lists show (empty where they show none of it)."""
    shown = getattr(payload, entity)
    names = [name for name in LISTED_ONLY.get(entity, ()) if getattr(shown, name) is not UNSET]
    if not names:
        return encode(payload), b""
    rest = replace(payload, **{entity: replace(shown, **dict.fromkeys(names, UNSET))})
    listed = type(shown)(id=shown.id, **{name: getattr(shown, name) for name in names})
    return encode(rest), encode(type(payload)(**{entity: listed}))


def shown_payload(entity: Entity, shown: Shown, *, listed: bool = False) -> Payload:
    """Return the payload of what was shown; if `listed`, with what only lists show and it lacks."""
    payload = _payloads[entity].decode(shown.payload)
    if not listed or not shown.listed:
        return payload
    seen, beside = (getattr(one, entity) for one in (payload, _payloads[entity].decode(shown.listed)))
    lacking = [name for name in LISTED_ONLY[entity] if getattr(seen, name) is UNSET]
    return replace(payload, **{entity: replace(seen, **{name: getattr(beside, name) for name in lacking})})


def last_shown(item: Item) -> str | None:
    """Return the last message that a list showed of a ticket, None where none did or there is none."""
    listed = unpack(item).listed
    payload = _payloads[item.entity].decode(listed) if listed else None
    last = payload.ticket.last_message if isinstance(payload, TicketPayload) else None
    return last if isinstance(last, str) else None


NAMES: Final = 20
"""Of many items that the key has no right to, so many are named: in the log and in the report."""


class Course:
    """One run under way. Every change of its standing is saved together with what it is about, or not at all."""

    def __init__(self, parts: Parts, run: Run, messages: Mode) -> None:
        """Take the run; `messages` is how many lists of messages this process may read for it."""
        self.parts = parts
        self.run = run
        self.messages = messages
        # A repair has no lists and looks for nothing that is absent: details are all of it.
        first = Standing(phase="contacts" if run.kind == "reconcile" else PHASES[-1])
        try:
            saved = _standings.decode(run.progress) if run.progress != _UNSAVED else first
        except msgspec.ValidationError:  # another release's: it begins anew, and knows the items it has
            saved = first
        self.standing = replace(saved, stopped=None)  # what stopped it then may be mended now
        self.next: deque[Item] = deque()  # to be looked at; nobody else changes the items of a run

    async def save(
        self,
        standing: Standing,
        *,
        items: Sequence[Item] = (),
        drift: Sequence[Finding] = (),
        looks: Sequence[Doubt] = (),
    ) -> None:
        """Save; raise FencedError where another process goes on with this run."""
        now = self.parts.now()
        found = Counter(standing.found)
        found.update(f"{one.entity} {one.kind} {age_bucket(one.age_s)}" for one in drift)
        standing = replace(standing, found=dict(found))
        await self.parts.checkpoints.save(
            self.run, _json.encode(standing), now=now, items=items, drift=drift, looks=looks
        )
        self.standing = standing

    async def list_items(self, standing: Standing, items: Mapping[str, Item]) -> None:
        """Save what a page showed: new items, and newer views of those that wait to be compared."""
        await self.parts.checkpoints.list_items(
            self.run, list(items.values()), _json.encode(standing), now=self.parts.now()
        )
        self.standing = standing

    async def finish(self) -> Report:
        """Close the run, its items with it, and return its report."""
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
            drift=[_cell(name, count) for name, count in sorted(standing.found.items())],
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
        """Let nothing wait longer than anything here waits: a clock was set back since that was noted."""
        now, plan, again_at = self.parts.now(), self.parts.plan, self.standing.again_at
        latest = now + timedelta(seconds=max(plan.settle_s, plan.absence_s))
        await self.parts.checkpoints.pull_in(self.run, latest, now=now)
        if again_at is not None and again_at > latest:
            await self.save(replace(self.standing, again_at=latest))

    def settled_at(self) -> datetime:
        """Return from when on an answer that came just now may be compared."""
        return self.parts.now() + timedelta(seconds=self.parts.plan.settle_s)


def without(standing: Standing, slug: str, what: str, error: UpstreamError) -> Standing:
    """Return the standing with one more item that the key has no right to; the first NAMES are named, and logged."""
    standing = replace(standing, forbidden=standing.forbidden + 1)
    if len(standing.forbidden_names) >= NAMES:
        return standing
    log.warning("detail.forbidden", tenant=slug, subject=what, reason=str(error))
    return replace(standing, forbidden_names=(*standing.forbidden_names, what))


def _cell(name: str, count: int) -> Count:
    entity, kind, age = name.split(" ")
    return msgspec.convert({"entity": entity, "kind": kind, "age": age, "count": count}, Count)
