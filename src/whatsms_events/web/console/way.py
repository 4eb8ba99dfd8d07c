"""The way of one event or parked delivery as a line of stations, with the times that are known and what lies between.

Kept are the vendor's own time, the time at the door, and that of the record in Kafka. Verifying and appending are one
step, and a delivery is answered behind it. When the tables had the event is known to a process that looked meanwhile.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias

from whatsms_events.web.console.rendering import lasting
from whatsms_events.web.console.stations import Tone
from whatsms_events.web.trace_words import kafka_words, table_words

Seen: TypeAlias = Callable[[int], tuple[datetime, datetime] | None]
"""Between which times this process saw that a position was passed; None where it was not looking."""

_APPLIED: Final[dict[str, Tone]] = {"applied": "good"}

_MINUTE: Final = timedelta(minutes=1)

_ONE_STEP: Final = "no time of its own is kept"


@dataclass(frozen=True, slots=True)
class Stop:
    """One station: whether the thing was there, when, how long after another one, and what is known of it."""

    title: str
    tone: Tone
    word: str
    at: datetime | None
    says: str
    span: str = ""


def way(shown: Any, applied: Seen) -> list[Stop]:
    """Return the stations of an event or of a parked delivery; a thing has none."""
    if shown is None or shown["kind"] not in ("event", "parked"):
        return []
    return _of_event(shown, applied) if shown["kind"] == "event" else _of_parked(shown)


def _of_parked(shown: Any) -> list[Stop]:
    delivery = shown["delivery"]
    times = "" if delivery["count"] == 1 else f", {delivery['count']} times so far"
    signed = f"signed with {delivery['signed_by']}" if delivery["signed_by"] else "nobody noted by which secret"
    gone, came = delivery["discarded_at"], delivery["first_received_at"]
    span = _span(came, gone, "it was received") if gone else ""
    return [
        Stop("Received", "good", "came", came, f"by webhook{times}"),
        Stop("Verified", "good", "signed", None, signed, span=_ONE_STEP),
        Stop("Log", "warn", "discarded" if gone else "parked", gone, f"not appended: {shown['reason']}", span),
    ]


def _of_event(shown: Any, applied: Seen) -> list[Stop]:
    delivery, happened_at = shown["delivery"], shown["occurred_at"]
    came, by_hook = delivery["first_received_at"], shown["origin"] == "webhook"
    happened: Tone = "good" if happened_at else "plain"
    size = "its size is hidden" if delivery["size"] is None else f"{delivery['size']} bytes"
    if delivery["blanked"]:
        size = "its bytes were blanked by retention or erasure"
    again = "; how often is not known" if delivery["redelivered"] is None else ""
    if delivery["redelivered"]:
        again = f"; the same bytes came again {delivery['redelivered']} times"
    signed = delivery["signed_by"]
    verified = f"signed with {signed}" if signed else "no signature: it was not delivered" if not by_hook else "unknown"
    checked: Tone = "good" if signed or not by_hook else "plain"
    answered = "before WhatSMS was answered" if by_hook else "before the run went on"
    position = f"position {shown['log']['position']}"
    span = _span(happened_at, came, "it happened") if happened_at else ""
    return [
        Stop("Happened", happened, "at WhatSMS", happened_at, "by the clock of WhatSMS"),
        Stop("Received", "good", shown["origin"], came, f"{size}{again}", span),
        Stop("Verified", checked, "signed" if signed else "-", None, verified, _ONE_STEP if by_hook else ""),
        Stop("Log", "good", "appended", None, position, f"{answered}; {_ONE_STEP}"),
        _of_kafka(shown["record"], came),
        _of_tables(shown, came, applied),
    ]


def _of_kafka(record: Any, came: datetime) -> Stop:
    tones: dict[str, Tone] = {"published": "good", "off": "plain"}
    state, at = record["state"], record["published_at"]
    span = _span(came, at, "it was received") if at else ""
    words = kafka_words({**record, "published_at": None})
    return Stop("Kafka", tones.get(state, "warn"), state.replace("_", " "), at, words, span)


def _of_tables(shown: Any, came: datetime, applied: Seen) -> Stop:
    tables = shown["tables"]
    if not tables:
        return Stop("Tables", "warn", "not read", None, "not known now")
    tone: Tone = "bad" if tables["parked"] else _APPLIED.get(tables["state"], "warn")
    span = ""
    if tables["state"] == "applied":
        seen = applied(shown["log"]["position"])
        span = _ONE_STEP if seen is None else f"between {seen[0]:%H:%M} and {seen[1]:%H:%M} UTC, as this process saw it"
        if seen is not None and seen[0] <= came < seen[1] <= seen[0] + _MINUTE:
            span = "in the minute in which it was received, as this process saw it"
    return Stop("Tables", tone, tables["state"].replace("_", " "), None, table_words(tables), span)


def _span(since: datetime, until: datetime, what: str) -> str:
    """Say how long after something that was. Two clocks may differ, so a time can be before its cause."""
    seconds = (until - since).total_seconds()
    if seconds < 0:
        return f"{lasting(-seconds)} before {what}: the clocks differ"
    return f"{lasting(seconds)} after {what}"
