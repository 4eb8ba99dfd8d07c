"""What the page of conversations asks of the projection: who is meant, which tickets wait, and what was said in one.

Everything is bounded: the rows of an answer, the rows that are counted, and the characters of a text. A question that
would read more says so in its answer (`complete`), and never takes longer for it.
"""

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, Select, Table, and_, bindparam, case, func, literal, null, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from whatsms_events.domain import fold
from whatsms_events.domain.events import from_micros, to_micros
from whatsms_events.domain.search import asked
from whatsms_events.storage import tables
from whatsms_events.storage.database import among
from whatsms_events.storage.reads import Queries, RowView, shown_row

FOUND_LIMIT: Final = 50
"""Contacts of one answer: more are found by typing more."""

TICKETS_PER_CONTACT: Final = 10

TALK_LIMIT: Final = 50
"""Messages of one page of a conversation."""

TEXT_CHARS: Final = 4000
"""So much of a message's text is shown; the rest is there, in the read API."""

UNTIMED_LIMIT: Final = 100

REVISIONS_LIMIT: Final = 200
"""Revisions of all messages of a page together."""

STATUS_LIMIT: Final = 20
"""Statuses are an open set: a vendor that puts a sentence there must not make a table of a thousand rows."""

COUNTED: Final = 1000
"""So many tickets of one status and age are counted; then it says "1000 or more"."""

AGES: Final[tuple[tuple[str, timedelta | None], ...]] = (
    ("under an hour", timedelta(hours=1)),
    ("1 hour to a day", timedelta(days=1)),
    ("1 to 7 days", timedelta(days=7)),
    ("7 to 30 days", timedelta(days=30)),
    ("over 30 days", None),
)
"""The ages of tickets that are counted, by their creation: name, and the age below which it holds."""

_END: Final = "\U0010ffff"
"""Sorts behind every character, so the texts that begin with P are those from P up to P and this."""

_contents = msgspec.json.Decoder(dict[str, Any])


@dataclass(frozen=True, slots=True)
class Found:
    """A contact, and its last tickets; or tickets of which no contact is known. `matched` says what was found by."""

    matched: str
    contact: RowView | None
    tickets: list[RowView]
    tickets_complete: bool


@dataclass(frozen=True, slots=True)
class FoundPage:
    """What a text may mean; not `complete` where there are more than the limit."""

    found: list[Found]
    complete: bool


def found_ids(page: FoundPage) -> list[object]:
    """Return the ids of the contacts that were found, and of the tickets of which no contact is known."""
    return [row["id"] for one in page.found for row in ([one.contact] if one.contact else one.tickets)]


@dataclass(frozen=True, slots=True)
class StatusAges:
    """How many tickets of a status there are by age, in the order of AGES and then those without a time.

    Each count ends at COUNTED.
    """

    status: str | None
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Talk:
    """One page of a conversation, oldest first. `older` is the key to go on before, None at the beginning.

    Each message has `body` cut to TEXT_CHARS, `body_chars` (all of it), `revisions` as the read API shows them (those
    that are too long without their text), and `quoted`: the message that it answers, cut, where it is held. `untimed`
    counts the messages of the ticket whose creation time nobody told, up to UNTIMED_LIMIT.
    """

    messages: list[RowView]
    older: tuple[int | None, str] | None
    untimed: int = 0


class Conversations:
    """The questions. All raise StorageUnavailableError; each takes one of the readers' places of `queries`."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries

    async def find(self, tenant: str, text: str, *, personal: bool, limit: int = FOUND_LIMIT) -> FoundPage:
        """Return whose conversations a text may mean: the beginning of an id or a name, a number's beginning or end.

        An id of a message is compared as a whole. Unless `personal`, only ids are compared: by beginnings anybody
        could spell out a name that is hidden. The text must be storable and not empty.
        """
        async with self._queries.asking(tables.ticket) as connection:
            contacts, matched, more = await self._contacts(connection, tenant, text, limit, personal=personal)
            named = await self._named_tickets(connection, tenant, text, limit)
            tickets = await _tickets_of(connection, tenant, list(contacts))
            missing = {row["contact_id"] for row in named if row["contact_id"] is not None} - contacts.keys()
            for row in await _rows(connection, tables.contact, tenant, sorted(missing)[:limit]):
                contacts[row["id"]], matched[row["id"]] = row, "ticket"
        listed = {row["id"]: row for row in (*named, *(one for some in tickets.values() for one in some))}
        found = _grouped(contacts, matched, listed.values(), tickets)
        return FoundPage(found[:limit], complete=not more and len(named) <= limit and len(found) <= limit)

    async def _contacts(
        self, connection: AsyncConnection, tenant: str, text: str, limit: int, *, personal: bool
    ) -> tuple[dict[str, dict[str, Any]], dict[str, str], bool]:
        """Return the contacts that a text may mean, by what each was found, and whether there are more."""
        table, typed = tables.contact.c, asked(text)
        ways: list[tuple[str, ColumnElement[bool] | None, Any]] = [
            ("id", begins(table.id, typed.id, self._queries.projection.dialect), None),
            ("number", within(table.digits, typed.number), table.digits),
            ("number", within(table.digits_backwards, typed.ending), table.digits_backwards),
            ("name", within(table.folded_name, typed.name), table.folded_name),
            ("name", within(table.last_name_first, typed.name), table.last_name_first),
        ]
        contacts: dict[str, dict[str, Any]] = {}
        matched: dict[str, str] = {}
        more = False
        for name, condition, order in ways if personal else ways[:1]:
            if condition is None:
                continue
            query = select(*_shown_columns(tables.contact)).where(table.tenant == tenant, condition).limit(limit + 1)
            rows = (await connection.execute(query if order is None else query.order_by(order, table.id))).all()
            more = more or len(rows) > limit
            for row in rows[:limit] if order is not None else sorted(rows[:limit], key=operator.attrgetter("id")):
                contacts.setdefault(row.id, row._asdict())
                matched.setdefault(row.id, name)
        return dict(list(contacts.items())[:limit]), matched, more or len(contacts) > limit

    async def _named_tickets(
        self, connection: AsyncConnection, tenant: str, text: str, limit: int
    ) -> list[dict[str, Any]]:
        """Return the tickets whose id begins with the text, and that of the message with this id."""
        table, typed = tables.ticket.c, asked(text).id
        query = select(*_shown_columns(tables.ticket)).where(
            table.tenant == tenant, begins(table.id, typed, self._queries.projection.dialect)
        )
        rows = [row._asdict() for row in await connection.execute(query.limit(limit + 1))]
        message = tables.message.c
        of = select(message.ticket_id).where(message.tenant == tenant, message.id == typed)
        ticket_id = (await connection.execute(of)).scalar_one_or_none()
        return rows + (await _rows(connection, tables.ticket, tenant, [ticket_id]) if ticket_id is not None else [])

    async def ages(self, tenant: str, now: datetime) -> list[StatusAges]:
        """Return how many tickets there are of each status and age, by when they were created."""
        table = tables.ticket.c
        async with self._queries.asking(tables.ticket) as connection:
            statuses = await _statuses(connection, tenant)
            found = []
            for status in statuses:
                mine = (
                    table.tenant == tenant,
                    table.status == status if status is not None else table.status.is_(None),
                )
                parts = [
                    select(func.count().label("n")).select_from(
                        select(literal(1)).where(*mine, *where).limit(COUNTED).subquery()
                    )
                    for where in (*(_aged(table.created_at, age, now) for age in range(len(AGES))),
                                  (table.created_at.is_(None),))
                ]  # fmt: skip
                counts = select(*(part.scalar_subquery().label(f"n{number}") for number, part in enumerate(parts)))
                found.append(StatusAges(status, tuple((await connection.execute(counts)).one())))
        return found

    async def tickets(
        self,
        tenant: str,
        status: str,
        now: datetime,
        *,
        age: int | None = None,
        after: tuple[int, str] | None = None,
        limit: int,
    ) -> tuple[list[RowView], tuple[int, str] | None]:
        """Return a page of the tickets of a status, oldest first, and the key to go on after.

        `age` is a number of AGES, or None for all. Tickets without a creation time are left out.
        """
        table = tables.ticket.c
        where = [table.tenant == tenant, table.status == status, table.created_at.is_not(None)]
        where += [] if age is None else _aged(table.created_at, age, now)
        if after is not None:
            where.append(tuple_(table.created_at, table.id) > tuple_(literal(after[0]), literal(after[1])))
        query = select(*_shown_columns(tables.ticket)).where(*where).order_by(table.created_at, table.id)
        async with self._queries.asking(tables.ticket) as connection:
            rows = [row._asdict() for row in await connection.execute(query.limit(limit + 1))]
            contacts = await _named_contacts(connection, tenant, rows[:limit])
        shown = [shown_row(row) | {"contact": contacts.get(row["contact_id"])} for row in rows[:limit]]
        last = rows[limit - 1] if len(rows) > limit else None
        return shown, None if last is None else (last["created_at"], last["id"])

    async def talk(
        self, tenant: str, ticket_id: str, *, before: tuple[int | None, str] | None = None, limit: int = TALK_LIMIT
    ) -> Talk:
        """Return the newest messages of a ticket before a key, oldest first.

        Messages whose creation time is not known stand at the beginning, before all others.
        """
        async with self._queries.asking(tables.ticket) as connection:
            rows = await _newest(connection, tenant, ticket_id, before, limit + 1)
            page = rows[:limit]
            ids = [row["id"] for row in page]
            revisions = await _revisions(connection, tenant, ids)
            quoted = await _quoted(connection, tenant, page)
            untimed = await _untimed(connection, tenant, ticket_id)
        older = (page[-1]["created_at"], page[-1]["id"]) if len(rows) > limit else None
        messages = [
            shown_row({name: value for name, value in row.items() if name != "body_chars"})
            | {
                "body_chars": row["body_chars"] or 0,
                "revisions": revisions.get(row["id"], []),
                "quoted": quoted.get(row["quoted_message_id"]),
            }
            for row in reversed(page)
        ]
        return Talk(messages, older, untimed)


def begins(column: ColumnElement[str], prefix: str, dialect: str) -> ColumnElement[bool]:
    """Return the condition that an id begins with the text, as a range of an index."""
    if dialect == "postgresql":
        return and_(column.op("~>=~")(prefix), column.op("~<~")(prefix + _END))
    return and_(column >= prefix, column < prefix + _END)


def within(column: ColumnElement[str], prefix: str | None) -> ColumnElement[bool] | None:
    """Return the condition that a column of `Folded` begins with the text; None where there is no text."""
    return None if prefix is None else and_(column >= prefix, column < prefix + _END)


def _aged(column: ColumnElement[int], age: int, now: datetime) -> list[ColumnElement[bool]]:
    """Return the condition that a time lies in a range of AGES; what is in the future has the lowest age."""
    below, above = AGES[age][1], AGES[age - 1][1] if age else None
    where: list[ColumnElement[bool]] = [] if below is None else [column > to_micros(now - below)]
    return where + ([] if above is None else [column <= to_micros(now - above)])


async def _statuses(connection: AsyncConnection, tenant: str) -> list[str | None]:
    """Return the statuses that there are, by a look into the index for each, and None where some ticket has none."""
    table = tables.ticket.c
    found: list[str] = []
    last: str | None = None
    while len(found) < STATUS_LIMIT:
        query = select(table.status).where(table.tenant == tenant, table.status.is_not(None))
        query = query.where(table.status > last) if last is not None else query
        last = (await connection.execute(query.order_by(table.status).limit(1))).scalar_one_or_none()
        if last is None:
            break
        found.append(last)
    unset = select(literal(1)).where(table.tenant == tenant, table.status.is_(None)).limit(1)
    return [*found, *([None] if (await connection.execute(unset)).scalar_one_or_none() else [])]


async def _tickets_of(
    connection: AsyncConnection, tenant: str, contact_ids: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """Return tickets of each contact, at most one more than TICKETS_PER_CONTACT, those with the last ids."""
    found: dict[str, list[dict[str, Any]]] = {}
    for one in contact_ids:  # a statement for all of them would be built again for each number of contacts
        rows = await connection.execute(_TICKETS_OF, {"tenant": tenant, "contact_id": one})
        if some := [row._asdict() for row in rows]:
            found[one] = some
    return found


async def _rows(connection: AsyncConnection, table: Table, tenant: str, ids: Sequence[str]) -> list[dict[str, Any]]:
    query = select(*_shown_columns(table)).where(table.c.tenant == tenant, among(connection, table.c.id, ids))
    return [row._asdict() for row in await connection.execute(query)] if ids else []


async def _named_contacts(
    connection: AsyncConnection, tenant: str, rows: Iterable[Mapping[str, Any]]
) -> dict[str, RowView]:
    ids = sorted({row["contact_id"] for row in rows if row["contact_id"] is not None})
    return {row["id"]: shown_row(row) for row in await _rows(connection, tables.contact, tenant, ids)}


def _grouped(
    contacts: Mapping[str, dict[str, Any]],
    matched: Mapping[str, str],
    listed: Iterable[dict[str, Any]],
    tickets: Mapping[str, Sequence[dict[str, Any]]],
) -> list[Found]:
    """Return each contact with its tickets, the last made first; then tickets whose contact is not known."""
    mine: dict[str | None, list[dict[str, Any]]] = {}
    for row in listed:
        mine.setdefault(row["contact_id"] if row["contact_id"] in contacts else None, []).append(row)
    found = []
    everybody: list[tuple[str | None, dict[str, Any] | None]] = [*contacts.items(), (None, None)]
    for contact_id, contact in everybody:
        rows = sorted(mine.get(contact_id, ()), key=_made, reverse=True)
        if contact is None and not rows:
            continue
        found.append(
            Found(
                matched="ticket" if contact_id is None else matched[contact_id],
                contact=None if contact is None else shown_row(contact),
                tickets=[shown_row(one) for one in rows[:TICKETS_PER_CONTACT]],
                tickets_complete=len(tickets.get(contact_id or "", ())) <= TICKETS_PER_CONTACT,
            )
        )
    return found


def _made(row: Mapping[str, Any]) -> tuple[int, str]:
    return row["created_at"] or 0, row["id"]


def _shown_columns(table: Table) -> list[ColumnElement[Any]]:
    """Return the columns that are shown, texts that people write cut to TEXT_CHARS."""
    long = ("body", "name", "last_message", "email", "extra_info", "profile_pic_url", "media_url")
    shown: list[ColumnElement[Any]] = []
    for column in table.c:
        if column.name == "extra_info":
            shown.append(case((func.length(column) <= TEXT_CHARS, column), else_=null()).label(column.name))
        elif column.name in long:
            shown.append(func.substr(column, 1, TEXT_CHARS).label(column.name))
        elif column.name not in tables.FOUND_BY:
            shown.append(column)
    return shown


_TICKETS_OF: Final = (
    select(*_shown_columns(tables.ticket))
    .where(tables.ticket.c.tenant == bindparam("tenant"), tables.ticket.c.contact_id == bindparam("contact_id"))
    .order_by(tables.ticket.c.id.desc())
    .limit(TICKETS_PER_CONTACT + 1)
)


async def _newest(
    connection: AsyncConnection, tenant: str, ticket_id: str, before: tuple[int | None, str] | None, limit: int
) -> list[dict[str, Any]]:
    """Return messages from the newest back: those with a time, then those without, each in the order of an index."""
    table = tables.message.c
    query = select(*_shown_columns(tables.message), func.length(table.body).label("body_chars"))
    query = query.where(table.tenant == tenant, table.ticket_id == ticket_id)
    rows: list[dict[str, Any]] = []
    if before is None or before[0] is not None:
        timed = query.where(table.created_at.is_not(None)).order_by(table.created_at.desc(), table.id.desc())
        if before is not None:
            timed = timed.where(tuple_(table.created_at, table.id) < tuple_(literal(before[0]), literal(before[1])))
        rows = [row._asdict() for row in await connection.execute(timed.limit(limit))]
    if len(rows) < limit:
        untimed = query.where(table.created_at.is_(None)).order_by(table.id.desc())
        if before is not None and before[0] is None:
            untimed = untimed.where(table.id < before[1])
        rows += [row._asdict() for row in await connection.execute(untimed.limit(limit - len(rows)))]
    return rows


async def _untimed(connection: AsyncConnection, tenant: str, ticket_id: str) -> int:
    table = tables.message.c
    some = select(literal(1)).where(table.tenant == tenant, table.ticket_id == ticket_id, table.created_at.is_(None))
    counted = select(func.count()).select_from(some.limit(UNTIMED_LIMIT).subquery())
    return int((await connection.execute(counted)).scalar_one())


async def _revisions(connection: AsyncConnection, tenant: str, ids: Sequence[str]) -> dict[str, list[RowView]]:
    """Return the wordings of each message, oldest first; where one is too long, its text is left out."""
    table = tables.message_revision.c
    fits = func.length(table.content) <= 2 * TEXT_CHARS
    content = case((fits, table.content), else_=null()).label("content")
    query = select(table.message_id, content, func.substr(table.media_url, 1, TEXT_CHARS).label("media_url"))
    query = query.add_columns(table.first_at).where(table.tenant == tenant, among(connection, table.message_id, ids))
    query = query.order_by(table.message_id, table.first_at, table.digest).limit(REVISIONS_LIMIT)
    by_message: dict[str, list[dict[str, Any]]] = {}
    for row in await connection.execute(query) if ids else ():
        by_message.setdefault(row.message_id, []).append(row._asdict())
    return {message_id: _wordings(rows) for message_id, rows in by_message.items()}


def _wordings(rows: Sequence[dict[str, Any]]) -> list[RowView]:
    short = [row for row in rows if row["content"] is not None]
    found: list[RowView] = [
        {"first_at": from_micros(one.first_at), **one.content, "media_url": one.media_url, "long": False}
        for one in fold.revisions(short)
    ]
    found += [
        {"first_at": from_micros(row["first_at"]), "media_url": row["media_url"], "long": True}
        for row in rows
        if row["content"] is None
    ]
    return sorted(found, key=operator.itemgetter("first_at"))


async def _quoted(connection: AsyncConnection, tenant: str, page: Sequence[Mapping[str, Any]]) -> dict[str, RowView]:
    """Return what is held of the messages that those of the page answer."""
    ids = sorted({row["quoted_message_id"] for row in page if row["quoted_message_id"] is not None})
    table = tables.message.c
    cut = func.substr(table.body, 1, 200).label("body")
    query: Select[Any] = select(table.id, cut, table.from_me, table.deleted, table.media_type)
    query = query.where(table.tenant == tenant, among(connection, table.id, ids))
    return {row.id: row._asdict() for row in await connection.execute(query)} if ids else {}
