"""The page Parked: what could not be understood or applied, its bytes on request, and buttons for what to do with it.

A button does what `whatsms-events parked` does, through the same code.
"""

import asyncio
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal
from urllib.parse import urlencode
from uuid import UUID

from aiohttp import hdrs, web

from whatsms_events.domain.events import from_micros
from whatsms_events.domain.retention import RetentionTerms
from whatsms_events.errors import InvalidEventError, NotFoundError, TransientError
from whatsms_events.storage.log.parked import ArrivalPlace, Parked, ParkedDelivery
from whatsms_events.storage.log.retry import DeliveryRetry
from whatsms_events.storage.projection.apply import Retried
from whatsms_events.storage.projection.parked import ParkedEvent, ParkedEvents, ReadPlace, parked_name
from whatsms_events.storage.projection.retry import Retry
from whatsms_events.storage.pulse import ParkedCounts, Pulse
from whatsms_events.web.access import require
from whatsms_events.web.console.frame import HEADERS, Brought, Frame, Visit
from whatsms_events.web.console.rendering import utc
from whatsms_events.web.questions import BY_ARRIVAL, BY_PLACE, bad, key_after, not_found, number, parameters
from whatsms_events.web.views import opaque

ParkedStage = Literal["door", "fold"]
STAGES: Final[Mapping[str, ParkedStage]] = {"door": "door", "fold": "fold"}

LISTED: Final = 50
SHOWN_BYTES: Final = 64 * 1024
"""So much of the bytes stands on a page; the whole is a file to keep."""

SHOWN_DISCARDS: Final = 10
"""Discards that can be undone as a whole; what was discarded before them is restored one by one, or by the command."""

RETRY_S: Final = 4.0
"""So long a button works on all with a reason; what is left then is for the next time, or for the command."""


@dataclass(frozen=True, slots=True)
class ParkedParts:
    """What the page asks, and what its buttons do. `terms` say until when what was discarded is kept."""

    pulse: Pulse
    deliveries: Parked
    events: ParkedEvents
    retry_deliveries: DeliveryRetry
    retry_events: Retry
    terms: RetentionTerms


@dataclass(frozen=True, slots=True)
class ParkedRow:
    """One thing as the page shows it; `tenant` is the slug. `until` is when what was discarded goes, None for never."""

    thing: ParkedDelivery | ParkedEvent
    tenant: str
    until: datetime | None = None

    @property
    def stage(self) -> ParkedStage:
        """Return where it was parked."""
        return "door" if isinstance(self.thing, ParkedDelivery) else "fold"

    @property
    def place(self) -> ArrivalPlace | ReadPlace:
        """Return where it stands in its list."""
        return self.thing.place

    @property
    def name(self) -> str:
        """Return its name, as commands take it."""
        return str(self.thing.id if isinstance(self.thing, ParkedDelivery) else self.thing.place)

    @property
    def at(self) -> datetime:
        """Return when it came, or was parked."""
        return self.thing.received_at if isinstance(self.thing, ParkedDelivery) else self.thing.parked_at


@dataclass(frozen=True, slots=True)
class ParkedPlace:
    """One of the two places, and what is counted there."""

    stage: ParkedStage
    parked: Brought[ParkedCounts]
    discarded: Brought[ParkedCounts]


@dataclass(frozen=True, slots=True)
class ParkedChoice:
    """What a button is about: one thing by its name, or all of one place with one reason."""

    name: UUID | ReadPlace | None
    stage: ParkedStage
    reason: str

    @property
    def words(self) -> str:
        """Say what it is."""
        kind = "delivery" if self.stage == "door" else "event"
        if self.name is not None:
            return f"the {kind} {self.name}"
        plural = "deliveries" if self.stage == "door" else "events"
        return f"all {plural} that are parked for {self.reason}"


class ParkedPage:
    """The page and its buttons."""

    title = "Parked"
    path = "/parked"

    def __init__(self, frame: Frame, parts: ParkedParts, *, retry_s: float = RETRY_S) -> None:
        self._frame = frame
        self._parts = parts
        self._retry_s = retry_s

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the routes."""
        frame = self._frame
        return [
            frame.get(self.path, self._page),
            frame.get("/parked/one", self._one),
            frame.get("/parked/bytes", self._bytes, scope="personal"),
            frame.get("/parked/discard", self._ask, scope="operate"),
            frame.post("/parked/retry", self._retry),
            frame.post("/parked/discard", self._discard),
            frame.post("/parked/restore", self._restore),
        ]

    async def _page(self, visit: Visit) -> web.Response:
        asked = parameters(visit.request, "stage", "reason", "discarded", "after", "reached", "said", "by")
        stage, reason, discarded = _stage(asked), asked.get("reason"), number(asked, "discarded", 0, 0, 1) == 1
        after = _after(asked, stage)
        async with asyncio.TaskGroup() as tasks:
            places = tasks.create_task(self._places(visit))
            listing = self._rows(visit, stage, reason, after, discarded=discarded)
            rows = tasks.create_task(visit.asked("The list", listing))
        return visit.page(
            "parked.html",
            places=places.result(),
            stage=stage,
            reason=reason,
            discarded=discarded,
            reached=asked.get("reached"),
            shown_discards=SHOWN_DISCARDS,
            rows=rows.result(),
            more=_more(asked, stage, rows.result().value or []),
            nothing=all(_nothing(one.parked) for one in places.result()),
        )

    async def _places(self, visit: Visit) -> list[ParkedPlace]:
        """Count what is parked and what was discarded, at both places."""
        pulse = self._parts.pulse
        return [
            ParkedPlace(
                "door",
                await visit.asked("What is parked at the door", pulse.parked_at_door()),
                await visit.asked("What was discarded at the door", pulse.discarded_at_door()),
            ),
            ParkedPlace(
                "fold",
                await visit.asked("What is parked at the fold", pulse.parked_at_fold()),
                await visit.asked("What was discarded at the fold", pulse.discarded_at_fold()),
            ),
        ]

    async def _rows(
        self,
        visit: Visit,
        stage: ParkedStage,
        reason: str | None,
        after: ArrivalPlace | ReadPlace | None,
        *,
        discarded: bool,
    ) -> list[ParkedRow]:
        """Return a page of one place's list: deliveries oldest first, events by where they were read."""
        found: Sequence[ParkedDelivery | ParkedEvent]
        if stage == "fold":
            place = after if isinstance(after, ReadPlace) else None
            found = await self._parts.events.page(place, LISTED, reason=reason, discarded=discarded)
        else:
            came = after if isinstance(after, ArrivalPlace) else None
            found = await self._parts.deliveries.list(came, LISTED, reason=reason, discarded=discarded)
        return [self._row(visit, one) for one in found]

    def _row(self, visit: Visit, one: ParkedDelivery | ParkedEvent) -> ParkedRow:
        row = ParkedRow(one, visit.slug_of(one.tenant))
        if one.discarded_at is None:
            return row
        return replace(row, until=self._parts.terms.restorable_until(one.tenant, row.at, one.discarded_at))

    async def _one(self, visit: Visit) -> web.Response:
        asked = parameters(visit.request, "name", "bytes", "said", "by")
        row, raw = await self._found(visit, _name(asked))
        wanted = asked.get("bytes") == "1"
        if wanted:
            require(visit.request, "personal")
            visit.showed("parked", row.name)
        text = raw[:SHOWN_BYTES].decode("utf-8", "replace") if wanted else None
        return visit.page("parked_one.html", row=row, text=text, cut=len(raw) > SHOWN_BYTES)

    async def _bytes(self, visit: Visit) -> web.Response:
        row, raw = await self._found(visit, _name(parameters(visit.request, "name")))
        visit.showed("parked", row.name)
        headers = {
            **HEADERS,
            hdrs.CONTENT_TYPE: "application/octet-stream",
            hdrs.CONTENT_DISPOSITION: 'attachment; filename="parked.bin"',
        }
        return web.Response(body=raw, headers=headers)

    async def _found(self, visit: Visit, name: UUID | ReadPlace) -> tuple[ParkedRow, bytes]:
        """Return one thing and its bytes; raise NotFoundError where it is not there (any more)."""
        if isinstance(name, UUID):
            delivery = await self._parts.deliveries.show(name)
            if delivery is not None:
                return self._row(visit, delivery[0]), delivery[1]
        else:
            shown, event = await self._parts.events.at(name), await self._parts.events.bytes_of(name)
            if shown is not None and event is not None:
                return self._row(visit, shown), event.raw
        raise _missing(name)

    async def _ask(self, visit: Visit) -> web.Response:
        """Ask once more before something is discarded, and say for how long it can be restored."""
        choice = _choice(parameters(visit.request, "name", "stage", "reason"))
        if choice.name is None:
            return visit.page("parked_discard.html", choice=choice, row=None, over=False)
        row = (await self._found(visit, choice.name))[0]
        until = self._parts.terms.restorable_until(row.thing.tenant, row.at, visit.now)
        over = until is not None and until <= visit.now
        return visit.page("parked_discard.html", choice=choice, row=replace(row, until=until), over=over)

    async def _retry(self, visit: Visit, fields: Mapping[str, str]) -> web.Response:
        choice = _choice(fields)
        go_on: ArrivalPlace | ReadPlace | None = None
        count: int | None = 0
        try:
            said, count, go_on = await self._retried(choice, _after(fields, choice.stage))
        except InvalidEventError as exc:
            said = f"It is still not understood, and stays parked: {exc.reason} {exc.detail}"
        except (TransientError, asyncio.CancelledError):
            visit.did("parked.retry", _subject(choice))  # some may have been retried, and nobody knows how many
            raise
        if count is not None:
            visit.did("parked.retry", _subject(choice), count=count)
        if go_on is None:
            return visit.back(_list(choice), said)
        there = urlencode({"stage": choice.stage, "reason": choice.reason, "reached": opaque(go_on)})
        return visit.back(f"/parked?{there}", f"{said} {_REST}")

    async def _retried(
        self, choice: ParkedChoice, after: ArrivalPlace | ReadPlace | None
    ) -> tuple[str, int | None, ArrivalPlace | ReadPlace | None]:
        """Try again what was chosen; return in words what became of it, and where to go on if it is not done.

        Between them stands how many are parked no more; None where there was nothing to try.
        """
        end = time.monotonic() + self._retry_s
        parts, enough = self._parts, lambda: time.monotonic() > end
        match choice.name:
            case UUID() as name:
                taken = await parts.retry_deliveries.one(name)
                if taken is None:
                    raise _missing(name)
                how = "in the log already" if taken.duplicate else "appended"
                return f"It is {how}, at position {taken.position}.", 1, None
            case ReadPlace() as name:
                one = await parts.retry_events.one(name)
                if one is None:
                    raise _missing(name)
                return _applied(one), _count(one.applied, one.parked), None
            case _ if choice.stage == "door":
                came = after if isinstance(after, ArrivalPlace) else None
                tried = await parts.retry_deliveries.all(choice.reason, after=came, enough=enough)
                return (
                    f"{tried.words}, {tried.parked} still parked.",
                    _count(tried.appended + tried.known, tried.parked),
                    tried.go_on,
                )
            case _:
                read = after if isinstance(after, ReadPlace) else None
                done = await parts.retry_events.all(choice.reason, after=read, enough=enough)
                return _applied(done), _count(done.applied, done.parked), done.go_on

    async def _discard(self, visit: Visit, fields: Mapping[str, str]) -> web.Response:
        choice, parts = _choice(fields), self._parts
        gone: Awaitable[int]
        match choice.name:
            case UUID() as name:
                gone = parts.deliveries.discard(name, visit.now)
            case ReadPlace() as place:
                gone = parts.events.discard(place, visit.now)
            case _ if choice.stage == "door":
                gone = parts.deliveries.discard_all(choice.reason, visit.now)
            case _:
                gone = parts.events.discard_all(choice.reason, visit.now)
        count = int(await gone)
        if count:
            visit.did("parked.discard", _subject(choice), count=count)
        said = f"{count} discarded.{await self._how_long(visit, choice)}" if count else "It was gone already."
        return visit.back(_list(choice), said)

    async def _how_long(self, visit: Visit, choice: ParkedChoice) -> str:
        """Say until when what was just discarded can be restored."""
        if choice.name is None:
            return " Undo brings them back; the list of what was discarded says until when."
        until = (await self._found(visit, choice.name))[0].until
        return f" It can be restored{'' if until is None else f' until {utc(until)}'}."

    async def _restore(self, visit: Visit, fields: Mapping[str, str]) -> web.Response:
        choice, parts = _choice(fields), self._parts
        one_discard = None if choice.name is not None else from_micros(number(fields, "at", 0, 1, _LATEST))
        back: Awaitable[int]
        match choice.name:
            case UUID() as name:
                back = parts.deliveries.restore(name)
            case ReadPlace() as place:
                back = parts.events.restore(place)
            case _ if choice.stage == "door":
                back = parts.deliveries.restore_all(choice.reason, one_discard)
            case _:
                back = parts.events.restore_all(choice.reason, one_discard)
        count = int(await back)
        if count:
            visit.did("parked.restore", _subject(choice), count=count)
        said = f"{count} restored: parked as before." if count else _TOO_LATE
        return visit.back(_list(choice), said)


_LATEST: Final = 2**53
"""Microseconds until the year 2255: what a date can be made of."""

_REST: Final = "The time was up before all were tried: go on with the rest below."
_TOO_LATE: Final = "Nothing was restored: it is parked already, or its time was over and its bytes are gone."


def _applied(done: Retried) -> str:
    left = "".join(f", {count} still parked for {reason}" for reason, count in sorted(done.parked.items()))
    return f"{done.applied} applied{left}{done.gone_words}."


def _count(done: int, parked: object) -> int | None:
    """Return how many were retried with success; None where none was there to try, since none stays parked either."""
    return done if done or parked else None


def _missing(name: UUID | ReadPlace) -> NotFoundError:
    why = "it was tried again with success, or its time was over and its bytes are gone"
    return NotFoundError(f"nothing is parked by the name {name} any more: {why}")


def _nothing(asked: Brought[ParkedCounts]) -> bool:
    return asked.value is not None and not asked.value.rows


def _stage(asked: Mapping[str, str]) -> ParkedStage:
    if asked.get("stage", "door") not in STAGES:
        raise bad("stage", "must be door or fold")
    return STAGES[asked.get("stage", "door")]


def _name(asked: Mapping[str, str]) -> UUID | ReadPlace:
    found = parked_name(asked.get("name", ""))
    if found is None:
        raise not_found()
    return found


def _choice(asked: Mapping[str, str]) -> ParkedChoice:
    """Return what a form or a link is about; raise 400 where it names nothing, or both."""
    if ("name" in asked) == ("reason" in asked):
        raise bad("name", "or reason is needed, and not both")
    if "name" in asked:
        name = _name(asked)
        return ParkedChoice(name, "door" if isinstance(name, UUID) else "fold", "")
    return ParkedChoice(None, _stage(asked), asked["reason"])


def _subject(choice: ParkedChoice) -> str:
    return f"{choice.stage}: {choice.reason}" if choice.name is None else str(choice.name)


def _list(choice: ParkedChoice) -> str:
    return f"/parked?stage={choice.stage}"


def _more(asked: Mapping[str, str], stage: ParkedStage, rows: list[ParkedRow]) -> str | None:
    if len(rows) < LISTED:
        return None
    wanted = {name: asked[name] for name in ("reason", "discarded") if name in asked}
    return f"/parked?{urlencode({'stage': stage, **wanted, 'after': opaque(rows[-1].place)})}"


def _after(asked: Mapping[str, str], stage: ParkedStage) -> ArrivalPlace | ReadPlace | None:
    """Return the place behind which to go on; raise 400 where it is none of this list."""
    found = key_after(asked, BY_ARRIVAL if stage == "door" else BY_PLACE)
    return None if found is None else ArrivalPlace(*found) if stage == "door" else ReadPlace(*found)
