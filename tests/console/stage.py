"""A running service with something to see on every page of its console, and a real browser in front of it."""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import aiohttp
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from servers.compare import until
from servers.kafka import Broker
from servers.service import SLUG, Service, command
from servers.upstream import Account, Sections, sections
from test_journey import delivery, post, see, told

TOKEN: Final = "token-of-the-operator-in-tests"
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
READ_TOKEN: Final = "token-of-the-screen-in-the-hall"
LIGHT: Final[Mapping[str, Any]] = {"color_scheme": "light", "viewport": {"width": 1200, "height": 820}}
LOOKS: Final[Mapping[str, Mapping[str, Any]]] = {
    "light": LIGHT,
    "dark": {**LIGHT, "color_scheme": "dark"},
    "narrow": {"color_scheme": "light", "viewport": {"width": 360, "height": 740}},
}
"""How a page may be looked at: the narrowest screen that it is made for is 360 px wide."""

RULES: Final = {
    "runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]},
    "resultTypes": ["violations"],  # what passed is not written out for each element: a third of the time
}
"""WCAG 2.2, levels A and AA, as far as axe-core can tell."""

OF_COLOURS: Final = {
    "runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]},
    "resultTypes": ["violations"],
}
"""The rules that look at colours."""

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
        for body in lately(datetime.now(UTC).replace(microsecond=0)):
            assert (await post(session, service, body))["status"] == 200
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


@asynccontextmanager
async def published_service(folder: Path) -> AsyncIterator[tuple[Service, Broker]]:
    """Run a service and a Kafka of its own, which may be stopped; all that the service was told is published."""
    home, prefix = folder / "kafka", f"t{uuid4().hex[:12]}"
    home.mkdir()
    broker = Broker(home)
    await broker.start()
    kafka = {"bootstrap_servers": broker.bootstrap, "topic_prefix": prefix, "replication_factor": 1}
    settings: Sections = {"private": {"token": TOKEN}, "kafka": kafka}
    service = Service(folder / "service", roles="receiver,relay,consumer", settings=settings)
    try:
        await asyncio.to_thread(command, service, "topics", "create")
        await service.start()
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with aiohttp.ClientSession(headers=headers) as session:
            await told(session, service)
            await see(session, service)
        yield service, broker
    finally:
        await service.stop()
        await broker.remove()


def lately(now: datetime) -> Iterator[bytes]:
    """Yield deliveries of the last days: messages of ours and how far they got, one that failed, a text that was
    edited, and one message that has been stuck since the day before yesterday, in a ticket that waits.
    """
    ana = {"id": "c-2", "name": "Ana Conceição", "number": "351920000002"}
    ticket = {"id": "t-2", "status": "pending", "createdAt": when(now - 26 * HOUR)}
    yield delivery("ticket.created", when(now - 26 * HOUR), ticket=ticket, contact=ana)
    stuck = {"id": "m-20", "body": "Já recebeu o orçamento?", "fromMe": True, "ack": 2}
    at = when(now - 25 * HOUR)
    yield delivery("message.sent", at, message={**stuck, "createdAt": at}, ticket={"id": "t-2"}, contact=ana)
    at = when(now - 90 * MINUTE)
    lost = {"id": "m-22", "body": "O seu pedido está pronto", "fromMe": True, "createdAt": at}
    yield delivery("message.sent", at, message={**lost, "ack": 1}, ticket={"id": "t-1"})
    yield delivery("message.ack", when(now - 89 * MINUTE), message={"id": "m-22", "ack": 0}, ticket={"id": "t-1"})
    asked = {"id": "m-21", "fromMe": False, "createdAt": when(now - 2 * HOUR)}
    for minutes, body in ((0, "Quero duas caixas"), (1, "Quero três caixas, por favor")):
        at = when(now - 2 * HOUR + minutes * MINUTE)
        yield delivery("message.received", at, message={**asked, "body": body, "updatedAt": at}, ticket={"id": "t-2"})
    for number in range(1, 13):
        sent, told_id = now - number * 1.7 * HOUR, f"m-3{number:02}"
        message = {"id": told_id, "body": f"Encomenda {4000 + number} enviada", "fromMe": True, "ack": 2}
        yield delivery("message.sent", when(sent), message={**message, "createdAt": when(sent)}, ticket={"id": "t-2"})
        for ack, later in ((3, 2.0**number), (4, 3.0**number)):
            if number % (ack + 1) and later < 7000:
                moment = when(sent + timedelta(seconds=later))
                yield delivery("message.ack", moment, message={"id": told_id, "ack": ack}, ticket={"id": "t-2"})


def when(at: datetime) -> str:
    """Write a time as the vendor does."""
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")


async def say(service: Service, event: str, at: str, **data: Any) -> None:
    """Send a webhook."""
    async with aiohttp.ClientSession() as session:
        assert (await post(session, service, delivery(event, at, **data)))["status"] == 200


@asynccontextmanager
async def browsing(path: str) -> AsyncIterator[Browser]:
    """Run a headless Chromium."""
    async with async_playwright() as playwright:
        # Tests may run as root, which Chromium's sandbox does not like; it sees pages of ours alone. With one process
        # for pages Chromium keeps no spare ones ready, each of which takes half a second of processor time.
        arguments = ["--no-sandbox", "--renderer-process-limit=1"]
        browser = await playwright.chromium.launch(executable_path=path, args=arguments)
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

    async def violations(self, rules: Mapping[str, Any] = RULES) -> list[str]:
        """Return what axe-core finds against the page as it stands."""
        found = await Axe().run(self.page, options=dict(rules))
        return [
            f"{one['id']}: {one['help']}: {node['html'][:200]} {json.dumps(node['any'])[:300]}"
            for one in found.response["violations"]
            for node in one["nodes"]
        ]

    async def overflows(self) -> bool:
        """Tell whether the page is wider than the screen."""
        return bool(await self.page.evaluate("document.documentElement.scrollWidth > window.innerWidth"))

    async def sideways(self) -> list[str]:
        """Return the parts of the page that must be moved sideways to be read whole, by their names."""
        found: list[str] = await self.page.evaluate(SIDEWAYS)
        return found


SIDEWAYS: Final = """[...document.querySelectorAll("main, main *")]
    .filter((one) => one.scrollWidth > one.clientWidth + 1)
    .filter((one) => ["auto", "scroll"].includes(getComputedStyle(one).overflowX))
    .map((one) => one.getAttribute("aria-label") || one.tagName)"""


@asynccontextmanager
async def walking(browser: Browser, service: Service, look: str = "light") -> AsyncIterator[Walker]:
    """Give somebody with an empty browser."""
    context = await browser.new_context(**LOOKS[look])
    context.set_default_timeout(DEADLINE_MS)
    try:
        yield Walker(context, await context.new_page(), service)
    finally:
        await context.close()
