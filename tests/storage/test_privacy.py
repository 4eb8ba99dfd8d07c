"""What is held of people is counted, on real databases, in bounded time and with how exact the count is."""

import gzip
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import insert, update

from servers.people import DELIVERIES, NOON, OTHER_TENANT, PARKED, TENANT, Story, story
from whatsms_events.domain.events import to_micros
from whatsms_events.storage.privacy import PLACES, Held, LogSample, PrivacyCounts
from whatsms_events.storage.tables import contact, event_log, message, parked_delivery

MINUTE = timedelta(minutes=1)


@pytest.fixture
async def told(database_url: str) -> AsyncIterator[Story]:
    """Give the story, told on each kind of database."""
    async with story(database_url) as found:
        yield found


async def test_what_is_held_is_counted_by_place(told: Story) -> None:
    """Each place of each tenant has its rows, the oldest of them, and what is due; what was blanked is no more held;
    and people are contacts that are no group and still have a name or a number.
    """
    counts, noon = PrivacyCounts(told.log, told.projection), to_micros(NOON)
    mine = [name for name, (tenant, _, _) in DELIVERIES.items() if tenant == TENANT]
    sample = await counts.sample()
    cutoffs = {"log_data": noon + 2 * to_micros(NOON + MINUTE) - 2 * noon, "parked_deliveries": 2}
    held = {one.place: one for one in await counts.held(TENANT, sample, cutoffs)}  # type: ignore[arg-type]
    assert tuple(held) == PLACES
    assert held["log_bytes"] == Held("log_bytes", len(mine), "exact", noon, None)
    assert held["log_data"] == Held("log_data", len(mine), "exact", noon, 3)
    assert held["parked_deliveries"] == Held("parked_deliveries", len(PARKED), "exact", 0, 3)
    assert {place: held[place].rows for place in PLACES[2:]} == {
        "contacts": 3, "tickets": 3, "messages": 5, "revisions": 5, "parked_deliveries": len(PARKED),
        "parked_events": 2, "backfill_items": 3, "backfill_drift": 2,
    }  # fmt: skip
    assert (await counts.people(TENANT)).rows == 2
    other = {one.place: one.rows for one in await counts.held(OTHER_TENANT, sample) if one.rows}
    assert other == {"log_bytes": 1, "log_data": 1, "contacts": 1}
    async with told.log.write() as connection:
        await connection.execute(update(event_log).where(event_log.c.tenant == TENANT).values(raw=None))
    async with told.projection.write() as connection:
        await connection.execute(update(message).values(body=None, media_url=None))
        await connection.execute(update(contact).where(contact.c.id == "900").values(name=None, number=None))
    held = {one.place: one for one in await counts.held(TENANT, await counts.sample())}
    assert held["log_bytes"] == Held("log_bytes", 0, "exact", None, None)
    assert (held["log_data"].rows, held["messages"].rows, held["messages"].oldest_at) == (len(mine), 0, None)
    assert (await counts.people(TENANT)).rows == 1


async def test_what_is_parked_in_a_form_that_is_not_read_is_named(told: Story) -> None:
    """Whom it names nobody knows, whenever it came; what can be read, or was blanked, is not named."""
    told_as = ((b"?", "br"), (b"\x1f\x8b cut", None), (b"", "br"), (b'{"a":1}', "gzip"), (gzip.compress(b"{}"), "gzip"))
    rows = [
        {
            "id": UUID(int=number), "tenant": TENANT, "reason": "encoding", "detail": "", "received_at": number,
            "raw": raw, "content_encoding": encoding, "sha256": b"", "count": 1,
        }
        for number, (raw, encoding) in enumerate(told_as, 90)
    ]  # fmt: skip
    async with told.log.write() as connection:
        await connection.execute(insert(parked_delivery).values(rows))
    counts = PrivacyCounts(told.log, told.projection)
    assert [one.int for one in await counts.unread(TENANT)] == [91, 90]
    assert await counts.unread(OTHER_TENANT) == []


async def test_a_count_looks_at_no_more_than_its_limit(told: Story) -> None:
    """Beyond the limit a place has "at least" so many, and of a longer log a sample says "about"."""
    counts = PrivacyCounts(told.log, told.projection, count_limit=2, samples=4)
    sample = await counts.sample()
    assert len(sample.rows) == 4
    held = {one.place: one for one in await counts.held(TENANT, sample)}
    assert (held["messages"].rows, held["messages"].precision) == (2, "at_least")
    assert (held["backfill_drift"].rows, held["backfill_drift"].precision) == (2, "exact")
    assert held["log_data"].precision == "about"
    every = LogSample(sample.rows, sample.weight)
    total = sum(every.held("log_data", tenant, None).rows for tenant in (TENANT, OTHER_TENANT))
    assert abs(total - max(told.positions.values())) <= 2
