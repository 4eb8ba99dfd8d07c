"""Who may see the console: signing in and out, what a form must prove, and what is refused in words."""

import html
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest
import structlog
from aiohttp import web
from pytest_aiohttp import AiohttpClient
from yarl import URL

from servers.metric import sample
from web.console.pages import SECRET, Browser, application, cookie, own, press, sign_in, token
from whatsms_events.errors import NotFoundError, StorageUnavailableError
from whatsms_events.web.access import NamedToken
from whatsms_events.web.console.assets import VENDORED, shipped_assets
from whatsms_events.web.console.frame import Frame, Visit
from whatsms_events.web.console.sessions import COOKIE

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)


def _refused(reason: str) -> float:
    """Return how many tokens were refused for a reason."""
    return sample("whatsms_events_tokens_refused_total", {"reason": reason}) or 0.0


class Trial:
    """A page with a button, and with whatever can go wrong."""

    title = "Trial"
    path = "/"

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self.pressed: list[Mapping[str, str]] = []

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return them."""
        return [
            self._frame.get("/", self._shown),
            self._frame.get("/away", self._away),
            self._frame.get("/hole", self._hole),
            self._frame.get("/missing", self._missing),
            self._frame.get("/broken", self._broken),
            self._frame.post("/press", self._press),
        ]

    async def _shown(self, visit: Visit) -> web.Response:
        return visit.page("refused.html", title="Trial", sentence=f"It is here, with the mark {visit.mark}")

    async def _away(self, _visit: Visit) -> web.Response:
        raise StorageUnavailableError("the database sleeps")

    async def _hole(self, visit: Visit) -> web.Response:
        async def asleep() -> int:
            raise StorageUnavailableError("the database sleeps")

        return visit.page("refused.html", title="Hole", sentence=(await visit.asked("The log", asleep())).trouble)

    async def _missing(self, _visit: Visit) -> web.Response:
        raise NotFoundError("no parked delivery 7")

    async def _broken(self, visit: Visit) -> web.Response:
        return visit.page("refused.html", title="a value that nobody gives is an error")

    async def _press(self, visit: Visit, fields: Mapping[str, str]) -> web.Response:
        self.pressed.append(fields)
        return visit.back("/", "It was done.")


async def opened(aiohttp_client: AiohttpClient, *tokens: NamedToken, **more: object) -> tuple[Browser, Trial]:
    """Give a browser, and the page behind it."""
    made: list[Trial] = []

    def make(frame: Frame) -> list[Trial]:
        made.append(Trial(frame))
        return made

    app, _access = application(make, *tokens, **more)  # type: ignore[arg-type]
    return await aiohttp_client(app), made[0]


async def test_a_page_asks_a_stranger_to_sign_in_and_then_leads_back(aiohttp_client: AiohttpClient) -> None:
    """Without a session a page leads to the form, the right token sets a cookie that no script and no other site can
    use, and the browser comes back to the very thing it wanted to see. Whatever the token is called, it can sign out.
    """
    browser, _ = await opened(aiohttp_client, token(name="anybody"))
    wanted = "/hole?tenant=shop&find=Jo%C3%A3o%20%26%20Maria"
    stranger = await browser.get(URL(wanted, encoded=True), allow_redirects=False)
    assert stranger.status == 303
    form = await browser.get(URL(stranger.headers["Location"], encoded=True))
    found = re.search(r'name="to" value="([^"]+)"', await form.text())
    assert found is not None
    answer = await sign_in(browser, to=html.unescape(found[1]))
    assert (answer.status, URL(answer.headers["Location"])) == (303, URL(wanted, encoded=True))
    morsel = answer.cookies[COOKIE]
    assert (morsel["httponly"], morsel["samesite"], morsel["secure"], morsel["path"]) == (True, "Strict", "", "/")
    assert (await browser.get("/hole")).status == 200
    assert "Sign out" in await (await browser.get("/hole")).text()
    assert SECRET not in cookie(answer)
    piece = {"HX-Request": "true", "HX-Current-URL": str(browser.make_url(URL(wanted, encoded=True)))}
    stale = await browser.get("/hole", headers=piece, cookies={COOKIE: ""})
    assert (stale.status, stale.headers["HX-Redirect"]) == (401, stranger.headers["Location"])


async def test_behind_https_the_cookie_goes_by_https_only(aiohttp_client: AiohttpClient) -> None:
    """Where a proxy says that the browser came by https, the cookie is marked Secure."""
    browser, _ = await opened(aiohttp_client, token())
    headers = {**own(browser), "X-Forwarded-Proto": "https"}
    answer = await browser.post("/sign-in", data={"token": SECRET}, headers=headers, allow_redirects=False)
    assert answer.cookies[COOKIE]["secure"] is True


@pytest.mark.parametrize(
    "to", ["//evil.example", "/\\evil.example", "https://evil.example", "javascript:alert(1)", "/\n"]
)
async def test_signing_in_leads_nowhere_else(aiohttp_client: AiohttpClient, to: str) -> None:
    """Whatever is put into `to`, the browser stays with us."""
    browser, _ = await opened(aiohttp_client, token())
    assert (await sign_in(browser, to=to)).headers["Location"] == "/"


async def test_a_wrong_token_opens_nothing(aiohttp_client: AiohttpClient) -> None:
    """A wrong token, an empty one, and one without the scope `read` set no cookie, and the page says why."""
    browser, _ = await opened(aiohttp_client, token(), token("metrics", name="prometheus", secret="only-for-metrics"))
    for secret, status, word in (
        ("wrong", 401, "no token"),
        ("", 401, "no token"),
        ("only-for-metrics", 403, "scope read"),
    ):
        answer = await sign_in(browser, secret)
        assert (answer.status, COOKIE in answer.cookies) == (status, False)
        assert word in await answer.text()


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        *((f"application/x-www-form-urlencoded; charset={one}", b"token=%ff&x=" + b"a" * 60_000, 401)
          for one in ("punycode", "idna", "utf-7", "nonsense", "utf-8")),
        ("application/x-www-form-urlencoded; charset=punycode", f"token={SECRET}".encode(), 303),
        ("application/x-www-form-urlencoded", b"token=" + b"b" * 70_000, 400),
        ("application/x-www-form-urlencoded", b"&".join([b"a=1"] * 60), 400),
        ("application/x-www-form-urlencoded", b"token=x&to=a%00b", 400),
        ("multipart/form-data; boundary=x", b"--x--", 415),
        ("text/plain", f"token={SECRET}".encode(), 415),
    ],
)  # fmt: skip
async def test_a_form_is_read_in_one_way_whatever_its_sender_says(
    aiohttp_client: AiohttpClient, kind: str, body: bytes, status: int
) -> None:
    """A form is UTF-8, small, and holds nothing that a database could not. A stranger who names another codec, some of
    which take minutes for a megabyte, holds nobody up and meets no error of ours.
    """
    browser, _ = await opened(aiohttp_client, token())
    headers = {**own(browser), "Content-Type": kind}
    with structlog.testing.capture_logs() as lines:
        answer = await browser.post("/sign-in", data=body, headers=headers, allow_redirects=False)
    assert answer.status == status
    assert "request.failed" not in [line["event"] for line in lines]


async def test_behind_a_proxy_with_another_name_buttons_work(aiohttp_client: AiohttpClient) -> None:
    """Where the browser itself says that a form is of the same origin, the name that a proxy asks us under is no
    matter; where it says nothing, the origin must be ours.
    """
    browser, _ = await opened(aiohttp_client, token())
    for headers, status in (
        ({"Origin": "https://console.example", "Sec-Fetch-Site": "same-origin"}, 303),
        ({"Origin": "https://console.example", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "https://console.example"}, 403),
        ({}, 403),
    ):
        form = {"token": SECRET}
        answer = await browser.post("/sign-in", data=form, headers=headers, allow_redirects=False)
        assert answer.status == status, headers
        browser.session.cookie_jar.clear()


async def test_a_session_ends_with_time_with_its_token_and_at_sign_out(aiohttp_client: AiohttpClient) -> None:
    """A cookie is worth nothing after twelve hours, after its token was changed or taken away, or in another's name."""
    clock = [NOON]
    app, access = application(lambda frame: [Trial(frame)], token(), at=lambda: clock[0])
    browser = await aiohttp_client(app)
    answer = await sign_in(browser)
    value = cookie(answer)

    async def status(one: str = value) -> int:
        browser.session.cookie_jar.clear()
        return (await browser.get("/", cookies={COOKIE: one}, allow_redirects=False)).status

    assert await status() == 200
    clock[0] = NOON + timedelta(hours=12)
    assert await status() == 303
    clock[0] = NOON
    access.change([token(secret="the-token-that-came-after-it")])
    assert await status() == 303
    access.change([token(), token(name="other", secret="another-token-of-the-tests")])
    assert await status() == 200
    name, until, mark = value.rsplit(".", 2)
    before = _refused("wrong")
    for forged in (
        f"other.{until}.{mark}",
        f"{name}.{int(until) + 1}.{mark}",
        f"{name}.{until}.",
        "",
        "..",
        f"{name}.é.{mark}",
    ):
        assert await status(forged) == 303, forged
    assert _refused("wrong") - before == 5, "each but the empty one may be a guess at a token, and counts as one"
    browser.session.cookie_jar.update_cookies({COOKIE: value}, browser.make_url("/"))
    left = await press(browser, "/", "/sign-out")
    assert (left.status, left.headers["Location"], left.cookies[COOKIE].value) == (303, "/sign-in", "")


async def test_a_button_works_only_from_a_page_of_ours(aiohttp_client: AiohttpClient) -> None:
    """A form from another site, one without an origin, and one with a wrong mark or none change nothing."""
    browser, page = await opened(aiohttp_client, token())
    await sign_in(browser)
    assert (await press(browser, "/", "/press", name="x")).status == 303
    assert page.pressed == [{"name": "x"}]
    mark = re.search(r'name="mark" value="([0-9a-f]{64})"', await (await browser.get("/")).text())
    assert mark is not None
    fine = own(browser)
    for headers, form in (
        ({}, {"mark": mark[1]}),
        ({"Origin": "https://evil.example"}, {"mark": mark[1]}),
        ({**fine, "Sec-Fetch-Site": "cross-site"}, {"mark": mark[1]}),
        ({**fine, "Sec-Fetch-Site": "same-site"}, {"mark": mark[1]}),
        ({"Origin": "null"}, {"mark": mark[1]}),
        (fine, {}),
        (fine, {"mark": "0" * 64}),
    ):
        refused = await browser.post("/press", data=form, headers=headers, allow_redirects=False)
        assert refused.status == 403, (headers, form)
    assert len(page.pressed) == 1


async def test_a_button_needs_the_scope(aiohttp_client: AiohttpClient) -> None:
    """Who may only read gets 403 for a button, in words."""
    browser, page = await opened(aiohttp_client, token("read", "personal"))
    await sign_in(browser)
    refused = await press(browser, "/", "/press")
    assert refused.status == 403
    assert "scope operate" in await refused.text()
    assert page.pressed == []


async def test_a_wrong_cookie_counts_as_a_wrong_token_and_is_taken_away(aiohttp_client: AiohttpClient) -> None:
    """Whoever guesses a token can make the cookie of each guess: its answer waits as that of a wrong token does, at the
    form to sign in too. The browser of somebody whose token was changed is told to forget the cookie, so it is once.
    """
    clock = [NOON]
    app, access = application(lambda frame: [Trial(frame)], token(), at=lambda: clock[0])
    browser = await aiohttp_client(app)
    await sign_in(browser)
    access.change([token(secret="the-token-that-came-after-it")])
    before = _refused("wrong")
    gone = await browser.get("/hole", allow_redirects=False)
    assert (gone.status, gone.cookies[COOKIE].value, _refused("wrong") - before) == (303, "", 1)
    assert (await browser.get("/hole")).status == 200, "the form, and the cookie was not sent again"
    assert _refused("wrong") - before == 1
    at_the_form = await browser.get("/sign-in", cookies={COOKIE: "ops.9999999999.x"})
    assert (at_the_form.status, _refused("wrong") - before) == (200, 2)
    browser.session.cookie_jar.clear()
    await sign_in(browser, "the-token-that-came-after-it")
    clock[0] = NOON + timedelta(hours=12)
    assert (await browser.get("/", allow_redirects=False)).status == 303
    assert _refused("wrong") - before == 2, "one that is over is no guess"


async def test_without_a_token_it_opens_under_names_of_this_machine_alone(aiohttp_client: AiohttpClient) -> None:
    """Where no token is configured everybody may do everything, but not under a strange name, nor by a strange form."""
    browser, page = await opened(aiohttp_client)
    assert (await browser.get("/")).status == 200
    assert (await browser.get("/sign-in", allow_redirects=False)).headers["Location"] == "/"
    strange = await browser.get("/", headers={"Host": "evil.example"})
    assert strange.status == 403
    assert "names of this machine" in await strange.text()
    found = re.search(r"mark ([0-9a-f]{64})", await (await browser.get("/")).text())
    assert found is not None
    form = {"mark": found[1]}
    assert (await browser.post("/press", data=form, headers={"Origin": "http://evil.example"})).status == 403
    assert (await browser.post("/press", data={"mark": "0" * 64}, headers=own(browser))).status == 403
    assert page.pressed == []
    assert (await browser.post("/press", data=form, headers=own(browser), allow_redirects=False)).status == 303
    assert page.pressed == [{}]


async def test_what_goes_wrong_is_said_in_words(aiohttp_client: AiohttpClient) -> None:
    """A database that is away, a thing that is not there and a mistake of ours are pages with a sentence; a piece of a
    page that is asked for after the session has ended sends the whole page to the form.
    """
    browser, _ = await opened(aiohttp_client, token())
    piece = await browser.get("/hole", headers={"HX-Request": "true"}, allow_redirects=False)
    assert (piece.status, piece.headers["HX-Redirect"]) == (401, "/sign-in")
    await sign_in(browser)
    for path, status, words in (
        ("/away", 503, "the database sleeps"),
        ("/hole", 200, "The log could not be read: the database sleeps"),
        ("/missing", 404, "no parked delivery 7"),
    ):
        answer = await browser.get(path)
        assert (answer.status, answer.content_type) == (status, "text/html")
        assert words in await answer.text()
    with structlog.testing.capture_logs() as lines:
        answer = await browser.get("/broken")
    assert (answer.status, answer.content_type) == (500, "text/html")
    assert [line["event"] for line in lines] == ["request.failed"]


async def test_a_sentence_in_a_url_is_shown_only_where_it_is_ours(aiohttp_client: AiohttpClient) -> None:
    """What a button did is said on the page after it; nobody can make a link that lets the console say something."""
    browser, _ = await opened(aiohttp_client, token())
    assert "Call 555" not in await (await browser.get("/sign-in?said=Call+555")).text()
    assert "Call 555" not in await (await browser.get("/sign-in?said=Call+555&by=")).text()
    await sign_in(browser)
    done = await press(browser, "/", "/press")
    assert "It was done." in await (await browser.get(done.headers["Location"])).text()
    assert "Call 555" not in await (await browser.get("/?said=Call+555&by=00")).text()
    assert "Call 555" not in await (await browser.get("/?said=Call+555&by=%C3%A9")).text()


async def test_pages_bring_everything_themselves(aiohttp_client: AiohttpClient) -> None:
    """Pages are kept by nobody and take scripts and styles from this host alone, none inline; files are named by their
    content and kept for ever, and another content has another name.
    """
    browser, _ = await opened(aiohttp_client, token())
    await sign_in(browser)
    page = await browser.get("/")
    text = await page.text()
    assert page.headers["Cache-Control"] == "no-store"
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    urls = re.findall(r'(?:src|href)="([^"#]+)"', text)
    assert urls
    assert all(url.startswith("/") and not url.startswith("//") for url in urls)
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son[a-z]+=", text)
    for url in (url for url in urls if url.startswith("/static/")):
        answer = await browser.get(url)
        assert answer.status == 200
        assert "immutable" in answer.headers["Cache-Control"]
        assert (await browser.get(url.replace("/static/", "/static/0"))).status == 404


def test_what_others_wrote_is_what_they_wrote() -> None:
    """Each vendored file has the hash that stands in the code, and its licence is beside it."""
    assets = shipped_assets()
    assert {name: assets[name].integrity for name in VENDORED} == VENDORED
    assert b"Zero-Clause BSD" in assets["htmx.LICENSE.txt"].body
