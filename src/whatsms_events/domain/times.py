"""The vendor's times in, moments out: ISO text as on the vendor's page, and the numbers that its relatives write.

An event's id is made of ISO text alone (`events.parse_time`), as frozen; this reader may learn more without moving ids.
"""

import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from whatsms_events.domain.events import (
    Campaign,
    Contact,
    Event,
    Message,
    Payload,
    Ticket,
    from_micros,
    parse_time,
)

SECONDS: Final = range(10**9, 10**10)
MILLISECONDS: Final = range(10**12, 10**13)
"""Ten and thirteen digits: from 2001 to 2286 in both units, so neither can be taken for the other. What is outside is
no time of a message: 0 and the years 1 and 1970 are how programs write that there is none."""

FIELDS: Final = ("timestamp", "createdAt", "updatedAt", "scheduledAt")
"""The vendor's names of every time that is read."""

_DIGITS: Final = re.compile(r"[1-9](?:[0-9]{9}|[0-9]{12})")
_FIRST: Final = datetime.fromtimestamp(SECONDS[0], UTC)
_LAST: Final = datetime.fromtimestamp(SECONDS[-1], UTC)
_WORD: Final = 1 << 32


def read_time(value: object) -> datetime | None:
    """Return the moment, in UTC and cut to microseconds; None where it cannot be read.

    ISO text; seconds or milliseconds since 1970 as a number or as text of digits; or either as the object that
    JavaScript's Long becomes in JSON: {"low": 1781092800, "high": 0, "unsigned": true}.
    """
    match value:
        case str():
            moment = parse_time(value)
            if moment is not None:
                return credible(moment)
            return _since_1970(int(value)) if _DIGITS.fullmatch(value) else None
        case bool():
            return None
        case int() | float():
            return _since_1970(value)
        case {"low": int() as low, "high": int() as high, **rest} if rest.keys() <= {"unsigned"}:
            return None if _no_word(low) or _no_word(high) else _since_1970(high * _WORD + low % _WORD)
        case _:
            return None


def credible(moment: datetime) -> datetime | None:
    """Return the moment where something can have happened then."""
    return moment if _FIRST <= moment <= _LAST else None


def _since_1970(number: float) -> datetime | None:
    whole = math.floor(number)
    if whole in SECONDS:
        return from_micros(math.floor(number * 1_000_000))
    return from_micros(math.floor(number * 1000)) if whole in MILLISECONDS else None


def _no_word(part: int) -> bool:
    """Tell whether it is no half of a Long, which is written with or without a sign."""
    return type(part) is bool or not -_WORD // 2 <= part < _WORD


def unreadable(event: Event, payload: Payload) -> list[str]:
    """Return the name of each time of the event that could not be read, once for each place where it stood.

    What cannot be read stays where unknown fields are kept, under the vendor's name.
    """
    found = [name for name in FIELDS[1:] for extra in _extras(payload) if name in extra]
    # Where `data` has a field of that name too, the envelope's stands under a prefix.
    kept = "timestamp" in payload.extra or "envelope.timestamp" in payload.extra
    return ["timestamp", *found] if kept and event.occurred_at is None else found


def _extras(payload: Payload) -> Iterator[Mapping[str, Any]]:
    """Yield what is unknown of each resource in the payload."""
    for field in msgspec.structs.fields(payload):
        resource = getattr(payload, field.name)
        if isinstance(resource, Message | Ticket | Contact | Campaign):
            yield resource.extra
        if isinstance(resource, Ticket) and isinstance(resource.contact, Contact):
            yield resource.contact.extra
