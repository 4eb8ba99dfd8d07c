"""The read API, over real HTTP, on real SQLite and real PostgreSQL."""

import asyncio
import base64
import itertools
import json
import random
import re
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
import structlog
from aiohttp import web
from aiohttp.test_utils import TestClient
from pytest_aiohttp.plugin import AiohttpClient
from sqlalchemy import Table, insert

from web.listener import TOKEN, asking, bearer, listener, probes
from whatsms_events.domain.events import to_micros
from whatsms_events.storage import tables
from whatsms_events.storage.database import Database, DatabaseTarget, open_log, open_projection
from whatsms_events.storage.reads import Queries
from whatsms_events.storage.repair.reports import Reports
from whatsms_events.web.api import Api
from whatsms_events.web.app import Routes, private_app

Client = TestClient[web.Request, web.Application]

NOW = 1_760_000_000_000_000
TENANTS = {"shop": "tenant-1", "bank": "tenant-2", "events": "tenant-3"}


@pytest.fixture
async def databases(database_url: str) -> AsyncIterator[tuple[Database, Database]]:
    """Give an empty log and an empty projection."""
    log = await open_log(DatabaseTarget(database_url), migrate=True)
    target = DatabaseTarget(database_url.replace("log.db", "projection.db"))
    projection = await open_projection(target, migrate=True)
    yield log, projection
    await projection.close()
    await log.close()


def private(
    databases: tuple[Database, Database], token: str | None, queries: Queries | None = None, *more: Routes
) -> web.Application:
    """Make the private listener's application."""
    return listener(Api(queries or Queries(*databases), TENANTS, Reports(databases[0])), *more, token=token)


@pytest.fixture
async def client(databases: tuple[Database, Database], aiohttp_client: AiohttpClient) -> Client:
    """Give a client that knows the token."""
    return await aiohttp_client(private(databases, TOKEN), headers={"Authorization": f"Bearer {TOKEN}"})


@pytest.fixture
def put(databases: tuple[Database, Database]) -> Any:
    """Give a function that inserts rows; what is not given is null, known and free of doubt."""

    async def inserted(table: Table, *rows: Mapping[str, Any]) -> None:
        blank: dict[str, Any] = dict.fromkeys((column.name for column in table.c if column.nullable), None)
        blank |= {"versions": "{}", "known": True, "doubtful": False} if "versions" in table.c else {}
        blank = {name: value for name, value in blank.items() if name in table.c}
        database = databases[table.metadata is tables.projection_metadata]
        async with database.write() as connection:
            await connection.execute(insert(table), [blank | dict(row) for row in rows])

    return inserted


def event(position: int, **given: Any) -> dict[str, Any]:
    """Make one row of the log."""
    return {
        "position": position,
        "id": UUID(int=position),
        "type": "message.received",
        "tenant": "tenant-1",
        "received_at": NOW,
        "origin": "webhook",
        "sha256": b"\x00\xff",
        "data": '{"message":{"body":"olá"}}',
        "raw": b"\xff\x00{}",
    } | given


async def fetch(client: Client, path: str, /, **query: str) -> Any:
    """GET what must be there."""
    async with client.get(path, params=query) as answer:
        assert answer.status == 200, await answer.text()
        assert answer.content_type == "application/json"
        assert answer.headers["Cache-Control"] == "no-store"
        return await answer.json()


async def refused(client: Client, path: str, status: int, /, **query: str) -> Any:
    """GET what must be refused, as problem+json."""
    async with client.get(path, params=query) as answer:
        assert answer.status == status, await answer.text()
        assert answer.content_type == "application/problem+json"
        body = await answer.json()
        assert body["status"] == status
        return body


async def walk(client: Client, path: str, plural: str, **query: str) -> list[Any]:
    """Follow `next` to the end."""
    rows: list[Any] = []
    while True:
        page = await fetch(client, path, **query)
        rows += page[plural]
        if page["next"] is None:
            return rows
        query["after"] = page["next"]


async def test_every_question_takes_one_of_the_readers_places(
    databases: tuple[Database, Database], aiohttp_client: AiohttpClient
) -> None:
    """Where no place is free, every route answers 503 once the time for a question is over."""
    queries = Queries(*databases, places=0, timeout_s=0.05)
    client = await aiohttp_client(private(databases, None, queries))
    routes = Api(queries, TENANTS, Reports(databases[0])).routes()
    paths = [re.sub(r"{position.*}", "1", route).format(slug="shop", id="1") for route in map(path_of, routes)]
    async with asyncio.timeout(60):
        given = {path: {"find": "x"} if path.endswith("/conversations") else {} for path in paths}
        found = {path: (await client.get(path, params=asked)).status for path, asked in given.items()}
    assert found == dict.fromkeys(paths, 503)


async def test_a_conversation_is_found_and_not_by_a_name_that_is_hidden(
    databases: tuple[Database, Database], put: Any, client: Client, aiohttp_client: AiohttpClient
) -> None:
    """With the contact and its tickets; without the scope personal by ids alone, and the name is hidden. What is looked
    for must be given.
    """
    await put(
        tables.contact,
        {"tenant": "tenant-1", "id": "p1", "name": "João", "folded_name": "joao", "number": "55", "is_group": False},
    )
    await put(tables.ticket, {"tenant": "tenant-1", "id": "k1", "contact_id": "p1", "status": "open"})
    page = await fetch(client, "/api/v1/shop/conversations", find=" JOÃO ")
    (one,) = page["conversations"]
    assert (one["matched"], one["contact_id"], one["name"], one["number"]) == ("name", "p1", "João", "55")
    assert [ticket["id"] for ticket in one["tickets"]] == ["k1"]
    assert (page["complete"], page["next"]) == (True, None)
    assert (await fetch(client, "/api/v1/bank/conversations", find="joao"))["conversations"] == []
    for query in ({}, {"find": ""}, {"find": "  "}, {"find": "x", "limit": "51"}):
        await refused(client, "/api/v1/shop/conversations", 400, **query)
    api = Api(Queries(*databases), TENANTS, Reports(databases[0]))
    app = private_app(asking(scopes=frozenset({"read"})), probes(), api)
    reader = await aiohttp_client(app, headers=bearer())
    assert (await fetch(reader, "/api/v1/shop/conversations", find="joao"))["conversations"] == []
    (hidden,) = (await fetch(reader, "/api/v1/shop/conversations", find="k1"))["conversations"]
    assert (hidden["contact_id"], hidden["name"], hidden["number"]) == ("p1", "hidden", "hidden")


async def test_what_became_of_messages_is_counted_to_the_hour(
    databases: tuple[Database, Database], put: Any, aiohttp_client: AiohttpClient
) -> None:
    """Of the hours that are asked for, in as many parts, 24 at most; and those that are stuck by ticket."""
    at = datetime(2026, 5, 1, 12, tzinfo=UTC)
    ours = {"tenant": "tenant-1", "from_me": True, "ticket_id": "k1"}
    hour, now = 3_600_000_000, to_micros(at)
    await put(
        tables.message,
        *(ours | {"id": f"m{age}", "created_at": now - age * hour - 1, "ack": 2} for age in (0, 1, 30, 60, 300)),
    )
    api = Api(Queries(*databases), TENANTS, Reports(databases[0]), now=lambda: at)
    client = await aiohttp_client(private_app(asking(), probes(), api), headers=bearer())
    for hours, parts, count in (("1", 1, 1), ("2", 2, 2), ("24", 24, 2), ("744", 24, 5)):
        found = await fetch(client, "/api/v1/shop/acks", hours=hours)
        assert (len(found["parts"]), found["counts"]["sent"]) == (parts, count)
        assert found["until"] == "2026-05-01T12:00:00Z"
    assert (await fetch(client, "/api/v1/shop/acks"))["counts"]["ours"] == 2
    for hours in ("0", "745", "x"):
        await refused(client, "/api/v1/shop/acks", 400, hours=hours)
    stuck = await fetch(client, "/api/v1/shop/acks/stuck")
    assert [(one["ticket_id"], one["count"]) for one in stuck["tickets"]] == [("k1", 2)]
    assert (stuck["messages"], stuck["complete"]) == (2, True)


def path_of(route: web.AbstractRouteDef) -> str:
    """Return the path that a route is mounted at."""
    assert isinstance(route, web.RouteDef)
    return route.path


WRONG: list[list[str]] = [
    [],
    [""],
    ["Bearer"],
    ["Bearer "],
    ["Bearer wrong"],
    [f"Basic {TOKEN}"],
    [TOKEN],
    [f"Bearer {TOKEN}x"],
    [f"Bearer {TOKEN[:-1]}"],
    [f"Bearer {TOKEN}", f"Bearer {TOKEN}"],
    ["Bearer \udcff\udcfe"],
]


async def test_without_the_token_everything_is_401(
    databases: tuple[Database, Database], aiohttp_client: AiohttpClient
) -> None:
    """A missing, malformed, doubled or wrong token gets 401 with a challenge, also for a tenant that does not exist."""
    server = await aiohttp_client(private(databases, TOKEN))
    paths = ("/api/v1/shop/tickets", "/api/v1/nobody/tickets", "/api/v1/events/1", "/api/v1/parked/events")
    for path, given in itertools.product(paths, WRONG):
        lines = [f"GET {path} HTTP/1.1", "Host: x", "Connection: close", *(f"Authorization: {one}" for one in given)]
        answer = await _exchange(server, "\r\n".join(lines).encode("utf-8", "surrogateescape"))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 401"), (given, head)
        assert b'WWW-Authenticate: Bearer realm="whatsms-events"' in head
        assert b"application/problem+json" in head
        assert json.loads(body)["status"] == 401


async def _exchange(client: Client, head: bytes) -> bytes:
    """Send the very bytes of a request, which no HTTP client would."""
    assert client.port is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(head + b"\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_without_a_configured_token_nobody_is_asked(
    databases: tuple[Database, Database], aiohttp_client: AiohttpClient
) -> None:
    """With no token configured (loopback only) the API answers everyone."""
    server = await aiohttp_client(private(databases, None))
    assert await fetch(server, "/api/v1/shop/tickets") == {"tickets": [], "next": None}


RESOURCES = {"tickets": tables.ticket, "contacts": tables.contact, "campaigns": tables.campaign}


@pytest.mark.parametrize("resource", RESOURCES)
async def test_walking_pages_gives_each_row_once(client: Client, put: Any, resource: str) -> None:
    """Following `next` with any limit gives each of the tenant's rows once, in one order, and no other tenant's."""
    chance = random.Random(resource)
    rows = [
        {"tenant": chance.choice(["tenant-1", "tenant-2"]), "id": f"{chance.choice(['a', 'é', '😀', '%2F/?', ' '])}{n}"}
        for n in range(40)
    ]
    await put(RESOURCES[resource], *rows)
    walks = [
        [row["id"] for row in await walk(client, f"/api/v1/shop/{resource}", resource, limit=str(limit))]
        for limit in (1, 3, 40, 500)
    ]
    assert sorted(walks[0]) == sorted(row["id"] for row in rows if row["tenant"] == "tenant-1")
    assert all(walked == walks[0] for walked in walks)
    assert len(await walk(client, f"/api/v1/shop/{resource}", resource)) == len(walks[0])
    assert await walk(client, f"/api/v1/events/{resource}", resource) == []


async def test_walking_a_tickets_messages_gives_each_once(client: Client, put: Any) -> None:
    """Following `next` with any limit gives each message of the ticket once, by time, unknown times last."""
    chance = random.Random(1)
    await put(tables.ticket, *({"tenant": tenant, "id": "a/b c"} for tenant in ("tenant-1", "tenant-2")))
    rows: list[dict[str, Any]] = [
        {
            "tenant": chance.choice(["tenant-1", "tenant-2"]),
            "id": f"m{n}",
            "ticket_id": chance.choice(["a/b c", "other"]),
            "created_at": chance.choice([None, NOW, NOW + 1, NOW + 2]),
        }
        for n in range(60)
    ]
    await put(tables.message, *rows)
    mine = [row for row in rows if (row["tenant"], row["ticket_id"]) == ("tenant-1", "a/b c")]
    mine.sort(key=lambda row: (row["created_at"] is None, row["created_at"], row["id"]))
    for limit in (1, 2, 7, 500):
        found = await walk(client, "/api/v1/shop/tickets/a%2Fb%20c/messages", "messages", limit=str(limit))
        assert [row["id"] for row in found] == [row["id"] for row in mine]
    assert "revisions" not in found[0]


async def test_walking_all_messages_gives_each_once(client: Client, put: Any) -> None:
    """A tenant's messages are listed by id, also those without a ticket; only theirs, without revisions."""
    chance = random.Random(2)
    rows = [
        {"tenant": chance.choice(["tenant-1", "tenant-2"]), "id": f"{n:02}", "ticket_id": chance.choice([None, "k"])}
        for n in range(60)
    ]
    await put(tables.message, *rows)
    mine = [row["id"] for row in rows if row["tenant"] == "tenant-1"]
    for limit in (1, 7, 500):
        found = await walk(client, "/api/v1/shop/messages", "messages", limit=str(limit))
        assert [row["id"] for row in found] == mine
    assert "revisions" not in found[0]
    assert "ack" in found[0]
    await refused(client, "/api/v1/nobody/messages", 404)
    assert (await refused(client, "/api/v1/shop/messages", 400, status="open"))["parameter"] == "status"


async def test_one_word_means_one_thing(client: Client, put: Any) -> None:
    """`tenant` is the slug and `tenant_id` the vendor's id, in each answer that names one, as in the filter; a tenant
    that the configuration has no more is null, and its id still tells which it was.
    """
    await put(tables.event_log, event(1), event(2, tenant="tenant-2"), event(3, tenant="of-the-past"))
    parked = {"reason": "json", "detail": "", "raw": b""}
    door = {"received_at": NOW, "sha256": b"", "count": 1}
    tenants = ("tenant-1", "tenant-2", "of-the-past")
    await put(
        tables.parked_delivery,
        *({"id": UUID(int=n), "tenant": tenant, **parked, **door} for n, tenant in enumerate(tenants)),
    )
    fold = {"source": "log", "parked_at": NOW, "headers": "[]"}
    await put(
        tables.parked_event, *({"at": n, "tenant": one, **parked, **fold} for n, one in enumerate((*tenants, None)))
    )

    def named(rows: list[dict[str, Any]]) -> list[tuple[str | None, str | None]]:
        return [(row["tenant"], row["tenant_id"]) for row in rows]

    wanted = [("shop", "tenant-1"), ("bank", "tenant-2"), (None, "of-the-past")]
    events = (await fetch(client, "/api/v1/events"))["events"]
    assert named(events) == wanted
    assert named([await fetch(client, f"/api/v1/events/{row['position']}") for row in events]) == wanted
    assert named(await walk(client, "/api/v1/parked/deliveries", "deliveries")) == wanted
    assert named(await walk(client, "/api/v1/parked/events", "events")) == [*wanted, (None, None)]
    for slug, tenant_id in wanted[:2]:
        assert slug is not None
        assert named((await fetch(client, "/api/v1/events", tenant=slug))["events"]) == [(slug, tenant_id)]


async def test_tickets_are_filtered_by_status_and_contact(client: Client, put: Any) -> None:
    """`status` and `contact` narrow the list, together and alone; a status that nobody has gives an empty list."""
    await put(
        tables.ticket,
        {"tenant": "tenant-1", "id": "1", "status": "open", "contact_id": "c"},
        {"tenant": "tenant-1", "id": "2", "status": "closed", "contact_id": "c"},
        {"tenant": "tenant-1", "id": "3", "status": "open"},
        {"tenant": "tenant-2", "id": "4", "status": "open", "contact_id": "c"},
    )

    async def ids(**query: str) -> list[str]:
        return [row["id"] for row in (await fetch(client, "/api/v1/shop/tickets", **query))["tickets"]]

    assert await ids() == ["1", "2", "3"]
    assert await ids(status="open") == ["1", "3"]
    assert await ids(contact="c") == ["1", "2"]
    assert await ids(status="open", contact="c") == ["1"]
    assert await ids(status="nps' OR 1=1 --") == []


async def test_another_tenants_things_are_not_there(client: Client, put: Any) -> None:
    """What one tenant has is 404 under every other slug, though the ids be the same."""
    for table in (*RESOURCES.values(), tables.message):
        await put(table, {"tenant": "tenant-1", "id": "x"})
    revision = {"message_id": "x", "digest": "d", "content": '{"body":"theirs"}', "first_at": NOW}
    await put(tables.message_revision, {"tenant": "tenant-2", "versions": "{}"} | revision)
    for kind in (*RESOURCES, "messages"):
        assert (await fetch(client, f"/api/v1/shop/{kind}/x"))["id"] == "x"
        for slug in ("bank", "events", "nobody", "tenant-1"):
            await refused(client, f"/api/v1/{slug}/{kind}/x", 404)
    assert (await fetch(client, "/api/v1/shop/messages/x"))["revisions"] == []
    await refused(client, "/api/v1/bank/tickets/x/messages", 404)


async def test_what_the_vendor_no_longer_has_is_shown_and_marked(client: Client, put: Any) -> None:
    """A thing that is gone is listed and found by id like any other, `gone` true; false where it came back."""
    for kind, table in {**RESOURCES, "messages": tables.message}.items():
        await put(table, *({"tenant": "tenant-1", "id": str(gone), "gone": gone} for gone in (True, False, None)))
        for gone in (True, False, None):
            assert (await fetch(client, f"/api/v1/shop/{kind}/{gone}"))["gone"] is gone
    for kind in RESOURCES:
        assert {row["id"]: row["gone"] for row in await walk(client, f"/api/v1/shop/{kind}", kind)} == {
            "True": True,
            "False": False,
            "None": None,
        }


async def test_one_message_shows_acks_and_revisions(client: Client, put: Any) -> None:
    """A message shows its highest ack by number and name, the time of each level, its revisions and its doubt."""
    await put(
        tables.message,
        {
            "tenant": "tenant-1",
            "id": "m",
            "ticket_id": "k",
            "from_me": True,
            "body": "olá 😀",
            "ack": 4,
            "sent_at": NOW,
            "read_at": NOW + 1_500_000,
            "failed_at": NOW,
            "doubtful": True,
            "versions": f'{{"body":[{NOW},1,3,true],"from_me":[{NOW},1,3,false]}}',
        },
    )
    await put(
        tables.message_revision,
        {
            "tenant": "tenant-1",
            "message_id": "m",
            "digest": "d",
            "content": '{"body":"ola"}',
            "first_at": NOW,
            "versions": "{}",
        },
    )
    assert await fetch(client, "/api/v1/shop/messages/m") == {
        **dict.fromkeys(("contact_id", "media_type", "media_url", "deleted", "quoted_message_id")),
        "id": "m",
        "ticket_id": "k",
        "from_me": True,
        "body": "olá 😀",
        "created_at": None,
        "updated_at": None,
        "ack": {
            "level": 4,
            "name": "read",
            "pending_at": None,
            "sent_at": "2025-10-09T08:53:20Z",
            "delivered_at": None,
            "read_at": "2025-10-09T08:53:21.500000Z",
            "played_at": None,
            "failed_at": None,
            "by_then": [],
        },
        "gone": None,
        "known": True,
        "doubtful": ["body"],
        "revisions": [{"number": 1, "first_at": "2025-10-09T08:53:20Z", "body": "ola", "media_url": None}],
        "revisions_complete": True,
    }


async def test_contact_shows_its_extra_info_as_json(client: Client, put: Any) -> None:
    """A contact's extra information is JSON in the answer, not text that holds JSON."""
    await put(tables.contact, {"tenant": "tenant-1", "id": "c", "extra_info": '[{"name":"é","value":null}]'})
    assert (await fetch(client, "/api/v1/shop/contacts/c"))["extra_info"] == [{"name": "é", "value": None}]


async def test_events_after_a_position(client: Client, put: Any) -> None:
    """The event feed goes on from `next`, narrows by tenant's slug and type, and tells the log's end."""
    await put(
        tables.event_log,
        event(1),
        event(2, tenant="tenant-2"),
        event(4, type="message.ack"),
        event(9, data=None),
    )
    page = await fetch(client, "/api/v1/events", limit="2")
    assert [one["position"] for one in page["events"]] == [1, 2]
    assert (page["next"], page["end"]) == (2, 9)
    assert page["events"][0]["data"] == {"message": {"body": "olá"}}
    assert page["events"][0]["received_at"] == "2025-10-09T08:53:20Z"
    assert "raw" not in page["events"][0]
    page = await fetch(client, "/api/v1/events", after="2")
    assert [(one["position"], one["data"] is None) for one in page["events"]] == [(4, False), (9, True)]
    assert (page["next"], page["end"]) == (9, 9)
    page = await fetch(client, "/api/v1/events", tenant="shop", type="message.received")
    assert ([one["position"] for one in page["events"]], page["next"]) == ([1, 9], 9)
    page = await fetch(client, "/api/v1/events", tenant="bank")
    assert ([one["position"] for one in page["events"]], page["next"]) == ([2], 9)
    await refused(client, "/api/v1/events", 404, tenant="tenant-1")
    assert (await refused(client, "/api/v1/events", 400, after="10"))["parameter"] == "after"


async def test_one_event_shows_its_bytes_on_demand(client: Client, put: Any) -> None:
    """The bytes of a delivery are shown for one event, as base64, and only with raw=1."""
    await put(tables.event_log, event(7))
    assert "raw" not in await fetch(client, "/api/v1/events/7")
    assert "raw" not in await fetch(client, "/api/v1/events/7", raw="0")
    whole = await fetch(client, "/api/v1/events/7", raw="1")
    assert base64.b64decode(whole["raw"]) == b"\xff\x00{}"
    assert whole["sha256"] == "00ff"
    for position in ("8", "0", str(2**63), "9" * 400):
        await refused(client, f"/api/v1/events/{position}", 404)


async def test_each_answer_that_shows_people_leaves_one_line(
    databases: tuple[Database, Database], put: Any, client: Client, aiohttp_client: AiohttpClient
) -> None:
    """It names the token, what kind of things was shown, and their ids, of a long page the first and the last; where
    nothing was found, or it was hidden, there is none.
    """
    people = [{"tenant": "tenant-1", "id": f"p{n:02}", "name": "João", "folded_name": "joao"} for n in range(60)]
    await put(tables.contact, *people)
    await put(tables.ticket, {"tenant": "tenant-1", "id": "k1", "contact_id": "p01", "status": "open"})
    await put(tables.message, {"tenant": "tenant-1", "id": "m1", "ticket_id": "k1", "created_at": NOW})
    await put(tables.event_log, event(6), event(7))
    asked = {
        "/api/v1/shop/contacts?limit=2": ("contact", ("p00", "p01"), 2),
        "/api/v1/shop/contacts?limit=60": ("contact", ("p00", "p59"), 60),
        "/api/v1/shop/contacts/p07": ("contact", "p07", 1),
        "/api/v1/shop/tickets/k1/messages": ("message", "m1", 1),
        "/api/v1/shop/messages/m1": ("message", "m1", 1),
        "/api/v1/shop/conversations?find=p01": ("search", "p01", 1),
        "/api/v1/events": ("event", (UUID(int=6), UUID(int=7)), 2),
        "/api/v1/events/7?raw=1": ("event", UUID(int=7), 1),
        "/api/v1/events?after=7": None,
        "/api/v1/bank/contacts": None,
    }
    with structlog.testing.capture_logs() as lines:
        for path in asked:
            await fetch(client, path)
        await refused(client, "/api/v1/shop/contacts/nobody", 404)
    shown = [(one["kind"], one["subject"], one["count"]) for one in lines if one["event"] == "personal.shown"]
    assert shown == [one for one in asked.values() if one is not None]
    assert {one["holder"] for one in lines if one["event"] == "personal.shown"} == {"tests"}
    api = Api(Queries(*databases), TENANTS, Reports(databases[0]))
    reader = await aiohttp_client(private_app(asking(scopes=frozenset({"read"})), probes(), api), headers=bearer())
    with structlog.testing.capture_logs() as lines:
        for path in asked:
            if "raw" not in path:
                await fetch(reader, path)
    assert not [one for one in lines if one["event"] == "personal.shown"]


async def test_no_hash_gives_a_hidden_number_away(
    databases: tuple[Database, Database], put: Any, aiohttp_client: AiohttpClient
) -> None:
    """Without the scope personal neither the hash of a body nor its size is shown of an event, and no hash of what is
    parked.
    """
    await put(tables.event_log, event(7))
    parked = {"id": UUID(int=1), "tenant": "tenant-1", "reason": "json", "detail": "", "received_at": NOW, "count": 1}
    await put(tables.parked_delivery, parked | {"sha256": b"\x00\xff", "raw": b"{"})
    api = Api(Queries(*databases), TENANTS, Reports(databases[0]))
    app = private_app(asking(scopes=frozenset({"read"})), probes(), api)
    reader = await aiohttp_client(app, headers=bearer())
    (listed,) = (await fetch(reader, "/api/v1/events"))["events"]
    (at_the_door,) = (await fetch(reader, "/api/v1/parked/deliveries"))["deliveries"]
    for row in (listed, await fetch(reader, "/api/v1/events/7")):
        assert (row["sha256"], row["size"]) == ("hidden", None), row
    assert (at_the_door["sha256"], at_the_door["size"]) == ("hidden", 1)


async def test_parked_lists_page(client: Client, put: Any) -> None:
    """What was parked at the door and at the fold is listed in pages, with its reason and without its bytes."""
    await put(
        tables.parked_delivery,
        *(
            {
                "id": UUID(int=n),
                "tenant": "tenant-1",
                "reason": "json",
                "detail": "",
                "received_at": NOW + n % 2,
                "sha256": b"\x01",
                "raw": b"secret",
                "count": 2,
            }
            for n in range(5)
        ),
    )
    await put(
        tables.parked_event,
        *(
            {
                "source": "log",
                "at": n,
                "reason": "data",
                "detail": "",
                "parked_at": NOW,
                "raw": b"secret",
                "headers": "[]",
            }
            for n in range(5)
        ),
    )
    found = await walk(client, "/api/v1/parked/deliveries", "deliveries", limit="2")
    assert [UUID(row["id"]).int for row in found] == [0, 2, 4, 1, 3]
    assert (found[0]["reason"], found[0]["size"], "raw" in found[0]) == ("json", 6, False)
    found = await walk(client, "/api/v1/parked/events", "events", limit="2")
    assert [row["at"] for row in found] == [0, 1, 2, 3, 4]
    assert (found[0]["reason"], found[0]["size"], "raw" in found[0]) == ("data", 6, False)


def cursor(value: object) -> str:
    """Make what looks like the `next` of a list."""
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


BAD = [
    ("/api/v1/shop/tickets", "limit", ["0", "501", "-1", "", "x", "1.0", "1_0", "٣", " 1", "9" * 5000]),
    ("/api/v1/shop/tickets", "status", ["\x00", "open\x00"]),
    ("/api/v1/shop/tickets", "contact", ["\x00"]),
    ("/api/v1/shop/tickets", "state", ["open"]),
    ("/api/v1/shop/contacts", "status", ["open"]),
    ("/api/v1/shop/contacts/c", "limit", ["1"]),
    (
        "/api/v1/shop/tickets",
        "after",
        ["", "x", "é", "!", "=", cursor([]), cursor([1]), cursor(["\x00"]), cursor(["\ud800"]), cursor([NOW, "m"])],
    ),
    ("/api/v1/shop/tickets/k/messages", "after", [cursor(["m"]), cursor(["x", "m"]), cursor([2**63, "m"])]),
    ("/api/v1/parked/deliveries", "after", [cursor([NOW, "no uuid"]), cursor([None, str(UUID(int=1))])]),
    ("/api/v1/parked/events", "after", [cursor(["log", 1.5]), cursor(["log", None]), cursor(["\x00", 1])]),
    ("/api/v1/events", "after", ["-1", "x", str(2**63), "9" * 5000]),
    ("/api/v1/events", "type", ["message.deleted", "", "\x00"]),
    ("/api/v1/events/1", "raw", ["2", "yes", ""]),
]


async def test_bad_parameters_are_400_by_name(client: Client, put: Any) -> None:
    """What cannot be read, is unknown, doubled, or no text of a database is 400 and names the parameter."""
    await put(tables.ticket, {"tenant": "tenant-1", "id": "k"})
    for path, name, values in BAD:
        for value in values:
            assert (await refused(client, path, 400, **{name: value}))["parameter"] == name, (path, value)
    async with client.get("/api/v1/shop/tickets?status=open&status=closed") as answer:
        assert answer.status == 400


ODD = [
    b"%00",
    b"a%00b",
    b"%ED%A0%80",
    b"\xed\xa0\x80",
    b"%FF",
    b"\xff",
    b"%",
    b"%zz",
    b"%0A",
    b"%F0%9F%98%80",
    b"'%22;--",
]
PLACES = [
    b"/api/v1/shop/tickets/ODD",
    b"/api/v1/shop/tickets/ODD/messages",
    b"/api/v1/shop/messages/ODD",
    b"/api/v1/ODD/contacts",
    b"/api/v1/shop/tickets?status=ODD",
    b"/api/v1/shop/tickets?after=ODD",
    b"/api/v1/shop/tickets?ODD=1",
    b"/api/v1/events?tenant=ODD",
    b"/api/v1/events?type=ODD",
]


async def test_no_text_is_too_odd_for_an_answer(client: Client) -> None:
    """NUL, halves of surrogate pairs and broken encodings in paths and filters are refused, never a 500."""
    token = f"Authorization: Bearer {TOKEN}".encode()
    for place, odd in itertools.product(PLACES, ODD):
        path = place.replace(b"ODD", odd)
        answer = await _exchange(client, b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + token)
        status = int(answer.split(b" ", 2)[1])
        assert status in ({200, 400} if b"status=" in path else {400, 404}), (path, answer)


async def test_events_in_a_path_may_be_a_tenant(client: Client, put: Any) -> None:
    """A tenant whose slug is also a word of ours can be asked for."""
    await put(tables.ticket, {"tenant": "tenant-3", "id": "k"})
    assert [row["id"] for row in (await fetch(client, "/api/v1/events/tickets"))["tickets"]] == ["k"]
    assert (await fetch(client, "/api/v1/events/tickets/k"))["id"] == "k"


async def test_a_database_in_trouble_is_503(client: Client, databases: tuple[Database, Database]) -> None:
    """Where the database fails the answer is 503 with Retry-After: come again; and nothing about the query."""
    async with databases[1].write() as connection:
        await connection.exec_driver_sql("DROP TABLE ticket")
    async with client.get("/api/v1/shop/tickets", params={"status": "canary"}) as answer:
        assert (answer.status, answer.content_type) == (503, "application/problem+json")
        assert int(answer.headers["Retry-After"]) > 0
        assert "canary" not in await answer.text()


async def test_nothing_but_the_probes_answers_without_a_token(
    databases: tuple[Database, Database], aiohttp_client: AiohttpClient
) -> None:
    """The probes answer without a token; whatever else there is, or is not, does not."""
    server = await aiohttp_client(private(databases, TOKEN))
    for path in ("/livez", "/readyz", "/metrics"):
        assert (await server.get(path)).status == 200
    await refused(server, "/api/v1/shop/tickets", 401)
    await refused(server, "/api/v1/nothing/of/the/kind", 401)
