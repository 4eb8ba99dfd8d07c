"""The page Parked: it lists, shows, retries and discards what the commands do, and only for those who may."""

import hashlib
import html
import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
import structlog
from pytest_aiohttp import AiohttpClient
from sqlalchemy import delete, insert, update

from web.console.pages import Browser, application, press, sign_in, token
from whatsms_events.domain.events import to_micros
from whatsms_events.domain.normalize import REASONS
from whatsms_events.domain.records import STRAY
from whatsms_events.domain.retention import Group, RetentionTerms
from whatsms_events.storage import tables
from whatsms_events.storage.database import Database, DatabaseTarget, open_log, open_projection
from whatsms_events.storage.expiry import ParkedDeliveries
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.log.parked import Parked
from whatsms_events.storage.log.retry import DeliveryRetry
from whatsms_events.storage.projection.apply import Projection
from whatsms_events.storage.projection.parked import ParkedEvents
from whatsms_events.storage.projection.retry import Retry
from whatsms_events.storage.pulse import Pulse
from whatsms_events.web.console.frame import ConsoleTenant, Frame
from whatsms_events.web.console.parked import RETRY_S, ParkedPage, ParkedParts
from whatsms_events.web.console.reasons import WHY

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
FOLDER = Path(__file__).parents[2] / "deliveries"
FINE = (FOLDER / "message.received.json").read_bytes()
TENANT = json.loads(FINE)["tenantId"]
TENANTS = {"shop": ConsoleTenant(TENANT)}


def delivery(number: int, reason: str, raw: bytes) -> dict[str, object]:
    """Return the row of a parked delivery."""
    return {
        "id": UUID(int=number),
        "tenant": TENANT,
        "reason": reason,
        "detail": "<b>somewhere</b>",
        "received_at": to_micros(NOW) + number,
        "sha256": hashlib.sha256(raw).digest(),
        "raw": raw,
        "count": 1,
    }


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[tuple[Database, Database]]:
    """Give a log with parked deliveries, one of which is understood by now, and a projection with a parked event."""
    log = await open_log(DatabaseTarget(f"sqlite:///{tmp_path / 'log.db'}"), migrate=True)
    projection = await open_projection(DatabaseTarget(f"sqlite:///{tmp_path / 'projection.db'}"), migrate=True)
    async with log.write() as connection:
        rows = [delivery(1, "unknown_event", FINE), delivery(2, "not_json", b"<script>Maria</script>\x00\xff")]
        rows += [delivery(number, "too_deep", b"[]") for number in range(3, 60)]
        await connection.execute(insert(tables.parked_delivery), rows)
    async with projection.write() as connection:
        event = {"source": "whatsms.messages/3", "at": 42, "reason": "no_id", "detail": "", "parked_at": to_micros(NOW)}
        await connection.execute(insert(tables.parked_event), {**event, "raw": b"{}", "headers": "[]"})
    yield log, projection
    await projection.close()
    await log.close()


def page(frame: Frame, stores: tuple[Database, Database], *, retry_s: float = RETRY_S) -> list[ParkedPage]:
    """Return the page around the databases, as the service makes it."""
    log, projection = stores
    parked, events = Parked(log), ParkedEvents(projection)
    retry = DeliveryRetry(parked, lambda: [TENANT])
    fold = Retry(Projection(projection), events, EventLog(log))
    terms = RetentionTerms({"parked": timedelta(days=90), "discarded": timedelta(days=7)})
    return [ParkedPage(frame, ParkedParts(Pulse(*stores), parked, events, retry, fold, terms), retry_s=retry_s)]


@pytest.fixture
async def browser(stores: tuple[Database, Database], aiohttp_client: AiohttpClient) -> Browser:
    """Give a browser that may do everything."""
    reader = token("read", name="reader", secret="only-for-reading")
    app, _access = application(lambda frame: page(frame, stores), token(), reader, tenants=TENANTS)
    made = await aiohttp_client(app)
    await sign_in(made)
    return made


async def text(browser: Browser, path: str) -> str:
    """Return a page."""
    answer = await browser.get(path)
    assert answer.status == 200, path
    return await answer.text()


def next_page(shown: str) -> str:
    """Return the way to the next page of the list."""
    found = re.search(r'href="([^"]+)">Next page', shown)
    assert found is not None
    return html.unescape(found[1])


async def said(browser: Browser, action: str, **fields: str) -> str:
    """Press a button of the page, and return the page that comes after it."""
    answer = await press(browser, "/parked", action, **fields)
    assert answer.status == 303, await answer.text()
    return await text(browser, answer.headers["Location"])


async def test_it_lists_what_is_parked_by_reason(browser: Browser) -> None:
    """Both places with their reasons and counts, a list page by page, and one reason alone; a detail is text."""
    first = await text(browser, "/parked")
    assert "57</span>" in first
    assert "&lt;b&gt;somewhere" in first
    assert "<b>somewhere" not in first
    assert f"name={UUID(int=50)}" in first
    assert f"name={UUID(int=51)}" not in first
    more = await text(browser, next_page(first))
    assert f"name={UUID(int=50)}" not in more
    assert f"name={UUID(int=51)}" in more
    only = await text(browser, "/parked?stage=door&reason=not_json")
    assert f"name={UUID(int=2)}" in only
    assert f"name={UUID(int=3)}" not in only
    assert "whatsms.messages%2F3%4042" in await text(browser, "/parked?stage=fold")
    assert (await browser.get("/parked?stage=window")).status == 400
    assert (await browser.get("/parked?reasons=not_json")).status == 400


async def test_each_reason_is_said_in_words_too(browser: Browser) -> None:
    """Whoever looks at the page need not know what a reason is called."""
    assert WHY.keys() >= {*REASONS, STRAY, "collision", "data", "encoding", "record", "unstorable"}
    assert "its body is not JSON; the oldest" in await text(browser, "/parked")
    assert "not_json: its body is not JSON" in await text(browser, f"/parked/one?name={UUID(int=2)}")


async def test_one_is_tried_again(browser: Browser, stores: tuple[Database, Database]) -> None:
    """What is understood by now is appended and gone from the page; what is not stays, and the page says why."""
    assert "appended, at position 1" in await said(browser, "/parked/retry", name=str(UUID(int=1)))
    assert await EventLog(stores[0]).end() == 1
    assert await Parked(stores[0]).show(UUID(int=1)) is None
    still = await said(browser, "/parked/retry", name=str(UUID(int=2)))
    assert "still not understood" in still
    assert "not_json" in still
    assert (await press(browser, "/parked", "/parked/retry", name=str(UUID(int=1)))).status == 404
    stray = await said(browser, "/parked/retry", name="whatsms.messages/3@42")
    assert "0 applied, 1 still parked" in stray


async def test_the_next_page_goes_on_although_the_last_one_shown_is_gone(
    browser: Browser, stores: tuple[Database, Database]
) -> None:
    """Somebody tries again or discards while another one turns pages: no page begins anew, none leaves out any."""
    way = next_page(await text(browser, "/parked"))
    async with stores[0].write() as connection:
        some = tables.parked_delivery.c.id.in_([UUID(int=number) for number in range(40, 51)])
        await connection.execute(delete(tables.parked_delivery).where(some))
    shown = await text(browser, way)
    assert all(f"name={UUID(int=number)}" in shown for number in range(51, 60))
    assert f"name={UUID(int=1)}" not in shown
    assert (await browser.get("/parked?stage=door&after=x")).status == 400


@pytest.mark.slow
async def test_all_of_a_reason_go_on_where_the_time_was_up(
    stores: tuple[Database, Database], aiohttp_client: AiohttpClient
) -> None:
    """A button that stopped before the end leads to one that goes on behind what was tried, and so to the end."""
    app, _access = application(lambda frame: page(frame, stores, retry_s=0), token(), tenants=TENANTS)
    browser = await aiohttp_client(app)
    await sign_in(browser)
    fields = {"stage": "door", "reason": "too_deep"}
    shown, pressed = await said(browser, "/parked/retry", **fields), 1
    while (found := re.search(r'name="after" value="([^"]+)"', shown)) is not None:
        assert "go on with the rest" in shown
        shown, pressed = await said(browser, "/parked/retry", **fields, after=found[1]), pressed + 1
    assert "0 appended, 1 still parked." in shown
    assert pressed == 57


async def test_what_was_discarded_is_restored_while_its_bytes_are_kept(
    browser: Browser, stores: tuple[Database, Database]
) -> None:
    """The page says until when, lists what was discarded, and restores one of it; once retention has taken it, the page
    says that it is gone for good.
    """
    one, event = str(UUID(int=2)), "whatsms.messages/3@42"
    shown = await said(browser, "/parked/discard", name=one)
    assert "It can be restored until" in shown
    assert ">Undo<" in shown
    assert f"name={one}" not in shown
    assert f"name={one}" in await text(browser, "/parked?stage=door&discarded=1")
    alone = await text(browser, f"/parked/one?name={one}")
    assert "Goes for good" in alone
    assert "Try again" not in alone
    assert (await press(browser, "/parked", "/parked/retry", name=one)).status == 404
    assert "1 restored" in await said(browser, "/parked/restore", name=one)
    assert "1 discarded." in await said(browser, "/parked/discard", stage="fold", reason="no_id")
    assert "1 restored" in await said(browser, "/parked/restore", name=event)
    assert len(await Parked(stores[0]).list(None, 100)) == 59
    assert "1 discarded." in await said(browser, "/parked/discard", name=one)
    group = Group("discarded", timedelta(0), frozenset(), but=True)
    assert await ParkedDeliveries(stores[0], discarded=True).expire(group, datetime.now(UTC)) == 1
    assert "its bytes are gone" in await said(browser, "/parked/restore", name=one)
    assert (await browser.get(f"/parked/one?name={one}")).status == 404


async def test_undo_brings_back_what_one_discard_took_and_nothing_that_was_discarded_before(
    browser: Browser, stores: tuple[Database, Database]
) -> None:
    """Somebody discarded one on purpose; another one discards all of its reason, and undoes that: the first one stays
    discarded. Each discard stands in the list with its own button, the newest first.
    """
    assert "1 discarded." in await said(browser, "/parked/discard", name=str(UUID(int=3)))
    shown = await said(browser, "/parked/discard", stage="door", reason="too_deep")
    assert "56 discarded. Undo brings them back" in shown
    newest, before = re.findall(r'name="at" value="([0-9]+)"', shown)
    assert int(newest) > int(before)
    assert "56 restored" in await said(browser, "/parked/restore", stage="door", reason="too_deep", at=newest)
    assert "Nothing was restored" in await said(browser, "/parked/restore", stage="door", reason="too_deep", at=newest)
    assert [one.id for one in await Parked(stores[0]).list(None, 9, discarded=True)] == [UUID(int=3)]
    for fields in ({}, {"at": "0"}, {"at": "9" * 19}):
        answer = await press(browser, "/parked", "/parked/restore", stage="door", reason="too_deep", **fields)
        assert answer.status == 400


async def test_who_discards_what_is_over_is_told_that_nothing_brings_it_back(
    browser: Browser, stores: tuple[Database, Database]
) -> None:
    """What was parked for longer than it may be kept goes at once when it is discarded, and the question says so."""
    ask = await text(browser, f"/parked/discard?name={UUID(int=2)}")
    assert "It can be restored" in ask
    async with stores[0].write() as connection:
        await connection.execute(update(tables.parked_delivery).values(received_at=0))
    assert "Nothing brings it back" in await text(browser, f"/parked/discard?name={UUID(int=2)}")


async def test_all_of_a_reason_are_tried_again_or_discarded(
    browser: Browser, stores: tuple[Database, Database]
) -> None:
    """A button on a reason is for all with it and for no other; discarding asks once more and says for how long it can
    be undone.
    """
    assert "0 appended, 57 still parked." in await said(browser, "/parked/retry", stage="door", reason="too_deep")
    assert "1 appended, 0 still parked." in await said(browser, "/parked/retry", stage="door", reason="unknown_event")
    ask = await text(browser, "/parked/discard?stage=door&reason=too_deep")
    assert "They can be restored for a while" in ask
    assert len(await Parked(stores[0]).list(None, 100)) == 58
    assert "57 discarded." in await said(browser, "/parked/discard", stage="door", reason="too_deep")
    assert [one.id for one in await Parked(stores[0]).list(None, 100)] == [UUID(int=2)]
    assert "1 discarded." in await said(browser, "/parked/discard", name=str(UUID(int=2)))
    assert "It was gone already." in await said(browser, "/parked/discard", name=str(UUID(int=2)))
    assert "1 discarded." in await said(browser, "/parked/discard", name="whatsms.messages/3@42")
    no_text = {"stage": "fold", "reason": "a\0b"}, {"name": "a\0b@3"}  # PostgreSQL cannot be asked for a NUL
    both = {"name": str(UUID(int=2)), "reason": "y"}
    for fields in ({}, {"name": "x"}, both, {"reason": "y", "stage": "z"}, *no_text):
        assert (await press(browser, "/parked", "/parked/discard", **fields)).status in (400, 404)


async def test_a_button_that_did_something_leaves_a_line_with_how_much(browser: Browser) -> None:
    """A retry is noted with how many it took, and one that found nothing to retry is not, nor an idle other button."""
    with structlog.testing.capture_logs() as lines:
        for reason in ("unknown_event", "unknown_event", "not_json"):
            await said(browser, "/parked/retry", stage="door", reason=reason)
        assert (await press(browser, "/parked", "/parked/retry", name=str(UUID(int=99)))).status == 404
        for action in ("discard", "restore"):
            await said(browser, f"/parked/{action}", name=str(UUID(int=99)))
    noted = [(line["kind"], line["subject"], line["count"]) for line in lines if line["event"] == "console.did"]
    assert noted == [("parked.retry", "door: unknown_event", 1), ("parked.retry", "door: not_json", 0)]


async def test_bytes_are_shown_on_request_and_the_look_is_noted(browser: Browser) -> None:
    """Bytes are shown when somebody asks for them; then the log has a line with the name, and not with the bytes."""
    name = str(UUID(int=2))
    with structlog.testing.capture_logs() as lines:
        assert "Maria" not in await text(browser, f"/parked/one?name={name}")
    assert lines == []
    with structlog.testing.capture_logs() as lines:
        shown = await text(browser, f"/parked/one?name={name}&bytes=1")
        raw = await browser.get(f"/parked/bytes?name={name}")
    assert "&lt;script&gt;Maria&lt;/script&gt;" in shown
    assert await raw.read() == b"<script>Maria</script>\x00\xff"
    assert raw.headers["Content-Disposition"].startswith("attachment")
    assert raw.content_type == "application/octet-stream"
    note = {
        "event": "personal.shown",
        "log_level": "info",
        "holder": "ops",
        "kind": "parked",
        "subject": name,
        "count": 1,
    }
    assert lines == [note, note]
    assert (await browser.get(f"/parked/one?name={UUID(int=99)}")).status == 404


async def test_who_may_only_read_sees_reasons_and_no_bytes_and_no_buttons(browser: Browser) -> None:
    """Without `personal` the bytes are hidden and refused, without `operate` no button is shown and none works."""
    browser.session.cookie_jar.clear()
    await sign_in(browser, "only-for-reading")
    one = await text(browser, f"/parked/one?name={UUID(int=2)}")
    assert "hidden" in one
    listing = await text(browser, "/parked")
    assert "not_json" in listing
    for shown in (one, listing):
        assert "/parked/retry" not in shown
        assert "/parked/discard" not in shown
    for path in ("/parked/bytes?name=", "/parked/one?bytes=1&name=", "/parked/discard?name="):
        assert (await browser.get(f"{path}{UUID(int=2)}")).status == 403
    for action in ("/parked/retry", "/parked/discard", "/parked/restore"):
        assert (await press(browser, "/parked", action, name=str(UUID(int=1)))).status == 403
