"""The table of processes: what each told, who is heard of, and that it stays small."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from sqlalchemy import insert, update

from whatsms_events.clock import now
from whatsms_events.domain.events import to_micros
from whatsms_events.domain.standing import PeerReport, RoleReport
from whatsms_events.storage.database import Database, DatabaseTarget, open_log
from whatsms_events.storage.log.peers import HEARD_S, KEPT_S, PEERS_LIMIT, PeerId, Peers
from whatsms_events.storage.tables import peer

STARTED = now()
WAITS = RoleReport(word="waits", why="127.0.0.1:9092: no answer", todo="Wait.", since=STARTED)
REPORT = PeerReport(roles={"relay": WAITS}, details={"door.shop": {"clock": "agrees"}}, more=2)
ONE, OTHER = PeerId("here 1", STARTED), PeerId("there 2", STARTED)


@pytest.fixture
async def log(database_url: str) -> AsyncIterator[Database]:
    """Give a log on each kind of database."""
    opened = await open_log(DatabaseTarget(database_url), migrate=True)
    yield opened
    await opened.close()


async def age(log: Database, which: PeerId, seconds: float) -> None:
    """Let a process have told something so long ago."""
    aged = update(peer).values(seen_at=peer.c.seen_at - int(seconds * 1e6))
    async with log.write() as connection:
        await connection.execute(aged.where(peer.c.name == which.name))


async def test_a_process_is_known_by_what_it_told_last(log: Database) -> None:
    """Its row is written over, another process has its own, and who stops leaves none."""
    peers = Peers(log)
    await peers.tell(ONE, PeerReport())
    await peers.tell(OTHER, REPORT)
    await peers.tell(ONE, REPORT)
    found = await peers.all()
    assert [(one.which, one.report, one.heard) for one in found] == [(ONE, REPORT, True), (OTHER, REPORT, True)]
    await peers.leave(ONE)
    assert [one.which for one in await peers.all()] == [OTHER]


async def test_two_processes_of_one_name_are_two(log: Database) -> None:
    """Containers on the network of their machine may all be its number 1."""
    peers, twin = Peers(log), PeerId(ONE.name, STARTED + timedelta(seconds=1))
    await peers.tell(ONE, REPORT)
    await peers.tell(twin, REPORT)
    assert [one.which for one in await peers.all()] == [ONE, twin]


async def test_who_told_nothing_for_a_while_is_not_heard_of_and_goes_at_last(log: Database) -> None:
    """Ages are by the database's clock: what this machine's clock says changes nothing."""
    peers = Peers(log)
    await peers.tell(ONE, REPORT)
    await age(log, ONE, HEARD_S)
    (found,) = await peers.all()
    assert not found.heard
    assert HEARD_S <= found.silent_s < HEARD_S + 60
    await age(log, ONE, KEPT_S)
    assert await peers.all() == []
    await peers.tell(OTHER, REPORT)
    async with log.read() as connection:
        assert (await connection.execute(peer.select())).scalars().all() == [OTHER.name]


async def test_a_clock_that_was_set_back_makes_no_killed_process_heard_of(log: Database) -> None:
    """Its row has a time that is still to come: it counts from when another one tells something, not from then."""
    peers = Peers(log)
    await peers.tell(ONE, REPORT)
    await age(log, ONE, -3600)
    await peers.tell(OTHER, REPORT)
    await age(log, ONE, HEARD_S)
    assert [one.heard for one in await peers.all()] == [False, True]


async def test_a_process_that_is_started_again_for_ever_leaves_few_rows(log: Database) -> None:
    """The oldest go."""
    seen = to_micros(now()) - 60_000_000
    rows = [
        {"name": f"{number}", "started_at": number, "seen_at": seen + number, "told": "{}"}
        for number in range(PEERS_LIMIT + 50)
    ]
    async with log.write() as connection:
        await connection.execute(insert(peer), rows)
    peers = Peers(log)
    assert len(await peers.all()) == PEERS_LIMIT
    await peers.tell(ONE, REPORT)
    async with log.read() as connection:
        kept = set((await connection.execute(peer.select())).scalars())
    assert len(kept) == PEERS_LIMIT + 1
    assert kept >= {ONE.name, f"{PEERS_LIMIT + 49}"}
    assert "0" not in kept


async def test_what_another_release_told_is_no_error(log: Database) -> None:
    """That process is there, and what it told is not known."""
    peers = Peers(log)
    await peers.tell(ONE, REPORT)
    async with log.write() as connection:
        await connection.execute(update(peer).values(told='{"roles":{"relay":{"word":"dances"}}}'))
    (found,) = await peers.all()
    assert found.report is None
