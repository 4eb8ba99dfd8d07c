"""Whom a JSON value or some bytes name, what only looks like it, and who was merged with whom."""

from typing import Any

import msgspec
import pytest

from whatsms_events.domain.marks import KnownPerson
from whatsms_events.domain.named import (
    TEXT_LIMIT_BYTES,
    VALUES_LIMIT,
    calls_contact,
    merges_in,
    named_in,
    named_in_bytes,
)

ANA = KnownPerson(0, {"731", "c-9"}, {"351910000731"}, {"812"}, {"m-1"})


def names(value: Any, of: KnownPerson = ANA) -> bool:
    """Tell whether a JSON value names somebody."""
    return named_in(value, of.find) is not None


def bytes_name(raw: bytes, of: KnownPerson = ANA) -> bool:
    """Tell whether a delivery's bytes name somebody."""
    return named_in_bytes(raw, of.find) is not None


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
    {"campaign": {"extra": {"contactIds": 731}}},
    {"campaign": {"extra": {"contacts": [5, 731]}}},
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
    {"campaign": {"extra": {"contacts": 731}}},
    {"campaign": {"extra": {"recipients": 731.0}}},
    {"contact": {"extra": {"tickets": 812}}},
]


@pytest.mark.parametrize("data", NAMING, ids=str)
def test_whatever_names_a_person_is_found(data: dict[str, Any]) -> None:
    """An id under a contact's name, a number anywhere, in nested and unknown fields and in JSON within a text."""
    assert names(data)
    assert bytes_name(msgspec.json.encode({"event": "x.y", "data": data}))


@pytest.mark.parametrize("data", OTHERS, ids=str)
def test_the_same_text_elsewhere_is_somebody_else(data: dict[str, Any]) -> None:
    """An id of another kind, a longer number, a name, and what another person wrote do not name this one."""
    assert not names(data)
    assert not bytes_name(msgspec.json.encode({"event": "x.y", "data": data}))


def test_flat_data_names_what_the_event_is_about() -> None:
    """A delivery may have the contact's own fields directly in `data`: then its `id` is the contact's."""
    flat = b'{"event":"contact.updated","data":{"id":731,"name":"Ana"}}'
    assert bytes_name(flat)
    assert not bytes_name(flat.replace(b"contact.updated", b"ticket.updated"))
    assert bytes_name(b'{"event":"message.ack","data":{"id":"m-1","ack":3}}')


@pytest.mark.parametrize(
    "raw",
    [b'{"data":{"contact":{"id":731,"na', b'{"data":{"contactId":"c-9"', b"x 351910000731@c.us", b"contact_id=731&a=1"],
)
def test_bytes_that_are_no_json_are_searched_as_text(raw: bytes) -> None:
    """A body that was cut, or is no JSON at all, names a person by a number, or by an id behind the word contact."""
    assert bytes_name(raw)
    assert not bytes_name(b'{"data":{"contacts":731,"na')
    assert not bytes_name(raw, KnownPerson(0, {"73"}, {"35191000073"}))


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (b'{"contact' + b"x" * 20 + b'":"731"', True),
        (b'{"contact' + b"x" * 21 + b'":"731"', False),
        (b'{"text":"' + b"contact" * 20 + b':731"', False),
        (b'{"a":"' + b" " * (TEXT_LIMIT_BYTES - 40) + b'","contactId":"731",', True),
        (b'{"a":"' + b" " * TEXT_LIMIT_BYTES + b'","contactId":"731",', False),
    ],
    ids=["a name", "a name too long", "a word", "within the limit", "behind the limit"],
)
def test_cut_bytes_are_searched_so_far_and_no_further(raw: bytes, found: bool) -> None:
    """A field's name begins at a word's beginning and has an end, and so have the bytes: no body holds others up."""
    assert bytes_name(raw) == found


@pytest.mark.parametrize("empty", [{}, [], None])
def test_what_holds_nothing_counts_as_a_value(empty: Any) -> None:
    """Of a million empty objects no more are looked at than of a million numbers."""
    there = [{"contactId": "731"}, *[empty] * (VALUES_LIMIT - 3)]
    assert names(there)
    assert not names([*there, empty, empty])


def test_a_person_without_a_number_is_found_by_id_alone() -> None:
    """No number is no pattern that matches everything, and a short one counts only as a whole value."""
    nobody = KnownPerson(0, {"1"})
    assert not names({"contact": {"number": "", "name": "", "id": "2"}}, nobody)
    short = KnownPerson(0, {"1"}, {"112"})
    assert names({"contact": {"number": "112"}}, short)
    assert not names({"contact": {"number": "351112"}, "message": {"extra": {"jid": "112@c.us"}}}, short)


@pytest.mark.parametrize(
    ("contact", "pairs"),
    [
        ({"id": "5", "merged_into": "731"}, [("5", "731")]),
        ({"id": 5, "extra": {"mergedInto": 731}}, [("5", "731")]),
        ({"id": "5", "mergedInto": {"id": "731", "name": "Ana"}}, [("5", "731")]),
        ({"id": "5", "merged_into": None}, []),
        ({"name": "Ana", "mergedInto": "731"}, []),
    ],
)
def test_who_was_merged_is_read_however_it_is_written(contact: dict[str, Any], pairs: list[tuple[str, str]]) -> None:
    """By a backfill, or by the vendor in a field of its own, also nested; a ticket that was merged is no contact."""
    assert list(merges_in({"contact": contact})) == pairs
    assert list(merges_in({"ticket": {"id": "9", "merged_into": "8", "contact": contact}})) == pairs


def test_an_id_is_a_contacts_under_such_a_name_alone() -> None:
    """What was typed is taken for an id where something calls it so: never a name, a number, or an id of something."""
    told = {"campaign": {"extra": {"contacts": [{"id": "c-77", "name": "Ana Maria 1"}], "recipient": "351910000731"}}}
    assert calls_contact(told, "c-77")
    assert not any(calls_contact(told, one) for one in ("Ana Maria 1", "351910000731", "c-7"))
