"""This module creates the three topics where they are missing, and else compares them with the settings."""
# mypy: disable-error-code="no-untyped-call"

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from aiokafka import errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from whatsms_events.domain.normalize import record_limit_bytes
from whatsms_events.domain.records import TOPICS
from whatsms_events.errors import ConfigError, IntegrityError
from whatsms_events.kafka.connection import MISSING, KafkaTarget, answered, arguments, hang_up

POLL_S: Final = 0.05
SEGMENT_MS: Final = 86_400_000
"""Kafka removes whole segments, each once its newest record is old enough. The broker's own default is a segment a
week, so that a record would stay for up to a week longer than its topic keeps."""

_FOR_EVER: Final = -1
_UNKNOWN: Final = errors.UnknownTopicOrPartitionError.errno


@dataclass(frozen=True, slots=True)
class Topic:
    """What the relay needs to know of a topic."""

    partitions: int
    max_message_bytes: int
    keeps_ms: int | None
    """After so long no record is left, the segment that it is in included; None: it is kept for ever."""


async def create_topics(
    target: KafkaTarget,
    prefix: str,
    *,
    partitions: int,
    replication_factor: int,
    retention_ms: int,
) -> list[str]:
    """Create the topics that are missing and return their names; those that are there are compared, never changed.

    Raises IntegrityError with every difference, ConfigError for what the broker refuses, BrokerUnavailableError.
    """
    configs = {
        "cleanup.policy": "delete",  # compaction would drop events
        "retention.ms": str(retention_ms),
        "max.message.bytes": str(target.max_message_bytes),
        "segment.ms": str(SEGMENT_MS),
        # An acknowledged record outlives one broker, where there are enough of them.
        "min.insync.replicas": "2" if replication_factor > 2 else "1",
        "unclean.leader.election.enable": "false",
    }
    wanted = configs | {"partitions": str(partitions), "replication factor": str(replication_factor)}
    async with _admin(target, "creating topics") as admin:
        before = await _topics(admin, prefix)
        new = [name for name in _names(prefix) if name not in before]
        asked = [NewTopic(name, partitions, replication_factor, topic_configs=configs) for name in new]
        for name, code, detail in (await admin.create_topics(asked)).topic_errors if asked else ():
            if (error := errors.for_code(code)).retriable:
                raise error(detail)
            if code and error is not errors.TopicAlreadyExistsError:
                raise ConfigError(f"{name} cannot be created: {error.__name__}: {detail}")
        while not set(new) <= set(await _topics(admin, prefix)):  # noqa: ASYNC110 - no broker calls back
            await asyncio.sleep(POLL_S)
    _compare(before, wanted)
    return new


def _compare(topics: Mapping[str, Mapping[str, str]], wanted: Mapping[str, str]) -> None:
    different = [
        f"{name} has {key} {found.get(key)}, the settings ask for {value}"
        for name, found in topics.items()
        for key, value in wanted.items()
        if found.get(key) != value
        and not (key == "max.message.bytes" and int(found.get(key, 0)) > int(value))  # more is no fault
        and not (key == "segment.ms" and int(found.get(key, value)) < int(value))  # nor is less
    ]
    if different:
        raise IntegrityError("; ".join(different) + ": existing topics are not changed, change them or the settings")


async def check_topics(target: KafkaTarget, prefix: str, *, body_limit_bytes: int) -> dict[str, Topic]:
    """Return each topic's partitions and limit, and how long it keeps a record.

    Raise IntegrityError where a topic is missing, drops records by compaction, or cannot hold the largest event.
    """
    needed = record_limit_bytes(body_limit_bytes)
    async with _admin(target, "checking topics") as admin:
        topics = await _topics(admin, prefix)
    for name in _names(prefix):
        if name not in topics:
            raise IntegrityError(MISSING.format(name))
        policy, size = topics[name]["cleanup.policy"], topics[name]["max.message.bytes"]
        if policy != "delete" or int(size) < needed:
            raise IntegrityError(
                f"{name} has cleanup.policy {policy} and max.message.bytes {size}: it must be delete (compaction drops "
                f"events), and {needed} for receiver.body_limit_bytes {body_limit_bytes}"
            )
    return {name: _topic(topics[name]) for name in _names(prefix)}


def _topic(found: Mapping[str, str]) -> Topic:
    retention_ms = int(found["retention.ms"])
    return Topic(
        partitions=int(found["partitions"]),
        max_message_bytes=int(found["max.message.bytes"]),
        keeps_ms=None if retention_ms == _FOR_EVER else retention_ms + int(found["segment.ms"]),
    )


async def count_partitions(target: KafkaTarget, prefix: str) -> dict[str, int]:
    """Ask for the number of partitions of each topic; raise IntegrityError where one is missing."""
    async with _admin(target, "looking up topics") as admin:
        # A user that may only read may lack the right to see a topic's settings, although the topic is there.
        there = [name for name, code, _ in await _settings(admin, prefix) if code != _UNKNOWN]
        found = await _partitions(admin, there)
    for name in _names(prefix):
        if name not in found:
            raise IntegrityError(MISSING.format(name))
    return {name: len(found[name]) for name in _names(prefix)}


@asynccontextmanager
async def _admin(target: KafkaTarget, doing: str) -> AsyncIterator[Any]:
    admin = AIOKafkaAdminClient(**arguments(target))
    try:
        async with answered(target, doing):
            await admin.start()
            yield admin
    finally:
        await hang_up(admin._client)  # noqa: SLF001 - see hang_up


def _names(prefix: str) -> list[str]:
    return [f"{prefix}.{suffix}" for suffix in TOPICS]


async def _topics(admin: Any, prefix: str) -> dict[str, dict[str, str]]:
    """Return the settings of each of our topics that is there."""
    found: dict[str, dict[str, str]] = {}
    for name, code, entries in await _settings(admin, prefix):
        if (error := errors.for_code(code)).retriable:
            continue  # not there, or not everywhere yet
        if code:
            raise ConfigError(f"topic {name}: the broker does not show its settings ({error.__name__})")
        found[name] = {key: str(value) for key, value, *_ in entries}
    every = await _partitions(admin, list(found))
    return {
        name: {"partitions": str(len(parts)), "replication factor": str(len(parts[0]["replicas"]))} | found[name]
        for name, parts in every.items()
    }


async def _settings(admin: Any, prefix: str) -> list[tuple[str, int, Any]]:
    """Return name, error code and settings of each of our topics. Asking for settings never creates a topic."""
    asked = [ConfigResource(ConfigResourceType.TOPIC, name) for name in _names(prefix)]
    return [
        (name, code, entries)
        for answer in await admin.describe_configs(asked)
        for code, _, _, name, entries in answer.resources
    ]


async def _partitions(admin: Any, there: list[str]) -> dict[str, list[Any]]:
    """Return the partitions of these topics, which must be there.

    Asking for a name may create the topic with the broker's defaults, and asking for all topics brings thousands in a
    large cluster. So callers first make sure that the topics exist, by their settings.
    """
    found: dict[str, list[Any]] = {}
    for topic in await admin.describe_topics(there) if there else ():
        if (code := topic["error_code"]) and not (error := errors.for_code(code)).retriable:
            raise ConfigError(f"topic {topic['topic']}: the broker does not show its partitions ({error.__name__})")
        if topic["partitions"]:
            found[topic["topic"]] = topic["partitions"]
    return found
