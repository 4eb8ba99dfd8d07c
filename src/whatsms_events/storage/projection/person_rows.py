"""Which contacts, tickets and messages in the tables are one person's: the one finder, for export and for erasure.

All contacts with one number are one person. Theirs are these contacts' tickets with all messages in them, and what they
wrote elsewhere, which is in groups.
"""

from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec
from sqlalchemy import ColumnElement, Row, exists, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from whatsms_events.domain.marks import ABROAD, is_no_id, number_name
from whatsms_events.domain.rows import Version
from whatsms_events.storage.database import CHUNK, Database, among
from whatsms_events.storage.tables import contact, message, ticket

CONTACTS_LIMIT: Final = 10
"""Contacts with one number. More would be no person, but a number that stands for "unknown"."""

LOOKED_AT: Final = 101
"""Contacts with a number that begins so that are looked at; of most of them it is this very number."""

NUMBER_LIMIT: Final = 17
"""Digits of a number at most, with 00 in front: what has more is the id of a group."""

MESSAGES_PIECE: Final = 5000
"""Messages of the tenant that one question looks at: no index leads to those that somebody wrote in groups."""

_T = TypeVar("_T")

_versions = msgspec.json.Decoder(dict[str, Version])


@dataclass(frozen=True, slots=True)
class FoundContacts:
    """The contacts of one person, by id, and what their numbers are called by `number_name`.

    `crowded` are numbers that more than CONTACTS_LIMIT contacts have: a switchboard's, or one that stands for
    "unknown". Nobody is found by them. `by_id`: what was asked for is the id of a contact. `of_none` are contacts with
    a number of theirs and no id of their own: see `is_no_id`.
    """

    rows: Sequence[Row[Any]]
    numbers: frozenset[str]
    crowded: frozenset[str]
    by_id: bool
    of_none: frozenset[str]


async def contacts_of(
    connection: AsyncConnection, tenant: str, who: str, contact_ids: Collection[str] = ()
) -> FoundContacts:
    """Return the contacts of these ids, or those of this number, and all others with a number of theirs."""
    table = contact.c
    columns = (table.id, table.number, table.email, table.profile_pic_url, table.is_group)
    query = select(*columns).where(table.tenant == tenant)
    found: dict[str, Row[Any]] = {}
    for some in chunks(sorted(one for one in {who, *contact_ids} if not is_no_id(one))):
        found |= {row.id: row for row in await connection.execute(query.where(among(connection, table.id, some)))}
    by_id = who in found
    told = {row.number for row in found.values() if row.number} | (set() if by_id else {who})
    names = {name for one in told if (name := number_name(one)) is not None}
    crowded: set[str] = set()
    for name in sorted(names):
        # Along the index; the whole number is compared here. The shortest come first, and so those that are the same.
        same: dict[str, Row[Any]] = {}
        for begins in (name, ABROAD + name):
            like = query.where(table.digits.like(f"{begins}%")).order_by(table.digits).limit(LOOKED_AT)
            same |= {row.id: row for row in await connection.execute(like) if number_name(row.number) == name}
        if len(same) > CONTACTS_LIMIT:
            crowded.add(name)
        else:
            found |= same
    of_none = frozenset(filter(is_no_id, found))
    rows = [found[one] for one in sorted(found.keys() - of_none)]
    return FoundContacts(rows, frozenset(names - crowded), frozenset(crowded), by_id, of_none)


async def tickets_of(connection: AsyncConnection, tenant: str, contacts: Collection[str]) -> frozenset[str]:
    """Return the ids of the tickets of these contacts.

    Where only somebody's contact beside a message told whose a ticket is, it may be a group's, of which no event told:
    then it is not theirs if somebody else wrote in it.
    """
    found: set[str] = set()
    guessed: set[str] = set()
    for some in chunks(sorted(contacts)):
        query = select(ticket.c.id, ticket.c.versions)
        for row in await connection.execute(query.where(*_mine(connection, tenant, ticket.c.contact_id, some))):
            found |= set() if is_no_id(row.id) else {row.id}
            told = _versions.decode(row.versions).get("contact_id")
            guessed |= {row.id} if told is not None and told.time < 0 else set()
    table = message.c
    others = table.contact_id.not_in(sorted(contacts)), table.from_me.is_not(True)
    for some in chunks(sorted(guessed)):
        query = select(table.ticket_id).where(*_mine(connection, tenant, table.ticket_id, some), *others)
        found -= set((await connection.execute(query.distinct())).scalars())
    return frozenset(found)


def _mine(
    connection: AsyncConnection, tenant: str, column: ColumnElement[Any], some: Sequence[str]
) -> tuple[ColumnElement[bool], ...]:
    return column.table.c.tenant == tenant, among(connection, column, some)


def written_by(contacts: Sequence[str]) -> ColumnElement[bool]:
    """Return what holds of a message that these wrote, or that was written to them.

    What the business wrote in a group is no member's: one that is named with it has read it.
    """
    table, number = message.c, contact.c.number
    # As `is_number_of_group`, but for the time behind its maker's number: that has more digits than a number too.
    unsaid = or_(number.like("%@g.us"), number.like("-%"), func.length(contact.c.digits) > NUMBER_LIMIT)
    group = exists().where(
        ticket.c.tenant == table.tenant, ticket.c.id == table.ticket_id, contact.c.tenant == table.tenant,
        contact.c.id == ticket.c.contact_id, or_(contact.c.is_group.is_(True), unsaid),
    )  # fmt: skip
    return table.contact_id.in_(contacts) & or_(table.from_me.is_not(True), ~group)


async def messages_of(
    database: Database,
    tenant: str,
    contacts: Collection[str],
    tickets: Collection[str],
    columns: Sequence[ColumnElement[Any]] = (),
    *,
    ids: Collection[str] = (),
    piece: int = MESSAGES_PIECE,
) -> AsyncIterator[list[Row[Any]]]:
    """Yield pages of messages, with `id`, `ticket_id` and these columns: in the tickets, and then what was elsewhere.

    Last come those of these ids; one may come twice.

    Raise StorageUnavailableError.
    """
    table = message.c
    query = select(table.id, table.ticket_id, *columns).where(table.tenant == tenant).order_by(table.id)
    for one in sorted(tickets):
        after = ""
        while rows := await _rows(database, query.where(table.ticket_id == one, table.id > after).limit(CHUNK)):
            yield rows
            after = rows[-1].id
    async for after, last in piece_ends(database, tenant, piece):
        theirs = query.where(table.id > after, table.id <= last, written_by(sorted(contacts)))
        yield [row for row in await _rows(database, theirs) if row.ticket_id not in tickets]
    for some in chunks(sorted(ids)):
        yield await _rows(database, query.where(table.id.in_(some)))


async def piece_ends(database: Database, tenant: str, piece: int = MESSAGES_PIECE) -> AsyncIterator[tuple[str, str]]:
    """Yield, of each piece of the tenant's messages by their ids, behind which id it begins, and its last one."""
    table, after = message.c, ""
    while True:
        ids = select(table.id).where(table.tenant == tenant, table.id > after).order_by(table.id).limit(piece)
        ((last,),) = await _rows(database, select(func.max(ids.subquery().c.id)))
        if last is None:
            return
        yield after, str(last)
        after = str(last)


async def _rows(database: Database, query: Any) -> list[Row[Any]]:
    async with database.read() as connection:
        return list(await connection.execute(query))


def chunks(values: Sequence[_T], size: int = CHUNK) -> Iterator[Sequence[_T]]:
    """Yield the values in order, so many at a time at most."""
    return (values[start : start + size] for start in range(0, len(values), size))
