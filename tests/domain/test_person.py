"""Who a person is in the data: what is theirs, what only names them, and what has nothing to do with them."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatsms_events.domain.events import EPOCH
from whatsms_events.domain.named import delivered
from whatsms_events.domain.normalize import normalize
from whatsms_events.domain.person import Person, digits_of, message_ids

ANA = Person("t1", frozenset({"731", "c-9"}), frozenset({"351910000731"}), frozenset({"812"}))

NAMING: list[dict[str, Any]] = [
    {"contact": {"id": "731"}},
    {"message": {"contact_id": "c-9"}},
    {"message": {"contactId": 731}},
    {"message": {"extra": {"contact": {"id": 731, "name": "Ana"}}}},
    {"contact": {"id": "5", "merged_into": "731"}},
    {"contact": {"number": "351910000731"}},
    {"message": {"extra": {"participant": "351910000731@s.whatsapp.net"}}},
    {"message": {"extra": {"number": 351910000731}}},
    {"message": {"extra": {"dataJson": '{"key": {"remoteJid": "351910000731@c.us"}}'}}},
    {"message": {"extra": {"dataJson": '{"a": {"contactId": 731}, "b": 1}'}}},
    {"message": {"extra": {"dataJson": '{"contact":{"id":"c-9"}}'}}},
    {"message": {"extra": {"quotedMsg": {"id": "m-1", "contactId": 731}}}},
    {"message": {"extra": {"ticket": {"id": 812}}}},
    {"campaign": {"extra": {"contacts": [{"id": 731, "name": "Ana"}]}}},
    {"campaign": {"extra": {"contactIds": [5, 731]}}},
    {"campaign": {"extra": {"failed": {"351910000731": "no WhatsApp"}}}},
]
OTHERS: list[dict[str, Any]] = [
    {"contact": {"id": "7310"}},
    {"ticket": {"id": "731"}},
    {"user": {"id": 731}},
    {"message": {"id": "c-9"}},
    {"contact": {"number": "3519100007310"}},
    {"message": {"body": "call 351910000731"}},
    {"contact": {"id": "5", "name": "731"}},
    {"message": {"extra": {"count": 731, "read": True}}},
]


@pytest.mark.parametrize("data", NAMING, ids=str)
def test_whatever_names_a_person_is_found(data: dict[str, Any]) -> None:
    """An id under a contact's name, a number anywhere, in nested and unknown fields and in JSON within a text."""
    assert ANA.is_named_in(data)
    assert ANA.is_named_in_bytes(msgspec.json.encode({"event": "x.y", "data": data}))


@pytest.mark.parametrize("data", OTHERS, ids=str)
def test_the_same_text_elsewhere_is_somebody_else(data: dict[str, Any]) -> None:
    """An id of another kind, a longer number, a name, and what another person wrote do not name this one."""
    assert not ANA.is_named_in(data)
    assert not ANA.is_named_in_bytes(msgspec.json.encode({"event": "x.y", "data": data}))


def test_flat_data_names_what_the_event_is_about() -> None:
    """A delivery may have the contact's own fields directly in `data`: then its `id` is the contact's."""
    flat = b'{"event":"contact.updated","data":{"id":731,"name":"Ana"}}'
    assert ANA.is_named_in_bytes(flat)
    assert not ANA.is_named_in_bytes(flat.replace(b"contact.updated", b"ticket.updated"))
    assert message_ids(delivered(b'{"event":"message.ack","data":{"id":"m-1","ack":3}}')) == ["m-1"]


@pytest.mark.parametrize(
    "raw",
    [b'{"data":{"contact":{"id":731,"na', b'{"data":{"contactId":"c-9"', b"x 351910000731@c.us", b"contact_id=731&a=1"],
)
def test_bytes_that_are_no_json_are_searched_as_text(raw: bytes) -> None:
    """A body that was cut, or is no JSON at all, names a person by a number, or by an id behind the word contact."""
    assert ANA.is_named_in_bytes(raw)
    assert not Person("t1", frozenset({"73"}), frozenset({"35191000073"})).is_named_in_bytes(raw)


def test_what_is_theirs_is_their_contact_and_their_tickets() -> None:
    """A ticket of theirs owns what others wrote in it; of a group's ticket only what they wrote there is theirs."""
    assert ANA.owns(ticket_id="812", contact_id=None)
    assert ANA.owns(ticket_id="820", contact_id="731")
    assert not ANA.owns(ticket_id="820", contact_id="5")
    assert not ANA.owns(ticket_id=None, contact_id=None)


def test_a_person_without_a_number_is_found_by_id_alone() -> None:
    """No number is no pattern that matches everything, and a short one counts only as a whole value."""
    nobody = Person("t1", frozenset({"1"}))
    assert not nobody.is_named_in({"contact": {"number": "", "name": "", "id": "2"}})
    short = Person("t1", frozenset({"1"}), frozenset({"112"}))
    assert short.is_named_in({"contact": {"number": "112"}})
    assert not short.is_named_in({"contact": {"number": "351112"}, "message": {"extra": {"jid": "112@c.us"}}})
    assert digits_of("+351 910-000") == "351910000"


@given(data=st.sampled_from(NAMING), named=st.text(max_size=8))
def test_every_event_that_names_them_has_a_needle(data: dict[str, Any], named: str) -> None:
    """The texts to look for are in the data of each event that names a contact or a number of theirs, as the log holds
    it: so a database can leave the others out. A ticket alone is found by its column.
    """
    whole = {**data, "message": {"id": "m-1", **data.get("message", {})}, "note": named}
    body = msgspec.json.encode({"event": "message.received", "tenantId": "t1", "data": whole})
    event = normalize(body, tenant="t1", received_at=EPOCH)
    held = msgspec.json.decode(event.data)
    if Person("t1", ANA.contacts, ANA.numbers).is_named_in(held):
        assert any(needle in event.data.decode() for needle in ANA.needles())
