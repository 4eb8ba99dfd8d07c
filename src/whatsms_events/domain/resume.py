"""Which log entries each Kafka partition still needs after a restart, by what is visible in it.

The rule behind it: a record counts as published when a read_committed reader can see it, and only then. Neither the
answer to a commit nor a marker in the partition is trusted, because Kafka can lose both.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final
from uuid import UUID

from whatsms_events.domain.events import Checkpoint
from whatsms_events.domain.records import partition_of
from whatsms_events.errors import IntegrityError

Partition = tuple[str, int]  # (full topic name, partition)

REMEDY: Final = (
    "Connect this relay to the log and the cluster that belong together, or give it a kafka.topic_prefix that was never"
    " used: it then publishes the whole log there."
)


@dataclass(frozen=True, slots=True)
class Last:
    """The last visible record of a partition that names a log: log id, position and event id as its headers say.

    `place` is None where the record names a log and the rest cannot be read.
    """

    offset: int
    place: tuple[UUID, int, UUID] | None


@dataclass(frozen=True, slots=True)
class SeenPartition:
    """One partition while nothing is open in it. `beginning` is the oldest offset kept, 0 until retention moves it.

    `strays` is how many records behind `last` (all of them, where there is none) name no log: somebody else's.
    """

    beginning: int
    last: Last | None
    strays: int = 0


@dataclass(frozen=True, slots=True)
class Route:
    """Rows up to position `through` went, and go, by these partition counts per topic."""

    through: int
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Published:
    """What is known to be visible in Kafka; kept in the log's own database.

    Every row up to `published_through` (whose event is `event_id`) is visible. `visible` has the last visible position
    of each partition, `counts` the partitions per topic (empty before the first opening ended), `routes` older counts
    that still matter, ascending. Each opening takes a new `generation`, and only its holder may save.
    """

    log_id: UUID
    generation: int
    published_through: int = 0
    event_id: UUID | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    routes: tuple[Route, ...] = ()
    visible: Mapping[Partition, int] = field(default_factory=dict)

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The lower bound as a checkpoint in the log; None while nothing was published."""
        if self.event_id is None:
            return None
        return Checkpoint(log_id=self.log_id, position=self.published_through, event_id=self.event_id)

    def target(self, position: int, topic: str, key: bytes) -> Partition | None:
        """Return the partition that still needs this row, or None where it is visible already."""
        counts = self.counts
        if self.routes:
            counts = next((route.counts for route in self.routes if position <= route.through), counts)
        partition = (topic, partition_of(key, counts[topic]))
        return None if position <= self.visible.get(partition, 0) else partition

    def advanced(self, checkpoint: Checkpoint, published: Mapping[Partition, int]) -> "Published":
        """Return the state after everything up to `checkpoint` was seen to be visible.

        `published` has the last position that went to each partition since this state.
        """
        return replace(
            self,
            published_through=checkpoint.position,
            event_id=checkpoint.event_id,
            routes=tuple(route for route in self.routes if route.through > checkpoint.position),
            visible={**self.visible, **published},
        )


def resume(published: Published, seen: Mapping[Partition, SeenPartition], ids: Mapping[int, UUID]) -> Published:
    """Return what is published for certain, now that every partition was looked at; `ids` are the log's own.

    Raises IntegrityError where log and Kafka do not belong together (any more): another log's record, a record that is
    not the log's own at its position, a topic recreated or with fewer partitions, records that Kafka lost.
    """
    counts = _counts(published, seen)
    visible = {
        partition: _visible(published, partition, found, ids)
        for partition, found in seen.items()
    }  # fmt: skip
    routes = published.routes
    if published.counts and counts != published.counts:
        # No row behind the highest visible one is in Kafka (open transactions were aborted), so the new counts begin
        # there: an earlier row that is still missing has to go where its neighbours of the same key went.
        routes = (*routes, Route(max(visible.values()), published.counts))
    routes = tuple(route for route in routes if route.through > published.published_through)
    return replace(published, counts=counts, routes=routes, visible={p: at for p, at in visible.items() if at})


def _counts(published: Published, seen: Mapping[Partition, SeenPartition]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for topic, number in seen:
        counts[topic] = max(counts.get(topic, 0), number + 1)
    for topic, known in published.counts.items():
        if counts.get(topic, 0) < known:
            raise IntegrityError(
                f"{topic} has {counts.get(topic, 0)} partitions and had {known}: it was recreated. {REMEDY}"
            )
    return counts


def _visible(published: Published, partition: Partition, found: SeenPartition, ids: Mapping[int, UUID]) -> int:
    """Return the partition's last visible position, 0 for none; raise IntegrityError where it cannot be ours."""
    name = f"{partition[0]}/{partition[1]}"
    known = published.visible.get(partition, 0)
    if found.last is None:
        if known and found.beginning == 0:
            raise IntegrityError(
                f"{name} holds no event from offset 0 on, but position {known} was visible there: the topic was "
                f"recreated. {REMEDY}"
            )
        return known  # never used, or emptied by retention: then the database's word stands
    position = _position(published, f"{name} offset {found.last.offset}", found.last, ids)
    if position < known:
        raise IntegrityError(
            f"{name} ends with position {position} at offset {found.last.offset}, but position {known} was visible "
            f"there: Kafka lost records. {REMEDY}"
        )
    return position


def _position(published: Published, where: str, last: Last, ids: Mapping[int, UUID]) -> int:
    if last.place is None:
        raise IntegrityError(
            f"{where} names a log, but no position and event id that can be read, and the relay of log "
            f"{published.log_id} must be the only writer of its topics. {REMEDY}"
        )
    log_id, position, event_id = last.place
    if log_id != published.log_id:
        raise IntegrityError(
            f"{where} belongs to log {log_id}, this is log {published.log_id}: one topic prefix belongs to one log. "
            f"{REMEDY}"
        )
    if ids.get(position) != event_id:
        raise IntegrityError(
            f"{where} is event {event_id} at position {position}, where the log has {ids.get(position, 'no event')}: "
            f"was the log restored from an older copy? {REMEDY}"
        )
    if not published.counts:
        raise IntegrityError(
            f"{where} is position {position} of this log, but its database never published: was it restored from a "
            f"copy older than the first publication? {REMEDY}"
        )
    return position
