"""A ledger and a summary in, what a person sees of the demo out."""

from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from whatsms_events.twin.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Summary:
    """What the demo prints at its end."""

    ok: bool
    seconds: float
    sent: int
    accepted: int
    duplicates: int
    rejected: int
    parked: int
    log_events: int
    applied: int
    tickets: int
    messages: int
    contacts: int
    campaigns: int
    acks: dict[str, int]
    missing: int
    unexpected: int
    kafka: bool


def table(ledger: Ledger, end: int, lag: int, took_s: float) -> Table:
    """Return what a terminal shows while the demo runs."""
    outcomes = ledger.by_outcome
    shown = Table(title=f"{took_s:.0f} s", title_justify="left")
    shown.add_column("events by type")
    shown.add_column("sent", justify="right")
    for event_type, count in sorted(ledger.by_type.items()):
        shown.add_row(event_type, str(count))
    shown.add_section()
    for name, value in {
        "accepted": outcomes["accepted"],
        "accepted per second": round(outcomes["accepted"] / took_s),
        "duplicates": outcomes["duplicate"],
        "rejected (wrong signature)": outcomes["rejected"],
        "parked": outcomes["parked"],
        "log ends at": end,
        "lag of the projection": lag,
    }.items():
        shown.add_row(name, str(value))
    return shown


def line(ledger: Ledger, end: int, lag: int, took_s: float) -> str:
    """Return the same in a line, for who is not a terminal."""
    outcomes = ledger.by_outcome
    return (
        f"{took_s:5.0f} s  sent {ledger.sent}  accepted {outcomes['accepted']}  "
        f"duplicates {outcomes['duplicate']}  rejected {outcomes['rejected']}  parked {outcomes['parked']}  "
        f"log {end}  lag {lag}"
    )


def print_summary(console: Console, summary: Summary) -> None:
    """Print what the demo found out, and the verdict."""
    for name, value in asdict(summary).items():
        shown = "  ".join(f"{level} {count}" for level, count in value.items()) if isinstance(value, dict) else value
        console.print(f"{name:12} {shown}", highlight=False, soft_wrap=True)
    verdict = "every accepted delivery is in the log, once, and applied"
    console.print(verdict if summary.ok else "ledger and log DIFFER, or not all is applied")
