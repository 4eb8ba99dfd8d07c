"""What a replay takes of the log: the condition for it, and how much of it there is."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, case, func, select, true

from whatsms_events.domain.events import from_micros, to_micros
from whatsms_events.domain.replay import Selection
from whatsms_events.storage.database import Database
from whatsms_events.storage.tables import event_log


@dataclass(frozen=True, slots=True)
class TypeSpan:
    """Of one type: how many events a selection has, from when to when they were received, and where they stand."""

    type: str
    count: int
    since: datetime
    until: datetime
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Blanked:
    """Of how many events of a selection retention has left nothing, and the position of the first one."""

    count: int
    first: int | None


def matches(selection: Selection) -> ColumnElement[bool]:
    """Return the condition for what a selection takes, but for its last position, which bounds a reading itself."""
    table = event_log.c
    found: ColumnElement[bool] = true()
    if selection.first > 1:
        found &= table.position >= selection.first
    if selection.since is not None:
        found &= table.received_at >= to_micros(selection.since)
    if selection.until is not None:
        found &= table.received_at < to_micros(selection.until)
    if selection.tenant is not None:
        found &= table.tenant == selection.tenant
    if selection.type is not None:
        found &= table.type == selection.type.value
    return found


def _all_of(selection: Selection) -> ColumnElement[bool]:
    found = matches(selection)
    return found if selection.last is None else found & (event_log.c.position <= selection.last)


class Selected:
    """What there is of a selection. The verbs read the whole log once; StorageUnavailableError where it is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def spans(self, selection: Selection) -> list[TypeSpan]:
        """Return the types of a selection with their counts, in the order of their names."""
        table = event_log.c
        received, at = table.received_at, table.position
        figures = func.count(), func.min(received), func.max(received), func.min(at), func.max(at)
        query = select(table.type, *figures).where(_all_of(selection)).group_by(table.type).order_by(table.type)
        async with self._database.read() as connection:
            return [
                TypeSpan(name, count, from_micros(since), from_micros(until), first, last)
                for name, count, since, until, first, last in await connection.execute(query)
            ]

    async def blanked(self, selection: Selection) -> Blanked:
        """Return what retention took of a selection: bytes and data are gone, so it cannot be read again."""
        gone = case((event_log.c.raw.is_(None) & event_log.c.data.is_(None), event_log.c.position))
        query = select(func.count(gone), func.min(gone)).where(_all_of(selection))
        async with self._database.read() as connection:
            count, first = (await connection.execute(query)).one()
        return Blanked(int(count), first)
