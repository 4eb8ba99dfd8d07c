"""A reconcile and what retention blanked: the vendor still shows it, and it does not come back."""

import time
from pathlib import Path

from servers.reconciling import ALL, TENANT, House, half_an_hour, with_plan
from whatsms_events.domain.retention import RetentionTerms
from whatsms_events.workers.retention import BlankingPace, Retention
from workers.test_retention import DAY


async def previews(here: House) -> dict[str, object]:
    """Return the last message of each ticket that is held."""
    return {one: row["last_message"] for one, row in (await here.held("ticket")).items()}


async def blanked(here: House) -> None:
    """Let retention look at every text, which is over after thirty days."""
    working = Retention(
        here.log,
        here.projection,
        RetentionTerms({"texts": 30 * DAY}),
        prefix=None,
        now=here.now,
        monotonic=time.monotonic,
        pace=BlankingPace(fence_s=0, rest=0),
    )
    while await working.run_once():
        pass


async def test_what_was_blanked_is_not_read_back(tmp_path: Path) -> None:
    """Previews that are over are blanked here and shown there: a reconcile finds no difference, but the one ticket that
    somebody has written in since; without the term it would bring every one back.
    """
    async with half_an_hour(tmp_path) as here:
        await here.reconcile(ALL)
        assert any((await previews(here)).values())
        await here.tick(40 * 86_400)
        await blanked(here)
        await here.consumer.close()  # it would be fenced, and begin anew as it does now
        assert not any((await previews(here)).values())
        here.plan = with_plan(here.plan, texts_s=30 * 86_400)
        ticket = here.open_ticket()
        here.world.account.add_message(ticket.contact, ticket, "again", from_me=False)
        await here.take(here.announced())
        await here.tick(600)
        await here.reconcile(ALL)
        shown = {one: text for one, text in (await previews(here)).items() if text}
        assert shown == {str(ticket.id): "again"}
        here.plan = with_plan(here.plan, texts_s=0.0)
        await here.tick(600)
        await here.reconcile(ALL)
        assert len([one for one in (await previews(here)).values() if one]) > 1
        assert here.tenant == TENANT
