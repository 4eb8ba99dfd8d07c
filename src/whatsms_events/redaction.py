"""This module alone decides what a log line may show of facts, exceptions and the records of libraries.

- Our own lines: the event is a dotted name. A fact is shown if its key is in `KEYS`; `withheld` counts the others.
- A library's message is shown only where it is a literal in the library's code, with "…" for every argument but small
  numbers, since arguments carry values (SQL parameters, addresses, bodies).
- Exceptions: types and places; the message only of our own, which never hold a value of a delivery.
"""

import inspect
import logging
import re
import sys
import traceback
from collections import deque
from collections.abc import MutableMapping
from datetime import datetime
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, Final
from uuid import UUID

from whatsms_events.errors import WhatsmsEventsError

# fmt: off
KEYS: Final = frozenset({
    # Who and where.
    "tenant", "slug", "role", "roles", "part", "stage", "dialect", "topic", "partition", "prefix", "host", "port",
    "holder", "public", "private", "topics", "file", "path", "place", "source", "at", "pid",
    "library",  # path: never a request's
    # What and why.
    "id", "event_id", "log_id", "type", "types", "outcome", "reason", "detail", "error", "cause", "status", "signal",
    "category", "version", "seed", "kind", "entity", "phase", "resumed", "list", "page", "subject", "options",
    # How much.
    "count", "events", "rows", "records", "deliveries", "accepted", "duplicates", "rejected", "parked", "applied",
    "published", "skipped", "failures", "attempts", "suppressed", "waiting", "partitions", "lag", "limit", "size_bytes",
    "limit_bytes", "duration_s", "delay_s", "wait_s", "deadline_s", "interval_s",
    "requests", "entities", "shown", "remaining", "fields", "drift", "unsettled", "unusable", "silent_s", "usual_gap_s",
    "offset_s", "look_s", "halted",
    "unstable", "forbidden", "held_back", "extra", "missed", "held",
    # How far.
    "position", "after", "end", "through", "applied_through", "published_through", "offset", "generation",
})
# fmt: on
"""The facts that are shown. Add a key only if its value can never come out of a body, a header or a secret."""

_EVENT = re.compile(r"[a-z_]+(\.[a-z_]+)+")
_TEXT_LIMIT: Final = 300
_ITEMS_LIMIT: Final = 50
_FRAMES_LIMIT: Final = 8
_DEPTH_LIMIT: Final = 5
_NUMBER_LIMIT: Final = 10_000_000  # longer ones may be a telephone's


class Template(str):
    """A literal out of a library's code: the one text that is shown under a key outside of `KEYS`."""

    __slots__ = ()


def redact(_logger: object, _method: str, facts: MutableMapping[str, Any]) -> dict[str, Any]:
    """Return the line that may be shown. See the module's docstring for the rules."""
    event = facts.pop("event", None)
    named = _EVENT.fullmatch(event) if isinstance(event, str) else None
    error = error_of(facts.pop("exc_info", None))
    line = {
        "timestamp": facts.pop("timestamp", None),
        "level": facts.pop("level", None),
        "event": named[0] if named else "log.unnamed",
    }
    shown = {key: _plain(value) for key, value in facts.items() if key in KEYS or isinstance(value, Template)}
    if len(shown) < len(facts):
        shown["withheld"] = len(facts) - len(shown)
    if error is not None:
        shown["exception"] = _plain(error)
    return line | shown


def error_of(exc_info: object) -> BaseException | None:
    """Return the exception of what loggers take as `exc_info`: an exception, a triple, or whether to look for one."""
    match exc_info:
        case BaseException():
            return exc_info
        case (_, BaseException() as error, _):
            return error
        case None | False | (None, None, None):
            return None
        case _:
            return sys.exc_info()[1]


def _plain(value: object, depth: int = 0) -> Any:
    """Return a value as JSON can hold it, bounded in length and depth; of an unknown type only its name."""
    shown: Any = type(value).__name__
    match value:
        case None | bool() | float():
            shown = value
        case Enum():
            shown = _plain(value.value, depth)
        case int() if abs(value) < 2**63:
            shown = int(value)
        case str() | UUID() | Path() | datetime():
            # JSON cannot hold lone surrogates, and a terminal obeys control characters.
            text = str(value)[:_TEXT_LIMIT]
            shown = text if text.isprintable() else "".join(one if one.isprintable() else "�" for one in text)
        case BaseException():
            shown = _exception(value, depth)
        case dict() if depth < _DEPTH_LIMIT:
            items = list(value.items())[:_ITEMS_LIMIT]
            shown = {str(_plain(key)): _plain(one, depth + 1) for key, one in items}
        case list() | tuple() | set() | frozenset() if depth < _DEPTH_LIMIT:
            shown = [_plain(one, depth + 1) for one in list(value)[:_ITEMS_LIMIT]]
    return shown


def _exception(error: BaseException, depth: int) -> dict[str, Any]:
    """Return types and places of an exception and its causes. Foreign messages carry values, so only ours is shown."""
    shown: dict[str, Any] = {"type": type(error).__qualname__, "at": _places(error.__traceback__)}
    if type(error).__module__ != "builtins":
        shown["type"] = f"{type(error).__module__}.{shown['type']}"
    if isinstance(error, WhatsmsEventsError):
        shown["message"] = _plain(str(error))
    if depth < _DEPTH_LIMIT:
        if isinstance(error, BaseExceptionGroup):
            shown["group"] = [_exception(one, depth + 1) for one in error.exceptions[:_ITEMS_LIMIT]]
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if cause is not None:
            shown["cause"] = _exception(cause, depth + 1)
    return shown


def _places(tb: TracebackType | None) -> list[str]:
    """Return the innermost places of a traceback, without the lines of code, which may hold literals."""
    frames = deque(traceback.walk_tb(tb), maxlen=_FRAMES_LIMIT)
    return [place(frame.f_code.co_filename, line, frame.f_code.co_qualname) for frame, line in frames]


def place(filename: str, line: int, function: str = "") -> str:
    """Return a place in code, its file by the last three parts of its path: "storage/database.py:88 open_log"."""
    return f"{'/'.join(Path(filename).parts[-3:])}:{line} {function}".rstrip()


class _Left(str):
    """Stands for an argument, also under %r."""

    __slots__ = ()
    __repr__ = str.__str__


def template(record: logging.LogRecord) -> Template | None:
    """Return the record's message, arguments left out, if it is a literal in the function that logged it.

    Text made before the call (f-strings, joined lines, an exception) may hold anything, and nothing else tells the two
    apart.
    """
    if not isinstance(record.msg, str):
        return None
    frame = inspect.currentframe()
    while frame is not None and (frame.f_code.co_filename, frame.f_code.co_name) != (record.pathname, record.funcName):
        frame = frame.f_back
    if frame is None or record.msg not in [one for one in frame.f_code.co_consts if isinstance(one, str)]:
        return None
    args = record.args
    try:
        if isinstance(args, tuple):
            return Template(record.msg % tuple(map(_argument, args)) if args else record.msg)
        return Template(record.msg % {key: _argument(value) for key, value in (args or {}).items()})
    except (TypeError, ValueError, KeyError):
        return Template(record.msg)


def _argument(value: object) -> object:
    match value:
        case int() | float() if abs(value) < _NUMBER_LIMIT:
            return value
        case BaseException():
            return _Left(type(value).__name__)
        case type():
            return _Left(value.__name__)
        case _:
            return _Left("…")
