"""`events tail`: events as they are appended, by the event feed of a running process.

Only a running process appends, so there is nothing to follow without one; and whoever follows needs a token for that
process, and neither its files nor the password of its database. `events list` reads the log itself.
"""

import http.client
import signal
import sys
import time
import urllib.error
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Annotated, Final, NoReturn
from urllib.parse import urlencode

import msgspec
from cyclopts import Parameter

from whatsms_events.cli.asking import ask, private_url, refused, strange, token_for
from whatsms_events.cli.events import After, event_line
from whatsms_events.cli.options import DEFAULTS, SettingsOptions
from whatsms_events.cli.terminal import say, say_encoded
from whatsms_events.config.settings import Settings
from whatsms_events.consume import FeedReader
from whatsms_events.errors import ConfigError, TransientError
from whatsms_events.workers.loop import backoff

DEADLINE_S: Final = 60.0
"""The feed sends something every 15 seconds; after a minute of silence the process is taken for lost."""

LONGEST_WAIT_S: Final = 10.0
ANSWER_LIMIT_BYTES: Final = 64 * 1024


class _StoppedError(Exception):
    """A signal asked to stop."""


def tail_(
    *,
    after: After = None,
    tenant: str | None = None,
    type: str | None = None,  # noqa: A002 - the name of the option
    ticket: str | None = None,
    json: bool = False,
    url: Annotated[str | None, Parameter(show_default=False)] = None,
    options: SettingsOptions = DEFAULTS,
) -> int:
    """Print events as they are appended, until SIGINT or SIGTERM, by the event feed of a running process.

    Where the process is restarted, it goes on behind the last event that it printed. Status 1: no process answers.

    Parameters
    ----------
    after
        Begin behind this position. Without it: at the end of the log.
    tenant
        Only those of this tenant, by its slug.
    type
        Only those of this type.
    ticket
        Only those of the ticket with this id.
    json
        Print each as the read API shows it, a line of JSON each.
    url
        Where the private listener of the process is; private.host and private.port of the configuration by default.
    """
    settings = options.load()
    there = private_url(url, settings)
    wanted = {"tenant": tenant, "type": type, "ticket": ticket}
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        place = _end(there, settings) if after is None else after
        query = {"after": str(place)} | {name: value for name, value in wanted.items() if value is not None}
        _follow(f"{there}/api/v1/stream?{urlencode(query)}", settings, say_encoded if json else _say_line)
    except _StoppedError:
        return 0


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    raise _StoppedError


def _end(url: str, settings: Settings) -> int:
    """Return the end of the log."""
    token = token_for(settings, "read")
    try:
        with ask(f"{url}/api/v1/events?limit=1", token=token, deadline_s=DEADLINE_S) as answer:
            return int(msgspec.json.decode(answer.read())["end"])
    except urllib.error.HTTPError as exc:
        raise refused(url, exc, settings) from exc
    except (ValueError, KeyError, TypeError, OSError, http.client.HTTPException) as exc:
        raise strange(url) from exc


def _follow(url: str, settings: Settings, shown: Callable[[str], None]) -> NoReturn:
    """Print what the feed sends for ever; where it breaks off, go on behind the last event."""
    feed, failures, opened = FeedReader(), 0, False
    while True:
        try:
            for row in _rows(url, settings, feed):
                shown(row)
                failures = 0
            opened = True
        except TransientError as exc:
            if not opened and not feed.last_id and not failures:
                raise  # there never was a process
            say(f"{exc}; trying again", file=sys.stderr)
        failures += 1
        time.sleep(backoff(failures, LONGEST_WAIT_S))


def _rows(url: str, settings: Settings, feed: FeedReader) -> Iterator[str]:
    """Yield the rows of one feed until it ends or breaks off.

    Raise TransientError where there is none now, ConfigError where the question is wrong.
    """
    token = token_for(settings, "read")
    last_id = feed.reopen()
    headers = {"Last-Event-ID": last_id} if last_id else {}
    try:
        with ask(url, token=token, deadline_s=DEADLINE_S, headers=headers) as answer:
            for line in answer:
                sent = feed.line(line)
                if sent is not None and sent.ended:
                    say(f"the feed has ended: {_detail(sent.data)}; trying again", file=sys.stderr)
                elif sent is not None:
                    yield sent.data
    except urllib.error.HTTPError as exc:
        if exc.code in (400, 404):
            raise ConfigError(_why(exc)) from exc
        raise refused(url, exc, settings) from exc
    except (OSError, http.client.HTTPException):
        return  # it broke off


def _why(exc: urllib.error.HTTPError) -> str:
    return _detail(exc.read(ANSWER_LIMIT_BYTES)) or f"it answers {exc.code}"


def _detail(told: bytes | str) -> str:
    """Return the sentence of what the process says of itself; empty where there is none."""
    try:
        return str(msgspec.json.decode(told)["detail"])
    except (msgspec.MsgspecError, KeyError, TypeError):
        return ""


def _say_line(row: str) -> None:
    shown = msgspec.json.decode(row)
    say(event_line({**shown, "tenant": shown["tenant"] or shown["tenant_id"]}, {}))
