"""Promise 7, field by field: after the reconciles every stored field of every entity is what the vendor's REST shows.

The REST answers are read here as plain JSON and compared with the rows name by name: nothing asks `domain/drift.py`.
"""

import random
import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
import pytest

from servers.each_dialect import EACH_DIALECT
from servers.reconciling import ALL, KEY, MAY, TENANT, House, half_an_hour, house
from whatsms_events.backfill.run import Report
from whatsms_events.domain.events import EventType, to_micros
from whatsms_events.domain.rows import Table
from whatsms_events.storage.reads import Queries
from whatsms_events.storage.repair.reports import Options
from whatsms_events.twin.account import Account
from whatsms_events.twin.dialects import DIALECTS, Json
from whatsms_events.twin.shapes import Shapes
from whatsms_events.twin.world import World

pytestmark = pytest.mark.twin

FULL: Final = Options(details="all", messages="full")
NARROW: Final = Options(details="all", messages="narrow")
LOST: Final = 0.3

SHOWN: Final[dict[Table, tuple[str, ...]]] = {
    "ticket": ("status", "channel", "aiAgentId", "lastMessage", "createdAt", "updatedAt"),
    "contact": ("name", "number", "email", "profilePicUrl", "isGroup", "extraInfo", "createdAt"),
    "campaign": ("name", "status", "scheduledAt", "sentCount", "failedCount", "createdAt"),
    "message": ("body", "fromMe", "mediaType", "mediaUrl", "quotedMsgId", "isDeleted", "createdAt"),
}
"""By entity, the vendor's names; a column has the same name in our spelling, but for two."""

OTHERWISE: Final = {"quotedMsgId": "quoted_message_id", "isDeleted": "deleted"}


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[House]:
    """Give an account of which all is known."""
    async with half_an_hour(tmp_path) as opened:
        yield opened


async def rest_shows(here: House) -> dict[Table, dict[str, Json]]:
    """Return by id all that the REST API shows of each entity: its lists' fields and its details'."""
    found: dict[Table, dict[str, Json]] = {"ticket": {}, "contact": {}, "campaign": {}, "message": {}}
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session:

        async def ask(path: str) -> Json:
            async with session.get(f"{here.url}{path}") as answer:
                assert answer.status == 200, (path, answer.status)
                return msgspec.json.decode(await answer.read())  # type: ignore[no-any-return]

        async def walk(path: str, plural: str) -> list[Json]:
            items, number, more = list[Json](), 1, True
            while more:
                page = await ask(f"{path}?page={number}&limit=100")
                items, number, more = items + page[plural], number + 1, page["hasMore"]
            return items

        for entity, plural in (("ticket", "tickets"), ("contact", "contacts")):
            for item in await walk(f"/{plural}", plural):
                detail = (await ask(f"/{plural}/{item['id']}"))[entity]
                found[entity][str(item["id"])] = item | detail  # type: ignore[index]
        found["campaign"] = {str(item["id"]): item for item in await walk("/campaigns", "campaigns")}
        for one in found["ticket"]:
            for item in await walk(f"/tickets/{one}/messages", "messages"):
                found["message"][str(item["id"])] = item | {"ticket": one}
    return found


def differing(entity: Table, shown: Json, row: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return by column what is held and what the vendor shows, where that is not the same."""
    columns = {name: OTHERWISE.get(name, re.sub("([A-Z])", r"_\1", name).lower()) for name in SHOWN[entity]}
    wanted = {column: _stored(column, shown[name]) for name, column in columns.items() if name in shown}
    if entity == "ticket":
        wanted["contact_id"] = str(shown["contact"]["id"])
        for name in ("user", "queue"):
            wanted[f"{name}_id"] = shown[name] and str(shown[name]["id"])
            wanted[f"{name}_name"] = shown[name] and shown[name]["name"]
    if entity == "message":
        wanted["ticket_id"] = shown["ticket"]
        if shown["fromMe"] and shown["ack"]:
            wanted["ack"] = shown["ack"]
    held = {column: _stored(column, row[column]) for column in wanted}
    return {column: (held[column], value) for column, value in wanted.items() if held[column] != value}


def _stored(column: str, value: Any) -> Any:
    if value is not None and column.endswith("_at") and isinstance(value, str):
        return to_micros(datetime.fromisoformat(value))
    if column == "extra_info" and isinstance(value, str):
        return msgspec.json.decode(value)
    return str(value) if column.endswith("_id") and value is not None else value


async def assert_shows_all(here: House) -> None:
    """Check each field of each entity that the vendor's REST shows."""
    for entity, shown in (await rest_shows(here)).items():
        held = await here.held(entity)
        different = {
            one: differing(entity, item, held[one]) if one in held else {"row": (None, "one")}
            for one, item in shown.items()
        }
        assert {one: what for one, what in different.items() if what} == {}, entity
        assert [one for one in shown if not held[one]["known"] or held[one]["gone"]] == []


def disturb(account: Account, draw: random.Random) -> None:
    """Change pictures and groups, and let agents write media: what the twin's people seldom do by themselves."""
    for contact in draw.sample(list(account.contacts.values()), len(account.contacts) // 2):
        contact.profile_pic_url = draw.choice([None, f"https://media.whatsms.example/public/new-{contact.id}.jpg"])
        contact.is_group = draw.random() < 0.5
        account.touch_contact(contact)
    for ticket in draw.sample(list(account.tickets.values()), len(account.tickets) // 2):
        media = ("document", "fatura.pdf")
        account.add_message(ticket.contact, ticket, "Segue\na fatura", from_me=draw.random() < 0.5, media=media)


@EACH_DIALECT
async def test_with_every_third_webhook_lost_two_reconciles_bring_every_field(tmp_path: Path, dialect: str) -> None:
    """Whatever 30 % is lost, in whichever dialect: after two reconciles each field that a list or a detail shows is
    held as it is shown, and a third one appends nothing.
    """
    seed = 1 + sorted(DIALECTS).index(dialect)
    draw = random.Random(seed)
    world = World(seed, start=MAY, tenant_id=TENANT, pace=0.2, dialect=DIALECTS[dialect])
    async with house(f"sqlite:///{tmp_path}/log.db", f"sqlite:///{tmp_path}/projection.db", world) as here:
        webhooks = world.advance(world.now + timedelta(minutes=40))
        disturb(world.account, draw)
        webhooks += here.announced()
        told = [webhook for webhook in webhooks if draw.random() >= LOST]
        assert len(webhooks) - len(told) > 100
        await here.take(told)
        await here.tick(60)
        first = await here.reconcile(FULL)
        assert {one.kind for one in first.drift} >= {"missed", "stale"}
        await here.reconcile(FULL)
        await assert_shows_all(here)
        before = await here.events()
        assert (await here.reconcile(FULL)).drift == []
        assert await here.events() == before


async def test_a_url_that_no_webhook_carries_is_taken_from_the_list(
    here: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vendor's own example of `message.received` has no `mediaUrl`: the list's is held after one full reconcile."""
    usual = Shapes.told
    monkeypatch.setattr(
        Shapes, "told", lambda self, one: {k: v for k, v in usual(self, one).items() if k not in ("mediaUrl", "ack")}
    )
    ticket, account = here.open_ticket(), here.world.account
    message = account.add_message(ticket.contact, ticket, "Olá", from_me=False, media=("image", "foto.jpg"))
    await here.take(here.announced())
    assert (await here.held("message"))[str(message.id)]["media_url"] is None
    await here.tick(60)
    report = await here.reconcile(FULL)
    assert (await here.held("message"))[str(message.id)]["media_url"] == message.media_url
    assert ("message", "unannounced") in kinds(report)
    assert not {kind for _, kind in kinds(report)} & {"missed", "stale"}
    await assert_calm(here, FULL)


async def test_a_contact_known_by_its_message_only_becomes_whole(here: House) -> None:
    """The five-minute repair reads it by id, which shows neither picture nor group: the next list brings both."""
    account = here.world.account
    group = account.add_contact(
        name="Grupo", number="351911111111-1", email=None, is_group=True, picture_url="https://media.example/1.jpg"
    )
    person = account.add_contact(name="Ana", number="351911111112", email=None)
    person.profile_pic_url = "https://media.example/2.jpg"
    for contact in (group, person):
        account.add_message(contact, account.open_ticket(contact, "whatsapp"), "Olá", from_me=False)
    lost = (EventType.CONTACT_CREATED, EventType.TICKET_CREATED)
    await here.take(one for one in here.announced() if one.event_type not in lost)
    await here.tick(60)
    await repair(here)
    held = await here.held("contact")
    for contact in (group, person):
        row = held[str(contact.id)]
        assert (row["known"], row["profile_pic_url"], row["is_group"]) == (True, None, None)
    await here.tick(60)
    await here.reconcile(ALL)
    held = await here.held("contact")
    for contact in (group, person):
        row = held[str(contact.id)]
        assert (row["profile_pic_url"], row["is_group"]) == (contact.profile_pic_url, contact.is_group)
    await assert_calm(here, ALL)


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        ("https://media.example/a.jpg?sig=1", None, "stale"),
        ("https://media.example/a.jpg?sig=1", "https://media.example/b.jpg?sig=1", "stale"),
        ("https://media.example/a.jpg?sig=1", "https://media.example/a.jpg?sig=2", None),
    ],
)
async def test_a_picture_that_was_changed_or_removed_is_found(
    here: House, before: str, after: str | None, kind: str | None
) -> None:
    """Its webhook was lost, and only the contacts' list shows pictures; one that was only signed anew is the same."""
    account = here.world.account
    contact = account.add_contact(name="Ana", number="351911111111", email=None, picture_url=before)
    await here.take(here.announced())
    await here.tick(60)
    contact.profile_pic_url = after
    report = await here.reconcile(ALL)
    assert (("contact", kind) in kinds(report)) is (kind is not None)
    row = (await here.held("contact"))[str(contact.id)]
    assert row["profile_pic_url"] == (before if kind is None else after)
    await assert_calm(here, ALL)


async def test_a_picture_that_a_webhook_told_after_the_list_stands(here: House) -> None:
    """The list showed the old one, then a webhook told the new one, then the detail was read, which shows none."""
    account = here.world.account
    contact = account.add_contact(name="Ana", number="351911111111", email=None, picture_url="https://media.example/a")
    await here.take(here.announced())
    await here.tick(60)
    backfill = here.backfill()
    backfill.ask("reconcile", "command", ALL)
    await here.until(backfill, lambda: here.rest.counts["GET", "/contacts"] == 1)
    contact.profile_pic_url = "https://media.example/b"
    account.touch_contact(contact)
    await here.take(here.announced())
    await here.tick(30)
    await here.drive(backfill)
    await backfill.close()
    assert (await here.held("contact"))[str(contact.id)]["profile_pic_url"] == "https://media.example/b"


async def test_the_time_of_a_ticket_is_mended_and_never_looped_over(here: House) -> None:
    """Messages move a ticket in time without a webhook of it: a reconcile mends that, is quiet about it, and the next
    one of the unchanged world appends nothing.
    """
    ticket, account = here.open_ticket(), here.world.account
    account.add_message(ticket.contact, ticket, "Olá outra vez", from_me=False)
    await here.take(here.announced())
    assert (await here.held("ticket"))[str(ticket.id)]["updated_at"] != to_micros(ticket.updated_at)
    await here.tick(60)
    report = await here.reconcile(ALL)
    row = (await here.held("ticket"))[str(ticket.id)]
    assert (row["updated_at"], row["last_message"]) == (to_micros(ticket.updated_at), "Olá outra vez")
    assert {kind for _, kind in kinds(report)} == {"unannounced"}
    await assert_calm(here, ALL)


@pytest.mark.parametrize(
    "preview",
    [
        "A morada é: Rua das Flores, 12, 3.º Esq. 4050-262 Porto",
        "A morada é: Rua das Flores, 12…",
        "... das Flores, 12, 3.º Esq. 40...",
        "📎 fatura.pdf",
        "📷 A morada é: Rua das Flores, 12, 3.º Esq. 4050-262 Porto",
        "[document]",
    ],
)
async def test_a_preview_of_a_message_that_was_told_is_no_drift(here: House, preview: str) -> None:
    """Line breaks as blanks, cut ends, a paper clip and a file's name: nothing was missed and no messages are read."""
    ticket, account = here.open_ticket(), here.world.account
    text = "A morada é:\nRua das Flores, 12, 3.º Esq.\n4050-262 Porto"
    for _ in range(2):
        account.add_message(ticket.contact, ticket, text, from_me=False, media=("document", "fatura.pdf"))
        await here.take(here.announced())
        ticket.last_message = preview
        await here.tick(600)
        report = await here.reconcile(NARROW)
        assert not {kind for _, kind in kinds(report)} & {"missed", "stale"}
        assert (await here.held("ticket"))[str(ticket.id)]["last_message"] == preview
    assert here.rest.message_list_reads == 0


@pytest.mark.parametrize("told", [None, ""])
async def test_a_last_message_that_nobody_told_of_the_ticket_is_mended(here: House, told: str | None) -> None:
    """The ticket's own webhooks had none, or an empty one, and its messages came: the list's text is held then."""
    account = here.world.account
    contact = account.add_contact(name="Ana", number="351911111111", email=None)
    ticket = account.open_ticket(contact, "whatsapp")
    await here.tick(60)
    ticket.last_message = told  # type: ignore[assignment]
    account.touch_ticket(ticket)
    account.add_message(contact, ticket, "Olá", from_me=False)
    await here.take(here.announced())
    assert not (await here.held("ticket"))[str(ticket.id)]["last_message"]
    await here.tick(60)
    report = await here.reconcile(NARROW)
    assert (await here.held("ticket"))[str(ticket.id)]["last_message"] == "Olá"
    assert {kind for _, kind in kinds(report)} == {"unannounced"}
    assert here.rest.message_list_reads == 0
    await assert_calm(here, NARROW)


@pytest.mark.parametrize("there", [True, False])
async def test_a_late_webhook_about_what_is_gone_is_asked_about(here: House, *, there: bool) -> None:
    """A ticket was marked as gone, and a webhook from before that look arrives: it counts as there, and as doubtful,
    and the next repair settles it by asking, whichever it is.
    """
    account, queries = here.world.account, Queries(here.log, here.projection)
    ticket = here.open_ticket()
    await here.tick(600)
    ticket.status = "closed"
    account.touch_ticket(ticket)
    late = here.announced()
    await here.tick(600)
    del account.tickets[ticket.id]
    assert ("ticket", "extra") in kinds(await here.reconcile(ALL))
    if there:
        account.tickets[ticket.id] = ticket
    await here.tick(60)

    async def shown() -> tuple[object, object, object]:
        row = await queries.entity("tickets", here.tenant, str(ticket.id))
        assert row is not None
        assert (row["doubtful"] == ["gone"]) is bool(row["doubtful"])
        return row["gone"], bool(row["doubtful"]), (await here.held("ticket"))[str(ticket.id)]["doubtful"]

    assert await shown() == (True, False, False)
    await here.take(late)
    assert await shown() == (False, True, True)
    await repair(here)
    assert await shown() == (not there, False, False)
    await assert_calm(here, ALL)


def kinds(report: Report) -> set[tuple[str, str]]:
    """Return of which entities a report has findings of which kinds."""
    return {(one.entity, one.kind) for one in report.drift}


async def repair(here: House) -> None:
    """Run a repair to its end."""
    backfill = here.backfill()
    backfill.ask("repair", "doubt", ALL)
    assert await backfill.run_once()
    await here.drive(backfill)
    await backfill.close()
    await here.tick(60)


async def assert_calm(here: House, options: Options) -> None:
    """Check that another reconcile finds nothing and appends nothing."""
    before = await here.events()
    assert (await here.reconcile(options)).drift == []
    assert await here.events() == before
