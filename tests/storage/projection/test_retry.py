"""Parked events are applied later as if they had been applied when they came: on a real log, projection and broker."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import delete, func, select, text, update

from servers.compare import assert_like_a_clean_rebuild
from servers.kafka import RunningKafka
from whatsms_events.errors import FencedError, IntegrityError
from whatsms_events.service.parts import make_consumer
from whatsms_events.service.stores import Stores
from whatsms_events.storage import tables
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.projection.apply import Projection, Retried
from whatsms_events.storage.projection.parked import ParkedBytes, ParkedEvents, ReadPlace
from whatsms_events.storage.projection.retry import ELSEWHERE, FIRST_PIECE, Retry
from whatsms_events.storage.role_lock import RoleLock
from workers.test_consumer import DEADLINE_S, Bench, connect, opened

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """Give an empty log and projection on SQLite."""
    async with opened(f"sqlite:///{tmp_path / 'log.db'}", f"sqlite:///{tmp_path / 'projection.db'}", tmp_path) as made:
        yield made


TRIGGERS = {"refuse_a_new_one": "INSERT", "refuse_another_value": "UPDATE"}


async def refuse_one_contact(one: Bench, after: int = 0) -> None:
    """Let the database refuse a contact of the log behind a position, as a rule that should not be there would."""
    seen = tables.event_log.c
    behind = seen.contact_id.is_not(None), seen.position > after
    async with one.log.read() as connection:
        query = select(seen.contact_id).where(*behind).group_by(seen.contact_id).order_by(func.count())
        contact = (await connection.execute(query)).scalars().first()
    if one.projection.dialect == "sqlite":
        rules = [
            f"CREATE TRIGGER {name} BEFORE {verb} ON contact WHEN NEW.id = '{contact}' "
            "BEGIN SELECT RAISE(ABORT, 'refused'); END"
            for name, verb in TRIGGERS.items()
        ]
    else:
        rules = [f"ALTER TABLE contact ADD CONSTRAINT refuse CHECK (id <> '{contact}')"]
    async with one.projection.write() as connection:
        for rule in rules:
            await connection.execute(text(rule))


async def refuse_no_more(one: Bench) -> None:
    """Take the rule away, as a release would that mends what was wrong."""
    rules = ["ALTER TABLE contact DROP CONSTRAINT refuse"]
    if one.projection.dialect == "sqlite":
        rules = [f"DROP TRIGGER {name}" for name in TRIGGERS]
    async with one.projection.write() as connection:
        for rule in rules:
            await connection.execute(text(rule))


def retry_of(one: Bench) -> Retry:
    """Return what a command would retry with: another process's view of the same databases."""
    return Retry(Projection(one.projection), ParkedEvents(one.projection), EventLog(one.log))


def counts(done: Retried | None) -> tuple[int, dict[str, int]]:
    """Return how many were applied, and how many were not, by reason."""
    assert done is not None
    return done.applied, dict(done.parked)


async def test_parked_events_that_are_retried_count_at_their_own_position(tmp_path: Path, database_url: str) -> None:
    """Events are parked, others about the same rows follow, then they are retried: the tables are those of a clean run.

    The count of what was applied is that of the log, and nothing stays parked.
    """
    projection = database_url.replace("log.db", "projection.db")
    async with opened(f"sqlite:///{tmp_path / 'log.db'}", projection, tmp_path) as one:
        await one.append(80)
        await refuse_one_contact(one)
        await one.apply_all(one.from_log())
        parked = len(await one.parked())
        assert 0 < parked < 20
        await refuse_no_more(one)
        end = await one.append(40)
        await one.apply_all(one.from_log())
        assert counts(await retry_of(one).all()) == (parked, {})
        assert (await one.applied(), await one.parked()) == (end, [])
        await assert_like_a_clean_rebuild(one.log, one.projection, one.folder)


async def test_a_running_consumer_begins_anew_after_a_retry_beside_it(bench: Bench) -> None:
    """The rows that it holds may have changed, so its next batch is fenced; it reads its place again and goes on."""
    await bench.append(60)
    await refuse_one_contact(bench)
    running = bench.from_log()
    while await running.run_once():
        pass
    await refuse_no_more(bench)
    assert (await retry_of(bench).all()).applied > 0
    end = await bench.append(60)
    with pytest.raises(FencedError):
        await running.run_once()
    await bench.apply_all(running)
    assert await bench.applied() == end
    await assert_like_a_clean_rebuild(bench.log, bench.projection, bench.folder)


async def test_a_consumer_that_is_told_to_retries_by_itself_at_its_start(bench: Bench) -> None:
    """`consumer.retry_parked`: a process with another release applies what the last one had to park."""
    end = await bench.append(60)
    await refuse_one_contact(bench)
    await bench.apply_all(bench.from_log())
    await refuse_no_more(bench)
    settings = bench.settings()
    told = settings.model_copy(update={"consumer": settings.consumer.model_copy(update={"retry_parked": True})})
    lock = RoleLock(bench.projection, "consumer")
    consumer = make_consumer(told, Stores(bench.log, bench.projection), lock=lock)
    await consumer.run_once()
    await consumer.close()
    assert (await bench.applied(), await bench.parked()) == (end, [])
    await assert_like_a_clean_rebuild(bench.log, bench.projection, bench.folder)


async def test_what_still_cannot_be_applied_stays_parked(bench: Bench) -> None:
    """With its bytes and its reason, and however often it is tried, once; one place can be retried alone."""
    await bench.append(60)
    await refuse_one_contact(bench)
    await bench.apply_all(bench.from_log())
    before, applied = await bench.parked(), await bench.applied()
    for _ in range(2):
        assert counts(await retry_of(bench).all()) == (0, {"unstorable": len(before)})
    assert [row["at"] for row in await bench.parked()] == [row["at"] for row in before]
    assert counts(await retry_of(bench).all("another reason")) == (0, {})
    await refuse_no_more(bench)
    first = ReadPlace("log", before[0]["at"])
    assert counts(await retry_of(bench).one(first)) == (1, {})
    assert await retry_of(bench).one(first) is None
    assert await bench.applied() == applied + 1


async def test_a_retry_against_another_log_changes_nothing(bench: Bench) -> None:
    """Where the log does not hold the parked events, they stay as they are, and the right log can retry them."""
    await bench.append(60)
    await refuse_one_contact(bench)
    await bench.apply_all(bench.from_log())
    parked = await bench.parked()
    await refuse_no_more(bench)
    async with opened(
        f"sqlite:///{bench.folder / 'other.db'}", f"sqlite:///{bench.folder / 'unused.db'}", bench.folder
    ) as other:
        list(itertools.islice(other.stream, 100))  # events that the right log does not hold
        await other.append(3)
        elsewhere = Retry(Projection(bench.projection), ParkedEvents(bench.projection), EventLog(other.log))
        assert counts(await elsewhere.all()) == (0, {ELSEWHERE: len(parked)})
        settings = bench.settings()
        told = settings.model_copy(update={"consumer": settings.consumer.model_copy(update={"retry_parked": True})})
        lock = RoleLock(bench.projection, "consumer")
        consumer = make_consumer(told, Stores(other.log, bench.projection), lock=lock)
        with pytest.raises(IntegrityError, match="was made from log"):
            await consumer.run_once()
        await consumer.close()
    assert await bench.parked() == parked
    assert counts(await retry_of(bench).all()) == (len(parked), {})


async def test_what_is_not_parked_any_more_is_left_out(bench: Bench) -> None:
    """Two retries at once count each event once, and what was discarded meanwhile is not parked again."""
    end = await bench.append(60)
    await refuse_one_contact(bench)
    await bench.apply_all(bench.from_log())
    events = ParkedEvents(bench.projection)
    page = await events.retriable(None, 500)
    assert await events.discard(page[0].place, NOW)

    class Stale(ParkedEvents):
        """Sees what was parked before."""

        async def retriable(
            self, after: ReadPlace | None, limit: int, *, reason: str | None = None
        ) -> list[ParkedBytes]:
            del limit, reason
            return [] if after is not None else page

    stale = Retry(Projection(bench.projection), Stale(bench.projection), EventLog(bench.log))
    assert counts(await stale.all()) == (0, {"unstorable": len(page) - 1})
    assert [one.place for one in await events.page(None, 500)] == [one.place for one in page[1:]]
    await refuse_no_more(bench)
    both = [counts(await stale.all()) for _ in range(2)]
    assert both == [(len(page) - 1, {}), (0, {})]
    assert [row["at"] for row in await bench.parked()] == [page[0].place.at]
    assert await bench.applied() == end - 1


async def test_what_was_discarded_is_left_alone_and_can_be_restored(bench: Bench) -> None:
    """No retry applies it; restored it is parked as before, and then a retry does."""
    end = await bench.append(60)
    await refuse_one_contact(bench)
    await bench.apply_all(bench.from_log())
    events, before = ParkedEvents(bench.projection), await bench.parked()
    one, *others = await events.page(None, 500)
    assert await events.discard(one.place, NOW)
    assert not await events.discard(one.place, NOW)
    assert await events.discard_all("unstorable", NOW) == len(others)
    assert await events.page(None, 500) == []
    assert [gone.place for gone in await events.page(None, 500, discarded=True)] == [
        row.place for row in (one, *others)
    ]
    await refuse_no_more(bench)
    assert await retry_of(bench).one(one.place) is None
    assert counts(await retry_of(bench).all()) == (0, {})
    assert await events.restore(one.place)
    assert not await events.restore(one.place)
    assert await events.restore_all("unstorable", NOW - timedelta(microseconds=1)) == 0
    assert await events.restore_all("unstorable", NOW) == len(others)
    assert await bench.parked() == before
    assert counts(await retry_of(bench).all()) == (len(before), {})
    assert await bench.applied() == end


async def test_a_retry_of_all_ends_soon_and_goes_on_where_it_stopped(bench: Bench) -> None:
    """The first piece is small, since nobody knows how long one takes; what is behind it is for the next time."""
    await bench.append(200)
    await refuse_one_contact(bench)
    await bench.apply_all(bench.from_log())
    places = [ReadPlace(row["source"], row["at"]) for row in await bench.parked()]
    assert len(places) > FIRST_PIECE
    await refuse_no_more(bench)
    first = await retry_of(bench).all(enough=lambda: True)
    assert (first.applied, first.go_on) == (FIRST_PIECE, places[FIRST_PIECE - 1])
    rest = await retry_of(bench).all(after=first.go_on)
    assert (rest.applied, rest.go_on) == (len(places) - FIRST_PIECE, None)
    assert await bench.parked() == []


async def test_a_page_of_a_retry_is_bounded_by_bytes(bench: Bench) -> None:
    """Large events come few at a time, one at least, and all of them come."""
    await bench.append(60)
    await refuse_one_contact(bench)
    await bench.apply_all(bench.from_log())
    events = ParkedEvents(bench.projection, page_bytes=1)
    places: list[ReadPlace] = []
    after = None
    while page := await events.retriable(after, 500):
        assert len(page) == 1
        after = page[-1].place
        places.append(after)
    assert [place.at for place in places] == [row["at"] for row in await bench.parked()]


async def test_what_retention_blanked_in_the_log_is_retried_from_its_own_bytes(bench: Bench) -> None:
    """The parked event kept its data, so it can be applied although the log has lost it."""
    await bench.append(60)
    await refuse_one_contact(bench)
    await bench.apply_all(bench.from_log())
    parked = await bench.parked()
    await refuse_no_more(bench)
    await bench.blank(*(row["at"] for row in parked))
    assert counts(await retry_of(bench).all()) == (len(parked), {})


async def test_records_of_kafka_are_retried_and_strays_are_left(
    bench: Bench, kafka: RunningKafka, topic_prefix: str
) -> None:
    """A parked record is read from its own headers; one that names no log is nobody's event, and stays."""
    await connect(bench, kafka, topic_prefix)
    before = await bench.append(40)
    await bench.publish()
    consumer = bench.from_kafka()
    async with asyncio.timeout(DEADLINE_S):
        while not (await Projection(bench.projection).state()).offsets:  # from then on Kafka is the source
            await consumer.run_once()
    await consumer.close()
    end = await bench.append(60)
    await refuse_one_contact(bench, before)
    await bench.publish()
    await bench.apply_all(bench.from_kafka())
    parked = await bench.parked()
    assert all(row["headers"] != "[]" for row in parked)
    await refuse_no_more(bench)
    # As a release would have parked it that could not read its headers: by its place in Kafka.
    unread = {
        "source": f"{topic_prefix}.conversations/0",
        "at": 7,
        "reason": "record",
        "event_id": None,
        "position": None,
    }
    stray = {**parked[0], "source": f"{topic_prefix}.contacts/0", "at": 10_000, "reason": "stray", "headers": "[]"}
    async with bench.projection.write() as connection:
        first = tables.parked_event.c.at == parked[0]["at"]
        await connection.execute(update(tables.parked_event).where(first).values(**unread))
        await connection.execute(tables.parked_event.insert().values(**stray))
    assert counts(await retry_of(bench).all()) == (len(parked), {})
    assert [row["reason"] for row in await bench.parked()] == ["stray"]
    async with bench.projection.write() as connection:
        await connection.execute(delete(tables.parked_event))
    assert await bench.applied() == end
    await assert_like_a_clean_rebuild(bench.log, bench.projection, bench.folder)
