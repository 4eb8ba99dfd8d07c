"""Whose messages and tickets the log alone tells: by an unknown field, or by a contact that has no id of its own."""

from typing import Final

from sqlalchemy import and_, func, null, or_, select

from whatsms_events.domain.authors import SPELLINGS
from whatsms_events.domain.events import EventType, MessagePayload, TicketPayload, decode
from whatsms_events.domain.marks import NO_IDS, Find, is_no_id
from whatsms_events.domain.suppression import is_theirs
from whatsms_events.errors import InvalidEventError
from whatsms_events.storage.database import Database
from whatsms_events.storage.log.erasure import LogRow, log_row
from whatsms_events.storage.tables import event_log

PIECE: Final = 20_000
"""Positions of the log in one question; of most rows the database looks at the data and returns nothing."""

_SHOWN: Final = tuple(
    one.value for one in EventType if one.startswith(("message.", "ticket.")) and one is not EventType.MESSAGE_ACK
)
"""An ack shows no message: whoever it names has read one."""


async def authored(database: Database, tenant: str, until: int, find: Find) -> tuple[set[str], set[str]]:
    """Return the ids of tickets and of messages, up to a position, that the log shows to be of whom `find` knows.

    Only those of which the tables cannot know it are looked for. Raise StorageUnavailableError.
    """
    table, tickets, messages = event_log.c, set[str](), set[str]()
    place = func.strpos if database.dialect == "postgresql" else func.instr
    nobodys = or_(table.contact_id.is_(None), func.lower(table.contact_id).in_(NO_IDS))
    unknown = place(table.data, '"extra"') > 0  # first, as most events have none
    told = or_(nobodys, and_(unknown, or_(*(place(func.lower(table.data), one) > 0 for one in SPELLINGS))))
    columns = [null().label("raw"), *(one for one in table if one.name != "raw")]
    for after in range(0, until, PIECE):
        query = select(*columns).where(table.position > after, table.position <= min(after + PIECE, until))
        query = query.where(table.tenant == tenant, table.type.in_(_SHOWN), told)
        async with database.read() as connection:
            for row in (await connection.execute(query)).mappings():
                one = log_row(row)
                if (subject := one.event.subject) is not None and not is_no_id(subject) and _is_theirs(one, find):
                    (tickets if one.event.message_id is None else messages).add(subject)
    return tickets, messages


def _is_theirs(row: LogRow, find: Find) -> bool:
    try:
        payload = decode(row.event)
    except InvalidEventError:  # nobody can read it
        return False
    return isinstance(payload, MessagePayload | TicketPayload) and is_theirs(row.event, payload, find)
