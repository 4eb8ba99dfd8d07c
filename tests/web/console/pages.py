"""A console around some pages, as the service makes it, and a browser that is signed in to it."""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient

from web.listener import probes
from whatsms_events.clock import now
from whatsms_events.domain.scopes import SCOPES, Scope
from whatsms_events.web.access import Access, NamedToken
from whatsms_events.web.app import private_app
from whatsms_events.web.console.assets import shipped_assets
from whatsms_events.web.console.console import Console, ConsolePage
from whatsms_events.web.console.frame import ConsoleTenant, Frame
from whatsms_events.web.console.sessions import COOKIE, Sessions

Browser = TestClient[web.Request, web.Application]

SECRET = "the-token-of-the-console-tests"
TENANTS = {"shop": ConsoleTenant("tenant-1", ("current",), keyed=True), "bank": ConsoleTenant("tenant-2")}


def token(*scopes: Scope, name: str = "ops", secret: str = SECRET) -> NamedToken:
    """Return a token; without scopes it may do everything."""
    return NamedToken(name, secret.encode(), frozenset(scopes or SCOPES))


def application(
    make: Callable[[Frame], Sequence[ConsolePage]],
    *tokens: NamedToken,
    tenants: Mapping[str, ConsoleTenant] = TENANTS,
    at: Callable[[], datetime] = now,
) -> tuple[web.Application, Access]:
    """Return the private listener with the pages that `make` makes on a frame, and what guards it."""
    access = Access(tokens, wrong_s=0)
    assets, sessions = shipped_assets(), Sessions(access, now=at)
    frame = Frame(sessions, assets, tenants, now=at)
    console = Console(access, sessions, frame, assets, make(frame))
    return private_app(access, probes(), console, dress=console.dress), access


async def sign_in(browser: Browser, secret: str = SECRET, to: str = "/") -> ClientResponse:
    """Sign in as a browser does, and return the answer, which is not followed."""
    form = {"token": secret, "to": to}
    return await browser.post("/sign-in", data=form, headers=own(browser), allow_redirects=False)


def own(browser: Browser) -> dict[str, str]:
    """Return the headers that a browser sends with a form of our own pages."""
    return {"Origin": str(browser.make_url("/")).rstrip("/"), "Sec-Fetch-Site": "same-origin"}


async def press(browser: Browser, page: str, action: str, **fields: str) -> ClientResponse:
    """Load a page, and send a form of it with its mark; the answer is not followed."""
    text = await (await browser.get(page)).text()
    found = re.search(r'name="mark" value="([0-9a-f]{64})"', text)
    assert found is not None, text
    form = {"mark": found[1], **fields}
    return await browser.post(action, data=form, headers=own(browser), allow_redirects=False)


def cookie(answer: ClientResponse) -> str:
    """Return the cookie that an answer sets."""
    return answer.cookies[COOKIE].value
