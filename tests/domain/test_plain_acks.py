"""The short way to the claims of a plain ack against the rules for every event."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from domain.histories import CONTACT_ID, EVENT, SECONDS, History, entry, numbered
from whatsms_events.domain import fold, plain_acks
from whatsms_events.domain.events import Contact, EventType, Message, MessagePayload, Ticket, decode

RARELY: st.SearchStrategy[dict[str, object]] = st.just({}) | st.sampled_from(
    [{"body": "a"}, {"deleted": None}, {"contact_id": "c2"}, {"quoted_message_id": "m2"}, {"media_url": "u"}]
)
"""What makes an ack another one than a plain one."""

MESSAGES = st.builds(
    lambda fields, rest: Message(id="m1", **fields, **rest),
    st.fixed_dictionaries(
        {},
        optional={
            "from_me": st.sampled_from([None, True, False]),
            "ack": st.sampled_from([None, -1, 0, 1, 2, 3, 4, 5, 99, -(1 << 63)]),
            "extra": st.just({"companyId": 41, "readAt": 1}),
        },
    ),
    RARELY,
)
TICKETS: st.SearchStrategy[Ticket | None | UnsetType] = st.sampled_from(
    [
        *(UNSET, None, Ticket(id="k1"), Ticket(), Ticket(id=""), Ticket(id=None), Ticket(id="k2", extra={"a": 1})),
        *(Ticket(id="k1", status="open"), Ticket(id="k1", contact=None), Ticket(contact=Contact(id="c1"))),
    ]
)
CONTACTS: st.SearchStrategy[Contact | None | UnsetType] = st.sampled_from([UNSET, UNSET, None, Contact(id="c1")])
NAMED = st.none() | st.sampled_from(["", "k1", "c1"])
ACKS = st.builds(MessagePayload, message=MESSAGES, ticket=TICKETS, contact=CONTACTS)


@given(payload=ACKS, seconds=st.none() | SECONDS | st.just(10**6), ticket_id=NAMED, contact_id=NAMED | CONTACT_ID)
def test_an_ack_claims_the_same_either_way(
    payload: MessagePayload, seconds: float | None, ticket_id: str | None, contact_id: str | None
) -> None:
    """Whatever it names, shows and lacks, in every form that an event's ids may have."""
    one = entry(1, EventType.MESSAGE_ACK, payload, seconds, received=5).event
    for event in (one, replace(one, ticket_id=ticket_id, contact_id=contact_id)):
        assert plain_acks.claims(event) in (None, fold.claims(event, decode(event)))


@given(history=st.lists(EVENT, max_size=5))
def test_every_event_claims_the_same_either_way(history: History) -> None:
    """Of every type: the short way takes what it is for, and nothing else."""
    for one in numbered(history):
        assert plain_acks.claims(one.event) in (None, fold.claims(one.event, decode(one.event)))


@pytest.mark.parametrize(
    ("payload", "plain"),
    [
        (MessagePayload(message=Message(id="m1", ack=3, from_me=True), ticket=Ticket(id="k1")), True),
        (MessagePayload(message=Message(id="m1", ack=3, extra={"a": 1}), ticket=Ticket(id="k1", extra={"a": 1})), True),
        (MessagePayload(message=Message(id="m1", ack=3), contact=Contact(id="c1")), False),
        (MessagePayload(message=Message(id="m1", ack=3), ticket=Ticket(id="k1", status="open")), False),
        (MessagePayload(message=Message(id="m1", ack=3, updated_at=None)), False),
    ],
)
def test_an_ack_that_shows_nothing_else_is_plain(payload: MessagePayload, plain: bool) -> None:
    """Unknown fields change nothing; a field that is known, also as null, is a claim."""
    assert (plain_acks.claims(entry(1, EventType.MESSAGE_ACK, payload).event) is not None) is plain
    assert plain_acks.claims(entry(1, EventType.MESSAGE_SENT, payload).event) is None


@pytest.mark.parametrize(
    "fault", [{"subject": None}, {"subject": ""}, {"data": b""}, {"data": b'{"message":{"ack":"3"}}'}]
)
def test_an_ack_at_fault_is_left_to_the_rules(fault: dict[str, object]) -> None:
    """They say what is wrong with it."""
    event = entry(1, EventType.MESSAGE_ACK, MessagePayload(message=Message(id="m1", ack=3))).event
    assert plain_acks.claims(replace(event, **fault)) is None
