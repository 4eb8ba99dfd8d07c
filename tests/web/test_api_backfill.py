"""What backfills did and found, over real HTTP, on real SQLite and real PostgreSQL."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from pytest_aiohttp.plugin import AiohttpClient

from web.listener import TOKEN
from web.test_api import cursor, fetch, private, refused, walk
from whatsms_events.domain.drift import DriftKind, Finding
from whatsms_events.domain.events import Entity
from whatsms_events.storage.database import Database, DatabaseTarget, open_log, open_projection
from whatsms_events.storage.repair.reports import Kind, Options
from whatsms_events.storage.repair.runs import Checkpoints
from whatsms_events.storage.tables import backfill_run

Client = TestClient[web.Request, web.Application]

START = datetime(2026, 5, 1, 12, tzinfo=UTC)
REPORT = b'{"requests":7}'
STANDING = (
    b'{"phase":"tickets","place":{"number":4},"log_end":17,"requests":3,'
    b'"drift":[{"entity":"ticket","kind":"stale","age":"under_1h","count":2}]}'
)


@pytest.fixture
async def databases(database_url: str) -> AsyncIterator[tuple[Database, Database]]:
    """Give an empty log and an empty projection."""
    log = await open_log(DatabaseTarget(database_url), migrate=True)
    target = DatabaseTarget(database_url.replace("log.db", "projection.db"))
    projection = await open_projection(target, migrate=True)
    yield log, projection
    await projection.close()
    await log.close()


@pytest.fixture
async def client(databases: tuple[Database, Database], aiohttp_client: AiohttpClient) -> Client:
    """Give a client that knows the token."""
    return await aiohttp_client(private(databases, TOKEN), headers={"Authorization": f"Bearer {TOKEN}"})


def finding(entity: Entity, number: int, kind: Any = "missed", age_s: float | None = 60.0) -> Finding:
    """Return something that was found."""
    return Finding(entity, f"{entity}-{number:03}", kind, ("status", "user"), age_s)


async def ran(log: Database, *found: Finding, kind: Kind = "reconcile", minute: int = 0, finish: bool = True) -> int:
    """Leave a run of tenant-1 that found these; return its number."""
    checkpoints, at = Checkpoints(log), START + timedelta(minutes=minute)
    run = await checkpoints.begin("tenant-1", kind, "command", Options(), at)
    await checkpoints.save(run, STANDING, now=at, drift=found)
    if finish:
        await checkpoints.finish(run, REPORT, at + timedelta(seconds=30))
    return run.number


async def test_runs_are_listed_with_how_far_they_are(client: Client, databases: tuple[Database, Database]) -> None:
    """The last runs come newest first: the one under way with its progress, the finished ones with their reports."""
    finished = await ran(databases[0])
    running = await ran(databases[0], kind="repair", minute=5, finish=False)
    found = await fetch(client, "/api/v1/shop/backfill")
    assert found["next"] is None
    assert [one["run"] for one in found["runs"]] == [running, finished]
    repair, reconcile = found["runs"]
    assert repair == {
        "run": running,
        "kind": "repair",
        "cause": "command",
        "options": {"details": "all", "messages": "off", "allow_gone": False},
        "started_at": "2026-05-01T12:05:00Z",
        "updated_at": "2026-05-01T12:05:00Z",
        "finished_at": None,
        "remaining": 0,
        "stopped_by": None,
        "progress": {
            "phase": "tickets",
            "requests": 3,
            "expected": 0,
            "drift": [{"entity": "ticket", "kind": "stale", "age": "under_1h", "count": 2}],
            "unsettled": 0,
            "stopped": None,
        },
        "report": None,
    }
    assert (reconcile["finished_at"], reconcile["report"]) == ("2026-05-01T12:00:30Z", {"requests": 7})
    assert reconcile["progress"] is None
    assert await fetch(client, "/api/v1/bank/backfill") == {"runs": [], "next": None}


async def test_what_another_release_saved_is_shown_as_far_as_it_can_be_read(
    client: Client, databases: tuple[Database, Database]
) -> None:
    """A run whose progress is in a form of another release is listed all the same."""
    await ran(databases[0], finish=False)
    async with databases[0].write() as connection:
        await connection.execute(backfill_run.update().values(progress='{"phase":17}'))
    (run,) = (await fetch(client, "/api/v1/shop/backfill"))["runs"]
    assert (run["progress"]["requests"], run["progress"]["drift"]) == (0, [])


async def test_drift_is_that_of_the_last_finished_reconcile(
    client: Client, databases: tuple[Database, Database]
) -> None:
    """What an older reconcile, a repair or the run under way found is not listed; before any there is no run."""
    assert await fetch(client, "/api/v1/shop/drift") == {"run": None, "finished_at": None, "drift": [], "next": None}
    await ran(databases[0], finding("ticket", 1))
    number = await ran(databases[0], finding("contact", 2, "stale", None), minute=1)
    await ran(databases[0], finding("ticket", 3), kind="repair", minute=2)
    await ran(databases[0], finding("ticket", 4), minute=3, finish=False)
    found = await fetch(client, "/api/v1/shop/drift")
    assert (found["run"], found["finished_at"], found["next"]) == (number, "2026-05-01T12:01:30Z", None)
    (row,) = found["drift"]
    assert row.pop("found_at") == "2026-05-01T12:01:00Z"
    assert row == {
        "entity": "contact",
        "id": "contact-002",
        "kind": "stale",
        "fields": ["status", "user"],
        "age_s": None,
    }
    assert (await fetch(client, "/api/v1/bank/drift"))["run"] is None


async def test_a_repair_every_few_minutes_does_not_hide_the_reconcile(
    client: Client, databases: tuple[Database, Database]
) -> None:
    """However many repairs came after it, the last reconcile is what the drift is of."""
    number = await ran(databases[0], finding("ticket", 1))
    for minute in range(1, 31):
        await ran(databases[0], kind="repair", minute=minute)
    assert (await fetch(client, "/api/v1/shop/drift"))["run"] == number
    runs = (await fetch(client, "/api/v1/shop/backfill"))["runs"]
    assert number in [one["run"] for one in runs]


async def test_drift_pages_and_filters(client: Client, databases: tuple[Database, Database]) -> None:
    """Pages go by entity, id and kind, and each filter leaves out what it should; what cannot be read is 400."""
    names = get_args(DriftKind)
    kinds = [names[number % len(names)] for number in range(30)]
    found = [finding(entity, number, kinds[number]) for entity in get_args(Entity) for number in range(30)]
    await ran(databases[0], *found)
    rows = await walk(client, "/api/v1/shop/drift", "drift", limit="7")
    assert [(row["entity"], row["id"]) for row in rows] == sorted((one.entity, one.id) for one in found)
    rows = await walk(client, "/api/v1/shop/drift", "drift", limit="7", entity="ticket", kind="stale")
    wanted = sorted(one.id for one in found if (one.entity, one.kind) == ("ticket", "stale"))
    assert [row["id"] for row in rows] == wanted
    for name, value in (
        ("entity", "agent"),
        ("kind", ""),
        ("kind", "missed\x00"),
        ("limit", "0"),
        ("after", cursor(["ticket", "t"])),
        ("after", cursor(["ticket", "\x00", "missed"])),
        ("status", "open"),
    ):
        assert (await refused(client, "/api/v1/shop/drift", 400, **{name: value}))["parameter"] == name
    assert (await refused(client, "/api/v1/shop/backfill", 400, limit="1"))["parameter"] == "limit"


async def test_both_need_the_token_and_a_tenant(
    client: Client, databases: tuple[Database, Database], aiohttp_client: AiohttpClient
) -> None:
    """Without the token nobody learns anything; an unknown slug is 404; a database in trouble is 503."""
    stranger = await aiohttp_client(private(databases, TOKEN))
    for path in ("/api/v1/shop/backfill", "/api/v1/shop/drift"):
        await refused(stranger, path, 401)
        await refused(client, path.replace("shop", "nobody"), 404)
    async with databases[0].write() as connection:
        await connection.exec_driver_sql(f"DROP TABLE {backfill_run.name}")
    for path in ("/api/v1/shop/backfill", "/api/v1/shop/drift"):
        assert (await client.get(path)).status == 503
