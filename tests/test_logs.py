"""Logs: one JSON object a line, and nothing personal or secret in any of them, whatever way it came."""

import ast
import asyncio
import contextlib
import io
import json
import logging
import re
import sqlite3
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import whatsms_events
from servers.examples import examples
from whatsms_events import logs
from whatsms_events.errors import IntegrityError, StorageUnavailableError
from whatsms_events.redaction import KEYS

CANARIES = {
    "name": "Joana Canária",
    "number": "351912345678",
    "text": "my test result is positive",
    "signature": "sha256=c4n4ry0123456789",
    "secret": "s3cr3t-c4n4ry",
    "email": "joana.canaria",
}
ALL = " | ".join(CANARIES.values())


class Output(io.BytesIO):
    """What was written, as text and as parsed lines."""

    def text(self) -> str:
        """Return everything written."""
        return self.getvalue().decode("utf-8")

    def lines(self) -> list[dict[str, Any]]:
        """Return the lines, each of which must be one JSON object with the keys that every line has."""
        lines = [json.loads(line) for line in self.text().splitlines()]
        for line in lines:
            assert list(line)[:3] == ["timestamp", "level", "event"]
            assert datetime.fromisoformat(line["timestamp"]).tzinfo == UTC
        return lines


class Clock:
    """A clock that stands still until it is moved."""

    now = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Return the clock by which libraries are held back."""
    return Clock()


@pytest.fixture
def output(clock: Clock) -> Iterator[Output]:
    """Configure logging into memory and put everything back afterwards."""
    configured = structlog.get_config()
    root = logging.getLogger()
    handlers, level, raising = root.handlers[:], root.level, logging.raiseExceptions
    hooks = sys.excepthook, sys.unraisablehook, threading.excepthook
    stream = Output()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logs.configure("debug", stream, clock=clock)
        yield stream
    structlog.configure(**configured)
    root.handlers[:], logging.raiseExceptions = handlers, raising
    root.setLevel(level)
    sys.excepthook, sys.unraisablehook, threading.excepthook = hooks


log = structlog.get_logger()


def fail(message: str) -> None:
    """Raise an exception that carries a value, from another one that does."""
    try:
        int(message)
    except ValueError as exc:
        raise sqlite3.OperationalError(message) from exc


# Our own lines.


def test_a_line_is_one_json_object(output: Output) -> None:
    """Timestamp, level and event come first, then the facts in the order given, each in a form JSON has."""
    one = UUID("018f0000-0000-8000-8000-000000000001")
    log.info("delivery.accepted", tenant="acme", id=one, position=2**40, duration_s=0.5, types={"message.ack": 2})
    log.warning("delivery.parked", reason="a\nb", rows=[1, (2, 3)], detail=datetime(2026, 11, 23, tzinfo=UTC))
    first, second = output.lines()
    assert first == {
        "timestamp": first["timestamp"],
        "level": "info",
        "event": "delivery.accepted",
        "tenant": "acme",
        "id": str(one),
        "position": 2**40,
        "duration_s": 0.5,
        "types": {"message.ack": 2},
    }
    assert second["reason"] == "a�b"
    assert second["rows"] == [1, [2, 3]]
    assert second["detail"].startswith("2026-11-23")


def test_level_is_the_least_one_logged(output: Output) -> None:
    """Below the level nothing is written, of ours as of the libraries'."""
    logs.configure("error", output)
    log.warning("role.retrying")
    logging.getLogger("aiokafka").warning("gone")
    log.error("role.halted")
    assert [line["event"] for line in output.lines()] == ["role.halted"]


def test_loggers_made_before_obey_a_later_configure(output: Output) -> None:
    """A module's logger, made at import and used already, writes to where the last `configure` says."""
    log.info("first.line")
    other = Output()
    logs.configure("info", other)
    log.info("second.line")
    assert [line["event"] for line in output.lines() + other.lines()] == ["first.line", "second.line"]


def test_facts_under_other_keys_are_withheld(output: Output) -> None:
    """A fact whose key is not in KEYS is counted, not shown, also when it was bound; neither is its key."""
    log.bind(**CANARIES).info("delivery.accepted", tenant="acme", api_key=CANARIES["secret"], body=ALL.encode())
    log.info("delivery.accepted", **{ALL: 1})
    first, second = output.lines()
    assert (first["tenant"], first["withheld"], second["withheld"]) == ("acme", len(CANARIES) + 2, 1)


def test_text_in_place_of_an_event_is_not_shown(output: Output) -> None:
    """An event is a dotted name; a sentence, a formatted one, or a value is not."""
    log.info(ALL)
    log.info("received %s", ALL)
    log.info(" ".join(["received.delivery", ALL]))
    log.info(ALL.encode())
    assert [line["event"] for line in output.lines()] == ["log.unnamed"] * 4


@settings(max_examples=examples(200), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    value=st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text()
        | st.binary()
        | st.uuids()
        | st.builds(object),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    )
    | st.text(alphabet=st.characters(categories=["Cs", "Cc", "Lu"]))
)
def test_no_value_breaks_a_line(value: object, output: Output) -> None:
    """Whatever a fact is, logging neither raises nor writes more than one line, nor one without end."""
    output.seek(0)
    output.truncate()
    log.info("delivery.accepted", reason=value)
    log.info("delivery.accepted", **{str(value): value})
    assert output.getvalue().count(b"\n") == len(output.lines()) == 2


def test_values_are_bounded(output: Output) -> None:
    """Long text is cut, long lists end, deep ones end in a type's name, unknown types show their name alone."""

    class Kind(StrEnum):
        ACK = "message.ack"

    deep: list[object] = []
    for _ in range(500):
        deep = [deep]
    log.info("a.b", reason="x" * 10_000, rows=list(range(1000)), detail=deep, cause=object(), type=Kind.ACK, id=b"x")
    (line,) = output.lines()
    assert len(line["reason"]) == 300
    assert len(line["rows"]) == 50
    assert json.dumps(line["detail"]) == '[[[[["list"]]]]]'
    assert (line["cause"], line["type"], line["id"]) == ("object", "message.ack", "bytes")


def test_a_reader_that_is_gone_stops_nobody(output: Output) -> None:
    """Where nobody reads our lines any more, they are lost, and the service goes on."""

    class Gone(io.BytesIO):
        def write(self, _data: object) -> int:
            raise BrokenPipeError

    closed = io.BytesIO()
    closed.close()
    assert output.text() == ""
    for stream in (Gone(), closed):
        logs.configure("info", stream)
        structlog.get_logger().info("a.b")


# Exceptions.


def test_an_exception_is_types_and_places(output: Output) -> None:
    """Of a foreign exception and its causes types and places are shown, never messages or lines of code."""
    try:
        fail(ALL)
    except sqlite3.OperationalError as exc:
        log.exception("role.retrying")
        log.warning("role.retrying", exc_info=exc)
        log.warning("role.retrying", error=exc)
    first, second, third = output.lines()
    shown = first["exception"]
    assert shown["type"] == "sqlite3.OperationalError"
    assert re.fullmatch(r".*tests/test_logs\.py:\d+ fail", shown["at"][-1])
    assert shown["cause"]["type"] == "ValueError"
    assert second["exception"] == shown == third["error"]


def test_our_own_exceptions_show_their_message(output: Output) -> None:
    """Our messages are written for the operator and hold no values; the foreign cause behind them stays silent."""
    try:
        try:
            fail(ALL)
        except sqlite3.OperationalError as exc:
            raise StorageUnavailableError("OperationalError 53300") from exc
    except StorageUnavailableError as exc:
        log.warning("role.halted", exc_info=exc)
    (line,) = output.lines()
    assert line["exception"]["message"] == "OperationalError 53300"
    assert "message" not in line["exception"]["cause"]


def test_groups_show_their_members(output: Output) -> None:
    """A task group's failure names each of the failures in it."""
    group = BaseExceptionGroup(ALL, [IntegrityError("look at the log"), ValueError(ALL), KeyError(ALL)])
    log.critical("process.crashed", exc_info=group)
    (line,) = output.lines()
    assert [one["type"] for one in line["exception"]["group"]] == [
        "whatsms_events.errors.IntegrityError",
        "ValueError",
        "KeyError",
    ]


# Libraries.


def library(name: str = "aiokafka.client") -> logging.Logger:
    """Return a logger as libraries use it."""
    return logging.getLogger(name)


def test_a_library_shows_its_template_and_small_numbers(output: Output) -> None:
    """Of a record name, place and literal message are shown; of arguments small numbers and types of exceptions."""
    library().error('Unable connect to "%s:%s": %r', "10.0.0.1", 9092, ConnectionError(ALL))
    library("asyncio").warning("Executing %s took %.3f seconds", ALL, 0.25)
    library().warning("%(name)s has %(count)d", {"name": ALL, "count": 3})
    library().warning("number %d", int(CANARIES["number"]))
    library().warning("wrong %s %s", ALL)
    lines = output.lines()
    assert [line["message"] for line in lines] == [
        'Unable connect to "…:9092": ConnectionError',
        "Executing … took 0.250 seconds",
        "… has 3",
        "number %d",
        "wrong %s %s",
    ]
    assert {line["event"] for line in lines} == {"library.logged"}
    assert (lines[0]["library"], lines[0]["level"]) == ("aiokafka.client", "error")
    assert re.fullmatch(r".*tests/test_logs\.py:\d+ test_a_library_shows\w+", lines[0]["at"])


def test_a_message_made_before_the_call_is_not_shown(output: Output) -> None:
    """Text that is no literal of the code that logs may hold anything; name and place remain."""
    library().warning(f"hello {ALL}")
    library().warning("\n".join(["hello", ALL]))
    library().warning(ValueError(ALL))
    library(ALL).warning("hello")
    library().handle(logging.makeLogRecord({"msg": ALL, "levelno": 35, "name": "x", "args": (ALL,)}))
    lines = output.lines()
    assert ["message" in line for line in lines] == [False, False, False, True, False]
    assert lines[3]["library"] == "unnamed"
    assert lines[4]["level"] == "warning"


def test_a_library_that_repeats_itself_is_held_back(output: Output, clock: Clock) -> None:
    """One line for a place each 30 s; it says how many were held back. Other places are not held back."""

    def complain() -> None:
        library().warning("broker %s is away", 1)

    for _ in range(100):
        complain()
        clock.now += 1
    library().warning("something else")
    lines = output.lines()
    assert [line.get("suppressed") for line in lines] == [None, 29, 29, 29, None]


def test_held_back_keys_are_bounded(clock: Clock) -> None:
    """A sieve forgets what it held back rather than grow without end."""
    sieve = logs.Sieve(30, clock, limit=10)
    for key in range(1000):
        assert sieve.admit(key) == 0
        assert sieve.admit(key) is None
    assert sum(sieve.admit(key) is None for key in reversed(range(1000))) <= 10, "so many it still holds back"


def test_libraries_below_warning_are_silent(output: Output) -> None:
    """SQLAlchemy logs statements with their parameters at info: not even at our level debug, nor by its own level."""
    engine = library("sqlalchemy.engine.Engine")
    engine.info("[raw sql] %r", (ALL,))
    engine.setLevel(logging.DEBUG)
    try:
        engine.info("[raw sql] %r", (ALL,))
    finally:
        engine.setLevel(logging.NOTSET)
    assert output.lines() == []


# The canary: every path at once.


def in_our_lines() -> None:
    """Log the canaries by our own logger, in wrong places."""
    log.info("delivery.accepted", **CANARIES)
    log.bind(text=ALL).warning("delivery.parked", url=f"https://x/{ALL}", authorization=ALL, payload={"body": ALL})
    log.error(ALL, token=ALL, password=ALL)
    log.info("%s", ALL)


def in_exceptions() -> None:
    """Log exceptions with the canaries in messages, arguments and local variables."""
    with contextlib.suppress(sqlite3.OperationalError):
        try:
            fail(ALL)
        except sqlite3.OperationalError:
            log.exception("role.halted", **CANARIES)
            library().exception("failed: %s", ALL)
            raise
    for error in (KeyError(ALL), msgspec.ValidationError(ALL), UnicodeDecodeError("utf-8", ALL.encode(), 0, 1, ALL)):
        error.add_note(ALL)
        log.error("delivery.parked", exc_info=error, cause=error)


def in_libraries() -> None:
    """Log the canaries as libraries do."""
    for value in CANARIES.values():
        library(f"library.{len(value)}").error("value %s, %r", value, {"number": int(CANARIES["number"])})
        library(f"library.{len(value)}").error("value " + value, exc_info=ValueError(value), extra={"body": value})


def in_warnings() -> None:
    """Warn with the canaries."""
    warnings.warn(ALL, UserWarning, stacklevel=1)


def in_tasks() -> None:
    """Let asyncio report what nobody awaited and a callback that failed."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(fail, ALL)
        task = loop.create_task(asyncio.to_thread(fail, ALL))
        await asyncio.wait([task])
        del task

    asyncio.run(run())


def in_threads() -> None:
    """Let a thread and a finaliser fail."""
    thread = threading.Thread(target=fail, args=(ALL,), name=ALL)
    thread.start()
    thread.join()
    sys.unraisablehook(_Unraisable(ValueError(ALL), ALL))  # type: ignore[arg-type]


def in_a_crash() -> None:
    """Let the process end by an exception nobody caught."""
    try:
        fail(ALL)
    except sqlite3.OperationalError as exc:
        sys.excepthook(type(exc), exc, exc.__traceback__)


class _Unraisable:
    def __init__(self, error: BaseException, message: str) -> None:
        self.exc_type, self.exc_value, self.exc_traceback = type(error), error, None
        self.err_msg, self.object = message, message


@pytest.mark.parametrize(
    ("path", "events"),
    [
        (
            in_our_lines,
            {"delivery.accepted", "delivery.parked", "log.unnamed"},
        ),
        (in_exceptions, {"role.halted", "delivery.parked", "library.logged"}),
        (in_libraries, {"library.logged"}),
        (in_warnings, {"python.warned"}),
        (in_tasks, {"library.logged"}),
        (in_threads, {"thread.crashed", "python.unraisable"}),
        (in_a_crash, {"process.crashed"}),
    ],
)
def test_no_canary_in_any_line(
    path: Callable[[], None], events: set[str], output: Output, capfd: pytest.CaptureFixture[str]
) -> None:
    """Names, numbers, texts, signatures and secrets appear in no line, whichever way they were logged."""
    path()
    printed = capfd.readouterr()
    for text in (output.text(), printed.out, printed.err):
        for canary in CANARIES.values():
            assert canary not in text
            assert json.dumps(canary)[1:-1] not in text  # escaped
    assert {line["event"] for line in output.lines()} == events


# The code that logs.


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Yield every call of a logger in the package."""
    for path in sorted(Path(whatsms_events.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                name = ast.unparse(node.func.value)
                levels = ("debug", "info", "warning", "error", "exception", "critical", "bind")
                if re.fullmatch(r"_?log(\.bind\(.*\))?", name) and node.func.attr in levels:
                    yield f"{path.name}:{node.lineno}", node


def test_every_line_of_ours_has_a_fixed_name_and_known_facts() -> None:
    """Each call of a logger gives a literal dotted name, and only facts in KEYS (add a key there if it is safe)."""
    found = list(calls())
    assert len(found) > 4
    for where, call in found:
        if isinstance(call.func, ast.Attribute) and call.func.attr != "bind":
            assert len(call.args) == 1, where
            (event,) = call.args
            assert isinstance(event, ast.Constant), where
            assert re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", str(event.value)), where
        facts = {keyword.arg for keyword in call.keywords}
        assert facts <= KEYS | {"exc_info"}, f"{where}: {facts - KEYS}"


def test_no_key_invites_what_must_not_be_logged() -> None:
    """No fact that is shown is named like a secret or like something of a contact."""
    forbidden = re.compile(
        r"secret|token|authorization|api_?key|signature|password|body|text|name|number|email|url|header|payload|data|message"
    )
    assert not [key for key in KEYS if forbidden.search(key)]
