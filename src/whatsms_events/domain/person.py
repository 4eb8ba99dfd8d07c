"""Who a person is in the data, and whether an event, a row or some bytes are about them, or only name them.

The vendor knows a person as a contact: by its id, and by its number. A number may belong to several ids, since the
vendor merges contacts, so a `Person` has all of them. What is theirs: their contact, the tickets of that contact with
every message in them (also what was written to them), and what they wrote elsewhere, which is in groups. What is
somebody else's may still name them: a nested snapshot, the author of a quoted message, a field that nobody knows. Only
a look into the JSON finds that. A name is never enough, since two people may be called the same, and what somebody else
wrote about them stays somebody else's.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

NUMBER_DIGITS: Final = 6
"""A number with fewer digits is found only where it stands as a whole value: it would be a part of many others."""

_CONTACT: Final = frozenset(("contact", "contactid", "mergedinto"))
_TICKET: Final = frozenset(("ticket", "ticketid"))
_MESSAGE: Final = frozenset(("message", "messageid", "quotedmsg", "quotedmsgid", "quotedmessageid"))
_WRITTEN: Final = frozenset(("body", "lastmessage", "text", "caption", "conversation", "name"))
"""What somebody wrote: a number within such a text is a part of what they said."""

_CUT: Final = r"contact\w*\"?\s*[:=]\s*(?:\{{\s*\"id\"\s*:\s*)?\"?{}(?![0-9A-Za-z_-])"
"""How a contact's id stands in bytes that are no whole JSON, such as a body that was cut."""


@dataclass(frozen=True, slots=True)
class Person:
    """A person of one tenant (its id): ids and numbers of their contacts, and the ids of these contacts' tickets.

    `known`: the projection has a contact of theirs. Else whoever asked named nobody, or somebody who is only in the
    log.
    """

    tenant: str
    contacts: frozenset[str]
    numbers: frozenset[str] = frozenset()
    tickets: frozenset[str] = frozenset()
    known: bool = True
    _in_text: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Make the pattern that finds a number of theirs in a longer text, such as 351910000731@c.us."""
        long = sorted({digits for one in self.numbers if len(digits := digits_of(one)) >= NUMBER_DIGITS})
        pattern = rf"(?<![0-9])(?:{'|'.join(long)})(?![0-9])" if long else r"(?!)"
        object.__setattr__(self, "_in_text", re.compile(pattern))

    def owns(self, *, ticket_id: str | None, contact_id: str | None) -> bool:
        """Tell whether what has these ids is theirs: it is about their contact, or stands in a ticket of theirs."""
        return contact_id in self.contacts or ticket_id in self.tickets

    def needles(self) -> list[str]:
        """Return texts of which one is in every event's data that names a contact or a number of theirs."""
        found = [form for one in sorted(self.contacts | self.numbers) for form in _forms(one)]
        digits = (digits_of(one) for one in sorted(self.numbers))
        return list(dict.fromkeys((*found, *(one for one in digits if len(one) >= NUMBER_DIGITS))))

    def is_named_in(self, value: Any) -> bool:
        """Tell whether a JSON value names one of their contacts, numbers or tickets."""
        return any(self._is_named_by(key, one) for key, one in _pairs(value))

    def is_named_in_bytes(self, raw: bytes) -> bool:
        """Tell whether a delivery's bytes name them: as JSON where they are, else as text, for what was cut."""
        value = delivered(raw)
        if value is not None:
            return self.is_named_in(value)
        text = raw.decode("utf-8", "replace")
        cut = (re.search(_CUT.format(re.escape(one)), text, re.IGNORECASE) for one in self.contacts)
        return self._in_text.search(text) is not None or any(cut)

    def _is_named_by(self, key: str, value: str) -> bool:
        if (key in _CONTACT and value in self.contacts) or (key in _TICKET and value in self.tickets):
            return True
        return key not in _WRITTEN and (value in self.numbers or self._in_text.search(value) is not None)


def message_ids(value: Any) -> list[str]:
    """Return the ids of messages that a JSON value names, each once."""
    return list(dict.fromkeys(one for key, one in _pairs(value) if key in _MESSAGE and len(one) <= ID_CHARS))


ID_CHARS: Final = 256
"""No id is longer (`values.shorten`): a text of a message that stands under such a name is none."""


def delivered(raw: bytes) -> Any:
    """Return the JSON value of a delivery, None where it is none. Flat data goes under the name of what it is about."""
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if isinstance(value, dict) and isinstance(value.get("event"), str) and isinstance(value.get("data"), dict):
        about = value["event"].partition(".")[0]
        return {**value, "data": {about: value["data"], **value["data"]}}
    return value


def digits_of(number: str) -> str:
    """Return a number's digits: it may be written with signs."""
    return "".join(one for one in number if one in "0123456789")


def _forms(one: str) -> list[str]:
    """Return how an id may stand in JSON as we write it: as a text or an integer, also in JSON within a text."""
    written = msgspec.json.encode(one).decode()
    within = msgspec.json.encode(written).decode()[1:-1]
    numeric = one.isascii() and one.isdigit()
    return [written, within, *(f":{space}{one}{end}" for space in ("", " ") for end in ",}" if numeric)]


def _pairs(value: Any) -> Iterator[tuple[str, str]]:
    """Yield each value that may be an id or a number with what it is of: `ticketId` and `ticket.id` are of a ticket.

    A text that is JSON itself is walked too: some of the vendor's relatives put the channel's own record into one.
    """
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting:
        key, one = waiting.pop()
        match one:
            case dict():
                waiting += [(_key(key, str(name)), inner) for name, inner in one.items()]
            case list():
                waiting += [(key, inner) for inner in one]
            case bool():
                pass
            case int():
                yield key, str(one)
            case str() if one[:1] in ("{", "[") and (inside := _inside(one)) is not None:
                waiting.append((key, inside))
            case str():
                yield key, one


def _key(owner: str, name: str) -> str:
    plain = name.replace("_", "").lower()
    return owner if plain == "id" else plain


def _inside(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
