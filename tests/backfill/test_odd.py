"""Promise 7 against odd answers: a list ends or an item is left out, the rest is compared and repaired."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from servers.metric import sample
from servers.reconciling import (
    ALL,
    HASTY,
    PLAN,
    SLUG,
    House,
    differences,
    half_an_hour,
    true_messages,
    truth,
    with_plan,
)
from whatsms_events.backfill.run import NAMES, Report
from whatsms_events.clock import now
from whatsms_events.domain.repair import PAGE_TRIES
from whatsms_events.errors import TransientError, UpstreamForbiddenError, UpstreamNotFoundError
from whatsms_events.storage.repair.reports import Options
from whatsms_events.storage.repair.runs import Checkpoints
from whatsms_events.twin.dialects import Json
from whatsms_events.twin.entities import Contact, Ticket
from whatsms_events.twin.rest.answers import Ask, refuse
from whatsms_events.twin.rest.faults import RestFault
from whatsms_events.twin.rest.reads import Reads
from whatsms_events.twin.rest.server import RestServer
from whatsms_events.workers.observer import Observer

pytestmark = pytest.mark.twin

FULL = Options(details="changed", messages="full")
NARROW = Options(details="changed", messages="narrow")
CHANGED = Options(details="changed")
LISTS = ("contacts", "tickets", "campaigns")


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[House]:
    """Give an account of which all is known, with a client that does not wait long between two tries."""
    async with half_an_hour(tmp_path) as opened:
        opened.attempts, opened.waits = 2, HASTY
        yield opened


async def miss(here: House) -> tuple[Ticket, Contact]:
    """Change a ticket and a contact, of which the webhooks are lost."""
    account = here.world.account
    ticket, contact = here.open_ticket(), next(iter(account.contacts.values()))
    ticket.status, contact.name = "closed", "Another Name"
    account.touch_ticket(ticket)
    account.touch_contact(contact)
    assert here.announced()
    await here.tick(60)
    return ticket, contact


async def assert_equal(here: House) -> None:
    """Check that the projection shows the vendor's truth."""
    for name, wanted in truth(here.world).items():
        assert not differences(await here.held(name), wanted), name


async def gone(here: House) -> list[str]:
    """Return what is marked as gone."""
    rows = [await here.held(name) for name in ("ticket", "contact", "campaign")]
    return [one for held in rows for one, row in held.items() if row["gone"]]


async def shown(here: House, name: str) -> float | None:
    """Return what a gauge of the tenant shows once somebody looked."""
    observer = Observer(here.log, here.projection, prefix=None, slugs={here.tenant: SLUG}, keyed=[here.tenant], now=now)
    await observer.look_at_backfills(())
    return sample(f"whatsms_events_backfill_{name}", {"tenant": SLUG})


# A list that goes on badly behind a good first page.


@pytest.mark.parametrize(("fault", "status"), [("beyond_404", 404), ("beyond_400", 400)])
async def test_a_page_behind_the_end_that_is_refused_ends_its_list(here: House, fault: str, status: int) -> None:
    """With `hasMore` for ever and a refused page behind the end, all that was listed is compared and repaired; the
    report, the log and the gauge say which lists are not stable, and why.
    """
    await miss(here)
    here.rest.faults.has_more = 1.0
    setattr(here.rest.faults, fault, 1.0)
    with capture_logs() as logs:
        report = await here.reconcile()
    await assert_equal(here)
    assert set(report.unstable) >= set(LISTS)
    assert report.ended["contacts"] == f"GET /contacts: {status}, page 2"
    assert {line["list"] for line in logs if line["event"] == "list.ended"} == set(report.unstable)
    assert await shown(here, "unstable_lists") == len(report.unstable)
    assert not (await here.reconcile()).drift


async def test_a_full_last_page_that_announces_more_ends_its_list(here: House) -> None:
    """`hasMore` wherever a page is full: the list that fills its last page is not stable, the others are."""
    account = here.world.account
    size = len(account.contacts) // 2 if len(account.contacts) % 2 == 0 else len(account.contacts)
    here.plan = with_plan(PLAN, page_size=size)
    here.rest.faults.full_more = here.rest.faults.beyond_404 = 1.0
    await miss(here)
    report = await here.reconcile()
    assert "contacts" in report.unstable
    await assert_equal(here)


async def test_a_refused_first_page_stops_the_run(here: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing good before it: a person must look, and the run goes on from there."""

    def list_contacts(_reads: Reads, _ask: Ask) -> NoReturn:
        refuse(404)

    with monkeypatch.context() as refusing:
        refusing.setattr(Reads, "list_contacts", list_contacts)
        async with RestServer(here.rest) as server:
            here.url, url = server.url, here.url
            with pytest.raises(UpstreamNotFoundError):
                await here.reconcile()
            here.url = url
    last = await Checkpoints(here.log).last(here.tenant)
    assert last is not None
    assert b"GET /contacts: 404" in last.run.progress
    await miss(here)
    assert not (await here.reconcile()).unstable
    await assert_equal(here)


async def test_a_server_that_shows_its_last_page_for_ever_ends_the_list(
    here: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Page 2 was another one than page 1, so pages do move on: the same page again further on is an end."""
    usual = Reads.list_contacts

    def list_contacts(reads: Reads, ask: Ask) -> Json:
        last = -(-len(here.world.account.contacts) // 5)
        page = str(min(int(ask.query["page"]), last))
        return usual(reads, replace(ask, query={**ask.query, "page": page})) | {"hasMore": True, "count": None}

    monkeypatch.setattr(Reads, "list_contacts", list_contacts)
    here.plan = with_plan(PLAN, page_size=5)
    await miss(here)
    async with RestServer(here.rest) as server:
        here.url = server.url
        report = await here.reconcile()
    assert report.unstable == ("contacts",)
    assert "whatsms.page_parameter" in report.ended["contacts"]
    await assert_equal(here)


async def test_one_page_that_is_500_for_ever_ends_its_list(here: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that the vendor stumbles over breaks its page at each try, while all else is answered."""
    usual = Reads.list_contacts

    def list_contacts(reads: Reads, ask: Ask) -> Json:
        if ask.query["page"] == "2":
            raise web.HTTPInternalServerError(text="boom")
        return usual(reads, ask)

    monkeypatch.setattr(Reads, "list_contacts", list_contacts)
    here.plan = with_plan(PLAN, page_size=5)
    await miss(here)
    async with RestServer(here.rest) as server:
        here.url = server.url
        report = await here.insist()
    assert report.unstable == ("contacts",)
    assert report.ended == {"contacts": "GET /contacts: 500, page 2"}
    await assert_equal(here)  # what no page shows is asked for by id


async def test_a_list_that_is_500_from_its_first_page_on_holds_up_no_other(
    here: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is known of it, so nothing of it is absent or asked for; all else is repaired."""

    def list_contacts(_reads: Reads, _ask: Ask) -> NoReturn:
        raise web.HTTPInternalServerError(text="boom")

    monkeypatch.setattr(Reads, "list_contacts", list_contacts)
    ticket, _ = await miss(here)
    async with RestServer(here.rest) as server:
        here.url = server.url
        report = await here.insist()
    assert report.ended == {"contacts": "GET /contacts: 500, page 1"}
    assert here.rest.counts["GET", "/contacts/{id}"] == 0
    assert (await here.held("ticket"))[str(ticket.id)]["status"] == "closed"
    assert not await gone(here)


async def test_a_vendor_that_is_away_ends_no_list(here: House) -> None:
    """500 to everything, far longer than a page is tried for, in the middle of a list: the run waits and goes on."""
    here.plan = with_plan(PLAN, page_size=5)
    await miss(here)
    backfill = here.backfill()
    backfill.ask("reconcile", "command", ALL)
    await here.until(backfill, lambda: here.rest.counts["GET", "/contacts"] == 2)
    here.rest.faults.error = 1.0
    for _ in range(4 * PAGE_TRIES):
        with pytest.raises(TransientError):
            await backfill.run_once()
        await here.tick(10)
    here.rest.faults.error = 0.0
    report = await here.drive(backfill)
    await backfill.close()
    assert report.unstable == ()
    await assert_equal(here)


async def test_messages_behind_the_end_that_are_refused_end_their_list(here: House) -> None:
    """What the good pages of a ticket's messages showed is repaired, and they count as read."""
    ticket = here.open_ticket()
    here.world.account.add_message(ticket.contact, ticket, "Nobody told you of this", from_me=False)
    assert here.announced()
    await here.tick(60)
    here.rest.faults.has_more = here.rest.faults.beyond_404 = 1.0
    report = await here.reconcile(FULL)
    assert (report.unsettled, "messages" in report.unstable) == (0, True)
    assert report.ended["messages"] == "GET /tickets/{id}/messages: 404, page 2"
    assert not differences(await here.held("message"), true_messages(here.world))
    reads = here.rest.message_list_reads
    assert not (await here.reconcile(NARROW)).drift
    assert here.rest.message_list_reads == reads


# Empty lists, byte order marks, nonsense.


@pytest.mark.parametrize("fault", ["empty_204", "list_null", "bom"])
async def test_an_empty_list_and_a_byte_order_mark_are_read(here: House, fault: str) -> None:
    """204, null and a mark before the JSON are manners of servers: the run is as any other."""
    account = here.world.account
    for campaign in [*account.campaigns]:
        del account.campaigns[campaign]
    await miss(here)
    setattr(here.rest.faults, fault, 1.0)
    report = await here.reconcile()
    assert (here.rest.statuses[204] > 0) is (fault == "empty_204")
    assert (report.unstable, report.unsettled) == ((), 0)
    await assert_equal(here)


async def test_the_same_nonsense_at_each_try_ends_that_list_alone(here: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list that is never one is tried a bounded number of times; the others are repaired, and nothing is gone."""
    monkeypatch.setattr(Reads, "list_campaigns", lambda _reads, _ask: {"data": []})
    here.world.account.finish_campaign(here.world.account.add_campaign("Verão", "Olá"))
    await here.take(here.announced())
    await miss(here)
    async with RestServer(here.rest) as server:
        here.url = server.url
        report = await here.insist()
        assert here.rest.counts["GET", "/campaigns"] == (PAGE_TRIES + 1) * here.attempts
        assert report.unstable == ("campaigns",)
        assert report.ended == {"campaigns": "GET /campaigns: 200 with no usable answer (no_campaigns), page 1"}
    assert not await gone(here)
    await assert_equal(here)


async def test_nonsense_to_everything_ends_the_run_and_marks_nothing(here: House) -> None:
    """A page of maintenance in place of each answer: no list was seen, so nothing is absent."""
    here.rest.faults.html_200 = 1.0
    report = await here.insist()
    assert set(report.unstable) == {*LISTS, "tickets:open", "tickets:pending", "tickets:closed"}
    assert not await gone(here)
    assert report.looked_at == {}
    here.rest.faults.html_200 = 0.0
    await miss(here)
    assert not (await here.reconcile()).unstable
    await assert_equal(here)


# Items that are not ours to see.


async def test_one_item_without_a_right_is_left_out_and_named(here: House) -> None:
    """403 for some tickets and contacts: they are counted, named in log and report, and halt nothing."""
    here.rest.faults.item_403 = 0.3
    ticket, contact = await miss(here)
    with capture_logs() as logs:
        report = await here.reconcile()
    assert 0 < report.forbidden == here.rest.statuses[403]
    assert len(report.forbidden_names) == min(NAMES, report.forbidden)
    assert [line["subject"] for line in logs if line["event"] == "detail.forbidden"] == list(report.forbidden_names)
    assert await shown(here, "forbidden") == report.forbidden
    assert report.unsettled == 0
    assert not await gone(here)
    left_out = {name.split(" ")[1] for name in report.forbidden_names}
    held = {**await here.held("ticket"), **await here.held("contact")}
    for one, row in ((str(ticket.id), "status"), (str(contact.id), "name")):
        assert (one in left_out) or held[one][row] in ("closed", "Another Name")
    here.rest.faults.item_403 = 0.0
    assert (await here.reconcile()).forbidden == 0
    await assert_equal(here)


async def test_what_no_list_shows_and_no_right_is_there_for_is_not_gone(here: House) -> None:
    """403 for one that no list shows says nothing of whether it is there."""
    contact = here.world.account.add_contact(name="n", number="351910000001", email=None)
    await here.take(here.announced())
    del here.world.account.contacts[contact.id]
    await here.tick(60)
    here.rest.demand(RestFault.ITEM_403, 2)
    report = await here.reconcile(CHANGED)
    assert f"contact {contact.id}" in report.forbidden_names
    assert not await gone(here)


async def test_a_list_without_a_right_stops_the_run(here: House) -> None:
    """403 for a whole list is the key's: a person must look."""
    here.rest.demand(RestFault.FORBIDDEN)
    with pytest.raises(UpstreamForbiddenError):
        await here.reconcile()


async def test_messages_of_one_ticket_without_a_right_are_left_out(
    here: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """403 for the messages of one ticket is that ticket's: the others' are read."""
    usual, closed = Reads.list_messages, here.open_ticket()

    def list_messages(reads: Reads, ask: Ask) -> Json:
        if ask.id == closed.id:
            raise web.HTTPForbidden(text="Sem permissão")
        return usual(reads, ask)

    monkeypatch.setattr(Reads, "list_messages", list_messages)
    other = next(one for one in here.world.account.tickets.values() if one is not closed)
    here.world.account.add_message(other.contact, other, "Nobody told you of this", from_me=False)
    assert here.announced()
    await here.tick(60)
    async with RestServer(here.rest) as server:
        here.url = server.url
        report: Report = await here.reconcile(FULL)
    assert report.forbidden_names == (f"messages of ticket {closed.id}",)
    assert any(row["body"] == "Nobody told you of this" for row in (await here.held("message")).values())


async def test_an_answer_about_another_one_is_not_taken_for_the_one_that_was_asked_for(here: House) -> None:
    """A vendor that answers for a merged contact with the other one's data writes nobody's name into the wrong row."""
    contacts = here.world.account.contacts
    first, other = list(contacts)[:2]
    before = (await here.held("contact"))[str(first)]["number"]
    contacts[first] = contacts[other]
    await here.tick(60)
    report = await here.reconcile()
    assert report.unsettled >= 1
    assert (await here.held("contact"))[str(first)]["number"] == before
