"""Says in words what a trace shows, for the command `trace` and the console alike.

Each function is given a part of what `trace_view` makes.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

TraceView = Mapping[str, Any]
"""A part of a trace, by the names of `docs/read-api.md`."""


def at(moment: datetime) -> str:
    """Return a time as the read API writes it."""
    return moment.isoformat().replace("+00:00", "Z")


_RANKS: Final = {
    "earlier": "an earlier time",
    "higher": "a higher level",
    "observation": "a look at WhatSMS",
    "own": "an event about it",
    "snapshot": "an event about something else",
    "loaded": "an event about something else that may be older",
    "fallback": "an event that it only stood beside",
}
"""By what a field was told, for people; `docs/read-api.md` has the ranks by their names."""

_KAFKA: Final = {
    "not_published": "not published yet",
    "past_retention": "not there any more: retention removed what was published so early",
    "not_found": "not there: retention had blanked it before it was published, or its partition was another one",
    "off": "Kafka is off",
    "unavailable": "Kafka does not answer, or its topics are not there",
}


def kafka_words(place: TraceView) -> str:
    """Say where the record is, or why it is not there."""
    if place["state"] == "published":
        since = "" if place["published_at"] is None else f", since {at(place['published_at'])}"
        return f"{place['topic']}/{place['partition']} at offset {place['offset']}{since}"
    return _KAFKA[place["state"]]


def table_words(tables: TraceView) -> str:
    """Say whether the event is applied."""
    if tables["parked"] is not None:
        now = "was discarded" if tables["discarded"] else "is parked"
        return f"could not be applied, and {now}: {tables['parked']}"
    if tables["state"] == "not_applied":
        return f"not applied yet: they are at position {tables['applied_through']}"
    if tables["changes"] is None:
        return "applied; what it said was blanked, or cannot be read any more"
    return "applied" if not tables["changes"] else "applied, but this release reads it otherwise: see `replay`"


def outcome_words(field: TraceView) -> str:
    """Say what became of one thing that the event says."""
    same = ", which says the same" if field["same"] and field["outcome"] == "lost" else ""
    doubt = " (doubtful)" if field["doubtful"] else ""
    if field["outcome"] == "lost":
        return f"lost to {place_words(field['winner'])}{same}{doubt}"
    return f"{'holds' if field['outcome'] == 'holds' else 'not applied'}{doubt}"


def place_words(place: TraceView) -> str:
    """Say by what a field was told."""
    parts = [_RANKS.get(place["rank"], place["rank"]), None if place["time"] is None else f"of {at(place['time'])}"]
    parts.append(None if place["position"] is None else f"at position {place['position']}")
    return " ".join(part for part in parts if part)


def rest_words(rest: TraceView) -> Sequence[str]:
    """Say what the REST API confirmed, in up to two parts."""
    found = [f"a field was told {at(rest['observed_at'])}"] if rest["observed_at"] else ["no field was told by it"]
    if (run := rest["last_reconcile"]) is None:
        return [*found, "no reconcile has finished"]
    if not run["compared"]:
        return [*found, f"reconcile {run['run']} did not look at messages"]
    what = f"found it {run['difference']}" if run["difference"] else "found no difference"
    return [*found, f"reconcile {run['run']} of {at(run['started_at'])} {what}"]
