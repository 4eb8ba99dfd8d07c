"""Show the demo to a person: a table or a line while it runs, and the summary at its end."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final

from rich.console import Console
from rich.table import Table

from whatsms_events.backfill.worker import Progress
from whatsms_events.twin.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Summary:
    """What the demo prints at its end. `drift` has what was repaired, by entity and kind; NOTES explains the others."""

    ok: bool
    seconds: float
    sent: int
    accepted: int
    duplicates: int
    rejected: int
    parked: int
    dropped: int
    log_events: int
    observed: int
    applied: int
    tickets: int
    messages: int
    contacts: int
    campaigns: int
    acks: dict[str, int]
    missing: int
    unexpected: int
    repaired: int
    drift: dict[str, dict[str, int]]
    differing: int
    trouble: str
    kafka: bool


NOTES: Final[Mapping[str, str]] = {
    "sent": "POSTs, with doubles and second tries",
    "duplicates": "answered 2xx, kept once",
    "rejected": "signed wrongly, on purpose",
    "parked": "signed garbage, on purpose; kept for a person to look at",
    "dropped": "webhooks never sent, on purpose",
    "log_events": "accepted, and observed",
    "observed": "appended by the repair: what no webhook had brought",
    "missing": "accepted, but not in the log",
    "unexpected": "in the log, but never sent",
    "repaired": "entities that differed or were in doubt at the end: dropped, not out yet, or told by no webhook",
    "differing": "entities that differ from the twin's account now, compared column by column",
}
"""What the numbers count, where the name does not say it."""

NOTES_AT: Final = 6
"""Characters of a number before its note."""


def table(ledger: Ledger, end: int, lag: int, took_s: float, repair: Progress | None) -> Table:
    """Return what a terminal of 24 lines shows while the demo runs: events by type, or the repair once it has begun."""
    outcomes = ledger.by_outcome
    shown = Table(header_style="")
    shown.add_column(f"{took_s:.0f} s")
    shown.add_column("sent" if repair is None else "", justify="right")
    if repair is None:
        for event_type, count in sorted(ledger.by_type.items()):
            shown.add_row(event_type, str(count))
        shown.add_section()
    for name, value in {
        "accepted": outcomes["accepted"],
        "accepted per second": round(outcomes["accepted"] / took_s),
        "duplicates": outcomes["duplicate"],
        "rejected (wrong signature)": outcomes["rejected"],
        "parked": outcomes["parked"],
        "dropped (never sent)": outcomes["dropped"],
        "log ends at": end,
        "lag of the projection": lag,
    }.items():
        if repair is None or name != "accepted per second":
            shown.add_row(name, str(value))
    if repair is not None:
        shown.add_section()
        for name, words in _repair(repair).items():
            shown.add_row(f"repair: {name}", words)
    return shown


def line(ledger: Ledger, end: int, lag: int, took_s: float, repair: Progress | None) -> str:
    """Return the same as a line, for an output that is no terminal."""
    if repair is not None:
        return f"{took_s:5.0f} s  repair  " + "  ".join(f"{name} {words}" for name, words in _repair(repair).items())
    outcomes = ledger.by_outcome
    return (
        f"{took_s:5.0f} s  sent {ledger.sent}  accepted {outcomes['accepted']}  "
        f"duplicates {outcomes['duplicate']}  rejected {outcomes['rejected']}  parked {outcomes['parked']}  "
        f"dropped {outcomes['dropped']}  log {end}  lag {lag}"
    )


def _repair(progress: Progress) -> dict[str, str]:
    found, done = progress.found.total(), progress.shown - progress.remaining
    shown = {"requests": f"{progress.requests}", "read": f"{done} of {progress.shown}", "found": f"{found}"}
    return shown | {"repaired": f"{found}"} if progress.finished else shown


def print_summary(console: Console, summary: Summary) -> None:
    """Print what the demo found out, and the verdict."""
    for name, value in asdict(summary).items():
        if shown := _words(value):
            note = f"  {NOTES[name]}" if name in NOTES else ""
            console.print(f"{name:12} {shown:{NOTES_AT}}{note}".rstrip(), markup=False, highlight=False, soft_wrap=True)
    console.print("", *_verdict(summary), sep="\n", markup=False, highlight=False, soft_wrap=True)


def _words(value: object) -> str:
    match value:
        case dict() if any(isinstance(one, dict) for one in value.values()):
            return "; ".join(f"{name} {_words(kinds)}" for name, kinds in value.items())
        case dict():
            return "  ".join(f"{name} {count}" for name, count in value.items())
        case bool():
            return "yes" if value else "no"
        case _:
            return str(value)


def _verdict(summary: Summary) -> list[str]:
    """Say what was proved, or what was not."""
    if summary.ok:
        kept = "every accepted delivery is in the log, once, and applied"
        shown = "the projection shows what the twin's account holds"
        return [
            f"{kept};",
            f"{summary.dropped} webhooks were dropped, {summary.repaired} entities repaired at the end: {shown}",
        ]
    wrong = {
        "ledger and log DIFFER": bool(summary.missing or summary.unexpected),
        f"{summary.differing} entities DIFFER from the twin's account": bool(summary.differing),
        f"the repair did not finish: {summary.trouble}": bool(summary.trouble),
        "nothing was accepted": not summary.accepted,
    }
    return [words for words, so in wrong.items() if so] or ["not all is applied"]
