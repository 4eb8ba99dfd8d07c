"""For consumers in Python: what Kafka or the read API holds becomes a typed event, and an event becomes that again.

    from whatsms_events import consume

    consumed = consume.from_kafka(record.headers, record.value)
    if isinstance(consumed.data, MessagePayload) and consumed.event.type is EventType.MESSAGE_RECEIVED:
        print(consumed.data.message.body)

The event feed sends a block of lines for each event:

    feed = consume.FeedReader()
    headers = {"Last-Event-ID": feed.reopen()}  # before each GET /api/v1/stream, also the first
    for line in lines:  # of its answer
        sent = feed.line(line)
        if sent is not None and not sent.ended:
            consumed = consume.from_json(sent.data)

Nothing here reads or writes: any client of Kafka or HTTP will do, with or without asyncio. The types are those of
`whatsms_events.domain.events`. A type of event that this release does not know is an `InvalidEventError` like whatever
else cannot be read: a consumer notes it and goes on.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Final
from uuid import UUID

import msgspec

from whatsms_events.domain.events import Event, EventType, LogEntry, Origin, Payload, decode
from whatsms_events.domain.feed import ENDED, Place, block, unescaped
from whatsms_events.domain.records import KafkaRecord, from_record, to_record
from whatsms_events.errors import InvalidEventError

_NULL: Final = b"null"
_Position = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Time = Annotated[datetime, msgspec.Meta(tz=True)]
_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError)
"""What is raised for text that is no JSON of ours; the last one for a time that no calendar has in UTC."""


class Consumed(msgspec.Struct, frozen=True, kw_only=True):
    """An event at its position in the log. `data` is typed; None where retention removed it.

    `log_id` names the log; None where the event comes from the read API, which serves one log. `event.tenant` is the
    vendor's id of the tenant. What has the same `log_id` and `position` is the same event.
    """

    log_id: UUID | None
    position: int
    event: Event
    data: Payload | None


class RowsPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of `/api/v1/events`: `next` is what to ask for as `after`; at `end` there is no more for now.

    `rows` are for `from_json`, one by one: where one cannot be read, the others can.
    """

    rows: list[bytes]
    next: int
    end: int


class _Row(msgspec.Struct, frozen=True, kw_only=True):
    """An event as the read API shows it; what follows from the rest of it is left out."""

    position: _Position
    id: UUID
    type: EventType
    tenant: str | None = None
    tenant_id: str
    occurred_at: _Time | None
    received_at: _Time
    origin: Origin
    subject: str | None
    ticket_id: str | None
    contact_id: str | None
    message_id: str | None
    data: msgspec.Raw


class _Page(msgspec.Struct, frozen=True, kw_only=True):
    events: list[msgspec.Raw]
    next: _Position
    end: _Position


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """One block that the feed sent: `name` is a type of event, and `data` its row for `from_json`.

    The last one of a feed that the service ends is named `feed.ended`, and its data is JSON with a `reason`.
    """

    name: str
    data: str

    @property
    def ended(self) -> bool:
        """Tell whether it says why the feed ends, and is no event."""
        return self.name == ENDED


class FeedReader:
    """Makes blocks of the lines of the event feed, by the rules of Server-Sent Events (WHATWG HTML, 9.2.6).

    One reader goes on over many connections: call `reopen` before each. `last_id` is the place behind which the feed
    goes on, empty before the first id; a consumer that keeps it goes on there after a restart.
    """

    def __init__(self, last_id: str = "") -> None:
        self.last_id = last_id
        self._id = last_id
        self._name = ""
        self._data: list[str] = []

    def reopen(self) -> str:
        """Forget a block that the last connection cut off; return the `Last-Event-ID` to send, which may be empty."""
        self._id, self._name, self._data = self.last_id, "", []
        return self.last_id

    def line(self, line: bytes | str) -> Sent | None:
        """Take the next line, with its end or without; return a block where the line ends one that has data.

        A line may be cut off in the middle of a character, where the connection was.
        """
        text = (line if isinstance(line, str) else line.decode(errors="replace")).rstrip("\r\n")
        if text:
            name, _, value = text.partition(":")
            self._field(name, value.removeprefix(" "))
            return None
        self.last_id = self._id  # only now: the block might have been cut off
        name, data = self._name, self._data
        self._name, self._data = "", []
        return Sent(name=name or "message", data=unescaped("\n".join(data))) if data else None

    def _field(self, name: str, value: str) -> None:
        match name:
            case "id" if "\0" not in value:
                self._id = value
            case "event":
                self._name = value
            case "data":
                self._data.append(value)
            case _:  # a comment has no name; `retry`, and what nobody knows, change nothing here
                pass


_rows: Final = msgspec.json.Decoder(_Row)
_pages: Final = msgspec.json.Decoder(_Page)
_encoder: Final = msgspec.json.Encoder()


def from_kafka(headers: Iterable[tuple[str, bytes]] | None, value: bytes | None) -> Consumed:
    """Return the event of a Kafka record; raise InvalidEventError, with the reason "stray" for somebody else's."""
    log_id, entry = from_record(tuple(headers or ()), value)
    return _consumed(log_id, entry)


def to_kafka(consumed: Consumed) -> KafkaRecord:
    """Return the record that the relay publishes for the event; raise ValueError where it names no log."""
    if consumed.log_id is None:
        raise ValueError("an event of the read API names no log, which a record must")
    return to_record(LogEntry(position=consumed.position, event=consumed.event), consumed.log_id)


def from_json(row: bytes | str) -> Consumed:
    """Return the event of one row of the read API's `/api/v1/events`; raise InvalidEventError."""
    try:
        return _of_row(_rows.decode(row))
    except _UNREADABLE as exc:
        raise InvalidEventError("row", type(exc).__name__) from exc


def rows_of(body: bytes | str) -> RowsPage:
    """Return the rows of a whole answer of `/api/v1/events`; raise InvalidEventError."""
    try:
        page = _pages.decode(body)
    except _UNREADABLE as exc:
        raise InvalidEventError("page", type(exc).__name__) from exc
    return RowsPage(rows=[bytes(row) for row in page.events], next=page.next, end=page.end)


def to_json(consumed: Consumed, slug: str | None = None) -> bytes:
    """Return the row that the read API shows of the event, as far as the event tells; `slug` is its tenant's."""
    event = consumed.event
    return _encoder.encode(
        _Row(
            position=consumed.position,
            id=event.id,
            type=event.type,
            tenant=slug,
            tenant_id=event.tenant,
            occurred_at=event.occurred_at,
            received_at=event.received_at,
            origin=event.origin,
            subject=event.subject,
            ticket_id=event.ticket_id,
            contact_id=event.contact_id,
            message_id=event.message_id,
            data=msgspec.Raw(event.data or _NULL),
        )
    )


def to_feed(consumed: Consumed, slug: str | None = None) -> bytes:
    """Return the block that the event feed sends of the event, as far as the event tells."""
    place = Place(consumed.position, consumed.event.id)
    return block(place, consumed.event.type, to_json(consumed, slug))


def _of_row(row: _Row) -> Consumed:
    data = bytes(row.data)
    event = Event(
        id=row.id,
        type=row.type,
        tenant=row.tenant_id,
        occurred_at=None if row.occurred_at is None else row.occurred_at.astimezone(UTC),
        received_at=row.received_at.astimezone(UTC),
        origin=row.origin,
        subject=row.subject,
        ticket_id=row.ticket_id,
        contact_id=row.contact_id,
        message_id=row.message_id,
        data=b"" if data == _NULL else data,
    )
    return _consumed(None, LogEntry(position=row.position, event=event))


def _consumed(log_id: UUID | None, entry: LogEntry) -> Consumed:
    data = decode(entry.event) if entry.event.data else None
    return Consumed(log_id=log_id, position=entry.position, event=entry.event, data=data)
