"""Promise 7 where something is no longer there: said clearly it is gone at once; too much of it is held back."""

import json
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest
from aiohttp import web
from sqlalchemy import func, insert, select
from structlog.testing import capture_logs

from servers.metric import sample
from servers.reconciling import ALL, PLAN, SLUG, House, differences, half_an_hour, truth, with_plan
from whatsms_events.backfill.run import HeldBack, Report
from whatsms_events.clock import now
from whatsms_events.storage import tables
from whatsms_events.storage.repair.reports import Options
from whatsms_events.storage.repair.runs import Checkpoints, Item
from whatsms_events.twin.account import Webhook
from whatsms_events.twin.dialects import Json
from whatsms_events.twin.entities import Contact
from whatsms_events.twin.rest.answers import Ask
from whatsms_events.twin.rest.faults import RestFault, Target
from whatsms_events.twin.rest.reads import Reads
from whatsms_events.twin.rest.server import RestServer
from whatsms_events.workers.observer import Observer

pytestmark = pytest.mark.twin

CHANGED = Options(details="changed")
ALLOWED = Options(details="changed", allow_gone=True)
CONTACT = ("GET", "/contacts/{id}")
MANY = 60


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[House]:
    """Give an account of which all is known."""
    async with half_an_hour(tmp_path) as opened:
        yield opened


def add(here: House, number: int) -> list[Contact]:
    """Add contacts without a ticket, which is announced."""
    account = here.world.account
    return [account.add_contact(name=f"C{n}", number=f"35191{n:07}", email=None) for n in range(number)]


async def unlisted(here: House, number: int = 1) -> list[str]:
    """Give contacts that were told of and that the vendor shows no longer; return their ids."""
    contacts = add(here, number)
    await here.take(here.announced())
    for contact in contacts:
        here.world.account.remove_contact(contact.id)
    await here.tick(60)
    return [str(contact.id) for contact in contacts]


async def gone(here: House) -> set[str]:
    """Return the contacts that are marked as gone."""
    return {one for one, row in (await here.held("contact")).items() if row["gone"]}


async def held_back_shown(here: House, entity: str = "contact") -> float | None:
    """Return what the gauge shows once somebody looked."""
    observer = Observer(here.log, here.projection, prefix=None, slugs={here.tenant: SLUG}, keyed=[here.tenant], now=now)
    await observer.look_at_backfills(())
    return sample("whatsms_events_backfill_gone_held_back", {"tenant": SLUG, "entity": entity})


async def observed(here: House, one: str) -> list[dict[str, object]]:
    """Return what observations in the log say of a contact."""
    table = tables.event_log.c
    query = select(table.data).where(table.origin == "backfill", table.subject == one)
    async with here.log.read() as connection:
        return [json.loads(data)["contact"] for data in (await connection.execute(query)).scalars()]


# Merged.


@pytest.mark.parametrize(
    ("fault", "status", "target"),
    [
        (RestFault.ITEM_410, 410, "other"),
        *((RestFault.ITEM_MOVED, status, "other") for status in (301, 302, 303, 307, 308)),
        (RestFault.ITEM_MOVED, 301, "relative"),
    ],
)
async def test_a_merged_contact_is_gone_at_once_and_says_where_it_went(
    here: House, fault: RestFault, status: int, target: Target
) -> None:
    """410 with a `Link`, or a redirect to another one of its kind: one look says it, the event keeps the other's id,
    and no later run asks for it again.
    """
    (merged,) = await unlisted(here)
    here.rest.faults.moved_status, here.rest.faults.moved_to = status, target  # type: ignore[assignment]
    here.rest.demand(fault)
    before = here.rest.counts[CONTACT]
    report = await here.reconcile(CHANGED)
    assert report.unsettled == 0
    assert await gone(here) == {merged}
    (said,) = await observed(here, merged)
    assert said["merged_into"] in {str(one) for one in here.world.account.contacts}
    assert (await here.reconcile(CHANGED)).unsettled == 0
    assert here.rest.counts[CONTACT] == before + 1
    assert here.rest.statuses[status] == 1


async def test_one_that_is_merged_while_the_run_reads_is_gone(here: House) -> None:
    """Its list still showed it: what its detail says clearly stands, also in the next run."""
    for _ in range(2):  # so that nothing else is appended that touches it
        await here.reconcile()
        await here.tick(60)
    here.rest.demand(RestFault.ITEM_410)
    report = await here.reconcile()
    assert report.unsettled == 0
    rows = [*(await here.held("contact")).values(), *(await here.held("ticket")).values()]
    assert [row["gone"] for row in rows].count(True) == 1


@pytest.mark.parametrize("target", ["itself", "list", "login", "elsewhere"])
async def test_a_redirect_to_anything_else_says_nothing(here: House, target: Target) -> None:
    """The same one with a slash behind it, the list, a login page, another host: not gone, and left to the next run."""
    (contact,) = await unlisted(here)
    here.rest.faults.moved_to = target
    here.rest.demand(RestFault.ITEM_MOVED)
    with capture_logs() as logs:
        report = await here.reconcile(CHANGED)
    assert report.unsettled == 1
    assert [line["id"] for line in logs if line["event"] == "detail.not_read"] == [contact]
    assert not await gone(here)


# Ids that do not meet, and other reasons why much is not there.


def with_two_ids(webhooks: Iterable[Webhook]) -> list[bytes]:
    """Return the bodies as a vendor sends them whose rows have a number and a UUID, and whose API shows the UUID."""
    bodies = []
    for number, webhook in enumerate(webhooks, 812):
        told = json.loads(webhook.body)
        contact = told["data"]["contact"]
        contact["uuid"], contact["id"] = contact["id"], number
        bodies.append(json.dumps(told).encode())
    return bodies


async def told_of_with_two_ids(here: House) -> set[str]:
    """Announce contacts by their numbers; return these."""
    add(here, MANY)
    for body in with_two_ids(here.announced()):
        await here.take_body(body)
    await here.apply()
    await here.tick(60)
    return {str(number) for number in range(812, 812 + MANY)}


async def test_ids_that_do_not_meet_mark_nothing_as_gone(here: House) -> None:
    """Webhooks name contacts by number, the API by UUID: none is marked, and log, report and gauge say what was seen;
    whoever knows better lets a run mark them.
    """
    numbers = await told_of_with_two_ids(here)
    held = len(await here.held("contact"))
    with capture_logs() as logs:
        report = await here.reconcile()
    assert not await gone(here)
    seen = report.held_back["contact"]
    assert seen == HeldBack(extra=MANY, missed=MANY, held=held + MANY, limit=20)
    assert report.held_back.keys() == {"contact"}
    (line,) = [line for line in logs if line["event"] == "backfill.gone_held_back"]
    assert (line["log_level"], line["extra"], line["missed"]) == ("error", MANY, MANY)
    assert "ids" in line["reason"]
    assert "--allow-gone" in line["reason"]
    assert await held_back_shown(here) == MANY
    assert not differences(await here.held("contact"), truth(here.world)["contact"])  # the rest was repaired
    again = await here.reconcile()
    assert again.held_back["contact"].extra == MANY
    assert not await gone(here)
    allowed = await here.reconcile(ALLOWED)
    assert allowed.held_back == {}
    assert await gone(here) == numbers
    assert await held_back_shown(here) == 0


async def test_the_part_that_may_go_can_be_set(here: House) -> None:
    """With the whole as the share nothing is held back; the second one of many is marked with the first."""
    here.plan = with_plan(PLAN, gone_share=1.0)
    wanted = await unlisted(here, MANY)
    assert (await here.reconcile(CHANGED)).held_back == {}
    assert await gone(here) == set(wanted)


async def test_a_few_may_always_go(here: House) -> None:
    """Twenty of any entity are marked, twenty-one are held back: all of them."""
    here.plan = with_plan(PLAN, gone_share=0.0)
    first = await unlisted(here, 20)
    assert (await here.reconcile(CHANGED)).held_back == {}
    assert await gone(here) == set(first)
    await unlisted(here, 21)
    report = await here.reconcile(CHANGED)
    assert (report.held_back["contact"].extra, report.held_back["contact"].limit) == (21, 20)
    assert await gone(here) == set(first)


async def test_an_account_that_shows_nothing_is_not_gone(here: House) -> None:
    """Lists that are empty for a while, by id 404: a key that lost its rights, or a wrong account."""
    await unlisted(here, MANY)
    here.rest.faults.list_empty = here.rest.faults.empty_204 = 1.0
    report = await here.reconcile(CHANGED)
    assert report.held_back["contact"].extra == MANY
    assert not await gone(here)


async def test_a_restart_between_holding_back_and_the_end_changes_nothing(here: House) -> None:
    """Processes that end after any piece hold back the same as one that goes through."""
    await unlisted(here, MANY)
    report: Report | None = None
    while report is None:
        backfill = here.backfill()
        backfill.ask("reconcile", "command", CHANGED)
        for _ in range(9):
            if not await backfill.run_once():
                await here.tick(5)
            await here.apply()
            if backfill.progress.finished:
                report = backfill.progress.report
                break
        await backfill.close()
        await here.tick(6)
    assert report.held_back["contact"].extra == MANY
    assert not await gone(here)


async def test_repairs_do_not_mark_bit_by_bit_what_a_reconcile_held_back(here: House) -> None:
    """A contact known by name only, which the API does not have: after a reconcile that held contacts back it stays."""
    await told_of_with_two_ids(here)
    await here.reconcile()
    ticket = here.open_ticket()
    message = here.world.account.add_message(ticket.contact, ticket, "Olá", from_me=False)
    (webhook,) = here.announced()
    told = json.loads(webhook.body)
    told["data"]["contact"]["id"] = "9999"
    await here.take_body(json.dumps(told).encode())
    await here.apply()
    await here.tick(60)
    assert not (await here.held("contact"))["9999"]["known"]
    backfill = here.backfill()
    backfill.ask("repair", "doubt", ALL)
    report = await here.drive(backfill)
    await backfill.close()
    assert report.held_back["contact"].extra == 1
    assert not await gone(here)
    assert str(message.id) in await here.held("message")


# Campaigns, which cannot be asked for.


async def test_twenty_thousand_hidden_campaigns_are_kept_in_rows(here: House) -> None:
    """What a list does not show is in the table of items: the run's own row, which each save writes, stays small, also
    where another process goes on in the middle.
    """
    campaigns = 20_000
    values = {"tenant": here.tenant, "known": True, "doubtful": False, "name": "x", "versions": "{}"}
    async with here.projection.write() as connection:
        rows = [{**values, "id": f"hidden-{number:05}"} for number in range(campaigns)]
        await connection.execute(insert(tables.campaign), rows)
    table = tables.backfill_run.c
    largest = 0
    report: Report | None = None
    while report is None:
        backfill = here.backfill()
        backfill.ask("reconcile", "command", CHANGED)
        for _ in range(60):
            if not await backfill.run_once():
                await here.tick(5)
            await here.apply()
            async with here.log.read() as connection:
                sizes = await connection.execute(select(func.max(func.length(table.progress))))
                largest = max(largest, sizes.scalar_one() or 0)
            if backfill.progress.finished:
                report = backfill.progress.report
                break
        await backfill.close()
        await here.tick(6)
    assert largest < 2000
    assert report.held_back["campaign"].extra == campaigns
    assert not any(row["gone"] for row in (await here.held("campaign")).values())


async def test_a_campaign_that_the_second_list_shows_is_not_gone(here: House) -> None:
    """Hidden from the first list only: it is compared like any other."""
    account = here.world.account
    campaign = account.add_campaign("Verão", "Olá")
    account.finish_campaign(campaign)
    await here.take(here.announced())
    del account.campaigns[campaign.id]
    await here.tick(60)
    backfill = here.backfill()
    backfill.ask("reconcile", "command", CHANGED)
    await here.until(backfill, lambda: here.rest.counts["GET", "/campaigns"] == 1)
    account.campaigns[campaign.id] = campaign
    campaign.sent_count += 7
    await here.drive(backfill)
    await backfill.close()
    row = (await here.held("campaign"))[str(campaign.id)]
    assert (row["gone"], row["sent_count"]) == (None, campaign.sent_count)


async def test_campaigns_are_not_gone_for_a_list_that_broke_off(here: House) -> None:
    """A page that is refused may hide them: what is not shown is left as it is."""
    account = here.world.account
    campaign = account.add_campaign("Verão", "Olá")
    account.finish_campaign(campaign)
    await here.take(here.announced())
    del account.campaigns[campaign.id]
    account.add_campaign("Outono", "Olá")
    await here.tick(60)
    here.rest.faults.has_more = here.rest.faults.beyond_404 = 1.0
    report = await here.reconcile(CHANGED)
    assert "campaigns" in report.unstable
    assert not (await here.held("campaign"))[str(campaign.id)]["gone"]
    last = await Checkpoints(here.log).last(here.tenant)
    assert last is not None
    assert last.remaining == 0


async def test_no_messages_are_read_of_a_ticket_that_is_gone(here: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of tickets shows it with a gap, but by its id it is 410: its list of messages is not asked for."""
    ticket = here.open_ticket()
    here.world.account.add_message(ticket.contact, ticket, "Nobody told you of this", from_me=False)
    ticket.status = "pending"
    here.world.account.touch_ticket(ticket)
    assert here.announced()  # and lost
    await here.tick(60)
    usual = Reads.get_ticket

    def get_ticket(reads: Reads, ask: Ask) -> Json:
        if str(ask.id) == str(ticket.id):
            raise web.HTTPGone(text="gone")
        return usual(reads, ask)

    monkeypatch.setattr(Reads, "get_ticket", get_ticket)
    async with RestServer(here.rest) as server:
        here.url = server.url
        await here.reconcile(Options(details="changed", messages="narrow"))
    assert (await here.held("ticket"))[str(ticket.id)]["gone"]
    assert here.rest.counts["GET", "/tickets/{id}/messages"] == 0


async def test_messages_are_read_of_a_ticket_that_is_back(here: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was 404 twice, and a webhook told of it before it was marked: it is read again, and so are its messages."""
    ticket, back, read = here.open_ticket(), False, set[str]()
    usual, listed, messages = Reads.get_ticket, Reads.list_tickets, Reads.list_messages

    def get_ticket(reads: Reads, ask: Ask) -> Json:
        if str(ask.id) == str(ticket.id) and not back:
            raise web.HTTPNotFound(text="no")
        return usual(reads, ask)

    def list_tickets(reads: Reads, ask: Ask) -> Json:
        answer = listed(reads, ask)
        return answer | {"tickets": [one for one in answer["tickets"] if str(one["id"]) != str(ticket.id)]}

    def list_messages(reads: Reads, ask: Ask) -> Json:
        read.add(str(ask.id))
        return messages(reads, ask)

    for name, patched in (("get_ticket", get_ticket), ("list_tickets", list_tickets), ("list_messages", list_messages)):
        monkeypatch.setattr(Reads, name, patched)
    async with RestServer(here.rest) as server:
        here.url = server.url
        backfill = here.backfill()
        backfill.ask("reconcile", "command", Options(details="all", messages="full"))
        await here.until(backfill, lambda: backfill.standing is not None and "ticket" in backfill.standing.released)
        back = True
        ticket.status = "pending"
        here.world.account.touch_ticket(ticket)
        await here.take(here.announced())
        await here.drive(backfill)
        await backfill.close()
    assert not (await here.held("ticket"))[str(ticket.id)]["gone"]
    assert str(ticket.id) in read


async def test_an_older_releases_run_still_marks_a_campaign_that_was_hidden(here: House) -> None:
    """A run that an older release saved while it looked for campaigns begins anew, and lists them once more."""
    campaign = here.world.account.add_campaign("V", "O")
    here.world.account.finish_campaign(campaign)
    await here.take(here.announced())
    del here.world.account.campaigns[campaign.id]
    await here.tick(60)
    checkpoints, now = Checkpoints(here.log), here.now()
    run = await checkpoints.begin(here.tenant, "reconcile", "schedule", ALL, now)
    saved = b'{"phase":"again","hidden":1,"again_at":"2026-05-01T08:31:00Z","requests":9}'
    item = Item("campaign", str(campaign.id), "missing", now, as_of=None, log_end=0)
    await checkpoints.save(run, saved, now=now, items=[item])
    backfill = here.backfill()
    await here.drive(backfill, limit_s=7200)
    await backfill.close()
    assert (await here.held("campaign"))[str(campaign.id)]["gone"]
