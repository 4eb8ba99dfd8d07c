"""What is shown to whom: without the scope `personal`, "hidden" stands for whatever names, quotes or shows a person.

Which values those are is said in `domain/personal` alone. The hash of a body is hidden with them, and its size: where
all of a body is known but a number, the number is found by trying.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
import structlog
from aiohttp import web

from whatsms_events.domain import personal
from whatsms_events.domain.events import EventType
from whatsms_events.errors import InvalidEventError
from whatsms_events.storage.reads import RowView
from whatsms_events.web.access import holder

UNREADABLE: Final = msgspec.Raw(msgspec.json.encode({personal.EXTRA: {personal.HIDDEN: True}}))
"""Stands for data that nothing can be told of: all of it may be personal."""
SUBJECTS: Final = 50
"""So many things are named in one line of the log."""

log = structlog.get_logger()


def may_see(request: web.Request) -> bool:
    """Tell whether the one who asks may see what is personal."""
    return "personal" in holder(request).scopes


def showed(request: web.Request, kind: str, *subjects: object) -> None:
    """Note in the log that an answer shows what is personal: who saw which things, and nothing of what they say.

    Of more things than a line may name, the first and the last are: such a page is in their order. Nothing is noted
    where nothing was found, or where it was hidden.
    """
    if subjects and may_see(request):
        named = subjects if len(subjects) <= SUBJECTS else (subjects[0], subjects[-1])
        subject = named[0] if len(named) == 1 else named
        log.info("personal.shown", holder=holder(request).name, kind=kind, subject=subject, count=len(subjects))


def for_eyes(request: web.Request, table: str, rows: Sequence[RowView]) -> list[RowView]:
    """Return rows of this table of the projection as the one who asks may see them, and note who saw them."""
    showed(request, table, *(row["id"] for row in rows))
    return [row if may_see(request) else personal.hidden(table, row) for row in rows]


def events_for_eyes(request: web.Request, rows: Sequence[RowView]) -> list[RowView]:
    """Return rows of the log as the one who asks may see them, and note who saw them."""
    showed(request, "event", *(row["id"] for row in rows))
    return [row if may_see(request) else hidden_event(row) for row in rows]


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
