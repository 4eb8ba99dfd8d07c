"""The committer appends what the door takes in: many handlers wait while one task owns the connection and commits.

It groups commits without a timer: a batch is what arrived while the last commit ran. That is judged at once, and
committed in one go. If the connection breaks and nobody knows whether an event was committed, the event is sent again
on a new connection, as long as a handler waits for it. The event's id makes that safe.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from operator import attrgetter
from typing import Final

import structlog

from whatsms_events import metrics
from whatsms_events.domain.marks import Suppressions
from whatsms_events.domain.verdicts import Append, Delivery, Park, Verified, judge
from whatsms_events.errors import (
    OverloadedError,
    StorageReplacedError,
    StorageUnavailableError,
    UnstorableError,
)
from whatsms_events.storage.database import Database
from whatsms_events.storage.log.appends import Appends, appends
from whatsms_events.storage.log.commit import (
    Appending,
    Arriving,
    Commit,
    Outcome,
    Parking,
    PendingOutcome,
    Waiting,
    give,
    suppress,
    waiting_for,
)
from whatsms_events.storage.log.room import Room, take_fairly
from whatsms_events.storage.log.secret_uses import SecretUses
from whatsms_events.storage.log.suppression import HeldSuppressions

BATCH_LIMIT: Final = 2000  # SQLite binds at most 32,766 values in a statement, and a row has 14
BATCH_LIMIT_BYTES: Final = 16 * 1024 * 1024
BACKOFF_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0)

JUDGE_LIMIT: Final = 256
JUDGE_LIMIT_BYTES: Final = 1024 * 1024
"""So much is judged before other tasks have their turn: about ten milliseconds."""

LOOK_S: Final = 0.05
"""While a commit takes long, deadlines are noticed and wrong signatures are refused at most so late."""

_tenant, _size = attrgetter("tenant"), attrgetter("size")

log = structlog.get_logger()


class Committer:
    """The one writer of the log in this process. `on_commit` is told the highest position of each commit.

    `shared` is whether several tenants deliver to it, so that none may take the whole queue.
    """

    def __init__(
        self,
        database: Database,
        *,
        batch_limit: int,
        queue_limit: int,
        queue_limit_bytes: int,
        on_commit: Callable[[int], None],
        shared: bool = False,
        suppressions: HeldSuppressions | None = None,
    ) -> None:
        self._database = database
        self._suppressions = suppressions or HeldSuppressions(database)
        self._batch_limit = min(batch_limit, BATCH_LIMIT)
        self._on_commit = on_commit
        self._arrivals: deque[Arriving] = deque()  # what is to be judged
        self._queue: deque[Waiting] = deque()  # what is to be committed
        self._committing: Sequence[Waiting] = ()
        self._places = Room(queue_limit, "the queue", shared=shared)
        self._bytes = Room(queue_limit_bytes, "the bytes of the queue", shared=shared)
        self._arrived = asyncio.Event()
        self._look_timer: asyncio.TimerHandle | None = None
        self._closing = False
        self._uses = SecretUses(database)
        self._away = ""  # why the database is away, while it is
        self._refusing = ""  # why nothing is taken in, while that is so
        self._unknown_marks: str | None = None  # why some marks cannot be looked for
        self.connected = asyncio.Event()  # once it has had a connection
        metrics.QUEUED_DELIVERIES.set_function(lambda: self._places.used)

    @property
    def problem(self) -> str | None:
        """Say why nothing can be committed now, as far as that is known."""
        return self._refusing or self._away or None

    def suppressions(self) -> Suppressions:
        """Return the marks of who was forgotten, as of the last look: some twenty seconds old at most."""
        return self._suppressions.now

    def change(self, *, batch_limit: int, queue_limit: int, queue_limit_bytes: int, shared: bool) -> None:
        """Have other limits from the next batch on."""
        self._batch_limit = min(batch_limit, BATCH_LIMIT)
        self._places.change(queue_limit, shared=shared)
        self._bytes.change(queue_limit_bytes, shared=shared)

    def refuse(self, why: str) -> None:
        """Take nothing in and say why, until `run` has a connection: for a start that waits for its database."""
        self._refusing = why

    async def deliver(self, delivery: Delivery, *, deadline_s: float) -> Outcome:
        """Queue a delivery, and return its outcome once it is judged and committed.

        Raise SignatureError where no secret fits, and what `submit` raises; what is refused for want of room is not
        judged.
        """
        answer: asyncio.Future[Outcome | Exception] = asyncio.get_running_loop().create_future()
        self.take(delivery, answer, deadline_s=deadline_s)
        try:
            return _told(await answer)
        finally:
            del answer  # an error's traceback would hold this frame, the frame the answer, and that the error

    def take(self, delivery: Delivery, answer: PendingOutcome, *, deadline_s: float) -> None:
        """Queue a delivery whose outcome `answer` gets; raise at once where there is no room for it, as `deliver`."""
        deadline = asyncio.get_running_loop().time() + deadline_s
        waiting = Arriving(delivery.tenant, len(delivery.body), answer, deadline, delivery)
        self._enter(waiting)
        self._arrivals.append(waiting)

    async def submit(self, item: Append | Park, *, deadline_s: float) -> Outcome:
        """Queue the item and return its outcome once that is committed.

        Raise OverloadedError at once where the queue is full or closing, and when the deadline passes: then the item
        may still be committed. Raise StorageUnavailableError where the database is away or did not say what happened,
        and at once where it is not open yet or its files are replaced.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Outcome | Exception] = loop.create_future()
        waiting = waiting_for(item, answer, loop.time() + deadline_s)
        # Deliveries that arrived before the item stand before it in the log: the first JUDGE_LIMIT of them.
        self._judge()
        self._enter(waiting)
        self._queue.append(waiting)
        try:
            return _told(await answer)
        finally:
            del waiting, answer  # as above

    def _enter(self, one: Arriving | Waiting) -> None:
        """Take room in the queue, or raise the error that says why there is none."""
        if self._refusing:
            raise StorageUnavailableError(self._refusing)
        if self._closing:
            raise OverloadedError("stopping")
        tenant, size = one.tenant, one.size
        self._places.take(tenant, 1)
        try:
            self._bytes.take(tenant, size)
        except OverloadedError:
            self._places.give_back(tenant, 1)
            raise
        self._arrived.set()
        self._look_soon()

    def _judge(self) -> None:
        """Judge what arrived, a bounded piece of it: answer what is refused, and queue the rest for the commit."""
        if not self._arrivals:
            return
        arrived = take_fairly(
            self._arrivals, count=JUDGE_LIMIT, size=JUDGE_LIMIT_BYTES, tenant_of=_tenant, size_of=_size
        )
        waiting = [one for one in arrived if not one.answer.done()]
        verdicts = judge([one.delivery for one in waiting])
        refused = [one for one in arrived if one.answer.done()]
        for one, verdict in zip(waiting, verdicts, strict=True):
            if isinstance(verdict, Verified):
                self._queue.append(waiting_for(verdict.item, one.answer, one.deadline))
            else:
                give(one.answer, verdict)
                refused.append(one)
        self._release(refused)
        self._count([(one.delivery, verdict) for one, verdict in zip(waiting, verdicts, strict=True)])

    def _look_soon(self) -> None:
        if self._look_timer is None:
            self._look_timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def _look(self) -> None:
        """Answer those whose deadline has passed, and judge what waits while a commit takes long."""
        self._look_timer = None
        try:
            now = asyncio.get_running_loop().time()
            for one in chain(self._committing, self._queue, self._arrivals):
                if one.deadline <= now:
                    error = StorageUnavailableError if self._away else OverloadedError
                    give(one.answer, error("not committed within the deadline"))
            self._judge()
            self._forget(lambda one: one.deadline <= now)
        finally:
            if self._places.used:
                self._look_soon()

    async def run(self, stop: asyncio.Event) -> None:
        """Commit what arrives until `stop`, then what is queued; return when nobody waits any more."""
        try:
            async with asyncio.TaskGroup() as group:
                ended = asyncio.Event()
                watch = group.create_task(self._close_at(stop))
                group.create_task(self._uses.run(ended))
                group.create_task(self._suppressions.run(ended))
                await self._commit_and_reconnect()
                watch.cancel()
                ended.set()
        finally:
            self._closing = True
            for one in chain(self._queue, self._arrivals):
                give(one.answer, StorageUnavailableError("the committer has stopped"))
            self._forget_answered()

    async def _close_at(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._closing = True
        self._arrived.set()

    async def _commit_and_reconnect(self) -> None:
        failures = 0
        while True:
            try:
                async with self._database.driver() as connection:
                    failures = self._connected(failures)
                    statements = appends(self._database, connection)
                    while batch := await self._take():
                        await self._commit(statements, batch)
                        failures = self._came_back(failures)
                    return
            except StorageUnavailableError as exc:
                self._went_away(exc, failures)
            self._forget_answered()
            if self._closing and not self._queue and not self._arrivals:
                return
            await asyncio.sleep(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
            failures += 1

    def _went_away(self, cause: StorageUnavailableError, failures: int) -> None:
        self._away = str(cause)
        if isinstance(cause, StorageReplacedError):
            if not self._refusing:
                log.error("log.replaced", reason=str(cause), waiting=self._places.used)
            self._refusing = str(cause)
            # Only a person can mend this, and no sender waits for that: all are told to come again.
            for one in chain(self._queue, self._arrivals):
                give(one.answer, StorageUnavailableError(str(cause)))
        elif failures == 0:
            log.error("log.away", cause=str(cause), waiting=self._places.used)

    def _connected(self, failures: int) -> int:
        """Take deliveries in again where they were refused; else only the first commit shows that the log is back."""
        self.connected.set()
        was, self._refusing = self._refusing, ""
        return self._came_back(failures) if was else failures

    def _came_back(self, failures: int) -> int:
        self._away = ""
        if failures:
            log.info("log.back", failures=failures)
        return 0

    async def _take(self) -> list[Waiting]:
        """Wait for deliveries, judge them, and return a batch; an empty one when closing and nothing is left."""
        while True:
            self._judge()
            if self._arrivals and self._has_room_in_batch():
                await asyncio.sleep(0)  # meanwhile all that waits may pass its deadline, and leave the queue
            elif self._queue:
                return take_fairly(
                    self._queue, count=self._batch_limit, size=BATCH_LIMIT_BYTES, tenant_of=_tenant, size_of=_size
                )
            elif self._closing:
                return []
            else:
                self._away = ""  # the connection is enough: nothing is sent to a receiver that is not ready
                self._arrived.clear()
                await self._arrived.wait()

    def _has_room_in_batch(self) -> bool:
        return len(self._queue) < self._batch_limit and sum(map(_size, self._queue)) < BATCH_LIMIT_BYTES

    async def _commit(self, statements: Appends, batch: list[Waiting]) -> None:
        started = time.perf_counter()
        commit = Commit(statements, self._on_commit)
        self._committing = batch
        try:
            await self._suppress(statements, batch)
            await commit.append([one for one in batch if isinstance(one, Appending)])
            await commit.park([one for one in batch if isinstance(one, Parking)])
        except UnstorableError as exc:  # a refused event was parked instead, and no other row may be refused
            raise StorageUnavailableError(str(exc)) from exc
        finally:
            self._committing = ()
            # Deliveries without an answer go first next time. That keeps the order of arrival; their ids make it safe.
            self._queue.extendleft(one for one in reversed(batch) if not one.answer.done())
            self._release(one for one in batch if one.answer.done())
            metrics.COMMIT_SECONDS.observe(time.perf_counter() - started)
            metrics.COMMIT_ROWS.observe(len(batch))
            commit.report()

    async def _suppress(self, statements: Appends, batch: Sequence[Waiting]) -> None:
        """Blank what tells of people who were forgotten, with all marks that there are when it is committed."""
        if await self._suppressions.refresh(statements.marks):
            problem = self._suppressions.problem
            if problem is not None and problem != self._unknown_marks:
                log.error("suppression.key", reason=problem)
            self._unknown_marks = problem
        if self._suppressions.now:
            for one in batch:
                suppress(one, self._suppressions.now)
                if isinstance(one, Appending) and one.item.tied:
                    self._suppressions.tie(one.item.event.tenant, one.item.tied)

    def _forget_answered(self) -> None:
        """Make room while the database is away: deliveries for which nobody waits any more leave the queue."""
        self._forget(lambda one: one.answer.done())

    def _forget(self, gone: Callable[[Arriving | Waiting], bool]) -> None:
        self._release(one for one in chain(self._queue, self._arrivals) if gone(one))
        self._queue = deque(one for one in self._queue if not gone(one))
        self._arrivals = deque(one for one in self._arrivals if not gone(one))

    def _count(self, judged: Sequence[tuple[Delivery, Verified | Exception]]) -> None:
        """Count those that are verified, together: by tenant and secret, by size, and by how late they came."""
        signed = Counter[tuple[str, str]]()
        last: dict[tuple[str, str], Delivery] = {}
        sizes: list[int] = []
        delays: list[float] = []
        for delivery, verdict in judged:
            if not isinstance(verdict, Verified):
                continue
            labels = delivery.slug, verdict.secret
            signed[labels] += 1
            last[labels] = delivery
            sizes.append(len(delivery.body))
            if isinstance(verdict.item, Append) and (occurred_at := verdict.item.event.occurred_at) is not None:
                delays.append(max(0.0, (delivery.received_at - occurred_at).total_seconds()))
        metrics.DELIVERY_BYTES.observe_all(sizes)
        metrics.DELIVERY_DELAY.observe_all(delays)
        for labels, count in signed.items():
            metrics.SIGNED_BY.labels(*labels).inc(count)
            self._uses.add(last[labels].tenant, labels[1], count, last[labels].received_at)

    def _release(self, done: Iterable[Arriving | Waiting]) -> None:
        for one in done:
            self._places.give_back(one.tenant, 1)
            self._bytes.give_back(one.tenant, one.size)


def _told(answer: Outcome | Exception) -> Outcome:
    """Return the outcome, or raise the error."""
    if isinstance(answer, Exception):
        try:
            raise answer
        finally:
            del answer  # or the error's traceback would hold this frame, and the frame the error
    return answer
