"""This module keeps the relay's row, which says what is known to be visible in Kafka.

There is one row for each topic prefix, and only the relay that opened last may change it.
"""

from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from whatsms_events.domain.events import to_micros
from whatsms_events.domain.resume import Published, Route
from whatsms_events.errors import FencedError, IntegrityError, UnstorableError
from whatsms_events.storage.database import Database
from whatsms_events.storage.tables import relay


class _Route(msgspec.Struct, frozen=True):
    through: int
    counts: dict[str, int]


class _Stored(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON column: everything but the lower bound itself."""

    log_id: UUID
    generation: int
    event_id: UUID | None
    counts: dict[str, int]
    routes: list[_Route]
    visible: dict[str, dict[int, int]]  # topic -> partition -> position


_decoder = msgspec.json.Decoder(_Stored)


class RelayRows:
    """The table `relay`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, prefix: str) -> Published | None:
        """Return what is known to be visible under this prefix; None before the first opening."""
        async with self._database.read() as connection:
            return await _find(connection, prefix, lock=False)

    async def known(self, prefix: str, log_id: UUID) -> Published:
        """Return what `claim` would return, and take nothing. Raises IntegrityError for another log's row."""
        found = await self.load(prefix)
        return Published(log_id=log_id, generation=0) if found is None else _own(found, prefix, log_id)

    async def claim(self, prefix: str, log_id: UUID, now: datetime) -> Published:
        """Take a new generation, so that no older relay can save any more, and return what is known.

        Call it after the older producers are fenced and before the opening abort. That abort ends the open records of
        an older relay; if the older relay still runs, it may take them for visible, and must not save that as the
        lower bound. Raises IntegrityError for another log's row, FencedError where another opening came first.
        """
        try:
            return await self._claim(prefix, log_id, now)
        except UnstorableError as exc:  # two first openings at the same moment: the other one made the row
            raise FencedError(f"another relay opened topic prefix {prefix}") from exc

    async def _claim(self, prefix: str, log_id: UUID, now: datetime) -> Published:
        async with self._database.write() as connection:
            found = await _find(connection, prefix, lock=True)
            if found is None:
                claimed = Published(log_id=log_id, generation=1)
                await connection.execute(insert(relay).values(prefix=prefix, **_columns(claimed, now)))
                return claimed
            claimed = replace(_own(found, prefix, log_id), generation=found.generation + 1)
            await _write(connection, prefix, claimed, now)
            return claimed

    async def save(self, prefix: str, published: Published, now: datetime) -> None:
        """Save what is known to be visible. Raises FencedError where another opening has claimed the row since."""
        async with self._database.write() as connection:
            found = await _find(connection, prefix, lock=True)
            if found is None or found.generation != published.generation:
                raise FencedError(f"another relay opened topic prefix {prefix}")
            await _write(connection, prefix, published, now)

    async def forget(self, prefix: str) -> None:
        """Remove the row of a prefix to which nothing will be published any more."""
        async with self._database.write() as connection:
            await connection.execute(delete(relay).where(relay.c.prefix == prefix))


def _own(found: Published, prefix: str, log_id: UUID) -> Published:
    if found.log_id != log_id:
        raise IntegrityError(
            f"topic prefix {prefix} belongs to log {found.log_id}, this is log {log_id}: use another prefix"
        )
    return found


async def _find(connection: AsyncConnection, prefix: str, *, lock: bool) -> Published | None:
    query = select(relay.c.published_through, relay.c.partitions).where(relay.c.prefix == prefix)
    # PostgreSQL needs the row lock between reading and writing; a writing transaction of SQLite is alone anyway.
    row = (await connection.execute(query.with_for_update() if lock else query)).one_or_none()
    if row is None:
        return None
    stored = _decoder.decode(row.partitions)
    return Published(
        log_id=stored.log_id,
        generation=stored.generation,
        published_through=row.published_through,
        event_id=stored.event_id,
        counts=stored.counts,
        routes=tuple(Route(route.through, route.counts) for route in stored.routes),
        visible={(topic, number): at for topic, parts in stored.visible.items() for number, at in parts.items()},
    )


async def _write(connection: AsyncConnection, prefix: str, published: Published, now: datetime) -> None:
    await connection.execute(update(relay).where(relay.c.prefix == prefix).values(**_columns(published, now)))


def _columns(published: Published, now: datetime) -> dict[str, Any]:
    visible: dict[str, dict[int, int]] = {}
    for (topic, number), at in sorted(published.visible.items()):
        visible.setdefault(topic, {})[number] = at
    stored = _Stored(
        log_id=published.log_id,
        generation=published.generation,
        event_id=published.event_id,
        counts=dict(published.counts),
        routes=[_Route(route.through, dict(route.counts)) for route in published.routes],
        visible=visible,
    )
    return {
        "published_through": published.published_through,
        "partitions": msgspec.json.encode(stored).decode(),
        "updated_at": to_micros(now),
    }
