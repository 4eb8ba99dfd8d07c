"""The line of stations of a passport: which times are told, what lies between them, and what no time is kept of."""

from datetime import UTC, datetime, timedelta
from typing import Any

from whatsms_events.web.console.way import Seen, way

CAME = datetime(2026, 11, 29, 9, 30, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def never(_position: int) -> None:
    """Know nothing of when a position was applied."""


def event(**changed: Any) -> dict[str, Any]:
    """Return what a passport is made of, for an event that is everywhere."""
    delivery = {"first_received_at": CAME, "size": 7, "blanked": False, "redelivered": 0, "signed_by": "current"}
    place = {"topic": "t", "partition": 0, "offset": 3}
    record = {"state": "published", "published_at": CAME + timedelta(seconds=2), **place}
    tables = {"state": "applied", "parked": None, "changes": 0, "applied_through": 9}
    base = {"kind": "event", "origin": "webhook", "occurred_at": CAME - timedelta(minutes=3), "log": {"position": 5}}
    return {**base, "delivery": delivery, "record": record, "tables": tables, **changed}


def spans(shown: Any, applied: Seen = never) -> dict[str, str]:
    """Return what stands between the stations, by the title of each."""
    return {one.title: one.span for one in way(shown, applied)}


def test_what_lies_between_two_stations_is_told_where_both_have_a_time() -> None:
    """Of the step between door and answer, and of tables that nobody looked at, no time is kept, and that is said."""
    assert spans(event()) == {
        "Happened": "",
        "Received": "3 min after it happened",
        "Verified": "no time of its own is kept",
        "Log": "before WhatSMS was answered; no time of its own is kept",
        "Kafka": "2 s after it was received",
        "Tables": "no time of its own is kept",
    }
    observed = spans(event(origin="backfill", occurred_at=None))
    assert (observed["Received"], observed["Log"][:23]) == ("", "before the run went on;")
    ahead = spans(event(occurred_at=CAME + timedelta(seconds=9)))
    assert ahead["Received"] == "9 s before it happened: the clocks differ"


def test_when_the_tables_had_it_is_told_by_a_process_that_looked() -> None:
    """To the minute; of an event that waits, or is parked, nothing is told."""
    minute = CAME.replace(second=0)
    assert spans(event(), lambda _at: (minute, minute + MINUTE))["Tables"].startswith(
        "in the minute in which it was re"
    )
    later = spans(event(), lambda at: (minute + at * MINUTE, minute + 2 * at * MINUTE))["Tables"]
    assert later == "between 09:35 and 09:40 UTC, as this process saw it"
    away = spans(event(), lambda _at: (minute - MINUTE, minute + 20 * MINUTE))["Tables"]
    assert away == "between 09:29 and 09:50 UTC, as this process saw it", "nobody looked for as long as that"
    waits = event(tables={"state": "not_applied", "parked": None, "changes": None, "applied_through": 4})
    assert spans(waits, lambda _at: (minute, minute))["Tables"] == ""


def test_a_discarded_delivery_tells_how_long_it_was_parked() -> None:
    """A parked one has no time behind that of the door."""
    delivery = {"first_received_at": CAME, "count": 1, "signed_by": None, "discarded_at": None}
    assert spans({"kind": "parked", "reason": "json", "delivery": delivery})["Log"] == ""
    gone = {**delivery, "discarded_at": CAME + timedelta(days=2)}
    assert spans({"kind": "parked", "reason": "json", "delivery": gone})["Log"] == "2 d after it was received"
