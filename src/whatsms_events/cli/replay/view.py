"""Show how a replay goes, and print what it would do, what it did and what it found."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from rich.console import Console
from rich.table import Table

from whatsms_events.cli.progress import Bar
from whatsms_events.domain.findings import Example, TableFinding
from whatsms_events.storage.log.replays import ReplayRun
from whatsms_events.storage.log.selected import Blanked, TypeSpan

TABLE_WIDTH: Final = 160
"""The width of a table where the output is no terminal."""


class ReplayView(Bar):
    """How far a replay is, and how fast."""

    def __init__(self, name: str, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__(name, monotonic=monotonic)
        self._name = name
        self._begun = monotonic()
        self._events = 0

    def show(self, position: int, through: int, events: int) -> None:
        """Show how far it is; `events` were read since the last call."""
        self._events += events
        rate = self._events / max(self._monotonic() - self._begun, 0.001)
        numbers = f"position {position:,} of {through:,}, {rate:,.0f} events a second"
        if self.console.is_terminal:
            self.move(numbers, total=through or None, completed=position)
        elif self.due():
            self.say(f"{self._name}: {numbers}")


def print_plan(spans: Sequence[TypeSpan], blanked: Blanked, *sentences: str) -> None:
    """Print what a replay would read, by type, and in sentences what it would do with it."""
    table = _table("type", "events", "received from", "until", "positions")
    for one in spans:
        since, until = (moment.isoformat(timespec="seconds") for moment in (one.since, one.until))
        table.add_row(one.type, f"{one.count:,}", since, until, f"{one.first}..{one.last}")
    total = sum(one.count for one in spans)
    words = [f"{total:,} events", *_blanked(blanked)]
    console = _console()
    if spans:
        console.print(table)
    console.print("; ".join(words), *sentences, sep="\n", soft_wrap=True)


def _blanked(blanked: Blanked) -> list[str]:
    if not blanked.count:
        return []
    return [f"of {blanked.count:,} retention took the bytes, the first one at position {blanked.first}"]


def print_findings(findings: Sequence[TableFinding], *sentences: str) -> None:
    """Print the differences by table and field, some examples, and in sentences what became of it."""
    table = _table("table", "rows", "new", "lost", "changed", "fields")
    for one in findings:
        fields = ", ".join(f"{name} {count:,}" for name, count in one.fields.items())
        table.add_row(one.table, f"{one.rows:,}", f"{one.new:,}", f"{one.lost:,}", f"{one.changed:,}", fields)
    console = _console()
    console.print(table)
    for one in findings:
        for example in one.examples:
            console.print(_line(one.table, example), soft_wrap=True)
    console.print(*sentences, sep="\n", soft_wrap=True)


def _line(table: str, example: Example) -> str:
    fields = ", ".join(
        f"{name} (hidden)" if both is None else f"{name} {both[0]!r} -> {both[1]!r}"
        for name, both in example.fields.items()
    )
    return f"{example.kind:8}{table} {'/'.join(map(repr, example.key))}  {fields}".rstrip()


def print_runs(runs: Sequence[ReplayRun], standing: Mapping[str, str]) -> None:
    """Print replays, a line each; `standing` says by id how far those are that have not ended."""
    for run in runs:
        begun = run.started_at.isoformat(timespec="seconds")
        where = run.target if not run.prefix else f"{run.target} {run.prefix}"
        ended = (
            f"{run.outcome} {run.finished_at.isoformat(timespec='seconds')}"
            if run.finished_at is not None
            else f"not finished: {standing.get(str(run.id), '')}"
        )
        print(f"{run.id}  {where}  begun {begun}  {ended}")
    if not runs:
        print("there was no replay yet")


def _console() -> Console:
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = TABLE_WIDTH
    return console


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="")
    for name in columns:
        right = name in ("events", "rows", "new", "lost", "changed")
        table.add_column(name, no_wrap=name != "fields", overflow="fold", justify="right" if right else "left")
    return table
