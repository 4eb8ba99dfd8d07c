"""A log and a projection in, what they hold out: hashes to compare with a sender's ledger, and totals to show."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Table, func, select

from whatsms_events.domain.acks import LEVELS
from whatsms_events.storage import tables
from whatsms_events.storage.database import Database

PAGE: Final = 10_000


@dataclass(frozen=True, slots=True)
class Totals:
    """Rows of the projection; `acks` counts messages by the name of the highest level they reached."""

    tickets: int
    messages: int
    contacts: int
    campaigns: int
    acks: dict[str, int]


async def hashes(log: Database) -> list[bytes]:
    """Return the SHA-256 of every event's raw bytes in the order of the log: one per row, so a double would show."""
    return [digest async for digest in _hashes(log, tables.event_log)]


async def parked_hashes(log: Database) -> list[bytes]:
    """Return the SHA-256 of every parked delivery's raw bytes."""
    return [digest async for digest in _hashes(log, tables.parked_delivery)]


async def _hashes(log: Database, table: Table) -> AsyncIterator[bytes]:
    key = next(iter(table.primary_key))
    last = None
    while True:
        query = select(key, table.c.sha256).order_by(key).limit(PAGE)
        async with log.read() as connection:
            rows = (await connection.execute(query if last is None else query.where(key > last))).all()
        for last, digest in rows:  # noqa: B007 - the last key is where the next page begins
            yield digest
        if not rows:
            return


async def totals(projection: Database) -> Totals:
    """Count what the projection holds."""
    counted = (tables.ticket, tables.message, tables.contact, tables.campaign)
    async with projection.read() as connection:
        tickets, messages, contacts, campaigns = [
            (await connection.execute(select(func.count()).select_from(table))).scalar_one() for table in counted
        ]
        ack = tables.message.c.ack
        levels = await connection.execute(select(ack, func.count()).where(ack.is_not(None)).group_by(ack))
        acks = {LEVELS[level]: count for level, count in levels}
    by_name = {name: acks.get(name, 0) for name in LEVELS.values()}
    return Totals(tickets=tickets, messages=messages, contacts=contacts, campaigns=campaigns, acks=by_name)
