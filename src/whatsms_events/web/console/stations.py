"""Whether each station of an event's way does its work, in a word and a sentence, by what was read of it.

`readiness` is how this process is, with what other processes know of those who send. `undone` are the roles that
nobody does now, each with the reason.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from whatsms_events.storage.pulse import Flow
from whatsms_events.storage.repair.reports import Overview
from whatsms_events.web.console.rendering import lasting
from whatsms_events.web.health import Readiness

Tone = Literal["good", "warn", "bad", "plain"]

LATE_S: Final = 60.0
"""So long an event may wait for its next station before somebody should look."""

STUCK_S: Final = 600.0
RECONCILED_S: Final = 2 * 86400.0
"""A reconcile that ended so long ago says little of today."""


@dataclass(frozen=True, slots=True)
class Station:
    """One station: `word` and `tone` for who looks for a second, `sentence` for who reads."""

    title: str
    tone: Tone
    word: str
    sentence: str


def receiving(
    readiness: Readiness, undone: Mapping[str, str], flow: Flow, heard_at: datetime | None, now: datetime
) -> Station:
    """Judge the door; `heard_at` is when any tenant's last signed delivery came, at whichever process."""
    title, roles = "Receiving", readiness.roles
    if problem := roles.get("receiver"):
        return Station(title, "bad", "no", f"This process takes no delivery in: {problem}.")
    if "receiver" in undone and "receiver" not in roles:
        return Station(title, "bad", "no", f"Nobody takes deliveries in: the receiver {undone['receiver']}.")
    silent = [words for words in map(_silence, _details(readiness, "watchdog.")) if words]
    if silent:
        return Station(title, "bad", "silent", " ".join(silent))
    if heard_at is None:
        word, sentence = "nothing yet", "No signed delivery has come in so far."
        return Station(title, "warn" if flow.end == 0 else "plain", word, sentence)
    where = "" if "receiver" in roles else " Another process receives."
    return Station(
        title, "good", "yes", f"The last delivery came {lasting((now - heard_at).total_seconds())} ago.{where}"
    )


def verifying(readiness: Readiness, undone: Mapping[str, str], rejected: Sequence[float | None]) -> Station:
    """Judge the signatures by what this process refused in the last hour."""
    title, refused = "Verifying", sum(one or 0 for one in rejected)
    if any(detail.get("cause") == "rejects" for detail in _details(readiness, "watchdog.")):
        sentence = "Deliveries come, but their signatures do not fit: was the secret changed at WhatSMS?"
        return Station(title, "bad", "refusing", sentence)
    if "receiver" not in readiness.roles and "receiver" in undone:
        return Station(title, "plain", "nobody", "No process checks signatures now.")
    if "receiver" not in readiness.roles:
        return Station(
            title, "plain", "elsewhere", "Another process checks signatures, and its metrics count refusals."
        )
    if refused >= 1:
        sentence = f"Here {refused:.0f} signatures did not fit in the last hour; the command verify explains one."
        return Station(title, "warn", "some not", sentence)
    return Station(title, "good", "yes", "This process refused no signature in the last hour.")


def publishing(readiness: Readiness, undone: Mapping[str, str], flow: Flow, now: datetime) -> Station:
    """Judge the relay by what waits for it."""
    title = "Publishing"
    if flow.published is None:
        return Station(title, "plain", "off", "No Kafka is configured: the tables are fed by the log itself.")
    late = _late(title, readiness.roles.get("relay") or undone.get("relay"), flow.unpublished_at, now)
    if late is not None:
        return late
    if flow.relay_at is None:
        return Station(title, "warn", "never", "No relay has published anything so far.")
    said = f"Everything is in Kafka; a relay last checked it {lasting((now - flow.relay_at).total_seconds())} ago."
    return Station(title, "good", "yes", _waiting(flow.unpublished_at, now) or said)


def applying(
    readiness: Readiness, undone: Mapping[str, str], through: int, unapplied_at: datetime | None, now: datetime
) -> Station:
    """Judge the consumer by what waits for it."""
    late = _late("Applying", readiness.roles.get("consumer") or undone.get("consumer"), unapplied_at, now)
    said = f"The tables show every event, up to position {through}."
    return late or Station("Applying", "good", "yes", _waiting(unapplied_at, now) or said)


def repairing(
    readiness: Readiness, undone: Mapping[str, str], overviews: Sequence[Overview], *, keyed: bool, now: datetime
) -> Station:
    """Judge the backfills; `keyed` tells whether any tenant has an API key."""
    title = "Repairing"
    if not keyed:
        sentence = "No tenant has an api_key, so what the webhook misses stays missing."
        return Station(title, "warn", "off", sentence)
    halted = [
        f"{name}: {problem}" for name, problem in readiness.roles.items() if name.startswith("backfill.") and problem
    ] or [f"{name} {why}" for name, why in undone.items() if name.startswith("backfill.")]
    if halted:
        return Station(title, "bad", "no", ". ".join(halted))
    running = sum(one.running is not None for one in overviews)
    finished = [one.finished_at for one in overviews if one.finished_at is not None]
    if not finished:
        word, sentence = (
            ("running", "The first run is under way.") if running else ("never", "No run has finished yet.")
        )
        return Station(title, "plain" if running else "warn", word, sentence)
    ago = (now - min(finished)).total_seconds()
    found = sum(sum(one.drift.values()) for one in overviews)
    said = f"The last run over everything ended {lasting(ago)} ago and found {found or 'no'} differences."
    return Station(title, "warn" if ago > RECONCILED_S else "good", "running" if running else "yes", said)


def _waiting(waits_since: datetime | None, now: datetime) -> str:
    """Say what a station that keeps up has before it, nothing where that is nothing."""
    return (
        ""
        if waits_since is None
        else f"It keeps up; the next event came {lasting((now - waits_since).total_seconds())} ago."
    )


_DOES: Final = {"Publishing": "The relay", "Applying": "The consumer"}
"""Who works at a station, as it stands before what is wrong with it."""


def _late(title: str, problem: str | None, waits_since: datetime | None, now: datetime) -> Station | None:
    """Return the station where it does not keep up, None where it does."""
    waits_s = 0.0 if waits_since is None else (now - waits_since).total_seconds()
    waits = f" The oldest event that waits came {lasting(waits_s)} ago." if waits_since is not None else ""
    if problem:
        return Station(title, "bad", "no", f"{_DOES[title]} {problem}.{waits}")
    if waits_s >= LATE_S:
        tone: Tone = "bad" if waits_s >= STUCK_S else "warn"
        return Station(title, tone, "behind", f"It does not keep up.{waits}")
    return None


def _silence(detail: Mapping[str, object]) -> str:
    if detail.get("state") != "silent":
        return ""
    why = {
        "activity": "although the account is active: is the URL still registered at WhatSMS?",
        "rejects": "while signatures are refused: was the secret changed at WhatSMS?",
    }
    because = why.get(str(detail.get("cause")), "longer than usual.")
    return f"{detail.get('tenant')} sends nothing that is accepted, {because}"


def _details(readiness: Readiness, kind: str) -> list[Mapping[str, object]]:
    """Return what the parts of one kind say of themselves."""
    return [one for name, one in readiness.details.items() if name.startswith(kind) and isinstance(one, Mapping)]
