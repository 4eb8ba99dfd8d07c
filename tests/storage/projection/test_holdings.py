"""What backfill and observer ask of the projection, on both databases."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import UNSET
from sqlalchemy import delete, insert, select, text

from servers.examples import examples
from whatsms_events.domain.drift import position
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
    Ticket,
    TicketPayload,
    encode,
    to_micros,
)
from whatsms_events.domain.gone import is_gone
from whatsms_events.domain.last_message import BODY_LIMIT, Told
from whatsms_events.domain.normalize import ids
from whatsms_events.domain.rows import OBSERVATION, OWN, SNAPSHOT, Key, Version
from whatsms_events.storage import tables
from whatsms_events.storage.columns import UNDELIVERED, UNSURE
from whatsms_events.storage.database import Database, DatabaseTarget, open_projection
from whatsms_events.storage.projection.apply import Projection, ReadItem
from whatsms_events.storage.projection.holdings import Holdings
from whatsms_events.storage.projection.holdings import is_gone as is_gone_in_sql
from whatsms_events.storage.repair.looks import Doubt

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """Give an empty projection on each kind of database."""
    opened = await open_projection(DatabaseTarget(database_url), migrate=True)
    yield opened
    await opened.close()


def at(seconds: float) -> datetime:
    """Return a moment so much later."""
    return NOW + timedelta(seconds=seconds)


def happened(
    position: int, event_type: EventType, payload: Payload, *, tenant: str = "t1", when: float = 0
) -> ReadItem:
    """Return an event as the log gives it, at a time of its own."""
    about = ids(payload)
    event = Event(
        id=UUID(int=position),
        type=event_type,
        tenant=tenant,
        occurred_at=at(when),
        received_at=at(when),
        origin="backfill" if event_type.value.endswith("observed") else "webhook",
        subject=about.subject,
        ticket_id=about.ticket_id,
        contact_id=about.contact_id,
        message_id=about.message_id,
        data=encode(payload),
    )
    read = LogEntry(position=position, event=event)
    return ReadItem(source="log", at=position, raw=b"", headers=(), read=read)


def ticket(position: int, ticket_id: str, status: str = "open", *, tenant: str = "t1", when: float = 0) -> ReadItem:
    """Return an event about a ticket."""
    payload = TicketPayload(ticket=Ticket(id=ticket_id, status=status))
    return happened(position, EventType.TICKET_UPDATED, payload, tenant=tenant, when=when)


def gone(position: int, ticket_id: str) -> ReadItem:
    """Return the observation that a ticket is no longer there."""
    payload = TicketPayload(ticket=Ticket(id=ticket_id, gone=True))
    return happened(position, EventType.TICKET_OBSERVED, payload, when=1000)


def message(
    position: int, message_id: str, ticket_id: str, body: str | None, created: float | None = None, *, when: float = 0
) -> ReadItem:
    """Return an event about a message."""
    created_at = UNSET if created is None else at(created)
    shown = Message(id=message_id, ticket_id=ticket_id, body=body, created_at=created_at)
    return happened(position, EventType.MESSAGE_SENT, MessagePayload(message=shown), when=when)


async def apply(database: Database, *items: ReadItem, checkpoint: Checkpoint | None = None) -> None:
    """Apply events; the checkpoint moves only where one is given."""
    projection = Projection(database)
    state = await projection.state()
    if checkpoint is not None:
        through = checkpoint.position
        state = replace(state, log_id=checkpoint.log_id, checkpoint=checkpoint, applied_through=through)
    await projection.apply(items, state, state)


VERSION = st.builds(
    Version, st.integers(-1, 1), st.sampled_from([SNAPSHOT, OWN, OBSERVATION]), st.integers(1, 3), st.booleans()
)
ROW = st.tuples(
    st.sampled_from([None, False, True, True]),
    st.dictionaries(st.sampled_from(["gone", "gone", "status", "queue"]), VERSION),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(20))
@given(rows=st.lists(ROW, min_size=20, max_size=60))
async def test_sql_and_python_agree_on_what_is_gone(
    database: Database, rows: list[tuple[bool | None, dict[str, Version]]]
) -> None:
    """Whatever the mark and the versions are, both databases say of each row what the one rule says."""
    plain = {"tenant": "t1", "known": False, "doubtful": False}
    versions = [msgspec.json.encode(one).decode() for _, one in rows]
    for table in (tables.ticket, tables.message):
        beside = {"ticket_id": "k1"} if table is tables.message else {}
        values = [
            {**plain, **beside, "id": f"{number:02}", "gone": marked, "versions": versions[number]}
            for number, (marked, _) in enumerate(rows)
        ]
        async with database.write() as connection:
            await connection.execute(delete(table))
            await connection.execute(insert(table), values)
    wanted = [(f"{number:02}", is_gone(*row)) for number, row in enumerate(rows)]
    there = [one for one, left in wanted if not left]
    holdings = Holdings(database)
    assert await holdings.ids("ticket", "t1", "", 100) == wanted
    assert [doubt.id for doubt in await holdings.unsure("t1", 100)] == there
    assert [doubt.id for _, doubt in await holdings.unsure_messages("t1", 100)] == there
    assert await holdings.message_ids("t1", "k1", "", 100) == there


async def test_rows_and_how_far_they_are_applied(database: Database) -> None:
    """Rows that exist are returned by key; before the first event nothing is applied."""
    holdings = Holdings(database)
    key, none = Key("ticket", "t1", "k1"), Key("contact", "t1", "k1")
    assert await holdings.applied_through() == 0
    assert await holdings.rows({key}) == {}
    await apply(database, ticket(1, "k1"), checkpoint=Checkpoint(log_id=UUID(int=1), position=41, event_id=UUID(int=2)))
    assert await holdings.applied_through() == 41
    found = await holdings.rows({key, none})
    assert found.keys() == {key}
    assert found[key].values["status"] == "open"


async def test_ids_come_in_pages_with_what_is_gone(database: Database) -> None:
    """Every id of the tenant comes once, in order, with its mark; no other tenant's, no other entity's."""
    seen = CampaignPayload(campaign=Campaign(id="c1", name="May"))
    await apply(
        database,
        *(ticket(number, f"k{number}") for number in range(1, 6)),
        gone(7, "k2"),
        ticket(8, "k3", tenant="t2"),
        happened(9, EventType.CAMPAIGN_FINISHED, seen),
        message(10, "m1", "k9", "hi"),
    )
    holdings = Holdings(database)
    assert await holdings.ids("ticket", "t1", "", 3) == [("k1", False), ("k2", True), ("k3", False)]
    assert await holdings.ids("ticket", "t1", "k3", 3) == [("k4", False), ("k5", False), ("k9", False)]
    assert await holdings.ids("ticket", "t1", "k9", 3) == []
    assert await holdings.ids("campaign", "t1", "", 3) == [("c1", False)]
    assert await holdings.ids("message", "t1", "", 3) == [("m1", False)]
    assert await holdings.ids("ticket", "t2", "", 3) == [("k3", False)]
    assert (await holdings.count("ticket", "t1"), await holdings.count("message", "t2")) == (5, 0)


async def test_what_is_in_doubt_or_only_named_is_unsure(database: Database) -> None:
    """Doubtful tickets and contacts and stubs come with the position that wrote them last; gone ones do not."""
    person = happened(21, EventType.CONTACT_CREATED, ContactPayload(contact=Contact(id="p1", name="A", number="1")))
    await apply(
        database,
        ticket(1, "k1"),
        ticket(2, "k2"),
        ticket(3, "k2", "closed"),  # at the very same time: nobody knows which is right
        message(4, "m1", "k3", "hi"),
        message(5, "m2", "k4", "hi"),
        gone(6, "k4"),
        person,
        happened(
            22, EventType.TICKET_CREATED, TicketPayload(ticket=Ticket(id="k5", contact=Contact(id="p2", name="B")))
        ),
    )
    holdings = Holdings(database)
    expected = [Doubt("contact", "p2", 22), Doubt("ticket", "k2", 3), Doubt("ticket", "k3", 0)]
    assert await holdings.unsure("t1", 10) == expected
    held = await holdings.rows({Key("contact", "t1", "p2"), Key("ticket", "t1", "k2"), Key("ticket", "t1", "k3")})
    assert {(key.table, key.id, position(row)) for key, row in held.items()} == set(expected)
    assert await holdings.unsure("t1", 2) == expected[:2]
    assert await holdings.unsure("t1", 10, ("contact", "p2")) == expected[1:]
    assert await holdings.unsure("t1", 10, ("ticket", "k2")) == expected[2:]
    assert await holdings.unsure("t2", 10) == []


async def test_unsure_messages_come_with_their_tickets(database: Database) -> None:
    """Messages in doubt or known by an ack only, in the order of tickets; no gone one, and none of no ticket."""

    def ack(position: int, message_id: str, ticket_id: str | None) -> ReadItem:
        told = Message(id=message_id, ack=2, ticket_id=UNSET if ticket_id is None else ticket_id)
        return happened(position, EventType.MESSAGE_ACK, MessagePayload(message=told))

    await apply(
        database,
        ack(1, "m1", "k2"),
        ack(2, "m2", "k1"),
        ack(3, "m3", None),
        message(4, "m4", "k3", "hi"),
        message(5, "m5", "k1", "one"),
        message(6, "m5", "k1", "another"),
        ack(7, "m6", "k1"),
        happened(8, EventType.MESSAGE_OBSERVED, MessagePayload(message=Message(id="m6", gone=True))),
        happened(9, EventType.CAMPAIGN_FINISHED, CampaignPayload(campaign=Campaign(id="c1", sent_count=1))),
        happened(10, EventType.CAMPAIGN_FINISHED, CampaignPayload(campaign=Campaign(id="c1", sent_count=2))),
    )
    holdings = Holdings(database)
    expected = [
        ("k1", Doubt("message", "m2", 2)),
        ("k1", Doubt("message", "m5", 6)),
        ("k2", Doubt("message", "m1", 1)),
    ]
    assert await holdings.unsure_messages("t1", 10) == expected
    assert await holdings.unsure_messages("t1", 1, ("k1", "m2")) == expected[1:2]
    assert await holdings.unsure_messages("t1", 10, ("k1", "m5")) == expected[2:]
    assert await holdings.unsure_messages("t1", 10, ticket_ids=["k2", "k3"]) == expected[2:]
    assert await holdings.unsure_messages("t1", 10, ("k1", "m2"), ["k1"]) == expected[1:2]
    assert await holdings.unsure_messages("t2", 10) == []
    assert await holdings.unsure("t1", 1) == [Doubt("campaign", "c1", 10)]


async def test_the_unsure_are_found_by_index(database: Database) -> None:
    """However many tickets and messages there are, nobody reads through them for the few in doubt."""
    plain = {"tenant": "t1", "known": True, "doubtful": False, "versions": "{}"}
    tickets = [{**plain, "id": f"k{number:06}"} for number in range(5000)]
    messages = [{**plain, "id": f"m{number:06}", "ticket_id": f"k{number // 9:06}"} for number in range(5000)]
    async with database.write() as connection:
        await connection.execute(insert(tables.ticket), tickets)
        await connection.execute(insert(tables.message), messages)
        await connection.execute(text("ANALYZE"))
    explain = "EXPLAIN" if database.dialect == "postgresql" else "EXPLAIN QUERY PLAN"
    for table, query in (
        (tables.ticket, "id > '' ORDER BY id"),
        (tables.message, "(ticket_id, id) > ('', '') ORDER BY ticket_id, id"),
        (tables.message, "(ticket_id, id) > ('', '') AND ticket_id IN ('k000001', 'k000002') ORDER BY ticket_id, id"),
    ):
        async with database.read() as connection:
            there = is_gone_in_sql(database, table).is_not(True)
            asked = str(select(table.c.id).where(there).compile(dialect=connection.dialect))
            of_all = f"{asked} AND tenant = 't1' AND {UNSURE} AND {query}"
            plan = " ".join(str(tuple(row)) for row in await connection.exec_driver_sql(f"{explain} {of_all}"))
        assert f"{table.name}_unsure" in plan, plan
    assert await Holdings(database).unsure("t1", 10) == []
    assert await Holdings(database).unsure_messages("t1", 10, ticket_ids=["k000001"]) == []


def micros(seconds: float) -> int:
    """Return a moment as the projection stores it."""
    return to_micros(at(seconds))


async def test_recent_messages_are_the_newest_with_all_their_wordings(database: Database) -> None:
    """Per ticket what was told of the last messages, newest first, each with all its wordings; untimed ones come last.

    Of media without a text it is told that it is media; of what is known by an ack only nothing is.
    """
    file = Message(id="n4", ticket_id="k3", media_type="document", media_url="https://x/fatura.pdf", created_at=at(6))
    acked = Message(id="n5", ticket_id="k3", ack=3)
    await apply(
        database,
        *(message(number, f"m{number:02}", "k1", f"text {number}", number) for number in range(1, 31)),
        message(40, "m29", "k1", "edited", 29, when=50),
        message(41, "m30", "k1", None, 30, when=50),  # a text that was taken away is still one that it had
        message(42, "n1", "k2", "x" * 9000, 5),
        message(43, "n2", "k2", "no time"),
        message(44, "n3", "k3", None, 5),
        happened(45, EventType.MESSAGE_RECEIVED, MessagePayload(message=file)),
        happened(46, EventType.MESSAGE_ACK, MessagePayload(message=acked)),
        message(47, "n6", "k3", "a\n b", 4),
    )
    found = await Holdings(database).recent_messages("t1", ["k1", "k2", "k3", "k4"], 3)
    assert found == {
        "k1": [
            Told(("edited", "text 29"), at=micros(29)),
            Told(("text 28",), at=micros(28)),
            Told(("text 27",), at=micros(27)),
        ],
        "k2": [Told(("x" * BODY_LIMIT,), at=micros(5)), Told(("no time",))],
        "k3": [Told((), veiled=True, at=micros(6)), Told(("a b",), at=micros(4))],
        "k4": [],
    }
    assert await Holdings(database).recent_messages("t2", ["k1"]) == {"k1": []}
    assert await Holdings(database).recent_messages("t1", []) == {}
    assert len((await Holdings(database).recent_messages("t1", ["k1"]))["k1"]) == 20


async def test_many_tickets_are_asked_for_at_once(database: Database) -> None:
    """More tickets than fit into one statement, each with its own messages."""
    names = [f"k{number:03}" for number in range(130)]
    await apply(database, *(message(number + 1, f"m{one}", one, f"of {one}", 1) for number, one in enumerate(names)))
    holdings = Holdings(database)
    assert await holdings.recent_messages("t1", names) == {one: [Told((f"of {one}",), at=micros(1))] for one in names}


async def test_a_tickets_messages_by_id(database: Database) -> None:
    """Ids come in pages and in order, without those that are gone."""
    await apply(
        database,
        *(message(number, f"m{number}", "k1", "text", 10 - number) for number in range(1, 5)),
        message(6, "m6", "k1", "no time"),
        message(7, "n1", "k2", "no time"),
    )
    left = MessagePayload(message=Message(id="m2", gone=True))
    await apply(database, happened(8, EventType.MESSAGE_OBSERVED, left, when=100))
    holdings = Holdings(database)
    assert await holdings.message_ids("t1", "k1", "", 2) == ["m1", "m3"]
    assert await holdings.message_ids("t1", "k1", "m3", 9) == ["m4", "m6"]


def stuck(
    position: int, message_id: str, created: float, ack: int, *, deleted: bool = False, tenant: str = "t1"
) -> ReadItem:
    """Return an event about a message of ours with an ack."""
    shown = Message(id=message_id, ticket_id="k1", created_at=at(created), from_me=True, ack=ack, deleted=deleted)
    return happened(position, EventType.MESSAGE_SENT, MessagePayload(message=shown), tenant=tenant)


async def test_only_our_messages_that_did_not_arrive_are_undelivered(database: Database) -> None:
    """Those pending or sent within the time count, of the tenant alone: not what was delivered, failed, deleted or
    written by a contact, and no message whose time nobody told.
    """
    failed = MessagePayload(message=Message(id="failed", ack=0))
    theirs = Message(id="theirs", ticket_id="k1", created_at=at(0), from_me=False, ack=1)
    untimed = Message(id="untimed", ticket_id="k1", from_me=True, ack=1)
    await apply(
        database,
        stuck(1, "pending", 0, 1),
        stuck(2, "sent", 9, 2),
        stuck(3, "delivered", 0, 3),
        stuck(4, "too-old", -1, 2),
        stuck(5, "too-young", 10, 2),
        stuck(6, "deleted", 0, 2, deleted=True),
        stuck(7, "failed", 0, 1),
        happened(8, EventType.MESSAGE_ACK, failed),
        happened(9, EventType.MESSAGE_RECEIVED, MessagePayload(message=theirs)),
        happened(10, EventType.MESSAGE_SENT, MessagePayload(message=untimed)),
        stuck(11, "other", 0, 2, tenant="t2"),
    )
    holdings = Holdings(database)
    assert await holdings.undelivered("t1", at(0), at(10)) == 2
    assert await holdings.undelivered("t2", at(0), at(10)) == 1
    assert await holdings.undelivered("t1", at(20), at(30)) == 0


async def test_the_undelivered_are_found_by_index(database: Database) -> None:
    """In a large table too: a look costs what is stuck, not what is there."""
    plain = {"tenant": "t1", "known": True, "doubtful": False, "versions": "{}", "from_me": True}
    rows = [plain | {"id": f"m{number:06}", "ack": 3, "created_at": micros(number)} for number in range(5000)]
    rows += [plain | {"id": f"n{number:06}", "ack": 2, "created_at": micros(number)} for number in range(20)]
    async with database.write() as connection:
        await connection.execute(insert(tables.message), rows)
    if database.dialect == "postgresql":
        async with database.write() as connection:
            await connection.execute(text("ANALYZE message"))
    explain = "EXPLAIN" if database.dialect == "postgresql" else "EXPLAIN QUERY PLAN"
    asked = f"SELECT 1 FROM message WHERE tenant = 't1' AND {UNDELIVERED} AND deleted IS NOT TRUE"
    between = f"created_at >= {micros(0)} AND created_at < {micros(10)}"
    async with database.read() as connection:
        plan = " ".join(str(tuple(row)) for row in await connection.exec_driver_sql(f"{explain} {asked} AND {between}"))
    assert "message_undelivered" in plan, plan
    assert await Holdings(database).undelivered("t1", at(0), at(10)) == 10
