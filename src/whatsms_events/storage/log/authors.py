"""Whose messages and tickets the log alone tells: by an unknown field, or by a contact that has no id of its own."""

from typing import Final, NamedTuple

from sqlalchemy import and_, func, null, or_, select

from whatsms_events.domain.authors import SPELLINGS
from whatsms_events.domain.events import EventType, decode
from whatsms_events.domain.marks import NO_IDS, Find, is_no_id
from whatsms_events.domain.ownership import Ties, ties_of
from whatsms_events.errors import InvalidEventError
from whatsms_events.storage.database import Database
from whatsms_events.storage.log.erasure import LogRow, log_row
from whatsms_events.storage.tables import event_log

PIECE: Final = 20_000
"""Positions of the log in one question; of most rows the database looks at the data and returns nothing."""

_SHOWN: Final = tuple(one.value for one in EventType if one.startswith(("message.", "ticket.")))


class Authored(NamedTuple):
    """Ids of tickets and messages. A ticket is `guessed` where only the contact beside a message told whose it is."""

    tickets: set[str]
    guessed: set[str]
    messages: set[str]


async def authored(database: Database, tenant: str, until: int, find: Find) -> Authored:
    """Return what the log shows, up to a position, to be of whom `find` knows.

    Only what the tables cannot know is looked for. Raise StorageUnavailableError.
    """
    table, found = event_log.c, Authored(set(), set(), set())
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
                for ids, one in zip(found, _ties(log_row(row), find), strict=True):
                    ids.update(() if one is None or is_no_id(one) else (one,))
    return found


def _ties(row: LogRow, find: Find) -> Ties:
    try:
        return ties_of(row.event, decode(row.event), find)
    except InvalidEventError:  # nobody can read it
        return Ties()
