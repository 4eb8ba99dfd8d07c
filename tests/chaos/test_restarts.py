"""Promise 1 through restarts: the vendor may try once, and no delivery is refused, reset or lost on the way."""

import socket
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import select

from servers.compare import opened, until
from servers.ports import HOST
from servers.service import SECRET, Service
from servers.steady import Steady
from whatsms_events.storage.tables import event_log

RESTARTS = 10
STEP = 40
"""So many deliveries are answered between two restarts."""

PATIENT = {"idle_s": 30.0, "drain_s": 30.0}
"""No connection is closed for being idle, however slow the machine is: all of them send again."""

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]


async def more(load: Steady, kind: str) -> None:
    """Wait until so many more deliveries of a kind are accepted."""
    wanted = load.by_kind[kind] + STEP
    await until(lambda: load.by_kind[kind] >= wanted or bool(load.failures), 60, f"deliveries, {kind}")


async def assert_all_kept(load: Steady, folder: Path) -> None:
    """Assert that each delivery got a 2xx, and that each stands in the log once."""
    assert load.failures == []
    log, projection = await opened(f"sqlite:///{folder / 'log.db'}", f"sqlite:///{folder / 'projection.db'}")
    async with log.read() as connection:
        rows = Counter((await connection.execute(select(event_log.c.raw))).scalars())
    await log.close()
    await projection.close()
    assert rows == Counter(load.accepted)
    assert min(load.by_kind["kept"], load.by_kind["fresh"]) >= RESTARTS * STEP


async def test_restarts_under_socket_activation_lose_no_delivery(tmp_path: Path) -> None:
    """The service is stopped and started while somebody else holds its socket, under load on kept and on fresh
    connections: each delivery gets a 2xx, none a refused or reset connection, and each is in the log once.
    """
    service = Service(tmp_path / "service", settings={"receiver": PATIENT})
    with socket.create_server((HOST, service.public_port), backlog=1024) as held:
        service.sockets = [held]
        load = Steady(service.public_port, SECRET)
        await service.start()
        async with load.sending():
            for _ in range(RESTARTS):
                for kind in ("kept", "fresh"):
                    await more(load, kind)
                await service.stop()
                assert service.status == 0
                await service.start()
            for kind in ("kept", "fresh"):
                await more(load, kind)
        await service.stop()
    await assert_all_kept(load, service.folder)


async def test_handovers_lose_no_delivery(tmp_path: Path) -> None:
    """The same without anybody who holds the socket: each new process takes it from the one before, which then ends by
    itself; no moment is without one that is ready.
    """
    first = Service(tmp_path / "service", settings={"receiver": PATIENT, "handover": {"socket": "handover.sock"}})
    load = Steady(first.public_port, SECRET)
    await first.start()
    processes = [first]
    async with load.sending():
        for _ in range(RESTARTS):
            for kind in ("kept", "fresh"):
                await more(load, kind)
            following = processes[-1].successor()
            following.spawn()
            await processes[-1].gone(60)  # once the next one is ready
            assert processes[-1].status == 0
            processes.append(following)
        for kind in ("kept", "fresh"):
            await more(load, kind)
    await processes[-1].stop()
    await assert_all_kept(load, first.folder)
