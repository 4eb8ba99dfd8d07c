"""How the vendor signs a body, and which of our secrets fits a signature."""

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence

from whatsms_events.errors import SignatureError

HEADER = "X-WhatSMS-Signature"
_FORM = re.compile(r"sha256=([0-9a-fA-F]{64})")

REASONS = ("missing", "doubled", "malformed", "wrong")
"""Why a signature was refused: the closed set of `SignatureError.reason`."""


def sign(body: bytes, secret: bytes) -> str:
    """Return the header value for `body`: `sha256=` and the hex HMAC-SHA256 (vendor's page, "Header di firma")."""
    return "sha256=" + hmac.digest(secret, body, hashlib.sha256).hex()


def given(headers: Sequence[str]) -> bytes:
    """Return the digest that the signature header gives, right or wrong; raise SignatureError if it has another form.

    `headers` are all values of the header as they came. Hex digits may be of either case.
    """
    if not headers:
        raise SignatureError("missing")
    if len(headers) > 1:
        raise SignatureError("doubled")
    match = _FORM.fullmatch(headers[0].strip(" \t"))
    if match is None:
        raise SignatureError("malformed")
    return bytes.fromhex(match[1])


def signed_by(body: bytes, digest: bytes, secrets: Mapping[str, bytes]) -> str | None:
    """Return the name of the secret by which `body` has this digest; None where there is none.

    Every secret is tried, in constant time each; bytes are compared, since `compare_digest` raises on text that is not
    ASCII.
    """
    found = None
    for name, secret in secrets.items():
        if hmac.compare_digest(hmac.digest(secret, body, hashlib.sha256), digest) and found is None:
            found = name
    return found


def verify(body: bytes, headers: Sequence[str], secrets: Mapping[str, bytes]) -> str:
    """Return the name of the secret that signed `body`; raise SignatureError."""
    found = signed_by(body, given(headers), secrets)
    if found is None:
        raise SignatureError("wrong")
    return found
