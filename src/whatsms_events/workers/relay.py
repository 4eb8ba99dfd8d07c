"""The relay publishes the event log to Kafka: each event once, in log order within its partition.

A Kafka transaction only fences older relays, and hides what they left half done. An event counts as published when a
read_committed reader can see it. The log's database keeps a lower bound of what is published, and every opening looks
at Kafka itself. After any error the relay closes hard and opens again; there is no other way to start.

While a transaction is written, the next rows are read and sorted into batches. They belong to the session: where it
ends, they are dropped, and the rows are read again.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, Protocol, TypeVar
from uuid import UUID

import structlog

from whatsms_events import metrics
from whatsms_events.domain.events import Checkpoint, LogEntry, to_micros
from whatsms_events.domain.records import MARKER_HEADER, TOPICS, KafkaRecord, to_record
from whatsms_events.domain.resume import Partition, Published, SeenPartition, resume
from whatsms_events.errors import FencedError, IntegrityError, RecordTooLargeError, TransientError, WhatsmsEventsError
from whatsms_events.kafka.connection import KafkaReader, KafkaTarget
from whatsms_events.kafka.producer import Batch, Producer
from whatsms_events.kafka.topics import Topic, check_topics
from whatsms_events.kafka.visible import STRAY_LIMIT, hanging, look
from whatsms_events.storage.log.relay_row import RelayRows
from whatsms_events.storage.role_lock import RoleLock

log = structlog.get_logger()
T = TypeVar("T")

TRANSACTION_BYTES: Final = 8 * 1024 * 1024
READ_ROWS: Final = 1000
TURN_ROWS: Final = 100
"""So many rows are sorted into batches at a stretch; then others in the process have a turn."""

SETTLE_S: Final = 2.0
"""Markers follow the answer to a commit by milliseconds. A transaction that is open for longer than this hangs."""

TOPICS_LOOK_S: Final = 3600.0
"""How often an open relay looks at the topics' settings: somebody may change them at any time."""

OPENING_ABORTS: Final = 2
"""A broker that dies during an opening loses the markers of the opening abort too. The abort is then repeated once."""


@dataclass(frozen=True, slots=True)
class _Readers:
    """The partitions and two readers of them: one sees committed records only, the other sees every record."""

    partitions: Sequence[Partition]
    committed: KafkaReader
    uncommitted: KafkaReader


@dataclass(slots=True)
class _Transaction:
    """The next rows of the log, sorted into a batch for each partition, and counts of the rows that are left out."""

    batches: dict[Partition, Batch] = field(default_factory=dict)
    sent: dict[Partition, int] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)  # by topic, and by reason of skipping
    size: int = 0
    through: Checkpoint | None = None  # the last row that was published or left out
    full: bool = False  # it took as many rows as it may, so the log surely has more


@dataclass(slots=True)
class _Session:
    """What an opening makes: the connections, and how far the relay has got since."""

    producer: Producer
    readers: _Readers
    published: Published  # as the relay saved it last
    checkpoint: Checkpoint | None  # up to here each row is visible in Kafka, or Kafka has answered that it is committed
    stack: AsyncExitStack
    sent: dict[Partition, int] = field(default_factory=dict)  # last position sent to each partition since `published`
    prepared: _Transaction | None = None  # the rows after `checkpoint`, read while the last transaction was written


class RelayLog(Protocol):
    """The log as a relay reads it: the event log itself, or what a replay makes of it.

    One read gives `read_limit` events at most.
    """

    read_limit: int

    async def log_id(self) -> UUID:
        """Return the log's identity."""

    async def read_from(self, checkpoint: Checkpoint | None, limit: int) -> list[LogEntry]:
        """Return the events after a checkpoint, also those whose data is blanked."""

    async def ids_at(self, positions: Collection[int]) -> dict[int, UUID]:
        """Return the ids of the events at these positions."""


class Relay:
    """The one active writer of the three topics under a prefix."""

    def __init__(
        self,
        event_log: RelayLog,
        rows: RelayRows,
        target: KafkaTarget,
        prefix: str,
        lock: RoleLock,
        *,
        batch_limit: int,
        check_interval_s: float,
        transaction_timeout_s: float,
        body_limit_bytes: int,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
        stray_limit: int = STRAY_LIMIT,
        record: Callable[[LogEntry, UUID], KafkaRecord] = to_record,
    ) -> None:
        self._record = record
        self._log = event_log
        self._rows = rows
        self._target = target
        self._prefix = prefix
        self._topics = {suffix: f"{prefix}.{suffix}" for suffix in TOPICS}
        self._lock = lock
        self._batch_limit = batch_limit
        self._check_interval_s = check_interval_s
        self._transaction_timeout_s = transaction_timeout_s
        self._body_limit_bytes = body_limit_bytes
        self._now = now
        self._monotonic = monotonic
        self._stray_limit = stray_limit
        self._session: _Session | None = None
        self._cause: Literal["start", "error", "hanging"] = "start"
        self._check_due = 0.0
        self._topics_due = 0.0
        self._stuck: dict[Partition, int] = {}  # where somebody else's open transactions stopped the last opening
        self._refused: tuple[str, int] | None = None  # the topic that refused a batch, and the size of that batch

    @property
    def active(self) -> bool:
        """Tell whether this process publishes now."""
        return self._session is not None

    async def run_once(self) -> int:
        """Open where that is needed, check where it is time, publish the next rows, and return how many rows it was.

        Returns 0 also while another process has the role. Raises FencedError where another relay took over,
        IntegrityError where log and Kafka do not belong together, TransientError where either is away. After any of
        them the relay gives the role up, and opens again at the next call.
        """
        if not await self._lock.take():
            await self._drop()
            return 0
        try:
            session = self._session or await self._open()
            if session.producer.disturbed() or self._monotonic() >= self._check_due:
                session = await self._check(session)
            return await self._publish(session)
        except BaseException as exc:
            self._cause = "error"
            self._refused = (exc.topic, exc.size_bytes) if isinstance(exc, RecordTooLargeError) else None
            await self._drop()
            await self._lock.release()
            raise

    async def look(self) -> None:
        """Raise the error that an opening would still raise, as far as reading alone can tell.

        A look starts no producer and claims nothing: two logs on one prefix must not fence each other at every look.
        """
        log_id = await self._log.log_id()
        topics = await check_topics(self._target, self._prefix, body_limit_bytes=self._body_limit_bytes)
        if self._refused is not None and topics[self._refused[0]].max_message_bytes < self._refused[1]:
            raise RecordTooLargeError(*self._refused)
        published = await self._rows.known(self._prefix, log_id)
        async with AsyncExitStack() as stack:
            readers = await self._connect(stack, topics)
            if self._stuck:
                found = await self._hanging(readers, settle_s=0)
                if still := {at: offset for at, offset in self._stuck.items() if found.get(at) == offset}:
                    raise _stays_open(still)
            await self._compared(published, await self._seen(readers))

    async def close(self) -> None:
        """Give up the role. First save how far Kafka shows the log: the next opening then has less to read."""
        try:
            if self._session is not None:
                with suppress(TransientError, FencedError, TimeoutError):
                    async with asyncio.timeout(SETTLE_S):
                        if not await self._hanging(self._session.readers, settle_s=SETTLE_S / 2):
                            await self._save(self._session)
        finally:
            await self._drop()
            await self._lock.release()

    async def _drop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.stack.aclose()

    async def _open(self) -> _Session:
        log_id = await self._log.log_id()
        topics = await self._look_at_topics()
        async with AsyncExitStack() as stack:
            producer = await Producer.open(
                self._target,
                topics.keys(),
                transactional_id=f"whatsms-events.{self._prefix}",
                transaction_timeout_s=self._transaction_timeout_s,
            )
            stack.push_async_callback(producer.close)
            # The claim comes between the producer's start and the opening abort. From here on an older relay can
            # neither abort our transactions (it is fenced) nor move the lower bound (its generation is too old).
            published = await self._rows.claim(self._prefix, log_id, self._now())
            session = _Session(producer, await self._connect(stack, topics), published, None, stack)
            try:
                await self._abort_what_hangs(session)
                session.published = await self._resume(session)
            except IntegrityError:
                # A relay that was overtaken during its opening sees the other relay's records. Saving tells: it
                # raises FencedError then, and the difference is no reason to halt.
                await self._rows.save(self._prefix, published, self._now())
                raise
            # Saved before anything is published: new partition counts count from this position on, for ever.
            await self._rows.save(self._prefix, session.published, self._now())
            session.checkpoint = session.published.checkpoint
            session.stack = stack.pop_all()
        self._session, self._check_due = session, self._monotonic() + self._check_interval_s
        metrics.RELAY_OPENINGS.labels(self._cause).inc()
        log.info("relay.opened", cause=self._cause, published_through=session.published.published_through)
        return session

    async def _look_at_topics(self) -> dict[str, Topic]:
        """Check the topics, and tell how long they keep records and which keep them for ever."""
        topics = await check_topics(self._target, self._prefix, body_limit_bytes=self._body_limit_bytes)
        for name, topic in topics.items():
            keeps_s = math.inf if topic.keeps_ms is None else topic.keeps_ms / 1000
            metrics.TOPIC_KEEPS.labels(name.removeprefix(f"{self._prefix}.")).set(keeps_s)
        if endless := [name for name, topic in topics.items() if topic.keeps_ms is None]:
            log.warning("relay.keeps_for_ever", topics=endless)
        self._topics_due = self._monotonic() + TOPICS_LOOK_S
        return topics

    async def _connect(self, stack: AsyncExitStack, topics: Mapping[str, Topic]) -> _Readers:
        committed = await KafkaReader.open(self._target)
        stack.push_async_callback(committed.close)
        uncommitted = await KafkaReader.open(self._target, committed=False)
        stack.push_async_callback(uncommitted.close)
        partitions = [(name, number) for name, topic in topics.items() for number in range(topic.partitions)]
        return _Readers(partitions, committed, uncommitted)

    async def _abort_what_hangs(self, session: _Session) -> None:
        """Write a record to every partition and abort: then no older transaction is open, no older relay can append."""
        stable: dict[Partition, int] = {}
        for _ in range(OPENING_ABORTS):
            batches = {partition: session.producer.batch() for partition in session.readers.partitions}
            for batch in batches.values():
                # The record has a key, since a compacted topic takes no record without one.
                marker = KafkaRecord("", b"opening", b"{}", ((MARKER_HEADER, b"aborted"),))
                batch.append(marker, timestamp_ms=self._millis())
            await session.producer.transact(batches, commit=False)
            stable = await self._hanging(session.readers, settle_s=self._target.timeout_s)
            self._stuck = stable
            if not stable:
                return
        raise _stays_open(stable)

    async def _resume(self, session: _Session) -> Published:
        seen = await self._seen(session.readers)
        if strays := {at: found.strays for at, found in seen.items() if found.strays}:
            for (topic, _), count in strays.items():
                metrics.STRAY_RECORDS.labels("relay", topic.removeprefix(f"{self._prefix}.")).inc(count)
            topic, number = min(strays)
            log.warning(
                "relay.strays", source=f"{topic}/{number}", partitions=len(strays), records=sum(strays.values())
            )
        return await self._compared(session.published, seen)

    async def _seen(self, readers: _Readers) -> dict[Partition, SeenPartition]:
        return await look(
            readers.committed,
            readers.partitions,
            stall_s=self._target.timeout_s,
            monotonic=self._monotonic,
            stray_limit=self._stray_limit,
        )

    async def _compared(self, published: Published, seen: Mapping[Partition, SeenPartition]) -> Published:
        places = [found.last.place for found in seen.values() if found.last and found.last.place]
        return resume(published, seen, await self._log.ids_at({place[1] for place in places}))

    async def _hanging(self, readers: _Readers, *, settle_s: float) -> dict[Partition, int]:
        return await hanging(
            readers.committed, readers.uncommitted, readers.partitions, settle_s=settle_s, monotonic=self._monotonic
        )

    async def _check(self, session: _Session) -> _Session:
        """Check whether all published rows are visible. If so, move the lower bound up; if not, open again."""
        if found := await self._hanging(session.readers, settle_s=SETTLE_S):
            log.warning("relay.hanging", partitions=len(found))
            self._cause = "hanging"
            await self._drop()
            return await self._open()
        await self._save(session)
        if self._monotonic() >= self._topics_due:
            await self._look_at_topics()
        self._check_due = self._monotonic() + self._check_interval_s
        return session

    async def _save(self, session: _Session) -> None:
        if session.checkpoint is not None and session.checkpoint != session.published.checkpoint:
            published = session.published.advanced(session.checkpoint, session.sent)
            await self._rows.save(self._prefix, published, self._now())
            session.published, session.sent = published, {}

    async def _publish(self, session: _Session) -> int:
        transaction = session.prepared or await self._prepare(session, session.checkpoint)
        session.prepared = None
        if transaction is None:
            return 0
        async with asyncio.TaskGroup() as tasks:
            preparing = tasks.create_task(_held(self._prepare_more(session, transaction)))
            written = await _held(self._write(session, transaction))
        if written is not None:
            raise written
        session.checkpoint = transaction.through
        session.sent |= transaction.sent
        for name, count in transaction.counts.items():
            metric = metrics.RELAY_PUBLISHED if name in TOPICS else metrics.RELAY_SKIPPED
            metric.labels(name).inc(count)
        following = preparing.result()
        if isinstance(following, WhatsmsEventsError):
            raise following
        session.prepared = following
        return transaction.counts.total()

    @staticmethod
    async def _write(session: _Session, transaction: _Transaction) -> None:
        if transaction.batches:
            with metrics.RELAY_SECONDS.time():
                await session.producer.transact(transaction.batches)

    async def _prepare_more(self, session: _Session, transaction: _Transaction) -> _Transaction | None:
        """Prepare the rows behind a full transaction; one that is not full ends with the log's last row."""
        return await self._prepare(session, transaction.through) if transaction.full else None

    async def _prepare(self, session: _Session, after: Checkpoint | None) -> _Transaction | None:
        """Read the rows after a checkpoint and sort them into batches; return None where the log has no more.

        One transaction takes several reads while the log has more, so that no single read keeps others waiting.
        """
        transaction = _Transaction(through=after)
        # A read counts the checkpoint's own row too.
        piece = min(READ_ROWS, self._log.read_limit - 1)
        while not transaction.full:
            limit = min(piece, self._batch_limit - transaction.counts.total())
            entries = await self._log.read_from(transaction.through, limit)
            taken = await self._fill(session, transaction, entries)
            transaction.full = taken < len(entries) or transaction.counts.total() >= self._batch_limit
            if len(entries) < limit:
                break
        if transaction.counts:
            return transaction
        if transaction.full:
            raise IntegrityError(f"position {entries[0].position}: not even an empty batch takes its record")
        return None

    async def _fill(self, session: _Session, transaction: _Transaction, entries: Sequence[LogEntry]) -> int:
        """Sort rows into batches until none is left, or a batch or the transaction is full; return how many it took."""
        for start in range(0, len(entries), TURN_ROWS):
            some = entries[start : start + TURN_ROWS]
            taken = self._sort(session, transaction, some)
            if taken < len(some):
                return start + taken
            await asyncio.sleep(0)  # the transaction that is written meanwhile needs answers read and requests sent
        return len(entries)

    def _sort(self, session: _Session, transaction: _Transaction, entries: Sequence[LogEntry]) -> int:
        millis, log_id, taken = self._millis(), session.published.log_id, 0
        for entry in entries:
            record = self._record(entry, log_id)
            partition = session.published.target(entry.position, self._topics[record.topic], record.key)
            if partition is None:
                outcome = "visible"
            elif not record.value:
                outcome = "blanked"
            elif self._append(session, transaction, partition, record, millis):
                outcome = record.topic
                transaction.sent[partition] = entry.position
            else:
                break
            transaction.counts[outcome] += 1
            taken += 1
        if taken:
            last = entries[taken - 1]
            transaction.through = Checkpoint(log_id=log_id, position=last.position, event_id=last.event.id)
        return taken

    @staticmethod
    def _append(session: _Session, transaction: _Transaction, to: Partition, record: KafkaRecord, millis: int) -> bool:
        if transaction.size and transaction.size + len(record.value) > TRANSACTION_BYTES:
            return False  # a large record goes alone: brokers take no more than 100 MiB in a request
        transaction.size += len(record.value)
        batch = transaction.batches.get(to)
        if batch is None:
            batch = transaction.batches[to] = session.producer.batch()
        return batch.append(record, timestamp_ms=millis)

    def _millis(self) -> int:
        """Return the relay's time for a record. The vendor's time (`ce_time`) could be refused, or expire at once."""
        return to_micros(self._now()) // 1000


async def _held(work: Awaitable[T]) -> T | WhatsmsEventsError:
    """Return what the work gives, or its error: an error that a TaskGroup sees cuts off what goes on beside it."""
    try:
        return await work
    except WhatsmsEventsError as exc:
        return exc


def _stays_open(stable: Mapping[Partition, int]) -> IntegrityError:
    """Return the error that names one of the open transactions that are not this relay's, and how to end it."""
    (topic, number), offset = min(stable.items())
    return IntegrityError(
        f"{topic}/{number}: a transaction that is not this relay's stays open at offset {offset}. Nobody else may "
        f"write to this topic. Find it with `kafka-transactions.sh find-hanging --topic {topic} --partition "
        f"{number}`, end it with `kafka-transactions.sh abort --topic {topic} --partition {number} --start-offset "
        f"{offset}` (org.apache.kafka.tools.TransactionsCommand)."
    )
