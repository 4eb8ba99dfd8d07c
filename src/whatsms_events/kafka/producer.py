"""This module writes one Kafka transaction at a time; after an error nothing is known of the transaction.

There are five rules for aiokafka. We choose the partition and fill the batch ourselves. We look at the answer to every
batch before the commit, since aiokafka commits although the broker refused a batch. After any error we close hard and
open another producer. A fenced producer means that another process is the relay. No record may be larger than its
topic takes.
"""

# mypy: disable-error-code="no-untyped-call"
# aiokafka has no types.

import asyncio
from collections.abc import Collection, Mapping
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import IllegalOperation, MessageSizeTooLargeError, ProducerFenced, RecordListTooLargeError

from whatsms_events.domain.records import KafkaRecord
from whatsms_events.domain.resume import Partition
from whatsms_events.errors import BrokerUnavailableError, RecordTooLargeError
from whatsms_events.kafka.connection import KafkaTarget, answered, arguments, explained, hang_up

BATCH_BYTES: Final = 1024 * 1024
"""Uncompressed size at which a partition's batch is full; one record alone may be larger."""


class Batch:
    """Records for one partition."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder

    def append(self, record: KafkaRecord, *, timestamp_ms: int) -> bool:
        """Add a record, or return False where the batch is full. An empty batch takes any record."""
        added = self.builder.append(
            timestamp=timestamp_ms, key=record.key, value=record.value, headers=list(record.headers)
        )
        return added is not None


class Producer:
    """A transactional producer: opening it fences every older one of the same id."""

    def __init__(self, target: KafkaTarget, producer: AIOKafkaProducer) -> None:
        self._target = target
        self._producer = producer
        self._alive: set[object] = set()

    @classmethod
    async def open(
        cls, target: KafkaTarget, topics: Collection[str], *, transactional_id: str, transaction_timeout_s: float
    ) -> "Producer":
        """Connect and take the id over, to write to these topics only. Raises BrokerUnavailableError."""
        aiokafka = AIOKafkaProducer(
            **arguments(target),
            transactional_id=transactional_id,  # brings idempotence
            transaction_timeout_ms=int(transaction_timeout_s * 1000),
            acks="all",
            compression_type="zstd",  # aiokafka's LZ4 takes eight times as long, and leaves half as much again
            linger_ms=0,  # batches come filled
            max_batch_size=BATCH_BYTES,
        )
        aiokafka.client.set_topics(topics)  # else aiokafka asks for all topics of the cluster when it lacks one
        producer = cls(target, aiokafka)
        try:
            async with answered(target, "starting the producer"):
                await aiokafka.start()
        except BaseException:
            await producer.close()
            raise
        return producer

    def batch(self) -> Batch:
        """Return an empty batch."""
        return Batch(self._producer.create_batch())

    async def transact(self, batches: Mapping[Partition, Batch], *, commit: bool = True) -> None:
        """Write one transaction, each batch to its partition, and commit or abort it.

        Raises FencedError, RecordTooLargeError, BrokerUnavailableError. Whether the transaction took
        place is then unknown: close this producer, open another one and look.
        """
        try:
            await self.write(batches)
            async with answered(self._target, "ending a transaction"):
                await (self._producer.commit_transaction() if commit else self._producer.abort_transaction())
        except (BrokerUnavailableError, IllegalOperation) as exc:
            # If aiokafka's sender task has died, its error says more than aiokafka's "cannot go on".
            raise explained(self._cause() or exc.__cause__ or exc, self._target, "writing a transaction") from exc

    async def write(self, batches: Mapping[Partition, Batch]) -> None:
        """Begin a transaction and write its batches; it stays open. `transact` also ends it and explains errors."""
        doing = "writing a transaction"
        answers: list[asyncio.Future[Any]] = []
        try:
            async with answered(self._target, doing):
                await self._producer.begin_transaction()
                for (topic, number), batch in batches.items():
                    answers.append(await self._producer.send_batch(batch.builder, topic, partition=number))
            await asyncio.wait(answers, timeout=self._target.timeout_s)
            outcomes = [(at, one.exception()) for at, one in zip(batches, answers, strict=True) if one.done()]
            failures = [(at, exc) for at, exc in outcomes if exc is not None]
            for (topic, number), exc in sorted(failures, key=lambda one: not isinstance(one[1], ProducerFenced)):
                if isinstance(exc, MessageSizeTooLargeError | RecordListTooLargeError):
                    # As the broker saw it: it is compressed by now.
                    raise RecordTooLargeError(topic, batches[topic, number].builder.size()) from exc
                raise explained(exc, self._target, doing) from exc
            if len(outcomes) < len(answers):
                raise explained(TimeoutError(), self._target, doing)
        finally:
            for answer in answers:
                if not answer.cancel() and not answer.cancelled():
                    answer.exception()  # asyncio warns of an exception that nobody has looked at

    def _cause(self) -> BaseException | None:
        task = self._producer._sender.sender_task  # noqa: SLF001 - what it died of is nowhere else
        return task.exception() if task is not None and task.done() and not task.cancelled() else None

    def disturbed(self) -> bool:
        """Tell whether a connection was lost since the last call."""
        # Reconnecting is silent otherwise.
        alive = {one for one in self._producer.client._conns.values() if one.connected()}  # noqa: SLF001
        before, self._alive = self._alive, alive
        return not before <= alive

    async def close(self) -> None:
        """Close hard, in bounded time: nothing is flushed, an open transaction is left to the successor to abort."""
        producer = self._producer
        producer._closed = True  # noqa: SLF001 - `stop` is not called, see hang_up
        await hang_up(producer.client, producer._sender)  # noqa: SLF001
        # asyncio warns of each exception that nobody has looked at, so all that are left are looked at here.
        accumulator, manager = producer._message_accumulator, producer._txn_manager  # noqa: SLF001
        queued = [batch for batches in accumulator._batches.values() for batch in batches]  # noqa: SLF001
        forgotten = [manager._transaction_waiter]  # noqa: SLF001
        for batch in (*queued, *accumulator._pending_batches):  # noqa: SLF001
            forgotten += [batch.future, batch._drain_waiter]  # noqa: SLF001
        for future in forgotten:
            if future is not None and future.done() and not future.cancelled():
                future.exception()
