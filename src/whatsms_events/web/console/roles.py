"""The roles of all processes, as the page Now shows them: who does what, who waits for what, and what nobody does."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from whatsms_events.domain.standing import OTHER_STAYS, PeerReport, RoleReport, RoleWord
from whatsms_events.storage.log.blanking import BLANKING
from whatsms_events.storage.log.peers import Peer, PeerId
from whatsms_events.storage.role_holders import RoleHolder
from whatsms_events.web.console.rendering import lasting
from whatsms_events.web.console.stations import Tone

LOST_S: Final = 3600.0
"""So long the first sentence of the page names a process that is not heard of, also where others have its roles."""

SILENT_LIMIT: Final = 10
"""So many processes that are not heard of are shown: one may be killed and started again for ever."""

RETENTION: Final = "retention"
"""This role works under the lock BLANKING, which some commands take too."""

_TONES: Final[Mapping[RoleWord, Tone]] = {"works": "good", "stands by": "plain", "waits": "warn", "stands still": "bad"}


@dataclass(frozen=True, slots=True)
class RoleNow:
    """A role, or several that are the same way: in a word, why, since when, for whom, and what a person can do."""

    names: str
    tone: Tone
    word: str
    why: str = ""
    since: datetime | None = None
    whom: str = ""
    todo: str = ""


@dataclass(frozen=True, slots=True)
class PeerNow:
    """A process with its roles. `more` of them are left out, of which `more_failing` did not do their work."""

    told: Peer
    ours: bool
    roles: Sequence[RoleNow]

    @property
    def name(self) -> str:
        """Return its name."""
        return self.told.which.name

    @property
    def more(self) -> int:
        """Return how many roles are left out."""
        return 0 if self.told.report is None else self.told.report.more

    @property
    def more_failing(self) -> int:
        """Return how many of the roles that are left out did not do their work."""
        return 0 if self.told.report is None else self.told.report.more_failing


class Roles:
    """The roles of this process, of those that told of themselves, and who holds the locks as far as that is known."""

    def __init__(
        self,
        ours: PeerId,
        reports: Mapping[str, RoleReport],
        told: Sequence[Peer],
        holders: Mapping[str, RoleHolder],
    ) -> None:
        own = Peer(ours, 0.0, PeerReport(roles=reports))
        others = [one for one in told if one.which != ours]
        self._own = own
        self._heard = [own, *(one for one in others if one.heard)]
        self._silent = sorted((one for one in others if not one.heard), key=lambda one: one.silent_s)
        self.unshown = max(0, len(self._silent) - SILENT_LIMIT)
        self._works = {
            role: one.which.name for one in self._heard for role, report in _roles(one) if report.word == "works"
        }
        self._tries = {
            role: one.which.name for one in self._heard[1:] for role, report in _roles(one) if _tries(report)
        }
        blanks = RETENTION in self._works or any(RETENTION in dict(_roles(one)) for one in self._silent)
        self._holders = {
            RETENTION if blanks and role == BLANKING else role: one for role, one in holders.items() if not one.ours
        }

    def shown(self) -> list[PeerNow]:
        """Return the processes: this one, those that are heard of, and SILENT_LIMIT of those that are not.

        Of the latter those come first whose roles nobody has, or whose lock is held; then the last heard of.
        """
        heard = [PeerNow(one, one is self._own, self._of_heard(one)) for one in self._heard]
        silent = sorted(self._silent, key=lambda one: not (self._lost(one) or self._keeps(one)))[:SILENT_LIMIT]
        return heard + [PeerNow(one, ours=False, roles=self._of_silent(one)) for one in silent]

    def untold(self) -> list[RoleNow]:
        """Return the locks of processes that tell nothing of themselves: a command, or an earlier release."""
        told = self._works.keys() | self._tries.keys()
        named = told | {role for one in self._silent for role, _report in _roles(one)}
        others = {role: one for role, one in self._holders.items() if role not in named}
        return [RoleNow(role, "plain", "elsewhere", one.who, one.since) for role, one in sorted(others.items())]

    def undone(self, needed: Collection[str] = ()) -> dict[str, str]:
        """Return the roles that nobody does now, with the reason, as it follows the name of the role.

        They are those that another process told of, and those that are `needed` and that no process has. A role that
        waits for a moment, or stands by, is about to be done.
        """
        found: dict[str, str] = {}
        for one in self._heard[1:]:
            for role, report in _roles(one):
                if report.word == "stands still":
                    found.setdefault(role, f"of {one.which.name} stands still: {report.why}")
        done = {role for one in self._heard for role, report in _roles(one) if report.word != "stands still"}
        for one in self._silent:
            for role in self._lost(one):
                found.setdefault(role, f"of {one.which.name} has not been heard of for {lasting(one.silent_s)}")
        if self._all_known:
            had = {role for one in self._heard for role, _report in _roles(one)} | self._holders.keys()
            for role in needed:
                if role not in had:
                    found.setdefault(role, "runs in no process")
        return {role: why for role, why in found.items() if role not in done}

    @property
    def _all_known(self) -> bool:
        """Tell whether each process that is heard of has started, and told its roles as this release reads them."""
        return all(one.report is not None for one in self._heard) and any(_roles(self._own))

    def details(self) -> dict[str, Mapping[str, Any]]:
        """Return what other processes that are heard of know of those who send, by the names of `/readyz`."""
        found: dict[str, Mapping[str, Any]] = {}
        for one in self._heard[1:]:
            for name, detail in ({} if one.report is None else one.report.details).items():
                if name not in found or detail.get("state") == "silent":
                    found[name] = detail
        return found

    def wrong(self) -> list[str]:
        """Say of other processes what a person must act on."""
        stand = [
            f"{role} of {one.which.name} stands still: {report.why}"
            for one in self._heard[1:]
            for role, report in _roles(one)
            if report.word == "stands still"
        ]
        said: set[str] = set()
        for one in self._silent:
            if roles := [role for role in self._lost(one) if role not in said]:
                said |= set(roles)
                stand.append(f"{one.which.name} is not heard of any more, and no other process has {', '.join(roles)}")
        return stand

    def odd(self) -> list[str]:
        """Say which processes were lost lately, whoever has their roles, and which keep a lock from the others."""
        return [one.which.name for one in self._silent if one.silent_s < LOST_S or self._keeps(one)]

    def _keeps(self, silent: Peer) -> list[str]:
        """Return the roles whose locks a process still has that is not heard of."""
        return [role for role, _report in _roles(silent) if role in self._holders and role not in self._works]

    def _lost(self, silent: Peer) -> list[str]:
        """Return the roles that no process has any more that is heard of.

        Nobody knows that of a tenant's role where a process left some of them out.
        """
        had = {role for one in self._heard for role, _report in _roles(one)}
        all_told = not any(one.report is not None and one.report.more for one in self._heard)
        return [role for role, _report in _roles(silent) if role not in had and (all_told or "." not in role)]

    def _of_heard(self, one: Peer) -> list[RoleNow]:
        if one.report is None:
            return [RoleNow("its roles", "plain", "not known", "another release tells them in another way")]
        works = [role for role, report in _roles(one) if report.word == "works"]
        others = [self._one(role, report) for role, report in _roles(one) if report.word != "works"]
        others.sort(key=lambda row: row.tone == "plain")
        return others + ([RoleNow(", ".join(works), "good", "works")] if works else [])

    def _one(self, role: str, report: RoleReport) -> RoleNow:
        tone, since = _TONES[report.word], None if report.fine else report.since
        if report.word != "stands by":
            return RoleNow(role, tone, report.word, report.why, since, todo=report.todo)
        whom = self._whom(role)
        idle = not whom and role.startswith("backfill.")  # no run is under way, and nobody else has one
        return RoleNow(role, tone, "idle" if idle else report.word, whom=whom)

    def _whom(self, role: str) -> str:
        if name := self._works.get(role) or self._tries.get(role):
            return name
        return self._holders[role].who if role in self._holders else ""

    def _of_silent(self, one: Peer) -> list[RoleNow]:
        lost, held, found = self._lost(one), self._keeps(one), list[RoleNow]()
        for role in held:
            todo = "It is frozen, or cut off: end it, and another process takes over."
            found.append(RoleNow(role, "bad", "held", f"its lock is held by {self._holders[role].who}", todo=todo))
        if gone := [role for role in lost if role not in held]:
            todo = "Start it again, or another process with these roles."
            found.append(RoleNow(", ".join(gone), "bad", "gone", "no other process has it", todo=todo))
        if rest := [role for role, _ in _roles(one) if role not in lost and role not in held]:
            found.append(RoleNow(", ".join(rest), "plain", "elsewhere", "another process has it"))
        return found


def _tries(report: RoleReport) -> bool:
    """Tell whether a process takes the lock of a role from time to time, or keeps it, without doing the work."""
    return not report.fine and report.todo != OTHER_STAYS


def _roles(one: Peer) -> Iterator[tuple[str, RoleReport]]:
    yield from sorted(one.report.roles.items()) if one.report is not None else ()
