"""This module reads whole logs and projections for the demo: hashes and rows to compare, and totals to show."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, RowMapping, Table, func, select, true

from whatsms_events.domain.acks import LEVELS
from whatsms_events.domain.events import Entity
from whatsms_events.storage import tables
from whatsms_events.storage.database import Database
from whatsms_events.storage.projection.holdings import is_gone

PAGE: Final = 10_000


@dataclass(frozen=True, slots=True)
class Totals:
    """Rows of the projection; `acks` counts messages by the highest level they reached, but for what contacts wrote."""

    tickets: int
    messages: int
    contacts: int
    campaigns: int
    acks: dict[str, int]


async def hashes(log: Database) -> list[bytes]:
    """Return the SHA-256 of the raw bytes of every event that was delivered, in the order of the log.

    There is one per row, so a duplicate would show. Observations of a backfill are not among them: see `observed`.
    """
    delivered = tables.event_log.c.origin == "webhook"
    return [digest async for digest in _hashes(log, tables.event_log, delivered)]


async def parked_hashes(log: Database) -> list[bytes]:
    """Return the SHA-256 of every parked delivery's raw bytes."""
    return [digest async for digest in _hashes(log, tables.parked_delivery, true())]


async def observed(log: Database) -> int:
    """Count the events that no webhook brought."""
    query = select(func.count()).select_from(tables.event_log).where(tables.event_log.c.origin != "webhook")
    async with log.read() as connection:
        return int((await connection.execute(query)).scalar_one())


async def rows(projection: Database, entity: Entity, tenant: str) -> AsyncIterator[RowMapping]:
    """Yield a tenant's rows of an entity, in the order of ids; `gone` follows the rule of `domain.gone`."""
    table = tables.ENTITIES[entity]
    columns = [column for column in table.c if column.name != "gone"]
    query = select(*columns, is_gone(projection, table).label("gone")).where(table.c.tenant == tenant)
    query = query.order_by(table.c.id).limit(PAGE)
    last = ""
    while True:
        async with projection.read() as connection:
            page = (await connection.execute(query.where(table.c.id > last))).mappings().all()
        for row in page:
            yield row
        if not page:
            return
        last = page[-1]["id"]


async def _hashes(log: Database, table: Table, wanted: ColumnElement[bool]) -> AsyncIterator[bytes]:
    key = next(iter(table.primary_key))
    last = None
    while True:
        query = select(key, table.c.sha256).where(wanted).order_by(key).limit(PAGE)
        async with log.read() as connection:
            page = (await connection.execute(query if last is None else query.where(key > last))).all()
        for last, digest in page:  # noqa: B007 - the last key is where the next page begins
            yield digest
        if not page:
            return


async def totals(projection: Database) -> Totals:
    """Count what the projection holds."""
    async with projection.read() as connection:
        tickets, messages, contacts, campaigns = [
            (await connection.execute(select(func.count()).select_from(table))).scalar_one()
            for table in tables.ENTITIES.values()
        ]
        ack, ours = tables.message.c.ack, tables.message.c.from_me.is_not(False)
        levels = await connection.execute(select(ack, func.count()).where(ours, ack.is_not(None)).group_by(ack))
        acks = {LEVELS[level]: count for level, count in levels}
    by_name = {name: acks.get(name, 0) for name in LEVELS.values()}
    return Totals(tickets=tickets, messages=messages, contacts=contacts, campaigns=campaigns, acks=by_name)
