"""Tell which roles of this process do not do their work: in readiness, in a gauge, and in one log line each."""

import asyncio
import itertools
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Final

import structlog

from whatsms_events import metrics
from whatsms_events.clock import within
from whatsms_events.domain.standing import STILL_S, RolePlace, RoleReport, RoleState, Standing
from whatsms_events.workers.observer import DatabaseView, Observer

log = structlog.get_logger()

LOOK_S: Final = 1.0
BACKFILLS_EACH: Final = 5
"""Looks at the backfills cost more than the others: every fifth look has one."""

MESSAGES_EACH: Final = 60
"""What is counted over days need not be counted each second."""

States = Mapping[str, tuple[RoleState, str]]


class Watch:
    """Looks every second at what the databases show, and compares the roles' own `states` with that.

    So the gauges of the databases stay true whatever the workers do: a worker that has halted measures nothing.
    """

    def __init__(
        self,
        observer: Observer,
        standings: "Standings",
        states: States,
        *,
        note: Callable[[DatabaseView], None] = lambda _seen: None,
    ) -> None:
        """`note` is told what each look showed."""
        self._note = note
        self._observer = observer
        self._standings = standings
        self._states = states
        self._looks = itertools.count()
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        """Look every LOOK_S until `stop`."""
        while not await within(self._stopped, LOOK_S):
            await self.look()

    def stop(self) -> None:
        """Let `run` end."""
        self._stopped.set()

    async def look(self) -> None:
        """Look once; a database that is away is no error here."""
        await self._observer.look()
        seen = self._observer.seen
        self._standings.look(asyncio.get_running_loop().time(), self._states, seen)
        self._note(seen)
        number = next(self._looks)
        if number % MESSAGES_EACH == 0:
            await self._observer.look_at_messages()
            await self._observer.look_at_held()
        if number % BACKFILLS_EACH == 0:
            halted = [role for role, (state, _) in self._states.items() if state == "halted"]
            # A tenant may be called "relay": its backfill is "backfill.relay".
            backfills = {role.removeprefix("backfill.") for role in halted if role.startswith("backfill.")}
            await self._observer.look_at_backfills(backfills)
            await self._observer.look_at_secrets()

    def forget(self, names: Iterable[str]) -> None:
        """Watch these roles no more."""
        self._standings.forget(names)

    def problems(self) -> Mapping[str, str | None]:
        """Return each role with the reason why it does not do its work, None where it does."""
        return self._standings.problems(self._states)

    def reports(self, now: datetime) -> Mapping[str, RoleReport]:
        """Say of each role how it was at the last look, and since when."""
        return self._standings.reports(now)


class Standings:
    """What is known of every role of this process, by the name that the role has in log lines and metrics.

    `receiver` returns why no delivery can be accepted now; it is None without that role. `limits` are in seconds, for
    roles that may stay in one place for longer than STILL_S.
    """

    def __init__(
        self,
        names: Iterable[str],
        receiver: Callable[[], str | None] | None,
        *,
        kafka: bool,
        limits: Mapping[str, float],
    ) -> None:
        self._receiver = receiver
        self._kafka = kafka
        names = [*names, *(["receiver"] if receiver is not None else [])]
        self._standings = {name: Standing(max(STILL_S, limits.get(name.split(".")[0], 0.0))) for name in names}
        self._said: set[str] = set()

    def forget(self, names: Iterable[str]) -> None:
        """Watch these roles no more: they end because somebody wants it."""
        for name in names:
            self._standings.pop(name, None)

    def look(self, now: float, states: States, seen: DatabaseView) -> None:
        """Take in how all roles are; show it in the gauge, and log where one begins or ends to stand still."""
        for name, standing in self._standings.items():
            state, why = states.get(name, ("standby", ""))
            if name == "receiver" and self._receiver is not None:
                why = self._receiver() or seen.trouble
                state = "standby" if why else "active"
                metrics.ROLE_STATE.labels(name).set(0 if why else 1)
            standing.look(now, state, why, self._place(name, seen))
            metrics.ROLE_STALLED.labels(name).set(standing.stalled_s)
            self._say(name, state, standing.problem)

    def problems(self, states: States) -> dict[str, str | None]:
        """Return each role with the reason why it does not do its work, None where it does.

        That a role has halted, and that the door takes nothing in, is known at once, before anybody looks again.
        """
        found = {name: standing.problem for name, standing in self._standings.items()}
        found |= {name: f"halted: {why}" for name, (state, why) in states.items() if state == "halted"}
        if self._receiver is not None:
            found["receiver"] = self._receiver()
        return found

    def reports(self, now: datetime) -> dict[str, RoleReport]:
        """Say of each role how it was at the last look, and since when."""
        return {name: standing.report(now) for name, standing in self._standings.items()}

    def _say(self, name: str, state: RoleState, problem: str | None) -> None:
        if problem is None:
            if name in self._said:
                self._said.discard(name)
                log.info("role.recovered", role=name)
        elif name not in self._said and state != "halted":  # `role.halted` was said by the loop
            self._said.add(name)
            log.error("role.stalled", role=name, reason=problem)

    def _place(self, name: str, seen: DatabaseView) -> RolePlace | None:
        """Return where a role is and where it could be: a consumer that Kafka feeds, as far as the relay went."""
        at, target = None, seen.end
        if name == "relay":
            at = seen.published
        elif name == "consumer":
            at, target = seen.applied, seen.published if self._kafka else seen.end
        elif name.startswith("backfill."):
            at = seen.runs.get(name.removeprefix("backfill."))
            target = None if at is None else at + 1  # a run that is not finished has somewhere to go
        return None if at is None or target is None else RolePlace(at, target)
