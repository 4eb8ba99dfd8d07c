"""How secrets are left out of the vendor's unknown fields: by their names, at any depth, also in JSON within a text.

The vendor's relatives send whole database rows, with tokens of other systems in them. The raw bytes in the log keep
them; `data`, and with it Kafka and the read API, never gets them.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

import msgspec

_SECRET: Final = re.compile(
    r"token|secret|passw|passphrase|passcode|credential|authori[sz]ation|bearer|cookie|senha|segredo|credencia"
    r"|(api|access|auth|private|media)[_-]?key",
    re.IGNORECASE,
)
"""Parts that make a name secret wherever they stand in it, in English and in the vendor's Portuguese."""

_LAST: Final = frozenset({"key", "keys", "chave", "chaves", "pwd", "jwt", "session"})
"""Words that make a name secret at its end: `signingKey`, and a connection's `session`, but not `sessionId`."""

_REFERENCES: Final = frozenset({"externalKey"})
"""Not secret: a reference that callers of a relative's API give to a message to recognise it."""

_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_NAME: Final = re.compile(r'"([^"]{1,128})"\s*:')
_NAME_LIMIT: Final = 128
_REMEMBERED_CHARS: Final = 2048  # the names of a resource have some hundred together; a body could have megabytes
_PLAIN: Final = frozenset({type(None), bool, int, float})
_OPENING: Final = frozenset("{[")
_json = msgspec.json.Decoder()


def without_secrets(value: dict[str, Any]) -> dict[str, Any]:
    """Return the object without what is a secret by its name."""
    # Nearly always all names are open and no value can hold others; the same names come again and again.
    if len("".join(value)) <= _REMEMBERED_CHARS and _are_open(tuple(value)) and not _can_hold(value.values()):
        return value
    return {
        name: inner if (kind := type(inner)) in _PLAIN or (kind is str and inner[:1] not in _OPENING) else _clean(inner)
        for name, inner in value.items()
        if inner is None or not _names_secret(name[:_NAME_LIMIT]) or _is_open(name, inner)
    }


def _can_hold(values: Iterable[Any]) -> bool:
    """Tell whether names may stand within one of these values."""
    for value in values:
        kind = type(value)
        if kind is str:
            if value[:1] in _OPENING:
                return True
        elif kind not in _PLAIN and (kind is not list or _can_hold(value)):
            return True
    return False


def _clean(value: Any) -> Any:
    kind = type(value)
    if kind is str:
        return _clean_text(value) if value[:1] in _OPENING and _may_hold_secret(value) else value
    if kind is dict:
        return without_secrets(value)
    return [_clean(item) for item in value] if kind is list else value


def _may_hold_secret(text: str) -> bool:
    """Tell whether the text has a secret's name in it, also one in JSON within JSON, where quotes are escaped."""
    return any(_names_secret(name) for name in _NAME.findall(text.replace("\\", "")))


def _clean_text(text: str) -> str | None:
    """Return a text without the secrets of the JSON that it holds; None for what looks like it and cannot be read."""
    try:
        value = _json.decode(text)
        cleaned = _clean(value)
        return text if cleaned == value else msgspec.json.encode(cleaned).decode()
    except (msgspec.MsgspecError, RecursionError):
        return None


def _is_open(name: str, value: Any) -> bool:
    """Tell whether a field is no secret in spite of its name, as is the object `key` that identifies a message."""
    return type(value) in (dict, list) and len(_WORD.findall(name)) <= 1 and _SECRET.search(name) is None


@lru_cache(maxsize=256)
def _are_open(names: tuple[str, ...]) -> bool:
    """Tell whether none of these names is a secret."""
    return not any(_names_secret(name[:_NAME_LIMIT]) for name in names)


@lru_cache(maxsize=4096)
def _names_secret(name: str) -> bool:
    """Tell whether a field of this name is a secret, unless its value is null."""
    if name in _REFERENCES:
        return False
    words = _WORD.findall(name)
    return _SECRET.search(name) is not None or bool(words and words[-1].lower() in _LAST)
