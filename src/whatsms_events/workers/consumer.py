"""The consumer applies events from the log or from Kafka to the projection, each batch with its checkpoint.

While it is far behind, the next batch is read and claimed as the last one is saved. What was read ahead counts only
once that save has succeeded: an error of the reading is kept until then, and a save that fails drops what was read.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeVar

import structlog

from whatsms_events import metrics
from whatsms_events.errors import WhatsmsEventsError
from whatsms_events.storage.log.event_log import READ_LIMIT, READ_LIMIT_BYTES
from whatsms_events.storage.projection.apply import Applied, Projection, ProjectionState
from whatsms_events.storage.projection.retry import Retry
from whatsms_events.storage.role_lock import RoleLock
from whatsms_events.workers.older_tables import OlderTables
from whatsms_events.workers.sources import EventSource, Reading

LOOK_BATCHES: Final = 20

NEAR_LIMIT: Final = 1000
"""A batch near the end has so many events at most, so that each of them is soon visible. Far behind, the limit doubles
with each full batch, up to the setting: the more events a batch has, the more of them share a row that is saved."""

_UNREADABLE: Final = (
    "such an event is dated by its arrival, and fields that this leaves open are doubtful; report the format"
)

log = structlog.get_logger()

_T = TypeVar("_T")


class Consumer:
    """The one active reader of a projection. The lock is for liveness; the generation row makes it safe."""

    def __init__(
        self,
        projection: Projection,
        source: EventSource,
        lock: RoleLock,
        *,
        batch_limit: int,
        near_limit: int = NEAR_LIMIT,
        retry: Retry | None = None,
        older: OlderTables | None = None,
    ) -> None:
        """Make the consumer; with `retry` it first applies what was parked and can be applied by now.

        With `older` it first blanks in its tables who was forgotten since: they may be an older copy.

        A batch has `near_limit` events at most near the log's end, and grows up to `batch_limit` far behind it.
        """
        self._projection = projection
        self._retry = retry
        self._older = older
        self._source = source
        self._lock = lock
        self._batch_limit = batch_limit
        self._near_limit = min(near_limit, batch_limit)
        self._limit = self._near_limit  # of the next reading
        self._state: ProjectionState | None = None
        self._ahead: Reading | WhatsmsEventsError | None = None  # read behind `_state`, or why it could not be read
        self._told: set[str] = set()  # the partitions whose strays were logged

    @property
    def active(self) -> bool:
        """Tell whether this process feeds the projection now."""
        return self._state is not None

    async def run_once(self) -> int:
        """Apply one reading and return how many events it had; return 0 also while another process holds the role.

        Raises FencedError where another consumer moved the generation, IntegrityError where source and projection do
        not belong together, TransientError when storage or broker is away. After any of them
        the next call reads the state from the projection again.
        """
        if not await self._lock.take():
            await self._forget()
            return 0
        try:
            if self._state is None:
                state = await self._projection.state()
                if self._older is not None and await self._older.blank(state):
                    state = await self._projection.state()
                await self._source.open(state)
                if await self._retry_parked():
                    state = await self._projection.state()
                self._state = state
            return await self._apply(self._state)
        except BaseException:
            await self._forget()
            await self._lock.release()  # a standby elsewhere may have more luck
            raise

    async def _retry_parked(self) -> bool:
        """Retry parked events, once in the life of this process, and return whether that was now.

        Only another release reads them otherwise, and a release is another process.
        """
        if self._retry is None:
            return False
        done = await self._retry.all()
        self._retry = None
        for event_type, count in done.types.items():
            metrics.APPLIED.labels(event_type).inc(count)
        log.info("events.retried", applied=done.applied, parked=dict(done.parked))
        return True

    async def _apply(self, state: ProjectionState) -> int:
        batch = await self._next(state)
        if not _moves(batch, state):
            return 0
        read = len(batch.items) + batch.skipped
        # A reading of large events ends before its limit: at about 8 MiB, of which the data is the greater part.
        large = sum(len(item.raw) for item in batch.items) >= READ_LIMIT_BYTES // 2
        full = large or read >= min(self._limit, READ_LIMIT - 1)
        behind = full or 2 * read >= self._limit
        self._limit = min(self._batch_limit, 2 * self._limit if full else self._near_limit)
        applied = await (self._save_and_read(batch, state) if behind else self._save(batch, state))
        self._state = applied.state
        metrics.CONSUMER_SKIPPED.inc(batch.skipped)
        for event_type, count in applied.types.items():
            metrics.APPLIED.labels(event_type).inc(count)
        for reason, count in applied.reasons.items():
            metrics.PARKED.labels("fold", reason).inc(count)
        for field, count in applied.unreadable.items():
            metrics.UNREADABLE_TIMES.labels(field).inc(count)
        if applied.unreadable:
            log.warning("time.unreadable", fields=dict(applied.unreadable), detail=_UNREADABLE)
        _count_acks(applied.acks)
        self._tell(applied.strays)
        return len(batch.items) or 1  # it moved, if only past skipped records: more may follow at once

    async def _next(self, state: ProjectionState) -> Reading:
        """Return what was read ahead, or raise what was raised then; else read."""
        ahead, self._ahead = self._ahead, None
        match ahead:
            case None:
                return await self._source.read(state, self._limit)
            case Reading():
                return ahead
            case _:
                raise ahead

    async def _save(self, batch: Reading, state: ProjectionState) -> Applied:
        with metrics.APPLY_SECONDS.time():
            return await self._projection.apply(batch.items, state, batch.after)

    async def _save_and_read(self, batch: Reading, state: ProjectionState) -> Applied:
        """Save the batch, and meanwhile read what follows it."""
        async with asyncio.TaskGroup() as tasks:
            saving = tasks.create_task(_outcome(self._save(batch, state)))
            reading = tasks.create_task(_outcome(self._read_ahead(batch.after)))
        applied = saving.result()
        if isinstance(applied, WhatsmsEventsError):
            raise applied
        self._ahead = reading.result()
        return applied

    async def _read_ahead(self, state: ProjectionState) -> Reading | None:
        """Read and claim what follows a state that is being saved; return None where there is nothing yet."""
        batch = await self._source.read(state, self._limit)
        if not _moves(batch, state):
            return None
        await self._projection.prepare(batch.items)
        return batch

    def _tell(self, strays: Mapping[str, int]) -> None:
        """Count the records that name no log, and log that once for each partition."""
        for source, count in strays.items():
            topic = source.rpartition("/")[0].rpartition(".")[2]
            metrics.STRAY_RECORDS.labels("consumer", topic).inc(count)
            if source not in self._told:
                self._told.add(source)
                log.warning("consumer.strays", source=source, records=count)

    async def look(self) -> None:
        """Raise the error that the next records would still raise. A look applies and saves nothing."""
        state, window = await self._projection.state(), None
        if self._older is not None:
            state = await self._older.expected(state)
        try:
            await self._source.open(state)
            for _ in range(LOOK_BATCHES):  # the first ones may be empty: their records are still on the way
                batch = await self._source.read(state, self._batch_limit)
                window = self._projection.judge(batch.items, window)
                state = batch.after
        finally:
            await self._source.close()

    async def begin_anew(self) -> None:
        """Forget what is held in memory, and keep the role: somebody else has changed the rows."""
        await self._forget()

    async def _forget(self) -> None:
        self._state = self._ahead = None
        self._projection.forget()
        self._limit = self._near_limit  # the batch may have been too large for the database
        await self._source.close()

    async def close(self) -> None:
        """Give up the role."""
        await self._forget()
        await self._lock.release()


def _count_acks(acks: Sequence[tuple[str, float | None]]) -> None:
    """Count levels that were reached, and how long that took, by level: a metric is looked up once for each."""
    delays: dict[str, list[float | None]] = defaultdict(list)
    for level, delay_s in acks:
        delays[level].append(delay_s)
    for level, found in delays.items():
        metrics.ACKS.labels(level).inc(len(found))
        if known := [delay_s for delay_s in found if delay_s is not None]:
            observe = metrics.ACK_DELAY.labels(level).observe
            for delay_s in known:
                observe(delay_s)


def _moves(batch: Reading, state: ProjectionState) -> bool:
    """Tell whether applying the batch changes anything; what the transaction itself counts does not matter."""
    return bool(batch.items) or replace(batch.after, generation=state.generation, applied=state.applied) != state


async def _outcome(awaited: Awaitable[_T]) -> _T | WhatsmsEventsError:
    """Return what is awaited, or our error, so that neither of two tasks cuts the other one off."""
    try:
        return await awaited
    except WhatsmsEventsError as error:
        return error
