"""This module connects to Kafka and reads from it: a narrow wrapper around aiokafka. `producer` writes.

aiokafka has no deadline while the broker is away, so every call here has one. After an error the caller closes the
reader and opens another. aiokafka must be 0.14: an older one reads a fetch answer at the wrong offset.
"""
# mypy: disable-error-code="no-untyped-call"

import asyncio
import inspect
import ssl
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition, errors
from aiokafka.client import AIOKafkaClient

from whatsms_events.domain.resume import Partition
from whatsms_events.errors import (
    BrokerUnavailableError,
    ConfigError,
    FencedError,
    IntegrityError,
    OffsetGoneError,
    WhatsmsEventsError,
)

MAX_MESSAGE_BYTES: Final = 8 * 1024 * 1024
"""`max.message.bytes` of our topics at least."""

FETCH_BYTES: Final = 32 * 1024 * 1024
"""The limit of one answer to a fetch; the largest record, if that is larger."""

FETCH_WAIT_MS: Final = 100  # while a fetch waits, the next request on its connection waits too
GRACE_S: Final = 2.0
MISSING: Final = "topic {} does not exist: run `whatsms-events topics create`"


@dataclass(frozen=True, slots=True)
class KafkaTarget:
    """Where Kafka is and how to speak to it. `timeout_s` bounds every single wait.

    `max_message_bytes` is what our topics take; a fetch can always take that much of one partition.
    """

    bootstrap_servers: str
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    username: str | None = None
    password: str | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    timeout_s: float = 10.0
    max_message_bytes: int = MAX_MESSAGE_BYTES


class Fetched(msgspec.Struct, frozen=True):
    """One record as it was read; `timestamp_ms` is its own, since 1970. A header without a value has an empty one."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


def arguments(target: KafkaTarget) -> dict[str, Any]:
    """Return what every client of aiokafka is opened with. Raises ConfigError for files or names that do not fit."""
    found: dict[str, Any] = {
        "bootstrap_servers": target.bootstrap_servers,
        "client_id": "whatsms-events",
        "security_protocol": target.security_protocol,
        "request_timeout_ms": max(100, int(target.timeout_s * 1000 / 3)),  # a lost request is sent again in time
    }
    if target.security_protocol in ("SSL", "SASL_SSL"):
        try:
            found["ssl_context"] = context = ssl.create_default_context(cafile=target.ca_file)
            if target.cert_file is not None:
                context.load_cert_chain(target.cert_file, target.key_file)
        except OSError as exc:  # ssl.SSLError too
            raise ConfigError(f"kafka.ca_file, cert_file or key_file cannot be used: {exc.strerror or exc}") from exc
    if target.security_protocol in ("SASL_PLAINTEXT", "SASL_SSL"):
        if not (target.sasl_mechanism and target.username and target.password):
            raise ConfigError("kafka.security_protocol with SASL needs sasl_mechanism, username and password")
        found |= {"sasl_mechanism": target.sasl_mechanism, "sasl_plain_username": target.username}
        found["sasl_plain_password"] = target.password
    return found


@asynccontextmanager
async def answered(target: KafkaTarget, doing: str) -> AsyncIterator[None]:
    """Give the block `timeout_s`, and raise our errors for those of aiokafka: see `explained`."""
    try:
        async with asyncio.timeout(target.timeout_s):
            yield
    # OSError: TimeoutError too. AssertionError: aiokafka's word for a broker that just came back and knows nothing yet.
    except (errors.KafkaError, OSError, AssertionError) as exc:
        raise explained(exc, target, doing) from exc


def explained(exc: BaseException, target: KafkaTarget, doing: str) -> WhatsmsEventsError:
    """Return FencedError, else BrokerUnavailableError with `exc`'s class."""
    if isinstance(exc, errors.ProducerFenced | errors.InvalidProducerEpoch):
        return FencedError(f"{doing}: another relay took over, or a transaction took longer than its timeout")
    reason = f"no answer within {target.timeout_s:g} s" if isinstance(exc, TimeoutError) else type(exc).__name__
    return BrokerUnavailableError(f"{target.bootstrap_servers}: {doing}: {reason}")


async def hang_up(client: AIOKafkaClient, *owners: object) -> None:
    """End every task of `owners` and drop the connections of their client, in bounded time and in any state.

    aiokafka's own `stop` waits for a broker that may be gone, and leaves sub-tasks behind when it is cancelled. So we
    find its tasks by the `self` of their coroutines, and cancel them all at once. Nothing is flushed.
    """
    mine = {id(owner) for owner in owners if owner is not None}  # None: it was never started
    running: list[tuple[asyncio.Task[Any], Any]] = [(task, task.get_coro()) for task in asyncio.all_tasks()]
    if tasks := [task for task, run in running if id(inspect.getcoroutinelocals(run).get("self")) in mine]:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=GRACE_S)
    for connection in client._conns.values():  # noqa: SLF001 - a peer that reads nothing would keep `close` waiting
        if connection._writer is not None:  # noqa: SLF001
            connection._writer.transport.abort()  # noqa: SLF001
    with suppress(TimeoutError):
        async with asyncio.timeout(GRACE_S):
            await client.close()
    await asyncio.sleep(0)  # the tasks that read connections end now


def _headers(found: Sequence[tuple[str, bytes | None]]) -> tuple[tuple[str, bytes], ...]:
    if None in [value for _, value in found]:
        return tuple((name, value or b"") for name, value in found)
    return tuple(found)  # type: ignore[arg-type]  # no value is None


class KafkaReader:
    """Reads assigned partitions from given offsets on. No consumer group: positions are the caller's to keep."""

    def __init__(self, target: KafkaTarget, consumer: AIOKafkaConsumer) -> None:
        self._target = target
        self._consumer = consumer

    @classmethod
    async def open(cls, target: KafkaTarget, *, committed: bool = True) -> "KafkaReader":
        """Connect. Raises BrokerUnavailableError."""
        consumer = AIOKafkaConsumer(
            **arguments(target),
            group_id=None,
            enable_auto_commit=False,
            # Aborted and undecided records are never shown; `ends` is then the last stable offset.
            isolation_level="read_committed" if committed else "read_uncommitted",
            # A lost offset is an error that a person must see, never a reason to skip records.
            auto_offset_reset="none",
            max_partition_fetch_bytes=target.max_message_bytes,
            fetch_max_bytes=max(FETCH_BYTES, target.max_message_bytes),
            fetch_max_wait_ms=FETCH_WAIT_MS,
        )
        reader = cls(target, consumer)
        try:
            async with answered(target, "connecting"):
                await consumer.start()
        except BaseException:
            await reader.close()
            raise
        return reader

    def partitions(self, topic: str) -> int | None:
        """Return the number of partitions as the client knows it, without asking; None where it knows of none.

        It knows the topics that are assigned, looks again when one of their partitions fails, and every five minutes.
        """
        found = self._consumer.partitions_for_topic(topic)
        return len(found) if found else None

    async def assign(self, offsets: Mapping[Partition, int]) -> None:
        """Read these partitions from these offsets on, and no others."""
        self._consumer.assign([TopicPartition(*partition) for partition in offsets])
        for partition, offset in offsets.items():
            self._consumer.seek(TopicPartition(*partition), offset)

    async def read(self, *, limit: int, timeout_s: float) -> list[Fetched]:
        """Return what has come in, at most `limit`, in order within each partition; wait `timeout_s` for the first.

        Empty while the broker is away. Raises OffsetGoneError, IntegrityError for a record that cannot be read. After
        an error the positions have moved on: close, and begin from the checkpoint.
        """
        try:
            found = await self._consumer.getmany(timeout_ms=int(timeout_s * 1000), max_records=limit)
        except errors.OffsetOutOfRangeError as exc:
            places = ", ".join(f"{at.topic}/{at.partition} offset {offset}" for at, offset in exc.args[0].items())
            raise OffsetGoneError(f"{places} is gone: removed by retention, or the topic was recreated") from exc
        except UnicodeDecodeError as exc:
            raise IntegrityError(f"a record's header name is not UTF-8, behind {await self.positions()}") from exc
        except errors.KafkaError as exc:
            raise explained(exc, self._target, "reading") from exc
        return [
            Fetched(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, _headers(r.headers))
            for records in found.values()
            for r in records
        ]

    async def positions(self) -> dict[Partition, int]:
        """Return the next offset of each assigned partition; markers and aborted records that were passed count."""
        async with answered(self._target, "looking up positions"):
            return {at: await self._consumer.position(at) for at in self._consumer.assignment()}

    async def beginnings(self, partitions: Collection[Partition]) -> dict[Partition, int]:
        """Return the oldest offset of each partition. Raises BrokerUnavailableError."""
        async with answered(self._target, "looking up beginnings"):
            return dict(await self._consumer.beginning_offsets(self._known(partitions)))

    async def ends(self, partitions: Collection[Partition]) -> dict[Partition, int]:
        """Return the last stable offset of each partition, or its end where uncommitted records are read too."""
        async with answered(self._target, "looking up ends"):
            return dict(await self._consumer.end_offsets(self._known(partitions)))

    def _known(self, partitions: Collection[Partition]) -> list[TopicPartition]:
        for topic in {topic for topic, _ in partitions}:
            self._consumer._client.add_topic(topic)  # noqa: SLF001 - else found out one by one, by failing first
        return [TopicPartition(*partition) for partition in partitions]

    async def close(self) -> None:
        """Close, in bounded time."""
        consumer = self._consumer
        consumer._closed = True  # noqa: SLF001 - `stop` is not called, see hang_up
        await hang_up(consumer._client, consumer._fetcher, consumer._coordinator)  # noqa: SLF001
