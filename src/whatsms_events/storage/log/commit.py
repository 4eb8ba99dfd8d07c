"""This module commits one batch of deliveries, and answers each of them as soon as it is in the database.

A new event is answered even if a later statement of the batch fails. No delivery is answered before it is committed.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal, Protocol, assert_never, get_args
from uuid import UUID

import structlog
from msgspec import Struct

from whatsms_events import metrics
from whatsms_events.domain.events import Event, Origin, to_micros
from whatsms_events.domain.marks import Suppressions
from whatsms_events.domain.suppression import suppressed, suppressed_park
from whatsms_events.domain.verdicts import Append, Delivery, Park
from whatsms_events.errors import StorageUnavailableError, UnstorableError
from whatsms_events.storage.log.appends import Appends, EventRow, event_row, park_row
from whatsms_events.storage.trouble import translated

log = structlog.get_logger()


class Outcome(Struct, frozen=True):
    """What became of a delivery; it is committed. Where it was parked, `position` is None and `reason` says why.

    `event` is the event of one that was accepted.
    """

    kind: Literal["accepted", "duplicate", "parked"]
    id: UUID
    position: int | None
    redelivered: bool
    reason: str | None = None
    event: Event | None = None


class PendingOutcome(Protocol):
    """Who waits for the outcome of a delivery: a handler by its future, or a connection.

    An error is a result here, not an exception: if the handler has gone, nobody would take the exception.
    """

    def done(self) -> bool:
        """Tell whether there is an outcome already, or nobody waits for one."""

    def set_result(self, result: Outcome | Exception, /) -> None:
        """Take the outcome; raise nothing."""


class Arriving(Struct, eq=False):
    """A delivery that waits for its judgement. It takes room for its size in the name of its tenant.

    `deadline` is a time of the event loop's clock.
    """

    tenant: str
    size: int
    answer: PendingOutcome
    deadline: float
    delivery: Delivery


class Appending(Struct, eq=False):
    """An event that waits for its commit."""

    tenant: str
    size: int
    answer: PendingOutcome
    deadline: float
    item: Append
    row: EventRow
    unsure: bool = False  # an earlier try may have been committed


class Parking(Struct, eq=False):
    """A parked delivery that waits for its commit."""

    tenant: str
    size: int
    answer: PendingOutcome
    deadline: float
    item: Park


Waiting = Appending | Parking


def waiting_for(item: Append | Park, answer: PendingOutcome, deadline: float) -> Waiting:
    """Return the item as one that waits for its commit, with its row built."""
    size = len(item.raw)
    if isinstance(item, Append):
        return Appending(item.event.tenant, size, answer, deadline, item, event_row(item))
    return Parking(item.tenant, size, answer, deadline, item)


def suppress(one: Waiting, suppressions: Suppressions) -> None:
    """Blank what the item tells of people who were forgotten before that."""
    match one:
        case Appending():
            item = suppressed(one.item, suppressions)
            if item is not one.item:
                one.item, one.row = item, event_row(item)
                metrics.SUPPRESSED.labels(item.event.type.value).inc()
        case Parking():
            park = suppressed_park(one.item, suppressions)
            if park is not one.item:
                one.item = park
                metrics.SUPPRESSED.labels("parked").inc()
        case _:
            assert_never(one)


def give(answer: PendingOutcome, outcome: Outcome | Exception) -> None:
    """Answer the handler, if it still waits."""
    if not answer.done():  # its deadline may have passed, or its handler was cancelled
        answer.set_result(outcome)


class Commit:
    """One batch on its way into the database. Each statement's answers are given before the next statement starts."""

    def __init__(self, statements: Appends, on_commit: Callable[[int], None]) -> None:
        self._statements = statements
        self._on_commit = on_commit
        self._types: dict[Origin, Counter[str]] = {one: Counter() for one in get_args(Origin)}
        self._parked: Counter[str] = Counter()
        self._duplicates: Counter[Origin] = Counter()

    async def append(self, waiting: Sequence[Appending]) -> None:
        """Append the first event of each id; recognise the others, and the events that are in the log already."""
        firsts: dict[UUID, Appending] = {}
        repeats = [one for one in waiting if firsts.setdefault(one.item.event.id, one) is not one]
        known = await self._insert(list(firsts.values()))
        await self._recognise([*known, *repeats])

    async def park(self, waiting: Sequence[Parking]) -> None:
        """Park one row for each id, however often it comes. A park is never sent again, or it would count twice."""
        if not waiting:
            return
        counts = Counter(one.item.id for one in waiting)
        rows = {one.item.id: park_row(one.item, counts[one.item.id]) for one in reversed(waiting)}
        try:
            with translated():
                totals = await self._statements.park(list(reversed(rows.values())))
        except (StorageUnavailableError, UnstorableError) as exc:
            _refuse(waiting, exc)
            raise
        for one in waiting:
            give(one.answer, Outcome("parked", one.item.id, None, totals[one.item.id] > 1, one.item.reason))
            self._parked[one.item.reason] += 1

    def report(self) -> None:
        """Count and log what was done: accepted deliveries are one line a commit, observations another."""
        for types in self._types.values():
            for name, count in types.items():
                metrics.APPENDED.labels(name).inc(count)
        for name, count in self._parked.items():
            metrics.PARKED.labels("door", name).inc(count)
        types, duplicates = self._types["webhook"], self._duplicates["webhook"]
        if types or duplicates:
            log.info("delivery.accepted", types=dict(types), duplicates=duplicates)
        types, duplicates = self._types["backfill"], self._duplicates["backfill"]
        if types or duplicates:
            log.info("observation.appended", types=dict(types), duplicates=duplicates)

    async def _insert(self, waiting: Sequence[Appending]) -> list[Appending]:
        """Append; return events whose id is in the log. A refused batch is halved until its bad row is alone."""
        if not waiting:
            return []
        try:
            with translated():
                positions = await self._statements.insert([one.row for one in waiting])
        except UnstorableError as exc:
            if len(waiting) == 1:
                await self.park([_parked_instead(waiting[0], "unstorable", str(exc))])
                return []
            middle = len(waiting) // 2
            return [*await self._insert(waiting[:middle]), *await self._insert(waiting[middle:])]
        except StorageUnavailableError:
            for one in waiting:
                one.unsure = True
            raise
        for one in waiting:
            if (position := positions.get(one.item.event.id)) is not None:
                self._accept(one, position)
        if positions:
            self._on_commit(max(positions.values()))
        return [one for one in waiting if one.item.event.id not in positions]

    def _accept(self, one: Appending, position: int) -> None:
        self._types[one.item.event.origin][one.item.event.type.value] += 1
        event = one.item.event
        give(one.answer, Outcome("accepted", event.id, position, redelivered=False, event=event))

    async def _recognise(self, waiting: Sequence[Appending]) -> None:
        """Answer for ids that are in the log: sent again by us, redelivered, or a collision."""
        if not waiting:
            return
        with translated():
            stored = await self._statements.find(list({one.item.event.id for one in waiting}))
        again: list[tuple[Appending, int]] = []
        ours: list[tuple[Appending, int]] = []  # rows of the try whose outcome was unknown
        collisions: list[Parking] = []
        for one in waiting:
            row = stored.get(one.item.event.id)
            if row is None:
                give(one.answer, StorageUnavailableError("neither appended nor found"))
            elif (row.tenant, row.sha256) != (one.item.event.tenant, one.item.sha256):
                collisions.append(_parked_instead(one, "collision", f"position {row.position}"))
            elif one.unsure and row.received_at == to_micros(one.item.event.received_at):
                ours.append((one, row.position))
            else:
                again.append((one, row.position))
        await self._confirm(ours)
        await self._count(again)
        await self.park(collisions)

    async def _confirm(self, ours: Sequence[tuple[Appending, int]]) -> None:
        """Accept events that an earlier try of ours has put into the log, once they are durable."""
        if not ours:
            return
        with translated():
            await self._statements.confirm([one.item.event.id for one, _ in ours])
        for one, position in ours:
            self._accept(one, position)

    async def _count(self, again: Sequence[tuple[Appending, int]]) -> None:
        """Count redeliveries and answer them. The statement is never sent again, or it would count twice."""
        if not again:
            return
        counts = Counter(one.item.event.id for one, _ in again)
        last = {one.item.event.id: to_micros(one.item.event.received_at) for one, _ in again}
        try:
            with translated():
                await self._statements.count([(key, count, last[key]) for key, count in counts.items()])
        except (StorageUnavailableError, UnstorableError) as exc:
            _refuse([one for one, _ in again], exc)
            raise
        for one, position in again:
            self._duplicates[one.item.event.origin] += 1
            give(one.answer, Outcome("duplicate", one.item.event.id, position, redelivered=True))


def _refuse(waiting: Sequence[Waiting], cause: Exception) -> None:
    for one in waiting:
        give(one.answer, StorageUnavailableError(str(cause)))


def _parked_instead(one: Appending, reason: str, detail: str) -> Parking:
    event = one.item.event
    raw = b"" if one.item.blanked else one.item.raw
    sha256, signed_by = one.item.sha256, one.item.signed_by
    item = Park(event.id, event.tenant, reason, detail, event.received_at, raw, sha256, None, signed_by)
    return Parking(one.tenant, one.size, one.answer, one.deadline, item)
