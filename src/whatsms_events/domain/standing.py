"""Whether a role stands still, by what the role says of itself and how far it got.

A role may say that it works, or stand by for another process, while nothing gets done: so its place in the database is
compared with where it could be. Only time in which somebody looked counts: a clock that was set back or forward, and a
process that was frozen, make no role stand still.
"""

from dataclasses import dataclass
from typing import Final, Literal

RoleState = Literal["standby", "active", "halted"]

RETRY_S: Final = 30.0
"""So long a role may fail again and again: a failover or a restart of a broker takes less."""

STILL_S: Final = 60.0
"""So long a role may stay where it is while there is more for it to do: a transaction takes seconds at most."""

LOOK_LIMIT_S: Final = 10.0
"""At most so much counts between two looks: one is made each second, or every few if the database is slow."""


@dataclass(frozen=True, slots=True)
class RolePlace:
    """Where a role is, whichever process moves it, and where it could be by now."""

    at: int
    target: int


class Standing:
    """One role of this process. `still_s`: how long it may stay in one place."""

    def __init__(self, still_s: float = STILL_S) -> None:
        self._still_limit_s = still_s
        self._looked_at: float | None = None
        self._state: RoleState = "standby"
        self._why = ""
        self._place: RolePlace | None = None
        self._failing_s = 0.0
        self._still_s = 0.0

    def look(self, now: float, state: RoleState, why: str, place: RolePlace | None = None) -> None:
        """Take in what the role says, and where it is if that is known. `why` is empty while all is well."""
        passed_s = 0.0 if self._looked_at is None else min(max(0.0, now - self._looked_at), LOOK_LIMIT_S)
        self._looked_at, self._state, self._why = now, state, why
        self._failing_s = self._failing_s + passed_s if why else 0.0
        if place is None:  # the database did not answer: nobody knows whether it moved
            return
        moved = self._place is None or place.at != self._place.at
        self._still_s = 0.0 if moved or place.at >= place.target else self._still_s + passed_s
        self._place = place

    @property
    def stalled_s(self) -> float:
        """Tell for how long the role has failed or stood still by now; 0 where it does its work."""
        return max(self._failing_s, self._still_s)

    @property
    def problem(self) -> str | None:
        """Say why the role does not do its work; None where it does, or stands by for one that does."""
        if self._state == "halted":
            return f"halted: {self._why}"
        if self._failing_s >= RETRY_S:
            return f"has failed for {self._failing_s:.0f} s: {self._why}"
        if self._place is None or self._still_s < self._still_limit_s:
            return None
        where = f"at {self._place.at} for {self._still_s:.0f} s, although it could be at {self._place.target}"
        if self._state == "active":
            return f"is active, but stays {where}"
        return f"stands by, but the active process stays {where}: find the process that holds the role, and end it"
