"""How far a message got, by the columns of its row: the levels that it reached, and whether sending it failed."""

from collections.abc import Mapping
from operator import itemgetter
from typing import Any, Final, NamedTuple

from whatsms_events.domain import acks
from whatsms_events.domain.resources import ACK_COLUMNS
from whatsms_events.domain.rows import Row, Value


class Ack(NamedTuple):
    """How far a message got: the highest level, the time of each that is known, when it failed.

    `by_then` are the levels whose time was not told: a backfill saw by that time that they had been reached.
    """

    level: int | None
    times: Mapping[str, int | None]
    by_then: tuple[str, ...]
    failed_at: int | None


_LEVELS: Final = tuple((level, f"{level}_at", f"{level}_by") for level in acks.LEVELS.values())
"""Each level, with the columns of when it was told and of when it was seen."""

_acked = itemgetter(*ACK_COLUMNS, "from_me")
_NOT_ACKED: Final = (None,) * len(ACK_COLUMNS)
_NOTHING_YET: Final[Mapping[str, Value]] = dict.fromkeys((*ACK_COLUMNS, "from_me"))
_NO_ACK: Final = Ack(None, dict.fromkeys(acks.LEVELS.values()), (), None)


def failed_at(message: Mapping[str, Any]) -> int | None:
    """Return when sending failed, by a message row's columns: only a message of ours that was not delivered can."""
    if message["from_me"] is not True or (message["ack"] or 0) >= acks.DELIVERED:
        return None
    at: int | None = message["failed_at"]
    return at


def ack(message: Mapping[str, Any]) -> Ack:
    """Return how far a message got, of its row's columns.

    None for what a contact wrote: its ack has no dependable meaning, and REST shows one where webhooks show none.
    """
    if message["from_me"] is False:
        return _NO_ACK
    times: dict[str, int | None] = {}
    by_then = []
    for name, told, seen in _LEVELS:
        at, by = message[told], message[seen]
        if by is not None and (at is None or by < at):
            by_then.append(name)
            at = by
        times[name] = at
    return Ack(message["ack"], times, tuple(by_then), failed_at(message))


def reached(before: Row | None, after: Row) -> list[tuple[str, float | None]]:
    """Return what a message newly reached: level or "failed", and seconds since its creation where that is known.

    Where a backfill saw it, nobody knows how long it took. Nothing for what a contact wrote.
    """
    shown = _acked(after.values)
    if shown == ((*_NOT_ACKED, shown[-1]) if before is None else _acked(before.values)):
        return []  # nearly always so, but for events of acks: a closer look takes ten times as long
    values, old = after.values, _NOTHING_YET if before is None or before.values["from_me"] is False else before.values
    if values["from_me"] is False:
        return []
    delays: list[tuple[str, float | None]] = []
    for name, told, seen in _LEVELS:
        at, by = values[told], values[seen]
        if (at is not None or by is not None) and old[told] is None and old[seen] is None:
            delays.append((name, _seconds(values["created_at"], at) if _is_told(at, by) else None))
    if (failed := failed_at(values)) is not None and failed_at(old) is None:
        delays.append(("failed", _seconds(values["created_at"], failed)))
    return delays


def _is_told(at: Value, by: Value) -> bool:
    """Tell whether the time of a level was told, and none before it was seen."""
    return isinstance(at, int) and not (isinstance(by, int) and by < at)


def _seconds(start: Value, end: Value) -> float | None:
    return max(0, end - start) / 1_000_000 if isinstance(start, int) and isinstance(end, int) else None
