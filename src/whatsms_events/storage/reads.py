"""This module answers the read API's questions: one bounded page of plain rows, in one short transaction each.

Pages go by key, never by number: `after` is the key of the last row seen, so new rows do not move the others.
Text that is asked for must be storable (no NUL, no lone surrogate): PostgreSQL refuses even to compare with it.
"""

import asyncio
import bisect
import functools
import itertools
import operator
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal
from uuid import UUID

import msgspec
from sqlalchemy import ColumnElement, Table, Text, func, literal, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from whatsms_events.domain import fold, gone, message_acks
from whatsms_events.domain.acks import LEVELS
from whatsms_events.domain.events import from_micros
from whatsms_events.domain.resources import GROUPS, NAMED
from whatsms_events.domain.rows import Version
from whatsms_events.storage import tables
from whatsms_events.storage.database import Database
from whatsms_events.storage.trouble import translated

PAGE_LIMIT: Final = 500
PAGE_TEXT_LIMIT: Final = 8 * 1024 * 1024
"""Characters of one page: a body may have many MiB, and 500 of them would not fit into memory."""

QUERY_TIMEOUT_S: Final = 5.0
READERS: Final = 2
"""Questions that may be asked at a time. A busy dashboard must leave connections to the roles that share the pool."""

SCAN_LIMIT: Final = 10_000
"""Positions read for one filtered page of events: a rare type in a long log must not cost a full scan."""

REVISION_LIMIT: Final = 100

Resource = Literal["tickets", "contacts", "campaigns", "messages"]
_TABLES: Final[Mapping[Resource, Table]] = {
    "tickets": tables.ticket,
    "contacts": tables.contact,
    "campaigns": tables.campaign,
    "messages": tables.message,
}
_UNSHOWN: Final = ("raw", "headers", *tables.FOUND_BY)

PageKey = tuple[Any, ...]
_Row = dict[str, Any]
_Columns = Sequence[ColumnElement[Any]]
_Where = Sequence[ColumnElement[bool]]
_versions = msgspec.json.Decoder(dict[str, Version])

RowView = dict[str, object]
"""A row as JSON will show it: times aware, `*_at`; bytes of a hash as hex; JSON columns as `msgspec.Raw`."""


@dataclass(frozen=True, slots=True)
class RowPage:
    """One page. `next` is the key to go on after, None at the end."""

    rows: list[RowView]
    next: PageKey | None


@dataclass(frozen=True, slots=True)
class EventPage:
    """Events after a position. `next` is where to go on, also past events that the filter left out.

    `next_id` is the id of the event at `next`, None where nothing follows. `after_id` is that of the event after which
    they come, as it is once they are read; None where there is none, or where nobody asked.
    """

    rows: list[RowView]
    next: int
    next_id: UUID | None
    end: int
    after_id: UUID | None = None


class Queries:
    """Every question the read API asks of log and projection. All raise StorageUnavailableError."""

    def __init__(
        self,
        log: Database,
        projection: Database,
        *,
        places: int = READERS,
        timeout_s: float = QUERY_TIMEOUT_S,
        page_text_limit: int = PAGE_TEXT_LIMIT,
        scan_limit: int = SCAN_LIMIT,
    ) -> None:
        self._log = log
        self.projection = projection
        self._timeout_s = timeout_s
        self._page_text_limit = page_text_limit
        self._scan_limit = scan_limit
        self._turns = asyncio.Semaphore(places)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Hold one of the readers' places while a question is asked; its deadline bounds the wait for a place too."""
        with translated():
            async with asyncio.timeout(self._timeout_s), self._turns:
                yield

    async def entities(
        self, resource: Resource, tenant: str, wanted: Mapping[str, str | None], *, after: PageKey | None, limit: int
    ) -> RowPage:
        """Return a page by id, along the primary key, of those whose columns have the `wanted` values (None = any)."""
        table = _TABLES[resource]
        where = _equal(table, {**wanted, "tenant": tenant})
        return await self._list(table, (table.c.id,), where, after=after, limit=limit)

    async def entity(self, resource: Resource, tenant: str, entity_id: str) -> RowView | None:
        """Return one, None where nobody ever named it."""
        return await self._one(_TABLES[resource], tenant, entity_id)

    async def messages(self, tenant: str, ticket_id: str, *, after: PageKey | None, limit: int) -> RowPage:
        """Return a page of a ticket's messages by creation time and id; those whose time is not known stand last."""
        table, column = tables.message, tables.message.c
        mine = _equal(table, {"tenant": tenant, "ticket_id": ticket_id})
        timed = after is None or after[0] is not None
        past = None if timed or after is None else after[1:]
        rows: list[_Row] = []
        more = False
        async with self.asking(table) as connection:
            # Two ranges of the index: a NULL is neither before nor after a key, and each database sorts it elsewhere.
            if timed:
                dated, by_time = [*mine, column.created_at.is_not(None)], (column.created_at, column.id)
                rows, more = await self._page(connection, table, by_time, dated, after=after, limit=limit)
            if not more:
                undated = [*mine, column.created_at.is_(None)]
                rest, more = await self._page(
                    connection, table, (column.id,), undated, after=past, limit=limit - len(rows)
                )
                rows += rest
        return _paged(rows, ("created_at", "id"), more=more)

    async def message(self, tenant: str, message_id: str) -> RowView | None:
        """Return a message with its revisions, None where nobody ever named it."""
        message = await self._one(tables.message, tenant, message_id)
        if message is None:
            return None
        table = tables.message_revision
        where = _equal(table, {"tenant": tenant, "message_id": message_id})
        async with self.asking(table) as connection:
            rows, more = await self._page(
                connection, table, (table.c.first_at, table.c.digest), where, after=None, limit=REVISION_LIMIT
            )
        return message | {"revisions": shown_revisions(rows), "revisions_complete": not more}

    async def parked_deliveries(self, *, after: PageKey | None, limit: int, discarded: bool = False) -> RowPage:
        """Return a page of what is parked at the door, or was discarded, oldest first; not its bytes."""
        table = tables.parked_delivery
        which = [table.c.discarded_at.is_not(None) if discarded else table.c.discarded_at.is_(None)]
        return await self._list(table, (table.c.received_at, table.c.id), which, after=after, limit=limit)

    async def parked_events(self, *, after: PageKey | None, limit: int, discarded: bool = False) -> RowPage:
        """Return a page of what is parked at the fold, or was discarded, by where it was read; not its bytes."""
        table = tables.parked_event
        which = [table.c.discarded_at.is_not(None) if discarded else table.c.discarded_at.is_(None)]
        return await self._list(table, (table.c.source, table.c.at), which, after=after, limit=limit)

    async def events(
        self,
        *,
        after: int,
        limit: int,
        tenant: str | None = None,
        event_type: str | None = None,
        ticket: str | None = None,
        text_limit: int | None = None,
        name_after: bool = False,
    ) -> EventPage:
        """Return events at positions above `after`, of every tenant, type and ticket or of one.

        Where a filter leaves out much, a page may be short or empty although more follow: go on from its `next`.
        `text_limit` is about how many characters a page may have, where that is fewer than those of every page. With
        `name_after` the page has the id of the event at `after`: where it is another one than it was, these rows are of
        a log that was restored meanwhile.
        """
        table, position = tables.event_log, tables.event_log.c.position
        wanted = {"tenant": tenant, "type": event_type, "ticket_id": ticket}
        async with self.asking(table) as connection:
            # The end first: positions show in order of commit, so nothing can still appear below it.
            end = int((await connection.execute(select(func.coalesce(func.max(position), 0)))).scalar_one())
            filtered = any(value is not None for value in wanted.values())
            upper, upper_id = await self._looked_through(connection, after, end) if filtered else (end, None)
            where = [position <= upper, *_equal(table, wanted)]
            rows, more = await self._page(
                connection, table, (position,), where, after=(after,), limit=limit, text_limit=text_limit
            )
            after_id = None
            if name_after:  # behind the rows: a log that is restored between the two is noticed too
                held = select(table.c.id).where(position == after)
                after_id = (await connection.execute(held)).scalar_one_or_none()
        if rows and (more or not filtered):
            upper, upper_id = rows[-1]["position"], rows[-1]["id"]
        return EventPage([shown_row(row) for row in rows], max(after, upper), upper_id, end, after_id)

    async def _looked_through(self, connection: AsyncConnection, after: int, end: int) -> tuple[int, UUID | None]:
        """Return position and id of the last event that a filtered page looks at; `after` and None where none follows.

        The page counts from the next event on, so that it ends at an event also where positions are empty: a reader's
        place without an event's id would not show that the log was restored.
        """
        column = tables.event_log.c
        begin = select(func.min(column.position)).where(column.position > after).scalar_subquery()
        some = column.position > after, column.position <= end, column.position < begin + self._scan_limit
        last = select(column.position, column.id).where(*some).order_by(column.position.desc()).limit(1)
        row = (await connection.execute(last)).one_or_none()
        return (after, None) if row is None else (row.position, row.id)

    async def event(self, position: int, *, raw: bool) -> RowView | None:
        """Return the event at a position, with its redeliveries and, if `raw`, its bytes; None where there is none."""
        table, again = tables.event_log, tables.redelivery.c
        columns = [*_columns(table), again.count.label("redelivered"), again.last_received_at.label("redelivered_at")]
        columns += [table.c.raw] if raw else []
        query = select(*columns).outerjoin_from(table, tables.redelivery, table.c.id == again.id)
        query = query.where(table.c.position == position)
        async with self.asking(table) as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else shown_row(row._asdict())

    async def _one(self, table: Table, tenant: str, entity_id: str) -> RowView | None:
        query = select(*_columns(table)).where(*_equal(table, {"tenant": tenant, "id": entity_id}))
        async with self.asking(table) as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else shown_row(row._asdict())

    async def _list(self, table: Table, key: _Columns, where: _Where, *, after: PageKey | None, limit: int) -> RowPage:
        async with self.asking(table) as connection:
            rows, more = await self._page(connection, table, key, where, after=after, limit=limit)
        return _paged(rows, [column.name for column in key], more=more)

    async def _page(
        self,
        connection: AsyncConnection,
        table: Table,
        key: _Columns,
        where: _Where,
        *,
        after: PageKey | None,
        limit: int,
        text_limit: int | None = None,
    ) -> tuple[list[_Row], bool]:
        """Return the next rows in the order of `key` that fit into a page, and whether more follow."""
        if after is not None:
            past = tuple_(*(literal(value, column.type) for value, column in zip(after, key, strict=True)))
            where = [*where, tuple_(*key) > past]
        # The sizes first: what does not fit is not read. One row at least, or a page would not end.
        texts = [func.coalesce(func.length(column), 0) for column in table.c if isinstance(column.type, Text)]
        sizes = select(functools.reduce(operator.add, texts)).where(*where).order_by(*key).limit(limit + 1)
        totals = list(itertools.accumulate((await connection.execute(sizes)).scalars()))
        fits = self._page_text_limit if text_limit is None else min(text_limit, self._page_text_limit)
        fitting = min(limit, max(1, bisect.bisect_right(totals, fits)))
        rows = select(*_columns(table)).where(*where).order_by(*key).limit(fitting)
        return [row._asdict() for row in await connection.execute(rows)], len(totals) > fitting

    @asynccontextmanager
    async def asking(self, table: Table) -> AsyncIterator[AsyncConnection]:
        """Hold a place, and open a transaction of the database that has the table."""
        database = self._log if table.metadata is tables.log_metadata else self.projection
        async with self.turn(), database.read() as connection:
            yield connection


async def write_problem(database: Database) -> str | None:
    """Write one row unchanged and commit, since only a write finds a full disk; raise StorageUnavailableError."""
    table = tables.log if database.part == "log" else tables.projection
    async with database.write() as connection:
        await connection.execute(update(table).values(one=table.c.one))
    return None


def _equal(table: Table, wanted: Mapping[str, str | None]) -> _Where:
    return [table.c[name] == value for name, value in wanted.items() if value is not None]


def _columns(table: Table) -> _Columns:
    """Return what is shown of a row: all but the bytes, of which the size is told, and what it is found by."""
    listed = [column for column in table.c if column.name not in _UNSHOWN]
    return [*listed, func.length(table.c.raw).label("size")] if "raw" in table.c else listed


def _paged(rows: Sequence[_Row], key: Sequence[str], *, more: bool) -> RowPage:
    # There may be no row although more follow: the rows moved to another ticket between the two statements of `_page`.
    return RowPage([shown_row(row) for row in rows], tuple(rows[-1][name] for name in key) if more and rows else None)


def shown_row(row: _Row) -> RowView:
    """Return a row as it is shown; it may have fewer columns than its table, but none of an ack or a reference less."""
    plain = {name: _value(name, value) for name, value in row.items()}
    if "versions" in plain:
        # The tenant is the slug that was asked for.
        del plain["tenant"], plain["versions"]
        versions = _versions.decode(row["versions"])
        doubts = {NAMED.get(name, name) for name, version in versions.items() if version.doubtful}
        plain["doubtful"] = sorted(doubts | ({"gone"} if gone.in_doubt(row["gone"], versions) else set()))
        plain["gone"] = plain["gone"] and gone.is_gone(row["gone"], versions)
    if "queue_id" in plain:
        plain |= {group: _named(plain, columns) for group, columns in GROUPS.items()}
        for name in NAMED:
            del plain[name]
    if "ack" in plain:
        for level in LEVELS.values():
            del plain[f"{level}_at"], plain[f"{level}_by"]
        del plain["failed_at"]
        plain["ack"] = _ack(row)
    return plain


def _ack(row: _Row) -> RowView:
    """Return how far a message got; `by_then` names the levels whose time is that of the backfill that saw them."""
    ack = message_acks.ack(row)
    times = {f"{name}_at": _value(f"{name}_at", at) for name, at in ack.times.items()}
    return {
        "level": ack.level,
        "name": LEVELS.get(ack.level or 0),
        **times,
        "failed_at": _value("failed_at", ack.failed_at),
        "by_then": list(ack.by_then),
    }


def _value(name: str, value: Any) -> object:
    if value is None:
        return None
    if name.endswith("_at"):
        return from_micros(value)
    if name in ("data", "extra_info"):
        return msgspec.Raw(value.encode())
    return value.hex() if name == "sha256" else value


def _named(plain: RowView, columns: Sequence[str]) -> RowView | None:
    known, name = (plain.pop(column) for column in columns)
    return None if known is None and name is None else {"id": known or None, "name": name}


def shown_revisions(rows: Sequence[_Row]) -> list[RowView]:
    """Return the revisions of a message, in the order of the rows, which is that of their time and digest."""
    return [
        {"number": one.number, "first_at": from_micros(one.first_at), **one.content, "media_url": one.media_url}
        for one in fold.revisions(rows)
    ]
