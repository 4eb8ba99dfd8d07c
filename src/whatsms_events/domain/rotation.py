"""When a webhook secret may be taken out of the configuration: the one rule, and what is not known.

The vendor may send a delivery again for hours (its page does not say for how long), signed as it was the first time.
And two webhooks of one account may have two secrets for ever, which from here looks like a rotation that never ends. So
a secret is safe to retire when all of this is true:

- another secret has fitted that began to be used later,
- that other secret has fitted since the old one last did,
- the old one has not fitted for QUIET, and for longer than the two were in use side by side.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Literal

QUIET: Final = timedelta(days=3)
"""Longer than anybody is known to retry a webhook, with a weekend's margin for one that is seldom sent."""

SecretState = Literal["in use", "retiring", "never matched"]


@dataclass(frozen=True, slots=True)
class SecretUse:
    """How one secret was used, whichever process received. `tenant` is the tenant's id, `name` the secret's name.

    The time is that at which a delivery came; a redelivery counts too, and so does a delivery that was parked.
    """

    tenant: str
    name: str
    first_at: datetime
    last_at: datetime
    count: int

    def and_later(self, later: "SecretUse") -> "SecretUse":
        """Return both together, of the same secret."""
        first_at, last_at = min(self.first_at, later.first_at), max(self.last_at, later.last_at)
        return replace(self, first_at=first_at, last_at=last_at, count=self.count + later.count)


@dataclass(frozen=True, slots=True)
class SecretStanding:
    """Where a secret stands in a rotation. `why` is one sentence for the operator."""

    name: str
    first_at: datetime | None
    last_at: datetime | None
    count: int
    state: SecretState
    safe_to_retire: bool
    why: str


def standings(names: Iterable[str], uses: Mapping[str, SecretUse], now: datetime) -> list[SecretStanding]:
    """Return where each of a tenant's configured secrets stands; a configured secret may have no use yet."""
    known = {name: uses[name] for name in names if name in uses}
    return [_standing(name, known, now) for name in names]


def _standing(name: str, uses: Mapping[str, SecretUse], now: datetime) -> SecretStanding:
    use = uses.get(name)
    if use is None:
        why = "no delivery has fitted it: nobody can tell whether it is still to come into use"
        return SecretStanding(name, None, None, 0, "never matched", False, why)
    state, safe, why = _judged(use, uses, now)
    return SecretStanding(name, use.first_at, use.last_at, use.count, state, safe, why)


def _judged(use: SecretUse, uses: Mapping[str, SecretUse], now: datetime) -> tuple[SecretState, bool, str]:
    newer = {other: one for other, one in uses.items() if one.first_at > use.first_at}
    if not newer:
        return "in use", False, "no newer secret has fitted yet"
    successor = max(newer, key=lambda other: newer[other].last_at)
    if newer[successor].last_at <= use.last_at:
        return "retiring", False, f"it fitted after {successor} last did: a webhook at the vendor still has it"
    beside, quiet = use.last_at - newer[successor].first_at, now - use.last_at
    wanted = max(QUIET, beside)
    if quiet > wanted:
        return "retiring", True, f"{successor} fits since, and it has not fitted for {_days(quiet)}"
    because = ", as long as the two were used side by side" if wanted > QUIET else ""
    return "retiring", False, f"wait until it has not fitted for {_days(wanted)}{because}; now it is {_days(quiet)}"


def _days(span: timedelta) -> str:
    days = span / timedelta(days=1)
    return f"{days:.1f} days" if days >= 1 else f"{max(0.0, days * 24):.1f} hours"
