"""Say on standard error how far a long command is: a line every few seconds, since standard output is for data."""

import sys
import time
from collections.abc import Callable
from typing import Final

LINE_S: Final = 5.0


class Steps:
    """The lines of one command. Short work says nothing."""

    def __init__(self, doing: str, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._doing = doing
        self._monotonic = monotonic
        self._line_at = monotonic() + LINE_S

    def say(self, what: str) -> None:
        """Say something once."""
        print(f"{self._doing}: {what}", file=sys.stderr, flush=True)

    def at(self, place: int, end: int) -> None:
        """Say that the work is at a place on its way to the end, if the last line is old enough."""
        if self._monotonic() < self._line_at:
            return
        self._line_at = self._monotonic() + LINE_S
        share = f" ({100 * place // end} %)" if end else ""
        self.say(f"position {place} of {end}{share}")
