"""How far a backfill got, kept so that it goes on after a crash: its run, and an item for each entity it is about.

Every verb that writes is one transaction and begins by updating its run's row. If another process has taken up the run
since, the row has another generation: so a process that froze and wakes up can no longer write.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Final, Literal

import msgspec
from sqlalchemy import ColumnElement, Integer, RowMapping, bindparam, delete, exists, func, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from whatsms_events.domain.drift import Finding
from whatsms_events.domain.events import Entity, from_micros, to_micros
from whatsms_events.domain.repair import RELISTED, WAITING, State
from whatsms_events.errors import FencedError, StorageUnavailableError
from whatsms_events.storage.columns import UNFINISHED, WANTED
from whatsms_events.storage.database import CHUNK, among, insert
from whatsms_events.storage.repair import looks as look_rows
from whatsms_events.storage.repair.looks import Doubt
from whatsms_events.storage.repair.reports import RUN, Kind, Options, Reports, Run, read_run
from whatsms_events.storage.tables import backfill_drift, backfill_item, backfill_run

SWEEP: Final = 5000
"""Items removed in one transaction: a million of them would lock SQLite for ten seconds."""

RUNS_KEPT: Final = 20
"""Finished runs of a tenant and kind that are kept, with what they found: repairs do not push reconciles out."""


@dataclass(frozen=True, slots=True)
class Item:
    """One entity of a run. `as_of` is the vendor's time of the answer, `log_end` the log's end before the request.

    `payload` is the worker's own; `raw` and `found` (the event's JSON) are what is to be appended. `messages`: for
    a ticket, whether its messages are to be read. `ticket_id`: for a message, the ticket whose list showed it.
    """

    entity: Entity
    id: str
    state: State
    due_at: datetime
    as_of: datetime | None
    log_end: int
    rounds: int = 0
    payload: bytes | None = None
    ticket_id: str | None = None
    messages: Literal["none", "wanted", "done"] = "none"
    raw: bytes | None = None
    found: bytes | None = None


_KEY: Final = ("run", "entity", "id")
_ITEM: Final = [backfill_item.c[field.name] for field in fields(Item)]

_IN_STATE: Final = backfill_item.c.run == bindparam("run"), backfill_item.c.state == bindparam("state")
_FIRST_DUE: Final = select(func.min(backfill_item.c.due_at)).where(*_IN_STATE)
_DUE: Final = (
    select(*_ITEM)
    .where(*_IN_STATE, backfill_item.c.due_at <= bindparam("now"))
    .order_by(backfill_item.c.due_at, backfill_item.c.entity, backfill_item.c.id)
    .limit(bindparam("limit", type_=Integer))
)
"""A run asks these two questions at each step, so their statements are built once."""


class Checkpoints(Reports):
    """What the process of a run reads and writes. Reading verbs raise StorageUnavailableError, as `Reports` does."""

    async def begin(self, tenant: str, kind: Kind, cause: str, options: Options, now: datetime) -> Run:
        """Take up the tenant's unfinished run, of any kind, else begin this one; the process that had it is fenced.

        If several begin at once, one makes the run and the others take it up. Raises StorageUnavailableError.
        """
        mine = backfill_run.c.tenant == tenant, UNFINISHED
        moved = {"generation": backfill_run.c.generation + 1, "updated_at": to_micros(now)}
        take_up = update(backfill_run).where(*mine).values(moved).returning(*RUN)
        new = {
            "tenant": tenant,
            "kind": kind,
            "cause": cause,
            "options": msgspec.json.encode(options).decode(),
            "generation": 1,
            "started_at": to_micros(now),
            "updated_at": to_micros(now),
            "progress": "{}",
        }
        async with self._database.write() as connection:
            make = insert(connection, backfill_run).values(new)
            make = make.on_conflict_do_nothing(index_elements=["tenant"], index_where=UNFINISHED)
            # On PostgreSQL another one may make its run in between: the INSERT waits for it and makes none.
            for attempt in (take_up, make.returning(*RUN), take_up):
                row = (await connection.execute(attempt)).mappings().one_or_none()
                if row is not None:
                    return read_run(row)
        raise StorageUnavailableError("another process began and finished a run at this very moment")

    async def save(
        self,
        run: Run,
        progress: bytes,
        *,
        now: datetime,
        items: Sequence[Item] = (),
        drift: Sequence[Finding] = (),
        looks: Sequence[Doubt] = (),
    ) -> None:
        """Save the run's progress with whole items, what was found, and what was looked at, or nothing.

        Another look at the same position is counted. Raises FencedError, UnstorableError, StorageUnavailableError.
        """
        async with self._database.write() as connection:
            await _move(connection, run, now, progress=progress.decode())
            await _write_items(connection, run, items)
            await _write_drift(connection, run, drift, now)
            await look_rows.write(connection, run.tenant, looks, now)

    async def list_items(self, run: Run, items: Sequence[Item], progress: bytes, *, now: datetime) -> int:
        """Save what a page showed and return how many ids the run had not seen.

        They replace the items that a page may still change (`RELISTED`); other items stay as they are.
        Raises as `save`.
        """
        async with self._database.write() as connection:
            await _move(connection, run, now, progress=progress.decode())
            fresh = {(item.entity, item.id) for item in items}
            for entity in {item.entity for item in items}:
                ids = [item.id for item in items if item.entity == entity]
                fresh -= {(entity, one) for one in await _shown(connection, run, entity, ids)}
            state = backfill_item.c.state
            await _write_items(connection, run, items, or_(*(state == one for one in RELISTED)))
        return len(fresh)

    async def finish(self, run: Run, report: bytes, now: datetime) -> None:
        """Close the run with its report and remove its items, as many as `sweep` takes at once.

        The last RUNS_KEPT runs of the kind stay, with what they found. Raises as `save`.
        """
        table = backfill_run.c
        done = select(table.run).where(
            table.tenant == run.tenant, table.kind == run.kind, table.finished_at.is_not(None)
        )
        async with self._database.write() as connection:
            await _move(connection, run, now, finished_at=to_micros(now), report=report.decode())
            await _sweep(connection)
            old = list((await connection.execute(done.order_by(table.run.desc()).offset(RUNS_KEPT))).scalars())
            await connection.execute(delete(backfill_drift).where(backfill_drift.c.run.in_(old)))
            await connection.execute(delete(backfill_run).where(table.run.in_(old)))
            await look_rows.forget(connection, run.tenant, now)

    async def stop(self, tenant: str, by: str, now: datetime, *, run: int | None = None) -> int | None:
        """End the tenant's unfinished run, whichever process has it, and return its number; None where there is none.

        Where `run` is given, only the run of that number is ended. The process that has it is fenced: its next save
        fails. What the run found stays, its items go with the next `sweep`.
        """
        mine = backfill_run.c.tenant == tenant, UNFINISHED
        over = {
            "generation": backfill_run.c.generation + 1,
            "updated_at": to_micros(now),
            "finished_at": to_micros(now),
            "stopped_by": by,
        }
        end = update(backfill_run).where(*mine).values(over).returning(backfill_run.c.run)
        if run is not None:
            end = end.where(backfill_run.c.run == run)
        async with self._database.write() as connection:
            stopped: int | None = (await connection.execute(end)).scalar_one_or_none()
        return stopped

    async def sweep(self) -> int:
        """Remove items of finished runs and return how many: at most SWEEP, since SQLite is locked meanwhile."""
        async with self._database.read() as connection:
            if not await _over(connection):
                return 0
        async with self._database.write() as connection:
            return await _sweep(connection)

    async def due(self, run: Run, states: Sequence[State], now: datetime, limit: int) -> list[Item]:
        """Return at most `limit` items in these states whose time has come, the longest due first."""
        asked = {"run": run.number, "now": to_micros(now), "limit": min(limit, CHUNK)}
        found: list[Item] = []
        async with self._database.read() as connection:
            for state in states:  # one by one by the index: for all at once the database would sort every item
                rows = await connection.execute(_DUE, {**asked, "state": state})
                found += [_item(row) for row in rows.mappings()]
        return sorted(found, key=lambda item: (item.due_at, item.entity, item.id))[:limit]

    async def pull_in(self, run: Run, latest: datetime, *, now: datetime) -> None:
        """Let no item wait beyond `latest`, as one may after a clock was set back. Raises as `save`."""
        table = backfill_item.c
        later = table.run == run.number, table.state.in_((*WAITING, "missing")), table.due_at > to_micros(latest)
        async with self._database.read() as connection:
            if not (await connection.execute(select(exists().where(*later)))).scalar_one():
                return
        async with self._database.write() as connection:
            await _move(connection, run, now)
            await connection.execute(update(backfill_item).where(*later).values(due_at=to_micros(latest)))

    async def next_due(self, run: Run, states: Sequence[State] = WAITING) -> datetime | None:
        """Return when the next item in these states is due, None where no item is in any of them."""
        async with self._database.read() as connection:
            firsts = [await connection.scalar(_FIRST_DUE, {"run": run.number, "state": state}) for state in states]
        found = [at for at in firsts if at is not None]
        return from_micros(min(found)) if found else None

    async def count(self, run: Run) -> Counter[tuple[Entity, State]]:
        """Return how many items of each entity are in each state."""
        table = backfill_item.c
        query = select(table.entity, table.state, func.count()).where(table.run == run.number)
        async with self._database.read() as connection:
            # State first, as in the index: else SQLite reads every row.
            rows = await connection.execute(query.group_by(table.state, table.entity))
            return Counter({(entity, state): count for entity, state, count in rows})

    async def shown(self, run: Run, entity: Entity, ids: Sequence[str]) -> set[str]:
        """Return which of these ids have an item."""
        async with self._database.read() as connection:
            return await _shown(connection, run, entity, ids)

    async def tickets_to_read(self, run: Run, limit: int) -> list[Item]:
        """Return tickets whose messages are wanted, by id."""
        table = backfill_item.c
        query = select(*_ITEM).where(table.run == run.number, WANTED).order_by(table.entity, table.id)
        async with self._database.read() as connection:
            rows = await connection.execute(query.limit(min(limit, CHUNK)))
            return [_item(row) for row in rows.mappings()]

    async def not_looked_at(self, tenant: str, doubts: Sequence[Doubt], times: int = 1) -> list[Doubt]:
        """Return those that were looked at fewer than `times` times at their position."""
        async with self._database.read() as connection:
            return await look_rows.not_looked_at(connection, tenant, doubts, times)


async def _move(connection: AsyncConnection, run: Run, now: datetime, **changes: object) -> None:
    """Write the run's row, or raise FencedError: the first statement, it holds the row until the commit."""
    mine = backfill_run.c.run == run.number, backfill_run.c.generation == run.generation, UNFINISHED
    moved = await connection.execute(update(backfill_run).where(*mine).values(updated_at=to_micros(now), **changes))
    if moved.rowcount != 1:
        raise FencedError(f"backfill run {run.number} is over, or another process goes on with it")


async def _over(connection: AsyncConnection) -> list[int]:
    """Return the runs that are over and have items left, found by the key without reading all items.

    The unfinished runs are read afterwards, so that a run that began meanwhile is among them.
    """
    found: list[int] = []
    following = select(func.min(backfill_item.c.run))
    while True:
        after = backfill_item.c.run > (found[-1] if found else -1)
        number = (await connection.execute(following.where(after))).scalar()
        if number is None:
            break
        found.append(number)
    unfinished = set((await connection.execute(select(backfill_run.c.run).where(UNFINISHED))).scalars())
    return [number for number in found if number not in unfinished]


async def _sweep(connection: AsyncConnection) -> int:
    table = backfill_item.c
    key = (table.run, table.entity, table.id)
    some = select(*key).where(table.run.in_(await _over(connection))).limit(SWEEP)
    return (await connection.execute(delete(backfill_item).where(tuple_(*key).in_(some)))).rowcount


async def _shown(connection: AsyncConnection, run: Run, entity: Entity, ids: Sequence[str]) -> set[str]:
    table = backfill_item.c
    query = select(table.id).where(table.run == run.number, table.entity == entity)
    found: set[str] = set()
    for start in range(0, len(ids), CHUNK):
        some = among(connection, table.id, ids[start : start + CHUNK])
        found.update((await connection.execute(query.where(some))).scalars())
    return found


async def _write_items(
    connection: AsyncConnection, run: Run, items: Sequence[Item], where: ColumnElement[bool] | None = None
) -> None:
    if items:
        writing = insert(connection, backfill_item)
        changes = {column.name: writing.excluded[column.name] for column in _ITEM if not column.primary_key}
        upsert = writing.on_conflict_do_update(index_elements=_KEY, set_=changes, where=where)
        await connection.execute(upsert, [_columns(run, item) for item in items])


def _columns(run: Run, item: Item) -> dict[str, Any]:
    values = {field.name: getattr(item, field.name) for field in fields(Item)}
    as_of = None if item.as_of is None else to_micros(item.as_of)
    return {"run": run.number, **values, "due_at": to_micros(item.due_at), "as_of": as_of}


def _item(row: RowMapping) -> Item:
    as_of = None if row["as_of"] is None else from_micros(row["as_of"])
    values: dict[str, Any] = {**row, "due_at": from_micros(row["due_at"]), "as_of": as_of}
    return Item(**values)


async def _write_drift(connection: AsyncConnection, run: Run, drift: Sequence[Finding], now: datetime) -> None:
    """Write what was found; the same entity and kind again, read in a later round, is one finding."""
    if drift:
        writing = insert(connection, backfill_drift)
        changes = {name: writing.excluded[name] for name in ("fields", "age_s")}
        upsert = writing.on_conflict_do_update(index_elements=[*_KEY, "kind"], set_=changes)
        rows = [
            {
                "run": run.number,
                "entity": one.entity,
                "id": one.id,
                "kind": one.kind,
                "fields": msgspec.json.encode(one.fields).decode(),
                "age_s": one.age_s,
                "found_at": to_micros(now),
            }
            for one in drift
        ]
        await connection.execute(upsert, rows)
