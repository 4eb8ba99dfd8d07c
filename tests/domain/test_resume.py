"""What each partition still needs, branch by branch, and the whole of it against a broker that loses markers."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from random import Random
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servers.examples import examples
from whatsms_events.domain.events import Checkpoint
from whatsms_events.domain.records import partition_of
from whatsms_events.domain.resume import Last, Partition, Published, Route, SeenPartition, resume
from whatsms_events.errors import FencedError, IntegrityError

LOG = UUID(int=1)
TOPIC = "p.conversations"
A, B = (TOPIC, 0), (TOPIC, 1)
KEYS = [f"tenant/{n}".encode() for n in range(12)]
BY_PARTITION = {n: next(key for key in KEYS if partition_of(key, 2) == n) for n in (0, 1)}


def event(position: int) -> UUID:
    """Name the event at a position of the log."""
    return UUID(int=1000 + position)


IDS = {position: event(position) for position in range(1, 101)}


def last(position: int, *, log_id: UUID = LOG, event_id: UUID | None = None, offset: int = 50) -> Last:
    """Make a last visible record, the log's own unless said otherwise."""
    return Last(offset, (log_id, position, event_id or event(position)))


def known(through: int = 10, a: int = 9, b: int = 10) -> Published:
    """Make a relay's row: two partitions, published through 10."""
    return Published(
        log_id=LOG,
        generation=1,
        published_through=through,
        event_id=event(through),
        counts={TOPIC: 2},
        visible={A: a, B: b},
    )


def test_partition_ahead_of_the_lower_bound_is_not_published_again() -> None:
    """What is visible behind the lower bound is skipped in its partition, and only there."""
    resumed = resume(known(), {A: SeenPartition(0, last(20)), B: SeenPartition(0, last(10))}, IDS)
    assert resumed.target(20, TOPIC, BY_PARTITION[0]) is None
    assert resumed.target(21, TOPIC, BY_PARTITION[0]) == A
    assert resumed.target(11, TOPIC, BY_PARTITION[1]) == B
    assert resumed.published_through == 10, "the lower bound is what was proven, not what one partition shows"


def test_partition_behind_the_others_is_filled_up() -> None:
    """A partition whose last commit never became visible gets its rows again, in order, before anything later."""
    resumed = resume(known(), {A: SeenPartition(0, last(9)), B: SeenPartition(0, last(40))}, IDS)
    assert [resumed.target(at, TOPIC, BY_PARTITION[0]) for at in (9, 12, 30, 41)] == [None, A, A, A]
    assert [resumed.target(at, TOPIC, BY_PARTITION[1]) for at in (12, 40, 41)] == [None, None, B]


def test_partition_never_used_gets_everything() -> None:
    """An empty partition that nothing was ever seen in gets all rows behind the lower bound."""
    row = replace(known(), visible={B: 10})
    resumed = resume(row, {A: SeenPartition(0, None), B: SeenPartition(0, last(10))}, IDS)
    assert resumed.target(11, TOPIC, BY_PARTITION[0]) == A
    assert A not in resumed.visible


def test_partition_emptied_by_retention_stands_where_the_database_says() -> None:
    """Where retention removed every record, the recorded position holds and nothing is published again."""
    resumed = resume(known(a=15), {A: SeenPartition(77, None), B: SeenPartition(0, last(10))}, IDS)
    assert resumed.visible[A] == 15
    assert resumed.target(15, TOPIC, BY_PARTITION[0]) is None
    assert resumed.target(16, TOPIC, BY_PARTITION[0]) == A


def test_recreated_partition_is_refused() -> None:
    """A partition that was published to and is empty from offset 0 on is another topic of the same name."""
    with pytest.raises(
        IntegrityError, match=rf"{TOPIC}/0 holds no event from offset 0 on, but position 9 .* recreated"
    ):
        resume(known(), {A: SeenPartition(0, None), B: SeenPartition(0, last(10))}, IDS)


def test_partition_of_strays_alone_is_judged_as_an_empty_one() -> None:
    """Records that name no log prove nothing: recreated where the partition begins at 0, else emptied by retention."""
    with pytest.raises(IntegrityError, match="the topic was recreated"):
        resume(known(), {A: SeenPartition(0, None, strays=3), B: SeenPartition(0, last(10))}, IDS)
    resumed = resume(known(a=15), {A: SeenPartition(77, None, strays=3), B: SeenPartition(0, last(10), strays=9)}, IDS)
    assert (resumed.visible[A], resumed.visible[B]) == (15, 10)


def test_fewer_partitions_are_refused() -> None:
    """Kafka cannot take partitions away: the topic was recreated."""
    with pytest.raises(IntegrityError, match="has 1 partitions and had 2"):
        resume(known(), {A: SeenPartition(0, last(9))}, IDS)


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (Last(50, None), r"p.conversations/0 offset 50 names a log, but no position and event id"),
        (last(9, log_id=UUID(int=2)), r"offset 50 belongs to log 0+-.*2, this is log"),
        (last(9, event_id=UUID(int=7)), r"offset 50 is event .* at position 9, where the log has .*restored"),
        (last(101), r"at position 101, where the log has no event: was the log restored"),
        (last(8), r"ends with position 8 at offset 50, but position 9 was visible there: Kafka lost records"),
    ],
)
def test_record_that_is_not_the_logs_own_is_refused(found: Last, says: str) -> None:
    """A foreign record, another log's, a restored log's and a lost tail stop the relay, which names the place."""
    with pytest.raises(IntegrityError, match=says) as caught:
        resume(known(), {A: SeenPartition(0, found), B: SeenPartition(0, last(10))}, IDS)
    assert "topic_prefix" in str(caught.value), "and says what can be done"


def test_first_start_on_used_topics_is_refused() -> None:
    """A database that never published does not go on where another one published, not even the same log."""
    first = Published(log_id=LOG, generation=1)
    with pytest.raises(IntegrityError, match="never published"):
        resume(first, {A: SeenPartition(0, last(9)), B: SeenPartition(0, None)}, IDS)
    with pytest.raises(IntegrityError, match="one topic prefix belongs to one log"):
        resume(first, {A: SeenPartition(0, last(9, log_id=UUID(int=2))), B: SeenPartition(0, None)}, IDS)


def test_first_start_on_empty_topics_begins_at_the_beginning() -> None:
    """Nothing known, nothing visible: every row is published, by the counts of now."""
    resumed = resume(Published(log_id=LOG, generation=1), {A: SeenPartition(0, None), B: SeenPartition(0, None)}, IDS)
    assert resumed.counts == {TOPIC: 2}
    assert resumed.checkpoint is None
    assert resumed.target(1, TOPIC, BY_PARTITION[1]) == B


def test_added_partitions_take_rows_behind_the_highest_visible_one() -> None:
    """What is missing before goes where its key went, and that stays so after the next crash and the next growth."""
    moved = next(key for key in KEYS if partition_of(key, 3) == 2 and partition_of(key, 2) == 0)
    third = (TOPIC, 2)
    seen = {A: SeenPartition(0, last(9)), B: SeenPartition(0, last(40)), third: SeenPartition(0, None)}
    resumed = resume(known(), seen, IDS)
    assert resumed.routes == (Route(40, {TOPIC: 2}),)
    assert [resumed.target(at, TOPIC, moved) for at in (39, 40, 41)] == [A, A, third]

    again = resume(resumed, seen, IDS)
    assert again.routes == resumed.routes, "a crash before the first row of the new routing changes nothing"

    filled = {A: SeenPartition(0, last(39)), B: SeenPartition(0, last(50)), third: SeenPartition(0, last(60))}
    grown = resume(resumed, filled | {(TOPIC, n): SeenPartition(0, None) for n in (3, 4)}, IDS)
    assert grown.routes == (Route(40, {TOPIC: 2}), Route(60, {TOPIC: 3}))
    assert grown.advanced(Checkpoint(log_id=LOG, position=60, event_id=event(60)), {}).routes == ()


def test_lower_bound_moves_with_what_was_seen_to_be_visible() -> None:
    """After a check the bound, its event and each partition's last position are the new truth."""
    checkpoint = Checkpoint(log_id=LOG, position=30, event_id=event(30))
    advanced = known().advanced(checkpoint, {A: 29})
    assert (advanced.checkpoint, advanced.visible) == (checkpoint, {A: 29, B: 10})


# The model: one topic of a broker that loses markers, and a relay that may stop at every step.


@dataclass
class Entry:
    """A record in a partition: `open` (undecided), `hanging` (committed, no marker), `visible` or `aborted`."""

    position: int
    state: str


@dataclass
class World:
    """The truth: a log, a topic, the relay's row, and the epoch of the newest producer."""

    random: Random
    keys: list[bytes]
    partitions: list[list[Entry]]
    row: Published | None = None
    epoch: int = 0
    removed: dict[int, int] = field(default_factory=dict)  # partition -> entries that retention removed

    def visible(self, number: int) -> list[int]:
        """Every position that readers of a partition ever saw, in their order."""
        return [entry.position for entry in self.partitions[number] if entry.state == "visible"]

    def seen(self) -> dict[Partition, SeenPartition]:
        """Show what an opening sees."""
        found = {}
        for number, entries in enumerate(self.partitions):
            beginning = self.removed.get(number, 0)
            at = [(n, e) for n, e in enumerate(entries) if n >= beginning and e.state == "visible"]
            found[TOPIC, number] = SeenPartition(beginning, last(at[-1][1].position, offset=at[-1][0]) if at else None)
        return found

    def claim(self) -> Published:
        """Take the row with a new generation."""
        old = self.row or Published(log_id=LOG, generation=0)
        self.row = replace(old, generation=old.generation + 1)
        return self.row

    def save(self, published: Published) -> None:
        """Save, if nobody has claimed the row since."""
        if self.row is None or self.row.generation != published.generation:
            raise FencedError("row")
        self.row = published

    def decide(self, state: str, *, number: int | None = None, of: tuple[str, ...]) -> None:
        """Write a marker: everything undecided in the partition, or in all of them, becomes `state`."""
        for at, entries in enumerate(self.partitions):
            for entry in entries:
                if entry.state in of and number in (None, at):
                    entry.state = state

    def settled(self) -> bool:
        """Last stable offset = end everywhere."""
        return not any(e.state in ("open", "hanging") for entries in self.partitions for e in entries)


def relay(world: World, *, loses_markers: bool) -> Iterator[str]:
    """Live as a relay; at every yield it may be killed, or freeze and go on later."""
    world.epoch += 1
    epoch = world.epoch
    for number, entries in enumerate(world.partitions):
        if any(entry.state == "open" for entry in entries):
            world.decide("aborted", number=number, of=("open", "hanging"))
    yield "fenced the older"
    published = world.claim()
    yield "claimed"
    if epoch != world.epoch:
        raise FencedError("opening abort")
    for entries in world.partitions:
        entries.append(Entry(0, "aborted"))
    world.decide("aborted", of=("open", "hanging"))
    yield "aborted what hung"
    ids = {position: event(position) for position in range(1, len(world.keys) + 1)}
    try:
        published = resume(published, world.seen(), ids)
    except IntegrityError:
        world.save(published)  # who was overtaken during the opening is fenced, not refused
        raise
    world.save(published)
    yield "resumed"
    position, sent = published.published_through, dict[Partition, int]()
    while position < len(world.keys):
        end = min(len(world.keys), position + world.random.randint(1, 4))
        written = set()
        for at in range(position + 1, end + 1):
            target = published.target(at, TOPIC, world.keys[at - 1])
            if target is not None:
                if epoch != world.epoch:
                    raise FencedError("append")
                world.partitions[target[1]].append(Entry(at, "open"))
                written.add(target[1])
                sent[target] = at
                yield "appended"
        if epoch != world.epoch:
            raise FencedError("commit")
        world.decide("hanging", of=("open",))
        yield "committed"
        for number in sorted(written):
            if epoch == world.epoch and not (loses_markers and world.random.random() < 0.5):
                world.decide("visible", number=number, of=("open", "hanging"))
                yield "marked"
        position = end
        if world.random.random() < 0.5 or position == len(world.keys):
            # A frozen relay may look after its successor's opening abort: then all is settled, and nothing is visible.
            if world.settled():
                yield "found settled"
                published = published.advanced(
                    Checkpoint(log_id=LOG, position=position, event_id=event(position)), sent
                )
                world.save(published)
                yield "saved"
            elif not loses_markers or world.random.random() < 0.3:
                return  # a lasting difference: the caller opens again


def finish(world: World) -> None:
    """Open relays that lose nothing until all is published and proven."""
    for _ in range(5):
        list(relay(world, loses_markers=False))
        if world.row is not None and world.row.published_through == len(world.keys):
            return
    raise AssertionError("does not come to an end")


def assert_published_once_in_order(world: World) -> None:
    """Every row in exactly one partition, ascending in each; and a key moves only where partitions were added."""
    positions = [world.visible(number) for number in range(len(world.partitions))]
    for found in positions:
        assert found == sorted(set(found))
    assert sorted(at for found in positions for at in found) == list(range(1, len(world.keys) + 1))
    where = {at: number for number, found in enumerate(positions) for at in found}
    for key in set(world.keys):
        path = [where[at] for at, other in enumerate(world.keys, 1) if other == key]
        moves = sum(before != after for before, after in pairwise(path))
        assert moves <= len(world.partitions) - 2


def half_done() -> World:
    """Make a world of 30 rows: the first commits are whole, of the last one only one partition became visible."""
    world = World(Random(1), [KEYS[at % len(KEYS)] for at in range(30)], [[], []])
    for _ in (life := relay(world, loses_markers=False)):
        if world.row is not None and world.row.published_through:
            life.close()  # type: ignore[attr-defined]
            break
    through = world.row.published_through if world.row else 0
    for at in range(through + 1, 31):
        number = partition_of(world.keys[at - 1], 2)
        world.partitions[number].append(Entry(at, "visible" if number == 0 else "hanging"))
    return world


def test_crash_after_each_step_of_a_fill_up_publishes_once() -> None:
    """A relay that fills a partition up may die after any step, and its successor after any step of that too."""
    steps = len(list(relay(half_done(), loses_markers=False)))
    assert steps > 20
    for first in range(steps):
        for second in range(steps):
            world = half_done()
            for crash in (first, second):
                list(zip(range(crash), relay(world, loses_markers=False), strict=False))
            finish(world)
            assert_published_once_in_order(world)


@settings(max_examples=examples(300))
@given(random=st.randoms(use_true_random=False), rows=st.integers(1, 25))
def test_whatever_is_lost_every_row_is_published_once(random: Random, rows: int) -> None:
    """Lost markers, crashes and frozen relays at every step, retention, added partitions: once, in order, complete."""
    world = World(random, [random.choice(KEYS) for _ in range(rows)], [[], []])
    frozen: list[Iterator[str]] = []
    for _ in range(random.randint(1, 8)):
        life = relay(world, loses_markers=True)
        steps = random.randint(0, 40)
        try:
            for _ in zip(range(steps), life, strict=False):
                if frozen and random.random() < 0.3:
                    thawed = frozen[random.randrange(len(frozen))]
                    try:
                        next(thawed, None)
                    except FencedError:
                        frozen.remove(thawed)
        except FencedError:
            continue
        frozen.append(life)
        chance = random.random()
        if chance < 0.2:
            world.partitions.append([])
        elif chance < 0.4 and world.row is not None:
            # Retention, of what the database knows: it runs after days, and the lower bound moves every few seconds.
            number = random.randrange(len(world.partitions))
            decided = all(entry.state in ("visible", "aborted") for entry in world.partitions[number])
            if decided and world.visible(number)[-1:] == [world.row.visible.get((TOPIC, number), 0)]:
                world.removed[number] = len(world.partitions[number])
        elif chance < 0.6:
            world.decide("visible", number=random.randrange(len(world.partitions)), of=("hanging",))  # a late marker
        for _ in range(random.randint(0, 3)):
            world.keys.append(random.choice(KEYS))
    finish(world)
    assert_published_once_in_order(world)


def test_without_a_generation_a_frozen_relay_could_lose_rows() -> None:
    """The case behind the row's generation: hung, aborted by the successor, found settled by the frozen one."""
    world = World(Random(3), [BY_PARTITION[0]], [[], []])
    frozen = relay(world, loses_markers=False)
    for step in frozen:
        if step == "committed":
            break
    successor = relay(world, loses_markers=False)
    for step in successor:
        if step == "aborted what hung":
            break
    assert world.settled()
    with pytest.raises(FencedError, match="row"):
        list(frozen)
    finish(world)
    assert_published_once_in_order(world)
