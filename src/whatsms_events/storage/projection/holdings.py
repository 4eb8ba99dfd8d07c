"""What backfill and observer ask the projection: rows to compare, ids that should be there, what is in doubt."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Final, Literal

import msgspec
from sqlalchemy import (
    Boolean,
    ColumnElement,
    CompoundSelect,
    Integer,
    Table,
    bindparam,
    func,
    literal_column,
    select,
    tuple_,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from whatsms_events.domain.events import Entity, to_micros
from whatsms_events.domain.last_message import BODY_LIMIT, Told, is_veiled, plain
from whatsms_events.domain.rows import OWN, Key, Row, Version
from whatsms_events.storage import tables
from whatsms_events.storage.columns import UNDELIVERED, UNSURE
from whatsms_events.storage.database import CHUNK, Database, among
from whatsms_events.storage.projection.rows import load
from whatsms_events.storage.repair.looks import Doubt

PAGE_LIMIT: Final = 1000
UNDELIVERED_LIMIT: Final = 10_000
"""So many stuck messages are counted at most: more say nothing new, and each look must be short."""

_UNSURE: Final[tuple[Literal["campaign", "contact", "ticket"], ...]] = ("campaign", "contact", "ticket")

_versions = msgspec.json.Decoder(dict[str, Version])
_contents = msgspec.json.Decoder(dict[str, Any])


class Holdings:
    """The questions. All raise StorageUnavailableError where the projection's database is away."""

    def __init__(self, projection: Database) -> None:
        self._database = projection

    async def rows(self, keys: Collection[Key]) -> dict[Key, Row]:
        """Return those of the rows that exist."""
        async with self._database.read() as connection:
            return await load(connection, keys)

    async def applied_through(self) -> int:
        """Return the position up to which every event is applied, 0 before the first."""
        async with self._database.read() as connection:
            found = (await connection.execute(select(tables.projection.c.applied_through))).scalar_one_or_none()
        return 0 if found is None else int(found)

    async def ids(self, entity: Entity, tenant: str, after: str, limit: int) -> list[tuple[str, bool]]:
        """Return a page of what is held, in the order of ids: id, and whether it is gone."""
        table = tables.ENTITIES[entity].c
        query = select(table.id, is_gone(self._database, tables.ENTITIES[entity]))
        query = query.where(table.tenant == tenant, table.id > after).order_by(table.id).limit(min(limit, PAGE_LIMIT))
        async with self._database.read() as connection:
            return [(one, bool(gone)) for one, gone in await connection.execute(query)]

    async def count(self, entity: Entity, tenant: str) -> int:
        """Return how many are held that are not gone."""
        table, there = tables.ENTITIES[entity], is_gone(self._database, tables.ENTITIES[entity]).is_not(True)
        query = select(func.count()).select_from(table).where(table.c.tenant == tenant, there)
        async with self._database.read() as connection:
            return int((await connection.execute(query)).scalar_one())

    async def unsure(self, tenant: str, limit: int, after: tuple[str, str] = ("", "")) -> list[Doubt]:
        """Return campaigns, then contacts, then tickets that are doubtful or only named by others, in the order of ids.

        Those that are gone are left out: the vendor has no more to say about them.
        """
        found: list[Doubt] = []
        async with self._database.read() as connection:
            for entity in _UNSURE:
                if entity < after[0] or len(found) >= limit:
                    continue
                table = tables.ENTITIES[entity].c
                query = select(table.id, table.versions).where(table.tenant == tenant, UNSURE)
                query = query.where(is_gone(self._database, tables.ENTITIES[entity]).is_not(True))
                query = query.where(table.id > (after[1] if entity == after[0] else ""))
                rows = await connection.execute(query.order_by(table.id).limit(min(limit, PAGE_LIMIT) - len(found)))
                found += [Doubt(entity, one, _position(versions)) for one, versions in rows]
        return found

    async def unsure_messages(
        self,
        tenant: str,
        limit: int,
        after: tuple[str, str] | None = None,
        ticket_ids: Sequence[str] | None = None,
    ) -> list[tuple[str, Doubt]]:
        """Return messages that are doubtful or known by an ack only, each with its ticket, in the order of both ids.

        Of all tickets, or of at most CHUNK. Messages that are gone or have no ticket are left out: no list shows them.
        """
        table = tables.message.c
        query = select(table.ticket_id, table.id, table.versions).where(table.tenant == tenant, UNSURE)
        query = query.where(is_gone(self._database, tables.message).is_not(True), table.ticket_id.is_not(None))
        if after is not None:  # SQLite uses one condition for the index, and prefers this one to that on the tickets
            query = query.where(tuple_(table.ticket_id, table.id) > tuple_(*after))
        query = query.order_by(table.ticket_id, table.id).limit(min(limit, PAGE_LIMIT))
        async with self._database.read() as connection:
            if ticket_ids is not None:
                query = query.where(among(connection, table.ticket_id, ticket_ids))
            rows = await connection.execute(query)
            return [(of, Doubt("message", one, _position(versions))) for of, one, versions in rows]

    async def recent_messages(
        self, tenant: str, ticket_ids: Sequence[str], per_ticket: int = 20
    ) -> dict[str, list[Told]]:
        """Return what was told of each ticket's last messages, newest first, texts cut to BODY_LIMIT characters.

        Those without a time come last, at most `per_ticket` more. Messages known by an ack only are left out.
        """
        found: dict[str, list[Told]] = {one: [] for one in ticket_ids}
        async with self._database.read() as connection:
            rows: list[Any] = []
            for one in found:
                rows += await connection.execute(_RECENT, {"tenant": tenant, "ticket_id": one, "limit": per_ticket})
            wordings = await _wordings(connection, tenant, [row.id for row in rows])
        for row in sorted(rows, key=lambda row: (row.created_at or 0, row.id), reverse=True):
            found[row.ticket_id].append(_told(row, wordings.get(row.id, ())))
        return found

    async def message_ids(self, tenant: str, ticket_id: str, after: str, limit: int) -> list[str]:
        """Return a page of the ids of a ticket's messages, in their order, but for those that are gone."""
        table, there = tables.message.c, is_gone(self._database, tables.message).is_not(True)
        query = select(table.id).where(table.tenant == tenant, table.ticket_id == ticket_id, there)
        query = query.where(table.id > after).order_by(table.id).limit(min(limit, PAGE_LIMIT))
        async with self._database.read() as connection:
            return list((await connection.execute(query)).scalars())

    async def undelivered(self, tenant: str, since: datetime, until: datetime) -> int:
        """Count our messages of that time that were not delivered, deleted or failed, up to UNDELIVERED_LIMIT.

        A message whose creation time nobody told is left out.
        """
        table = tables.message.c
        query = select(table.tenant).where(table.tenant == tenant, UNDELIVERED, table.deleted.is_not(True))
        query = query.where(table.created_at >= to_micros(since), table.created_at < to_micros(until))
        stuck = query.limit(UNDELIVERED_LIMIT).subquery()
        async with self._database.read() as connection:
            return int((await connection.execute(select(func.count()).select_from(stuck))).scalar_one())


_GONE: Final = {
    "sqlite": """({name}.gone IS TRUE AND NOT EXISTS (
        SELECT 1 FROM json_each({name}.versions) AS told
        WHERE json_extract(told.value, '$[1]') >= {own}
        AND (json_extract(told.value, '$[0]') > json_extract({name}.versions, '$.gone[0]')
            OR json_extract(told.value, '$[2]') > json_extract({name}.versions, '$.gone[2]'))))""",
    "postgresql": """({name}.gone IS TRUE AND NOT EXISTS (
        SELECT 1 FROM jsonb_each({name}.versions::jsonb) AS told
        WHERE (told.value ->> 1)::bigint >= {own}
        AND ((told.value ->> 0)::bigint > ({name}.versions::jsonb #>> '{{gone,0}}')::bigint
            OR (told.value ->> 2)::bigint > ({name}.versions::jsonb #>> '{{gone,2}}')::bigint)))""",
}


def is_gone(database: Database, table: Table) -> ColumnElement[bool]:
    """Return the condition that a row's thing is gone: `domain.gone.is_gone`, which says why."""
    return literal_column(_GONE[database.dialect].format(name=table.name, own=OWN), Boolean)


def _position(versions: str) -> int:
    return max((version.latest for version in _versions.decode(versions).values()), default=0)


def _recent() -> CompoundSelect[Any]:
    """Ask for a ticket's last messages in two questions: the databases sort a missing time to different ends."""
    table, limit = tables.message.c, bindparam("limit", type_=Integer)
    body = func.substr(table.body, 1, BODY_LIMIT).label("body")
    linked = table.media_url.is_not(None).label("linked")
    query = select(table.ticket_id, table.id, table.created_at, body, table.media_type, linked, table.deleted)
    query = query.where(table.tenant == bindparam("tenant"), table.ticket_id == bindparam("ticket_id")).limit(limit)
    query = query.where(table.body.is_not(None) | table.media_type.is_not(None) | table.media_url.is_not(None))
    timed = query.where(table.created_at.is_not(None)).order_by(table.created_at.desc(), table.id.desc())
    untimed = query.where(table.created_at.is_(None)).order_by(table.id.desc())
    # SQLite takes an ORDER BY within a term only in a subquery.
    return union_all(*(select(part.subquery()) for part in (timed, untimed)))


_RECENT: Final = _recent()
"""The statement for one ticket. A statement for many tickets would be built again for each number of them, and building
it would hold up the process for longer than it takes to ask for one ticket after the other.
"""


def _told(row: Any, wordings: Sequence[str]) -> Told:
    texts = dict.fromkeys(plain(text) for text in (row.body, *wordings) if text is not None)
    return Told(
        tuple(texts), is_veiled(row.body, row.media_type, linked=row.linked, deleted=row.deleted), row.created_at
    )


async def _wordings(connection: AsyncConnection, tenant: str, ids: Sequence[str]) -> dict[str, list[str]]:
    """Return the bodies of each message's revisions, but for very long ones."""
    table = tables.message_revision.c
    query = select(table.message_id, table.content).order_by(table.first_at.desc(), table.digest)
    query = query.where(table.tenant == tenant, func.length(table.content) <= 8 * BODY_LIMIT)
    found: dict[str, list[str]] = {}
    for start in range(0, len(ids), CHUNK):
        some = ids[start : start + CHUNK]
        for message_id, content in await connection.execute(query.where(among(connection, table.message_id, some))):
            body = _contents.decode(content).get("body")
            if isinstance(body, str):
                found.setdefault(message_id, []).append(body[:BODY_LIMIT])
    return found
