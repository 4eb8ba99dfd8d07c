"""What of an answer is too old to be taken in again."""

from datetime import UTC, datetime, timedelta

import pytest
from msgspec import UNSET

from whatsms_events.domain.events import Message, MessagePayload, Ticket, TicketPayload, to_micros
from whatsms_events.domain.rows import COLUMNS, Row, Version
from whatsms_events.domain.texts import is_over, still_told

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
OLD, YOUNG = NOW - timedelta(days=40), NOW - timedelta(days=2)
CUTOFF = to_micros(NOW - timedelta(days=30))


def held(told_at: datetime, **values: str) -> Row:
    """Return a message's row whose texts were told then."""
    versions = {name: Version(to_micros(told_at), 1, 1) for name in ("body", "media_url")}
    return Row(known=True, values={**dict.fromkeys(COLUMNS["message"]), **values}, versions=versions)


def shown(**fields: object) -> MessagePayload:
    """Return what an answer shows of a message."""
    return MessagePayload(message=Message(id="m-1", body="text", ack=3, **fields))  # type: ignore[arg-type]


def test_a_row_is_over_when_its_last_text_is() -> None:
    """A row without a text is never over; one with texts is when all of them were told before the cutoff."""
    assert is_over("message", held(OLD, body="text"), CUTOFF)
    assert not is_over("message", held(YOUNG, body="text"), CUTOFF)
    assert not is_over("message", held(OLD), CUTOFF)


@pytest.mark.parametrize(
    ("payload", "row", "told"),
    [
        (shown(created_at=OLD), None, False),  # never heard of, and too old
        (shown(created_at=YOUNG), None, True),
        (shown(created_at=OLD, updated_at=YOUNG), None, True),  # edited since
        (shown(), held(OLD), False),  # it was blanked here
        (shown(), held(YOUNG), True),  # null, since somebody said so
        (shown(created_at=OLD, updated_at=YOUNG), held(OLD), True),  # blanked here, and changed since
        (shown(), held(OLD, body="text"), True),  # not blanked yet
        (shown(), None, True),
    ],
)
def test_an_old_text_is_left_out_of_what_is_compared(payload: MessagePayload, row: Row | None, told: bool) -> None:
    """What is too old, or blanked here, is as if the answer did not show it; all else of the answer stays."""
    message = still_told("message", payload, row, CUTOFF).message
    assert (message.body == "text") is told
    assert message.body in ("text", UNSET)
    assert (message.id, message.ack) == ("m-1", 3)


def test_previews_are_texts_and_contacts_are_not() -> None:
    """The last message of a ticket that nobody has touched for long is left out; who a contact is stays."""
    payload = TicketPayload(ticket=Ticket(id="t-1", last_message="text", updated_at=OLD))
    assert still_told("ticket", payload, None, CUTOFF).ticket.last_message is UNSET
