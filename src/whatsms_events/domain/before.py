"""Whether something is from before the moment at which a person was forgotten, by the vendor's times and our clocks.

A moment is in microseconds, as it is kept with a mark.
"""

from datetime import datetime, timedelta
from typing import Any, Final

from whatsms_events.domain.bodies import decode
from whatsms_events.domain.events import to_micros
from whatsms_events.domain.named import leaves
from whatsms_events.domain.times import read_time
from whatsms_events.errors import InvalidEventError

CLOCKS: Final = timedelta(minutes=5)
"""So far the clock of a receiver may be behind that of who forgets, as where it was set back: new is still new."""


def received_before(received_at: datetime, occurred_at: datetime | None, at: int) -> bool:
    """Tell whether something was received before a moment, by a clock that may be CLOCKS behind."""
    surely = to_micros(received_at + CLOCKS) <= at
    return surely or (to_micros(received_at) <= at and (occurred_at is None or to_micros(occurred_at) <= at))


def parked_before(received_at: datetime, raw: bytes, at: int) -> bool:
    """Tell whether a delivery that names somebody, and could not be read, is from before that person was forgotten."""
    if to_micros(received_at) <= at:
        return True
    try:
        stamp = decode(raw).get("timestamp")
    except InvalidEventError:
        return True  # it tells no time
    occurred_at = read_time(stamp)
    return occurred_at is None or to_micros(occurred_at) <= at


def shown_before(value: Any, at: int) -> bool:
    """Tell whether an unknown field shows somebody as they were before a moment: by the latest change that it tells."""
    changes = [read_time(one) for key, one in leaves(value) if key == "updatedat"]
    return max((to_micros(one) for one in changes if one is not None), default=at + 1) <= at
