"""Promise 7: what the webhook missed is found, counted, and enters the log as an observation."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web

from servers.each_dialect import HARD_DIALECTS
from servers.reconciling import ALL, KEY, PLAN, House, differences, house, true_messages, truth
from whatsms_events.domain.events import EventType
from whatsms_events.errors import (
    FencedError,
    UpstreamForbiddenError,
    UpstreamPagingError,
    UpstreamUnauthorizedError,
    UpstreamUnavailableError,
)
from whatsms_events.storage.repair.reports import Options
from whatsms_events.storage.repair.runs import Checkpoints, Item
from whatsms_events.twin.account import Webhook
from whatsms_events.twin.dialects import DIALECTS, Json
from whatsms_events.twin.rest.answers import Ask
from whatsms_events.twin.rest.faults import RestFault
from whatsms_events.twin.rest.reads import Reads
from whatsms_events.twin.rest.server import Rest, RestServer
from whatsms_events.twin.world import World

pytestmark = pytest.mark.twin

START = datetime(2026, 5, 1, 8, tzinfo=UTC)
TENANT = "5f0c9a52-7d0f-4f0e-9c1f-2d6a5b1b7a10"
MESSAGES = Options(details="all", messages="full")
MESSAGE_LISTS = ("GET", "/tickets/{id}/messages")


@pytest.fixture
def world() -> World:
    """Give an account in which much happens in an hour."""
    return World(7, start=START, tenant_id=TENANT, pace=0.2)


@pytest.fixture
async def here(tmp_path: Path, world: World) -> AsyncIterator[House]:
    """Give the world with everything beside it, on SQLite."""
    async with house(f"sqlite:///{tmp_path}/log.db", f"sqlite:///{tmp_path}/projection.db", world) as opened:
        yield opened


def of_type(webhooks: list[Webhook], *types: EventType) -> Iterator[Webhook]:
    """List the webhooks of these types."""
    return (webhook for webhook in webhooks if webhook.event_type in types)


async def live(here: House, hours: float, *, drop: tuple[EventType, ...] = ()) -> list[Webhook]:
    """Let people live; take their webhooks in but for those of the types to drop, which are returned."""
    webhooks = here.world.advance(here.world.now + timedelta(hours=hours))
    await here.take(webhook for webhook in webhooks if webhook.event_type not in drop)
    return list(of_type(webhooks, *drop))


async def assert_equal(here: House) -> None:
    """Check that the projection shows the vendor's truth."""
    for name, wanted in truth(here.world).items():
        assert not differences(await here.held(name), wanted), name


async def test_what_the_webhook_missed_is_found_and_repaired(here: House) -> None:
    """Tickets, contacts and campaigns whose webhooks never came are in the projection after one reconcile."""
    dropped = await live(here, 1, drop=(EventType.TICKET_UPDATED, EventType.CONTACT_CREATED, EventType.TICKET_CLOSED))
    assert len(dropped) > 10
    report = await here.reconcile()
    await assert_equal(here)
    assert sum(one.count for one in report.drift) > 5


async def test_a_second_run_of_an_unchanged_world_appends_nothing(here: House) -> None:
    """Where nothing changed since, a reconcile finds no drift and leaves the log as it was."""
    await live(here, 1, drop=(EventType.TICKET_UPDATED, EventType.CONTACT_UPDATED, EventType.MESSAGE_RECEIVED))
    await here.tick(60)
    await here.reconcile()
    before = await here.events()
    report = await here.reconcile()
    assert report.drift == []
    assert await here.events() == before


async def test_nothing_was_missed_nothing_is_drift(here: House) -> None:
    """Where every webhook came, the report has no missed, stale or extra entity."""
    await live(here, 1)
    report = await here.reconcile()
    assert {one.kind for one in report.drift} <= {"unannounced"}


async def test_default_settings_never_read_message_lists(here: House) -> None:
    """Reading them may send read receipts: with the defaults the twin counts none, however much was missed."""
    await live(here, 1, drop=(EventType.MESSAGE_RECEIVED, EventType.TICKET_CREATED))
    await here.reconcile()
    assert here.rest.counts[MESSAGE_LISTS] == 0
    assert here.rest.message_list_reads == 0


async def test_messages_and_acks_are_repaired_where_the_second_phase_is_on(here: House) -> None:
    """With `full`, the messages of every ticket and the acks of ours are as the vendor shows them."""
    await live(here, 1, drop=(EventType.MESSAGE_RECEIVED, EventType.MESSAGE_ACK))
    await here.tick(60)
    await here.reconcile(MESSAGES)
    held = await here.held("message")
    assert not differences(held, true_messages(here.world))
    for message in here.world.account.messages.values():
        if message.from_me and message.ticket is not None and message.ack > 0:
            assert held[str(message.id)]["ack"] == message.ack
    before = await here.events()
    assert (await here.reconcile(MESSAGES)).drift == []
    assert await here.events() == before


async def test_narrow_reads_only_tickets_with_a_known_gap(here: House) -> None:
    """A ticket whose list shows a message that we do not hold is read, the others are left alone."""
    await live(here, 1)
    account = here.world.account
    one = next(ticket for ticket in account.tickets.values() if ticket.status != "closed")
    account.add_message(one.contact, one, "Nobody told you of this", from_me=False)
    assert here.announced()  # and lost
    await here.reconcile(Options(details="changed", messages="narrow"))
    assert here.rest.counts[MESSAGE_LISTS] == 1
    assert any(row["body"] == "Nobody told you of this" for row in (await here.held("message")).values())


async def test_a_gap_stays_one_until_the_message_is_here(here: House) -> None:
    """A run without messages says what the ticket's last message is; a narrow one after it still fetches that message,
    and the next one reads nothing.
    """
    await live(here, 1)
    account = here.world.account
    one = next(ticket for ticket in account.tickets.values() if ticket.status != "closed")
    account.add_message(one.contact, one, "Nobody told you of this", from_me=False)
    assert here.announced()  # and lost
    await here.reconcile()
    assert here.rest.counts[MESSAGE_LISTS] == 0
    for _ in range(2):
        await here.reconcile(Options(details="changed", messages="narrow"))
        assert here.rest.counts[MESSAGE_LISTS] == 1
    assert any(row["body"] == "Nobody told you of this" for row in (await here.held("message")).values())


async def test_one_404_after_a_failure_is_not_gone(here: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Absence takes two looks that say so: a 500 before a 404 is none."""
    await live(here, 0.5)
    hidden = next(one for one in here.world.account.tickets.values() if one.status == "open")
    answers = iter((web.HTTPInternalServerError, web.HTTPNotFound))
    listed, shown = Reads.list_tickets, Reads.get_ticket

    def list_tickets(reads: Reads, ask: Ask) -> Json:
        answer = listed(reads, ask)
        return answer | {"tickets": [one for one in answer["tickets"] if one["id"] != hidden.id]}

    def get_ticket(reads: Reads, ask: Ask) -> Json:
        if ask.id == hidden.id and (refusal := next(answers, None)) is not None:
            raise refusal(text="no")
        return shown(reads, ask)

    monkeypatch.setattr(Reads, "list_tickets", list_tickets)
    monkeypatch.setattr(Reads, "get_ticket", get_ticket)
    async with RestServer(here.rest) as server:
        here.url, here.attempts = server.url, 1
        with pytest.raises(UpstreamUnavailableError):
            await here.reconcile()
        report = await here.reconcile()
    assert [one for one in report.drift if one.kind == "extra"] == []
    assert not (await here.held("ticket"))[str(hidden.id)]["gone"]


async def test_a_consumer_of_message_received_never_sees_what_a_backfill_found(here: House) -> None:
    """A backfill appends observations and nothing else: a bot must not answer a message of last week."""
    await live(here, 1, drop=(EventType.MESSAGE_RECEIVED, EventType.TICKET_CREATED, EventType.CONTACT_CREATED))
    before = await here.events("webhook")
    await here.reconcile(MESSAGES)
    assert await here.events("webhook") == before
    found = await here.events("backfill")
    assert found["message.observed"] > 0
    assert {name.split(".")[1] for name in found} == {"observed"}


async def test_a_webhook_during_the_backfill_wins_over_the_older_page(here: House) -> None:
    """What is told of an entity after its page was read stands, though the page is compared later."""
    await live(here, 0.5)
    account = here.world.account
    ticket = next(one for one in account.tickets.values() if one.status == "open")
    ticket.status = "pending"  # the page will show this, and no webhook told of it
    backfill = here.backfill()
    backfill.ask("reconcile", "command", ALL)
    try:
        while here.rest.counts["GET", "/tickets/{id}"] < len(account.tickets):
            await backfill.run_once()
        await here.tick(2)
        ticket.status = "closed"
        account.touch_ticket(ticket)
        await here.take(here.announced())
        await here.drive(backfill)
    finally:
        await backfill.close()
    assert (await here.held("ticket"))[str(ticket.id)]["status"] == "closed"
    await assert_equal(here)


async def test_acks_never_go_down(here: House) -> None:
    """A list that shows a lower ack than ours changes nothing."""
    await live(here, 1)
    before = {one: row["ack"] for one, row in (await here.held("message")).items()}
    for message in here.world.account.messages.values():
        message.ack = min(message.ack, 1)
    await here.reconcile(MESSAGES)
    after = {one: row["ack"] for one, row in (await here.held("message")).items()}
    assert {one: after[one] for one in before if before[one] is not None} == {
        one: ack for one, ack in before.items() if ack is not None
    }


async def test_a_late_webhook_of_an_observed_message_changes_nothing_but_is_kept(here: House) -> None:
    """The observation stands; the webhook is in the log all the same, under its own type."""
    lost = await live(here, 0.5, drop=(EventType.MESSAGE_RECEIVED,))
    await here.reconcile(MESSAGES)
    before = await here.held("message")
    received = (await here.events("webhook"))["message.received"]
    await here.take(lost)
    after = await here.held("message")
    told = ("body", "media_type", "from_me", "deleted", "ack", "ticket_id", "known")
    changed = {
        one: (row, after[one])
        for one, row in before.items()
        if [row[name] for name in told] != [after[one][name] for name in told]
        and here.world.account.messages[one].ticket is not None
    }
    assert not changed
    assert (await here.events("webhook"))["message.received"] > received


async def test_the_same_change_missed_twice_is_repaired_twice(here: House) -> None:
    """Open, closed (missed), open again, closed (missed): both are found, as two observations."""
    await live(here, 0.5)
    account = here.world.account
    ticket = next(one for one in account.tickets.values() if one.status == "open")
    for _ in range(2):
        ticket.status = "closed"
        account.touch_ticket(ticket)
        assert here.announced()  # and lost
        await here.tick(60)
        report = await here.reconcile()
        assert [(one.entity, one.kind) for one in report.drift if one.kind == "stale"] == [("ticket", "stale")]
        assert (await here.held("ticket"))[str(ticket.id)]["status"] == "closed"
        await here.tick(60)
        ticket.status = "open"
        account.touch_ticket(ticket)
        await here.take(here.announced())
        assert (await here.held("ticket"))[str(ticket.id)]["status"] == "open"
        await here.tick(60)


async def test_a_doubtful_entity_is_read_once_and_then_no_longer_doubtful(here: House) -> None:
    """Two states at the same moment: the repair asks which one it is, once."""
    await live(here, 0.5)
    account = here.world.account
    ticket = next(one for one in account.tickets.values() if one.status == "open")
    for status in ("pending", "open"):
        ticket.status = status
        account.touch_ticket(ticket)
    await here.take(here.announced())
    assert (await here.held("ticket"))[str(ticket.id)]["doubtful"]
    await here.tick(60)
    reads = here.rest.counts["GET", "/tickets/{id}"]
    backfill = here.backfill()
    backfill.ask("repair", "command", ALL)
    await here.drive(backfill)
    await backfill.close()
    row = (await here.held("ticket"))[str(ticket.id)]
    assert (row["doubtful"], row["status"]) == (False, "open")
    again = here.backfill()
    again.ask("repair", "command", ALL)
    assert not await again.run_once()
    await again.close()
    assert here.rest.counts["GET", "/tickets/{id}"] - reads == 1


async def test_what_the_vendor_no_longer_has_is_marked_and_kept(here: House) -> None:
    """What is gone is looked for twice, a while apart, then marked; nothing is deleted, and the next run is calm."""
    await live(here, 0.5)
    account = here.world.account
    ticket = next(iter(account.tickets.values()))
    campaign = next(iter(account.campaigns.values()), None) or account.add_campaign("Verão", "Olá")
    account.finish_campaign(campaign)
    await here.take(here.announced())
    account.remove_ticket(ticket.id)
    account.remove_campaign(campaign.id)
    await here.tick(5)
    report = await here.reconcile()
    assert {(one.entity, one.count) for one in report.drift if one.kind == "extra"} == {("ticket", 1), ("campaign", 1)}
    assert (await here.held("ticket"))[str(ticket.id)]["gone"]
    assert (await here.held("campaign"))[str(campaign.id)]["gone"]
    before = await here.events()
    assert (await here.reconcile()).drift == []
    assert await here.events() == before


async def test_a_page_parameter_that_is_ignored_stops_the_run_and_names_the_setting(tmp_path: Path) -> None:
    """Every page would be page 1 for ever: the job stops and says which setting to look at."""
    world = World(7, start=START, tenant_id=TENANT, pace=0.2)
    rest = Rest(world.account, api_key=KEY)
    rest.page_limit = 5
    async with house(f"sqlite:///{tmp_path}/log.db", f"sqlite:///{tmp_path}/projection.db", world, rest=rest) as here:
        await live(here, 1)
        rest.faults.page_ignored = 1.0
        with pytest.raises(UpstreamPagingError, match="page_parameter"):
            await here.reconcile()
        last = await Checkpoints(here.log).last(here.tenant)
        assert last is not None
        assert last.finished_at is None


async def test_a_key_that_is_refused_stops_the_run_at_once(here: House) -> None:
    """401 in the middle: no further request, and the run goes on from there when the key is right."""
    await live(here, 0.5, drop=(EventType.TICKET_UPDATED,))
    here.rest.demand(RestFault.UNAUTHORIZED, after=15)
    with pytest.raises(UpstreamUnauthorizedError):
        await here.reconcile()
    assert here.rest.counts.total() == 16
    lists = {name: count for name, count in here.rest.counts.items() if "{id}" not in name[1]}
    last = await Checkpoints(here.log).last(here.tenant)
    assert last is not None
    assert (last.finished_at, last.remaining > 0) == (None, True)
    assert b'"items"' in last.run.progress, "the worker has counted, so that nobody else must"
    await here.reconcile()
    assert {name: here.rest.counts[name] for name in lists} == lists, "it began anew"
    await assert_equal(here)


async def test_a_halted_backfill_looks_with_one_request(here: House) -> None:
    """While the key is refused a look says so, by one request for what was refused; then the run goes on from there."""
    await live(here, 0.5, drop=(EventType.TICKET_UPDATED,))
    backfill = here.backfill()
    backfill.ask("reconcile", "command", ALL)
    here.rest.demand(RestFault.UNAUTHORIZED, after=15)
    with pytest.raises(UpstreamUnauthorizedError):
        await here.drive(backfill)
    asked = here.rest.counts.total()
    here.rest.demand(RestFault.UNAUTHORIZED)
    with pytest.raises(UpstreamUnauthorizedError):
        await backfill.look()
    await backfill.look()
    assert here.rest.counts.total() == asked + 2
    await here.drive(backfill)
    await backfill.close()
    await assert_equal(here)


@pytest.mark.parametrize(("refused", "phase"), [("/contacts", "contacts"), ("/campaigns", "campaigns")])
async def test_a_halted_backfill_looks_at_what_was_refused(here: House, refused: str, phase: str) -> None:
    """A key that may read all but one list: the look asks for that list, and not for one that it may read."""
    await live(here, 0.5)
    backfill = here.backfill()
    backfill.ask("reconcile", "command", ALL)
    if phase != "contacts":  # with that it begins
        await here.until(backfill, lambda: backfill.standing is not None and backfill.standing.phase == phase)
    here.rest.demand(RestFault.FORBIDDEN)
    with pytest.raises(UpstreamForbiddenError):
        await here.drive(backfill)
    asked = here.rest.counts["GET", refused]
    await backfill.look()
    assert here.rest.counts["GET", refused] == asked + 1
    await backfill.close()


@pytest.mark.parametrize("seed", [1, *(pytest.param(one, marks=pytest.mark.slow) for one in (2, 3))])
async def test_a_restart_goes_on_from_the_checkpoint(tmp_path: Path, seed: int) -> None:
    """A process that ends after any piece costs no request but the one that was under way."""
    counts = []
    for pieces in (10_000, 7, 23):
        world = World(seed, start=START, tenant_id=TENANT, pace=0.2)
        rest = Rest(world.account, api_key=KEY)
        rest.page_limit = 5
        folder = tmp_path / str(pieces)
        folder.mkdir()
        async with house(f"sqlite:///{folder}/log.db", f"sqlite:///{folder}/projection.db", world, rest=rest) as here:
            await live(here, 0.5, drop=(EventType.TICKET_UPDATED, EventType.CONTACT_CREATED))
            finished = False
            while not finished:
                backfill = here.backfill()
                backfill.ask("reconcile", "command", ALL)
                for _ in range(pieces):
                    if not await backfill.run_once():
                        await here.tick(1)
                    await here.apply()
                    if backfill.progress.finished:
                        finished = True
                        break
                await backfill.close()
                await here.tick(6)  # a new process looks for what is due a little later
            await assert_equal(here)
            counts.append(len(rest.requests))
    assert counts[1] == counts[0]
    assert counts[2] == counts[0]


OLDER = (
    b'{"phase":"tickets","walk":1,"place":{"number":2,"previous":"c0ffee","shown":5},"shown":true,"fresh":3,"requests":9}',
    b'{"phase":"absences","after":"7","entity":"ticket","requests":9,"found":{"ticket stale older":1}}',
    b'{"phase":"again","hidden":1,"again_at":"2026-05-01T08:31:00Z","requests":9}',
    b'{"phase":"messages","ticket":"3","turn":2,"requests":9,"stopped":"GET /contacts: 401"}',
    b'{"phase":"messages"}',
)
"""What an older release saved of a run, and what both releases save alike."""


@pytest.mark.parametrize("progress", OLDER)
async def test_a_run_that_an_older_release_began_comes_to_its_end(here: House, progress: bytes) -> None:
    """It begins anew with the items that it has, in whatever states that release left them, or goes on."""
    await live(here, 0.5, drop=(EventType.TICKET_UPDATED,))
    backfill = here.backfill()
    backfill.ask("reconcile", "command", MESSAGES)
    await here.until(backfill, lambda: here.rest.counts["GET", "/tickets/{id}"] == 3)
    await backfill.close()
    last, now = await Checkpoints(here.log).last(here.tenant), here.now()
    assert last is not None
    left = [
        Item("ticket", "901", "absent", now, as_of=now, log_end=0, rounds=1),
        Item("contact", "902", "wanted", now, as_of=None, log_end=0),
        Item("campaign", "903", "missing", now, as_of=None, log_end=0),
    ]
    await Checkpoints(here.log).save(last.run, progress, now=now, items=left)
    await here.tick(6)
    backfill = here.backfill()
    report = await here.drive(backfill, limit_s=3600)
    await backfill.close()
    assert report.kind == "reconcile"
    await here.reconcile()
    await assert_equal(here)
    assert (await here.reconcile()).drift == []


async def test_one_run_at_a_time_and_who_lost_it_saves_nothing(here: House) -> None:
    """The lock keeps a second process out; who wakes up after another went on with the run is fenced."""
    await live(here, 0.5)
    frozen = here.backfill()
    frozen.ask("reconcile", "command", ALL)
    await frozen.run_once()
    run = await Checkpoints(here.log).last(here.tenant)
    assert run is not None
    other = here.backfill()
    assert not await other.run_once()
    assert not other.active
    await frozen.close()
    await here.tick(6)
    assert await other.run_once()
    with pytest.raises(FencedError):
        await Checkpoints(here.log).save(run.run, b"{}", now=here.now())
    await other.close()


@HARD_DIALECTS
async def test_every_dialect_is_repaired(tmp_path: Path, dialect: str) -> None:
    """Whatever the vendor's page leaves open: what was missed is found, and the next run is calm."""
    world = World(11, start=START, tenant_id=TENANT, pace=0.2, dialect=DIALECTS[dialect])
    async with house(f"sqlite:///{tmp_path}/log.db", f"sqlite:///{tmp_path}/projection.db", world) as here:
        await live(here, 1, drop=(EventType.TICKET_UPDATED, EventType.CONTACT_UPDATED, EventType.CAMPAIGN_FINISHED))
        await here.tick(60)  # what changed within the seconds before a list is left to the next run
        await here.reconcile(MESSAGES)
        await assert_equal(here)
        before = await here.events()
        report = await here.reconcile(MESSAGES)
        assert report.drift == [], Counter((one.entity, one.kind) for one in report.drift)
        assert await here.events() == before


async def test_people_go_on_living_while_it_reads(tmp_path: Path) -> None:
    """Items move between pages, webhooks are lost meanwhile, and once all is quiet nothing differs."""
    world = World(5, start=START, tenant_id=TENANT, pace=0.5)
    rest = Rest(world.account, api_key=KEY)
    rest.page_limit = 7
    plan = PLAN
    async with house(
        f"sqlite:///{tmp_path}/log.db", f"sqlite:///{tmp_path}/projection.db", world, rest=rest, plan=plan, moving=True
    ) as here:
        await live(here, 1, drop=(EventType.TICKET_UPDATED, EventType.CONTACT_CREATED))
        await here.reconcile()
        here.moving = False
        await here.tick(60)
        await here.reconcile()
        await assert_equal(here)
        assert (await here.reconcile()).drift == []


async def test_a_contact_has_what_only_the_list_shows_and_what_only_the_detail_shows(here: House) -> None:
    """Neither answer shows all of a contact: a group whose webhooks were lost is a group, with its further fields."""
    account = here.world.account
    group = account.add_contact(name="Grupo", number="351911111111-1", email=None, is_group=True)
    group.extra_info = [{"name": "NIF", "value": "123456789"}]
    assert here.announced()  # and lost
    await here.tick(60)
    await here.reconcile()
    row = (await here.held("contact"))[str(group.id)]
    assert row["is_group"] is True
    assert row["extra_info"] == '[{"name":"NIF","value":"123456789"}]'


async def test_a_doubtful_last_message_is_settled_by_the_list(here: House) -> None:
    """Two last messages at the same moment: only the list tells which one it is, and the reconcile takes it."""
    await live(here, 0.5)
    account = here.world.account
    ticket = next(one for one in account.tickets.values() if one.status == "open" and len(one.messages) > 1)
    for text in (ticket.messages[-2].body, ticket.messages[-1].body + "!"):
        ticket.last_message = text
        account.touch_ticket(ticket)
    await here.take(here.announced())
    assert (await here.held("ticket"))[str(ticket.id)]["doubtful"]
    ticket.last_message = ticket.messages[-2].body
    await here.tick(60)
    report = await here.reconcile()
    row = (await here.held("ticket"))[str(ticket.id)]
    assert (row["doubtful"], row["last_message"]) == (False, ticket.last_message)
    assert ("ticket", "doubtful") in {(one.entity, one.kind) for one in report.drift}


async def test_nothing_is_compared_before_the_projection_shows_the_log(here: House) -> None:
    """While the consumer is behind, what its events would explain is no finding; once it is there nothing differs."""
    webhooks = here.world.advance(here.world.now + timedelta(hours=0.5))
    async with asyncio.TaskGroup() as tasks:
        for webhook in webhooks:
            tasks.create_task(here.take_body(webhook.body))
    backfill = here.backfill()
    backfill.ask("reconcile", "command", ALL)
    for _ in range(200):
        if not await backfill.run_once():
            await here.tick(1)
    assert not backfill.progress.finished
    assert not await here.events("backfill")
    report = await here.drive(backfill)
    await backfill.close()
    assert {one.kind for one in report.drift} <= {"unannounced"}


async def test_a_webhook_within_the_settle_delay_is_not_missed(here: House) -> None:
    """A change that the page shows and whose webhook comes nine seconds later is no drift."""
    await live(here, 0.5)
    account = here.world.account
    ticket = next(one for one in account.tickets.values() if one.status == "open")
    await here.tick(60)
    ticket.status = "closed"
    account.touch_ticket(ticket)
    late = here.announced()
    await here.tick(60)
    backfill = here.backfill()
    backfill.ask("reconcile", "command", ALL)
    while await backfill.run_once():
        pass
    assert here.rest.counts["GET", "/tickets/{id}"] == len(account.tickets)
    await here.tick(9)
    await backfill.run_once()
    await here.take(late)
    report = await here.drive(backfill)
    await backfill.close()
    assert {one.kind for one in report.drift} <= {"unannounced"}


async def test_one_look_that_finds_nothing_is_no_proof(here: House) -> None:
    """No list shows a ticket and asking for it fails once; a minute later it is there: it is not marked as gone."""
    await live(here, 0.5)
    account = here.world.account
    ticket = account.tickets.pop(next(iter(account.tickets)))
    await here.tick(5)
    backfill = here.backfill()
    backfill.ask("reconcile", "command", ALL)
    while await backfill.run_once():
        await here.apply()
    assert (404 in [seen.status for seen in here.rest.requests]) is True
    account.tickets[ticket.id] = ticket
    report = await here.drive(backfill)
    await backfill.close()
    assert not (await here.held("ticket"))[str(ticket.id)]["gone"]
    assert {one.kind for one in report.drift} <= {"unannounced"}
