"""This module sends calls over one HTTP session, within the limits, and again where a second request does no harm."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address
from typing import Final, TypeVar
from urllib.parse import quote, urlencode

import aiohttp
import stamina
import structlog
from stamina.instrumentation import RetryDetails, set_on_retry_hooks
from yarl import URL

from whatsms_events import __version__
from whatsms_events.errors import (
    ConfigError,
    UpstreamError,
    UpstreamLimitedError,
    UpstreamRefusedError,
    UpstreamUnavailableError,
)
from whatsms_events.metrics import UPSTREAM_REQUESTS
from whatsms_events.whatsms.answers import (
    ANSWER_LIMIT_BYTES,
    REFUSAL_LIMIT_BYTES,
    Answer,
    Call,
    Reply,
    judge,
)
from whatsms_events.whatsms.limits import CONNECTIONS, PAUSE_UNSAID_S, Budget, Limits

log = structlog.get_logger()
T = TypeVar("T")

KEEP_ALIVE_S: Final = 4.0
"""Node servers close idle connections after 5 s. If a POST is sent at that moment, nobody knows whether it was done."""
CONNECT_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Waits:
    """How long a client waits before it sends a call again: twice as long each time, and a random bit longer."""

    first_s: float = 0.5
    limit_s: float = 30.0
    jitter_s: float = 1.0


def check_url(base_url: str) -> str:
    """Return the base URL without a slash at its end.

    Raises ConfigError unless it is HTTPS, or plain HTTP to this very machine: the key would be readable on the way.
    """
    try:
        url = URL(base_url)
    except ValueError:
        raise ConfigError("base_url of WhatSMS is no URL") from None
    host = url.host or ""
    if not host or url.user is not None or url.password is not None or url.query_string or url.fragment:
        raise ConfigError("base_url of WhatSMS must be https://host/path: no user, no query, no fragment")
    if url.scheme != "https" and not (url.scheme == "http" and _is_loopback(host)):
        raise ConfigError(
            f"base_url of WhatSMS must be HTTPS (plain HTTP only to this machine), not {url.scheme}://{host}"
        )
    return str(url).rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def announce_retries() -> None:
    """Let each retry make a log line of ours, in the whole process; this replaces stamina's own line and metric."""
    set_on_retry_hooks([_say_retry])


def _say_retry(details: RetryDetails) -> None:
    error = details.caused_by
    log.warning(
        "upstream.retrying",
        error=type(error).__name__,
        reason=str(error),
        attempts=details.retry_num,
        wait_s=round(details.wait_for, 1),
    )


class _LostError(aiohttp.ClientError):
    """The connection broke after the request, or a part of it, may have been sent."""


async def _send_once(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Hide a broken connection from aiohttp, which would send a GET or PUT again by itself, past our limits."""
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as exc:
        raise _LostError(type(exc).__name__) from None


class Transport:
    """One API key at one base URL. A call is sent `attempts` times at most; waiting for the limits does not count."""

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        limits: Limits,
        budget: Budget,
        timeout_s: float,
        attempts: int,
        waits: Waits,
        now: Callable[[], datetime],
    ) -> None:
        self.base_url = check_url(base_url)
        if not api_key or not api_key.isascii() or not api_key.isprintable() or " " in api_key:
            raise ConfigError("the API key of WhatSMS is empty, or has characters that no key has")
        self.limits = limits
        self.budget = budget
        self._api_key = api_key
        self._timeout_s = timeout_s
        self._attempts = attempts
        self._waits = waits
        self._now = now
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.base_url}>"

    async def open(self) -> None:
        """Make the HTTP session, if there is none."""
        if self._session is not None:
            return
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(
                total=self._timeout_s, sock_connect=min(CONNECT_TIMEOUT_S, self._timeout_s / 2)
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            middlewares=(_send_once,),
            headers={
                "Authorization": f"Bearer {self._api_key}",
                "Accept": "application/json",
                "User-Agent": f"whatsms-events/{__version__}",
            },
        )

    async def close(self) -> None:
        """Close the HTTP session and its connections; `open` makes another."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def ask(self, call: Call[T]) -> Answer[T]:
        """Send a call, again where that does no harm, and return the answer; raise UpstreamError if there is none."""
        retrying = stamina.retry(
            on=self._again,
            attempts=self._attempts,
            timeout=None,  # it would count the time spent waiting for the limits, and not bound our own backoff
            wait_initial=self._waits.first_s,
            wait_max=self._waits.limit_s,
            wait_jitter=self._waits.jitter_s,
        )
        return await retrying(attempt)(self, call)

    def _again(self, error: Exception) -> bool | float:
        """Tell stamina whether to try again, and after how long where the vendor or a pause of the key decides that.

        stamina does not bound the seconds that are returned here, so `retry_after_s` must be clamped, and is.
        """
        match error:
            case UpstreamLimitedError():
                return random.uniform(0.0, self._waits.jitter_s)  # noqa: S311 - jitter; the pause of the key does the waiting
            case UpstreamUnavailableError(retry_after_s=float(seconds)):
                return seconds + random.uniform(0.0, self._waits.jitter_s)  # noqa: S311 - jitter
            case UpstreamUnavailableError():
                return True
            case _:
                return False

    async def send(self, call: Call[T]) -> Answer[T] | UpstreamError:
        """Send a call once and return what became of it.

        aiohttp's exceptions are not chained to ours: their repr shows the headers, so the key, and their text the URL.
        """
        if self._session is None:
            raise RuntimeError("the client is not open: use `async with`, or open() it first")
        sent_at, since = self._now(), asyncio.get_running_loop().time()
        headers = {} if call.body is None else {"Content-Type": "application/json"}
        try:
            async with self._session.request(
                call.method, self._url(call), data=call.body, headers=headers, allow_redirects=False
            ) as response:
                took_s = asyncio.get_running_loop().time() - since
                body = await _read(response)
                url = str(self._url(call))
                reply = Reply(response.status, response.headers, body, sent_at, took_s, url)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as exc:
            return UpstreamUnavailableError(f"{call}: no connection ({type(exc).__name__})")
        except TimeoutError:
            return call.failed(f"no answer within {self._timeout_s:g} s")
        except (aiohttp.ClientError, OSError) as exc:
            lost = str(exc) if isinstance(exc, _LostError) else type(exc).__name__
            return call.failed(f"connection lost ({lost})")
        return judge(call, reply, secret=self._api_key)

    def _url(self, call: Call[T]) -> URL:
        """Return the URL, its ids quoted: none of them can lead to another path."""
        path = call.template
        for value in call.ids:
            path = path.replace("{id}", quote(value, safe="", errors="replace"), 1)
        query = f"?{urlencode(call.query, errors='replace')}" if call.query else ""
        return URL(f"{self.base_url}{path}{query}", encoded=True)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Return the body, cut one byte behind the limit: no more is read and unpacked of a huge one."""
    limit = ANSWER_LIMIT_BYTES if response.ok else REFUSAL_LIMIT_BYTES
    parts: list[bytes] = []
    left = limit + 1
    async for part in response.content.iter_any():
        parts.append(part[:left])
        left -= len(parts[-1])
        if left == 0:
            response.close()
            break
    return b"".join(parts)


async def attempt(transport: Transport, call: Call[T]) -> Answer[T]:
    """Send a call once, when the limits let it pass. This is no method since stamina uses its name as a label."""
    async with transport.limits.turn(call.method, call.template, transport.budget):
        outcome = await transport.send(call)
        if isinstance(outcome, UpstreamLimitedError):
            # The limit is the key's, so every client of the key pauses.
            transport.limits.pause(PAUSE_UNSAID_S if outcome.retry_after_s is None else outcome.retry_after_s)
    UPSTREAM_REQUESTS.labels(_outcome(outcome)).inc()
    if isinstance(outcome, UpstreamError):
        raise outcome
    return outcome


def _outcome(outcome: Answer[T] | UpstreamError) -> str:
    match outcome:
        case Answer():
            return "ok"
        case UpstreamLimitedError():
            return "limited"
        case UpstreamRefusedError():
            return "refused"
        case _:
            return "unavailable"
