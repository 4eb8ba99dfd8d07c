"""Group commit on real databases: what is acknowledged is committed, once, whatever breaks."""

import asyncio
import hashlib
import json
import resource
import sys
import textwrap
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import asyncpg
import msgspec
import pytest
from sqlalchemy import func, select, text
from sqlalchemy.engine import make_url
from structlog.testing import capture_logs

from servers.compare import until
from servers.file_lock import locked
from servers.metric import sample
from servers.postgres import Standby, ask
from servers.proxy import TcpProxy
from whatsms_events.domain.events import Event, EventType, event_id, to_micros
from whatsms_events.domain.verdicts import Append, Park
from whatsms_events.errors import OverloadedError, StorageUnavailableError
from whatsms_events.storage.database import Database, DatabaseTarget, open_log
from whatsms_events.storage.log.commit import Outcome
from whatsms_events.storage.log.committer import Committer
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.tables import event_log, parked_delivery, redelivery

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
DEADLINE_S = 120.0


def append(number: int, *, subject: str | None = "m-1", received_at: datetime = NOON, size: int = 0) -> Append:
    """Return an event; the same number gives the same bytes and so the same id."""
    raw = b'{"number": %d}' % number + b" " * size
    event = Event(
        id=event_id("acme", raw, NOON),
        type=EventType.MESSAGE_RECEIVED,
        tenant="acme",
        occurred_at=NOON,
        received_at=received_at,
        origin="webhook",
        subject=subject,
        ticket_id=None,
        contact_id="c-é",
        message_id="m-1",
        data=b'{"message":{"id":"m-1"}}',
    )
    return Append(event, raw, hashlib.sha256(raw).digest())


def park(raw: bytes = b"\xff") -> Park:
    """Return a delivery that nobody can read."""
    return Park(event_id("acme", raw, None), "acme", "not_json", "", NOON, raw, hashlib.sha256(raw).digest(), None)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    """Open a log."""
    database = await open_log(DatabaseTarget(url), migrate=True)
    try:
        yield database
    finally:
        await database.close()


@asynccontextmanager
async def committing(
    database: Database, *, batch_limit: int = 500, queue_limit: int = 10_000, queue_limit_bytes: int = 1 << 28
) -> AsyncIterator[Committer]:
    """Run a committer, and let it drain at the end."""
    stop = asyncio.Event()
    committer = Committer(
        database,
        batch_limit=batch_limit,
        queue_limit=queue_limit,
        queue_limit_bytes=queue_limit_bytes,
        on_commit=lambda _end: None,
    )
    task = asyncio.create_task(committer.run(stop))
    try:
        yield committer
    finally:
        stop.set()
        await asyncio.wait_for(task, 60)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """Give an empty log on each kind of database."""
    async with opened(database_url) as found:
        yield found


async def submit_all(committer: Committer, items: Sequence[Append | Park]) -> list[Outcome | BaseException]:
    """Submit at once; an error stands for the outcome it replaced."""
    waits = (committer.submit(item, deadline_s=DEADLINE_S) for item in items)
    return await asyncio.gather(*waits, return_exceptions=True)


def kinds(outcomes: Sequence[Outcome | BaseException]) -> Counter[str]:
    """Return how many outcomes of each kind there are."""
    return Counter(one.kind if isinstance(one, Outcome) else type(one).__name__ for one in outcomes)


async def rows(database: Database) -> list[tuple[int, UUID, bytes]]:
    """Return position, id and bytes of the whole log."""
    query = select(event_log.c.position, event_log.c.id, event_log.c.raw).order_by(event_log.c.position)
    async with database.read() as connection:
        return [(row.position, row.id, row.raw) for row in await connection.execute(query)]


async def redeliveries(database: Database) -> dict[UUID, int]:
    """Return the counts of redeliveries."""
    async with database.read() as connection:
        query = select(redelivery.c.id, redelivery.c.count)
        return {key: int(count) for key, count in await connection.execute(query)}


async def test_observations_are_no_deliveries_in_the_log_lines(database: Database) -> None:
    """Accepted webhooks and a backfill's observations of one commit are two lines with names of their own, each with
    its types and how often they came again.
    """
    webhook, seen = append(1), append(2)
    event = msgspec.structs.replace(seen.event, type=EventType.TICKET_OBSERVED, origin="backfill")
    observed = Append(event, seen.raw, seen.sha256)
    with capture_logs() as logs:
        async with committing(database) as committer:
            await submit_all(committer, [webhook, observed])
            await submit_all(committer, [observed])
    lines = [(line["event"], line["types"], line["duplicates"]) for line in logs if "types" in line]
    assert sorted(lines, key=str) == [
        ("delivery.accepted", {"message.received": 1}, 0),
        ("observation.appended", {"ticket.observed": 1}, 0),
        ("observation.appended", {}, 1),
    ]


async def test_acknowledged_event_is_in_the_log_with_its_exact_bytes(database: Database) -> None:
    """An accepted event stands at the position that was answered, with the bytes and fields it came with."""
    item = append(1)
    async with committing(database) as committer:
        outcome = await committer.submit(item, deadline_s=DEADLINE_S)
    assert outcome == Outcome("accepted", item.event.id, 1, redelivered=False, event=item.event)
    (entry,) = await EventLog(database).read(0, 10)
    assert (entry.position, entry.event) == (1, item.event)
    assert await EventLog(database).raw(1) == item.raw


async def test_positions_follow_the_order_of_arrival(database: Database) -> None:
    """Positions within and across batches are given in the order in which deliveries were submitted."""
    items = [append(number) for number in range(250)]
    async with committing(database, batch_limit=40) as committer:
        outcomes = await submit_all(committer, items)
    assert [one.id for one in outcomes if isinstance(one, Outcome)] == [item.event.id for item in items]
    assert [key for _, key, _ in await rows(database)] == [item.event.id for item in items]


async def test_same_bytes_fifty_times_in_parallel_are_one_event(database: Database) -> None:
    """Fifty copies at once: one is accepted, 49 are duplicates of the same position, and all 49 are counted."""
    item = append(1)
    async with committing(database) as committer:
        outcomes = await submit_all(committer, [item] * 50)
        later = await committer.submit(append(1, received_at=NOON + timedelta(hours=1)), deadline_s=DEADLINE_S)
    assert kinds(outcomes) == {"accepted": 1, "duplicate": 49}
    assert {one.position for one in outcomes if isinstance(one, Outcome)} == {1}
    assert later == Outcome("duplicate", item.event.id, 1, redelivered=True)
    assert len(await rows(database)) == 1
    assert await redeliveries(database) == {item.event.id: 50}
    async with database.read() as connection:
        last = (await connection.execute(select(redelivery.c.last_received_at))).scalar_one()
    assert last == to_micros(NOON + timedelta(hours=1))


async def test_two_committers_on_one_database_make_one_event_of_each_delivery(database: Database) -> None:
    """Deliveries that come through two committers at once are accepted by exactly one of them."""
    items = [append(number) for number in range(200)]
    async with committing(database, batch_limit=7) as one, committing(database, batch_limit=5) as two:
        first, second = await asyncio.gather(submit_all(one, items), submit_all(two, items[::-1]))
    assert kinds([*first, *second]) == {"accepted": 200, "duplicate": 200}
    assert len(await rows(database)) == 200
    assert sum((await redeliveries(database)).values()) == 200


WRITER = """
import asyncio, json, sys
sys.path.insert(0, sys.argv[1])
from storage.log.test_committer import append, committing, kinds, opened, submit_all

async def main():
    async with opened(sys.argv[2]) as database:
        print("ready", flush=True)
        sys.stdin.readline()
        async with committing(database, batch_limit=9) as committer:
            found = kinds(await submit_all(committer, [append(number) for number in range(300)]))
        print(json.dumps(found))

asyncio.run(main())
"""


@pytest.mark.process
async def test_two_processes_make_one_event_of_each_delivery(database: Database, database_url: str) -> None:
    """The same 300 deliveries sent to two processes at the same time are 300 rows."""
    code = textwrap.dedent(WRITER)
    tests = str(Path(__file__).parents[2])
    pipe = asyncio.subprocess.PIPE
    start = asyncio.create_subprocess_exec
    both = [await start(sys.executable, "-c", code, tests, database_url, stdin=pipe, stdout=pipe) for _ in range(2)]
    for process in both:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 60) == b"ready\n"
    answers = await asyncio.gather(*(process.communicate(b"go\n") for process in both))
    found: Counter[str] = Counter()
    for answer, _ in answers:
        found.update(json.loads(answer.splitlines()[-1]))
    assert found == {"accepted": 300, "duplicate": 300}
    assert len(await rows(database)) == 300


async def test_reader_that_goes_on_from_its_position_skips_nothing(database: Database, database_url: str) -> None:
    """A reader that follows the log while three writers append on connections of their own sees every row, in order."""
    done = asyncio.Event()
    seen: list[int] = []
    reader = EventLog(database)

    async def follow() -> None:
        finished = False
        while not finished:
            finished = done.is_set()  # once more after the last commit
            while batch := await reader.read(seen[-1] if seen else 0, 37):
                seen.extend(entry.position for entry in batch)
            await asyncio.sleep(0)

    async def write(start: int) -> None:
        async with opened(database_url) as own, committing(own, batch_limit=3) as committer:
            await submit_all(committer, [append(start + number) for number in range(400)])

    follower = asyncio.create_task(follow())
    await asyncio.gather(write(0), write(10_000), write(20_000))
    done.set()
    await asyncio.wait_for(follower, 60)
    assert seen == [position for position, _, _ in await rows(database)]
    assert len(seen) == 1200


@pytest.mark.parametrize("text_refused", ["\ud800", "\ud83d\udc4d broken"])
async def test_refused_row_is_parked_and_the_rest_of_its_batch_is_accepted(
    database: Database, text_refused: str
) -> None:
    """One event with a text that no database stores is parked with its bytes; the 40 around it are accepted."""
    items = [append(number, subject=text_refused if number == 17 else "m") for number in range(41)]
    async with committing(database) as committer:
        outcomes = await submit_all(committer, items)
    assert kinds(outcomes) == {"accepted": 40, "parked": 1}
    assert outcomes[17] == Outcome("parked", items[17].event.id, None, redelivered=False, reason="unstorable")
    assert [key for _, key, _ in await rows(database)] == [i.event.id for n, i in enumerate(items) if n != 17]
    async with database.read() as connection:
        row = (await connection.execute(select(parked_delivery))).one()
    assert (row.id, row.reason, row.raw) == (items[17].event.id, "unstorable", items[17].raw)


async def test_what_was_blanked_and_is_refused_is_parked_without_its_bytes(database: Database) -> None:
    """An event of somebody who was forgotten leaves no byte behind either where the database refuses its row."""
    item = msgspec.structs.replace(append(1, subject="\ud800"), blanked=True)
    async with committing(database) as committer:
        outcomes = await submit_all(committer, [item])
    assert kinds(outcomes) == {"parked": 1}
    async with database.read() as connection:
        row = (await connection.execute(select(parked_delivery))).one()
    assert (row.id, row.raw, row.sha256) == (item.event.id, b"", item.sha256)


async def test_nul_is_stored_or_parked_never_lost(database: Database) -> None:
    """A NUL in a text: SQLite stores it, PostgreSQL refuses it and it is parked; its neighbour is accepted."""
    async with committing(database) as committer:
        outcomes = await submit_all(committer, [append(1, subject="a\0b"), append(2)])
    refused = {"accepted": 1, "parked": 1}
    assert kinds(outcomes) == (refused if database.dialect == "postgresql" else {"accepted": 2})


async def test_other_bytes_under_the_same_id_are_parked(database: Database) -> None:
    """An id that stands for other bytes is a collision: parked, never taken for a redelivery."""
    first, other = append(1), append(2)
    forged = Append(append(1).event, other.raw, other.sha256)
    async with committing(database) as committer:
        outcomes = await submit_all(committer, [first, forged])
        later = await committer.submit(forged, deadline_s=DEADLINE_S)
    assert kinds(outcomes) == {"accepted": 1, "parked": 1}
    assert later == Outcome("parked", first.event.id, None, redelivered=True, reason="collision")
    assert await redeliveries(database) == {}


async def test_parked_delivery_is_one_row_that_counts(database: Database) -> None:
    """A delivery that cannot be read and comes three times, twice in one batch, is one parked row with count 3."""
    async with committing(database) as committer:
        outcomes = await submit_all(committer, [park(), park(), append(1)])
        later = await committer.submit(park(), deadline_s=DEADLINE_S)
    assert kinds(outcomes) == {"accepted": 1, "parked": 2}
    assert later.redelivered
    async with database.read() as connection:
        query = select(parked_delivery.c.raw, parked_delivery.c.reason, parked_delivery.c.count)
        assert (await connection.execute(query)).one() == (b"\xff", "not_json", 3)


async def test_park_with_hostile_texts_is_kept(database: Database) -> None:
    """Whatever a header or a detail holds, parking does not fail: only the texts are mended, never the bytes."""
    hostile = "gz\0ip\ud800" * 1000
    bad = park(b"\0\xff")
    item = Park(bad.id, "acme", "encoding", hostile, NOON, bad.raw, bad.sha256, hostile)
    async with committing(database) as committer:
        assert (await committer.submit(item, deadline_s=DEADLINE_S)).kind == "parked"
    async with database.read() as connection:
        assert (await connection.execute(select(parked_delivery.c.raw))).scalar_one() == b"\0\xff"


async def test_new_event_is_acknowledged_although_counting_a_redelivery_fails(database: Database) -> None:
    """New rows of a batch get their answer when a later statement fails; the redelivery gets 503, not a false 2xx."""
    async with committing(database) as committer:
        await committer.submit(append(1), deadline_s=DEADLINE_S)
        async with database.write() as connection:
            await connection.execute(text("ALTER TABLE redelivery RENAME TO elsewhere"))
        outcomes = await submit_all(committer, [append(1), append(2)])
        async with database.write() as connection:
            await connection.execute(text("ALTER TABLE elsewhere RENAME TO redelivery"))
        again = await committer.submit(append(1), deadline_s=DEADLINE_S)
    assert kinds(outcomes) == {"StorageUnavailableError": 1, "accepted": 1}
    assert again.kind == "duplicate"
    assert len(await rows(database)) == 2


async def test_full_queue_refuses_at_once(database: Database) -> None:
    """A queue at its limit of deliveries, or of bytes, refuses without waiting; what it holds is still committed."""
    async with committing(database, queue_limit=3) as committer:
        outcomes = await submit_all(committer, [append(number) for number in range(5)])
    assert kinds(outcomes) == {"accepted": 3, "OverloadedError": 2}
    async with committing(database, queue_limit_bytes=1000) as committer:
        outcomes = await submit_all(committer, [append(10 + number, size=400) for number in range(4)])
        assert kinds(outcomes) == {"accepted": 2, "OverloadedError": 2}
        again = await submit_all(committer, [append(20 + number, size=400) for number in range(2)])
    assert kinds(again) == {"accepted": 2}, "answered deliveries give their place back"


async def test_deadline_is_kept_and_the_place_is_given_back(database: Database) -> None:
    """A deadline that passes before the commit is OverloadedError, and the delivery gives its place back."""
    committer = Committer(
        database, batch_limit=10, queue_limit=1, queue_limit_bytes=1 << 20, on_commit=lambda _end: None
    )
    stop = asyncio.Event()
    with pytest.raises(OverloadedError):
        await committer.submit(append(1), deadline_s=0)  # nobody commits yet
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(committer.submit(append(2), deadline_s=DEADLINE_S))
        running = tasks.create_task(committer.run(stop))
        assert (await waiting).kind == "accepted"
        stop.set()
        await running


async def test_handler_that_goes_away_disturbs_nobody(database: Database) -> None:
    """A cancelled handler's delivery is committed with its batch, and the others get their answers."""
    async with committing(database) as committer:
        tasks = [asyncio.create_task(committer.submit(append(n), deadline_s=DEADLINE_S)) for n in range(10)]
        await asyncio.sleep(0)
        tasks[4].cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert kinds(outcomes) == {"accepted": 9, "CancelledError": 1}
    assert len(await rows(database)) == 10


async def test_stop_commits_what_is_queued_and_refuses_the_rest(database: Database) -> None:
    """After stop the queue is committed to its end, and a later delivery is refused."""
    stop = asyncio.Event()
    ends: list[int] = []
    committer = Committer(database, batch_limit=10, queue_limit=99, queue_limit_bytes=1 << 20, on_commit=ends.append)
    waits = [asyncio.create_task(committer.submit(append(n), deadline_s=DEADLINE_S)) for n in range(50)]
    await asyncio.sleep(0)
    stop.set()
    await committer.run(stop)
    assert kinds(await asyncio.gather(*waits)) == {"accepted": 50}
    assert ends == [10, 20, 30, 40, 50]
    with pytest.raises(OverloadedError):
        await committer.submit(append(51), deadline_s=DEADLINE_S)


async def test_stop_with_the_database_away_ends(postgres_url: str) -> None:
    """A committer that is told to stop while the database is away returns once nobody waits any more."""
    async with opened(postgres_url):
        pass
    async with (
        TcpProxy(int(make_url(postgres_url).port or 0)) as proxy,
        opened(through(proxy, postgres_url)) as behind,
        committing(behind) as committer,
    ):
        proxy.cut(refuse=True)
        waiting = asyncio.create_task(committer.submit(append(1), deadline_s=DEADLINE_S))
        await until(lambda: committer.problem is not None, DEADLINE_S, "the server is away")
        with pytest.raises(StorageUnavailableError):
            await committer.submit(append(2), deadline_s=0)
        waiting.cancel()
        await until(lambda: sample("whatsms_events_queued_deliveries") == 0, DEADLINE_S, "nobody waits any more")


async def test_locked_file_refuses_in_time_and_loses_nothing(tmp_path: Path) -> None:
    """While another process holds the file's lock nothing is acknowledged; afterwards everything goes on."""
    path = tmp_path / "log.db"
    async with opened(f"sqlite:///{path}") as database, committing(database) as committer:
        assert (await committer.submit(append(0), deadline_s=DEADLINE_S)).kind == "accepted"
        async with locked(path):
            waits = (committer.submit(append(1 + number), deadline_s=0.3) for number in range(20))
            async with asyncio.timeout(60):  # the lock is held all the while
                outcomes = await asyncio.gather(*waits, return_exceptions=True)
            assert set(kinds(outcomes)) <= {"OverloadedError", "StorageUnavailableError"}
            long_wait = asyncio.create_task(committer.submit(append(99), deadline_s=DEADLINE_S))
            await asyncio.sleep(0)  # one turn of the loop, in which the delivery enters the queue
        assert (await long_wait).kind == "accepted"
        assert {one.kind for one in [await committer.submit(append(n), deadline_s=60) for n in range(21)]} <= {
            "accepted",
            "duplicate",
        }
        assert len(await rows(database)) == 22


@contextmanager
def no_room_for_more(path: Path) -> Iterator[None]:
    """Refuse each write that makes a file larger than this one is now, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, hard))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_error_at_the_commit_itself_is_not_acknowledged(tmp_path: Path) -> None:
    """When the disk refuses the write at COMMIT, the answer is an error and the log is as before; later it works."""
    path = tmp_path / "log.db"
    wal = path.with_name("log.db-wal")
    async with opened(f"sqlite:///{path}") as database, committing(database) as committer:
        assert (await committer.submit(append(0), deadline_s=DEADLINE_S)).kind == "accepted"
        large = append(1, size=wal.stat().st_size)  # SQLite may begin the WAL anew, and this one still does not fit
        with no_room_for_more(wal):
            waiting = asyncio.create_task(committer.submit(large, deadline_s=DEADLINE_S))
            await until(lambda: committer.problem is not None, DEADLINE_S, "the disk refuses")
            with pytest.raises(StorageUnavailableError):
                await committer.submit(append(2), deadline_s=0)
            assert not waiting.done()
            assert len(await rows(database)) == 1
        assert (await waiting).kind == "accepted"
        # Refused at its deadline, it may still have been committed by a later try: then it is a duplicate now.
        await committer.submit(append(2), deadline_s=DEADLINE_S)
        assert len(await rows(database)) == 3


def commits_tried() -> float:
    """Say how often a commit was tried in this process, with or without success."""
    return sample("whatsms_events_commit_duration_seconds_count") or 0


async def test_a_disk_that_refuses_each_commit_is_a_problem_until_a_commit_works(tmp_path: Path) -> None:
    """A new connection alone does not show that the log is back: readiness does not turn green between two tries."""
    path = tmp_path / "log.db"
    wal = path.with_name("log.db-wal")
    async with opened(f"sqlite:///{path}") as database, committing(database) as committer:
        await committer.submit(append(0), deadline_s=DEADLINE_S)
        large = append(1, size=wal.stat().st_size)
        with no_room_for_more(wal):
            waiting = asyncio.create_task(committer.submit(large, deadline_s=DEADLINE_S))
            await until(lambda: committer.problem is not None, DEADLINE_S, "the disk refuses")
            tries = commits_tried()
            async with asyncio.timeout(DEADLINE_S):
                while commits_tried() < tries + 3:
                    assert committer.problem is not None
                    await asyncio.sleep(0)  # one turn of the loop: nothing in between is overlooked
        assert (await waiting).kind == "accepted"
        assert committer.problem is None


async def test_a_connection_ends_the_problem_where_nothing_waits(tmp_path: Path) -> None:
    """When all who waited were refused, the next connection is enough: no delivery would come while nobody is ready."""
    path = tmp_path / "log.db"
    wal = path.with_name("log.db-wal")
    async with opened(f"sqlite:///{path}") as database, committing(database) as committer:
        await committer.submit(append(0), deadline_s=DEADLINE_S)
        large = append(1, size=wal.stat().st_size)
        with no_room_for_more(wal):
            waiting = asyncio.create_task(committer.submit(large, deadline_s=DEADLINE_S))
            await until(lambda: committer.problem is not None, DEADLINE_S, "the disk refuses")
            waiting.cancel()
            await until(lambda: committer.problem is None, DEADLINE_S, "nobody waits, and the file can be opened")


def through(proxy: TcpProxy, url: str) -> str:
    """Return the URL of the same database behind the proxy."""
    return make_url(url).set(port=proxy.port).render_as_string(hide_password=False)


async def test_lost_answer_is_one_event_and_no_redelivery(postgres_url: str) -> None:
    """The insert was committed and its answer lost: sent again it is the same row, accepted, not counted as again."""
    async with opened(postgres_url) as database:
        async with TcpProxy(int(make_url(postgres_url).port or 0)) as proxy:
            async with opened(through(proxy, postgres_url)) as behind, committing(behind) as committer:
                await submit_all(committer, [append(0), append(100), append(100)])  # the statements are prepared
                for number in range(1, 9):
                    proxy.lose_answer()
                    outcomes = await submit_all(committer, [append(number), append(100 + number)])
                    assert kinds(outcomes) == {"accepted": 2}
            assert proxy.faults == 8
        assert len(await rows(database)) == 18
        assert await redeliveries(database) == {append(100).event.id: 1}


async def test_killed_connections_never_give_a_wrong_answer(postgres_url: str) -> None:
    """While backends are terminated again and again, each delivery is one row, and each answer a 2xx or a 503."""
    async with opened(postgres_url) as database, committing(database, batch_limit=20) as committer:
        killer = await asyncpg.connect(postgres_url)
        kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"  # noqa: E501
        outcomes: list[Outcome | BaseException] = []
        for start in range(0, 1500, 100):
            load = asyncio.create_task(submit_all(committer, [append(start + number) for number in range(100)]))
            await asyncio.sleep(0.002 * (start // 100 % 5))
            await killer.execute(kill)
            outcomes += await load
        await killer.close()
    assert set(kinds(outcomes)) <= {"accepted", "StorageUnavailableError"}
    assert kinds(outcomes)["accepted"] > 1000
    async with opened(postgres_url) as unhurt:  # the connections of the other one may be dead without knowing it
        stored = {key for _, key, _ in await rows(unhurt)}
        assert {one.id for one in outcomes if isinstance(one, Outcome)} <= stored
        assert await redeliveries(unhurt) == {}
        async with unhurt.read() as connection:
            assert (await connection.execute(select(func.count()).select_from(event_log))).scalar_one() == len(stored)


async def test_database_that_comes_back_is_used_again(postgres_url: str) -> None:
    """With the database away every delivery is refused within its deadline; once it is back, without any help, not."""
    async with opened(postgres_url):
        pass
    async with TcpProxy(int(make_url(postgres_url).port or 0)) as proxy, opened(through(proxy, postgres_url)) as behind:
        async with committing(behind) as committer:
            proxy.cut(refuse=True)
            waits = (committer.submit(append(number), deadline_s=5) for number in range(5))
            assert kinds(await asyncio.gather(*waits, return_exceptions=True)) == {"StorageUnavailableError": 5}
            held = asyncio.create_task(committer.submit(append(9), deadline_s=DEADLINE_S))
            await asyncio.sleep(0)
            proxy.resume()
            assert (await held).kind == "accepted"
        assert append(9).raw in [raw for _, _, raw in await rows(behind)]


@pytest.mark.parametrize("locked", [True, False])
async def test_positions_are_given_in_the_order_of_commits(postgres_url: str, *, locked: bool) -> None:
    """An append waits for one that began before it and is not committed yet; without the trigger a reader loses it."""
    async with opened(postgres_url) as database, committing(database) as committer:
        reader = EventLog(database)
        first = await asyncpg.connect(postgres_url)
        if not locked:
            await first.execute("DROP TRIGGER event_log_order ON event_log")
        async with first.transaction():
            early = await first.fetchval(
                "INSERT INTO event_log (id, type, tenant, received_at, origin, sha256, data, raw)"
                " VALUES ($1, 'message.received', 'acme', 1, 'webhook', '', '{}', '') RETURNING position",
                append(1).event.id,
            )
            submitted = asyncio.create_task(committer.submit(append(2), deadline_s=DEADLINE_S))
            if locked:
                await waiting_for_a_lock(first)
                assert not submitted.done()
            else:
                await submitted
            seen = [entry.position for entry in await reader.read(0, 10)]
        outcome = await submitted
        await first.close()
        assert outcome.position is not None
        assert outcome.position > early
        assert seen == ([] if locked else [outcome.position])
        seen += [entry.position for entry in await reader.read(seen[-1] if seen else 0, 10)]
        assert (seen == [early, outcome.position]) == locked, "who reads on from its last position"
        assert [entry.position for entry in await reader.read(0, 10)] == [early, outcome.position]


async def waiting_for_a_lock(connection: asyncpg.Connection) -> None:
    """Wait until somebody waits for the log's lock."""
    async with asyncio.timeout(60):  # less than a connection waits for a lock
        while not await connection.fetchval(  # noqa: ASYNC110 - a real server
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        ):
            await asyncio.sleep(0.01)


async def test_row_that_no_standby_has_is_not_acknowledged_because_it_can_be_seen(standby: Standby) -> None:
    """A commit that is broken off while it waits for its standby shows its row: sent again, that row is acknowledged
    only when the standby has it, since the standby may be the primary of tomorrow.
    """
    url = standby.primary.url
    waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name = 'whatsms-events'"
    async with opened(url) as database, committing(database) as committer, asyncio.TaskGroup() as tasks:
        await standby.stop()
        delivery = tasks.create_task(committer.submit(append(1), deadline_s=120))
        await until(lambda: ask(url, waiting), 60, "a commit that waits for its standby")
        first = await ask(url, waiting)
        await ask(url, f"SELECT pg_terminate_backend({first}, 10000)")
        again = f"{waiting} AND pid <> {first}"

        async def waits_again() -> bool:
            assert not delivery.done(), "acknowledged without the standby"
            return await ask(url, again) is not None

        await until(waits_again, 60, "the commit to wait again")
        assert not delivery.done()
        await standby.start()
        assert (await delivery).kind == "accepted"
