"""A backup of SQLite's files under load, and what the readers of the log say to one that was restored."""

import asyncio
import shutil
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import pytest

from servers.compare import assert_like_a_clean_rebuild, assert_published, rows_of, whole_log
from servers.kafka import RunningKafka
from whatsms_events.errors import ConfigError, IntegrityError, NotFoundError
from whatsms_events.kafka.topics import create_topics
from whatsms_events.storage import backup
from whatsms_events.storage.backup import Backup, back_up
from whatsms_events.storage.database import DatabaseTarget
from whatsms_events.storage.projection.apply import Projection
from whatsms_events.storage.projection.shadow import open_shadow, shadow_of
from whatsms_events.workers.consumer import Consumer
from whatsms_events.workers.replay import reached
from whatsms_events.workers.sources import offsets_stand
from workers.test_consumer import DEADLINE_S, Bench, bench, connect, opened, with_kafka
from workers.test_replay import Stage

__all__ = ["bench", "with_kafka"]  # fixtures

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


async def backed_up(bench: Bench, *, now: datetime = NOW) -> Backup:
    """Back the bench up into a folder beside it."""
    files = bench.folder / "log.db", bench.folder / "projection.db"
    return await back_up(*files, bench.folder / "backups", now, on_progress=lambda _place, _end: None)


def restored(made: Backup, folder: Path, *names: str) -> None:
    """Put files of a backup into the place of the service's, as the runbook says."""
    folder.mkdir(exist_ok=True)
    for name in names or ("log.db", "projection.db"):
        for there in folder.glob(f"{name}*"):
            there.unlink()
        shutil.copy(made.folder / name, folder / name)


def urls(folder: Path) -> tuple[str, str]:
    """Return where log and projection are in a folder."""
    return f"sqlite:///{folder / 'log.db'}", f"sqlite:///{folder / 'projection.db'}"


async def test_a_backup_under_load_goes_on_where_it_was_taken(bench: Bench) -> None:
    """While events are appended and applied, backups hold every event that was accepted before they began, their log is
    never older than their tables, and restored without Kafka the consumer goes on by itself: the tables are those of a
    clean rebuild.
    """
    await bench.append(300)
    stop, taken = asyncio.Event(), list[tuple[int, Backup]]()

    async def appended() -> None:
        while not stop.is_set():
            await bench.append(20)

    async def applied() -> None:
        consumer = bench.from_log()
        while not stop.is_set():
            await consumer.run_once()
            await asyncio.sleep(0)  # an idle consumer awaits nothing: the others must have their turn
        await consumer.close()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(appended())
        tasks.create_task(applied())
        for day in (1, 2, 3):
            accepted = await bench.event_log.end()
            taken.append((accepted, await backed_up(bench, now=NOW.replace(day=day))))
        stop.set()
    for accepted, made in taken:
        assert accepted <= made.log_through
        assert 0 <= made.applied_through <= made.log_through
        assert sorted(path.name for path in made.folder.iterdir()) == ["log.db", "projection.db"]
        assert {path.stat().st_mode & 0o777 for path in made.folder.iterdir()} == {0o600}
    assert taken[-1][1].applied_through > 0
    place = bench.folder / "restored"
    restored(taken[-1][1], place)
    async with opened(*urls(place), place) as again:
        assert await again.event_log.end() == taken[-1][1].log_through
        again.stream = bench.stream
        await again.append(50)
        await again.apply_all(again.from_log())
        await assert_like_a_clean_rebuild(again.log, again.projection, place)


async def test_an_older_log_alone_halts_the_consumer(bench: Bench) -> None:
    """Where only the log is restored, the tables are ahead of it: the consumer refuses and applies nothing, also when
    the log has grown past their position; without the tables' files it makes them again.
    """
    await bench.append(60)
    made = await backed_up(bench)
    await bench.append(60)
    await bench.apply_all(bench.from_log())
    place = bench.folder / "restored"
    restored(made, place, "log.db")
    for name in ("projection.db", "projection.db-wal"):
        shutil.copy(bench.folder / name, place / name)
    async with opened(*urls(place), place) as again:
        for more in (0, 90):
            again.stream = bench.stream
            await again.append(more)
            consumer = again.from_log()
            with pytest.raises(IntegrityError, match="restored from an older copy"):
                await consumer.run_once()
            await consumer.close()
    for file in place.glob("projection.db*"):
        file.unlink()
    async with opened(*urls(place), place) as again:
        await again.apply_all(again.from_log())
        await assert_like_a_clean_rebuild(again.log, again.projection, place)


async def test_with_kafka_a_restored_log_halts_the_relay_until_it_has_a_new_prefix(
    kafka: RunningKafka, topic_prefix: str, bench: Bench
) -> None:
    """The topics hold events that the restored log does not: the relay refuses to open, also when the log has grown
    past them. Under a new prefix it publishes the restored log from its beginning.
    """
    await connect(bench, kafka, topic_prefix)
    await bench.append(60)
    await bench.publish()
    made = await backed_up(bench)
    await bench.append(60)
    await bench.publish()
    place = bench.folder / "restored"
    restored(made, place)
    async with opened(*urls(place), place) as again:
        again.kafka, again.prefix, again.stream = bench.kafka, bench.prefix, bench.stream
        for more in (0, 90):
            await again.append(more)
            relay = again.relay()
            with pytest.raises(IntegrityError, match="restored from an older copy"):
                await relay.run_once()
            with pytest.raises(IntegrityError):
                await relay.look()
            await relay.close()
        again.prefix = f"{topic_prefix}n"
        assert again.kafka is not None
        await create_topics(again.kafka, again.prefix, partitions=3, replication_factor=1, retention_ms=-1)
        await again.publish()
        log_id = await again.event_log.log_id()
        assert_published(kafka.bootstrap, again.prefix, await whole_log(again.log), log_id)


async def test_with_kafka_the_consumer_of_a_restored_log_applies_nothing_that_the_log_lacks(
    kafka: RunningKafka, topic_prefix: str, bench: Bench
) -> None:
    """The topics go on where the restored log ends: the consumer halts before the first event that the log does not
    hold, also when the log has grown past it. Where only the log is restored, it halts at once. With a new prefix, its
    topics, and then the tables made from the log, it goes on.
    """
    await connect(bench, kafka, topic_prefix)
    await bench.begin_with_kafka()
    await bench.append(60)
    await bench.publish()
    await bench.apply_all(bench.from_kafka())
    made = await backed_up(bench)
    await bench.append(60)
    await bench.publish()
    place = bench.folder / "restored"
    restored(made, place)

    async def halts(again: Bench) -> None:
        before = await rows_of(again.projection)
        again.kafka, again.prefix, again.stream = bench.kafka, bench.prefix, bench.stream
        for more in (0, 90):
            await again.append(more)
            consumer = again.from_kafka()
            with pytest.raises(IntegrityError, match=r"restored from an older copy.*replay projection"):
                await until_it_stops(consumer)
            await consumer.close()
        assert await rows_of(again.projection) == before

    async with opened(*urls(place), place) as again:
        await halts(again)
        assert reached(await Projection(again.projection).state()) == 60
        await moved_to_new_topics(again, f"{topic_prefix}n")
    await bench.apply_all(bench.from_kafka())
    restored(made, place, "log.db")
    async with opened(urls(place)[0], urls(bench.folder)[1], place) as again:
        await halts(again)


async def moved_to_new_topics(again: Bench, prefix: str) -> None:
    """Restore as the runbook says: a new prefix, its topics, the tables from the log; then relay and consumer work."""
    assert again.kafka is not None
    kafka, again.prefix = again.kafka, prefix
    await create_topics(kafka, prefix, partitions=3, replication_factor=1, retention_ms=-1)
    target = shadow_of(DatabaseTarget(urls(again.folder)[1]))
    shadow = await open_shadow(again.projection, target)
    await Stage(again, target, shadow).done(swap=True, stand=lambda offsets: offsets_stand(kafka, prefix, offsets))
    await shadow.close()
    await again.publish()
    await again.apply_all(again.from_kafka())
    await assert_like_a_clean_rebuild(again.log, again.projection, again.folder)


async def until_it_stops(consumer: Consumer) -> None:
    """Run the consumer until it raises."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            await consumer.run_once()


async def test_what_is_not_right_is_no_backup(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged log, tables that are not the log's, a folder that is taken and a copy that is cut off leave nothing
    that looks like a backup, and the error says which it was.
    """
    await bench.append(40)
    await bench.apply_all(bench.from_log())
    folder = bench.folder / "backups"

    async def refused(kind: type[BaseException], match: str | None = None) -> None:
        with pytest.raises(kind, match=match):
            await backed_up(bench)
        assert not folder.exists() or list(folder.iterdir()) == []

    with sqlite3.connect(bench.folder / "log.db") as log:
        log.execute("UPDATE event_log SET raw = x'00' WHERE position = 7")
        log.commit()
        await refused(IntegrityError, r"wrong at position 7 \(hash_differs\)")
        log.execute("DELETE FROM event_log WHERE position = 7")
    with sqlite3.connect(bench.folder / "projection.db") as projection:
        (own,) = projection.execute("SELECT event_id FROM projection").fetchone()
        projection.execute("UPDATE projection SET event_id = ?", (UUID(int=1).hex,))
        projection.commit()
        await refused(IntegrityError, "they do not belong together")
        projection.execute("UPDATE projection SET event_id = ?", (own,))
    log.close()
    projection.close()
    with monkeypatch.context() as patched:
        patched.setattr(backup, "_prove", cut_off)
        await refused(asyncio.CancelledError)
    copying = asyncio.create_task(backed_up(bench))
    await asyncio.sleep(0)  # its first piece, up to where the copy is under way in a thread
    assert [path.name[:12] for path in folder.iterdir()] == [backup.UNFINISHED_PREFIX]
    copying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await copying
    assert list(folder.iterdir()) == []
    (folder / "file").write_text("somebody's")
    made = await backed_up(bench)
    assert made.log_through == 40
    with pytest.raises(ConfigError, match="is there already"):
        await backed_up(bench)
    files = bench.folder / "log.db", bench.folder / "projection.db"
    with pytest.raises(ConfigError, match="cannot be used"):
        await back_up(*files, folder / "file", NOW, on_progress=print)


async def cut_off(*_: object) -> None:
    """Stop as a signal does."""
    raise asyncio.CancelledError


async def test_a_file_that_is_not_there_is_named(bench: Bench) -> None:
    """A missing file of tables is named with what makes it, and nothing is left that looks like a backup."""
    await bench.append(3)
    tables = bench.folder / "elsewhere.db"
    with pytest.raises(
        NotFoundError, match=r"there are no tables at .*elsewhere\.db: `serve` with the role consumer makes"
    ):
        await back_up(bench.folder / "log.db", tables, bench.folder / "backups", NOW, on_progress=lambda *_: None)
    assert not tables.exists()
    assert not (bench.folder / "backups").exists()


async def test_a_full_disk_is_said_before_anything_is_copied(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the folder's disk has less room than the files take, the error has both numbers."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: SimpleNamespace(free=1))
    with pytest.raises(ConfigError, match=r"has 1 free bytes, and \d+ are needed"):
        await backed_up(bench)
    assert list((bench.folder / "backups").iterdir()) == []
