"""Settings in, the three topics out: made where they are missing, compared where they are there.

A part of the wrapper around aiokafka, see `kafka`.
"""
# mypy: disable-error-code="no-untyped-call"

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from aiokafka import errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from whatsms_events.domain.records import TOPICS
from whatsms_events.errors import ConfigError, IntegrityError
from whatsms_events.workers.kafka import MAX_MESSAGE_BYTES, MISSING, KafkaTarget, answered, arguments, hang_up

POLL_S: Final = 0.05


async def create_topics(
    target: KafkaTarget,
    prefix: str,
    *,
    partitions: int,
    replication_factor: int,
    retention_ms: int,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
) -> list[str]:
    """Create the topics that are missing and return their names; those that are there are compared, never changed.

    Raises IntegrityError with every difference, ConfigError for what the broker refuses, BrokerUnavailableError.
    """
    configs = {
        "cleanup.policy": "delete",  # compaction would drop events
        "retention.ms": str(retention_ms),
        "max.message.bytes": str(max_message_bytes),
        # An acknowledged record outlives one broker, where there are enough of them.
        "min.insync.replicas": "2" if replication_factor > 2 else "1",
        "unclean.leader.election.enable": "false",
    }
    wanted = configs | {"partitions": str(partitions), "replication factor": str(replication_factor)}
    async with _admin(target, "creating topics") as admin:
        before = await _topics(admin, prefix)
        new = [f"{prefix}.{suffix}" for suffix in TOPICS if f"{prefix}.{suffix}" not in before]
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
    ]
    if different:
        raise IntegrityError("; ".join(different) + ": existing topics are not changed, change them or the settings")


async def check_topics(target: KafkaTarget, prefix: str, *, body_limit_bytes: int) -> None:
    """Raise IntegrityError where a topic is missing, drops records by compaction, or cannot hold the largest event."""
    needed = body_limit_bytes * 3 // 2  # our form of a body and its headers may be half as large again
    async with _admin(target, "checking topics") as admin:
        topics = await _topics(admin, prefix)
    for name in (f"{prefix}.{suffix}" for suffix in TOPICS):
        if name not in topics:
            raise IntegrityError(MISSING.format(name))
        policy, size = topics[name]["cleanup.policy"], topics[name]["max.message.bytes"]
        if policy != "delete" or int(size) < needed:
            raise IntegrityError(
                f"{name} has cleanup.policy {policy} and max.message.bytes {size}: it must be delete (compaction drops "
                f"events), and {needed} for receiver.body_limit_bytes {body_limit_bytes}"
            )


@asynccontextmanager
async def _admin(target: KafkaTarget, doing: str) -> AsyncIterator[Any]:
    admin = AIOKafkaAdminClient(**arguments(target))
    try:
        async with answered(target, doing):
            await admin.start()
            yield admin
    finally:
        await hang_up(admin._client)  # noqa: SLF001 - see hang_up


async def _topics(admin: Any, prefix: str) -> dict[str, dict[str, str]]:
    """Return the settings of each of our topics that is there."""
    # Asked for all, by no name: a name may create the topic, with whatever the broker's defaults are.
    every = {topic["topic"]: topic["partitions"] for topic in await admin.describe_topics()}
    ours = [name for suffix in TOPICS if every.get(name := f"{prefix}.{suffix}")]
    found: dict[str, dict[str, str]] = {}
    for answer in await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in ours]):
        for code, _, _, name, entries in answer.resources:
            if (error := errors.for_code(code)).retriable:
                continue  # gone, or not everywhere yet
            if code:
                raise ConfigError(f"topic {name}: the broker does not show its settings ({error.__name__})")
            replicas = len(every[name][0]["replicas"])
            found[name] = {"partitions": str(len(every[name])), "replication factor": str(replicas)}
            found[name] |= {key: str(value) for key, value, *_ in entries}
    return found
