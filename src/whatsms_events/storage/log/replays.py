"""Which replays were begun, and how they ended. How far one is stands in what it writes: its shadow, or its topics."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

import msgspec
from sqlalchemy import RowMapping, select, update

from whatsms_events.domain.events import from_micros, to_micros
from whatsms_events.domain.replay import Selection
from whatsms_events.storage.database import Database, insert
from whatsms_events.storage.tables import replay

SHOWN: Final = 20

ReplayTarget = Literal["projection", "kafka"]

_selections = msgspec.json.Decoder(Selection)


@dataclass(frozen=True, slots=True)
class ReplayRun:
    """One replay: where it writes to (`prefix` of the shadow topics), what it takes, and how it ended."""

    id: UUID
    target: ReplayTarget
    prefix: str
    selection: Selection
    release: str
    started_at: datetime
    finished_at: datetime | None = None
    outcome: str | None = None


class Replays:
    """The table. All verbs raise StorageUnavailableError where the log's database is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, run: ReplayRun) -> ReplayRun:
        """Return the unfinished replay of this target and prefix; where there is none, this one is it from now on."""
        values = {
            "id": run.id,
            "target": run.target,
            "prefix": run.prefix,
            "selection": msgspec.json.encode(run.selection).decode(),
            "release": run.release,
            "started_at": to_micros(run.started_at),
        }
        async with self._database.write() as connection:
            await connection.execute(insert(connection, replay).values(**values).on_conflict_do_nothing())
        found = await self.unfinished(run.target, run.prefix)
        return run if found is None else found

    async def unfinished(self, target: ReplayTarget, prefix: str = "") -> ReplayRun | None:
        """Return the replay of this target and prefix that is not finished."""
        mine = replay.c.target == target, replay.c.prefix == prefix, replay.c.finished_at.is_(None)
        async with self._database.read() as connection:
            row = (await connection.execute(select(replay).where(*mine))).mappings().one_or_none()
        return None if row is None else _run(row)

    async def finish(self, run: ReplayRun, outcome: str, now: datetime) -> None:
        """Say how it ended."""
        ended = update(replay).where(replay.c.id == run.id).values(finished_at=to_micros(now), outcome=outcome)
        async with self._database.write() as connection:
            await connection.execute(ended)

    async def latest(self, limit: int = SHOWN) -> list[ReplayRun]:
        """Return the last ones, the latest first."""
        query = select(replay).order_by(replay.c.started_at.desc(), replay.c.id).limit(limit)
        async with self._database.read() as connection:
            return [_run(row) for row in (await connection.execute(query)).mappings()]


def _run(row: RowMapping) -> ReplayRun:
    finished_at = row["finished_at"]
    return ReplayRun(
        id=row["id"],
        target=row["target"],
        prefix=row["prefix"],
        selection=_selections.decode(row["selection"]),
        release=row["release"],
        started_at=from_micros(row["started_at"]),
        finished_at=None if finished_at is None else from_micros(finished_at),
        outcome=row["outcome"],
    )
