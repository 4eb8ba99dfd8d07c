"""The frame of every page: who looks, what they may do, how a page is rendered, and what a button must prove.

A page is a class with a `title`, a `path` and `routes()`, which makes its routes by `Frame.get` and `Frame.post`. What
such a route calls is given a `Visit` and returns `visit.page(template, ...)`. Whatever goes wrong is said in words on a
page: a database that is away leaves a hole in a page (`visit.asked`), not an error.
"""

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final, Generic, TypeVar
from urllib.parse import urlencode

import msgspec
import structlog
from aiohttp import hdrs, web

from whatsms_events.domain.scopes import Scope
from whatsms_events.errors import NotFoundError, StorageUnavailableError, TransientError, WhatsmsEventsError
from whatsms_events.web.access import Holder, holder
from whatsms_events.web.answers import PROBLEM_JSON
from whatsms_events.web.console.assets import Assets
from whatsms_events.web.console.rendering import environment, rendered
from whatsms_events.web.console.sessions import Sessions, form, from_own_page
from whatsms_events.web.hiding import showed
from whatsms_events.web.questions import refusal

PAGE_S: Final = 8.0
"""How long a page may take, whatever it asks."""

QUESTION_S: Final = 3.0
"""How long one part of a page may take; the rest of the page is shown without that part."""

SAID_LIMIT: Final = 300

UNREADABLE: Final = (msgspec.MsgspecError, ValueError, LookupError, ArithmeticError, TypeError)
"""What reading raises of a row that another release wrote, or somebody by hand: no JSON, no time, no such word."""

HEADERS: Final[Mapping[str, str]] = {
    hdrs.CACHE_CONTROL: "no-store",
    hdrs.CONTENT_TYPE: "text/html; charset=utf-8",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    # Not `no-referrer`: with that a browser says "Origin: null" of our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Nothing from elsewhere, no inline script or style, no frame; pages hold what people wrote, so nobody keeps them."""

T = TypeVar("T")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Brought(Generic[T]):
    """What a question brought, or in words why it brought nothing."""

    value: T | None
    trouble: str = ""


def _unreadable(what: str, error: Exception) -> Brought[T]:
    log.error("console.unreadable", exc_info=error)
    return Brought(None, f"{what} could not be read: a row holds what this release does not understand")


@dataclass(frozen=True, slots=True)
class ConsoleTenant:
    """What pages know of a tenant: its id, the names of its secrets, and whether its REST API can be read."""

    tenant_id: str
    secrets: tuple[str, ...] = ()
    keyed: bool = False


@dataclass(frozen=True, slots=True)
class Visit:
    """One look at one page. `mark` is what its forms carry; `holder` is None only where nobody has signed in."""

    frame: "Frame"
    request: web.Request
    holder: Holder | None
    mark: str
    now: datetime

    def may(self, scope: Scope) -> bool:
        """Tell whether the one who looks has this scope."""
        return self.holder is not None and scope in self.holder.scopes

    def slug_of(self, tenant_id: str | None) -> str:
        """Return the slug of a tenant id; the id itself where the configuration has no such tenant any more."""
        found = (slug for slug, one in self.frame.tenants.items() if one.tenant_id == tenant_id)
        return next(found, tenant_id or "-")

    def page(self, template: str, *, status: int = 200, **values: Any) -> web.Response:
        """Return a page, or a piece of one: the template decides."""
        return self.frame.render(self, template, status, values)

    async def asked(self, what: str, question: Awaitable[T], *, deadline_s: float = QUESTION_S) -> Brought[T]:
        """Return what the question brings. `what` names it for people where it brings nothing in time."""
        try:
            async with asyncio.timeout(deadline_s):
                return Brought(await question)
        except TimeoutError:
            return Brought(None, f"{what} could not be read: no answer within {deadline_s:g} s")
        except WhatsmsEventsError as exc:
            return Brought(None, f"{what} could not be read: {exc}")
        except UNREADABLE as exc:
            return _unreadable(what, exc)

    def showed(self, kind: str, *subjects: object) -> None:
        """Note in the log that this page shows what is personal: who saw which things, see `hiding.showed`."""
        if self.holder is not None:
            showed(self.request, kind, *subjects)

    def did(
        self, what: str, subject: str | None = None, *, count: int | None = None, options: str | None = None
    ) -> None:
        """Note in the log what a button did: to which thing, to how many, and with what that was chosen."""
        name = self.holder.name if self.holder else None
        log.info("console.did", holder=name, kind=what, subject=subject, count=count, options=options)

    def back(self, path: str, said: str) -> web.Response:
        """Return to a page after a button was used, which then says what became of it."""
        said = said[:SAID_LIMIT]
        query = {"said": said, "by": self.frame.mark_of(self, said)}
        there = f"{path}{'&' if '?' in path else '?'}{urlencode(query)}"
        return web.Response(status=303, headers={**HEADERS, hdrs.LOCATION: there})


Show = Callable[[Visit], Awaitable[web.Response]]
Act = Callable[[Visit, Mapping[str, str]], Awaitable[web.Response]]
"""What a button does; it is given the fields of its form, each once."""


class Frame:
    """Makes routes into pages. `links` are the pages in the order of the menu, as title and path.

    `tenants` are those of the configuration by their slugs; they may change while the process runs.
    """

    def __init__(
        self,
        sessions: Sessions,
        assets: Assets,
        tenants: Mapping[str, ConsoleTenant],
        *,
        now: Callable[[], datetime],
        page_s: float = PAGE_S,
    ) -> None:
        self.links: tuple[tuple[str, str], ...] = ()
        self.tenants = tenants
        self.paths: set[str] = set()
        self._sessions = sessions
        self._now = now
        self._page_s = page_s
        self._templates = environment(assets)

    def get(self, path: str, show: Show, *, scope: Scope = "read") -> web.RouteDef:
        """Return the route of a page."""

        async def shown(request: web.Request) -> web.Response:
            visit = self.visit(request)
            self._require(visit, scope)
            return await self._in_words(show(visit))

        self.paths.add(path)
        return web.get(path, shown)

    def post(self, path: str, act: Act, *, scope: Scope = "operate") -> web.RouteDef:
        """Return the route of a button: its form must come from a page of ours, and whoever uses it must be allowed."""

        async def acted(request: web.Request) -> web.Response:
            visit = self.visit(request)
            if not from_own_page(request):
                raise refusal(web.HTTPForbidden, "this form did not come from a page of this console")
            fields = await form(request)
            if not hmac.compare_digest(fields.pop("mark", "").encode(), visit.mark.encode()):
                raise refusal(web.HTTPForbidden, "this page is too old: go back, load it again, and try once more")
            self._require(visit, scope)
            return await self._in_words(act(visit, fields))

        self.paths.add(path)
        return web.post(path, acted)

    def visit(self, request: web.Request) -> Visit:
        """Return the visit that a request begins."""
        who = holder(request)
        return Visit(self, request, who, self._sessions.form_mark(request, who), self._now())

    def stranger(self, request: web.Request) -> Visit:
        """Return the visit of somebody who has not signed in, or may not be here."""
        return Visit(self, request, None, "", self._now())

    def mark_of(self, visit: Visit, said: str) -> str:
        """Return the mark by which a page knows a sentence in its URL as ours."""
        return "" if visit.holder is None else self._sessions.sign(visit.request, visit.holder, said)

    def render(self, visit: Visit, template: str, status: int, values: Mapping[str, Any]) -> web.Response:
        """Return a page made of a template."""
        said, by = visit.request.query.get("said", ""), visit.request.query.get("by", "")
        # Who has not signed in has no mark, and nothing is ever said to them.
        ours = (
            visit.holder is not None
            and bool(said)
            and hmac.compare_digest(by.encode(), self.mark_of(visit, said).encode())
        )
        path = visit.request.path  # what lies below a page belongs to it
        here = next(
            (one for _title, one in self.links if path == one or (one != "/" and path.startswith(f"{one}/"))), ""
        )
        known = {"visit": visit, "links": self.links, "here": here, "said": said if ours else ""}
        return web.Response(
            status=status, headers=HEADERS, body=rendered(self._templates, template, {**known, **values})
        )

    def _require(self, visit: Visit, scope: Scope) -> None:
        if not visit.may(scope):
            raise refusal(web.HTTPForbidden, f"this needs a token with the scope {scope}", scope=scope)

    async def _in_words(self, answering: Awaitable[web.Response]) -> web.Response:
        """Return the answer, or refuse in words that a person can use."""
        try:
            async with asyncio.timeout(self._page_s):
                return await answering
        except TimeoutError as exc:
            detail = f"the answer took longer than {self._page_s:g} s: a database is busy or away"
            raise refusal(web.HTTPServiceUnavailable, detail) from exc
        except NotFoundError as exc:
            raise refusal(web.HTTPNotFound, str(exc)) from exc
        except StorageUnavailableError as exc:
            detail = f"the database could not be read: {exc}. Load this page again; if it stays so, see the log lines"
            raise refusal(web.HTTPServiceUnavailable, detail) from exc
        except TransientError as exc:
            raise refusal(web.HTTPServiceUnavailable, str(exc)) from exc
        except WhatsmsEventsError as exc:  # such as a setting that is missing: a person must act, and is told how
            raise refusal(web.HTTPInternalServerError, str(exc)) from exc


class _Problem(msgspec.Struct):
    """What a refusal says of itself (RFC 9457)."""

    detail: str = ""


_problems = msgspec.json.Decoder(_Problem)


def problem_of(refused: web.Response) -> tuple[str, str]:
    """Return title and sentence of a refusal, for people."""
    body = refused.body
    found = _problems.decode(body) if isinstance(body, bytes) and refused.content_type == PROBLEM_JSON else _Problem()
    phrase = HTTPStatus(refused.status).phrase
    return phrase, found.detail or f"The answer is {refused.status} {phrase}."
