"""Parked deliveries on real databases: nothing is lost between two steps."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from whatsms_events.domain.events import Event, EventType, event_id
from whatsms_events.domain.verdicts import Append, Park
from whatsms_events.errors import UnstorableError
from whatsms_events.storage.database import Database, DatabaseTarget, open_log
from whatsms_events.storage.log.committer import Committer
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.log.parked import Parked, ParkedDelivery, Taken
from whatsms_events.storage.log.retry import DeliveryRetry, RetriedDeliveries

CONTACT = (
    b'{"event":"contact.created","timestamp":"2026-01-15T10:30:00Z","tenantId":"acme","data":{"contact":{"id":"c-%d"}}}'
)
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """Give an empty log on each kind of database."""
    found = await open_log(DatabaseTarget(database_url), migrate=True)
    yield found
    await found.close()


def park(number: int, reason: str = "unknown_event", *, raw: bytes = b"") -> Park:
    """Return a delivery that cannot be an event yet."""
    raw = raw or b"raw %d" % number
    received_at = NOON + timedelta(seconds=number // 2)
    return Park(
        event_id("acme", raw, None), "acme", reason, "event", received_at, raw, hashlib.sha256(raw).digest(), None
    )


def append(parked: Park, *, subject: str = "t-1") -> Append:
    """Return the event that a parked delivery has become."""
    event = Event(
        id=parked.id,
        type=EventType.TICKET_CREATED,
        tenant="acme",
        occurred_at=None,
        received_at=parked.received_at,
        origin="webhook",
        subject=subject,
        ticket_id="t-1",
        contact_id=None,
        message_id=None,
        data=b'{"ticket":{"id":"t-1"}}',
    )
    return Append(event, parked.raw, parked.sha256)


async def fill(database: Database, *items: Append | Park) -> None:
    """Commit the items."""
    stop = asyncio.Event()
    committer = Committer(
        database, batch_limit=500, queue_limit=10_000, queue_limit_bytes=1 << 30, on_commit=lambda _end: None
    )
    task = asyncio.create_task(committer.run(stop))
    await asyncio.gather(*(committer.submit(item, deadline_s=60) for item in items))
    stop.set()
    await task


async def test_pages_show_each_parked_delivery_once(database: Database) -> None:
    """Pages join without gap or overlap, oldest first, also when the last one seen was discarded in between."""
    items = [*(park(number) for number in range(9)), park(99, "not_json")]
    await fill(database, *items)
    parked, seen = Parked(database), list[ParkedDelivery]()
    while page := await parked.list(seen[-1].place if seen else None, 4):
        seen += page
        assert await parked.discard(page[-1].id, NOON)
    assert sorted(one.id for one in seen) == sorted(item.id for item in items)
    assert [one.received_at for one in seen] == sorted(one.received_at for one in seen)
    assert len(await parked.list(None, 100)) == 7


async def test_shown_with_its_exact_bytes(database: Database) -> None:
    """One parked delivery comes with the bytes it came as; one that is not there is None."""
    await fill(database, park(1), park(1))
    found = await Parked(database).show(park(1).id)
    assert found is not None
    shown, raw = found
    assert raw == b"raw 1"
    assert (shown.reason, shown.detail, shown.count, shown.size_bytes) == ("unknown_event", "event", 2, 5)
    assert shown.sha256 == hashlib.sha256(raw).digest()
    assert await Parked(database).show(park(2).id) is None


async def test_taken_delivery_is_at_the_end_of_the_log_and_parked_no_more(database: Database) -> None:
    """Taking appends the event at the log's end and removes the row; a second try finds nothing to take."""
    await fill(database, append(park(7)), park(1))
    parked = Parked(database)
    assert await parked.take(park(1).id, append(park(1))) == Taken(2, duplicate=False)
    assert await parked.take(park(1).id, append(park(1))) is None
    assert await parked.list(None, 10) == []
    assert await EventLog(database).raw(2) == b"raw 1"


async def test_taken_twice_at_the_same_time_is_one_event(database: Database) -> None:
    """Two operators that retry the same delivery together append one event."""
    await fill(database, park(1))
    parked = Parked(database)
    both = await asyncio.gather(*(parked.take(park(1).id, append(park(1))) for _ in range(2)))
    assert sorted(both, key=str) == [None, Taken(1, duplicate=False)]
    assert await EventLog(database).end() == 1


async def test_a_retry_counts_what_it_appended_and_not_what_somebody_else_took(database: Database) -> None:
    """Two operators retry all with a reason together: what one of them appended is gone for the other."""
    readable = [park(number, raw=CONTACT % number) for number in range(3)]
    await fill(database, *readable)
    retry = DeliveryRetry(Parked(database), lambda: ["acme"])
    both = await asyncio.gather(retry.all("unknown_event"), retry.all("unknown_event"))
    assert sum(one.appended for one in both) == await EventLog(database).end() == 3
    assert all(one.parked == one.known == 0 for one in both)
    await fill(database, *readable)
    assert await retry.all("unknown_event") == RetriedDeliveries(known=3)


async def test_delivery_that_is_in_the_log_already_is_only_removed(database: Database) -> None:
    """A parked delivery that came again and was accepted meanwhile is taken as the duplicate it is."""
    await fill(database, park(1), append(park(1)))
    assert await Parked(database).take(park(1).id, append(park(1))) == Taken(1, duplicate=True)
    assert await EventLog(database).end() == 1


async def test_refused_again_stays_parked(database: Database) -> None:
    """An event that the database refuses leaves the parked delivery where it was."""
    await fill(database, park(1))
    parked = Parked(database)
    with pytest.raises(UnstorableError):
        await parked.take(park(1).id, append(park(1), subject="\ud800"))
    assert [one.id for one in await parked.list(None, 10)] == [park(1).id]
    assert await EventLog(database).end() == 0


async def test_discarded_is_parked_no_more_and_can_be_restored(database: Database) -> None:
    """What was discarded is in a list of its own with its bytes, no retry takes it, and restored it is parked as
    before; each verb says whether there was something to do.
    """
    await fill(database, park(1), park(2), park(3, "not_json"))
    parked, retry = Parked(database), DeliveryRetry(Parked(database), lambda: ["acme"])
    before = await parked.list(None, 10)
    assert await parked.discard(park(1).id, NOON)
    assert not await parked.discard(park(1).id, NOON)
    assert await parked.discard_all("unknown_event", NOON) == 1
    assert [one.reason for one in await parked.list(None, 10)] == ["not_json"]
    gone = await parked.list(None, 10, discarded=True)
    assert [(one.id, one.discarded_at) for one in gone] == [(park(1).id, NOON), (park(2).id, NOON)]
    assert await parked.take(park(1).id, append(park(1))) is None
    assert await retry.one(park(1).id) is None
    assert await retry.all("unknown_event") == RetriedDeliveries()
    shown = await parked.show(park(1).id)
    assert shown is not None
    assert shown[1] == b"raw 1"
    assert await parked.restore(park(1).id)
    assert not await parked.restore(park(1).id)
    assert not await parked.restore(park(3, "not_json").id)
    assert await parked.restore_all("unknown_event", NOON - timedelta(microseconds=1)) == 0
    assert await parked.restore_all("unknown_event", NOON) == 1
    assert await parked.list(None, 10) == before


async def test_what_was_discarded_and_comes_again_is_parked_again(database: Database) -> None:
    """The vendor sends it once more, so somebody must look once more."""
    await fill(database, park(1))
    parked = Parked(database)
    assert await parked.discard(park(1).id, NOON)
    await fill(database, park(1))
    assert [(one.id, one.count, one.discarded_at) for one in await parked.list(None, 10)] == [(park(1).id, 2, None)]


async def test_trying_all_again_ends_when_it_is_enough(database: Database) -> None:
    """It is asked between any two deliveries, since a hundred large ones take long; the next time goes on where it
    stopped, and nothing is left where the last one was tried.
    """
    items = [park(number) for number in range(3)]
    await fill(database, *items)
    places = [one.place for one in await Parked(database).list(None, 10)]
    retry = DeliveryRetry(Parked(database), lambda: ["acme"])
    answers = iter([False, True])
    stopped = await retry.all("unknown_event", enough=lambda: next(answers))
    assert stopped == RetriedDeliveries(parked=2, go_on=places[1])
    assert await retry.all("unknown_event", after=stopped.go_on) == RetriedDeliveries(parked=1)
    answers = iter([False, False, True])
    assert await retry.all("unknown_event", enough=lambda: next(answers)) == RetriedDeliveries(parked=3)
    assert await retry.all("unknown_event", enough=lambda: True) == RetriedDeliveries(parked=1, go_on=places[0])
