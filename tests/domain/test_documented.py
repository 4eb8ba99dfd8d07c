"""The typed reader of the documented shape against the tolerant one: where it answers, the event is the same."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from whatsms_events.domain import documented, resources, values
from whatsms_events.domain.events import OURS, EventType, entity
from whatsms_events.domain.normalize import event_of, normalize, read
from whatsms_events.errors import InvalidEventError

DELIVERIES = Path(__file__).parents[1] / "deliveries"
SAMPLES = {
    path.stem: path.read_bytes() for path in sorted(DELIVERIES.glob("*.json")) if not path.name.endswith(".event.json")
}
NOW = datetime(2026, 1, 15, 10, 30, 2, 250000, tzinfo=UTC)
TENANT = "7c1e0b9a-3f5d-4a86-9a53-0c6f3e1d2b44"

ANSWERED = (
    *("message.sent", "message.ack", "ticket.created", "ticket.updated", "ticket.closed", "ticket.closed.status_null"),
    *("contact.created", "contact.updated", "campaign.finished"),
    *("message.received", "message.received.unknown_values", "message.received.contact_name_null"),
    "message.received.deleted",
)
"""The samples of exactly the documented shape."""

WHOLE: dict[str, Any] = {
    "event": "message.sent",
    "tenantId": TENANT,
    "timestamp": "2026-01-15T10:30:00Z",
    "data": {
        "message": {"id": "m", "body": "b", "fromMe": True, "ack": 1, "createdAt": "2026-01-15T10:30:00.123Z"},
        "ticket": {"id": "t", "status": "open", "user": {"id": "u", "name": "n"}, "queue": None},
        "contact": {"id": "c", "name": "n", "number": "1", "extraInfo": [{"value": "v", "name": "n"}]},
    },
}


def answers(body: bytes, tenant: str = TENANT) -> bool:
    """Tell whether the typed reader answers, and check that the tolerant one gives the same event."""
    facts = documented.read(body, tenant)
    try:
        tolerant = event_of(read(body, tenant), body, tenant=tenant, received_at=NOW)
    except InvalidEventError:
        assert facts is None, "the tolerant reader refuses it"
        return False
    assert normalize(body, tenant=tenant, received_at=NOW) == tolerant
    if facts is None:
        return False
    assert event_of(facts, body, tenant=tenant, received_at=NOW) == tolerant
    return True


def tenant_of(body: bytes) -> str:
    """Return whose delivery it is."""
    return str(json.loads(body).get("tenantId", TENANT))


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_of_the_documented_shape_are_answered(name: str) -> None:
    """Those samples, and no others, are read by the typed reader."""
    assert answers(SAMPLES[name], tenant_of(SAMPLES[name])) is (name in ANSWERED)


def test_every_event_type_of_the_vendor_is_answered() -> None:
    """Each of the nine has the documented shape in at least one sample."""
    nine = {event_type.value for event_type in EventType if event_type not in OURS}
    assert {json.loads(SAMPLES[name])["event"] for name in ANSWERED} == nine


@pytest.mark.parametrize(
    ("struct", "table"),
    [
        (documented.MessageShape, resources.MESSAGE),
        (documented.TicketShape, resources.TICKET),
        (documented.ContactShape, resources.CONTACT),
        (documented.CampaignShape, resources.CAMPAIGN),
    ],
)
def test_every_documented_field_is_known(struct: Any, table: tuple[resources.Field, ...]) -> None:
    """A shape has the vendor's names of its resource's table, each for our name: a new field must be added to both."""
    shape = {one.encode_name: one.name for one in structs.fields(struct)}
    assert shape == {one.vendor: one.name for one in table if one.vendor is not None}


_VALUES_BY_READER: dict[Any, Any] = {
    values.identifier: "i",
    values.word: "w",
    values.text: "t",
    values.number: "351",
    values.flag: True,
    values.count: 7,
    values.ack: 3,
    values.moment: "2026-01-15T10:30:00.5Z",
    values.items: [{"name": "n", "value": "v"}],
    values.nested: {"id": "i", "createdAt": "2026-01-15T10:30:00Z"},
    None: {"id": "i", "name": "n"},
}


@pytest.mark.parametrize("event_type", ["message.ack", "ticket.updated", "contact.updated", "campaign.finished"])
def test_every_field_is_taken_over(event_type: str) -> None:
    """A resource that shows all its fields is answered, and each field is in the event."""
    name = entity(EventType(event_type))
    whole = {one.vendor: _VALUES_BY_READER[one.read] for one in resources.RESOURCES[name] if one.vendor is not None}
    body = json.dumps({**WHOLE, "event": event_type, "data": {name: whole}}).encode()
    assert answers(body)
    data = json.loads(normalize(body, tenant=TENANT, received_at=NOW).data)
    assert data[name].keys() == {one.name for one in resources.RESOURCES[name] if one.vendor is not None}


# Neighbours of the documented shape.


def put(*path: str, value: object) -> bytes:
    """Return the whole delivery with another value at that place."""
    changed = json.loads(json.dumps(WHOLE))
    place = changed
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return json.dumps(changed).encode()


MESSAGE, TICKET, CONTACT = ("data", "message"), ("data", "ticket"), ("data", "contact")
TEXT = json.dumps(WHOLE)


@pytest.mark.parametrize(
    ("body", "answered"),
    [
        (TEXT.encode(), True),
        (b" \r\n\t" + TEXT.encode() + b"\n", True),
        (b"\xef\xbb\xbf" + TEXT.encode(), False),
        (TEXT.encode() + b"{}", False),
        (TEXT.encode().replace(b'"b"', b'"\xff"'), False),
        (TEXT.encode().replace(b'"b"', b'"\\ud83d"'), False),
        (TEXT.encode().replace(b'"b"', b'"\\ud83d\\ude00 \\n \\/ \\u007f"'), True),
        (TEXT.encode().replace(b'"b"', b'"\\u0000"'), False),
        (TEXT.encode().replace(b'"b"', b'"\\\\u0000"'), False),
        (TEXT.encode().replace(b'"body"', b'"b\\u006fdy"'), True),
        (TEXT.encode().replace(b'"id": "m"', b'"id": "first", "id": "m"'), True),
        (TEXT.encode().replace(b'"id": "m"', b'"id": 1, "id": "m"'), False),
        (TEXT.encode().replace(b'"queue": null', b'"queue": {"id": "q"}, "queue": null'), True),
        (TEXT.encode().replace(b'"value": "v"', b'"value": "v", "name": "1", "value": "2"'), True),
        (TEXT.encode().replace(b'"tenantId"', b'"event": "message.ack", "tenantId"'), False),
        (TEXT.encode().replace(b'"tenantId"', b'"event": "message.sent", "tenantId"'), True),
        (TEXT.encode().replace(b'"ack": 1', b'"ack": -0'), True),
        (TEXT.encode().replace(b'"ack": 1', b'"ack": -0.0'), False),
        (TEXT.encode().replace(b'"ack": 1', b'"ack": 1e0'), False),
        (TEXT.encode().replace(b'"ack": 1', b'"ack": 1.0'), False),
        (TEXT.encode().replace(b'"ack": 1', b'"ack": ' + b"9" * 5000), False),
        (put(*MESSAGE, "ack", value=2**63 - 1), True),
        (put(*MESSAGE, "ack", value=2**63), False),
        (put(*MESSAGE, "ack", value="3"), False),
        (put(*MESSAGE, "ack", value=None), True),
        (put(*MESSAGE, "ack", value=True), False),
        (put(*MESSAGE, "id", value=""), False),
        (put(*MESSAGE, "id", value=7), False),
        (put(*MESSAGE, "id", value=None), False),
        (put(*MESSAGE, "id", value="x" * 64), True),
        (put(*MESSAGE, "id", value="x" * 65), False),
        (put(*MESSAGE, "id", value="é" * 300), False),
        (put(*MESSAGE, "mediaType", value="x" * 300), False),
        (put(*MESSAGE, "mediaUrl", value="x" * 300), True),
        (put(*MESSAGE, "body", value='{"token": "x"}'), True),
        (put(*MESSAGE, "token", value="x"), False),
        (put(*MESSAGE, "createdAt", value="2026-01-15T10:30:00.1234567+02:00"), True),
        (put(*MESSAGE, "createdAt", value="yesterday"), False),
        (put(*MESSAGE, "createdAt", value="0001-01-01T00:00:00Z"), False),
        (put(*MESSAGE, "createdAt", value=1768473000), False),
        (put(*MESSAGE, "createdAt", value="1768473000"), False),
        (put(*MESSAGE, value=None), False),
        (put(*TICKET, value=None), True),
        (put(*TICKET, value=[]), False),
        (put(*TICKET, "user", value={}), False),
        (put(*TICKET, "user", value={"name": "n"}), False),
        (put(*TICKET, "userId", value="u"), False),
        (put(*TICKET, "contact", value={"id": "other"}), True),
        (put(*CONTACT, "number", value=351910000000), False),
        (put(*CONTACT, "extraInfo", value=[{"name": 1}]), False),
        (put(*CONTACT, "extraInfo", value=[{"name": "n", "token": "kept", "z": None}] * 100), True),
        (put("data", "messageIds", value=["m", "n"]), False),
        (put("data", value=[]), False),
        (put("timestamp", value=None), False),
        (put("timestamp", value="2026-01-15 10:30:00"), True),
        (put("timestamp", value="1970-01-01T00:00:00Z"), False),
        (put("tenantId", value=None), False),
        (put("tenantId", value=42), False),
        (put("tenantId", value=TENANT.upper()), False),
        (put("tenantId", value="other"), False),
        (put("event", value="message.observed"), False),
        (put("attempt", value=1), False),
    ],
    ids=lambda value: ascii(value[-40:]) if isinstance(value, bytes) else str(value),
)
def test_neighbour_of_the_documented_shape(body: bytes, answered: bool) -> None:
    """What is plainly of the shape is answered, with the same event; what needs a judgement is left alone."""
    assert answers(body) is answered


def test_big_text_is_answered() -> None:
    """A thumbnail within the body is a text like any other."""
    assert answers(put(*MESSAGE, "body", value="A" * 1_500_000))


# The law.

_NAMES = st.sampled_from(
    [
        *("id", "status", "ticket", "contact", "message", "campaign", "user", "queue", "userId", "queueId", "extra"),
        *("messageId", "ticketId", "contactId", "ack", "createdAt", "number", "extraInfo", "ids", "token", "gone"),
        *("event", "tenantId", "timestamp", "data", "name", "value", "x\x00", "\ud83d", "k" * 300),
    ]
)
_TEXTS = st.text(max_size=4) | st.sampled_from(
    [
        *("", "3", "-0", "a\x00", "\ud83d", "\\u0000", "x" * 64, "x" * 65, "é" * 300, '{"token": 1}', "[]", TENANT),
        *("2026-01-15T10:30:00Z", "2026-01-15T10:30:00.9999999Z", "2026-01-15t10:30:00,5z", "2026-01-15T24:00:00Z"),
        *("2026-01-15 10:30:00+0130", "0001-01-01T00:00:00Z", "1768473000", "message.ack", "ticket.closed"),
    ]
)
_NUMBERS = st.sampled_from([0, 1, -1, 5, 1.0, -0.0, 1e9, 2**63 - 1, 2**63, -(2**63) - 1, 1768473000, 10**4000])
_LEAVES = st.none() | st.booleans() | _NUMBERS | _TEXTS
_VALUES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3), max_leaves=6
)


_SAMPLES = st.sampled_from(ANSWERED) | st.sampled_from(sorted(SAMPLES))


def objects_in(value: Any) -> list[dict[str, Any]]:
    """Return each object in a JSON value, the outermost first."""
    inner = list(value.values()) if type(value) is dict else value if type(value) is list else []
    found = [value] if type(value) is dict else []
    return found + [one for item in inner for one in objects_in(item)]


def put_in(place: dict[str, Any], data: st.DataObject) -> None:
    """Change one field of an object: drop it, give it another value, or add one."""
    name = data.draw(st.sampled_from(sorted(place)) | _NAMES if place else _NAMES)
    if name in place and data.draw(st.booleans()):
        del place[name]
    else:
        place[name] = data.draw(_VALUES)


def repeated(text: str, data: st.DataObject) -> str:
    """Write a field before the first one of some object: often one that the object has already."""
    starts = [at for at, letter in enumerate(text) if text[at : at + 2] == '{"' or letter == "{"]
    at = data.draw(st.sampled_from(starts)) + 1
    rest = text[at:].lstrip()
    comma = "" if rest.startswith("}") else ","
    return f"{text[:at]}{json.dumps(data.draw(_NAMES))}:{json.dumps(data.draw(_VALUES))}{comma}{text[at:]}"


@given(
    name=st.sampled_from(ANSWERED) | st.sampled_from(sorted(SAMPLES)),
    changes=st.integers(0, 3),
    twice=st.booleans(),
    data=st.data(),
)
def test_where_it_answers_the_event_is_the_same(name: str, changes: int, twice: bool, data: st.DataObject) -> None:
    """Every sample, and every mutation of one, gives the same event from both readers, or the typed one is silent."""
    whole = json.loads(SAMPLES[name])
    tenant = str(whole.get("tenantId", TENANT))
    for _ in range(changes):
        put_in(data.draw(st.sampled_from(objects_in(whole))), data)
    write: Callable[..., str] = json.dumps
    text = write(whole, ensure_ascii=data.draw(st.booleans()))
    answers((repeated(text, data) if twice else text).encode("utf-8", "surrogatepass"), tenant)


_PLAIN: dict[type, st.SearchStrategy[Any]] = {
    str: st.text(st.characters(exclude_categories=["Cs"]), max_size=70) | st.just("2026-01-15T10:30:00.9999999Z"),
    bool: st.booleans(),
    int: st.integers(-(2**63), 2**63 - 1),
}


@given(name=st.sampled_from(ANSWERED), changes=st.integers(1, 4), data=st.data())
def test_other_values_of_the_documented_shape_give_the_same_event(name: str, changes: int, data: st.DataObject) -> None:
    """Where values change to others of their type, or to null, and the names stay, the event is the same too."""
    whole = json.loads(SAMPLES[name])
    tenant = whole["tenantId"]
    for _ in range(changes):
        place = data.draw(st.sampled_from([one for one in objects_in(whole["data"])[1:] if one]))
        field = data.draw(st.sampled_from(sorted(place)))
        place[field] = data.draw(st.none() | _PLAIN.get(type(place[field]), _LEAVES))
    answers(json.dumps(whole, ensure_ascii=data.draw(st.booleans())).encode(), tenant)
