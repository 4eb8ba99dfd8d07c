"""Settings in, the parts of a process out: where its databases and brokers are, its door, its workers."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from whatsms_events.config.settings import Settings
from whatsms_events.domain.normalize import record_limit_bytes
from whatsms_events.kafka.connection import MAX_MESSAGE_BYTES, KafkaTarget
from whatsms_events.storage.database import Database, DatabaseTarget
from whatsms_events.storage.log.committer import Committer
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.log.relay_row import RelayRows
from whatsms_events.storage.projection.apply import Projection
from whatsms_events.storage.reads import Queries
from whatsms_events.storage.repair.reports import Reports
from whatsms_events.storage.role_lock import RoleLock
from whatsms_events.web.api import Api
from whatsms_events.web.receiver import Receiver, Tenant
from whatsms_events.workers.consumer import Consumer
from whatsms_events.workers.relay import Relay
from whatsms_events.workers.sources import EventSource, KafkaSource, LogSource


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
        max_message_bytes=max(MAX_MESSAGE_BYTES, record_limit_bytes(settings.receiver.body_limit_bytes)),
    )


def make_committer(settings: Settings, log: Database, on_commit: Callable[[int], None]) -> Committer:
    """Return the one writer of the log."""
    receiver = settings.receiver
    return Committer(
        log,
        batch_limit=receiver.batch_limit,
        queue_limit=receiver.queue_limit,
        queue_limit_bytes=receiver.in_flight_limit_bytes,
        on_commit=on_commit,
    )


def make_receiver(settings: Settings, committer: Committer) -> Receiver:
    """Return the door."""
    receiver = settings.receiver
    tenants = {
        slug: Tenant(
            slug=slug,
            tenant_id=tenant.tenant_id,
            secrets={name: secret.get_secret_value().encode() for name, secret in tenant.webhook_secrets.items()},
        )
        for slug, tenant in settings.tenants.items()
    }
    return Receiver(
        tenants,
        committer,
        body_limit_bytes=receiver.body_limit_bytes,
        in_flight_limit_bytes=receiver.in_flight_limit_bytes,
        deadline_s=receiver.deadline_s,
        now=now,
    )


def make_api(settings: Settings, log: Database, projection: Database) -> Api:
    """Return the read API."""
    tenants = {slug: tenant.tenant_id for slug, tenant in settings.tenants.items()}
    token = settings.private.token
    secret = token.get_secret_value() if token is not None else None
    return Api(Queries(log, projection), tenants, secret, Reports(log))


def make_relay(settings: Settings, target: KafkaTarget, log: Database) -> Relay:
    """Return what publishes the log to Kafka."""
    return Relay(
        EventLog(log),
        RelayRows(log),
        target,
        settings.kafka.topic_prefix,
        RoleLock(log, "relay"),
        body_limit_bytes=settings.receiver.body_limit_bytes,
        batch_limit=settings.relay.batch_limit,
        check_interval_s=settings.relay.check_interval_s,
        transaction_timeout_s=settings.relay.transaction_timeout_s,
        now=now,
        monotonic=time.monotonic,
    )


def make_consumer(settings: Settings, log: Database, projection: Database) -> Consumer:
    """Return what applies events to the projection, from Kafka where there is one."""
    event_log, target = EventLog(log), kafka_target(settings)
    source: EventSource = LogSource(event_log)
    if target is not None:
        rows, prefix = RelayRows(log), settings.kafka.topic_prefix
        poll_s = settings.consumer.poll_interval_s
        source = KafkaSource(event_log, rows, target, prefix, poll_s=poll_s, monotonic=time.monotonic)
    lock = RoleLock(log, "consumer")  # with the other roles' locks, in one session
    return Consumer(Projection(projection), source, lock, batch_limit=settings.consumer.batch_limit)
