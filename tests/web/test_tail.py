"""The end of the log that readers of the event feed share: what one reader takes is right for the next one."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from sqlalchemy import delete

from web.test_api import databases as _databases
from web.test_api import event
from web.test_api import put as _put
from whatsms_events.domain.feed import Place
from whatsms_events.storage import tables
from whatsms_events.storage.database import Database
from whatsms_events.storage.reads import Queries, RowView
from whatsms_events.web.tail import FeedFilter, Tail

databases, put = _databases, _put

Databases = tuple[Database, Database]


def shown(row: RowView, _personal: bool) -> RowView:
    """Show a row as it is."""
    return row


async def test_a_reader_keeps_its_event_s_id_beside_one_that_has_none(databases: Databases, put: Any) -> None:
    """A reader that came with a position alone, and one that named the event there, want the same and wait at the same
    position: each stays at its own place, whoever asks first, and both are moved on to a place that names its event.
    """
    await put(tables.event_log, *(event(position) for position in range(1, 11)))
    wanted, alone, named = FeedFilter(event_type="ticket.closed"), Place(10), Place(10, UUID(int=10))
    for order in ((alone, named), (named, alone)):
        tail = Tail(Queries(*databases), shown, on_restored=refuse("the log was not restored"))
        await tail.look()
        for place in order:
            taken = tail.take(place, wanted)
            assert taken is not None
            assert (taken.data, taken.place, taken.told) == (b"", place, place)
    await put(tables.event_log, event(11))
    await tail.look()
    for place in (alone, named):
        taken = tail.take(place, wanted)
        assert taken is not None
        assert taken.place == Place(11, UUID(int=11))


async def test_a_reader_past_the_end_is_sent_to_the_log(databases: Databases, put: Any) -> None:
    """Whoever has seen more than the shared reader looks into the log itself, which tells whether it was restored: the
    shared reader may have begun after that.
    """
    await put(tables.event_log, *(event(position) for position in range(1, 4)))
    tail = Tail(Queries(*databases), shown, on_restored=refuse("it knows of no more"))
    await tail.look()
    assert tail.take(Place(3), FeedFilter()) is not None
    assert tail.take(Place(5), FeedFilter()) is None


async def test_a_reader_that_had_another_event_at_its_place_is_sent_to_the_log(databases: Databases, put: Any) -> None:
    """The shared reader may have begun after a restore, on a log that grew past the reader's place: it gives nothing
    to a reader that names another event there, neither within what it holds nor at its begin.
    """
    await put(tables.event_log, *(event(position) for position in range(1, 6)))
    tail = Tail(Queries(*databases), shown, on_restored=refuse("it began after that"), ring_bytes=1)
    await tail.look()
    (begin,) = {place for place in range(1, 6) if tail.take(Place(place), FeedFilter()) is not None} - {5}
    for position in (begin, 5):
        assert tail.take(Place(position, UUID(int=position)), FeedFilter()) is not None
        assert tail.take(Place(position, UUID(int=1000 + position)), FeedFilter()) is None


async def test_a_log_that_was_restored_and_grew_between_two_looks_is_noticed(databases: Databases, put: Any) -> None:
    """The event at the end of what was read tells it, however long the log is by now; nothing of it is shown."""
    await put(tables.event_log, *(event(position) for position in range(1, 6)))
    restored: list[bool] = []
    tail = Tail(Queries(*databases), shown, on_restored=lambda: restored.append(True))
    await tail.look()
    async with databases[0].write() as connection:
        await connection.execute(delete(tables.event_log).where(tables.event_log.c.position > 3))
        rows = [event(position, id=UUID(int=1000 + position)) for position in range(4, 10)]
        await connection.execute(tables.event_log.insert(), rows)
    await tail.look()
    assert restored == [True]
    assert tail.take(Place(5, UUID(int=5)), FeedFilter()) is None


def refuse(reason: str) -> Callable[[], None]:
    """Return what must not be called."""

    def called() -> None:
        raise AssertionError(reason)

    return called
