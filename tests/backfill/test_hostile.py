"""Promise 7 against an odd vendor, bad timing and bad luck: a run ends, and makes nothing worse."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import NoReturn

import pytest
from aiohttp import web
from sqlalchemy import func, select

from servers.reconciling import ALL, HASTY, KEY, PIECES, PLAN, House, differences, house, truth, with_plan
from whatsms_events.backfill.run import Report
from whatsms_events.backfill.worker import Backfill
from whatsms_events.config.settings import ReceiverSettings, Settings
from whatsms_events.errors import StorageUnavailableError, TransientError
from whatsms_events.service.parts import make_committer
from whatsms_events.service.supervisor import Supervisor
from whatsms_events.storage import tables
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.projection.holdings import Holdings
from whatsms_events.storage.reads import Queries
from whatsms_events.storage.repair.reports import Options
from whatsms_events.storage.repair.runs import SWEEP, Checkpoints, Item
from whatsms_events.twin.dialects import Json
from whatsms_events.twin.entities import Ticket
from whatsms_events.twin.rest import reads as rest_reads
from whatsms_events.twin.rest.answers import Ask, refuse
from whatsms_events.twin.rest.reads import Reads
from whatsms_events.twin.rest.server import Rest
from whatsms_events.twin.world import World
from whatsms_events.whatsms import Client
from whatsms_events.whatsms.limits import Limits
from whatsms_events.workers.watchdog import TicketProbe

pytestmark = pytest.mark.twin

START = datetime(2026, 5, 1, 8, tzinfo=UTC)
TENANT = "5f0c9a52-7d0f-4f0e-9c1f-2d6a5b1b7a10"
FULL = Options(details="all", messages="full")
NARROW = Options(details="all", messages="narrow")
DETAIL = ("GET", "/tickets/{id}")
Odd = Callable[[], Json]


@pytest.fixture
def world() -> World:
    """Give an account in which much happens in an hour."""
    return World(7, start=START, tenant_id=TENANT, pace=0.2)


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> dict[str, Odd]:
    """Give the answers that take the place of tickets' details, by id; none yet."""
    answers: dict[str, Odd] = {}
    usual = Reads.get_ticket

    def get_ticket(reads: Reads, ask: Ask) -> Json:
        return answers[ask.id]() if ask.id in answers else usual(reads, ask)

    monkeypatch.setattr(Reads, "get_ticket", get_ticket)
    return answers


@pytest.fixture
async def here(tmp_path: Path, world: World, odd: dict[str, Odd]) -> AsyncIterator[House]:
    """Give the world with everything beside it, on SQLite; `odd` is in place before the API is up."""
    del odd
    async with house(f"sqlite:///{tmp_path}/log.db", f"sqlite:///{tmp_path}/projection.db", world) as opened:
        yield opened


async def live(here: House, hours: float) -> None:
    """Let people live, and take their webhooks in."""
    await here.take(here.world.advance(here.world.now + timedelta(hours=hours)))


def move(here: House, ticket: Ticket, status: str) -> None:
    """Change a ticket's status, which is announced."""
    ticket.status = status
    here.world.account.touch_ticket(ticket)


def miss(here: House, ticket: Ticket, status: str) -> None:
    """Change a ticket's status, of which the webhook is lost."""
    move(here, ticket, status)
    assert here.announced()


async def status_held(here: House, ticket: Ticket) -> object:
    """Return the status that the projection shows."""
    return (await here.held("ticket"))[str(ticket.id)]["status"]


@asynccontextmanager
async def process(here: House, options: Options | None = None, cause: str = "command") -> AsyncIterator[Backfill]:
    """Give a backfill as a process that just started has it, asked for a reconcile if there are options."""
    backfill = here.backfill()
    if options is not None:
        backfill.ask("reconcile", cause, options)
    try:
        yield backfill
    finally:
        await backfill.close()


async def insist(here: House, backfill: Backfill) -> Report:
    """Drive the run to its end, again after each TransientError, as the loop does."""
    for _ in range(PIECES):
        try:
            return await here.drive(backfill)
        except TransientError:
            await here.tick(10)
            await here.apply()
    raise AssertionError(f"never ends: {backfill.progress}")


def detail_reading(here: House) -> Callable[[], bool]:
    """Return what tells whether a ticket's detail has been read since now."""
    before = here.rest.counts[DETAIL]
    return lambda: here.rest.counts[DETAIL] > before


def found(report: Report, *kinds: str) -> list[tuple[str, str]]:
    """Return of which entities a report has findings of these kinds."""
    return [(one.entity, one.kind) for one in report.drift if one.kind in kinds]


def answer_500() -> NoReturn:
    """Fail."""
    raise web.HTTPInternalServerError(text="boom")


def answer_451() -> NoReturn:
    """Refuse in a way that the vendor's page does not know."""
    raise web.HTTPUnavailableForLegalReasons(text="no", link=None)


def answer_404() -> NoReturn:
    """Say that there is no such ticket."""
    raise web.HTTPNotFound(text=rest_reads.NO_TICKET)


def answer_null() -> Json:
    """Say that all went well, and show nothing."""
    return {"ticket": None}


@pytest.mark.parametrize("answer", [answer_500, answer_451, answer_null])
async def test_one_ticket_that_cannot_be_read_holds_up_nothing(here: House, odd: dict[str, Odd], answer: Odd) -> None:
    """Where one ticket's detail always fails, the run ends, says so, and has repaired the others."""
    here.attempts, here.waits = 2, HASTY
    await live(here, 0.5)
    poisoned, other, *_ = sorted(here.world.account.tickets.values(), key=lambda one: str(one.id))
    odd[str(poisoned.id)] = answer
    miss(here, other, "closed")
    await here.tick(60)
    async with process(here, ALL) as backfill:
        report = await insist(here, backfill)
    assert report.unsettled == 1
    assert await status_held(here, other) == "closed"


async def test_a_listed_ticket_whose_detail_is_404_is_not_gone(here: House, odd: dict[str, Odd]) -> None:
    """Rights by queue, or an odd id: what the lists show is there, whatever the detail says."""
    await live(here, 0.5)
    ticket = here.open_ticket()
    odd[str(ticket.id)] = answer_404
    for _ in range(2):
        await here.tick(3600)
        assert not found(await here.reconcile(), "extra")
    assert not (await here.held("ticket"))[str(ticket.id)]["gone"]


@pytest.fixture
def _no_pending(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the vendor refuse to list the tickets that are pending; to be named before `here`."""
    usual = Reads.list_tickets

    def list_tickets(reads: Reads, ask: Ask) -> Json:
        if ask.query.get("status") == "pending":
            refuse(400)
        return usual(reads, ask)

    monkeypatch.setattr(Reads, "list_tickets", list_tickets)


@pytest.mark.usefixtures("_no_pending")
async def test_a_filter_that_the_vendor_refuses_is_reported_and_stops_nothing(here: House) -> None:
    """A 400 for a status that the vendor does not know costs that walk alone, and the report names it."""
    await live(here, 0.5)
    ticket = here.open_ticket()
    miss(here, ticket, "closed")
    await here.tick(60)
    report = await here.reconcile()
    assert here.rest.statuses[400]
    assert report.unstable == ("tickets:pending",)
    assert await status_held(here, ticket) == "closed"


async def test_what_was_asked_for_outlives_a_transient_error(here: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for while a run of another cause is under way, which the database then interrupts: both runs are done."""
    await live(here, 0.5)
    ticket = here.open_ticket()
    causes: list[str] = []
    async with process(here, ALL, "silence") as backfill:
        while here.rest.counts[DETAIL] < len(here.world.account.tickets):
            await backfill.run_once()
        miss(here, ticket, "closed")  # after this run read it
        await here.tick(1)
        backfill.ask("reconcile", "heard", ALL)

        async def away(*_: object, **_named: object) -> NoReturn:
            raise StorageUnavailableError("hiccup")

        with monkeypatch.context() as hiccup:
            hiccup.setattr(Checkpoints, "due", away)
            with pytest.raises(TransientError):
                await here.until(backfill, lambda: False)

        def heard() -> bool:
            report = backfill.progress.report
            if report is not None and report.cause not in causes:
                causes.append(report.cause)
            return "heard" in causes

        await here.until(backfill, heard)
    assert causes == ["silence", "heard"]
    assert await status_held(here, ticket) == "closed"


async def test_no_message_is_gone_for_a_list_that_does_not_show_it(here: House) -> None:
    """Merged into another ticket, or skipped by pages in two runs: it stays, and the report counts what was unseen."""
    await live(here, 0.5)
    tickets = [one for one in here.world.account.tickets.values() if len(one.messages) > 1]
    tickets.sort(key=lambda one: str(one.id))
    first, last = tickets[0], tickets[-1]
    merged, skipped = first.messages.pop(0), last.messages[-1]
    last.messages.insert(0, merged)
    merged.ticket = last
    unseen: list[int] = []
    for skipping in (False, True, True):
        await here.tick(3600)
        if skipping:
            last.messages.remove(skipped)
        report = await here.reconcile(FULL)
        if skipping:
            last.messages.append(skipped)
        assert not found(report, "missed", "stale", "extra")
        held = await here.held("message")
        assert not held[str(merged.id)]["gone"]
        assert not held[str(skipped.id)]["gone"]
        unseen.append(report.unseen)
    assert unseen[1:] == [unseen[0] + 1] * 2


async def test_a_webhook_wins_over_a_page_of_a_vendor_whose_clock_is_ahead(
    here: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Date` is the edge's, four minutes ahead: what is told half a minute after the page is newer all the same."""

    def ahead(moment: datetime, *, usegmt: bool) -> str:
        return format_datetime(moment + timedelta(minutes=4), usegmt=usegmt)

    monkeypatch.setattr("whatsms_events.twin.rest.server.format_datetime", ahead)
    await live(here, 0.5)
    ticket = here.open_ticket()
    miss(here, ticket, "pending")
    await here.tick(60)
    await here.reconcile()
    assert await status_held(here, ticket) == "pending"
    await here.tick(30)
    move(here, ticket, "closed")
    await here.take(here.announced())
    assert await status_held(here, ticket) == "closed"


async def test_a_webhook_wins_over_a_page_of_a_replica_that_lags(here: House) -> None:
    """The webhook comes two seconds before the API shows the change: the page from in between changes nothing."""
    await live(here, 0.5)
    account = here.world.account
    ticket = here.open_ticket()
    await here.tick(600)
    before = here.rest.counts[DETAIL]
    async with process(here, ALL) as backfill:
        await here.until(backfill, detail_reading(here))
        move(here, ticket, "closed")
        await here.take(here.announced())
        ticket.status = "open"
        await here.tick(2)
        while here.rest.counts[DETAIL] < before + len(account.tickets) and await backfill.run_once():
            pass
        ticket.status = "closed"
        await here.drive(backfill)
    assert await status_held(here, ticket) == "closed"


async def test_a_busy_ticket_has_no_gap(here: House) -> None:
    """25 messages told between its list and its comparison: no drift, and its messages are not read."""
    await live(here, 0.5)
    account = here.world.account
    ticket = here.open_ticket()
    account.add_message(ticket.contact, ticket, "the last one when it was listed", from_me=False)
    await here.take(here.announced())
    await here.tick(60)
    async with process(here, NARROW) as backfill:
        await here.until(backfill, detail_reading(here))
        for number in range(25):
            await here.tick(1)
            account.add_message(ticket.contact, ticket, f"message {number}", from_me=False)
            await here.take(here.announced())
        report = await here.drive(backfill)
    assert here.rest.message_list_reads == 0
    assert not found(report, "stale", "missed")


async def test_media_as_the_last_message_is_no_gap(here: House) -> None:
    """A message without text was told, and the list shows its file's name: no drift, and no messages are read."""
    await live(here, 0.5)
    ticket = here.open_ticket()
    for number in range(2):
        await here.tick(600)
        here.world.account.add_message(ticket.contact, ticket, "", from_me=False)
        await here.take(here.announced())
        ticket.last_message = f"audio-{number}.ogg"
        assert not found(await here.reconcile(NARROW), "stale", "missed")
    assert here.rest.message_list_reads == 0


@pytest.mark.parametrize(("later_s", "news"), [(2, False), (120, True)])
async def test_what_the_last_webhook_may_have_told_is_no_news(here: House, later_s: float, *, news: bool) -> None:
    """A difference two seconds younger than the last webhook does not break a silence, one of two minutes does."""
    await live(here, 0.5)
    ticket = here.open_ticket()
    since = here.now()
    await here.tick(later_s)
    ticket.last_message, ticket.updated_at = "a word that nobody told", here.now()
    limits = Limits(requests_per_minute=600_000)
    async with Client(here.url, KEY, limits=limits, now=here.now) as client:
        probe = TicketProbe(client, Holdings(here.projection), here.tenant)
        assert await probe(since, 1) is news


async def test_a_small_queue_delays_a_run_and_does_not_stop_it(here: House) -> None:
    """More findings at once than the committer's queue takes: some are refused, all are appended in the end."""
    supervisor, settings = Supervisor(), Settings(receiver=ReceiverSettings(queue_limit=20))
    here.committer = make_committer(settings, here.log, supervisor.wake)
    for number in range(60):
        here.world.account.add_contact(name=f"C{number}", number=f"35191{number:07}", email=None)
    assert here.announced()  # and lost
    await here.tick(60)
    async with supervisor.running(here.committer, writers=[], readers=[]), process(here, ALL) as backfill:
        await insist(here, backfill)
    assert not differences(await here.held("contact"), truth(here.world)["contact"])


async def test_a_clock_that_was_set_back_puts_no_run_off(here: House) -> None:
    """A run of a year ahead by a clock that was wrong for a moment: three days after the true time one is due."""
    here.plan = with_plan(PLAN, interval_s=86_400)
    await live(here, 0.2)
    account = here.world.account
    right = account.now
    account.now = right + timedelta(days=365)
    async with process(here) as backfill:
        await here.drive(backfill)
    account.now = right + timedelta(days=3)
    async with process(here) as backfill:
        await here.until(backfill, lambda: backfill.active)


async def test_a_short_restart_in_a_long_run_is_no_outage(here: House) -> None:
    """A webhook came 5 s before the process started: however long the run takes, none follows it for an outage."""
    here.plan = with_plan(PLAN, interval_s=86_400, outage_s=60)
    await live(here, 0.5)
    async with process(here) as backfill:
        for _ in range(5):
            await backfill.run_once()
    here.world.account.touch_ticket(here.open_ticket())
    await here.take(here.announced())
    accepted_at = here.now()
    await here.tick(5)
    async with process(here) as backfill:
        while not backfill.progress.finished:
            await backfill.run_once()
            await here.tick(5)  # a slow vendor
            await here.apply()
        assert here.now() - accepted_at > timedelta(seconds=here.plan.outage_s)
        for _ in range(20):
            assert not await backfill.run_once()
            await here.tick(5)
    assert len(await Checkpoints(here.log).runs(here.tenant, 10)) == 1


async def test_an_observation_is_no_larger_than_a_delivery_may_be(here: House) -> None:
    """A name of 9 MiB would halt the relay for good: it does not enter the log."""
    contact = here.world.account.add_contact(name="n", number="351910000001", email=None)
    contact.name = "x" * (9 << 20)
    assert here.announced()  # and lost
    await here.tick(60)
    assert (await here.reconcile()).unsettled == 1
    assert max((len(one.event.data) for one in await EventLog(here.log).read(0, 100)), default=0) < 8 << 20


async def test_a_campaign_told_of_before_its_absence_is_closed_is_not_gone(here: House) -> None:
    """Two lists did not show it, the process ended, and a webhook told of it before the next one went on."""
    await live(here, 0.2)
    account = here.world.account
    campaign = account.add_campaign("Verão", "Olá")
    account.finish_campaign(campaign)
    await here.take(here.announced())
    del account.campaigns[campaign.id]
    await here.tick(5)

    async with process(here, ALL) as backfill:
        await here.until(backfill, lambda: backfill.standing is not None and backfill.standing.phase == "messages")
    account.campaigns[campaign.id] = campaign
    await here.tick(300)
    campaign.sent_count += 1
    account.finish_campaign(campaign)
    await here.take(here.announced())
    await here.tick(6)
    async with process(here, ALL) as backfill:
        await here.drive(backfill)
    assert not (await here.held("campaign"))[str(campaign.id)]["gone"]


async def test_a_service_with_messages_off_does_not_go_on_reading_them(here: House) -> None:
    """Somebody stops a command that reads messages: the service ends that run without any further list of them."""
    await live(here, 0.5)
    async with process(here, FULL) as command:
        await here.until(command, lambda: here.rest.message_list_reads >= 2)
    await here.tick(6)
    reads = here.rest.message_list_reads
    async with process(here) as service:
        await here.drive(service)
    assert here.rest.message_list_reads == reads


async def test_what_is_told_of_again_is_no_longer_gone(here: House) -> None:
    """404 twice, then a webhook: who asks sees it there at once, and to the next reconcile that is no difference."""
    queries = Queries(here.log, here.projection)
    await live(here, 0.5)
    account = here.world.account
    ticket = here.open_ticket()
    one = str(ticket.id)

    async def shown_gone() -> object:
        shown = await queries.entity("tickets", here.tenant, one)
        assert shown is not None
        return shown["gone"]

    del account.tickets[ticket.id]
    await here.tick(5)
    await here.reconcile()
    assert await shown_gone() is True
    account.tickets[ticket.id] = ticket
    await here.tick(60)
    move(here, ticket, "pending")
    await here.take(here.announced())
    assert await shown_gone() is False
    await here.tick(60)
    assert [count for count in (await here.reconcile()).drift if count.kind != "unannounced"] == []
    assert await shown_gone() is False


@pytest.mark.parametrize("digits", [31, 400])
async def test_an_absurd_count_stops_nothing(here: House, monkeypatch: pytest.MonkeyPatch, digits: int) -> None:
    """A `count` beyond 64 bits, or any float, is a number that nobody believes: the run ends with all repaired."""
    for name in ("list_tickets", "list_contacts", "list_campaigns", "list_messages"):
        usual: Callable[[Reads, Ask], Json] = getattr(Reads, name)

        def absurd(reads: Reads, ask: Ask, usual: Callable[[Reads, Ask], Json] = usual) -> Json:
            return usual(reads, ask) | {"count": int("9" * digits)}

        monkeypatch.setattr(Reads, name, absurd)
    here.plan = with_plan(PLAN, page_size=5)
    here.world.advance(here.world.now + timedelta(hours=0.2))  # nobody told us
    await here.reconcile()
    for name, wanted in truth(here.world).items():
        assert not differences(await here.held(name), wanted), name


async def test_a_page_that_comes_again_for_what_moved_is_no_paging_error(tmp_path: Path, world: World) -> None:
    """As many tickets as a page holds move to the front between two pages: the run begins the walk anew, and ends."""
    rest = Rest(world.account, api_key=KEY)
    rest.page_limit = 5
    urls = (f"sqlite:///{tmp_path}/log.db", f"sqlite:///{tmp_path}/projection.db")
    async with house(*urls, world, rest=rest) as here:
        await live(here, 2)
        account = here.world.account
        assert len(account.tickets) > 14
        async with process(here, ALL) as backfill:
            await here.until(backfill, lambda: rest.counts["GET", "/tickets"] == 2)
            by_change = sorted(account.tickets.values(), key=lambda one: one.updated_at, reverse=True)
            for ticket in by_change[-5:]:
                await here.tick(1)
                account.touch_ticket(ticket)
            await here.take(here.announced())
            report = await here.drive(backfill)
    assert report.looked_at["ticket"] == len(account.tickets)


async def test_the_items_of_a_large_run_are_swept_bit_by_bit(here: House) -> None:
    """A run that closes with more items than one transaction removes has none left a few pieces later."""
    runs = Checkpoints(here.log)

    async def items() -> int:
        async with here.log.read() as connection:
            return int((await connection.execute(select(func.count()).select_from(tables.backfill_item))).scalar_one())

    await live(here, 0.5)
    async with process(here, ALL) as backfill:
        await here.until(backfill, detail_reading(here))
        begun = await runs.last(here.tenant)
        assert begun is not None
        many = [Item("contact", f"many-{number}", "done", here.now(), None, 0) for number in range(2 * SWEEP)]
        await runs.save(begun.run, begun.run.progress, now=here.now(), items=many)
        report = await here.drive(backfill)
        left = [await items()]
        assert left[0] == sum(report.looked_at.values()) - SWEEP > SWEEP
        while left[-1]:
            assert not await backfill.run_once()
            left.append(await items())
            assert left[-1] == max(0, left[-2] - SWEEP)
