"""What is read as a time, what is not, and that neither moves an id."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatsms_events.domain.events import decode, parse_time
from whatsms_events.domain.fields import ENVELOPE_TIME, TIMES, unreadable
from whatsms_events.domain.normalize import identify, normalize
from whatsms_events.domain.times import read_time

NOON = datetime(2026, 6, 10, 12, tzinfo=UTC)
SECOND = 1781092800
FIRST, LAST = 10**9, 10**10 - 1


def long(value: int, *, unsigned: bool) -> dict[str, object]:
    """Return a whole number as JavaScript's Long becomes in JSON: two halves, of which each may be negative."""
    halves = [value & 0xFFFFFFFF, value >> 32]
    low, high = halves if unsigned else [half - (1 << 32) if half >= 1 << 31 else half for half in halves]
    return {"low": low, "high": high, "unsigned": unsigned}


@given(seconds=st.integers(FIRST, LAST), millis=st.integers(0, 999), unsigned=st.booleans())
def test_seconds_and_milliseconds_are_read_in_every_form(seconds: int, millis: int, *, unsigned: bool) -> None:
    """As a number, as text, and as a Long, whose low half of milliseconds has any sign."""
    whole = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    exact, number = whole + timedelta(milliseconds=millis), seconds * 1000 + millis
    assert [read_time(one) for one in (seconds, str(seconds), long(seconds, unsigned=unsigned))] == [whole] * 3
    assert [read_time(one) for one in (number, str(number), long(number, unsigned=unsigned))] == [exact] * 3


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        (float(SECOND), NOON),
        (SECOND + 0.5, NOON + timedelta(milliseconds=500)),
        (SECOND * 1000 + 0.25, NOON + timedelta(microseconds=250)),
        ({"low": SECOND, "high": 0}, NOON),
        (FIRST, datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)),
        ("2026-06-10T12:00:00Z", NOON),
        ("2026-06-10 14:00:00+0200", NOON),
    ],
)
def test_what_else_is_a_time(value: object, moment: datetime) -> None:
    """Fractions, as Python and PHP write them; a Long without its sign; and all ISO text, as ever."""
    assert read_time(value) == moment


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, False, 0, 1, -SECOND, -1, FIRST - 1, LAST + 1, SECOND * 1_000_000, 10**13, 10**30, 1e300),
        *(
            "",
            " ",
            "0",
            f" {SECOND}",
            f"{SECOND}.5",
            f"-{SECOND}",
            "0000000000",
            "0781092800",
            "١٧٨١٠٩٢٨٠٠",
            "9" * 4000,
        ),
        *("10/06/2026 12:00", "Wed, 10 Jun 2026 12:00:00 GMT", "2026-W24-3", "2026-06-10", "yesterday", "now"),
        *("0001-01-01T00:00:00Z", "1970-01-01T00:00:00.000Z", "9999-12-31T23:59:59Z", "0000-00-00 00:00:00"),
        *([], [SECOND], {}, {"low": SECOND}, {"low": str(SECOND), "high": 0}, {"low": SECOND, "high": 0, "x": 1}),
        *({"low": SECOND, "high": True}, {"low": 1 << 32, "high": 0}, {"low": SECOND, "high": 1 << 40}),
        {"seconds": SECOND, "nanos": 0},
    ],
    ids=ascii,
)
def test_what_is_no_time(value: object) -> None:
    """Another number of digits, how programs write that there is no time, and formats in which a month may be a day."""
    assert read_time(value) is None


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.dictionaries(st.sampled_from(["low", "high", "unsigned"]), inner),
    )
)
def test_a_time_is_one_of_a_message_or_none(value: object) -> None:
    """Whatever the value, a moment between 2001 and 2286 or None, and nothing is raised."""
    moment = read_time(value)
    assert moment is None or (2001 <= moment.year <= 2286 and moment.tzinfo is UTC)


def delivery(stamp: object, **data: object) -> bytes:
    """Return a delivery about a ticket."""
    return json.dumps({"event": "ticket.updated", "timestamp": stamp, "data": data}).encode()


@pytest.mark.parametrize(
    "stamp", [SECOND, str(SECOND), {"low": SECOND, "high": 0, "unsigned": True}, "1970-01-01T00:00:01Z"]
)
def test_the_id_rests_on_iso_text_alone(stamp: object) -> None:
    """An id is what it was before numbers were read: none of the time's bits, but those of the frozen parser."""
    body = delivery(stamp, ticket={"id": "1"})
    event = normalize(body, tenant="t", received_at=NOON)
    assert event.id == identify(body, tenant="t")
    assert event.id.int >> 80 == (1000 if parse_time(stamp) else 0)
    assert event.occurred_at == (None if stamp == "1970-01-01T00:00:01Z" else NOON)


@pytest.mark.parametrize(
    ("stamp", "data", "names"),
    [
        (
            "2026-06-10T12:00:00Z",
            {"ticket": {"id": "1", "createdAt": "x", "contact": {"createdAt": 5}}},
            ["createdAt"] * 2,
        ),
        ("x", {"ticket": {"id": "1", "updatedAt": False}}, ["timestamp", "updatedAt"]),
        ("x", {"ticket": {"id": "1"}, "timestamp": "y"}, ["timestamp"]),
        ("2026-06-10T12:00:00Z", {"ticket": {"id": "1"}, "timestamp": "y"}, []),
        (None, {"ticket": {"id": "1", "createdAt": None}, "createdAt": "beside"}, []),
        (SECOND, {"id": "1", "updatedAt": SECOND}, []),
    ],
)
def test_what_cannot_be_read_is_named(stamp: object, data: dict[str, Any], names: list[str]) -> None:
    """Each time that could not be read, by the vendor's name and once for each place; none that is null or not read."""
    event = normalize(delivery(stamp, **data), tenant="t", received_at=NOON)
    found = unreadable(event, decode(event))
    assert sorted(found) == sorted(names)
    assert set(found) <= {ENVELOPE_TIME, *TIMES}


def test_the_short_look_for_names_of_times_finds_each() -> None:
    """Every time is looked for by the end of its name alone."""
    assert all(one.endswith("At") for one in TIMES)
