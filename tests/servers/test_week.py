"""The comparison that the chaos tests rely on: it must see what differs, and only that."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from servers.reconciling import house
from servers.service import TENANT
from servers.week import differing, held_by
from whatsms_events.twin import texts
from whatsms_events.twin.world import World


@pytest.mark.parametrize("before", [0, 1])
async def test_a_text_that_the_vendor_cuts_is_no_difference(tmp_path: Path, before: int) -> None:
    """A ticket's last message is cut, also in the middle of an emoji: the whole message explains it, no other does."""
    world = World(1, start=datetime(2026, 5, 1, 8, tzinfo=UTC), tenant_id=TENANT)
    account = world.account
    async with house(f"sqlite:///{tmp_path}/log.db", f"sqlite:///{tmp_path}/projection.db", world) as here:
        contact = account.add_contact(name="Rita", number="351910000001", email=None)
        ticket = account.open_ticket(contact, "whatsapp")
        account.add_message(contact, ticket, texts.long_text(before), from_me=False)
        await here.take(here.announced())
        assert ticket.last_message != texts.long_text(before)
        # No webhook of the ticket tells of its message.
        assert differing(account, await held_by(here.projection), messages=True) == {
            ("ticket", str(ticket.id)): "last_message(told)",
        }
        missed = account.add_message(contact, ticket, f"Não: {texts.long_text(before)}", from_me=False)
        here.announced()
        assert differing(account, await held_by(here.projection), messages=True) == {
            ("ticket", str(ticket.id)): "last_message",
            ("message", str(missed.id)): "missed",
        }
