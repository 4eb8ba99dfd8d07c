"""The end of the log that readers of the event feed share: what one reader takes is right for the next one."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

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


def refuse(reason: str) -> Callable[[], None]:
    """Return what must not be called."""

    def called() -> None:
        raise AssertionError(reason)

    return called
