"""Promise 7 for those behind us: what a backfill found reaches Kafka as an observation, never as news."""

import asyncio
import json
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest
from confluent_kafka import Message

from servers.compare import opened, until
from servers.kafka import RunningKafka
from servers.reconciling import KEY
from servers.service import SECRET, SLUG, TENANT, Service, command
from servers.witness import read_committed
from whatsms_events.domain.records import TOPICS
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.log.relay_row import RelayRows
from whatsms_events.twin.faults import Faults
from whatsms_events.twin.ledger import Ledger
from whatsms_events.twin.rest.limits import RestLimits
from whatsms_events.twin.rest.server import Rest, RestServer
from whatsms_events.twin.sender import Sender
from whatsms_events.twin.world import World

pytestmark = pytest.mark.process

RECEIVED, OBSERVED = "pt.whatsms.message.received", "pt.whatsms.message.observed"


class Bot:
    """A consumer downstream that answers whoever wrote: it acts on `message.received` and on nothing else."""

    def __init__(self) -> None:
        self.answered: list[str] = []
        self.passed_over: dict[str, list[dict[str, str]]] = defaultdict(list)

    def see(self, record: Message) -> None:
        """Look at a record as any consumer of CloudEvents does: by its headers."""
        # Its stubs allow a dict too, which is only what a producer may give.
        given = cast("list[tuple[str, bytes]]", record.headers() or [])
        headers = {name: value.decode() for name, value in given}
        if headers["ce_type"] == RECEIVED:
            self.answered.append(headers["ce_subject"])
        else:
            self.passed_over[headers["ce_type"]].append(headers)


async def test_a_bot_never_answers_what_a_backfill_found(
    kafka: RunningKafka, topic_prefix: str, tmp_path: Path
) -> None:
    """A read_committed consumer that acts on `message.received` sees what webhooks told and nothing that a backfill
    found; that is there as `message.observed`, with `backfill` as its origin, once each.
    """
    world = World(3, start=datetime.now(UTC) - timedelta(minutes=5), tenant_id=TENANT, pace=4)
    rest = Rest(world.account, api_key=KEY, limits=RestLimits(requests=1_000_000))
    async with RestServer(rest) as api:
        service = Service(
            tmp_path / "service",
            settings={
                "kafka": {"bootstrap_servers": kafka.bootstrap, "topic_prefix": topic_prefix, "partitions": 2},
                "whatsms": {"base_url": api.url, "requests_per_minute": 60_000},
                "backfill": {"requests_per_minute": 60_000, "settle_s": 0.2, "absence_s": 0},
                f"tenants.{SLUG}": {"api_key": KEY},
            },
        )
        command(service, "topics", "create")
        await service.start()
        ledger = await told(world, service.webhook_url)
        words = ("backfill", "run", "--tenant", SLUG, "--messages", "full", "--json")
        report = json.loads(await asyncio.to_thread(command, service, *words))["report"]
        await published(service, topic_prefix)
        await service.stop()
    bot = Bot()
    for record in read_committed(kafka.bootstrap, [f"{topic_prefix}.{suffix}" for suffix in TOPICS]):
        bot.see(record)
    received = ledger.counts["message.received", "accepted"]
    assert received > 20
    assert len(bot.answered) == received, "news that no webhook told, or a webhook's that is missing"
    observed = bot.passed_over[OBSERVED]
    assert {one["ce_origin"] for one in observed} == {"backfill"}
    subjects = Counter(one["ce_subject"] for one in observed)
    assert set(subjects.values()) == {1}
    found = sum(one["count"] for one in report["drift"] if one["entity"] == "message")
    assert len(subjects) == found
    # Messages of which nobody told: they are in a ticket's list, a contact wrote them, and the bot has not seen them.
    silent = {
        str(one.id)
        for ticket in world.account.tickets.values()
        for one in ticket.messages
        if not one.from_me and str(one.id) not in bot.answered
    }
    assert len(silent) > 10
    assert silent <= subjects.keys()
    for name, records in bot.passed_over.items():
        origin = "backfill" if name.endswith(".observed") else "webhook"
        assert {one["ce_origin"] for one in records} == {origin}, name


async def told(world: World, url: str) -> Ledger:
    """Send the world's webhooks of five minutes until now, a third of them lost; then it stands still."""
    stop = asyncio.Event()

    def clock() -> datetime:
        world.pause()
        stop.set()
        return datetime.now(UTC)

    world.account.outbox.extend(world.advance(datetime.now(UTC) - timedelta(seconds=30)))
    sender = Sender(url, SECRET.encode(), Ledger(), faults=Faults(seed=3, drop=0.33), connections=8)
    return await sender.run(world, stop, clock=clock)


async def published(service: Service, prefix: str) -> None:
    """Wait until the relay has published the whole log."""
    log, projection = await opened(
        f"sqlite:///{service.folder / 'log.db'}", f"sqlite:///{service.folder / 'projection.db'}"
    )

    async def all_of_it() -> bool:
        row = await RelayRows(log).load(prefix)
        return row is not None and row.published_through >= await EventLog(log).end()

    await until(all_of_it, 60, "everything published")
    await log.close()
    await projection.close()
