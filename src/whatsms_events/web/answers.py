"""The answer to an accepted delivery, written in one piece, and the answers to requests that are refused.

aiohttp writes the head and the body of an answer apart, after it has built the head from a dictionary. That takes as
long as a tenth of a whole delivery, for an answer in which only the body and the date change.
"""

import time
from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

import msgspec
from aiohttp import HttpVersion11, hdrs, web
from aiohttp.abc import AbstractStreamWriter

RETRY_AFTER_S: Final = 5
PROBLEM_JSON: Final = "application/problem+json"
SERVER: Final = "whatsms-events"
CLOSE: Final = "Connection: close\r\n"


def problem(status: int) -> web.Response:
    """Return an error's answer; 503 says when to come again."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    headers = {hdrs.SERVER: SERVER} | ({hdrs.RETRY_AFTER: str(RETRY_AFTER_S)} if status == 503 else {})
    return web.Response(status=status, body=msgspec.json.encode(body), content_type=PROBLEM_JSON, headers=headers)


def on_wire(status: int, text: str, *, connection: str) -> bytes:
    """Return an answer with JSON in ASCII as it goes over the wire; `connection` is a line of its head, or nothing."""
    return (_HEADS[status].format(len(text), _date(), connection) + text).encode("ascii")


def problem_on_wire(status: int, *, connection: str) -> bytes:
    """Return the answer of `problem` as it goes over the wire; `connection` is as above."""
    answer = problem(status)
    assert isinstance(answer.body, bytes)  # noqa: S101 - as it was given
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
    lines += [f"{name}: {value}" for name, value in answer.headers.items()]
    lines += [f"{hdrs.CONTENT_LENGTH}: {len(answer.body)}", f"{hdrs.DATE}: {_date()}"]
    return ("\r\n".join(lines) + f"\r\n{connection}\r\n").encode("ascii") + answer.body


class Prepared(web.StreamResponse):
    """JSON in ASCII that is sent with its head in one write."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status=status)
        self._text = text
        self._request: web.BaseRequest | None = None

    @property
    def keep_alive(self) -> bool:
        """Tell whether the connection is kept: unless the client or we wish it closed."""
        kept = super().keep_alive
        if kept is None:
            return self._request is not None and self._request.keep_alive
        return kept

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Note which request is answered: everything is written at once, by `write_eof`."""
        self._request = request
        return None

    async def write_eof(self, data: bytes = b"") -> None:  # noqa: ARG002 - aiohttp's last words, always empty
        """Write the head and the body."""
        request = self._request
        assert request is not None  # noqa: S101 - aiohttp prepares an answer before it writes it
        if not self.keep_alive:
            connection = CLOSE
        elif request.version < HttpVersion11:
            connection = "Connection: keep-alive\r\n"
        else:
            connection = ""
        await request.writer.write_eof(on_wire(self.status, self._text, connection=connection))


_HEADS: Final[Mapping[int, str]] = {
    status: f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\nContent-Length: {{}}\r\n"
    f"Date: {{}}\r\nServer: {SERVER}\r\n{{}}\r\n"
    for status in (HTTPStatus.OK, HTTPStatus.ACCEPTED)
}

_dated: tuple[int, str] = (0, "")


def _date() -> str:
    """Return the time as RFC 9110 writes it; it changes once a second."""
    global _dated  # noqa: PLW0603 - a cache of one value, which any call may replace
    second = int(time.time())
    if _dated[0] != second:
        _dated = (second, formatdate(second, usegmt=True))
    return _dated[1]
