"""The event feed over real HTTP, on real SQLite and real PostgreSQL: nothing is skipped, nobody waits for the slow."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from uuid import UUID

import aiohttp
import pytest
import structlog
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert, update

from servers.compare import until
from servers.examples import examples
from servers.metric import sample
from web.listener import bearer, probes
from web.test_api import TENANTS, Client, event
from web.test_api import databases as _databases
from web.test_api import put as _put
from whatsms_events.consume import FeedReader, Sent
from whatsms_events.domain.scopes import Scope
from whatsms_events.storage import tables
from whatsms_events.storage.database import Database
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.reads import SCAN_LIMIT, Queries
from whatsms_events.storage.repair.reports import Reports
from whatsms_events.web.access import Access, Holder, NamedToken, Session
from whatsms_events.web.api import Api
from whatsms_events.web.app import Listener, private_app
from whatsms_events.web.feed import PLACES, Feed
from whatsms_events.web.tail import Tail

databases, put = _databases, _put

Databases = tuple[Database, Database]
PATH = "/api/v1/stream"
DEADLINE_S = 60.0
TYPES = ("message.received", "ticket.closed", "contact.updated")


class Reading:
    """A consumer of the feed: the rows that it had, in order, and the last words where there were any."""

    def __init__(self, last_id: str = "") -> None:
        self.parsed = FeedReader(last_id)
        self.rows: list[dict[str, Any]] = []
        self.reason: str | None = None

    @property
    def positions(self) -> list[int]:
        """The positions of the rows."""
        return [row["position"] for row in self.rows]

    def reached(self, position: int) -> bool:
        """Tell whether the reader knows that it is so far, with an event or without."""
        return int(self.parsed.last_id.partition("-")[0] or 0) >= position

    def line(self, line: bytes) -> Sent | None:
        """Take a line of the feed."""
        sent = self.parsed.line(line)
        if sent is not None and sent.ended:
            self.reason = json.loads(sent.data)["reason"]
        elif sent is not None:
            row = json.loads(sent.data)
            assert row["type"] == sent.name
            self.rows.append(row)
        return sent

    async def until(self, answer: aiohttp.ClientResponse, enough: Callable[[], bool]) -> None:
        """Read the answer until there is enough, or until it ends."""
        async with asyncio.timeout(DEADLINE_S):
            while not enough() and (line := await answer.content.readline()):
                self.line(line)


@asynccontextmanager
async def serving(databases: Databases, **given: Any) -> AsyncIterator[tuple[Feed, Client]]:
    """Serve the read API and the feed, with the loop that the feed needs."""
    tokens: list[NamedToken] = given.pop("tokens", [])
    session: Session = given.pop("session", lambda _request: None)
    asked = Queries(*databases, places=PLACES, scan_limit=given.pop("scan_limit", SCAN_LIMIT))
    feed = Feed(asked, EventLog(databases[0]), TENANTS, tokens, **given)
    reading = Api(Queries(*databases), TENANTS, Reports(databases[0]))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(feed.run())
        access = Access(tokens, wrong_s=0)
        access.sessions = session
        listening = private_app(access, probes(), feed, reading)
        async with TestClient(TestServer(listening)) as client:
            yield feed, client
            feed.stop()


@asynccontextmanager
async def open_feed(client: Client, last_id: str = "", **query: str) -> AsyncIterator[aiohttp.ClientResponse]:
    """Open the feed, perhaps behind the last event that was had."""
    headers = {"Last-Event-ID": last_id} if last_id else {}
    async with client.get(PATH, params=query, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        assert answer.content_type == "text/event-stream"
        assert answer.headers["Cache-Control"] == "no-store"
        yield answer


async def test_a_row_is_the_same_as_in_the_list(databases: Databases, put: Any) -> None:
    """What the feed sends of an event is to the letter what `/api/v1/events` shows; its name is the type, its id the
    position and the event's id.
    """
    await put(
        tables.event_log, event(3), event(7, type="ticket.closed", tenant="of-the-past", data='{"a":\n[1,\r\n2]}')
    )
    async with serving(databases) as (_feed, client):
        async with client.get("/api/v1/events") as answer:
            listed = (await answer.json())["events"]
        async with open_feed(client) as answer:
            reading = Reading()
            await reading.until(answer, lambda: len(reading.rows) == 2)
    assert reading.rows == listed
    assert reading.parsed.last_id == f"7-{UUID(int=7)}"


async def test_what_is_appended_comes_in_the_order_of_the_log(databases: Databases, put: Any) -> None:
    """A reader from the beginning and one from the end both get what is appended while they read, in its order."""
    await put(tables.event_log, *(event(position) for position in range(1, 1200)))
    async with (
        serving(databases) as (_feed, client),
        open_feed(client) as whole,
        open_feed(client, after="1199") as end,
    ):
        every, new = Reading(), Reading()
        for start in range(1200, 1500, 50):
            await put(tables.event_log, *(event(position) for position in range(start, start + 50, 3)))
        last = 1450 + 48
        await asyncio.gather(
            every.until(whole, lambda: last in every.positions[-1:]),
            new.until(end, lambda: last in new.positions[-1:]),
        )
    wanted = [position for start in range(1200, 1500, 50) for position in range(start, start + 50, 3)]
    assert new.positions == wanted
    assert every.positions == [*range(1, 1200), *wanted]


def answers(lines: list[bytes], cut: int) -> Iterator[bytes]:
    """Yield the lines of which all bytes came before the cut; the last one as far as it came."""
    for line in lines:
        if cut <= 0:
            return
        yield line[:cut]
        cut -= len(line)


@settings(max_examples=examples(15))
@given(
    cuts=st.lists(st.integers(1, 4000), max_size=8), wanted=st.sampled_from(["", "ticket.closed", "contact.updated"])
)
def test_a_reader_that_reconnects_skips_nothing(recorded: tuple[Any, Any], cuts: list[int], wanted: str) -> None:
    """A connection may be cut behind any byte, as often as may be: a reader that comes again with the last id it has
    got every event once, in order, with a filter too.
    """
    run, ask = recorded
    reading, last_id, rows = Reading(), "", []
    for cut in [*cuts, 10**9]:
        reading = Reading(last_id)
        for line in answers(run(ask(last_id, wanted)), cut):
            reading.line(line)
        last_id = reading.parsed.last_id
        rows += reading.positions
    assert rows == [n for n in range(1, 31) if not wanted or TYPES[n % 3] == wanted]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    """Give a service with thirty events, and what asks its feed from a place on until it is at the end."""
    from whatsms_events.storage.database import DatabaseTarget, open_log, open_projection

    folder = tmp_path_factory.mktemp("feed")
    with asyncio.Runner() as runner:

        async def begun() -> Any:
            log = await open_log(DatabaseTarget(f"sqlite:///{folder / 'log.db'}"), migrate=True)
            projection = await open_projection(DatabaseTarget(f"sqlite:///{folder / 'projection.db'}"), migrate=True)
            async with log.write() as connection:
                rows = [event(n, type=TYPES[n % 3], subject="x" * (n % 7)) for n in range(1, 31)]
                await connection.execute(insert(tables.event_log), rows)
            context = serving((log, projection), beat_s=0.05)
            return log, projection, context, await context.__aenter__()

        log, projection, context, (_feed, client) = runner.run(begun())

        async def ask(last_id: str, wanted: str) -> list[bytes]:
            lines: list[bytes] = []
            query = {"type": wanted} if wanted else {}
            reading = Reading(last_id)
            async with open_feed(client, last_id, **query) as answer, asyncio.timeout(DEADLINE_S):
                while not reading.reached(30):
                    lines.append(await answer.content.readline())
                    reading.line(lines[-1])
            return lines

        yield runner.run, ask

        async def end() -> None:
            await context.__aexit__(None, None, None)
            await projection.close()
            await log.close()

        runner.run(end())


async def test_a_reader_gets_only_what_it_asks_for(databases: Databases, put: Any) -> None:
    """Tenant, type and ticket narrow the feed, of what was there and of what comes; alone and together."""

    def some(start: int) -> list[dict[str, Any]]:
        return [
            event(start, ticket_id="a"),
            event(start + 1, tenant="tenant-2", ticket_id="a", type="ticket.closed"),
            event(start + 2, type="ticket.closed"),
            event(start + 3, tenant="tenant-2", ticket_id="b"),
            event(start + 4, tenant="tenant-3", type="contact.updated"),
        ]

    asked: list[tuple[dict[str, str], list[int]]] = [
        ({"tenant": "shop"}, [1, 3]),
        ({"tenant": "bank", "type": "ticket.closed"}, [2]),
        ({"ticket": "a"}, [1, 2]),
        ({"ticket": "b", "tenant": "shop"}, []),
        ({"type": "contact.updated"}, [5]),
    ]
    await put(tables.event_log, *some(1))
    async with serving(databases, beat_s=0.1) as (_feed, client):
        for query, places in asked:
            async with open_feed(client, **query) as answer:
                reading = Reading()
                await reading.until(answer, partial(reading.reached, 5))
                assert reading.positions == places
                await put(tables.event_log, *some(11))
                await reading.until(answer, partial(reading.reached, 15))
                assert reading.positions == [*places, *(10 + place for place in places)]
            async with databases[0].write() as connection:
                await connection.execute(delete(tables.event_log).where(tables.event_log.c.position > 10))


async def test_what_was_forgotten_is_not_kept_for_those_who_come_again(databases: Databases, put: Any) -> None:
    """Once the event is read that says that a person was forgotten, a reader that asks for what came before gets it as
    it is in the log now, and not as it was read before it was blanked, although that is not long ago.
    """
    await put(tables.event_log, event(1), event(2))
    async with serving(databases) as (_feed, client), open_feed(client, after="2") as answer:

        async def blanked() -> bool:
            async with open_feed(client) as again:
                reading = Reading()
                await reading.until(again, partial(reading.reached, 2))
            return [row["data"] for row in reading.rows[:2]] == [None, None]

        assert not await blanked()
        async with databases[0].write() as connection:
            await connection.execute(update(tables.event_log).values(data=None, raw=None))
        await put(tables.event_log, event(3, type="contact.forgotten", data="{}"))
        staying = Reading()
        await staying.until(answer, partial(staying.reached, 3))
        await until(blanked, DEADLINE_S, "what was read before is forgotten")


async def refused(client: Client, status: int, last_id: str = "", **query: str) -> dict[str, Any]:
    """Open what must be refused, as problem+json."""
    headers = {"Last-Event-ID": last_id} if last_id else {}
    async with client.get(PATH, params=query, headers=headers) as answer:
        assert answer.status == status, await answer.text()
        body: dict[str, Any] = await answer.json(content_type="application/problem+json")
        return body | {"retry_after": answer.headers.get("Retry-After")}


async def test_a_log_that_is_not_the_readers_own_is_refused(databases: Databases, put: Any) -> None:
    """A place past the end, one that holds another event now, and one that the log does not have: 400 each, which names
    what is wrong; `after` may be such an id too, the last event's id counts more, and two of those are refused.
    """
    await put(tables.event_log, event(1), event(2), event(5))
    async with serving(databases) as (_feed, client):
        for after in ("6", f"6-{UUID(int=6)}", f"2-{UUID(int=1)}", f"4-{UUID(int=4)}", "9" * 19, "-1", ""):
            assert (await refused(client, 400, after=after))["parameter"] == "after"
        for last_id in (f"6-{UUID(int=6)}", f"2-{UUID(int=1)}", f"4-{UUID(int=4)}", "6", "no id", "-1", "9" * 19):
            assert (await refused(client, 400, last_id, after="1"))["parameter"] == "Last-Event-ID"
        async with client.get(PATH, headers=[("Last-Event-ID", ""), ("Last-Event-ID", f"2-{UUID(int=2)}")]) as answer:
            assert (answer.status, (await answer.json(content_type=None))["parameter"]) == (400, "Last-Event-ID")
        for query in ({"after": "x"}, {"type": "nothing"}, {"page": "1"}):
            assert (await refused(client, 400, **query))["parameter"] == next(iter(query))
        await refused(client, 404, tenant="nobody")
        for last_id, after in ((f"2-{UUID(int=2)}", "0"), ("", f"2-{UUID(int=2)}"), ("", "2")):
            async with open_feed(client, last_id, after=after) as answer:
                reading = Reading()
                await reading.until(answer, partial(reading.reached, 5))
                assert reading.positions == [5]


async def test_a_restored_log_is_refused_also_where_a_filter_left_out_its_last_event(
    databases: Databases, put: Any
) -> None:
    """A reader whose filter fits nothing is moved on by places that name the event there, also where positions are
    empty: once a restored log has grown to that place again, the reader is refused and does not read past.
    """
    await put(tables.event_log, *(event(position) for position in (3, 40, 900)))
    async with serving(databases, scan_limit=100, beat_s=0.05) as (_feed, client):
        async with open_feed(client, type="ticket.closed") as answer:
            reading, told = Reading(), set()

            def reached() -> bool:
                told.add(reading.parsed.last_id)
                return reading.reached(900)

            await reading.until(answer, reached)
        assert told <= {"", *(f"{position}-{UUID(int=position)}" for position in (3, 40, 900))}
        async with databases[0].write() as connection:
            await connection.execute(delete(tables.event_log).where(tables.event_log.c.position > 3))
        await put(tables.event_log, event(900, id=UUID(int=1900)))
        refusal = await refused(client, 400, reading.parsed.last_id, type="ticket.closed")
        assert refusal["parameter"] == "Last-Event-ID"


async def test_a_log_that_shrinks_under_its_readers_ends_their_feeds(databases: Databases, put: Any) -> None:
    """Where a database is restored from an older copy while the service runs, readers are told so, and end."""
    await put(tables.event_log, *(event(n) for n in range(1, 6)))
    async with serving(databases) as (_feed, client), open_feed(client) as answer:
        reading = Reading()
        await reading.until(answer, lambda: len(reading.rows) == 5)
        async with databases[0].write() as connection:
            await connection.execute(delete(tables.event_log).where(tables.event_log.c.position > 3))
        await reading.until(answer, lambda: False)
        assert reading.reason == "restored"


async def test_a_restored_log_that_grew_past_its_readers_between_two_looks_ends_their_feeds(
    databases: Databases, put: Any
) -> None:
    """A log is restored from an older copy and filled again at once: it is longer than what readers had of it, and the
    event at their place is another one. Whoever waits at the end is told so, and so is one that is behind.
    """
    await put(tables.event_log, *(event(n) for n in range(1, 6)))
    async with serving(databases) as (_feed, client), open_feed(client) as answer:
        reading = Reading()
        await reading.until(answer, lambda: len(reading.rows) == 5)
        async with databases[0].write() as connection:
            await connection.execute(delete(tables.event_log).where(tables.event_log.c.position > 3))
            rows = [event(n, id=UUID(int=1000 + n)) for n in range(4, 10)]
            await connection.execute(tables.event_log.insert(), rows)
        await reading.until(answer, lambda: False)
        assert (reading.reason, reading.positions) == ("restored", [1, 2, 3, 4, 5])


def named(name: str, secret: str, *may: Scope) -> NamedToken:
    """Return a token."""
    return NamedToken(name, secret.encode(), frozenset(may))


async def test_without_the_scope_personal_the_feed_hides_as_the_list_does(databases: Databases, put: Any) -> None:
    """Two readers of one feed see the same events, of which the one without the scope sees what the list shows it: of
    what was there, and of what comes. That the first one opened the feed is noted, with the position before it.
    """
    await put(tables.event_log, event(1), event(2, data="null", type="of another release"))
    tokens = [named("agent", "token-of-an-agent", "read", "personal"), named("screen", "token-of-a-screen", "read")]
    async with serving(databases, tokens=tokens) as (_feed, client):
        with structlog.testing.capture_logs() as lines:
            for token in tokens:
                async with client.get(PATH, params={"after": "1"}, headers=bearer(token.secret.decode())):
                    pass
        shown = [(one["holder"], one["kind"], one["subject"]) for one in lines if one["event"] == "personal.shown"]
        assert shown == [("agent", "feed", 1)]
        for token in tokens:
            header = bearer(token.secret.decode())
            async with client.get(PATH, headers=header) as answer:
                reading = Reading()
                await reading.until(answer, partial(reading.reached, 2))
                await put(tables.event_log, event(3))
                await reading.until(answer, partial(reading.reached, 3))
            async with client.get("/api/v1/events", headers=header) as answer:
                assert (await answer.json())["events"] == reading.rows
            assert ("olá" in json.dumps(reading.rows, ensure_ascii=False)) == (token.name == "agent")
            async with databases[0].write() as connection:
                await connection.execute(delete(tables.event_log).where(tables.event_log.c.position == 3))


async def test_a_token_that_has_gone_ends_its_feeds(databases: Databases) -> None:
    """401 without a token. A feed ends when its token gets another secret, and when tenants change; that of another
    token stays open.
    """
    kept, old = named("kept", "token-that-is-kept", "read"), named("old", "token-that-goes", "read")
    async with serving(databases, tokens=[kept, old]) as (feed, client):
        assert (await refused(client, 401))["status"] == 401
        async with (
            client.get(PATH, headers=bearer("token-that-is-kept")) as staying,
            client.get(PATH, headers=bearer("token-that-goes")) as going,
        ):
            assert (staying.status, going.status) == (200, 200)
            stayed, gone = Reading(), Reading()
            feed.change(TENANTS, [kept, named("old", "another token", "read")])
            await gone.until(going, lambda: False)
            assert gone.reason == "settings"
            feed.change({"shop": "tenant-1"}, [kept])
            await stayed.until(staying, lambda: False)
            assert stayed.reason == "settings"


async def test_a_feed_ends_with_the_session_that_opened_it(databases: Databases, put: Any) -> None:
    """What a browser opened with its cookie ends when the session does, and nothing that comes later is shown to it."""
    one, times = named("one", "token-of-the-session", "read"), [1000.0]
    there = Holder("one", frozenset({"read"}), until=2000.0)
    given = {"tokens": [one], "clock": lambda: times[-1], "session": lambda _request: there}
    async with serving(databases, **given) as (_feed, client):
        await put(tables.event_log, event(1))
        async with client.get(PATH) as answer:
            reading = Reading()
            await reading.until(answer, lambda: len(reading.rows) == 1)
            times.append(2000.0)
            await put(tables.event_log, event(2))
            await reading.until(answer, lambda: False)
        assert reading.reason == "session"
        assert [row["position"] for row in reading.rows] == [1]


async def test_there_are_as_many_readers_as_may_be(databases: Databases) -> None:
    """The next reader gets 503 with Retry-After; when one has left, there is room again, long before the next beat."""
    async with serving(databases, readers_limit=2) as (_feed, client):
        async with open_feed(client), open_feed(client):
            assert (await refused(client, 503))["retry_after"] == "5"
            assert value("feed_readers") == 2

        async def opens() -> bool:
            async with client.get(PATH) as answer:
                return answer.status == 200

        await until(opens, DEADLINE_S, "room for another reader")


async def test_on_the_service_s_own_connections_too_who_leaves_makes_room(databases: Databases) -> None:
    """The service's listener answers clients that send no more; a reader of the feed that has closed its connection is
    not taken for such a client.
    """
    feed = Feed(Queries(*databases, places=PLACES), EventLog(databases[0]), TENANTS, [], readers_limit=1)
    listening = Listener(private_app(Access([]), probes(), feed))
    url = await listening.start("127.0.0.1", 0)
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{url}{PATH}") as answer:
            assert answer.status == 200

        async def opens() -> bool:
            async with session.get(f"{url}{PATH}") as answer:
                return answer.status == 200

        await until(opens, DEADLINE_S, "room for another reader")
    feed.stop()
    await listening.stop(1.0)


async def test_a_process_that_stops_ends_its_feeds(databases: Databases, put: Any) -> None:
    """Each reader is told why its feed ends, and has had whole events; who comes now gets 503."""
    await put(tables.event_log, event(1))
    async with serving(databases) as (feed, client), open_feed(client) as answer:
        reading = Reading()
        await reading.until(answer, lambda: len(reading.rows) == 1)
        feed.stop()
        await reading.until(answer, lambda: False)
        assert reading.reason == "stopping"
        assert (await refused(client, 503))["retry_after"] == "5"


async def test_a_slow_reader_is_cut_off_and_others_are_not_delayed(databases: Databases, put: Any) -> None:
    """A reader that takes nothing is cut off, and told so behind a whole event where it reads after all. Another one
    has all of its events meanwhile.
    """
    long = '{"message":{"body":"' + "x" * 60_000 + '"}}'
    await put(tables.event_log, *(event(n, data=long) for n in range(1, 271)))
    before = stalled()
    async with serving(databases, stall_s=0.2, close_s=DEADLINE_S) as (_feed, client), open_feed(client) as slow:
        # What this one asks for fits into its connection, so its writes never wait.
        async with open_feed(client, after="270", type="contact.updated") as other:
            quick = Reading()
            for n in range(271, 281):
                await put(tables.event_log, event(n, type="contact.updated"))
                await quick.until(other, partial(quick.reached, n))
            await until(
                lambda: value("feed_ended_total", reason="stalled") > before, DEADLINE_S, "the slow reader is cut off"
            )
            await put(tables.event_log, event(281, type="contact.updated"))
            await quick.until(other, partial(quick.reached, 281))
        reading = Reading()
        await reading.until(slow, lambda: False)
    assert quick.positions == list(range(271, 282))
    assert reading.reason == "stalled"
    assert reading.positions == list(range(1, len(reading.rows) + 1))
    assert len(reading.rows) < 270


async def test_a_reader_in_the_middle_of_a_large_event_is_not_told_half_of_it(databases: Databases, put: Any) -> None:
    """Where a reader stalls within an event that is larger than what may wait for it, it gets neither the rest nor last
    words: it has not had that event.
    """
    await put(tables.event_log, event(1), event(2, data='{"message":{"body":"' + "x" * 16_000_000 + '"}}'))
    before = stalled()
    async with serving(databases, stall_s=0.2, close_s=DEADLINE_S) as (_feed, client), open_feed(client) as slow:
        await until(
            lambda: value("feed_ended_total", reason="stalled") > before, DEADLINE_S, "the slow reader is cut off"
        )
        reading = Reading()
        for line in (await slow.read()).splitlines():
            reading.line(line)
    assert reading.positions == [1]
    assert reading.reason is None
    assert reading.parsed.last_id == f"1-{UUID(int=1)}"


async def test_slow_readers_hold_a_large_event_once_and_make_room_for_others(databases: Databases, put: Any) -> None:
    """A reader that takes none of a large event holds it; another one at the same place shares it, and one that needs
    room for another event gets it, for which the first one is cut off and told nothing of what it did not have.
    """
    long = '{"message":{"body":"' + "x" * 16_000_000 + '"}}'
    await put(tables.event_log, event(1), event(2, data=long), event(3, data=long[:200_000] + '"}}'))
    before = value("feed_ended_total", reason="slow")
    given: dict[str, Any] = {"behind_bytes": 1, "patience_s": 0.2, "close_s": DEADLINE_S}
    # Nothing stays in this ring: the log is read for each.
    given["tail"] = Tail(Queries(*databases), lambda row, _personal: row, on_restored=lambda: None, ring_s=-1.0)
    async with serving(databases, **given) as (_feed, client), open_feed(client, after="1") as slow:
        await slow.content.readexactly(100)  # it has begun, and so holds the event
        async with open_feed(client, after="1") as same:
            assert await large_event(same) == 2
        async with open_feed(client, after="2") as other:
            assert await large_event(other) == 3
        await until(lambda: value("feed_ended_total", reason="slow") > before, DEADLINE_S, "the slow reader is cut off")
        reading = Reading()
        for line in (await slow.read()).splitlines():
            reading.line(line)
    assert reading.positions == []


async def large_event(answer: aiohttp.ClientResponse) -> int:
    """Read the block behind the first one, which is the feed's own; return the position of its event."""
    async with asyncio.timeout(DEADLINE_S):
        for _ in range(2):
            block = await answer.content.readuntil(b"\n\n", max_size=20_000_000)
    return int(block.partition(b"-")[0].removeprefix(b"id: "))


async def cut_off(before: float) -> None:
    """Wait until one more reader has stalled than before."""
    await until(lambda: stalled() > before, DEADLINE_S, "the slow reader is cut off")


def stalled() -> float:
    """Return how many readers have stalled."""
    return value("feed_ended_total", reason="stalled")


def value(name: str, **labels: str) -> float:
    """Return what a metric shows; 0 where it shows nothing yet."""
    return sample(f"whatsms_events_{name}", labels) or 0.0
