"""Log entries to Kafka records and back, read by ours and by the CloudEvents SDK."""

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from urllib.parse import unquote
from uuid import UUID

import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary_event
from hypothesis import given
from hypothesis import strategies as st

from whatsms_events.domain.drift import Sighting, observation
from whatsms_events.domain.events import (
    SHAPES,
    Campaign,
    CampaignPayload,
    Contact,
    ContactPayload,
    Event,
    EventType,
    LogEntry,
    Message,
    MessagePayload,
    Payload,
    Ticket,
    TicketPayload,
    encode,
)
from whatsms_events.domain.normalize import normalize
from whatsms_events.domain.records import (
    MARKER_HEADER,
    STRAY,
    TOPICS,
    from_record,
    log_id_of,
    partition_of,
    place_of,
    to_record,
    topic_of,
)
from whatsms_events.errors import InvalidEventError

LOG_ID = UUID("9a1d1f7e-52c4-4f3e-8a53-6d2f0f5b7c11")
DELIVERY = Path(__file__).parents[1] / "deliveries" / "message.received.json"
RECEIVED_AT = datetime(2026, 1, 15, 10, 30, 2, 250000, tzinfo=UTC)


def entry_of(**changes: object) -> LogEntry:
    """Return an entry with every field known, except for `changes`."""
    known = {
        "id": UUID("019bc134-7840-8068-b7a9-c177d6723bc1"),
        "type": EventType.MESSAGE_RECEIVED,
        "tenant": "clínica/1",
        "occurred_at": datetime(2026, 1, 15, 10, 30, tzinfo=UTC),
        "received_at": RECEIVED_AT,
        "origin": "webhook",
        "subject": "m-1",
        "ticket_id": "t-1",
        "contact_id": "c-1",
        "message_id": "m-1",
        "data": b'{"message":{"id":"m-1"}}',
    }
    return LogEntry(position=42, event=Event(**{**known, **changes}))  # type: ignore[arg-type]


_TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=40)
_IDS = st.none() | _TEXTS
_TIMES = st.datetimes(timezones=st.just(UTC))
EVENTS = st.builds(
    Event,
    id=st.uuids(),
    type=st.sampled_from(EventType),
    tenant=_TEXTS,
    occurred_at=st.none() | _TIMES,
    received_at=_TIMES,
    origin=st.sampled_from(["webhook", "backfill"]),
    subject=_IDS,
    ticket_id=_IDS,
    contact_id=_IDS,
    message_id=_IDS,
    data=st.binary(max_size=100),
)
ENTRIES = st.builds(LogEntry, position=st.integers(0, 2**63 - 1), event=EVENTS)


def test_record_is_frozen() -> None:
    """The form of a record is a promise to every consumer: header by header, key and value."""
    record = to_record(entry_of(), LOG_ID)
    assert record.topic == "conversations"
    assert record.key == "clínica/1/t-1".encode()
    assert record.value == b'{"message":{"id":"m-1"}}'
    assert record.headers == (
        ("ce_specversion", b"1.0"),
        ("ce_id", b"019bc134-7840-8068-b7a9-c177d6723bc1"),
        ("ce_type", b"pt.whatsms.message.received"),
        ("ce_source", b"urn:whatsms:cl%C3%ADnica%2F1"),
        ("content-type", b"application/json"),
        ("ce_tenant", "clínica/1".encode()),
        ("ce_origin", b"webhook"),
        ("ce_logid", b"9a1d1f7e-52c4-4f3e-8a53-6d2f0f5b7c11"),
        ("ce_sequence", b"0000000000000000042"),
        ("ce_recordedtime", b"2026-01-15T10:30:02.250000Z"),
        ("ce_time", b"2026-01-15T10:30:00Z"),
        ("ce_subject", b"m-1"),
        ("ce_ticketid", b"t-1"),
        ("ce_contactid", b"c-1"),
        ("ce_messageid", b"m-1"),
    )


def test_unknown_parts_have_no_header() -> None:
    """A time or id that is not known is absent, not empty."""
    entry = entry_of(occurred_at=None, subject=None, ticket_id=None, contact_id=None, message_id=None)
    names = {name for name, _ in to_record(entry, LOG_ID).headers}
    assert not names & {"ce_time", "ce_subject", "ce_ticketid", "ce_contactid", "ce_messageid"}


@given(entry=ENTRIES, log_id=st.uuids())
def test_record_rebuilds_the_entry_exactly(entry: LogEntry, log_id: UUID) -> None:
    """Headers and value rebuild the whole entry, whatever its texts, times and missing parts; headers are UTF-8."""
    record = to_record(entry, log_id)
    assert from_record(record.headers, record.value) == (log_id, entry)
    assert from_record(list(reversed(record.headers)), record.value) == (log_id, entry)
    assert place_of(record.headers) == (log_id, entry.position, entry.event.id)
    assert record.topic in TOPICS
    for name, value in record.headers:
        assert name == name.lower()
        assert name.isascii()
        value.decode("utf-8")
    assert len({name for name, _ in record.headers}) == len(record.headers)


def test_times_in_another_zone_are_the_same_time() -> None:
    """A record says each time in UTC again when read, whatever zone it was written in."""
    lisbon_summer = timezone(timedelta(hours=1))
    record = to_record(entry_of(occurred_at=datetime(2026, 7, 1, 12, tzinfo=lisbon_summer)), LOG_ID)
    _, entry = from_record(record.headers, record.value)
    assert entry.event.occurred_at == datetime(2026, 7, 1, 11, tzinfo=UTC)
    assert entry.event.occurred_at.tzinfo is UTC


@given(entry=ENTRIES.filter(lambda entry: entry.event.occurred_at is not None))
def test_cloudevents_sdk_reads_our_headers(entry: LogEntry) -> None:
    """A decoder that is not ours finds id, type, source, time, subject and every extension."""
    record = to_record(entry, LOG_ID)
    read = from_binary_event(KafkaMessage(headers=dict(record.headers), key=record.key, value=record.value))
    event = entry.event
    assert read.get_specversion() == "1.0"
    assert read.get_id() == str(event.id)
    assert read.get_type() == f"pt.whatsms.{event.type}"
    assert unquote(read.get_source().removeprefix("urn:whatsms:")) == event.tenant
    assert read.get_time() == event.occurred_at
    assert read.get_subject() == event.subject
    assert read.get_datacontenttype() == "application/json"
    assert read.get_extension("tenant") == event.tenant
    assert read.get_extension("origin") == event.origin
    assert read.get_extension("logid") == str(LOG_ID)
    assert int(read.get_extension("sequence")) == entry.position
    assert datetime.fromisoformat(read.get_extension("recordedtime")) == event.received_at
    assert read.get_extension("ticketid") == event.ticket_id
    assert read.get_extension("contactid") == event.contact_id
    assert read.get_extension("messageid") == event.message_id


def test_cloudevents_sdk_reads_our_data() -> None:
    """The documented delivery, published and read by the SDK, shows our payload."""
    event = normalize(DELIVERY.read_bytes(), tenant="uuid", received_at=RECEIVED_AT)
    record = to_record(LogEntry(position=1, event=event), LOG_ID)
    read = from_binary_event(KafkaMessage(headers=dict(record.headers), key=record.key, value=record.value))
    assert read.get_data() == json.loads(event.data)
    assert read.get_time() == datetime(2026, 1, 15, 10, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("payload", "topic", "key", "ids"),
    [
        (
            MessagePayload(message=Message(id="m", body="Olá")),
            "conversations",
            "t/k",
            {"ticketid": "k", "messageid": "m"},
        ),
        (
            TicketPayload(ticket=Ticket(id="k", contact_id="c")),
            "conversations",
            "t/k",
            {"ticketid": "k", "contactid": "c"},
        ),
        (TicketPayload(ticket=Ticket(id="k", gone=True)), "conversations", "t/k", {"ticketid": "k"}),
        (ContactPayload(contact=Contact(id="c", name=None)), "contacts", "t/c", {"contactid": "c"}),
        (CampaignPayload(campaign=Campaign(id="p")), "campaigns", "t/p", {}),
    ],
)
def test_an_observation_is_published_as_what_it_is(payload: Payload, topic: str, key: str, ids: dict[str, str]) -> None:
    """What a backfill saw goes out like any other event, under our own type and marked: no bot takes it for news."""
    name = next(name for name, shape in SHAPES.items() if type(payload) is shape)
    seen = Sighting(name, getattr(payload, name).id, payload, RECEIVED_AT, 0, "k" if name == "message" else None)
    event, _ = observation("t", seen, None, received_at=RECEIVED_AT + timedelta(seconds=30))
    record = to_record(LogEntry(position=7, event=event), LOG_ID)
    assert (record.topic, record.key, record.value) == (topic, key.encode(), encode(payload))
    headers = dict(record.headers)
    assert headers["ce_type"] == f"pt.whatsms.{name}.observed".encode()
    assert (headers["ce_origin"], headers["ce_id"]) == (b"backfill", str(event.id).encode())
    assert (headers["ce_time"], headers["ce_recordedtime"]) == (
        b"2026-01-15T10:30:02.250000Z",
        b"2026-01-15T10:30:32.250000Z",
    )
    about = {
        one: headers[f"ce_{one}"].decode() for one in ("ticketid", "contactid", "messageid") if f"ce_{one}" in headers
    }
    assert about == ids
    assert from_record(record.headers, record.value) == (LOG_ID, LogEntry(position=7, event=event))
    read = from_binary_event(KafkaMessage(headers=headers, key=record.key, value=record.value))
    assert (read.get_type(), read.get_extension("origin")) == (f"pt.whatsms.{event.type}", "backfill")
    assert read.get_data() == json.loads(event.data)


def test_sequence_sorts_as_text() -> None:
    """Positions are zero-padded, so that comparing them as text is comparing them as numbers."""
    positions = [0, 9, 10, 2**31, 2**53 + 1, 2**63 - 1]
    texts = [
        dict(to_record(LogEntry(position=p, event=entry_of().event), LOG_ID).headers)["ce_sequence"] for p in positions
    ]
    assert texts == sorted(texts)
    assert {len(text) for text in texts} == {19}


def test_topics_are_cut_where_order_matters() -> None:
    """Tickets and messages share a topic; contacts and campaigns have their own."""
    topics = {event_type.value: topic_of(event_type) for event_type in EventType}
    assert topics == {
        "message.received": "conversations",
        "message.sent": "conversations",
        "message.ack": "conversations",
        "message.observed": "conversations",
        "ticket.created": "conversations",
        "ticket.updated": "conversations",
        "ticket.closed": "conversations",
        "ticket.observed": "conversations",
        "contact.created": "contacts",
        "contact.updated": "contacts",
        "contact.observed": "contacts",
        "contact.forgotten": "contacts",
        "campaign.finished": "campaigns",
        "campaign.observed": "campaigns",
    }


@pytest.mark.parametrize(
    ("ticket_id", "subject", "key"),
    [("t-1", "m-1", b"uuid/t-1"), (None, "m-1", b"uuid/m-1"), (None, None, b"uuid/"), ("té", "m", b"uuid/t\xc3\xa9")],
)
def test_key_is_the_ticket_or_the_subject(ticket_id: str | None, subject: str | None, key: bytes) -> None:
    """Everything about one ticket has one key, so one partition, so an order."""
    assert to_record(entry_of(tenant="uuid", ticket_id=ticket_id, subject=subject), LOG_ID).key == key


@pytest.mark.parametrize(
    ("key", "crc", "of_twelve"),
    [
        (b"", 0x00000000, 0),
        (b"123456789", 0xCBF43926, 2),  # the check value that every description of CRC-32 gives
        (b"uuid/uuid", 0x866C7ED5, 5),
        ("clínica/1/t-1".encode(), 0x5430ADEE, 6),
    ],
)
def test_partitioner_is_frozen(key: bytes, crc: int, of_twelve: int) -> None:
    """Partitions are CRC-32 modulo their number: a change would break the order of every ticket."""
    assert partition_of(key, 1 << 32) == crc
    assert partition_of(key, 12) == of_twelve
    assert partition_of(key, 1) == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ce_specversion", b"0.3"),
        ("ce_specversion", None),
        ("ce_id", b"not a uuid"),
        ("ce_id", b'"'),
        ("ce_id", b"\xff"),
        ("ce_type", b"pt.whatsms.message.deleted"),
        ("ce_type", b"message.received"),
        ("ce_tenant", b"\xff"),
        ("ce_tenant", b"\xed\xa0\xbd"),
        ("ce_origin", b"guess"),
        ("ce_logid", b""),
        ("ce_sequence", b"42"),
        ("ce_sequence", b"+000000000000000042"),
        ("ce_sequence", b"000000000000000_042"),
        ("ce_sequence", b"9223372036854775808"),
        ("ce_recordedtime", b"2026-01-15"),
        ("ce_recordedtime", b"2026-01-15T10:30:00"),
        ("ce_recordedtime", b"0001-01-01T00:00:00+01:00"),
        ("ce_time", b"yesterday"),
        ("ce_subject", b"\xff"),
    ],
)
def test_foreign_record_is_refused(name: str, value: bytes | None) -> None:
    """A record with a header that we never write is no event of ours: refused, not guessed."""
    record = to_record(entry_of(), LOG_ID)
    headers = [(known, value if known == name else given_value) for known, given_value in record.headers]
    with pytest.raises(InvalidEventError) as caught:
        from_record(headers, record.value)  # type: ignore[arg-type]
    assert caught.value.reason == (STRAY if name == "ce_logid" else "record")
    assert caught.value.detail == f"header {name} cannot be read"


_MANDATORY = [
    "ce_specversion",
    "ce_id",
    "ce_type",
    "ce_tenant",
    "ce_origin",
    "ce_logid",
    "ce_sequence",
    "ce_recordedtime",
]


@pytest.mark.parametrize("missing", _MANDATORY)
def test_incomplete_record_is_refused(missing: str) -> None:
    """A record that lacks what an event always has is refused, and the detail names what is missing."""
    record = to_record(entry_of(), LOG_ID)
    with pytest.raises(InvalidEventError) as caught:
        from_record([header for header in record.headers if header[0] != missing], record.value)
    assert caught.value.reason == (STRAY if missing == "ce_logid" else "record")
    assert caught.value.detail == f"no header {missing}"


def test_tombstone_is_refused() -> None:
    """A record without a value is no event of ours; what names our log is still told from what names none."""
    with pytest.raises(InvalidEventError, match=r"^record: no value"):
        from_record(to_record(entry_of(), LOG_ID).headers, None)
    with pytest.raises(InvalidEventError, match=rf"^{STRAY}: no header ce_logid"):
        from_record([], None)


@given(
    headers=st.lists(
        st.tuples(st.sampled_from([name for name, _ in to_record(entry_of(), LOG_ID).headers]), st.binary(max_size=40))
    ),
    value=st.none() | st.binary(max_size=20),
)
def test_random_headers_raise_nothing_but_our_refusal(headers: list[tuple[str, bytes]], value: bytes | None) -> None:
    """Whatever somebody else wrote into the topic, reading it gives an entry or InvalidEventError."""
    with pytest.raises(InvalidEventError):
        from_record(headers, value)


def test_place_of_a_foreign_record_is_unknown() -> None:
    """A marker of the opening abort, or a record of somebody else, has no place in our log."""
    assert place_of([]) is None
    assert place_of([(MARKER_HEADER, b"1")]) is None
    headers = dict(to_record(entry_of(), LOG_ID).headers)
    for name, value in [("ce_id", b""), ("ce_sequence", b"x"), ("ce_logid", b"x"), ("ce_logid", None)]:
        broken = list({**headers, name: value}.items())
        assert place_of(broken) is None  # type: ignore[arg-type]


def test_a_record_is_a_log_s_as_soon_as_it_names_one() -> None:
    """Whatever else is missing: it was written by who publishes that log. What names none is a stray record."""
    assert log_id_of([("ce_logid", str(LOG_ID).encode())]) == LOG_ID
    for headers in ([], [("logid", b"x")], [("ce_logid", b"")], [("ce_logid", b"\xff")], [("ce_logid", None)]):
        assert log_id_of(headers) is None  # type: ignore[arg-type]
