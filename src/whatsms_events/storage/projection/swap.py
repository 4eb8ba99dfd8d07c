"""The live tables are compared with the shadow, and made equal to it in one transaction.

Theory of operation. A transaction first takes the live projection's one row, so that the running consumer can save
nothing: it waits, or fails and tries again. Under this lock the position of the live tables stands still. The caller
brings the shadow to just this position, and the two are compared, over a connection that only reads: equal positions,
so every difference is one. For a swap the caller then brings the shadow to the log's end, and the rows that differ are
written into the live tables, with the shadow's checkpoint and a new generation. All of it commits at once or not at
all, whatever ends the program. Afterwards the consumer finds another generation, drops what it holds, and goes on from
the new checkpoint.

The rows are written and the tables not exchanged: so grants, views and every open connection stay right, on SQLite the
file stays the same one, and what does not differ costs a look and no write. The price is that the consumer waits for
as long as it takes to read both sides.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy import ColumnElement, MetaData, Table, and_, delete, func, or_, select, text, true, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.selectable import NamedFromClause

from whatsms_events.domain.findings import Example, TableFinding, shown
from whatsms_events.storage import tables
from whatsms_events.storage.database import Database, insert
from whatsms_events.storage.projection.apply import Offset, ProjectionState, load_state, save_state
from whatsms_events.storage.projection.shadow import SCHEMA

_TABLES: Final = (*tables.ENTITIES.values(), tables.message_revision, tables.parked_event)

_UNCOMPARED: Final = frozenset({"parked_at", "discarded_at"})
"""When we looked is no difference, and what a person discarded stays discarded."""

_LOCK_S: Final = 30
_SILENT_S: Final = 3600
"""A program that froze inside the transaction loses it, and with it the lock, after so long."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What the swap asks of its caller. Each is called under the lock.

    `reach` brings the shadow to where the live tables are, and returns how far the shadow is. `settle` brings it to
    where it shall be, and returns that and the offsets to go on from; it raises where there must be no swap. None: the
    two are only compared.
    """

    reach: Callable[[ProjectionState], Awaitable[ProjectionState]]
    settle: Callable[[ProjectionState], Awaitable[ProjectionState]] | None
    examples: int
    personal: bool = False


@dataclass(frozen=True, slots=True)
class SwapOutcome:
    """What was found, where the two stood when they were compared, and the new state after a swap."""

    findings: tuple[TableFinding, ...]
    live: ProjectionState
    replayed: ProjectionState
    after: ProjectionState | None


async def compare(live: Database, shadow: Database, terms: Terms) -> SwapOutcome:
    """Compare both sides, and perhaps swap: see above. Raise StorageUnavailableError, or what `terms` raise."""
    async with live.write() as connection:
        before = await _hold(connection)
        replayed = await terms.reach(before)
        findings = await _compare_all(live, shadow, terms)
        after = None
        if terms.settle is not None:
            after = replace(await terms.settle(before), generation=before.generation + 1)
            for side in await _sides(connection, shadow):
                await _write(connection, side)
            await save_state(connection, before, after)
            await connection.execute(update(tables.projection).values(generation=after.generation))
    return SwapOutcome(findings, before, replayed, after)


async def _compare_all(live: Database, shadow: Database, terms: Terms) -> tuple[TableFinding, ...]:
    async with live.read() as connection:
        return tuple([await _compare(connection, side, terms) for side in await _sides(connection, shadow)])


def carried(before: ProjectionState, replayed: ProjectionState) -> ProjectionState:
    """Return the replayed state with the live offsets: what they still bring up to the replayed position is skipped."""
    position = replayed.applied_through
    return replace(
        replayed,
        offsets={
            at: Offset(next_offset=one.next_offset, last_position=max(one.last_position, position))
            for at, one in before.offsets.items()
        },
    )


async def _hold(connection: AsyncConnection) -> ProjectionState:
    """Take the projection's row until the transaction ends; on SQLite the transaction itself keeps others out."""
    if connection.dialect.name == "postgresql":
        await connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_S}s'"))
        await connection.execute(text(f"SET LOCAL idle_in_transaction_session_timeout = '{_SILENT_S}s'"))
        await connection.execute(select(tables.projection.c.one).with_for_update())
    state = await load_state(connection)
    assert state is not None  # noqa: S101 - the caller has asked `Projection.state`, which makes the row
    return state


@dataclass(frozen=True, slots=True)
class _Side:
    """A live table and its shadow, with the conditions that join and tell apart."""

    live: Table
    shadow: NamedFromClause

    @property
    def same_row(self) -> ColumnElement[bool]:
        return and_(*(column == self.shadow.c[column.name] for column in self.live.primary_key))

    @property
    def compared(self) -> Sequence[str]:
        return [one.name for one in self.live.c if not one.primary_key and one.name not in _UNCOMPARED]

    @property
    def differs(self) -> ColumnElement[bool]:
        return or_(*(self.live.c[name].is_distinct_from(self.shadow.c[name]) for name in self.compared))

    @property
    def new(self) -> ColumnElement[bool]:
        """Whether the shadow's row has no live one, where the live table is joined to the shadow's."""
        return next(iter(self.live.primary_key)).is_(None)

    @property
    def lost(self) -> ColumnElement[bool]:
        """Whether a live row is not in the shadow. What was parked out of Kafka is not in the log: it stays."""
        there = select(self.shadow).where(self.same_row).exists()
        of_the_log = self.live.c.source == "log" if self.live is tables.parked_event else true()
        return and_(of_the_log, ~there)


async def _sides(connection: AsyncConnection, shadow: Database) -> list[_Side]:
    schema = SCHEMA
    if shadow.path is not None:
        # The shadow stays attached to its end, so the connection ends with this transaction and is lent to nobody else.
        await connection.run_sync(lambda one: one.detach())
        schema = "shadow"
        url = f"file:{quote(str(shadow.path))}?mode=ro"
        await connection.execute(text("ATTACH DATABASE :url AS shadow"), {"url": url})
    metadata = MetaData(schema=schema)
    return [_Side(one, one.to_metadata(metadata, schema=schema).alias("replayed")) for one in _TABLES]


async def _compare(connection: AsyncConnection, side: _Side, terms: Terms) -> TableFinding:
    live, shadow, joined = side.live, side.shadow, side.shadow.outerjoin(side.live, side.same_row)
    there = ~side.new
    counts = [func.count().filter(and_(there, live.c[name].is_distinct_from(shadow.c[name]))) for name in side.compared]
    query = select(func.count(), func.count().filter(side.new), func.count().filter(and_(there, side.differs)), *counts)
    rows, new, changed, *by_field = (await connection.execute(query.select_from(joined))).one()
    lost = (await connection.execute(select(func.count()).select_from(live).where(side.lost))).scalar_one()
    examples: list[Example] = []
    if changed:
        examples += await _changed(connection, side, terms)
    for kind, count, table, where in (("new", new, shadow, side.new), ("lost", lost, live, side.lost)):
        if count:
            keys = select(*table.primary_key).select_from(joined if kind == "new" else live).where(where)
            found = await connection.execute(keys.order_by(*table.primary_key).limit(terms.examples))
            examples += [Example(kind=kind, key=tuple(map(str, row)), fields={}) for row in found]
    fields = {str(name): count for name, count in zip(side.compared, by_field, strict=True) if count}
    return TableFinding(
        table=str(live.name), rows=rows, new=new, lost=lost, changed=changed, fields=fields, examples=tuple(examples)
    )


async def _changed(connection: AsyncConnection, side: _Side, terms: Terms) -> list[Example]:
    keys, names = list(side.live.primary_key), side.compared
    both: list[Any] = [column[name] for name in names for column in (side.live.c, side.shadow.c)]
    query = select(*keys, *both).select_from(side.live.join(side.shadow, side.same_row)).where(side.differs)
    examples = []
    for row in await connection.execute(query.order_by(*keys).limit(terms.examples)):
        values = row[len(keys) :]
        fields = {
            name: (before, after) if shown(side.live.name, name, personal=terms.personal) else None
            for name, before, after in zip(names, values[::2], values[1::2], strict=True)
            if before != after
        }
        examples.append(Example(kind="changed", key=tuple(map(str, row[: len(keys)])), fields=fields))
    return examples


async def _write(connection: AsyncConnection, side: _Side) -> None:
    """Make the live table equal to its shadow, writing only what differs."""
    live, shadow = side.live, side.shadow
    await connection.execute(delete(live).where(side.lost))
    wanted = select(*shadow.c).select_from(shadow.outerjoin(live, side.same_row)).where(or_(side.new, side.differs))
    writing = insert(connection, live).from_select([one.name for one in live.c], wanted)
    changes = {name: writing.excluded[name] for name in side.compared}
    await connection.execute(
        writing.on_conflict_do_update(index_elements=[one.name for one in live.primary_key], set_=changes)
    )
