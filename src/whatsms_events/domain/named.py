"""Whom a JSON value or some bytes name: the one rule for who is exported and for who is forgotten.

A contact, a ticket or a message is named by its id under a name that says what it is (`contactId`, `contact.id`), or
anywhere by an id that is too long to be another value by chance. A number names its owner where it is the whole value,
and with at least NUMBER_DIGITS digits also within a longer one, such as 351910000731@c.us; but not within what somebody
wrote. A text that is JSON itself is walked too: some of the vendor's relatives put the channel's own record into one.
So are the names of fields that may be a number or an id: who a campaign went to may stand there.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

import msgspec
from msgspec import UNSET

from whatsms_events.domain.bodies import decode as decode_body
from whatsms_events.domain.forms import whole_json
from whatsms_events.domain.marks import NUMBER_DIGITS, Find, MarkKind, in_ascii, number_name
from whatsms_events.domain.values import SHORT_LIMIT_BYTES
from whatsms_events.errors import InvalidEventError

LONG_ID_CHARS: Final = 12
"""An id of so many characters is no other value by chance."""

TEXT_LIMIT_BYTES: Final = 1024 * 1024
"""So much of bytes that are no JSON is looked at: a receiver looks while its other deliveries wait."""

TOKENS_LIMIT: Final = 2000
"""So many words of them."""

VALUES_LIMIT: Final = 100_000
"""So many values, lists and objects of one JSON value are looked at: a campaign with some ten thousand recipients."""

_CONTACTS: Final = "contact contactid contacts contactids mergedinto recipient recipientid recipients recipientids"
_MESSAGES: Final = (
    "message messageid messages messageids quotedmsg quotedmsgid quotedmessage quotedmessageid quotedmessages "
    "quoted quotedid quote replyto replytoid"
)
ID_NAMES: Final[Mapping[MarkKind, frozenset[str]]] = {
    "contact": frozenset(_CONTACTS.split()),
    "ticket": frozenset(("ticket", "ticketid", "tickets", "ticketids")),
    "message": frozenset(_MESSAGES.split()),
}
"""The names under which a short id stands, as `plain_name` gives them."""

_COUNTED: Final = frozenset(("contacts", "recipients", "tickets", "messages", "quotedmessages"))
"""The names under which an integer that stands alone says how many there are: it is no id."""

_NAMED: Final[Mapping[str, tuple[MarkKind, ...]]] = {
    name: (kind,) for kind, names in ID_NAMES.items() for name in names
}
_ANY: Final[tuple[MarkKind, ...]] = tuple(ID_NAMES)

Names = Callable[[str, Any], bool]
"""Tells whether a JSON value that stands under a name names somebody."""

_WRITTEN: Final = frozenset(("body", "lastmessage", "text", "caption", "conversation", "name"))
"""What somebody wrote: a number within such a text is a part of what they said."""

_QUOTING: Final = ("quot", "reply", "replied")
"""How the names of fields begin that show what a message quotes: "quotedMsg", "quotedBody", "replyTo"."""

_TOKEN: Final = re.compile(r"[A-Za-z0-9_+-]{1,256}")
_OPAQUE: Final = re.compile(r"[0-9a-f]{24}|[0-9a-f]{8}(-?)[0-9a-f]{4}(\1[0-9a-f]{4}){2}\1[0-9a-f]{12}", re.IGNORECASE)
"""What is an id by its form: a UUID, or an id of a document store."""

_WITHIN: Final = re.compile(rf"(?<![0-9])\+?[0-9](?:[ ().-]{{0,3}}[0-9]){{{NUMBER_DIGITS - 1},24}}(?![0-9])")
_DIGITS: Final = re.compile(rf"[0-9]{{{NUMBER_DIGITS},}}")
_ID: Final = r"\"?([0-9A-Za-z_@.+-]{1,256})"
_CUT: Final = re.compile(
    # Both ends of the name are bound: a text of "contactcontact..." would be read to its end from each of them.
    rf"\b(contact|ticket|message|quotedM(?:sg|essage))(?!s\"?\s*[:=]\s*[0-9])\w{{0,20}}\"?\s*[:=]\s*(?:\{{\s*\"id\"\s*:\s*)?{_ID}"
    rf"|\"(contact|ticket|message)\.\w{{0,40}}\"[^{{}}]{{0,500}}\"data\"\s*:\s*\{{\s*\"id\"\s*:\s*{_ID}",
    re.IGNORECASE,
)
"""How an id stands in bytes that are no whole JSON, such as a body that was cut: under its name, or in flat data."""

_TIME: Final = re.compile(
    r"(?<![0-9])[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]{1,9})?)?"
)
"""A time, whose date and fraction are rows of digits, but no number."""

_KINDS: Final[Mapping[str, MarkKind]] = {"contact": "contact", "ticket": "ticket"}


def named_in(value: Any, find: Find, *, name: str = "") -> int | None:
    """Return when somebody was forgotten whom a JSON value names that stands under a name; None where it is nobody."""
    return latest(*(owner(find, key, one) for key, one in leaves(value, name)))


def named_in_bytes(raw: bytes, find: Find) -> int | None:
    """Return when somebody was forgotten whom a delivery names, be it JSON or not; None where it names nobody."""
    value = delivered(raw)
    if value is not None:
        return named_in(value, find)
    text = raw[:TEXT_LIMIT_BYTES].decode("utf-8", "replace")
    tokens = (owner(find, "", found[0]) for found in islice(_TOKEN.finditer(text), TOKENS_LIMIT))
    cuts = ((found[1] or found[3], found[2] or found[4]) for found in islice(_CUT.finditer(text), TOKENS_LIMIT))
    numbers = (find("number", one) for one in _numbers_within(text))
    return latest(*tokens, *numbers, *(find(_KINDS.get(name.lower(), "message"), one) for name, one in cuts))


def delivered(raw: bytes) -> Any:
    """Return the JSON value of a delivery, None where it is none. Flat data goes under the name of what it is about."""
    value = whole_json(raw)
    if not isinstance(value, dict) or not isinstance(value.get("data"), dict | list):
        return value
    events = value.get("event")
    abouts = [
        one.partition(".")[0] for one in (events if isinstance(events, list) else [events]) if isinstance(one, str)
    ]
    return {**value, "data": [value["data"], dict.fromkeys(abouts, value["data"])]}


def owner(find: Find, key: str, value: str) -> int | None:
    """Return when the person was forgotten whom one value names that stands under this name."""
    kinds = _kinds(key, value)
    if not kinds and len(value) < NUMBER_DIGITS and key != "number":
        return None  # most values, and there may be many
    ats = [find(kind, value) for kind in kinds]
    ats += [find("number", one) for one in _numbers(key, value)]
    return latest(*ats)


def _kinds(key: str, value: str) -> tuple[MarkKind, ...]:
    """Return of what a value may be an id: a short one, such as 7, only of what its name says."""
    if LONG_ID_CHARS <= len(value) <= SHORT_LIMIT_BYTES:
        return _ANY
    return _NAMED.get(key, ())


def is_id(kind: MarkKind, key: str, value: str) -> bool:
    """Tell whether a value may be an id of this kind."""
    return kind in _kinds(key, value)


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield the texts and integers of a JSON value, each with its name: `contact.id` is a contact."""
    waiting: list[tuple[str, Any]] = [(plain_name("", name), value)]
    for _ in range(VALUES_LIMIT):
        if not waiting:
            return
        key, one = waiting.pop()
        match one:
            case dict():
                waiting += [(_name_within(key, str(of), inner), inner) for of, inner in one.items()]
                waiting += [(key, of) for of in one if _may_tell(of)]
            case list():
                waiting += [(key, inner) for inner in one]
            case bool():
                pass
            case str() if one[:1] in ("{", "[") and (inside := whole_json(one)) is not None:
                waiting.append((key, inside))
            case str() | int():
                yield key, str(one)
            case float() if one.is_integer():
                yield key, str(int(one))


def calls_contact(value: Any, contact_id: str) -> bool:
    """Tell whether a JSON value has this id as a contact's: under such a name, or where it can be nothing else.

    A number is no id, and neither is what somebody may be called.
    """
    if _TOKEN.fullmatch(contact_id) is None or number_name(contact_id) is not None:
        return False
    anywhere = _OPAQUE.fullmatch(contact_id) is not None
    return any(one == contact_id and (anywhere or key in ID_NAMES["contact"]) for key, one in leaves(value))


def merges_in(value: Any) -> Iterator[tuple[str, str]]:
    """Yield of each contact that a JSON value shows as merged into another one its id and the other's."""
    waiting: list[tuple[str, Any]] = [("", value)]
    for _ in range(VALUES_LIMIT):
        if not waiting:
            return
        name, one = waiting.pop()
        if isinstance(one, list):
            waiting += [(name, inner) for inner in one]
        if not isinstance(one, dict):
            continue
        waiting += [(plain_name(name, str(key)), inner) for key, inner in one.items()]
        if name in ("contact", "contacts") and _is_id(one.get("id")):
            more = one.get("extra")
            told = {**(more if isinstance(more, dict) else {}), **one}
            yield from (
                (str(one["id"]), other)
                for key, into in told.items()
                if plain_name(name, str(key)) == "mergedinto"
                for under, other in leaves(into, "mergedinto")
                if under in ("mergedinto", "contact") and len(other) <= SHORT_LIMIT_BYTES
            )


def _is_id(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def without(name: str, value: Any, names: Names, *, of_many: bool = False) -> Any:
    """Return what stays of a JSON value without whom it names; UNSET where nothing may stay.

    A value that names somebody goes as a whole, since nobody knows what else of it is theirs. In a list of things, or
    of ids or numbers alone, each is judged by itself. `of_many`: the value tells of many people, as all that is shown
    of a campaign; then what is nested in a thing is judged by itself too.
    """
    match value:
        case list() if all(isinstance(one, dict) or _tells(one) for one in value):
            kept = [left for one in value if (left := _element(name, one, names, of_many=of_many)) is not UNSET]
            return value if kept == value else kept
        case dict() if of_many:
            return _parts(name, value, names, frozenset(value))
        case str() if value[:1] in ("{", "[") and isinstance(inside := _inside(value), list | dict):
            left = without(name, inside, names, of_many=of_many)
            return value if left == inside else left if left is UNSET else msgspec.json.encode(left).decode()
        case _:
            return UNSET if names(_name_within(name, name, value), value) else value


def _element(name: str, value: Any, names: Names, *, of_many: bool) -> Any:
    """Return what stays of one of a list: it is one person's, but for a list of contacts within it."""
    if not of_many or not isinstance(value, dict):
        return UNSET if names(name, value) else value
    lists = frozenset(key for key in value if plain_name(name, key) in ID_NAMES["contact"])
    return _parts(name, value, names, lists)


def _parts(name: str, value: dict[str, Any], names: Names, apart: frozenset[str]) -> Any:
    """Return what stays of a thing; what is nested in it under the names `apart` is judged by itself."""
    nested = {key for key, one in value.items() if key in apart and isinstance(one, dict | list)}
    there = {key: one for key, one in value.items() if not names(name, {key: None})}
    if names(name, {key: one for key, one in there.items() if key not in nested}):
        return UNSET
    kept = {
        key: without(plain_name(name, key), one, names, of_many=True) if key in nested else one
        for key, one in there.items()
    }
    left = {key: one for key, one in kept.items() if one is not UNSET}
    return value if left == value else left


def unquoted(fields: dict[str, Any]) -> dict[str, Any]:
    """Return unknown fields of a message without those that show the message which it quotes."""
    kept = {name: one for name, one in fields.items() if not _shows_quote(name, one)}
    return fields if len(kept) == len(fields) else kept


def _shows_quote(name: str, value: Any) -> bool:
    if plain_name("", name).startswith(_QUOTING):
        return True
    match value:
        case dict():
            return any(_shows_quote(str(key), one) for key, one in value.items())
        case list():
            return any(_shows_quote("", one) for one in value)
        case str() if value[:1] in ("{", "["):
            return _shows_quote("", whole_json(value))
        case _:
            return False


def _tells(value: Any) -> bool:
    """Tell whether a value may be a number or an id, and no name."""
    if not isinstance(value, str | int) or isinstance(value, bool):
        return False
    text = str(value)
    return number_name(text) is not None or (_TOKEN.fullmatch(text) is not None and _has_digit(text))


def _may_tell(key: str) -> bool:
    """Tell whether a field's name may be a number or an id, so that it is looked at as a value is."""
    return len(key) >= NUMBER_DIGITS and _has_digit(key)


def _has_digit(text: str) -> bool:
    return any(one in "0123456789" for one in text)


def plain_name(owner_name: str, name: str) -> str:
    """Return a field's name as it is compared; an `id` is called as what it is of."""
    plain = name.replace("_", "").lower()
    return owner_name if plain == "id" else plain


def _name_within(owner_name: str, name: str, value: Any) -> str:
    """Return a field's name as `plain_name`; none where its value says how many there are."""
    if name == "key" and isinstance(value, dict):
        return owner_name  # the channel's own id of a message, in its parts
    counted = isinstance(value, int | float) and plain_name("", name) in _COUNTED
    return "" if counted else plain_name(owner_name, name)


def latest(*ats: int | None) -> int | None:
    """Return the latest of some moments."""
    found: int | None = None
    for at in ats:
        if at is not None and (found is None or at > found):
            found = at
    return found


def _numbers(key: str, value: str) -> list[str]:
    """Return the numbers that a value may be or hold, as they are marked."""
    if key == "number" and len(value) < NUMBER_DIGITS:
        return [value]  # found only as a whole value: it would be a part of many others
    value = _TIME.sub("T", value)
    whole = number_name(value)
    if whole is not None:
        return [whole]
    return [] if key in _WRITTEN else list(_numbers_within(value))


def _numbers_within(text: str) -> Iterator[str]:
    """Yield the numbers in a longer text: with the signs between their digits, and each row of digits by itself."""
    for found in islice(_WITHIN.finditer(_TIME.sub("T", in_ascii(text))), TOKENS_LIMIT):
        names = (number_name(one) for one in (found[0], *_DIGITS.findall(found[0])))
        yield from {name for name in names if name is not None}


def _inside(text: str | bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def tenants_named(raw: bytes) -> list[str]:
    """Return the id of the tenant that a delivery names, nothing where it cannot be read."""
    try:
        tenant = decode_body(raw).get("tenantId")
    except InvalidEventError:
        return []
    return [str(tenant)] if isinstance(tenant, str | int) else []
