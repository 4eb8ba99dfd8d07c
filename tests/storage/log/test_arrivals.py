"""When the latest webhooks of a tenant were accepted, read from real logs."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert

from whatsms_events.domain.events import event_id, to_micros
from whatsms_events.storage.database import Database, DatabaseTarget, open_log
from whatsms_events.storage.log.arrivals import KEPT, Arrivals
from whatsms_events.storage.tables import event_log

NOON = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """Give an empty log on each kind of database."""
    found = await open_log(DatabaseTarget(database_url), migrate=True)
    yield found
    await found.close()


def at(second: float) -> datetime:
    """Return a moment after noon."""
    return NOON + timedelta(seconds=second)


async def fill(database: Database, seconds: Sequence[float], *, tenant: str = "a", origin: str = "webhook") -> None:
    """Append an event for each second, in this order."""
    rows = [
        {
            "id": event_id(tenant, f"{origin}{second}".encode(), None), "type": "ticket.updated", "tenant": tenant,
            "received_at": to_micros(at(second)), "origin": origin, "sha256": b"", "data": "{}", "raw": b"{}",
        }
        for second in seconds
    ]  # fmt: skip
    async with database.write() as connection:
        await connection.execute(insert(event_log), rows)


async def test_an_empty_log_has_no_arrivals(database: Database) -> None:
    """Nothing was accepted: no times, no last one, position 0."""
    latest = await Arrivals(database, "a").latest()
    assert (latest.times, latest.last, latest.position) == ((), None, 0)


async def test_only_the_tenants_own_webhooks_count(database: Database) -> None:
    """Another tenant's webhooks and a backfill's observations are no sign that this tenant's hook works."""
    await fill(database, [1, 2])
    await fill(database, [3, 4], tenant="b")
    await fill(database, [5, 6], origin="backfill")
    latest = await Arrivals(database, "a").latest()
    assert latest.times == (at(1), at(2))
    assert (latest.last, latest.position) == (at(2), 2)


async def test_each_look_adds_what_came_since(database: Database) -> None:
    """A second look reads on, in order of time, and keeps the last two hundred; a look without news changes nothing."""
    arrivals = Arrivals(database, "a")
    await fill(database, range(150))
    assert len((await arrivals.latest()).times) == 150
    await fill(database, [160, 155])
    assert (await arrivals.latest()).times[-3:] == (at(149), at(155), at(160))
    await fill(database, range(200, 300))
    latest = await arrivals.latest()
    assert len(latest.times) == KEPT
    assert (latest.times[0], latest.last, latest.position) == (at(52), at(299), 252)
    assert latest.times == tuple(sorted(latest.times))
    assert await arrivals.latest() == latest


async def test_a_delivery_that_was_parked_for_long_is_no_new_arrival(database: Database) -> None:
    """An event at the log's end with an older time of arrival does not become the last one."""
    arrivals = Arrivals(database, "a")
    await fill(database, [100])
    assert (await arrivals.latest()).last == at(100)
    await fill(database, [5])
    latest = await arrivals.latest()
    assert (latest.times, latest.position) == ((at(5), at(100)), 2)


async def test_a_look_is_bounded(database: Database) -> None:
    """It reads in pieces, finds what lies behind many others' events, and gives up beyond its reach."""
    await fill(database, [1])
    await fill(database, range(10, 60), tenant="b")
    near = Arrivals(database, "a", piece=7, reach=60)
    assert (await near.latest()).times == (at(1),)
    await fill(database, range(60, 80), tenant="b")
    assert (await near.latest()).times == (at(1),)
    assert (await Arrivals(database, "a", piece=7, reach=60).latest()).last is None
    await fill(database, [90])
    await fill(database, range(100, 200), tenant="b")
    assert (await near.latest()).times == (at(1), at(90))
