"""Taking over the sockets of a running process: who gets them, and what happens where the next one fails."""

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from servers.compare import until
from servers.ports import HOST, free_port
from servers.service import SECRET, Service
from whatsms_events.config.settings import Settings
from whatsms_events.domain.signature import HEADER, sign
from whatsms_events.errors import ConfigError
from whatsms_events.service.doors import Doors
from whatsms_events.service.handover import Offer, take
from whatsms_events.service.supervisor import beside
from whatsms_events.web.app import Listener
from whatsms_events.web.sockets import port_of

ROLES = frozenset({"receiver"})


@asynccontextmanager
async def offering(path: Path) -> AsyncIterator[tuple[asyncio.Event, int]]:
    """Offer a public socket; give an event that is set once somebody took it, and its port."""
    taken = asyncio.Event()
    with socket.create_server((HOST, 0)) as held:
        offer = Offer(path, ROLES, {"public": [held]}, taken.set)
        offer.open()
        try:
            yield taken, port_of(held)
        finally:
            offer.close()


async def test_the_next_process_gets_the_very_same_sockets(tmp_path: Path) -> None:
    """A connection that waits for the first process is accepted by the next one; the first is told when that is ready,
    and nobody but the owner can ask for the sockets.
    """
    path = tmp_path / "handover.sock"
    async with offering(path) as (taken, port):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with socket.create_connection((HOST, port), 10) as waiting:
            found = await asyncio.to_thread(take, path, ROLES)
            assert found is not None
            assert not taken.is_set()
            (public,) = found.sockets["public"]
            public.settimeout(10)
            accepted, address = public.accept()
            assert address == waiting.getsockname()
            accepted.close()
            public.close()
        found.ready()
        await asyncio.wait_for(taken.wait(), 60)


async def test_a_next_process_that_ends_too_early_changes_nothing(tmp_path: Path) -> None:
    """The running process goes on, and the next try may take over; two at a time may not."""
    path = tmp_path / "handover.sock"
    async with offering(path) as (taken, _port):
        first = await asyncio.to_thread(take, path, ROLES)
        assert first is not None
        with pytest.raises(ConfigError, match="another process is taking over"):
            await asyncio.to_thread(take, path, ROLES)
        first.close()

        async def again() -> bool:
            try:
                found = await asyncio.to_thread(take, path, ROLES)
            except ConfigError:
                return False
            assert found is not None
            found.ready()
            found.close()
            return True

        assert not taken.is_set()
        await until(again, 60, "a second try")
        await asyncio.wait_for(taken.wait(), 60)


async def test_nobody_at_the_path_is_no_error(tmp_path: Path) -> None:
    """A path that is free, and one that a killed process left behind, mean that there is nobody to take over from; a
    folder that is not there is a mistake that is named.
    """
    path = tmp_path / "handover.sock"
    assert take(path, ROLES) is None
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    assert take(path, ROLES) is None
    async with offering(path):  # it takes the place of what was left
        assert path.is_socket()
    with pytest.raises(ConfigError, match=r"handover.socket: cannot listen at .*no such file"):
        Offer(tmp_path / "nowhere" / "x.sock", ROLES, {}, lambda: None).open()
    assert not (tmp_path / "nowhere").exists()


@asynccontextmanager
async def opening(path: Path, *, connected: asyncio.Event, stop: asyncio.Event) -> AsyncIterator[asyncio.Task[bool]]:
    """Open the doors of a next process that takes over at the path; give the task, whose end says whether it did."""

    async def answer(_request: web.BaseRequest) -> web.Response:
        return web.Response()

    address = {"host": HOST, "port": 0}
    settings = Settings.model_validate({"handover": {"socket": path}, "public": address, "private": address})
    taken_itself, away = asyncio.Event(), asyncio.Event()
    away.set()
    doors = Doors(
        settings,
        Listener(answer),
        Listener(answer),
        roles=ROLES,
        given={},
        away=away,
        on_taken=taken_itself.set,
        hold_s=0.1,
    )
    await doors.listen()
    try:
        async with beside([doors.accept_in_time()], doors.stop_waiting):
            yield asyncio.create_task(doors.open(connected, stop))
    finally:
        await doors.close_public(0, leave_s=0, idle_s=0)
        await doors.close_private()


async def test_a_next_process_is_not_deaf_once_the_one_before_it_ends(tmp_path: Path) -> None:
    """Where the running process ends while the next one waits for its database, the next one does as in a start with
    nobody before it: deliveries are answered after the time that they may wait.
    """
    async with AsyncExitStack() as running:
        taken, port = await running.enter_async_context(offering(tmp_path / "handover.sock"))
        async with opening(tmp_path / "handover.sock", connected=asyncio.Event(), stop=asyncio.Event()) as opened:
            await running.aclose()
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session,
                session.get(f"http://{HOST}:{port}/") as answer,
            ):
                assert answer.status == 200
            assert await opened
        assert not taken.is_set()


async def goes_on(path: Path) -> bool:
    """Tell whether the process at the path has taken in that the next one failed: it may be taken over again."""
    try:
        found = await asyncio.to_thread(take, path, ROLES)
    except ConfigError:
        return False
    assert found is not None
    found.close()
    return True


async def test_a_next_process_that_is_stopped_first_leaves_the_one_before_it_alone(tmp_path: Path) -> None:
    """SIGTERM to the next process, and only then its database is there: the running process goes on."""
    path, connected, stop = tmp_path / "handover.sock", asyncio.Event(), asyncio.Event()
    async with offering(path) as (taken, _port):
        stop.set()
        connected.set()
        async with opening(path, connected=connected, stop=stop) as opened:
            assert not await opened
        await until(lambda: goes_on(path), 60, "the running process has noticed")
        assert not taken.is_set()


async def test_a_next_process_that_cannot_offer_leaves_the_one_before_it_alone(tmp_path: Path) -> None:
    """Where its own offer cannot be made, the next process ends with the reason, and the running one goes on."""
    path, connected = tmp_path / "handover.sock", asyncio.Event()
    async with offering(path) as (taken, _port):
        (tmp_path / f".{os.getpid()}").mkdir()
        connected.set()
        async with opening(path, connected=connected, stop=asyncio.Event()) as opened:
            with pytest.raises(ConfigError, match=r"handover.socket: cannot listen at .*is a directory"):
                await opened
        await until(lambda: goes_on(path), 60, "the running process has noticed")
        assert not taken.is_set()


@pytest.mark.process
async def test_a_process_with_other_roles_does_not_stop_the_receiver(tmp_path: Path) -> None:
    """A consumer that is started with the receiver's path ends with status 2 and says why; the receiver goes on, and
    the next receiver takes over from it.
    """
    receiver = Service(tmp_path / "service", roles="receiver", settings={"handover": {"socket": "handover.sock"}})
    await receiver.start()
    consumer, following = receiver.successor(), receiver.successor()
    consumer.roles = "consumer"
    consumer.spawn()
    await consumer.gone(60)
    assert (consumer.status, receiver.pid is not None) == (2, True)
    said = (receiver.folder / "output.log").read_text()
    assert (
        "has the roles receiver and goes on; this one has consumer: each set of roles needs a path of its own" in said
    )
    assert await receiver.serves()
    following.spawn()
    await receiver.gone(60)
    assert receiver.status == 0
    await following.stop()


@pytest.mark.process
async def test_only_the_address_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    """Where the public socket is given, by systemd or by the process before, and somebody has the private port, a start
    names the private listener alone.
    """
    with socket.create_server((HOST, 0)) as held, socket.create_server((HOST, 0)) as other:
        port = port_of(other)
        says = f"cannot listen on {HOST}:{port}: address already in use; see private.host and private.port"
        private = {"private": {"port": port}}
        activated = Service(tmp_path / "activated", settings=private | {"public": {"port": port_of(held)}})
        activated.sockets = [held]
        first = Service(tmp_path / "service", settings={"handover": {"socket": "handover.sock"}})
        await first.start()
        following = first.successor()
        text = first.config.read_text()
        first.config.write_text(text.replace(f"port = {first.private_port}", f"port = {port}"))
        for service in (activated, following):
            service.spawn()
            await service.gone(60)
            said = (service.folder / "output.log").read_text().splitlines()
            assert (service.status, [line for line in said if "cannot listen" in line]) == (1, [says])
        assert await first.serves()
        await first.stop()


@pytest.mark.process
async def test_a_killed_next_process_and_a_changed_port_leave_the_first_or_bind_anew(tmp_path: Path) -> None:
    """A next process with a wrong database ends with status 2 while the first one goes on; one with another public port
    takes over and listens there.
    """
    first = Service(tmp_path / "service", settings={"handover": {"socket": "handover.sock"}})
    await first.start()
    broken, moved = first.successor(), first.successor()
    text = first.config.read_text()
    (first.folder / "no.db").write_text("this is no database" * 99)
    first.config.write_text(f'{text}\n[database]\nurl = "sqlite:///no.db"\n')
    broken.spawn()
    await broken.gone(60)
    assert (broken.status, first.pid is not None) == (2, True)
    assert await first.serves()
    moved.public_port = free_port()
    first.config.write_text(text.replace(f"port = {first.public_port}", f"port = {moved.public_port}"))
    moved.spawn()
    await first.gone(60)
    assert first.status == 0
    async with aiohttp.ClientSession() as session, session.get(moved.webhook_url) as answer:
        assert answer.status == 200
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((HOST, first.public_port), 10)
    await moved.stop()
    assert {"service.handed_over", "service.took_over", "service.not_taken"} <= {one["event"] for one in first.lines()}


@pytest.mark.process
async def test_a_next_process_whose_database_is_away_takes_no_delivery(tmp_path: Path) -> None:
    """It waits for its database for as long as that takes, and the first process answers every delivery meanwhile."""
    first = Service(tmp_path / "service", settings={"handover": {"socket": "handover.sock"}})
    await first.start()
    waiting = first.successor()
    text = first.config.read_text()
    url = f"postgresql://nobody@{HOST}:{free_port()}/nothing"
    first.config.write_text(f'{text}\n[database]\nurl = "{url}"\n')
    waiting.spawn()
    await until(lambda: any(one["event"] == "service.waiting" for one in first.lines()), 60, "it waits")
    for _ in range(50):  # if both accepted, half of them would get 503
        body = b'{"event":"ticket.created","data":{"ticket":{"id":"t-1"}}}'
        headers = {HEADER: sign(body, SECRET.encode())}
        async with (
            aiohttp.ClientSession() as session,
            session.post(first.webhook_url, data=body, headers=headers) as told,
        ):
            assert told.status == 200
    assert waiting.pid is not None
    await waiting.stop()
    assert first.pid is not None
    await first.stop()
