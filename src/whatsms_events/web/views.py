"""This module gives rows, pages and runs the JSON shape that the read API and the commands show.

`tenant` is always the slug of the configuration, `tenant_id` the vendor's id. Every field is explained in
`docs/read-api.md`; a test holds that page to what is shown.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Final

import msgspec

from whatsms_events.domain import delays
from whatsms_events.domain.delays import BOUNDS_S, OUTCOMES, PeriodPart
from whatsms_events.domain.drift import Count
from whatsms_events.storage.acks import StuckPage
from whatsms_events.storage.conversations import Found, FoundPage
from whatsms_events.storage.reads import PageKey, RowPage, RowView
from whatsms_events.storage.repair.reports import RunInfo

FOUND_TICKET: Final = ("id", "status", "channel", "created_at", "updated_at")
"""What is shown of a ticket that was found."""

_encoder: Final = msgspec.json.Encoder()


class ShownProgress(msgspec.Struct, frozen=True, kw_only=True):
    """What is shown of how far a run is; the rest of what the worker saves is its own."""

    phase: str = "contacts"
    requests: int = 0
    expected: int = 0
    drift: tuple[Count, ...] = ()
    unsettled: int = 0
    stopped: str | None = None


_standings: Final = msgspec.json.Decoder(ShownProgress)


def of_tenant(row: RowView, slugs: Mapping[str, str]) -> RowView:
    """Return a row whose `tenant` is a tenant id with the slug in its place: null where no slug has that id now."""
    tenant_id = row["tenant"]
    return row | {"tenant": slugs.get(str(tenant_id)), "tenant_id": tenant_id}


def shown_page(plural: str, page: RowPage, **more: object) -> RowView:
    """Return a page of rows with the opaque `next` to go on after, null at the end."""
    return {**more, plural: page.rows, "next": None if page.next is None else opaque(page.next)}


def opaque(key: PageKey) -> str:
    """Return a key as it stands in `next`."""
    return base64.urlsafe_b64encode(_encoder.encode(key)).decode().rstrip("=")


def shown_runs(infos: Sequence[RunInfo]) -> RowView:
    """Return a tenant's backfill runs; all that are kept are on one page."""
    return {"runs": [shown_run(one) for one in infos], "next": None}


def shown_run(info: RunInfo) -> RowView:
    """Return a backfill run: until it is finished `progress` says how far it is, then `report` what it found."""
    run, finished = info.run, info.finished_at is not None
    return {
        "run": run.number,
        "kind": run.kind,
        "cause": run.cause,
        "options": run.options,
        "started_at": run.started_at,
        "updated_at": info.updated_at,
        "finished_at": info.finished_at,
        "stopped_by": info.stopped_by,
        "remaining": info.remaining,
        "progress": None if finished and info.stopped_by is None else _progress(run.progress),
        "report": msgspec.Raw(info.report or b"null"),
    }


def shown_progress(saved: bytes) -> ShownProgress:
    """Return how far a run is, by what its worker saved; another release may have saved it in another form."""
    try:
        return _standings.decode(saved)
    except msgspec.MsgspecError:
        return ShownProgress()


def _progress(saved: bytes) -> RowView:
    standing = shown_progress(saved)
    return {
        "phase": standing.phase,
        "requests": standing.requests,
        "expected": standing.expected,
        "drift": standing.drift,
        "unsettled": standing.unsettled,
        "stopped": standing.stopped,
    }


def shown_found(page: FoundPage, seen: Callable[[RowView], RowView]) -> RowView:
    """Return whose conversations a text may mean; `seen` gives a contact as the one who asks may see it."""
    return {"conversations": [_found(one, seen) for one in page.found], "complete": page.complete, "next": None}


def _found(one: Found, seen: Callable[[RowView], RowView]) -> RowView:
    contact = seen(one.contact or {})
    tickets = [{name: row[name] for name in FOUND_TICKET} for row in one.tickets]
    return {
        "matched": one.matched,
        "contact_id": contact.get("id"),
        "name": contact.get("name"),
        "number": contact.get("number"),
        "is_group": contact.get("is_group"),
        "tickets": tickets,
        "tickets_complete": one.tickets_complete,
    }


def shown_period(parts: Sequence[PeriodPart], since: datetime, until: datetime) -> RowView:
    """Return what became of the messages of a period, as a whole and by its parts."""
    return {
        "since": since,
        "until": until,
        "counts": dict(zip(OUTCOMES, delays.total(parts), strict=True)),
        "bounds_s": BOUNDS_S,
        "parts": [_part(one) for one in parts],
    }


def _part(one: PeriodPart) -> RowView:
    delivered_after, read_after = one.delays
    return {
        "since": one.since,
        "until": one.until,
        "counts": dict(zip(OUTCOMES, one.counts, strict=True)),
        "delivered_after": delivered_after,
        "read_after": read_after,
        "complete": one.complete,
    }


def shown_stuck(page: StuckPage) -> RowView:
    """Return the tickets with messages that were not delivered."""
    return {"tickets": page.tickets, "messages": page.messages, "complete": page.complete, "next": None}
