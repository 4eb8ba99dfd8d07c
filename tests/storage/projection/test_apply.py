"""One transaction per batch: all of it or nothing, one consumer at a time, and rows that come back as they went in."""

import asyncio
import itertools
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import msgspec
import pytest
from msgspec import UNSET, UnsetType
from sqlalchemy import Text, func, select, text, update

from servers.noted import noted
from whatsms_events.domain import fold, rows
from whatsms_events.domain.events import (
    Campaign,
    CampaignPayload,
    Checkpoint,
    Contact,
    ContactPayload,
    Event,
    EventType,
    LogEntry,
    Message,
    MessagePayload,
    Payload,
    Ref,
    Ticket,
    TicketPayload,
    decode,
    encode,
)
from whatsms_events.domain.normalize import ids, normalize
from whatsms_events.domain.records import STRAY, partition_of, to_record
from whatsms_events.domain.rows import Key, Row
from whatsms_events.errors import FencedError, IntegrityError, InvalidEventError
from whatsms_events.storage import tables
from whatsms_events.storage.database import Database, DatabaseTarget, open_projection
from whatsms_events.storage.projection.apply import (
    POISON_LIMIT,
    STRAYS_KEPT,
    Applied,
    Offset,
    Projection,
    ProjectionState,
    ReadItem,
)
from whatsms_events.storage.projection.rows import ALIKE, load, save
from whatsms_events.twin.world import World

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
LOG_ID = UUID(int=77)
REFUSED = 13
"""A count that the database refuses once `refuse` was called."""


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """Give an empty projection on each kind of database."""
    opened = await open_projection(DatabaseTarget(url=database_url), migrate=True)
    yield opened
    await opened.close()


@pytest.fixture
async def other(database_url: str, database: Database) -> AsyncIterator[Database]:
    """Give the same projection as another process sees it."""
    opened = await open_projection(DatabaseTarget(url=database_url), migrate=False)
    assert opened.dialect == database.dialect
    yield opened
    await opened.close()


def entry(position: int, event_type: EventType, payload: Payload, *, tenant: str = "t1") -> LogEntry:
    """Return an event as the normaliser makes it."""
    about = ids(payload)
    moment = NOW + timedelta(seconds=position)
    event = Event(
        id=UUID(int=position),
        type=event_type,
        tenant=tenant,
        occurred_at=moment,
        received_at=moment,
        origin="webhook",
        subject=about.subject,
        ticket_id=about.ticket_id,
        contact_id=about.contact_id,
        message_id=about.message_id,
        data=encode(payload),
    )
    return LogEntry(position=position, event=event)


def item(one: LogEntry) -> ReadItem:
    """Return the entry as the log gives it."""
    return ReadItem(source="log", at=one.position, raw=one.event.data, headers=(), read=one)


def ticket(position: int, ticket_id: str = "k1", *, status: str = "open") -> ReadItem:
    """Return an event that changes one ticket."""
    return item(entry(position, EventType.TICKET_UPDATED, TicketPayload(ticket=Ticket(id=ticket_id, status=status))))


def campaign(position: int, campaign_id: str, *, failed: int | UnsetType = UNSET) -> ReadItem:
    """Return an event that changes one campaign."""
    payload = CampaignPayload(campaign=Campaign(id=campaign_id, sent_count=position, failed_count=failed))
    return item(entry(position, EventType.CAMPAIGN_FINISHED, payload))


async def refuse(database: Database) -> None:
    """Let the database itself refuse campaigns with a `failed_count` of REFUSED, as a constraint would."""
    rules = [f"ALTER TABLE campaign ADD CHECK (failed_count <> {REFUSED})"]
    if database.dialect == "sqlite":
        rules = [
            f"CREATE TRIGGER refuse_{verb} BEFORE {verb} ON campaign WHEN NEW.failed_count = {REFUSED} "
            "BEGIN SELECT RAISE(ABORT, 'refused'); END"
            for verb in ("INSERT", "UPDATE")
        ]
    async with database.write() as connection:
        for rule in rules:
            await connection.execute(text(rule))


def poison(at: int) -> ReadItem:
    """Return a record that nobody can read."""
    headers = (("ce_id", b"\xff\x00"), ("ä", b""))
    return ReadItem(source="t/3", at=at, raw=b"\x00\xff", headers=headers, read=InvalidEventError("record", "ce_id"))


def through(state: ProjectionState, position: int) -> ProjectionState:
    """Return the state with its checkpoint at `position`."""
    checkpoint = Checkpoint(log_id=LOG_ID, position=position, event_id=UUID(int=position))
    return replace(state, log_id=LOG_ID, checkpoint=checkpoint, applied_through=position)


async def held(database: Database) -> dict[Key, Row]:
    """Return every row of the projection, read back by key."""
    keys: list[Key] = []
    async with database.read() as connection:
        for table in ("ticket", "message", "contact", "campaign"):
            columns = tables.projection_metadata.tables[table].c
            keys += [Key(table, *row) for row in await connection.execute(select(columns.tenant, columns.id))]
        revision = tables.message_revision.c
        found = await connection.execute(select(revision.tenant, revision.message_id, revision.digest))
        keys += [Key("message_revision", *row) for row in found]
        return await load(connection, keys)


async def parked(database: Database) -> list[Mapping[str, object]]:
    """Return every parked event in order."""
    query = select(tables.parked_event).order_by(tables.parked_event.c.source, tables.parked_event.c.at)
    async with database.read() as connection:
        return [row._asdict() for row in await connection.execute(query)]


def folded(items: Sequence[ReadItem]) -> dict[Key, Row]:
    """Return what the fold alone says."""
    shown: dict[Key, Row] = {}
    for one in items:
        assert isinstance(one.read, LogEntry)
        event = one.read.event
        shown.update(fold.merge_all(fold.claims(event, decode(event)), one.read.position, shown))
    return shown


def test_the_tables_have_just_the_columns_that_the_fold_writes() -> None:
    """No value is lost, and no column stays empty."""
    for name, columns in rows.COLUMNS.items():
        head = ["tenant", "id", "known", "doubtful"]
        if name == "message_revision":
            head = ["tenant", "message_id", "digest"]
        table = tables.projection_metadata.tables[name]
        assert [column.name for column in table.c][: len(head)] == head
        found_by = tables.FOUND_BY if name == "contact" else ()
        assert {column.name for column in table.c} == {*head, *columns, "versions", *found_by}
        assert [column.name for column in table.c][-1 - len(found_by) :] == ["versions", *found_by]


async def test_state_begins_at_nothing_and_two_may_ask_first(database: Database, other: Database) -> None:
    """The row is made once, whoever comes first, and both read the same."""
    empty = ProjectionState(generation=0, log_id=None, checkpoint=None, applied_through=0, applied=0, offsets={})
    assert await Projection(database).state() == empty
    assert await Projection(other).state() == empty
    async with database.read() as connection:
        assert (await connection.execute(select(func.count()).select_from(tables.projection))).scalar_one() == 1


async def test_state_comes_back_as_it_was_applied(database: Database) -> None:
    """Checkpoint and offsets are saved with the rows; offsets that are gone from `after` are gone from the table."""
    projection = Projection(database)
    before = await projection.state()
    offsets = {("w.contacts", 0): Offset(5, 3), ("w.contacts", 1): Offset(0, 0)}
    done = await projection.apply([ticket(1)], before, replace(through(before, 1), offsets=offsets))
    assert done.state == replace(through(before, 1), generation=1, applied=1, offsets=offsets)
    assert await projection.state() == done.state
    moved = {("w.contacts", 0): Offset(9, 4), ("w.campaigns", 7): Offset(1 << 62, 1 << 62)}
    done = await projection.apply([], done.state, replace(done.state, offsets=moved))
    assert await projection.state() == done.state
    assert done.state.offsets == moved
    done = await projection.apply([], done.state, replace(done.state, offsets={}))
    assert (await projection.state()).offsets == {}


async def test_rows_come_back_just_as_the_fold_said(database: Database) -> None:
    """Text of every script, null beside absent, large numbers, flags, JSON and versions survive the round trip."""
    odd = "ação 𝄞 \u200f'\"\\%\n" + "x" * 3000
    contact = Contact(id="c'1", name=odd, number=None, is_group=False, extra_info=[{"b": 1, "a": [None, "ü"]}])
    shown = Ticket(id="k😀", status=odd, user=Ref(id="9", name=None), queue=None, contact=contact, updated_at=NOW)
    message = Message(id="m", body="", from_me=True, media_url=None, deleted=False, ack=3, created_at=NOW)
    big = Campaign(id="p", sent_count=(1 << 63) - 1, failed_count=-1, scheduled_at=datetime(9999, 12, 31, tzinfo=UTC))
    items = [
        item(entry(1, EventType.TICKET_CREATED, TicketPayload(ticket=shown))),
        item(entry(2, EventType.MESSAGE_SENT, MessagePayload(message=message, ticket=shown, contact=contact))),
        item(entry(3, EventType.MESSAGE_ACK, MessagePayload(message=Message(id="m", ack=0)), tenant="t'2")),
        item(entry(4, EventType.CAMPAIGN_FINISHED, CampaignPayload(campaign=big))),
        item(entry(5, EventType.CONTACT_UPDATED, ContactPayload(contact=contact), tenant="t'2")),
    ]
    projection = Projection(database)
    state = await projection.state()
    done = await projection.apply(items, state, through(state, 5))
    assert (done.applied, done.parked) == (5, 0)
    assert await held(database) == folded(items)


async def test_batches_load_what_earlier_ones_saved(database: Database) -> None:
    """One event a batch and all in one batch give the same rows, also when a batch is read twice."""
    message = MessagePayload(message=Message(id="m", body="hi", from_me=True), ticket=Ticket(id="k1", status="open"))
    items = [ticket(1, status="closed"), item(entry(2, EventType.MESSAGE_SENT, message)), ticket(3, status="pending")]
    items += [item(entry(4, EventType.MESSAGE_SENT, MessagePayload(message=Message(id="m", body="ho"))))]
    projection = Projection(database)
    state = await projection.state()
    for one in [*items, items[1]]:
        state = (await projection.apply([one], state, state)).state
    assert await held(database) == folded(items)
    assert state.generation == 5


async def test_many_rows_of_one_batch_are_all_loaded_and_saved(database: Database) -> None:
    """More ids than one question takes, read back and changed again."""
    items = [ticket(number, f"k{number}") for number in range(1, 2301)]
    again = [ticket(3000 + number, f"k{number}", status="closed") for number in range(1, 2301)]
    projection = Projection(database)
    state = await projection.state()
    state = (await projection.apply(items, state, state)).state
    await projection.apply(again, state, state)
    assert await held(database) == folded([*items, *again])


async def test_losing_the_generation_leaves_nothing_behind(database: Database, other: Database) -> None:
    """A consumer whose state is old saves no row, no offset, no parked event, and the winner's stand."""
    first, second = Projection(database), Projection(other)
    state = await first.state()
    assert await second.state() == state
    won = await first.apply([ticket(1, "k1")], state, through(state, 1))
    with pytest.raises(FencedError):
        await second.apply([ticket(1, "k1"), ticket(2, "k2"), poison(3)], state, through(state, 2))
    assert await held(other) == folded([ticket(1, "k1")])
    assert await parked(other) == []
    assert await second.state() == won.state


async def test_of_two_consumers_exactly_one_wins_each_step(database: Database, other: Database) -> None:
    """Both race, each step is made once, and the count of applied events is that of the steps."""
    players = [Projection(database), Projection(other)]
    state = await players[0].state()
    for step in range(1, 9):
        after = through(state, step)
        racing = (player.apply([ticket(step, f"k{step}")], state, after) for player in players)
        outcomes = await asyncio.gather(*racing, return_exceptions=True)
        (won,) = [outcome for outcome in outcomes if isinstance(outcome, Applied)]
        assert [type(outcome) for outcome in outcomes if outcome is not won] == [FencedError]
        state = won.state
    assert (await players[1].state()).applied == 8
    assert await held(database) == folded([ticket(step, f"k{step}") for step in range(1, 9)])


async def test_poison_is_parked_with_its_bytes_and_the_rest_is_applied(database: Database) -> None:
    """What cannot be read stands in the same transaction with bytes, headers and reason; read again, still once."""
    blank = entry(3, EventType.TICKET_UPDATED, TicketPayload(ticket=Ticket(id="k3")))
    broken = item(msgspec.structs.replace(blank, event=msgspec.structs.replace(blank.event, data=b"{")))
    items = [ticket(1), poison(2), broken, ticket(4, "k4")]
    projection = Projection(database, now=lambda: NOW)
    state = await projection.state()
    done = await projection.apply(items, state, state)
    assert (done.applied, done.parked, done.reasons) == (2, 2, {"record": 1, "data": 1})
    assert done.types == {EventType.TICKET_UPDATED: 2}
    await projection.apply(items, done.state, done.state)
    assert await held(database) == folded([items[0], items[3]])
    from_log, from_kafka = await parked(database)
    assert (from_log["source"], from_log["at"], from_log["event_id"]) == ("log", 3, UUID(int=3))
    assert (from_log["tenant"], from_log["type"], from_log["reason"]) == ("t1", "ticket.updated", "data")
    assert (from_kafka["source"], from_kafka["at"], from_kafka["raw"]) == ("t/3", 2, b"\x00\xff")
    assert (from_kafka["reason"], from_kafka["detail"], from_kafka["event_id"]) == ("record", "ce_id", None)
    headers = msgspec.json.decode(str(from_kafka["headers"]), type=tuple[tuple[str, bytes], ...])
    assert headers == poison(2).headers


async def test_a_row_that_the_database_refuses_parks_only_its_event(database: Database) -> None:
    """That event is parked, every other is applied, also those about the same row, and none half."""
    await refuse(database)
    items = [campaign(number, f"p{number % 7}") for number in range(1, 40)]
    items[5] = campaign(6, "p6", failed=REFUSED)
    items[30] = campaign(31, "p3", failed=REFUSED)
    projection = Projection(database)
    state = await projection.state()
    done = await projection.apply(items, state, through(state, 39))
    assert (done.applied, done.reasons) == (37, {"unstorable": 2})
    assert [row["at"] for row in await parked(database)] == [6, 31]
    assert await held(database) == folded([one for one in items if one.at not in (6, 31)])
    assert await projection.state() == done.state


async def test_just_the_rows_that_are_asked_for_are_loaded(database: Database) -> None:
    """Two messages had the same two wordings: of each one is asked for, and comes alone."""
    said = [
        item(entry(number, EventType.MESSAGE_SENT, MessagePayload(message=Message(id=id_, body=body))))
        for number, (id_, body) in enumerate(itertools.product(("m1", "m2"), ("a", "b")), 1)
    ]
    projection = Projection(database)
    state = await projection.state()
    await projection.apply(said, state, through(state, 4))
    revisions = sorted(key for key in await held(database) if key.table == "message_revision")
    assert len(revisions) == 4
    for keys in (revisions[:1], [revisions[0], revisions[3]], [Key("message", "t1", "m2"), revisions[2]], revisions):
        async with database.read() as connection:
            assert (await load(connection, keys)).keys() == {*keys}


async def test_an_id_that_the_database_cannot_even_ask_for_is_parked(database: Database) -> None:
    """NUL in an id: PostgreSQL cannot be asked for it, and nor is SQLite; the rest goes on in both."""
    projection = Projection(database)
    state = await projection.state()
    odd = entry(2, EventType.TICKET_UPDATED, TicketPayload(ticket=Ticket(id="k\x00", status="x")), tenant="t\x00")
    items = [ticket(1, "k1"), item(odd), ticket(3, "k3")]
    done = await projection.apply(items, state, state)
    assert (done.applied, done.reasons) == (2, {"unstorable": 1})
    assert {Key("ticket", "t1", "k1"), Key("ticket", "t1", "k3")} <= (await held(database)).keys()


async def test_too_much_poison_stops_and_saves_nothing(database: Database) -> None:
    """One more than the limit, over several batches: that batch leaves no row, no parked event and the old state."""
    projection = Projection(database)
    state = await projection.state()
    state = (await projection.apply([ticket(1), *map(poison, range(POISON_LIMIT))], state, state)).state
    with pytest.raises(IntegrityError, match="record"):
        await projection.apply([ticket(2, "k2"), poison(900)], state, through(state, 2))
    assert await held(database) == folded([ticket(1)])
    assert len(await parked(database)) == POISON_LIMIT
    assert await projection.state() == state


async def test_a_flood_of_strays_is_no_poison_and_fills_no_disk(database: Database) -> None:
    """Records that name no log: all are counted and passed, the first few parked, cut short; nothing stops."""
    projection = Projection(database)
    state, events = await projection.state(), [ticket(1, "k1"), ticket(2, "k2")]
    huge = ReadItem(
        source="t/3",
        at=10,
        raw=b"h" * 1_000_000,
        headers=tuple((f"n{number}\x00" * 1000, b"v" * 1000) for number in range(1000)),
        read=InvalidEventError(STRAY, "no header ce_logid"),
    )
    flood = [msgspec.structs.replace(huge, at=at, raw=b"hello", headers=()) for at in range(11, 10 + STRAYS_KEPT + 50)]
    done = await projection.apply([events[0], huge, *flood[:60]], state, through(state, 1))
    assert (done.applied, done.parked, done.strays) == (1, 61, {"t/3": 61})
    done = await projection.apply([*flood[60:], events[1]], done.state, through(done.state, 2))
    assert (done.applied, done.parked) == (1, STRAYS_KEPT - 61)
    assert done.reasons == {STRAY: STRAYS_KEPT - 61}
    assert done.strays == {"t/3": len(flood) - 60}
    assert await held(database) == folded(events)
    rows = await parked(database)
    assert [row["at"] for row in rows] == list(range(10, 10 + STRAYS_KEPT))
    assert len(rows[0]["raw"]) + len(rows[0]["headers"]) < 20_000  # type: ignore[arg-type]
    assert rows[0]["detail"] == "no header ce_logid"
    # Nor do they let poison through that stands between them.
    state = done.state
    state = (await projection.apply([*map(poison, range(POISON_LIMIT)), *flood], state, state)).state
    with pytest.raises(IntegrityError, match="record"):
        projection.judge([poison(900)])
    with pytest.raises(IntegrityError, match="record"):
        await projection.apply([poison(900)], state, state)


async def test_old_poison_does_not_count_for_ever(database: Database) -> None:
    """The limit is one of a hundred in the last 2,000: further apart they are parked and no more."""
    projection = Projection(database)
    state = await projection.state()
    for number in range(POISON_LIMIT + 5):
        batch = [poison(number), *[ticket(number * 100 + step) for step in range(1, 101)]]
        state = (await projection.apply(batch, state, state)).state
    assert len(await parked(database)) == POISON_LIMIT + 5


async def test_acks_are_reported_once_by_the_batch_that_reached_them(database: Database) -> None:
    """The funnel counts a level when it is saved first, with the delay from the message's creation."""
    sent = MessagePayload(message=Message(id="m", from_me=True, ack=1, created_at=NOW))
    items = [item(entry(1, EventType.MESSAGE_SENT, sent))]
    items += [
        item(entry(position, EventType.MESSAGE_ACK, MessagePayload(message=Message(id="m", ack=ack))))
        for position, ack in ((3, 3), (4, 4))
    ]
    projection = Projection(database)
    state = await projection.state()
    done = await projection.apply(items[:2], state, state)
    assert sorted(done.acks) == [("delivered", 3.0), ("pending", 1.0)]
    done = await projection.apply(items, done.state, done.state)
    assert done.acks == [("read", 4.0)]


async def test_a_lost_state_row_fences_instead_of_beginning_again(database: Database) -> None:
    """A generation that moved by itself, as after a restored copy, is no longer ours."""
    projection = Projection(database)
    state = await projection.state()
    async with database.write() as connection:
        await connection.execute(update(tables.projection).values(generation=5))
    with pytest.raises(FencedError, match="generation 0"):
        await projection.apply([ticket(1)], state, state)


@pytest.mark.parametrize("seed", [3, 11])
async def test_the_same_log_gives_the_same_tables_to_the_byte(tmp_path: Path, seed: int) -> None:
    """On SQLite files, whatever the batches were and however they mixed Kafka's partitions: every column of every row
    is the same, `versions` too.
    """
    world = World(seed, start=NOW, tenant_id="t1", pace=2)
    webhooks = world.advance(NOW + timedelta(minutes=6))
    events = [normalize(one.body, tenant="t1", received_at=NOW + timedelta(minutes=6)) for one in webhooks]
    items = [item(LogEntry(position=number, event=event)) for number, event in enumerate(events, 1)]
    assert len(items) > 100
    by_partition = sorted(items, key=partition)
    assert [one.at for one in by_partition] != [one.at for one in items]
    orders = ((items, 9), (items, len(items)), (by_partition, 7), (by_partition[::-1], 50))
    first, *others = [await dumped(tmp_path / f"{n}.db", *one) for n, one in enumerate(orders)]
    for other in others:
        assert other == first


def partition(one: ReadItem) -> tuple[str, int]:
    """Return the topic and the partition that an item's event is read from."""
    assert isinstance(one.read, LogEntry)
    record = to_record(one.read, LOG_ID)
    return record.topic, partition_of(record.key, 3)


async def dumped(file: Path, items: Sequence[ReadItem], size: int) -> dict[str, list[tuple[object, ...]]]:
    """Apply the items in batches of a size to a new file; return its tables of entities as they lie there."""
    database = await open_projection(DatabaseTarget(url=f"sqlite:///{file}"), migrate=True)
    projection = Projection(database)
    state = await projection.state()
    for start in range(0, len(items), size):
        batch = items[start : start + size]
        state = (await projection.apply(batch, state, through(state, start + len(batch)))).state
    await database.close()
    with closing(sqlite3.connect(file)) as opened:
        return {name: opened.execute(f"SELECT * FROM {name} ORDER BY 1, 2, 3").fetchall() for name in rows.COLUMNS}


async def test_rows_that_are_there_are_written_where_they_differ(database: Database) -> None:
    """The others of their columns are not touched, and a contact whose name changes is found by the new one."""
    keys = [Key("contact", "t1", f"p{number}") for number in range(ALIKE)]
    values = dict.fromkeys(rows.COLUMNS["contact"])
    before = Row(known=True, values=values | {"name": "Ana Lima", "number": "+351 9"}, versions={})
    mailed = Row(known=True, values={**before.values, "email": "a@b"}, versions={"email": rows.Version(1, 1, 1)})
    named = Row(known=True, values={**mailed.values, "name": "Zoë Lima"}, versions=mailed.versions)
    columns = tables.contact.c
    mark = update(tables.contact).values(digits="written by nobody")
    async with database.write() as connection:
        await save(connection, dict.fromkeys(keys, before))
        await connection.execute(mark)
        await save(connection, dict.fromkeys(keys, mailed), dict.fromkeys(keys, before))
        found = select(columns.email, columns.folded_name, columns.digits)
        assert (await connection.execute(found)).all() == [("a@b", "ana lima", "written by nobody")] * ALIKE
        await save(connection, dict.fromkeys(keys, named), dict.fromkeys(keys, mailed))
        assert (await connection.execute(found)).all() == [("a@b", "zoe lima", "3519")] * ALIKE
        assert await load(connection, keys) == dict.fromkeys(keys, named)


async def test_rows_that_differ_each_in_other_columns_share_a_statement(database: Database) -> None:
    """Otherwise a batch of a thousand such rows would take a thousand statements, each of them planned anew."""
    names = sorted({one.name for one in tables.ticket.c if isinstance(one.type, Text)} & rows.COLUMNS["ticket"])
    pairs = [(Key("ticket", "t1", "-".join(pair)), pair) for pair in itertools.combinations(names, 2)]
    empty = Row(known=True, values=dict.fromkeys(rows.COLUMNS["ticket"]), versions={})
    before = {key: empty for key, _ in pairs}
    after = {key: Row(True, {**empty.values, **dict.fromkeys(pair, "x")}, {}) for key, pair in pairs}
    async with database.write() as connection:
        await save(connection, before)
        with noted("before_cursor_execute") as statements:
            await save(connection, after, before)
        assert len(statements) == 1 < len(pairs)
        assert await load(connection, list(after)) == after
