"""Every token may do what its scopes say, a wrong one is slowed down and counted, and strangers get nothing."""

import asyncio

import pytest
import structlog
from aiohttp import web
from aiohttp.test_utils import TestClient
from pytest_aiohttp import AiohttpClient

from servers.metric import sample
from web.listener import TOKEN, asking, bearer, probes
from whatsms_events.domain.scopes import SCOPES, Scope, scopes
from whatsms_events.errors import ConfigError
from whatsms_events.web.access import Access, Holder, NamedToken, holder, is_local, require
from whatsms_events.web.app import private_app

Client = TestClient[web.Request, web.Application]


class Page:
    """A page for everybody who may read, and a button for those who may operate."""

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return both."""
        return [web.get("/page", self._page), web.post("/button", self._button)]

    async def _page(self, request: web.Request) -> web.Response:
        return web.json_response({"holder": holder(request).name})

    async def _button(self, request: web.Request) -> web.Response:
        require(request, "operate")
        return web.json_response({})


def named(name: str, *may: Scope) -> NamedToken:
    """Return a token."""
    return NamedToken(name, f"the-token-of-{name}".encode(), frozenset(may))


def refused(reason: str) -> float:
    """Return how many were refused."""
    return sample("whatsms_events_tokens_refused_total", {"reason": reason}) or 0.0


@pytest.mark.parametrize(
    ("may", "page", "button", "metrics"),
    [
        ((), 403, 403, 403),
        (("metrics",), 403, 403, 200),
        (("read",), 200, 403, 403),
        (("operate",), 403, 403, 403),
        (("read", "personal"), 200, 403, 403),
        (("read", "operate"), 200, 200, 403),
        (tuple(SCOPES), 200, 200, 200),
    ],
)
async def test_a_token_opens_what_its_scopes_say_and_no_more(
    aiohttp_client: AiohttpClient, may: tuple[Scope, ...], page: int, button: int, metrics: int
) -> None:
    """Each scope opens its own part; what is refused for want of one is 403, says which, and is counted."""
    access = Access([named("one", *may)], open_metrics=False)
    client = await aiohttp_client(private_app(access, probes(), Page()), headers=bearer("the-token-of-one"))
    before = refused("scope")
    found = [(await client.get("/page")).status, (await client.post("/button")).status]
    found.append((await client.get("/metrics")).status)
    assert found == [page, button, metrics]
    assert refused("scope") - before == found.count(403)
    if button == 403:
        answer = await client.post("/button")
        assert (await answer.json(content_type=None))["scope"] == ("operate" if "read" in may else "read")


async def test_the_holder_is_known_by_name(aiohttp_client: AiohttpClient) -> None:
    """Each of several tokens has a name of its own, and one that has gone opens nothing."""
    access = Access([named("one", "read"), named("other", "read")], wrong_s=0)
    client = await aiohttp_client(private_app(access, probes(), Page()))
    for name in ("one", "other"):
        async with client.get("/page", headers=bearer(f"the-token-of-{name}")) as answer:
            assert await answer.json() == {"holder": name}
    access.change([named("one", "read")])
    found = [await status(client, f"the-token-of-{name}") for name in ("one", "other")]
    assert found == [200, 401]


async def test_without_a_token_only_the_probes_answer(aiohttp_client: AiohttpClient) -> None:
    """A path that there is, and one that there is not, look alike to a stranger; metrics are for all until a token is
    for them.
    """
    access = asking()
    client = await aiohttp_client(private_app(access, probes(), Page()))
    before = refused("missing")
    asked = ("/livez", "/readyz", "/readyz/receiver", "/metrics", "/page", "/nothing", "/", "/livezz/../page")
    found = [(await client.get(path)).status for path in asked]
    assert found == [200, 200, 404, 200, 401, 401, 401, 401]
    assert refused("missing") - before == 4
    access.change([named("one", "metrics")], open_metrics=False)
    assert (await client.get("/metrics")).status == 401


async def test_wrong_tokens_wait_one_behind_the_other_and_a_right_one_does_not(aiohttp_client: AiohttpClient) -> None:
    """While so many wrong tokens wait as may, a right one is answered, and another wrong one is told to come later."""
    access = Access([NamedToken("tests", TOKEN.encode(), SCOPES)], wrong_s=3600, wrong_limit=3)
    client = await aiohttp_client(private_app(access, probes(), Page()))
    before = refused("wrong")
    with structlog.testing.capture_logs() as lines:
        waiting = [asyncio.create_task(status(client, "wrong")) for _ in range(3)]
        async with asyncio.timeout(30):
            while refused("wrong") - before < 3:
                await client.get("/livez")
            assert await status(client, TOKEN) == 200
            async with client.get("/page", headers=bearer("wrong")) as answer:
                assert (answer.status, answer.headers["Retry-After"]) == (429, "5")
    assert not any(task.done() for task in waiting)
    for task in waiting:
        task.cancel()
    assert [line["event"] for line in lines] == ["token.refused"]
    assert "wrong" not in repr(lines)


async def status(client: Client, token: str) -> int:
    """Return the status of the page for a token."""
    return (await client.get("/page", headers=bearer(token))).status


async def test_those_who_leave_make_room(aiohttp_client: AiohttpClient) -> None:
    """A wrong token whose sender went away waits no more: its place is free."""
    access = Access([NamedToken("tests", TOKEN.encode(), SCOPES)], wrong_s=0, wrong_limit=1)
    client = await aiohttp_client(private_app(access, probes(), Page()))
    assert [await status(client, "wrong") for _ in range(3)] == [401, 401, 401]


@pytest.mark.parametrize(
    ("host", "local"),
    [
        *(("localhost", True), ("localhost:8081", True), ("127.0.0.1:8081", True), ("127.9.9.9", True)),
        *(("[::1]:8081", True), ("LOCALHOST", True), ("evil.example", False), ("localhost.evil.example", False)),
        *(("10.0.0.1", False), ("", False), ("[", False), ("127.0.0.1.evil.example", False), ("2130706433", False)),
    ],
)
async def test_without_a_token_strange_names_open_nothing(host: str, local: bool) -> None:
    """A browser that a stranger's page leads here comes under the stranger's name, and only this machine's count."""
    assert is_local(host) == local


async def test_without_a_token_everybody_on_this_machine_may_do_all(aiohttp_client: AiohttpClient) -> None:
    """Where no token is configured every scope is everybody's, under the names of this machine; others are counted."""
    client = await aiohttp_client(private_app(asking(None), probes(), Page()))
    assert (await client.get("/page")).status == 200
    assert (await client.post("/button")).status == 200
    before = refused("host")
    async with client.get("/page", headers={"Host": "evil.example"}) as answer:
        assert answer.status == 403
        assert "localhost" in await answer.text()
    assert refused("host") - before == 1


async def test_a_session_stands_for_its_holder(aiohttp_client: AiohttpClient) -> None:
    """Where no header shows a token, what the console knows of its cookie counts; a header goes before it."""
    access = asking()
    access.sessions = lambda request: Holder("tests", frozenset({"read"})) if "here" in request.cookies else None
    client = await aiohttp_client(private_app(access, probes(), Page()), cookies={"here": "1"})
    assert [(await client.get("/page")).status, (await client.post("/button")).status] == [200, 403]
    assert (await client.post("/button", headers=bearer())).status == 200
    assert (await client.get("/page", headers=bearer("wrong"))).status == 401


@pytest.mark.parametrize("secret", ["", "  "])
def test_an_empty_token_is_refused(secret: str) -> None:
    """A token that everybody can guess is a mistake of the configuration."""
    with pytest.raises(ConfigError, match=r"private\.token"):
        Access([NamedToken("one", secret.encode(), SCOPES)])


@pytest.mark.parametrize("text", ["", " ", "reads", "read,personal", "read write", "READ"])
def test_scopes_are_a_closed_set(text: str) -> None:
    """A scope that there is not opens nothing, so it is refused, and the message says which there are."""
    with pytest.raises(ValueError, match="metrics, read, personal, operate"):
        scopes(text)
