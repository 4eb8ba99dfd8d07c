"""Which messages name their author in an unknown field alone, as in groups: the log alone tells it."""

from typing import Final

from sqlalchemy import func, or_, select

from whatsms_events.domain.events import EventType, MessagePayload, decode_as
from whatsms_events.domain.marks import Find
from whatsms_events.domain.suppression import authored_at
from whatsms_events.errors import InvalidEventError
from whatsms_events.storage.database import Database
from whatsms_events.storage.tables import event_log

PIECE: Final = 20_000
"""Positions of the log in one question; of most rows the database looks at the data and returns nothing."""

SPELLINGS: Final = ('"participant', '"author')


async def authored(database: Database, tenant: str, until: int, find: Find) -> set[str]:
    """Return the ids of the messages, up to a position, of whose author an unknown field tells that `find` knows them.

    Raise StorageUnavailableError.
    """
    table, found = event_log.c, set[str]()
    place = func.strpos if database.dialect == "postgresql" else func.instr
    told = or_(*(place(table.data, one) > 0 for one in SPELLINGS))
    for after in range(0, until, PIECE):
        query = select(table.type, table.data).where(
            table.position > after, table.position <= min(after + PIECE, until)
        )
        async with database.read() as connection:
            for kind, data in await connection.execute(query.where(table.tenant == tenant, told)):
                found |= _ids(kind, data, find)
    return found


def _ids(kind: str, data: str, find: Find) -> set[str]:
    try:
        payload = decode_as(EventType(kind), data)
    except InvalidEventError:  # nobody can read it
        return set()
    if not isinstance(payload, MessagePayload) or not isinstance(payload.message.id, str):
        return set()
    return set() if authored_at(payload, find) is None else {payload.message.id}
