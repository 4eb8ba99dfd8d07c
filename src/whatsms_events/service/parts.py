"""Make the parts of a process from its settings: databases, the committer, the door, the read API, relay, consumer."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from whatsms_events.clock import now
from whatsms_events.config.checks import kept_days
from whatsms_events.config.render import comparable
from whatsms_events.config.settings import Settings
from whatsms_events.contracts.published import published
from whatsms_events.domain.events import to_micros
from whatsms_events.domain.marks import Marker
from whatsms_events.domain.normalize import record_limit_bytes
from whatsms_events.domain.retention import KINDS, RetentionKind, RetentionTerms
from whatsms_events.domain.scopes import SCOPES, scopes
from whatsms_events.kafka.connection import MAX_MESSAGE_BYTES, KafkaTarget
from whatsms_events.service.record_finder import RecordFinder
from whatsms_events.service.roles import CHECKS, Role
from whatsms_events.service.standings import Standings
from whatsms_events.service.stores import Stores
from whatsms_events.service.supervisor import Job
from whatsms_events.service.upstream import keyed
from whatsms_events.storage.database import (
    Database,
    schema_problem,
)
from whatsms_events.storage.log.committer import Committer
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.log.relay_row import RelayRows
from whatsms_events.storage.log.seals import Seals
from whatsms_events.storage.log.suppression import HeldSuppressions
from whatsms_events.storage.person import People
from whatsms_events.storage.privacy import HeldPlace, PrivacyCounts
from whatsms_events.storage.projection.apply import Projection
from whatsms_events.storage.projection.parked import ParkedEvents
from whatsms_events.storage.projection.retry import Retry
from whatsms_events.storage.reads import Queries, write_problem
from whatsms_events.storage.repair.reports import Reports
from whatsms_events.storage.role_lock import RoleLock
from whatsms_events.storage.trace import Traces
from whatsms_events.web.access import NamedToken
from whatsms_events.web.api import Api
from whatsms_events.web.documents import ContractFiles
from whatsms_events.web.export import PersonExport
from whatsms_events.web.feed import PLACES as FEED_PLACES
from whatsms_events.web.feed import Feed
from whatsms_events.web.health import Check, Health
from whatsms_events.web.privacy import QUESTION_S, Cutoffs, PrivacyReport
from whatsms_events.web.receiver import Receiver, Tenant
from whatsms_events.web.rejects import Rejects
from whatsms_events.web.running import RunningSettings
from whatsms_events.web.trace import Tracing
from whatsms_events.workers.consumer import Consumer
from whatsms_events.workers.observer import Observer
from whatsms_events.workers.older_tables import OlderTables
from whatsms_events.workers.relay import Relay
from whatsms_events.workers.retention import Retention
from whatsms_events.workers.sealer import Sealer
from whatsms_events.workers.sources import EventSource, KafkaSource, LogSource

CHECKS_MISSED: Final = 3
"""The relay's place moves only when it checks what is visible; so many checks may fail before that is a fault."""

THE_TOKEN: Final = "private.token"  # noqa: S105 - the name of the setting
"""What logs call the holder of the token that may do everything. No named token can have a dot in its name."""

EVER_DAYS: Final = 36_500.0
"""What is in memory ends with the process anyway."""

RUN_STILL_S: Final = 900.0
"""A run is saved at each answer of the vendor; a pause after 429 takes two minutes at most, and may come again."""


def kafka_target(settings: Settings) -> KafkaTarget | None:
    """Return where Kafka is; None where none is configured."""
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
        shared=len(settings.tenants) > 1,
        suppressions=HeldSuppressions(log, privacy_key(settings)),
    )


def privacy_key(settings: Settings) -> bytes | None:
    """Return the key of the marks of people who were forgotten; None where it is not given."""
    key = settings.privacy.key
    return None if key is None else key.get_secret_value().encode()


def make_rejects(settings: Settings, committer: Committer) -> Rejects:
    """Return the place for the last rejects of each tenant."""
    days = {slug: kept_days(settings, slug, "rejects_days") for slug in settings.tenants}
    kept_for = {slug: timedelta(days=one or EVER_DAYS) for slug, one in days.items()}
    limit, suppressions = settings.receiver.keep_rejects, committer.suppressions
    return Rejects(tenant_ids(settings), limit, now=now, kept_for=kept_for, suppressions=suppressions)


def door_tenants(settings: Settings) -> Mapping[str, Tenant]:
    """Return the tenants as the receiver knows them, by slug."""
    return {
        slug: Tenant(
            slug=slug,
            tenant_id=tenant.tenant_id,
            secrets={name: secret.get_secret_value().encode() for name, secret in tenant.webhook_secrets.items()},
        )
        for slug, tenant in settings.tenants.items()
    }


def make_receiver(settings: Settings, committer: Committer, rejects: Rejects) -> Receiver:
    """Return the receiver of the webhooks."""
    receiver = settings.receiver
    return Receiver(
        door_tenants(settings),
        committer,
        body_limit_bytes=receiver.body_limit_bytes,
        in_flight_limit_bytes=receiver.in_flight_limit_bytes,
        deadline_s=receiver.deadline_s,
        now=now,
        rejects=rejects,
    )


def tenant_ids(settings: Settings) -> Mapping[str, str]:
    """Return the id of each tenant by its slug."""
    return {slug: tenant.tenant_id for slug, tenant in settings.tenants.items()}


def make_api(settings: Settings, stores: Stores) -> Api:
    """Return the read API."""
    return Api(Queries(stores.log, stores.projection), tenant_ids(settings), Reports(stores.log))


def make_feed(settings: Settings, stores: Stores) -> Feed:
    """Return the event feed."""
    return Feed(
        Queries(stores.log, stores.projection, places=FEED_PLACES),
        EventLog(stores.log),
        tenant_ids(settings),
        tokens(settings),
        readers_limit=settings.private.feed_readers_limit,
    )


def make_tracing(settings: Settings, stores: Stores) -> Tracing:
    """Return what traces an event or a thing, as the command `trace` does."""
    finder = RecordFinder(stores.log, kafka_target(settings), settings.kafka.topic_prefix)
    queries = Queries(stores.log, stores.projection)
    return Tracing(Traces(stores.log, stores.projection), finder.find, queries, tenant_ids(settings))


def make_person_export(settings: Settings, stores: Stores) -> PersonExport:
    """Return what hands out all that is held of a person, as the command `export` does."""
    people, queries = People(stores.log, stores.projection), Queries(stores.log, stores.projection)
    return PersonExport(people, EventLog(stores.log), queries, tenant_ids(settings))


def privacy_cutoffs(settings: Settings) -> Cutoffs:
    """Return what says which times of a place are due for deletion, by tenant."""
    terms = terms_of(settings)

    def cutoffs(tenant: str, at: datetime) -> Mapping[HeldPlace, int | None]:
        kept = {place: terms.kept(tenant, kind) for place, kind in _KIND_OF.items()}
        return {place: None if one is None else to_micros(at - one) for place, one in kept.items()}

    return cutoffs


_KIND_OF: Final[Mapping[HeldPlace, RetentionKind]] = {
    "log_bytes": "raw",
    "log_data": "data",
    "messages": "texts",
    "revisions": "texts",
    "parked_deliveries": "parked",
    "parked_events": "parked",
    "backfill_items": "items",
    "backfill_drift": "drift",
}
"""What decides how long a place keeps what it has; contacts and tickets are kept for ever."""


def make_privacy_report(settings: Settings, stores: Stores) -> PrivacyReport:
    """Return what tells what is held of people, as the command `privacy report` does."""
    queries = Queries(stores.log, stores.projection, timeout_s=QUESTION_S)
    counts = PrivacyCounts(stores.log, stores.projection)
    return PrivacyReport(counts, queries, tenant_ids(settings), privacy_cutoffs(settings))


def make_running(settings: Settings) -> RunningSettings:
    """Return what tells `config diff` which settings this process works with."""
    return RunningSettings(partial(comparable, settings))


def make_contracts() -> ContractFiles:
    """Return what serves the contracts for machines."""
    return ContractFiles(published())


def open_metrics(settings: Settings) -> bool:
    """Tell whether `/metrics` is for everybody: until somebody has a token for it."""
    return not any("metrics" in scopes(one.scopes) for one in settings.private.tokens.values())


def tokens(settings: Settings) -> Sequence[NamedToken]:
    """Return the tokens that the private listener takes; where there is none, it asks for none."""
    private = settings.private
    found = [NamedToken(THE_TOKEN, private.token.get_secret_value().encode(), SCOPES)] if private.token else []
    for name, one in private.tokens.items():
        found.append(NamedToken(name, one.token.get_secret_value().encode(), scopes(one.scopes)))
    return found


def make_relay(
    settings: Settings, target: KafkaTarget, log: Database, *, monotonic: Callable[[], float] = time.monotonic
) -> Relay:
    """Return the worker that publishes the log to Kafka."""
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
        monotonic=monotonic,
    )


def make_consumer(
    settings: Settings,
    stores: Stores,
    *,
    rows: RelayRows | None = None,
    lock: RoleLock | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> Consumer:
    """Return the worker that applies events to the projection: from Kafka where there is one, else from the log.

    Its `lock` is with the locks of the other roles, in one session of the log's database.
    """
    event_log, target = EventLog(stores.log), kafka_target(settings)
    source: EventSource = LogSource(event_log)
    if target is not None:
        source = KafkaSource(
            event_log,
            rows or RelayRows(stores.log),
            target,
            settings.kafka.topic_prefix,
            poll_s=settings.consumer.poll_interval_s,
            monotonic=monotonic,
        )
    lock = lock or RoleLock(stores.log, "consumer")
    projection = Projection(stores.projection)
    retry = Retry(projection, ParkedEvents(stores.projection), event_log) if settings.consumer.retry_parked else None
    key = privacy_key(settings)
    older = OlderTables(stores.log, stores.projection, None if key is None else Marker(key), now=now)
    limit = settings.consumer.batch_limit
    return Consumer(projection, source, lock, batch_limit=limit, retry=retry, older=older)


def make_sealer(settings: Settings, log: Database, *, monotonic: Callable[[], float] = time.monotonic) -> Sealer:
    """Return the worker that seals closed parts of the log."""
    lock = RoleLock(log, "sealer")
    return Sealer(Seals(log), lock, interval_s=settings.sealer.interval_s, now=now, monotonic=monotonic)


def terms_of(settings: Settings) -> RetentionTerms:
    """Return how long each kind is kept, by tenant."""

    def kept(slug: str | None) -> dict[RetentionKind, timedelta | None]:
        days = {kind: kept_days(settings, slug, f"{kind}_days") for kind in KINDS}
        return {kind: timedelta(days=one) if one else None for kind, one in days.items()}

    return RetentionTerms(kept(None), {tenant.tenant_id: kept(slug) for slug, tenant in settings.tenants.items()})


def make_retention(settings: Settings, stores: Stores, *, monotonic: Callable[[], float] = time.monotonic) -> Retention:
    """Return the worker that blanks what was kept for its time."""
    prefix = None if settings.kafka.bootstrap_servers is None else settings.kafka.topic_prefix
    terms = terms_of(settings)
    return Retention(stores.log, stores.projection, terms, prefix=prefix, now=now, monotonic=monotonic)


def observed(settings: Settings) -> tuple[Mapping[str, str], Collection[str], Mapping[str, Collection[str]]]:
    """Return what the observer knows of the tenants, by their ids: slugs, who has a key, names of secrets."""
    tenants = settings.tenants.items()
    return (
        {tenant.tenant_id: slug for slug, tenant in tenants},
        [tenant.tenant_id for tenant in keyed(settings).values()],
        {tenant.tenant_id: tenant.webhook_secrets.keys() for _slug, tenant in tenants},
    )


def make_observer(settings: Settings, stores: Stores) -> Observer:
    """Return the observer, which keeps the gauges true whatever the workers do."""
    slugs, with_key, secrets = observed(settings)
    return Observer(
        stores.log,
        stores.projection,
        prefix=None if settings.kafka.bootstrap_servers is None else settings.kafka.topic_prefix,
        slugs=slugs,
        keyed=with_key,
        secrets=secrets,
        now=now,
    )


def make_standings(settings: Settings, jobs: Sequence[Job], receiving: Committer | None) -> Standings:
    """Return what tells whether each role of a process stands still; `receiving` is the committer of a receiver."""
    waits_s = max(settings.backfill.settle_s, settings.backfill.absence_s)
    return Standings(
        [job.role for job in jobs],
        None if receiving is None else lambda: receiving.problem,
        kafka=settings.kafka.bootstrap_servers is not None,
        limits={"relay": CHECKS_MISSED * settings.relay.check_interval_s, "backfill": RUN_STILL_S + waits_s},
    )


def make_health(
    stores: Stores,
    roles: frozenset[Role],
    *,
    state: Callable[[], Mapping[str, str | None]],
    details: Callable[[], Mapping[str, object]],
    starting: Callable[[], str | None],
    draining: Callable[[], bool],
) -> Health:
    """Return the probes of a process with these roles, with the checks that they need."""
    checks: dict[str, Check] = {
        "log_writable": lambda: write_problem(stores.log),
        "log_schema": lambda: schema_problem(stores.log),
        "projection_schema": lambda: schema_problem(stores.projection),
    }
    needs: dict[str, tuple[str, ...]] = {role: CHECKS[role] for role in roles}
    wanted = {name for names in needs.values() for name in names}
    return Health(
        checks={name: check for name, check in checks.items() if name in wanted},
        needs=needs,
        roles=state,
        details=details,
        starting=starting,
        draining=draining,
    )
