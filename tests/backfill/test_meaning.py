"""What a backfill's observations mean beside webhooks: doubt where they disagree, and acks that were only seen."""

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from servers.metric import sample
from servers.reconciling import ALL, House, half_an_hour
from whatsms_events.domain.acks import LEVELS
from whatsms_events.storage.reads import Queries
from whatsms_events.storage.repair.reports import Options
from whatsms_events.twin.dialects import DIALECTS
from whatsms_events.twin.entities import Message, Ticket

pytestmark = pytest.mark.twin

FULL = Options(details="all", messages="full")
HOURS = 3600.0


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[House]:
    """Give an account that lived for half an hour, with everything beside it."""
    async with half_an_hour(tmp_path) as opened:
        yield opened


async def tell(here: House, event: str, *, behind_s: float = 0, **data: Any) -> None:
    """Deliver an event that the vendor stamps with a clock that is `behind_s` behind."""
    stamp = DIALECTS["documented"].time(here.now() - timedelta(seconds=behind_s))
    body = {"event": event, "tenantId": here.tenant, "timestamp": stamp, "data": data}
    await here.take_body(json.dumps(body).encode())
    await here.apply()


async def ticket_row(here: House, ticket: Ticket) -> dict[str, Any]:
    """Return what is held of a ticket."""
    return (await here.held("ticket"))[str(ticket.id)]


async def repaired(here: House) -> None:
    """Run one repair to its end."""
    backfill = here.backfill()
    try:
        backfill.ask("repair", "doubt", ALL)
        await here.drive(backfill)
    finally:
        await backfill.close()


async def test_a_webhook_with_a_clock_behind_is_not_lost_in_silence(here: House) -> None:
    """The close that the vendor stamps three hours early loses to what a reconcile saw before: the ticket is doubtful,
    and one look at the API closes it.
    """
    ticket = here.open_ticket()
    ticket.status = "pending"  # and nobody is told
    await here.reconcile()
    assert (await ticket_row(here, ticket))["status"] == "pending"
    await here.tick(1800)
    ticket.status = "closed"
    await tell(here, "ticket.closed", behind_s=3 * HOURS, ticket={"id": ticket.id, "status": "closed"})
    row = await ticket_row(here, ticket)
    assert (row["status"], row["doubtful"]) == ("pending", True)
    await here.tick(60)
    await repaired(here)
    row = await ticket_row(here, ticket)
    assert (row["status"], row["doubtful"]) == ("closed", False)
    # Each time again, also while the row stands where the last repair left it.
    ticket.status = "open"
    await tell(here, "ticket.updated", behind_s=3 * HOURS, ticket={"id": ticket.id, "status": "open"})
    assert (await ticket_row(here, ticket))["doubtful"]
    await here.tick(60)
    await repaired(here)
    row = await ticket_row(here, ticket)
    assert (row["status"], row["doubtful"]) == ("open", False)


async def test_a_late_webhook_that_says_the_same_makes_no_doubt(here: House) -> None:
    """A retry that comes after the observation and agrees with it needs no look."""
    ticket = here.open_ticket()
    ticket.status = "pending"
    await here.reconcile()
    await here.tick(60)
    await tell(here, "ticket.updated", behind_s=HOURS, ticket={"id": ticket.id, "status": "pending"})
    assert not (await ticket_row(here, ticket))["doubtful"]


async def test_a_look_that_began_before_a_late_webhook_does_not_settle_it(here: House) -> None:
    """What came while a page waited to be compared may be news: the page proves nothing, another look does."""
    ticket = here.open_ticket()
    ticket.status = "pending"
    await here.reconcile()
    backfill = here.backfill()
    reads = here.rest.counts["GET", "/tickets/{id}"]
    backfill.ask("reconcile", "command", ALL)
    await here.until(
        backfill, lambda: here.rest.counts["GET", "/tickets/{id}"] - reads >= len(here.world.account.tickets)
    )
    ticket.status = "closed"
    await tell(here, "ticket.closed", behind_s=3 * HOURS, ticket={"id": ticket.id, "status": "closed"})
    await here.drive(backfill)
    await backfill.close()
    row = await ticket_row(here, ticket)
    assert (row["status"], row["doubtful"]) == ("closed", False)


def delays() -> dict[str, float]:
    """Return how many delays of each level were observed so far."""
    name = "whatsms_events_message_ack_delay_seconds_count"
    return {level: sample(name, {"level": level}) or 0 for level in LEVELS.values()}


async def shown(here: House, message: Message) -> dict[str, Any]:
    """Return the ack that the read API shows of a message."""
    found = await Queries(here.log, here.projection).message(here.tenant, str(message.id))
    assert found is not None
    return dict(found["ack"])  # type: ignore[call-overload, no-any-return]


async def test_an_ack_that_a_backfill_saw_is_in_no_delay_and_says_so(here: House) -> None:
    """Its time is only by when it was reached: the API names the level in `by_then`, and no histogram has it. A webhook
    that tells the time later gives it back.
    """
    ticket = here.open_ticket()
    message = here.world.account.add_message(ticket.contact, ticket, "Olá", from_me=True)
    await here.take(here.announced())
    told_at = here.now()
    here.world.account.acknowledge(message, 4)
    lost = here.announced()
    await here.tick(HOURS)
    before = delays()
    await here.reconcile(FULL)
    assert delays() == before
    ack = await shown(here, message)
    assert (ack["level"], ack["by_then"]) == (4, ["read"])
    assert ack["read_at"] > told_at
    assert ack["pending_at"] is not None
    await here.take(lost)
    ack = await shown(here, message)
    assert (ack["level"], ack["by_then"], ack["read_at"]) == (4, [], told_at)
    assert delays() == before, "late, but counted already"


async def test_a_contacts_own_message_has_no_ack_by_either_way(here: House) -> None:
    """Webhooks show none of a contact's message, lists show 3, a phone that reads it makes an ack: nobody sees one."""
    ticket = here.open_ticket()
    account = here.world.account
    by_webhook = account.add_message(ticket.contact, ticket, "Bom dia", from_me=False)
    await here.take(here.announced())
    by_backfill = account.add_message(ticket.contact, ticket, "Boa tarde", from_me=False)
    assert here.announced()  # and lost
    acknowledged = account.add_message(ticket.contact, ticket, "Boa noite", from_me=False)
    account.acknowledge(acknowledged, 4)
    await here.take(here.announced())
    await here.tick(60)
    await here.reconcile(FULL)
    answers = [await shown(here, one) for one in (by_webhook, by_backfill, acknowledged)]
    assert answers == [answers[0]] * 3
    assert answers[0]["level"] is None


async def test_a_detail_that_shows_a_name_mends_it(here: House) -> None:
    """Told by its id alone, an agent has no name here: the next reconcile finds it, and the one after that nothing."""
    ticket = here.open_ticket()
    await here.reconcile()  # so that nothing else differs
    ticket.user = here.world.account.users[0]
    await here.tick(1)
    await tell(here, "ticket.updated", ticket={"id": ticket.id, "userId": "somebody"})
    await here.tick(1)
    await tell(here, "ticket.updated", ticket={"id": ticket.id, "userId": ticket.user.id})
    assert (await ticket_row(here, ticket))["user_name"] is None
    await here.tick(60)
    await here.reconcile()
    row = await ticket_row(here, ticket)
    assert (row["user_id"], row["user_name"]) == (str(ticket.user.id), ticket.user.name)
    assert (await here.reconcile()).drift == []
