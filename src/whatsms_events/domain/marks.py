"""What ties an event to a person who was forgotten, kept as keyed hashes: nobody can tell from a mark whose it is.

A *mark* is kept of the ids of a person's contacts, tickets and messages, and of their numbers, each with the moment at
which they were forgotten. Who has the database and no key learns nothing from marks, not even by trying numbers.
"""

import hmac
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Literal, TypeAlias, assert_never
from uuid import UUID

from whatsms_events.domain.last_message import plain

MarkKind: TypeAlias = Literal["contact", "number", "ticket", "message", "text", "tied"]
"""What is marked. A "text" is one that the person wrote in somebody else's ticket: see `text_name`. "tied" is a contact
that a number alone told to be theirs: nothing is blanked by it before the tables have been asked, see `late_ties`."""

Find: TypeAlias = Callable[[MarkKind, str], int | None]
"""When the person was forgotten to whom an id, a number or a text belongs, in microseconds; None for nobody."""

MARK_BYTES: Final = 16
"""128 bits of the keyed hash: no two of a billion marks are the same by chance."""

NUMBER_DIGITS: Final = 6
"""A text with fewer digits is no number that tells who somebody is."""

NUMBER_CHARS: Final = 40
"""And one that is written with more characters is none either."""

ABROAD: Final = "00"
ABROAD_DIGITS: Final = 8
"""With its country's a number has so many digits at least: "000000" is no number abroad, but stands for "unknown"."""

_NUMBER: Final = re.compile(
    rf"(?:[A-Za-z]{{2,12}}:)? ?(\+?[0-9 ().\-/]{{{NUMBER_DIGITS},{NUMBER_CHARS}}})(?:[@:].*)?", re.DOTALL
)
_IN_ASCII: Final = str.maketrans(
    {one: str(digit) for zero in "\uff10\u0660\u06f0" for digit, one in enumerate(range(ord(zero), ord(zero) + 10))}
    | dict.fromkeys((0xA0, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000), " ")
    | dict.fromkeys((*range(0x2010, 0x2016), 0x2212, 0xFE63, 0xFF0D), "-")
    | dict.fromkeys((0xAD, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x206A), 0xFEFF), None)
    | {0xFF0B: "+", 0xFF08: "(", 0xFF09: ")", 0xFF0E: ".", 0xFF0F: "/"}
)
_COUNTRY: Final = (
    "1|7|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]"  # countries of one and of two digits
    "|2[1-689][0-9]|3[578][0-9]|42[0-9]|5[09][0-9]|6[7-9][0-9]|8[03578-9][0-9]|9[679][0-9]"
)
"""How a country's number begins (ITU-T E.164, assigned or spare): no other number of a country begins with it."""

_STANDS_FOR_NONE: Final = re.compile(rf"(?:{_COUNTRY})([0-9])\1{{6,}}|0?([0-9])\2+|0?1234567890?|9876543210")
"""What is written where there is no number: one digit again and again, perhaps behind a country's, or all in order."""

NO_IDS: Final = frozenset(("0", "-1", "null", "nil", "none", "nan", "undefined", "false", f"{UUID(int=0)}"))
"""What stands in the place of an id where there is none: many things would be one."""

_GROUPS: Final = re.compile(r".*@g\.us|(?!00)[0-9]{16,40}|[0-9]{6,15}-[0-9]{9,11}|-[0-9]{6,20}", re.DOTALL)

_EDGE: Final = " .…\ufffd"


def in_ascii(text: str) -> str:
    """Return a text with wide and Arabic digits, and the spaces and dashes that are pasted with numbers, in ASCII."""
    return text if text.isascii() else text.translate(_IN_ASCII)


def is_number_of_group(number: object) -> bool:
    """Tell whether what stands in the place of a number is the channel's id of a group.

    On WhatsApp it has more digits than a number may have (15), or those of who made it and a time, on Telegram a minus.
    Webhooks need not say that a contact is a group.
    """
    return isinstance(number, str) and _GROUPS.fullmatch(number) is not None


def is_no_id(text: str) -> bool:
    """Tell whether a text is no id of anything, but stands where there is none, such as 0 or "None"."""
    return text in NO_IDS or text.lower() in NO_IDS


def number_name(number: str) -> str | None:
    """Return a number's digits, as it is marked; None for no number.

    It comes with signs, as 351910000731@c.us, and as whatsapp:+351910000731, by which some channels name it. A number
    that is dialled to another country may begin with 00 in the place of +: these are no part of it. What stands for
    "unknown", such as 0000000000, is none: many contacts would be one person.
    """
    if number.isascii() and number.isdigit() and NUMBER_DIGITS <= len(number) <= NUMBER_CHARS:
        digits = number  # most are written so
    elif (found := _NUMBER.fullmatch(in_ascii(number))) is None:
        return None
    else:
        digits = "".join(one for one in found[1] if one in "0123456789")
    if digits.startswith(ABROAD) and len(digits) >= len(ABROAD) + ABROAD_DIGITS:
        digits = digits.removeprefix(ABROAD)
    if len(digits) < NUMBER_DIGITS or _STANDS_FOR_NONE.fullmatch(digits) is not None:
        return None
    return digits


def text_name(ticket_id: str, text: str) -> str:
    """Return what is marked of a text: with its ticket, since "ok" is everybody's."""
    return f"{ticket_id}\0{plain(text)}"


@dataclass(frozen=True, slots=True)
class Marker:
    """Makes marks with a key that is no part of any database, so that a mark tells nothing to who has no key."""

    key: bytes

    def mark(self, tenant: str, kind: MarkKind, value: str) -> bytes:
        """Return the mark of an id, a number or a text of a tenant (its id)."""
        return hmac.digest(self.key, _place(tenant, kind) + _framed(value), "sha256")[:MARK_BYTES]

    @property
    def check(self) -> bytes:
        """Return what tells one key from another, and tells nothing of either."""
        return hmac.digest(self.key, b"whatsms-events suppression key", "sha256")[:8]

    @property
    def fingerprint(self) -> str:
        """Return the beginning of `check` in hexadecimal, for people to compare."""
        return self.check[:4].hex()


@dataclass(frozen=True, slots=True)
class Suppressions:
    """The marks of everybody who was forgotten, each with the moment; false where there are none."""

    marker: Marker | None = None
    held: Mapping[bytes, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Tell whether anybody was forgotten: the only question that is asked where nobody was."""
        return bool(self.held)

    def of(self, tenant: str) -> Find:
        """Return what finds the marks of one tenant's people."""
        marker, held = self.marker, self.held
        if marker is None:
            return lambda _kind, _value: None
        return lambda kind, value: held.get(marker.mark(tenant, kind, value))


def _framed(part: str) -> bytes:
    """Return a text so that of no two lists of texts the bytes are the same."""
    encoded = part.encode("utf-8", "surrogatepass")
    return len(encoded).to_bytes(8) + encoded


@lru_cache(maxsize=256)
def _place(tenant: str, kind: MarkKind) -> bytes:
    """Return the beginning of all that is marked of a tenant's things of one kind."""
    return _framed(tenant) + _framed(kind)


@dataclass(frozen=True, slots=True)
class KnownPerson:
    """A person while they are being forgotten: what ties events to them, in the plain. It is never written down.

    `texts` has, by ticket of somebody else, what they wrote there, each as `plain` gives it.
    """

    forgotten_at: int
    contacts: Collection[str] = frozenset()
    numbers: Collection[str] = frozenset()
    tickets: Collection[str] = frozenset()
    messages: Collection[str] = frozenset()
    texts: Mapping[str, Collection[str]] = field(default_factory=dict)

    def find(self, kind: MarkKind, value: str) -> int | None:
        """Tell when the person was forgotten, if this is theirs."""
        match kind:
            case "contact":
                mine = value in self.contacts
            case "number":
                mine = value in self.numbers
            case "ticket":
                mine = value in self.tickets
            case "message":
                mine = value in self.messages
            case "text":
                ticket_id, _, text = value.partition("\0")
                mine = any(shows(text, one) for one in self.texts.get(ticket_id, ()))
            case "tied":
                mine = False
            case _:
                assert_never(kind)
        return self.forgotten_at if mine else None

    def names(self) -> Iterator[tuple[MarkKind, str]]:
        """Yield everything of which a mark is kept."""
        yield from (("contact", one) for one in self.contacts)
        yield from (("number", one) for one in self.numbers)
        yield from (("ticket", one) for one in self.tickets)
        yield from (("message", one) for one in self.messages)
        yield from (("text", text_name(of, one)) for of, texts in self.texts.items() for one in texts)


def shows(shown: str, text: str) -> bool:
    """Tell whether a preview is of a text: the whole of it, or its beginning."""
    cut = shown.rstrip(_EDGE)
    return shown == text or (len(cut) >= NUMBER_DIGITS and text.startswith(cut))
