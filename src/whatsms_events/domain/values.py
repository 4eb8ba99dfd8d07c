"""How a value that the vendor sent becomes a value of ours: one function for each kind of field.

Each function returns `UNSET` where the vendor's value cannot be used (wrong type, unreadable time, integer beyond 64
bit, empty id), and None for null. `resources` says which field is read by which function.
"""

import hashlib
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, TypeAlias

from msgspec import UNSET, UnsetType

from whatsms_events.domain import acks
from whatsms_events.domain.bodies import JsonObject
from whatsms_events.domain.times import read_time

Reader: TypeAlias = Callable[[Any], Any]

SHORT_LIMIT_BYTES: Final = 256
"""Far above every id and enum word seen (uuids, up to 36), and three of them fit into one index row: PostgreSQL refuses
rows over 2,704 bytes there."""

SHORT_CHARS: Final = SHORT_LIMIT_BYTES // 4
"""So many characters are always within that limit: none is longer than four bytes."""

_HASH_CHARS: Final = 64
_INT64_LIMIT: Final = 1 << 63
_DIGITS: Final = re.compile(r"-?[0-9]{1,19}")


def shorten(text: str) -> str:
    """Return `text`, or a prefix, "~" and its SHA-256 where it is over 256 bytes: distinct, and fit for an index."""
    if len(text) <= SHORT_CHARS:
        return text
    encoded = text.encode("utf-8")
    if len(encoded) <= SHORT_LIMIT_BYTES:
        return text
    prefix = encoded[: SHORT_LIMIT_BYTES - 1 - _HASH_CHARS].decode("utf-8", "ignore")
    return f"{prefix}~{hashlib.sha256(encoded).hexdigest()}"


def text(value: Any) -> str | None | UnsetType:
    """Read a text as it is."""
    return value if value is None or type(value) is str else UNSET


def word(value: Any) -> str | None | UnsetType:
    """Read a word of an open set: a status, a channel, a media type."""
    if type(value) is str:
        return value if len(value) <= SHORT_CHARS else shorten(value)
    return text(value)


def number(value: Any) -> str | None | UnsetType:
    """Read a contact's number, a text for us; some of the vendor's relatives send an integer."""
    if type(value) is str:
        return shorten(value)
    return shorten(str(value)) if type(value) is int else text(value)


def identifier(value: Any) -> str | None | UnsetType:
    """Read an id, a text or an integer. An empty id names nothing."""
    if type(value) is str:
        if 0 < len(value) <= SHORT_CHARS:  # nearly all: not a further call for each
            return value
        return shorten(value) if value else UNSET
    return number(value)


def flag(value: Any) -> bool | None | UnsetType:
    """Read true or false."""
    return value if value is None or type(value) is bool else UNSET


def count(value: Any) -> int | None | UnsetType:
    """Read a count. Databases send big integers as text ("148"), so text is read too."""
    if type(value) is str and _DIGITS.fullmatch(value):
        value = int(value)
    if type(value) is int:
        return value if -_INT64_LIMIT <= value < _INT64_LIMIT else UNSET
    return None if value is None else UNSET


def ack(value: Any) -> int | None | UnsetType:
    """Read a raw ack, also from text ("3")."""
    if value is None:
        return None
    raw = acks.parse(value)
    return UNSET if raw is None else count(raw)


def moment(value: Any) -> datetime | None | UnsetType:
    """Read a time."""
    return None if value is None else (read_time(value) or UNSET)


def items(value: Any) -> list[Any] | None | UnsetType:
    """Read a list, whatever its items are."""
    return value if value is None or type(value) is list else UNSET


def nested(value: Any) -> JsonObject | None | UnsetType:
    """Read another resource that stands inside this one; `fields` reads the fields of it."""
    return value if value is None or type(value) is dict else UNSET
