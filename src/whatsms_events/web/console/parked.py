"""The page Parked: what could not be understood or applied, its bytes on request, and buttons to try again or discard.

A button does what `whatsms-events parked` does, through the same code.
"""

import asyncio
import time
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal
from urllib.parse import urlencode
from uuid import UUID

from aiohttp import hdrs, web

from whatsms_events.errors import InvalidEventError, NotFoundError
from whatsms_events.storage.log.parked import Parked, ParkedDelivery
from whatsms_events.storage.log.retry import DeliveryRetry
from whatsms_events.storage.projection.parked import ParkedEvent, ParkedEvents, ReadPlace, parked_name
from whatsms_events.storage.projection.retry import Retry
from whatsms_events.storage.pulse import ParkedCounts, Pulse
from whatsms_events.web.access import require
from whatsms_events.web.console.frame import HEADERS, Brought, Frame, Visit
from whatsms_events.web.questions import bad, not_found, parameters

ParkedStage = Literal["door", "fold"]
STAGES: Final[Mapping[str, ParkedStage]] = {"door": "door", "fold": "fold"}

LISTED: Final = 50
SHOWN_BYTES: Final = 64 * 1024
"""So much of the bytes stands on a page; the whole is a file to keep."""

RETRY_S: Final = 4.0
"""So long a button works on all with a reason; what is left then is for the next time, or for the command."""


@dataclass(frozen=True, slots=True)
class ParkedParts:
    """What the page asks, and what its buttons do."""

    pulse: Pulse
    deliveries: Parked
    events: ParkedEvents
    retry_deliveries: DeliveryRetry
    retry_events: Retry


@dataclass(frozen=True, slots=True)
class ParkedRow:
    """One parked thing as the list shows it. `type` is known of events alone, `count` of deliveries alone."""

    name: str
    stage: ParkedStage
    tenant: str
    reason: str
    detail: str
    at: datetime
    size_bytes: int
    type: str | None = None
    count: int | None = None
    signed_by: str | None = None


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
        ]

    async def _page(self, visit: Visit) -> web.Response:
        asked = parameters(visit.request, "stage", "reason", "after", "said", "by")
        stage, reason = _stage(asked), asked.get("reason")
        parts, listing = self._parts, self._rows(visit, stage, reason, asked.get("after"))
        async with asyncio.TaskGroup() as tasks:
            door = tasks.create_task(visit.asked("What is parked at the door", parts.pulse.parked_at_door()))
            fold = tasks.create_task(visit.asked("What is parked at the fold", parts.pulse.parked_at_fold()))
            rows = tasks.create_task(visit.asked("The list", listing))
        shown = rows.result().value or []
        return visit.page(
            "parked.html",
            places=[("door", door.result()), ("fold", fold.result())],
            stage=stage,
            reason=reason,
            rows=rows.result(),
            more=_more(stage, reason, shown),
            nothing=_nothing(door.result()) and _nothing(fold.result()),
        )

    async def _rows(self, visit: Visit, stage: ParkedStage, reason: str | None, after: str | None) -> list[ParkedRow]:
        """Return a page of one place's list: deliveries oldest first, events by where they were read."""
        found = None if after is None else parked_name(after)
        if stage == "fold":
            place = found if isinstance(found, ReadPlace) else None
            return [_event_row(visit, one) for one in await self._parts.events.page(place, LISTED, reason=reason)]
        last = await self._parts.deliveries.show(found) if isinstance(found, UUID) else None
        page = await self._parts.deliveries.list(None if last is None else last[0], LISTED, reason=reason)
        return [_delivery_row(visit, one) for one in page]

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
                return _delivery_row(visit, delivery[0]), delivery[1]
        else:
            rows, event = await self._parts.events.at(name), await self._parts.events.bytes_of(name)
            if rows is not None and event is not None:
                return _event_row(visit, rows), event.raw
        raise NotFoundError(f"nothing is parked by the name {name} any more")

    async def _ask(self, visit: Visit) -> web.Response:
        """Ask once more before something is discarded: nothing brings it back."""
        choice = _choice(parameters(visit.request, "name", "stage", "reason"))
        row = None if choice.name is None else (await self._found(visit, choice.name))[0]
        return visit.page("parked_discard.html", choice=choice, row=row)

    async def _retry(self, visit: Visit, fields: Mapping[str, str]) -> web.Response:
        choice = _choice(fields)
        visit.did("parked.retry", _subject(choice))
        try:
            said = await self._retried(choice)
        except InvalidEventError as exc:
            said = f"It is still not understood, and stays parked: {exc.reason} {exc.detail}"
        return visit.back(_list(choice), said)

    async def _retried(self, choice: ParkedChoice) -> str:
        """Try again what was chosen, and return in words what became of it."""
        end = time.monotonic() + self._retry_s
        parts, enough = self._parts, lambda: time.monotonic() > end
        match choice.name:
            case UUID() as name:
                taken = await parts.retry_deliveries.one(name)
                if taken is None:
                    raise NotFoundError(f"nothing is parked by the name {name} any more")
                return f"It is {'in the log already' if taken.duplicate else 'appended'}, at position {taken.position}."
            case None if choice.stage == "door":
                tried = await parts.retry_deliveries.all(choice.reason, enough=enough)
                said = f"{tried.appended} appended, {tried.parked} still parked."
                return said if tried.whole else f"{said} {_REST}"
            case _:
                events = parts.retry_events
                one = choice.name
                done = await (events.all(choice.reason, enough=enough) if one is None else events.one(one))
                if done is None:
                    raise NotFoundError(f"nothing is parked by the name {one} any more")
                left = "".join(f", {count} still parked for {reason}" for reason, count in sorted(done.parked.items()))
                said = f"{done.applied} applied{left}."
                return said if done.whole else f"{said} {_REST}"

    async def _discard(self, visit: Visit, fields: Mapping[str, str]) -> web.Response:
        choice, parts = _choice(fields), self._parts
        gone: Awaitable[int]
        match choice.name:
            case UUID() as name:
                gone = parts.deliveries.discard(name)
            case ReadPlace() as place:
                gone = parts.events.discard(place)
            case _ if choice.stage == "door":
                gone = parts.deliveries.discard_all(choice.reason)
            case _:
                gone = parts.events.discard_all(choice.reason)
        count = int(await gone)
        visit.did("parked.discard", _subject(choice), count=count)
        return visit.back(_list(choice), f"{count} discarded." if count else "It was gone already.")


_REST: Final = "The time was up before all were tried: press again, or use `whatsms-events parked retry --reason`."


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


def _more(stage: ParkedStage, reason: str | None, rows: list[ParkedRow]) -> str | None:
    if len(rows) < LISTED:
        return None
    wanted = {"stage": stage, **({} if reason is None else {"reason": reason}), "after": rows[-1].name}
    return f"/parked?{urlencode(wanted)}"


def _delivery_row(visit: Visit, one: ParkedDelivery) -> ParkedRow:
    return ParkedRow(
        name=str(one.id),
        stage="door",
        tenant=visit.slug_of(one.tenant),
        reason=one.reason,
        detail=one.detail,
        at=one.received_at,
        size_bytes=one.size_bytes,
        count=one.count,
        signed_by=one.signed_by,
    )


def _event_row(visit: Visit, one: ParkedEvent) -> ParkedRow:
    return ParkedRow(
        name=str(one.place),
        stage="fold",
        tenant=visit.slug_of(one.tenant),
        reason=one.reason,
        detail=one.detail,
        at=one.parked_at,
        size_bytes=one.size_bytes,
        type=one.type,
    )
