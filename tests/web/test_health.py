"""The probes, over real HTTP."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import alembic.util
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from pytest_aiohttp.plugin import AiohttpClient

from whatsms_events import metrics
from whatsms_events.errors import StorageUnavailableError
from whatsms_events.storage.database import DatabaseTarget, open_log, schema_problem
from whatsms_events.storage.reads import write_problem
from whatsms_events.web.health import CACHE_S, Check, Health

Client = TestClient[web.Request, web.Application]
Start = Callable[..., Awaitable[Client]]


@pytest.fixture
def start(aiohttp_client: AiohttpClient) -> Start:
    """Give a function that serves the probes with these checks, or with what is given."""

    async def started(
        checks: dict[str, Check],
        *,
        needs: dict[str, list[str]] | None = None,
        roles: Callable[[], dict[str, str | None]] = dict,
        details: Callable[[], dict[str, object]] = dict,
        starting: Callable[[], str | None] = lambda: None,
        draining: Callable[[], bool] = bool,
        check_timeout_s: float = 60.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> Client:
        app = web.Application()
        health = Health(
            checks=checks,
            needs=needs or {},
            roles=roles,
            details=details,
            starting=starting,
            draining=draining,
            check_timeout_s=check_timeout_s,
            monotonic=monotonic,
        )
        app.add_routes(health.routes())
        return await aiohttp_client(app)

    return started


class Counted:
    """A check that counts its runs, waits for `gate` and then says `problem`."""

    def __init__(self, problem: str | None = None) -> None:
        self.problem = problem
        self.runs = 0
        self.asked, self.gate = asyncio.Event(), asyncio.Event()
        self.gate.set()

    async def __call__(self) -> str | None:
        """Run once."""
        self.runs += 1
        self.asked.set()
        await self.gate.wait()
        return self.problem


async def test_alive_whatever_the_checks_say(start: Start) -> None:
    """/livez is 200 while the loop runs, also while the process drains and no check passes."""
    client = await start({"log": Counted("gone")}, draining=lambda: True)
    assert (await client.get("/livez")).status == 200


async def test_ready_while_every_check_passes_and_every_role_works(start: Start) -> None:
    """/readyz is 200 with each check, each role, and details, which do not decide."""
    client = await start(
        {"log": Counted(), "schema": Counted()}, roles=lambda: {"relay": None}, details=lambda: {"relay": "standby"}
    )
    answer = await client.get("/readyz")
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "no-store"
    assert await answer.json() == {
        "ready": True,
        "draining": False,
        "checks": {"log": "ok", "schema": "ok"},
        "roles": {"relay": "ok"},
        "details": {"relay": "standby"},
    }


async def test_a_role_that_does_not_work_makes_the_process_unready_and_no_other_role(start: Start) -> None:
    """/readyz is 503 with the role's problem; /readyz/{role} goes by the role's own checks and problems alone, also
    where there are several of it, and is 404 for a role that this process does not run.
    """
    problems: dict[str, str | None] = {"receiver": None, "relay": "halted", "backfill.acme": None}
    client = await start(
        {"log": Counted(), "projection": Counted("gone")},
        needs={"receiver": ["log"], "relay": ["log"], "backfill": ["log"], "consumer": ["projection"]},
        roles=lambda: problems,
    )

    async def statuses() -> list[int]:
        paths = ("", "/receiver", "/relay", "/backfill", "/consumer", "/watchdog", "/receiver/")
        return [(await client.get(f"/readyz{path}")).status for path in paths]

    assert await statuses() == [503, 200, 503, 200, 503, 404, 404]
    problems["backfill.other"] = "401"
    assert await statuses() == [503, 200, 503, 503, 503, 404, 404]
    answer = await client.get("/readyz/backfill")
    said = await answer.json()
    assert (said["checks"], said["roles"]) == ({"log": "ok"}, {"backfill.acme": "ok", "backfill.other": "401"})


async def test_a_start_that_waits_is_not_ready_and_asks_the_database_nothing(start: Start) -> None:
    """While the process starts, every readiness is 503 and says what it waits for; it is alive."""
    check = Counted()
    client = await start({"log": check}, needs={"receiver": ["log"]}, starting=lambda: "waiting: the log is away")
    for path in ("/readyz", "/readyz/receiver"):
        answer = await client.get(path)
        assert (answer.status, (await answer.json())["checks"]) == (503, {"start": "waiting: the log is away"})
    assert (await client.get("/readyz/relay")).status == 404
    assert (await client.get("/livez")).status == 200
    assert check.runs == 0


async def test_not_ready_names_what_is_wrong(start: Start) -> None:
    """/readyz is 503 with the problem of each failed check, told or raised, beside those that pass."""

    async def away() -> None:
        raise StorageUnavailableError("CannotConnectNowError 57P03")

    client = await start({"log": away, "schema": Counted("run db upgrade"), "other": Counted()})
    answer = await client.get("/readyz")
    assert answer.status == 503
    assert (await answer.json())["checks"] == {
        "log": "CannotConnectNowError 57P03",
        "schema": "run db upgrade",
        "other": "ok",
    }


async def test_draining_shows_at_once(start: Start) -> None:
    """Draining makes /readyz 503 from the very next probe on, whatever is cached, and asks the database nothing."""
    draining, check = [False], Counted()
    client = await start({"log": check}, needs={"receiver": ["log"]}, draining=lambda: draining[0])
    assert (await client.get("/readyz")).status == 200
    draining[0] = True
    assert (await client.get("/readyz/receiver")).status == 503
    answer = await client.get("/readyz")
    assert answer.status == 503
    assert (await answer.json())["draining"] is True
    assert check.runs == 1


async def test_a_check_that_hangs_is_a_problem(start: Start) -> None:
    """A check that does not answer in time makes /readyz 503 at the deadline, never a probe that hangs."""
    stuck = Counted()
    stuck.gate.clear()
    client = await start({"log": stuck}, check_timeout_s=0.05)
    async with asyncio.timeout(60):
        answer = await client.get("/readyz")
    assert answer.status == 503
    assert (await answer.json())["checks"] == {"log": "no answer within 0.05 s"}


async def test_a_storm_of_probes_runs_the_checks_once(start: Start) -> None:
    """Probes that come while the checks run wait for that run; its answer stands for a while, then it is asked anew."""
    check, at = Counted(), [0.0]
    check.gate.clear()
    client = await start({"log": check}, monotonic=lambda: at[0])
    async with asyncio.TaskGroup() as group:
        probes = [group.create_task(client.get("/readyz")) for _ in range(30)]
        await check.asked.wait()
        check.gate.set()
    assert [probe.result().status for probe in probes] == [200] * 30
    assert check.runs == 1
    check.problem = "gone"
    assert (await client.get("/readyz")).status == 200
    at[0] += CACHE_S
    assert (await client.get("/readyz")).status == 503
    assert check.runs == 2


async def test_ready_over_a_real_database(start: Start, database_url: str) -> None:
    """With the real probes a migrated log is ready, and one that lost its tables is not."""
    log = await open_log(DatabaseTarget(database_url), migrate=True)
    try:
        client = await start({"log": lambda: write_problem(log), "schema": lambda: schema_problem(log)})
        answer = await client.get("/readyz")
        assert (answer.status, (await answer.json())["checks"]) == (200, {"log": "ok", "schema": "ok"})
        async with log.write() as connection:
            await connection.exec_driver_sql("DROP TABLE log")
            await connection.exec_driver_sql("UPDATE alembic_version_log SET version_num = 'later'")
        client = await start({"log": lambda: write_problem(log), "schema": lambda: schema_problem(log)})
        answer = await client.get("/readyz")
        assert answer.status == 503
        checks = (await answer.json())["checks"]
        assert checks["log"] != "ok"
        assert "later" in checks["schema"]
    finally:
        await log.close()


@pytest.mark.parametrize("version", ["0001_log", "9999_later"])
async def test_readiness_loads_no_migration(
    start: Start, database_url: str, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """Once a log is open, no probe loads a migration script, whichever schema the database has by then."""
    log = await open_log(DatabaseTarget(database_url), migrate=True)
    load, loaded = alembic.util.load_python_file, []

    def counted(folder: str, name: str) -> object:
        loaded.append(name)
        return load(folder, name)

    monkeypatch.setattr(alembic.util, "load_python_file", counted)
    try:
        async with log.write() as connection:
            await connection.exec_driver_sql(f"UPDATE alembic_version_log SET version_num = '{version}'")
        client = await start({"schema": lambda: schema_problem(log)})
        answer = await client.get("/readyz")
        assert answer.status == 503
        assert version in (await answer.json())["checks"]["schema"]
        assert not loaded
    finally:
        await log.close()


async def test_metrics_are_exposed(start: Start) -> None:
    """/metrics shows our metrics in the text format, and in OpenMetrics where that is asked for."""
    metrics.LOG_END.set(41)
    client = await start({})
    answer = await client.get("/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    assert "whatsms_events_log_end_position 41.0" in await answer.text()
    answer = await client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert (await answer.text()).endswith("# EOF\n")
