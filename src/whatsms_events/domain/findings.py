"""What a replay found: how the tables that today's code makes differ from the live ones, and which values are shown.

A value is shown only where it is a word, a time, a flag, a count or an id: never a text, a name or a number of anybody.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Final

import msgspec

from whatsms_events.domain import values
from whatsms_events.domain.resources import ACK_COLUMNS, GROUPS, RESOURCES
from whatsms_events.domain.rows import Key, Row

_PLAIN: Final = (values.word, values.moment, values.flag, values.count, values.identifier)

_SHOWN: Final[Mapping[str, frozenset[str]]] = {
    entity: frozenset(
        (
            "gone",
            "known",
            "doubtful",
            *(ACK_COLUMNS if entity == "message" else ()),
            *(GROUPS[one.name][0] for one in fields if one.stored == "reference"),
            *(one.name for one in fields if not one.personal and one.read in _PLAIN),
        )
    )
    for entity, fields in RESOURCES.items()
} | {"message_revision": frozenset({"first_at"}), "parked_event": frozenset({"reason", "type", "position"})}
"""The columns of each table whose values may be shown to everybody."""


ROWS_LIMIT: Final = 100_000
"""So many rows that differ are held at most, where they are found one by one."""


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """One row that differs. `fields` has the live value and the replayed one; a value that is hidden is left out.

    `kind` is "changed", "new" (only the replay has the row) or "lost" (only the live tables have it).
    """

    kind: str
    key: tuple[str, ...]
    fields: Mapping[str, tuple[object, object] | None]


class TableFinding(msgspec.Struct, frozen=True, kw_only=True):
    """How one table differs from its replay of so many `rows`: rows that are new, lost or changed, and by field."""

    table: str
    rows: int
    new: int
    lost: int
    changed: int
    fields: Mapping[str, int]
    examples: tuple[Example, ...]

    @property
    def differs(self) -> bool:
        """Tell whether any row differs."""
        return bool(self.new or self.lost or self.changed)


def shown(table: str, field: str, *, personal: bool) -> bool:
    """Tell whether the values of a column may be shown."""
    return personal or field in _SHOWN[table]


def changed_fields(before: Row, after: Row) -> dict[str, tuple[object, object]]:
    """Return the columns that differ, each with both values."""
    found: dict[str, tuple[object, object]] = {
        name: (before.values[name], value) for name, value in after.values.items() if value != before.values[name]
    }
    for name in ("known", "doubtful"):
        pair = getattr(before, name), getattr(after, name)
        if pair[0] != pair[1]:
            found[name] = pair
    return found


def findings(
    rows: Mapping[str, int],
    changes: Mapping[Key, tuple[Row | None, Row]],
    *,
    examples: int,
    personal: bool,
) -> tuple[TableFinding, ...]:
    """Return what changed rows amount to, by table. `rows` counts, by table, what was looked at."""
    return tuple(
        _finding(
            table, count, {key: both for key, both in sorted(changes.items()) if key.table == table}, examples, personal
        )
        for table, count in sorted(rows.items())
    )


def _finding(
    table: str, rows: int, changes: Mapping[Key, tuple[Row | None, Row]], examples: int, personal: bool
) -> TableFinding:
    new = [key for key, (before, _) in changes.items() if before is None]
    changed = {key: changed_fields(before, after) for key, (before, after) in changes.items() if before is not None}
    changed = {key: fields for key, fields in changed.items() if fields}
    shows = [
        Example(
            kind="changed",
            key=_name(key),
            fields={name: both if shown(table, name, personal=personal) else None for name, both in fields.items()},
        )
        for key, fields in list(changed.items())[:examples]
    ]
    shows += [Example(kind="new", key=_name(key), fields={}) for key in new[:examples]]
    fields = Counter(name for found in changed.values() for name in found)
    return TableFinding(
        table=table,
        rows=rows,
        new=len(new),
        lost=0,
        changed=len(changed),
        fields=dict(sorted(fields.items())),
        examples=tuple(shows),
    )


def _name(key: Key) -> tuple[str, ...]:
    return (key.tenant, key.id, key.digest) if key.digest else (key.tenant, key.id)
