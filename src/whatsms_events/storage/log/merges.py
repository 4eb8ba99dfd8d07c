"""Which contacts the vendor merged into which: the log alone tells it, in what a backfill saw and in unknown fields."""

from collections.abc import Collection, Iterable
from typing import Final

from sqlalchemy import func, or_, select

from whatsms_events.domain.named import delivered, merges_in
from whatsms_events.storage.database import Database
from whatsms_events.storage.tables import event_log

PIECE: Final = 20_000
"""Positions of the log in one question; of most rows the database looks at the data and returns nothing."""

SPELLINGS: Final = ("merged_into", "ergedInto")

MERGED_LIMIT: Final = 10
"""Contacts that are one by merges. More would be no person, but a contact that stands for "deleted"."""


async def merges(database: Database, tenant: str, until: int) -> list[tuple[str, str]]:
    """Return the pairs of contacts that the log shows up to a position. Raise StorageUnavailableError."""
    table, found = event_log.c, dict[tuple[str, str], None]()
    place = func.strpos if database.dialect == "postgresql" else func.instr
    told = or_(*(place(table.data, one) > 0 for one in SPELLINGS))
    for after in range(0, until, PIECE):
        query = select(table.data).where(table.position > after, table.position <= min(after + PIECE, until))
        async with database.read() as connection:
            for data in (await connection.execute(query.where(table.tenant == tenant, told))).scalars():
                found |= dict.fromkeys(merges_in(delivered(data.encode())))
    return [*found]


def merged_with(contacts: Collection[str], pairs: Iterable[tuple[str, str]]) -> set[str]:
    """Return these contacts and all that were merged with them, in both directions; of too many these alone."""
    beside: dict[str, set[str]] = {}
    for one, other in pairs:
        beside.setdefault(one, set()).add(other)
        beside.setdefault(other, set()).add(one)
    found, waiting = set(contacts), [*contacts]
    while waiting:
        new = beside.get(waiting.pop(), set()) - found
        found |= new
        waiting += new
        if len(found) > len(contacts) + MERGED_LIMIT:
            return set(contacts)
    return found
