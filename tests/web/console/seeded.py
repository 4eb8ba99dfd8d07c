"""Conversations as the fold leaves them, with everything that a page has to draw, and some that want to harm it."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Table, insert

from whatsms_events.domain.events import to_micros
from whatsms_events.domain.search import searched
from whatsms_events.storage import tables
from whatsms_events.storage.database import Database

AT = datetime(2026, 11, 29, 12, tzinfo=UTC)

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;\u202etxt.exe"
"""Markup, quotes, an entity, and a mark that turns what follows around."""

SCRIPT = "javascript:alert(document.cookie)"


def ago(**time: float) -> int:
    """Return a time before AT, as it is stored."""
    return to_micros(AT - timedelta(**time))


async def put(database: Database, table: Table, *rows: Mapping[str, Any]) -> None:
    """Insert rows of an entity; what is not given is null, known and free of doubt."""
    blank: dict[str, Any] = dict.fromkeys((column.name for column in table.c if column.nullable), None)
    blank |= {"tenant": "tenant-1"} | ({"versions": "{}"} if "versions" in table.c else {})
    blank |= {"known": True, "doubtful": False} if "known" in table.c else {}
    async with database.write() as connection:
        await connection.execute(insert(table), [blank | dict(row) for row in rows])


def contact(contact_id: str, name: str | None, number: str | None, **more: Any) -> dict[str, Any]:
    """Return the row of a contact, with what it is found by."""
    found = zip(tables.FOUND_BY, searched({"name": name, "number": number}), strict=True)
    return {"id": contact_id, "name": name, "number": number, **dict(found), **more}


def sent(message_id: str, ticket_id: str, at: int, body: str | None, *levels: int, **more: Any) -> dict[str, Any]:
    """Return the row of a message of ours; `levels` are the seconds after which it was sent, delivered, read."""
    times = {f"{name}_at": at + after * 1_000_000 for name, after in zip(("sent", "delivered", "read"), levels)}  # noqa: B905
    return {
        "id": message_id, "ticket_id": ticket_id, "from_me": True, "created_at": at, "body": body,
        "ack": 1 + len(levels), **times, **more,
    }  # fmt: skip


def heard(message_id: str, ticket_id: str, at: int | None, body: str | None, **more: Any) -> dict[str, Any]:
    """Return the row of a message that a contact wrote."""
    return {"id": message_id, "ticket_id": ticket_id, "from_me": False, "created_at": at, "body": body, **more}


def event(position: int, **given: Any) -> dict[str, Any]:
    """Return one row of the log."""
    return {
        "position": position, "id": UUID(int=position),
        "type": "message.received", "tenant": "tenant-1", "received_at": ago(hours=2), "origin": "webhook",
        "sha256": bytes(31) + bytes([position]), "data": "{}", "raw": b"{}", "signed_by": "current",
    } | given  # fmt: skip


async def fill(log: Database, projection: Database) -> None:
    """Leave two people with a conversation each, one that wants to harm the page, and the events about a message."""
    half_past = ago(hours=1, minutes=30)
    doubt = '{"status":[1,1,7,true],"body":[1,1,3,true]}'
    await put(
        projection,
        tables.contact,
        contact("p1", "João da Silva", "+55 11 98765-4321"),
        contact("p2", EVIL, EVIL, email=SCRIPT, profile_pic_url=SCRIPT),
        contact("p3", "Family", "120363@g.us", is_group=True),
    )
    await put(
        projection,
        tables.ticket,
        {"id": "k1", "status": "open", "channel": "whatsapp", "contact_id": "p1", "user_id": "u1", "user_name": "Ana"}
        | {"queue_id": "q1", "queue_name": "Sales", "created_at": ago(days=3), "updated_at": half_past}
        | {"last_message": "Obrigado, até amanhã!", "versions": doubt},
        {"id": EVIL, "status": EVIL, "channel": EVIL, "contact_id": "p2", "user_id": EVIL, "user_name": EVIL}
        | {"queue_id": EVIL, "queue_name": EVIL, "created_at": ago(days=40), "last_message": EVIL},
        {"id": "k3", "status": "closed", "contact_id": "p1", "created_at": ago(days=9), "updated_at": ago(days=8)},
    )
    await put(
        projection,
        tables.message,
        heard("m1", "k1", ago(days=1, hours=2), "Olá! A encomenda chega hoje?"),
        sent("m2", "k1", half_past, "Sim, às 15:00.", 2, 5, 64, quoted_message_id="m1"),
        sent("m3", "k1", half_past + 60_000_000, "Aqui está a fatura", 2, 4, media_type="document")
        | {"media_url": "https://files.example/fatura.pdf?sig=1"},
        sent("m4", "k1", ago(days=2), "Consegue ver esta?", 1),
        sent("m5", "k1", ago(minutes=50), "Não saiu", failed_at=ago(minutes=49)),
        heard("m6", "k1", ago(minutes=40), "apagada", deleted=True),
        heard("m7", "k1", ago(minutes=30), "Obrigado!", quoted_message_id="never-seen", versions=doubt, doubtful=True),
        heard("m8", "k1", None, None, known=False),
        heard(EVIL, EVIL, ago(hours=1), EVIL * 2000, media_type=EVIL, media_url=SCRIPT, quoted_message_id=EVIL),
    )
    await put(
        projection,
        tables.message_revision,
        *(
            {"message_id": key, "digest": digest, "content": content, "first_at": at, "media_url": SCRIPT}
            for key, digest, content, at in (
                ("m2", "a", '{"body":"Sim, às 14:00."}', half_past),
                ("m2", "b", '{"body":"Sim, às 15:00."}', half_past + 9_000_000),
                (EVIL, "a", '{"body":"<b>was</b>","media_type":"<i>"}', half_past),
            )
        ),
    )
    await put(
        log,
        tables.event_log,
        event(3, subject="m2", message_id="m2", ticket_id="k1", contact_id="p1", type="message.sent")
        | {"occurred_at": half_past, "data": '{"message":{"id":"m2","body":"x","ticket_id":"k1"}}'},
        event(4, subject="m2", message_id="m2", type="message.ack", data='{"message":{"id":"m2","ack":4}}'),
        event(7, subject="k1", ticket_id="k1", type="ticket.updated", occurred_at=half_past)
        | {"data": '{"ticket":{"id":"k1","status":"open"}}'},
    )
    parked = {"tenant": "tenant-1", "reason": "json", "detail": EVIL, "received_at": ago(hours=3), "sha256": bytes(32)}
    await put(
        log, tables.parked_delivery, parked | {"id": UUID(int=99), "raw": b"{", "count": 2, "signed_by": "current"}
    )
