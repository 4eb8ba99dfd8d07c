"""Whether a role stands still, by what the role says of itself and how far it got.

A role may say that it works, or stand by for another process, while nothing gets done: so its place in the database is
compared with where it could be. Only time in which somebody looked counts: a clock that was set back or forward, and a
process that was frozen, make no role stand still.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

import msgspec

RoleState = Literal["standby", "active", "halted"]

RoleWord = Literal["works", "waits", "stands by", "stands still"]
"""How a role is, for people. It waits for what `why` names, and stands by for another process that has it."""

RETRY_S: Final = 30.0
"""So long a role may fail again and again: a failover or a restart of a broker takes less."""

STILL_S: Final = 60.0
"""So long a role may stay where it is while there is more for it to do: a transaction takes seconds at most."""

LOOK_LIMIT_S: Final = 10.0
"""At most so much counts between two looks: one is made each second, or every few if the database is slow."""

FAILS: Final = "It tries again by itself: mend what the reason names."
ACTIVE_STAYS: Final = "Look at its log lines; where none of them says why, end this process and start it again."
OTHER_STAYS: Final = "End that process, and another one takes over."
"""What a person can do about a role that stands still."""


@dataclass(frozen=True, slots=True)
class RolePlace:
    """Where a role is, whichever process moves it, and where it could be by now."""

    at: int
    target: int


class RoleReport(msgspec.Struct, frozen=True, kw_only=True):
    """How a role of a process is, and since when; `why`, and what a person can do, where it does not do its work.

    No text has a duration: while nothing changes, nothing in it does.
    """

    word: RoleWord
    why: str = ""
    todo: str = ""
    since: datetime

    @property
    def fine(self) -> bool:
        """Tell whether it does its work, or stands by for one that does."""
        return self.word in ("works", "stands by")


class PeerReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a process tells the others of itself: its roles by name, and what its door knows of those who send.

    `more` roles are left out, of which `more_failing` do not do their work. `details` are by the names that `/readyz`
    has for them.
    """

    roles: Mapping[str, RoleReport] = {}
    details: Mapping[str, Mapping[str, str | None]] = {}
    more: int = 0
    more_failing: int = 0


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
        self._since: tuple[bool, datetime] | None = None

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

    def report(self, now: datetime) -> RoleReport:
        """Say how the role is, and since when it is fine, or is not."""
        word, why, todo = self._words()
        fine = word in ("works", "stands by")
        if self._since is None or self._since[0] != fine:
            self._since = fine, now - timedelta(seconds=self.stalled_s)
        return RoleReport(word=word, why=why, todo=todo, since=self._since[1])

    def _words(self) -> tuple[RoleWord, str, str]:
        if self._state == "halted":
            return "stands still", self._why, ""  # the reason of a role that has halted says what to do
        if self._why:
            return "stands still" if self._failing_s >= RETRY_S else "waits", self._why, FAILS
        if not self._stays:
            return "works" if self._state == "active" else "stands by", "", ""
        if self._state == "active":
            return "stands still", "it gets no further, although there is more to do", ACTIVE_STAYS
        return "stands still", "the process that has the role gets no further", OTHER_STAYS

    @property
    def _stays(self) -> bool:
        return self._place is not None and self._still_s >= self._still_limit_s

    @property
    def problem(self) -> str | None:
        """Say why the role does not do its work; None where it does, or stands by for one that does."""
        if self._state == "halted":
            return f"halted: {self._why}"
        if self._failing_s >= RETRY_S:
            return f"has failed for {self._failing_s:.0f} s: {self._why}"
        if self._place is None or not self._stays:
            return None
        where = f"at {self._place.at} for {self._still_s:.0f} s, although it could be at {self._place.target}"
        if self._state == "active":
            return f"is active, but stays {where}"
        return f"stands by, but the active process stays {where}: find the process that holds the role, and end it"
