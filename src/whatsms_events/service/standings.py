"""States of roles and what the databases show in; readiness, a gauge and one log line out where a role stands still."""

from collections.abc import Callable, Iterable, Mapping

import structlog

from whatsms_events import metrics
from whatsms_events.domain.standing import STILL_S, Place, Standing
from whatsms_events.workers.loop import RoleState
from whatsms_events.workers.observer import Seen

log = structlog.get_logger()

States = Mapping[str, tuple[RoleState, str]]


class Standings:
    """Every role of this process by the name it has in states, log lines and metrics.

    `receiver` says why no delivery can be accepted now; it is None without that role. `limits`: roles that may stay in
    one place for longer than STILL_S, and how long.
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

    def look(self, now: float, states: States, seen: Seen) -> None:
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
        """Return each role with why it does not do its work, None where it does; who has halted now, and the door."""
        found = {name: standing.problem for name, standing in self._standings.items()}
        found |= {name: f"halted: {why}" for name, (state, why) in states.items() if state == "halted"}
        if self._receiver is not None:
            found["receiver"] = self._receiver()
        return found

    def _say(self, name: str, state: RoleState, problem: str | None) -> None:
        if problem is None:
            if name in self._said:
                self._said.discard(name)
                log.info("role.recovered", role=name)
        elif name not in self._said and state != "halted":  # `role.halted` was said by the loop
            self._said.add(name)
            log.error("role.stalled", role=name, reason=problem)

    def _place(self, name: str, seen: Seen) -> Place | None:
        """Return where a role is and could be. The consumer goes as far as the relay went, where Kafka feeds it."""
        at, target = None, seen.end
        if name == "relay":
            at = seen.published
        elif name == "consumer":
            at, target = seen.applied, seen.published if self._kafka else seen.end
        elif name.startswith("backfill."):
            at = seen.runs.get(name.removeprefix("backfill."))
            target = None if at is None else at + 1  # a run that is not finished has somewhere to go
        return None if at is None or target is None else Place(at, target)
