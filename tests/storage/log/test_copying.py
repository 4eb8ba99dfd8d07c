"""A log that moves to another database: nothing lost, nothing twice, one place at a time, whatever stops it."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import delete, func, insert, select, text, update

from servers.compare import assert_published, until, whole_log
from servers.kafka import RunningKafka
from storage.log.test_event_log import append, fill
from storage.log.test_seals import Clock, seal_all, sealer
from whatsms_events.domain.retention import Group, Place, Sweep
from whatsms_events.domain.verdicts import Append
from whatsms_events.errors import (
    ConfigError,
    IntegrityError,
    OverloadedError,
    StorageUnavailableError,
    TransientError,
)
from whatsms_events.storage.database import Database, DatabaseTarget, open_log, open_projection, place_of
from whatsms_events.storage.log import copying
from whatsms_events.storage.log.blanking import BLANKING, Blanking
from whatsms_events.storage.log.committer import Committer
from whatsms_events.storage.log.copying import LogCopy
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.log.moving import SHUT, Moving
from whatsms_events.storage.log.relay_row import RelayRows
from whatsms_events.storage.log.retention_places import RetentionPlaces
from whatsms_events.storage.log.verify import verify
from whatsms_events.storage.projection.apply import Projection
from whatsms_events.storage.role_lock import RoleLock
from whatsms_events.storage.tables import (
    backfill_drift,
    backfill_item,
    backfill_look,
    backfill_request,
    backfill_run,
    event_log,
    parked_delivery,
    relay,
    seal,
    secret_use,
)
from whatsms_events.workers.consumer import Consumer
from whatsms_events.workers.sources import KafkaSource
from workers.test_relay import Stage

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
BATCH_ROWS = 20


class Move:
    """A source, a target of the other kind, and the copy between them."""

    def __init__(self, source: DatabaseTarget, target: DatabaseTarget, stack: AsyncExitStack) -> None:
        self.places = source, target
        self._stack = stack

    async def open(self) -> None:
        """Open both and make the copy."""
        self.source = await open_log(self.places[0], migrate=True, even_moved=True)
        self._stack.push_async_callback(self.source.close)
        self.target = await open_log(self.places[1], migrate=True, even_moved=True)
        self._stack.push_async_callback(self.target.close)
        self.blanking = RoleLock(self.source, BLANKING)
        self.copy = self.again()

    def again(self) -> LogCopy:
        """Return a copy that knows nothing of an earlier one, as after a crash."""
        from_place, to_place = map(place_of, self.places)
        return LogCopy(
            self.source,
            self.target,
            from_place=from_place,
            to_place=to_place,
            blanking=self.blanking,
            batch_rows=BATCH_ROWS,
        )

    async def finished(self) -> None:
        """Copy everything, and move."""
        await self.copy.begin(NOW)
        await self.copy.finish(NOW, ignore)
        await self.copy.close()

    async def assert_same(self) -> None:
        """Every table of both holds the same."""
        for table in SHUT:
            rows = [await everything(database, table) for database in (self.source, self.target)]
            assert rows[0] == rows[1], table.name


def ignore(_place: int, _end: int) -> None:
    """Show no progress."""


async def everything(database: Database, table: Any) -> list[Any]:
    """Return every row of a table, in an order that both databases share."""
    async with database.read() as connection:
        return sorted((tuple(row) for row in await connection.execute(select(table))), key=repr)


@pytest.fixture(params=["to postgresql", "to sqlite"])
async def move(request: pytest.FixtureRequest, postgres_url: str, tmp_path: Path) -> AsyncIterator[Move]:
    """Give a move from SQLite to PostgreSQL, and one back."""
    ends = DatabaseTarget(f"sqlite:///{tmp_path / 'log.db'}"), DatabaseTarget(postgres_url)
    async with AsyncExitStack() as stack:
        found = Move(*(ends if request.param == "to postgresql" else ends[::-1]), stack)
        await found.open()
        yield found


def rows(start: int, stop: int) -> list[Append]:
    """Return events to append."""
    return [append(number, size=number % 50) for number in range(start, stop)]


async def run(database: Database, *statements: Any) -> None:
    """Execute statements in one transaction."""
    async with database.write() as connection:
        for statement in statements:
            await connection.execute(statement)


async def fill_all(database: Database) -> int:
    """Put rows of every kind into a log; return the last position that it gave out, whose row is gone."""
    await fill(database, rows(0, 120))
    await fill(database, rows(0, 7))  # redeliveries
    await fill(database, rows(120, 130))
    last = await EventLog(database).end()
    await run(database, delete(event_log).where(event_log.c.position > last - 5))
    clock = Clock()
    working = sealer(database, clock, range_bytes=1000)
    await seal_all(working, clock)
    await working.close()
    raw = b"not \x00 JSON"
    parked = {"tenant": "acme", "reason": "not_json", "detail": "é", "received_at": 5, "content_encoding": None}
    await run(
        database,
        insert(parked_delivery).values(
            [parked | {"id": UUID(int=n), "sha256": bytes(32), "raw": raw, "count": n} for n in (1, 2)]
        ),
        insert(relay).values(prefix="whatsms", published_through=100, partitions='{"a":1}', updated_at=3),
        insert(secret_use).values(tenant="acme", name="current", first_at=1, last_at=2, count=3),
        *(
            insert(backfill_run).values(
                {"tenant": f"t{n}", "kind": "repair", "cause": "c", "options": "{}", "generation": 1}
                | {"started_at": 1, "updated_at": 2, "finished_at": None, "progress": "{}", "report": None}
            )
            for n in range(3)
        ),
        delete(backfill_run).where(backfill_run.c.run == 3),
        insert(backfill_item).values(
            [
                {"run": 1, "entity": "ticket", "id": one, "state": "s", "due_at": 1, "log_end": 2, "rounds": 0}
                | {"messages": "off", "payload": b"\xff"}
                for one in ("B", "a", "ä", "Z", "10", "9")
            ]
        ),
        insert(backfill_drift).values(run=1, entity="t", id="a", kind="k", fields="[]", age_s=1.25, found_at=3),
        insert(backfill_look).values(tenant="t", entity="e", id="a", position=3, first_at=1, last_at=2, looks=1),
        insert(backfill_request).values(tenant="t", cause="silence", asked_at=1),
    )
    return last


async def test_a_moved_log_is_the_same_log(move: Move) -> None:
    """Every row of every table is at the target as it was, under the same log id, and the chain of seals holds. The
    target's counters go on behind everything that the source gave out, also to rows that are gone.
    """
    last = await fill_all(move.source)
    assert await EventLog(move.source).end() < last
    await move.finished()
    await move.assert_same()
    opened = await open_log(move.places[1], migrate=False)
    seen = await verify(opened)
    assert (seen.flaw, seen.rows, seen.seals > 3) == (None, 125, True)
    await fill(opened, rows(200, 201))
    assert await EventLog(opened).end() == last + 1
    async with opened.write() as connection:
        values = {"tenant": "x", "kind": "k", "cause": "c", "options": "{}", "generation": 1, "progress": "{}"}
        made = await connection.execute(insert(backfill_run).values(**values, started_at=1, updated_at=1))
        assert made.inserted_primary_key is not None
        assert made.inserted_primary_key[0] == 4
    await opened.close()


async def test_a_log_that_moved_is_refused_by_the_name_of_its_new_place(move: Move) -> None:
    """Until the move has ended the target cannot be opened; after it the source cannot, and the error says where."""
    await fill(move.source, rows(0, 3))
    await move.copy.begin(NOW)
    await move.copy.grow(ignore)
    with pytest.raises(ConfigError, match=r"not whole yet.*log copy") as refused:
        await open_log(move.places[1], migrate=False)
    assert place_of(move.places[0]) in str(refused.value)
    await (await open_log(move.places[0], migrate=False)).close()
    await move.copy.finish(NOW, ignore)
    with pytest.raises(ConfigError, match=r"has moved to .*: set database\.url") as refused:
        await open_log(move.places[0], migrate=False)
    assert place_of(move.places[1]) in str(refused.value)


async def test_no_accepted_event_is_left_behind_by_a_move(move: Move) -> None:
    """A receiver that goes on during the move gets an answer for each delivery: what is accepted is at the target, and
    what comes after the source was shut is refused with the new place, so the vendor comes again.
    """
    await move.copy.begin(NOW)
    stop, accepted, refused = asyncio.Event(), set[UUID](), list[Exception]()
    committer = Committer(
        move.source, batch_limit=500, queue_limit=10_000, queue_limit_bytes=1 << 30, on_commit=lambda _end: None
    )

    async def deliver(start: int) -> None:
        for number in itertools.count(start):
            try:
                outcome = await committer.submit(append(number), deadline_s=60)
            except (StorageUnavailableError, OverloadedError) as exc:
                refused.append(exc)
                return
            accepted.add(outcome.id)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(committer.run(stop))
        senders = [tasks.create_task(deliver(number * 100_000)) for number in range(8)]
        await until(lambda: len(accepted) > 200, 60, "deliveries are accepted")
        await move.copy.grow(ignore)
        await move.copy.finish(NOW, ignore)
        await asyncio.wait(senders)
        stop.set()
    assert len(refused) == 8
    await move.assert_same()
    held = {entry.event.id for entry in await whole_log(move.target)}
    assert accepted <= held
    assert len(held) == await count(move.target)


async def count(database: Database) -> int:
    """Count the rows of the log."""
    async with database.read() as connection:
        return int(await connection.scalar(select(func.count()).select_from(event_log)) or 0)


async def test_a_shut_log_changes_by_no_statement(move: Move) -> None:
    """Nothing writes into a log that has moved: not an append, a relay's row, a park or a raw statement."""
    await fill_all(move.source)
    await move.finished()
    says = f"has moved to {place_of(move.places[1])}"
    writes: list[Any] = [insert(table).values({one.name: None for one in table.c}) for table in SHUT]
    writes += [update(event_log).values(raw=None), delete(event_log), delete(parked_delivery)]
    for statement in writes:
        with pytest.raises(StorageUnavailableError, match=says):
            await run(move.source, statement)
    with pytest.raises(StorageUnavailableError, match=says):
        await RelayRows(move.source).claim("new", await EventLog(move.source).log_id(), NOW)
    await move.assert_same()


async def test_a_copy_that_is_stopped_goes_on(move: Move, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a copy or its last step is cut off, another run goes on behind the target's last position and ends with
    the same log; until then at most one of the two can be used.
    """
    await fill_all(move.source)
    written, written_batches = copying.LogCopy._write, 0  # noqa: SLF001 - the place to cut it off

    async def cut(self: LogCopy, table: Any, batch: Any) -> None:
        nonlocal written_batches
        await written(self, table, batch)
        written_batches += 1
        raise KeyboardInterrupt  # no error of ours, as a signal

    monkeypatch.setattr(copying.LogCopy, "_write", cut)
    await move.copy.begin(NOW)
    for done in (BATCH_ROWS, 2 * BATCH_ROWS):
        with pytest.raises(KeyboardInterrupt):
            await move.again().grow(ignore)
        assert (await move.again().begin(NOW)).through == done
    with pytest.raises(KeyboardInterrupt):
        await move.again().finish(NOW, ignore)
    for place in move.places:
        with pytest.raises(ConfigError):
            await open_log(place, migrate=False)
    monkeypatch.setattr(copying.LogCopy, "_write", written)
    replaced = copying.LogCopy._replace

    async def cut_behind(self: LogCopy, table: Any) -> None:
        await replaced(self, table)
        if table is parked_delivery:
            raise KeyboardInterrupt

    monkeypatch.setattr(copying.LogCopy, "_replace", cut_behind)
    with pytest.raises(KeyboardInterrupt):
        await move.again().finish(NOW, ignore)
    monkeypatch.setattr(copying.LogCopy, "_replace", replaced)
    assert (await move.again().begin(NOW)).through == await EventLog(move.source).end()
    await move.again().finish(NOW, ignore)
    await move.assert_same()
    assert written_batches == 3


async def test_a_log_moves_to_a_place_whatever_its_name_has(move: Move) -> None:
    """A name with colons, quotes, dollars or percent signs shuts the log, and each refused write shows it unchanged."""
    await fill(move.source, rows(0, 3))
    for place in ("/srv/a :b/log.db", "[::1]:5432/:name", "it's \\:x $moved$ %s %(n)s {y}"):
        await Moving(move.source).shut(place, NOW)
        with pytest.raises(StorageUnavailableError) as refused:
            await run(move.source, delete(event_log))
        assert str(refused.value).endswith(f"this log has moved to {place}")
        await Moving(move.source).open_again()


async def test_a_move_that_did_not_end_can_be_taken_back(move: Move) -> None:
    """Before the target is whole the source can be opened again, and takes in; afterwards it cannot."""
    await fill(move.source, rows(0, 5))
    with pytest.raises(IntegrityError, match="nothing to take back"):
        await move.copy.take_back()
    await move.copy.begin(NOW)
    await Moving(move.source).shut(place_of(move.places[1]), NOW)
    with pytest.raises(StorageUnavailableError, match="has moved"):
        await run(move.source, delete(event_log))
    await move.again().take_back()
    await fill(move.source, rows(5, 9))
    await (await open_log(move.places[0], migrate=False)).close()
    await move.again().begin(NOW)
    await move.again().finish(NOW, ignore)
    with pytest.raises(IntegrityError, match="may be in use there"):
        await move.again().take_back()
    await move.assert_same()


async def test_a_target_that_holds_something_is_refused(move: Move) -> None:
    """Another log, or this one once it has moved, is never written into."""
    await fill(move.source, rows(0, 3))
    await fill(move.target, rows(3, 4))
    with pytest.raises(IntegrityError, match=r"the target holds log .*into an empty database"):
        await move.copy.begin(NOW)
    await run(move.target, delete(event_log))
    await move.finished()
    with pytest.raises(IntegrityError, match="this very log, whole already"):
        await move.again().begin(NOW)


async def test_no_accepted_event_is_lost_where_the_source_was_restored_meanwhile(move: Move) -> None:
    """A source that was restored from a backup, and has given the copied positions to other events, is not taken for
    what was copied: neither a copy nor the last step goes on, and with an empty target all that it holds arrives.
    """
    await fill(move.source, rows(0, 30))
    await move.copy.begin(NOW)
    await move.copy.grow(ignore)
    restored = delete(event_log).where(event_log.c.position > 25)
    await run(move.source, restored)
    with pytest.raises(IntegrityError, match=r"event_log 30 is not in the source.*restored.*an empty database"):
        await move.again().begin(NOW)
    await copying._give_out_behind(move.source, event_log, event_log.c.position, 25)  # noqa: SLF001 - as a backup has it
    await fill(move.source, rows(300, 340))
    accepted = {entry.event.id for entry in await whole_log(move.source)}
    with pytest.raises(IntegrityError, match="event_log 30 is not in the source"):
        await move.again().begin(NOW)
    with pytest.raises(IntegrityError, match="event_log 30 is not in the source"):
        await move.copy.finish(NOW, ignore)  # it was restored while the command ran
    await run(move.target, delete(event_log))
    await move.again().begin(NOW)
    await move.again().finish(NOW, ignore)
    await move.assert_same()
    assert {entry.event.id for entry in await whole_log(move.target)} == accepted


async def test_a_copy_of_other_seals_does_not_go_on(move: Move) -> None:
    """Where the target's last seal is not the source's any more, the chain would break there, so the copy stops."""
    await fill(move.source, rows(0, 30))
    clock = Clock()
    working = sealer(move.source, clock)
    await seal_all(working, clock)
    await move.copy.begin(NOW)
    await move.copy.grow(ignore)
    await run(move.source, delete(seal))
    with pytest.raises(IntegrityError, match="seal 1 is not in the source what it is in the target"):
        await move.again().begin(NOW)
    await fill(move.source, rows(30, 40))
    await seal_all(working, clock)
    await working.close()
    with pytest.raises(IntegrityError, match="seal 1 is not in the source what it is in the target"):
        await move.again().begin(NOW)


async def test_damage_is_not_copied_in_silence(move: Move) -> None:
    """A row of the source whose bytes are not those of its hash stops each copy by its position, and so does a row that
    comes back from the target as another one: nothing of its batch stays there.
    """
    await fill(move.source, rows(0, 2 * BATCH_ROWS))
    bad = update(event_log).where(event_log.c.position == BATCH_ROWS + 5)
    async with move.source.read() as connection:
        raw = await connection.scalar(select(event_log.c.raw).where(event_log.c.position == BATCH_ROWS + 5))
    await run(move.source, bad.values(raw=b"?"))
    await move.copy.begin(NOW)
    for _again in range(2):
        with pytest.raises(IntegrityError, match=rf"position {BATCH_ROWS + 5} are not those.*log verify"):
            await move.again().grow(ignore)
        assert (await move.again().begin(NOW)).through == BATCH_ROWS
    await run(move.source, bad.values(raw=raw))
    changing = "UPDATE event_log SET subject = 'other' WHERE position = NEW.position"
    where = f"AFTER INSERT ON event_log FOR EACH ROW WHEN (NEW.position = {BATCH_ROWS + 7})"
    if move.target.dialect == "sqlite":
        await run(move.target, text(f"CREATE TRIGGER liar {where} BEGIN {changing}; END"))
    else:
        body = f"$$ BEGIN {changing}; RETURN NULL; END $$"
        await run(move.target, text(f"CREATE FUNCTION liar() RETURNS trigger LANGUAGE plpgsql AS {body}"))
        await run(move.target, text(f"CREATE TRIGGER liar {where} EXECUTE FUNCTION liar()"))
    for _again in range(2):
        with pytest.raises(IntegrityError, match=f"event_log {BATCH_ROWS + 7} is another row in the target"):
            await move.again().grow(ignore)
        assert (await move.again().begin(NOW)).through == BATCH_ROWS


async def test_relay_and_consumer_go_on_against_the_moved_log(
    kafka: RunningKafka, topic_prefix: str, postgres_url: str, tmp_path: Path
) -> None:
    """What was published from the old place is not published again from the new one, nothing is left out, and a new
    projection reads all of it.
    """
    async with AsyncExitStack() as stack:
        move = Move(DatabaseTarget(f"sqlite:///{tmp_path / 'log.db'}"), DatabaseTarget(postgres_url), stack)
        await move.open()
        stage = Stage(kafka.bootstrap, topic_prefix)
        await stage.create()
        await fill(move.source, rows(0, 120))
        old = stage.relay(move.source)
        assert await old.run_once()
        await old.close()
        await move.finished()
        opened = await open_log(move.places[1], migrate=False)
        stack.push_async_callback(opened.close)
        await fill(opened, rows(120, 180))
        new = stage.relay(opened)
        await stage.drain(new, opened)
        await new.close()
        assert_published(kafka.bootstrap, topic_prefix, await whole_log(opened), await EventLog(opened).log_id())
        projection = await open_projection(move.places[1], migrate=True)
        stack.push_async_callback(projection.close)
        source = KafkaSource(
            EventLog(opened), RelayRows(opened), stage.target, topic_prefix, poll_s=0.05, monotonic=time.monotonic
        )
        consumer = Consumer(Projection(projection), source, RoleLock(opened, "consumer"), batch_limit=500)
        while (await Projection(projection).state()).applied_through < 180:
            await consumer.run_once()
        await consumer.close()


async def test_what_is_blanked_while_it_is_copied_is_blanked_in_the_copy(move: Move) -> None:
    """Rows that retention took between two runs of the command, the last copied one too, are blanked in the copy; while
    it runs nobody else may blank; and afterwards both hold the same, to the place of retention.
    """
    await fill(move.source, rows(0, 60))
    await move.copy.begin(NOW)
    other = await open_log(move.places[0], migrate=False, even_moved=True)
    blanking = RoleLock(other, BLANKING)
    assert not await blanking.take()
    await move.copy.grow(ignore)
    await move.copy.close()
    assert await blanking.take()
    await Blanking(other).blank([1, 2, 7, 60])
    await Blanking(other).blank([9, 10], data=False)
    left = update(event_log).where(event_log.c.position == 10).values(data="what was left")  # of one who was forgotten
    await run(other, left)
    group = Group("data", timedelta(days=1), frozenset(), but=True)
    await RetentionPlaces(other).take(group, Sweep((3,), Place(3)), NOW)
    again = move.again()
    with pytest.raises(TransientError, match="being blanked"):
        await again.begin(NOW)
    await blanking.release()
    await other.close()
    await fill(move.source, rows(60, 90))
    await again.begin(NOW)
    await again.finish(NOW, ignore)
    await again.close()
    await move.assert_same()
    seen = await verify(move.target)
    assert (seen.flaw, seen.rows, seen.blanked) == (None, 90, 7)
    assert (await RetentionPlaces(move.target).load())[group.key] == Place(3)


async def test_a_source_that_holds_other_events_is_not_taken_for_a_blanked_one(move: Move) -> None:
    """A row of another event that happens to be blanked at the copy's last position is not the copied row."""
    await fill(move.source, rows(0, 30))
    await move.copy.begin(NOW)
    await move.copy.grow(ignore)
    await move.copy.close()
    changed = update(event_log).where(event_log.c.position == 30).values(id=UUID(int=7), raw=None, data=None)
    await run(move.source, changed)
    with pytest.raises(IntegrityError, match="event_log 30 is not in the source"):
        await move.again().begin(NOW)
