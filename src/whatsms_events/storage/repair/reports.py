"""Backfill runs as their readers see them: how each went, what it found, and how every tenant stands.

Every process may ask these questions; `runs` holds what only the process of the run may write.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal

import msgspec
from sqlalchemy import RowMapping, func, literal, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from whatsms_events.domain.events import Entity, from_micros
from whatsms_events.domain.repair import BY_ID, State
from whatsms_events.storage.database import Database
from whatsms_events.storage.reads import RowPage
from whatsms_events.storage.tables import backfill_drift, backfill_item, backfill_run

PAGE_LIMIT: Final = 500

Kind = Literal["reconcile", "repair"]
"""Everything the vendor shows, or only what we hold in doubt."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a run works: which details it reads by id, and of which tickets it reads the messages.

    `allow_gone`: it may mark any number as gone that the vendor does not have.
    """

    details: Literal["all", "changed"] = "all"
    messages: Literal["off", "narrow", "full"] = "off"
    allow_gone: bool = False

    def __str__(self) -> str:
        gone = ", any number may be gone" if self.allow_gone else ""
        return f"details {self.details}, messages {self.messages}{gone}"


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one tenant, as the process that took it up holds it. `progress` is the worker's own JSON."""

    number: int
    tenant: str
    kind: Kind
    cause: str
    options: Options
    generation: int
    started_at: datetime
    progress: bytes

    @property
    def resumed(self) -> bool:
        """Tell whether another process, or an earlier life of this one, began it."""
        return self.generation > 1


class ItemCounts(msgspec.Struct, frozen=True):
    """How many items of a run are not `done`, and how many of those still need an answer of the vendor.

    The worker counts, once in a while, and saves this in its progress as `items`: to count a million takes long, and
    many may ask.
    """

    remaining: int = 0
    unread: int = 0


class _Saved(msgspec.Struct, frozen=True):
    """What is read here of the worker's progress."""

    items: ItemCounts | None = None


@dataclass(frozen=True, slots=True)
class RunInfo:
    """A run, whether it is over, and what it reported (the worker's own JSON). One that is over has no `items` left.

    `stopped_by`: who stopped it before its end; such a run has no report.
    """

    run: Run
    updated_at: datetime
    finished_at: datetime | None
    items: ItemCounts
    report: bytes | None
    stopped_by: str | None = None

    @property
    def remaining(self) -> int:
        """Return how many items are not done."""
        return self.items.remaining


@dataclass(frozen=True, slots=True)
class Overview:
    """How a tenant stands. `remaining`: open items of the run under way; `moved_at`: when that run was last saved.

    `finished_at`, `drift` (entity, kind -> entities) and `report` (the worker's own JSON) are of the last finished
    reconcile.
    """

    tenant: str
    running: Kind | None
    remaining: int
    finished_at: datetime | None
    drift: Mapping[tuple[Entity, str], int]
    report: bytes | None = None
    moved_at: datetime | None = None


RUN: Final = (
    backfill_run.c.run,
    backfill_run.c.tenant,
    backfill_run.c.kind,
    backfill_run.c.cause,
    backfill_run.c.options,
    backfill_run.c.generation,
    backfill_run.c.started_at,
    backfill_run.c.progress,
)
"""The columns that `read_run` reads."""

_options = msgspec.json.Decoder(Options)
_fields = msgspec.json.Decoder(list[str])
_saved = msgspec.json.Decoder(_Saved)


def read_run(row: RowMapping) -> Run:
    """Return the run of a row that has the columns RUN."""
    return Run(
        number=row["run"],
        tenant=row["tenant"],
        kind=row["kind"],
        cause=row["cause"],
        options=_options.decode(row["options"]),
        generation=row["generation"],
        started_at=from_micros(row["started_at"]),
        progress=row["progress"].encode(),
    )


class Reports:
    """The reading verbs. All raise StorageUnavailableError where the database is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def last(self, tenant: str, kind: Kind | None = None) -> RunInfo | None:
        """Return the tenant's newest run (of a kind), finished or not; None where there never was one."""
        found = await self.runs(tenant, 1, kind=kind)
        return found[0] if found else None

    async def runs(self, tenant: str, limit: int, *, kind: Kind | None = None) -> list[RunInfo]:
        """Return the tenant's runs, newest first: the one under way, and the finished ones that are kept."""
        query = select(
            *(*RUN, backfill_run.c.updated_at, backfill_run.c.finished_at, backfill_run.c.report),
            backfill_run.c.stopped_by,
        )
        query = query.where(backfill_run.c.tenant == tenant)
        if kind is not None:
            query = query.where(backfill_run.c.kind == kind)
        query = query.order_by(backfill_run.c.run.desc()).limit(min(limit, PAGE_LIMIT))
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).mappings().all()
            return [_info(row, await _items(connection, row)) for row in rows]

    async def drift(
        self,
        run: int,
        *,
        entity: Entity | None = None,
        kind: str | None = None,
        after: tuple[str, ...] | None = None,
        limit: int,
    ) -> RowPage:
        """Return a page of what a run found, by entity, id and kind; names only, the events have the rest.

        Rows have entity, id, kind, fields (a list), age_s (None where nobody knows) and found_at.
        """
        table = backfill_drift.c
        key = (table.entity, table.id, table.kind)
        query = select(*key, table.fields, table.age_s, table.found_at).where(table.run == run).order_by(*key)
        if entity is not None:
            query = query.where(table.entity == entity)
        if kind is not None:
            query = query.where(table.kind == kind)
        if after is not None:
            query = query.where(tuple_(*key) > tuple_(*(literal(part) for part in after)))
        size = min(limit, PAGE_LIMIT)
        async with self._database.read() as connection:
            rows = (await connection.execute(query.limit(size + 1))).mappings().all()
        shown = [
            {**row, "fields": _fields.decode(row["fields"]), "found_at": from_micros(row["found_at"])}
            for row in rows[:size]
        ]
        following = tuple(rows[size - 1][column.name] for column in key) if len(rows) > size else None
        return RowPage(shown, following)

    async def overview(self) -> list[Overview]:
        """Return how each tenant stands that ever had a run, in two questions: for metrics and health."""
        runs, drift = backfill_run.c, backfill_drift.c
        finished = runs.finished_at.is_not(None)
        whole = (runs.kind == "reconcile", finished, runs.stopped_by.is_(None))
        latest = select(func.max(runs.run)).where(*whole).group_by(runs.tenant)
        columns = runs.run, runs.tenant, runs.kind, runs.updated_at, runs.finished_at, runs.report, runs.progress
        standing = select(*columns).where(or_(~finished, runs.run.in_(latest))).order_by(runs.tenant, runs.run)
        counting = select(drift.run, drift.entity, drift.kind, func.count()).group_by(
            drift.run, drift.entity, drift.kind
        )
        counts: dict[int, dict[tuple[Entity, str], int]] = {}
        async with self._database.read() as connection:
            rows = (await connection.execute(standing)).mappings().all()
            numbers = [row["run"] for row in rows if row["finished_at"] is not None]
            items = {row["run"]: await _items(connection, row) for row in rows}
            for number, entity, kind, count in await connection.execute(counting.where(drift.run.in_(numbers))):
                counts.setdefault(number, {})[entity, kind] = count
        found: dict[str, Overview] = {}
        for row in rows:  # of a tenant at most two: the finished one and the one under way
            tenant, over = row["tenant"], row["finished_at"] is not None
            held = found.get(tenant, Overview(tenant, None, 0, None, {}))
            if over:
                finished_at, report = from_micros(row["finished_at"]), (row["report"] or "null").encode()
                held = replace(held, finished_at=finished_at, drift=counts.get(row["run"], {}), report=report)
            else:
                moved_at = from_micros(row["updated_at"])
                held = replace(held, running=row["kind"], remaining=items[row["run"]].remaining, moved_at=moved_at)
            found[tenant] = held
        return list(found.values())


async def _items(connection: AsyncConnection, row: RowMapping) -> ItemCounts:
    """Return how many items a run has left: as its worker counted them, else, such as at its beginning, counted now."""
    if row["finished_at"] is not None:
        return ItemCounts()
    try:
        saved = _saved.decode(row["progress"]).items
    except msgspec.MsgspecError:  # another release's
        saved = None
    if saved is not None:
        return saved
    table = backfill_item.c
    query = select(table.state, func.count()).where(table.run == row["run"]).group_by(table.state)
    return item_counts({row[0]: row[1] for row in await connection.execute(query)})


def item_counts(by_state: Mapping[State, int]) -> ItemCounts:
    """Return what is left of items that were counted by their state."""
    return ItemCounts(
        remaining=sum(count for state, count in by_state.items() if state != "done"),
        unread=sum(by_state.get(state, 0) for state in BY_ID),
    )


def _info(row: RowMapping, items: ItemCounts) -> RunInfo:
    finished_at, report = row["finished_at"], row["report"]
    return RunInfo(
        run=read_run(row),
        updated_at=from_micros(row["updated_at"]),
        finished_at=None if finished_at is None else from_micros(finished_at),
        items=items,
        report=None if report is None else report.encode(),
        stopped_by=row["stopped_by"],
    )
