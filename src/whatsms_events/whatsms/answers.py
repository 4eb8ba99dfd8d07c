"""This module turns a reply of the vendor's API into a value, or into the error that says what may be done about it."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final, Generic, TypeVar

from yarl import URL

from whatsms_events.domain.bodies import JsonObject, decode
from whatsms_events.errors import (
    InvalidEventError,
    UpstreamError,
    UpstreamForbiddenError,
    UpstreamGoneError,
    UpstreamInvalidError,
    UpstreamLimitedError,
    UpstreamNotFoundError,
    UpstreamRefusedError,
    UpstreamUnauthorizedError,
    UpstreamUnavailableError,
    UpstreamUncertainError,
)
from whatsms_events.whatsms.limits import clamp

T = TypeVar("T")

TEXT_LIMIT: Final = 300
ANSWER_LIMIT_BYTES: Final = 16 * 1024 * 1024
"""The longest answer that is read. A page of 100 messages of WhatsApp's longest texts is far shorter."""
REFUSAL_LIMIT_BYTES: Final = 64 * 1024

_REFUSALS: Final[Mapping[int, type[UpstreamRefusedError]]] = {
    400: UpstreamInvalidError,
    401: UpstreamUnauthorizedError,
    403: UpstreamForbiddenError,
    404: UpstreamNotFoundError,
}

NO_CONTENT: Final = 204
GONE: Final = 410
MOVED: Final = frozenset({301, 302, 303, 307, 308})

ID_LIMIT: Final = 200

_LEADING: Final = re.compile(rb"(?:\xef\xbb\xbf|\s)*")
"""Byte order marks before JSON: a server whose source files begin with one writes one for each (RFC 8259, 8.1)."""
_LINKED: Final = re.compile(r"<([^<>]*)>")
"""The target of each link in a `Link` header (RFC 8288)."""

_PATHLESS: Final = frozenset({"", ".", ".."})

_SAYS: Final = ("error", "message")
"""The fields that may hold an error's text: the vendor's, and those of proxies and frameworks."""


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """What to send, and how to read the answer. Its repr shows no id, no query and no body: it may be logged.

    `nothing` is the value of a 204 answer. Only calls of lists have it; for any other call 204 is no usable answer.
    """

    method: str
    template: str
    read: Callable[[JsonObject], T] = field(repr=False)
    ids: tuple[str, ...] = field(default=(), repr=False)
    query: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)
    nothing: T | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        # Quoting does not change dots, and servers take a path with them for another path.
        if not _PATHLESS.isdisjoint(self.ids):
            raise UpstreamInvalidError(f"{self}: an empty id, or one of dots, names nothing")

    def __str__(self) -> str:
        return f"{self.method} {self.template}"

    def failed(
        self, why: str, *, status: int | None = None, text: str = "", retry_after_s: float | None = None
    ) -> UpstreamUnavailableError | UpstreamUncertainError:
        """Return the error for a call that was sent and has no usable answer: a POST may have happened."""
        if self.method == "POST":
            return UpstreamUncertainError(f"{self}: {why}; it may have happened", status=status, text=text)
        return UpstreamUnavailableError(f"{self}: {why}", status=status, text=text, retry_after_s=retry_after_s)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back. `body` is at most one byte longer than the limit; `sent_at` is our clock at the start.

    `url` is what was asked for: a `Location` may be relative to it.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    sent_at: datetime
    took_s: float
    url: str = ""


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """The value that the vendor answered, and the moment as of which it is true."""

    value: T
    as_of: datetime


def judge(call: Call[T], reply: Reply, *, secret: str) -> Answer[T] | UpstreamError:
    """Return the answer, or the error for this reply; `secret` is blotted out wherever the vendor repeats it."""
    status = reply.status
    if 200 <= status < 300:
        return _answer(call, reply, secret)
    text = _text(reply.body, secret)
    if status == 429:
        after = retry_after(reply)
        return UpstreamLimitedError(f"{call}: 429", status=status, text=text, retry_after_s=after)
    # 408 is a server or proxy that gave up waiting for us: nothing is wrong with the request.
    if status >= 500 or status == 408:
        return call.failed(str(status), status=status, text=text, retry_after_s=retry_after(reply))
    merged_into = _merged_into(call, reply)
    if status == GONE or merged_into is not None:
        return UpstreamGoneError(f"{call}: {status}", status=status, text=text, merged_into=merged_into)
    return _REFUSALS.get(status, UpstreamRefusedError)(f"{call}: {status}", status=status, text=text)


def _answer(call: Call[T], reply: Reply, secret: str) -> Answer[T] | UpstreamError:
    """Read a reply that says it went well, whatever its content type says: proxies and frameworks get that wrong."""
    if reply.status == NO_CONTENT and call.nothing is not None:
        return Answer(call.nothing, as_of(reply))
    try:
        if len(reply.body) > ANSWER_LIMIT_BYTES:
            raise InvalidEventError("too_large")
        value = call.read(_decoded(reply.body))
    except InvalidEventError as exc:
        why = f"{reply.status} with no usable answer ({exc.reason})"
    else:
        return Answer(value, as_of(reply))
    return call.failed(why, status=reply.status, text=_text(reply.body[:REFUSAL_LIMIT_BYTES], secret))


def _decoded(body: bytes) -> JsonObject:
    """Return the JSON object of an answer, whatever byte order marks are before it; a delivery may have none."""
    leading = _LEADING.match(body)
    return decode(body if leading is None else body[leading.end() :])


def _merged_into(call: Call[T], reply: Reply) -> str | None:
    """Return the id that a redirect or the links of a 410 name in place of the one asked for; None where none is named.

    Only another id of the same kind at the same origin is one: a login page, a list, the same id with a slash behind
    it, or another host say nothing about the thing. Nothing is ever followed: the key is for this origin alone.
    """
    if call.method != "GET" or not call.template.endswith("/{id}"):
        return None
    kind, asked = call.template.split("/")[-2], call.ids[-1]
    for target in _named(reply):
        try:
            here = URL(reply.url, encoded=True)
            there = here.join(URL(target.strip()))
            parts = [part for part in there.parts if part not in ("", "/")]
            same_origin = _origin(there) == _origin(here)
        except ValueError:  # no URL
            continue
        if same_origin and len(parts) > 1 and parts[-2] == kind and _is_another(parts[-1], asked):
            return parts[-1]
    return None


def _is_another(one: str, asked: str) -> bool:
    """Tell whether this is an id other than the one asked for; a difference in case alone makes no other id."""
    return len(one) <= ID_LIMIT and one.isprintable() and one.casefold() != asked.casefold()


def _origin(url: URL) -> tuple[str, str | None, int | None]:
    """Return what RFC 6454 calls the origin; a port that the scheme implies counts as written."""
    return url.scheme, url.host, url.port


def _named(reply: Reply) -> list[str]:
    """Return the URLs that a redirect, or the links of a 410, lead to."""
    if reply.status in MOVED:
        return [reply.headers.get("Location", "")]
    if reply.status == GONE:
        links = (value for name, value in reply.headers.items() if name.lower() == "link")
        return [target for value in links for target in _LINKED.findall(value)]
    return []


def _text(body: bytes, secret: str) -> str:
    """Return what the vendor says, printable and bounded: the error's text, or the beginning of a page of HTML."""
    try:
        source: JsonObject = _decoded(body)
    except InvalidEventError:
        source = {}
    said = next((source[key] for key in _SAYS if isinstance(source.get(key), str)), None)
    text = body.decode("utf-8", "replace") if said is None else said
    shown = "".join(letter if letter.isprintable() else " " for letter in text.replace(secret, "[key]"))
    return " ".join(shown.split())[:TEXT_LIMIT]


def retry_after(reply: Reply) -> float | None:
    """Return how long the vendor asks to stay away (seconds or an HTTP date, RFC 9110 10.2.3), clamped; None if unsaid.

    A date is compared with the vendor's clock where the answer shows that, since ours may differ.
    """
    value = reply.headers.get("Retry-After", "").strip()
    moment = _http_date(value)
    if moment is not None:
        return clamp((moment - (_http_date(reply.headers.get("Date", "")) or reply.sent_at)).total_seconds())
    try:
        seconds = float(value)
    except ValueError:
        return None
    return None if math.isnan(seconds) else clamp(seconds)


def as_of(reply: Reply) -> datetime:
    """Return a moment not later than the one the answer shows: the vendor's `Date` less the request's duration.

    Where there is no usable `Date`, it is our clock at the request's start.
    """
    moment = _http_date(reply.headers.get("Date", ""))
    return reply.sent_at if moment is None else moment - timedelta(seconds=reply.took_s)


def _http_date(value: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(value)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):  # no date, or one that our calendar does not have
        return None
