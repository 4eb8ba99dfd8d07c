"""The consumer applies events from the log or from Kafka to the projection, each batch with its checkpoint."""

from collections.abc import Mapping
from typing import Final

import structlog

from whatsms_events import metrics
from whatsms_events.storage.projection.apply import Projection, ProjectionState
from whatsms_events.storage.role_lock import RoleLock
from whatsms_events.workers.sources import EventSource

LOOK_BATCHES: Final = 20
_UNREADABLE: Final = (
    "such an event is dated by its arrival, and fields that this leaves open are doubtful; report the format"
)

log = structlog.get_logger()


class Consumer:
    """The one active reader of a projection. The lock is for liveness; the generation row makes it safe."""

    def __init__(self, projection: Projection, source: EventSource, lock: RoleLock, *, batch_limit: int) -> None:
        self._projection = projection
        self._source = source
        self._lock = lock
        self._batch_limit = batch_limit
        self._state: ProjectionState | None = None
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
                await self._source.open(state)
                self._state = state
            return await self._apply(self._state)
        except BaseException:
            await self._forget()
            await self._lock.release()  # a standby elsewhere may have more luck
            raise

    async def _apply(self, state: ProjectionState) -> int:
        batch = await self._source.read(state, self._batch_limit)
        if batch.after == state and not batch.items:
            return 0
        with metrics.APPLY_SECONDS.time():
            applied = await self._projection.apply(batch.items, state, batch.after)
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
        for level, delay_s in applied.acks:
            metrics.ACKS.labels(level).inc()
            if delay_s is not None:
                metrics.ACK_DELAY.labels(level).observe(delay_s)
        self._tell(applied.strays)
        return len(batch.items) or 1  # it moved, if only past skipped records: more may follow at once

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
        try:
            await self._source.open(state)
            for _ in range(LOOK_BATCHES):  # the first ones may be empty: their records are still on the way
                batch = await self._source.read(state, self._batch_limit)
                window = self._projection.judge(batch.items, window)
                state = batch.after
        finally:
            await self._source.close()

    async def _forget(self) -> None:
        self._state = None
        await self._source.close()

    async def close(self) -> None:
        """Give up the role."""
        await self._forget()
        await self._lock.release()
