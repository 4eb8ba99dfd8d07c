"""Promise 8: marked values go through every path and are found in no log line, metric, answer or `config show`."""

import asyncio
import io
import json
import logging
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import aiohttp
import asyncpg
import pytest
import structlog
from aiokafka import errors as kafka_errors
from confluent_kafka import Producer
from sqlalchemy import insert, select, text

from servers import warm
from servers.compare import opened, until
from servers.kafka import Broker
from servers.postgres import Postgres
from servers.service import SLUG, TENANT, Service
from servers.service import command as must
from whatsms_events import logs
from whatsms_events.domain.signature import HEADER, sign
from whatsms_events.domain.verdicts import Delivery
from whatsms_events.kafka.connection import KafkaTarget, explained
from whatsms_events.storage.database import Database
from whatsms_events.storage.log.commit import Outcome
from whatsms_events.storage.tables import event_log, parked_event
from whatsms_events.web.app import Listener
from whatsms_events.web.receiver import Receiver, Tenant

pytestmark = pytest.mark.process

NAME = "Canária Zé-Ninguém"
NUMBER = "351987654321"
TEXT = "canary-text-7f3a91"
EMAIL = "canary@exemplo.pt"
URL = "https://media.example/canary-file-5521"
SECRET = "canary-secret-f00dfeed-0123456789"
TOKEN = "canary-token-0badcafe-0123456789"
READER = "token-of-one-who-may-read-only"
PASSWORD = "canary-password-1337"


def body(event: str = "message.received", **data: object) -> bytes:
    """Return a delivery full of marked values."""
    message = {"id": "m-1", "body": TEXT, "fromMe": False, "mediaUrl": URL, "createdAt": "2026-01-15T10:30:00Z"}
    contact = {"id": "c-1", "name": NAME, "number": NUMBER, "email": EMAIL, "profilePicUrl": URL}
    whole = {"message": message, "ticket": {"id": "t-1", "lastMessage": TEXT}, "contact": contact, **data}
    envelope = {"event": event, "tenantId": TENANT, "timestamp": "2026-01-15T10:30:00Z", "data": whole}
    return json.dumps(envelope, ensure_ascii=False).encode()


DELIVERIES = {
    "accepted": body(),
    "accepted again": body(),
    "accepted, flat and odd": body("message.ack", ack=TEXT, canary=NAME),
    "unknown event": body(TEXT),
    "not json": b"{" + TEXT.encode() + NUMBER.encode(),
    "other tenant": body().replace(TENANT.encode(), TEXT.encode()),
    "no data": json.dumps({"event": "contact.updated", "tenantId": TENANT, "data": TEXT}).encode(),
    "surrogate": body().replace(TEXT.encode(), TEXT.encode() + b"\\ud83d"),
}

# Of every delivery the signature that fits, and one of the right form that does not.
SIGNATURES = [
    sign(payload, secret.encode()).removeprefix("sha256=")
    for payload in DELIVERIES.values()
    for secret in (SECRET, TEXT)
]
CANARIES = (NAME, NUMBER, TEXT, EMAIL, URL, SECRET, TOKEN, PASSWORD, "Can\\u00e1ria", "canary", *SIGNATURES)


def found_in(text: str) -> list[str]:
    """Name the marked values that a text shows."""
    return [canary for canary in CANARIES if canary.lower() in text.lower()]


Settings = Mapping[str, Mapping[str, object]]
MARKED: Settings = {
    f"tenants.{SLUG}.webhook_secrets": {"current": SECRET},
    f"tenants.{SLUG}": {"api_key": "sk_live_canary"},
    "private": {"token": TOKEN},
    "private.tokens.reader": {"token": READER, "scopes": "read"},
    "logs": {"level": "debug"},
    "receiver": {"deadline_s": 2.0},
}


@pytest.fixture
def service(tmp_path: Path) -> Service:
    """Give a service with marked secrets; not started."""
    return Service(tmp_path / "service", settings=MARKED)


@dataclass(frozen=True, slots=True)
class Fleet:
    """The processes of one installation, the receiver first, and how to get at its databases and its Kafka."""

    services: Sequence[Service]
    log_url: str
    projection_url: str
    bootstrap: str | None = None
    topic: str = ""

    @property
    def door(self) -> Service:
        """The process that takes deliveries."""
        return self.services[0]

    async def start(self) -> None:
        """Start every process."""
        for service in self.services:
            await service.start()

    async def kill(self) -> None:
        """Kill every process."""
        for service in self.services:
            await service.kill()

    async def stop(self) -> None:
        """Stop every process in good order."""
        for service in self.services:
            await service.stop()

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """Keep everybody from appending."""
        log, projection = await self.databases()
        try:
            async with log.write() as connection:
                if log.dialect == "postgresql":
                    await connection.execute(text("LOCK TABLE event_log IN ACCESS EXCLUSIVE MODE"))
                yield
        finally:
            await log.close()
            await projection.close()

    async def databases(self) -> tuple[Database, Database]:
        """Open log and projection as somebody else."""
        return await opened(self.log_url, self.projection_url)


@pytest.fixture(
    params=["sqlite", pytest.param("postgresql and kafka", marks=[pytest.mark.postgres, pytest.mark.kafka])]
)
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    """Give one process on SQLite, then one for each role on PostgreSQL and Kafka; migrated, not started."""
    if request.param == "sqlite":
        one = Service(tmp_path / "service", settings=MARKED)
        made = Fleet([one], f"sqlite:///{one.folder / 'log.db'}", f"sqlite:///{one.folder / 'projection.db'}")
    else:
        url, prefix = request.getfixturevalue("postgres_url"), request.getfixturevalue("topic_prefix")
        bootstrap = request.getfixturevalue("kafka").bootstrap
        settings: Settings = {
            **MARKED,
            "database": {"url": url, "password": PASSWORD},
            "kafka": {"bootstrap_servers": bootstrap, "topic_prefix": prefix, "partitions": 2},
        }
        roles = [Service(tmp_path / role, roles=role, settings=settings) for role in ("receiver", "relay", "consumer")]
        must(roles[0], "db", "upgrade")
        must(roles[0], "topics", "create")
        made = Fleet(roles, url, url, bootstrap, f"{prefix}.campaigns")
    yield made
    for service in made.services:
        service.kill_now()


async def post(service: Service, payload: bytes | io.BytesIO, headers: Mapping[str, str]) -> str:
    """Send one delivery; return the answer, headers too."""
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session,
        session.post(service.webhook_url, data=payload, headers=headers) as answer,
    ):
        return f"{answer.status} {answer.headers} {await answer.text()}"


async def deliver(service: Service) -> list[str]:
    """Send every kind of delivery, signed and not; return what was answered."""
    said: list[str] = []
    for payload in DELIVERIES.values():
        good = sign(payload, SECRET.encode())
        ways: Sequence[Mapping[str, str]] = (
            {HEADER: good},
            {HEADER: sign(payload, TEXT.encode())},
            {HEADER: TEXT},
            {},
            {HEADER: good, "Content-Encoding": "gzip"},
            {"Content-Encoding": "gzip"},
        )
        said += [await post(service, payload, headers) for headers in ways]
    said.append(await post(service, io.BytesIO(TEXT.encode() * 500_000), {}))
    async with aiohttp.ClientSession() as session, session.post(f"{service.webhook_url}-{TEXT}", data=TEXT) as answer:
        said.append(await answer.text())
    return said


async def asked(services: Sequence[Service]) -> list[str]:
    """Ask every process for its probes and metrics, and for what it refuses, with and without the token."""
    said: list[str] = []
    tickets = f"/api/v1/{SLUG}/tickets"
    refused = [tickets, f"{tickets}/{TEXT}", f"/{TEXT}", f"/api/v1/{TEXT}/tickets"]
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        for service in services:
            for path in ("/readyz", "/livez", "/metrics", *refused):
                async with session.get(f"{service.private_url}{path}?{TEXT}={NAME}") as answer:
                    said.append(f"{answer.headers} {await answer.text()}")
            token = {"Authorization": f"Bearer {TOKEN}"}
            for path in (
                *refused[1:],
                f"{tickets}?limit={TEXT}",
                f"{tickets}?after={TEXT}",
                f"{tickets}?status={TEXT}",
            ):
                async with session.get(f"{service.private_url}{path}", headers=token) as answer:
                    said.append(f"{answer.headers} {await answer.text()}")
    return said


SHOWN = (
    *("events", "events/1", "parked/deliveries", "parked/events"),
    *(f"{SLUG}/{name}" for name in ("tickets", "contacts", "tickets/t-1", "tickets/t-1/messages", "messages/m-1")),
    *(f"{SLUG}/{name}" for name in ("contacts/c-1", "trace/m-1", "backfill", "drift")),
)
"""What the read API shows of those deliveries."""


async def shown(service: Service, token: str) -> list[str]:
    """Ask the read API for everything, as the holder of a token."""
    said: list[str] = []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        for path in SHOWN:
            url = f"{service.private_url}/api/v1/{path}"
            async with session.get(url, headers={"Authorization": f"Bearer {token}"}) as answer:
                assert answer.status == 200, (path, await answer.text())
                said.append(await answer.text())
    return said


async def metric(service: Service, name: str) -> float:
    """Read one metric without labels from a process."""
    async with aiohttp.ClientSession() as session, session.get(f"{service.private_url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def printed(service: Service, *words: str) -> str:
    """Run another command with the service's configuration; return all that it printed."""
    done = run(service, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def run(service: Service, *words: str, environ: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    """Run a command with the service's configuration to its end."""
    return warm.run([*words, "--config", str(service.config)], service.folder, environ=environ)


async def killed_in_flight(fleet: Fleet) -> None:
    """Kill every process while deliveries wait for their commit, and see that no sender got an answer."""
    signed = {payload: {HEADER: sign(payload, SECRET.encode())} for payload in DELIVERIES.values()}
    async with fleet.locked():
        sending = [asyncio.create_task(post(fleet.door, payload, headers)) for payload, headers in signed.items()]

        async def in_flight() -> bool:
            return await metric(fleet.door, "whatsms_events_queued_deliveries") > 0

        await until(in_flight, 10, "deliveries in flight")
        await fleet.kill()
        answers = await asyncio.gather(*sending, return_exceptions=True)
    assert [type(answer) for answer in answers if isinstance(answer, aiohttp.ClientError)], "no reply was cut"


async def refused_while_locked(fleet: Fleet) -> list[str]:
    """Let a delivery run into a locked database; return what it and the probes were answered."""
    async with fleet.locked():
        payload = DELIVERIES["accepted"]
        said = await post(fleet.door, payload, {HEADER: sign(payload, SECRET.encode())})
        assert said.startswith("503 "), said
        return [said, *await asked(fleet.services)]


async def parked_at_the_fold(fleet: Fleet) -> None:
    """Append a row that nobody can decode and, with Kafka, write a record that is none; wait until both are parked."""
    log, projection = await fleet.databases()
    wanted = {"log"} if fleet.bootstrap is None else {"stray", "data"}
    row = {"id": uuid4(), "type": "message.received", "tenant": TENANT, "received_at": 1, "origin": "webhook"}
    async with log.write() as connection:
        data = f'{{"message": {TEXT} {NAME}'
        await connection.execute(insert(event_log).values(**row, sha256=bytes(32), data=data, raw=data.encode()))
    if fleet.bootstrap is not None:
        foreign = Producer({"bootstrap.servers": fleet.bootstrap})
        headers: list[tuple[str, str | bytes | None]] = [("ce_type", TEXT.encode()), ("ce_tenant", NAME.encode())]
        foreign.produce(fleet.topic, TEXT.encode(), key=NUMBER.encode(), headers=headers)
        assert await asyncio.to_thread(foreign.flush, 10) == 0

    async def parked() -> bool:
        async with projection.read() as connection:
            sources = (await connection.execute(select(parked_event.c.source))).scalars().all()
        foreign = [source for source in sources if source != "log"]  # "topic/partition"; of ours the place in the log
        return len(sources) >= len(wanted) and bool(foreign) == (fleet.bootstrap is not None)

    await until(parked, 30, "parked at the fold")
    await log.close()
    await projection.close()


async def test_no_marked_value_is_shown_on_any_path(fleet: Fleet) -> None:
    """Accepted, duplicate, parked at door and fold, refused, locked out, killed in flight: nobody shows a value."""
    await fleet.start()
    said = await deliver(fleet.door)
    said += await refused_while_locked(fleet)
    await killed_in_flight(fleet)
    await fleet.start()
    said += await deliver(fleet.door)
    await parked_at_the_fold(fleet)
    said += await asked(fleet.services)
    said += await shown(fleet.door, READER)
    whole = " ".join(await shown(fleet.door, TOKEN))
    assert {NAME, NUMBER, TEXT, EMAIL, URL} <= set(found_in(whole)), "whoever may see it, sees it"
    await fleet.stop()
    for words in (("config", "show"), ("config", "check"), ("parked", "list")):
        said += [printed(service, *words) for service in fleet.services]
    output = "".join((service.folder / "output.log").read_text() for service in fleet.services)
    for event in ("delivery.accepted", "delivery.parked", "delivery.rejected", "service.stopped"):
        assert f'"{event}"' in output
    for one in (output, *said):
        assert found_in(one) == [], one[:2000]


async def test_a_wrong_database_password_is_said_without_it(own_postgres: Postgres, tmp_path: Path) -> None:
    """Where PostgreSQL refuses the password every command ends with status 2 and the reason, without the password."""
    connection = await asyncpg.connect(own_postgres.url)
    await connection.execute(f"ALTER USER CURRENT_USER PASSWORD '{PASSWORD}'")
    (own_postgres.folder / "data" / "pg_hba.conf").write_text("host all all 127.0.0.1/32 scram-sha-256\n")
    await connection.execute("SELECT pg_reload_conf()")
    await connection.close()

    async def asks_for_it() -> bool:
        return not await own_postgres.serves()  # without a password

    await until(asks_for_it, 10, "a password is needed")
    settings: Settings = {**MARKED, "database": {"url": own_postgres.url, "password": PASSWORD}}
    service = Service(tmp_path / "service", settings=settings)
    said = [printed(service, "db", "upgrade")]
    await service.start()
    said += await asked([service])
    await service.stop()
    service.config.write_text(service.config.read_text().replace(PASSWORD, PASSWORD + TEXT))
    for words in (["serve"], ["db", "upgrade"], ["parked", "list"]):
        done = run(service, *words)
        assert (done.returncode, "28P01" in done.stderr) == (2, True), done.stderr
        said.append(done.stdout + done.stderr)
    said.append((service.folder / "output.log").read_text())
    for one in said:
        assert found_in(one) == [], one[:2000]


async def test_a_wrong_kafka_password_is_said_without_it(
    sasl_broker: Broker, topic_prefix: str, tmp_path: Path
) -> None:
    """Where Kafka refuses the password a command ends with status 1, the service waits, and neither shows it."""
    security = sasl_broker.sasl_ssl
    assert security is not None
    kafka = {
        "bootstrap_servers": sasl_broker.bootstrap,
        "topic_prefix": topic_prefix,
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "PLAIN",
        "username": security.user,
        "password": security.password,
        "ca_file": str(security.ca_file),
    }
    right = Service(tmp_path / "right", settings={**MARKED, "kafka": kafka})
    must(right, "topics", "create")
    service = Service(tmp_path / "service", settings={**MARKED, "kafka": {**kafka, "password": PASSWORD}})
    done = run(service, "topics", "create")
    assert (done.returncode, "creating topics: KafkaConnectionError" in done.stderr) == (1, True), done.stderr
    said = [done.stdout + done.stderr, printed(service, "config", "show")]
    await service.start()

    async def refused() -> bool:
        async with aiohttp.ClientSession() as session, session.get(f"{service.private_url}/readyz") as answer:
            return "KafkaConnectionError" in await answer.text()

    await until(refused, 30, "the relay to be refused")
    said += await deliver(service)
    said += await asked([service])
    await service.stop()
    assert service.status == 0
    output = (service.folder / "output.log").read_text()
    assert "role.retrying" in output
    assert "SaslAuthenticationFailed" in output, "aiokafka hides what it was refused for, but logs it"
    for one in (output, *said):
        assert found_in(one) == [], one[:2000]


@pytest.mark.parametrize(
    "error",
    [
        kafka_errors.KafkaError(TEXT),
        kafka_errors.KafkaConnectionError(f"Unable to bootstrap from {PASSWORD}"),
        kafka_errors.TopicAuthorizationFailedError({TEXT}),
        OSError(111, TEXT),
        ssl.SSLCertVerificationError(1, TEXT),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_kafka_is_cut_to_its_class(error: Exception) -> None:
    """What is said of a library's error is where, what was being done, and the class; never the library's text."""
    target = KafkaTarget("broker:9092", password=PASSWORD)
    assert str(explained(error, target, "reading")) == f"broker:9092: reading: {type(error).__name__}"


def test_a_wrong_configuration_shows_no_secret(service: Service) -> None:
    """Each kind of mistake beside a secret is named without the secret."""
    wrong = service.config.read_text() + f'\n[kafka]\npasswrod = "{PASSWORD}"\nsasl_mechanism = "{TEXT}"\n'
    service.config.write_text(wrong)
    environ = os.environ | {"WHATSMS_EVENTS_PRIVATE__TOKN": TOKEN, "WHATSMS_EVENTS_PUBLIC__PORT": SECRET}
    for command in ("serve", "config check", "config show", "demo"):
        done = run(service, *command.split(), environ=environ)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) >= 4
        assert found_in(done.stdout + done.stderr) == []


class Broken:
    """A committer that is told to fail, with a marked value in its exception."""

    async def deliver(self, delivery: Delivery, *, deadline_s: float) -> Outcome:
        """Raise what a bug would."""
        del deadline_s
        raise RuntimeError(f"{delivery.body!r} {TEXT}")


@pytest.fixture
def lines() -> Iterator[io.BytesIO]:
    """Collect log lines, and put logging back as it was."""
    configured = structlog.get_config()
    stream = io.BytesIO()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    hooks = sys.excepthook, sys.unraisablehook
    logs.configure("debug", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    sys.excepthook, sys.unraisablehook = hooks
    structlog.configure(**configured)


async def test_a_crash_in_a_handler_shows_no_marked_value(lines: io.BytesIO) -> None:
    """A bug whose exception carries the body gives 500 and one line with its type and place, without the value."""
    tenants = {SLUG: Tenant(slug=SLUG, tenant_id=TENANT, secrets={"current": SECRET.encode()})}
    receiver = Receiver(
        tenants,
        Broken(),  # type: ignore[arg-type]  # a fake that fails
        body_limit_bytes=1 << 20,
        in_flight_limit_bytes=1 << 24,
        deadline_s=3,
        now=lambda: datetime.now(UTC),
    )
    listener = Listener(receiver.handle)
    url = await listener.start("127.0.0.1", 0)
    payload = DELIVERIES["accepted"]
    headers = {HEADER: sign(payload, SECRET.encode())}
    async with aiohttp.ClientSession() as client:
        answer = await client.post(f"{url}/webhooks/{SLUG}", data=payload, headers=headers)
        assert answer.status == 500
        assert found_in(await answer.text()) == []
    await listener.stop(1)
    shown = lines.getvalue().decode()
    assert "RuntimeError" in shown
    assert found_in(shown.replace("test_canary", "").replace("tests/test_canary", "")) == []
