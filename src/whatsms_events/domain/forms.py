"""In which forms a body may come that no event was read of: compressed, in another encoding, a field given twice."""

import codecs
import json
import re
import zlib
from typing import Any, Final

import msgspec

INFLATED_LIMIT: Final = 1024 * 1024
"""What is larger once it is unpacked is not read: 8 KB can hold 8 MB, and the receiver's other deliveries wait."""

PARTS_LIMIT: Final = 100
"""A body that was compressed in more parts than this is not read."""

LAYERS_LIMIT: Final = 4
"""Nor one that was compressed more often than this."""

_WINDOWS: Final = {"gzip": zlib.MAX_WBITS | 32, "x-gzip": zlib.MAX_WBITS | 32, "deflate": zlib.MAX_WBITS | 32}
"""A header of gzip or zlib, whichever is there."""

_GZIP: Final = b"\x1f\x8b"
_ZLIB: Final = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
_PLAIN: Final = re.compile(rb"\s*[\[{]")


def inflated(raw: bytes, encoding: str | None) -> bytes | None:
    """Return a body as it was before it was compressed, in UTF-8 if it is a text; None where that is not known here.

    What its first bytes say counts too: some senders and proxies compress twice, or do not say so.
    """
    named = [one.strip().lower() for one in (encoding or "").split(",")]
    layers = [one for one in reversed(named) if one not in ("", "identity")]
    if len(layers) > LAYERS_LIMIT:
        return None
    for one in layers:
        if _PLAIN.match(raw):  # somebody on the way has read it, and left the header
            break
        window = _WINDOWS.get(one)
        # Some senders leave the header of deflate away.
        plain = None if window is None else _inflated(raw, window) or _raw_deflate(raw, one)
        if plain is None:
            return None
        raw = plain
    for _ in range(LAYERS_LIMIT - len(layers)):
        if raw[:2] != _GZIP and raw[:2] not in _ZLIB:
            break
        plain = _inflated(raw, zlib.MAX_WBITS | 32)
        if plain is None:
            return None if raw[:2] == _GZIP else raw
        raw = plain
    return None if raw[:2] == _GZIP else _in_utf8(raw)


def _raw_deflate(raw: bytes, encoding: str) -> bytes | None:
    return _inflated(raw, -zlib.MAX_WBITS) if encoding == "deflate" else None


def _inflated(raw: bytes, window: int) -> bytes | None:
    """Return what all parts of a compressed body hold; None where one is not whole, or all are too much."""
    plain, left = b"", raw
    for _ in range(PARTS_LIMIT):
        inflating = zlib.decompressobj(window)
        try:
            plain += inflating.decompress(left, INFLATED_LIMIT - len(plain) + 1)
        except zlib.error:
            return None
        if not inflating.eof or len(plain) > INFLATED_LIMIT:
            return None
        left = inflating.unused_data.lstrip(b"\0")  # some pad the end
        if not left:
            return plain
    return None


def _in_utf8(raw: bytes) -> bytes:
    """Return a text that is in UTF-16 or UTF-32, by its mark or by where its zeros are, in UTF-8."""
    encoding = json.detect_encoding(raw)
    if encoding.startswith("utf-8"):
        return raw
    plain = raw.decode(encoding, "replace").encode("utf-8", "replace")
    marked = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE))
    return plain if marked or whole_json(plain) is not None else raw  # zeros alone may be anything's


def whole_json(text: str | bytes) -> Any:
    """Return a JSON value with every value of a field that was given twice, as a list; None where it is no JSON."""
    try:
        return json.loads(text, object_pairs_hook=_fields)
    except (ValueError, RecursionError):
        pass
    try:
        return msgspec.json.decode(text)  # of integers with thousands of digits, and what is deeper than Python reads
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    many: dict[str, list[Any]] = {}
    for name, one in pairs:
        many.setdefault(name, []).append(one)
    return {name: some[0] if len(some) == 1 else some for name, some in many.items()}
