"""The console as a whole: its pages, sign-in, the files they need, and what stands there where a page is refused."""

from collections.abc import Mapping, Sequence
from typing import Final, Protocol
from urllib.parse import urlencode, urlsplit

import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from whatsms_events.web.access import HOLDER, Access
from whatsms_events.web.answers import PROBLEM_JSON
from whatsms_events.web.console.assets import Assets
from whatsms_events.web.console.frame import HEADERS, ConsoleTenant, Frame, Visit, problem_of
from whatsms_events.web.console.sessions import COOKIE, Sessions, form, from_own_page, secure
from whatsms_events.web.questions import refusal

SIGN_IN: Final = "/sign-in"
SIGN_OUT: Final = "/sign-out"

log = structlog.get_logger()


class ConsolePage(Protocol):
    """A page of the console."""

    @property
    def title(self) -> str:
        """What the menu calls it."""

    @property
    def path(self) -> str:
        """Where it is."""

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the routes of the page and of its buttons."""


class Console:
    """All pages. `pages` stand in the menu in this order."""

    def __init__(
        self, access: Access, sessions: Sessions, frame: Frame, assets: Assets, pages: Sequence[ConsolePage]
    ) -> None:
        self._access = access
        self._sessions = sessions
        self._frame = frame
        self._assets = assets
        self._pages = pages
        frame.links = tuple((page.title, page.path) for page in pages)

    def change(self, tenants: Mapping[str, ConsoleTenant]) -> None:
        """Know these tenants from now on."""
        self._frame.tenants = tenants

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return every route of the console."""
        frame = self._frame
        frame.paths.add(SIGN_IN)
        return [
            *(route for page in self._pages for route in page.routes()),
            web.get(SIGN_IN, self._sign_in),
            web.post(SIGN_IN, self._signed_in),
            frame.post(SIGN_OUT, self._sign_out, scope="read"),
            *self._assets.routes(),
        ]

    @web.middleware
    async def dress(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Turn what is refused on a page into a page, or into a way to sign in."""
        resource = request.match_info.route.resource
        if resource is None or resource.canonical not in self._frame.paths:
            return await handler(request)
        try:
            answer = await handler(request)
        except web.HTTPException as exc:
            if exc.status < 400:
                raise
            answer = exc
        if not isinstance(answer, web.Response) or answer.content_type != PROBLEM_JSON:
            return answer
        return self._refused(request, answer)

    def _refused(self, request: web.Request, answer: web.Response) -> web.Response:
        if answer.status == 401 and request.path != SIGN_IN:
            page = _to_sign_in(request)
            self._sessions.end(page)
            return page
        title, sentence = problem_of(answer)
        visit = self._frame.stranger(request)
        if HOLDER in request:
            visit = self._frame.visit(request)
        page = visit.page("refused.html", status=answer.status, title=title, sentence=sentence)
        for name in (hdrs.ALLOW, hdrs.RETRY_AFTER):
            if name in answer.headers:
                page.headers[name] = answer.headers[name]
        if answer.status == 429:
            self._sessions.end(page)  # where a cookie was wrong: the next look is not one more guess
        return page

    async def _sign_in(self, request: web.Request) -> web.Response:
        known = not self._access.needed or (
            COOKIE in request.cookies and await self._access.session(request) is not None
        )
        if known:
            return web.Response(status=303, headers={**HEADERS, hdrs.LOCATION: "/"})
        return self._form(self._frame.stranger(request), _local(request.query.get("to", "/")))

    async def _signed_in(self, request: web.Request) -> web.Response:
        if not from_own_page(request):
            raise refusal(web.HTTPForbidden, "this form did not come from a page of this console")
        fields = await form(request)
        to = _local(fields.get("to", "/"))
        token = self._access.presented(fields.get("token", "").strip().encode("utf-8", "surrogateescape"))
        if token is None:
            await self._access.slow_down()
            return self._form(self._frame.stranger(request), to, wrong="That is no token of this service.", status=401)
        if "read" not in token.scopes:
            wrong = f"The token {token.name} has no scope read, and without it there is nothing to see here."
            return self._form(self._frame.stranger(request), to, wrong=wrong, status=403)
        answer = web.Response(status=303, headers={**HEADERS, hdrs.LOCATION: to})
        self._sessions.begin(answer, token, secure=secure(request))
        log.info("console.opened", holder=token.name)
        return answer

    async def _sign_out(self, _visit: Visit, _fields: object) -> web.Response:
        answer = web.Response(status=303, headers={**HEADERS, hdrs.LOCATION: SIGN_IN})
        self._sessions.end(answer)
        return answer

    def _form(self, visit: Visit, to: str, *, wrong: str = "", status: int = 200) -> web.Response:
        return visit.page("sign_in.html", status=status, to=to, wrong=wrong)


def _to_sign_in(request: web.Request) -> web.Response:
    """Return the way to the form, which leads back to where the browser was going."""
    piece = "HX-Request" in request.headers  # a piece of a page: the whole page must go
    there = request.path_qs if request.method == hdrs.METH_GET else "/"
    if piece:
        page = urlsplit(request.headers.get("HX-Current-URL", ""))
        there = f"{page.path or '/'}{'?' if page.query else ''}{page.query}"
    to = "" if there == "/" else f"?{urlencode({'to': there})}"
    if piece:
        return web.Response(status=401, headers={**HEADERS, "HX-Redirect": SIGN_IN + to})
    return web.Response(status=303, headers={**HEADERS, hdrs.LOCATION: SIGN_IN + to})


def _local(path: str) -> str:
    """Return a path of this console, and the first page instead of whatever might lead elsewhere."""
    fine = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable() and len(path) < 2000
    return path if fine else "/"
