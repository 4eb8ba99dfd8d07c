"""The watch over silence: over a real log, a twin's REST API over real HTTP, and one clock that the test moves."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from servers.compare import LONG
from servers.metric import sample
from servers.reconciling import KEY, SLUG, House, house
from whatsms_events.errors import (
    StorageUnavailableError,
    UpstreamForbiddenError,
    UpstreamUnauthorizedError,
    UpstreamUnavailableError,
)
from whatsms_events.storage.log.arrivals import Arrivals
from whatsms_events.storage.projection.holdings import Holdings
from whatsms_events.twin.dialects import DIALECTS
from whatsms_events.twin.rest.faults import RestFault
from whatsms_events.twin.world import World
from whatsms_events.whatsms import Client
from whatsms_events.whatsms.limits import Limits
from whatsms_events.workers.loop import Bell, Worker, run
from whatsms_events.workers.watchdog import DETAILS, Probe, TicketProbe, Watchdog

pytestmark = pytest.mark.twin

START = datetime(2026, 5, 1, 8, tzinfo=UTC)
TENANT = "5f0c9a52-7d0f-4f0e-9c1f-2d6a5b1b7a10"
FLOOR_S, INTERVAL_S = 600.0, 300.0
TICKETS, TICKET = ("GET", "/tickets"), ("GET", "/tickets/{id}")


def make_world(dialect: str = "documented") -> World:
    """Return an account in which much happens in an hour."""
    return World(7, start=START, tenant_id=TENANT, pace=0.03, dialect=DIALECTS[dialect])


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[House]:
    """Give the world with everything beside it, on SQLite."""
    async with house(f"sqlite:///{tmp_path}/log.db", f"sqlite:///{tmp_path}/projection.db", make_world()) as opened:
        yield opened


def gauge(name: str) -> float | None:
    """Return what a gauge of the tenant shows."""
    return sample(f"whatsms_events_{name}", {"tenant": SLUG})


@dataclass
class Watch:
    """A watchdog, and what it is given and says. `answers` are those of its looks, the last one for ever."""

    here: House
    answers: list[bool | None | Exception] = field(default_factory=lambda: [False])
    refused: int = 0
    looks: list[tuple[datetime, int]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    away: bool = False

    def dog(self, *, probe: Probe | None = None, keyless: bool = False) -> Watchdog:
        """Return a watchdog as a process that starts now has it."""

        async def asked(cause: str) -> None:
            if self.away:
                raise StorageUnavailableError("the log is away")
            self.said.append(str(dog.detail["cause"]) if cause == "silence" else cause)

        dog = Watchdog(
            SLUG,
            self.here.tenant,
            arrivals=Arrivals(self.here.log, self.here.tenant),
            rejects=lambda: self.refused,
            probe=None if keyless else probe or self.look,
            gaps=20,
            floor_s=FLOOR_S,
            probe_interval_s=INTERVAL_S,
            now=self.here.now,
            ask=asked,
        )
        return dog

    async def look(self, since: datetime, position: int) -> bool | None:
        """Answer a look at the REST API."""
        self.looks.append((since, position))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def webhook(self, number: int) -> None:
        """Accept one webhook now."""
        ticket = {"id": f"t-{number}", "status": "open"}
        body = {"event": "ticket.updated", "tenantId": TENANT, "timestamp": str(self.here.now()), "data": ticket}
        await self.here.take_body(json.dumps(body).encode())

    async def usual(self, dog: Watchdog, *, every_s: float = 60, count: int = 30) -> None:
        """Let webhooks come as they usually do; at the end the last one has just come."""
        for number in range(count):
            await self.here.tick(every_s)
            await self.webhook(number)
            assert await dog.run_once() == 0
        assert dog.detail["state"] == "heard"

    async def wait(self, dog: Watchdog, seconds: float, *, step_s: float = 10) -> None:
        """Let time pass in silence, the watchdog looking as often as its loop lets it."""
        for _ in range(int(seconds / step_s)):
            await self.here.tick(step_s)
            assert await dog.run_once() == 0


@pytest.fixture
def watch(here: House) -> Watch:
    """Give what a watchdog needs."""
    return Watch(here)


async def test_quiet_alone_is_no_alarm(watch: Watch) -> None:
    """A night without a webhook, while the REST API shows nothing new, makes no alarm and no line of the log."""
    dog = watch.dog()
    await watch.usual(dog)
    with capture_logs() as logs:
        await watch.wait(dog, 12 * 3600, step_s=100)
    assert dog.detail["state"] == "quiet"
    assert (gauge("silent"), watch.said, logs) == (0, [], [])


async def test_silence_while_the_account_is_active_is_an_alarm(watch: Watch) -> None:
    """Twenty usual gaps without a webhook, and news in two looks in a row: said once, by log, metric and detail."""
    watch.answers = [True]
    dog = watch.dog()
    await watch.usual(dog)
    accepted_at = watch.here.now()
    await watch.wait(dog, 20 * 60 - 10)
    assert (dog.detail["state"], watch.looks) == ("heard", [])
    with capture_logs() as logs:
        await watch.wait(dog, 10)
        assert (dog.detail["state"], watch.looks) == ("quiet", [(accepted_at, 30)])
        await watch.wait(dog, INTERVAL_S - 10)
        assert (dog.detail["state"], gauge("silent")) == ("quiet", 0)
        await watch.wait(dog, 10)
        assert dog.detail["state"] == "silent"
        await watch.wait(dog, 3600)
    assert logs == [
        {
            "event": "webhooks.silent", "log_level": "error", "tenant": SLUG, "cause": "activity", "silent_s": 1500,
            "usual_gap_s": 60.0,
        }
    ]  # fmt: skip
    assert (gauge("silent"), gauge("last_accepted_timestamp_seconds")) == (1, accepted_at.timestamp())
    assert watch.said == ["activity"]
    assert len(watch.looks) == 2
    assert dog.detail == {
        "tenant": SLUG, "tenant_id": TENANT,
        "state": "silent", "cause": "activity", "last_accepted": accepted_at.isoformat(),
        "silent_s": 5100, "usual_gap_s": 60.0, "patience_s": 1200, "rejects": 0, "probe": "news",
    }  # fmt: skip


async def test_the_next_webhook_ends_it(watch: Watch) -> None:
    """A webhook that any process accepts ends the alarm, with a line at info; the next silence is a new one."""
    watch.answers = [True]
    dog = watch.dog()
    await watch.usual(dog)
    await watch.wait(dog, 1600)
    await watch.webhook(99)
    with capture_logs() as logs:
        await dog.run_once()
    assert logs == [{"event": "webhooks.heard", "log_level": "info", "tenant": SLUG, "silent_s": 1600}]
    assert (gauge("silent"), dog.detail["state"]) == (0, "heard")
    await watch.wait(dog, 1600)
    assert watch.said == ["activity", "heard", "activity"]


async def test_a_webhook_that_is_only_late_is_no_alarm(watch: Watch) -> None:
    """News in one look, told by a webhook before the next one or no news any more then, is not counted on."""
    watch.answers = [True]
    dog = watch.dog()
    await watch.usual(dog)
    for number in range(3):
        await watch.wait(dog, 1200 + INTERVAL_S - 10)
        assert dog.detail["state"] == "quiet"
        await watch.webhook(100 + number)
        await dog.run_once()
    watch.answers = [True, False] * 20
    await watch.wait(dog, 40 * INTERVAL_S)
    assert watch.said == []


async def test_a_look_that_says_nothing_neither_counts_nor_breaks_the_row(watch: Watch) -> None:
    """While the projection is behind, or the API is away, looks say nothing; the watch goes on."""
    away = UpstreamUnavailableError("GET /tickets: 502", status=502)
    watch.answers = [None, True, away, away, None, True]
    dog = watch.dog()
    await watch.usual(dog)
    with capture_logs() as logs:
        await watch.wait(dog, 1200 + 5 * INTERVAL_S - 10)
        assert (dog.detail["state"], dog.detail["probe"]) == ("quiet", "projection behind")
        await watch.wait(dog, 10)
    assert [(line["event"], line["log_level"]) for line in logs] == [
        ("webhooks.unprobed", "warning"),
        ("webhooks.unprobed", "warning"),
        ("webhooks.silent", "error"),
    ]
    assert logs[0]["reason"] == "GET /tickets: 502"


@pytest.mark.parametrize(
    "refusal",
    [
        UpstreamUnauthorizedError("GET /tickets: 401", status=401),
        UpstreamForbiddenError("GET /tickets: 403", status=403),
    ],
)
async def test_a_key_that_is_refused_is_tried_once_an_hour(watch: Watch, refusal: Exception) -> None:
    """401 and 403 stop the looks for an hour, no longer: it may have been a proxy's word, and the silence goes on."""
    watch.answers = [refusal, refusal, True]
    dog = watch.dog()
    await watch.usual(dog)
    with capture_logs() as logs:
        await watch.wait(dog, 1200 + 3600 - 10)
        assert len(watch.looks) == 1
        await watch.wait(dog, 3600)
    assert len(watch.looks) == 2
    assert [line["event"] for line in logs] == ["webhooks.unprobed"] * 2
    assert (dog.detail["state"], dog.detail["probe"]) == ("quiet", str(refusal))
    await watch.wait(dog, 10 + INTERVAL_S)
    assert watch.said == ["activity"]


async def test_refused_signatures_make_an_alarm_while_the_key_is_refused(watch: Watch) -> None:
    """The one rule does not wait for the other, and the next silence is probed at once."""
    watch.answers = [UpstreamForbiddenError("GET /tickets: 403", status=403), True]
    dog = watch.dog()
    await watch.usual(dog)
    await watch.wait(dog, 1800)
    watch.refused = 3
    await watch.wait(dog, 10)
    assert watch.said == ["rejects"]
    await watch.usual(dog)
    await watch.wait(dog, 1200 + INTERVAL_S)
    assert watch.said == ["rejects", "heard", "activity"]


@pytest.mark.parametrize("keyless", [True, False])
async def test_silence_while_signatures_are_refused_is_an_alarm(watch: Watch, *, keyless: bool) -> None:
    """Three refused signatures in a silence make it an alarm, with a key and without; two do not."""
    dog = watch.dog(keyless=keyless)
    await watch.usual(dog)
    watch.refused = 2
    await watch.wait(dog, 3600)
    assert dog.detail["state"] == "quiet"
    watch.refused = 3
    with capture_logs() as logs:
        await watch.wait(dog, 10)
    assert [(line["event"], line["cause"], line["silent_s"]) for line in logs] == [("webhooks.silent", "rejects", 3610)]
    assert (watch.said, gauge("silent"), dog.detail["rejects"]) == (["rejects"], 1, 3)
    assert bool(watch.looks) is not keyless


async def test_refusals_while_webhooks_come_are_strangers(watch: Watch) -> None:
    """What was refused before the last accepted webhook says nothing of the silence after it."""
    dog = watch.dog()
    watch.refused = 100
    await watch.usual(dog)
    await watch.wait(dog, 12 * 3600, step_s=100)
    assert watch.said == []


async def test_a_backfill_does_not_end_silence(watch: Watch) -> None:
    """Observations that a backfill appends are no webhooks: the alarm stays, and last accepted with it."""
    watch.answers = [True]
    dog = watch.dog()
    await watch.usual(dog)
    accepted = gauge("last_accepted_timestamp_seconds")
    await watch.wait(dog, 1600)
    watch.here.world.account.add_contact(name="Ana", number="351900000001", email=None)
    watch.here.announced()
    await watch.here.reconcile()
    assert (await watch.here.events("backfill")).total() > 0
    await dog.run_once()
    assert (gauge("silent"), dog.detail["state"], watch.said) == (1, "silent", ["activity"])
    assert gauge("last_accepted_timestamp_seconds") == accepted


async def test_an_account_never_heard_of(watch: Watch) -> None:
    """Before the first webhook the silence counts from the start, and the floor decides."""
    watch.answers = [True]
    dog = watch.dog()
    await watch.wait(dog, FLOOR_S + INTERVAL_S - 10)
    assert (dog.detail["last_accepted"], dog.detail["usual_gap_s"]) == (None, None)
    assert (gauge("last_accepted_timestamp_seconds"), watch.said) == (0, [])
    assert watch.looks[0] == (START, 0)
    await watch.wait(dog, 10)
    assert watch.said == ["activity"]


async def test_a_process_that_was_away_does_not_blame_the_vendor(watch: Watch) -> None:
    """After a day of our own absence there is no look for a while, and only what changed since the start is news."""
    await watch.usual(watch.dog())
    await watch.here.tick(86_400)
    started_at, dog = watch.here.now(), watch.dog()
    await watch.wait(dog, FLOOR_S - 10)
    assert (dog.detail["state"], watch.looks) == ("heard", [])
    await watch.wait(dog, 10)
    assert watch.looks == [(started_at, 30)]


async def test_a_clock_that_is_set_back_does_not_stop_the_looks(watch: Watch) -> None:
    """Where our clock jumps into the past the next look comes at once, not a day later."""
    dog = watch.dog()
    await watch.usual(dog, every_s=5, count=400)
    await watch.wait(dog, 3600)
    looked = len(watch.looks)
    await watch.here.tick(-1800)
    await dog.run_once()
    await watch.wait(dog, INTERVAL_S)
    assert looked < len(watch.looks) <= looked + 2


async def test_what_could_not_be_asked_for_is_asked_for_by_the_next_look(watch: Watch) -> None:
    """The log is away just when the alarm is raised: the reconcile is asked for once the log is back, and once only."""
    watch.answers, watch.away = [True], True
    dog = watch.dog()
    await watch.usual(dog)
    with pytest.raises(StorageUnavailableError):
        await watch.wait(dog, 3600)
    assert (dog.detail["state"], watch.said) == ("silent", [])
    watch.away = False
    await watch.wait(dog, 60)
    assert watch.said == ["activity"]


async def test_a_log_that_is_away_is_told_to_the_loop(watch: Watch) -> None:
    """The loop, which backs off, gets the error; nothing is said about silence."""
    dog = watch.dog()
    async with watch.here.log.write() as connection:
        await connection.exec_driver_sql("ALTER TABLE event_log RENAME TO elsewhere")
    with pytest.raises(StorageUnavailableError):
        await dog.run_once()
    async with watch.here.log.write() as connection:
        await connection.exec_driver_sql("ALTER TABLE elsewhere RENAME TO event_log")
    await dog.run_once()


async def test_the_loop_runs_it(watch: Watch) -> None:
    """It is a worker like the others: always active, idle after each look, closed at the end."""
    dog: Worker = watch.dog()
    bell, states = Bell(), []

    def on_state(state: str, _why: str) -> None:
        states.append(state)
        bell.stop()

    async with asyncio.timeout(60):
        await run("watchdog", dog, bell, idle_s=1, on_state=on_state)
    assert states[0] == "active"


# The look itself.


@pytest.fixture
async def probe(here: House) -> AsyncIterator[TicketProbe]:
    """Give a look at the twin's tickets; three were told by webhooks, each with a message."""
    for number in range(3):
        contact = here.world.account.add_contact(name=f"Ana {number}", number=f"35190000000{number}", email=None)
        ticket = here.world.account.open_ticket(contact, "whatsapp", status="open")
        here.world.account.add_message(contact, ticket, f"Bom dia {number} " + "é" * 400, from_me=False)
        await here.tick(60)
    await here.take(here.announced())
    await here.tick(60)
    async with Client(here.url, KEY, limits=Limits(requests_per_minute=600_000), attempts=1, now=here.now) as client:
        yield TicketProbe(client, Holdings(here.projection), here.tenant)


def change(here: House, what: str) -> None:
    """Let something happen that webhooks announce."""
    account = here.world.account
    ticket = next(iter(account.tickets.values()))
    match what:
        case "new ticket":
            account.open_ticket(ticket.contact, "sms")
        case "status":
            ticket.status = "closed"
            account.touch_ticket(ticket)
        case "message":
            account.add_message(ticket.contact, ticket, "Está aí alguém?", from_me=False)
        case _:
            raise AssertionError(what)


CHANGES = ("new ticket", "status", "message")


async def test_an_account_at_rest_shows_no_news(here: House, probe: TicketProbe) -> None:
    """Where every webhook came there is no news, in one request, and no list of messages is read."""
    assert await probe(START, 1) is False
    assert here.rest.counts == {TICKETS: 1}


@pytest.mark.parametrize("what", CHANGES)
async def test_what_no_webhook_told_is_news(here: House, probe: TicketProbe, what: str) -> None:
    """A new ticket, another status and a message are news until their webhooks come; few requests find it out."""
    since = here.now()
    await here.tick(120)
    change(here, what)
    announced = here.announced()
    assert await probe(since, 1) is True
    assert here.rest.counts.total() <= 1 + DETAILS
    assert here.rest.message_list_reads == 0
    await here.take(announced)
    assert await probe(since, 1) is False


@pytest.mark.parametrize("what", CHANGES)
async def test_what_was_missed_before_is_no_news(here: House, probe: TicketProbe, what: str) -> None:
    """A difference that is older than the silence was missed by something else: it does not make this one an alarm."""
    change(here, what)
    here.announced()
    await here.tick(60)
    assert await probe(here.now(), 1) is False
    assert 0 < here.rest.counts[TICKET] <= DETAILS


async def test_a_ticket_that_was_gone_and_is_back_is_news(here: House, probe: TicketProbe) -> None:
    """What a backfill marked as gone and the list shows again is a difference."""
    async with here.projection.write() as connection:
        await connection.exec_driver_sql("UPDATE ticket SET gone = true")
    assert await probe(START, 1) is True


async def test_a_ticket_that_was_told_of_since_it_was_gone_is_no_news(here: House, probe: TicketProbe) -> None:
    """A webhook that happened after the look shows that it is there: that the list shows it too is no difference."""
    since = "UPDATE ticket SET gone = true, versions = json_set(versions, '$.gone', json('[1, 2, 1, false]'))"
    async with here.projection.write() as connection:
        await connection.exec_driver_sql(since)
    assert await probe(here.now(), 1) is False
    assert here.rest.counts[TICKET] == 0


async def test_a_projection_that_is_behind_tells_nothing(here: House, probe: TicketProbe) -> None:
    """Before the last accepted webhook is applied there is no answer, and no request."""
    assert await probe(START, await Holdings(here.projection).applied_through() + 1) is None
    assert not here.rest.counts


async def test_an_api_that_fails_is_the_callers(here: House, probe: TicketProbe) -> None:
    """A refusal and a failure come out as the client's errors."""
    here.rest.demand(RestFault.UNAUTHORIZED)
    with pytest.raises(UpstreamUnauthorizedError):
        await probe(START, 1)
    here.rest.demand(RestFault.HTML_502)
    with pytest.raises(UpstreamUnavailableError):
        await probe(START, 1)


@pytest.mark.parametrize("dialect", sorted(DIALECTS) if LONG else ["documented", "seconds"])
async def test_a_living_account_is_heard_and_its_silence_is_found(tmp_path: Path, dialect: str) -> None:
    """In each dialect: an account whose webhooks come is never silent, nor is one that sleeps; where they stop while
    people live on, it is found within patience and two looks, and ends with the next webhook.
    """
    urls = f"sqlite:///{tmp_path}/log.db", f"sqlite:///{tmp_path}/projection.db"
    async with (
        house(*urls, make_world(dialect), moving=True) as here,
        Client(here.url, KEY, limits=Limits(requests_per_minute=600_000), now=here.now) as client,
    ):
        watch = Watch(here)
        dog = watch.dog(probe=TicketProbe(client, Holdings(here.projection), here.tenant))
        await watch.wait(dog, 3600, step_s=60)
        assert watch.said == []
        patience_s = float(str(dog.detail["patience_s"]))
        here.dropping = True
        await watch.wait(dog, patience_s + 3 * INTERVAL_S, step_s=60)
        assert watch.said == ["activity"]
        here.dropping = False
        await watch.wait(dog, 900, step_s=60)
        assert watch.said == ["activity", "heard"]
        await here.reconcile()
        here.moving = False
        await watch.wait(dog, 12 * 3600, step_s=300)
        assert watch.said == ["activity", "heard"]
        assert (dog.detail["state"], dog.detail["probe"]) == ("quiet", "no news")
        assert here.rest.message_list_reads == 0


def plain(detail: Mapping[str, object]) -> object:
    """Return the detail as /readyz shows it."""
    return json.loads(json.dumps(detail))


async def test_the_detail_is_plain(watch: Watch) -> None:
    """What it exposes is words and numbers, from the first moment on."""
    dog = watch.dog()
    assert plain(dog.detail) == dog.detail
    assert dog.detail["state"] == "heard"
