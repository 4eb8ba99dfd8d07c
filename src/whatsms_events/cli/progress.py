"""Say on standard error how far a long command is: a bar, or a line every few seconds. Standard output is for data."""

import sys
import time
from collections.abc import Callable
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

LINE_S: Final = 5.0


class Bar:
    """A progress bar where standard error is a terminal. Elsewhere `due` says when it is time for a line."""

    def __init__(self, name: str, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._line_at = monotonic() + LINE_S
        self.console = Console(stderr=True, emoji=False)
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[numbers]}"))
        self._bar = Progress(*columns, TimeElapsedColumn(), console=self.console, transient=True)
        self._task = self._bar.add_task(name, total=None, numbers="")

    def __enter__(self) -> Self:
        """Begin to show."""
        if self.console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the terminal clean."""
        if self.console.is_terminal:
            self._bar.stop()

    def say(self, words: str) -> None:
        """Print a line for a person."""
        self.console.print(words, markup=False, highlight=False, soft_wrap=True)

    def move(
        self, numbers: str, *, name: str | None = None, total: int | None = None, completed: int | None = None
    ) -> None:
        """Move the bar, and write these numbers beside it."""
        self._bar.update(self._task, description=name, total=total, completed=completed, numbers=numbers)

    def due(self) -> bool:
        """Tell whether the last line is old enough for another one, which then counts as written."""
        if self._monotonic() < self._line_at:
            return False
        self._line_at = self._monotonic() + LINE_S
        return True


class Steps:
    """The lines of one command. Short work says nothing."""

    def __init__(self, doing: str, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._doing = doing
        self._bar = Bar(doing, monotonic=monotonic)

    def say(self, what: str) -> None:
        """Say something once."""
        print(f"{self._doing}: {what}", file=sys.stderr, flush=True)

    def at(self, place: int, end: int) -> None:
        """Say that the work is at a place on its way to the end, if the last line is old enough."""
        if not self._bar.due():
            return
        share = f" ({100 * place // end} %)" if end else ""
        self.say(f"position {place} of {end}{share}")
