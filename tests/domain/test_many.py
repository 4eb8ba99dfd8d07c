"""A delivery about several things at once is parked whole, with a reason that says so."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from whatsms_events.domain.normalize import normalize
from whatsms_events.domain.values import shorten
from whatsms_events.errors import InvalidEventError

NOW = datetime(2026, 6, 10, 12, tzinfo=UTC)


def body_of(event: str, data: object, **envelope: object) -> bytes:
    """Return a delivery."""
    whole = {"event": event, "tenantId": "t", "timestamp": "2026-06-10T12:00:00Z", "data": data, **envelope}
    return json.dumps(whole).encode()


def refusal_of(event: str, data: object, **envelope: object) -> InvalidEventError:
    """Return why a delivery is refused."""
    with pytest.raises(InvalidEventError) as refused:
        normalize(body_of(event, data, **envelope), tenant="t", received_at=NOW)
    return refused.value


@pytest.mark.parametrize(
    "data",
    [
        {"messageIds": ["A1", "A2"], "ack": 4, "ticketId": "t1"},
        {"messageIds": [1, 2], "ack": 4},
        {"message_ids": ["A1", "A2"], "ack": 4},
        {"ids": ["A1", "A2"], "ack": 4},
        {"messages": [{"id": "A1", "ack": 4}, {"id": "A2", "ack": 3}], "ticket": {"id": "t1"}},
        {"messages": [{"key": {"id": "A1"}, "update": {"status": 4}}]},
        {"acks": [{"id": "A1", "ack": 4}, {"messageId": "A2", "ack": 4}]},
        {"acks": {"A1": 4, "A2": 3}},
        {"message": {"id": ["A1", "A2"], "ack": 4}},
        {"message": {"messageId": ["A1", "A2"], "ack": 4}},
        {"message": {"ack": 4}, "messageId": ["A1", "A2"]},
        {"message": {"ack": 4, "messageIds": ["A1", "A2"]}, "ticket": {"id": "t1"}},
        {"message": [{"id": "A1", "ack": 4}, {"id": "A2", "ack": 4}]},
        {"id": ["A1", "A2"], "ack": 4},
        [{"message": {"id": "A1", "ack": 4}}, {"message": {"id": "A2", "ack": 4}}],
        ["A1", "A2"],
    ],
)
def test_one_ack_for_many_messages_says_what_it_is(data: object) -> None:
    """However an ack names several messages, it is refused as `many`, by the place that names them."""
    refusal = refusal_of("message.ack", data)
    assert refusal.reason == "many"
    assert "A1" not in str(refusal)


@pytest.mark.parametrize(
    ("event", "data"),
    [
        ("message.ack", {"message": {"id": "A1", "ack": 4}, "messageIds": ["A1", "A2"]}),
        ("message.ack", {"message": {"id": "A1", "ack": 4}, "messages": [{"id": "A2", "ack": 4}]}),
        ("message.ack", {"messageId": "A1", "ack": 4, "acks": [{"messageId": "A1"}, {"messageId": "A2"}]}),
        ("message.ack", {"message": {"id": ["A1", "A2"], "messageId": "A1", "ack": 4}}),
        ("ticket.closed", {"ticketId": "t1", "ticketIds": ["t1", "t2"]}),
        ("ticket.updated", {"tickets": [{"id": "t1"}, {"id": "t2"}]}),
        ("ticket.updated", {"ticket": {"id": ["t1", "t2"]}}),
        ("contact.updated", {"contacts": [{"id": "c1"}, {"id": "c2"}]}),
        ("contact.updated", {"contactId": ["c1", "c2"]}),
        ("campaign.finished", {"campaigns": [{"id": "k1"}, {"id": "k2"}]}),
    ],
)
def test_nothing_is_half_applied(event: str, data: object) -> None:
    """Where one thing is named and a list names others, nothing of the delivery is applied; so for every resource."""
    assert refusal_of(event, data).reason == "many"


def test_list_in_the_envelope_counts_too() -> None:
    """A list beside `data` names things as well."""
    assert refusal_of("message.ack", {"ack": 4}, messageIds=["A1", "A2"]).reason == "many"


@pytest.mark.parametrize(
    ("event", "data", "subject"),
    [
        ("message.ack", {"message": {"id": "A1", "ack": 4}, "messageIds": ["A1"]}, "A1"),
        ("message.ack", {"message": {"id": 1, "ack": 4}, "messageIds": [1], "ids": []}, "1"),
        ("message.ack", {"message": {"id": "A" * 300}, "ids": ["A" * 300]}, shorten("A" * 300)),
        ("message.ack", {"message": {"id": "A1", "acks": {"read": 2}}, "acks": [{"participant": "p", "ack": 4}]}, "A1"),
        ("message.received", {"message": {"id": "A1", "contacts": [{"id": "card"}]}, "contacts": [{"id": "x"}]}, "A1"),
        ("message.received", {"message": {"id": "A1"}, "ticket": {"id": "t1", "messages": [{"id": "A0"}]}}, "A1"),
        ("ticket.updated", {"ticket": {"id": "t1", "messages": [{"id": "A1"}, {"id": "A2"}]}}, "t1"),
        ("ticket.updated", {"id": "t1", "tags": [1, 2], "messages": [{"id": "A1"}], "contacts": [{"id": "c"}]}, "t1"),
        ("contact.updated", {"contact": {"id": "c1", "tickets": [{"id": "t1"}, {"id": "t2"}]}}, "c1"),
        ("campaign.finished", {"campaign": {"id": "k1", "contacts": [{"id": "c1"}, {"id": "c2"}]}}, "k1"),
    ],
)
def test_lists_of_other_things_are_no_obstacle(event: str, data: Any, subject: str) -> None:
    """A whole row brings lists of what belongs to it, and a list may name the same thing again: that is one event."""
    assert normalize(body_of(event, data), tenant="t", received_at=NOW).subject == subject


@pytest.mark.parametrize("data", [{"messageIds": [], "ack": 4}, {"ack": 4}, {"message": {"id": {"user": "x"}}}])
def test_nothing_named_is_still_no_id(data: object) -> None:
    """What names nothing at all keeps the reason it had."""
    assert refusal_of("message.ack", data).reason == "no_id"


def test_empty_list_is_no_data() -> None:
    """A list of nothing is about nothing."""
    assert refusal_of("message.ack", []).reason == "no_data"
