"""A person is forgotten where somebody else was forgotten before, and where the tables do not know what is theirs."""

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from sqlalchemy import insert

from whatsms_events.backfill.shown import listed
from whatsms_events.domain.events import SHAPES, Entity
from whatsms_events.errors import TransientError
from whatsms_events.storage import tables
from whatsms_events.storage.log.committer import Committer
from whatsms_events.storage.log.erasure import Erasures
from whatsms_events.storage.log.suppression import HeldSuppressions
from whatsms_events.workers.late_ties import LateForgetting
from workers.test_forgetting import ANA, KEY, RUI, TENANT, House, at, body, holding, needles, opened, wrote

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


def following(house: House) -> LateForgetting:
    """Return a worker of the service for which it is always time to look."""
    hours = itertools.count()
    return LateForgetting(house.log, house.projection, house.forgetting(), monotonic=lambda: next(hours) * 3600.0)


async def test_what_turns_out_to_be_theirs_afterwards_goes_by_itself(house: House) -> None:
    """It stays erased: a late ticket, a late answer and a late author tell whose an older text is, and it is blanked
    without another `forget`. What the person did since, and what is another's, stays.
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
    assert await worker.run_once() == 1
    rows = await house.everything()
    assert sorted(row["id"] for row in rows["message"] if row["body"]) == ["m-new", "r-1", "r-9"]
    assert {row["message_id"] for _, row in holding({"event_log": rows["event_log"]}, needles(ANA))} == {"m-new"}
    assert await worker.run_once() == 0
    (one,) = await Erasures(house.log).all()
    assert {"t-late", ANA.ticket} == one.ticket_ids
    await house.deliver(body("message.sent", -9, message=message("b-3", "mais"), ticket={"id": "t-late"}))
    assert [row["body"] for row in (await house.everything())["message"] if row["id"] == "b-3"] == [None]


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
