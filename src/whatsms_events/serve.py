"""Settings and roles in, a running service out: the roles of one process, started and stopped in order.

start   databases, observer, private listener, relay, consumer, committer, and last the public listener
stop    not ready any more, no new deliveries, those in flight answered, committer, relay, consumer, databases
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, get_args

import structlog

from whatsms_events import __version__, metrics
from whatsms_events.config import NO_TENANTS, Settings
from whatsms_events.errors import ConfigError, WhatsmsEventsError
from whatsms_events.storage.committer import Committer
from whatsms_events.storage.database import Database, DatabaseTarget, open_log, open_projection, schema_problem
from whatsms_events.storage.event_log import EventLog
from whatsms_events.storage.projection import Projection
from whatsms_events.storage.queries import Queries, write_problem
from whatsms_events.storage.relay_row import RelayRows
from whatsms_events.storage.role_lock import RoleLock
from whatsms_events.web.api import Api
from whatsms_events.web.app import Listener, private_app, public_app
from whatsms_events.web.health import Check, Health
from whatsms_events.web.receiver import Receiver, Tenant
from whatsms_events.workers.consumer import Consumer
from whatsms_events.workers.kafka import KafkaTarget
from whatsms_events.workers.loop import Bell, RoleState, Worker, run
from whatsms_events.workers.relay import Relay
from whatsms_events.workers.sources import KafkaSource, LogSource, Source

log = structlog.get_logger()

Role = Literal["receiver", "relay", "consumer"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)

OBSERVE_S: Final = 1.0
LOOK_LIMIT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the two listeners are; `public` is None without the receiver's role."""

    public: str | None
    private: str


def now() -> datetime:
    """Return our clock."""
    return datetime.now(UTC)


def log_target(settings: Settings) -> DatabaseTarget:
    """Return where the event log is."""
    return _target(settings, settings.data_dir.absolute() / "log.db")


def projection_target(settings: Settings) -> DatabaseTarget:
    """Return where the projection is: a file beside the log on SQLite, the same database on PostgreSQL."""
    url = settings.database.url
    if url is not None and url.startswith("sqlite"):
        beside = Path(log_target(settings).url.removeprefix("sqlite:///")).with_name("projection.db")
        return DatabaseTarget(url=f"sqlite:///{beside}")
    return _target(settings, settings.data_dir.absolute() / "projection.db")


def _target(settings: Settings, file: Path) -> DatabaseTarget:
    database = settings.database
    return DatabaseTarget(
        url=database.url or f"sqlite:///{file}",
        password=database.password.get_secret_value() if database.password else None,
        tls=database.tls,
        tls_ca_file=database.tls_ca_file,
    )


def kafka_target(settings: Settings) -> KafkaTarget | None:
    """Return where Kafka is, None where none is configured."""
    kafka = settings.kafka
    if kafka.bootstrap_servers is None:
        return None
    return KafkaTarget(
        bootstrap_servers=kafka.bootstrap_servers,
        security_protocol=kafka.security_protocol,
        sasl_mechanism=kafka.sasl_mechanism,
        username=kafka.username,
        password=kafka.password.get_secret_value() if kafka.password else None,
        ca_file=kafka.ca_file,
        cert_file=kafka.cert_file,
        key_file=kafka.key_file,
        timeout_s=kafka.timeout_s,
    )


class Service:
    """One process of the service: its parts, and the order in which they start and stop."""

    def __init__(self, settings: Settings, roles: frozenset[Role] = frozenset(ROLES)) -> None:
        """Take what is to run; the relay needs a Kafka, so without one its role is left out."""
        self._settings = settings
        self._kafka = kafka_target(settings)
        self.roles = roles if self._kafka is not None else roles - {"relay"}
        if not self.roles:
            raise ConfigError("roles: the relay needs kafka.bootstrap_servers")
        if "receiver" in self.roles and not settings.tenants:
            raise ConfigError(NO_TENANTS)
        self._bells: dict[Role, Bell] = {"relay": Bell(), "consumer": Bell()}
        self._observing = Bell()
        self._states: dict[str, tuple[RoleState, str]] = {}
        self._draining = False

    async def run(self, stop: asyncio.Event, *, on_ready: Callable[[Addresses], None]) -> bool:
        """Serve until `stop` is set; return False where every role has halted and nothing was left to do.

        Raises ConfigError, StorageUnavailableError, or OSError for a port that is taken, before it is ready.
        """
        metrics.BUILD.info({"version": __version__})
        on_sqlite = log_target(self._settings).url.startswith("sqlite")  # one process, one file: it migrates by itself
        async with AsyncExitStack() as stack:
            log_database = await open_log(log_target(self._settings), migrate=on_sqlite)
            stack.push_async_callback(log_database.close)
            projection = await open_projection(projection_target(self._settings), migrate=on_sqlite)
            stack.push_async_callback(projection.close)
            return await self._run(stop, on_ready, log_database, projection)

    async def _run(
        self, stop: asyncio.Event, on_ready: Callable[[Addresses], None], log_database: Database, projection: Database
    ) -> bool:
        """Start the parts, wait, and stop them in order."""
        settings = self._settings
        committer = self._committer(log_database)
        public = Listener(public_app(self._receiver(committer)))
        private = Listener(private_app(self._api(log_database, projection), self._health(log_database, projection)))
        flushed = asyncio.Event()
        await self._look(log_database, projection)  # nobody shall read zeros that nobody measured
        async with asyncio.TaskGroup() as tasks:
            try:
                tasks.create_task(self._observe(log_database, projection))
                private_url = await private.start(settings.private.host, settings.private.port)
                for role, worker in self._workers(log_database, projection).items():
                    tasks.create_task(self._repeat(role, worker, stop))
                public_url = None
                if "receiver" in self.roles:
                    tasks.create_task(committer.run(flushed))
                    public_url = await public.start(settings.public.host, settings.public.port)
                on_ready(Addresses(public_url, private_url))
                await stop.wait()
            finally:
                self._draining = True
                log.info("service.stopping")
                await public.stop(settings.receiver.drain_s)
                flushed.set()
                for bell in (*self._bells.values(), self._observing):
                    bell.stop()
        await private.stop(1.0)
        log.info("service.stopped")
        return not self._nothing_left()

    async def _repeat(self, role: Role, worker: Worker, stop: asyncio.Event) -> None:
        """Run one role; where it was the last one that had not halted, stop the process."""

        def on_state(state: RoleState, why: str) -> None:
            self._states[role] = (state, why)

        relay_s, consumer_s = self._settings.relay.poll_interval_s, self._settings.consumer.poll_interval_s
        await run(role, worker, self._bells[role], idle_s=relay_s if role == "relay" else consumer_s, on_state=on_state)
        if self._nothing_left():
            stop.set()

    async def _observe(self, log_database: Database, projection: Database) -> None:
        """Keep the gauges true whatever the workers do: one that has halted or backs off measures nothing."""
        while not self._observing.stopping:
            await self._look(log_database, projection)
            await self._observing.wait(OBSERVE_S)

    async def _look(self, log_database: Database, projection: Database) -> None:
        """Set the gauges from what the databases say; where one is away, readiness and the workers say so."""
        event_log, prefix = EventLog(log_database), self._settings.kafka.topic_prefix
        with suppress(WhatsmsEventsError, TimeoutError):
            async with asyncio.timeout(LOOK_LIMIT_S):
                metrics.LOG_END.set(await event_log.end())
                if self._kafka is not None:
                    await _see_published(event_log, RelayRows(log_database), prefix)
        with suppress(WhatsmsEventsError, TimeoutError):
            async with asyncio.timeout(LOOK_LIMIT_S):
                through = (await Projection(projection).state()).applied_through
                metrics.APPLIED_THROUGH.set(through)
                metrics.CONSUMER_LAG.labels("log", "0").set(await event_log.end() - through)

    def _nothing_left(self) -> bool:
        halted = {role for role, (state, _why) in self._states.items() if state == "halted"}
        return self.roles <= halted

    def _ring(self, _end: int) -> None:
        """Wake whoever reads the log in this process."""
        for bell in self._bells.values():
            bell.ring()

    def _committer(self, database: Database) -> Committer:
        receiver = self._settings.receiver
        return Committer(
            database,
            batch_limit=receiver.batch_limit,
            queue_limit=receiver.queue_limit,
            queue_limit_bytes=receiver.in_flight_limit_bytes,
            on_commit=self._ring,
        )

    def _receiver(self, committer: Committer) -> Receiver:
        receiver = self._settings.receiver
        tenants = {
            slug: Tenant(
                slug=slug,
                tenant_id=tenant.tenant_id,
                secrets={name: secret.get_secret_value().encode() for name, secret in tenant.webhook_secrets.items()},
            )
            for slug, tenant in self._settings.tenants.items()
        }
        return Receiver(
            tenants,
            committer,
            body_limit_bytes=receiver.body_limit_bytes,
            in_flight_limit_bytes=receiver.in_flight_limit_bytes,
            deadline_s=receiver.deadline_s,
            now=now,
        )

    def _workers(self, log_database: Database, projection_database: Database) -> dict[Role, Worker]:
        settings = self._settings
        event_log = EventLog(log_database)
        source: Source = LogSource(event_log)
        workers: dict[Role, Worker] = {}
        if self._kafka is not None:
            prefix, rows = settings.kafka.topic_prefix, RelayRows(log_database)
            poll_s = settings.consumer.poll_interval_s
            source = KafkaSource(event_log, rows, self._kafka, prefix, poll_s=poll_s, monotonic=time.monotonic)
            if "relay" in self.roles:
                workers["relay"] = Relay(
                    event_log,
                    rows,
                    self._kafka,
                    prefix,
                    RoleLock(log_database, "relay"),
                    body_limit_bytes=settings.receiver.body_limit_bytes,
                    batch_limit=settings.relay.batch_limit,
                    check_interval_s=settings.relay.check_interval_s,
                    transaction_timeout_s=settings.relay.transaction_timeout_s,
                    now=now,
                    monotonic=time.monotonic,
                )
        if "consumer" in self.roles:
            workers["consumer"] = Consumer(
                Projection(projection_database),
                source,
                RoleLock(projection_database, "consumer"),
                batch_limit=settings.consumer.batch_limit,
            )
        return workers

    def _api(self, log_database: Database, projection: Database) -> Api:
        token = self._settings.private.token
        return Api(
            Queries(log_database, projection),
            {slug: tenant.tenant_id for slug, tenant in self._settings.tenants.items()},
            token.get_secret_value() if token is not None else None,
        )

    def _health(self, log_database: Database, projection: Database) -> Health:
        checks: dict[str, Check] = {
            "log_writable": lambda: write_problem(log_database),
            "log_schema": lambda: schema_problem(log_database),
        }
        if "receiver" not in self.roles:  # a receiver is ready where a delivery would be accepted: the log is enough
            checks["projection_schema"] = lambda: schema_problem(projection)
        return Health(
            checks=checks,
            details=lambda: {role: {"state": state, "why": why} for role, (state, why) in self._states.items()},
            draining=lambda: self._draining,
        )


async def _see_published(event_log: EventLog, rows: RelayRows, prefix: str) -> None:
    """Set the relay's gauges from its row, which holds what is known to be visible in Kafka."""
    published = await rows.load(prefix)
    through = published.published_through if published is not None else 0
    waiting = await event_log.read(through, 1)
    metrics.RELAY_THROUGH.set(through)
    metrics.RELAY_LAG.set(await event_log.end() - through if waiting else 0)
    metrics.RELAY_OLDEST.set(waiting[0].event.received_at.timestamp() if waiting else 0)
