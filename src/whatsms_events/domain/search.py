"""How a contact is found by what a person types: a name without regard to case and accents, a number by its digits.

The projection keeps what `searched` makes of a contact beside its fields, indexed; `asked` makes the same of what was
typed. So both sides of the comparison are folded by the same functions, and the database only compares prefixes.
"""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from whatsms_events.domain.marks import in_ascii
from whatsms_events.domain.rows import Value

READ_CHARS: Final = 256
"""So much of a name is read: one of ten MiB must cost no more than any other."""

KEPT_CHARS: Final = 64
"""So much of it is kept: none is longer than four bytes, so it fits into an index row beside the keys."""

NUMBER_DIGITS: Final = 3
"""With fewer digits a text is not taken for the beginning of a number: "10" would find a tenth of all contacts."""

ENDING_DIGITS: Final = 4
"""With fewer digits a text is not taken for the end of a number."""

_ASCII_WORDS: Final = re.compile(r"[0-9a-z]+")
_DIGITS: Final = re.compile(r"[0-9]+")
_NUMBER: Final = re.compile(r"[-+0-9 ().]+")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a typed text may be the beginning of: an id, a name, a number; or the end of a number (`ending` backwards).

    None where it cannot be one.
    """

    id: str
    name: str | None
    number: str | None
    ending: str | None


def folded(text: str) -> str:
    """Return the words of a name in small letters without accents, one space between them; "" where it has none.

    Whatever is neither letter nor digit parts words, since many a name begins with a picture.
    """
    start = text[:READ_CHARS]
    if start.isascii():
        words = _ASCII_WORDS.findall(start.lower())
    else:
        plain = unicodedata.normalize("NFKD", start).casefold()
        kept = (one if one.isalnum() else "" if unicodedata.category(one)[0] in "MC" else " " for one in plain)
        words = "".join(kept).split()
    return " ".join(words)[:KEPT_CHARS].rstrip()


def digits(number: str) -> str:
    """Return the digits of a number, however it is written; "" where it has none."""
    return "".join(_DIGITS.findall(in_ascii(number)))[:KEPT_CHARS]


def searched(contact: Mapping[str, Value]) -> tuple[str | None, str | None, str | None, str | None]:
    """Return what a contact's columns are found by: folded name, digits, digits backwards, last word of the name first.

    Backwards, because people leave out the country or know the last four: the end of a number is a prefix then. The
    last word first, because people ask for a family name as well.
    """
    name, number = contact["name"], contact["number"]
    found = digits(number) if isinstance(number, str) else ""
    whole = folded(name) if isinstance(name, str) else ""
    return whole or None, found or None, found[::-1] or None, _last_first(whole)


def _last_first(whole: str) -> str | None:
    """Return the last word and then the others; None for a single word, which is found as it stands."""
    first, _, last = whole.rpartition(" ")
    return f"{last} {first}" if first else None


def asked(text: str) -> Asked:
    """Return what a typed text is looked for as."""
    typed = text.strip()
    found = digits(typed) if _NUMBER.fullmatch(typed) else ""
    return Asked(
        id=typed,
        name=folded(typed) or None,
        number=found if len(found) >= NUMBER_DIGITS else None,
        ending=found[::-1] if len(found) >= ENDING_DIGITS else None,
    )
