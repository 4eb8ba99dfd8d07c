"""What is handed out of one person: all that is held of them, as JSON, for the read API and for the command `export`.

Of what somebody else said and that only names the person, the place is told and not the text, since that text is about
another person. Raw bytes are not handed out either: they hold credentials of other systems, which `data` never has.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal, TypeVar, get_args

import msgspec
import structlog
from aiohttp import web
from msgspec import UNSET

from whatsms_events.clock import now
from whatsms_events.domain.events import Event, MessagePayload, Ticket, decode, encode, from_micros
from whatsms_events.domain.last_message import plain
from whatsms_events.domain.marks import shows
from whatsms_events.domain.secrets import without_secrets
from whatsms_events.errors import ConfigError, InvalidEventError, StorageUnavailableError
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.person import EventOf, HeldRow, ParkedEventOf, ParkedOf, People, Person, shown_of
from whatsms_events.storage.reads import Queries, RowView, shown_revisions, shown_row
from whatsms_events.storage.tables import FOUND_BY
from whatsms_events.web.access import holder, require
from whatsms_events.web.questions import entity_id, json_answer, not_found, parameters, refusal

FORMAT: Final = "whatsms-events/person/1"

Section = Literal["contacts", "tickets", "messages", "events", "parked_deliveries", "parked_events", "comparisons"]
SECTIONS: Final[tuple[Section, ...]] = get_args(Section)

ANSWER_BYTES: Final = 32 * 1024 * 1024
"""A request may fill so much memory. The command writes as it reads, and has no limit."""

ANSWER_S: Final = 300.0
"""The whole log is looked through: about a minute for a million events."""

T = TypeVar("T")
log = structlog.get_logger()

_encoder: Final = msgspec.json.Encoder()


def heading(person: Person, slug: str, made_at: datetime, through: int) -> RowView:
    """Return what stands above the sections; `through` is the position up to which the log was looked through."""
    return {
        "format": FORMAT,
        "made_at": made_at,
        "tenant": slug,
        "tenant_id": person.tenant,
        "contact_ids": sorted(person.found.contacts),
        "numbers": sorted(person.found.numbers),
        "through": through,
    }


async def sections(people: People, person: Person, through: int) -> AsyncIterator[tuple[Section, list[RowView]]]:
    """Yield pages of everything that is held, section by section in their order; a page may be empty."""
    messages: Sequence[HeldRow] = ()
    async for table, rows in people.rows_of(person):
        match table:
            case "contact":
                yield "contacts", [shown_row(_without_search(row)) for row in rows]
            case "ticket":
                yield "tickets", [shown_row(row) for row in rows]
            case "message":
                messages = rows
            case "message_revision":
                yield "messages", _messages(messages, rows)
    async for found in people.events_of(person, through=through):
        yield "events", [_event(one, person) for one in found.events]
    async for parked in people.parked_of(person):
        yield "parked_deliveries", [_delivery(one) for one in parked]
    async for unapplied in people.parked_events_of(person):
        yield "parked_events", [_parked_event(one) for one in unapplied]
    async for name, kept in people.repairs_of(person):
        yield "comparisons", [_repair(name, row) for row in kept]


def links(row: object) -> Iterator[str]:
    """Yield every URL of a shown row, by the names of its fields: media, pictures, previews."""
    waiting: list[tuple[str, object]] = [("", row)]
    while waiting:
        name, value = waiting.pop()
        match value:
            case msgspec.Raw():
                waiting.append((name, msgspec.json.decode(value)))
            case dict():
                waiting += [(str(key), one) for key, one in reversed(value.items())]
            case list():
                waiting += [(name, one) for one in reversed(value)]
            case str() if value and name.lower().endswith("url"):
                yield value


def _without_search(row: HeldRow) -> HeldRow:
    return {name: value for name, value in row.items() if name not in FOUND_BY}


def _messages(messages: Sequence[HeldRow], revisions: Sequence[HeldRow]) -> list[RowView]:
    of: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in revisions:
        of[one["message_id"]].append(one)
    return [
        shown_row(row) | {"revisions": shown_revisions(of[row["id"]]), "revisions_complete": True} for row in messages
    ]


def _data(event: Event, person: Person) -> msgspec.Raw:
    """Return the data of an event of theirs; in a group without the last message, where somebody else wrote it."""
    if event.ticket_id is None or event.ticket_id in person.found.tickets:
        return msgspec.Raw(event.data)
    try:
        payload = decode(event)
    except InvalidEventError:  # no code can read it
        return msgspec.Raw(event.data)
    ticket = payload.ticket if isinstance(payload, MessagePayload) else UNSET
    if not isinstance(payload, MessagePayload) or not isinstance(ticket, Ticket):
        return msgspec.Raw(event.data)
    last, body = ticket.last_message, payload.message.body
    if not isinstance(last, str) or (isinstance(body, str) and shows(plain(last), plain(body))):
        return msgspec.Raw(event.data)
    ticket = msgspec.structs.replace(ticket, last_message=UNSET)
    return msgspec.Raw(encode(msgspec.structs.replace(payload, ticket=ticket)))


def _event(found: EventOf, person: Person) -> RowView:
    position, event = found.row.position, found.row.event
    return {
        "position": position,
        "id": event.id,
        "type": event.type,
        "occurred_at": event.occurred_at,
        "received_at": event.received_at,
        "origin": event.origin,
        "own": found.own,
        "subject": event.subject,
        "ticket_id": event.ticket_id,
        "contact_id": event.contact_id,
        "message_id": event.message_id,
        "data": _data(event, person) if found.own and event.data else None,
    }


def _delivery(found: ParkedOf) -> RowView:
    return {
        "id": found.id,
        "received_at": found.received_at,
        "reason": found.reason,
        "readable": found.readable,
        "content": None if found.plain is None else _content(found.plain),
    }


def _parked_event(found: ParkedEventOf) -> RowView:
    return {
        "source": found.place.source,
        "at": found.place.at,
        "position": found.position,
        "event_id": found.event_id,
        "parked_at": from_micros(found.parked_at),
        "reason": found.reason,
        "content": _content(found.raw),
    }


def _repair(name: str, row: HeldRow) -> RowView:
    at = row.get("found_at") or row.get("last_at") or row.get("due_at")
    return {
        "kind": name.removeprefix("backfill_"),
        "run": row.get("run"),
        "entity": row["entity"],
        "id": row["id"],
        "at": None if at is None else from_micros(at),
        "fields": msgspec.json.decode(row["fields"]) if row.get("fields") else [],
        "shown": [without_secrets({"": one})[""] for one in shown_of(row)],
    }


def _content(raw: bytes) -> object:
    """Return what bytes say as JSON, without credentials; None where they are no JSON."""
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return without_secrets({"": value})[""]


class PersonExport:
    """Answers with all that is held of a person. `tenants` maps each slug to its tenant id. One answer at a time."""

    def __init__(
        self,
        people: People,
        event_log: EventLog,
        queries: Queries,
        tenants: Mapping[str, str],
        *,
        limit_bytes: int = ANSWER_BYTES,
        deadline_s: float = ANSWER_S,
    ) -> None:
        self._people = people
        self._event_log = event_log
        self._queries = queries
        self._limit_bytes = limit_bytes
        self._deadline_s = deadline_s
        self._one = asyncio.Lock()
        self.change(tenants)

    def change(self, tenants: Mapping[str, str]) -> None:
        """Know these tenants from now on."""
        self._tenants = tenants

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the one route."""
        return [web.get("/api/v1/{slug}/contacts/{id}/export", self._export)]

    async def _export(self, request: web.Request) -> web.Response:
        require(request, "personal")
        parameters(request)
        slug, named = request.match_info["slug"], entity_id(request)
        if slug not in self._tenants:
            raise not_found()
        if self._one.locked():
            raise StorageUnavailableError("another export is being made: the log is looked through by one at a time")
        async with self._one:
            try:
                async with asyncio.timeout(self._deadline_s):
                    person, made = await self._made(slug, named)
            except TimeoutError as exc:
                raise _too_much(f"it takes more than {self._deadline_s:g} s") from exc
        # What was asked for may be a number: only the id of a contact that is known is told.
        subject = min(person.found.contacts, default=None)
        log.info("personal.shown", holder=holder(request).name, kind="export", subject=subject)
        return json_answer(made)

    async def _made(self, slug: str, named: str) -> tuple[Person, RowView]:
        # It takes longer than a reader's turn may, and one at a time does it: see `_one`.
        try:
            person, end = await self._people.person(self._tenants[slug], named), await self._event_log.end()
        except ConfigError as exc:
            raise refusal(web.HTTPConflict, str(exc)) from exc
        if person.nobody:
            raise not_found()
        held: dict[str, list[msgspec.Raw]] = {name: [] for name in SECTIONS}
        urls: dict[str, None] = {}
        size = 0
        async for name, rows in self._in_turns(sections(self._people, person, end)):
            for row in rows:
                held[name].append(msgspec.Raw(_encoder.encode(row)))
                urls |= dict.fromkeys(links(row))
                size += len(held[name][-1])
            if size > self._limit_bytes:
                raise _too_much(f"it has more than {self._limit_bytes} bytes")
        if not any(held.values()):
            raise not_found()
        return person, heading(person, slug, now(), end) | held | {"media_urls": list(urls)}

    async def _in_turns(self, pages: AsyncIterator[T]) -> AsyncIterator[T]:
        """Yield the pages; each is asked for in a reader's turn, so that other questions come in between."""
        while True:
            async with self._queries.turn():
                try:
                    page = await anext(pages)
                except StopAsyncIteration:
                    return
            yield page


def _too_much(why: str) -> web.HTTPException:
    return refusal(web.HTTPConflict, f"this export is too large for a request, since {why}: use the command `export`")
