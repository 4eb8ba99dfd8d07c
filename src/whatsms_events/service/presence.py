"""Tell the other processes, by the log's database, how the roles of this one are: any console then shows them all.

That is for people alone. Whether a role may work is decided by its lock, and whether it does by `/readyz`.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from msgspec.structs import replace

from whatsms_events.clock import within
from whatsms_events.domain.bodies import storable
from whatsms_events.domain.standing import PeerReport, RoleReport, RoleWord
from whatsms_events.errors import WhatsmsEventsError
from whatsms_events.storage.log.peers import BEAT_S, PeerId, Peers

LOOK_S: Final = 1.0
LEAVE_S: Final = 2.0
"""A process that stops waits for so long at most to remove its row."""

ROLES_LIMIT: Final = 60
"""So many roles are told: a tenant has up to two, and there may be hundreds of tenants."""

WHY_LIMIT: Final = 500

DETAILS: Final[Mapping[str, tuple[str, ...]]] = {"watchdog": ("tenant", "state", "cause"), "door": ("clock",)}
"""What is told of `/readyz`, by the first word of its name: words of ours, none of which changes by itself."""

ALARMS: Final = frozenset({"silent", "differs"})
"""Those of these words that a person must act on."""


class Presence:
    """Tells what `roles` and `details` return, until it is stopped."""

    def __init__(
        self,
        peers: Peers,
        which: PeerId,
        roles: Callable[[], Mapping[str, RoleReport]],
        details: Callable[[], Mapping[str, object]],
    ) -> None:
        self._peers = peers
        self._roles = roles
        self._details = details
        self._which = which
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        """Write this process's row when a role changed, and every BEAT_S; remove the row at the end.

        A row that could not be written is tried again at the next look.
        """
        clock, told_at, told = asyncio.get_running_loop().time, 0.0, dict[str, RoleWord]()
        while not self._stopped.is_set():
            report = short(self._roles(), self._details())
            now, words = clock(), {name: one.word for name, one in report.roles.items()}
            if words != told or now - told_at >= BEAT_S:
                # The roles that need this database say that it is away. Statements have deadlines of their own: a write
                # that was cut off from here might keep SQLite's one writing connection.
                with suppress(WhatsmsEventsError):
                    await self._peers.tell(self._which, report)
                    told_at, told = now, words
            await within(self._stopped, LOOK_S)
        with suppress(WhatsmsEventsError, TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                await self._peers.leave(self._which)

    def stop(self) -> None:
        """Let `run` end."""
        self._stopped.set()


def short(roles: Mapping[str, RoleReport], details: Mapping[str, object]) -> PeerReport:
    """Return what is told of a process, and no more than the limits.

    First come the roles that are no tenant's, of which there are few, and then those that do not do their work; of what
    is known of tenants first what a person must act on.
    """
    ordered = sorted(roles.items(), key=lambda one: ("." in one[0], one[1].fine, one[0]))
    first, rest = ordered[:ROLES_LIMIT], ordered[ROLES_LIMIT:]
    known: dict[str, dict[str, str | None]] = {}
    for name, detail in details.items():
        wanted = DETAILS.get(name.split(".")[0], ())
        if wanted and isinstance(detail, Mapping):
            known[name] = {key: detail.get(key) for key in wanted}
    alarms = sorted(known.items(), key=lambda one: not ALARMS & set(one[1].values()))
    told = {name: replace(one, why=storable(one.why)[:WHY_LIMIT]) for name, one in first}
    failing = sum(not one.fine for _name, one in rest)
    return PeerReport(roles=told, details=dict(alarms[:ROLES_LIMIT]), more=len(rest), more_failing=failing)
