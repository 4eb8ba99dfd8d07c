"""What a replay found: how the tables that today's code makes differ from the live ones, and which values are shown.

A value is shown only where it is a word, a time, a flag, a count or an id: never a text, a name or a number of anybody.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from whatsms_events.domain import values
from whatsms_events.domain.resources import ACK_COLUMNS, GROUPS, RESOURCES

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
