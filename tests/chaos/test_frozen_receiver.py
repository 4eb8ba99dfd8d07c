"""Promises 1 and 3 where one of several receivers hangs: it holds up nobody, and goes on where it was."""

import asyncio
import random
from datetime import UTC, datetime
from pathlib import Path

import pytest

from servers.compare import assert_kept, opened, until
from servers.service import SECRET, TENANT, Service, command
from whatsms_events.twin.faults import Faults
from whatsms_events.twin.ledger import Ledger
from whatsms_events.twin.sender import Sender
from whatsms_events.twin.world import World

FREEZES = 10
DEADLINE_S = 3.0
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]


async def test_a_frozen_receiver_does_not_hold_up_another_one(postgres_url: str, tmp_path: Path) -> None:
    """10 times SIGSTOP under load: the other receiver goes on accepting within its deadline, and nothing is lost."""
    settings: dict[str, dict[str, object]] = {"database": {"url": postgres_url}, "receiver": {"deadline_s": DEADLINE_S}}
    services = [Service(tmp_path / name, roles="receiver", settings=settings) for name in ("frozen", "other")]
    command(services[0], "db", "upgrade")
    frozen_ledger, other_ledger = ledgers = [Ledger(), Ledger()]
    senders = []
    for seed, (service, ledger) in enumerate(zip(services, ledgers, strict=True)):
        await service.start()
        faults = Faults(seed=seed, redeliver=0.05)
        senders.append(Sender(service.webhook_url, SECRET.encode(), ledger, faults=faults, rate=150, tries=100))
    rng, stop = random.Random(6), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for seed, sender in enumerate(senders):
            world = World(seed, start=datetime.now(UTC), tenant_id=TENANT, pace=1000)
            tasks.create_task(sender.run(world, stop))
        for number in range(FREEZES):
            wanted = len(frozen_ledger.accepted) + rng.randrange(10, 100)

            def under_way(wanted: int = wanted) -> bool:
                return len(frozen_ledger.accepted) >= wanted and senders[0].in_flight > 0

            await until(under_way, 60, f"deliveries in flight before freeze {number}")
            await services[0].freeze()
            goal = len(other_ledger.accepted) + 50

            def accepting(goal: int = goal) -> bool:
                return len(other_ledger.accepted) >= goal

            try:
                await until(accepting, DEADLINE_S, f"the other receiver to accept during freeze {number}")
            finally:
                await services[0].thaw()
        stop.set()
    for service in services:
        await service.stop()
    assert not frozen_ledger.given_up
    assert not set(other_ledger.by_outcome) - {"accepted", "duplicate", "parked"}
    assert max(attempt.took_s for attempt in other_ledger.attempts) < DEADLINE_S
    both = Ledger()
    for ledger in ledgers:
        for attempt in ledger.attempts:
            both.record(attempt)
    log, projection = await opened(postgres_url, postgres_url)
    await assert_kept(both, log)
    await log.close()
    await projection.close()
