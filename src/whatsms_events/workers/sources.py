"""This module reads the events that a projection needs next, from the log itself or from Kafka.

Where Kafka is configured, the events come from Kafka. A projection that has no offsets yet (it is new, or the log fed
it until now) first reads the log to its end, at position S. That is faster than Kafka and needs no unlimited
retention. From then on each partition is read from its beginning, and everything up to S is skipped.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol
from uuid import UUID

from whatsms_events import metrics
from whatsms_events.domain.events import Checkpoint, LogEntry
from whatsms_events.domain.records import TOPICS, from_record, log_id_of
from whatsms_events.domain.resume import Partition, Published
from whatsms_events.errors import IntegrityError, InvalidEventError, OffsetGoneError
from whatsms_events.kafka.connection import Fetched, KafkaReader, KafkaTarget
from whatsms_events.kafka.topics import count_partitions
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.log.relay_row import RelayRows
from whatsms_events.storage.projection.apply import Offset, ProjectionState, ReadItem

LAG_INTERVAL_S: Final = 1.0

REPLAY: Final = "`whatsms-events replay projection --go --swap` makes the tables from the log again."


@dataclass(frozen=True, slots=True)
class Reading:
    """The events that were read, and the projection's state once they are applied; `skipped` counts those left out."""

    items: Sequence[ReadItem]
    after: ProjectionState
    skipped: int = 0


class EventSource(Protocol):
    """Where events come from: the log, or Kafka."""

    async def open(self, state: ProjectionState) -> None:
        """Begin after `state`; raise IntegrityError where the state was made from another log or other topics."""

    async def read(self, state: ProjectionState, limit: int) -> Reading:
        """Return the next events after `state`, at most `limit`."""

    async def close(self) -> None:
        """Give connections back."""


class LogSource:
    """The event log itself, read from the checkpoint's own row on."""

    def __init__(self, event_log: EventLog) -> None:
        self._log = event_log

    async def open(self, state: ProjectionState) -> None:
        """Check that the projection was made from this log."""
        log_id = await self._log.log_id()
        if state.log_id not in (None, log_id):
            raise IntegrityError(
                f"the projection was made from log {state.log_id}, this is log {log_id}: connect the right database, "
                f"or replay. {REPLAY}"
            )

    async def read(self, state: ProjectionState, limit: int) -> Reading:
        """Return the next rows. Offsets from the time when Kafka was on are dropped, since they would go stale."""
        log_id = await self._log.log_id()
        try:
            entries = await self._log.read_from(state.checkpoint, limit)
        except IntegrityError as exc:
            raise IntegrityError(f"{exc}. {REPLAY}") from exc
        after = replace(state, log_id=log_id, offsets={})
        if entries:
            last = entries[-1]
            checkpoint = Checkpoint(log_id=log_id, position=last.position, event_id=last.event.id)
            after = replace(after, checkpoint=checkpoint, applied_through=last.position)
        items = [_log_item(entry, entry.event.data, ()) for entry in entries if entry.event.data]
        return Reading(items, after, skipped=len(entries) - len(items))  # blanked by retention

    async def close(self) -> None:
        """Do nothing: this source has no connection of its own."""


def _log_item(entry: LogEntry, raw: bytes, headers: tuple[tuple[str, bytes], ...]) -> ReadItem:
    return ReadItem("log", entry.position, raw, headers, entry)


class KafkaSource:
    """The three topics, read committed, by assign and seek; offsets live in the projection."""

    def __init__(
        self,
        event_log: EventLog,
        relay_rows: RelayRows,
        target: KafkaTarget,
        prefix: str,
        *,
        poll_s: float,
        monotonic: Callable[[], float],
    ) -> None:
        self._log = event_log
        self._from_log = LogSource(event_log)
        self._relay_rows = relay_rows
        self._target = target
        self._prefix = prefix
        self._poll_s = poll_s
        self._monotonic = monotonic
        self._reader: KafkaReader | None = None
        self._partitions: Sequence[Partition] = ()
        self._beginnings: Mapping[Partition, int] = {}
        self._log_end = 0
        self._aim: tuple[Checkpoint, Mapping[Partition, int]] | None = None
        self._aim_due = 0.0

    async def open(self, state: ProjectionState) -> None:
        """Check that the log holds what was applied, and seek every partition to its saved offset."""
        await self._from_log.open(state)
        await self._expect_applied(state)
        self._reader = await KafkaReader.open(self._target)
        self._aim, self._aim_due = None, 0.0
        if state.offsets:
            await self._ask()
            await self._seek(self._reader, state)
        else:
            await self._note(self._reader)

    async def close(self) -> None:
        """Close the reader. The lag of the partitions is not known from then on, so its gauges are removed."""
        for suffix in TOPICS:
            metrics.CONSUMER_LAG.remove_by_labels({"topic": f"{self._prefix}.{suffix}"})
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.close()

    async def read(self, state: ProjectionState, limit: int) -> Reading:
        """Return the next records. A projection without offsets first gets the rest of the log."""
        assert self._reader is not None  # noqa: S101 - read follows open
        if not state.offsets:
            if state.applied_through < self._log_end:
                batch = await self._from_log.read(state, limit)
                if batch.after != state:
                    return batch
            return Reading([], await self._begin(self._reader, state))
        try:
            fetched = await self._reader.read(limit=limit, timeout_s=self._poll_s)
        except OffsetGoneError as exc:
            raise OffsetGoneError(f"{exc}. {REPLAY}") from exc
        log_id = await self._log.log_id()
        items, last = _items(fetched, state, log_id)
        await self._expect_held(items, set(last.values()))
        offsets = {
            key: Offset(next_offset=offset, last_position=last.get(key, _last(state, key)))
            for key, offset in (await self._reader.positions()).items()
        }
        after = replace(state, log_id=log_id, offsets=offsets)
        return Reading(items, await self._advance(self._reader, after), skipped=len(fetched) - len(items))

    async def _expect_applied(self, state: ProjectionState) -> None:
        """Raise IntegrityError where the tables show more than the log holds, or other events."""
        try:
            await self._log.read_from(state.checkpoint, 1)
        except IntegrityError as exc:
            raise IntegrityError(f"{exc}. {REPLAY}") from exc
        through, end = max((one.last_position for one in state.offsets.values()), default=0), await self._log.end()
        if through > end:
            raise IntegrityError(
                f"the tables show position {through}, and the log ends at {end}: it was restored from an older copy. "
                f"{REPLAY}"
            )

    async def _expect_held(self, items: Sequence[ReadItem], positions: Collection[int]) -> None:
        """Raise IntegrityError where the log does not hold the events that were read last.

        The relay publishes what the log holds, so only a log that was restored from an older copy lacks an event.
        Nothing of the reading is applied then: the tables would show what the log can never tell again.
        """
        if not positions:
            return
        held = await self._log.ids_at(positions)
        for entry in (item.read for item in items if isinstance(item.read, LogEntry)):
            if entry.position in positions and held.get(entry.position) != entry.event.id:
                raise IntegrityError(
                    f"the log does not hold event {entry.event.id} at position {entry.position}, which {self._prefix} "
                    f"has: the log was restored from an older copy. Give it a new kafka.topic_prefix. {REPLAY}"
                )

    async def _ask(self) -> Sequence[Partition]:
        """Ask which partitions there are, and remember that."""
        counts = await count_partitions(self._target, self._prefix)
        self._partitions = [(topic, number) for topic, count in counts.items() for number in range(count)]
        return self._partitions

    def _moved(self, reader: KafkaReader, published: Published | None) -> bool:
        """Tell whether partitions were added, or topics recreated, since the last time we asked.

        There is no need to ask every second: the relay writes nothing into added partitions before it has saved that
        it knows of them, and the client looks again when a partition is gone.
        """
        known = Counter(topic for topic, _ in self._partitions)
        saved = published.counts if published is not None else {}
        return any(reader.partitions(topic) != count or saved.get(topic, 0) > count for topic, count in known.items())

    async def _note(self, reader: KafkaReader) -> None:
        """Note where Kafka begins, and then where the log ends: the log has all that retention removed by now."""
        self._beginnings = await reader.beginnings(await self._ask())
        self._log_end = await self._log.end()

    async def _begin(self, reader: KafkaReader, state: ProjectionState) -> ProjectionState:
        """Start each partition at its noted beginning; events that the log has given already are skipped by position.

        Where retention removed records meanwhile, or partitions were added, the rest of the log is read first.
        """
        beginnings = self._beginnings
        await self._note(reader)
        if self._beginnings != beginnings:
            return state
        await reader.assign(beginnings)
        position = state.applied_through
        return replace(
            state,
            log_id=await self._log.log_id(),
            offsets={key: Offset(next_offset=offset, last_position=position) for key, offset in beginnings.items()},
        )

    async def _seek(self, reader: KafkaReader, state: ProjectionState) -> None:
        gone = sorted(set(state.offsets) - set(self._partitions))
        if gone:
            raise IntegrityError(f"partition {gone[0]} was read before and is gone: topics were recreated. {REPLAY}")
        # An added partition is read from offset 0, not from where it begins by now: a record that retention removed
        # would be missed in silence.
        added = {key: 0 for key in self._partitions if key not in state.offsets}
        await reader.assign({key: offset.next_offset for key, offset in state.offsets.items()} | added)

    async def _advance(self, reader: KafkaReader, state: ProjectionState) -> ProjectionState:
        """Once each partition is read to the end it had when a position was published, move `applied_through` there."""
        if self._aim is None and self._monotonic() >= self._aim_due:
            self._aim_due = self._monotonic() + LAG_INTERVAL_S
            await self._look(reader, state)
        if self._aim is None or not all(_passed(state, key, end) for key, end in self._aim[1].items()):
            return state
        checkpoint, self._aim = self._aim[0], None
        return replace(state, applied_through=checkpoint.position, checkpoint=checkpoint)

    async def _look(self, reader: KafkaReader, state: ProjectionState) -> None:
        """Ask how far the relay has published and where each partition ends. Added partitions are read from now on."""
        await self._expect_applied(state)
        published = await self._relay_rows.load(self._prefix)
        if self._moved(reader, published):
            await self._ask()
        if set(self._partitions) != set(state.offsets):
            await self._seek(reader, state)
        ends = await reader.ends(self._partitions)
        for (topic, number), end in ends.items():
            offset = state.offsets.get((topic, number))
            if offset is not None and offset.next_offset > end:  # to an idle reader it would seem to be at the end
                raise OffsetGoneError(
                    f"{topic}/{number} ends at offset {end}, and was read up to {offset.next_offset}. {REPLAY}"
                )
            metrics.CONSUMER_LAG.labels(topic, str(number)).set(end - offset.next_offset if offset else end)
        if published is None or any((topic, count - 1) not in ends for topic, count in published.counts.items()):
            return  # this broker does not know of the added partitions yet
        checkpoint = published.checkpoint
        if checkpoint is not None and checkpoint.position > state.applied_through:
            self._aim = (checkpoint, ends)


async def offsets_stand(target: KafkaTarget, prefix: str, offsets: Mapping[tuple[str, int], Offset]) -> bool:
    """Tell whether every saved offset can still be read from: its partition is there, and has not moved past it."""
    counts = await count_partitions(target, prefix)
    if any(number >= counts.get(topic, 0) for topic, number in offsets):
        return False
    reader = await KafkaReader.open(target)
    try:
        beginnings, ends = await reader.beginnings(offsets), await reader.ends(offsets)
    finally:
        await reader.close()
    return all(beginnings[at] <= one.next_offset <= ends[at] for at, one in offsets.items())


def _passed(state: ProjectionState, key: Partition, end: int) -> bool:
    offset = state.offsets.get(key)
    return offset is not None and offset.next_offset >= end


def _items(
    fetched: Sequence[Fetched], state: ProjectionState, log_id: UUID
) -> tuple[list[ReadItem], dict[Partition, int]]:
    """Return the new records and each partition's last position; raise IntegrityError for a record of another log."""
    items: list[ReadItem] = []
    last: dict[Partition, int] = {}
    for record in fetched:
        key = (record.topic, record.partition)
        read = _read(record, log_id)
        if isinstance(read, LogEntry):
            before = last.get(key)
            if read.position <= (_last(state, key) if before is None else before):
                continue
            last[key] = read.position
            # Named by its place in the log, so that it is parked once, whether it comes from the log or from Kafka.
            items.append(_log_item(read, record.value or b"", record.headers))
        else:
            source = f"{record.topic}/{record.partition}"
            raw = record.value or b""
            items.append(ReadItem(source=source, at=record.offset, raw=raw, headers=record.headers, read=read))
    return items, last


def _last(state: ProjectionState, key: Partition) -> int:
    """Return the last position that this partition gave; of one that was added since, all that is applied anyway."""
    offset = state.offsets.get(key)
    return offset.last_position if offset else state.applied_through


def _read(record: Fetched, log_id: UUID) -> LogEntry | InvalidEventError:
    try:
        found, entry = from_record(record.headers, record.value)
    except InvalidEventError as exc:
        named = log_id_of(record.headers)
        if named is None or named == log_id:
            return exc
        found = named
    if found != log_id:
        raise IntegrityError(
            f"{record.topic}/{record.partition} offset {record.offset} is a record of log {found}, "
            f"this is log {log_id}: one topic prefix belongs to one log"
        )
    return entry
