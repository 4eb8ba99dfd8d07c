"""The sender, over real HTTP to a real server that verifies every signature."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import pytest
from aiohttp import web

from whatsms_events.domain import signature
from whatsms_events.domain.normalize import normalize
from whatsms_events.errors import InvalidEventError, SignatureError
from whatsms_events.twin.dialects import DIALECTS
from whatsms_events.twin.faults import Demand, Faults
from whatsms_events.twin.ledger import Ledger
from whatsms_events.twin.sender import Sender
from whatsms_events.twin.world import World

START = datetime(2026, 1, 15, 10, 30, tzinfo=UTC)
SECRET = b"shared with the receiver"


def world(seed: int = 1, dialect: str = "documented") -> World:
    """Make a world as most tests want it."""
    return World(seed, start=START, tenant_id="t", dialect=DIALECTS[dialect])


class Door:
    """A receiver on a real port: verifies, remembers bodies, answers as the service does; may be stopped or fail."""

    def __init__(self) -> None:
        self.seen: Counter[bytes] = Counter()
        self.order: list[bytes] = []
        self.refuse = 0
        self.status = 503
        self.headers: dict[str, str] = {}
        self.times: list[float] = []
        self.hold: asyncio.Event | None = None
        self.most_at_once = 0
        self.port = 0
        self._now = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Where to POST."""
        return f"http://127.0.0.1:{self.port}/webhooks/acme"

    async def start(self) -> None:
        """Listen, again on the same port after a stop."""
        app = web.Application(client_max_size=64 * 1024)
        app.router.add_post("/webhooks/acme", self.answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Close the port and every connection."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def answer(self, request: web.Request) -> web.Response:
        """Verify and remember, or fail as told."""
        self.times.append(asyncio.get_running_loop().time())
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            body = await request.read()
            if self.hold is not None:
                await self.hold.wait()
            return self._judge(request, body)
        finally:
            self._now -= 1

    def _judge(self, request: web.Request, body: bytes) -> web.Response:
        try:
            signature.verify(body, request.headers.getall(signature.HEADER, []), {"now": SECRET})
        except SignatureError:
            return web.json_response({"title": "Unauthorized"}, status=401)
        if self.refuse:
            self.refuse -= 1
            return web.Response(status=self.status, headers=self.headers)
        self.seen[body] += 1
        self.order.append(body)
        try:
            normalize(body, tenant="t", received_at=START)
        except InvalidEventError as exc:
            return web.json_response({"id": "x", "parked": exc.reason}, status=202)
        return web.json_response({"id": "x", "position": len(self.seen), "duplicate": self.seen[body] > 1})


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    """Give a listening receiver."""
    receiver = Door()
    await receiver.start()
    yield receiver
    await receiver.stop()


def digests(bodies: Counter[bytes] | list[bytes]) -> set[bytes]:
    """Give the SHA-256 of each body."""
    return {hashlib.sha256(body).digest() for body in bodies}


async def until(condition: Callable[[], bool]) -> None:
    """Wait until it is so; fail after ten seconds."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - counters of a running sender, which has no event for each
            await asyncio.sleep(0.01)


async def test_every_webhook_arrives_signed_and_once(door: Door) -> None:
    """On a good day the receiver has exactly the world's webhooks, and the ledger says so."""
    ledger = await Sender(door.url, SECRET, Ledger()).run(world(), limit=600)
    bodies = [webhook.body for webhook in islice(world().webhooks(), 600)]
    assert door.seen == Counter(bodies)
    assert ledger.accepted == digests(bodies)
    assert ledger.by_outcome == {"accepted": 600}
    assert ledger.by_type["message.ack"] > 100
    first = ledger.attempts[0]
    assert (first.status, first.number, first.duplicate, first.id) == (200, 1, False, "x")
    assert first.position is not None


async def test_one_connection_keeps_the_order(door: Door) -> None:
    """With one connection and no fault, webhooks arrive in the world's order."""
    await Sender(door.url, SECRET, Ledger(), connections=1).run(world(), limit=200)
    assert door.order == [webhook.body for webhook in islice(world().webhooks(), 200)]


async def test_redeliveries_are_byte_equal_and_answered_as_duplicates(door: Door) -> None:
    """Each redelivery reaches the receiver as the same bytes, and the ledger counts the answers."""
    faults = Faults(redeliver=0.2, reorder=0.2, delay=0.1, delay_s=0.05)
    ledger = await Sender(door.url, SECRET, Ledger(), faults=faults).run(world(), limit=400)
    bodies = {webhook.body for webhook in islice(world().webhooks(), 400)}
    assert door.seen.keys() == bodies
    again = door.seen.total() - len(bodies)
    assert again == ledger.by_outcome["duplicate"] > 50
    assert ledger.accepted == digests(list(bodies))


async def test_a_wrong_secret_burst_is_refused_and_not_in_accepted(door: Door) -> None:
    """What is signed with another secret gets 401, once each, and the real webhooks go on."""
    sender = Sender(door.url, SECRET, Ledger())
    sender.demand(Demand.WRONG_SECRET, 30)
    ledger = await sender.run(world(), limit=100)
    refused = [attempt for attempt in ledger.attempts if attempt.fault == "wrong_secret"]
    assert len(refused) == 30
    assert {attempt.status for attempt in refused} == {401}
    assert not {bytes.fromhex(attempt.sha256) for attempt in refused} & ledger.accepted
    assert ledger.accepted == digests(door.seen)
    assert len(ledger.accepted) == 100


async def test_garbage_is_parked_and_oversized_is_refused(door: Door) -> None:
    """Signed garbage gets 202 and counts as parked; a body over the limit is not accepted, and not tried again."""
    sender = Sender(door.url, SECRET, Ledger(), oversized_bytes=65 * 1024)
    sender.demand(Demand.GARBAGE, 20)
    sender.demand(Demand.OVERSIZED, 2)
    ledger = await sender.run(world(), limit=50)
    garbage = {bytes.fromhex(attempt.sha256) for attempt in ledger.attempts if attempt.fault == "garbage"}
    oversized = [attempt for attempt in ledger.attempts if attempt.fault == "oversized"]
    assert ledger.parked == garbage
    assert len(garbage) == 20
    assert len(oversized) == 2
    assert all(attempt.status == 413 or attempt.error for attempt in oversized)
    assert len(ledger.accepted) == 50


async def test_a_cut_body_is_sent_again_whole(door: Door) -> None:
    """A connection that closes in the middle of a body is an error first, and the delivery arrives after all."""
    sender = Sender(door.url, SECRET, Ledger())
    sender.demand(Demand.CUT, 5)
    ledger = await sender.run(world(), limit=20)
    cut = [attempt for attempt in ledger.attempts if attempt.fault == "cut"]
    assert Counter(attempt.outcome for attempt in cut) == {"error": 5, "accepted": 5}
    assert len(door.seen) == len(ledger.accepted) == 20


async def test_a_dropped_webhook_is_recorded_and_not_sent(door: Door) -> None:
    """What is dropped is in the ledger, and the receiver never sees it."""
    sender = Sender(door.url, SECRET, Ledger())
    sender.demand(Demand.DROP, 7)
    ledger = await sender.run(world(), limit=50)
    bodies = [webhook.body for webhook in islice(world().webhooks(), 50)]
    assert ledger.dropped == digests(bodies[:7])
    assert door.seen == Counter(bodies[7:])
    assert ledger.sent == 43


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_refused_for_now_is_tried_again(door: Door, status: int) -> None:
    """429 and 5xx are tried again with the same bytes until accepted."""
    door.refuse, door.status = 40, status
    ledger = await Sender(door.url, SECRET, Ledger()).run(world(), limit=30)
    assert ledger.by_outcome == {"accepted": 30, "unavailable": 40}
    assert set(door.seen.values()) == {1}


async def test_retry_after_is_honoured(door: Door) -> None:
    """The next try waits as long as the answer said, up to the sender's limit."""
    door.refuse, door.headers = 1, {"Retry-After": "1"}
    await Sender(door.url, SECRET, Ledger()).run(world(), limit=1)
    assert 0.95 <= door.times[1] - door.times[0] < 2
    door.refuse, door.headers = 1, {"Retry-After": "3600"}
    await Sender(door.url, SECRET, Ledger(), retry_after_limit_s=0.2).run(world(2), limit=1)
    assert door.times[3] - door.times[2] < 1


async def test_a_retry_has_other_bytes_where_the_dialect_says_so(door: Door) -> None:
    """In the dialect that writes each retry anew, what is accepted at the second try is the retry's body."""
    door.refuse = 1
    ledger = await Sender(door.url, SECRET, Ledger()).run(world(dialect="rewritten"), limit=1)
    webhook = next(world(dialect="rewritten").webhooks())
    assert webhook.retry is not None
    assert ledger.accepted == digests([webhook.retry])


async def test_what_is_never_accepted_is_given_up(door: Door) -> None:
    """Tries are bounded: then the ledger says that the delivery was given up."""
    door.refuse = 1000
    ledger = await Sender(door.url, SECRET, Ledger(), tries=2).run(world(), limit=10)
    assert ledger.by_outcome == {"unavailable": 20, "given_up": 10}
    assert len(ledger.given_up) == 10
    assert not ledger.accepted


async def test_it_goes_on_while_the_receiver_is_down(door: Door) -> None:
    """The receiver goes away with deliveries in flight and comes back: all are accepted in the end, none lost."""
    door.hold = asyncio.Event()
    sender = Sender(door.url, SECRET, Ledger(), timeout_s=2.0)
    async with asyncio.TaskGroup() as tasks:
        run = tasks.create_task(sender.run(world(), limit=300))
        await until(lambda: sender.in_flight == 8)
        await door.stop()
        await until(lambda: sender.ledger.by_outcome["error"] >= 50)
        door.hold = None
        await door.start()
    ledger = run.result()
    bodies = [webhook.body for webhook in islice(world().webhooks(), 300)]
    assert ledger.accepted == digests(bodies)
    assert not ledger.given_up
    assert sender.pending == sender.in_flight == 0


async def test_concurrency_and_backlog_are_bounded(door: Door) -> None:
    """Never more than `connections` requests at once, nor more than `pending_limit` deliveries alive."""
    door.hold = asyncio.Event()
    sender = Sender(door.url, SECRET, Ledger(), connections=3, pending_limit=20)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(sender.run(world(), limit=100))
        # What is in flight has not come to the door yet.
        await until(lambda: door.most_at_once == sender.in_flight == 3 and sender.pending == 20)
        assert sender.webhooks == sender.pending == 20
        door.hold.set()
    assert door.most_at_once == 3
    assert len(door.seen) == 100


async def test_a_silent_receiver_is_a_timeout(door: Door) -> None:
    """No answer in time is an error of the try, and the delivery is tried again."""
    door.hold = asyncio.Event()
    ledger = await Sender(door.url, SECRET, Ledger(), timeout_s=0.1, tries=2).run(world(), limit=1)
    assert [attempt.outcome for attempt in ledger.attempts] == ["error", "error", "given_up"]
    assert "Timeout" in (ledger.attempts[0].error or "")
    door.hold.set()


async def test_the_rate_is_kept(door: Door) -> None:
    """About `rate` webhooks a second leave, and a run of `seconds` ends by itself."""
    sender = Sender(door.url, SECRET, Ledger(), rate=200)
    await sender.run(world(), seconds=1.5)
    assert 200 <= sender.webhooks <= 301


async def test_stop_ends_a_run_and_another_one_goes_on(door: Door) -> None:
    """After `stop` what was taken is still answered, and the next run sends what follows in the same world."""
    one, stop = world(), asyncio.Event()
    sender = Sender(door.url, SECRET, Ledger(), rate=500)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(sender.run(one, stop))
        await until(lambda: sender.webhooks >= 50)
        stop.set()
    first = sender.webhooks
    assert len(door.seen) == first
    await sender.run(one, limit=50)
    assert door.seen == Counter(webhook.body for webhook in islice(world().webhooks(), first + 50))


async def test_stop_ends_even_when_nobody_answers(door: Door) -> None:
    """With the receiver gone, a stopped run is over after `drain_s` and gives up what is left."""
    await door.stop()
    sender = Sender(door.url, SECRET, Ledger(), drain_s=0.2)
    async with asyncio.timeout(60):
        ledger = await sender.run(world(), seconds=0.2)
    assert len(ledger.given_up) == sender.webhooks > 0


async def test_the_ledger_of_a_run_is_on_file(door: Door, tmp_path: Path) -> None:
    """What the file says after a run is what the ledger held."""
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        await Sender(door.url, SECRET, ledger, faults=Faults(redeliver=0.1)).run(world(), limit=200)
    again = Ledger.read(tmp_path / "ledger.jsonl")
    assert again.accepted == ledger.accepted == digests(door.seen)
    assert list(again.attempts) == list(ledger.attempts)


async def test_with_a_clock_webhooks_are_sent_when_they_are_due(door: Door) -> None:
    """The world keeps to the clock that is given, and what a verb announces in a paused world is sent at once."""
    one, stop = world(), asyncio.Event()
    one.advance(START + timedelta(seconds=60))
    one.pause()
    one.advance(START + timedelta(seconds=80))
    ledger, clock = Ledger(), asyncio.get_running_loop().time
    began = clock()

    async def write() -> None:
        one.account.touch_ticket(next(iter(one.account.tickets.values())))
        await until(lambda: bool(door.order))
        one.resume()
        await until(lambda: len(door.order) > 20)
        stop.set()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(write())
        await Sender(door.url, SECRET, ledger).run(
            one, stop, clock=lambda: START + timedelta(seconds=80 + 30 * (clock() - began))
        )
    assert b'"event":"ticket.' in door.order[0]
    assert ledger.accepted == digests(door.seen)
    assert ledger.by_outcome == {"accepted": ledger.sent}


async def test_without_a_url_webhooks_are_counted_and_not_sent() -> None:
    """Whoever has no receiver sees what would have been sent, by type."""
    ledger = await Sender(None, SECRET, Ledger()).run(world(), limit=300)
    assert ledger.by_outcome == {"unsent": 300}
    assert ledger.sent == 0
    assert not ledger.by_type
    assert {event_type for event_type, _ in ledger.counts} > {"message.received", "message.ack", "ticket.created"}


async def test_shares_of_faults_are_changed_while_webhooks_are_sent(door: Door) -> None:
    """Told to drop all for a while and then nothing, the sender does, and says what it was told."""
    sender, one = Sender(door.url, SECRET, Ledger()), world()
    sender.faults = Faults(drop=1.0)
    await sender.run(one, limit=50)
    assert sender.ledger.by_outcome == {"dropped": 50}
    sender.faults = Faults()
    sender.demand(Demand.GARBAGE, 2)
    assert sender.demanded == {Demand.GARBAGE: 2}
    await sender.run(one, limit=50)
    assert sender.ledger.by_outcome == {"dropped": 50, "accepted": 50, "parked": 2}
    assert not sender.demanded
