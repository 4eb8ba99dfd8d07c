"""How a batch that the consumer read is applied: rows, offsets, checkpoint and parked events, all or nothing.

Each transaction first moves the generation by compare-and-swap, so of two consumers one loses as a whole.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

import msgspec
import structlog
from sqlalchemy import bindparam, delete, func, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from whatsms_events import clock
from whatsms_events.domain import bare
from whatsms_events.domain.bodies import storable
from whatsms_events.domain.events import Checkpoint, EventType, LogEntry, to_micros
from whatsms_events.domain.records import STRAY
from whatsms_events.errors import FencedError, IntegrityError, InvalidEventError
from whatsms_events.storage.database import Database, insert
from whatsms_events.storage.projection.hot import HotRows
from whatsms_events.storage.projection.parked import ReadPlace
from whatsms_events.storage.projection.rows import TURN, ClaimedEvent, Folding
from whatsms_events.storage.tables import parked_event, projection, projection_offset

log = structlog.get_logger()

STRAYS_KEPT: Final = 100
"""So many records that name no log are parked: enough to see whose they are, and a flood of them fills no disk."""

STRAY_BYTES: Final = 4096
STRAY_HEADERS: Final = 16
STRAY_HEADER_BYTES: Final = 256

POISON_WINDOW: Final = 2000
POISON_LIMIT: Final = 20
"""If more than so many of the last POISON_WINDOW records (1 %) cannot be applied, the code is wrong, not the data."""


@dataclass(frozen=True, slots=True)
class Offset:
    """Where to read a partition on, and the last position of the log that it gave."""

    next_offset: int
    last_position: int


@dataclass(frozen=True, slots=True)
class ProjectionState:
    """How far the projection is. `offsets` by (full topic name, partition); empty while the log is the source."""

    generation: int
    log_id: UUID | None
    checkpoint: Checkpoint | None
    applied_through: int
    applied: int
    offsets: Mapping[tuple[str, int], Offset]


class ReadItem(msgspec.Struct, frozen=True):
    """One thing the consumer read: from `source` ("log" or "topic/partition") `at` (position or offset).

    `of`: the event as the log holds it, where a replay could not read it again.
    """

    source: str
    at: int
    raw: bytes
    headers: tuple[tuple[str, bytes], ...]
    read: LogEntry | InvalidEventError
    of: LogEntry | None = None


@dataclass(frozen=True, slots=True)
class Applied:
    """What a transaction did. `acks` are levels (or "failed") newly reached, with seconds since the message's creation.

    `types` counts what was applied by event type, `reasons` what was parked by reason, `strays` by source the records
    that name no log, parked or not, `unreadable` the times in what was applied that could not be read, by the vendor's
    name of the field.
    """

    state: ProjectionState
    applied: int
    parked: int
    acks: Sequence[tuple[str, float | None]]
    types: Mapping[EventType, int]
    reasons: Mapping[str, int]
    strays: Mapping[str, int]
    unreadable: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Retried:
    """What a retry did: how many parked events it applied, by type, and how many stay parked, by today's reason.

    `go_on` is where to go on where others were not tried. `gone` were listed, and somebody else retried or discarded
    them meanwhile.
    """

    types: Mapping[EventType, int]
    parked: Mapping[str, int]
    gone: int = 0
    go_on: ReadPlace | None = None

    @property
    def applied(self) -> int:
        """Return how many were applied."""
        return sum(self.types.values())

    @property
    def gone_words(self) -> str:
        """Say how many were gone, for the end of a sentence."""
        return f", {self.gone} gone meanwhile" if self.gone else ""


_Parked = tuple[ReadItem, InvalidEventError]

Poison = deque[bool]
"""Which of the last POISON_WINDOW records were poison."""


class Projection:
    """The projection of one database.

    One instance per consumer: it remembers which of the last records were poison, and holds the rows used last.
    """

    def __init__(
        self, database: Database, *, now: Callable[[], datetime] = clock.now, hot: HotRows | None = None
    ) -> None:
        self._database = database
        self._hot = HotRows() if hot is None else hot
        self._now = now
        self._poison: Poison = deque(maxlen=POISON_WINDOW)
        self._prepared: _Claimed | None = None

    async def state(self) -> ProjectionState:
        """Return how far the projection is; its row is made at first use. Raises StorageUnavailableError."""
        async with self._database.read() as connection:
            state = await load_state(connection)
        if state is not None:
            return state
        async with self._database.write() as connection:
            first = {"one": 1, "generation": 0, "position": 0, "applied_through": 0, "applied": 0}
            # Two processes may both come here first: one row is made, and both read it.
            await connection.execute(insert(connection, projection).on_conflict_do_nothing(), first)
            state = await load_state(connection)
        assert state is not None  # noqa: S101 - just written, in this transaction
        return state

    async def leave_topics(self) -> None:
        """Forget where each partition is read on: a consumer of Kafka then begins with the rest of the log.

        The generation moves, so that a consumer elsewhere that still goes by these places loses.
        """
        async with self._database.write() as connection:
            await connection.execute(update(projection).values(generation=projection.c.generation + 1))
            await connection.execute(delete(projection_offset))

    async def prepare(self, items: Sequence[ReadItem]) -> None:
        """Decode and claim what `apply` will be called with next: the very same sequence.

        Nothing is read or written, so this may be done while the batch before is being saved.
        """
        self._prepared = await _claim(items)

    async def apply(self, items: Sequence[ReadItem], before: ProjectionState, after: ProjectionState) -> Applied:
        """Apply the items and move from `before` to `after`, in one transaction; `after` need not count.

        What cannot be decoded, or what the database refuses, is parked with its bytes; the rest goes on. Of records
        that name no log the first few are parked, the others only counted: they are not ours, so no poison. Raises
        FencedError where another consumer moved the generation, IntegrityError where too much is poison,
        StorageUnavailableError; after each of them nothing is saved.
        """
        prepared, self._prepared = self._prepared, None
        claimed = prepared if prepared is not None and prepared.items is items else await _claim(items)
        folding = Folding(self._hot.at(before.generation))
        try:
            applied = await self._transact(claimed, folding, before, after)
        except BaseException:
            self._hot.drop()
            raise
        self._hot.keep(folding.rows, applied.state.generation)
        return applied

    async def retry(self, items: Sequence[ReadItem]) -> Retried:
        """Apply parked events, in one transaction, and forget that they were parked.

        Each counts at its own position, so the rows are the same as if it had been applied then. What cannot be
        applied still stays parked, with today's reason. What is not parked any more, since somebody else retried or
        discarded it, is left out. The generation moves: a consumer in another process begins anew, since rows that it
        holds may have changed. Raise StorageUnavailableError; then nothing is saved.
        """
        folding = Folding({})
        self.forget()
        async with self._database.write() as connection:
            # This takes the projection's row, as a consumer does: one of the two waits, and the consumer loses.
            await connection.execute(update(projection).values(generation=projection.c.generation + 1))
            mine = [item for item in items if await _taken(connection, item)]
            claimed = await _claim(mine)
            refused = await folding.fold(connection, claimed.readings)
            unstorable = [
                (claimed.items[index], InvalidEventError("unstorable", why)) for index, why in refused.items()
            ]
            parked = [*claimed.parked, *claimed.strays, *unstorable]
            await self._park(connection, parked)
            done = [one for one in claimed.readings if one.number not in refused]
            await connection.execute(update(projection).values(applied=projection.c.applied + len(done)))
        types = Counter(one.entry.event.type for one in done)
        return Retried(types, Counter(error.reason for _, error in parked), gone=len(items) - len(mine))

    def forget(self) -> None:
        """Give back the memory of the batch that was prepared and of the rows that were used last.

        Both are of no use once another process, or a retry, may have changed the rows.
        """
        self._prepared = None
        self._hot.drop()

    async def _transact(
        self, claimed: "_Claimed", folding: Folding, before: ProjectionState, after: ProjectionState
    ) -> Applied:
        items, readings, strays = claimed.items, claimed.readings, claimed.strays
        async with self._database.write() as connection:
            await _advance(connection, before.generation)
            refused = await folding.fold(connection, readings)
            unstorable = [(items[index], InvalidEventError("unstorable", why)) for index, why in refused.items()]
            parked = [*claimed.parked, *unstorable]
            done = [one for one in readings if one.number not in refused]
            poison = _judge(items, parked, self._poison)
            kept = await _with_room(connection, strays)
            await self._park(connection, [*parked, *kept])
            state = replace(after, generation=before.generation + 1, applied=before.applied + len(done))
            await save_state(connection, before, state)
        self._poison = poison
        for item, error in parked:
            log.warning("event.parked", source=item.source, at=item.at, reason=error.reason, detail=error.detail)
        return Applied(
            state=state,
            applied=len(done),
            parked=len(parked) + len(kept),
            acks=folding.acks,
            types=Counter(one.entry.event.type for one in done),
            reasons=Counter(error.reason for _, error in [*parked, *kept]),
            strays=Counter(item.source for item, _ in strays),
            unreadable=Counter(name for one in done for name in one.unreadable),
        )

    def judge(self, items: Sequence[ReadItem], window: Poison | None = None) -> Poison:
        """Return the window of poison after these items, read behind `window` (None: behind what was applied last).

        Nothing is written. Raise IntegrityError where too much is poison; what the database would refuse is not
        counted.
        """
        return _judge(items, _take_apart(items).parked, self._poison if window is None else window)

    async def _park(self, connection: AsyncConnection, parked: Sequence[tuple[ReadItem, InvalidEventError]]) -> None:
        if parked:
            now = to_micros(self._now())
            records = [_parked_record(item, error, now) for item, error in parked]
            # A record that is read again is parked once.
            await connection.execute(insert(connection, parked_event).on_conflict_do_nothing(), records)


def _judge(items: Sequence[ReadItem], parked: Sequence[_Parked], before: Poison) -> Poison:
    """Return the window after this batch; raise IntegrityError where it holds too much poison."""
    window = before.copy()
    bad = {(item.source, item.at) for item, _ in parked}
    ours = [item for item in items if not _is_stray(item.read)]  # the others say nothing about our code
    if not bad:
        window.extend([False] * len(ours))
    for item in ours if bad else ():
        window.append((item.source, item.at) in bad)
        if window[-1] and window.count(True) > POISON_LIMIT:
            reasons = dict(Counter(error.reason for _, error in parked))
            raise IntegrityError(
                f"more than {POISON_LIMIT} of the last {len(window)} records cannot be applied ({reasons} in this "
                f"batch, the last one {item.source} at {item.at}): the code is wrong, not the data. Nothing of "
                "the batch was saved; run a version that can read them"
            )
    return window


# Made once: to make a statement takes as long as to run it, and a small batch has few others.
_SAVE: Final = update(projection)
_MOVE: Final = _SAVE.where(projection.c.generation == bindparam("mine")).values(generation=bindparam("next"))


async def _advance(connection: AsyncConnection, generation: int) -> None:
    """Move the generation on, or raise FencedError: the first statement, it holds the row until the commit."""
    moved = await connection.execute(_MOVE, {"mine": generation, "next": generation + 1})
    if moved.rowcount != 1:
        raise FencedError(
            f"the projection is no longer at generation {generation}: another consumer or a replay moved it"
        )


async def _taken(connection: AsyncConnection, item: ReadItem) -> bool:
    """Remove an event from the parked ones; return whether it was there."""
    mine = parked_event.c.source == item.source, parked_event.c.at == item.at, parked_event.c.discarded_at.is_(None)
    return (await connection.execute(delete(parked_event).where(*mine))).rowcount > 0


class _Claimed(NamedTuple):
    """What a batch claims, what cannot be read of it, and what is not ours."""

    items: Sequence[ReadItem]
    readings: list[ClaimedEvent]
    parked: list[_Parked]
    strays: list[_Parked]


async def _claim(items: Sequence[ReadItem]) -> _Claimed:
    """Take a batch apart, piece by piece, so that the other tasks of the loop have their turns."""
    whole = _Claimed(items, [], [], [])
    for start in range(0, len(items), TURN):
        piece = _take_apart(items[start : start + TURN], start)
        whole.readings.extend(piece.readings)
        whole.parked.extend(piece.parked)
        whole.strays.extend(piece.strays)
        await asyncio.sleep(0)
    return whole


def _take_apart(items: Sequence[ReadItem], first: int = 0) -> _Claimed:
    """Return what each readable item claims, and the others. `first` is the number of the first one in its batch."""
    claimed = _Claimed(items, [], [], [])
    for number, item in enumerate(items, first):
        read = item.read
        try:
            if isinstance(read, InvalidEventError):
                raise read
            claimed.readings.append(ClaimedEvent(number, read, *bare.claims(read.event)))
        except InvalidEventError as error:
            (claimed.strays if _is_stray(error) else claimed.parked).append((item, error))
    return claimed


def _is_stray(read: LogEntry | InvalidEventError) -> bool:
    return isinstance(read, InvalidEventError) and read.reason == STRAY


async def _with_room(connection: AsyncConnection, strays: Sequence[_Parked]) -> Sequence[_Parked]:
    """Return the strays that are parked: the first ones, as long as there are few."""
    if not strays:
        return []
    held = parked_event.c.reason == STRAY, parked_event.c.discarded_at.is_(None)
    query = select(func.count()).select_from(parked_event).where(*held)
    return strays[: max(0, STRAYS_KEPT - (await connection.execute(query)).scalar_one())]


def _parked_record(item: ReadItem, error: InvalidEventError, parked_at: int) -> dict[str, object]:
    entry = item.read if isinstance(item.read, LogEntry) else item.of
    raw, headers = item.raw, item.headers
    if _is_stray(error):
        raw = raw[:STRAY_BYTES]
        headers = tuple(
            (name[:STRAY_HEADER_BYTES], value[:STRAY_HEADER_BYTES]) for name, value in headers[:STRAY_HEADERS]
        )
    return {
        "source": item.source,
        "at": item.at,
        "event_id": entry and entry.event.id,
        "position": entry and entry.position,
        "tenant": entry and storable(entry.event.tenant),  # as it is, it would be refused again
        "type": entry and entry.event.type.value,
        "reason": error.reason,
        "detail": error.detail,
        "parked_at": parked_at,
        "raw": raw,
        "headers": encode_headers(headers),
    }


def encode_headers(headers: Sequence[tuple[str, bytes]]) -> str:
    """Return a record's headers as the JSON of `parked_event.headers`: pairs of name and base64."""
    return msgspec.json.encode(headers).decode()


async def load_state(connection: AsyncConnection) -> ProjectionState | None:
    """Return how far the projection is; None before its first use."""
    row = (await connection.execute(select(projection))).one_or_none()
    if row is None:
        return None
    known = row.log_id is not None and row.event_id is not None
    checkpoint = Checkpoint(log_id=row.log_id, position=row.position, event_id=row.event_id) if known else None
    return ProjectionState(
        generation=row.generation,
        log_id=row.log_id,
        checkpoint=checkpoint,
        applied_through=row.applied_through,
        applied=row.applied,
        offsets={
            (one.topic, one.partition): Offset(next_offset=one.next_offset, last_position=one.last_position)
            for one in await connection.execute(select(projection_offset))
        },
    )


async def save_state(connection: AsyncConnection, before: ProjectionState, after: ProjectionState) -> None:
    """Save how far the projection is, but for its generation."""
    checkpoint = after.checkpoint
    saved = {
        "log_id": after.log_id,
        "position": checkpoint.position if checkpoint else 0,
        "event_id": checkpoint.event_id if checkpoint else None,
        "applied_through": after.applied_through,
        "applied": after.applied,
    }
    await connection.execute(_SAVE, saved)
    gone = [list(key) for key in before.offsets.keys() - after.offsets.keys()]
    if gone:
        place = tuple_(projection_offset.c.topic, projection_offset.c.partition)
        await connection.execute(delete(projection_offset).where(place.in_(gone)))
    moved = [
        {"topic": topic, "partition": partition, "next_offset": one.next_offset, "last_position": one.last_position}
        for (topic, partition), one in after.offsets.items()
        if before.offsets.get((topic, partition)) != one
    ]
    if moved:
        moving = insert(connection, projection_offset)
        changes = {name: moving.excluded[name] for name in ("next_offset", "last_position")}
        upsert = moving.on_conflict_do_update(index_elements=["topic", "partition"], set_=changes)
        await connection.execute(upsert, moved)
