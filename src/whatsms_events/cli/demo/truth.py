"""Count the entities in which the projection differs from the twin's account.

This is a plain comparison, column by column. It does not use `domain/drift`, because it checks the work of that module.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec

from whatsms_events.domain.events import Entity
from whatsms_events.storage import audit
from whatsms_events.storage.database import Database
from whatsms_events.twin.account import Account
from whatsms_events.twin.entities import Campaign, Contact, Id, Message, Ticket

Columns = Mapping[str, Any]
"""What a row has to hold, by column; an `ack` of 0 says nothing."""


async def differing(account: Account, projection: Database) -> Counter[Entity]:
    """Count by entity what the projection lacks, shows with another value, or still has though the vendor has not.

    Of messages those in tickets: those of campaigns stand in no list of the REST API.
    """
    wanted: Mapping[Entity, dict[str, Columns]] = {
        "contact": {str(one.id): _contact(one) for one in account.contacts.values()},
        "ticket": {str(one.id): _ticket(one) for one in account.tickets.values()},
        "campaign": {str(one.id): _campaign(one) for one in account.campaigns.values()},
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


def _contact(one: Contact) -> Columns:
    return {
        "name": one.name,
        "number": one.number,
        "email": one.email,
        "is_group": one.is_group,
        "extra_info": one.extra_info,
    }


def _ticket(one: Ticket) -> Columns:
    columns = {
        "status": one.status,
        "channel": one.channel,
        "contact_id": str(one.contact.id),
        "user_id": one.user and str(one.user.id),
        "queue_id": one.queue and str(one.queue.id),
    }
    # The vendor shows none where none is set, so nobody can tell that there is none any more.
    return columns if one.ai_agent_id is None else columns | {"ai_agent_id": str(one.ai_agent_id)}


def _campaign(one: Campaign) -> Columns:
    return {
        "name": one.name,
        "status": one.status,
        "sent_count": one.sent_count,
        "failed_count": one.failed_count,
    }


def _message(one: Message) -> Columns:
    assert one.ticket is not None  # noqa: S101 - asked before
    return {
        "ticket_id": str(one.ticket.id),
        "body": one.body,
        "from_me": one.from_me,
        "media_type": one.media_type,
        "deleted": one.deleted,
        "quoted_message_id": _text(one.quoted),
        # What a contact wrote has an ack without a dependable meaning.
        "ack": one.ack if one.from_me else 0,
    }


def _text(one: Id | None) -> str | None:
    return None if one is None else str(one)
