"""What became of an event, field by field, as the fold itself sees it."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from whatsms_events.domain import fold
from whatsms_events.domain.events import Event, EventType, MessagePayload, Ticket, TicketPayload, decode, encode
from whatsms_events.domain.events import Message as EventMessage
from whatsms_events.domain.rows import Key, Row
from whatsms_events.domain.trace import EventTrace, FieldPlace, trace

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
TICKET = Key("ticket", "t", "k1")


def ticket(minute: int, status: str, *, kind: EventType = EventType.TICKET_UPDATED) -> Event:
    """Return an event about one ticket."""
    at = NOON + timedelta(minutes=minute)
    payload = TicketPayload(ticket=Ticket(id="k1", status=status))
    return event(kind, at, "k1", payload)


def ack(minute: int, level: int) -> Event:
    """Return an ack of one message."""
    at = NOON + timedelta(minutes=minute)
    return event(EventType.MESSAGE_ACK, at, "m1", MessagePayload(message=EventMessage(id="m1", ack=level)))


def event(kind: EventType, at: datetime, subject: str, payload: TicketPayload | MessagePayload) -> Event:
    """Return an event at a time."""
    return Event(
        id=UUID(int=1), type=kind, tenant="t", occurred_at=at, received_at=at, origin="webhook", subject=subject,
        ticket_id=None, contact_id=None, message_id=None, data=encode(payload),
    )  # fmt: skip


def rows_of(*events: Event) -> dict[Key, Row]:
    """Return the rows after these events, at positions 1, 2, ..."""
    rows: dict[Key, Row] = {}
    for position, one in enumerate(events, 1):
        rows |= fold.merge_all(fold.claims(one, decode(one)), position, rows)
    return rows


def traced(one: Event, position: int, rows: dict[Key, Row]) -> EventTrace:
    """Return what became of an event."""
    return trace(fold.claims(one, decode(one)), position, rows)


def test_what_won_holds_and_what_lost_names_the_winner() -> None:
    """The later event's status holds; the earlier one lost to it, with the winner's time, rank and position."""
    first, second = ticket(0, "open"), ticket(5, "closed")
    rows = rows_of(first, second)
    (won,) = traced(second, 2, rows).fields
    assert (won.field, won.outcome, won.winner, won.same) == ("status", "holds", None, True)
    found = traced(first, 1, rows)
    (lost,) = found.fields
    assert (lost.outcome, lost.same, lost.doubtful, found.changes) == ("lost", False, False, False)
    assert lost.winner == FieldPlace(NOON + timedelta(minutes=5), "own", 2)
    assert lost.own == FieldPlace(NOON, "own", 1)


def test_an_observation_wins_by_its_rank_and_the_same_value_is_said() -> None:
    """At the same time the rank decides; who lost to one that says the same is told so."""
    own, observed = ticket(0, "open"), ticket(0, "open", kind=EventType.TICKET_OBSERVED)
    (found,) = traced(own, 1, rows_of(own, observed)).fields
    assert (found.outcome, found.same) == ("lost", True)
    assert found.winner is not None
    assert found.winner.rank == "observation"


def test_an_event_that_was_not_applied_yet_shows() -> None:
    """Nothing of it holds, and applying it now would change something; afterwards it would not."""
    first, second = ticket(0, "open"), ticket(5, "closed")
    for rows in ({}, rows_of(first)):
        found = traced(second, 2, rows)
        assert ([one.outcome for one in found.fields], found.changes) == (["not_applied"], True)
    assert not traced(second, 2, rows_of(first, second)).changes


def test_acks_are_traced_by_level_and_time() -> None:
    """A lower level lost to a higher one, but its own time holds, unless an earlier ack told the same level."""
    read, delivered, again = ack(3, 4), ack(1, 3), ack(2, 3)
    rows = rows_of(read, delivered, again)
    outcomes = {one.field: (one.outcome, one.winner) for one in traced(again, 3, rows).fields}
    assert outcomes == {
        "delivered_at": ("lost", FieldPlace(NOON + timedelta(minutes=1), "earlier", None)),
        "ack": ("lost", FieldPlace(None, "higher", None)),
    }
    assert {one.field: one.outcome for one in traced(read, 1, rows).fields} == {"read_at": "holds", "ack": "holds"}
    assert {one.outcome for one in traced(ack(9, 5), 4, rows).fields} == {"not_applied"}


def test_doubt_is_shown() -> None:
    """Two values at one time and rank: the later arrival holds, and both are told that nobody knows."""
    first, second = ticket(0, "open"), ticket(0, "closed")
    rows = rows_of(first, second)
    for position, one in enumerate((first, second), 1):
        assert [field.doubtful for field in traced(one, position, rows).fields] == [True]
