"""The REST half as a whole: its door, its errors, its record, its clock."""

from datetime import datetime, timedelta

import aiohttp
import pytest

from twin.api import KEY, START, lived, serving
from whatsms_events.twin.rest.server import UNKNOWN, Rest, RestServer

EVERY = [
    ("GET", "/tickets"),
    ("POST", "/tickets"),
    ("GET", "/tickets/1"),
    ("PUT", "/tickets/1"),
    ("PATCH", "/tickets/1"),
    ("GET", "/tickets/1/messages"),
    ("POST", "/tickets/1/messages"),
    ("GET", "/contacts"),
    ("POST", "/contacts"),
    ("GET", "/contacts/1"),
    ("PUT", "/contacts/1"),
    ("PATCH", "/contacts/1"),
    ("GET", "/campaigns"),
    ("POST", "/campaigns"),
    ("GET", "/ai-agents"),
    ("POST", "/ai-agents/assign"),
]


@pytest.mark.parametrize(
    "given", [None, "", "Bearer", "Bearer wrong", f"Basic {KEY}", f"Bearer {KEY}x", "Bearer \udcff"]
)
async def test_who_has_no_key_gets_a_401_from_every_endpoint(given: str | None) -> None:
    """Without the key nothing is told and nothing is done; the body is the vendor's, in Portuguese."""
    async with serving() as api, aiohttp.ClientSession() as session:
        headers = {} if given is None else {"Authorization": given}
        before = len(api.account.outbox)
        for method, path in EVERY:
            async with session.request(method, api.server.url + path, headers=headers, json={}) as response:
                assert response.status == 401
                assert await response.json() == {"error": "API Key inválida ou em falta"}
        assert len(api.account.outbox) == before


async def test_what_there_is_no_endpoint_for_is_a_404_with_the_vendors_body() -> None:
    """Unknown paths and methods are answered as JSON, not as the library would."""
    async with serving() as api:
        for method, path in (("GET", "/nada"), ("DELETE", "/tickets/1"), ("PUT", "/campaigns"), ("GET", "/")):
            assert await api.ask(method, path) == (404, {"error": "Recurso não encontrado"})
        assert api.rest.counts == {(UNKNOWN, UNKNOWN): 4}


async def test_requests_are_recorded_in_the_order_they_came() -> None:
    """Each request is kept with its loop time, method, template and status, and counted; lists of messages by name."""
    async with serving() as api:
        ticket_id = next(iter(api.account.tickets))
        await api.get("/tickets", page=2)
        await api.get(f"/tickets/{ticket_id}")
        await api.get(f"/tickets/{ticket_id}/messages")
        await api.ask("GET", "/contacts/nobody")
        assert [(seen.method, seen.template, seen.status) for seen in api.rest.requests] == [
            ("GET", "/tickets", 200),
            ("GET", "/tickets/{id}", 200),
            ("GET", "/tickets/{id}/messages", 200),
            ("GET", "/contacts/{id}", 404),
        ]
        times = [seen.at for seen in api.rest.requests]
        assert times == sorted(times)
        assert api.rest.counts["GET", "/tickets/{id}"] == 1
        assert api.rest.message_list_reads == 1
        assert api.rest.statuses == {200: 3, 404: 1}


async def test_the_date_header_is_the_worlds_clock() -> None:
    """`Date` is whole seconds of the account's time in GMT, whatever the time is here."""
    async with serving() as api:
        for seconds in (0.0, 0.999, 86_400.5):
            api.account.now = START + timedelta(seconds=seconds)
            async with api.session.get(api.server.url + "/ai-agents") as response:
                told = datetime.strptime(response.headers["Date"], "%a, %d %b %Y %H:%M:%S %Z")  # noqa: DTZ007
                assert told == (START + timedelta(seconds=int(seconds))).replace(tzinfo=None)
                assert response.headers["Date"].endswith(" GMT")
                assert response.headers["Content-Type"] == "application/json; charset=utf-8"


async def test_reading_changes_nothing() -> None:
    """The same world sends the same webhooks whether somebody reads it or not."""

    def after(one: object) -> list[bytes]:
        assert isinstance(one, type(quiet))
        return [webhook.body for webhook in one.advance(one.now + timedelta(minutes=10))]

    quiet = lived()
    async with serving(lived()) as api:
        for path in ("/tickets", "/contacts", "/campaigns", "/ai-agents"):
            await api.get(path)
        ticket_id = next(iter(api.account.tickets))
        await api.get(f"/tickets/{ticket_id}")
        await api.get(f"/tickets/{ticket_id}/messages")
        assert after(api.world) == after(quiet) != []


async def test_the_world_can_go_on_with_each_request() -> None:
    """`on_request` is called before a request is answered, so that a test lets things move under a reader."""
    async with serving() as api:

        def go_on() -> None:
            api.world.advance(api.world.now + timedelta(seconds=30))

        api.rest.on_request = go_on
        before = api.world.now
        await api.get("/tickets")
        await api.get("/tickets")
        assert api.world.now == before + timedelta(seconds=60)


async def test_a_server_can_be_closed_and_opened_again() -> None:
    """The same account is served anew, on another port, after a stop."""
    rest = Rest(lived().account, api_key=KEY)
    origins = set()
    for _ in range(2):
        async with RestServer(rest) as server, aiohttp.ClientSession() as session:
            origins.add(server.origin)
            headers = {"Authorization": f"bearer {KEY}"}
            async with session.get(f"{server.origin}/api/v2/ai-agents", headers=headers) as response:
                assert response.status == 200
    assert len(origins) == 2


async def test_a_port_that_is_taken_is_an_os_error() -> None:
    """Two servers cannot have one port."""
    rest = Rest(lived().account)
    async with RestServer(rest) as server:
        port = int(server.origin.rpartition(":")[2])
        with pytest.raises(OSError, match="in use"):
            async with RestServer(rest, port=port):
                pass
