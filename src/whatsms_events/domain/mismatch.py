"""Why a signature does not fit: the usual mistakes of senders, proxies and settings, each tried until one explains it.

A signature is an HMAC of a body with a secret, written into a header in some form. Each of the three can be wrong in
known ways. Every combination is tried, those with the fewest mistakes first; the first that fits is the explanation.
Nothing here returns a byte of the body, a secret or a signature.
"""

import base64
import binascii
import hashlib
import hmac
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import product
from typing import Final, NamedTuple

from whatsms_events.domain.signature import HEADER

UNPACKED_LIMIT_BYTES: Final = 64 * 1024 * 1024
"""No body may be larger, so what unpacks to more was not signed."""

TWICE_LIMIT_BYTES: Final = 1024 * 1024
"""In a larger body one change is looked for at a time: each pair of changes is hashed with every secret."""

HeaderFields = Sequence[tuple[str, str]]
"""Names and values as they came; a name may come twice."""


class Secret(NamedTuple):
    """A secret that is tried: its setting's name, and whether it belongs to the tenant the delivery is for."""

    setting: str
    value: bytes
    own: bool


class Mistake(NamedTuple):
    """One thing that is wrong. `name` is one word of a closed set; `says` and `advice` are for a person."""

    name: str
    says: str
    advice: str


class Explanation(NamedTuple):
    """What was found. `right`: a secret of the tenant fits as it should. `secret` is the setting of the one that fits.

    Without a `secret` nothing fits; then `mistakes` holds what is wrong with the header alone, perhaps nothing.
    `tried` counts the combinations.
    """

    right: bool
    secret: str | None
    mistakes: tuple[Mistake, ...]
    tried: int


class _Way(NamedTuple):
    """One possible reading of the header, the secret or the body; right where `mistake` is None.

    `also` is a second mistake of the same body.
    """

    mistake: Mistake | None
    value: bytes
    algorithm: str = "sha256"
    also: Mistake | None = None


def explain(
    body: bytes, headers: HeaderFields, secrets: Sequence[Secret], others: Iterable[tuple[str, bytes]] = ()
) -> Explanation:
    """Explain a signature. `others` are other bodies that it may be of, each with the name of the place it is kept."""
    digests = list(_digests(headers))
    bodies = [*_bodies(body), *(_Way(_other(place), other) for place, other in others)]
    keys = [(secret, way) for secret in secrets for way in _keys(secret)]
    tried = 0
    for limit in range(5):
        for digest, (secret, key), text in product(digests, keys, bodies):
            mistakes = tuple(one for one in (digest.mistake, key.mistake, text.mistake, text.also) if one is not None)
            if len(mistakes) != limit:
                continue
            tried += 1
            if hmac.compare_digest(hmac.digest(key.value, text.value, digest.algorithm), digest.value):
                return Explanation(not mistakes, secret.setting, mistakes, tried)
    for digest, text in product(digests, bodies):
        tried += 1
        if hmac.compare_digest(hashlib.new(digest.algorithm, text.value).digest(), digest.value):
            return Explanation(False, None, (_UNKEYED,), tried)
    return Explanation(False, None, _of_header(headers, digests), tried)


# The header.

_HEX: Final = re.compile(r"[0-9a-fA-F]+")
_PREFIX: Final = re.compile(r"(?:[A-Za-z0-9_-]{1,16}[=:]\s*)?(.*)", re.DOTALL)
_LENGTHS: Final = {20: "sha1", 32: "sha256", 64: "sha512"}
_LIKELY: Final = re.compile(r"signature|hmac|hub|digest", re.IGNORECASE)

_MISSING: Final = Mistake(
    "missing",
    f"there is no header {HEADER}",
    "the sender signs nothing, or a proxy drops the header: look at what the sender says it sent",
)
_DOUBLED: Final = Mistake(
    "doubled", "the header came more than once", "find out who adds the second one: the sender, or a proxy in front"
)
_UNKEYED: Final = Mistake(
    "unkeyed",
    "the signature is a plain hash of the body, without any secret",
    "tell the sender to use HMAC-SHA-256 with the webhook secret: anybody can make this hash",
)


def _digests(headers: HeaderFields) -> Iterator[_Way]:
    ours = [value for name, value in headers if name.lower() == HEADER.lower()]
    for value in ours:
        for way in _readings(value):
            yield way._replace(mistake=_DOUBLED) if len(ours) > 1 and way.mistake is None else way
    for name, value in headers:
        if name.lower() != HEADER.lower() and _LIKELY.search(name):
            says = f"the signature is in the header {name}, not in {HEADER}"
            wrong = Mistake("header", says, f"let the sender, or the proxy, call it {HEADER}")
            yield from (way._replace(mistake=wrong) for way in _readings(value))


def _readings(value: str) -> Iterator[_Way]:
    """Read a header's value as a digest, in the right form and in wrong ones."""
    text = value.strip(" \t")
    if re.fullmatch(r"sha256=[0-9a-fA-F]{64}", text):
        yield _Way(None, bytes.fromhex(text[7:]))
        return
    inner = _PREFIX.fullmatch(text.strip("\"'"))
    bare = inner[1].strip("\"' ") if inner else text
    for digest, form in ((_from_hex(bare), "hex"), (_from_64(bare), "base64")):
        algorithm = _LENGTHS.get(len(digest or b""))
        if digest is None or algorithm is None:
            continue
        if algorithm != "sha256":
            says = f"the signature is an HMAC-{algorithm.upper()}"
            yield _Way(Mistake("algorithm", says, "tell the sender to use HMAC-SHA-256"), digest, algorithm)
        elif form == "base64":
            says = "the digest is written as base64"
            yield _Way(Mistake("base64", says, "tell the sender to write it as sha256= and 64 hex digits"), digest)
        else:
            says = "the digest stands without `sha256=` in front of it, or behind another word"
            yield _Way(Mistake("prefix", says, "tell the sender to write sha256= and 64 hex digits"), digest)


def _from_hex(text: str) -> bytes | None:
    return bytes.fromhex(text) if _HEX.fullmatch(text) and len(text) % 2 == 0 else None


def _from_64(text: str) -> bytes | None:
    with suppress(binascii.Error, ValueError):
        return base64.b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), validate=True)
    return None


def _of_header(headers: HeaderFields, digests: Sequence[_Way]) -> tuple[Mistake, ...]:
    """Return what is wrong with the header where nothing fits."""
    ours = [value for name, value in headers if name.lower() == HEADER.lower()]
    if not ours:
        return (_MISSING,)
    if not digests:
        says = "the header is no signature: sha256= and 64 hex digits"
        return (Mistake("malformed", says, "tell the sender how the header is written"),)
    return tuple({way.mistake for way in digests if way.mistake is not None and way.mistake.name != "header"})[:1]


# The secret.


def _keys(secret: Secret) -> Iterator[_Way]:
    """Read a secret as it is, and as people copy it."""
    foreign = Mistake(
        "secret",
        f"it fits {secret.setting}, a secret of another tenant",
        "give the vendor's account the URL that belongs to it, or move the secret to the right tenant",
    )
    yield _Way(None if secret.own else foreign, secret.value)
    stripped = secret.value.removeprefix(b"whsec_")
    variants: list[tuple[str, bytes | None]] = [
        ("with a newline at its end", secret.value + b"\n"),
        ("with a carriage return and a newline at its end", secret.value + b"\r\n"),
        ("in quotation marks", b'"' + secret.value + b'"'),
        ("without whsec_ in front", stripped),
        ("decoded from hex", _from_hex(secret.value.decode("latin-1"))),
        ("decoded from base64", _from_64(stripped.decode("latin-1"))),
        ("encoded as hex", secret.value.hex().encode()),
    ]
    for says, value in variants:
        if value and value != secret.value:
            wrong = f"the sender takes the secret ({secret.setting}) {says}"
            yield _Way(Mistake("secret_form", wrong, "give both sides the same bytes, and look at the last one"), value)


# The body.

_TELL: Final = "tell the sender, or whoever runs the proxy in front, to sign and send the very same bytes"
_LINE_END: Final = Mistake("newline", "what was signed had a newline at its end too", _TELL)


def _bodies(body: bytes) -> Iterator[_Way]:
    """Give the body as it came, and as it may have been when it was signed."""
    yield _Way(None, body)
    seen = {body}
    for name, says, change in _CHANGES:
        with suppress(ValueError, UnicodeError, OSError, EOFError, zlib.error, RecursionError):
            changed = change(body)
            if changed is not None and changed not in seen:
                seen.add(changed)
                mistake = Mistake(name, f"what was signed is the body {says}", _TELL)
                yield _Way(mistake, changed)
                if name == "serialised" and len(body) <= TWICE_LIMIT_BYTES:
                    yield from (_Way(mistake, changed + end, also=_LINE_END) for end in (b"\n", b"\r\n"))


class _Style(NamedTuple):
    """How a serialiser writes JSON. `escapes` is one of `_ESCAPES`, `short` writes 1.0 as 1."""

    spaced: bool = False
    escapes: str = "none"
    ordered: bool = False
    short: bool = False
    indent: int | None = None

    @property
    def says(self) -> str:
        """Say it in words."""
        if self.indent is not None:
            return f"serialised anew, indented by {self.indent}"
        ways = ["with spaces behind : and ," if self.spaced else "without spaces", _ESCAPES[self.escapes]]
        ways += ["with its keys in alphabetical order"] if self.ordered else []
        ways += ["with 1 for 1.0"] if self.short else []
        return f"serialised anew: {', '.join(ways)}"

    def written(self, body: bytes) -> bytes:
        """Return the body as such a serialiser writes it. Raise ValueError where it is no JSON."""
        value = json.loads(body, parse_float=_short if self.short else float)
        separators = None if self.indent is not None else ((", ", ": ") if self.spaced else (",", ":"))
        ascii_only = self.escapes in {"ascii", "ascii_slashes", "upper", "html_ascii", "dotnet"}
        text = json.dumps(
            value, ensure_ascii=ascii_only, separators=separators, sort_keys=self.ordered, indent=self.indent
        )
        return _escaped(text, self.escapes).encode("utf-8")


_ESCAPES: Final = {
    "none": "with its letters as they are",
    "ascii": "with \\u escapes for letters beyond ASCII",
    "slashes": "with \\/ for /",
    "ascii_slashes": "with \\u escapes for letters beyond ASCII, and \\/ for /",
    "html": "with \\u escapes for <, > and &",
    "html_ascii": "with \\u escapes for <, >, & and letters beyond ASCII",
    "upper": "with \\u escapes in capital digits for letters beyond ASCII",
    "dotnet": "with \\u escapes in capital digits for quotation marks, <, >, &, +, ` and letters beyond ASCII",
}
"""What is escaped beside what must be: html is what Go and Rails do, slashes what PHP does, dotnet what .NET does."""

_ESCAPE: Final = re.compile(r"\\(?:u([0-9a-f]{4})|(.))")


def _escaped(text: str, escapes: str) -> str:
    """Return JSON with what is escaped beyond the serialiser of Python."""
    match escapes:
        case "slashes" | "ascii_slashes":
            return text.replace("/", "\\/")
        case "html" | "html_ascii":
            return re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text)
        case "upper" | "dotnet":
            more = "[<>&'+`]" if escapes == "dotnet" else "(?!)"
            text = re.sub(more, lambda found: f"\\u{ord(found[0]):04x}", text)
            quoted = "\\u0022" if escapes == "dotnet" else '\\"'
            return _ESCAPE.sub(lambda at: f"\\u{at[1].upper()}" if at[1] else (quoted if at[2] == '"' else at[0]), text)
        case _:
            return text


def _short(number: str) -> int | float:
    value = float(number)
    return int(value) if value.is_integer() else value


def _styles() -> Iterator[_Style]:
    """Give each way in which serialisers write the same JSON, the usual ones first."""
    for short, ordered, spaced in product((False, True), repeat=3):
        yield from (_Style(spaced, escapes, ordered, short) for escapes in _ESCAPES)
    for indent in (2, 4):
        yield _Style(indent=indent)


def _packed(level: int, system: int) -> Callable[[bytes], bytes]:
    """Return what compresses as zlib does, with no time in the head. `system` is a byte that programs set otherwise."""

    def pack(body: bytes) -> bytes:
        packer = zlib.compressobj(level, wbits=zlib.MAX_WBITS | 16)
        packed = packer.compress(body) + packer.flush()
        return packed[:9] + bytes([system]) + packed[10:]

    return pack


def _unpacked(body: bytes) -> bytes | None:
    if body[:2] == b"\x1f\x8b":
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(body, UNPACKED_LIMIT_BYTES)
    return zlib.decompressobj().decompress(body, UNPACKED_LIMIT_BYTES)


def _data(body: bytes) -> bytes | None:
    """Return the member `data` alone, as a serialiser without spaces writes it."""
    value = json.loads(body)
    if type(value) is not dict or "data" not in value:
        return None
    return json.dumps(value["data"], ensure_ascii=False, separators=(",", ":")).encode("utf-8")


_BOM: Final = b"\xef\xbb\xbf"

_CHANGES: Final[Sequence[tuple[str, str, Callable[[bytes], bytes | None]]]] = (
    ("newline", "without the newline at its end", lambda body: body.rstrip(b"\r\n")),
    ("newline", "with a newline at its end", lambda body: body + b"\n"),
    ("newline", "with a carriage return and a newline at its end", lambda body: body + b"\r\n"),
    ("newline", "with newlines alone for carriage return and newline", lambda body: body.replace(b"\r\n", b"\n")),
    ("newline", "with carriage return and newline for newlines", lambda body: body.replace(b"\n", b"\r\n")),
    ("blanks", "without the blanks around it", bytes.strip),
    ("byte_order_mark", "without the byte order mark in front", lambda body: body.removeprefix(_BOM)),
    ("byte_order_mark", "with a byte order mark in front", lambda body: _BOM + body),
    ("encoding", "decompressed", _unpacked),
    *(
        ("encoding", f"compressed by gzip at level {level}, without a time", _packed(level, system))
        for level, system in product((9, 6, 1), (3, 255))
    ),
    ("text_encoding", "in Latin-1 instead of UTF-8", lambda body: body.decode("utf-8").encode("latin-1")),
    ("text_encoding", "in UTF-8, where Latin-1 came", lambda body: body.decode("latin-1").encode("utf-8")),
    ("text_encoding", "in UTF-16", lambda body: body.decode("utf-8").encode("utf-16-le")),
    *(("serialised", style.says, style.written) for style in _styles()),
    ("part", "cut down to its member `data`", _data),
    ("empty", "before there was one: no bytes at all", lambda _body: b""),
)


def _other(place: str) -> Mistake:
    return Mistake(
        "other_delivery",
        f"it is the signature of another delivery: {place}",
        "the sender, or a proxy that retries, mixes up headers and bodies: look for shared state in it",
    )


NAMES: Final = (
    *("missing", "doubled", "malformed", "header", "prefix", "base64", "algorithm", "unkeyed"),
    *("secret", "secret_form", *dict.fromkeys(name for name, _, _ in _CHANGES), "other_delivery"),
)
"""Every name of a mistake."""
