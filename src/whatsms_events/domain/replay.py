"""What a replay takes from the log, and how an event is read from its bytes once more."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from whatsms_events.domain.events import Event, EventType
from whatsms_events.domain.normalize import normalize
from whatsms_events.errors import IntegrityError


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events a replay takes; None leaves a side open.

    `first` and `last` are positions, both taken. `since` and `until` are times at which an event was received, the
    second not taken. `tenant` is a tenant id. `asked` is the last position that was asked for, where the log ended
    before it: `last` is the log's end then.
    """

    first: int = 1
    last: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    tenant: str | None = None
    type: EventType | None = None
    asked: int | None = None

    @property
    def whole(self) -> bool:
        """Tell whether this is the whole log."""
        return self == WHOLE


WHOLE: Final = Selection()


def read_again(event: Event, raw: bytes, position: int) -> Event:
    """Return the event that today's code makes of the bytes of an event; raise InvalidEventError where it refuses them.

    An observation has our own form already, and stays as it was recorded. Raise IntegrityError where the bytes give
    another id: then they are not the bytes that were received.
    """
    if event.origin != "webhook":
        return event
    again = normalize(raw, tenant=event.tenant, received_at=event.received_at)
    if again.id != event.id:
        raise IntegrityError(
            f"position {position} holds event {event.id}, but its bytes give {again.id}: somebody changed the log"
        )
    return again
