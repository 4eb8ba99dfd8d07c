"""What became of the messages that we sent, on real SQLite and real PostgreSQL."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert

from whatsms_events.domain.delays import BOUNDS_S, OUTCOMES, RANGES, STEPS, total
from whatsms_events.domain.events import to_micros
from whatsms_events.storage import tables
from whatsms_events.storage.acks import Failed, SentMessages
from whatsms_events.storage.columns import FAILED, OURS
from whatsms_events.storage.database import Database, DatabaseTarget, open_log, open_projection
from whatsms_events.storage.projection.holdings import Holdings
from whatsms_events.storage.reads import Queries

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


@pytest.fixture
async def projection(database_url: str) -> AsyncIterator[Database]:
    """Give an empty projection."""
    target = DatabaseTarget(database_url.replace("log.db", "projection.db"))
    database = await open_projection(target, migrate=True)
    yield database
    await database.close()


@pytest.fixture
async def ask(database_url: str, projection: Database) -> AsyncIterator[SentMessages]:
    """Give the questions."""
    log = await open_log(DatabaseTarget(database_url), migrate=True)
    yield SentMessages(Queries(log, projection))
    await log.close()


async def put(database: Database, *rows: dict[str, Any], table: Any = tables.message) -> None:
    """Insert rows; a message is ours unless said otherwise."""
    blank: dict[str, Any] = dict.fromkeys((column.name for column in table.c if column.nullable), None)
    blank |= {"tenant": "t1", "known": True, "doubtful": False, "versions": "{}"}
    blank |= {"from_me": True} if "from_me" in table.c else {}
    named = [{"id": f"m{number}"} | row for number, row in enumerate(rows)]
    async with database.write() as connection:
        await connection.execute(insert(table), [blank | row for row in named])


def at(seconds: float) -> int:
    """Return a time after NOW as it is stored."""
    return to_micros(NOW + timedelta(seconds=seconds))


async def test_a_message_counts_for_what_it_reached(ask: SentMessages, projection: Database) -> None:
    """A message that was read was sent and delivered too; one that failed and arrived all the same did not fail; what
    contacts wrote, what others own and what is outside the period counts nowhere.
    """
    await put(
        projection,
        *({"created_at": at(1), "ack": level} for level in (None, 1, 2, 3, 4, 5)),
        {"created_at": at(2), "ack": 2, "failed_at": at(3)},
        {"created_at": at(2), "ack": None, "failed_at": at(3)},
        {"created_at": at(2), "ack": 3, "failed_at": at(3)},
        {"created_at": at(1), "ack": 3, "from_me": False},
        {"created_at": at(1), "ack": 3, "from_me": None},
        {"created_at": at(1), "ack": 3, "tenant": "t2"},
        {"created_at": at(-1), "ack": 3},
        {"created_at": at(3600), "ack": 3},
        {"created_at": None, "ack": 3},
    )
    parts = await ask.period("t1", NOW, NOW + HOUR, parts=4)
    assert dict(zip(OUTCOMES, total(parts), strict=True)) == {
        "ours": 9, "sent": 6, "delivered": 4, "read": 2, "played": 1, "failed": 2,
    }  # fmt: skip
    assert [one.counts[0] for one in parts] == [9, 0, 0, 0]
    assert [one.since for one in parts] == [NOW + timedelta(minutes=15 * number) for number in range(4)]
    assert all(one.complete for one in parts)


async def test_the_messages_that_failed_are_named(ask: SentMessages, projection: Database) -> None:
    """Those that are counted as failed, the newest first, with their tickets; where there are more, that is said."""
    await put(
        projection,
        {"id": "a", "created_at": at(1), "ack": 2, "failed_at": at(3), "ticket_id": "k1"},
        {"id": "b", "created_at": at(2), "ack": None, "failed_at": at(4)},
        {"id": "c", "created_at": at(2), "ack": 3, "failed_at": at(3)},
        {"id": "d", "created_at": at(2), "ack": 2},
        {"id": "e", "created_at": at(2), "failed_at": at(3), "from_me": False},
        {"id": "f", "created_at": at(2), "failed_at": at(3), "tenant": "t2"},
        {"id": "g", "created_at": at(-1), "failed_at": at(3)},
    )
    second = NOW + timedelta(seconds=1)
    found = await ask.failed("t1", NOW, NOW + HOUR)
    assert ([one.id for one in found.messages], found.complete) == (["b", "a"], True)
    assert found.messages[1] == Failed("a", "k1", second, second + timedelta(seconds=2))
    cut = await ask.failed("t1", NOW, NOW + HOUR, limit=1)
    assert ([one.id for one in cut.messages], cut.complete) == (["b"], False)


async def test_each_delay_is_in_one_range(ask: SentMessages, projection: Database) -> None:
    """By its bounds, the lower one included; a delay below zero is a short one; without both times there is none. Where
    nobody told when it was sent, its creation counts.
    """
    seconds = (-5, 0, *(bound - 0.001 for bound in BOUNDS_S), *BOUNDS_S)
    await put(
        projection,
        *({"created_at": at(0), "sent_at": at(10), "delivered_at": at(10 + one), "ack": 3} for one in seconds),
        {"created_at": at(0), "delivered_at": at(5), "read_at": at(5 + 90_000), "ack": 4},
        {"created_at": at(0), "sent_at": at(1), "ack": 4, "read_at": at(7)},
    )
    (share,) = await ask.period("t1", NOW, NOW + HOUR, parts=1)
    delivered, read = share.delays
    assert len(share.delays) == len(STEPS)
    assert delivered == (3, 3, 2, 2, 2, 2, 1)
    assert read == (0, 0, 0, 0, 0, 0, 1)
    assert len(delivered) == len(RANGES) == len(BOUNDS_S) + 1


async def test_a_part_with_very_many_messages_says_that_not_all_were_read(
    ask: SentMessages, projection: Database
) -> None:
    """The newest of it are read, and the other parts are whole."""
    await put(
        projection,
        *({"created_at": at(number), "ack": 2 if number < 5 else 3} for number in range(10)),
        {"created_at": at(1800)},
    )
    first, second = await ask.period("t1", NOW, NOW + HOUR, parts=2, limit=4)
    assert (first.complete, second.complete) == (False, True)
    assert first.counts[:3] == (5, 5, 5)
    assert second.counts[0] == 1


async def test_stuck_messages_are_listed_by_ticket_the_oldest_first(ask: SentMessages, projection: Database) -> None:
    """Just those that the gauge counts: ours, pending or sent, neither failed nor deleted, of a day to eight days ago;
    with what is known of the ticket.
    """
    old = NOW - 3 * DAY
    await put(
        projection,
        {"ticket_id": "k1", "created_at": to_micros(old), "ack": 2},
        {"ticket_id": "k1", "created_at": to_micros(NOW - 2 * DAY), "ack": 1},
        {"ticket_id": "k2", "created_at": to_micros(old - DAY), "ack": 2},
        {"ticket_id": None, "created_at": to_micros(NOW - 1.5 * DAY), "ack": 2},
        {"ticket_id": "k3", "created_at": to_micros(old), "ack": 3},
        {"ticket_id": "k3", "created_at": to_micros(old), "ack": 2, "failed_at": 1},
        {"ticket_id": "k3", "created_at": to_micros(old), "ack": 2, "deleted": True},
        {"ticket_id": "k3", "created_at": to_micros(NOW - HOUR), "ack": 2},
        {"ticket_id": "k3", "created_at": to_micros(NOW - 9 * DAY), "ack": 2},
        {"ticket_id": "k3", "created_at": to_micros(old), "ack": 2, "from_me": False},
        {"ticket_id": "k3", "created_at": to_micros(old), "ack": 2, "tenant": "t2"},
    )
    await put(projection, {"id": "k2", "status": "open", "contact_id": "p1"}, table=tables.ticket)
    page = await ask.stuck("t1", NOW, after=DAY, until=8 * DAY)
    assert [(one.ticket_id, one.count) for one in page.tickets] == [("k2", 1), ("k1", 2), (None, 1)]
    assert [(one.status, one.contact_id) for one in page.tickets] == [("open", "p1"), (None, None), (None, None)]
    assert (page.tickets[1].oldest_at, page.tickets[1].newest_at) == (old, NOW - 2 * DAY)
    assert (page.messages, page.complete) == (4, True)
    assert page.messages == await Holdings(projection).undelivered("t1", NOW - 8 * DAY, NOW - DAY)
    cut = await ask.stuck("t1", NOW, after=DAY, until=8 * DAY, limit=2)
    assert ([one.ticket_id for one in cut.tickets], cut.messages, cut.complete) == (["k2", "k1"], 4, False)


ASKED = {
    "message_of_ours": f"SELECT ack, sent_at FROM message WHERE tenant = 't1' AND {OURS} "
    f"AND created_at >= {at(0)} AND created_at < {at(90)} ORDER BY created_at DESC LIMIT 20",
    "message_failed": f"SELECT id, ticket_id, failed_at FROM message WHERE tenant = 't1' AND {FAILED} "
    f"AND created_at >= {at(0)} AND created_at < {at(9000)} ORDER BY created_at DESC, id DESC LIMIT 50",
}
"""What is asked of a period, by the index that is to answer."""


@pytest.mark.parametrize("index", ASKED)
async def test_messages_of_a_period_are_found_by_index(projection: Database, index: str) -> None:
    """In a large table too: a part of a period costs what it holds, and failed messages cost what failed."""
    rows = [
        {"id": f"m{number:06}", "created_at": at(number), "from_me": number % 3 == 0}
        | {"failed_at": at(number) if number % 300 == 0 else None}
        for number in range(6000)
    ]
    await put(projection, *rows)
    if projection.dialect == "postgresql":
        async with projection.write() as connection:
            await connection.exec_driver_sql("ANALYZE message")
    explain = "EXPLAIN" if projection.dialect == "postgresql" else "EXPLAIN QUERY PLAN"
    async with projection.read() as connection:
        plan = " ".join(str(tuple(row)) for row in await connection.exec_driver_sql(f"{explain} {ASKED[index]}"))
    assert index in plan, plan
    assert "Sort" not in plan, plan
