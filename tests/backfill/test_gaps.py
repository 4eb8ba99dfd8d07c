"""Promise 7 for what is only half known: a run reads a ticket's messages for a known gap, and not for ever."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import pytest
from aiohttp import web

from servers.reconciling import ALL, House, half_an_hour, with_plan
from whatsms_events.backfill.run import Report
from whatsms_events.domain.events import EventType
from whatsms_events.storage.repair.reports import Options
from whatsms_events.twin.entities import Campaign, Message, Ticket
from whatsms_events.twin.rest.answers import Ask
from whatsms_events.twin.rest.reads import Reads
from whatsms_events.twin.rest.server import RestServer

pytestmark = pytest.mark.twin

START = datetime(2026, 5, 1, 8, tzinfo=UTC)
TENANT = "5f0c9a52-7d0f-4f0e-9c1f-2d6a5b1b7a10"
NARROW = Options(details="changed", messages="narrow")
DAY_S = 86_400.0


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[House]:
    """Give an account of which all is known."""
    async with half_an_hour(tmp_path) as opened:
        yield opened


async def half_told(here: House, ticket: Ticket) -> Message:
    """Send a message of which only the ack is told, and another one that is told."""
    account = here.world.account
    message = account.add_message(ticket.contact, ticket, "Nobody told you of this", from_me=True)
    assert [one.event_type for one in here.announced()] == [EventType.MESSAGE_SENT]  # and lost
    account.acknowledge(message, 3)
    account.add_message(ticket.contact, ticket, "What the list shows last", from_me=True)
    await here.take(here.announced())
    await here.tick(60)
    return message


async def twice_told(here: House, ticket: Ticket) -> Message:
    """Send a message that is told with two texts at one moment."""
    account = here.world.account
    message = account.add_message(ticket.contact, ticket, "One text", from_me=True)
    message.body = ticket.last_message = "Another text"
    account.announce_message(message)
    await here.take(here.announced())
    await here.tick(60)
    assert (await held(here, message))["doubtful"]
    return message


async def held(here: House, message: Message) -> dict[str, object]:
    """Return what the projection holds of a message."""
    return (await here.held("message"))[str(message.id)]


async def repair(here: House, options: Options) -> Report | None:
    """Run a repair to its end; None where there is nothing to repair."""
    backfill = here.backfill()
    try:
        backfill.ask("repair", "doubt", options)
        if not await backfill.run_once():
            return None
        return await here.drive(backfill)
    finally:
        await backfill.close()


async def test_a_message_known_by_its_ack_only_is_a_known_gap(here: House) -> None:
    """A narrow run reads its ticket's messages and no other's, and the next one none."""
    message = await half_told(here, here.open_ticket())
    assert not (await held(here, message))["known"]
    await here.reconcile(ALL)
    assert here.rest.message_list_reads == 0
    for _ in range(3):
        await here.reconcile(NARROW)
        assert here.rest.message_list_reads == 1
    row = await held(here, message)
    assert (row["known"], row["body"], row["ack"]) == (True, "Nobody told you of this", 3)


async def test_a_doubtful_message_is_a_known_gap(here: House) -> None:
    """A narrow run reads its ticket's messages, and it is no longer doubtful."""
    message = await twice_told(here, here.open_ticket())
    for _ in range(3):
        await here.reconcile(NARROW)
        assert here.rest.message_list_reads == 1
    row = await held(here, message)
    assert (row["doubtful"], row["body"]) == (False, "Another text")


async def test_what_no_list_shows_is_read_for_twice_and_again_when_more_is_told(here: House) -> None:
    """Of a message that the vendor no longer has nothing is learned by reading: each reading may send read receipts."""
    message = await half_told(here, here.open_ticket())
    here.world.account.remove_message(message.id)
    for _ in range(4):
        await here.reconcile(NARROW)
        await here.tick(DAY_S)
    assert here.rest.message_list_reads == 2
    here.world.account.removed.discard(message.id)
    here.world.account.acknowledge(message, 4)
    await here.take(here.announced())
    await here.reconcile(NARROW)
    assert here.rest.message_list_reads == 3


async def test_a_last_message_that_nothing_explains_is_read_for_twice(here: House) -> None:
    """A vendor that shows a last message which its own list does not have is believed, and not asked for ever."""
    ticket = here.open_ticket()
    ticket.last_message = "A text that is in no list of messages"
    for _ in range(4):
        await here.reconcile(NARROW)
        await here.tick(DAY_S)
    assert here.rest.message_list_reads == 2
    ticket.last_message = "Another such text"
    await here.reconcile(NARROW)
    assert here.rest.message_list_reads == 3


async def test_a_narrow_repair_reads_half_told_messages_once(here: House) -> None:
    """Between reconciles a repair reads messages that are a stub or in doubt from their tickets' lists, each once."""
    tickets = [one for one in here.world.account.tickets.values() if one.status == "open"]
    stub, doubtful = await half_told(here, tickets[0]), await twice_told(here, tickets[1])
    report = await repair(here, NARROW)
    assert report is not None
    assert (report.kind, report.looked_at["ticket"]) == ("repair", 2)
    assert here.rest.message_list_reads == 2
    assert (await held(here, stub))["known"]
    assert not (await held(here, doubtful))["doubtful"]
    assert await repair(here, NARROW) is None


async def test_a_repair_that_cannot_mend_a_message_leaves_it(here: House) -> None:
    """What one look did not mend is not looked at again as it stands."""
    message = await half_told(here, here.open_ticket())
    here.world.account.remove_message(message.id)
    assert await repair(here, NARROW) is not None
    assert await repair(here, NARROW) is None
    assert here.rest.message_list_reads == 1


async def test_repairs_for_other_reasons_read_no_list_for_ever(here: House) -> None:
    """A ticket that is doubtful again and again, with a message that no list shows: its list is read twice in all."""
    ticket = here.open_ticket()
    message = await half_told(here, ticket)
    here.world.account.remove_message(message.id)
    assert await repair(here, NARROW) is not None
    for _ in range(4):
        await here.tick(300)
        for status in ("pending", "open"):
            ticket.status = status
            here.world.account.touch_ticket(ticket)
        await here.take(here.announced())
        await here.tick(60)
        assert await repair(here, NARROW) is not None
    assert here.rest.message_list_reads == 2


async def test_a_list_that_could_not_be_read_is_read_by_the_next_run(
    here: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a list that was read to its end counts as looked at: a message that was missed stays wanted until then."""
    ticket = here.open_ticket()
    here.world.account.add_message(ticket.contact, ticket, "Nobody told you of this", from_me=False)
    assert here.announced()  # and lost
    await here.tick(60)

    def refuse(_reads: Reads, _ask: Ask) -> NoReturn:
        raise web.HTTPBadRequest(text="no")

    with monkeypatch.context() as refusing:
        refusing.setattr(Reads, "list_messages", refuse)
        async with RestServer(here.rest) as server:
            here.url, url = server.url, here.url
            for _ in range(3):
                assert (await here.reconcile(NARROW)).unsettled == 1
    here.url = url
    assert (await here.reconcile(NARROW)).unsettled == 0
    assert any(row["body"] == "Nobody told you of this" for row in (await here.held("message")).values())


async def test_a_repair_with_messages_off_reads_none(here: House) -> None:
    """By default no list of messages is read, however little is known of them."""
    await half_told(here, here.open_ticket())
    await twice_told(here, here.open_ticket())
    assert await repair(here, ALL) is None
    assert here.rest.message_list_reads == 0


async def doubtful_campaign(here: House) -> Campaign:
    """End a campaign that is told with two results at one moment."""
    account = here.world.account
    campaign = account.add_campaign("Verão", "Olá")
    for count in (1, 2):
        campaign.sent_count = count
        account.finish_campaign(campaign)
    await here.take(here.announced())
    await here.tick(60)
    assert (await here.held("campaign"))[str(campaign.id)]["doubtful"]
    return campaign


async def test_a_doubtful_campaign_is_repaired_by_one_list(here: House) -> None:
    """It cannot be asked for by id, so the repair reads the campaigns' list, and nothing else."""
    campaign = await doubtful_campaign(here)
    before = here.rest.counts.total()
    report = await repair(here, ALL)
    assert report is not None
    assert here.rest.counts.total() - before == here.rest.counts["GET", "/campaigns"] == 1
    row = (await here.held("campaign"))[str(campaign.id)]
    assert (row["doubtful"], row["sent_count"]) == (False, 2)
    assert await repair(here, ALL) is None


async def test_a_campaign_that_a_repair_does_not_find_is_not_gone(here: House) -> None:
    """One list that does not show it proves nothing: it stays as it is, and is left to the next reconcile."""
    campaign = await doubtful_campaign(here)
    del here.world.account.campaigns[campaign.id]
    report = await repair(here, ALL)
    assert report is not None
    assert report.unsettled == 1
    assert not (await here.held("campaign"))[str(campaign.id)]["gone"]
    assert await repair(here, ALL) is None
    await here.reconcile(ALL)
    assert (await here.held("campaign"))[str(campaign.id)]["gone"]


@pytest.mark.parametrize("told", ["half", "twice"])
async def test_a_ticket_that_is_gone_has_no_list_to_read(here: House, told: str) -> None:
    """Its messages stay as they are, and nobody asks for their list."""
    ticket = here.open_ticket()
    await (half_told if told == "half" else twice_told)(here, ticket)
    here.world.account.remove_ticket(ticket.id)
    here.plan = with_plan(here.plan, absence_s=5)
    assert await repair(here, NARROW) is not None
    await here.reconcile(NARROW)
    await here.reconcile(NARROW)
    assert here.rest.message_list_reads == 0
    assert (await here.held("ticket"))[str(ticket.id)]["gone"]
