"""This module reads a delivery that came whole, head and body in one piece, as nearly all do: without aiohttp.

aiohttp makes a task, a future and five objects for each request, which take as long as all the rest of a delivery.
Nothing is decided here: whatever is not plainly a delivery (another method, a header twice, a signature of another
form, an encoding, an expectation, a body that has not come yet) is left to aiohttp and to `Receiver.handle`, which give
the same answer for all that is read here. `tests/web/test_whole.py` holds both to that.
"""

import re
from collections.abc import Callable, Sequence
from typing import Final

from aiohttp import hdrs
from msgspec import Struct

from whatsms_events.domain.signature import HEADER, given
from whatsms_events.errors import SignatureError

HEAD_LIMIT_BYTES: Final = 8000
FIELDS_LIMIT: Final = 100
"""Both are less than what aiohttp takes."""

_HEAD: Final = re.compile(
    rb"POST (/[!-~]*) HTTP/1\.1\r\n((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~]*\r\n)+)\r\n"  # RFC 9112, without its options
)
_FIELD: Final = re.compile(rb"([^:]+):[\t ]*([^\r]*)\r\n")
_HOST, _LENGTH, _SIGNATURE, _CONNECTION = (
    name.lower().encode() for name in (hdrs.HOST, hdrs.CONTENT_LENGTH, HEADER, hdrs.CONNECTION)
)
_ODD: Final = frozenset(
    name.lower().encode()
    for name in (
        *(hdrs.TRANSFER_ENCODING, hdrs.CONTENT_ENCODING, hdrs.EXPECT, hdrs.UPGRADE, hdrs.TRAILER),
        *("Proxy-Connection", hdrs.SEC_WEBSOCKET_KEY1),  # aiohttp closes behind the one, and refuses the other
    )
)
_BLANKS: Final = b"\t "
_CLOSES: Final = {b"": False, b"keep-alive": False, b"close": True}


class Whole(Struct, frozen=True):
    """A delivery that came whole. `closes`: its sender wants the connection closed behind the answer."""

    path: bytes
    digest: bytes
    body: bytes
    closes: bool
    fields: bytes

    @property
    def line(self) -> bytes:
        """The request line."""
        return b"POST " + self.path + b" HTTP/1.1"

    @property
    def method(self) -> str:
        """The method, as aiohttp's requests have it."""
        return hdrs.METH_POST

    @property
    def raw_path(self) -> str:
        """The path, as aiohttp's requests have it."""
        return self.path.decode("ascii")

    @property
    def raw_headers(self) -> Sequence[tuple[bytes, bytes]]:
        """The headers, as aiohttp's requests have them."""
        return [(name, value.rstrip(_BLANKS)) for name, value in _FIELD.findall(self.fields)]


Replied = tuple[int, str]
"""Status and JSON of an answer to a delivery."""

Tell = Callable[[Replied | Exception], None]
"""Answers the delivery that was taken: with this status and JSON, or with what the error stands for."""

Take = Callable[[Whole, Tell], bool]
"""Takes a delivery that came whole and returns True, or returns False, and aiohttp reads the same bytes."""


def read(data: bytes) -> Whole | None:
    """Return the delivery that these bytes are, no more and no less; None for everything else."""
    head = _HEAD.match(data, 0, HEAD_LIMIT_BYTES)
    if head is None:
        return None
    path, fields = head.groups()
    found = _FIELD.findall(fields)
    by_name = {name.lower(): value for name, value in found}
    length = by_name.get(_LENGTH, b"").rstrip(_BLANKS)
    if not length.isdigit() or len(length) > 9 or head.end() + int(length) != len(data):
        return None
    closes = _CLOSES.get(by_name.get(_CONNECTION, b"").rstrip(_BLANKS))
    if closes is None or len(by_name) != len(found) or len(found) > FIELDS_LIMIT or _HOST not in by_name:
        return None
    if _SIGNATURE not in by_name or not _ODD.isdisjoint(by_name):
        return None
    try:
        digest = given([by_name[_SIGNATURE].decode("ascii")])
    except SignatureError:
        return None
    return Whole(path, digest, data[head.end() :], closes, fields)
