"""This module finds the record of one event: in the partition of its key, by halving the offsets.

Positions only grow within a partition, so each look at one record halves what is left. Markers, aborted records and
strays lie between, and are passed over.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from whatsms_events.domain.events import from_micros
from whatsms_events.domain.records import KafkaRecord, partition_of, place_of
from whatsms_events.domain.resume import Partition
from whatsms_events.domain.trace import RecordPlace
from whatsms_events.errors import BrokerUnavailableError, OffsetGoneError
from whatsms_events.kafka.connection import Fetched, KafkaReader, KafkaTarget
from whatsms_events.kafka.topics import count_partitions

NEAR: Final = 200
"""So few offsets are read one after the other: a fetch brings them at once."""

PARTITIONS_LIMIT: Final = 64
"""Where partitions were added, an older event is in another one than its key says now: so many others are searched."""

POLL_S: Final = 0.05


@dataclass(slots=True)
class _Search:
    """What is known of one partition: the target is between `low` and `high`, if it is there at all."""

    at: Partition
    low: int
    high: int
    lower: bool = False  # a record of an earlier position was met
    higher: bool = False


class Lookup:
    """The search for records of one log under one prefix, over one reader."""

    def __init__(
        self, target: KafkaTarget, prefix: str, log_id: UUID, *, monotonic: Callable[[], float], near: int = NEAR
    ) -> None:
        self._target = target
        self._prefix = prefix
        self._log_id = log_id
        self._monotonic = monotonic
        self._near = near

    async def find(self, record: KafkaRecord, position: int, published_through: int) -> RecordPlace:
        """Return where the record of a position is; `published_through` is known to be visible.

        Raise BrokerUnavailableError where Kafka does not answer, ConfigError where its topics are not there.
        """
        counts = await count_partitions(self._target, self._prefix)
        topic = f"{self._prefix}.{record.topic}"
        first = partition_of(record.key, counts[topic])
        numbers = [first, *(number for number in range(counts[topic]) if number != first)][:PARTITIONS_LIMIT]
        reader = await KafkaReader.open(self._target)
        try:
            beginnings = await reader.beginnings([(topic, number) for number in numbers])
            ends = await reader.ends(list(beginnings))
            searches = [_Search((topic, n), beginnings[topic, n], ends[topic, n]) for n in numbers]
            for search in searches:
                found = await self._search(reader, search, position)
                if found is not None:
                    at = from_micros(found.timestamp_ms * 1000)
                    return RecordPlace("published", topic, search.at[1], found.offset, at)
            return _absent(searches, beginnings, position, published_through)
        finally:
            await reader.close()

    async def _search(self, reader: KafkaReader, search: _Search, position: int) -> Fetched | None:
        while search.high - search.low > self._near:
            middle = (search.low + search.high) // 2
            found = next(iter(await self._read(reader, search.at, middle, search.high, only_first=True)), None)
            if found is None or found[0] > position:
                search.higher = search.higher or found is not None
                search.high = middle
            elif found[0] == position:
                return found[1]
            else:
                search.lower, search.low = True, found[1].offset + 1
        for there, record in await self._read(reader, search.at, search.low, search.high, only_first=False):
            if there == position:
                return record
            search.lower, search.higher = search.lower or there < position, search.higher or there > position
        return None

    async def _read(
        self, reader: KafkaReader, at: Partition, start: int, end: int, *, only_first: bool
    ) -> list[tuple[int, Fetched]]:
        """Return the log's records from `start` to before `end` with their positions; or the first of them."""
        found: list[tuple[int, Fetched]] = []
        if start >= end:
            return found
        await reader.assign({at: start})
        place, until = start, self._monotonic() + self._target.timeout_s
        while place < end:
            try:
                records = await reader.read(limit=self._near, timeout_s=POLL_S)
            except OffsetGoneError as exc:  # retention, just now
                raise BrokerUnavailableError(str(exc)) from exc
            found += self._places(records, end)
            if found and only_first:
                return found
            before, place = place, (await reader.positions())[at]
            if place != before:
                until = self._monotonic() + self._target.timeout_s
            elif self._monotonic() > until:
                raise BrokerUnavailableError(f"no records from {at[0]} within {self._target.timeout_s:g} s")
        return found

    def _places(self, records: list[Fetched], end: int) -> Iterator[tuple[int, Fetched]]:
        for record in records:
            place = place_of(record.headers)
            if place is not None and place[0] == self._log_id and record.offset < end:
                yield place[1], record


def _absent(
    searches: Sequence[_Search], beginnings: Mapping[Partition, int], position: int, published_through: int
) -> RecordPlace:
    """Say why a record was found in no partition; the first of them is the one that its key names now."""
    topic, number = searches[0].at
    if position > published_through and not searches[0].higher:
        return RecordPlace("not_published", topic, number)
    # Before the first record that is left of a partition nobody knows what was there.
    gone = any(beginnings[search.at] > 0 and not search.lower for search in searches)
    return RecordPlace("past_retention" if gone else "not_found", topic, number)
