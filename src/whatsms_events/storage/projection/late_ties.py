"""What the tables show to be a forgotten person's only now, though it is older than the forgetting.

The door cannot know: a late message may name a ticket that nobody had told of. So the tables are looked at, where the
later events meet. A ticket is found along the index by its contact; what somebody wrote in groups has no index, so all
messages of the tenant are passed over, piece by piece, once for all who were forgotten.
"""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Row, or_, select

from whatsms_events.domain.last_message import plain
from whatsms_events.domain.marks import is_no_id
from whatsms_events.domain.rows import Version
from whatsms_events.storage.database import Database, among
from whatsms_events.storage.projection.person_rows import chunks, piece_ends, written_by
from whatsms_events.storage.tables import message, ticket

Others = Callable[[Mapping[str, str]], Awaitable[set[str]]]
"""Tells which of these tickets, each with its contact, were somebody else's before."""

_versions = msgspec.json.Decoder(dict[str, Version])


@dataclass(frozen=True, slots=True)
class LateTies:
    """Tickets and messages of one person, from before. `groups`: in whose ticket they wrote, with what they wrote.

    `contacts` are theirs as the door has found out, by a number that is blanked by now: its marks tell it.
    """

    contacts: set[str] = field(default_factory=set)
    tickets: set[str] = field(default_factory=set)
    messages: dict[str, int] = field(default_factory=dict)
    groups: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def add(self, more: "LateTies") -> None:
        """Take in what is of the same person."""
        self.contacts.update(more.contacts)
        self.tickets.update(more.tickets)
        self.messages.update(more.messages)
        for ticket_id, texts in more.groups.items():
            self.groups[ticket_id] |= texts


async def late_ties(
    database: Database, tenant: str, forgotten: Mapping[str, int], known: frozenset[str], others: Others
) -> dict[str, LateTies]:
    """Return by contact what is theirs and not blanked; `forgotten` says when each was, `known` are tickets of theirs.

    Tickets are told once, until they are known; one that was somebody else's before stays. A message is told for as
    long as it has a text or a file. Raise StorageUnavailableError.
    """
    found: dict[str, LateTies] = defaultdict(LateTies)
    owners: dict[str, str] = {}
    late: dict[str, str] = {}
    for row in await _tickets(database, tenant, forgotten):
        owners[row.id] = row.contact_id
        first = min((one.time for one in _versions.decode(row.versions).values()), default=0)
        if row.id not in known and _before(row.created_at, first, forgotten[row.contact_id]):
            late[row.id] = row.contact_id
    moved = await others(late)
    owners = {one: contact for one, contact in owners.items() if one not in moved}
    for one in late.keys() - moved:
        found[late[one]].tickets.add(one)
    latest = max(forgotten.values(), default=0)
    for row in await _messages(database, tenant, forgotten, owners, latest):
        owner = owners.get(row.ticket_id, row.contact_id)
        told = _versions.decode(row.versions)
        texts = [told[name].time for name in ("body", "media_url") if name in told]
        if _before(row.created_at, max(texts, default=0), forgotten[owner]):
            found[owner].messages[row.id] = max((one.position for one in told.values()), default=0)
            if row.ticket_id is not None and row.ticket_id not in owners:
                found[owner].groups[row.ticket_id] |= {plain(row.body)} if row.body else set()
    return dict(found)


def _before(created_at: int | None, told_at: int, forgotten_at: int) -> bool:
    return (told_at if created_at is None else created_at) <= forgotten_at


async def _tickets(database: Database, tenant: str, contacts: Mapping[str, int]) -> list[Row[Any]]:
    table, found = ticket.c, list[Row[Any]]()
    query = select(table.id, table.contact_id, table.created_at, table.versions).where(table.tenant == tenant)
    async with database.read() as connection:
        for some in chunks(sorted(contacts)):
            found += await connection.execute(query.where(among(connection, table.contact_id, some)))
    return [row for row in found if not is_no_id(row.id)]


async def _messages(
    database: Database, tenant: str, contacts: Mapping[str, int], tickets: Mapping[str, str], latest: int
) -> list[Row[Any]]:
    """Return messages with a text or a file that may be from before: in these tickets, or written by these contacts."""
    table, found = message.c, list[Row[Any]]()
    held = or_(table.body.is_not(None), table.media_url.is_not(None))
    old = or_(table.created_at.is_(None), table.created_at <= latest)
    columns = (table.id, table.ticket_id, table.contact_id, table.created_at, table.body, table.versions)
    query = select(*columns).where(table.tenant == tenant, held, old)

    async def add(*of: ColumnElement[bool]) -> None:
        async with database.read() as connection:
            found.extend(await connection.execute(query.where(*of)))

    for some in chunks(sorted(tickets)):
        await add(table.ticket_id.in_(some))
    async for after, last in piece_ends(database, tenant):
        for some in chunks(sorted(contacts)):
            await add(written_by(some), table.id > after, table.id <= last)
    return found
