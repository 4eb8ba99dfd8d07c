"""One process as an operator sees it: its probes, its two listeners, its end, and a second one beside it."""

import asyncio
import json
import signal
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import aiohttp
import pytest
from confluent_kafka import OFFSET_END, TopicPartition
from confluent_kafka.admin import AdminClient
from yarl import URL

from servers.compare import assert_kept, opened, until, whole_log
from servers.kafka import RunningKafka
from servers.ports import HOST, free_port
from servers.service import SECRET, SLUG, TENANT, Service, command
from servers.upstream import KEY, account, sections
from test_journey import delivery, get, post, see, told
from test_metrics import on_kafka, produce, sample, scrape, shows
from whatsms_events.domain.records import to_record
from whatsms_events.domain.signature import HEADER, sign
from whatsms_events.twin.faults import Dispatch, Faults
from whatsms_events.twin.ledger import Ledger
from whatsms_events.twin.rest.faults import RestFault
from whatsms_events.twin.sender import Sender
from whatsms_events.twin.world import World

pytestmark = pytest.mark.process

DRAIN_S = 10.0
"""`receiver.drain_s` as it is by default."""


class Watched(Sender):
    """A sender that keeps the status and Retry-After of every answer."""

    answers: set[tuple[int, bool]]

    async def _post(
        self, session: aiohttp.ClientSession, url: URL, delivery: Dispatch, body: bytes
    ) -> tuple[int, float | None, bytes]:
        status, retry_after, answer = await super()._post(session, url, delivery, body)
        self.answers.add((status, retry_after is not None))
        return status, retry_after, answer


def sender(service: Service, ledger: Ledger, *, seed: int, rate: float) -> Watched:
    """Return a sender to this service, which does not give up."""
    made = Watched(
        service.webhook_url, SECRET.encode(), ledger,
        faults=Faults(seed=seed, redeliver=0.05), rate=rate, connections=16, tries=200, drain_s=60,
    )  # fmt: skip
    made.answers = set()
    return made


def world(seed: int, rate: float) -> World:
    """Return an account that lives now."""
    return World(seed, start=datetime.now(UTC), tenant_id=TENANT, pace=rate)


def files(folder: Path) -> tuple[str, str]:
    """Return the URLs of log and projection in a folder."""
    return f"sqlite:///{folder / 'log.db'}", f"sqlite:///{folder / 'projection.db'}"


async def readiness(
    session: aiohttp.ClientSession, service: Service, role: str = ""
) -> tuple[int, dict[str, dict[str, object]]]:
    """Ask /readyz, or that of a role."""
    async with session.get(f"{service.private_url}/readyz{role and f'/{role}'}") as answer:
        return answer.status, await answer.json()


async def is_now(session: aiohttp.ClientSession, service: Service, status: str) -> bool:
    """Tell whether the read API shows the story's ticket with this status."""
    async with session.get(f"{service.private_url}/api/v1/{SLUG}/tickets/t-1") as answer:
        return answer.status == 200 and (await answer.json())["status"] == status


async def ended(service: Service, within_s: float) -> int | None:
    """Return the exit status of a process that ends by itself, None where it goes on."""
    await service.gone(within_s)
    return service.status


async def test_a_kafka_that_is_away_leaves_the_door_open_and_is_seen(tmp_path: Path) -> None:
    """With nobody at the broker's port: deliveries are accepted and the receiver stays ready, while relay and consumer
    stand by and say why; when that has lasted, the process is not ready, a gauge grows and an error line says it.
    """
    nobody = f"{HOST}:{free_port()}"
    service = Service(tmp_path / "service", settings={"kafka": {"bootstrap_servers": nobody, "timeout_s": 1}})
    await service.start()
    async with aiohttp.ClientSession() as session:

        async def said_why() -> bool:
            _status, body = await readiness(session, service)
            return {"relay", "consumer"} <= body["details"].keys()

        await until(said_why, 60, "relay and consumer have tried")
        await told(session, service)
        status, body = await readiness(session, service, "receiver")
        assert status == 200
        assert body["checks"] == {"log_writable": "ok"}
        assert body["roles"] == {"receiver": "ok"}
        relay = body["details"]["relay"]
        assert isinstance(relay, dict)
        assert relay["state"] == "standby"
        assert "checking topics" in relay["why"]
        await shows(session, service, {sample("role_state", role="relay"): 0, sample("relay_lag_events"): 5})

        async def unready() -> bool:
            status, body = await readiness(session, service)
            return status == 503 and all("has failed" in str(body["roles"][role]) for role in ("relay", "consumer"))

        await until(unready, 120, "it has lasted")
        assert [(await readiness(session, service, role))[0] for role in ("receiver", "relay", "consumer")] == [
            200, 503, 503,
        ]  # fmt: skip
        assert (await readiness(session, service, "backfill"))[0] == 404
        stalled = {str(line["role"]): line for line in service.lines() if line["event"] == "role.stalled"}
        assert stalled.keys() == {"relay", "consumer"}
        assert stalled["relay"]["level"] == "error"
        assert "checking topics" in str(stalled["relay"]["reason"])
        assert (await scrape(session, service))[sample("role_stalled_seconds", role="relay")] >= 30
    await service.stop()


async def test_a_standby_whose_active_one_is_frozen_is_not_ready(tmp_path: Path) -> None:
    """The active consumer stops in the middle (SIGSTOP) and keeps the role: the one that stands by says so once the log
    has gone on for long and the projection has not, its receiver stays ready, and both end when the other goes on.
    """
    active = Service(tmp_path / "active", roles="consumer")
    await active.start()
    settings = {"database": {"url": files(active.folder)[0]}}
    standby = Service(tmp_path / "standby", roles="receiver,consumer", settings=settings)
    await standby.start()
    async with aiohttp.ClientSession() as session:
        await shows(session, active, {sample("role_state", role="consumer"): 1})
        assert (await readiness(session, standby))[0] == 200, "who stands by for one that works is ready"
        await active.freeze()
        await told(session, standby)

        async def unready() -> bool:
            return (await readiness(session, standby))[0] == 503

        await until(unready, 240, "the standby notices")
        _status, body = await readiness(session, standby)
        assert "stands by, but the active process stays at 0" in str(body["roles"]["consumer"])
        assert (await readiness(session, standby, "receiver"))[0] == 200
        (line,) = [line for line in standby.lines() if line["event"] == "role.stalled"]
        assert (line["role"], line["level"]) == ("consumer", "error")
        await active.thaw()
        await see(session, standby)

        async def ready() -> bool:
            return (await readiness(session, standby))[0] == 200

        await until(ready, 60, "it is ready again")
    assert [line["event"] for line in standby.lines()].count("role.recovered") == 1
    for service in (active, standby):
        await service.stop()


async def test_a_broken_projection_does_not_turn_deliveries_away(tmp_path: Path) -> None:
    """Where the projection's tables are gone, the receiver is ready and accepts; a process that consumes is not."""
    both = Service(tmp_path / "both")
    await both.start()
    url, _ = files(both.folder)
    consumer = Service(tmp_path / "consumer", roles="consumer", settings={"database": {"url": url}})
    await consumer.start()
    with closing(sqlite3.connect(both.folder / "projection.db")) as file:
        file.executescript("DROP TABLE alembic_version_projection; DROP TABLE projection;")
    async with aiohttp.ClientSession() as session:

        async def noticed() -> bool:
            _status, body = await readiness(session, both)
            detail = body["details"].get("consumer")
            return isinstance(detail, dict) and detail["why"] != ""

        body = delivery("ticket.closed", "2026-01-15T10:40:00Z", ticket={"id": "t-1"})
        assert (await post(session, both, body))["status"] == 200
        await until(noticed, 30, "the consumer has tried")
        assert (await post(session, both, body))["duplicate"]
        status, said = await readiness(session, both, "receiver")
        assert (status, said["checks"]) == (200, {"log_writable": "ok"})
        for service in (both, consumer):

            async def unready(service: Service = service) -> bool:
                status, said = await readiness(session, service)
                return status == 503 and "projection schema" in str(said["checks"]["projection_schema"])

            await until(unready, 60, "it is not ready, for its projection's schema")
            _status, said = await readiness(session, service)
            assert said["checks"]["log_schema"] == "ok"
        # The observer looks at what is left, and ends nothing.
        await shows(session, both, {sample("log_end_position"): 1})
    assert both.pid is not None
    for service in (both, consumer):
        await service.stop()


async def test_a_migration_by_a_newer_release_takes_no_receiver_out(tmp_path: Path) -> None:
    """Once a newer release has migrated, a receiver that runs still accepts, and says so to its load balancer: else all
    of them would be out until the first new one is there. The other roles, and the process as a whole, name the schema.
    """
    service = Service(tmp_path / "service")
    await service.start()
    with closing(sqlite3.connect(service.folder / "log.db")) as file, file:
        file.execute("UPDATE alembic_version_log SET version_num = '9999_later'")
    async with aiohttp.ClientSession() as session:

        async def noticed() -> bool:
            status, said = await readiness(session, service)
            return status == 503 and "9999_later" in str(said["checks"]["log_schema"])

        await until(noticed, 60, "the process names the schema")
        assert (await readiness(session, service, "consumer"))[0] == 503
        assert (await readiness(session, service, "receiver"))[0] == 200
        body = delivery("ticket.closed", "2026-01-15T10:40:00Z", ticket={"id": "t-1"})
        assert (await post(session, service, body))["status"] == 200
    await service.stop()


async def test_sigterm_under_load_loses_nothing_and_leaves_in_time(tmp_path: Path) -> None:
    """Stopped at 300 deliveries a second and started again: status 0 in time, no answer but 2xx and 503 with
    Retry-After, every accepted body in the log once, and each line of its output is JSON.
    """
    service = Service(tmp_path / "service")
    await service.start()
    ledger, stop = Ledger(), asyncio.Event()
    twin = sender(service, ledger, seed=3, rate=300)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(twin.run(world(3, 300), stop))
        for round_ in range(1, 4):
            wanted = len(ledger.accepted) + 200

            def under_way(wanted: int = wanted) -> bool:
                return len(ledger.accepted) >= wanted and twin.in_flight > 0

            await until(under_way, 60, f"deliveries in flight, round {round_}")
            service.signal(signal.SIGTERM)
            assert await ended(service, DRAIN_S) == 0
            await service.start()
        wanted = len(ledger.accepted) + 200
        await until(lambda: len(ledger.accepted) >= wanted, 60, "deliveries after the last start")
        stop.set()
    await service.stop()
    assert ledger.by_outcome["error"] > 0, "it was never away, so this proves nothing"
    assert not ledger.given_up
    assert (200, False) in twin.answers
    assert twin.answers <= {(200, False), (202, False), (503, True)}
    log, projection = await opened(*files(service.folder))
    await assert_kept(ledger, log)
    await log.close()
    await projection.close()
    said = [json.loads(line)["event"] for line in (service.folder / "output.log").read_text().splitlines()]
    assert [name for name in said if name.startswith("service.")] == [
        "service.ready", "service.stopping", "service.stopped",
    ] * 4  # fmt: skip


async def test_each_listener_serves_its_own_paths_only(tmp_path: Path) -> None:
    """The public port answers 404 to all but webhooks, also signed ones; the private one takes no webhooks."""
    service = Service(tmp_path / "service")
    await service.start()
    public = f"http://{HOST}:{service.public_port}"
    body = delivery("ticket.closed", "2026-01-15T10:40:00Z", ticket={"id": "t-1"})
    signed = {HEADER: sign(body, SECRET.encode())}
    private = (
        "/metrics",
        "/livez",
        "/readyz",
        f"/api/v1/{SLUG}/tickets",
        "/api/v1/events",
        "/api/v1/parked/deliveries",
    )
    async with aiohttp.ClientSession() as session:
        for path in private:
            async with session.get(f"{service.private_url}{path}") as answer:
                assert answer.status == 200, path
        for path in (*private, "/", "/webhooks", "/webhooks/"):
            for method in ("GET", "POST"):
                async with session.request(method, f"{public}{path}", data=body, headers=signed) as answer:
                    assert answer.status == 404, (method, path)
        async with session.post(f"{service.private_url}/webhooks/{SLUG}", data=body, headers=signed) as answer:
            assert answer.status == 404
        assert (await get(session, service, "/api/v1/events"))["events"] == []
        assert (await post(session, service, body))["status"] == 200
    await service.stop()


async def test_two_processes_on_the_same_files(tmp_path: Path) -> None:
    """Both take deliveries, each is kept once, one consumes and the other stands by, and takes over after a kill."""
    one = Service(tmp_path / "one")
    two = Service(tmp_path / "two", settings={"database": {"url": files(one.folder)[0]}})
    await one.start()
    async with aiohttp.ClientSession() as session:
        active, standby = {sample("role_state", role="consumer"): 1.0}, {sample("role_state", role="consumer"): 0.0}
        await shows(session, one, active)
        await two.start()
        await shows(session, two, standby)
        ledger = Ledger()
        await asyncio.gather(
            sender(one, ledger, seed=4, rate=100).run(world(4, 100), limit=200),
            sender(two, ledger, seed=5, rate=100).run(world(5, 100), limit=200),
        )
        await told(session, one)
        await told(session, two)
        await until(lambda: is_now(session, two, "closed"), 30, "the active one applies")
        await shows(session, one, active)
        await shows(session, two, standby)
        end = (await get(session, two, "/api/v1/events"))["end"]
        for service in (one, two):
            await shows(session, service, {sample("log_end_position"): end, sample("applied_through_position"): end})
        await one.kill()
        await shows(session, two, active)
        last = delivery("ticket.updated", "2026-01-15T11:00:00Z", ticket={"id": "t-1", "status": "open"})
        assert (await post(session, two, last))["status"] == 200
        await until(lambda: is_now(session, two, "open"), 30, "the one that stood by applies")
    await two.stop()
    log, projection = await opened(*files(one.folder))
    entries = await whole_log(log)
    await log.close()
    await projection.close()
    assert not ledger.given_up
    assert len(entries) == len(ledger.accepted) + 5 + 1
    assert end == entries[-2].position


async def test_a_process_whose_roles_have_all_halted_waits_and_looks_on_sighup(
    postgres_url: str, kafka: RunningKafka, topic_prefix: str, tmp_path: Path
) -> None:
    """A record of another log halts relay and consumer; the process stays, since a restart would fence who is right.

    When the record was removed and a SIGHUP sent, the relay goes on and says so; the consumer now lacks what it read.
    """
    settings = on_kafka(postgres_url, kafka.bootstrap, topic_prefix)
    whole = Service(tmp_path / "whole", settings=settings)
    command(whole, "db", "upgrade")
    command(whole, "topics", "create")
    await whole.start()
    async with aiohttp.ClientSession() as session:
        await told(session, whole)
        await shows(session, whole, {sample("relay_lag_events"): 0, sample("applied_through_position"): 5})
    await whole.stop()
    log, projection = await opened(postgres_url, postgres_url)
    record = to_record((await whole_log(log))[0], uuid4())
    await log.close()
    await projection.close()
    topic = f"{topic_prefix}.conversations"
    produce(kafka.bootstrap, topic, record.value, list(record.headers))
    rest = Service(tmp_path / "rest", roles="relay,consumer", settings=settings)
    await rest.start()
    async with aiohttp.ClientSession() as session:
        state = {role: sample("role_state", role=role) for role in ("relay", "consumer")}
        await shows(session, rest, {state["relay"]: 2.0, state["consumer"]: 2.0})
        said = str((await detail(session, rest, "relay"))["why"])
        assert "one topic prefix belongs to one log" in said
        assert said.endswith("at once on SIGHUP, and goes on by itself where the cause is gone.")
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
        for done in admin.delete_records([TopicPartition(topic, number, OFFSET_END) for number in range(3)]).values():
            await asyncio.to_thread(done.result, 20)
        rest.signal(signal.SIGHUP)
        await shows(session, rest, {state["relay"]: 1.0, state["consumer"]: 2.0})

        async def lacking() -> bool:
            return "is gone: removed by retention" in str((await detail(session, rest, "consumer"))["why"])

        await until(lacking, 60, "the consumer says what it lacks")
    await rest.stop()
    halted = [str(line["role"]) for line in rest.lines() if line["event"] == "role.halted"]
    assert sorted(halted) == ["consumer", "consumer", "relay"]
    assert [line["role"] for line in rest.lines() if line["event"] == "role.resumed"] == ["relay"]
    assert rest.lines()[-1]["event"] == "service.stopped"


async def test_a_consumer_of_another_log_waits_for_its_own(tmp_path: Path) -> None:
    """A projection that was made from another log halts the only role of a process, until the right one is back."""
    first = Service(tmp_path / "first")
    await first.start()
    async with aiohttp.ClientSession() as session:
        await told(session, first)
        await see(session, first)
    await first.stop()

    def belongs_to(log_id: str) -> str:
        with closing(sqlite3.connect(first.folder / "projection.db", timeout=30)) as file:
            (before,) = file.execute("SELECT log_id FROM projection").fetchone()
            file.execute("UPDATE projection SET log_id = ?", (log_id,))
            file.commit()
        return str(before)

    own = belongs_to(uuid4().hex)
    consumer = Service(tmp_path / "consumer", roles="consumer", settings={"database": {"url": files(first.folder)[0]}})
    await consumer.start()
    async with aiohttp.ClientSession() as session:
        await shows(session, consumer, {sample("role_state", role="consumer"): 2.0})
        belongs_to(own)
        consumer.signal(signal.SIGHUP)
        await shows(session, consumer, {sample("role_state", role="consumer"): 1.0})
    consumer.signal(signal.SIGTERM)
    assert await ended(consumer, DRAIN_S) == 0


def backfilling(folder: Path, url: str, *, key: str = KEY, roles: str = "receiver,consumer,backfill") -> Service:
    """Return a service that reads this REST API, with the first reconcile due at once."""
    settings = sections(url, key=key, backfill={"repair_interval_s": 0})
    settings["watchdog"] = {"floor_s": 1}
    return Service(folder, roles=roles, settings=settings)


def beside(service: Service, url: str) -> Service:
    """Return a process with the backfill alone, which works on the log of another one."""
    settings = sections(url, key=KEY, backfill={"repair_interval_s": 0})
    settings["database"] = {"url": f"sqlite:///{service.folder}/log.db"}
    return Service(service.folder.with_name("repairing"), roles="backfill", settings=settings)


async def detail(session: aiohttp.ClientSession, service: Service, role: str) -> dict[str, object]:
    """Return what /readyz says of a role."""
    _status, body = await readiness(session, service)
    found = body["details"].get(role, {})
    assert isinstance(found, dict)
    return found


async def test_a_backfill_that_the_vendor_refuses_stops_nothing_else(tmp_path: Path) -> None:
    """With a wrong key the tenant's backfill halts and says why; the process goes on and takes deliveries, and so does
    a process that has no other role: it is not ready, but its receiver is. When the vendor takes the key, a SIGHUP lets
    the run go on.
    """
    wrong, role = "sk_test_of_somebody_else", f"backfill.{SLUG}"
    async with account() as there, aiohttp.ClientSession() as session:
        whole = backfilling(tmp_path / "whole", there.url, key=wrong)
        alone = backfilling(tmp_path / "alone", there.url, key=wrong, roles="backfill")
        for service in (whole, alone):
            await service.start()

            async def halted(service: Service = service) -> bool:
                return (await detail(session, service, role)).get("state") == "halted"

            await until(halted, 30, "the backfill has halted")
            assert "401" in str((await detail(session, service, role))["why"])
            stopped = {
                sample("backfill_state", tenant=SLUG): 2.0,
                sample("role_state", role=role): 2.0,
            }
            await shows(session, service, stopped)
            status, body = await readiness(session, service)
            assert (status, "401" in str(body["roles"][role])) == (503, True)
            assert (await readiness(session, service, "backfill"))[0] == 503
        assert [(await readiness(session, whole, one))[0] for one in ("receiver", "consumer")] == [200, 200]
        await told(session, whole)
        await see(session, whole)
        there.rest.api_key = wrong
        whole.signal(signal.SIGHUP)
        await shows(session, whole, {sample("backfill_state", tenant=SLUG): 0.0, sample("role_state", role=role): 0.0})
        for service in (whole, alone):
            await service.stop()
            (line,) = [one for one in service.lines() if one["event"] == "role.halted"]
            assert (line["role"], line["level"]) == (role, "error")
            assert "sk_test" not in (service.folder / "output.log").read_text()


async def test_a_stop_does_not_wait_for_a_pause_of_the_vendors(tmp_path: Path) -> None:
    """While every request waits out a 429 of two minutes, SIGTERM still ends the process in a few seconds."""
    async with account() as there, aiohttp.ClientSession() as session:
        there.rest.faults.retry_after_s = 120
        there.rest.demand(RestFault.LIMITED, 1_000)
        service = backfilling(tmp_path / "service", there.url)
        await service.start()
        await shows(session, service, {sample("upstream_requests_total", outcome="limited"): 1.0})
        service.signal(signal.SIGTERM)
        assert await ended(service, DRAIN_S) == 0


async def test_a_tenant_without_a_key_has_no_backfill_and_the_rest_runs(tmp_path: Path) -> None:
    """The role is left out with a line that says why; a process that has no other does not start."""
    service = Service(tmp_path / "service", roles="receiver,consumer,backfill")
    await service.start()
    (ready,) = [line for line in service.lines() if line["event"] == "service.ready"]
    assert ready["roles"] == ["consumer", "receiver"]
    (off,) = [line for line in service.lines() if line["event"] == "backfill.off"]
    assert (off["tenant"], off["reason"]) == (SLUG, "the tenant has no api_key")
    await service.stop()
    alone = Service(tmp_path / "alone", roles="backfill")
    alone.spawn()
    assert await ended(alone, 30) == 2
    assert "roles: a backfill needs tenants.<slug>.api_key" in (alone.folder / "output.log").read_text()


async def test_silence_is_told_and_what_was_missed_is_fetched(tmp_path: Path) -> None:
    """Signatures that are refused while nothing is accepted: an error line, the metric, the readiness detail, and a
    reconcile at once by the process with the backfill, which is another one; one more when webhooks are accepted again.
    """
    async with account() as there, aiohttp.ClientSession() as session:
        service = backfilling(tmp_path / "service", there.url, roles="receiver,consumer")
        await service.start()
        repairing = beside(service, there.url)
        await repairing.start()
        body = delivery("ticket.closed", "2026-01-15T10:40:00Z", ticket={"id": "t-1"})
        for _ in range(3):
            wrong = {HEADER: sign(body, b"another secret")}
            async with session.post(service.webhook_url, data=body, headers=wrong) as answer:
                assert answer.status == 401

        async def fetched(cause: str) -> bool:
            runs = (await get(session, service, f"/api/v1/{SLUG}/backfill"))["runs"]
            return cause in [one["cause"] for one in runs if one["finished_at"] is not None]

        await shows(session, service, {sample("silent", tenant=SLUG): 1.0})
        said = await detail(session, service, f"watchdog.{SLUG}")
        assert (said["state"], said["cause"], said["rejects"]) == ("silent", "rejects", 3)
        (line,) = [one for one in service.lines() if one["event"] == "webhooks.silent"]
        assert (line["level"], line["tenant"]) == ("error", SLUG)
        await until(lambda: fetched("silence"), 40, "what was missed is fetched")
        assert (await post(session, service, body))["status"] == 200
        await shows(session, service, {sample("silent", tenant=SLUG): 0.0})
        await until(lambda: fetched("heard"), 40, "the rest of it is fetched")
        await repairing.stop()
        await service.stop()


async def test_a_receiver_that_was_away_asks_for_what_was_missed(tmp_path: Path) -> None:
    """It starts after an outage beside a backfill that ran all the time: that one makes a reconcile, and only one."""
    async with account() as there, aiohttp.ClientSession() as session:
        receiver = backfilling(tmp_path / "receiver", there.url, roles="receiver,consumer")
        await receiver.start()
        repairing = beside(receiver, there.url)
        await repairing.start()
        body = delivery("ticket.closed", "2026-01-15T10:40:00Z", ticket={"id": "t-1"})

        async def causes() -> list[str]:
            runs = (await get(session, receiver, f"/api/v1/{SLUG}/backfill"))["runs"]
            return [one["cause"] for one in runs if one["finished_at"] is not None]

        async def fetched(wanted: list[str]) -> bool:
            return await causes() == wanted

        await until(lambda: fetched(["initial"]), 40, "the first reconcile has finished")
        assert (await post(session, receiver, body))["status"] == 200
        await receiver.stop()
        with closing(sqlite3.connect(receiver.folder / "log.db")) as log, log:
            for column in ("event_log SET received_at = received_at", "backfill_run SET started_at = started_at"):
                log.execute(f"UPDATE {column} - 80000000000")  # most of a day, in microseconds
        again = receiver.successor()
        await again.start()
        await until(lambda: fetched(["outage", "initial"]), 40, "what was missed is fetched")
        await again.stop()
        last = again.successor()
        await last.start()
        assert await causes() == ["outage", "initial"]
        await repairing.stop()
        await last.stop()
