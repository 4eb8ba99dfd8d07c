"""Replays to the projection: on real databases, beside a running consumer, and through kills."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select, text, update

from servers.compare import rows_of
from servers.kafka import RunningKafka
from servers.metric import counted
from whatsms_events.domain.events import EventType, from_micros
from whatsms_events.domain.replay import WHOLE, Selection
from whatsms_events.domain.retention import Group, RetentionTerms, groups
from whatsms_events.domain.rows import Key
from whatsms_events.errors import FencedError, IntegrityError, StorageUnavailableError, UnstorableError
from whatsms_events.storage import tables
from whatsms_events.storage.database import Database, DatabaseTarget
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.log.selected import Blanked, Selected
from whatsms_events.storage.projection.apply import Offset, Projection
from whatsms_events.storage.projection.holdings import Holdings
from whatsms_events.storage.projection.parked import ParkedEvents
from whatsms_events.storage.projection.retry import Retry
from whatsms_events.storage.projection.shadow import has_shadow, open_shadow, remove_shadow, shadow_of
from whatsms_events.storage.projection.swap import SwapOutcome
from whatsms_events.storage.projection.texts import Texts
from whatsms_events.storage.role_lock import RoleLock
from whatsms_events.workers.preview import Preview
from whatsms_events.workers.replay import Offsets, ProjectionReplay, ReplayAim
from whatsms_events.workers.sources import offsets_stand
from workers.test_consumer import START, Bench, connect, opened

FAR = ReplayAim(0, 1_000_000)
LATER = START + timedelta(days=1)


@dataclass
class Stage:
    """A log and its projection, with a shadow beside it."""

    bench: Bench
    target: DatabaseTarget
    shadow: Database

    texts: Sequence[Group] = ()

    def replay(self, *, swap: bool = True) -> ProjectionReplay:
        """Return a replay, as a command would make it."""
        bench = self.bench
        lock = RoleLock(bench.log, "replay")
        log, selected = EventLog(bench.log), Selected(bench.log)
        return ProjectionReplay(
            log, selected, bench.projection, self.shadow, lock, batch_limit=40, swap=swap,
            texts=self.texts, now=lambda: LATER,
        )  # fmt: skip

    async def built(self, *, swap: bool = True) -> ProjectionReplay:
        """Return a replay whose shadow is near the live tables."""
        replay = self.replay(swap=swap)
        while await replay.run_once(await replay.aim()):
            pass
        return replay

    async def done(self, *, swap: bool, stand: Callable[[Offsets], Awaitable[bool]] | None = None) -> SwapOutcome:
        """Replay once, and give the role up."""
        replay = await self.built(swap=swap)
        try:
            return await replay.finish(examples=3, stand=stand)
        finally:
            await replay.close()


@asynccontextmanager
async def staged(database_url: str, folder: Path) -> AsyncIterator[Stage]:
    """Open a log on SQLite, a projection where the URL says, and an empty shadow."""
    url = database_url.replace("log.db", "projection.db")
    async with opened(f"sqlite:///{folder / 'log.db'}", url, folder) as bench:
        target = shadow_of(DatabaseTarget(url))
        assert not await has_shadow(bench.projection, target)
        shadow = await open_shadow(bench.projection, target)
        try:
            yield Stage(bench, target, shadow)
        finally:
            await shadow.close()
            await remove_shadow(bench.projection, target)
            assert not await has_shadow(bench.projection, target)


@pytest.fixture
async def stage(database_url: str, tmp_path: Path) -> AsyncIterator[Stage]:
    """Give a stage on SQLite, and one on PostgreSQL."""
    async with staged(database_url, tmp_path) as made:
        yield made


@pytest.fixture
async def on_files(tmp_path: Path) -> AsyncIterator[Stage]:
    """Give a stage on SQLite alone, for what does not depend on the database."""
    async with staged(f"sqlite:///{tmp_path / 'log.db'}", tmp_path) as made:
        yield made


def differing(outcome: SwapOutcome) -> dict[str, tuple[int, int, int]]:
    """Return rows that are new, lost and changed, by table, where there are any."""
    return {one.table: (one.new, one.lost, one.changed) for one in outcome.findings if one.differs}


async def spoil(stage: Stage) -> None:
    """Let the live tables say what no event says: a row lost, one made up, one with another value."""
    live = tables.ticket
    async with stage.bench.projection.write() as connection:
        await connection.execute(update(live).values(status="spoilt", user_name="Somebody"))
        contacts = list(await connection.execute(tables.contact.select().order_by(tables.contact.c.id).limit(2)))
        await connection.execute(tables.contact.delete().where(tables.contact.c.id == contacts[0].id))
        await connection.execute(tables.contact.insert().values({**contacts[1]._asdict(), "id": "made-up"}))


async def test_a_replay_of_an_unchanged_log_differs_in_nothing_and_a_swap_mends_what_was_spoilt(stage: Stage) -> None:
    """Built anew, the shadow is the live tables, row for row and version for version. Where somebody changed these, the
    replay counts it by table and field, shows no name, and after the swap they are as they were.
    """
    bench = stage.bench
    end = await bench.append(260)
    consumer = bench.from_log()
    await bench.apply_all(consumer)
    clean = await rows_of(bench.projection)
    same = await stage.done(swap=False)
    assert differing(same) == {}
    assert sum(one.rows for one in same.findings) > 100
    assert (same.live.applied_through, same.replayed.applied_through, same.after) == (end, end, None)

    await spoil(stage)
    found = await stage.done(swap=False)
    by_table = {one.table: one for one in found.findings}
    tickets = by_table["ticket"]
    assert differing(found) == {"ticket": (0, 0, tickets.rows), "contact": (1, 1, 0)}
    assert set(tickets.fields) == {"status", "user_name"}
    assert {one.kind for one in by_table["contact"].examples} == {"new", "lost"}
    for example in tickets.examples:
        assert example.fields["user_name"] is None
        assert (example.fields["status"] or ("", ""))[0] == "spoilt"
    assert await rows_of(bench.projection) != clean

    before = await Projection(bench.projection).state()
    swapped = await stage.done(swap=True)
    assert differing(swapped) == differing(found)
    assert await rows_of(bench.projection) == clean
    after = await Projection(bench.projection).state()
    assert after == swapped.after
    assert (after.generation, after.applied_through, after.applied) == (before.generation + 1, end, end)
    assert differing(await stage.done(swap=False)) == {}


async def test_a_running_consumer_goes_on_after_the_swap_and_what_arrived_meanwhile_is_there(stage: Stage) -> None:
    """Events come while the shadow is built, between comparison and swap, and after it: each is applied once. The
    consumer is fenced once, since rows that it holds may have changed, and goes on by itself.
    """
    bench = stage.bench
    await bench.append(120)
    consumer = bench.from_log()
    while await consumer.run_once():
        pass
    await spoil(stage)
    replay = await stage.built()
    await bench.append(40)
    await consumer.run_once()
    meanwhile = await bench.append(40)  # the consumer has not seen these
    outcome = await replay.finish(examples=1)
    await replay.close()
    assert outcome.live.applied_through < meanwhile
    assert outcome.live.applied_through == outcome.replayed.applied_through
    assert outcome.after is not None
    assert outcome.after.applied_through == meanwhile
    end = await bench.append(40)
    with pytest.raises(FencedError):
        await consumer.run_once()
    await bench.apply_all(consumer)
    assert await bench.applied() == end
    assert differing(await stage.done(swap=False)) == {}


async def test_a_swap_that_fails_half_way_changes_nothing(stage: Stage) -> None:
    """Where the database refuses a row of the last table, or the log cannot be read to its end, no table has changed,
    the generation is what it was, and the running consumer is not even fenced.
    """
    bench = stage.bench
    await bench.append(120)
    consumer = bench.from_log()
    while await consumer.run_once():
        pass
    await spoil(stage)
    async with bench.projection.write() as connection:
        await connection.execute(update(tables.message_revision).values(first_at=1))
        if bench.projection.dialect == "sqlite":
            rule = "BEFORE UPDATE ON message_revision BEGIN SELECT RAISE(ABORT, 'refused'); END"
            await connection.execute(text(f"CREATE TRIGGER refuse {rule}"))
        else:
            rule = "ADD CONSTRAINT refuse CHECK (first_at = 1)"
            await connection.execute(text(f"ALTER TABLE message_revision {rule}"))
    spoilt, before = await rows_of(bench.projection), await Projection(bench.projection).state()
    with pytest.raises((UnstorableError, StorageUnavailableError), match=r"CONSTRAINT|23514"):
        await stage.done(swap=True)
    assert await rows_of(bench.projection) == spoilt
    assert await Projection(bench.projection).state() == before
    await bench.append(1)
    assert await consumer.run_once()
    await consumer.close()


async def test_blanked_rows_are_counted_and_nothing_is_swapped(on_files: Stage) -> None:
    """Retention took the bytes of some events: the replay says how many and where the first one stands, compares the
    rest, and leaves the live tables as they are, also when the bytes go at the last moment.
    """
    bench = on_files.bench
    await bench.append(120)
    await bench.apply_all(bench.from_log())
    clean = await rows_of(bench.projection)
    await bench.blank(17, 30, 31)
    assert await Selected(bench.log).blanked(WHOLE) == Blanked(3, 17)
    assert await Selected(bench.log).blanked(Selection(first=18, last=30)) == Blanked(1, 30)
    says = r"blanked 3 events, the first one at position 17.*not swapped"
    with pytest.raises(IntegrityError, match=says):
        await on_files.replay().expect_bytes()
    with pytest.raises(IntegrityError, match=says):
        await on_files.done(swap=True)
    assert await rows_of(bench.projection) == clean
    assert differing(await on_files.done(swap=False))
    assert await rows_of(bench.projection) == clean


async def test_what_todays_code_refuses_is_parked_and_can_be_retried_after_the_swap(
    on_files: Stage,
) -> None:
    """An event that was read once and cannot be read now is not lost: the comparison shows it, the swap parks it with
    its data and its reason, and a retry applies it in the form in which the log has it.
    """
    bench = on_files.bench
    await bench.append(60)
    async with bench.log.write() as connection:  # as if the rules had become stricter
        await connection.execute(update(tables.event_log).where(tables.event_log.c.position == 7).values(raw=b"[]"))
    await bench.apply_all(bench.from_log())
    clean = await rows_of(bench.projection)
    outcome = await on_files.done(swap=True)
    assert {one.table: one.new for one in outcome.findings}["parked_event"] == 1
    (parked,) = await bench.parked()
    assert (parked["source"], parked["at"], parked["reason"]) == ("log", 7, "not_object")
    assert (await Retry(Projection(bench.projection), ParkedEvents(bench.projection), bench.event_log).all()).applied
    assert await rows_of(bench.projection) == clean


async def test_what_was_parked_out_of_kafka_stays_parked(on_files: Stage) -> None:
    """It is not in the log, so a replay knows nothing of it; what was parked of the log and can be applied now is not
    parked any more.
    """
    bench = on_files.bench
    await bench.append(40)
    await bench.apply_all(bench.from_log())
    stray = {"source": "whatsms.contacts/1", "at": 5, "reason": "stray", "detail": "", "parked_at": 1, "raw": b""}
    async with bench.projection.write() as connection:
        for one in (stray, stray | {"source": "log", "at": 3, "reason": "data"}):
            await connection.execute(tables.parked_event.insert().values(**one, headers="[]"))
    outcome = await on_files.done(swap=True)
    assert differing(outcome) == {"parked_event": (0, 1, 0)}
    assert [row["source"] for row in await bench.parked()] == ["whatsms.contacts/1"]


async def test_tables_of_another_log_are_replaced_by_a_replay_of_this_one(on_files: Stage) -> None:
    """A restored log is older than the tables, and the consumer halts. The replay goes to the log's end, and after the
    swap the consumer goes on: the checkpoint, the log's id and what is applied are those of this log.
    """
    bench = on_files.bench
    end = await bench.append(120)
    await bench.apply_all(bench.from_log())
    async with bench.log.write() as connection:
        await connection.execute(tables.event_log.delete().where(tables.event_log.c.position > 80))
    halted = bench.from_log()
    with pytest.raises(IntegrityError, match="replay"):
        await halted.run_once()
    outcome = await on_files.done(swap=True)
    assert outcome.after is not None
    assert (outcome.live.applied_through, outcome.after.applied_through) == (end, 80)
    await bench.append(40)
    await bench.apply_all(halted)
    assert differing(await on_files.done(swap=False)) == {}


@pytest.mark.parametrize("again", [0, 60])
async def test_a_kept_shadow_that_is_not_of_the_log_is_never_swapped_in(on_files: Stage, again: int) -> None:
    """A comparison keeps its shadow. Where the log was restored from an older copy since, be it shorter or with other
    events, the shadow shows what the log does not hold: the next replay refuses it, and the tables stay as they are.
    """
    bench = on_files.bench
    await bench.append(120)
    await bench.apply_all(bench.from_log())
    await on_files.done(swap=False)
    clean, before = await rows_of(bench.projection), await Projection(bench.projection).state()
    async with bench.log.write() as connection:
        await connection.execute(tables.event_log.delete().where(tables.event_log.c.position > 80))
    if again:
        await bench.append(again)
    for swap in (False, True):
        with pytest.raises(IntegrityError, match=r"the shadow does not fit.*replay discard"):
            await on_files.done(swap=swap)
    assert await rows_of(bench.projection) == clean
    assert await Projection(bench.projection).state() == before


async def test_a_log_that_is_exchanged_before_the_swap_keeps_the_tables(on_files: Stage) -> None:
    """The shadow is looked at once more under the lock of the swap."""
    bench = on_files.bench
    await bench.append(120)
    await bench.apply_all(bench.from_log())
    replay = await on_files.built()
    while await replay.run_once(FAR):
        pass
    before = await Projection(bench.projection).state()
    async with bench.log.write() as connection:
        await connection.execute(tables.event_log.delete().where(tables.event_log.c.position > 80))
    with pytest.raises(IntegrityError, match=r"the shadow does not fit.*replay discard"):
        await replay.finish(examples=1)
    await replay.close()
    assert await Projection(bench.projection).state() == before


async def test_a_replay_that_was_stopped_goes_on_from_its_checkpoint(on_files: Stage) -> None:
    """The shadow has its own checkpoint: another process reads on from there, and nothing is read twice."""
    bench = on_files.bench
    end = await bench.append(200)
    await bench.apply_all(bench.from_log())
    first = on_files.replay()
    assert await first.run_once(FAR) == 40
    await first.close()
    begun = await Projection(on_files.shadow).state()
    assert 0 < begun.applied_through < end
    await on_files.done(swap=True)
    assert (await Projection(on_files.shadow).state()).applied == await bench.applied() == end


async def test_two_replays_of_one_projection_do_not_work_at_once(on_files: Stage) -> None:
    """The second one is told that another process has the role."""
    bench = on_files.bench
    await bench.append(60)
    first, second = on_files.replay(), on_files.replay()
    await first.run_once(FAR)
    with pytest.raises(FencedError):
        await second.run_once(FAR)
    await first.close()


async def test_a_part_of_the_log_is_compared_by_what_it_would_change(on_files: Stage) -> None:
    """Events that are read as before change nothing. One that is read otherwise today shows the rows and fields that it
    would change, with texts hidden; a tenant, a type, times and positions cut the rest off. Nothing is written.
    """
    bench = on_files.bench
    end = await bench.append(150)
    await bench.apply_all(bench.from_log())
    log, holdings = bench.event_log, Holdings(bench.projection)
    entries = await log.read(0, 500)
    told = next(entry for entry in entries if entry.event.type == EventType.MESSAGE_RECEIVED)

    async def previewed(selection: Selection, through: int = end) -> Preview:
        preview = Preview(log, holdings, selection, through=through)
        while await preview.run_once(40):
            pass
        return preview

    same = await previewed(Selection(first=20, last=90))
    assert (same.events, same.position) == (71, 90)
    assert not [one for one in same.findings(examples=1, personal=False) if one.differs]

    message = tables.message.c
    lost = (
        update(tables.message).where(message.id == told.event.message_id).values(body=None, from_me=True, versions="{}")
    )
    async with bench.projection.write() as connection:
        await connection.execute(lost)
    kept = await rows_of(bench.projection)
    (found,) = [
        one
        for one in (await previewed(Selection(type=told.event.type))).findings(examples=9, personal=False)
        if one.differs
    ]
    assert (found.table, found.new, found.changed) == ("message", 0, 1)
    assert {"body", "from_me"} <= set(found.fields)
    assert found.examples[0].fields["body"] is None
    assert found.examples[0].fields["from_me"] == (True, False)
    received = [entry.event.received_at for entry in entries]
    for nothing in (
        Selection(tenant="somebody else"),
        Selection(since=max(received) + timedelta(seconds=1)),
        Selection(until=min(received)),
        Selection(first=end + 1),
    ):
        assert (await previewed(nothing)).events == 0
    assert (await previewed(Selection(), through=10)).events == 10
    assert await rows_of(bench.projection) == kept


async def test_a_consumer_of_kafka_goes_on_after_the_swap_from_the_offsets_that_it_had(
    on_files: Stage, kafka: RunningKafka, topic_prefix: str
) -> None:
    """What the swap has applied already is skipped where Kafka brings it, and what comes later is applied once. Offsets
    that are gone halt the consumer, and the swap that its message names mends that too: they are forgotten.
    """
    bench = await connect(on_files.bench, kafka, topic_prefix)
    assert bench.kafka is not None
    await bench.begin_with_kafka()
    await bench.append(100)
    await bench.publish()
    consumer = bench.from_kafka()
    await bench.apply_all(consumer)
    await spoil(on_files)
    before = await Projection(bench.projection).state()
    end = await bench.append(60)  # not published, not applied: the swap takes it from the log
    outcome = await on_files.done(swap=True)
    after = outcome.after
    assert after is not None
    assert {at: one.next_offset for at, one in after.offsets.items()} == {
        at: one.next_offset for at, one in before.offsets.items()
    }
    assert {one.last_position for one in after.offsets.values()} == {end} == {after.applied_through}
    clean = await rows_of(bench.projection)
    skipped = counted("consumer_skipped")
    later = await bench.append(60)
    await bench.publish()
    await bench.apply_all(bench.from_kafka())
    assert counted("consumer_skipped") - skipped == 60
    assert await bench.applied() == later
    assert await rows_of(bench.projection) != clean
    assert differing(await on_files.done(swap=False)) == {}

    gone = {at: replace(one, next_offset=10_000) for at, one in after.offsets.items()}
    assert await offsets_stand(bench.kafka, bench.prefix, after.offsets)
    assert not await offsets_stand(bench.kafka, bench.prefix, gone)
    assert not await offsets_stand(bench.kafka, bench.prefix, {("another.topic", 0): Offset(0, 0)})
    await bench.append(20)
    await bench.publish()
    async with bench.projection.write() as connection:
        await connection.execute(update(tables.projection_offset).values(next_offset=10_000))
    halted = bench.from_kafka()
    with pytest.raises(IntegrityError, match="replay projection --go --swap"):
        await bench.apply_all(halted)
    target = bench.kafka
    swapped = await on_files.done(swap=True, stand=lambda saved: offsets_stand(target, topic_prefix, saved))
    assert swapped.after is not None
    assert swapped.after.offsets == {}
    await bench.append(20)
    await bench.publish()
    await bench.apply_all(halted)
    assert differing(await on_files.done(swap=False)) == {}


async def test_a_swap_brings_no_text_back_whose_days_are_over(stage: Stage) -> None:
    """What was written is over in the tables, and the log still has it: the shadow shows no difference, and after a
    swap, which reads the last events under its lock, no text is there that was not there before.
    """
    bench = stage.bench
    await bench.append(260)
    await bench.apply_all(bench.from_log())
    async with bench.projection.read() as connection:
        middle = int(await connection.scalar(select(func.avg(tables.message.c.created_at))) or 0)
    stage.texts = groups(RetentionTerms({"texts": LATER - from_micros(middle)}), "texts")
    before = await _texts(bench.projection)
    assert (await Texts(bench.projection).expire(None, stage.texts, LATER, 10_000)).blanked
    await Texts(bench.projection).expire(Key("message_revision", "", ""), stage.texts, LATER, 10_000)
    await Texts(bench.projection).expire(Key("ticket", "", ""), stage.texts, LATER, 10_000)
    rows, left = await rows_of(bench.projection), await _texts(bench.projection)
    assert 0 < left < before
    replay = await stage.built()
    outcome = await replay.finish(examples=3)
    await replay.close()
    assert differing(outcome) == {}
    assert outcome.after is not None
    assert await _texts(bench.projection) == left
    assert await rows_of(bench.projection) == rows


async def _texts(projection: Database) -> int:
    """Count what was written, as the tables show it."""
    columns = tables.message.c.body, tables.message_revision.c.content, tables.ticket.c.last_message
    async with projection.read() as connection:
        found = [await connection.scalar(select(func.count(column))) for column in columns]
    return sum(one or 0 for one in found)
