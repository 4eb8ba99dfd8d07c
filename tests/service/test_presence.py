"""What a process tells the others of itself, and two real processes of which one says how the other is."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest
from sqlalchemy import text, update

from servers.compare import until
from servers.ports import HOST, free_port
from servers.service import Service
from whatsms_events.domain.standing import RoleReport
from whatsms_events.service.presence import ROLES_LIMIT, WHY_LIMIT, Presence, short
from whatsms_events.storage.database import Database, DatabaseTarget, open_log, open_projection
from whatsms_events.storage.log.peers import HEARD_S, PeerId, Peers
from whatsms_events.storage.tables import peer

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


def test_what_is_told_has_limits_and_begins_with_the_trouble() -> None:
    """Of hundreds of tenants those that are in trouble are told; a reason is cut, and is one that a database holds."""
    roles = {f"watchdog.t{number}": RoleReport(word="works", since=NOW) for number in range(300)}
    roles["watchdog.t299"] = RoleReport(word="stands still", why="\ud800\0" + 9 * WHY_LIMIT * "x", since=NOW)
    told = short(roles, {name: {"state": "heard"} for name in roles})
    assert (len(told.roles), len(told.details), told.more) == (ROLES_LIMIT, ROLES_LIMIT, 300 - ROLES_LIMIT)
    why = next(iter(told.roles.values())).why
    assert why.startswith("\ufffd\ufffdx")
    assert len(why) == WHY_LIMIT


def test_what_a_process_has_beside_its_tenants_is_always_told() -> None:
    """Hundreds of tenants, working or in trouble, hide neither the relay nor that some of the others are in trouble;
    a silent tenant and a clock that differs are told before those that are well.
    """
    own = ("receiver", "relay", "consumer", "sealer", "retention")
    works, waits = RoleReport(word="works", since=NOW), RoleReport(word="waits", why="away", since=NOW)
    for one in (works, waits):
        tenants = {f"backfill.t{number:03}": one for number in range(200)}
        told = short({**tenants, **dict.fromkeys(own, works)}, {})
        assert told.roles.keys() >= set(own)
        left = 200 + len(own) - ROLES_LIMIT
        assert (told.more, told.more_failing) == (left, 0 if one.fine else left)
    details = {f"watchdog.t{number}": {"tenant": f"t{number}", "state": "heard"} for number in range(200)}
    details |= {"watchdog.t199": {"tenant": "t199", "state": "silent"}, "door.t199": {"clock": "differs"}}
    assert short({}, details).details.keys() >= {"watchdog.t199", "door.t199"}


def test_nothing_is_told_that_counts_by_itself() -> None:
    """What a receiver knows of its senders is told in words of ours; an id or a number of seconds stays here."""
    watchdog = {"tenant": "shop", "tenant_id": "7", "state": "silent", "cause": "activity", "silent_s": 9, "probe": "x"}
    details = {
        "watchdog.shop": watchdog,
        "door.shop": {"clock": "agrees", "clock_offset_s": 0.3},
        "relay": {"why": "x"},
    }
    assert short({}, details).details == {
        "watchdog.shop": {"tenant": "shop", "state": "silent", "cause": "activity"},
        "door.shop": {"clock": "agrees"},
    }


@pytest.fixture
async def log(database_url: str) -> AsyncIterator[Database]:
    """Give the log that the processes share; the tables are beside it."""
    opened = await open_log(DatabaseTarget(database_url), migrate=True)
    await (await open_projection(DatabaseTarget(database_url.replace("log.db", "projection.db")), migrate=True)).close()
    yield opened
    await opened.close()


@pytest.fixture
async def service(tmp_path: Path, database_url: str, log: Database) -> AsyncIterator[Callable[..., Service]]:
    """Give what makes a process with some roles over the same databases, with a Kafka that is not there."""
    settings = {"database": {"url": database_url}, "kafka": {"bootstrap_servers": f"{HOST}:{free_port()}"}}
    assert log.dialect
    async with AsyncExitStack() as stack:

        def make(name: str, roles: str) -> Service:
            made = Service(tmp_path / name, roles=roles, settings=settings)
            stack.push_async_callback(made.stop)
            return made

        yield make


async def now_page(service: Service) -> str:
    """Return what the page Now of a process says, as text."""
    async with aiohttp.ClientSession() as session, session.get(f"{service.private_url}/") as answer:
        assert answer.status == 200
        return " ".join(re.sub(r"<[^>]+>", " ", await answer.text()).split())


@pytest.mark.process
async def test_any_process_says_what_another_one_fails_at_and_that_it_was_killed(
    log: Database, service: Callable[..., Service]
) -> None:
    """One holds relay and consumer and cannot reach Kafka: the page of the other, which receives, says so with the
    reason. It is killed: the page says that it is not heard of, and that nobody has its roles. One that stops is gone.
    """
    holder, receiver = service("holder", "relay,consumer"), service("receiver", "receiver")
    await holder.start()
    await receiver.start()
    name = f"{socket.gethostname()} {holder.pid}"

    async def says(*words: str) -> bool:
        page = await now_page(receiver)
        return all(re.search(one, page) for one in words)

    failing = rf"Another process {name} .*(waits|stands still) relay : {HOST}:[0-9]+.* since "
    await until(lambda: says(failing, "It tries again by itself"), 60, "the relay's reason on the other's page")
    await until(lambda: says("works receiver, watchdog.acme"), 60, "that the one that is asked receives")
    assert "Another process" in await now_page(holder)
    await holder.kill()
    async with log.write() as connection:  # instead of waiting for so long
        mine = peer.c.name == name
        await connection.execute(update(peer).where(mine).values(seen_at=peer.c.seen_at - int(HEARD_S * 1e6)))
    lost = f"not heard of A process {name} It told nothing for .* gone consumer, .*relay.* : no other process has it"
    await until(lambda: says(lost, f"relay of {name} has not been heard of"), 60, "that it was killed")
    other = service("other", "relay,consumer")
    await other.start()
    await until(lambda: says(f"{name} .* elsewhere consumer, .*relay"), 60, "that another one has its roles")
    await other.stop()
    assert f"{socket.gethostname()} {other.pid}" not in [one.which.name for one in await Peers(log).all()]


async def test_a_row_that_could_not_be_written_is_tried_again_at_the_next_look(log: Database) -> None:
    """A process whose database was away for a moment is heard of at once when it is back, not at the next beat."""
    looks = 0

    def roles() -> dict[str, RoleReport]:
        nonlocal looks
        looks += 1
        return {"relay": RoleReport(word="works", since=NOW)}

    async with log.write() as connection:
        await connection.execute(text("ALTER TABLE peer RENAME TO away"))
    presence = Presence(Peers(log), PeerId("here", NOW), roles, dict)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(presence.run())
        await until(lambda: looks >= 3, 60, "that it was tried more than once")
        async with log.write() as connection:
            await connection.execute(text("ALTER TABLE away RENAME TO peer"))
        back = looks

        async def heard() -> bool:
            return bool(await Peers(log).all())

        await until(heard, 60, "the row")
        assert looks <= back + 3
        presence.stop()
