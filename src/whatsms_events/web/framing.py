"""This module follows the bytes of a connection to know where its requests begin and end. It does no I/O.

aiohttp's parser decides what is a request. It says nothing of a request that it refuses, though, forgets the good ones
that came in the same segment, and does not know what a client that sends no more has left unfinished. This module
follows the same bytes and knows that. Where the two should ever differ, aiohttp answers, and only a label is wrong; a
delivery that came whole is taken past aiohttp only while `rests` is true.

Theory of operation. A connection is always in one place, and `feed` moves it:

    between   no byte of a next request has come; newlines there are no bytes of one
    head      until an empty line: then `body` or `chunk`, `between` where the request has no body, or `lost`
    body      so many bytes are left: then `between`
    chunk     chunked bytes (RFC 9112, 7.1): size lines and data, then trailers and an empty line: then `between`
    broken    chunks that are no chunks: nothing more can be followed
    lost      a head without end, or CONNECT: nothing more is followed
"""

import re
from collections import deque
from typing import Final, Literal
from urllib.parse import unquote_to_bytes

FramePlace = Literal["between", "head", "body", "chunk", "broken", "lost"]

HEAD_LIMIT_BYTES: Final = 128 * 1024
"""Proxies stop at 8 to 64 KiB. aiohttp refuses a single line far earlier."""

LINE_LIMIT_BYTES: Final = 8190
"""As aiohttp's own."""

PIPELINE_LIMIT: Final = 256
"""Cuts of one segment, and requests without an answer, that are followed. aiohttp queues 32 requests."""

_END: Final = b"\r\n\r\n"
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})(;.*)?", re.DOTALL)
_SIZE_BEGUN: Final = re.compile(rb"[0-9A-Fa-f]{1,16}(;.*|\r)?", re.DOTALL)
_LINE: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ (?:https?://[^/? ]*)?(/[^?# \r\n]*)")


def path_of(line: bytes) -> str | None:
    """Return the path that a request line, or as much of it as came, asks for; None where it is no request line."""
    found = _LINE.match(line)
    return None if found is None else unquote_to_bytes(found[1]).decode("utf-8", "replace")


class Framing:
    """One connection. `lines` are the request lines of what was not answered yet, oldest first: see `answered`."""

    def __init__(self) -> None:
        self.place: FramePlace = "between"
        self.lines: deque[bytes] = deque()
        self.last = b""  # the line of the request that was answered last
        self._held = bytearray()  # an unfinished head, or an unfinished line of chunked bytes
        self._named = False  # whether the line of the unfinished head is in `lines`
        self._left = 0  # bytes of the body, or of a chunk with its line end
        self._trailing = False

    @property
    def rests(self) -> bool:
        """Tell whether everything that came was answered, and nothing of a next request has come."""
        return self.place == "between" and not self.lines

    def begin(self, line: bytes) -> None:
        """Note a request whose bytes do not come here, because it came whole and somebody else has read it."""
        self.lines.append(line[:LINE_LIMIT_BYTES])

    def answered(self) -> None:
        """Take the oldest line away."""
        if self.lines:
            self.last = self.lines.popleft()

    def begun(self) -> bytes:
        """Return the line of the oldest request that was not answered, as far as it has come."""
        return self.lines[0] if self.lines else bytes(self._held[:LINE_LIMIT_BYTES])

    def feed(self, data: bytes) -> list[bytes]:
        """Follow `data`, and return it cut behind each head and each body.

        One request that came whole, and nothing else, is returned in one piece.
        """
        if self.place == "between" and self._is_one(data):
            return [data]
        pieces: list[bytes] = []
        start = 0
        while start < len(data):
            if len(pieces) == PIPELINE_LIMIT or len(self.lines) > PIPELINE_LIMIT:
                self.place = "lost"
            end = self._step(data, start)
            pieces.append(data[start:end])
            start = end
        return pieces

    def _is_one(self, data: bytes) -> bool:
        """Tell whether this is one whole request with a body, as nearly every delivery is, and take its line."""
        end = data.find(_END)
        if end < 0 or data[0] in b"\r\n" or len(self.lines) >= PIPELINE_LIMIT:
            return False
        lower = data[: end + 2].lower()
        length = _value(lower, b"content-length")
        if not length.isdigit() or len(length) >= 20 or end + len(_END) + int(length) != len(data):
            return False
        if lower.startswith(b"connect ") or b"\r\ntransfer-encoding:" in lower:
            return False
        self._name(data[: data.index(b"\r\n")])
        return True

    def _step(self, data: bytes, start: int) -> int:
        """Follow the bytes from `start` on as far as the next cut, and return where that is."""
        match self.place:
            case "between":
                return self._leave_between(data, start)
            case "head":
                return self._follow_head(data, start)
            case "body":
                end = min(len(data), start + self._left)
                self._left -= end - start
                if not self._left:
                    self.place = "between"
                return end
            case "chunk":
                return self._follow_chunks(data, start)
            case "broken" | "lost":
                return len(data)

    def _leave_between(self, data: bytes, start: int) -> int:
        while start < len(data) and data[start] in b"\r\n":
            start += 1
        if start == len(data):
            return start
        self.place, self._named = "head", False
        return self._follow_head(data, start)

    def _follow_head(self, data: bytes, start: int) -> int:
        before = len(self._held)
        if not before and (end := data.find(_END, start)) >= 0:  # nearly always a head comes in one segment
            self._read_head(data[start : end + len(_END)])
            return end + len(_END)
        self._held += data[start:]
        end = self._held.find(_END, max(0, before - len(_END) + 1))
        if end >= 0:
            head = bytes(self._held[: end + len(_END)])
            self._held.clear()
            self._read_head(head)
            return start + len(head) - before
        if not self._named and (line_end := self._held.find(b"\r\n")) >= 0:
            self._name(bytes(self._held[:line_end]))
        if len(self._held) > HEAD_LIMIT_BYTES:
            self.place = "lost"
        return len(data)

    def _name(self, line: bytes) -> None:
        self.lines.append(line[:LINE_LIMIT_BYTES])
        self._named = True

    def _read_head(self, head: bytes) -> None:
        """Choose the next place by what the head says of its body."""
        if not self._named:
            self._name(head[: head.index(b"\r\n")])
        lower = head.lower()
        length = _value(lower, b"content-length")
        if head.startswith(b"CONNECT "):
            self.place = "lost"
        elif _value(lower, b"transfer-encoding"):
            self.place, self._left, self._trailing = "chunk", 0, False
        else:
            self._left = int(length) if length.isdigit() and len(length) < 20 else 0
            self.place = "body" if self._left else "between"

    def _follow_chunks(self, data: bytes, start: int) -> int:
        while start < len(data) and self.place == "chunk":
            if self._left > 2:  # the data of a chunk; the two are its line end
                taken = min(len(data) - start, self._left - 2)
                self._left -= taken
                start += taken
                continue
            end = data.find(b"\n", start) + 1 or len(data)
            self._held += data[start:end]
            start = end
            if self._held.endswith(b"\n"):
                self._read_line(bytes(self._held))
                self._held.clear()
            elif not self._may_become_a_line():
                self.place = "broken"
        return len(data) if self.place == "broken" else start

    def _read_line(self, line: bytes) -> None:
        """Read a line of chunked bytes: the end of a chunk's data, a chunk's size, or a trailer."""
        text, size = line[:-2], _SIZE.fullmatch(line[:-2])
        if not line.endswith(b"\r\n") or (self._left and text):
            self.place = "broken"
        elif self._left:
            self._left = 0
        elif self._trailing:
            self.place = "chunk" if text else "between"
        elif size is None:
            self.place = "broken"
        else:
            length = int(size[1], 16)
            self._left, self._trailing = (length + 2, False) if length else (0, True)

    def _may_become_a_line(self) -> bool:
        if self._left:
            return b"\r\n".startswith(self._held)
        begun = self._trailing or _SIZE_BEGUN.fullmatch(self._held)
        return bool(begun) and len(self._held) <= LINE_LIMIT_BYTES


def _value(lower: bytes, name: bytes) -> bytes:
    """Return the value of the first header with this name in a head in small letters; empty where there is none."""
    at = lower.find(b"\r\n" + name + b":")
    return b"" if at < 0 else lower[at + len(name) + 3 : lower.index(b"\r\n", at + 2)].strip(b" \t")
