"""A running service with something to see on every page of its console, and a real browser in front of it."""

import json
import os
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from servers.compare import until
from servers.service import SLUG, Service
from servers.upstream import Account, sections
from test_journey import delivery, post, told

TOKEN: Final = "token-of-the-operator-in-tests"
READ_TOKEN: Final = "token-of-the-screen-in-the-hall"
LIGHT: Final[Mapping[str, Any]] = {"color_scheme": "light", "viewport": {"width": 1200, "height": 820}}
LOOKS: Final[Mapping[str, Mapping[str, Any]]] = {
    "light": LIGHT,
    "dark": {**LIGHT, "color_scheme": "dark"},
    "narrow": {"color_scheme": "light", "viewport": {"width": 360, "height": 740}},
}
"""How a page may be looked at: the narrowest screen that it is made for is 360 px wide."""

RULES: Final = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}}
"""WCAG 2.2, levels A and AA, as far as axe-core can tell."""

DEADLINE_MS: Final = 60_000
expect.set_options(timeout=DEADLINE_MS)  # the default of five seconds is too little for a busy machine


def chromium() -> str | None:
    """Return the path of an installed Chromium; None where there is none."""
    return os.environ.get("WHATSMS_TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


@asynccontextmanager
async def told_service(folder: Path, there: Account) -> AsyncIterator[Service]:
    """Run a service on SQLite beside an offline WhatSMS: with a story, a parked delivery, and a first reconcile."""
    settings = sections(there.url, backfill={"repair_interval_s": 0})
    settings["private"] = {"token": TOKEN}
    settings["private.tokens.hall"] = {"token": READ_TOKEN, "scopes": "read"}
    service = Service(folder, roles="receiver,consumer,backfill", settings=settings)
    await service.start()
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        await told(session, service)
        assert (await post(session, service, b"{ not json"))["status"] == 202

        async def reconciled() -> bool:
            async with session.get(f"{service.private_url}/api/v1/{SLUG}/backfill") as answer:
                runs = (await answer.json())["runs"]
            return any(run["finished_at"] for run in runs)

        await until(reconciled, 60, "the first reconcile")
    try:
        yield service
    finally:
        await service.stop()


async def say(service: Service, event: str, at: str, **data: Any) -> None:
    """Send a webhook."""
    async with aiohttp.ClientSession() as session:
        assert (await post(session, service, delivery(event, at, **data)))["status"] == 200


@asynccontextmanager
async def browsing(path: str) -> AsyncIterator[Browser]:
    """Run a headless Chromium."""
    async with async_playwright() as playwright:
        # Tests may run as root, which Chromium's sandbox does not like; it sees pages of ours alone.
        browser = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            await browser.close()


class Walker:
    """Somebody with a browser. `complaints` are what the browser's console said at error, and requests that failed."""

    def __init__(self, context: BrowserContext, page: Page, service: Service) -> None:
        self.context = context
        self.page = page
        self.complaints: list[str] = []
        self._url = service.private_url
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    async def go(self, path: str) -> None:
        """Open a page."""
        await self.page.goto(f"{self._url}{path}")

    async def sign_in(self, token: str) -> None:
        """Sign in, from the page that a stranger is led to."""
        await self.go("/")
        await self.page.get_by_label("Token").fill(token)
        await self.page.get_by_role("button", name="Sign in").click()
        await self.page.get_by_role("navigation", name="Pages").wait_for()

    async def menu(self) -> list[str]:
        """Return the paths of all pages in the menu of the page that is open."""
        links = await self.page.get_by_role("navigation", name="Pages").get_by_role("link").all()
        return [path for path in [await link.get_attribute("href") for link in links] if path is not None]

    async def violations(self) -> list[str]:
        """Return what axe-core finds against the page as it stands."""
        found = await Axe().run(self.page, options=RULES)
        return [
            f"{one['id']}: {one['help']}: {node['html'][:200]} {json.dumps(node['any'])[:300]}"
            for one in found.response["violations"]
            for node in one["nodes"]
        ]

    async def overflows(self) -> bool:
        """Tell whether the page is wider than the screen."""
        return bool(await self.page.evaluate("document.documentElement.scrollWidth > window.innerWidth"))


@asynccontextmanager
async def walking(browser: Browser, service: Service, look: str = "light") -> AsyncIterator[Walker]:
    """Give somebody with an empty browser."""
    context = await browser.new_context(**LOOKS[look])
    context.set_default_timeout(DEADLINE_MS)
    try:
        yield Walker(context, await context.new_page(), service)
    finally:
        await context.close()
