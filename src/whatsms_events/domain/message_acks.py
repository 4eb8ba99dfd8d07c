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
    old, new = _NO_ACK if before is None else ack(before.values), ack(after.values)
    found = [(name, at) for name, at in new.times.items() if at is not None and old.times[name] is None]
    delays = [(name, None if name in new.by_then else _seconds(after.values["created_at"], at)) for name, at in found]
    if new.failed_at is not None and old.failed_at is None:
        delays.append(("failed", _seconds(after.values["created_at"], new.failed_at)))
    return delays


def _seconds(start: Value, end: int) -> float | None:
    return max(0, end - start) / 1_000_000 if isinstance(start, int) else None
