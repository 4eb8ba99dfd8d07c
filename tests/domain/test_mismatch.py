"""A signature that does not fit is explained: each usual mistake is made on purpose, and found by its name."""

import base64
import gzip
import hashlib
import hmac
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatsms_events.domain.mismatch import NAMES, Explanation, Secret, explain
from whatsms_events.domain.signature import HEADER, sign

OWN, OLD, FOREIGN = b"whsec_current-one", b"whsec_the-old-one", b"whsec_of-another"
SECRETS = (
    Secret("tenants.acme.webhook_secrets.current", OWN, own=True),
    Secret("tenants.acme.webhook_secrets.old", OLD, own=True),
    Secret("tenants.other.webhook_secrets.current", FOREIGN, own=False),
)
BODY = json.dumps(
    {"event": "message.received", "data": {"message": {"id": "m/1", "body": "Olá, é João!"}}},
    ensure_ascii=False,
    separators=(",", ":"),
).encode()


def explained(body: bytes, header: str, *, name: str = HEADER) -> Explanation:
    """Explain a body with one header."""
    return explain(body, [("Content-Type", "application/json"), (name, header)], SECRETS)


def names(found: Explanation) -> list[str]:
    """Return the names of the mistakes."""
    return [mistake.name for mistake in found.mistakes]


@pytest.mark.parametrize("secret", [OWN, OLD])
def test_a_right_signature_is_right_and_its_secret_is_named(secret: bytes) -> None:
    """Any secret of the tenant fits, and its setting is named."""
    found = explained(BODY, sign(BODY, secret))
    assert (found.right, found.mistakes) == (True, ())
    assert found.secret == {OWN: SECRETS[0].setting, OLD: SECRETS[1].setting}[secret]


def dumped(**options: object) -> bytes:
    """Return the body as another serialiser writes it."""
    return json.dumps(json.loads(BODY), **options).encode()  # type: ignore[arg-type]


MARKED = '{"a":"é <b & \\\\u00e9 \\"c\\" + d"}'.encode()
"""A body with what serialisers escape, and a backslash in front of what only looks like an escape."""
DOTNET = rb'{"a":"\u00E9 \u003Cb \u0026 \\u00e9 \u0022c\u0022 \u002B d"}'

SIGNED_AS: dict[str, tuple[bytes, bytes, str]] = {
    "a newline was added on the way": (BODY + b"\n", BODY, "newline"),
    "a newline was cut on the way": (BODY, BODY + b"\n", "newline"),
    "newlines were changed": (b'{\r\n"a": 1}', b'{\n"a": 1}', "newline"),
    "blanks were added around it": (b"  " + BODY + b" ", BODY, "blanks"),
    "a byte order mark was added": (b"\xef\xbb\xbf" + BODY, BODY, "byte_order_mark"),
    "a byte order mark was cut": (BODY, b"\xef\xbb\xbf" + BODY, "byte_order_mark"),
    "it was serialised with spaces": (BODY, dumped(ensure_ascii=False), "serialised"),
    "it was escaped": (BODY, dumped(separators=(",", ":")), "serialised"),
    "slashes were escaped": (BODY, dumped(separators=(",", ":")).replace(b"/", b"\\/"), "serialised"),
    "keys were sorted": (BODY, dumped(separators=(",", ":"), sort_keys=True, ensure_ascii=False), "serialised"),
    "it was indented": (BODY, dumped(indent=2, ensure_ascii=False), "serialised"),
    "it was compressed after signing": (gzip.compress(BODY), BODY, "encoding"),
    "it was decompressed after signing": (BODY, gzip.compress(BODY, mtime=0), "encoding"),
    "it was decompressed from level 1": (BODY, gzip.compress(BODY, 1, mtime=0), "encoding"),
    "it was decompressed from level 6": (BODY, gzip.compress(BODY, 6, mtime=0), "encoding"),
    "signs of HTML were escaped": (MARKED, MARKED.replace(b"<", b"\\u003c").replace(b"&", b"\\u0026"), "serialised"),
    "it was escaped in capital digits": (MARKED, MARKED.replace("é".encode(), b"\\u00E9"), "serialised"),
    "it was escaped as by .NET": (MARKED, DOTNET, "serialised"),
    "1.0 was written as 1": (b'{"at":1.0,"b":2.5}', b'{"at":1,"b":2.5}', "serialised"),
    "it was signed in Latin-1": (BODY, BODY.decode().encode("latin-1"), "text_encoding"),
    "only data was signed": (
        BODY,
        json.dumps(json.loads(BODY)["data"], ensure_ascii=False, separators=(",", ":")).encode(),
        "part",
    ),
    "nothing was signed": (BODY, b"", "empty"),
}


@pytest.mark.parametrize("case", SIGNED_AS)
def test_a_body_that_was_changed_on_the_way_is_told(case: str) -> None:
    """What was signed is another body than what came, and the change is named."""
    came, signed, name = SIGNED_AS[case]
    found = explained(came, sign(signed, OWN))
    assert (found.right, names(found), found.secret) == (False, [name], SECRETS[0].setting)


HEADERS: dict[str, Callable[[bytes], str]] = {
    "prefix": bytes.hex,
    "base64": lambda digest: base64.b64encode(digest).decode(),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_digest_in_another_form_is_told(name: str) -> None:
    """The digest is right, and how it is written is not."""
    found = explained(BODY, HEADERS[name](hmac.digest(OWN, BODY, "sha256")))
    assert (found.right, names(found), found.secret) == (False, [name], SECRETS[0].setting)


@pytest.mark.parametrize("prefix", ["sha256=", "SHA256=", "hmac-sha256=", "v1=", "sha256: "])
def test_base64_behind_any_word_is_told(prefix: str) -> None:
    """A word in front does not hide what the digest is written in."""
    found = explained(BODY, prefix + base64.b64encode(hmac.digest(OWN, BODY, "sha256")).decode())
    assert names(found) == ["base64"]


@pytest.mark.parametrize("algorithm", ["sha1", "sha512"])
def test_another_algorithm_is_told(algorithm: str) -> None:
    """An HMAC of another kind is recognised by its length."""
    found = explained(BODY, f"{algorithm}={hmac.digest(OWN, BODY, algorithm).hex()}")
    assert names(found) == ["algorithm"]


def test_a_hash_without_a_secret_is_told() -> None:
    """A plain SHA-256 of the body proves nothing."""
    assert names(explained(BODY, f"sha256={hashlib.sha256(BODY).hexdigest()}")) == ["unkeyed"]


def test_the_secret_of_another_tenant_is_told() -> None:
    """The URL and the account do not belong together."""
    found = explained(BODY, sign(BODY, FOREIGN))
    assert (names(found), found.secret) == (["secret"], SECRETS[2].setting)


@pytest.mark.parametrize("secret", [OWN + b"\n", b'"' + OWN + b'"', OWN.removeprefix(b"whsec_"), OWN.hex().encode()])
def test_a_secret_that_was_copied_wrongly_is_told(secret: bytes) -> None:
    """The sender has nearly the same secret."""
    assert names(explained(BODY, sign(BODY, secret))) == ["secret_form"]


def test_a_signature_in_another_header_is_told() -> None:
    """A proxy or a relative of the vendor calls the header by another name."""
    found = explained(BODY, sign(BODY, OWN), name="X-Hub-Signature-256")
    assert names(found) == ["header"]
    assert "X-Hub-Signature-256" in found.mistakes[0].says


def test_a_header_that_came_twice_is_told() -> None:
    """Both values may be right: the door refuses them all the same."""
    found = explain(BODY, [(HEADER, sign(BODY, OWN))] * 2, SECRETS)
    assert (found.right, names(found)) == (False, ["doubled"])


def test_the_signature_of_another_delivery_is_told() -> None:
    """A sender that mixes up headers and bodies signs each of them well."""
    other = b'{"event":"ticket.closed"}'
    found = explain(BODY, [(HEADER, sign(other, OWN))], SECRETS, [("position 17", other)])
    assert names(found) == ["other_delivery"]
    assert "position 17" in found.mistakes[0].says


def test_json_written_anew_and_a_newline_are_told_together() -> None:
    """Two changes of one body: both are named."""
    found = explained(BODY, sign(dumped(ensure_ascii=False) + b"\n", OWN))
    assert (found.right, sorted(names(found)), found.secret) == (False, ["newline", "serialised"], SECRETS[0].setting)


def test_two_mistakes_at_once_are_told() -> None:
    """Another tenant's secret, over a body with a newline, written without its prefix."""
    header = hmac.digest(FOREIGN, BODY + b"\n", "sha256").hex()
    assert sorted(names(explained(BODY, header))) == ["newline", "prefix", "secret"]


@pytest.mark.parametrize(
    ("headers", "name"), [([], "missing"), ([(HEADER, "")], "malformed"), ([(HEADER, "sha256=zz")], "malformed")]
)
def test_a_header_that_is_no_signature_is_told(headers: list[tuple[str, str]], name: str) -> None:
    """Where there is nothing to compare, the header itself is the answer."""
    assert names(explain(BODY, headers, SECRETS)) == [name]


def test_what_nothing_explains_is_said_to_be_so() -> None:
    """An unknown secret fits no body: no mistake is made up, and the count says how much was tried."""
    found = explained(BODY, sign(BODY, b"nobody knows it"))
    assert (found.right, found.secret, found.mistakes) == (False, None, ())
    assert found.tried > 100


@given(st.binary(max_size=200), st.lists(st.tuples(st.sampled_from([HEADER, "X-Digest"]), st.text(max_size=90))))
def test_no_input_is_an_exception_and_every_mistake_has_a_known_name(
    body: bytes, headers: list[tuple[str, str]]
) -> None:
    """Whatever is saved and given to it, there is an answer, in words of a closed set."""
    found = explain(body, headers, SECRETS[:1])
    assert set(names(found)) <= set(NAMES)
    assert not found.right
