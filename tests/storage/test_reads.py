"""What the read API may ask, on real SQLite and real PostgreSQL."""

import asyncio
import random
import resource
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest
from sqlalchemy import Table, insert, select, text

from servers.file_lock import locked
from whatsms_events.domain.events import from_micros
from whatsms_events.domain.rows import Version
from whatsms_events.errors import StorageUnavailableError
from whatsms_events.storage import tables
from whatsms_events.storage.database import Database, DatabaseTarget, open_log, open_projection
from whatsms_events.storage.reads import PageKey, Queries, Resource, RowPage, write_problem

NOW = 1_760_000_000_000_000


@pytest.fixture
async def log(database_url: str) -> AsyncIterator[Database]:
    """Give an empty log."""
    async with closing(await open_log(DatabaseTarget(database_url), migrate=True)) as database:
        yield database


@pytest.fixture
async def projection(database_url: str) -> AsyncIterator[Database]:
    """Give an empty projection beside it."""
    target = DatabaseTarget(database_url.replace("log.db", "projection.db"))
    async with closing(await open_projection(target, migrate=True)) as database:
        yield database


@asynccontextmanager
async def closing(database: Database) -> AsyncIterator[Database]:
    """Close the database behind the block."""
    try:
        yield database
    finally:
        await database.close()


@pytest.fixture
def ask(log: Database, projection: Database) -> Queries:
    """Give the questions over both."""
    return Queries(log, projection)


async def put(database: Database, table: Table, *rows: Mapping[str, Any]) -> None:
    """Insert rows of an entity; what is not given is null, known and free of doubt."""
    blank: dict[str, Any] = dict.fromkeys((column.name for column in table.c if column.nullable), None)
    if "versions" in table.c:
        blank |= {"versions": "{}"}
    if "known" in table.c:
        blank |= {"known": True, "doubtful": False}
    async with database.write() as connection:
        await connection.execute(insert(table), [blank | dict(row) for row in rows])


def event(position: int, **given: Any) -> dict[str, Any]:
    """One row of the log."""
    blank = {
        "position": position,
        "id": uuid4(),
        "type": "message.received",
        "tenant": "t1",
        "received_at": NOW,
        "origin": "webhook",
        "sha256": b"\x00\xff",
        "data": '{"message":{"body":"olá"}}',
        "raw": b"\xff\x00{}",
    }
    return blank | given


async def walk(page_after: Any, limit: int) -> list[dict[str, object]]:
    """Take every page of a list, and prove on the way that none is longer than asked and that it ends."""
    rows: list[dict[str, object]] = []
    after: PageKey | None = None
    for _ in range(1000):
        page: RowPage = await page_after(after, limit)
        assert len(page.rows) <= limit
        rows += page.rows
        if page.next is None:
            return rows
        assert page.rows
        after = page.next
    raise AssertionError("the pages never end")


@pytest.mark.parametrize("seed", range(3))
async def test_pages_give_each_message_of_the_ticket_once_in_order(
    ask: Queries, projection: Database, seed: int
) -> None:
    """Whatever the page size, each message comes once, by time and id, those without a time last, and no other's."""
    chance = random.Random(seed)
    rows = [
        {
            "tenant": chance.choice(["t1", "t1", "t2"]),
            "id": f"{chance.choice('aZé😀-')}{number}",
            "ticket_id": chance.choice(["k", "k", "other", None]),
            "created_at": chance.choice([None, NOW, NOW, NOW + chance.randrange(5)]),
        }
        for number in range(chance.choice([0, 30, 60]) + seed)
    ]
    if rows:
        await put(projection, tables.message, *rows)
    mine = {row["id"] for row in rows if row["tenant"] == "t1" and row["ticket_id"] == "k"}
    whole = await walk(lambda after, limit: ask.messages("t1", "k", after=after, limit=limit), 500)
    assert sorted(str(row["id"]) for row in whole) == sorted(str(one) for one in mine)
    times = [row["created_at"] for row in whole]
    known = [at for at in times if isinstance(at, datetime)]
    assert times == sorted(known) + [None] * (len(times) - len(known))
    for limit in (1, 2, 3, 7, max(1, len(known)), len(whole) + 1):
        found = await walk(lambda after, limit: ask.messages("t1", "k", after=after, limit=limit), limit)
        assert [row["id"] for row in found] == [row["id"] for row in whole]


@pytest.mark.parametrize(
    "wanted", [{}, {"status": "open"}, {"contact_id": "c1"}, {"status": "open", "contact_id": "c1"}]
)
async def test_pages_give_each_wanted_ticket_once(
    ask: Queries, projection: Database, wanted: dict[str, str | None]
) -> None:
    """Whatever the page size and the filter, each ticket that fits comes once and in order, of this tenant only."""
    chance = random.Random(str(wanted))
    rows: list[dict[str, Any]] = [
        {
            "tenant": chance.choice(["t1", "t2"]),
            "id": f"{chance.choice('aZé')}{number}",
            "status": chance.choice(["open", "closed", None]),
            "contact_id": chance.choice(["c1", "c2", None]),
        }
        for number in range(60)
    ]
    await put(projection, tables.ticket, *rows)
    fitting = {row["id"] for row in rows if row["tenant"] == "t1" and wanted.items() <= row.items()}
    assert fitting
    whole = await walk(lambda after, limit: ask.entities("tickets", "t1", wanted, after=after, limit=limit), 500)
    assert {row["id"] for row in whole} == fitting
    for limit in (1, 4, len(fitting)):
        found = await walk(lambda after, limit: ask.entities("tickets", "t1", wanted, after=after, limit=limit), limit)
        assert [row["id"] for row in found] == [row["id"] for row in whole]


@pytest.mark.parametrize("after", ["", "AND (id) > ('m000100')"])
async def test_a_page_of_all_messages_is_read_along_the_primary_key(projection: Database, after: str) -> None:
    """However many messages a tenant has, a page of them costs a page: the index of the primary key gives the order."""
    rows = [
        {"tenant": f"t{n % 2}", "id": f"m{n:06}", "known": True, "doubtful": False, "versions": "{}"}
        for n in range(5000)
    ]
    async with projection.write() as connection:
        await connection.execute(insert(tables.message), rows)
        await connection.execute(text("ANALYZE"))
    explain = "EXPLAIN" if projection.dialect == "postgresql" else "EXPLAIN QUERY PLAN"
    async with projection.read() as connection:
        query = f"{explain} SELECT * FROM message WHERE tenant = 't1' {after} ORDER BY id LIMIT 51"
        plan = " ".join(str(tuple(row)) for row in await connection.execute(text(query)))
    assert "message_pkey" in plan or "sqlite_autoindex_message_1" in plan, plan
    assert not [word for word in ("Sort", "TEMP B-TREE") if word in plan], plan


async def test_a_page_ends_before_it_is_too_large(log: Database, projection: Database) -> None:
    """Long texts make a page shorter, one larger than the limit stands alone, and none is left out."""
    ask = Queries(log, projection, page_text_limit=1000)
    sizes = [300, 300, 300, 5000, 10, 400]
    rows = [
        {"tenant": "t1", "id": f"m{n}", "ticket_id": "k", "created_at": NOW + n, "body": "x" * size}
        for n, size in enumerate(sizes)
    ]
    await put(projection, tables.message, *rows)
    page = await ask.messages("t1", "k", after=None, limit=50)
    assert [row["id"] for row in page.rows] == ["m0", "m1", "m2"]
    page = await ask.messages("t1", "k", after=page.next, limit=50)
    assert [row["id"] for row in page.rows] == ["m3"]
    page = await ask.messages("t1", "k", after=page.next, limit=50)
    assert ([row["id"] for row in page.rows], page.next) == (["m4", "m5"], None)


async def test_ticket_shows_agent_queue_and_doubt(ask: Queries, projection: Database) -> None:
    """A ticket shows agent and queue as things of their own, which fields are in doubt, and whether it is a stub."""
    sure, unsure = Version(NOW, 1, 7, doubtful=False), Version(NOW, 1, 8, doubtful=True)
    await put(
        projection,
        tables.ticket,
        {
            "tenant": "t1",
            "id": "k",
            "user_id": "u",
            "user_name": "Ana",
            "created_at": NOW + 1,
            "doubtful": True,
            "versions": msgspec.json.encode({"user_named": unsure, "status": sure, "channel": unsure}).decode(),
        },
        {"tenant": "t1", "id": "stub", "known": False},
    )
    ticket = await ask.entity("tickets", "t1", "k")
    assert ticket == {
        **dict.fromkeys(("status", "channel", "contact_id", "queue", "ai_agent_id", "last_message", "updated_at")),
        "gone": None,
        "id": "k",
        "user": {"id": "u", "name": "Ana"},
        "created_at": datetime(2025, 10, 9, 8, 53, 20, 1, UTC),
        "known": True,
        "doubtful": ["channel", "user"],
    }
    stub = await ask.entity("tickets", "t1", "stub")
    assert stub is not None
    assert (stub["known"], stub["doubtful"]) == (False, [])
    assert await ask.entity("tickets", "t2", "k") is None


async def test_everything_shows_whether_the_vendor_still_has_it(ask: Queries, projection: Database) -> None:
    """True where an observation found it gone, false where one found it back, null where none had to say."""
    marks: dict[str, bool | None] = {"a": True, "b": False, "c": None}
    for table in (tables.ticket, tables.contact, tables.campaign, tables.message):
        rows = ({"tenant": "t1", "id": one, "ticket_id": "k", "gone": gone} for one, gone in marks.items())
        await put(projection, table, *({name: row[name] for name in row if name in table.c} for row in rows))
    resources: tuple[Resource, ...] = ("tickets", "contacts", "campaigns")
    for plural in resources:
        page = await ask.entities(plural, "t1", {}, after=None, limit=9)
        assert [row["gone"] for row in page.rows] == [True, False, None]
    page = await ask.messages("t1", "k", after=None, limit=9)
    assert [row["gone"] for row in page.rows] == [True, False, None]
    message = await ask.message("t1", "a")
    assert message is not None
    assert message["gone"] is True


@pytest.mark.parametrize(
    ("ack", "from_me", "counts"), [(None, True, True), (2, True, True), (3, True, False), (2, False, False)]
)
async def test_failure_counts_only_for_ours_before_delivery(
    ask: Queries, projection: Database, ack: int | None, *, from_me: bool, counts: bool
) -> None:
    """A failed ack shows only while the message is ours and was not delivered; a contact's own has no ack at all."""
    row = {"tenant": "t1", "id": "m", "ack": ack, "from_me": from_me, "sent_at": NOW, "failed_at": NOW + 1}
    await put(projection, tables.message, row)
    message = await ask.message("t1", "m")
    assert message is not None
    shown = msgspec.convert(message["ack"], dict[str, Any])
    assert shown["failed_at"] == (from_micros(NOW + 1) if counts else None)
    level = ack if from_me else None
    assert (shown["level"], shown["name"]) == (level, {None: None, 2: "sent", 3: "delivered"}[level])
    assert (shown["sent_at"], shown["played_at"]) == (from_micros(NOW) if from_me else None, None)
    assert not {"sent_at", "failed_at"} & message.keys()


async def test_a_level_that_was_only_seen_says_so(ask: Queries, projection: Database) -> None:
    """The time by which a backfill saw a level is shown and named, but for one that an event told before."""
    row = {"tenant": "t1", "id": "m", "ack": 5, "from_me": True, "pending_at": NOW, "read_at": NOW + 2}
    row |= {"sent_by": NOW + 1, "read_by": NOW + 2, "played_by": NOW + 9, "pending_by": NOW - 1}
    await put(projection, tables.message, row)
    message = await ask.message("t1", "m")
    assert message is not None
    shown = msgspec.convert(message["ack"], dict[str, Any])
    assert shown["by_then"] == ["pending", "sent", "played"]
    times = [shown[f"{name}_at"] for name in ("pending", "sent", "delivered", "read", "played")]
    expected = (NOW - 1, NOW + 1, None, NOW + 2, NOW + 9)
    assert times == [None if one is None else from_micros(one) for one in expected]
    assert not {name for name in message if name.endswith("_by")}


async def test_message_shows_its_revisions_in_order(ask: Queries, projection: Database) -> None:
    """One message comes with its own revisions, numbered by time, a partial view of one left out."""
    await put(projection, tables.message, {"tenant": "t1", "id": "m"})

    def revision(tenant: str, digest: str, content: str, at: int) -> dict[str, Any]:
        key = {"tenant": tenant, "message_id": "m", "digest": digest}
        return key | {"content": content, "first_at": at, "media_url": None, "versions": "{}"}

    await put(
        projection,
        tables.message_revision,
        revision("t1", "a", '{"body":"second","deleted":false}', NOW + 2),
        revision("t1", "b", '{"body":"first","media_type":null}', NOW + 1),
        revision("t1", "c", '{"body":"second"}', NOW),
        revision("t2", "d", '{"body":"foreign"}', NOW),
    )
    message = await ask.message("t1", "m")
    assert message is not None
    assert message["revisions_complete"] is True
    assert message["revisions"] == [
        {"number": 1, "first_at": from_micros(NOW + 1), "body": "first", "media_type": None, "media_url": None},
        {"number": 2, "first_at": from_micros(NOW + 2), "body": "second", "deleted": False, "media_url": None},
    ]


async def test_events_go_on_from_next_until_the_end(ask: Queries, log: Database) -> None:
    """Going on from `next` gives each event above the first position once, in order, over gaps, up to the end."""
    positions = [2, 3, 7, 8, 20]
    await put(log, tables.event_log, *(event(position) for position in positions))
    for limit in (1, 2, 5, 500):
        seen, after = [], 2
        while after < 20:
            page = await ask.events(after=after, limit=limit, tenant=None, event_type=None)
            assert len(page.rows) <= limit
            assert page.next > after
            assert page.end == 20
            seen += [row["position"] for row in page.rows]
            after = page.next
        assert seen == positions[1:]
    page = await ask.events(after=20, limit=5, tenant=None, event_type=None)
    assert (page.rows, page.next, page.end) == ([], 20, 20)


async def test_an_empty_log_ends_at_zero(ask: Queries) -> None:
    """An empty log answers with no events and the end 0."""
    page = await ask.events(after=0, limit=5, tenant=None, event_type=None)
    assert (page.rows, page.next, page.end) == ([], 0, 0)


async def test_filtered_events_look_through_bounded_pieces(log: Database, projection: Database) -> None:
    """A filter that fits little gives short pages, each over a bounded piece of the log, and misses nothing."""
    ask = Queries(log, projection, scan_limit=10)
    rows = [event(n, tenant="t2" if n % 25 == 0 else "t1", type="message.ack" if n % 2 else "t") for n in range(1, 61)]
    await put(log, tables.event_log, *rows)
    seen, after, pages = [], 0, 0
    while after < 60:
        page = await ask.events(after=after, limit=500, tenant="t2", event_type=None)
        assert after < page.next <= after + 10
        seen += [row["position"] for row in page.rows]
        after, pages = page.next, pages + 1
    assert (seen, pages) == ([25, 50], 6)
    both = await ask.events(after=20, limit=500, tenant="t2", event_type="message.ack")
    assert [row["position"] for row in both.rows] == [25]


async def test_filtered_events_go_on_from_an_event_over_empty_positions(log: Database, projection: Database) -> None:
    """`next` of a filtered page is the position of an event, whose id it has: also where more positions are empty than
    one page looks through, and where the filter left that event out.
    """
    ask = Queries(log, projection, scan_limit=10)
    positions = [3, 4, 12, 500, 505, 509, 510, 2000]
    rows = [event(n, tenant="t2" if n in (4, 509) else "t1") for n in positions]
    await put(log, tables.event_log, *rows)
    ids = {row["position"]: row["id"] for row in rows}
    seen, places, after = [], [], 0
    while after < 2000:
        page = await ask.events(after=after, limit=500, tenant="t2")
        assert page.next_id == ids[page.next]
        seen += [row["position"] for row in page.rows]
        places.append(after := page.next)
    assert (seen, places) == ([4, 509], [12, 509, 510, 2000])
    first = await ask.events(after=0, limit=1, tenant="t1")
    assert (first.next, first.next_id) == (3, ids[3])
    for tenant in (None, "t1"):
        end = await ask.events(after=2000, limit=5, tenant=tenant)
        assert (end.rows, end.next, end.next_id) == ([], 2000, None)


async def test_an_event_shows_its_bytes_only_when_asked(ask: Queries, log: Database) -> None:
    """An event comes with its data as JSON, its hash and redeliveries; with its bytes only where they are asked for."""
    row = event(5, occurred_at=NOW - 1)
    await put(log, tables.event_log, row, event(6, data=None, raw=None))
    await put(log, tables.redelivery, {"id": row["id"], "count": 3, "last_received_at": NOW + 9})
    found = await ask.event(5, raw=False)
    assert found is not None
    assert "raw" not in found
    assert msgspec.json.decode(msgspec.json.encode(found)) == {
        **dict.fromkeys(("subject", "ticket_id", "contact_id", "message_id", "signed_by")),
        "position": 5,
        "id": str(row["id"]),
        "type": "message.received",
        "tenant": "t1",
        "origin": "webhook",
        "occurred_at": "2025-10-09T08:53:19.999999Z",
        "received_at": "2025-10-09T08:53:20Z",
        "sha256": "00ff",
        "data": {"message": {"body": "olá"}},
        "size": 4,
        "redelivered": 3,
        "redelivered_at": "2025-10-09T08:53:20.000009Z",
    }
    whole = await ask.event(5, raw=True)
    assert whole is not None
    assert whole["raw"] == b"\xff\x00{}"
    blanked = await ask.event(6, raw=True)
    assert blanked is not None
    assert (blanked["data"], blanked["raw"], blanked["size"], blanked["redelivered"]) == (None, None, None, None)
    assert await ask.event(7, raw=True) is None


async def test_parked_is_listed_without_bytes(ask: Queries, log: Database, projection: Database) -> None:
    """Both parked lists come in pages, in order, with reason and size and without the bytes."""
    deliveries = [
        {
            "id": UUID(int=chance),
            "tenant": "t1",
            "reason": "json",
            "detail": "at 3",
            "received_at": NOW + chance % 3,
            "sha256": b"\x01",
            "raw": b"{" * chance,
            "count": 1,
        }
        for chance in range(8)
    ]
    await put(log, tables.parked_delivery, *deliveries)
    for limit in (1, 3, 8):
        found = await walk(lambda after, limit: ask.parked_deliveries(after=after, limit=limit), limit)
        assert [row["size"] for row in found] == [0, 3, 6, 1, 4, 7, 2, 5]
    assert not {"raw", "headers"} & found[0].keys()
    events = [
        {"source": source, "at": at, "reason": "data", "detail": "", "parked_at": NOW, "raw": b"abc", "headers": "[]"}
        for source in ("log", "whatsms.contacts/3")
        for at in (2, 10, 1)
    ]
    await put(projection, tables.parked_event, *events)
    for limit in (1, 4):
        found = await walk(lambda after, limit: ask.parked_events(after=after, limit=limit), limit)
        assert [row["at"] for row in found] == [1, 2, 10, 1, 2, 10]
    assert not {"raw", "headers"} & found[0].keys()


async def test_a_blocked_query_ends_in_time(postgres_url: str) -> None:
    """A query that cannot go on ends as StorageUnavailableError at its time limit, and the next one works again."""
    async with closing(await open_projection(DatabaseTarget(postgres_url), migrate=True)) as projection:
        ask = Queries(projection, projection, timeout_s=0.2)
        async with projection.write() as connection:
            await connection.execute(text("LOCK TABLE ticket IN ACCESS EXCLUSIVE MODE"))
            async with asyncio.timeout(60):
                for _ in range(3):
                    with pytest.raises(StorageUnavailableError):
                        await ask.entity("tickets", "t1", "k")
        ask = Queries(projection, projection)
        assert await ask.entity("tickets", "t1", "k") is None


async def test_write_probe_changes_nothing(log: Database, projection: Database) -> None:
    """The probe finds a good database good, leaves every row as it is, and the write-ahead log stays bounded."""
    async with log.read() as connection:
        before = (await connection.execute(select(tables.log))).all()
    for _ in range(20):
        assert await write_problem(log) is None
        assert await write_problem(projection) is None
    async with log.read() as connection:
        assert (await connection.execute(select(tables.log))).all() == before
    if log.path is not None:
        assert log.path.with_name(f"{log.path.name}-wal").stat().st_size < 5_000_000


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limit of file sizes here")
async def test_write_probe_finds_a_full_disk(tmp_path: Path) -> None:
    """Where the file system takes no byte more, the probe fails, although the database can be read."""
    async with closing(await open_log(DatabaseTarget(f"sqlite:///{tmp_path / 'log.db'}"), migrate=True)) as log:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
            with pytest.raises(StorageUnavailableError):
                await write_problem(log)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, ignored)
        assert await write_problem(log) is None


async def test_write_probe_finds_a_locked_file(tmp_path: Path) -> None:
    """The probe fails while somebody else holds the write lock of the SQLite file."""
    file = tmp_path / "log.db"
    async with closing(await open_log(DatabaseTarget(f"sqlite:///{file}"), migrate=True)) as log:
        async with locked(file):
            with pytest.raises(StorageUnavailableError):
                await write_problem(log)
        assert await write_problem(log) is None


async def test_write_probe_finds_a_read_only_server(postgres_url: str) -> None:
    """The probe fails on a PostgreSQL that takes no writes, as a standby does not."""
    async with closing(await open_log(DatabaseTarget(postgres_url), migrate=True)) as log:
        assert await write_problem(log) is None
        connection = await asyncpg.connect(postgres_url)
        name = await connection.fetchval("SELECT current_database()")
        await connection.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()"
        await connection.fetch(others, name)
        await connection.close()
        with pytest.raises(StorageUnavailableError):
            await write_problem(log)
