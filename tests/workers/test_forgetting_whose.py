"""Whose a message or a ticket is where the vendor tells it badly: what is theirs goes, what is another's stays."""

import contextlib
import json
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from whatsms_events.domain.events import Contact
from whatsms_events.errors import ConfigError, TransientError
from whatsms_events.storage.database import DatabaseTarget, open_projection
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.person import People
from whatsms_events.storage.scrubbing import scrub
from whatsms_events.web.export import sections
from workers.test_forgetting import (
    ANA,
    NOON,
    RUI,
    TENANT,
    House,
    Someone,
    append_observation,
    at,
    body,
    holding,
    in_group,
    needles,
    opened,
    wrote,
)
from workers.test_forgetting_law import dying

pytestmark = pytest.mark.slow  # a third of a second each, for which `make check` has no time

GROUP = {"id": "contact-of-group", "name": "Condomínio", "number": "120363041234567890@g.us", "isGroup": True}
JID = f"{ANA.number}@s.whatsapp.net"


@pytest.fixture
async def house(database_url: str, tmp_path: Path) -> AsyncIterator[House]:
    """Give a house on each kind of database, with two people in it."""
    async with opened(database_url, tmp_path) as made:
        await made.deliver(wrote(ANA, "m-1", "primeira"), wrote(RUI, "r-1"))
        made.clock += timedelta(seconds=1)
        yield made


def contact(one: Someone, **more: Any) -> dict[str, Any]:
    """Return somebody's contact."""
    return {"id": one.contact, "name": one.mark, "number": one.number, **more}


def message(of: Someone, message_id: str, ticket: dict[str, Any], *beside: dict[str, Any], **more: Any) -> bytes:
    """Return a message with somebody's mark in its text, `beside` the contact that is shown with it."""
    shown = {"id": message_id, "body": f"{of.mark} texto", "fromMe": False, "createdAt": at(-50), **more}
    event = "message.sent" if shown["fromMe"] else "message.received"
    data: dict[str, Any] = {"contact": beside[0]} if beside else {}
    return body(event, message=shown, ticket=ticket, **data)


async def of_rui(house: House) -> Counter[str]:
    """Count the rows that hold something of Rui, by table."""
    return Counter(table for table, _ in holding(await house.everything(), needles(RUI)))


async def assert_forgotten_alone(house: House) -> None:
    """Forget Ana: nothing of her is left, and as much of Rui as before."""
    before = await of_rui(house)
    await house.forget(ANA.contact)
    assert holding(await house.everything(), needles(ANA)) == []
    assert await of_rui(house) == before


async def test_what_stands_for_no_id_ties_nobody(house: House) -> None:
    """Tickets, contacts and messages "0" are many: whoever was the last of them, the others keep what is theirs."""
    for one in (RUI, ANA):
        await house.deliver(
            message(one, f"{one.contact}-a", {"id": 0, "contact": contact(one)}, contact(one)),
            message(one, f"{one.contact}-b", {"id": f"{one.ticket}-b"}, contact(one, id="0")),
            message(one, f"{one.contact}-c", {"id": one.ticket}, fromMe=True, contactId=0),
        )
    await assert_forgotten_alone(house)
    await house.deliver(message(RUI, "later", {"id": 0}))
    assert (await of_rui(house))["message"] == 5


async def test_in_a_ticket_that_may_be_a_groups_only_their_own_goes(house: House) -> None:
    """No event told whose the ticket is, and two people wrote in it; where one alone wrote, the answers are theirs."""
    shared, alone = {"id": "ticket-shared"}, {"id": "ticket-alone"}
    await house.deliver(
        message(RUI, "s-1", shared, contact(RUI)),
        message(ANA, "s-2", shared, contact(ANA)),
        message(ANA, "a-1", alone, contact(ANA)),
        message(ANA, "a-2", alone, fromMe=True),
    )
    await assert_forgotten_alone(house)


ACKS: list[dict[str, Any]] = [
    {"message": {"ack": 4, "participant": JID}},
    {"message": {"ack": 4}, "participant": JID},
    {"ack": 4, "participant": ANA.contact},
    {"message": {"ack": 4, "contactId": ANA.contact}},
    {"message": {"ack": 4}, "contactId": ANA.contact},
    {"message": {"ack": 4}, "contact": {"number": ANA.number}},
]


async def test_who_read_a_message_in_a_group_did_not_write_it(house: House) -> None:
    """An ack names a reader: what the business wrote to all of the group stays."""
    ticket = {"id": "ticket-of-group", "contact": GROUP}
    for number, data in enumerate(ACKS):
        sent = message(RUI, f"g-{number}", ticket, GROUP, fromMe=True)
        await house.deliver(sent, body("message.ack", **data, messageId=f"g-{number}"))
    await assert_forgotten_alone(house)


QUOTED = f"{ANA.mark} no grupo"
QUOTES: list[dict[str, Any]] = [
    {"quotedMsgId": "g-ana", "quotedMsg": {"body": QUOTED, "fromMe": False}},
    {"quotedMsgId": "g-ana", "quotedBody": QUOTED},
    {"quotedMsgId": "g-ana", "replyTo": QUOTED},
    {"quotedMsgId": "g-ana", "contextInfo": {"quotedMessage": {"conversation": QUOTED}}},
    {"quotedMsgId": "g-ana", "dataJson": json.dumps({"contextInfo": {"quotedMessage": {"conversation": QUOTED}}})},
    {"quoted": {"id": "g-ana", "body": QUOTED}},
    {"contextInfo": {"stanzaId": "3EB0", "quotedMessage": {"conversation": QUOTED}}},  # an id that nobody knows
    {"quotedMsg": {"key": {"id": "g-ana"}, "body": QUOTED}},
]


async def test_what_somebody_else_quotes_of_them_goes_with_any_field(house: House) -> None:
    """The known field says which message is quoted, an unknown one shows its text; so too where it comes late."""
    answers = [
        in_group(RUI, f"g-{number}", f"{RUI.mark} resposta", "", pushName=f"{RUI.mark} r", **more)
        for number, more in enumerate(QUOTES)
    ]
    await house.deliver(in_group(ANA, "g-ana", QUOTED, ""), *answers)
    await assert_forgotten_alone(house)
    rui = await of_rui(house)
    await house.deliver(*(one.replace(b"resposta", b"resposta outra vez") for one in answers))
    assert holding(await house.everything(), needles(ANA)) == []
    assert await of_rui(house) == rui + Counter(event_log=len(answers), message_revision=len(answers))


async def test_what_is_new_brings_no_old_text_back(house: House) -> None:
    """A new message, theirs or ours to them, stays with its unknown fields, but for what it quotes from before."""
    await house.deliver(in_group(ANA, "g-ana", QUOTED, ""))
    await house.forget(ANA.contact)
    house.clock += timedelta(seconds=100)
    quotes = [one for one in QUOTES if "3EB0" not in str(one)]
    for number, more in enumerate(quotes):
        new = {"id": f"n-{number}", "body": "novo", "createdAt": at(90), "pushName": "Nova", **more}
        await house.deliver(
            body("message.received", 90, message={**new, "fromMe": False}, contact={"id": ANA.contact}),
            body("message.sent", 91, message={**new, "fromMe": True}, ticket={"id": ANA.ticket}),
        )
    assert holding(await house.everything(), needles(ANA)) == []
    events = [one["data"] for one in (await house.everything())["event_log"] if (one["message_id"] or "")[:2] == "n-"]
    assert len(events) == 2 * len(quotes)
    assert all("novo" in one and "Nova" in one for one in events)


async def test_who_wrote_in_a_group_is_told_by_many_names(house: House) -> None:
    """The channel's own record names the author too; what nobody is named of stays."""
    ticket, key = {"id": "ticket-of-group", "contact": GROUP}, {"remoteJid": GROUP["number"], "participant": JID}
    names: list[dict[str, Any]] = [
        {"key": key}, {"dataJson": json.dumps({"key": key})}, {"sender": {"id": ANA.contact, "name": ANA.mark}},
        {"senderId": ANA.contact}, {"from": JID}, {"Author": JID},
    ]  # fmt: skip
    told = [message(ANA, f"g-{number}", ticket, GROUP, **more) for number, more in enumerate(names)]
    await house.deliver(*told, message(RUI, "g-rui", ticket, GROUP))
    await assert_forgotten_alone(house)


async def test_what_was_written_to_them_is_theirs_by_the_channels_address(house: House) -> None:
    """Neither a ticket nor a contact is shown: the address alone tells; a short id there is a channel's."""
    ana = {"id": "7310", "name": ANA.mark, "number": ANA.number}
    await house.deliver(body("contact.created", contact=ana))
    places: list[dict[str, Any]] = [{"to": JID}, {"chatId": JID}, {"key": {"remoteJid": JID, "fromMe": True}}]
    for number, more in enumerate(places):
        sent = {"id": f"s-{number}", "body": ANA.mark, "fromMe": True, **more}
        await house.deliver(body("message.sent", message=sent))
    await house.deliver(body("message.sent", message={"id": "s-9", "body": RUI.mark, "fromMe": True, "to": 7310}))
    await assert_forgotten_alone(house)


async def test_the_business_is_at_the_other_end_of_every_message(house: House) -> None:
    """A contact with the number of the business itself, as of its own test, takes nobody's messages with it."""
    own = Someone(ANA.mark, "351210000001", "own", "ticket-own")
    jid = f"{own.number}@c.us"
    told = [
        body("message.sent", message={"id": "b-1", "body": RUI.mark, "fromMe": True, "from": jid}),
        body("message.received", message={"id": "b-2", "body": RUI.mark, "fromMe": False, "to": jid}),
    ]
    await house.deliver(wrote(own, "o-1"), *told)
    texts = [row["body"] for row in (await house.everything())["message"] if row["id"] in ("b-1", "b-2")]
    await house.forget(own.contact)
    assert texts == [row["body"] for row in (await house.everything())["message"] if row["id"] in ("b-1", "b-2")]


async def test_whom_a_number_alone_names_has_tickets_and_messages(house: House) -> None:
    """A contact that is shown without its id ties by the number: also in the tables, where no contact is told then."""
    for one in (ANA, RUI):
        bare = {"name": one.mark, "number": one.number}
        await house.deliver(
            message(one, f"{one.contact}-n1", {"id": f"{one.ticket}-n"}, bare),
            body("ticket.updated", ticket={"id": f"{one.ticket}-t", "lastMessage": one.mark, "contact": bare}),
            message(one, f"{one.contact}-n2", {"id": f"{one.ticket}-t"}, fromMe=True),
            body("ticket.updated", ticket={"id": f"{one.ticket}-u", "lastMessage": one.mark}, contact=bare),
            acked(f"{one.ticket}-v", one, bare),
            body("message.ack", message={"id": "x", "ack": 2}, ticket={"id": f"{one.ticket}-w", "contact": bare}),
            body("ticket.closed", ticket={"id": f"{one.ticket}-w", "lastMessage": one.mark}),
        )
    shared = {"id": "ticket-shared", "lastMessage": f"{RUI.mark} texto"}
    await house.deliver(
        message(RUI, "s-1", shared, {"number": RUI.number}),
        message(RUI, "s-2", shared, contact(RUI)),
        message(ANA, "s-3", {"id": "ticket-shared"}, {"number": ANA.number}),
    )
    await assert_forgotten_alone(house)
    await house.deliver(acked("ticket-late", ANA, {"number": ANA.number}))
    assert holding(await house.everything(), needles(ANA)) == []


def acked(ticket_id: str, one: Someone, shown: dict[str, Any]) -> bytes:
    """Return an ack that shows the preview of a ticket."""
    ticket = {"id": ticket_id, "lastMessage": one.mark}
    return body("message.ack", message={"id": f"{ticket_id}-m", "ack": 2}, ticket=ticket, contact=shown)


async def test_an_export_has_what_they_wrote_in_a_group_and_nothing_that_others_wrote(house: House) -> None:
    """Also where an unknown field alone names the author; the ticket beside it shows what somebody else wrote last."""
    ticket = {"id": "ticket-of-group", "contact": GROUP, "lastMessage": f"{RUI.mark} antes"}
    await house.deliver(
        message(ANA, "g-1", ticket, GROUP, participant=JID),
        in_group(ANA, "g-2", f"{ANA.mark} dois", f"{RUI.mark} antes"),
        in_group(RUI, "g-3", f"{RUI.mark} tres", f"{ANA.mark} dois"),
        body("message.ack", message={"id": "g-1", "ack": 4}, contact=contact(RUI)),
    )
    people = People(house.log, house.projection)
    person = await people.person(TENANT, ANA.contact)
    events: dict[str, str] = {}
    async for name, rows in sections(people, person, await EventLog(house.log).end()):
        assert RUI.mark not in msgspec.json.encode(rows).decode()
        own = [row for row in rows if name == "events" and row["own"] and row["data"]]
        events |= {str(row["message_id"]): msgspec.json.encode(row["data"]).decode() for row in own}
    assert all(ANA.mark in events[one] for one in ("m-1", "g-1", "g-2"))
    assert "g-3" not in events


async def test_a_message_that_was_known_is_old_whatever_the_vendors_clock_says(house: House) -> None:
    """The vendor's clock was ahead: a retry with other bytes seems to be written since, and is the same message."""
    told = wrote(ANA, "m-ahead", "adiantada", seconds=60)
    await house.deliver(told)
    await house.forget(ANA.contact)
    house.clock += timedelta(seconds=100)
    await house.deliver(told + b" ")
    assert holding(await house.everything(), needles(ANA)) == []
    await house.deliver(wrote(ANA, "m-new", "nova", seconds=90))
    assert holding(await house.everything(), needles(ANA)) != []


async def test_older_tables_forget_what_only_the_log_told_to_be_theirs(tmp_path: Path) -> None:
    """Restored alone, they have a message of which an unknown field named the author: its mark finds it."""
    async with opened(f"sqlite:///{tmp_path / 'log.db'}", tmp_path) as house:
        ticket = {"id": "ticket-of-group", "contact": GROUP, "lastMessage": f"{ANA.mark} texto"}
        await house.deliver(wrote(ANA, "m-1"), wrote(RUI, "r-1"), message(RUI, "g-2", ticket, GROUP))
        await house.deliver(message(ANA, "g-1", ticket, GROUP, participant=JID))
        assert await scrub(house.projection)
        shutil.copy(tmp_path / "projection.db", tmp_path / "copy.db")
        house.clock += timedelta(seconds=1)
        await assert_forgotten_alone(house)
        old = await open_projection(DatabaseTarget(f"sqlite:///{tmp_path / 'copy.db'}"), migrate=True)
        restored = House(house.log, old, tmp_path, house.clock)
        await restored.apply()
        rows, shown = await restored.everything(), await house.everything()
        await old.close()
    assert holding(rows, needles(ANA)) == []
    assert [row["body"] for row in rows["message"]] == [row["body"] for row in shown["message"]]


async def test_killed_behind_the_log_it_goes_on_with_what_only_the_log_told(tmp_path: Path) -> None:
    """Of a message in a group an unknown field told the author, and is blanked by then: its mark finds it."""
    for statements in range(150, 250, 10):
        folder = tmp_path / str(statements)
        folder.mkdir()
        async with opened(f"sqlite:///{folder / 'log.db'}", folder) as house:
            ticket = {"id": "ticket-of-group", "contact": GROUP}
            await house.deliver(wrote(ANA, "m-1"), wrote(RUI, "r-1"), message(RUI, "g-2", ticket, GROUP))
            await house.deliver(message(ANA, "g-1", ticket, GROUP, participant=JID))
            house.clock += timedelta(seconds=1)
            with contextlib.suppress(TransientError):
                await house.forgetting().run(TENANT, ANA.contact)
            await house.apply()
            with dying(statements):
                await house.forgetting().run(TENANT, ANA.contact)
            await house.forgetting().run(TENANT, ANA.contact)
            assert holding(await house.everything(), needles(ANA)) == []
            assert (await of_rui(house))["message"] == 2


@pytest.mark.parametrize("number", ["120363041234567890", "351930000001-1612345678", "-1001234567890", "1203@g.us"])
async def test_a_group_is_known_by_its_number_alone(house: House, number: str) -> None:
    """Webhooks need not say that it is one: a field tells who wrote there, and nobody forgets all of it at once."""
    group = {"id": "unsaid", "name": "Obra", "number": number}
    ticket = {"id": "ticket-unsaid", "contact": group}
    await house.deliver(
        message(ANA, "g-1", ticket, group, participant=JID),
        message(RUI, "g-2", ticket, group),
        message(RUI, "g-3", ticket, group, fromMe=True),
        body("message.ack", message={"id": "g-3", "ack": 4, "contactId": ANA.contact}),
    )
    with pytest.raises(ConfigError, match="is a group"):
        await house.forgetting().preview(TENANT, "unsaid")
    await assert_forgotten_alone(house)


async def test_who_has_the_number_since_loses_nothing(house: House) -> None:
    """Somebody else was given the number of who was forgotten: all that tells of them stays, with a time or without."""
    await house.forget(ANA.contact)
    house.clock += timedelta(seconds=600)
    new = {"id": "carla", "name": "Carla Nova", "number": ANA.number}
    since = {**new, "createdAt": at(300)}
    await house.deliver(
        body("contact.created", 300, contact=since),
        body("contact.updated", 301, contact=new),
        body("ticket.created", 302, ticket={"id": "t-c", "createdAt": at(302), "lastMessage": "oi", "contact": new}),
        body("message.received", 303, message={"id": "c-1", "body": "oi"}, ticket={"id": "t-c"}, contact=new),
        body("message.sent", 304, message={"id": "c-2", "body": "oi"}, ticket={"id": "t-c", "contact": since}),
        body("ticket.updated", 305, ticket={"id": "t-c", "lastMessage": "oi", "contact": new}),
    )
    await append_observation(
        house,
        Contact(id="carla", name="Carla Nova", number=ANA.number, created_at=NOON + timedelta(seconds=300)),
        house.clock,
    )
    rows = await house.everything()
    assert [row["type"] for row in rows["event_log"][-7:] if b"Carla" not in row["data"].encode()] == []
    assert all(row["raw"] for row in rows["event_log"][-7:])
