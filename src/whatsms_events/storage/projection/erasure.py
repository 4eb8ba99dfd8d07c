"""Erasing a person from the projection: which rows hold something of them, and how these are blanked.

Each transaction moves the projection's generation, so a consumer in another process begins anew: rows that it holds in
memory would bring back what was blanked.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

import msgspec
from sqlalchemy import Table, delete, literal, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from whatsms_events.domain.last_message import plain
from whatsms_events.domain.marks import (
    Find,
    KnownPerson,
    MarkKind,
    is_no_id,
    is_number_of_group,
    number_name,
    shows,
    text_name,
)
from whatsms_events.domain.personal import COLUMNS, blanked_row
from whatsms_events.domain.rows import Key, Row, Version
from whatsms_events.errors import ConfigError
from whatsms_events.storage.database import Database, among
from whatsms_events.storage.projection.person_rows import (
    CONTACTS_LIMIT,
    MESSAGES_PIECE,
    chunks,
    contacts_of,
    messages_of,
    tickets_of,
)
from whatsms_events.storage.projection.rows import load, save
from whatsms_events.storage.tables import contact, message, message_revision, parked_event, projection, ticket

PIECE: Final = 200
"""Rows in one transaction: the consumer waits meanwhile."""

TEXTS_LIMIT: Final = 20_000
"""Texts in groups that are remembered; more of one person would not fit into memory beside a service."""

_contents = msgspec.json.Decoder(dict[str, Any])
_versions = msgspec.json.Decoder(dict[str, Version])


@dataclass(frozen=True, slots=True)
class FoundPerson:
    """A person as the projection has them. Numbers, `emails` and `pictures` tell who they are, in memory alone.

    `messages` are theirs, with the highest position that told of each. `groups` are tickets of others in which they
    wrote, with what they wrote there. `of_none` is a contact with their number under what is no id, such as 0: its row
    is theirs, and nothing else that names it.
    """

    contacts: frozenset[str]
    numbers: frozenset[str] = frozenset()
    tickets: frozenset[str] = frozenset()
    messages: Mapping[str, int] = field(default_factory=dict)
    groups: Mapping[str, frozenset[str]] = field(default_factory=dict)
    emails: frozenset[str] = frozenset()
    pictures: frozenset[str] = frozenset()
    of_none: frozenset[str] = frozenset()
    group: bool = False

    def known(self, forgotten_at: int) -> KnownPerson:
        """Return what ties events to them."""
        messages = frozenset(one for one in self.messages if not is_no_id(one))
        return KnownPerson(forgotten_at, self.contacts, self.numbers, self.tickets, messages, self.groups)

    def joined(self, other: "FoundPerson") -> "FoundPerson":
        """Return the person with what else was found of them."""
        texts = {of: self.groups.get(of, frozenset()) | some for of, some in other.groups.items()}
        return replace(
            self,
            contacts=self.contacts | other.contacts,
            tickets=self.tickets | other.tickets,
            messages={**other.messages, **self.messages},
            groups={**self.groups, **texts},
        )


@dataclass(frozen=True, slots=True)
class Before:
    """What is from before a person was forgotten: up to `log_end`, and at the later positions that were blanked."""

    log_end: int
    blanked: frozenset[int]
    forgotten_at: int

    def holds(self, version: Version) -> bool:
        """Tell whether a register was last written by what is from before."""
        return version.position <= self.log_end or version.position in self.blanked

    def holds_message(self, created_at: int | None, versions: Iterable[Version]) -> bool:
        """Tell whether a message is from before."""
        created_before = created_at is not None and created_at <= self.forgotten_at
        return created_before or any(self.holds(one) for one in versions)


class PersonalRows:
    """The rows of a person. All verbs raise StorageUnavailableError where the projection's database is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def person(
        self,
        tenant: str,
        who: str,
        before: Before | None = None,
        *,
        contact_ids: Collection[str] = (),
        ticket_ids: Collection[str] = (),
        message_ids: Collection[str] = (),
    ) -> FoundPerson:
        """Return who is meant by the id or the number of a contact; all contacts with one number are one person.

        `contact_ids`, `ticket_ids` and `message_ids` are known to be theirs too. There are no contacts where nothing
        tells of any: a text that was typed is no id. `before` leaves out messages that came since the person was
        forgotten. Raise ConfigError where more than CONTACTS_LIMIT contacts have the number.
        """
        async with self._database.read() as connection:
            told = await contacts_of(connection, tenant, who, contact_ids)
            if not told.by_id and number_name(who) in told.crowded:
                raise crowded()
            contacts = frozenset((*(row.id for row in told.rows), *contact_ids))
            tickets = frozenset((*await tickets_of(connection, tenant, contacts), *ticket_ids))
        messages, groups = await self._messages(tenant, contacts, tickets, message_ids, before)
        return FoundPerson(
            contacts,
            told.numbers,
            tickets,
            messages,
            groups,
            emails=frozenset(row.email for row in told.rows if row.email),
            pictures=frozenset(row.profile_pic_url for row in told.rows if row.profile_pic_url),
            of_none=told.of_none,
            group=any(row.is_group or is_number_of_group(row.number) for row in told.rows),
        )

    async def _messages(
        self,
        tenant: str,
        contacts: Collection[str],
        tickets: Collection[str],
        ids: Collection[str],
        before: Before | None,
    ) -> tuple[dict[str, int], dict[str, frozenset[str]]]:
        """Return the person's messages with their positions, and the texts that they wrote in tickets of others."""
        found: dict[str, int] = {}
        texts: dict[str, set[str]] = defaultdict(set)
        elsewhere: dict[str, str] = {}
        columns = (message.c.created_at, message.c.body, message.c.versions)
        async for rows in messages_of(self._database, tenant, contacts, tickets, columns, ids=ids):
            for row in rows:
                versions = _versions.decode(row.versions).values()
                if before is not None and not before.holds_message(row.created_at, versions):
                    continue
                found[row.id] = max((one.position for one in versions), default=0)
                if row.ticket_id is not None and row.ticket_id not in tickets and len(elsewhere) < TEXTS_LIMIT:
                    elsewhere[row.id] = row.ticket_id
                    if row.body:
                        texts[row.ticket_id].add(plain(row.body))
        await self._wordings(tenant, elsewhere, texts)
        return found, {of: frozenset(texts.get(of, ())) for of in elsewhere.values()}

    async def _wordings(self, tenant: str, elsewhere: Mapping[str, str], texts: dict[str, set[str]]) -> None:
        """Add what these messages said before, by the ticket of each."""
        revision = message_revision.c
        async with self._database.read() as connection:
            for some in chunks(sorted(elsewhere)):
                query = select(revision.message_id, revision.content).where(revision.tenant == tenant)
                for one in await connection.execute(query.where(among(connection, revision.message_id, some))):
                    body = _contents.decode(one.content).get("body")
                    if isinstance(body, str) and body:
                        texts[elsewhere[one.message_id]].add(plain(body))

    async def marked(self, tenant: str, find: Find) -> dict[int, FoundPerson]:
        """Return what the tables have of who is known by marks alone, by the moment of the marks.

        What a ticket or an author brings with it is not looked for: see `with_messages`.
        """
        places: dict[MarkKind, Table] = {"contact": contact, "ticket": ticket, "message": message}
        ids: dict[MarkKind, dict[int, set[str]]] = {kind: defaultdict(set) for kind in places}
        groups: dict[int, dict[str, frozenset[str]]] = defaultdict(dict)
        for kind, table in places.items():
            async for row in self._every(table, tenant):
                if (at := find(kind, row.id)) is not None:
                    ids[kind][at].add(row.id)
                last = row.last_message if kind == "ticket" else None
                if last and (at := find("text", text_name(row.id, last))) is not None:
                    groups[at][row.id] = frozenset((plain(last),))
        contacts, tickets, messages = ids.values()
        return {
            at: FoundPerson(
                frozenset(contacts[at]), tickets=frozenset(tickets[at]), messages=dict.fromkeys(messages[at], 0),
                groups=groups[at],
            )
            for at in sorted({*contacts, *tickets, *messages, *groups})
        }  # fmt: skip

    async def _every(self, table: Table, tenant: str) -> AsyncIterator[Any]:
        after, columns = "", (table.c.id, *([table.c.last_message] if table is ticket else ()))
        while True:
            query = select(*columns).where(table.c.tenant == tenant, table.c.id > after).order_by(table.c.id)
            async with self._database.read() as connection:
                rows = (await connection.execute(query.limit(MESSAGES_PIECE))).all()
            for row in rows:
                yield row
            if not rows:
                return
            after = rows[-1].id

    async def with_messages(self, tenant: str, person: FoundPerson, before: Before) -> FoundPerson:
        """Return the person with the messages from before in their tickets, and those that they wrote elsewhere."""
        ids = person.messages
        messages, groups = await self._messages(tenant, person.contacts, person.tickets, ids, before)
        texts = {of: frozenset((*person.groups.get(of, ()), *groups.get(of, ()))) for of in {*person.groups, *groups}}
        return replace(person, messages={**ids, **messages}, groups=texts)

    async def contact_ids(self, tenant: str) -> list[str]:
        """Return the ids of all contacts of a tenant."""
        async with self._database.read() as connection:
            query = select(contact.c.id).where(contact.c.tenant == tenant).order_by(contact.c.id)
            return list((await connection.execute(query)).scalars())

    async def numbers(self, tenant: str, ids: Collection[str]) -> dict[str, str | None]:
        """Return the numbers of the contacts of which an event told it; None where it told that there is none."""
        found: dict[str, str | None] = {}
        query = select(contact.c.id, contact.c.number, contact.c.versions).where(contact.c.tenant == tenant)
        async with self._database.read() as connection:
            for some in chunks(sorted(ids)):
                for row in await connection.execute(query.where(among(connection, contact.c.id, some))):
                    found |= {row.id: row.number} if "number" in _versions.decode(row.versions) else {}
        return found

    async def people(self, tenant: str, ids: Collection[str]) -> set[str]:
        """Return which of these ids are those of contacts that the tables have, and that are no groups."""
        found: set[str] = set()
        query = select(contact.c.id, contact.c.number)
        query = query.where(contact.c.tenant == tenant, contact.c.is_group.is_not(True))
        async with self._database.read() as connection:
            for some in chunks(sorted(ids)):
                rows = await connection.execute(query.where(among(connection, contact.c.id, some)))
                found |= {row.id for row in rows if not is_no_id(row.id) and not is_number_of_group(row.number)}
        return found

    async def keys(self, tenant: str, person: FoundPerson) -> list[Key]:
        """Return the rows that may hold something of the person, and exist."""
        keys = [Key("contact", tenant, one) for one in sorted(person.contacts | person.of_none)]
        keys += [Key("ticket", tenant, one) for one in sorted(person.tickets | person.groups.keys())]
        keys += [Key("message", tenant, one) for one in sorted(person.messages)]
        table = message_revision.c
        async with self._database.read() as connection:
            for some in chunks(sorted(person.messages)):
                query = select(table.message_id, table.digest).where(table.tenant == tenant)
                rows = await connection.execute(query.where(among(connection, table.message_id, some)))
                keys += [Key("message_revision", tenant, of, digest) for of, digest in rows]
        return keys

    async def showing(self, tenant: str, texts: Collection[str]) -> AsyncIterator[str]:
        """Yield which rows of the tenant show one of these texts in a personal column, each by table and id."""
        for table in (contact, ticket, message, message_revision):
            key = [one for one in table.primary_key if one.name != "tenant"]
            columns = [table.c[name] for name in sorted(COLUMNS[cast("Any", table.name)])]
            query = select(*key, *columns).where(table.c.tenant == tenant).order_by(*key).limit(MESSAGES_PIECE)
            rows: Sequence[Any] = await self._page(query)
            while rows:
                for row in rows:
                    if any(text in one for one in row[len(key) :] if isinstance(one, str) for text in texts):
                        yield f"{table.name} {row[0]}"
                last = tuple_(*(literal(one, of.type) for one, of in zip(rows[-1], key, strict=False)))
                rows = await self._page(query.where(tuple_(*key) > last))

    async def _page(self, query: Any) -> Sequence[Any]:
        async with self._database.read() as connection:
            return (await connection.execute(query)).all()

    async def held(self, keys: Sequence[Key], person: FoundPerson, before: Before) -> dict[str, int]:
        """Count the rows that hold something of the person from before, by table."""
        counts: dict[str, int] = defaultdict(int)
        async with self._database.read() as connection:
            for some in chunks(keys, PIECE):
                for key, row in (await load(connection, some)).items():
                    if key in set(some) and _emptied(key, row, person, before) != (key, row):
                        counts[key.table] += 1
        return dict(counts)

    async def blank(self, keys: Sequence[Key], person: FoundPerson, before: Before) -> dict[str, int]:
        """Blank the person's rows; return how many changed, by table. Call it with PIECE keys at most."""
        counts: dict[str, int] = defaultdict(int)
        async with self._database.write() as connection:
            await _move(connection)
            changed: dict[Key, Row] = {}
            gone: list[Key] = []
            wanted = set(keys)
            for key, row in sorted((await load(connection, keys)).items()):
                new, left = _emptied(key, row, person, before)
                if key not in wanted or (new, left) == (key, row):
                    continue
                counts[key.table] += 1
                if new != key:
                    gone.append(key)
                    held = changed.get(new) or (await load(connection, [new])).get(new)
                    left = left if held is None else _merged(held, left)
                changed[new] = left
            for key in gone:
                table = message_revision.c
                mine = table.tenant == key.tenant, table.message_id == key.id, table.digest == key.digest
                await connection.execute(delete(message_revision).where(*mine))
            await save(connection, changed)
        return dict(counts)

    async def parked(self, tenant: str, after: tuple[str, int]) -> list[tuple[str, int, int | None, bytes]]:
        """Return the next parked events of the tenant and of nobody: source, at, position in the log, bytes."""
        table = parked_event.c
        query = select(table.source, table.at, table.position, table.raw)
        query = query.where(or_(table.tenant == tenant, table.tenant.is_(None)))
        later = or_(table.source > after[0], (table.source == after[0]) & (table.at > after[1]))
        async with self._database.read() as connection:
            rows = await connection.execute(query.where(later).order_by(table.source, table.at).limit(PIECE))
            return [(row.source, row.at, row.position, row.raw) for row in rows]

    async def blank_parked(self, left: Mapping[tuple[str, int], bytes]) -> int:
        """Replace the bytes of parked events by what is left of them; headers of strays go too."""
        table = parked_event.c
        async with self._database.write() as connection:
            await _move(connection)
            for (source, at), raw in left.items():
                mine = update(parked_event).where(table.source == source, table.at == at)
                await connection.execute(mine.values(raw=raw))
                await connection.execute(mine.where(table.event_id.is_(None)).values(headers="[]"))
        return len(left)


def crowded() -> ConfigError:
    """Return the error for a number that would make many contacts one person."""
    return ConfigError(f"more than {CONTACTS_LIMIT} contacts have this number, so it is no one's: name each by an id")


async def _move(connection: AsyncConnection) -> None:
    """Move the generation: the first statement, it holds the row until the commit, and a consumer loses."""
    await connection.execute(update(projection).values(generation=projection.c.generation + 1))


def _emptied(key: Key, row: Row, person: FoundPerson, before: Before) -> tuple[Key, Row]:
    """Return the row without what is the person's and from before."""
    if key.table == "ticket" and key.id not in person.tickets:
        last = row.values["last_message"]
        if not isinstance(last, str) or not any(shows(plain(last), one) for one in person.groups.get(key.id, ())):
            return key, row
    new, left = blanked_row(key, row)
    if key.table == "message_revision":
        return new, left
    keep = {
        name
        for name in COLUMNS[key.table]
        if (version := row.versions.get(name)) is not None and not before.holds(version)
    }
    if not keep:
        return key, left
    values = {**left.values, **{name: row.values[name] for name in keep}}
    versions = {**left.versions, **{name: row.versions[name] for name in keep}}
    return key, Row(known=row.known, values=values, versions=versions)


def _merged(one: Row, other: Row) -> Row:
    """Return two wordings that became the same as one, which is as old as the older one."""
    first = min((one, other), key=lambda row: int(row.values["first_at"] or 0))
    return Row(known=True, values={**first.values}, versions={**other.versions, **one.versions})
