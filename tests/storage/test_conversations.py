"""What the page of conversations asks, on real SQLite and real PostgreSQL."""

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Table, func, insert, select

from whatsms_events.domain.events import to_micros
from whatsms_events.domain.rows import COLUMNS, Key, Row
from whatsms_events.domain.search import KEPT_CHARS, digits, folded, searched
from whatsms_events.storage import tables
from whatsms_events.storage.conversations import (
    AGES,
    COUNTED,
    STATUS_LIMIT,
    TEXT_CHARS,
    TICKETS_PER_CONTACT,
    Conversations,
    Found,
    begins,
    within,
)
from whatsms_events.storage.database import Database, DatabaseTarget, open_log, open_projection
from whatsms_events.storage.projection.rows import save
from whatsms_events.storage.reads import Queries

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)

PEOPLE = {
    "p1": ("João da Silva", "+55 (11) 98765-4321"),
    "p2": ("JOANA Prado", "5521912345678"),
    "p3": ("🌸 Zoë", "351911222333"),
    "p4": ("José", None),
    "p5": (None, "5511987650000"),
    "abc-1": ("Abc", "447700900123"),
    "abc-2": ("<script>alert(1)</script>", "1"),
}


@pytest.fixture
async def projection(database_url: str) -> AsyncIterator[Database]:
    """Give an empty projection."""
    target = DatabaseTarget(database_url.replace("log.db", "projection.db"))
    database = await open_projection(target, migrate=True)
    yield database
    await database.close()


@pytest.fixture
async def ask(database_url: str, projection: Database) -> AsyncIterator[Conversations]:
    """Give the questions."""
    log = await open_log(DatabaseTarget(database_url), migrate=True)
    yield Conversations(Queries(log, projection))
    await log.close()


async def put(database: Database, table: Table, *rows: Mapping[str, Any]) -> None:
    """Insert rows of an entity; what is not given is null, known and free of doubt."""
    blank: dict[str, Any] = dict.fromkeys((column.name for column in table.c if column.nullable), None)
    blank |= {"tenant": "t1", "versions": "{}"} | ({"known": True, "doubtful": False} if "known" in table.c else {})
    async with database.write() as connection:
        await connection.execute(insert(table), [blank | dict(row) for row in rows])


def person(contact_id: str, name: str | None, number: str | None, tenant: str = "t1") -> tuple[Key, Row]:
    """Make a contact as the fold leaves it."""
    values: dict[str, Any] = dict.fromkeys(COLUMNS["contact"]) | {"name": name, "number": number}
    return Key("contact", tenant, contact_id), Row(known=True, values=values, versions={})


async def fill(database: Database) -> None:
    """Save the people through the code that saves every row, and a ticket of each."""
    rows = dict(person(key, *both) for key, both in PEOPLE.items()) | dict([person("p1", "João", "1", tenant="t2")])
    async with database.write() as connection:
        await save(connection, rows)
    await put(
        database,
        tables.ticket,
        *({"id": f"k-{key}", "contact_id": key, "status": "open", "created_at": to_micros(NOW)} for key in PEOPLE),
        {"id": "lone", "status": "open"},
        {"id": "k-p1", "tenant": "t2", "contact_id": "p1"},
    )
    await put(database, tables.message, {"id": "m1", "ticket_id": "k-p4"})


def ids(found: list[Found]) -> list[str | None]:
    """Return the contacts that were found."""
    return [None if one.contact is None else str(one.contact["id"]) for one in found]


FINDS: list[tuple[str, str, list[str | None]]] = [
    ("joao", "name", ["p1"]),
    ("JOÃO DA S", "name", ["p1"]),
    ("Silva", "name", ["p1"]),
    ("prado jo", "name", ["p2"]),
    ("jo", "name", ["p2", "p1", "p4"]),
    ("zoe", "name", ["p3"]),
    ("5511", "number", ["p5", "p1"]),
    ("+55 11 98765-4321", "number", ["p1"]),
    ("4321", "number", ["p1"]),
    ("98765 4321", "number", ["p1"]),
    ("abc-", "id", ["abc-1", "abc-2"]),
    ("<script>", "name", ["abc-2"]),
    ("k-p3", "ticket", ["p3"]),
    ("m1", "ticket", ["p4"]),
    ("lone", "ticket", [None]),
    ("nobody", "", []),
    ("%", "", []),
    ("q_", "", []),
    ("🌸", "", []),
]
"""What is typed, by what something is found, and whose conversations."""


async def test_a_conversation_is_found(ask: Conversations, projection: Database) -> None:
    """By the beginning of a name however it is written, a number's beginning or end, or an id; of this tenant alone."""
    await fill(projection)
    for typed, by, who in FINDS:
        page = await ask.find("t1", typed, personal=True)
        assert ids(page.found) == who, typed
        assert {one.matched for one in page.found} == ({by} if by else set()), typed
        assert page.complete
        for one in page.found:
            (ticket,) = one.tickets
            assert ticket["contact_id"] == (None if one.contact is None else one.contact["id"])
            assert not set(ticket) & {"tenant", "versions"}
            assert one.contact is None or not set(one.contact) & {*tables.FOUND_BY, "tenant", "versions"}


async def test_names_and_numbers_are_not_found_by_who_may_not_see_them(
    ask: Conversations, projection: Database
) -> None:
    """Else the beginnings of a hidden name could be tried letter by letter; ids are found all the same."""
    await fill(projection)
    for typed, by, who in FINDS:
        page = await ask.find("t1", typed, personal=False)
        assert ids(page.found) == (who if by in ("id", "ticket") else []), typed


async def test_what_is_found_is_bounded_and_says_so(ask: Conversations, projection: Database) -> None:
    """More contacts than fit, or more tickets of one, are left out, and the answer tells that there are more."""
    async with projection.write() as connection:
        await save(connection, dict(person(f"p{number:02}", "Ana", None) for number in range(12)))
    await put(
        projection,
        tables.ticket,
        *({"id": f"k{number:02}", "contact_id": "p00", "created_at": number} for number in range(15)),
    )
    whole, cut = (
        await ask.find("t1", "ana", personal=True, limit=12),
        await ask.find("t1", "ana", personal=True, limit=11),
    )
    assert (len(whole.found), whole.complete) == (12, True)
    assert (len(cut.found), cut.complete) == (11, False)
    first, second = whole.found[:2]
    assert [one["id"] for one in first.tickets] == [f"k{number:02}" for number in range(14, 4, -1)]
    assert len(first.tickets) == TICKETS_PER_CONTACT
    assert (first.tickets_complete, second.tickets_complete) == (False, True)


INDEXES = {
    "id": ("sqlite_autoindex_contact_1", "contact_by_id"),
    "folded_name": ("contact_by_name",),
    "digits": ("contact_by_digits",),
    "digits_backwards": ("contact_by_ending",),
    "last_name_first": ("contact_by_last_name",),
}
"""Which index each question must use."""


async def test_every_way_of_finding_uses_its_index(projection: Database) -> None:
    """In a large table each question reads its own index from where the prefix begins, and nothing is sorted."""
    people = (person(f"p{number:05}", f"Ana Silva {number}", f"{number:09}") for number in range(3000))
    async with projection.write() as connection:
        await save(connection, dict(people))
        await connection.exec_driver_sql("ANALYZE contact")
    column = tables.contact.c
    explain = "EXPLAIN" if projection.dialect == "postgresql" else "EXPLAIN QUERY PLAN"
    async with projection.read() as connection:
        for name, indexes in INDEXES.items():
            prefix = begins(column.id, "p00012", projection.dialect) if name == "id" else within(column[name], "1234")
            assert prefix is not None
            query = select(column.id, column.name).where(column.tenant == "t1", prefix).limit(50)
            query = query if name == "id" else query.order_by(column[name], column.id)
            asked = query.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True})
            rows = await connection.exec_driver_sql(f"{explain} {asked}".replace("%", "%%"))
            plan = " ".join(str(tuple(row)) for row in rows)
            assert any(index in plan for index in indexes), (name, plan)
            assert "Sort" not in plan, plan
            assert "TEMP B-TREE" not in plan, plan
            assert f"{name} " in plan or f"{name}>" in plan, plan


@given(st.text(max_size=100), st.text(max_size=100))
def test_what_is_kept_fits_into_an_index(name: str, number: str) -> None:
    """The columns that a contact is found by repeat its name and number, short enough for an index row."""
    kept = searched({"name": name, "number": number})
    assert kept[0] == (folded(name) or None)
    assert kept[1] == (digits(number) or None)
    assert all(len(one) <= KEPT_CHARS for one in kept if one is not None)


async def test_a_changed_name_is_found_and_the_old_one_is_not(ask: Conversations, projection: Database) -> None:
    """What a contact is found by follows its name, also to nothing."""
    async with projection.write() as connection:
        await save(connection, dict([person("p1", "Maria", "123456")]))
        await save(connection, dict([person("p1", "Ana", None)]))
    assert ids((await ask.find("t1", "maria", personal=True)).found) == []
    assert ids((await ask.find("t1", "123456", personal=True)).found) == []
    assert ids((await ask.find("t1", "ana", personal=True)).found) == ["p1"]
    async with projection.write() as connection:
        await save(connection, dict([person("p1", None, None)]))
        kept = select(func.coalesce(*(tables.contact.c[name] for name in tables.FOUND_BY)))
        assert (await connection.execute(kept)).scalars().all() == [None]


async def test_tickets_are_counted_by_status_and_age(ask: Conversations, projection: Database) -> None:
    """Each ticket counts once: by its status and the age of its creation, or under those without a time."""
    ages = (-60, 0, 3599, 3600, 86_399, 86_400, 7 * 86_400, 29 * 86_400, 31 * 86_400, None)
    made = [None if age is None else to_micros(NOW - timedelta(seconds=age)) for age in ages]
    await put(
        projection,
        tables.ticket,
        *({"id": f"o{number}", "status": "open", "created_at": at} for number, at in enumerate(made)),
        *({"id": f"c{number}", "status": "closed", "created_at": to_micros(NOW)} for number in range(3)),
        {"id": "n", "status": None, "created_at": to_micros(NOW)},
        {"id": "other", "tenant": "t2", "status": "odd"},
    )
    found = {one.status: one.counts for one in await ask.ages("t1", NOW)}
    assert found == {"closed": (3, 0, 0, 0, 0, 0), "open": (3, 2, 1, 2, 1, 1), None: (1, 0, 0, 0, 0, 0)}
    for age, count in enumerate(found["open"][:-1]):
        rows, after = await ask.tickets("t1", "open", NOW, age=age, limit=50)
        assert (len(rows), after) == (count, None), AGES[age]


async def test_counts_and_statuses_end(ask: Conversations, projection: Database) -> None:
    """A status with very many tickets is counted to COUNTED, and so many statuses are shown at most."""
    many = ({"id": f"m{number}", "status": "a", "created_at": to_micros(NOW)} for number in range(COUNTED + 5))
    odd = ({"id": f"s{number}", "status": f"s{number:02}"} for number in range(STATUS_LIMIT + 5))
    await put(projection, tables.ticket, *many, *odd)
    found = await ask.ages("t1", NOW)
    assert found[0].counts[0] == COUNTED
    assert len(found) == STATUS_LIMIT


@pytest.mark.parametrize("limit", [1, 2, 3, 50])
async def test_pages_of_tickets_give_each_once_oldest_first(
    ask: Conversations, projection: Database, limit: int
) -> None:
    """Whatever the page size; with the contact's name beside, for the list that people read."""
    async with projection.write() as connection:
        await save(connection, dict([person("p1", "Ana", None)]))
    rows = [
        {"id": f"k{number}", "status": "open", "created_at": number // 2, "contact_id": "p1"} for number in range(7)
    ]
    await put(projection, tables.ticket, *rows, {"id": "c", "status": "closed", "created_at": 1})
    seen: list[Any] = []
    after = None
    for _ in range(20):
        page, after = await ask.tickets("t1", "open", NOW, after=after, limit=limit)
        assert len(page) <= limit
        seen += page
        if after is None:
            break
    assert [one["id"] for one in seen] == [row["id"] for row in rows]
    assert {one["contact"]["name"] for one in seen} == {"Ana"}


@pytest.mark.parametrize("limit", [1, 2, 3, 50])
async def test_a_conversation_is_read_from_the_newest_back(
    ask: Conversations, projection: Database, limit: int
) -> None:
    """Each message once, each page oldest first, and those of which nobody told the time at the very beginning."""
    rows = [{"id": f"m{number}", "ticket_id": "k", "created_at": number // 2} for number in range(7)]
    rows += [{"id": f"u{number}", "ticket_id": "k", "created_at": None} for number in range(3)]
    await put(projection, tables.message, *rows, {"id": "x", "ticket_id": "other", "created_at": 1})
    pages: list[list[Any]] = []
    before = None
    for _ in range(20):
        talk = await ask.talk("t1", "k", before=before, limit=limit)
        pages.insert(0, talk.messages)
        assert talk.untimed == 3
        before = talk.older
        if before is None:
            break
    told = [one["id"] for page in pages for one in page]
    assert told == ["u0", "u1", "u2", *(f"m{number}" for number in range(7))]
    assert max(map(len, pages)) <= limit


async def test_a_message_is_shown_with_what_stood_there_before(ask: Conversations, projection: Database) -> None:
    """Its wordings oldest first, how far it got, and what it answers; a very long text is cut, and its length told."""
    long = "x" * (3 * TEXT_CHARS)
    await put(
        projection,
        tables.message,
        {"id": "m1", "ticket_id": "k", "created_at": 1, "body": long, "from_me": False},
        {"id": "m2", "ticket_id": "k", "created_at": 2, "body": "new", "quoted_message_id": "m1", "from_me": True}
        | {"ack": 3, "sent_at": 5, "delivered_at": 9},
    )
    wordings = [("a", 7, {"body": "new"}), ("b", 3, {"body": "old"}), ("c", 5, {"body": long})]
    await put(
        projection,
        tables.message_revision,
        *(
            {"message_id": "m2", "digest": digest, "first_at": at, "content": msgspec.json.encode(content).decode()}
            for digest, at, content in wordings
        ),
    )
    first, second = (await ask.talk("t1", "k")).messages
    assert (first["body"], first["body_chars"]) == (long[:TEXT_CHARS], len(long))
    assert first["quoted"] is None
    assert second["quoted"] == {"id": "m1", "body": "x" * 200, "from_me": False, "deleted": None, "media_type": None}
    revisions: Any = second["revisions"]
    assert [one.get("body") for one in revisions] == ["old", None, "new"]
    assert [one["long"] for one in revisions] == [False, True, False]
    ack: Any = second["ack"]
    assert (ack["name"], ack["delivered_at"].microsecond, ack["read_at"]) == ("delivered", 9, None)
