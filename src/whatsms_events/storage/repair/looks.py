"""The table `backfill_look`: how often what is in doubt was looked at while it stood at one position, and when.

A doubt that looks cannot settle is not looked at for ever: it is looked at again only when something new was told.
"""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Final, Literal, NamedTuple

from sqlalchemy import case, delete, literal_column, select
from sqlalchemy.ext.asyncio import AsyncConnection

from whatsms_events.domain.events import Entity, from_micros, to_micros
from whatsms_events.storage.database import CHUNK, among, insert
from whatsms_events.storage.tables import backfill_look

KEPT: Final = timedelta(days=30)
"""A last look that is longer ago than this counts as none."""


Subject = Entity | Literal["last_message", "message_in_list"]


class Doubt(NamedTuple):
    """What is worth a look, and the position that it stands at.

    An entity that is doubtful or a stub, at its highest position (`drift.position`); the same for a message, looked for
    in its ticket's list; or a ticket's last message that no held message explains, with a number made of its text.
    """

    subject: Subject
    id: str
    position: int


class Look(NamedTuple):
    """How often a subject was looked at while it stood at `position`, and when first and last."""

    position: int
    first_at: datetime
    last_at: datetime
    looks: int


async def load(connection: AsyncConnection, tenant: str, subject: Subject, ids: Sequence[str]) -> dict[str, Look]:
    """Return the looks at these subjects by id; those that were never looked at are left out."""
    table = backfill_look.c
    query = select(table.id, table.position, table.first_at, table.last_at, table.looks)
    query = query.where(table.tenant == tenant, table.entity == subject)
    found: dict[str, Look] = {}
    for start in range(0, len(ids), CHUNK):
        some = among(connection, table.id, ids[start : start + CHUNK])
        for one, position, first_at, last_at, looks in await connection.execute(query.where(some)):
            found[one] = Look(position, from_micros(first_at), from_micros(last_at), looks)
    return found


async def not_looked_at(connection: AsyncConnection, tenant: str, doubts: Sequence[Doubt], times: int) -> list[Doubt]:
    """Return those that were looked at fewer than `times` times at their position."""
    found: list[Doubt] = []
    for subject in sorted({doubt.subject for doubt in doubts}):
        mine = [doubt for doubt in doubts if doubt.subject == subject]
        looks = await load(connection, tenant, subject, [doubt.id for doubt in mine])
        for doubt in mine:
            look = looks.get(doubt.id)
            if look is None or look.position != doubt.position or look.looks < times:
                found.append(doubt)
    return found


async def write(connection: AsyncConnection, tenant: str, doubts: Collection[Doubt], now: datetime) -> None:
    """Count one more look at each; the count begins again where its position has changed."""
    if not doubts:
        return
    writing, held = insert(connection, backfill_look), backfill_look.c
    again = held.position == writing.excluded.position
    changes = {
        "position": writing.excluded.position,
        "first_at": case((again, held.first_at), else_=writing.excluded.first_at),
        "last_at": writing.excluded.last_at,
        "looks": case((again, held.looks + 1), else_=literal_column("1")),
    }
    upsert = writing.on_conflict_do_update(index_elements=["tenant", "entity", "id"], set_=changes)
    at = {"tenant": tenant, "first_at": to_micros(now), "last_at": to_micros(now), "looks": 1}
    await connection.execute(
        upsert, [{**at, "entity": subject, "id": one, "position": position} for subject, one, position in doubts]
    )


async def forget(connection: AsyncConnection, tenant: str, now: datetime) -> None:
    """Remove the looks of long ago."""
    old = backfill_look.c.last_at < to_micros(now - KEPT)
    await connection.execute(delete(backfill_look).where(backfill_look.c.tenant == tenant, old))
