"""Seals: hashes over closed ranges of the log, each chained to the one before, and what a check of one finds.

A seal covers what stays for ever: position, id, type, tenant, times, origin, the secret's name and the stored hash of
the bytes. The bytes themselves are covered by their stored hash, and what the release of that day read of them by a
mark of its own. So a row that retention has blanked can still be checked: everything but what was blanked.
"""

import hashlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, NamedTuple
from uuid import UUID

import msgspec

SEAL_ROWS: Final = 1000
"""Rows in one seal at most, so that a check holds no more in memory."""

START: Final = bytes(32)
"""What the first seal is chained to."""

_TAG: Final = b"whatsms-events seal 1"
_RANGE: Final = struct.Struct(">QQ")
_MARK: Final = struct.Struct(">I8s12s")

FlawKind = Literal["row_missing", "row_added", "row_changed", "hash_differs", "seal_missing", "seal_differs"]

SAYS: Final[Mapping[FlawKind, str]] = {
    "row_missing": "the row that was sealed at this position is not there",
    "row_added": "the row at this position was not there when its range was sealed",
    "row_changed": "the row is another one than was sealed",
    "hash_differs": "the bytes of the row are not those of its stored hash",
    "seal_missing": "no seal begins here, although a later position is sealed",
    "seal_differs": "the seal that begins here, or the one before it, is not what was made of the rows",
}


class SealedRow(NamedTuple):
    """What the log holds at a position. `raw` and `data` are None where retention blanked them."""

    position: int
    id: UUID
    type: str
    tenant: str
    occurred_at: int | None
    received_at: int
    origin: str
    sha256: bytes
    subject: str | None
    ticket_id: str | None
    contact_id: str | None
    message_id: str | None
    data: str | None
    signed_by: str | None = None
    raw: bytes | None = None


class Mark(NamedTuple):
    """How a seal tells one row from others, to name the first that differs: parts of two hashes."""

    position: int
    row: bytes
    content: bytes


@dataclass(frozen=True, slots=True)
class Seal:
    """A seal of the positions from `first` to `last`. `hash` is chained to that of the seal before."""

    first: int
    last: int
    count: int
    hash: bytes
    marks: bytes
    sealed_at: datetime


@dataclass(frozen=True, slots=True)
class Flaw:
    """The first position at which something is wrong."""

    position: int
    fault: FlawKind


_encode: Final = msgspec.msgpack.Encoder().encode
"""MessagePack: values of other kinds or lengths never give the same bytes, and the form of each is the shortest."""


def _row_digest(row: SealedRow) -> bytes:
    what = row.position, row.id.bytes, row.type, row.tenant
    whence = row.occurred_at, row.received_at, row.origin, row.signed_by, row.sha256
    return hashlib.sha256(_encode((*what, *whence))).digest()


def _content_digest(row: SealedRow) -> bytes:
    return hashlib.sha256(_encode((row.subject, row.ticket_id, row.contact_id, row.message_id, row.data))).digest()


def _pack(first: int, marks: Sequence[Mark]) -> bytes:
    return b"".join(_MARK.pack(mark.position - first, mark.row, mark.content) for mark in marks)


def _unpack(seal: Seal) -> Iterator[Mark]:
    for offset, row, content in _MARK.iter_unpack(seal.marks[: len(seal.marks) // _MARK.size * _MARK.size]):
        yield Mark(seal.first + offset, row, content)


def _mark(row: SealedRow, digest: bytes) -> Mark:
    return Mark(row.position, digest[:8], _content_digest(row)[:12])


def _hash(log_id: UUID, before: bytes, place: tuple[int, int], digests: Sequence[bytes], marks: bytes) -> bytes:
    sealed = hashlib.sha256(_TAG + log_id.bytes + before + _RANGE.pack(*place))
    for digest in digests:
        sealed.update(digest)
    sealed.update(marks)
    return sealed.digest()


def make_seal(log_id: UUID, before: Seal | None, rows: Sequence[SealedRow], now: datetime) -> Seal:
    """Return the seal of the next rows, which follow the seal `before` and are at most SEAL_ROWS."""
    first, last = 1 if before is None else before.last + 1, rows[-1].position
    digests = [_row_digest(row) for row in rows]
    marks = _pack(first, [_mark(row, digest) for row, digest in zip(rows, digests, strict=True)])
    found = _hash(log_id, START if before is None else before.hash, (first, last), digests, marks)
    return Seal(first, last, len(rows), found, marks, now)


def check_seal(log_id: UUID, before: bytes, seal: Seal, rows: Sequence[SealedRow]) -> Flaw | None:
    """Return the first flaw of a sealed range; None where bytes, stored hashes, seal and chain agree.

    `before` is the hash of the seal before, `rows` is what the log holds from `seal.first` to `seal.last`; where that
    is more than the seal counts, one row more is enough.
    """
    marks, digests = list(_unpack(seal)), [_row_digest(row) for row in rows]
    place = (seal.first, seal.last)
    flaw = _first_flaw(marks, rows, digests)
    if flaw is None:
        whole = seal.count == len(rows) and seal.hash == _hash(log_id, before, place, digests, seal.marks)
        return None if whole else Flaw(seal.first, "seal_differs")
    if flaw.fault != "hash_differs":
        # Rows from which the very hash follows are the rows that were sealed: then the marks are what was changed.
        kept = {mark.position: mark.content for mark in marks}
        again = [_mark(row, digest) for row, digest in zip(rows, digests, strict=True)]
        again = [
            mark if row.raw is not None else mark._replace(content=kept.get(row.position, bytes(12)))
            for mark, row in zip(again, rows, strict=True)
        ]
        if seal.hash == _hash(log_id, before, place, digests, _pack_any(seal.first, again)):
            return Flaw(seal.first, "seal_differs")
    return flaw


def _pack_any(first: int, marks: Sequence[Mark]) -> bytes:
    """Pack marks of rows as they are now; b"" where one is so far away that no seal could hold it."""
    try:
        return _pack(first, marks)
    except struct.error:
        return b""


def _first_flaw(marks: Sequence[Mark], rows: Sequence[SealedRow], digests: Sequence[bytes]) -> Flaw | None:
    expected = iter(marks)
    mark = next(expected, None)
    for row, digest in zip(rows, digests, strict=True):
        if mark is None or row.position < mark.position:
            return Flaw(row.position, "row_added")
        if row.position > mark.position:
            return Flaw(mark.position, "row_missing")
        flaw = _row_flaw(mark, row, digest)
        if flaw is not None:
            return flaw
        mark = next(expected, None)
    return None if mark is None else Flaw(mark.position, "row_missing")


def _row_flaw(mark: Mark, row: SealedRow, digest: bytes) -> Flaw | None:
    if mark.row != digest[:8]:
        return Flaw(row.position, "row_changed")
    if row.raw is None:
        return None
    return bytes_flaw(row) or (None if mark.content == _content_digest(row)[:12] else Flaw(row.position, "row_changed"))


def bytes_flaw(row: SealedRow) -> Flaw | None:
    """Return a flaw where the bytes of a row are not those of its stored hash: all that is known of one not sealed."""
    if row.raw is None or hashlib.sha256(row.raw).digest() == row.sha256:
        return None
    return Flaw(row.position, "hash_differs")
