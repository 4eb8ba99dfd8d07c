"""The page Now, over an empty service, a busy one, and one whose database is away."""

import hashlib
import re
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from pytest_aiohttp import AiohttpClient
from sqlalchemy import insert, text, update

from web.console.pages import TENANTS, application
from whatsms_events.domain.events import to_micros
from whatsms_events.domain.standing import PeerReport, RoleReport
from whatsms_events.domain.trail import Trail
from whatsms_events.storage import tables
from whatsms_events.storage.database import Database, DatabaseTarget, open_log, open_projection, unopened
from whatsms_events.storage.log.peers import PeerId, Peers
from whatsms_events.storage.log.secret_uses import SecretUses
from whatsms_events.storage.pulse import Flow, Pulse
from whatsms_events.storage.repair.reports import Overview, Reports
from whatsms_events.storage.role_holders import role_holders
from whatsms_events.storage.role_lock import RoleLock
from whatsms_events.web.console import stations
from whatsms_events.web.console.frame import Frame
from whatsms_events.web.console.now import NowPage, NowParts, OwnNow
from whatsms_events.web.health import Health, Readiness

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


def health(roles: Mapping[str, str | None], details: Mapping[str, object]) -> Health:
    """Return the probes of a process with these roles."""
    return Health(
        checks={}, needs={}, roles=lambda: roles, details=lambda: details, starting=lambda: None, draining=bool
    )


@pytest.fixture
async def stores(database_url: str) -> AsyncIterator[tuple[Database, Database]]:
    """Give an empty log and an empty projection, on each kind of database."""
    log = await open_log(DatabaseTarget(database_url), migrate=True)
    projection = await open_projection(DatabaseTarget(database_url.replace("log.db", "projection.db")), migrate=True)
    yield log, projection
    await projection.close()
    await log.close()


Look = Callable[..., Any]

ROLES: Mapping[str, str | None] = {
    **dict.fromkeys(("receiver", "watchdog.shop", "backfill.shop", "backfill.bank")),
    "consumer": "halted: the key fits no lock",
}

REPORTS: Mapping[str, RoleReport] = {
    "receiver": RoleReport(word="works", since=NOW),
    "watchdog.shop": RoleReport(word="works", since=NOW),
    "backfill.shop": RoleReport(word="stands by", since=NOW),
    "backfill.bank": RoleReport(word="waits", why="the vendor is away", todo="Wait.", since=NOW - timedelta(minutes=2)),
    "consumer": RoleReport(word="stands still", why="the key fits no lock", since=NOW - timedelta(hours=2)),
}
US = PeerId("here 1", NOW - timedelta(days=3))


@pytest.fixture
def look(aiohttp_client: AiohttpClient) -> Look:
    """Give a function that returns the page over some databases."""

    async def looked(
        stores: tuple[Database, Database],
        *,
        prefix: str | None = None,
        path: str = "/",
        roles: Mapping[str, str | None] = ROLES,
        reports: Mapping[str, RoleReport] = REPORTS,
    ) -> str:
        trail = Trail()
        trail.note(NOW, {"received": 3, "applied": 2, "rejected": 0})
        trail.note(NOW, {"received": 10, "applied": 9, "rejected": 4})
        details = {"watchdog.shop": {"state": "heard", "usual_gap_s": 0.0}, "consumer": {"state": "halted", "why": "x"}}
        parts = NowParts(
            health(roles, details),
            Pulse(*stores),
            Reports(stores[0]),
            SecretUses(stores[0]),
            prefix=lambda: prefix,
            own=OwnNow(US, lambda: reports, trail),
            peers=Peers(stores[0]).all,
            holders=lambda: role_holders(stores[0], ["relay", "consumer", "sealer"]),
        )

        def make(frame: Frame) -> list[NowPage]:
            return [NowPage(frame, parts)]

        app, _access = application(make, at=lambda: NOW)
        answer = await (await aiohttp_client(app)).get(path)
        assert answer.status == 200
        return await answer.text()

    return looked


def line(page: str, word: str, names: str) -> str:
    """Return what stands behind the names of some roles, as text."""
    found = re.search(rf">{word}</span> <bdi>{re.escape(names)}</bdi>(.*?)</li>", page, re.DOTALL)
    assert found is not None, (word, names)
    return " ".join(re.sub(r"<[^>]+>", "", found[1]).split())


async def test_an_empty_service_says_what_to_do_first(stores: tuple[Database, Database], look: Look) -> None:
    """Which URL to register, for each tenant, and which secret; and nothing is claimed that is not known."""
    page = await look(stores)
    assert "What to do first" in page
    for slug in TENANTS:
        assert f"https://YOUR-NAME/webhooks/{slug}" in page
    assert "No signed delivery has come in so far." in page
    assert "Nothing is parked." in page


async def test_a_busy_service_says_how_far_it_is(stores: tuple[Database, Database], look: Look) -> None:
    """What waits for Kafka and for the tables and since when, what is parked, rates, and which role does not work."""
    log, _ = stores
    old = to_micros(NOW - timedelta(minutes=20))
    async with log.write() as connection:
        row = {"type": "message.received", "tenant": "tenant-1", "origin": "webhook", "sha256": b"", "data": "{}"}
        rows = [{**row, "id": UUID(int=one), "received_at": old - 9 + one} for one in range(1, 6)]
        await connection.execute(insert(tables.event_log), rows)
        moved = {"prefix": "whatsms", "published_through": 2, "partitions": "{}", "updated_at": old}
        await connection.execute(insert(tables.relay), moved)
        used = {"tenant": "tenant-1", "name": "current", "first_at": old, "last_at": old, "count": 5}
        await connection.execute(insert(tables.secret_use), used)
        parked = {"tenant": "tenant-1", "reason": "not_json", "detail": "", "received_at": old, "raw": b"x", "count": 1}
        digest = hashlib.sha256(b"x").digest()
        rows = [{**parked, "id": UUID(int=one), "sha256": digest} for one in range(3)]
        await connection.execute(insert(tables.parked_delivery), rows)
    page = await look(stores, prefix="whatsms")
    assert "What to do first" not in page
    assert "Something is wrong with publishing, applying." in page
    assert "The oldest event that waits came 20 min ago." in page
    assert "The consumer halted: the key fits no lock" in page
    assert "not_json</a>, at the door" in page
    assert line(page, "idle", "backfill.shop") == "", "no run is under way, and it waits for nobody"
    assert line(page, "waits", "backfill.bank") == ": the vendor is away since 2 min ago Wait."
    assert line(page, "stands still", "consumer") == ": the key fits no lock since 2 h ago"
    assert line(page, "works", "receiver, watchdog.shop") == ""
    assert "usually one in less than 1 s" in page
    assert "4 signatures did not fit" in page
    assert "Taken in: 7 in the last hour, at most 7 a minute" in page
    assert "The last delivery came 20 min ago." in page
    assert "<html" not in await look(stores, prefix="whatsms", path="/now")
    counts = await Pulse(*stores, count_limit=2).parked_at_door()
    assert ([one.count for one in counts.rows], counts.whole) == ([2], False)


async def test_the_roles_of_all_processes_are_told_with_why(stores: tuple[Database, Database], look: Look) -> None:
    """What another process told of itself counts: its halted relay is what is wrong, its silent tenant is silent, and
    whoever stands by says for whom. A lock of one that tells nothing of itself is told too.
    """
    log, _ = stores
    there, peers, lock = PeerId("there 2", NOW - timedelta(hours=1)), Peers(log), RoleLock(log, "sealer")
    halted = RoleReport(word="stands still", why="another log's records", since=NOW - timedelta(minutes=9))
    roles = {"relay": halted, **dict.fromkeys(("consumer", "receiver"), RoleReport(word="works", since=NOW))}
    silent = {"tenant": "bank", "state": "silent", "cause": "activity"}
    await peers.tell(there, PeerReport(roles=roles, details={"watchdog.bank": silent}))
    await peers.tell(US, PeerReport(roles={"sealer": halted}))
    reports = {"consumer": RoleReport(word="stands by", since=NOW)}
    assert await lock.take()
    page = await look(stores, prefix="whatsms", roles={"consumer": None}, reports=reports)
    await lock.release()
    assert "Another process <code><bdi>there 2</bdi></code>" in page
    assert line(page, "stands still", "relay") == ": another log&#39;s records since 9 min ago"
    assert line(page, "stands by", "consumer") == "for there 2"
    assert "The relay of there 2 stands still: another log&#39;s records" in page
    assert "bank sends nothing that is accepted, although the account is active" in page
    assert page.count("here 1</bdi>") == 1, "what this process told before is not shown beside what it knows now"
    assert "sealer" not in page, "this process holds the lock"


async def test_refused_signatures_are_drawn_where_signatures_are_checked(
    stores: tuple[Database, Database], look: Look
) -> None:
    """A process without a receiver counts none, and a chart of nothing would say that none was refused."""
    drawn = '<figcaption class="head"><span>Refused signatures'
    assert drawn in await look(stores)
    assert drawn not in await look(stores, roles={"consumer": None})


async def test_many_killed_processes_are_told_in_a_few_words(stores: tuple[Database, Database], look: Look) -> None:
    """The first sentence names three of them and counts the others, and so does the list of processes."""
    log, _ = stores
    for number in range(20):
        await Peers(log).tell(PeerId(f"old {number}", NOW), PeerReport())
    async with log.write() as connection:
        await connection.execute(update(tables.peer).values(seen_at=tables.peer.c.seen_at - 120_000_000))
    page = await look(stores, roles={"receiver": None})
    assert page.count("which is not heard of any more") == 3
    assert "17 more that are not heard of" in page
    assert "10 more processes that are not heard of" in page


async def test_roles_that_are_left_out_are_told_as_they_are(stores: tuple[Database, Database], look: Look) -> None:
    """Those in trouble are no others that do their work, and of a process that is not heard of none does."""
    log, _ = stores
    await Peers(log).tell(PeerId("many 2", NOW), PeerReport(more=9, more_failing=4))
    page = await look(stores)
    assert "5 more, which do their work" in page
    assert "4 more, which do not do their work" in page
    async with log.write() as connection:
        await connection.execute(update(tables.peer).values(seen_at=tables.peer.c.seen_at - 120_000_000))
    page = await look(stores)
    assert "more, which" not in page
    assert "and 9 more" in page


async def test_a_process_that_is_not_heard_of_is_told_with_what_nobody_does(
    stores: tuple[Database, Database], look: Look
) -> None:
    """What others have too is elsewhere; what nobody has is the first sentence."""
    log, _ = stores
    fine = RoleReport(word="works", since=NOW)
    await Peers(log).tell(PeerId("gone 3", NOW), PeerReport(roles={"receiver": fine, "sealer": fine}))
    async with log.write() as connection:
        await connection.execute(update(tables.peer).values(seen_at=tables.peer.c.seen_at - 120_000_000))
    page = await look(stores, roles={"receiver": None})
    assert "gone 3 is not heard of any more, and no other process has sealer" in page
    assert "It told nothing for 2 min" in page
    assert line(page, "elsewhere", "receiver") == ": another process has it"
    assert line(page, "gone", "sealer").startswith(": no other process has it")
    async with log.write() as connection:
        await connection.execute(update(tables.peer).values(told="{}"))
    page = await look(stores, roles={"receiver": None})
    assert "gone 3, which is not heard of any more" in page


async def test_a_role_that_runs_in_no_process_is_what_is_wrong(stores: tuple[Database, Database], look: Look) -> None:
    """The only receiver and the only relay were stopped, and took leave: nothing waits, and no event will come."""
    log, _ = stores
    at = to_micros(NOW - timedelta(hours=3))
    async with log.write() as connection:
        used = {"tenant": "tenant-1", "name": "current", "first_at": at, "last_at": at, "count": 5}
        await connection.execute(insert(tables.secret_use), used)
    alone: dict[str, Any] = {
        "prefix": "whatsms",
        "roles": {"consumer": None},
        "reports": {"consumer": RoleReport(word="works", since=NOW)},
    }
    page = await look(stores, **alone)
    assert "Something is wrong with receiving, publishing" in page
    assert "Nobody takes deliveries in: the receiver runs in no process" in page
    assert "The relay runs in no process" in page
    assert "No process checks signatures now" in page
    assert "Another process" not in page
    there, fine = PeerId("there 2", NOW), RoleReport(word="works", since=NOW)
    await Peers(log).tell(there, PeerReport(roles={"receiver": fine, "relay": fine}))
    page = await look(stores, **alone)
    assert "The last delivery came 3 h ago. Another process receives." in page
    assert "runs in no process" not in page


async def test_a_part_that_could_not_be_read_is_what_the_first_sentence_says(
    stores: tuple[Database, Database], look: Look
) -> None:
    """Nothing else is wrong, and still not all is well: the sentence names the table that is gone."""
    log, projection = stores
    async with projection.write() as connection:
        await connection.execute(text("DROP TABLE parked_event"))
    page = await look((log, projection), roles={"receiver": None})
    sentence = page.partition('role="status">')[2].partition("</p>")[0]
    assert re.search("What is parked at the fold could not be read: .*parked_event", sentence)
    assert "somebody removed it" in sentence


async def test_a_database_that_is_away_leaves_a_page_that_says_so(look: Look) -> None:
    """Each part that could not be read says why, and the rest of the page stands."""
    away = DatabaseTarget("postgresql://nobody@127.0.0.1:1/none")
    log, projection = unopened("log", away), unopened("projection", away)
    page = await look((log, projection))
    assert "The log could not be read" in page
    assert "What is parked at the door could not be read" in page
    assert "Something is wrong with receiving, applying, repairing." in page
    assert "heard" in page
    await projection.close()
    await log.close()


def readiness(roles: Mapping[str, str | None], **details: object) -> Readiness:
    """Return how a process is."""
    return Readiness(ready=True, draining=False, checks={}, roles=roles, details=details)


def test_silence_is_told_with_its_cause() -> None:
    """Receiving is wrong where a tenant is silent while it should not be, and the sentence says what to look at."""
    silent = {"tenant": "shop", "state": "silent", "cause": "activity"}
    flow = Flow(7, NOW, None, None, None)
    found = stations.receiving(readiness({"receiver": None}, **{"watchdog.shop": silent}), {}, flow, NOW, NOW)
    assert (found.tone, found.word) == ("bad", "silent")
    assert "is the URL still registered" in found.sentence
    refusing = {"tenant": "shop", "state": "silent", "cause": "rejects"}
    found = stations.verifying(readiness({"receiver": None}, **{"watchdog.shop": refusing}), {}, [])
    assert found.tone == "bad"
    assert stations.verifying(readiness({}), {}, []).word == "elsewhere"


def test_a_station_that_keeps_up_never_says_that_nothing_waits_where_something_does() -> None:
    """What waits for less than a minute is no alarm, and is said."""
    just = NOW - timedelta(seconds=20)
    found = stations.publishing(readiness({"relay": None}), {}, Flow(7, NOW, 5, just, NOW), NOW)
    assert (found.tone, found.sentence) == ("good", "It keeps up; the next event came 20 s ago.")
    found = stations.publishing(readiness({"relay": None}), {}, Flow(7, NOW, 7, None, NOW), NOW)
    assert found.sentence.startswith("Everything is in Kafka")
    found = stations.applying(readiness({"consumer": None}), {}, 5, just, NOW)
    assert found.sentence == "It keeps up; the next event came 20 s ago."
    failing = readiness({"relay": "has failed for 31 s: no broker"})
    found = stations.publishing(failing, {}, Flow(7, NOW, 5, just, NOW), NOW)
    assert found.sentence.startswith(
        "The relay has failed for 31 s: no broker. The oldest event that waits came 20 s ago"
    )


def test_repairing_is_judged_by_the_oldest_finished_run() -> None:
    """No key, no run, an old one, a halted backfill and a fresh run are told apart."""
    fresh = Overview("t", None, 0, NOW - timedelta(hours=3), {("ticket", "stale"): 2})
    old = Overview("u", None, 0, NOW - timedelta(days=3), {})
    well = readiness({"backfill.shop": None})
    assert stations.repairing(well, {}, [fresh], keyed=False, now=NOW).word == "off"
    assert stations.repairing(well, {}, [], keyed=True, now=NOW).word == "never"
    good = stations.repairing(well, {}, [fresh], keyed=True, now=NOW)
    assert (good.tone, good.sentence) == (
        "good",
        "The last run over everything ended 3 h ago and found 2 differences.",
    )
    assert stations.repairing(well, {}, [fresh, old], keyed=True, now=NOW).tone == "warn"
    assert (
        stations.repairing(readiness({"backfill.shop": "halted: 401"}), {}, [fresh], keyed=True, now=NOW).tone == "bad"
    )
