"""This module sets up logging: each log line is one JSON object on standard error.

`redaction` decides what a line may show: our own lines, the records of libraries, warnings and crashes.
Every line has `timestamp` (ISO 8601, UTC), `level` and `event`.
"""

import logging
import re
import sys
import threading
import time
import warnings
from collections.abc import Callable, Hashable
from types import TracebackType
from typing import BinaryIO, Final, Literal

import msgspec
import structlog

from whatsms_events import redaction
from whatsms_events.redaction import error_of, place, template

LIBRARY_INTERVAL_S: Final = 30.0
"""A library that repeats itself, such as aiokafka while a broker is down, gets one line in this time for each place."""

_LOGGER_NAME = re.compile(r"[A-Za-z0-9_.]{1,80}")

Level = Literal["debug", "info", "warning", "error"]

_log = structlog.get_logger()
_encode = msgspec.json.Encoder().encode


def configure(level: Level, stream: BinaryIO | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
    """Send every line of this process to `stream` (standard error), ours from `level`, libraries' from warning on.

    It also takes over Python's warnings and what would print a traceback: uncaught and unraisable exceptions.
    """
    lines = _Lines(stream or sys.stderr.buffer)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            redaction.redact,
            lambda _logger, _method, line: _encode(line),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: lines,
        # Modules make their loggers at import; kept ones would not obey a later `configure`. Lines are few here.
        cache_logger_on_first_use=False,
    )
    logging.raiseExceptions = False  # else a failing handler prints the record with its arguments
    # Below warning, SQLAlchemy logs each statement with its parameters.
    least = max(logging.WARNING, logging.getLevelNamesMapping()[level.upper()])
    libraries = _Libraries(Sieve(LIBRARY_INTERVAL_S, clock))
    libraries.setLevel(least)
    root = logging.getLogger()
    root.handlers[:] = [libraries]
    root.setLevel(least)
    warnings.showwarning = _show_warning
    sys.excepthook = _crashed
    sys.unraisablehook = lambda args: _log.error("python.unraisable", exc_info=args.exc_value)
    threading.excepthook = lambda args: _log.error("thread.crashed", exc_info=args.exc_value)


class _Lines:
    """Writes lines whole, from any thread."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def msg(self, line: bytes) -> None:
        with self._lock:
            try:
                self._stream.write(line + b"\n")
                self._stream.flush()
            except (OSError, ValueError):
                # The lines have nowhere to go (a closed pipe, a full disk). Deliveries matter more than lines.
                return

    debug = info = warning = error = critical = msg


class Sieve:
    """Lets one line for each key through in `interval_s` and counts what it holds back."""

    def __init__(self, interval_s: float, clock: Callable[[], float] = time.monotonic, *, limit: int = 1000) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._limit = limit
        self._held: dict[Hashable, tuple[float, int]] = {}
        self._lock = threading.Lock()

    def admit(self, key: Hashable) -> int | None:
        """Return how many were held back since the last line for `key`, or None: hold this one back too."""
        now = self._clock()
        with self._lock:
            since, held = self._held.get(key, (None, 0))
            if since is not None and now - since < self._interval_s:
                self._held[key] = (since, held + 1)
                return None
            if len(self._held) >= self._limit:
                self._held.clear()
            self._held[key] = (now, 0)
            return held


class _Libraries(logging.Handler):
    """Takes the standard library's log records, of whatever library, into our format."""

    def __init__(self, sieve: Sieve) -> None:
        super().__init__()
        self._sieve = sieve

    def emit(self, record: logging.LogRecord) -> None:
        """Log the record as `library.logged`, or count it where its place had a line a short while ago."""
        error = error_of(record.exc_info)
        suppressed = self._sieve.admit((record.name, record.pathname, record.lineno, type(error)))
        if suppressed is None:
            return
        facts: dict[str, object] = {
            "library": record.name if _LOGGER_NAME.fullmatch(record.name) else "unnamed",
            "at": place(record.pathname, record.lineno, record.funcName or ""),
        }
        message = template(record)
        if message is not None:
            facts["message"] = message
        if suppressed:
            facts["suppressed"] = suppressed
        level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL)
        _log.log(level, "library.logged", exc_info=error, **facts)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the standard library's name
        """Say nothing: the standard library would print the record with its arguments."""


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    *_: object,
    **__: object,
) -> None:
    # The message stays out: it carries values, such as the other end of a socket.
    del message
    _log.warning("python.warned", category=category.__name__, at=place(filename, lineno))


def _crashed(kind: type[BaseException], error: BaseException, tb: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, tb)
        return
    _log.critical("process.crashed", exc_info=error)
