"""The form of the event feed: events as blocks of text (Server-Sent Events), and the place that each of them names.

A place is `POSITION-EVENT_ID`, so a reader that comes again with it can be told that the log holds another event there:
that log was restored from an older copy, or is another one. A place without an event's id is a position alone.
"""

import re
from dataclasses import dataclass
from typing import Final
from uuid import UUID

BEAT: Final = b": still here\n\n"
"""A comment, which readers drop: it keeps the connection open and shows who has left."""

ENDED: Final = "feed.ended"
"""The name of the last block of a feed that the service ends: its data says why."""

_PLACE: Final = re.compile(r"([0-9]{1,19})(?:-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}))?")
_BREAKS: Final = bytes.maketrans(b"\r\n", b"  ")
_LINES: Final = tuple((letter.encode(), rf"\u{ord(letter):04x}".encode()) for letter in "\x85\u2028\u2029")
"""What Unicode calls the end of a line too, and JSON takes as it is. Python's `splitlines`, and with it HTTP clients
that give an answer line by line, would cut the data there. They stand in strings alone, and are escaped there.
"""

_ESCAPES: Final = re.compile(r"\\(?:u(0085|2028|2029)|.)")
"""Every escape of JSON, of two letters or more, so that the second half of `\\\\` is not taken for the start of one."""


@dataclass(frozen=True, slots=True)
class Place:
    """How far a reader got: a position, and the id of the event there where it is known."""

    position: int
    event_id: UUID | None = None

    def fits(self, event_id: UUID | None) -> bool:
        """Tell whether the log can be the one of this place, where it has this event there, or none."""
        return self.event_id in (None, event_id)

    def __str__(self) -> str:
        return str(self.position) if self.event_id is None else f"{self.position}-{self.event_id}"


def place_of(text: str) -> Place | None:
    """Return the place that a text names; None where it names none."""
    found = _PLACE.fullmatch(text)
    return None if found is None else Place(int(found[1]), UUID(found[2]) if found[2] else None)


def block(place: Place, name: str, data: bytes) -> bytes:
    """Return an event as the feed sends it. `data` is JSON, in which a line break is white space between its parts."""
    for letter, escaped in _LINES:
        data = data.replace(letter, escaped)
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (str(place).encode(), name.encode(), data.translate(_BREAKS))


def unescaped(data: str) -> str:
    """Return the data of a block as it was given to `block`, where that had no line break."""
    if "\\u" not in data:
        return data
    return _ESCAPES.sub(lambda found: chr(int(found[1], 16)) if found[1] else found[0], data)


def progress(place: Place) -> bytes:
    """Return what moves a reader's place and shows it nothing: events that its filter leaves out."""
    return b"id: %b\n\n" % str(place).encode()


def last_words(data: bytes) -> bytes:
    """Return the block with which a feed ends; the reader's place stays as it is."""
    return b"event: %b\ndata: %b\n\n" % (ENDED.encode(), data)


def rest_of_block(data: bytes) -> bytes:
    """Return what ends the block that a cut went through, where `data` is all behind the cut."""
    end = data.find(b"\n\n")
    return data if end < 0 else data[: end + 2]
