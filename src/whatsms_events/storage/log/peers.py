"""The processes that serve, and what each tells of its own roles: so a person may ask any of them about all.

Each writes its row every BEAT_S seconds, at once where a role is another way, and removes it when it stops. A process
that wrote nothing for HEARD_S was killed, is frozen, or does not reach the log. Ages are by the database's clock, since
clocks of two machines differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import msgspec
from sqlalchemy import BigInteger, ColumnElement, delete, literal_column, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from whatsms_events.domain.events import from_micros, to_micros
from whatsms_events.domain.standing import PeerReport
from whatsms_events.storage.database import Database, insert
from whatsms_events.storage.tables import peer

BEAT_S: Final = 10.0

HEARD_S: Final = 35.0
"""Three rows may be late, or fail, before a process counts as not heard of."""

KEPT_S: Final = 86_400.0
"""So long a row of a process that was killed stays: whoever comes in the morning sees who went at night."""

PEERS_LIMIT: Final = 100
"""A process that is killed and started again for ever, each time by another name, leaves no more rows than that."""

AHEAD_US: Final = 1_000_000
"""A row that is so far ahead was written before the database's clock was set back."""

_NOW: Final = {
    "postgresql": "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS bigint)",
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000000.0 AS INTEGER)",
}
"""The database's clock, in microseconds since 1970."""

_decoder = msgspec.json.Decoder(PeerReport)


@dataclass(frozen=True, slots=True)
class PeerId:
    """A process. Its name is that of its machine, or container, and its number there: two may have the same one."""

    name: str
    started_at: datetime


@dataclass(frozen=True, slots=True)
class Peer:
    """A process by what it told last, `silent_s` ago. `report` is None where another release told what is not read."""

    which: PeerId
    silent_s: float
    report: PeerReport | None

    @property
    def heard(self) -> bool:
        """Tell whether it still tells of itself."""
        return self.silent_s < HEARD_S


class Peers:
    """The table. All verbs raise StorageUnavailableError where the database is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def tell(self, which: PeerId, report: PeerReport) -> None:
        """Write the row of a process, and remove those that are too old, or too many.

        Those that are still to come, by a clock that was set back, count from now.
        """
        table, told = peer.c, msgspec.json.encode(report).decode()
        async with self._database.write() as connection:
            now = _now(connection)
            newest = select(table.seen_at).order_by(table.seen_at.desc()).offset(PEERS_LIMIT).limit(1)
            too_many, too_old = table.seen_at <= newest.scalar_subquery(), table.seen_at < now - int(KEPT_S * 1e6)
            await connection.execute(delete(peer).where(too_old | too_many))
            ahead = table.seen_at > now + AHEAD_US  # or a killed process would be heard of until then
            await connection.execute(update(peer).where(ahead).values(seen_at=now))
            row = {"name": which.name, "started_at": to_micros(which.started_at), "seen_at": now, "told": told}
            keys = ["name", "started_at"]
            written = insert(connection, peer).values(row)
            await connection.execute(written.on_conflict_do_update(index_elements=keys, set_=row))

    async def leave(self, which: PeerId) -> None:
        """Remove the row of a process that stops."""
        mine = peer.c.name == which.name, peer.c.started_at == to_micros(which.started_at)
        async with self._database.write() as connection:
            await connection.execute(delete(peer).where(*mine))

    async def all(self) -> Sequence[Peer]:
        """Return those that told of themselves within KEPT_S, by name: PEERS_LIMIT at most, the last heard of."""
        async with self._database.read() as connection:
            silent = (_now(connection) - peer.c.seen_at).label("silent")
            query = select(peer.c.name, peer.c.started_at, peer.c.told, silent)
            query = query.where(silent < int(KEPT_S * 1e6)).order_by(silent).limit(PEERS_LIMIT)
            rows = (await connection.execute(query)).all()
        found = [
            Peer(PeerId(row.name, from_micros(row.started_at)), max(0, row.silent) / 1e6, _report(row.told))
            for row in rows
        ]
        return sorted(found, key=lambda one: (one.which.name, one.which.started_at))


def _now(connection: AsyncConnection) -> ColumnElement[int]:
    return literal_column(_NOW[connection.dialect.name], BigInteger)


def _report(told: str) -> PeerReport | None:
    try:
        return _decoder.decode(told)
    except msgspec.MsgspecError:
        return None
