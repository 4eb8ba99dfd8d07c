"""The route of a trace: its token, its parameters, and what it says of names that nothing has."""

from pathlib import Path

from pytest_aiohttp.plugin import AiohttpClient
from sqlalchemy import insert, text

from web.listener import asking
from whatsms_events.domain.scopes import SCOPES
from whatsms_events.domain.trace import RecordPlace
from whatsms_events.storage.database import DatabaseTarget, open_log, open_projection
from whatsms_events.storage.reads import Queries
from whatsms_events.storage.tables import contact, ticket
from whatsms_events.storage.trace import REACH, EventFacts, Traces
from whatsms_events.web.access import NamedToken
from whatsms_events.web.app import private_app
from whatsms_events.web.trace import Tracing

FIRST, SECOND = "the-first-token-of-all", "the-second-token-of-all"


async def off(_found: EventFacts) -> RecordPlace:
    """Say that Kafka is off."""
    return RecordPlace("off")


async def test_a_trace_is_for_holders_of_the_token_and_of_one_tenant(
    tmp_path: Path, aiohttp_client: AiohttpClient
) -> None:
    """Without the token nothing is told; an unknown tenant, a name that nothing of this tenant has, and a misspelt kind
    are 404 and 400; a reload changes tenants and token at once.
    """
    log = await open_log(DatabaseTarget(f"sqlite:///{tmp_path / 'log.db'}"), migrate=True)
    projection = await open_projection(DatabaseTarget(f"sqlite:///{tmp_path / 'projection.db'}"), migrate=True)
    async with projection.write() as connection:
        row = {"tenant": "t1", "id": "7", "known": True, "doubtful": False, "versions": '{"status":[5,1,3]}'}
        await connection.execute(insert(ticket).values(**row, status="open"))
        await connection.execute(insert(contact).values(**{**row, "versions": "{}", "tenant": "t2"}))
    tracing = Tracing(Traces(log, projection), off, Queries(log, projection), {"acme": "t1"})
    access = asking(FIRST)
    client = await aiohttp_client(private_app(access, tracing))

    async def status(path: str, token: str = FIRST) -> int:
        async with client.get(f"/api/v1/{path}", headers={"Authorization": f"Bearer {token}"}) as answer:
            await answer.read()
            return answer.status

    assert [await status("acme/trace/7", token) for token in (FIRST, SECOND, "")] == [200, 401, 401]
    asked = ("other/trace/7", "acme/trace/8", "acme/trace/7?kind=contact", "acme/trace/%00")
    assert [await status(path) for path in asked] == [404, 404, 404, 404]
    assert [await status(f"acme/trace/7?{query}") for query in ("kind=tickets", "of=me", "kind=ticket")] == [
        400,
        400,
        200,
    ]
    tracing.change({"shop": "t2"})
    access.change([NamedToken("second", SECOND.encode(), SCOPES)])
    assert [await status(path, SECOND) for path in ("acme/trace/7", "shop/trace/7")] == [404, 200]
    assert await status("shop/trace/7") == 401
    async with client.get("/api/v1/shop/trace/7", headers={"Authorization": f"Bearer {SECOND}"}) as answer:
        assert answer.headers["Cache-Control"] == "no-store"
        shown = await answer.json()
    assert shown["matches"] == [{"kind": "contact", "tenant": "shop", "tenant_id": "t2", "id": "7"}]
    assert (shown["trace"]["kind"], shown["trace"]["events"], shown["trace"]["looked_behind"]) == ("contact", [], 0)
    await projection.close()
    await log.close()


async def test_a_thing_that_was_quiet_for_long_still_has_its_events(
    tmp_path: Path, aiohttp_client: AiohttpClient
) -> None:
    """Its last event is further back than a trace looks through: it is found by what it told, with those before."""
    log = await open_log(DatabaseTarget(f"sqlite:///{tmp_path / 'log.db'}"), migrate=True)
    projection = await open_projection(DatabaseTarget(f"sqlite:///{tmp_path / 'projection.db'}"), migrate=True)
    came = """
        WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < :many)
        INSERT INTO event_log (id, type, tenant, received_at, origin, subject, sha256)
        SELECT lower(hex(randomblob(16))), :type, 't1', n, 'webhook', :subject, x'00' FROM number"""
    async with log.write() as connection:
        await connection.execute(text(came), {"many": 3, "type": "ticket.updated", "subject": "7"})
        await connection.execute(text(came), {"many": REACH, "type": "campaign.finished", "subject": None})
    async with projection.write() as connection:
        row = {"tenant": "t1", "id": "7", "known": True, "doubtful": False, "versions": '{"status":[5,1,2]}'}
        await connection.execute(insert(ticket).values(**row, status="open"))
    tracing = Tracing(Traces(log, projection), off, Queries(log, projection), {"acme": "t1"})
    client = await aiohttp_client(private_app(asking(FIRST), tracing))
    async with client.get("/api/v1/acme/trace/7", headers={"Authorization": f"Bearer {FIRST}"}) as answer:
        shown = (await answer.json())["trace"]
    assert ([one["position"] for one in shown["events"]], shown["looked_behind"]) == ([2, 1], 0)
    await projection.close()
    await log.close()
