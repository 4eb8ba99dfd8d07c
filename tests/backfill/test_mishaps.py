"""Promise 7 through mishaps, ours and the vendor's: a clock set back, a database that hiccups, a page that stumbles."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NoReturn

import pytest
from structlog.testing import capture_logs

from servers.metric import sample
from servers.reconciling import ALL, HASTY, PLAN, SLUG, House, differences, half_an_hour, true_messages, with_plan
from whatsms_events.backfill.worker import Backfill
from whatsms_events.clock import now
from whatsms_events.errors import StorageUnavailableError, TransientError
from whatsms_events.storage.projection.holdings import Holdings
from whatsms_events.storage.repair.reports import Options
from whatsms_events.storage.repair.runs import Checkpoints
from whatsms_events.twin.dialects import Json
from whatsms_events.twin.entities import Ticket
from whatsms_events.twin.rest.answers import Ask
from whatsms_events.twin.rest.reads import Reads
from whatsms_events.twin.rest.server import RestServer
from whatsms_events.workers.observer import Observer

pytestmark = pytest.mark.twin

START = datetime(2026, 5, 1, 8, tzinfo=UTC)
TENANT = "5f0c9a52-7d0f-4f0e-9c1f-2d6a5b1b7a10"
DETAIL = ("GET", "/tickets/{id}")
FULL = Options(details="changed", messages="full")
NARROW = Options(details="all", messages="narrow")


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[House]:
    """Give an account of which all is known."""
    async with half_an_hour(tmp_path) as opened:
        yield opened


@pytest.fixture
async def backfill(here: House) -> AsyncIterator[Backfill]:
    """Give a backfill that was asked for a reconcile."""
    made = here.backfill()
    made.ask("reconcile", "command", ALL)
    yield made
    await made.close()


def miss(here: House) -> Ticket:
    """Close a ticket, of which the webhook is lost."""
    ticket = here.open_ticket()
    ticket.status = "closed"
    here.world.account.touch_ticket(ticket)
    assert here.announced()
    return ticket


async def status_held(here: House, ticket: Ticket) -> object:
    """Return the status that the projection shows."""
    return (await here.held("ticket"))[str(ticket.id)]["status"]


async def unsettled_shown(here: House) -> float | None:
    """Return what the gauge shows once somebody looked."""
    observer = Observer(here.log, here.projection, prefix=None, slugs={here.tenant: SLUG}, keyed=[here.tenant], now=now)
    await observer.look_at_backfills(())
    return sample("whatsms_events_backfill_unsettled", {"tenant": SLUG})


async def test_a_clock_set_back_between_finding_and_appending_hides_nothing(here: House, backfill: Backfill) -> None:
    """Set back by half a minute after a comparison saved what it found: that is appended, and the run ends."""
    ticket = miss(here)
    await here.tick(60)
    await here.until(backfill, lambda: backfill.standing is not None and bool(backfill.standing.drift))
    here.world.account.now -= timedelta(seconds=30)
    await here.drive(backfill, limit_s=600)
    assert await status_held(here, ticket) == "closed"


@pytest.mark.parametrize("back", [timedelta(days=1), timedelta(days=400)])
@pytest.mark.parametrize("moment", ["details are read", "campaigns are missing"])
async def test_a_clock_set_back_far_stalls_no_run(
    here: House, backfill: Backfill, back: timedelta, moment: str
) -> None:
    """What was to wait until an hour that is now far away is looked at now: the run ends within minutes."""
    account = here.world.account
    gone, campaign = here.open_ticket(), account.add_campaign("Verão", "Olá")
    account.remove_ticket(gone.id)
    account.finish_campaign(campaign)
    await here.take(here.announced())
    account.remove_campaign(campaign.id)
    ticket = miss(here)
    await here.tick(back.total_seconds() + 60)

    def reached() -> bool:
        if moment == "details are read":
            return here.rest.counts[DETAIL] == 3
        standing = backfill.standing
        return standing is not None and standing.phase == "again" and standing.again_at is not None

    await here.until(backfill, reached)
    account.now -= back
    await here.drive(backfill, limit_s=600)
    assert await status_held(here, ticket) == "closed"
    assert (await here.held("ticket"))[str(gone.id)]["gone"]
    assert (await here.held("campaign"))[str(campaign.id)]["gone"]


@pytest.mark.parametrize("back_s", [1, 30, 90])
async def test_a_clock_set_back_a_little_makes_nothing_gone(here: House, backfill: Backfill, back_s: int) -> None:
    """A ticket and a campaign that the vendor does not show for 20 s: the second look keeps its distance."""
    account = here.world.account
    hidden, campaign = here.open_ticket(), account.add_campaign("Verão", "Olá")
    account.finish_campaign(campaign)
    await here.take(here.announced())
    await here.tick(60)
    del account.tickets[hidden.id], account.campaigns[campaign.id]
    await here.until(backfill, lambda: here.rest.statuses[404] == 1)
    account.now -= timedelta(seconds=back_s)
    shown_from = here.now() + timedelta(seconds=20)
    await here.until(backfill, lambda: here.now() > shown_from)
    account.tickets[hidden.id], account.campaigns[campaign.id] = hidden, campaign
    await here.drive(backfill)
    assert not (await here.held("ticket"))[str(hidden.id)]["gone"]
    assert not (await here.held("campaign"))[str(campaign.id)]["gone"]


async def test_a_clock_set_back_while_the_projection_is_behind_counts_nothing_twice(
    here: House, backfill: Backfill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Set back between taking aim and comparing: each difference is found once, and compared when it is due."""
    ticket, back, usual = miss(here), False, Holdings.applied_through
    await here.tick(200)

    async def applied_through(holdings: Holdings) -> int:
        nonlocal back
        if not back and here.rest.counts[DETAIL] >= len(here.world.account.tickets):
            back = True
            here.world.account.now -= timedelta(seconds=75)
        return await usual(holdings)

    monkeypatch.setattr(Holdings, "applied_through", applied_through)
    report = await here.drive(backfill, limit_s=3600)
    assert back
    counts = Checkpoints(here.log)
    last = await counts.last(here.tenant)
    assert last is not None
    named = (await counts.drift(last.run.number, limit=100)).rows
    assert sum(one.count for one in report.drift) == len(named) > 0
    assert await status_held(here, ticket) == "closed"


async def test_a_reconcile_after_an_outage_survives_a_hiccup(here: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database is away as the reconcile after an outage begins: it is begun the next time."""
    await here.reconcile()
    here.plan = with_plan(PLAN, outage_s=600)
    await here.tick(7200)
    backfill = here.backfill()

    async def away(*_: object) -> NoReturn:
        raise StorageUnavailableError("hiccup")

    with monkeypatch.context() as hiccup:
        hiccup.setattr(Checkpoints, "begin", away)
        with pytest.raises(TransientError):
            await backfill.run_once()
    for _ in range(30):
        await backfill.run_once()
        if backfill.active:
            break
        await here.tick(1)
    report = await here.drive(backfill)
    await backfill.close()
    assert report.cause == "outage"


@pytest.mark.parametrize("times", [1, 2])
async def test_a_page_that_stumbles_in_one_list_of_messages_halts_nothing(
    here: House, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """A second page that shows the first one again: once, the list is begun anew; twice, that ticket is left to the
    next run, a log line says so, and all others are read.
    """
    usual, stumbled = Reads.list_messages, 0
    long = next(one for one in here.world.account.tickets.values() if len(one.messages) > 6)

    def list_messages(reads: Reads, ask: Ask) -> Json:
        nonlocal stumbled
        answer = usual(reads, ask)
        if ask.id == long.id and ask.query["page"] == "2" and stumbled < times:
            stumbled += 1
            answer["messages"] = [here.world.account.show_message(one) for one in long.messages[-2:]]
        return answer

    monkeypatch.setattr(Reads, "list_messages", list_messages)
    here.plan = with_plan(PLAN, page_size=2)
    await here.tick(600)
    async with RestServer(here.rest) as server:
        here.url = server.url
        with capture_logs() as logs:
            report = await here.reconcile(FULL)
        assert stumbled == times
        assert report.unsettled == times - 1
        assert len([line for line in logs if line["event"] == "messages.not_read"]) == times - 1
        assert await unsettled_shown(here) == times - 1
        if times == 2:
            assert (await here.reconcile(FULL)).unsettled == 0
            assert await unsettled_shown(here) == 0
    assert not differences(await here.held("message"), true_messages(here.world))


async def test_a_detail_that_shows_the_last_message_is_no_drift(here: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where details have `lastMessage` too, as in the vendor's relatives, a message that was told is no drift."""
    usual = Reads.get_ticket

    def get_ticket(reads: Reads, ask: Ask) -> Json:
        shown = usual(reads, ask)
        return {"ticket": shown["ticket"] | {"lastMessage": here.world.account.tickets[ask.id].last_message}}

    monkeypatch.setattr(Reads, "get_ticket", get_ticket)
    await here.tick(600)
    async with RestServer(here.rest) as server:
        here.url = server.url
        report = await here.reconcile()
    assert here.rest.counts[DETAIL]
    assert [one for one in report.drift if one.kind != "unannounced"] == []


async def test_a_long_last_message_shown_whole_is_no_gap(here: House) -> None:
    """A vendor that does not cut a last message of 6,000 characters shows one that was told."""
    ticket, text = here.open_ticket(), "lorem ipsum " * 500
    here.world.account.add_message(ticket.contact, ticket, text, from_me=False)
    await here.take(here.announced())
    ticket.last_message = text
    await here.tick(600)
    report = await here.reconcile(NARROW)
    assert [one for one in report.drift if one.kind != "unannounced"] == []
    assert here.rest.message_list_reads == 0


@pytest.mark.parametrize(("phase", "options"), [("details", ALL), ("messages", FULL)])
async def test_each_failure_of_a_vendor_that_is_away_makes_the_loop_wait(
    here: House, phase: str, options: Options
) -> None:
    """While every request fails, no piece returns as if all were well, not even one that leaves an item or a list."""
    here.attempts, here.waits = 1, HASTY
    backfill = here.backfill()
    backfill.ask("reconcile", "command", options)
    await here.until(backfill, lambda: backfill.standing is not None and backfill.standing.phase == phase)
    here.rest.faults.error = 1.0
    failed, quiet = 0, 0
    for _ in range(2000):
        before = here.rest.statuses[500]
        try:
            worked = await backfill.run_once()
        except TransientError:
            await here.tick(10)
        else:
            quiet += here.rest.statuses[500] > before
            if not worked:
                await here.tick(1)
        failed += here.rest.statuses[500] > before
        await here.apply()
        if backfill.progress.finished:
            break
    await backfill.close()
    assert backfill.progress.finished
    assert failed > 5
    assert quiet == 0
