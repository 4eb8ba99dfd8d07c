"""The page Repair: what runs found, field by field, who may start and stop one, and where that is not possible."""

import hashlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
import structlog
from pytest_aiohttp import AiohttpClient
from sqlalchemy import insert
from sqlalchemy import text as sql

from web.console.pages import Browser, application, press, sign_in, token
from whatsms_events.domain.drift import Count, Finding
from whatsms_events.domain.events import Event, EventType
from whatsms_events.domain.normalize import normalize
from whatsms_events.domain.verdicts import Append
from whatsms_events.storage import tables
from whatsms_events.storage.database import Database, DatabaseTarget, open_log, open_projection
from whatsms_events.storage.difference import Differences
from whatsms_events.storage.log.appends import EVENT_COLUMNS, event_row
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.repair.reports import Options
from whatsms_events.storage.repair.runs import Checkpoints
from whatsms_events.storage.trace import REACH, Traces
from whatsms_events.web.console.frame import ConsoleTenant
from whatsms_events.web.console.repair import RepairPage, RepairVerbs

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
RAW = (Path(__file__).parents[2] / "deliveries" / "contact.created.json").read_bytes()
TENANT = json.loads(RAW)["tenantId"]
TENANTS = {
    "shop": ConsoleTenant(TENANT, keyed=True),
    "bank": ConsoleTenant("bank-1", keyed=True),
    "park": ConsoleTenant("park-1"),
}


def observed(event: Event, **fields: object) -> Event:
    """Return an observation of the same contact with other fields, a minute later."""
    data = json.loads(event.data)
    data["contact"].update(fields)
    later = event.received_at + timedelta(minutes=1)
    kind = EventType("contact.observed")
    changed: dict[str, Any] = {"type": kind, "origin": "backfill", "occurred_at": later, "received_at": later}
    return msgspec.structs.replace(event, id=UUID(int=7), data=json.dumps(data).encode(), **changed)


class Asking:
    """What the buttons ask for, as the service would hear it."""

    def __init__(self, log: Database) -> None:
        self.asked: list[tuple[str, Options]] = []
        self.refuses: str | None = None
        self._log = log

    def verbs(self) -> RepairVerbs:
        """Return the verbs of a process that has the backfill of one tenant."""
        return RepairVerbs(here=lambda: ["shop"], ask=self._ask, stop=self._stop, usual=Options, halted=self._halted)

    def _halted(self, slug: str) -> str | None:
        return self.refuses if slug == "shop" else None

    def _ask(self, slug: str, options: Options) -> str | None:
        if self.refuses is None:
            self.asked.append((slug, options))
        return self.refuses

    async def _stop(self, tenant: str, holder: str, run: int | None) -> int | None:
        return await Checkpoints(self._log).stop(tenant, holder, NOW, run=run)


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[tuple[Database, Database]]:
    """Give a log in which a backfill saw that a contact has another name, and the run that found it."""
    log = await open_log(DatabaseTarget(f"sqlite:///{tmp_path / 'log.db'}"), migrate=True)
    projection = await open_projection(DatabaseTarget(f"sqlite:///{tmp_path / 'projection.db'}"), migrate=True)
    first = normalize(RAW, tenant=TENANT, received_at=NOW)
    second = observed(first, name="Maria <b>Nova</b>")
    async with log.write() as connection:
        for event in (first, second):
            append = Append(event, event.data, hashlib.sha256(event.data).digest(), None)
            row = dict(zip(EVENT_COLUMNS, event_row(append), strict=True))
            await connection.execute(insert(tables.event_log), row)
    runs = Checkpoints(log)
    run = await runs.begin(TENANT, "reconcile", "schedule", Options(), NOW)
    found = [Finding("contact", first.subject or "", "stale", ("name",), 3.0)]
    await runs.save(run, b'{"requests":3}', now=second.received_at, drift=found)
    counts = [Count(entity="contact", kind="stale", age="older", count=1)]
    report = {"requests": 3, "looked_at": {"contact": 9}, "drift": counts, "of another release": 1}
    await runs.finish(run, msgspec.json.encode(report), NOW + timedelta(minutes=2))
    yield log, projection
    await projection.close()
    await log.close()


@pytest.fixture
async def opened(stores: tuple[Database, Database], aiohttp_client: AiohttpClient) -> tuple[Browser, Asking]:
    """Give a browser that may do everything, and what its buttons asked for."""
    log, projection = stores
    asking = Asking(log)
    differences = Differences(Traces(log, projection), EventLog(log))
    reader = token("read", name="reader", secret="only-for-reading")
    app, _access = application(
        lambda frame: [RepairPage(frame, Checkpoints(log), differences, asking.verbs())],
        token(),
        reader,
        tenants=TENANTS,
    )
    browser = await aiohttp_client(app)
    await sign_in(browser)
    return browser, asking


async def text(browser: Browser, path: str) -> str:
    """Return a page."""
    answer = await browser.get(path)
    assert answer.status == 200, path
    return await answer.text()


async def test_it_shows_runs_and_what_differed_field_by_field(opened: tuple[Browser, Asking]) -> None:
    """From the last run by its differences to one contact: the name that was held, and the one that was shown."""
    browser, _ = opened
    first = await text(browser, "/repair")
    assert ">older</td>" in first
    assert "Without <code>tenants.park.api_key</code>" in first
    assert "This process has no backfill of bank" in first
    run = await text(browser, "/repair/run?tenant=shop&run=1&entity=contact&kind=stale")
    assert "9 contacts" in run
    (link,) = {one.replace("&amp;", "&") for one in run.split('"') if one.startswith("/repair/difference")}
    with structlog.testing.capture_logs() as lines:
        difference = await text(browser, link)
    held = json.loads(RAW)["data"]["contact"]["name"]
    assert f"><bdi>{held}</bdi></td>" in difference
    assert "><bdi>Maria &lt;b&gt;Nova&lt;/b&gt;</bdi></td>" in difference
    assert [(one["event"], one["kind"]) for one in lines] == [("personal.shown", "contact")]
    assert (await browser.get("/repair/run?tenant=shop&run=9")).status == 404
    assert (await browser.get("/repair/run?tenant=none&run=1")).status == 404
    missing = await browser.get("/repair/difference?tenant=shop&entity=ticket&id=none")
    assert "no observation of it" in await missing.text()
    browser.session.cookie_jar.clear()
    await sign_in(browser, "only-for-reading")
    blind = await text(browser, link)
    assert "Nova" not in blind
    assert held not in blind
    assert "hidden" in blind


async def test_a_difference_is_told_as_people_say_it(
    opened: tuple[Browser, Asking], stores: tuple[Database, Any]
) -> None:
    """An agent and a queue by their names, a time as everywhere, and how far a message got in a word."""
    seen = {
        "ticket": {"id": "t-9", "user": {"id": "u-1", "name": "Rui"}, "createdAt": "2026-11-28T09:00:00Z"},
        "message": {"id": "m-9", "ack": 3},  # which has no version, since the highest one counts
    }
    async with stores[0].write() as connection:
        for number, (entity, data) in enumerate(seen.items()):
            kind = "ticket.updated" if entity == "ticket" else "message.sent"
            told = {"event": kind, "tenantId": TENANT, "timestamp": "2026-11-28T10:00:00Z", "data": {entity: data}}
            event = normalize(json.dumps(told).encode(), tenant=TENANT, received_at=NOW)
            changed: dict[str, Any] = {"type": EventType(f"{entity}.observed"), "origin": "backfill"}
            event = msgspec.structs.replace(event, id=UUID(int=20 + number), **changed)
            append = Append(event, event.data, hashlib.sha256(event.data).digest(), None)
            row = dict(zip(EVENT_COLUMNS, event_row(append), strict=True))
            await connection.execute(insert(tables.event_log), row)
    at = int(NOW.timestamp())
    ticket = await text(opened[0], f"/repair/difference?tenant=shop&entity=ticket&id=t-9&run=1&at={at}")
    assert "user.name</code>" in ticket
    assert "<bdi>Rui</bdi>" in ticket
    assert ">2026-11-28 09:00:00 UTC</time>" in ticket
    message = await text(opened[0], f"/repair/difference?tenant=shop&entity=message&id=m-9&run=1&at={at}")
    assert "<bdi>delivered</bdi>" in message


async def test_a_difference_is_shown_however_much_came_since(
    opened: tuple[Browser, Asking], stores: tuple[Database, Any]
) -> None:
    """What was lost last night can be seen the next day, when a busy account has sent more events than a page looks
    through; from there a link leads to the thing's passport, and to what was said.
    """
    browser, log = opened[0], stores[0]
    came = """
        WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < :many)
        INSERT INTO event_log (id, type, tenant, received_at, origin, sha256)
        SELECT lower(hex(randomblob(16))), 'campaign.finished', :tenant, :at + n, 'webhook', x'00' FROM number"""
    day_later = int((NOW + timedelta(days=1)).timestamp() * 1_000_000)
    async with log.write() as connection:
        await connection.execute(sql(came), {"many": REACH, "tenant": TENANT, "at": day_later})
    run = await text(browser, "/repair/run?tenant=shop&run=1")
    (link,) = {one.replace("&amp;", "&") for one in run.split('"') if one.startswith("/repair/difference")}
    difference = await text(browser, link)
    assert "Maria &lt;b&gt;Nova" in difference
    assert json.loads(RAW)["data"]["contact"]["name"] in difference
    contact = json.loads(RAW)["data"]["contact"]["id"]
    for path in ("/passport", "/conversations"):
        assert f'href="{path}?find={contact}&amp;tenant=shop' in difference or (
            f'href="{path}?tenant=shop&amp;find={contact}' in difference
        ), path


async def test_a_run_that_is_kept_can_be_opened_when_it_is_none_of_the_last_ten(
    opened: tuple[Browser, Asking], stores: tuple[Database, Any]
) -> None:
    """Ten others came since, so the list has it no more; a link to it still leads to what it found."""
    browser, runs = opened[0], Checkpoints(stores[0])
    for _ in range(10):
        await runs.finish(await runs.begin(TENANT, "repair", "doubt", Options(), NOW), b"{}", NOW)
    assert 'run=1"' not in await text(browser, "/repair")
    assert "9 contacts" in await text(browser, "/repair/run?tenant=shop&run=1")


async def test_a_run_is_started_with_what_was_chosen(opened: tuple[Browser, Asking]) -> None:
    """A button asks for the run that a form describes, and its line in the log names what was chosen; where there is no
    backfill, it says so and asks for nothing.
    """
    browser, asking = opened
    form = {"details": "changed", "messages": "narrow", "allow_gone": "yes"}
    with structlog.testing.capture_logs() as lines:
        begun = await press(browser, "/repair", "/repair/start", tenant="shop", **form)
    assert [(one["subject"], one["options"]) for one in lines if one["event"] == "console.did"] == [
        ("shop", "details changed, messages narrow, any number may be gone")
    ]
    assert "is asked for" in await text(browser, begun.headers["Location"])
    await press(browser, "/repair", "/repair/start", tenant="shop")
    assert asking.asked == [("shop", Options("changed", "narrow", allow_gone=True)), ("shop", Options())]
    elsewhere = await press(browser, "/repair", "/repair/start", tenant="bank")
    assert "no backfill of bank" in await text(browser, elsewhere.headers["Location"])
    for wrong in ({"tenant": "none"}, {"tenant": "shop", "messages": "all of them"}):
        assert (await press(browser, "/repair", "/repair/start", **wrong)).status in (400, 404)
    assert len(asking.asked) == 2


async def test_a_start_says_why_nothing_begins_yet(
    opened: tuple[Browser, Asking], stores: tuple[Database, Any]
) -> None:
    """While another run is under way the new one begins after it; a backfill that has halted begins none, and neither
    does the page say so, nor does the trail of what buttons did.
    """
    browser, asking = opened
    run = await Checkpoints(stores[0]).begin(TENANT, "reconcile", "outage", Options(), NOW)
    waits = await press(browser, "/repair", "/repair/start", tenant="shop")
    assert f"it begins when run {run.number} has ended" in await text(browser, waits.headers["Location"])
    assert asking.asked == [("shop", Options())]
    asking.refuses = "The backfill has halted: the key is refused"
    with structlog.testing.capture_logs() as lines:
        halted = await press(browser, "/repair", "/repair/start", tenant="shop")
    page = await text(browser, halted.headers["Location"])
    assert page.count("The backfill has halted: the key is refused") == 2, "as an answer, and as how it is"
    assert ">halted</span>" in page
    assert "it begins" not in page
    assert not [one for one in lines if one["event"] == "console.did"]


async def test_a_look_at_what_is_not_there_leaves_no_typed_id_in_the_log(opened: tuple[Browser, Asking]) -> None:
    """What somebody typed may be a name or a number: only the id of a thing whose difference was shown is noted."""
    browser, _ = opened
    with structlog.testing.capture_logs() as lines:
        await text(browser, "/repair/difference?tenant=shop&entity=contact&id=Maria")
    assert not [one for one in lines if one["event"] == "personal.shown"]


async def test_only_the_run_that_a_button_stood_beside_is_stopped(
    opened: tuple[Browser, Asking], stores: tuple[Database, Any]
) -> None:
    """A button of an older page is about a run that is over by now: it stops no run that began since."""
    browser, _ = opened
    runs = Checkpoints(stores[0])
    run = await runs.begin("bank-1", "reconcile", "outage", Options(), NOW)
    assert f'name="run" value="{run.number}"' in await text(browser, "/repair/piece")
    await runs.finish(run, b"{}", NOW)
    later = await runs.begin("bank-1", "reconcile", "schedule", Options(), NOW)
    old = await press(browser, "/repair", "/repair/stop", tenant="bank", run=str(run.number))
    assert f"Run {run.number} is not under way any more" in await text(browser, old.headers["Location"])
    await runs.save(later, b"{}", now=NOW)
    await press(browser, "/repair", "/repair/stop", tenant="bank", run=str(later.number))
    last = await runs.last("bank-1")
    assert last is not None
    assert last.stopped_by == "ops"
    for wrong in ("", "x", "-1"):
        assert (await press(browser, "/repair", "/repair/stop", tenant="bank", run=wrong)).status == 400


async def test_a_run_under_way_is_shown_and_stopped(
    opened: tuple[Browser, Asking], stores: tuple[Database, Any]
) -> None:
    """Whichever process has it: the piece that is asked for again shows how far it is, and a button ends it, in whose
    name the page then says; who may only read has no such button.
    """
    browser, _ = opened
    runs = Checkpoints(stores[0])
    run = await runs.begin("bank-1", "reconcile", "outage", Options(), NOW)
    await runs.save(run, b'{"phase":"details","requests":12,"expected":40}', now=NOW)
    piece = await text(browser, "/repair/piece")
    assert "details, 40 of 40 read, 40 compared, 12 requests" in piece
    stopped = await press(browser, "/repair", "/repair/stop", tenant="bank")
    page = await text(browser, stopped.headers["Location"])
    assert f"Run {run.number} of bank is stopped" in page
    assert "by <bdi>ops</bdi>" in page
    again = await press(browser, "/repair", "/repair/stop", tenant="bank")
    assert "No run was under way" in await text(browser, again.headers["Location"])
    browser.session.cookie_jar.clear()
    await sign_in(browser, "only-for-reading")
    assert "/repair/start" not in await text(browser, "/repair")
    for action in ("/repair/start", "/repair/stop"):
        assert (await press(browser, "/repair", action, tenant="shop")).status == 403
