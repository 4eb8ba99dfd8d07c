"""The event's types, times, JSON form and id; ids by vectors that were computed with openssl."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import RFC_4122, UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import UNSET

from whatsms_events.domain.events import (
    EPOCH,
    SHAPES,
    Campaign,
    CampaignPayload,
    Contact,
    ContactPayload,
    Event,
    EventType,
    Message,
    MessagePayload,
    Payload,
    Ref,
    Ticket,
    TicketPayload,
    decode,
    encode,
    entity,
    event_id,
    from_micros,
    parse_time,
    to_micros,
)
from whatsms_events.errors import InvalidEventError


def event_of(data: bytes, event_type: EventType = EventType.MESSAGE_RECEIVED) -> Event:
    """Return an event with these bytes as its data."""
    return Event(
        id=UUID(int=0),
        type=event_type,
        tenant="t",
        occurred_at=None,
        received_at=EPOCH,
        origin="webhook",
        subject=None,
        ticket_id=None,
        contact_id=None,
        message_id=None,
        data=data,
    )


# Types.


def test_event_types_are_the_vendors_nine_and_ours() -> None:
    """The names are the vendor's, to the letter, `*.observed` for what a backfill saw, and one for who is forgotten."""
    assert [event_type.value for event_type in EventType] == [
        "message.received",
        "message.sent",
        "message.ack",
        "ticket.created",
        "ticket.updated",
        "ticket.closed",
        "contact.created",
        "contact.updated",
        "campaign.finished",
        "message.observed",
        "ticket.observed",
        "contact.observed",
        "campaign.observed",
        "contact.forgotten",
    ]


@pytest.mark.parametrize("event_type", EventType)
def test_entity_is_the_first_half_of_the_name(event_type: EventType) -> None:
    """Each type is about the entity that its name begins with, and that entity has a payload."""
    assert entity(event_type) == event_type.value.partition(".")[0]
    assert entity(event_type) in SHAPES


# Times.


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-15T10:30:00Z", datetime(2026, 1, 15, 10, 30, tzinfo=UTC)),
        ("2026-01-15t10:30:00z", datetime(2026, 1, 15, 10, 30, tzinfo=UTC)),
        ("2026-01-15 10:30:00", datetime(2026, 1, 15, 10, 30, tzinfo=UTC)),
        ("2026-01-15T10:30:00.1Z", datetime(2026, 1, 15, 10, 30, 0, 100000, tzinfo=UTC)),
        ("2026-01-15T10:30:00,123Z", datetime(2026, 1, 15, 10, 30, 0, 123000, tzinfo=UTC)),
        ("2026-01-15T10:30:00.123456Z", datetime(2026, 1, 15, 10, 30, 0, 123456, tzinfo=UTC)),
        ("2026-01-15T10:30:00.999999999Z", datetime(2026, 1, 15, 10, 30, 0, 999999, tzinfo=UTC)),
        ("2026-01-15T10:30:00+01:00", datetime(2026, 1, 15, 9, 30, tzinfo=UTC)),
        ("2026-01-15T10:30:00-0330", datetime(2026, 1, 15, 14, 0, tzinfo=UTC)),
        ("2024-02-29T23:59:59Z", datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC)),
        ("0001-01-01T00:00:00Z", datetime(1, 1, 1, tzinfo=UTC)),
    ],
)
def test_time_is_read_in_utc(text: str, moment: datetime) -> None:
    """ISO 8601 with seconds or finer, with any offset or none, is the same moment in UTC."""
    assert parse_time(text) == moment
    read = parse_time(text)
    assert read is not None
    assert read.tzinfo is UTC


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        1768473000,
        1768473000.5,
        [],
        {},
        "",
        "now",
        "2026-01-15",
        "2026-01-15T10:30Z",
        "20260115T103000Z",
        "2026-W03-4T10:30:00Z",
        "2026-02-30T10:30:00Z",
        "2026-01-15T24:00:00Z",
        "2026-01-15T23:59:60Z",
        "2026-01-15T10:30:00Z\n",
        " 2026-01-15T10:30:00Z",
        "2026-01-15T10:30:00+24:00",
        "2026-01-15T10:30:00.Z",
        "2026-01-15T10:30:00.1234567890Z",
        "٢٠٢٦-01-15T10:30:00Z",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00",
        "2026-01-15T10:30:00\ud83d",
    ],
    ids=ascii,
)
def test_unreadable_time_is_none(value: object) -> None:
    """What is no ISO 8601 date and time is unreadable, and never an exception."""
    assert parse_time(value) is None


@given(value=st.text())
def test_random_text_is_a_time_or_none(value: str) -> None:
    """No text makes the parser raise."""
    assert parse_time(value) is None or isinstance(parse_time(value), datetime)


@given(moment=st.datetimes(), zone=st.integers(-1439, 1439))
def test_time_survives_its_text(moment: datetime, zone: int) -> None:
    """Every time that Python writes is read back as the same moment."""
    there = moment.replace(tzinfo=timezone(timedelta(minutes=zone)))
    try:
        expected = there.astimezone(UTC)
    except OverflowError:
        expected = None
    assert parse_time(there.isoformat()) == expected


@given(text=st.from_regex(r"[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9](:[0-6][0-9]){2}(\.[0-9]{3})?", fullmatch=True))
@example(text="2026-01-15T24:00:00")
@example(text="2026-01-15T23:59:60")
@example(text="2026-02-29T10:30:00")
@example(text="0000-01-01T00:00:00")
def test_usual_form_is_read_as_any_other(text: str) -> None:
    """The form that nearly all times have gives the moment that the same time gives with an offset, or without."""
    assert parse_time(f"{text}Z") == parse_time(f"{text}+00:00") == parse_time(text)


@given(moment=st.datetimes(timezones=st.just(UTC)))
def test_microseconds_are_exact(moment: datetime) -> None:
    """A stored time comes back exactly, from the year 1 to the year 9999."""
    assert from_micros(to_micros(moment)) == moment
    assert from_micros(to_micros(moment)).tzinfo is UTC


def test_microseconds_count_from_1970() -> None:
    """The figure is the one databases and other programs know."""
    assert to_micros(datetime(2026, 1, 15, 10, 30, 0, 1, tzinfo=UTC)) == 1768473000000001
    assert to_micros(datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)) == -1


# JSON.


@pytest.mark.parametrize(
    ("payload", "data"),
    [
        (
            MessagePayload(
                message=Message(
                    id="m",
                    body="Olá",
                    from_me=True,
                    media_type=None,
                    media_url="https://files.example/1",
                    quoted_message_id="q",
                    ack=3,
                    deleted=False,
                    ticket_id="t",
                    contact_id="c",
                    created_at=datetime(2026, 1, 15, 10, 30, tzinfo=UTC),
                    updated_at=datetime(2026, 1, 15, 10, 30, 0, 5000, tzinfo=UTC),
                    extra={"k": [1, None]},
                ),
                ticket=None,
                extra={"n": 10**30},
            ),
            (
                '{"message":{"id":"m","body":"Olá","from_me":true,"media_type":null,"media_url":"https://files.example/1",'
                '"quoted_message_id":"q","ack":3,"deleted":false,"ticket_id":"t","contact_id":"c",'
                '"created_at":"2026-01-15T10:30:00Z","updated_at":"2026-01-15T10:30:00.005000Z","extra":{"k":[1,null]}},'
                '"ticket":null,"extra":{"n":1000000000000000000000000000000}}'
            ),
        ),
        (
            TicketPayload(
                ticket=Ticket(id="t", contact=Contact(id="c"), user=Ref(id="u", name=None), queue=None, last_message="")
            ),
            '{"ticket":{"id":"t","contact":{"id":"c"},"user":{"id":"u","name":null},"queue":null,"last_message":""}}',
        ),
        (
            ContactPayload(contact=Contact(id="c", is_group=False, extra_info=[{"name": "NIF", "value": "1"}])),
            '{"contact":{"id":"c","is_group":false,"extra_info":[{"name":"NIF","value":"1"}]}}',
        ),
        (
            CampaignPayload(campaign=Campaign(id="p", sent_count=342, failed_count=None)),
            '{"campaign":{"id":"p","sent_count":342,"failed_count":null}}',
        ),
        (TicketPayload(ticket=Ticket(id="t", gone=True)), '{"ticket":{"id":"t","gone":true}}'),
        (MessagePayload(message=Message(id="m", gone=False)), '{"message":{"id":"m","gone":false}}'),
    ],
)
def test_payloads_json_form_is_frozen(payload: Payload, data: str) -> None:
    """The JSON form is a contract with consumers: names, order, absent fields left out, nulls kept."""
    assert encode(payload) == data.encode()
    about = next(name for name, shape in SHAPES.items() if shape is type(payload))
    assert decode(event_of(data.encode(), EventType(f"{about}.observed"))) == payload


def test_absent_fields_come_back_unset() -> None:
    """What was not sent is UNSET after the round trip, not None."""
    payload: Any = decode(event_of(encode(MessagePayload(message=Message(id="m", body=None)))))
    assert (payload.message.body, payload.message.ack, payload.ticket) == (None, UNSET, UNSET)


def test_extra_is_not_shared() -> None:
    """Each struct has an `extra` of its own."""
    first, second = Message(id="1"), Message(id="2")
    first.extra["k"] = 1
    assert second.extra == {}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"ticket":{}}',
        b'{"message":{"id":1}}',
        b'{"message":{"id":"1","ack":"3"}}',
        b'{"message":{"id":"1","ack":9223372036854775808000}}',
        b'{"message":{"id":"1","created_at":"2026-01-15T10:30:00"}}',
        b'{"message":{"id":"\xff"}}',
        b'{"message":{"id":"\\ud83d"}}',
        b'{"message":{"extra":{"x":' + b"[" * 100_000,
        b'{"message":{"extra":{"x":' + b"9" * 5000 + b"}}}",
    ],
    ids=lambda data: ascii(data[:40]),
)
def test_data_that_is_not_ours_is_refused(data: bytes) -> None:
    """Bytes that are no payload are InvalidEventError("data"): parked, not a crash."""
    with pytest.raises(InvalidEventError) as caught:
        decode(event_of(data))
    assert caught.value.reason == "data"


@given(data=st.binary(max_size=60), event_type=st.sampled_from(EventType))
def test_random_data_raises_nothing_else(data: bytes, event_type: EventType) -> None:
    """Whatever the bytes, decoding refuses them as ours does."""
    with pytest.raises(InvalidEventError):
        decode(event_of(data, event_type))


# Ids.


@pytest.mark.parametrize(
    ("tenant", "body", "millis", "expected"),
    [
        ("", b"", None, "00000000-0000-86e3-902e-73fecdea6272"),
        ("uuid", b"{}", None, "00000000-0000-8a07-9d36-7827d30315cb"),
        ("uuid", b"{}", 0, "00000000-0000-8a07-9d36-7827d30315cb"),
        ("uuid", b"{}", -1, "00000000-0000-8a07-9d36-7827d30315cb"),
        ("uuid", b"{}", 1768473000000, "019bc134-7840-8a07-9d36-7827d30315cb"),
        ("clínica", b"\x00\xff", 1768473000123, "019bc134-78bb-886a-a7ff-580ed0c19836"),
        ("t", b"x", 253402300799999, "e677d21f-dbff-86fc-a8ff-3faccd947c1c"),
    ],
)
def test_event_id_is_frozen(tenant: str, body: bytes, millis: int | None, expected: str) -> None:
    """The same delivery has the same id for ever: a change here would append every redelivery again."""
    occurred_at = None if millis is None else EPOCH + timedelta(milliseconds=millis)
    assert str(event_id(tenant, body, occurred_at)) == expected


@given(
    tenant=st.text(st.characters(exclude_categories=["Cs"])),
    body=st.binary(),
    micros=st.integers(0, 253402300799999999),
)
def test_event_id_is_a_uuid_of_version_8(tenant: str, body: bytes, micros: int) -> None:
    """Every id is a UUID of RFC 9562, version 8, and its first 48 bits are the time in milliseconds."""
    made = event_id(tenant, body, from_micros(micros))
    assert (made.version, made.variant) == (8, RFC_4122)
    assert made.int >> 80 == micros // 1000
    assert UUID(str(made)) == made


@given(
    first=st.integers(0, 253402300799999),
    second=st.integers(0, 253402300799999),
    bodies=st.tuples(st.binary(), st.binary()),
)
def test_event_ids_sort_by_time(first: int, second: int, bodies: tuple[bytes, bytes]) -> None:
    """As UUIDs, as text and as bytes, ids of different milliseconds sort as their times do."""
    one, two = (
        event_id("t", body, from_micros(millis * 1000)) for millis, body in zip((first, second), bodies, strict=True)
    )
    if first != second:
        assert (one < two) == (str(one) < str(two)) == (one.bytes < two.bytes) == (first < second)


def test_tenant_and_body_are_kept_apart() -> None:
    """Moving a letter from the tenant to the body gives another id."""
    assert event_id("ab", b"c", None) != event_id("a", b"bc", None)
