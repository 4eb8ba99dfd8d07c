"""A real headless Chromium walks every page of a running service's console."""

import re
import signal
import sqlite3
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from conftest import missing
from console.stage import (
    LOOKS,
    OF_COLOURS,
    READ_TOKEN,
    RULES,
    TOKEN,
    Walker,
    browsing,
    chromium,
    published_service,
    say,
    told_service,
    walking,
)
from servers.compare import LONG
from servers.kafka import Broker
from servers.ports import HOST
from servers.service import SLUG, Service
from servers.upstream import Account, account
from whatsms_events.twin.rest.limits import RestLimits

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="module")]

BODY = "Olá"

RULES_ONCE_MORE = RULES if LONG else None
"""For pages that differ by a sentence or two from what another test asks the rules about: the long form asks again."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """Give a browser to all tests of this module."""
    path = chromium()
    if path is None:
        missing("no Chromium is installed, so no page was walked (apt-get install chromium)")
    async with browsing(path) as opened:
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def there() -> AsyncIterator[Account]:
    """Give the account at the vendor's."""
    async with account(minutes=10) as opened:
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory, there: Account) -> AsyncIterator[Service]:
    """Give a service with something on every page, to all tests of this module."""
    async with told_service(tmp_path_factory.mktemp("console"), there) as running:
        yield running


async def fine(walker: Walker, path: str, rules: Mapping[str, Any] | None = RULES) -> None:
    """Open a page and hold it to what every page must be: its heading, no violation, no complaint, no sideways way.

    To ask the rules takes most of the time. With None they are not asked: another test asks them on these pages.
    """
    await walker.go(path)
    await expect(walker.page.get_by_role("heading", level=1)).to_be_visible()
    if rules is not None:
        assert await walker.violations(rules) == [], path
    assert not await walker.overflows(), path
    assert walker.complaints == [], path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def without_broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Service, Broker]]:
    """Give a service whose Kafka was stopped, with an event that waits for it. It takes half a minute until that counts
    as failing, so the first test of this module begins it and the last one looks.
    """
    async with published_service(tmp_path_factory.mktemp("published")) as (running, broker):
        await broker.kill()
        await say(running, "ticket.updated", "2026-01-15T12:00:00Z", ticket={"id": "t-1", "status": "open"})
        yield running, broker


async def test_every_page_stands_without_a_broker(browser: Browser, without_broker: tuple[Service, Broker]) -> None:
    """A service whose Kafka is stopped goes on taking deliveries in, and every page can be read."""
    async with walking(browser, without_broker[0]) as walker:
        await walker.sign_in(TOKEN)
        for path in await walker.menu():
            await fine(walker, path, RULES_ONCE_MORE)


@pytest.mark.parametrize("look", LOOKS)
async def test_every_page_can_be_read_by_everybody(browser: Browser, service: Service, look: str) -> None:
    """Light, dark and 360 px wide: axe-core finds no violation of WCAG 2.2 AA on any page of the menu nor on those to
    sign in and about the contracts, nothing stands beyond the edge, and the browser complains about nothing.
    At 360 px each row of a wide table is a list whose parts are named, also on the pages behind those of the menu.
    """
    rules = OF_COLOURS if look == "dark" and not LONG else RULES  # the dark look changes nothing but colours
    async with walking(browser, service, look) as walker:
        await fine(walker, "/sign-in", rules)
        await walker.sign_in(TOKEN)
        menu = await walker.menu()
        assert {"/", "/live"} <= set(menu)
        for path in (*menu, *(BEHIND if look == "narrow" else ())):
            await fine(walker, path, rules)
            if look == "narrow":
                assert await unfolded(walker) == [], path
        await walker.page.get_by_role("link", name="Contracts").click()
        await expect(walker.page.get_by_role("heading", level=1)).to_have_text("Contracts of whatsms-events")
        await fine(walker, "/contracts", rules)


BEHIND = (
    f"/conversations/ticket?tenant={SLUG}&id=t-2",
    "/conversations?find=ana",
    "/conversations?status=closed",
    "/passport/at?position=3",
    "/passport?find=t-2&kind=ticket",
    f"/repair/run?tenant={SLUG}&run=1",
    "/parked?stage=door&reason=not_json",
)
"""Pages with tables that lie behind those of the menu."""


async def unfolded(walker: Walker) -> list[str]:
    """Unfold all of the page; return what must be moved sideways then."""
    for unfold in await walker.page.locator("main summary").all():
        await unfold.click()
    return await walker.sideways()


async def test_a_list_on_a_narrow_screen_is_a_table_to_a_screen_reader(browser: Browser, service: Service) -> None:
    """At 360 px the rows of a wide table are lists, and it has its column headers and cells all the same."""
    async with walking(browser, service, "narrow") as walker:
        await walker.sign_in(TOKEN)
        await walker.go("/repair")
        table = walker.page.get_by_role("table", name="The last runs")
        await expect(table.get_by_role("columnheader", name="State")).to_have_count(1)
        await expect(table.get_by_role("cell", name="finished").first).to_have_attribute("data-head", "State")


QUESTIONS: Mapping[str, tuple[list[str], str | re.Pattern[str]]] = {
    "Did João get the message of 10:30?": (
        ["Conversations", "?joao", "=Ticket t-1"],
        "delivered",
    ),
    "Why is this ticket open?": (["Conversations", "?ana", "=Ticket t-2", "=see it"], "ticket.created"),
    "What did she write before she edited it?": (
        ["Conversations", "?0002", "=Ticket t-2", "+Edited: what stood there before"],
        "Quero duas caixas",
    ),
    "Was a message lost in this conversation?": (
        ["Conversations", "=closed", "=^[0-9a-f]{8}-"],
        "A message is missing here",
    ),
    "What was lost last night?": (["Now", "=Runs and differences", "=^[0-9]+$"], "missed"),
    "Which messages are stuck, and whose number is it?": (["Acks", "=t-2"], "351920000002"),
    "Which of our messages failed, and what did it say?": (["Acks", "=t-1"], "O seu pedido está pronto"),
    "Are messages slower than usual today?": (
        ["Acks", "+As a table"],
        re.compile(r"From sent to delivered\s*1 to 10 min"),  # where nothing was measured it says that
    ),
    "Who waits longest for us?": (["Conversations", "=pending"], "Ana Conceição"),
    "Did this webhook arrive, and where is it now?": (["Live", "#"], "appended"),
    "How long did it take from WhatSMS to our tables?": (
        ["Conversations", "?ana", "=Ticket t-2", "=see it"],
        re.compile(r"Received.* after it happened.*Tables.*as this process saw it", re.DOTALL),
    ),
    "Which process does what, and what is wrong with it?": (
        ["Now"],
        re.compile(r"This process .*works consumer, receiver", re.DOTALL),
    ),
    "Is what we show still what WhatSMS has?": (
        ["Conversations", "?joao", "=Ticket t-1"],
        re.compile(r"Asked\s*WhatSMS (was asked|told something new) [0-9]"),  # where nobody asked it says that
    ),
    "What was sent to us that nobody could read?": (["Parked", "=not_json", "=^0", "=Show the bytes"], "{ not json"),
}
"""What is asked, the way to the answer, and what it has. A way is made of a page of the menu, ?words to find, =a link,
+something to unfold, and # for the newest event.
"""


async def step(walker: Walker, words: str) -> None:
    """Go one step on the way to an answer."""
    page, kind, name = walker.page, words[0], words[1:]
    match kind:
        case "?":
            await page.get_by_role("searchbox").fill(name)
            await page.get_by_role("button", name="Find").click()
        case "=":
            await page.locator("main").get_by_role("link", name=re.compile(name)).first.click()
        case "+":
            await page.get_by_text(name).first.click()
        case "#":
            await page.locator("#rows a").first.click()
        case _:
            await page.get_by_role("navigation", name="Pages").get_by_role("link", name=words).click()


async def test_the_questions_of_the_page_are_answered_from_the_console_alone(
    browser: Browser, service: Service
) -> None:
    """Each question that docs/console.md has is answered by a few clicks from the menu, and each is asked here."""
    page_of_docs = (Path(__file__).parents[2] / "docs" / "console.md").read_text(encoding="utf-8")
    asked = re.findall(r"^\| ([^|]+\?) \| ", page_of_docs.partition("questions, and where")[2], re.MULTILINE)
    assert asked == list(QUESTIONS)
    async with walking(browser, service) as walker:
        await walker.sign_in(TOKEN)
        for question, (way, answer) in QUESTIONS.items():
            for words in way:
                await step(walker, words)
            await expect(walker.page.locator("main"), question).to_contain_text(answer)
        assert walker.complaints == []


@contextmanager
def another_log(service: Service) -> Iterator[None]:
    """Let the log hold other events than it did, as one that was restored from an older copy, and has grown since."""
    with closing(sqlite3.connect(service.folder / "log.db", timeout=30)) as log:
        held = log.execute("SELECT position, id FROM event_log").fetchall()

        def hold(rows: Iterable[tuple[object, object]]) -> None:
            with log:
                log.executemany("UPDATE event_log SET id = ? WHERE position = ?", rows)

        hold((uuid4().hex, position) for position, _ in held)
        yield
        hold((event_id, position) for position, event_id in held)


async def test_live_shows_events_as_they_come(browser: Browser, service: Service) -> None:
    """An event that comes is a row at once, with what it says as text; a filter leaves others out; while it is paused
    nothing is shown, and after it nothing is missing.
    Where the log was restored meanwhile, or the session is over, it says so and stops.
    """
    async with walking(browser, service) as walker:
        await walker.sign_in(TOKEN)
        page = walker.page
        await walker.go("/live?type=ticket.observed")
        await expect(page.locator("#rows td.says").first).to_have_text("gone at WhatSMS")
        await walker.go("/live?type=message.received")
        await expect(page.locator("#state")).to_have_text("live")
        hostile = "<img src=x onerror=document.title='hit'> \u202egnp"
        await say(service, "message.received", "2026-01-15T12:00:00Z", message={"id": "m-live-1", "body": hostile})
        await say(service, "ticket.closed", "2026-01-15T12:00:01Z", ticket={"id": "t-live-1"})
        row = page.locator("#rows tr").first
        await expect(row).to_contain_text("m-live-1")
        await expect(row.locator("td.says")).to_have_text(hostile)
        assert await page.locator("#rows img").count() == 0
        await page.get_by_role("button", name="Pause").click()
        await say(service, "message.received", "2026-01-15T12:00:02Z", message={"id": "m-live-2", "body": "a"})
        await say(service, "message.received", "2026-01-15T12:00:03Z", message={"id": "m-live-3", "body": "b"})
        await expect(row).to_contain_text("m-live-1")
        await page.get_by_role("button", name="Go on").click()
        await expect(row).to_contain_text("m-live-3")
        await expect(page.locator("#rows tr").nth(1)).to_contain_text("m-live-2")
        await expect(page.locator("#rows tr").nth(2)).to_contain_text("m-live-1")
        await expect(page.locator("#rows")).not_to_contain_text("t-live-1")
        assert await walker.violations() == []
        await page.get_by_role("button", name="Pause").click()
        with another_log(service):
            await page.get_by_role("button", name="Go on").click()
            await expect(page.locator("#state")).to_contain_text("restored from an older copy, or it is another log")
            await expect(page.get_by_role("button", name="Pause")).to_be_disabled()
            assert [one for one in walker.complaints if "400" not in one] == []
            walker.complaints.clear()
        await walker.go("/live?type=message.received")
        await expect(page.locator("#state")).to_have_text("live")
        await page.get_by_role("button", name="Pause").click()
        await page.context.clear_cookies()
        await page.get_by_role("button", name="Go on").click()
        await expect(page.locator("#state")).to_have_text("the session is over. Load this page again.")
        assert [one for one in walker.complaints if "401" not in one] == []


async def test_with_read_alone_no_text_and_no_name_is_shown(browser: Browser, service: Service) -> None:
    """Who has the scope `read` alone sees "hidden" where texts stand, on Live too, and no page says a name or text."""
    async with walking(browser, service) as walker:
        await walker.sign_in(READ_TOKEN)
        for path in await walker.menu():
            await fine(walker, path, RULES_ONCE_MORE)
            shown = await walker.page.locator("body").inner_text()
            assert "João" not in shown, path
            assert BODY not in shown, path
        await walker.go("/live?type=message.received")
        await say(service, "message.received", "2026-01-15T13:00:00Z", message={"id": "m-hid", "body": "a secret"})
        row = walker.page.locator("#rows tr").first
        await expect(row).to_contain_text("m-hid")
        await expect(row.locator("td.says")).to_have_text("hidden")


async def test_did_joao_get_the_message_of_half_past_ten(browser: Browser, service: Service) -> None:
    """Somebody who types a name without its accents finds the conversation and reads it, and opens the passport of an
    event from Live; each of these pages is as fine as those of the menu.
    """
    async with walking(browser, service) as walker:
        page = walker.page
        await walker.sign_in(TOKEN)
        await page.get_by_role("link", name="Conversations").click()
        await page.get_by_role("searchbox").fill("joao")
        await page.get_by_role("button", name="Find").click()
        await page.get_by_role("link", name="Ticket t-1").first.click()
        await expect(page.get_by_text("Bom dia")).to_be_visible()
        await expect(page.get_by_text(BODY, exact=True)).to_be_visible()
        assert await walker.violations() == []
        answer = {"id": "m-live-9", "body": "Até já", "fromMe": True}
        await say(service, "message.sent", "2026-01-15T14:00:00Z", message=answer, ticket={"id": "t-1"})
        await walker.go("/live?type=message.sent&ticket=t-1")
        await page.locator("#rows a").first.click()
        await expect(page.get_by_role("heading", level=2).first).to_contain_text("message.sent")
        assert await walker.violations() == []
        assert walker.complaints == []


async def test_a_time_is_told_by_the_clock_of_who_looks_too(browser: Browser, service: Service) -> None:
    """Who asks for the message of half past seven, in São Paulo, finds the one that a page calls 10:30 in UTC."""
    context = await browser.new_context(timezone_id="America/Sao_Paulo", locale="en-GB")
    page = await context.new_page()
    walker = Walker(context, page, service)
    await walker.sign_in(TOKEN)
    await walker.go(f"/conversations/ticket?tenant={SLUG}&id=t-1")
    await expect(page.get_by_role("heading", name="2026-01-15, in UTC")).to_be_visible()
    time = page.locator("time", has_text="10:31:00").first
    await time.hover()
    await expect(time).to_have_attribute("title", re.compile("07:31:00 .*by your clock"))
    assert walker.complaints == []
    await context.close()


async def test_what_is_parked_is_tried_again_and_discarded(browser: Browser, service: Service) -> None:
    """A delivery that still cannot be understood says so and stays; it is discarded only after a second question, and
    then nothing is parked, until it is restored. Who may only read has neither button.
    """
    async with walking(browser, service) as walker:
        page = walker.page
        await walker.sign_in(READ_TOKEN)
        await walker.go("/parked")
        await expect(page.get_by_role("link", name="not_json", exact=True)).to_be_visible()
        assert await page.get_by_role("button", name="Try all again").count() == 0
    async with walking(browser, service) as walker:
        page = walker.page
        await walker.sign_in(TOKEN)
        await walker.go("/parked")
        await page.get_by_role("button", name="Try all again").click()
        await expect(page.locator(".said")).to_contain_text("1")
        await expect(page.get_by_role("link", name="not_json", exact=True)).to_be_visible()
        await page.get_by_role("row").get_by_role("link").first.click()
        await expect(page.get_by_role("heading", level=1)).to_be_visible()
        assert await walker.violations() == []
        await page.go_back()
        await page.get_by_role("link", name="Discard all").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("Discard?")
        assert await walker.violations() == []
        await page.get_by_role("button", name="Discard", exact=True).click()
        await expect(page.get_by_text("Nothing is parked.")).to_be_visible()
        assert await walker.violations() == []
        await page.get_by_role("button", name="Undo").click()
        await expect(page.locator(".said")).to_contain_text("1 restored")
        await page.get_by_role("link", name="Discard all").click()
        await page.get_by_role("button", name="Discard", exact=True).click()
        await page.get_by_role("link", name=re.compile("not_json.*discarded")).click()
        await expect(page.get_by_role("table", name="Discarded deliveries")).to_be_visible()
        assert await walker.violations() == []
        assert walker.complaints == []


async def test_a_run_is_started_and_its_bar_moves(browser: Browser, service: Service, there: Account) -> None:
    """A run that is started on the page shows a bar, which moves with what was read, without a click, while the vendor
    answers slowly; and it is stopped there.
    """
    before, there.rest.limits = there.rest.limits, RestLimits(requests=3, window_s=1)
    async with walking(browser, service) as walker:
        page = walker.page
        await walker.sign_in(TOKEN)
        await walker.go("/repair")
        await page.get_by_role("button", name="Start").click()
        await expect(page.locator(".said")).to_contain_text("is asked for")
        moved = page.get_by_role("img", name=re.compile("^[1-9][0-9,]* of [1-9][0-9,]* read"))
        await expect(moved).to_be_visible()
        assert await walker.violations() == []
        await page.get_by_role("button", name="Stop this run").click()
        await expect(page.locator(".said")).to_contain_text("is stopped")
        await expect(page.get_by_role("button", name="Stop this run")).to_have_count(0)
        assert walker.complaints == []
    there.rest.limits = before


async def test_a_start_while_the_backfill_has_halted_says_why(
    browser: Browser, service: Service, there: Account
) -> None:
    """The vendor refuses the key: the run that was begun stands still, the page says that the backfill has halted and
    why, another start begins nothing and says the same. Once the key is taken again, a run goes through.
    """
    right, there.rest.api_key = there.rest.api_key, "another-key"
    async with walking(browser, service) as walker:
        page = walker.page
        await walker.sign_in(TOKEN)
        await walker.go("/repair")
        await page.get_by_role("button", name="Start").click()
        halted = page.get_by_role("alert").filter(has_text="The backfill has halted")
        await expect(halted).to_contain_text("401")
        await expect(page.get_by_text("halted", exact=True)).to_be_visible()
        assert await walker.violations() == []
        await page.get_by_role("button", name="Start").click()
        await expect(page.locator(".said")).to_contain_text("The backfill has halted")
        await walker.go("/")
        await expect(page.locator("main")).to_contain_text("Something is wrong with repairing")
        there.rest.api_key = right
        service.signal(signal.SIGHUP)
        await walker.go("/repair")
        await expect(halted).to_have_count(0)
        await expect(page.get_by_role("button", name="Stop this run")).to_have_count(0)
        assert walker.complaints == []


async def test_a_broken_service_says_on_every_page_what_is_wrong(browser: Browser, tmp_path: Path) -> None:
    """Where the tables cannot be read, each page that needs them says so in words; none is an error or hard to read."""
    service = Service(tmp_path / "service", roles="receiver,consumer", settings={"private": {"token": TOKEN}})
    await service.start()
    with closing(sqlite3.connect(service.folder / "projection.db", timeout=30)) as tables:
        for name in ("contact", "message", "ticket", "parked_event"):
            tables.execute(f"DROP TABLE {name}")
    async with walking(browser, service) as walker:
        await walker.sign_in(TOKEN)
        for path in await walker.menu():
            await fine(walker, path)
        await walker.go("/conversations")
        await expect(walker.page.locator("main")).to_contain_text("could not be read")
        await walker.go("/")
        await expect(walker.page.locator("main")).to_contain_text("could not be read")
    await service.stop()


async def test_a_page_that_gets_no_answer_any_more_says_that_it_is_old(browser: Browser, tmp_path: Path) -> None:
    """Whoever looks at Now on a wall must not read that all is well when the service has been away for a while; when it
    is back, the page goes on by itself.
    """
    service = Service(tmp_path / "service", roles="receiver,consumer", settings={"private": {"token": TOKEN}})
    await service.start()
    async with walking(browser, service) as now, walking(browser, service) as repair:
        for walker, path in ((now, "/"), (repair, "/repair")):
            await walker.sign_in(TOKEN)
            await walker.go(path)
        await service.stop()
        for walker in (now, repair):
            await expect(walker.page.get_by_role("alert").filter(has_text="is old")).to_be_visible()
            assert await walker.violations() == []
        await service.start()
        for walker in (now, repair):
            await expect(walker.page.get_by_role("alert").filter(has_text="is old")).to_have_count(0)
    await service.stop()


async def test_a_stopped_broker_is_said(browser: Browser, without_broker: tuple[Service, Broker]) -> None:
    """The first page says that publishing and applying fail, at which broker and for how long."""
    service, broker = without_broker
    async with walking(browser, service) as walker:
        await walker.sign_in(TOKEN)
        main = walker.page.locator("main")
        await expect(main).to_contain_text("Something is wrong with publishing, applying.")
        await expect(main).to_contain_text(re.compile(rf"The relay has failed for [0-9]+ s: {HOST}:{broker.port}"))
        await fine(walker, "/")
