"""An event is read from its bytes once more."""

import json
from datetime import UTC, datetime

import msgspec
import pytest

from whatsms_events.domain.events import EventType, decode
from whatsms_events.domain.normalize import normalize
from whatsms_events.domain.replay import WHOLE, Selection, read_again
from whatsms_events.errors import IntegrityError, InvalidEventError

AT = datetime(2026, 1, 15, 10, 30, tzinfo=UTC)
TENANT = "t-1"
RAW = json.dumps(
    {"event": "ticket.closed", "tenantId": TENANT, "timestamp": "2026-01-15T10:00:00Z", "data": {"ticket": {"id": "k"}}}
).encode()
EVENT = normalize(RAW, tenant=TENANT, received_at=AT)


def test_an_event_is_what_todays_code_makes_of_its_bytes() -> None:
    """Whatever form the log has: it keeps its id and when it was received."""
    older = msgspec.structs.replace(EVENT, data=b"{}", ticket_id=None, occurred_at=None)
    assert read_again(older, RAW, 3) == EVENT
    assert decode(EVENT)


def test_an_observation_stays_as_it_was_recorded() -> None:
    """Its bytes are a document of ours, and no webhook."""
    seen = msgspec.structs.replace(EVENT, origin="backfill", type=EventType.TICKET_OBSERVED)
    assert read_again(seen, b"{}", 3) is seen


def test_bytes_that_are_not_those_that_were_received_are_refused() -> None:
    """What cannot be read is told from what gives another event: the first is parked, the second stops the replay."""
    with pytest.raises(InvalidEventError):
        read_again(EVENT, b"[]", 3)
    with pytest.raises(IntegrityError, match="position 3"):
        read_again(EVENT, RAW.replace(b'"k"', b'"j"'), 3)


def test_only_a_selection_without_any_choice_is_the_whole_log() -> None:
    """Each choice makes it a part."""
    assert Selection().whole
    parts = (
        {"first": 2},
        {"last": 9},
        {"since": AT},
        {"until": AT},
        {"tenant": "t"},
        {"type": EventType.TICKET_CLOSED},
    )
    assert not any(msgspec.convert(part, Selection, strict=False).whole for part in parts)
    assert Selection() == WHOLE
