"""Show how a backfill goes, and print what it found, for a person or for a program."""

import io
import time
from collections.abc import Callable
from typing import BinaryIO, Final

import msgspec
import structlog
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from whatsms_events.backfill import worker as backfill
from whatsms_events.backfill.run import HeldBack, Report, standing_of
from whatsms_events.cli.progress import Bar
from whatsms_events.cli.terminal import printable
from whatsms_events.domain.repair import advice
from whatsms_events.storage.reads import RowPage
from whatsms_events.storage.repair.reports import RunInfo

NAMES: Final = 50
WIDTH: Final = 160
"""The width of a table where the output is no terminal."""

RECEIPTS: Final = "reading messages may send read receipts to the people who wrote them"

log = structlog.get_logger()

_reports = msgspec.json.Decoder(Report)


class View(Bar):
    """How far a backfill is; where there is no terminal, by log lines."""

    def __init__(self, slug: str, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__(slug, monotonic=monotonic)
        self._slug = slug

    @property
    def lines(self) -> BinaryIO | None:
        """Where log lines go: above the bar on a terminal, None for standard error."""
        return _Above(self.console) if self.console.is_terminal else None

    def show_waiting(self, other: RunInfo | None) -> None:
        """Show what is waited for: another process's run, or None while that has none yet."""
        kind, cause = ("", "") if other is None else (other.run.kind, other.run.cause)
        remaining = 0 if other is None else other.remaining
        if self.console.is_terminal:
            numbers = f"{kind} ({cause})  {remaining} items left" if other is not None else ""
            self.move(numbers, name=f"{self._slug} waits for another process")
        else:
            log.info("backfill.waiting", tenant=self._slug, kind=kind, cause=cause, remaining=remaining)

    def show(self, progress: backfill.Progress, trouble: str) -> None:
        """Show how far it is, and what it waits for."""
        done, whole = progress.shown - progress.remaining, max(progress.shown, progress.expected or 0)
        drift = progress.found.total()
        if self.console.is_terminal:
            numbers = f"{done} of {whole}  {progress.requests} requests  {drift} found  {trouble}"
            self.move(numbers, name=f"{self._slug} {progress.phase}", total=whole or None, completed=done)
        elif self.due():
            log.info(
                "backfill.progress",
                tenant=self._slug,
                phase=progress.phase,
                requests=progress.requests,
                shown=progress.shown,
                remaining=progress.remaining,
                drift=drift,
                reason=trouble,
            )


class _Above(io.BytesIO):
    """Log lines as lines of the console, which keeps the bar below them."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def write(self, line: object, /) -> int:
        assert isinstance(line, bytes)  # noqa: S101 - `logs` writes nothing else
        text = line.decode().rstrip("\n")
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        return len(line)


def print_report(slug: str, info: RunInfo, names: RowPage) -> None:
    """Print what a finished run found: counts by entity, kind and age, and the first names."""
    report, console = _reports.decode(info.report or b"null"), Console()
    if not console.is_terminal:
        console.width = WIDTH
    counts = _table("entity", "kind", "age", "count")
    for one in report.drift:
        counts.add_row(one.entity, one.kind, one.age, str(one.count))
    named = _table("entity", "id", "kind", "fields", "age")
    for row in names.rows:
        fields, age_s = row["fields"], row["age_s"]
        assert isinstance(fields, list)  # noqa: S101 - `Reports.drift` says so
        age = f"{age_s:.0f} s" if isinstance(age_s, float) else "unknown"
        named.add_row(str(row["entity"]), escape(printable(str(row["id"]))), str(row["kind"]), ", ".join(fields), age)
    if report.drift:
        console.print(counts, "", named, highlight=False)
    if names.next is not None:
        console.print(f"… and more: GET /api/v1/{slug}/drift of the read API has them all", highlight=False)
    looked_at = ", ".join(f"{count} {entity}s" for entity, count in sorted(report.looked_at.items())) or "nothing"
    unread = "; messages were not compared: backfill.messages is off" if info.run.options.messages == "off" else ""
    summary = f"looked at {looked_at}; {report.requests} requests{unread}"
    console.print(_verdict(report), summary, sep="\n", highlight=False)


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="")
    for name in columns:
        table.add_column(
            name, no_wrap=name != "fields", overflow="fold", justify="right" if name == "count" else "left"
        )
    return table


def _verdict(report: Report) -> str:
    drift = sum(one.count for one in report.drift)
    words = f"{drift} differences, repaired" if drift else "no difference"
    if report.unsettled:
        words += f"; {report.unsettled} kept changing or could not be read and are left to the next run"
    if report.unseen:
        words += f"; {report.unseen} messages are here that their ticket's list did not show"
    if report.unstable:
        why = "".join(f" ({name}: {reason})" for name, reason in sorted(report.ended.items()))
        words += f"; the lists of {', '.join(report.unstable)} are not stable, there may be more{why}"
    if report.forbidden:
        words += f"; {report.forbidden} left out, the key has no right to: {', '.join(report.forbidden_names)}"
    return words + "".join(_held_back(entity, seen) for entity, seen in sorted(report.held_back.items()))


def _held_back(entity: str, seen: HeldBack) -> str:
    words = f"; of {seen.held} {entity}s {seen.extra} are not at the vendor and were NOT marked as gone, more than"
    words += f" {seen.limit} ({seen.missed} were missed; {advice(seen.missed, seen.extra)})"
    return f"{words} If they are really gone: `whatsms-events backfill run --allow-gone`"


def status_line(slug: str, info: RunInfo) -> str:
    """Return a run in a line."""
    run = info.run
    begun = f"{slug}  run {run.number}  {run.kind} ({run.cause})  begun {run.started_at.isoformat(timespec='seconds')}"
    if info.finished_at is not None and info.stopped_by is not None:
        return f"{begun}  stopped by {info.stopped_by}"
    if info.finished_at is not None:
        report = _reports.decode(info.report or b"null")
        took_s = (info.finished_at - run.started_at).total_seconds()
        return f"{begun}  finished after {took_s:.0f} s  {report.requests} requests  {_verdict(report)}"
    standing = standing_of(run)
    found = sum(one.count for one in standing.drift)
    line = f"{begun}  not finished: {standing.phase}, {info.remaining} items left, {standing.requests} requests"
    line += f", {found} differences so far, last piece {info.updated_at.isoformat(timespec='seconds')}"
    return line + (f"  STOPPED: {standing.stopped}" if standing.stopped else "")
