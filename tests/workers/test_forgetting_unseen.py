"""A person is forgotten where somebody else was forgotten before, and where the tables do not know what is theirs."""

import asyncio
import contextlib
import dataclasses
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from sqlalchemy import insert

from servers.metric import shown
from storage.test_person_search import hiding
from whatsms_events.backfill.shown import listed
from whatsms_events.domain.events import SHAPES, Contact, Entity
from whatsms_events.domain.marks import Marker
from whatsms_events.errors import ConfigError, NotFoundError, TransientError
from whatsms_events.service.suppressions import missing
from whatsms_events.storage import tables
from whatsms_events.storage.log.committer import Committer
from whatsms_events.storage.log.erasure import Erasures
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.log.suppression import HeldSuppressions, SuppressionTable
from whatsms_events.storage.person import People
from whatsms_events.web.export import sections
from whatsms_events.workers.imported_marks import ImportedMarks
from whatsms_events.workers.late_ties import LateForgetting
from workers.test_forgetting import (
    ANA,
    KEY,
    RUI,
    TENANT,
    House,
    Someone,
    append_observation,
    at,
    backfilled,
    body,
    filled,
    holding,
    in_group,
    needles,
    opened,
    unlike,
    wrote,
)
from workers.test_forgetting_law import dying

pytestmark = pytest.mark.slow  # a third of a second each, for which `make check` has no time

SECTION_OF: dict[str, str] = {
    "event_log": "events", "contact": "contacts", "ticket": "tickets", "message": "messages",
    "message_revision": "revisions", "parked_delivery": "parked_deliveries", "parked_event": "parked_events",
    "backfill_item": "comparisons",
}  # fmt: skip

CUT = b"{" + json.dumps({"contactId": ANA.contact, "name": ANA.mark}).encode()


@pytest.fixture
async def house(database_url: str, tmp_path: Path) -> AsyncIterator[House]:
    """Give a house on each kind of database, with two people in it."""
    async with opened(database_url, tmp_path) as made:
        await made.deliver(wrote(ANA, "m-1"), wrote(RUI, "r-1"))
        made.clock += timedelta(seconds=1)
        yield made


async def places(house: House) -> list[str]:
    """Return the tables that hold something of Ana, one for each row."""
    return [table for table, _ in holding(await house.everything(), needles(ANA))]


async def test_who_came_back_keeps_what_is_new_when_somebody_else_is_forgotten(house: House) -> None:
    """What a forgotten person did since stays to the byte, be it applied or parked, until they are forgotten again."""
    await house.forget(ANA.contact)
    house.clock += timedelta(seconds=100)
    unknown = {"event": "x.y", "tenantId": TENANT, "timestamp": "2026-05-01T12:01:30Z", "contactId": ANA.contact}
    parked = json.dumps({**unknown, "name": ANA.mark}).encode()
    await house.deliver(wrote(ANA, "m-new", "novo", seconds=90), parked)
    back = holding(await house.everything(), needles(ANA))
    assert {"event_log", "parked_delivery", "contact", "message"} <= {table for table, _ in back}
    house.clock += timedelta(seconds=1)
    await house.forget(RUI.contact)
    assert holding(await house.everything(), needles(ANA)) == back
    house.clock += timedelta(seconds=1)
    await house.forget(ANA.number)
    assert await places(house) == []


async def test_what_is_parked_while_marks_are_not_known_yet_goes_too(house: House) -> None:
    """A receiver learns of marks a second late: what it parked by then of somebody from before loses its bytes."""
    held = HeldSuppressions(house.log, KEY, monotonic=lambda: 0.0)  # so it is never time to look again
    await held.look()
    with contextlib.suppress(TransientError):
        await house.forgetting().run(TENANT, ANA.contact)
    house.clock += timedelta(seconds=0.5)
    stop = asyncio.Event()
    committer = Committer(
        house.log, batch_limit=5, queue_limit=5, queue_limit_bytes=1 << 20, on_commit=lambda _: None,
        suppressions=held,
    )  # fmt: skip
    running = asyncio.create_task(committer.run(stop))
    assert (await committer.deliver(house.signed(CUT), deadline_s=60)).kind == "parked"
    stop.set()
    await running
    await house.forget(ANA.contact)
    assert await places(house) == []


async def test_what_a_backfill_alone_was_shown_goes_too(house: House) -> None:
    """A contact with the person's number, their ticket and its message that no table knows yet; another's stays."""
    run = {
        "tenant": TENANT, "kind": "reconcile", "cause": "test", "options": "{}", "generation": 1, "started_at": 1,
        "updated_at": 1, "progress": "{}",
    }  # fmt: skip
    await keep_item(
        house, run, "contact", "c-new", {"contact": {"id": "c-new", "number": ANA.number, "name": ANA.mark}}
    )
    shown = {"ticket": {"id": "t-new", "contact_id": "c-new", "last_message": f"{ANA.mark} x"}}
    await keep_item(house, {}, "ticket", "t-new", shown)
    await keep_item(house, {}, "message", "m-new", {"message": {"id": "m-new", "body": ANA.mark}}, ticket_id="t-new")
    other = {"ticket": {"id": RUI.ticket, "contact_id": RUI.contact, "last_message": RUI.mark}}
    await keep_item(house, {}, "ticket", RUI.ticket, other)
    await house.forget(ANA.contact)
    rows = await house.everything()
    assert [one["id"] for one in rows["backfill_item"] if one["payload"]] == [RUI.ticket]
    assert holding(rows, needles(ANA)) == []


async def keep_item(house: House, run: dict[str, Any], entity: Entity, key: str, shown: Any, **more: Any) -> None:
    """Leave what a page showed to a backfill that is not finished; `run` is its row, where it is not there yet."""
    payload = msgspec.json.decode(msgspec.json.encode(shown), type=SHAPES[entity])
    packed = listed(entity, payload, house.clock, 0)
    item = {"run": 1, "entity": entity, "id": key, "state": "listed", "due_at": 1, "log_end": 0, "rounds": 0}
    async with house.log.write() as connection:
        if run:
            await connection.execute(insert(tables.backfill_run).values(run))
        await connection.execute(insert(tables.backfill_item).values(**item, payload=packed, messages="none", **more))


async def test_who_wrote_in_a_group_is_known_by_any_field(house: House) -> None:
    """Where only `participant` or `author` names who wrote, their text goes from log, tables and preview, with what it
    said before, and late retries too; what somebody else wrote there stays.
    """
    group = {"id": "contact-of-group", "name": "Condomínio", "number": "120363041234567890@g.us", "isGroup": True}

    def told(one: Someone, text: str, **by: Any) -> bytes:
        message = {"id": f"g-{one.contact}", "body": f"{one.mark} {text}", "fromMe": False, "createdAt": at(-50), **by}
        ticket = {"id": "ticket-of-group", "lastMessage": f"{one.mark} {text}", "contact": group}
        return body("message.received", -50, message=message, ticket=ticket, contact=group)

    theirs = [told(ANA, "um", participant=f"{ANA.number}@c.us"), told(ANA, "dois", author={"id": ANA.contact})]
    await house.deliver(wrote(ANA, "m-1"), wrote(RUI, "r-1"), told(RUI, "x", participant=f"{RUI.number}@c.us"), *theirs)
    before = await house.everything()
    house.clock += timedelta(seconds=1)
    await house.forget(ANA.contact)
    await house.deliver(*(one + b" " for one in theirs))
    rows = await house.everything()
    assert holding(rows, needles(ANA)) == []
    assert unlike(before, rows, RUI) == []


async def test_somebody_who_is_no_contact_is_forgotten_by_the_number(house: House) -> None:
    """Whom only a campaign and a message without a contact's id name is forgotten, late retries too, and the number is
    written nowhere.
    """
    someone = {"name": "Sem-Contacto-91", "number": "351966555444"}
    campaign = {"id": 14, "name": "V", "contacts": [someone, {"name": RUI.mark, "number": RUI.number}]}
    message = {"id": "n-1", "body": "Sem-Contacto-91 olá", "fromMe": False}
    told = (
        body("campaign.finished", campaign=campaign),
        body("message.received", message=message, ticket={"id": "t-n", "contact": someone}, contact=someone),
    )
    await house.deliver(*told)
    house.clock += timedelta(seconds=1)
    await house.forget("+351 966 555 444")
    await house.deliver(*(one + b" " for one in told))
    rows = await house.everything()
    assert holding(rows, [b"Sem-Contacto-91", b"351966555444", b"444555669153", b"966 555"]) == []
    assert [row["contact_id"].partition("-")[0] for row in rows["event_log"] if row["type"] == "contact.forgotten"] == [
        "number"
    ]
    assert len([row for row in rows["event_log"] if RUI.number.encode() in row["data"].encode()]) == 3
    again = await house.forgetting().run(TENANT, "351966555444")
    assert not again.counts


def replace_mark(one: Someone) -> Someone:
    """Return somebody with another name."""
    return dataclasses.replace(one, mark=f"Rita {one.contact}")


def following(house: House) -> LateForgetting:
    """Return a worker of the service for which it is always time to look."""
    hours = itertools.count()
    return LateForgetting(
        house.log, house.projection, Marker(KEY), house.forgetting(), monotonic=lambda: next(hours) * 3600.0
    )


async def test_what_turns_out_to_be_theirs_afterwards_goes_by_itself(house: House) -> None:
    """It stays erased: a late ticket, a late answer and a late author tell whose an older text is, and it is blanked
    without another `forget`, also where the process that does it is killed. What the person did since, and what is
    another's, stays.
    """
    old = at(-60)

    def message(key: str, text: str, **more: Any) -> dict[str, Any]:
        return {"id": key, "body": f"{ANA.mark} {text}", "fromMe": True, "createdAt": old, **more}

    unknown = {**message("u-1", "sem data"), "createdAt": None}
    await house.deliver(body("message.sent", message=message("b-1", "antes"), ticket={"id": "t-late"}))
    await house.forget(ANA.contact)
    house.clock += timedelta(seconds=90)
    await house.deliver(
        body("message.sent", message=message("b-2", "tarde"), ticket={"id": "t-late"}),
        body("message.sent", -60, message=unknown),
        body("message.received", message=message("g-9", "no grupo"), ticket={"id": "ticket-of-group"}),
        wrote(ANA, "m-new", "novo", seconds=60),
        body("message.received", message={**message("r-9", "x"), "body": RUI.mark}, ticket={"id": RUI.ticket}),
    )
    worker = following(house)
    assert await worker.run_once() == 0
    kept = [row["id"] for row in (await house.everything())["message"] if row["body"]]
    assert sorted(kept) == ["b-1", "b-2", "g-9", "m-new", "r-1", "r-9", "u-1"]
    late = {"id": "t-late", "status": "closed", "contactId": ANA.contact, "createdAt": old}
    new = {"id": "t-new", "status": "open", "contactId": ANA.contact, "createdAt": at(60)}
    author = {"id": "g-9", "contactId": ANA.contact, "createdAt": old}
    await house.deliver(
        body("ticket.closed", 61, ticket=late),
        body("ticket.created", 61, ticket=new),
        body("message.ack", -50, message={"id": "u-1", "ack": 3}, ticket={"id": ANA.ticket}),
        body("message.received", message=author, ticket={"id": "ticket-of-group"}),
    )
    for statements in (6, 24, 42):
        with dying(statements):
            await following(house).run_once()
    assert await worker.run_once() == 1
    rows = await house.everything()
    assert sorted(row["id"] for row in rows["message"] if row["body"]) == ["m-new", "r-1", "r-9"]
    assert {row["message_id"] for _, row in holding({"event_log": rows["event_log"]}, needles(ANA))} == {"m-new"}
    assert await worker.run_once() == 0
    (one,) = await Erasures(house.log).all()
    assert {"t-late", ANA.ticket} == one.ticket_ids
    await house.deliver(body("message.sent", -9, message=message("b-3", "mais"), ticket={"id": "t-late"}))
    assert [row["body"] for row in (await house.everything())["message"] if row["id"] == "b-3"] == [None]


async def test_a_contact_that_turns_out_to_be_theirs_by_the_number_goes_too(house: House) -> None:
    """When the number comes late, it is blanked and nothing would tell any more whose contact it is: so the door keeps
    a mark of that, and older messages that name the contact alone go by themselves. Somebody's who has the number since
    stays.
    """
    await house.forget(ANA.contact)
    house.clock += timedelta(seconds=90)
    message = {"id": "s-1", "body": f"{ANA.mark} antes", "contactId": "c-second", "createdAt": at(-60)}
    again = {**message, "id": "n-1", "body": RUI.mark, "contactId": "c-since"}
    await house.deliver(
        body("message.received", -60, message=message, ticket={"id": "ticket-of-group"}),
        body("message.received", -60, message=again, ticket={"id": "ticket-of-group"}),
    )
    worker = following(house)
    assert await worker.run_once() == 0
    second = {"id": "c-second", "name": ANA.mark, "number": f"+{ANA.number}", "updatedAt": at(-60)}
    since = {"id": "c-since", "name": RUI.mark, "number": ANA.number, "updatedAt": at(60)}
    await house.deliver(body("contact.updated", -60, contact=second), body("contact.updated", 60, contact=since))
    assert await worker.run_once() == 1
    rows = await house.everything()
    assert holding(rows, [ANA.mark.encode()]) == []
    assert {row["id"] for row in rows["message"] if row["body"]} == {"r-1", "n-1"}
    assert [row["name"] for row in rows["contact"] if row["id"] == "c-since"] == [RUI.mark]
    assert await worker.run_once() == 0


async def test_a_contact_that_the_tables_have_only_later_is_looked_for_again(house: House) -> None:
    """The door has told whose it is, and the look comes before the projection: the next look finds it."""
    await house.forget(ANA.contact)
    house.clock += timedelta(seconds=90)
    third = {"id": "c-third", "name": ANA.mark, "number": ANA.number, "updatedAt": at(-60)}
    message = {"id": "s-3", "body": f"{ANA.mark} antes", "contactId": "c-third", "createdAt": at(-60)}
    await house.take_in(body("contact.updated", -60, contact=third))
    worker = following(house)
    assert await worker.run_once() == 0
    await house.deliver(body("message.received", message=message, ticket={"id": "ticket-of-group"}))
    assert await worker.run_once() == 1
    assert await places(house) == []


async def test_who_had_their_number_by_mistake_loses_nothing(house: House) -> None:
    """Never one of somebody else: a retry, a redelivery and an observation of another contact with the number of who
    was forgotten tie it to nobody, where the contact has its own number by now.
    """

    def told(number: str, seconds: float) -> bytes:
        contact = {"id": RUI.contact, "name": RUI.mark, "number": number, "updatedAt": at(seconds)}
        return body("contact.updated", seconds, contact=contact)

    wrong = told(ANA.number, -120)
    await house.deliver(wrong, told(RUI.number, -60))
    assert (await house.forgetting().preview(TENANT, ANA.contact)).contact_ids == (ANA.contact,)
    await house.forget(ANA.contact)
    house.clock += timedelta(seconds=90)
    await house.deliver(wrong, wrong + b" ")
    await append_observation(house, Contact(id=RUI.contact, name=RUI.mark, number=ANA.number), house.clock)
    await append_observation(house, Contact(id="c-stranger", name=RUI.mark, number=ANA.number), house.clock)
    await house.apply()
    worker = following(house)
    assert [await worker.run_once() for _ in range(2)] == [0, 0]
    late = {"id": "s-1", "body": RUI.mark, "contactId": "c-stranger", "createdAt": at(-60)}
    await house.deliver(
        wrote(RUI, "r-0", "tarde", seconds=-500),
        body("message.received", message=late, ticket={"id": "ticket-of-group"}),
    )
    rows = await house.everything()
    assert sorted(row["id"] for row in rows["message"] if row["body"]) == ["r-0", "r-1", "s-1"]
    assert [(row["name"], row["number"]) for row in rows["contact"] if row["id"] == RUI.contact] == [
        (RUI.mark, RUI.number)
    ]


async def test_a_ticket_that_is_moved_to_them_afterwards_keeps_what_another_wrote(house: House) -> None:
    """Never one of somebody else: whose old ticket becomes the person's, who came back, loses nothing."""
    await house.forget(ANA.contact)
    house.clock += timedelta(seconds=90)
    old = {"id": "t-late", "status": "open", "contactId": ANA.contact, "createdAt": at(-700)}
    await house.deliver(
        wrote(RUI, "r-0", seconds=-600),
        body("ticket.updated", 80, ticket={**old, "id": RUI.ticket}),
        body("ticket.updated", 80, ticket=old),
        body("message.received", message={"id": "a-9", "body": ANA.mark, "createdAt": at(-9)}, ticket={"id": "t-late"}),
    )
    worker, before = following(house), shown("forgetting_not_followed_total", entity="ticket") or 0
    for _ in range(2):
        await worker.run_once()
    rows = await house.everything()
    assert sorted(row["id"] for row in rows["message"] if row["body"]) == ["r-0", "r-1"]
    assert shown("forgetting_not_followed_total", entity="ticket") == before + 1


async def test_marks_alone_blank_a_restored_log_and_keep_what_is_new(database_url: str, tmp_path: Path) -> None:
    """A ticket that only the lost log knew as hers goes from log and tables; what she wrote since then stays."""
    last = f"{ANA.mark} antes"
    sent = {"id": "b-1", "body": last, "fromMe": True, "createdAt": at(-60)}
    old = [
        wrote(ANA, "m-1"), wrote(RUI, "r-1"), in_group(ANA, "g-1", f"{ANA.mark} grupo", f"{ANA.mark} grupo"),
        body("message.sent", message=sent, ticket={"id": "t-late", "lastMessage": last}),
    ]  # fmt: skip
    (tmp_path / "lost").mkdir()
    async with opened(f"sqlite:///{tmp_path / 'lost' / 'log.db'}", tmp_path / "lost") as house:
        late = {"id": "t-late", "status": "open", "contactId": ANA.contact}
        await house.deliver(*old, body("ticket.updated", ticket=late))
        house.clock += timedelta(seconds=1)
        await house.forget(ANA.contact)
        marks = await SuppressionTable(house.log).all()
    async with opened(database_url, tmp_path) as house:
        await house.deliver(*old)
        before = await house.everything()
        house.clock += timedelta(seconds=60)
        await house.deliver(wrote(ANA, "m-new", "novo", seconds=50), old[0] + b" ")
        for statements in (40, 60, 80, 1000):
            with dying(statements):
                imported = ImportedMarks(house.log, house.projection, Marker(KEY), now=lambda: house.clock)
                async with imported.alone:
                    lacking = await missing(marks, house.log)
                    await imported.apply(lacking)
                    await SuppressionTable(house.log).add(lacking)
        rows = await house.everything()
        held = holding(rows, needles(ANA))
        assert {row.get("message_id") or row["id"] for _, row in held} == {"m-new", ANA.contact, ANA.ticket}
        assert {table for table, _ in held} == {"event_log", "contact", "ticket", "message", "message_revision"}
        assert [row["id"] for row in rows["message"] if row["body"]] == ["m-new", "r-1"]
        assert unlike(before, rows, RUI) == []


async def test_contacts_that_the_vendor_merged_are_one_person(house: House) -> None:
    """By the new id, the older one or either number: all of them, in both directions, as export finds them. Another's
    and a stranger's that was merged with nobody of theirs stays.
    """
    old, older, stranger = (Someone(ANA.mark, f"35190000000{n}", f"c-old-{n}", f"t-old-{n}") for n in range(3))
    await house.deliver(*(wrote(one, f"m-{one.contact}") for one in (old, older)))
    await house.deliver(wrote(replace_mark(stranger), "m-s"))
    gone = Contact(id=older.contact, gone=True, merged_into=old.contact)
    await append_observation(house, gone, house.clock)
    merged = {"id": old.contact, "mergedInto": {"id": ANA.contact}}
    await house.deliver(
        body("contact.updated", -1, contact=merged),
        body("contact.updated", -1, contact={"id": stranger.contact, "mergedInto": RUI.contact}),
    )
    house.clock += timedelta(seconds=1)
    wanted = {ANA.contact, old.contact, older.contact}
    for who in (ANA.contact, older.contact, old.number):
        exported = await People(house.log, house.projection).person(TENANT, who)
        preview = await house.forgetting().preview(TENANT, who)
        assert exported.found.contacts == set(preview.contact_ids) == wanted
    await house.forget(older.number)
    rows = await house.everything()
    assert holding(rows, [*needles(ANA), *needles(old), *needles(older)]) == []
    assert len(holding(rows, [stranger.number.encode(), stranger.contact.encode()])) > 4


async def test_what_stands_for_no_contact_merges_nobody(house: House) -> None:
    """`mergedInto` "", 0, "null" and the like, and a group, make nobody the same person: not for export, nor forget."""
    group = {"id": "c-group", "name": "Condomínio", "number": "120363041234567890@g.us", "isGroup": True}
    await house.deliver(body("contact.updated", -2, contact=group))
    for one in (ANA, RUI):
        for into in ("", 0, "0", "null", "none", group["id"]):
            await house.deliver(body("contact.updated", -1, contact={"id": one.contact, "mergedInto": into}))
    house.clock += timedelta(seconds=1)
    exported = await People(house.log, house.projection).person(TENANT, ANA.contact)
    assert exported.found.contacts == {ANA.contact}
    await house.forget(ANA.contact)
    rows = await house.everything()
    assert holding(rows, needles(ANA)) == []
    assert [row["name"] for row in rows["contact"] if row["id"] in (RUI.contact, group["id"])] == [
        group["name"],
        RUI.mark,
    ]
    assert [row["id"] for row in rows["message"] if row["body"]] == ["r-1"]


async def test_a_number_that_stands_for_unknown_makes_nobody_one_person(house: House) -> None:
    """Contacts of a channel without numbers have 0000000000, or all one number: who is forgotten by an id is one."""
    none = [Someone(f"Sem-Numero-{n}", "0000000000", f"c-none-{n}", f"t-none-{n}") for n in range(2)]
    shared = [Someone(f"Da-Central-{n}", "351212345678", f"c-all-{n}", f"t-all-{n}") for n in range(11)]
    await house.deliver(*(wrote(one, f"m-{one.contact}") for one in (*none, *shared)))
    house.clock += timedelta(seconds=1)
    with pytest.raises(ConfigError, match="more than 10 contacts"):
        await house.forgetting().preview(TENANT, shared[0].number)
    for one in (none[0], shared[0]):
        assert (await house.forgetting().preview(TENANT, one.contact)).contact_ids == (one.contact,)
        await house.forget(one.contact)
    rows = await house.everything()
    assert holding(rows, [none[0].mark.encode(), shared[0].mark.encode() + b" "]) == []
    assert {row["id"] for row in rows["message"] if row["body"]} >= {
        f"m-{one.contact}" for one in (none[1], *shared[1:])
    }


async def test_an_id_that_only_a_campaign_knows_is_somebodys(house: House) -> None:
    """Also one that is only parked: export and forget find it, and a name that stands there is nobody."""
    listed = [{"id": "c-77", "name": ANA.mark}, {"id": "c-78", "name": RUI.mark}]
    parked = body("x.y", contact={"id": "c-79", "name": ANA.mark})
    await house.deliver(body("campaign.finished", campaign={"id": 15, "name": "V", "contacts": listed}), parked)
    await house.forget(ANA.contact)
    house.clock += timedelta(seconds=1)
    for who in (ANA.mark, RUI.mark):
        with pytest.raises(NotFoundError):
            await house.forgetting().run(TENANT, who)
    for who in ("c-77", "c-79"):
        assert (await People(house.log, house.projection).person(TENANT, who)).found.contacts == {who}
        await house.forget(who)
    rows = await house.everything()
    assert holding(rows, needles(ANA)) == []
    assert len(holding({"event_log": rows["event_log"]}, [b"c-78"])) == 1


async def test_what_forget_counts_is_what_export_hands_out(house: House) -> None:
    """Whatever the dry run would touch is in the folder, table by table; so who asks sees what would be forgotten."""
    await filled(house)
    await backfilled(house, ANA)
    await house.deliver(*hiding(ANA.number))
    mistyped = replace(house.signed(wrote(ANA, "m-w")), tenant="mistyped")
    await house.receive([mistyped])
    house.clock += timedelta(seconds=1)
    preview = (await house.forgetting().preview(TENANT, ANA.contact)).counts
    people = People(house.log, house.projection)
    person = await people.person(TENANT, ANA.contact)
    found: Counter[str] = Counter()
    places: dict[str, set[Any]] = defaultdict(set)
    async for name, rows in sections(people, person, await EventLog(house.log).end()):
        found[name] += len(rows)
        found["revisions"] += sum(len(msgspec.to_builtins(row.get("revisions", ()))) for row in rows)
        places[name] |= {row.get("position") or row.get("id") for row in rows}
    assert {table for table in preview if found[SECTION_OF[table]] < preview[table]} == set()
    assert set(preview) == set(SECTION_OF) - {"parked_event"}
    await house.forget(ANA.contact)
    blanked = {row["position"] for row in (await house.everything())["event_log"] if row["raw"] is None}
    assert blanked <= places["events"]


async def test_what_came_while_the_tenants_id_was_wrong_goes_too(house: House) -> None:
    """A delivery that is parked as another tenant's loses its bytes, before and late; nobody else's does."""
    mistyped = [replace(house.signed(wrote(one, f"{one.contact}-w")), tenant="mistyped") for one in (ANA, RUI)]
    late = replace(house.signed(wrote(ANA, "m-late")), tenant="mistyped")
    assert [one.reason for one in await house.receive(mistyped)] == ["other_tenant"] * 2
    house.clock += timedelta(seconds=1)
    await house.forget(ANA.contact)
    await house.receive([late])
    assert await places(house) == []
    rows = (await house.everything())["parked_delivery"]
    assert sum(bool(row["raw"]) for row in rows) == 1
