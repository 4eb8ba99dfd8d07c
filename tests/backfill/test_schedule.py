"""Which run is due: at the first start, by the clock, after an outage, for what is in doubt, and what was asked for."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from servers.reconciling import ALL, PLAN, House, house
from whatsms_events.backfill.schedule import PEOPLE_LIMIT
from whatsms_events.backfill.worker import Backfill
from whatsms_events.storage.repair.reports import Options
from whatsms_events.storage.repair.requests import Requests
from whatsms_events.twin.world import World

pytestmark = pytest.mark.twin

START = datetime(2026, 5, 1, 8, tzinfo=UTC)
TENANT = "5f0c9a52-7d0f-4f0e-9c1f-2d6a5b1b7a10"
DAY_S = 86_400.0
FULL = Options(details="all", messages="full")


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[House]:
    """Give a small account whose webhooks so far all came."""
    world = World(3, start=START, tenant_id=TENANT, pace=0.1)
    async with house(f"sqlite:///{tmp_path}/log.db", f"sqlite:///{tmp_path}/projection.db", world) as opened:
        opened.moving = True
        await opened.tick(1800)
        opened.moving = False
        yield opened


async def next_cause(here: House, backfill: Backfill, within_s: float = 20) -> str | None:
    """Return the cause of the run that begins within so long, brought to its end; None where none does."""
    for _ in range(int(within_s)):
        await backfill.run_once()
        if backfill.active:
            report = await here.drive(backfill)
            backfill.progress = replace(backfill.progress, finished=False)
            return report.cause
        await here.tick(1)
    return None


async def test_the_first_start_reads_what_was_there_before_us_and_then_once_a_day(here: House) -> None:
    """A new installation reconciles at once, then by the clock; a restart in between changes nothing."""
    here.plan = replace(PLAN, interval_s=DAY_S)
    backfill = here.backfill()
    assert await next_cause(here, backfill) == "initial"
    assert await next_cause(here, backfill) is None
    await backfill.close()
    again = here.backfill()
    assert await next_cause(here, again) is None
    await here.tick(DAY_S)
    assert await next_cause(here, again) == "schedule"
    assert await next_cause(here, again) is None
    await again.close()


async def test_a_start_after_an_outage_reconciles_and_one_after_a_quick_restart_does_not(here: House) -> None:
    """Nothing accepted for longer than outage_s: what came meanwhile is lost, and looked for; once."""
    await here.reconcile()
    here.plan = replace(PLAN, outage_s=300)
    quick = here.backfill()
    here.moving = True
    await here.tick(600)  # webhooks came until now
    here.moving = False
    assert await next_cause(here, quick) is None
    await quick.close()
    await here.tick(3600)
    back = here.backfill()
    assert await next_cause(here, back) == "outage"
    assert await next_cause(here, back) is None
    await back.close()
    once_more = here.backfill()
    assert await next_cause(here, once_more) is None
    await once_more.close()


@pytest.mark.parametrize(("interval_s", "cause"), [(0, "outage"), (DAY_S, "initial")])
async def test_an_outage_before_the_first_reconcile_is_one_run(here: House, interval_s: float, cause: str) -> None:
    """What came while nobody listened is looked for, also where nothing was ever compared; by one run, not two."""
    here.plan = replace(PLAN, outage_s=300, interval_s=interval_s)
    await here.tick(3600)
    back = here.backfill()
    assert await next_cause(here, back) == cause
    assert await next_cause(here, back) is None
    await back.close()


async def test_stubs_and_doubts_are_repaired_between_reconciles_each_once(here: House) -> None:
    """A contact that is only named by a message is read by id, once; where there is nothing to repair nothing runs."""
    await here.reconcile()
    account = here.world.account
    contact = account.add_contact(name="Só de nome", number="351910000001", email=None)
    account.outbox.clear()  # its own webhook is lost
    account.open_ticket(contact, "whatsapp")
    await here.take(here.announced())
    assert not (await here.held("contact"))[str(contact.id)]["known"]
    here.plan = replace(PLAN, repair_interval_s=300)
    backfill = here.backfill()
    assert await next_cause(here, backfill) == "doubt"
    assert (await here.held("contact"))[str(contact.id)]["known"]
    asked = here.rest.counts["GET", "/contacts/{id}"]
    assert await next_cause(here, backfill, within_s=700) is None
    assert here.rest.counts["GET", "/contacts/{id}"] == asked
    await backfill.close()


async def test_what_a_receiver_asks_for_in_the_log_is_made_once(here: House) -> None:
    """Whoever has the backfill makes it, also beside one under way; what is asked for meanwhile is not lost."""
    requests = Requests(here.log)
    await requests.ask(here.tenant, "silence", here.now())
    await requests.ask("somebody-else", "silence", here.now())
    backfill = here.backfill()
    await backfill.run_once()
    assert await requests.waiting(here.tenant) is None
    await requests.ask(here.tenant, "heard", here.now())
    assert (await here.drive(backfill)).cause == "silence"
    backfill.progress = replace(backfill.progress, finished=False)
    assert await next_cause(here, backfill) == "heard"
    assert await next_cause(here, backfill) is None
    await backfill.close()
    assert await requests.waiting("somebody-else") is not None


async def test_a_request_that_was_made_again_since_is_not_removed(here: House) -> None:
    """Only the request that a reconcile was begun for is removed; a later one may be about what it did not read."""
    requests = Requests(here.log)
    await requests.ask(here.tenant, "silence", here.now())
    begun = await requests.waiting(here.tenant)
    assert begun is not None
    await here.tick(1)
    await requests.ask(here.tenant, "silence", here.now())
    await requests.remove(begun)
    later = await requests.waiting(here.tenant)
    assert later is not None
    assert later.asked_at > begun.asked_at


async def test_what_is_asked_for_runs_after_the_one_under_way(here: House) -> None:
    """A command that comes while another run is under way is not forgotten, unless it is the very same; and none that
    comes later takes its place: that one is refused.
    """
    backfill = here.backfill()
    backfill.ask("reconcile", "command", ALL)
    await backfill.run_once()
    assert backfill.ask("reconcile", "silence", Options(details="changed", messages="off")) is None
    refused = backfill.ask("reconcile", "console", FULL)
    assert refused == "another run waits already: details changed, messages off"
    assert backfill.ask("reconcile", "silence", Options(details="changed", messages="off")) is None, "the very same"
    assert (await here.drive(backfill)).cause == "command"
    backfill.progress = replace(backfill.progress, finished=False)
    assert await next_cause(here, backfill) == "silence"
    assert await next_cause(here, backfill) is None
    await backfill.close()


async def test_a_ticket_that_a_person_asks_about_is_looked_at_before_all_else(here: House) -> None:
    """One request, with nothing in doubt: a change that no webhook told is there afterwards, no messages were read, and
    the next look is made only when somebody asks again. What a command asked for comes after it.
    """
    await here.reconcile()
    ticket = here.open_ticket()
    ticket.status = "closed"
    here.world.account.touch_ticket(ticket)
    here.world.account.outbox.clear()  # the webhook is lost
    backfill, asked = here.backfill(), here.rest.counts.copy()
    backfill.ask("reconcile", "command", ALL)
    assert backfill.ask_about(str(ticket.id))
    assert await next_cause(here, backfill) == "console"
    assert (await here.held("ticket"))[str(ticket.id)]["status"] == "closed"
    assert here.rest.counts - asked == {("GET", "/tickets/{id}"): 1}
    assert await next_cause(here, backfill) == "command"
    assert await next_cause(here, backfill) is None
    assert all(backfill.ask_about(f"other{number}") for number in range(PEOPLE_LIMIT))
    assert not backfill.ask_about("one too many")
    assert backfill.ask_about("other0")
    await backfill.close()


async def begun_elsewhere(here: House) -> None:
    """Let another process begin a run that reads every message, and end in the middle of it."""
    other = here.backfill()
    other.ask("reconcile", "command", FULL)
    await here.until(other, lambda: other.active)
    await other.close()


async def test_a_run_for_somebody_lifts_the_guard_of_read_receipts_for_no_other_run(here: House) -> None:
    """After a run with all messages that a person asked for, one of another process that goes on here reads none."""
    backfill = here.backfill()
    backfill.ask("reconcile", "console", FULL)
    assert (await here.drive(backfill)).cause == "console"
    read = here.rest.message_list_reads
    assert read > 0
    backfill.progress = replace(backfill.progress, finished=False)
    assert not await backfill.run_once()
    await begun_elsewhere(here)
    assert here.rest.message_list_reads == read
    assert (await here.drive(backfill)).cause == "command"
    assert here.rest.message_list_reads == read
    await backfill.close()


async def test_a_run_goes_on_with_its_messages_where_nobody_else_had_it_meanwhile(here: House) -> None:
    """What was asked for here is read, also after a break; once another process had the run, it was taken from us."""
    backfill = here.backfill()
    backfill.ask("reconcile", "console", FULL)
    await here.until(backfill, lambda: backfill.active)
    await backfill.close()
    await here.drive(backfill)
    read = here.rest.message_list_reads
    assert read > 0
    backfill.progress = replace(backfill.progress, finished=False)
    backfill.ask("reconcile", "console", FULL)
    await here.until(backfill, lambda: backfill.active)
    await backfill.close()
    await begun_elsewhere(here)
    await here.drive(backfill)
    assert here.rest.message_list_reads == read
    await backfill.close()


async def test_a_person_who_asks_for_the_run_that_was_broken_off_gets_its_messages(here: House) -> None:
    """The command that is given again goes on with its run as it was told to."""
    await begun_elsewhere(here)
    backfill = here.backfill()
    backfill.ask("reconcile", "command", FULL)
    await here.drive(backfill)
    assert here.rest.message_list_reads > 0
    await backfill.close()
