"""A Kafka reader that is not ours: librdkafka, read_committed, from the beginning to the last stable offset."""

import time
from collections.abc import Sequence
from typing import Any, Final
from uuid import uuid4

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # it has no __all__

DEADLINE_S: Final = 120.0
SETTLE_S: Final = 2.0


def last_stable_offsets(
    bootstrap: str, topics: Sequence[str], *, settle_s: float = SETTLE_S, **security: str
) -> dict[tuple[str, int], int]:
    """Look up where each partition's readable part ends, waiting a moment for transactions that are being finished.

    Raises KafkaException, also for a topic that is not there.
    """
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0, **security})
    partitions = []
    for topic in topics:
        metadata = admin.list_topics(topic, timeout=10).topics[topic]
        if metadata.error is not None:
            raise KafkaException(metadata.error)
        partitions += [TopicPartition(topic, number) for number in metadata.partitions]
    until = time.monotonic() + settle_s
    # A commit is answered before its markers are written, so the end may be a little ahead; it stays ahead where a
    # transaction hangs, and then what cannot be read is not read.
    while True:
        stable = _ends(admin, partitions, IsolationLevel.READ_COMMITTED)
        if time.monotonic() > until or stable == _ends(admin, partitions, IsolationLevel.READ_UNCOMMITTED):
            return stable
        time.sleep(0.05)


def _ends(
    admin: AdminClient, partitions: list[TopicPartition], isolation: IsolationLevel
) -> dict[tuple[str, int], int]:
    latest: Any = OffsetSpec.latest  # has no types
    asked = admin.list_offsets(
        {partition: latest() for partition in partitions}, isolation_level=isolation, request_timeout=10
    )
    return {(partition.topic, partition.partition): answer.result(10).offset for partition, answer in asked.items()}


def read_committed(
    bootstrap: str,
    topics: Sequence[str],
    *,
    deadline_s: float = DEADLINE_S,
    settle_s: float = SETTLE_S,
    **security: str,
) -> list[Message]:
    """Read what any consumer of the topics can see now, in order within each partition.

    Waits up to `settle_s` for open transactions to be finished. `security`: librdkafka's own settings. Raises
    TimeoutError naming the partitions that could not be read to the end, KafkaException for what the broker refuses.
    """
    ends = last_stable_offsets(bootstrap, topics, settle_s=settle_s, **security)
    consumer = Consumer({
        "bootstrap.servers": bootstrap,
        "group.id": f"witness-{uuid4().hex}",  # librdkafka wants one; nothing is ever committed under it
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "fetch.message.max.bytes": 16 * 1024 * 1024,
        "log_level": 0,
        **security,
    })  # fmt: skip
    try:
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for topic, number in ends])
        return _read_to(consumer, ends, time.monotonic() + deadline_s)
    finally:
        consumer.close()


def _read_to(consumer: Consumer, ends: dict[tuple[str, int], int], until: float) -> list[Message]:
    unread = {partition for partition, end in ends.items() if end > 0}
    messages: list[Message] = []
    while unread:
        if time.monotonic() > until:
            raise TimeoutError(f"not read to the last stable offset: {sorted((*p, ends[p]) for p in unread)}")
        for message in consumer.consume(1000, timeout=0.2):
            partition, offset = (str(message.topic()), int(message.partition() or 0)), int(message.offset() or 0)
            error = message.error()
            if error is None and offset < ends[partition]:
                messages.append(message)
            elif error is not None and error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 - that is its public name
                raise KafkaException(error)
            # Markers and aborted records are passed over in silence: only the end that is reported tells of them.
            if offset + (error is None) >= ends[partition]:
                unread.discard(partition)
    return messages
