"""The pages Conversations, Passport and Acks, over real HTTP and a real database with something of everything in it."""

import re
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlencode
from uuid import UUID

import pytest
import structlog
from pytest_aiohttp import AiohttpClient
from sqlalchemy import Table, text, update
from yarl import URL

from web.console.pages import TENANTS, Browser, application, press, sign_in, token
from web.console.seeded import AT, EVIL, SCRIPT, fill, heard, put
from whatsms_events.domain.scopes import Scope
from whatsms_events.domain.trace import RecordPlace
from whatsms_events.storage import tables
from whatsms_events.storage.database import Database, DatabaseTarget, open_log, open_projection
from whatsms_events.storage.reads import Queries
from whatsms_events.storage.trace import EventFacts, Traces
from whatsms_events.web.console.acks import AcksPage
from whatsms_events.web.console.console import ConsolePage
from whatsms_events.web.console.conversations import ConversationsPage
from whatsms_events.web.console.frame import ConsoleTenant, Frame
from whatsms_events.web.console.live import LivePage
from whatsms_events.web.console.passport import PassportPage
from whatsms_events.web.console.places import place

Databases = tuple[Database, Database]

SENT = "00000000-0000-0000-0000-000000000003"
ALL = (
    "/conversations",
    "/conversations?find=jo",
    "/conversations?find=k1",
    "/conversations?status=open",
    "/conversations?" + urlencode({"status": EVIL}),
    "/conversations?" + urlencode({"find": EVIL}),
    "/conversations/ticket?tenant=shop&id=k1",
    "/conversations/ticket?" + urlencode({"tenant": "shop", "id": EVIL}),
    "/passport",
    "/passport?find=m2",
    "/passport?find=k1&kind=ticket",
    f"/passport?find={SENT}",
    f"/passport?find={UUID(int=99)}",
    "/passport?" + urlencode({"find": EVIL}),
    "/passport?" + urlencode({"find": EVIL, "kind": "message"}),
    "/acks",
    "/acks?hours=744",
    "/passport?find=" + "9" * 5000,
)
"""Every page, of everything that there is."""


@pytest.fixture
async def databases(tmp_path: Path) -> AsyncIterator[Databases]:
    """Give an empty log and an empty projection."""
    log = await open_log(DatabaseTarget(f"sqlite:///{tmp_path / 'log.db'}"), migrate=True)
    projection = await open_projection(DatabaseTarget(f"sqlite:///{tmp_path / 'projection.db'}"), migrate=True)
    yield log, projection
    await projection.close()
    await log.close()


async def published(_found: EventFacts) -> RecordPlace:
    """Say that every event is in Kafka."""
    return RecordPlace("published", "whatsms.conversations", 3, 1742, datetime(2026, 11, 29, 9, 30, 7, tzinfo=UTC))


class Asked:
    """Who asks WhatSMS: notes about what, and refuses where it is told to."""

    def __init__(self, refuses: str | None = None) -> None:
        self.refuses = refuses
        self.tickets: list[tuple[str, str]] = []

    async def ask(self, slug: str, ticket_id: str) -> str | None:
        """Note the question."""
        self.tickets.append((slug, ticket_id))
        return self.refuses


async def opened(
    aiohttp_client: AiohttpClient,
    databases: Databases,
    *scopes: Scope,
    tenants: dict[str, ConsoleTenant] | None = None,
    asked: Asked | None = None,
    queries: Queries | None = None,
) -> Browser:
    """Give a browser that is signed in with these scopes, all unless given, before a console with these pages."""
    asking, traces = queries or Queries(*databases), Traces(*databases)

    def make(frame: Frame) -> Sequence[ConsolePage]:
        return [
            ConversationsPage(frame, asking, traces, (asked or Asked()).ask),
            PassportPage(frame, asking, traces, published, lambda _position: None),
            AcksPage(frame, asking),
            LivePage(frame, asking),
        ]

    app, _ = application(make, token(*scopes), tenants=TENANTS if tenants is None else tenants, at=lambda: AT)
    browser = await aiohttp_client(app)
    assert (await sign_in(browser)).status == 303
    return browser


async def read(browser: Browser, path: str, status: int = 200) -> str:
    """Return a page."""
    async with browser.get(path) as answer:
        page = await answer.text()
        assert answer.status == status, (path, page)
        assert answer.content_type == "text/html"
    return page


def words(page: str) -> str:
    """Return the text of a page, as a person reads it."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page)).split())


class Tags(HTMLParser):
    """Collects the tags of a page with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note one."""
        self.found.append((tag, dict(attrs)))


def assert_harmless(page: str) -> None:
    """Prove that a page has no script but ours, no handler, no style, and no link but to itself, http or https."""
    found = Tags(page).found
    assert [attributes.get("src", "")[:8] for tag, attributes in found if tag == "script"] == ["/static/"] * 2  # type: ignore[index]
    assert not {"img", "iframe", "object", "embed", "style", "base"} & {tag for tag, _ in found}
    for tag, attributes in found:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], (tag, attributes)
        for name in ("href", "action", "src"):
            if (target := attributes.get(name)) is not None:
                assert re.match(r"(/(?!/)|#|https?://)", target), (tag, target)
        if (attributes.get("href") or "").startswith("http"):
            assert "noreferrer" in (attributes["rel"] or "")


async def test_a_conversation_is_read_as_one(aiohttp_client: AiohttpClient, databases: Databases) -> None:
    """Our messages and theirs on their sides, how far each got and when, what it answers, what stood there before an
    edit, what was deleted, the file as a link, and what is missing or in doubt.
    """
    await fill(*databases)
    page = await read(await opened(aiohttp_client, databases), "/conversations/ticket?tenant=shop&id=k1")
    text = words(page)
    order = ["Consegue ver esta?", "Olá! A encomenda chega hoje?", "Sim, às 15:00.", "Aqui está a fatura", "Obrigado!"]
    places = [page.index(f"<bdi>{one}</bdi></p>") for one in order]
    assert places == sorted(places)
    assert re.findall(r'class="bubble (\w+)', page) == [
        "theirs", "ours", "theirs", "ours", "ours", "ours", "theirs", "theirs",
    ]  # fmt: skip
    assert "✓✓ read passport sent 10:30:02 · delivered 10:30:05 · read 10:31:04" in text
    assert "✗ failed" in text
    assert "Edited: what stood there before 2026-11-29 10:30:00 UTC Sim, às 14:00." in text
    assert text.count("Sim, às 14:00.") == 1
    assert "This message was deleted. What stood there apagada" in text
    assert "answers a message that is not here: never-seen" in text
    assert "in doubt: body" in text
    assert "only named by others so far" in text
    assert "A message is missing here" in text
    assert 'href="https://files.example/fatura.pdf?sig=1" rel="noreferrer' in page
    assert "João da Silva" in text
    assert "+55 11 98765-4321" in text
    assert "Sunday, 2026-11-29" in text
    assert "1 message is known without a time" in text
    assert "a look at WhatSMS said so" not in text
    assert re.search(r"Why an event said so .* \( see it \)", text)


async def test_conversations_are_found_and_tickets_listed(aiohttp_client: AiohttpClient, databases: Databases) -> None:
    """By the beginning of a name or the end of a number; tickets by status and age lead to lists, and these on."""
    await fill(*databases)
    browser = await opened(aiohttp_client, databases)
    for typed in ("JOAO", "4321", "p1", "k1", "m2"):
        page = await read(browser, f"/conversations?find={typed}")
        assert "João da Silva" in words(page), typed
        assert 'href="/conversations/ticket?tenant=shop&amp;id=k1"' in page, typed
    assert "Nobody was found" in words(await read(browser, "/conversations?find=nobody"))
    overview = await read(browser, "/conversations")
    assert 'href="/conversations?tenant=shop&amp;status=open&amp;age=2">1</a>' in overview
    listed = words(await read(browser, "/conversations?status=open&age=2"))
    assert "João da Silva k1 in doubt 3 d ago 1 h 30 min ago Ana Sales Obrigado" in listed
    assert "There is none." in words(await read(browser, "/conversations?status=open&age=0"))
    assert "No ticket is known yet" in words(await read(browser, "/conversations?tenant=bank"))


async def test_a_long_conversation_is_read_page_by_page(aiohttp_client: AiohttpClient, databases: Databases) -> None:
    """From the newest back, each message once; a list of tickets goes on in the same way."""
    await put(databases[1], tables.ticket, *({"id": f"k{n:03}", "status": "open", "created_at": n} for n in range(60)))
    await put(
        databases[1], tables.message, *(heard(f"m{n:03}", "k000", n * 1_000_000, f"text {n:03}") for n in range(120))
    )
    browser = await opened(aiohttp_client, databases)
    seen: list[str] = []
    path: str | None = "/conversations/ticket?tenant=shop&id=k000"
    while path is not None:
        page = await read(browser, path)
        seen = re.findall(r"text \d{3}", page) + seen
        link = re.search(r'<a href="([^"]+)" rel="prev">', page)
        path = None if link is None else unescape(link[1])
    assert seen == [f"text {n:03}" for n in range(120)]
    first = await read(browser, "/conversations?status=open")
    link = re.search(r'<a href="([^"]+)">Next page</a>', first)
    assert link is not None
    tickets = re.findall(r"<bdi>(k\d{3})</bdi>", first + await read(browser, unescape(link[1])))
    assert tickets == [f"k{n:03}" for n in range(60)]


async def test_a_message_is_found_in_the_middle_of_a_long_conversation(
    aiohttp_client: AiohttpClient, databases: Databases
) -> None:
    """What failed an hour ago, or was missed, leads to where it stands: the last one of its page, which is marked. So
    does one of several with the same time, and one without a time; one of no ticket leads to what is found of it.
    """
    await put(databases[1], tables.ticket, {"id": "k000", "status": "open", "created_at": 1})
    talk = [heard(f"m{n:03}", "k000", n // 3 * 1_000_000, f"text {n:03}") for n in range(120)]
    await put(databases[1], tables.message, *talk, heard("m-none", "k000", None, "text x"), heard("alone", "", 5, "y"))
    async with databases[1].write() as connection:
        await connection.execute(update(tables.message).where(tables.message.c.id == "alone").values(ticket_id=None))
    browser = await opened(aiohttp_client, databases)
    for wanted, said in (("m040", "text 040"), ("m119", "text 119"), ("m-none", "text x")):
        async with browser.get(f"/conversations/message?tenant=shop&id={wanted}", allow_redirects=False) as answer:
            to = answer.headers["Location"]
        assert to.endswith("#last")
        page = await read(browser, to)
        assert re.findall(r"text (?:\d{3}|x)", page)[-1] == said
        assert re.search(rf'id="last">.*?{said}', page, re.DOTALL)
    async with browser.get("/conversations/message?tenant=shop&id=alone", allow_redirects=False) as answer:
        assert answer.headers["Location"] == "/conversations?tenant=shop&find=alone"
    assert "nobody ever named this message here" in await read(
        browser, "/conversations/message?tenant=shop&id=nowhere", 404
    )


async def test_who_may_not_see_people_sees_no_word_of_them(aiohttp_client: AiohttpClient, databases: Databases) -> None:
    """Without the scope personal no page has a text, a name, a number or a file of anybody, and nothing is found by
    them; each page that does show them leaves one line that names the token and the things, and no value.
    """
    await fill(*databases)
    reader = await opened(aiohttp_client, databases, "read")
    ours = ("João", "98765", "encomenda", "15:00.", "14:00.", "fatura", "Obrigado", "apagada", "files.example")
    with structlog.testing.capture_logs() as lines:
        for path in ALL:
            page = await read(reader, path)
            shown = re.sub(r'value="[^"]*"', "", page)  # what was typed stands in the field again
            assert not [one for one in ours if one in words(shown)], path
    assert not [line for line in lines if line["event"] == "personal.shown"]
    assert "hidden" in words(await read(reader, "/conversations/ticket?tenant=shop&id=k1"))
    passport = words(
        await read(reader, "/passport?find=" + (bytes(31) + b"\x03").hex())
    )  # nor a hash to try numbers on
    assert "SHA-256 hidden" in passport
    assert "its size is hidden" in passport
    assert "nothing is found by them" in words(await read(reader, "/conversations?find=joao"))
    browser = await opened(aiohttp_client, databases)
    with structlog.testing.capture_logs() as lines:
        await read(browser, "/conversations/ticket?tenant=shop&id=k1")
        await read(browser, "/conversations?find=jo%C3%A3o")
        await read(browser, "/conversations?find=nobody")
        await read(browser, "/conversations?status=open")
        await read(browser, f"/passport?find={SENT}")
    told = [{name: line[name] for name in ("kind", "subject", "holder")} for line in lines]
    assert told == [
        {"kind": "conversation", "subject": "k1", "holder": "ops"},
        {"kind": "search", "subject": "p1", "holder": "ops"},
        {"kind": "ticket", "subject": "k1", "holder": "ops"},
    ]


async def away(databases: Databases, table: Table, *, back: bool = False) -> None:
    """Take a table out of the database under another name, or bring it back."""
    database = databases[table.metadata is tables.projection_metadata]
    was, becomes = (f"gone_{table.name}", table.name) if back else (table.name, f"gone_{table.name}")
    async with database.write() as connection:
        await connection.execute(text(f"ALTER TABLE {was} RENAME TO {becomes}"))


async def test_a_page_of_a_broken_database_says_what_is_wrong_and_shows_the_rest(
    aiohttp_client: AiohttpClient, databases: Databases
) -> None:
    """Where a table is gone, an event that is safe in the log is shown as such, and so is the rest of an event, of a
    thing and of a conversation; what cannot be read is named, also where a row is not readable.
    """
    await fill(*databases)
    browser = await opened(aiohttp_client, databases)
    event, thing = f"/passport?find={SENT}", "/passport?find=k1&kind=ticket"
    conversation = "/conversations/ticket?tenant=shop&id=k1"
    lacking = {
        tables.parked_delivery: (event, "What was parked at the door"),
        tables.redelivery: (event, "How often it came"),
        tables.parked_event: (event, "What became of it in the tables"),
        tables.projection: (event, "What became of it in the tables"),
        tables.contact: (event, "The table of contacts"),
        tables.message: (event, "The message"),
        tables.backfill_run: (event, "What WhatSMS confirmed"),
        tables.event_log: (thing, "Its events in the log"),
        tables.ticket: (conversation, "The ticket"),
    }
    for table, (path, part) in lacking.items():
        await away(databases, table)
        page = words(await read(browser, path))
        assert f"{part} could not be read" in page, table.name
        shown = "Obrigado" if path is conversation else "position 3" if path is event else "Ticket k1 of shop"
        assert shown in page, table.name
        await away(databases, table, back=True)
    await away(databases, tables.event_log)
    assert "the database could not be read" in words(await read(browser, "/passport/at?position=3", 503))
    await away(databases, tables.event_log, back=True)
    async with databases[1].write() as connection:
        await connection.execute(update(tables.message).values(versions="junk"))
        await connection.execute(update(tables.ticket).values(versions="junk", created_at=2**62))
    for path, part in ((event, "What became of it in the tables"), (conversation, "The ticket")):
        page = words(await read(browser, path))
        assert f"{part} could not be read: a row holds what this release does not understand" in page
    assert "position 3" in words(await read(browser, event))


async def test_hostile_values_are_shown_as_text(aiohttp_client: AiohttpClient, databases: Databases) -> None:
    """Markup is seen and does nothing, a URL that is a script is no link, and ten million characters are cut."""
    await fill(*databases)
    await put(
        databases[1], tables.message, heard("huge", EVIL, 5, "<b>" * 3_500_000, media_url="http://" + "x" * 9_000_000)
    )
    browser = await opened(aiohttp_client, databases)
    for path in ALL:
        page = await read(browser, path)
        assert_harmless(page)
        assert len(page) < 400_000, path
    page = await read(browser, "/conversations/ticket?" + urlencode({"tenant": "shop", "id": EVIL}))
    assert "<script>alert(1)</script>" in words(page.replace("&lt;", "&amp;lt;")).replace("&lt;", "<")
    assert SCRIPT in words(page)
    assert "The whole text has 10 500 000 characters" in words(page).replace("\N{NARROW NO-BREAK SPACE}", " ")


async def test_whatsms_is_asked_about_a_ticket(aiohttp_client: AiohttpClient, databases: Databases) -> None:
    """The button asks, and says what happens now, or why nothing does; without the scope operate, and for a tenant
    without a key, there is none.
    """
    await fill(*databases)
    await put(databases[1], tables.ticket, {"tenant": "tenant-2", "id": "b1", "status": "open"})
    asked = Asked()
    browser = await opened(aiohttp_client, databases, asked=asked)
    ticket = "/conversations/ticket?tenant=shop&id=k1"
    answer = await press(browser, ticket, "/conversations/ask", tenant="shop", id="k1")
    assert (answer.status, asked.tickets) == (303, [("shop", "k1")])
    assert "WhatSMS is being asked about this ticket" in words(await read(browser, answer.headers["Location"]))
    asked.refuses = "This process has no backfill."
    answer = await press(browser, ticket, "/conversations/ask", tenant="shop", id="k1")
    assert "This process has no backfill." in words(await read(browser, answer.headers["Location"]))
    assert "has no api_key" in words(await read(browser, "/conversations/ticket?tenant=bank&id=b1"))
    reader = await opened(aiohttp_client, databases, "read", asked=asked)
    assert "Ask WhatSMS" not in words(await read(reader, ticket))
    assert (await press(reader, ticket, "/conversations/ask", tenant="shop", id="k1")).status == 403
    assert len(asked.tickets) == 2


async def test_whatsms_is_asked_about_no_ticket_that_nobody_named(
    aiohttp_client: AiohttpClient, databases: Databases
) -> None:
    """Any text may be typed as an id: what is not a ticket that is held is neither asked about nor logged."""
    await fill(*databases)
    asked = Asked()
    browser = await opened(aiohttp_client, databases, asked=asked)
    ticket = "/conversations/ticket?tenant=shop&id=k1"
    with structlog.testing.capture_logs() as lines:
        for typed in ("Maria", "p1", "a\0b", ""):
            answer = await press(browser, ticket, "/conversations/ask", tenant="shop", id=typed)
            assert answer.status == (400 if "\0" in typed else 404), typed
        answer = await press(browser, ticket, "/conversations/ask", tenant="bank", id="k1")
        assert answer.status == 404
    for link in (
        "/live?ticket=%00",
        "/live?tickets=t-1",
        "/acks?tenant=%00",
        "/passport?find=%00",
        "/conversations?tenant=shop&find=%00",
    ):
        assert (await browser.get(URL(link, encoded=True))).status == 400, link
    assert not asked.tickets
    assert not [line for line in lines if line["event"] == "console.did"]


async def test_a_passport_shows_the_way_of_an_event(aiohttp_client: AiohttpClient, databases: Databases) -> None:
    """From its bytes to its rows, by its id or hash; a thing shows who told its fields; what may be several is listed;
    what is nowhere is said; and a position leads to its event.
    """
    await fill(*databases)
    browser = await opened(aiohttp_client, databases)
    page = await read(browser, f"/passport?find={SENT}")
    stations = re.findall(r'class="stop-title">(\w+)<', page)
    assert stations == ["Happened", "Received", "Verified", "Log", "Kafka", "Tables"]
    kafka = r"2026-11-29 09:30:07 UTC .* (after|before) it was received.* whatsms.conversations/3 at offset 1742"
    assert re.search(kafka, words(page)), "each station has its time, as far as that is kept"
    assert "signed with current" in words(page)
    by_hash = await read(browser, "/passport?find=" + (bytes(31) + b"\x03").hex())
    assert f"message.sent {SENT} of shop" in words(by_hash)
    parked = words(await read(browser, f"/passport?find={UUID(int=99)}"))
    assert "A parked delivery" in parked
    assert "not appended: json" in parked
    thing = await read(browser, "/passport?find=k1&kind=ticket")
    assert "Read the conversation" in thing
    assert "status ticket.updated of 1970-01-01 00:00:00 UTC in doubt" in words(thing)
    async with browser.get("/passport/at?position=7", allow_redirects=False) as answer:
        assert answer.headers["Location"] == f"/passport?find={UUID(int=7)}&kind=event"
    for wrong in ("", "8", "x", "9" * 30):
        await read(browser, f"/passport/at?position={wrong}", 404)
    await put(databases[1], tables.contact, {"id": "k1"})
    assert "This may be several things" in words(await read(browser, "/passport?find=k1"))
    assert "Nothing here has this name" in words(await read(browser, "/passport?find=nowhere"))
    assert "The event at position 12" in words(await read(browser, "/passport?find=12"))


async def test_acks_tell_how_far_messages_got(aiohttp_client: AiohttpClient, databases: Databases) -> None:
    """How many got how far in the time that is chosen, how long it took, and which tickets have stuck messages."""
    await fill(*databases)
    browser = await opened(aiohttp_client, databases)
    page = await read(browser, "/acks")
    text = words(page)
    assert "all of ours 3 100.0 %" in text
    assert "read 1 33.3 %" in text
    assert "failed 1 33.3 %" in text
    assert re.search(r"Failed in this time, the newest first .* m[0-9]+ k1 ", text), "which one, and of which ticket"
    assert "From sent to delivered 2 to 10 s" in text
    assert "From delivered to read 10 s to 1 min" in text
    assert re.search(r"k1 open 1 2 d ago 2 d ago", text)
    assert page.count('class="heat"') == 2
    assert "all of ours 4 100.0 %" in words(await read(browser, "/acks?hours=168"))
    assert "None was sent in this time" in words(await read(browser, "/acks?hours=1&tenant=bank"))


async def test_every_page_works_on_an_empty_service(aiohttp_client: AiohttpClient, databases: Databases) -> None:
    """Without a tenant and without a row: the page says what to do, or that there is nothing yet."""
    browser = await opened(aiohttp_client, databases, tenants={})
    for path in ("/conversations", "/acks"):
        assert "No tenant is configured" in words(await read(browser, path))
    assert "Of what?" in words(await read(browser, "/passport?find=x"))
    browser = await opened(aiohttp_client, databases)
    for path in ("/conversations", "/conversations?find=x", "/conversations?status=x", "/acks", "/passport?find=x"):
        await read(browser, path)
    for path in ("/conversations/ticket?tenant=shop&id=x", "/conversations/ticket?tenant=shop", "/acks?tenant=nobody"):
        await read(browser, path, 404)
    await read(browser, "/conversations/ticket?tenant=shop&id=x&after=rubbish", 400)


async def test_a_database_that_is_away_leaves_a_page_that_says_so(
    aiohttp_client: AiohttpClient, databases: Databases
) -> None:
    """What could not be read is named in words; where not even what is meant can be found, it is refused in words."""
    queries = Queries(*databases, places=0, timeout_s=0.05)
    browser = await opened(aiohttp_client, databases, queries=queries)
    ticket = "/conversations/ticket?tenant=shop&id=k1"
    for path in ("/conversations", "/conversations?find=x", "/conversations?status=x", "/acks", ticket):
        assert "could not be read" in words(await read(browser, path)), path
    await read(browser, "/passport?find=x", 503)


def test_the_links_of_a_page_survive_any_id() -> None:
    """An id stands in the query alone, so one with slashes, dots or marks leads to itself."""
    for one in ("..", "/", "a/b?c=d&e#f", "%2e", "é😀", EVIL):
        assert URL(place("/conversations/ticket", tenant="shop", id=one)).query["id"] == one
