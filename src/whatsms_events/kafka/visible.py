"""This module finds out what a read_committed reader can see: open transactions, and each partition's last record."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from whatsms_events.domain.records import log_id_of, place_of
from whatsms_events.domain.resume import Last, Partition, SeenPartition
from whatsms_events.errors import BrokerUnavailableError, IntegrityError, OffsetGoneError
from whatsms_events.kafka.connection import Fetched, KafkaReader

LOOK_BACK: Final = 16
"""Offsets before a partition's end to look at first, and the factor by which that grows."""

STRAY_LIMIT: Final = 50_000
"""Where so many of a partition's last records name no log, the look back is given up."""

READ_LIMIT: Final = 2000
POLL_S: Final = 0.05


async def hanging(
    committed: KafkaReader,
    uncommitted: KafkaReader,
    partitions: Sequence[Partition],
    *,
    settle_s: float,
    monotonic: Callable[[], float],
) -> dict[Partition, int]:
    """Return the last stable offset of each partition in which something stays open for `settle_s`.

    Empty means that everything written before this call is decided. Raises BrokerUnavailableError.
    """
    until = monotonic() + settle_s
    while True:
        # Ends first: what is stable afterwards covers all that was written before.
        ends = await uncommitted.ends(partitions)
        stable = await committed.ends(partitions)
        found = {partition: stable[partition] for partition, end in ends.items() if stable[partition] < end}
        if not found or monotonic() >= until:
            return found
        await asyncio.sleep(POLL_S)  # no broker tells when a marker is written


async def look(
    reader: KafkaReader,
    partitions: Sequence[Partition],
    *,
    stall_s: float,
    monotonic: Callable[[], float],
    stray_limit: int = STRAY_LIMIT,
) -> dict[Partition, SeenPartition]:
    """Return the beginning and the last visible record of each partition, read backwards in growing steps.

    Records that name no log are passed over and counted. All partitions are read together, because a poll of one that
    ends in aborted records only waits. Raises BrokerUnavailableError after `stall_s` without progress, IntegrityError
    where too many records name no log.
    """
    beginnings = await reader.beginnings(partitions)
    ends = await reader.ends(partitions)
    found: dict[Partition, Last] = {}
    strays: Counter[Partition] = Counter()
    left = {partition: end for partition, end in ends.items() if end > beginnings[partition]}
    step = LOOK_BACK
    while left:
        starts = {partition: max(beginnings[partition], ends[partition] - step) for partition in left}
        await reader.assign(starts)
        positions, until = starts, monotonic() + stall_s
        passed: Counter[Partition] = Counter()  # in this step
        while any(positions[partition] < end for partition, end in left.items()):
            records = await _next(reader)
            _note((one for one in records if one.offset < left[one.topic, one.partition]), found, passed)
            before, positions = positions, await reader.positions()
            if positions != before:
                until = monotonic() + stall_s
            elif monotonic() > until:
                raise BrokerUnavailableError(f"no records from {min(left)[0]} within {stall_s:g} s")
        strays += passed
        left = {at: start for at, start in starts.items() if at not in found and start > beginnings[at]}
        _give_up({at: strays[at] for at in left if strays[at] >= stray_limit}, ends)
        step *= LOOK_BACK
    return {at: SeenPartition(beginnings[at], found.get(at), strays[at]) for at in partitions}


async def _next(reader: KafkaReader) -> Sequence[Fetched]:
    try:
        return await reader.read(limit=READ_LIMIT, timeout_s=POLL_S)
    except OffsetGoneError as exc:  # retention, just now
        raise BrokerUnavailableError(str(exc)) from exc


def _note(records: Iterable[Fetched], found: dict[Partition, Last], passed: Counter[Partition]) -> None:
    """Note each record as the last one of a log so far, or as one more stray behind that."""
    for record in records:
        partition = (record.topic, record.partition)
        if log_id_of(record.headers) is None:
            passed[partition] += 1
        else:
            found[partition] = Last(record.offset, place_of(record.headers))
            passed[partition] = 0


def _give_up(strays: Mapping[Partition, int], ends: Mapping[Partition, int]) -> None:
    """Raise IntegrityError for the first of the partitions in which too many records are somebody else's."""
    for (topic, number), count in strays.items():
        raise IntegrityError(
            f"{topic}/{number}: the last {count} records name no log, so somebody else writes there, and the last "
            "record of this log is not found behind them. Stop them: only the relay may write to its topics. Then "
            f"remove them with `kafka-delete-records.sh` up to offset {ends[topic, number]} (what was visible "
            "before is known from the database), or give this relay a kafka.topic_prefix that was never used"
        )
