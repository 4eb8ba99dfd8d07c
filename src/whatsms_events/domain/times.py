"""How the vendor's times are read: ISO text as on the vendor's page, and the numbers that its relatives write.

An event's id uses only `events.parse_time` (ISO text), which is frozen; this reader may learn more and change no id.
"""

import math
import re
from datetime import UTC, datetime
from typing import Final

from whatsms_events.domain.events import from_micros, parse_time

SECONDS: Final = range(10**9, 10**10)
MILLISECONDS: Final = range(10**12, 10**13)
"""Ten and thirteen digits: from 2001 to 2286 in both units, so neither can be taken for the other. What is outside is
no time of a message: 0 and the years 1 and 1970 are how programs write that there is none."""

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
    """Return the moment, or None where it is too early or too late to be true."""
    return moment if _FIRST <= moment <= _LAST else None


def _since_1970(number: float) -> datetime | None:
    whole = math.floor(number)
    if whole in SECONDS:
        return from_micros(math.floor(number * 1_000_000))
    return from_micros(math.floor(number * 1000)) if whole in MILLISECONDS else None


def _no_word(part: int) -> bool:
    """Tell whether it is no half of a Long, which is written with or without a sign."""
    return type(part) is bool or not -_WORD // 2 <= part < _WORD
