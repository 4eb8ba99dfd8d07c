"""The client, over real HTTP: every endpoint, what is sent and read, what never shows, and how it ends."""

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from structlog.testing import capture_logs

from servers.virtual_time import virtual
from whatsms.vendor import CLOCK, KEY, MESSAGE, TICKET, Say, html, in_turn, say, serving, talking
from whatsms_events import clock
from whatsms_events.errors import (
    ConfigError,
    UpstreamError,
    UpstreamInvalidError,
    UpstreamNotFoundError,
    UpstreamUnauthorizedError,
    UpstreamUnavailableError,
    UpstreamUncertainError,
)
from whatsms_events.whatsms import Client
from whatsms_events.whatsms.endpoint import Parameters
from whatsms_events.whatsms.limits import Budget, Limits
from whatsms_events.whatsms.pages import Place
from whatsms_events.whatsms.transport import Transport, Waits

SOON = datetime(2026, 6, 1, 11, 0, tzinfo=timezone(timedelta(hours=2)))
CONTACT = {"contact": {"id": 7, "name": "João"}}
CAMPAIGN = {"campaign": {"id": "k1", "status": "pending"}}

Row = tuple[str, Callable[[Client], Awaitable[Any]], Any, str, str, dict[str, str], Any]
CALLS: list[Row] = [
    (
        "tickets.page",
        lambda c: c.tickets.page(Place(number=3), status="open", contact_id="c&1", page_size=50),
        {"tickets": []},
        "GET",
        "/tickets",
        {"page": "3", "limit": "50", "status": "open", "contactId": "c&1"},
        None,
    ),
    ("tickets.get", lambda c: c.tickets.get("t1"), TICKET, "GET", "/tickets/t1", {}, None),
    (
        "tickets.create",
        lambda c: c.tickets.create("c1", status="open", channel="sms", whatsapp_id="w1", queue_id=None, user_id="u1"),
        TICKET,
        "POST",
        "/tickets",
        {},
        {
            "contactId": "c1",
            "status": "open",
            "channel": "sms",
            "whatsappId": "w1",
            "queueId": None,
            "userId": "u1",
        },
    ),
    ("tickets.create, least", lambda c: c.tickets.create("c1"), TICKET, "POST", "/tickets", {}, {"contactId": "c1"}),
    (
        "tickets.update",
        lambda c: c.tickets.update("t1", status="closed", user_id=None),
        TICKET,
        "PUT",
        "/tickets/t1",
        {},
        {"status": "closed", "userId": None},
    ),
    (
        "messages.page",
        lambda c: c.messages.page("t1", Place(), page_size=1000),
        {"messages": []},
        "GET",
        "/tickets/t1/messages",
        {"page": "1", "limit": "100"},
        None,
    ),
    (
        "messages.send",
        lambda c: c.messages.send("t1", "Olá 👋", media_url="https://x/y", media_type="image", quoted_message_id="m0"),
        MESSAGE,
        "POST",
        "/tickets/t1/messages",
        {},
        {"body": "Olá 👋", "mediaUrl": "https://x/y", "mediaType": "image", "quotedMsgId": "m0"},
    ),
    (
        "contacts.page",
        lambda c: c.contacts.page(Place(), search="Ana & Zé"),
        {"contacts": []},
        "GET",
        "/contacts",
        {"page": "1", "limit": "100", "search": "Ana & Zé"},
        None,
    ),
    ("contacts.get", lambda c: c.contacts.get("7"), CONTACT, "GET", "/contacts/7", {}, None),
    (
        "contacts.create",
        lambda c: c.contacts.create("João", "351910000000", email=None, extra_info=[{"name": "NIF", "value": "1"}]),
        CONTACT,
        "POST",
        "/contacts",
        {},
        {
            "name": "João",
            "number": "351910000000",
            "email": None,
            "extraInfo": [{"name": "NIF", "value": "1"}],
        },
    ),
    (
        "contacts.update",
        lambda c: c.contacts.update("7", name="J"),
        CONTACT,
        "PUT",
        "/contacts/7",
        {},
        {"name": "J"},
    ),
    (
        "campaigns.page",
        lambda c: c.campaigns.page(Place(), status="finished"),
        {"campaigns": []},
        "GET",
        "/campaigns",
        {"page": "1", "limit": "100", "status": "finished"},
        None,
    ),
    (
        "campaigns.create",
        lambda c: c.campaigns.create("P", "Olá {{name}}", whatsapp_id="w", contact_group_id="g", scheduled_at=SOON),
        CAMPAIGN,
        "POST",
        "/campaigns",
        {},
        {
            "name": "P",
            "message": "Olá {{name}}",
            "whatsappId": "w",
            "contactGroupId": "g",
            "scheduledAt": "2026-06-01T09:00:00Z",
        },
    ),
    ("agents.list", lambda c: c.agents.list(), {"agents": []}, "GET", "/ai-agents", {}, None),
    (
        "agents.assign",
        lambda c: c.agents.assign("t1", None),
        TICKET,
        "POST",
        "/ai-agents/assign",
        {},
        {"ticketId": "t1", "agentId": None},
    ),
]


@pytest.mark.parametrize("row", CALLS, ids=[row[0] for row in CALLS])
@virtual
async def test_each_endpoint_is_called_as_the_vendor_documents_it(row: Row) -> None:
    """Method, path, query, body and headers are the documented ones; only what was given is sent, None as null."""
    _name, call, answer, method, path, query, body = row
    async with talking(say(answer)) as (vendor, client):
        await call(client)
    (seen,) = vendor.seen
    assert (seen.method, seen.path, seen.query) == (method, path, query)
    assert seen.headers["Authorization"] == f"Bearer {KEY}"
    assert seen.headers["User-Agent"].startswith("whatsms-events/")
    if body is None:
        assert not seen.body
        assert "Content-Type" not in seen.headers
    else:
        assert seen.json == body
        assert seen.headers["Content-Type"] == "application/json"


@virtual
async def test_names_that_the_vendor_does_not_give_can_be_changed() -> None:
    """Every name of a parameter, and the verb of updates, are the ones given."""
    names = Parameters(
        page="pageNumber",
        limit="size",
        status="state",
        contact="contact",
        search="searchParam",
        campaign_status="phase",
        update_method="PATCH",
    )
    answers = in_turn(say({"tickets": []}), say({"contacts": []}), say({"campaigns": []}), say(TICKET))
    async with talking(answers, parameters=names) as (vendor, client):
        await client.tickets.page(Place(), status="open", contact_id="c", page_size=10)
        await client.contacts.page(Place(), search="a", page_size=10)
        await client.campaigns.page(Place(), status="running", page_size=10)
        await client.tickets.update("t1", queue_id="q")
    assert [seen.query for seen in vendor.seen] == [
        {"state": "open", "contact": "c", "pageNumber": "1", "size": "10"},
        {"searchParam": "a", "pageNumber": "1", "size": "10"},
        {"phase": "running", "pageNumber": "1", "size": "10"},
        {},
    ]
    assert vendor.seen[-1].method == "PATCH"


@virtual
async def test_resources_are_read_tolerantly() -> None:
    """Integer ids, flat names, nulls, missing wrapping, half an emoji and NUL are read; unknown fields are kept."""
    ticket = b'{"ticket": {"id": 5, "status": null, "userId": 9, "lastMessage": "\\ud83d", "mood": 1, "updatedAt": 3}}'
    contact = {"id": "c1", "number": 351910000000, "extraInfo": [{"name": "NIF", "value": "1"}]}
    agents = {
        "agents": [
            {"id": 1, "name": "Maria", "isActive": "yes", "enabledIntegrations": ["kivicare"], "handoffEnabled": True},
            {"id": "a2", "createdAt": "2026-03-01T10:00:00Z", "model": None},
            {"name": "no id"},
        ]
    }
    async with talking(in_turn(Say(ticket), say(contact), say(agents))) as (_vendor, client):
        one = await client.tickets.get("5")
        two = await client.contacts.get("c1")
        maria, other = await client.agents.list()
    assert (one.id, one.status, one.last_message) == ("5", None, "\ufffd")
    assert one.user is not None
    assert one.extra == {"mood": 1, "updatedAt": 3}
    assert (two.id, two.number) == ("c1", "351910000000")
    assert (maria.id, maria.enabled_integrations, maria.extra) == ("1", ["kivicare"], {"isActive": "yes"})
    assert (other.created_at, other.model) == (datetime(2026, 3, 1, 10, tzinfo=UTC), None)


@virtual
async def test_an_item_without_an_id_is_skipped_and_counted() -> None:
    """A list goes on past items that name nothing, and says how many there were."""
    tickets = [{"id": "t1"}, {"status": "open"}, None, "t2", {"id": ""}, {"id": 3}, {"id": 1 << 90}]
    async with talking(say({"tickets": tickets, "count": 7, "hasMore": False})) as (_vendor, client):
        page = await client.tickets.page(Place())
    assert [ticket.id for ticket in page.items] == ["t1", "3", str(1 << 90)]
    assert (page.unusable, page.count, page.next) == (4, 7, None)


@pytest.mark.parametrize("id", ["a/b", "../contacts/1", "a?x=1", "a#b", "a%2Fb", "é", "a b", "..;/x", "\ud83d", "{id}"])
@virtual
async def test_an_id_never_changes_the_path(id: str) -> None:  # noqa: A002
    """Whatever an id holds, it stays one segment of the path."""
    async with talking(say({"messages": []})) as (vendor, client):
        await client.messages.page(id, Place())
    (seen,) = vendor.seen
    assert seen.path.startswith("/tickets/")
    assert seen.path.endswith("/messages")
    assert seen.path.count("/") == 3
    assert set(seen.query) == {"page", "limit"}


@pytest.mark.parametrize("id", ["", ".", ".."])
@virtual
async def test_an_id_that_is_no_segment_is_not_sent(id: str) -> None:  # noqa: A002
    """An empty id or one of dots, which no quoting protects, is refused before anything is sent."""
    async with talking(say(TICKET)) as (vendor, client):
        with pytest.raises(UpstreamInvalidError):
            await client.tickets.get(id)
    assert not vendor.seen


@virtual
async def test_as_of_is_the_vendors_date_less_the_duration() -> None:
    """What is observed is dated by the vendor's clock, before it looked; by ours where it shows none."""
    shown = say(TICKET, Date="Thu, 15 Jan 2026 10:30:00 GMT")
    late = Say(shown.body, 200, shown.headers, after_s=2.5)
    odd = say(TICKET, Date="yesterday")
    clock = datetime(2030, 1, 1, tzinfo=UTC)
    async with talking(in_turn(late, odd), now=lambda: clock) as (_vendor, client):
        dated = await client.tickets.observe("t1")
        undated = await client.tickets.observe("t1")
    assert abs(dated.as_of - (CLOCK - timedelta(seconds=2.5))) < timedelta(milliseconds=10)
    assert undated.as_of == clock
    assert dated.value.id == "t1"


@pytest.mark.parametrize(
    "url",
    [
        "http://api.whatsms.pt/api/v2",
        "http://127.0.0.1.evil.example/api/v2",
        "http://10.0.0.1/",
        "http://localhost.example/",
        "ftp://127.0.0.1/",
        "//127.0.0.1/",
        "api.whatsms.pt",
        "",
        "https://",
        "https://user:pass@api.whatsms.pt/api/v2",
        "https://api.whatsms.pt/api/v2?key=1",
        "http://[",
    ],
)
def test_a_url_that_would_show_the_key_is_refused(url: str) -> None:
    """Only HTTPS, and HTTP to this machine: everything else is a ConfigError that repeats no password."""
    with pytest.raises(ConfigError) as caught:
        Client(url, KEY, limits=Limits())
    assert "pass" not in str(caught.value)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["https://api.whatsms.pt/api/v2", "http://localhost:1/", "http://[::1]:1/api/v2", "http://127.0.0.2:1"]
)
def test_https_and_loopback_are_fine(url: str) -> None:
    """These are the URLs that may be used."""
    assert repr(Client(url, KEY, limits=Limits())) == f"<Client {url.rstrip('/')}>"


@pytest.mark.parametrize("key", ["", "sk live", "sk\nlive", "chave-é"])
def test_a_key_that_fits_in_no_header_is_refused(key: str) -> None:
    """Such a key is a ConfigError that does not repeat it."""
    with pytest.raises(ConfigError) as caught:
        Client("https://x", key, limits=Limits())
    assert not key or key not in str(caught.value)


ODD = [
    say({"error": f"chave {KEY} inválida, João"}, 401),
    say({"error": f"{KEY} João"}, 500),
    html(502, f"<html>{KEY} João</html>"),
    html(200, f"<html>{KEY} João</html>"),
    Say(cut=0),
    Say(cut=0, raw="João, isto não é HTTP\r\n\r\n".encode()),
    Say(cut=0, raw=b"HTTP/1.1 200 OK\r\nContent-Length: Jo\r\n\r\n"),
    Say(b"x" * 100, 200, cut=10),
    Say(b"", 200, (("Content-Encoding", "gzip"),), after_s=60),
    Say(b"no gzip", 200, (("Content-Encoding", "gzip"),)),
    say({"error": "João"}, 302, Location=f"https://evil.example/?{KEY}"),
]


@pytest.mark.parametrize("answer", ODD)
@virtual
async def test_nothing_shows_the_key_or_a_person(answer: Say, caplog: pytest.LogCaptureFixture) -> None:
    """Neither errors with all their causes, nor their reprs, nor any log line hold key, name, search, body or id."""
    caplog.set_level(logging.DEBUG)
    shown: list[str] = []
    transport = Transport(
        "https://x", KEY, limits=Limits(), budget=Budget(), timeout_s=1, attempts=1, waits=Waits(), now=clock.now
    )
    with capture_logs() as logged:
        async with talking(answer, attempts=2) as (_vendor, client):
            for call in (
                client.contacts.page(Place(), search="Maria"),
                client.contacts.update("id-of-Maria", name="Maria"),
                client.messages.send("id-of-Maria", "Maria"),
            ):
                with pytest.raises(UpstreamError) as caught:
                    await call
                error: BaseException | None = caught.value
                assert KEY not in caught.value.text
                shown.append(f"{error}{error!r}{client!r}{transport!r}")
                shown += traceback.format_exception(caught.value)
                while error is not None:
                    shown.append(repr(error))
                    error = error.__cause__ or error.__context__
    everything = "\n".join(shown) + str(logged) + caplog.text
    for secret in (KEY, "João", "id-of-Maria", "search", "Authorization"):
        # The traceback shows the lines of this test too.
        assert secret not in everything.replace('client.contacts.page(Place(), search="Maria")', "")


@virtual
async def test_cookies_and_redirects_are_not_followed() -> None:
    """The key goes to the base URL only, and each request stands for itself."""
    moved = say({}, 307, Location="/elsewhere", Set_Cookie="a=b")
    async with talking(in_turn(moved, say(TICKET))) as (vendor, client):
        with pytest.raises(UpstreamError) as caught:
            await client.tickets.get("t1")
        await client.tickets.get("t1")
    assert caught.value.status == 307
    assert [seen.path for seen in vendor.seen] == ["/tickets/t1"] * 2
    assert "Cookie" not in vendor.seen[1].headers


@virtual
async def test_a_read_is_tried_again_until_it_succeeds() -> None:
    """Lost connections, 5xx, proxies' HTML, cut bodies and timeouts are tried again, with growing, jittered waits."""
    slow = Say(b"{}", after_s=40)
    answers = in_turn(Say(cut=0), html(502), html(200), Say(b'{"ticket', cut=4), slow, say(TICKET))
    async with talking(answers) as (vendor, client):
        assert (await client.tickets.get("t1")).id == "t1"
    gaps = [after - before for before, after in zip(vendor.times, vendor.times[1:], strict=False)]
    assert [seen.method for seen in vendor.seen] == ["GET"] * 6
    assert 0.5 <= gaps[0] <= 1.8
    assert gaps[3] >= 4
    assert gaps[4] >= 30 + 8


@virtual
async def test_attempts_have_an_end() -> None:
    """What stays away is given up after so many tries, with the last error."""
    async with talking(html(503), attempts=3) as (vendor, client):
        with pytest.raises(UpstreamUnavailableError) as caught:
            await client.tickets.update("t1", status="open")
    assert len(vendor.seen) == 3
    assert (caught.value.status, caught.value.text) == (503, "<html><h1>Bad Gateway</h1></html>")
    assert str(caught.value) == "PUT /tickets/{id}: 503"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422, 301])
@virtual
async def test_a_refusal_is_not_tried_again(status: int) -> None:
    """What is wrong with the request would be wrong again."""
    async with talking(say({"error": "ERR"}, status)) as (vendor, client):
        with pytest.raises(UpstreamError) as caught:
            await client.tickets.get("t1")
    assert len(vendor.seen) == 1
    assert (caught.value.status, caught.value.text) == (status, "ERR")


@virtual
async def test_a_key_that_is_revoked_in_the_middle_stops_at_once() -> None:
    """401 after good answers is raised at the first one."""
    page = {"tickets": [{"id": "t1"}], "hasMore": True}
    async with talking(in_turn(say(page), say({"error": "API Key inválida"}, 401))) as (vendor, client):
        with pytest.raises(UpstreamUnauthorizedError):
            _ = [ticket async for ticket in client.tickets.list()]
    assert len(vendor.seen) == 2


@pytest.mark.parametrize(
    "answer",
    [
        Say(cut=0),
        Say(b"x" * 10, cut=5),
        Say(b"{}", after_s=40),
        html(502),
        say({"error": "Erro interno"}, 500),
        html(200),
        Say(b"", 204),
        say({}, 408),
        say({"ok": True}, 201),
    ],
    ids=["cut", "half", "slow", "502", "500", "html", "empty", "408", "no id"],
)
@virtual
async def test_a_message_that_may_have_been_sent_is_never_sent_again(answer: Say) -> None:
    """A POST without a usable answer is sent once, and the error says that it may have happened."""
    async with talking(answer) as (vendor, client):
        with pytest.raises(UpstreamUncertainError, match="it may have happened"):
            await client.messages.send("t1", "Olá")
    assert len(vendor.seen) == 1


@virtual
async def test_a_message_that_was_surely_not_sent_is_tried_again() -> None:
    """429, and a connection that never came about, leave nothing behind: a POST is tried again after them."""
    async with serving(in_turn(say({"error": "limite"}, 429), say(MESSAGE))) as vendor:
        async with Client(vendor.url, KEY, limits=Limits()) as client:
            assert (await client.messages.send("t1", "Olá")).id == "m1"
        assert len(vendor.seen) == 2
        gone = vendor.url
    async with Client(gone, KEY, limits=Limits(), attempts=3) as client:
        began = asyncio.get_running_loop().time()
        with pytest.raises(UpstreamUnavailableError, match="no connection"):
            await client.messages.send("t1", "Olá")
        assert asyncio.get_running_loop().time() - began > 1.5


async def ask_for_pages(client: Client, *, within_s: float) -> None:
    """Ask for forty at once."""
    async with asyncio.timeout(within_s), asyncio.TaskGroup() as group:
        for _ in range(40):
            group.create_task(client.tickets.page(Place()))


@virtual
async def test_cancelling_leaves_nothing_behind() -> None:
    """A call that is cancelled while it waits, connects or reads ends at once; others go on, at the same rate."""
    page = say({"tickets": []})
    async with talking(page) as (vendor, client):
        vendor.answers = lambda _seen: Say(page.body, after_s=20)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await ask_for_pages(client, within_s=5)
        vendor.answers = in_turn(page)
        before = len(vendor.seen)
        await ask_for_pages(client, within_s=20)
        assert len(vendor.seen) == before + 40
    assert min(after - at for at, after in zip(vendor.times, vendor.times[1:], strict=False)) > 0.24


@virtual
async def test_a_client_can_be_closed_and_opened_again() -> None:
    """Opening twice and closing twice are harmless; a call while it is closed says so."""
    async with serving(say(TICKET)) as vendor:
        client = Client(vendor.url, KEY, limits=Limits())
        with pytest.raises(RuntimeError, match="not open"):
            await client.tickets.get("t1")
        for _ in range(2):
            await client.open()
            await client.open()
            await client.tickets.get("t1")
            await client.close()
            await client.close()
    assert len(vendor.seen) == 2


@virtual
async def test_not_found_is_an_error_of_its_own() -> None:
    """404 is UpstreamNotFoundError with the vendor's text."""
    async with talking(say({"error": "Ticket não encontrado"}, 404)) as (_vendor, client):
        with pytest.raises(UpstreamNotFoundError) as caught:
            await client.tickets.get("t1")
    assert caught.value.text == "Ticket não encontrado"
    assert str(caught.value) == "GET /tickets/{id}: 404"


def test_a_time_without_a_zone_is_refused() -> None:
    """A campaign's time must say which hour it means."""
    client = Client("https://x", KEY, limits=Limits())
    with pytest.raises(ValueError, match="time zone"):
        asyncio.run(client.campaigns.create("a", "b", scheduled_at=datetime(2026, 1, 1)))  # noqa: DTZ001
