"""Count the entities in which the projection differs from the twin's account.

This is a plain comparison, column by column. It does not use `domain/drift`, because it checks the work of that module.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import UNSET

from whatsms_events.domain import values
from whatsms_events.domain.events import Entity
from whatsms_events.domain.resources import RESOURCES
from whatsms_events.storage import audit
from whatsms_events.storage.database import Database
from whatsms_events.twin.account import Account
from whatsms_events.twin.entities import Campaign, Contact, Id, Message, Ticket

Columns = Mapping[str, Any]
"""What a row has to hold, by column; an `ack` of 0 says nothing."""


async def differing(account: Account, projection: Database) -> Counter[Entity]:
    """Count by entity what the projection lacks, shows with another value, or still has though the vendor has not.

    Only messages in tickets are compared: messages of campaigns are in no list of the REST API.
    """
    wanted: Mapping[Entity, dict[str, Columns]] = {
        "contact": {str(one.id): _values("contact", one) for one in account.contacts.values()},
        "ticket": {str(one.id): _ticket(one) for one in account.tickets.values()},
        "campaign": {str(one.id): _values("campaign", one) for one in account.campaigns.values()},
        "message": {str(one.id): _message(one) for one in account.messages.values() if one.ticket is not None},
    }
    found: Counter[Entity] = Counter()
    for entity, unseen in wanted.items():
        async for row in audit.rows(projection, entity, account.tenant_id):
            columns = unseen.pop(row["id"], None)
            if columns is None:
                found[entity] += entity != "message" and not row["gone"]
            else:
                found[entity] += not row["known"] or bool(row["gone"]) or _differ(row, columns)
        found[entity] += len(unseen)
    return found


def _differ(row: Mapping[Any, Any], columns: Columns) -> bool:
    return any(_differs(name, row[name], value) for name, value in columns.items())


def _differs(name: str, held: Any, wanted: Any) -> bool:
    """Compare one column; null, empty, false and nought are the same."""
    match name:
        case "ack":
            return bool(wanted > 0 and held != wanted)
        case "extra_info":
            return bool((msgspec.json.decode(held) if held else []) != wanted)
        case _:
            return bool((held or None) != (wanted or None))


_UNSHOWN: Final[Mapping[Entity, frozenset[str]]] = {"campaign": frozenset({"message"})}
"""What the account has and the REST API never shows."""


def _values(entity: Entity, one: Contact | Ticket | Campaign | Message) -> Columns:
    """Return the columns of the fields that are one value on both sides, under the same name in the account."""
    columns = {}
    for field in RESOURCES[entity]:
        if field.compared in ("value", "pairs") and field.name not in _UNSHOWN.get(entity, ()):
            value = getattr(one, field.name, UNSET)
            if value is not UNSET:
                columns[field.name] = _text(value) if field.read is values.identifier else value
    return columns


def _ticket(one: Ticket) -> Columns:
    columns = {
        **_values("ticket", one),
        "contact_id": str(one.contact.id),
        "user_id": one.user and str(one.user.id),
        "queue_id": one.queue and str(one.queue.id),
    }
    # The vendor shows no AI agent where none is set, so nobody can tell that there is none any more.
    return {name: value for name, value in columns.items() if (name, value) != ("ai_agent_id", None)}


def _message(one: Message) -> Columns:
    assert one.ticket is not None  # noqa: S101 - asked before
    return {
        **_values("message", one),
        "ticket_id": str(one.ticket.id),
        "quoted_message_id": _text(one.quoted),
        # What a contact wrote has an ack without a dependable meaning.
        "ack": one.ack if one.from_me else 0,
    }


def _text(one: Id | None) -> str | None:
    return None if one is None else str(one)
