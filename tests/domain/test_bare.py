"""The short way from an event's bytes to its claims against the whole payload and the rules."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from domain.histories import HISTORY, History, entry, numbered
from whatsms_events.domain import bare, fields, fold
from whatsms_events.domain.events import (
    Contact,
    Event,
    EventType,
    Message,
    MessagePayload,
    Payload,
    Ticket,
    TicketPayload,
    decode,
)
from whatsms_events.domain.rows import Claim
from whatsms_events.errors import InvalidEventError

UNKNOWN = st.fixed_dictionaries(
    {},
    optional={
        "companyId": st.integers(),
        "labels": st.lists(st.text()),
        "updatedAt": st.just("yesterday"),
        "extra": st.dictionaries(st.text(), st.none() | st.booleans()),
    },
)
"""Unknown fields: some are times that could not be read."""


def by_rule(event: Event) -> tuple[list[Claim], Sequence[str]]:
    """Return the same from the whole payload."""
    payload = decode(event)
    return fold.claims(event, payload), fields.unreadable(event, payload)


def told(event: Event) -> tuple[list[Claim], list[str]]:
    """Return what the short way gives."""
    claims, unreadable = bare.claims(event)
    return claims, list(unreadable)


@given(history=HISTORY)
def test_every_event_claims_the_same_from_its_bytes(history: History) -> None:
    """Of every type, with whatever it shows and lacks."""
    for one in numbered(history):
        assert told(one.event) == by_rule(one.event)


@given(extras=st.lists(UNKNOWN, min_size=4, max_size=4), seconds=st.none() | st.just(1.0))
def test_unknown_fields_claim_nothing_wherever_they_stand(
    extras: Sequence[dict[str, object]], seconds: float | None
) -> None:
    """In the payload and in each thing that it shows; a time among them that cannot be read is still named."""
    contact = Contact(id="c1", name="Ana", extra=extras[0])
    ticket = Ticket(id="k1", status="open", contact=contact, extra=extras[1])
    payloads: Sequence[tuple[EventType, Payload]] = (
        (EventType.TICKET_UPDATED, TicketPayload(ticket=ticket, contact=contact, extra=extras[3])),
        (
            EventType.MESSAGE_SENT,
            MessagePayload(message=Message(id="m1", body="a", extra=extras[2]), ticket=ticket, extra=extras[3]),
        ),
    )
    for kind, payload in payloads:
        event = entry(1, kind, payload, seconds, received=5).event
        assert told(event) == by_rule(event)


@pytest.mark.parametrize("kind", list(EventType))
@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"message":{"id":1}}', b'{"message":{"extra":{"a":}}}', b"\xff"])
def test_what_cannot_be_read_is_refused_with_the_same_words(kind: EventType, data: bytes) -> None:
    """The reason of a parked event does not tell which way was taken."""
    event = replace(
        entry(1, EventType.MESSAGE_ACK, MessagePayload(message=Message(id="m1"))).event, type=kind, data=data
    )
    with pytest.raises(InvalidEventError) as usual:
        by_rule(event)
    with pytest.raises(InvalidEventError) as short:
        bare.claims(event)
    assert (short.value.reason, short.value.detail) == (usual.value.reason, usual.value.detail)
