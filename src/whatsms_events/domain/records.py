"""How a log entry is written as a Kafka record (CloudEvents 1.0, binary mode; topic, key, partition) and read back.

The value is the event's `data` as it stands in the log; the headers rebuild everything else. Attribute names are
lower-case letters only (CloudEvents 1.0, "Naming conventions"); header values are UTF-8 (its Kafka binding, 3.2).
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Final, assert_never
from urllib.parse import quote
from uuid import UUID

import msgspec

from whatsms_events.domain.events import Event, EventType, LogEntry, Origin, entity
from whatsms_events.errors import InvalidEventError

TOPICS: Final = ("conversations", "contacts", "campaigns")
"""Suffixes of the topic names. What needs an order shares a topic: a `ticket.closed` follows the message before it."""

MARKER_HEADER: Final = "whatsms_opening"
"""Marks a record of the relay's opening abort, which is never committed: only uncommitted readers see one."""

STRAY: Final = "stray"
"""The reason for a record that names no log: another program wrote it, so it is no sign of a fault in our code."""

Headers = Sequence[tuple[str, bytes]]

TYPE_PREFIX: Final = "pt.whatsms."
_SEQUENCE_DIGITS: Final = 19
_POSITION_LIMIT: Final = 1 << 63


class KafkaRecord(msgspec.Struct, frozen=True):
    """What the relay publishes. `topic` is the suffix, without the configured prefix."""

    topic: str
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


def topic_of(event_type: EventType) -> str:
    """Return the suffix of the topic that holds events of this type."""
    about = entity(event_type)
    match about:
        case "message" | "ticket":
            return "conversations"
        case "contact":
            return "contacts"
        case "campaign":
            return "campaigns"
        case _:
            assert_never(about)


def partition_of(key: bytes, partitions: int) -> int:
    """Return a key's partition: CRC-32, as librdkafka's partitioner "consistent", so that others can compute it."""
    return zlib.crc32(key) % partitions


_TOPICS: Final = {event_type: topic_of(event_type) for event_type in EventType}
_TYPE_VALUES: Final = {event_type: (TYPE_PREFIX + event_type).encode("ascii") for event_type in EventType}
_TYPES: Final = {value: event_type for event_type, value in _TYPE_VALUES.items()}
_ORIGIN_VALUES: Final[Mapping[Origin, bytes]] = {
    "webhook": b"webhook",
    "backfill": b"backfill",
    "operator": b"operator",
}
_ORIGINS: Final[Mapping[bytes, Origin]] = {value: origin for origin, value in _ORIGIN_VALUES.items()}

# A header may be absent (KeyError) or, in Kafka, have no value at all (AttributeError, TypeError).
_UNREADABLE: Final = (KeyError, AttributeError, TypeError, ValueError, OverflowError, msgspec.MsgspecError)

# The same in every record.
_SPECVERSION: Final = ("ce_specversion", b"1.0")
_CONTENT_TYPE: Final = ("content-type", b"application/json")


def to_record(entry: LogEntry, log_id: UUID) -> KafkaRecord:
    """Return the record of a log entry. Its texts must be storable, as `normalize` makes them."""
    event = entry.event
    tenant = event.tenant
    headers = [
        _SPECVERSION,
        ("ce_id", _value(event.id)),
        ("ce_type", _TYPE_VALUES[event.type]),
        ("ce_source", _source(tenant)),
        _CONTENT_TYPE,
        ("ce_tenant", tenant.encode("utf-8")),
        ("ce_origin", _ORIGIN_VALUES[event.origin]),
        ("ce_logid", _value(log_id)),
        ("ce_sequence", b"%019d" % entry.position),
        ("ce_recordedtime", _value(event.received_at)),
    ]
    if event.occurred_at is not None:
        headers.append(("ce_time", _value(event.occurred_at)))
    if event.subject is not None:
        headers.append(("ce_subject", event.subject.encode("utf-8")))
    if event.ticket_id is not None:
        headers.append(("ce_ticketid", event.ticket_id.encode("utf-8")))
    if event.contact_id is not None:
        headers.append(("ce_contactid", event.contact_id.encode("utf-8")))
    if event.message_id is not None:
        headers.append(("ce_messageid", event.message_id.encode("utf-8")))
    key = f"{tenant}/{event.ticket_id or event.subject or ''}".encode()
    return KafkaRecord(_TOPICS[event.type], key, event.data, tuple(headers))


def replayed(record: KafkaRecord, replay: UUID, begun_at: datetime, first: int) -> KafkaRecord:
    """Return the record with the marks of a replay: which one, when it was begun, and its first position."""
    marks = (
        ("ce_replayid", _value(replay)),
        ("ce_replaytime", _value(begun_at)),
        ("ce_replayfrom", b"%019d" % first),
    )
    return KafkaRecord(record.topic, record.key, record.value, (*record.headers, *marks))


def from_record(headers: Headers, value: bytes | None) -> tuple[UUID, LogEntry]:
    """Return the log id and the entry a record was made of.

    Raise InvalidEventError: STRAY where the record names no log, "record" where something else of it cannot be read.
    """
    found = dict(headers)
    if value is None:
        raise _fault(found)
    try:
        if found["ce_specversion"] != b"1.0":
            raise _fault(found)
        time = found.get("ce_time")
        event = Event(
            id=_uuid(found["ce_id"]),
            type=_TYPES[found["ce_type"]],
            tenant=found["ce_tenant"].decode("utf-8"),
            occurred_at=None if time is None else _time(time),
            received_at=_time(found["ce_recordedtime"]),
            origin=_ORIGINS[found["ce_origin"]],
            subject=_text(found, "ce_subject"),
            ticket_id=_text(found, "ce_ticketid"),
            contact_id=_text(found, "ce_contactid"),
            message_id=_text(found, "ce_messageid"),
            data=value,
        )
        return _log_id(found["ce_logid"]), LogEntry(position=_position(found["ce_sequence"]), event=event)
    except _UNREADABLE as exc:
        raise _fault(found) from exc


def log_id_of(headers: Headers) -> UUID | None:
    """Return the log that a record names; None for a stray record, which no relay has written."""
    try:
        return _uuid(dict(headers)["ce_logid"])
    except _UNREADABLE:
        return None


def place_of(headers: Headers) -> tuple[UUID, int, UUID] | None:
    """Return the log id, position and event id of a record; None where one of them cannot be read."""
    found = dict(headers)
    try:
        return _uuid(found["ce_logid"]), _position(found["ce_sequence"]), _uuid(found["ce_id"])
    except _UNREADABLE:
        return None


# UUIDs and times go through msgspec, several times faster than their own methods.

_encode: Final = msgspec.json.Encoder().encode
_decode_uuid: Final = msgspec.json.Decoder(UUID).decode
_time_decoder: Final[msgspec.json.Decoder[datetime]] = msgspec.json.Decoder(Annotated[datetime, msgspec.Meta(tz=True)])
_QUOTED: Final = b'"%b"'


def _value(value: UUID | datetime) -> bytes:
    """Write a UUID in its canonical form, a time as RFC 3339 with "Z", to the microsecond where there are any."""
    return _encode(value)[1:-1]


def _uuid(value: bytes) -> UUID:
    return _decode_uuid(_QUOTED % value)


_log_id = lru_cache(maxsize=16)(_uuid)  # the same in every record of a log


def _time(value: bytes) -> datetime:
    moment = _time_decoder.decode(_QUOTED % value)
    return moment if moment.tzinfo is UTC else moment.astimezone(UTC)  # we write them in UTC


def _position(value: bytes) -> int:
    """Read only the form we write: `int` alone takes signs, blanks and underscores."""
    position = int(value) if len(value) == _SEQUENCE_DIGITS and value.isdigit() else -1
    if not 0 <= position < _POSITION_LIMIT:
        raise ValueError("not a position")
    return position


def _decoded(value: bytes) -> str:
    return value.decode("utf-8")


def _text(found: Mapping[str, bytes], name: str) -> str | None:
    value = found.get(name)
    return None if value is None else value.decode("utf-8")


READERS: Final[Mapping[str, Callable[[bytes], object]]] = {
    "ce_logid": _uuid,  # first: without it the record is a stray, whatever else it lacks
    "ce_specversion": {b"1.0": "1.0"}.__getitem__,
    "ce_id": _uuid,
    "ce_type": _TYPES.__getitem__,
    "ce_tenant": _decoded,
    "ce_recordedtime": _time,
    "ce_origin": _ORIGINS.__getitem__,
    "ce_sequence": _position,
    "ce_time": _time,
    "ce_subject": _decoded,
    "ce_ticketid": _decoded,
    "ce_contactid": _decoded,
    "ce_messageid": _decoded,
}
"""How each header is read, to find the one at fault; `from_record` does the same faster."""

OPTIONAL: Final = frozenset(("ce_time", "ce_subject", "ce_ticketid", "ce_contactid", "ce_messageid"))
"""Headers that a record may lack: the event does not say that."""


def _fault(found: Mapping[str, bytes]) -> InvalidEventError:
    """Say what is wrong with a record: the first header that is missing or cannot be read, else its value."""
    for name, read in READERS.items():
        reason = STRAY if name == "ce_logid" else "record"
        if name not in found:
            if name not in OPTIONAL:
                return InvalidEventError(reason, f"no header {name}")
            continue
        try:
            read(found[name])
        except _UNREADABLE:
            return InvalidEventError(reason, f"header {name} cannot be read")
    return InvalidEventError("record", "no value")


@lru_cache(maxsize=1024)
def _source(tenant: str) -> bytes:
    """Write `ce_source`; tenants repeat from record to record."""
    return b"urn:whatsms:" + quote(tenant, safe="").encode("ascii")
