"""The committer is the one writer of the log: many handlers wait while one task owns the connection and commits.

It groups commits without a timer: a batch is what arrived while the last commit ran. If the connection breaks and
nobody knows whether an event was committed, the event is sent again on a new connection, as long as a handler waits
for it. The event's id makes that safe.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from whatsms_events import metrics
from whatsms_events.errors import (
    OverloadedError,
    StorageReplacedError,
    StorageUnavailableError,
    TransientError,
    UnstorableError,
)
from whatsms_events.storage.database import Database
from whatsms_events.storage.log.appends import Append, Appends, Park, appends, event_row
from whatsms_events.storage.log.commit import Appending, Commit, Outcome, Parking, PendingOutcome, Waiting, give

BATCH_LIMIT: Final = 2000  # SQLite binds at most 32,766 values in a statement, and a row has 13
BATCH_LIMIT_BYTES: Final = 16 * 1024 * 1024
BACKOFF_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0)

log = structlog.get_logger()


class Committer:
    """The one writer of the log in this process. `on_commit` is told the highest position of each commit."""

    def __init__(
        self,
        database: Database,
        *,
        batch_limit: int,
        queue_limit: int,
        queue_limit_bytes: int,
        on_commit: Callable[[int], None],
    ) -> None:
        self._database = database
        self._batch_limit = min(batch_limit, BATCH_LIMIT)
        self._queue_limit = queue_limit
        self._queue_limit_bytes = queue_limit_bytes
        self._on_commit = on_commit
        self._queue: deque[Waiting] = deque()
        self._held = 0  # deliveries in the queue or in the commit that runs
        self._held_bytes = 0
        self._arrived = asyncio.Event()
        self._closing = False
        self._away = ""  # why the database is away, while it is
        self._refusing = ""  # why nothing is taken in, while that is so
        metrics.QUEUED_DELIVERIES.set_function(lambda: self._held)

    @property
    def problem(self) -> str | None:
        """Say why nothing can be committed now, as far as that is known."""
        return self._refusing or self._away or None

    def refuse(self, why: str) -> None:
        """Take nothing in and say why, until `run` has a connection: for a start that waits for its database."""
        self._refusing = why

    async def submit(self, item: Append | Park, *, deadline_s: float) -> Outcome:
        """Queue the item and return its outcome once that is committed.

        Raise OverloadedError at once where the queue is full or closing, and when the deadline passes: then the item
        may still be committed. Raise StorageUnavailableError where the database is away or did not say what happened,
        and at once where it is not open yet or its files are replaced.
        """
        size = len(item.raw)
        if self._refusing:
            raise StorageUnavailableError(self._refusing)
        if self._closing:
            raise OverloadedError("stopping")
        if self._held >= self._queue_limit or self._held_bytes + size > self._queue_limit_bytes:
            raise OverloadedError("the queue is full")
        loop = asyncio.get_running_loop()
        answer: PendingOutcome = loop.create_future()
        self._queue.append(
            Appending(item, event_row(item), answer) if isinstance(item, Append) else Parking(item, answer)
        )
        self._held += 1
        self._held_bytes += size
        self._arrived.set()
        deadline = loop.call_later(deadline_s, self._expire, answer)
        try:
            outcome = await answer
        finally:
            deadline.cancel()
        if isinstance(outcome, TransientError):
            raise outcome
        return outcome

    def _expire(self, answer: PendingOutcome) -> None:
        error = StorageUnavailableError if self._away else OverloadedError
        give(answer, error("not committed within the deadline"))

    async def run(self, stop: asyncio.Event) -> None:
        """Commit what arrives until `stop`, then what is queued; return when nobody waits any more."""
        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(self._close_at(stop))
                await self._commit_and_reconnect()
                watch.cancel()
        finally:
            self._closing = True
            for one in self._queue:
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
            if self._closing and not self._queue:
                return
            await asyncio.sleep(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
            failures += 1

    def _went_away(self, cause: StorageUnavailableError, failures: int) -> None:
        self._away = str(cause)
        if isinstance(cause, StorageReplacedError):
            if not self._refusing:
                log.error("log.replaced", reason=str(cause), waiting=self._held)
            self._refusing = str(cause)
            # Only a person can mend this, and no sender waits for that: all are told to come again.
            for one in self._queue:
                give(one.answer, StorageUnavailableError(str(cause)))
        elif failures == 0:
            log.error("log.away", cause=str(cause), waiting=self._held)

    def _connected(self, failures: int) -> int:
        """Take deliveries in again where they were refused; else only the first commit shows that the log is back."""
        was, self._refusing, self._away = self._refusing, "", ""
        return self._came_back(failures) if was else failures

    def _came_back(self, failures: int) -> int:
        self._away = ""
        if failures:
            log.info("log.back", failures=failures)
        return 0

    async def _take(self) -> list[Waiting]:
        """Wait for deliveries and return a batch; an empty one when closing and nothing is left."""
        while not self._queue:
            if self._closing:
                return []
            self._arrived.clear()
            await self._arrived.wait()
        batch: list[Waiting] = []
        size = 0
        while self._queue and len(batch) < self._batch_limit:
            size += len(self._queue[0].item.raw)
            if batch and size > BATCH_LIMIT_BYTES:
                break
            batch.append(self._queue.popleft())
        return batch

    async def _commit(self, statements: Appends, batch: list[Waiting]) -> None:
        started = time.perf_counter()
        commit = Commit(statements, self._on_commit)
        try:
            await commit.append([one for one in batch if isinstance(one, Appending)])
            await commit.park([one for one in batch if isinstance(one, Parking)])
        except UnstorableError as exc:  # a refused event was parked instead, and no other row may be refused
            raise StorageUnavailableError(str(exc)) from exc
        finally:
            # Deliveries without an answer go first next time. That keeps the order of arrival; their ids make it safe.
            self._queue.extendleft(one for one in reversed(batch) if not one.answer.done())
            self._release(one for one in batch if one.answer.done())
            metrics.COMMIT_SECONDS.observe(time.perf_counter() - started)
            metrics.COMMIT_ROWS.observe(len(batch))
            commit.report()

    def _forget_answered(self) -> None:
        """Make room while the database is away: deliveries that got 503 at their deadline leave the queue."""
        self._release(one for one in self._queue if one.answer.done())
        self._queue = deque(one for one in self._queue if not one.answer.done())

    def _release(self, done: Iterable[Waiting]) -> None:
        sizes = [len(one.item.raw) for one in done]
        self._held -= len(sizes)
        self._held_bytes -= sum(sizes)
