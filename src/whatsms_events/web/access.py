"""Who may ask the private listener for what: named tokens with scopes, in front of every route.

The probes are open, and so is `/metrics` until a named token has the scope `metrics`. All else needs a bearer token
with the scope `read`; a route that needs more asks `require`. Where no token is configured, which is allowed on a
loopback address alone, everybody may do everything, but only under a name of this machine: the page of a stranger can
lead a browser here under a name of its own (DNS rebinding).
"""

import asyncio
import hashlib
import hmac
import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit

import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from whatsms_events import metrics
from whatsms_events.domain.scopes import SCOPES, Scope
from whatsms_events.errors import ConfigError
from whatsms_events.web.answers import RETRY_AFTER_S
from whatsms_events.web.questions import HEADERS, refusal

WRONG_S: Final = 0.5
"""How long an answer to a wrong token takes; they are given one after the other. Whoever guesses need not wait for it,
since a right token is answered at once: what protects a token is its length."""

WRONG_LIMIT: Final = 20
"""How many of them wait; the next one is told at once to come again later."""

OPEN: Final = ("/livez", "/readyz", "/sign-in", "/static/")
"""Where paths begin that are for everybody: the probes, and what a page to sign in with needs."""
METRICS: Final = "/metrics"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class NamedToken:
    """A token, what it may do, and the name that logs show of it."""

    name: str
    secret: bytes
    scopes: frozenset[Scope]


@dataclass(frozen=True, slots=True)
class Holder:
    """Who asks: the name of the token, and what it may do. `until` is when a session ends, in seconds since 1970."""

    name: str
    scopes: frozenset[Scope]
    until: float | None = None


ANYBODY: Final = Holder("anybody", SCOPES)
"""Where no token is configured."""

HOLDER: Final = web.RequestKey("holder", Holder)

Session = Callable[[web.Request], Holder | Literal["wrong"] | None]
"""Returns the holder that a request shows by something else than the header, a cookie; None where there is none, or one
that is over. One that no token of ours made is wrong: it may be a guess at a token."""


def holder(request: web.Request) -> Holder:
    """Return who asks."""
    return request[HOLDER]


def require(request: web.Request, scope: Scope) -> None:
    """Raise 403 where the one who asks may not do this."""
    if scope not in request[HOLDER].scopes:
        metrics.TOKENS_REFUSED.labels("scope").inc()
        raise refusal(web.HTTPForbidden, f"this needs a token with the scope {scope}", scope=scope)


class Access:
    """Finds out who asks. `tokens` may change while the process runs; `sessions` has the console's cookies.

    Raise ConfigError for a token that is empty.
    """

    def __init__(
        self,
        tokens: Sequence[NamedToken],
        *,
        open_metrics: bool = True,
        wrong_s: float = WRONG_S,
        wrong_limit: int = WRONG_LIMIT,
    ) -> None:
        self._wrong_s = wrong_s
        self._wrong_limit = wrong_limit
        self._wrong = 0
        self._turn = asyncio.Lock()
        self.sessions: Session = lambda _request: None
        self.change(tokens, open_metrics=open_metrics)

    def change(self, tokens: Sequence[NamedToken], *, open_metrics: bool = True) -> None:
        """Ask for these tokens from now on. Raise ConfigError for an empty one."""
        if any(not one.secret.strip() for one in tokens):
            raise ConfigError("private.token is empty")
        self._tokens = {one.name: one for one in tokens}
        # Digests: comparing them takes as long for a token of another length.
        self._digests = [(hashlib.sha256(one.secret).digest(), one) for one in tokens]
        self._open_metrics = open_metrics

    @property
    def needed(self) -> bool:
        """Tell whether a token is needed at all."""
        return bool(self._tokens)

    def named(self, name: str) -> NamedToken | None:
        """Return the token of a name; None where it has gone."""
        return self._tokens.get(name)

    def presented(self, secret: bytes) -> NamedToken | None:
        """Return the token with this secret; each one is compared, in constant time."""
        digest = hashlib.sha256(secret).digest()
        found = [one for known, one in self._digests if hmac.compare_digest(known, digest)]
        return found[0] if found else None

    async def check(self, request: web.Request) -> Holder:
        """Return who asks; raise 401 for nobody that is known, 403 for a strange name, 429 after many wrong tokens."""
        if not self._tokens:
            return self._anybody(request)
        given = request.headers.getall(hdrs.AUTHORIZATION, [])
        if not given:
            shown = await self.session(request)
            if shown is None:
                raise unauthorized()
            return shown
        scheme, _, credentials = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        # aiohttp hands undecodable header bytes on as surrogates.
        token = self.presented(credentials.strip().encode("utf-8", "surrogateescape"))
        if token is None or scheme.lower() != "bearer":
            await self.slow_down()
            raise unauthorized()
        return Holder(token.name, token.scopes)

    async def session(self, request: web.Request) -> Holder | None:
        """Return who a cookie says is here; None where there is none or, as late as for a wrong token, a wrong one.

        Raise 429 where too many wrong ones wait already.
        """
        shown = self.sessions(request)
        if isinstance(shown, Holder):
            return shown
        if shown == "wrong":
            await self.slow_down()
        else:
            metrics.TOKENS_REFUSED.labels("missing").inc()
        return None

    async def slow_down(self) -> None:
        """Count a wrong token and let its answer wait; raise 429 where too many wait already.

        A right one never waits: whoever guesses cannot keep its holder out.
        """
        metrics.TOKENS_REFUSED.labels("wrong").inc()
        if self._wrong >= self._wrong_limit:
            headers = {**HEADERS, hdrs.RETRY_AFTER: str(RETRY_AFTER_S)}
            raise refusal(web.HTTPTooManyRequests, "too many wrong tokens", headers=headers)
        if not self._wrong:
            log.warning("token.refused")  # once for all that come together
        self._wrong += 1
        try:
            async with self._turn:
                await asyncio.sleep(self._wrong_s)
        finally:
            self._wrong -= 1

    def is_open(self, path: str) -> bool:
        """Tell whether a path is for everybody."""
        return path.startswith(OPEN) or (path == METRICS and self._open_metrics)

    def _anybody(self, request: web.Request) -> Holder:
        if not is_local(request.host):
            metrics.TOKENS_REFUSED.labels("host").inc()
            raise refusal(
                web.HTTPForbidden, "without private.token this answers under the names of this machine alone: localhost"
            )
        return ANYBODY


def guard(access: Access) -> Middleware:
    """Return the middleware that lets only those through who may ask."""

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        path = request.path
        if not access.is_open(path):
            request[HOLDER] = await access.check(request)
            require(request, "metrics" if path == METRICS else "read")
        return await handler(request)

    return guarded


def is_local(host: str) -> bool:
    """Tell whether a Host header names this machine itself: localhost, or a loopback address."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def unauthorized() -> web.HTTPException:
    """Return 401 with its challenge."""
    challenge: Mapping[str, str] = {**HEADERS, hdrs.WWW_AUTHENTICATE: 'Bearer realm="whatsms-events"'}
    return refusal(web.HTTPUnauthorized, "a bearer token is needed", headers=challenge)
