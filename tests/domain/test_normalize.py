"""Raw bodies in, events out: the samples in tests/deliveries, every refusal, and whatever Hypothesis thinks of."""

import hashlib
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import UNSET, structs

from whatsms_events.domain import bodies, events, fields, resources, values
from whatsms_events.domain.events import (
    OURS,
    Campaign,
    Contact,
    Event,
    EventType,
    Message,
    MessagePayload,
    Payload,
    Ref,
    Ticket,
    TicketPayload,
)
from whatsms_events.domain.normalize import REASONS, data_limit_bytes, identify, ids, normalize
from whatsms_events.domain.resources import Field
from whatsms_events.errors import InvalidEventError

DELIVERIES = Path(__file__).parents[1] / "deliveries"
SAMPLES = sorted(path for path in DELIVERIES.glob("*.json") if not path.name.endswith(".event.json"))
NINE = [event_type for event_type in EventType if event_type not in OURS]
NOW = datetime(2026, 1, 15, 10, 30, 2, 250000, tzinfo=UTC)
VENDORS_SAMPLE = (DELIVERIES / "message.received.json").read_bytes()


def body_of(event: object, data: object, **envelope: object) -> bytes:
    """Return a delivery of the documented form."""
    whole = {"event": event, "tenantId": "t", "timestamp": "2026-01-15T10:30:00Z", "data": data, **envelope}
    return json.dumps(whole).encode()


def payload_of(event: str, data: object) -> Any:
    """Return the payload of the event that a delivery becomes."""
    return events.decode(normalize(body_of(event, data), tenant="t", received_at=NOW))


def outcome_of(body: bytes) -> Event | InvalidEventError:
    """Return what becomes of a body; anything but these two is a bug."""
    try:
        return normalize(body, tenant="t", received_at=NOW)
    except InvalidEventError as refusal:
        return refusal


def refusal_of(body: bytes) -> InvalidEventError:
    """Return why a body is refused."""
    outcome = outcome_of(body)
    assert isinstance(outcome, InvalidEventError)
    return outcome


# The samples.


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_sample_gives_the_event_written_beside_it(path: Path) -> None:
    """Each delivery in tests/deliveries becomes exactly the event in the file beside it."""
    expected = json.loads(path.with_suffix(".event.json").read_bytes())
    event = normalize(path.read_bytes(), tenant=expected["tenant"], received_at=NOW)
    given_event = {
        **structs.asdict(event),
        "id": str(event.id),
        "occurred_at": event.occurred_at and event.occurred_at.isoformat(),
        "received_at": event.received_at.isoformat(),
        "data": json.loads(event.data),
    }
    assert given_event == expected


def test_every_event_type_of_the_vendor_has_a_sample() -> None:
    """The nine event types have a delivery each, and each delivery an expected event."""
    assert {event_type.value for event_type in NINE} <= {path.stem for path in SAMPLES}
    assert len(NINE) == 9
    assert {path.with_suffix(".event.json") for path in SAMPLES} == set(DELIVERIES.glob("*.event.json"))


@pytest.mark.parametrize("event_type", NINE)
def test_every_event_type_of_the_vendor_is_normalised(event_type: EventType) -> None:
    """None of the nine is unknown, whether its resource is nested, flat or only named."""
    about = events.entity(event_type)
    for data in ({about: {"id": "1"}}, {"id": "1"}, {f"{about}Id": "1"}, {about: {f"{about}Id": 1}}):
        event = normalize(body_of(event_type.value, data), tenant="t", received_at=NOW)
        assert (event.type, event.subject) == (event_type, "1")
        assert type(events.decode(event)) is events.SHAPES[about]


# What is refused.

HUGE = b"9" * 5000


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "empty"),
        (b" \r\n\t", "empty"),
        (b"not json", "not_json"),
        (b'{"event":', "not_json"),
        (b"{} {}", "not_json"),
        (b"\xef\xbb\xbf{}", "not_json"),
        ('{"event":"message.received"}'.encode("utf-16"), "not_utf8"),
        (b'{"event":"\xff"}', "not_utf8"),
        (b'{"event":"\xed\xa0\xbd"}', "not_utf8"),
        (b'{"event":"a\x00b"}', "not_json"),
        (b'{"data":{"x":NaN}}', "not_json"),
        (b'{"data":{"x":-Infinity}}', "not_json"),
        (b'{"data":{"x":1e999}}', "number"),
        (b'{"data":{"x":' + HUGE + b"}}", "number"),
        (b'{"data":{"x":-' + HUGE + b',"y":"\\ud83d"}}', "number"),
        (b"[" * 65 + b"]" * 65, "not_object"),
        (b"[" * 100_000, "too_deep"),
        (b'{"a":' * 100_000, "too_deep"),
        (b'{"a":"\\ud83d","b":' + b"[" * 100_000, "too_deep"),
        (b"[]", "not_object"),
        (b'[{"event":"message.received"}]', "not_object"),
        (b"null", "not_object"),
        (b'"text"', "not_object"),
        (b"12", "not_object"),
        (b"{}", "unknown_event"),
        (body_of(None, {}), "unknown_event"),
        (body_of(["message.received"], {}), "unknown_event"),
        (body_of("message.deleted", {}), "unknown_event"),
        (body_of("MESSAGE.RECEIVED", {}), "unknown_event"),
        (body_of("message.received\x00", {}), "unknown_event"),
        (body_of("message.received", None), "no_data"),
        (body_of("message.received", []), "no_data"),
        (body_of("message.received", "text"), "no_data"),
        (b'{"event":"message.received"}', "no_data"),
    ],
    ids=lambda value: value if isinstance(value, str) else ascii(value[:30]),
)
def test_unreadable_body_is_refused_with_its_reason(body: bytes, reason: str) -> None:
    """A body that is no event is refused with one word of the closed set, and can still be identified."""
    assert refusal_of(body).reason == reason
    assert reason in REASONS
    assert identify(body, tenant="t").version == 8


@pytest.mark.parametrize(
    ("value", "kind"),
    [(None, "null"), ("x", "string"), ([], "array"), (True, "boolean"), (7, "number"), (1.5, "number"), ({}, "object")],
)
def test_a_refusal_says_what_stood_there_as_json_calls_it(value: object, kind: str) -> None:
    """Whoever reads why something is parked knows JSON, and not this program's language."""
    if kind != "object":
        assert refusal_of(json.dumps(value).encode()).detail == kind
        assert refusal_of(body_of("message.received", value)).detail == f"data: {kind}"
    assert bodies.kind(value) == kind


@pytest.mark.parametrize("event_type", sorted(OURS))
def test_webhook_cannot_claim_to_be_an_observation(event_type: EventType) -> None:
    """Our own event names are unknown when they come through the door."""
    data = {events.entity(event_type): {"id": "1"}}
    assert refusal_of(body_of(event_type.value, data)).reason == "unknown_event"


@pytest.mark.parametrize("tenant", ["other", "", "T", "t ", True, 1, 1.0, [], {}])
def test_delivery_of_another_tenant_is_refused(tenant: object) -> None:
    """A `tenantId` that is not the configured one is never stored under it."""
    body = body_of("ticket.closed", {"ticketId": "1"}, tenantId=tenant)
    assert refusal_of(body).reason == "other_tenant"


def test_tenant_may_be_missing_null_or_an_integer() -> None:
    """The signature proves the tenant: a missing or null `tenantId` is accepted, and 42 is "42"."""
    without = b'{"event":"ticket.closed","data":{"ticketId":"1"}}'
    assert normalize(without, tenant="t", received_at=NOW).tenant == "t"
    null = body_of("ticket.closed", {"ticketId": "1"}, tenantId=None)
    assert normalize(null, tenant="t", received_at=NOW).tenant == "t"
    number = body_of("ticket.closed", {"ticketId": "1"}, tenantId=42)
    assert normalize(number, tenant="42", received_at=NOW).tenant == "42"


@pytest.mark.parametrize("event_type", NINE)
@pytest.mark.parametrize("value", [None, "", True, 1.5, [], {}])
def test_event_about_something_without_an_id_is_refused(event_type: EventType, value: object) -> None:
    """Without a usable id there is nothing to apply the event to."""
    about = events.entity(event_type)
    variants: tuple[dict[str, object], ...] = (
        {},
        {about: {}},
        {about: {"id": value}},
        {"id": value},
        {f"{about}Id": value},
        {about: "1"},
    )
    for data in variants:
        assert refusal_of(body_of(event_type.value, data)).reason == "no_id"


def test_refusal_names_no_value_of_the_body() -> None:
    """What a refusal says can be logged: places and types, never the text of the body."""
    canary = "canary-5f1d"
    for body in (
        canary.encode(),
        body_of(canary, {}),
        body_of("ticket.closed", canary),
        body_of("ticket.closed", {"status": canary}),
        body_of("ticket.closed", {"ticketId": "1"}, tenantId=canary),
    ):
        assert canary not in str(refusal_of(body))


# Depth: the same for every caller.


def nested(depth: int) -> bytes:
    """Return a delivery whose deepest array stands `depth` levels below its braces."""
    inner: Any = []
    for _ in range(depth - 4):
        inner = [inner]
    return body_of("message.received", {"message": {"id": "1", "x": inner}})


def test_depth_limit_is_ours_and_not_the_callers() -> None:
    """A body is refused from one fixed depth on, however deep the call stack is, and keeps its id."""

    def called_from(frames: int, call: Callable[[], Any]) -> Any:
        return call() if frames == 0 else called_from(frames - 1, call)

    allowed, refused = nested(bodies.DEPTH_LIMIT), nested(bodies.DEPTH_LIMIT + 1)
    depths = (0, sys.getrecursionlimit() // 2)
    for frames in depths:
        event = called_from(frames, lambda: normalize(allowed, tenant="t", received_at=NOW))
        assert event.id == identify(allowed, tenant="t")
        assert called_from(frames, lambda: refusal_of(refused)).reason == "too_deep"
    for body in (refused, nested(300), nested(900)):
        assert len({called_from(frames, partial(identify, body, tenant="t")) for frames in depths}) == 1


def test_wide_body_is_not_deep() -> None:
    """Many objects side by side are fine."""
    info = [{"name": str(n), "value": [n]} for n in range(1000)]
    assert len(payload_of("contact.updated", {"contact": {"id": "1", "extraInfo": info}}).contact.extra_info) == 1000


# Fields.


@pytest.mark.parametrize(
    ("fields_of", "struct", "taken_apart"),
    [
        (resources.MESSAGE, Message, set()),
        (resources.TICKET, Ticket, {"user", "queue"}),
        (resources.CONTACT, Contact, set()),
        (resources.CAMPAIGN, Campaign, set()),
    ],
)
def test_every_field_of_a_struct_is_read(fields_of: tuple[Field, ...], struct: Any, taken_apart: set[str]) -> None:
    """A field added to a struct must be added to the table that fills it, but for those that are ours alone."""
    names = [name for name, _ in fields.readers(fields_of).values()]
    assert len(names) == len(set(names))
    ours = {"gone", "merged_into"} & set(struct.__struct_fields__)
    assert "gone" in ours
    assert {*names, *taken_apart, *ours, "extra"} == {field.name for field in structs.fields(struct)}


@pytest.mark.parametrize("event_type", NINE)
def test_webhook_cannot_say_that_a_thing_is_gone(event_type: EventType) -> None:
    """Only an observation can: a vendor's field of that name is one that nobody knows, wherever it stands."""
    name = events.entity(event_type)
    inner = {"id": "1", "gone": True}
    shown = {name: inner, "gone": True, "ticket": inner, "contact": inner}
    for data in (shown, inner, {**inner, name: inner}):
        payload: Any = events.decode(normalize(body_of(event_type.value, data), tenant="t", received_at=NOW))
        resources = [getattr(payload, one, None) for one in ("message", "ticket", "contact", "campaign")]
        for resource in (one for one in resources if one):
            assert resource.gone is UNSET
            assert resource.extra["gone"] is True


@pytest.mark.parametrize(
    ("raw", "ack"),
    [(1, 1), (5, 5), (0, 0), (-1, -1), (-7, -7), (99, 99), ("3", 3), ("-1", -1), (None, None), (2**63 - 1, 2**63 - 1)],
)
def test_ack_is_the_vendors_integer(raw: object, ack: int | None) -> None:
    """Acks are kept as they came, also outside 1 to 5, and text is read as a number."""
    message = payload_of("message.ack", {"message": {"id": "1", "ack": raw}}).message
    assert (message.ack, message.extra) == (ack, {})


@pytest.mark.parametrize("raw", ["", "three", "3.0", " 3", "٣", 3.0, True, [], 2**63, -(2**63) - 1, "9" * 10])
def test_unusable_ack_is_kept_beside(raw: object) -> None:
    """An ack that is no integer of 64 bit is absent, and its value stays in `extra`."""
    message = payload_of("message.ack", {"message": {"id": "1", "ack": raw}}).message
    assert events.encode(MessagePayload(message=message)) == events.encode(
        MessagePayload(message=Message(id="1", extra={"ack": raw}))
    )


def test_absent_is_not_null() -> None:
    """A field that was not sent stays unset; one that was sent as null is None; both survive the JSON form."""
    ticket = payload_of("ticket.updated", {"ticket": {"id": "1", "user": None, "status": None}}).ticket
    assert ticket == Ticket(id="1", user=None, status=None)


def test_nested_resource_beats_flat_names() -> None:
    """What stands in the resource wins over flat names beside it, which are then kept as unknown."""
    data = {"message": {"id": "in", "ack": 2, "ticketId": "t-in"}, "messageId": "out", "ack": 5, "ticketId": "t-out"}
    payload = payload_of("message.ack", data)
    assert payload.message == Message(id="in", ack=2, ticket_id="t-in")
    assert payload.extra == {"messageId": "out", "ack": 5, "ticketId": "t-out"}


def test_flat_names_fill_what_the_resource_lacks() -> None:
    """Flat names beside a resource fill its gaps, also where it says null."""
    data = {"message": {"id": None}, "messageId": 7, "ack": "4", "ticketId": 8, "contactId": 9}
    payload = payload_of("message.ack", data)
    assert payload == MessagePayload(message=Message(id="7", ack=4, ticket_id="8", contact_id="9"))


@pytest.mark.parametrize(
    ("ticket", "user", "extra"),
    [
        ({"user": {"id": 5, "name": "Ana"}}, Ref(id="5", name="Ana"), {}),
        ({"user": {"name": "Ana"}, "userId": 5}, Ref(id="5", name="Ana"), {}),
        ({"user": {"id": "5"}, "userId": 5}, Ref(id="5"), {}),
        ({"user": {"id": "5"}, "userId": 6}, Ref(id="5"), {"userId": 6}),
        ({"user": None, "userId": 5}, Ref(id="5"), {}),
        ({"user": None, "userId": None}, None, {}),
        ({"userId": None}, None, {}),
        ({"userId": "5"}, Ref(id="5"), {}),
        ({"user": "Ana", "userId": 5}, Ref(id="5"), {"user": "Ana"}),
        ({"user": {"id": 5, "name": 1, "email": "a@b"}}, Ref(id="5"), {"user": {"name": 1, "email": "a@b"}}),
    ],
)
def test_agent_is_read_from_object_or_id(ticket: dict[str, Any], user: Ref | None, extra: dict[str, Any]) -> None:
    """An agent comes as an object, as null or as `userId`; what does not fit is kept."""
    read = payload_of("ticket.updated", {"ticket": {"id": "1", **ticket}}).ticket
    assert (read.user, read.extra) == (user, extra)


def test_agent_nobody_named_is_absent() -> None:
    """A ticket without a word about its agent leaves the agent alone."""
    silence: list[dict[str, Any]] = [{}, {"user": "Ana"}, {"user": {}}, {"user": {"email": "a@b"}}, {"userId": True}]
    for silent in silence:
        payload = payload_of("ticket.updated", {"ticket": {"id": "1", **silent}})
        assert payload == TicketPayload(ticket=Ticket(id="1", extra=silent))


def test_status_shown_beats_the_events_name() -> None:
    """`ticket.closed` of a ticket that shows another status keeps the status shown."""
    assert payload_of("ticket.closed", {"ticket": {"id": "1", "status": "open"}}).ticket.status == "open"
    assert payload_of("campaign.finished", {"campaign": {"id": "1", "status": "x"}}).campaign.status == "x"


@pytest.mark.parametrize(
    ("event", "data", "expected"),
    [
        ("message.sent", {"message": {"id": "m"}, "ticket": {"id": "t"}, "contact": {"id": "c"}}, ("m", "t", "c", "m")),
        ("message.sent", {"message": {"id": "m", "ticketId": "t", "contactId": "c"}}, ("m", "t", "c", "m")),
        ("message.sent", {"message": {"id": "m"}, "ticket": {"id": "t", "contact": {"id": "c"}}}, ("m", "t", "c", "m")),
        ("message.sent", {"id": "m", "ticket": {"id": "t", "contactId": "c"}}, ("m", "t", "c", "m")),
        ("message.sent", {"message": {"id": "m"}, "ticket": None, "contact": None}, ("m", None, None, "m")),
        ("ticket.updated", {"ticket": {"id": "t", "contactId": "c"}}, ("t", "t", "c", None)),
        ("ticket.updated", {"ticket": {"id": "t"}, "contactId": "c"}, ("t", "t", "c", None)),
        ("ticket.updated", {"ticket": {"id": "t"}, "contact": {"id": "c"}}, ("t", "t", "c", None)),
        ("contact.updated", {"contact": {"id": "c"}}, ("c", None, "c", None)),
        ("campaign.finished", {"campaign": {"id": "p"}}, ("p", None, None, None)),
    ],
)
def test_ids_are_found_wherever_they_stand(event: str, data: object, expected: tuple[str | None, ...]) -> None:
    """Subject, ticket, contact and message ids are filled as far as any part of the payload names them."""
    assert ids(payload_of(event, data)) == expected


def test_long_ids_stay_distinct_and_fit_an_index() -> None:
    """Ids over 256 bytes are shortened, the same way each time, and differ where the originals differ."""
    texts = ["x" * 256, "x" * 257, "x" * 300 + "a", "x" * 300 + "b", "é" * 128, "é" * 129, "😀" * 65, "9" * 4000]
    short = [values.shorten(text) for text in texts]
    assert len(set(short)) == len(texts)
    assert all(len(text.encode()) <= values.SHORT_LIMIT_BYTES for text in short)
    assert [values.shorten(text) for text in short] == short
    assert (short[0], short[4]) == (texts[0], texts[4])
    assert short[1] == "x" * 191 + "~" + hashlib.sha256(texts[1].encode()).hexdigest()


def test_numbers_that_grow_are_refused_before_they_block_kafka() -> None:
    """Data that grows out of proportion when written again is refused: no record exceeds the topic's limit."""
    body = body_of("ticket.updated", {"ticketId": "1"})[:-2] + b',"x":[' + b"1e9," * 50_000 + b"1]}}"
    assert refusal_of(body).reason == "too_large"
    assert data_limit_bytes(5 << 20) < 8 << 20


def test_large_text_is_normalised() -> None:
    """A location with a thumbnail of 1.5 MB is an event like any other."""
    body = body_of("message.received", {"message": {"id": "1", "body": "data:image/png;base64," + "A" * 1_500_000}})
    assert len(normalize(body, tenant="t", received_at=NOW).data) > 1_500_000


# Whatever the bytes.

_KEYS = st.text(max_size=4) | st.sampled_from(
    [
        *fields.readers(resources.MESSAGE),
        *fields.readers(resources.TICKET),
        *fields.readers(resources.CONTACT),
        *fields.readers(resources.CAMPAIGN),
        *events.SHAPES,
        *("messageId", "campaignId", "user", "userId", "queue", "queueId", "timestamp", "data"),
    ]
)
_TEXTS = st.text(max_size=8) | st.sampled_from(["\ud83d", "a\x00", "\udc00b", "2026-01-15T10:30:00Z", "3", "x" * 300])
_NUMBERS = st.integers() | st.sampled_from([2**63, -(10**4000)]) | st.floats(allow_nan=False, allow_infinity=False)
_LEAVES = st.none() | st.booleans() | _NUMBERS | _TEXTS
_VALUES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=5), max_leaves=20
)
_DATA = st.dictionaries(_KEYS, _VALUES, max_size=6)
_RESOURCES = st.fixed_dictionaries(
    {}, optional={name: st.dictionaries(_KEYS, _VALUES, max_size=6) | _VALUES for name in events.SHAPES}
)


def storable(value: Any) -> bool:
    """Tell whether both databases take every text in the value."""
    match value:
        case str():
            return not any(letter == "\x00" or "\ud800" <= letter <= "\udfff" for letter in value)
        case dict():
            return all(storable(key) and storable(item) for key, item in value.items())
        case list():
            return all(storable(item) for item in value)
        case _:
            return True


@given(body=st.binary(max_size=200))
@example(body=b"\x00")
@example(body=b"{}")
def test_random_bytes_raise_nothing_but_our_refusal(body: bytes) -> None:
    """Whatever the bytes, the answer is an event or InvalidEventError with a reason of the closed set."""
    assert refusal_of(body).reason in REASONS


@given(name=st.sampled_from(NINE), flat=_DATA, nested=_RESOURCES, envelope=_DATA, escape=st.booleans())
def test_random_json_is_normalised_or_refused(
    name: EventType, flat: dict[str, Any], nested: dict[str, Any], envelope: dict[str, Any], escape: bool
) -> None:
    """Any JSON under any event name becomes a storable event, whose data decodes to what it encodes, or is refused."""
    whole = {**envelope, "event": name.value, "data": {**flat, **nested}}
    text = json.dumps(whole, ensure_ascii=escape)
    body = text.encode("utf-8", "replace")
    event = outcome_of(body)
    if isinstance(event, InvalidEventError):
        assert event.reason in REASONS
        assert identify(body, tenant="t").version == 8
        return
    assert event.id == identify(body, tenant="t")
    assert event.type is name
    payload: Payload = events.decode(event)
    assert events.encode(payload) == event.data
    assert ids(payload) == (event.subject, event.ticket_id, event.contact_id, event.message_id)
    assert event.subject
    assert storable(json.loads(event.data))
    for found in (event.subject, event.ticket_id, event.contact_id, event.message_id):
        assert found is None or 0 < len(found.encode()) <= values.SHORT_LIMIT_BYTES


@given(value=st.dictionaries(_TEXTS, _VALUES, max_size=5))
def test_both_json_readers_agree(value: dict[str, Any]) -> None:
    """The reader for half emoji and the fast one give the same object for what both can read."""
    body = json.dumps(value).encode()
    assert bodies.decode(body) == bodies.storable(json.loads(body))


def test_time_and_bytes_make_the_id() -> None:
    """The same bytes give the same id; another time or another byte gives another."""
    event = normalize(VENDORS_SAMPLE, tenant="uuid", received_at=NOW)
    assert event.id == UUID("019bc134-7840-8068-b7a9-c177d6723bc1") == identify(VENDORS_SAMPLE, tenant="uuid")
    later = VENDORS_SAMPLE.replace(b"10:30:00Z", b"10:30:01Z")
    assert normalize(later, tenant="uuid", received_at=NOW).id != event.id
