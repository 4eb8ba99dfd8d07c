"""Everything that is held of one person is found, on real databases, and nothing of anybody else."""

from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import insert, update

from servers.people import (
    ANA,
    ANAS,
    ANAS_NUMBER,
    NAMING_ANA,
    OTHER_TENANT,
    PARKED,
    RUI,
    TENANT,
    Story,
    story,
)
from whatsms_events.storage.person import People
from whatsms_events.storage.tables import contact, event_log, parked_delivery


@pytest.fixture
async def told(database_url: str) -> AsyncIterator[Story]:
    """Give the story, told on each kind of database."""
    async with story(database_url) as found:
        yield found


def finder(told: Story) -> People:
    """Make a finder."""
    return People(told.log, told.projection)


async def test_a_person_is_found_by_id_and_by_number(told: Story) -> None:
    """Both name the same person, an id before a number; another tenant's is another one; after a merge more ids have
    one number, however it is written: then all are theirs, whichever is asked for.
    """
    people = finder(told)
    ana = await people.person(TENANT, ANA)
    found = ana.found
    assert [set(one) for one in (found.contacts, found.numbers, found.tickets)] == [{ANA}, {ANAS_NUMBER}, {"812"}]
    assert [*found.messages] == ["m1", "m2", "g1"]
    assert await people.person(TENANT, ANAS_NUMBER) == ana
    assert (await people.person(OTHER_TENANT, ANA)).found.tickets == frozenset()
    assert (await people.person(TENANT, "nobody")).nobody
    assert not (await people.person(TENANT, "+351 900 000 009")).nobody  # it may be in what nobody could read
    async with told.projection.write() as connection:
        for key, number in (("old", f"+{ANAS_NUMBER}"), ("older", f"00{ANAS_NUMBER}")):
            row = {"tenant": TENANT, "id": key, "number": number, "digits": number.strip("+"), "versions": "{}"}
            await connection.execute(insert(contact).values(**row, known=True, doubtful=False))
    for named in (ANA, "old", ANAS_NUMBER, f"00{ANAS_NUMBER}", f"+{ANAS_NUMBER[:3]} {ANAS_NUMBER[3:]}"):
        assert (await people.person(TENANT, named)).found.contacts == {ANA, "old", "older"}


async def test_every_event_of_a_person_is_found(told: Story) -> None:
    """Their contact, their tickets, what they wrote and what was written to them, acks that name only a message, what
    they wrote in a group, and, told apart, what somebody else said that names them. A search goes on from any page,
    and where retention took data and bytes, the columns still tell whose an event is.
    """
    ana, highest = await finder(told).person(TENANT, ANA), max(told.positions.values())
    expected = {told.positions[name]: name in ANAS for name in (*ANAS, *NAMING_ANA)}
    found: dict[int, bool] = {}
    async for page in finder(told).events_of(ana):
        assert all(one.row.raw for one in page.events)
        found |= {one.row.position: one.own for one in page.events}
    assert found == expected
    assert page.through == highest
    for after in range(0, highest + 1, 3):
        parts = finder(told).events_of(ana, through=after), finder(told).events_of(ana, after=after)
        assert [one.row.position for part in parts async for page in part for one in page.events] == [*found]
    async with told.log.write() as connection:
        await connection.execute(update(event_log).values(data=None, raw=None))
    blank = [one.row.position async for page in finder(told).events_of(ana) for one in page.events]
    assert blank == [told.positions[name] for name in ANAS]


async def test_every_row_of_a_person_is_found(told: Story) -> None:
    """Contact, ticket, messages of the ticket and those in groups, each once, with the revisions of these messages; and
    what backfills keep: items by id and by what was shown of them, differences and looks.
    """
    people = finder(told)
    ana = await people.person(TENANT, ANA)
    rows_of: dict[str, list[Any]] = defaultdict(list)
    async for table, rows in people.rows_of(ana):
        rows_of[table] += [row["message_id" if table == "message_revision" else "id"] for row in rows]
    assert rows_of == {
        "contact": [ANA],
        "ticket": ["812"],
        "message": ["m1", "m2", "g1"],
        "message_revision": ["m1", "m2", "g1"],
    }
    repairs_of: dict[str, list[Any]] = defaultdict(list)
    async for name, rows in people.repairs_of(ana):
        repairs_of[name] += [(row["entity"], row["id"]) for row in rows]
    assert repairs_of == {
        "backfill_item": [("contact", ANA), ("ticket", "999")],
        "backfill_drift": [("contact", ANA)],
        "backfill_look": [("contact", ANA), ("message", "g1")],
    }


async def test_what_is_parked_of_a_person_is_found(told: Story) -> None:
    """A cut body, an unknown event, one that names only a message, a compressed one, and the parked event. What
    is in a form that we do not read may be anybody's, and is told as not readable.
    """
    rows = [
        {
            "id": UUID(int=number), "tenant": TENANT, "reason": "compressed", "detail": "", "received_at": 99,
            "raw": b"?", "content_encoding": encoding, "sha256": b"", "count": 1,
        }
        for number, encoding in enumerate(("br", "gzip"), 98)
    ]  # fmt: skip
    async with told.log.write() as connection:
        await connection.execute(insert(parked_delivery).values(rows))
    people = finder(told)
    ana, rui = await people.person(TENANT, ANA), await people.person(TENANT, RUI)
    found = [one async for page in people.parked_of(ana) for one in page]
    assert [one.raw for one in found if one.readable] == [raw for name, (raw, _) in PARKED.items() if name != "ruis"]
    assert [one.id.int for one in found if not one.readable] == [98, 99]
    events = [one async for page in people.parked_events_of(ana) for one in page]
    assert [(one.place.source, one.place.at) for one in events] == [("log", 0)]
    assert [one.raw async for page in people.parked_of(rui) for one in page if one.readable] == [PARKED["ruis"][0]]
