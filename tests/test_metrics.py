"""Every metric, scraped from real processes after a short story whose numbers are known."""

import asyncio
import math
import shutil
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args
from uuid import uuid4

import aiohttp
import pytest
from confluent_kafka import Producer
from prometheus_client import REGISTRY, Counter, Gauge, Histogram, Info
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import select

from servers.compare import opened, until, whole_log
from servers.kafka import Broker, RunningKafka
from servers.metric import name_of
from servers.service import SLUG, Service, command
from servers.upstream import account, sections
from test_journey import delivery, get, post, told
from whatsms_events import __version__, metrics
from whatsms_events.domain.drift import DriftKind
from whatsms_events.domain.events import Entity
from whatsms_events.domain.records import TOPICS, to_record
from whatsms_events.domain.retention import KINDS as RETAINED
from whatsms_events.domain.signature import HEADER, sign
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.tables import event_log

pytestmark = pytest.mark.process

KINDS = (Counter, Gauge, Histogram, Info)
DEADLINE_S = 120.0
POLL_S = 0.2

Sample = tuple[str, frozenset[tuple[str, str]]]
"""A sample's name without our prefix, and its labels."""


def sample(name: str, **labels: str) -> Sample:
    """Return the key of a sample."""
    return name, frozenset(labels.items())


def door(*, accepted: int, duplicate: int) -> dict[Sample, float]:
    """Return what the door shows after a story and `misbehave`, one delivery after the other."""
    signed = accepted + duplicate + 1
    return {
        sample("deliveries_total", tenant=SLUG, outcome="accepted"): accepted,
        sample("deliveries_total", tenant=SLUG, outcome="duplicate"): duplicate,
        sample("deliveries_total", tenant=SLUG, outcome="parked"): 1,
        sample("deliveries_total", tenant=SLUG, outcome="signature_wrong"): 1,
        sample("deliveries_total", tenant=SLUG, outcome="signature_missing"): 1,
        sample("deliveries_total", tenant="", outcome="unknown_slug"): 1,
        sample("deliveries_signed_total", tenant=SLUG, secret="current"): signed,
        sample("delivery_duration_seconds_count"): signed + 3,
        sample("delivery_size_bytes_count"): signed,
        sample("delivery_delay_seconds_count"): accepted + duplicate,
        sample("in_flight_bytes"): 0,
        sample("queued_deliveries"): 0,
        sample("commit_duration_seconds_count"): signed,
        sample("commit_deliveries_count"): signed,
        sample("commit_deliveries_sum"): signed,
        sample("parked_total", stage="door", reason="not_json"): 1,
    }


STORY = {"message.ack": 2, "message.received": 1, "message.sent": 1, "ticket.updated": 1, "ticket.closed": 1}
"""What `tell` tells, by type."""

APPENDED = {sample("appended_total", type=name): count for name, count in STORY.items()}
APPLIED = {
    **{sample("applied_total", type=name): count for name, count in STORY.items()},
    sample("role_state", role="consumer"): 1,
    sample("role_stalled_seconds", role="consumer"): 0,
    sample("consumer_lag_records", topic="log", partition="0"): 0,
    # One message of ours: delivered (told before the message itself, so the delay is not known), pending, read.
    sample("message_acks_total", level="delivered"): 1,
    sample("message_acks_total", level="pending"): 1,
    sample("message_acks_total", level="read"): 1,
    sample("message_ack_delay_seconds_count", level="pending"): 1,
    sample("message_ack_delay_seconds_sum", level="pending"): 0,
    sample("message_ack_delay_seconds_count", level="read"): 1,
    sample("message_ack_delay_seconds_sum", level="read"): 9,
}
RETENTION = {
    sample("role_state", role="retention"): 1,
    **{sample("retention_behind_seconds", kind=kind): 0 for kind in RETAINED},
}
BUILD = {sample("build_info", version=__version__): 1, sample("settings_refused"): 0, sample("privacy_key_differs"): 0}

ON_SQLITE: Mapping[Sample, float] = {
    **BUILD,
    **door(accepted=6, duplicate=6),
    **APPENDED,
    **APPLIED,
    sample("log_end_position"): 6,
    sample("sealed_through_position"): 0,  # sealed once it has waited for sealer.interval_s
    sample("seal_lag_events"): 6,
    sample("role_state", role="sealer"): 1,
    **RETENTION,
    sample("applied_through_position"): 6,
    sample("consumer_skipped_total"): 0,
    sample("feed_readers"): 0,
    sample("role_state", role=f"watchdog.{SLUG}"): 1,
    sample("silent", tenant=SLUG): 0,
    sample("parked_in_a_row", tenant=SLUG): 1,
    sample("largest_refused_bytes"): 0,
    sample("undelivered_messages", tenant=SLUG): 0,
}


def repaired(*, tickets: int, contacts: int, finished: int, running: int, requests: int) -> dict[Sample, float]:
    """Return what a service shows after the first reconcile of an account that it had never heard of.

    Of a campaign only the end is announced.
    """
    found = {("ticket", "missed"): tickets, ("contact", "missed"): contacts}
    found |= {("campaign", "missed"): finished, ("campaign", "unannounced"): running}
    return {
        sample("role_state", role=f"backfill.{SLUG}"): 0,
        sample("upstream_requests_total", outcome="ok"): requests,
        sample("backfill_state", tenant=SLUG): 0,
        sample("backfill_remaining_items", tenant=SLUG): 0,
        sample("backfill_unsettled", tenant=SLUG): 0,
        sample("backfill_unstable_lists", tenant=SLUG): 0,
        sample("backfill_forbidden", tenant=SLUG): 0,
        **{sample("backfill_gone_held_back", tenant=SLUG, entity=entity): 0 for entity in get_args(Entity)},
        **{
            sample("backfill_observed_total", entity=entity, kind=kind): count
            for (entity, kind), count in found.items()
            if count
        },
        **{
            sample("drift", entity=entity, kind=kind): found.get((entity, kind), 0)
            for entity in get_args(Entity)
            for kind in get_args(DriftKind)
        },
        sample("appended_total", type="ticket.observed"): tickets,
        sample("appended_total", type="contact.observed"): contacts,
        sample("appended_total", type="campaign.observed"): finished + running,
    }


# With Kafka two events more, for the other two topics; every process shows how far the whole is.
EVERYWHERE: Mapping[Sample, float] = {
    **BUILD,
    sample("log_end_position"): 8,
    sample("relay_published_through_position"): 8,
    sample("relay_lag_events"): 0,
    sample("relay_oldest_unpublished_timestamp_seconds"): 0,
    sample("applied_through_position"): 8,
    sample("consumer_lag_records", topic="log", partition="0"): 0,
}
RECEIVER: Mapping[Sample, float] = {
    **EVERYWHERE,
    **door(accepted=8, duplicate=1),
    **APPENDED,
    sample("appended_total", type="contact.updated"): 1,
    sample("appended_total", type="campaign.finished"): 1,
}
KILLED_RELAY: Mapping[Sample, float] = {
    sample("role_state", role="relay"): 1,
    sample("relay_openings_total", cause="start"): 1,
    sample("relay_published_total", topic="conversations"): 6,
    sample("relay_published_through_position"): 0,
    sample("relay_lag_events"): 6,
}
RELAY: Mapping[Sample, float] = {
    **EVERYWHERE,
    **{sample("topic_keeps_seconds", topic=suffix): 31 * 86_400 for suffix in TOPICS},
    sample("role_state", role="relay"): 1,
    sample("relay_openings_total", cause="start"): 1,
    sample("relay_skipped_total", reason="visible"): 6,
    sample("relay_published_total", topic="contacts"): 1,
    sample("relay_published_total", topic="campaigns"): 1,
}
CONSUMER: Mapping[Sample, float] = {
    **EVERYWHERE,
    **APPLIED,
    sample("applied_total", type="contact.updated"): 1,
    sample("applied_total", type="campaign.finished"): 1,
    sample("consumer_skipped_total"): 6,
    sample("parked_total", stage="fold", reason="stray"): 1,
    sample("stray_records_total", role="consumer", topic="contacts"): 1,
}

AT_LEAST_ONE = {"apply_duration_seconds_count", "relay_transaction_duration_seconds_count"}
"""How often depends on how many events came in one batch."""

TIMES = {
    "upstream_wait_seconds_total",
    "backfill_last_success_timestamp_seconds",
    "last_accepted_timestamp_seconds",
    "clock_offset_seconds",
    "secret_first_match_timestamp_seconds",
    "secret_last_match_timestamp_seconds",
    "free_bytes",
    "retention_oldest_timestamp_seconds",
}
"""Times, durations and the disk of real processes: the test knows bounds only."""


async def scrape(session: aiohttp.ClientSession, service: Service) -> dict[Sample, float]:
    """Return what a process shows on /metrics of ours."""
    async with session.get(f"{service.private_url}/metrics") as answer:
        assert answer.status == 200
        text = await answer.text()
    return {
        (one.name.removeprefix("whatsms_events_"), frozenset(one.labels.items())): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
        if one.name.startswith("whatsms_events_")
    }


async def shows(session: aiohttp.ClientSession, service: Service, expected: Mapping[Sample, float]) -> None:
    """Wait until the process shows these values, and fail with the difference if it does not."""
    until = asyncio.get_running_loop().time() + DEADLINE_S
    while True:
        found = await scrape(session, service)
        missed = {key: (found.get(key), value) for key, value in expected.items() if found.get(key) != value}
        if not missed:
            return
        assert asyncio.get_running_loop().time() < until, f"{service}: (found, expected) of {missed}"
        await asyncio.sleep(POLL_S)  # it polls a real server


async def tell(session: aiohttp.ClientSession, service: Service) -> None:
    """Tell the journey's story, and that its answer was read nine seconds after it was written."""
    await told(session, service)
    read = delivery("message.ack", "2026-01-15T10:31:09Z", message={"id": "m-2", "ack": 4})
    assert (await post(session, service, read))["status"] == 200


async def misbehave(session: aiohttp.ClientSession, service: Service) -> None:
    """Send what is refused or parked: each once."""
    assert (await post(session, service, b"{ not json"))["status"] == 202
    good = delivery("ticket.closed", "2026-01-15T10:40:00Z", ticket={"id": "t-2"})
    for url, headers, status in (
        (service.webhook_url, {}, 401),
        (service.webhook_url, {HEADER: sign(good, b"another secret")}, 401),
        (service.webhook_url.replace(SLUG, "nobody"), {}, 404),
    ):
        async with session.post(url, data=good, headers=headers) as answer:
            assert answer.status == status, (headers, await answer.text())


def on_kafka(postgres_url: str, bootstrap: str, prefix: str, **relay: object) -> dict[str, dict[str, object]]:
    """Return the settings of a service on PostgreSQL and Kafka."""
    return {
        "database": {"url": postgres_url},
        "kafka": {"bootstrap_servers": bootstrap, "topic_prefix": prefix, "partitions": 3, "timeout_s": 3},
        "relay": relay,
    }


def produce(bootstrap: str, topic: str, value: bytes, headers: list[tuple[str, bytes]]) -> None:
    """Write a record that is not the relay's."""
    producer = Producer({"bootstrap.servers": bootstrap, "log_level": 0})
    producer.produce(topic, value, key=b"stranger", headers=headers)  # type: ignore[arg-type]  # its stubs want a union
    assert producer.flush(20) == 0


def test_no_metric_is_left_untested() -> None:
    """Every metric of the module has a sample in the tables that the tests below hold real processes to."""
    once = repaired(tickets=1, contacts=1, finished=1, running=1, requests=1)
    tables = (ON_SQLITE, RECEIVER, KILLED_RELAY, RELAY, CONSUMER, once)
    # In tests/test_meaning.py, tests/web/test_access.py, tests/workers/test_retention.py, tests/web/test_feed.py, and
    # tests/cli/test_forget.py.
    elsewhere = {"unreadable_times_total", "tokens_refused_total", "retention_blanked_total", "feed_ended_total"}
    elsewhere.add("suppressed_total")
    # In tests/workers/test_observer.py.
    elsewhere |= {"held_people", "held_rows", "forgotten_people", "forgotten_kafka_until_timestamp_seconds"}
    elsewhere.add("forgotten_unread_parked")
    # In tests/workers/test_forgetting_unseen.py.
    elsewhere.add("forgetting_not_followed_total")
    tested = {name for table in tables for name, _labels in table} | AT_LEAST_ONE | TIMES | elsewhere
    names = {name_of(one).removeprefix("whatsms_events_") for one in vars(metrics).values() if isinstance(one, KINDS)}
    assert len(names) >= 28
    untested = {
        name for name in names if not tested & {f"{name}{end}" for end in ("", "_total", "_count", "_sum", "_info")}
    }
    assert not untested


async def test_the_metrics_of_one_process_on_sqlite(tmp_path: Path) -> None:
    """After a story told twice, garbage and wrong signatures, every count, sum and gauge is what was sent."""
    service = Service(tmp_path / "service")
    await service.start()
    async with aiohttp.ClientSession() as session:
        await tell(session, service)
        await tell(session, service)
        await misbehave(session, service)
        await shows(session, service, ON_SQLITE)
        found = await scrape(session, service)
        events = await get(session, service, "/api/v1/events")
    await service.stop()
    assert found[sample("log_end_position")] == events["end"]
    assert found[sample("apply_duration_seconds_count")] >= 1
    assert 0 < found[sample("free_bytes")] <= shutil.disk_usage(tmp_path).total
    assert 0 < found[sample("commit_duration_seconds_sum")] <= found[sample("delivery_duration_seconds_sum")] < 30
    log, projection = await opened(
        f"sqlite:///{service.folder / 'log.db'}", f"sqlite:///{service.folder / 'projection.db'}"
    )
    async with log.read() as connection:
        rows = (await connection.execute(select(event_log.c.raw))).scalars().all()
    entries = await whole_log(log)
    await log.close()
    await projection.close()
    assert found[sample("delivery_size_bytes_sum")] == 2 * sum(len(raw) for raw in rows) + len(b"{ not json")
    delays = [
        (one.event.received_at - one.event.occurred_at).total_seconds()
        for one in entries
        if one.event.occurred_at is not None
    ]
    # Each came a second time a moment later.
    assert math.isclose(found[sample("delivery_delay_seconds_sum")], 2 * sum(delays), abs_tol=60)


async def test_the_metrics_of_a_first_reconcile(tmp_path: Path) -> None:
    """What the vendor shows and no webhook told is counted by entity and kind, with the requests that it took."""
    async with account() as there:
        began = time.time()
        settings = sections(there.url, backfill={"repair_interval_s": 0})
        service = Service(tmp_path / "service", roles="receiver,consumer,backfill", settings=settings)
        await service.start()
        async with aiohttp.ClientSession() as session:
            key = sample("backfill_last_success_timestamp_seconds", tenant=SLUG)

            async def reconciled() -> bool:
                return (await scrape(session, service)).get(key, 0) > 0

            await until(reconciled, DEADLINE_S, "the first reconcile")
            await told(session, service)
            held = there.world.account
            running = len([one for one in held.campaigns.values() if one.status != "finished"])
            expected = repaired(
                tickets=len(held.tickets),
                contacts=len(held.contacts),
                finished=len(held.campaigns) - running,
                running=running,
                requests=there.rest.counts.total(),
            )
            await shows(session, service, expected)
            accepted = sample("last_accepted_timestamp_seconds", tenant=SLUG)

            async def heard() -> bool:
                return (await scrape(session, service)).get(accepted, 0) > 0

            await until(heard, DEADLINE_S, "the watchdog")
            for number in range(5):  # with the story's five enough for a lower quartile
                stamp = datetime.fromtimestamp(time.time() - 30, UTC).isoformat()
                body = delivery("ticket.updated", stamp, ticket={"id": f"late-{number}", "status": "open"})
                assert (await post(session, service, body))["status"] == 200
            found = await scrape(session, service)
        await service.stop()
    assert 30 <= found[sample("clock_offset_seconds", tenant=SLUG)] < 30 + time.time() - began
    assert began <= found[key] <= found[accepted] <= time.time()
    assert 0 <= found[sample("upstream_wait_seconds_total")] < time.time() - began


async def test_the_metrics_of_three_processes_on_postgresql_and_kafka(
    postgres_url: str, kafka: RunningKafka, topic_prefix: str, tmp_path: Path
) -> None:
    """Each role shows its own counts and all show the same lags; a relay that takes over skips what is visible, and a
    new projection skips in Kafka what the log gave.
    """
    settings = on_kafka(postgres_url, kafka.bootstrap, topic_prefix)
    receiver = Service(tmp_path / "receiver", roles="receiver", settings=settings)
    relay = Service(tmp_path / "relay", roles="relay", settings=settings)
    consumer = Service(tmp_path / "consumer", roles="consumer", settings=settings)
    rare = on_kafka(postgres_url, kafka.bootstrap, topic_prefix, check_interval_s=300)  # it never saves how far it is
    killed = Service(tmp_path / "killed", roles="relay", settings=rare)
    command(receiver, "db", "upgrade")
    command(receiver, "topics", "create")
    await asyncio.gather(receiver.start(), killed.start())
    async with aiohttp.ClientSession() as session:
        await tell(session, receiver)
        await shows(session, killed, KILLED_RELAY)
        await killed.kill()
        await relay.start()
        await shows(session, relay, {sample("relay_skipped_total", reason="visible"): 6})
        await consumer.start()
        await shows(session, consumer, {sample("consumer_skipped_total"): 6})
        for body in (
            delivery("contact.updated", "2026-01-15T10:30:00Z", contact={"id": "c-9", "name": "Ana"}),
            delivery("campaign.finished", "2026-01-15T10:30:00Z", campaign={"id": "k-1", "status": "finished"}),
        ):
            assert (await post(session, receiver, body))["status"] == 200
        assert (await post(session, receiver, body))["duplicate"]
        await misbehave(session, receiver)
        produce(kafka.bootstrap, f"{topic_prefix}.contacts", b"nothing of ours", [])
        partitions = {
            sample("consumer_lag_records", topic=f"{topic_prefix}.{suffix}", partition=str(number)): 0.0
            for suffix in TOPICS
            for number in range(3)
        }
        await shows(session, receiver, RECEIVER)
        await shows(session, relay, RELAY)
        await shows(session, consumer, {**CONSUMER, **partitions})
        assert (await scrape(session, relay))[sample("relay_transaction_duration_seconds_count")] >= 1
        assert (await scrape(session, consumer))[sample("apply_duration_seconds_count")] >= 1
    for service in (receiver, relay, consumer):
        await service.stop()


async def test_lags_are_true_while_the_broker_is_down_and_after_a_restart(own_broker: Broker, tmp_path: Path) -> None:
    """With the broker killed, lag and oldest grow with the log; a process started then shows them at once, and the
    partitions that nobody can read are not shown; with the broker back they go to 0.
    """
    kafka: dict[str, object] = {"bootstrap_servers": own_broker.bootstrap, "partitions": 1, "timeout_s": 2}
    service = Service(tmp_path / "service", settings={"kafka": kafka})
    command(service, "topics", "create")
    await service.start()
    none_waits = {
        sample("relay_lag_events"): 0.0,
        sample("relay_oldest_unpublished_timestamp_seconds"): 0.0,
        sample("consumer_lag_records", topic="log", partition="0"): 0.0,
    }
    async with aiohttp.ClientSession() as session:
        await told(session, service)
        all_five = {sample("relay_published_through_position"): 5.0, sample("applied_through_position"): 5.0}
        await shows(session, service, {**none_waits, **all_five})
        await own_broker.kill()
        for count in (1, 2):
            body = delivery("contact.updated", "2026-01-15T10:30:00Z", contact={"id": f"c-{count}", "name": "Ana"})
            assert (await post(session, service, body))["status"] == 200
            await shows(session, service, {sample("relay_lag_events"): count})
        log, projection = await opened(
            f"sqlite:///{service.folder / 'log.db'}", f"sqlite:///{service.folder / 'projection.db'}"
        )
        oldest = (await EventLog(log).read(5, 1))[0].event.received_at.timestamp()
        await log.close()
        await projection.close()
        waiting = {
            sample("log_end_position"): 7.0,
            **all_five,
            sample("relay_lag_events"): 2.0,
            sample("relay_oldest_unpublished_timestamp_seconds"): oldest,
            sample("consumer_lag_records", topic="log", partition="0"): 2.0,
        }
        await shows(session, service, waiting)
        await service.kill()
        await service.start()
        found = await scrape(session, service)
        assert {key: found.get(key) for key in waiting} == waiting
        shown = {dict(labels)["topic"] for name, labels in found if name == "consumer_lag_records"}
        assert shown == {"log"}
        await own_broker.start()
        await shows(session, service, none_waits)
    await service.stop()


async def test_lags_grow_after_relay_and_consumer_have_halted(
    postgres_url: str, kafka: RunningKafka, topic_prefix: str, tmp_path: Path
) -> None:
    """A record of another log in a topic halts relay and consumer; the receiver goes on, and lag and oldest grow."""
    service = Service(tmp_path / "service", settings=on_kafka(postgres_url, kafka.bootstrap, topic_prefix))
    command(service, "db", "upgrade")
    command(service, "topics", "create")
    await service.start()
    async with aiohttp.ClientSession() as session:
        await told(session, service)
        await shows(session, service, {sample("relay_lag_events"): 0, sample("applied_through_position"): 5})
        log, projection = await opened(postgres_url, postgres_url)
        record = to_record((await whole_log(log))[0], uuid4())
        produce(kafka.bootstrap, f"{topic_prefix}.conversations", record.value, list(record.headers))
        await service.kill()
        await service.start()
        halted = {sample("role_state", role="relay"): 2.0, sample("role_state", role="consumer"): 2.0}
        await shows(session, service, {**halted, sample("relay_lag_events"): 0})
        for count in (1, 2):
            body = delivery("contact.updated", "2026-01-15T10:30:00Z", contact={"id": f"c-{count}", "name": "Ana"})
            assert (await post(session, service, body))["status"] == 200
            lag = {sample("relay_lag_events"): float(count), sample("log_end_position"): 5.0 + count}
            behind = {sample("consumer_lag_records", topic="log", partition="0"): float(count)}
            await shows(session, service, {**halted, **lag, **behind})
        oldest = (await EventLog(log).read(5, 1))[0].event.received_at.timestamp()
        await shows(session, service, {sample("relay_oldest_unpublished_timestamp_seconds"): oldest})
        await log.close()
        await projection.close()
    await service.stop()


def test_values_that_are_counted_together_are_shown_as_those_counted_one_by_one() -> None:
    """A histogram of ours shows the same buckets, count and sum as the library's own, at and between the bounds."""
    values, bounds = (0.0, 0.5, 0.500001, 1.0, 7.5, 1e9), (0.5, 1, 7.5)
    ours = metrics.BulkHistogram("whatsms_events_test_bulk", "Ours.", buckets=bounds)
    theirs = Histogram("whatsms_events_test_single", "Theirs.", buckets=bounds)
    try:
        ours.observe_all(values[:4])
        ours.observe_all(values[4:-1])
        ours.observe(values[-1])
        for value in values:
            theirs.observe(value)
        shown = [
            {(name.rpartition("_")[2], labels.get("le")): value for name, labels, value, *_ in family.samples}
            for one in (ours, theirs)
            for family in one.collect()
        ]
        assert shown[0] == {key: value for key, value in shown[1].items() if key[0] != "created"}
    finally:
        REGISTRY.unregister(ours)
        REGISTRY.unregister(theirs)
