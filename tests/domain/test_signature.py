"""Signatures, good and bad: vectors, every malformed header, rotation."""

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatsms_events.domain.signature import REASONS, sign, verify
from whatsms_events.errors import SignatureError

BODY = '{"event":"message.received","body":"Olá"}'.encode()
SECRETS = {"old": b"old secret", "new": b"new secret"}
GOOD = sign(BODY, b"new secret")
HEX = GOOD.removeprefix("sha256=")


def refused(headers: list[str], body: bytes = BODY) -> str:
    """Return the reason of the refusal."""
    with pytest.raises(SignatureError) as caught:
        verify(body, headers, SECRETS)
    return caught.value.reason


@pytest.mark.parametrize(
    ("body", "secret", "expected"),
    [
        # RFC 4231, test cases 1, 2 and 6.
        (b"Hi There", b"\x0b" * 20, "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
        (b"what do ya want for nothing?", b"Jefe", "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
        (
            b"Test Using Larger Than Block-Size Key - Hash Key First",
            b"\xaa" * 131,
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        ),
    ],
)
def test_signature_is_hmac_sha256(body: bytes, secret: bytes, expected: str) -> None:
    """What we sign and accept is HMAC-SHA256 of the bytes, in hex, as RFC 4231 has it."""
    assert sign(body, secret) == f"sha256={expected}"
    assert verify(body, [f"sha256={expected}"], {"main": secret}) == "main"


@given(body=st.binary(), secret=st.binary(min_size=1, max_size=100))
def test_signed_body_is_verified(body: bytes, secret: bytes) -> None:
    """Any bytes signed with any secret are verified, and agree with the plain HMAC."""
    header = sign(body, secret)
    assert verify(body, [header], {"main": secret}) == "main"
    assert header == "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()


@pytest.mark.parametrize("header", [GOOD, f" {GOOD}", f"{GOOD}\t ", f"sha256={HEX.upper()}", f"sha256={HEX.title()}"])
def test_harmless_forms_are_accepted(header: str) -> None:
    """Hex digits of either case, and blanks around the value, are the same signature."""
    assert verify(BODY, [header], SECRETS) == "new"


def test_every_secret_is_valid_and_named() -> None:
    """During a rotation both secrets are accepted, and the answer names the one that fitted."""
    assert verify(BODY, [sign(BODY, b"old secret")], SECRETS) == "old"
    assert verify(BODY, [sign(BODY, b"new secret")], SECRETS) == "new"
    assert verify(BODY, [GOOD], {"first": b"new secret", "second": b"new secret"}) == "first"


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ([], "missing"),
        ([GOOD, GOOD], "doubled"),
        (["", GOOD], "doubled"),
        ([""], "malformed"),
        ([" "], "malformed"),
        (["sha256="], "malformed"),
        ([HEX], "malformed"),
        ([f"SHA256={HEX}"], "malformed"),
        ([f"sha1={HEX}"], "malformed"),
        ([f"sha256:{HEX}"], "malformed"),
        ([f"sha256= {HEX}"], "malformed"),
        ([f"v0,sha256={HEX}"], "malformed"),
        ([f"sha256={HEX},sha256={HEX}"], "malformed"),
        ([f"sha256={HEX[:-1]}"], "malformed"),
        ([f"sha256={HEX}0"], "malformed"),
        ([f"sha256={HEX}\n"], "malformed"),
        ([f"sha256={HEX[:-1]}g"], "malformed"),
        ([f"sha256={HEX[:-1]}é"], "malformed"),
        ([f"sha256={HEX[:-1]}٣"], "malformed"),
        ([f"sha256={HEX[:-1]}\udcff"], "malformed"),
        (["sha256=" + chr(0xD83D) * 64], "malformed"),
        (["sha256=" + "0" * 64], "wrong"),
        ([sign(BODY, b"other secret")], "wrong"),
        ([sign(BODY, b"new secret\n")], "wrong"),
        ([sign(BODY + b"\n", b"new secret")], "wrong"),
    ],
    ids=ascii,
)
def test_bad_signature_is_refused_with_its_reason(headers: list[str], reason: str) -> None:
    """Every bad header is a SignatureError with one word of the closed set, and nothing else."""
    assert refused(headers) == reason
    assert reason in REASONS


@given(header=st.text(st.characters()))
def test_random_header_is_refused(header: str) -> None:
    """No text in the header makes the check raise anything else, lone surrogates included."""
    assert refused([header]) in REASONS


@given(place=st.integers(0, len(BODY) - 1), change=st.integers(1, 255))
def test_one_changed_byte_is_noticed(place: int, change: int) -> None:
    """A body that differs in one byte is refused."""
    changed = BODY[:place] + bytes([BODY[place] ^ change]) + BODY[place + 1 :]
    assert refused([GOOD], changed) == "wrong"


def test_without_secrets_nothing_is_verified() -> None:
    """A tenant without a secret accepts nothing."""
    with pytest.raises(SignatureError, match="wrong"):
        verify(BODY, [GOOD], {})


def test_refusal_tells_nothing() -> None:
    """The refusal holds its reason and no part of signature or secret."""
    with pytest.raises(SignatureError) as caught:
        verify(BODY, [sign(BODY, b"other secret")], SECRETS)
    assert caught.value.args == ("wrong",)
