"""What is shown to whom: without the scope `personal`, "hidden" stands for whatever names, quotes or shows a person.

Which values those are is said in `domain/personal` alone. The hash of a body is hidden with them, and its size: where
all of a body is known but a number, the number is found by trying.
"""

from typing import Final

import msgspec
from aiohttp import web

from whatsms_events.domain import personal
from whatsms_events.domain.events import EventType
from whatsms_events.errors import InvalidEventError
from whatsms_events.storage.reads import RowView
from whatsms_events.web.access import holder

UNREADABLE: Final = msgspec.Raw(msgspec.json.encode({personal.EXTRA: {personal.HIDDEN: True}}))
"""Stands for data that nothing can be told of: all of it may be personal."""


def may_see(request: web.Request) -> bool:
    """Tell whether the one who asks may see what is personal."""
    return "personal" in holder(request).scopes


def for_eyes(request: web.Request, table: str, row: RowView) -> RowView:
    """Return a row of this table of the projection as the one who asks may see it."""
    return row if may_see(request) else personal.hidden(table, row)


def event_for_eyes(request: web.Request, row: RowView) -> RowView:
    """Return a row of the log as the one who asks may see it."""
    return row if may_see(request) else hidden_event(row)


def parked_for_eyes(request: web.Request, row: RowView) -> RowView:
    """Return a row of what is parked as the one who asks may see it; its size may be why it is parked, and stays."""
    return row if may_see(request) or "sha256" not in row else {**row, "sha256": personal.HIDDEN}


def trace_for_eyes(shown: RowView, *, personal: bool) -> RowView:
    """Return a trace as it may be seen: it has no value of anybody, but what the bytes were may tell one."""
    delivery = shown.get("delivery")
    return shown if personal or not isinstance(delivery, dict) else {**shown, "delivery": _unmeasured(delivery)}


def _unmeasured(row: RowView) -> RowView:
    """Return a row without what is computed of a body."""
    unknown: RowView = {"sha256": personal.HIDDEN, "size": None}
    return {**row, **{name: value for name, value in unknown.items() if name in row}}


def hidden_event(row: RowView) -> RowView:
    """Return a row of the log as everybody may see it who may read."""
    row = _unmeasured(row)
    data = row["data"]
    if not isinstance(data, msgspec.Raw):
        return row
    try:
        hidden = msgspec.Raw(personal.hidden_data(EventType(str(row["type"])), bytes(data)))
    except (InvalidEventError, ValueError):  # a row of another release, or one that somebody else wrote
        hidden = UNREADABLE
    return {**row, "data": hidden}
