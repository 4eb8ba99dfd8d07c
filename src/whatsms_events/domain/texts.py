"""Which stored values are what somebody wrote, how old each is, and what of an answer is too old to be taken in again.

A text's time is that at which its register was told last, by the vendor. What is over becomes null in its row and keeps
its version. So an event that comes late brings nothing back, and a newer text is taken.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final, TypeVar

import msgspec
from msgspec import UNSET

from whatsms_events.domain.events import Entity, Payload, to_micros
from whatsms_events.domain.personal import COLUMNS
from whatsms_events.domain.rows import Row, Table, Version

_Told = TypeVar("_Told", bound=Payload)

TEXTS: Final[Mapping[Table, tuple[str, ...]]] = {
    table: tuple(sorted(COLUMNS[table])) for table in ("message", "message_revision", "ticket")
}
"""The columns that hold what was written or sent. Who a contact is, is no text: that stays until they are forgotten."""


def told_at(names: Iterable[str], versions: Mapping[str, Version]) -> int:
    """Return when any of these registers was told last, in microseconds; 0 where none was."""
    return max((versions[name].time for name in names if name in versions), default=0)


def is_over(table: Table, row: Row, cutoff: int) -> bool:
    """Tell whether a row holds texts, and all of them were told at the cutoff or before."""
    held = [name for name in TEXTS[table] if row.values[name] is not None]
    return bool(held) and told_at(held, row.versions) <= cutoff


def still_told(entity: Entity, payload: _Told, row: Row | None, cutoff: int) -> _Told:
    """Return what an answer shows without texts that are over: of an old thing, or blanked in the row that is held.

    Otherwise each reconcile would find that they are missing here, and bring them back. A thing that changed lately may
    show a new text, so what it shows is taken.
    """
    shown = getattr(payload, entity)
    names = [name for name in TEXTS.get(entity, ()) if getattr(shown, name) not in (UNSET, None)]
    own = next((one for one in (shown.updated_at, shown.created_at) if isinstance(one, datetime)), None)
    old = to_micros(own) <= cutoff if own is not None else row is not None and _blanked(names, row, cutoff)
    if not names or not old:
        return payload
    return msgspec.structs.replace(payload, **{entity: msgspec.structs.replace(shown, **dict.fromkeys(names, UNSET))})


def _blanked(names: Iterable[str], row: Row, cutoff: int) -> bool:
    return any(row.values[name] is None and 0 < told_at([name], row.versions) <= cutoff for name in names)
