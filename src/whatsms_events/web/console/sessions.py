"""Who is signed in to the console: a cookie that is worth something for as long as its token is, and no longer.

Theory of operation. Nothing is kept here: the cookie names a token and a time, and its mark is an HMAC of both with the
token as key. So every process that knows the token takes the cookie, a token that is changed ends it, and so does the
time. A form carries another HMAC, of the cookie, which a page from elsewhere cannot know.
"""

import hashlib
import hmac
import secrets
from collections.abc import Callable
from datetime import datetime
from typing import Final, Literal
from urllib.parse import parse_qsl, urlsplit

from aiohttp import hdrs, web

from whatsms_events.domain.bodies import is_storable
from whatsms_events.web.access import Access, Holder, NamedToken
from whatsms_events.web.questions import bad, refusal

COOKIE: Final = "whatsms_console"
FORM_LIMIT_BYTES: Final = 64 * 1024
FIELDS_LIMIT: Final = 50

SESSION_S: Final = 12 * 3600
"""A working day: who is at work the next morning signs in again."""


class Sessions:
    """Issues cookies and reads them. `access` has the tokens; a cookie is asked for after the bearer token."""

    def __init__(self, access: Access, *, now: Callable[[], datetime], session_s: int = SESSION_S) -> None:
        self._access = access
        self._now = now
        self._session_s = session_s
        self._own_key = secrets.token_bytes(32)  # for forms where no token is configured
        access.sessions = self.holder

    def holder(self, request: web.Request) -> Holder | Literal["wrong"] | None:
        """Return who the cookie says is here; None where there is none, or one that is over."""
        cookie = request.cookies.get(COOKIE, "")
        if not cookie:
            return None
        token = self._token(cookie)
        if token is None:
            return "wrong"
        until = float(_until(cookie))
        return Holder(token.name, token.scopes, until=until) if until > self._now().timestamp() else None

    def begin(self, answer: web.StreamResponse, token: NamedToken, *, secure: bool) -> None:
        """Give the browser a cookie for the token."""
        named = f"{token.name}.{int(self._now().timestamp()) + self._session_s}"
        answer.set_cookie(
            COOKIE,
            f"{named}.{_mark(token.secret, 'session', named)}",
            max_age=self._session_s,
            path="/",
            httponly=True,
            samesite="Strict",
            secure=secure,
        )

    def end(self, answer: web.StreamResponse) -> None:
        """Let the browser forget the cookie."""
        answer.del_cookie(COOKIE, path="/", httponly=True, samesite="Strict")

    def form_mark(self, request: web.Request, holder: Holder) -> str:
        """Return what a form of this holder must carry."""
        token = self._access.named(holder.name)
        key = self._own_key if token is None else token.secret
        return _mark(key, "form", holder.name, request.cookies.get(COOKIE, ""))

    def sign(self, request: web.Request, holder: Holder, text: str) -> str:
        """Return the mark of a sentence of ours that comes back to us in a URL."""
        return _mark(self.form_mark(request, holder).encode(), "said", text)

    def _token(self, cookie: str) -> NamedToken | None:
        """Return the token that made the cookie; None where it is none of ours, such as a guess."""
        named, _, mark = cookie.rpartition(".")
        name, until = named.rpartition(".")[0], _until(cookie)
        token = self._access.named(name)
        if token is None or not until.isascii() or not until.isdigit():
            return None
        ours = hmac.compare_digest(_mark(token.secret, "session", named), mark.encode("ascii", "replace").decode())
        return token if ours else None


def _until(cookie: str) -> str:
    """Return what a cookie says of its end, in seconds since 1970; anybody may have written it."""
    return cookie.rpartition(".")[0].rpartition(".")[2]


def _mark(key: bytes, *words: str) -> str:
    return hmac.new(key, "\0".join(words).encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()


def secure(request: web.Request) -> bool:
    """Tell whether the browser came by https, also by way of a proxy: its word is enough, since it only adds care."""
    return request.secure or request.headers.get("X-Forwarded-Proto", "").strip().lower() == "https"


async def form(request: web.Request) -> dict[str, str]:
    """Return the fields of a form, each once; raise 413, 415 and 400 for what is none, or holds what no database could.

    aiohttp's own reading takes whatever codec the sender names, and some take minutes for a megabyte.
    """
    if request.content_type != "application/x-www-form-urlencoded":
        raise refusal(web.HTTPUnsupportedMediaType, "a form is needed")
    if (request.content_length or 0) > FORM_LIMIT_BYTES:
        raise refusal(web.HTTPBadRequest, "this form is too large")
    body = await request.read()
    if len(body) > FORM_LIMIT_BYTES:
        raise refusal(web.HTTPBadRequest, "this form is too large")
    try:
        fields = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=FIELDS_LIMIT)
    except ValueError as exc:
        raise refusal(web.HTTPBadRequest, "this is no form") from exc
    for name, value in fields:
        if not is_storable(value):
            raise bad(ascii(name)[1:-1][:64], "is not text")
    return dict(fields)


def from_own_page(request: web.Request) -> bool:
    """Tell whether a form came from a page of ours: every browser says so of a POST, in one header or the other."""
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get(hdrs.ORIGIN)
    if site is not None:
        return site == "same-origin"  # what a proxy in front makes of the Host is no matter then
    if origin is None:
        return False
    try:
        return bool(urlsplit(origin).netloc) and urlsplit(origin).netloc == request.host
    except ValueError:
        return False
