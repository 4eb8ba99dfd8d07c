"""How a raw body becomes one JSON object: what counts as JSON, and which text a database can hold."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn, TypeVar

import msgspec

from whatsms_events.errors import InvalidEventError

T = TypeVar("T")
JsonObject = dict[str, Any]
"""A JSON object of the vendor, decoded and storable: no NUL, no lone surrogate."""

DEPTH_LIMIT: Final = 64
"""Documented bodies are 4 deep. A fixed limit, far below the interpreter's, which depends on the call stack: the same
bytes must be judged alike at the door, in a replay and in any consumer."""

_decoder: Final = msgspec.json.Decoder()
_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")

_KINDS: Final[Mapping[type, str]] = {
    dict: "object",
    list: "array",
    str: "string",
    bool: "boolean",
    type(None): "null",
}


def kind(value: object) -> str:
    """Return what JSON calls a value that was decoded: all that is none of these kinds is a number."""
    return _KINDS.get(type(value), "number")


def decode(body: bytes) -> JsonObject:
    """Return the object in a body, storable and at most DEPTH_LIMIT deep; raise InvalidEventError and nothing else."""
    clean = b"\\" not in body or b"\\u0000" not in body  # most have no escape at all, and one byte is found faster
    try:
        value = _decoder.decode(body)
    except RecursionError as exc:
        raise InvalidEventError("too_deep") from exc
    except (msgspec.MsgspecError, UnicodeDecodeError):
        value, clean = _decode_again(body), False
    if type(value) is not dict:
        raise InvalidEventError("not_object", kind(value))
    # The number of brackets is never less than the depth, and cheap: only a body with many of them is walked.
    if body.count(b"{") + body.count(b"[") > DEPTH_LIMIT and _too_deep(value):
        raise InvalidEventError("too_deep")
    return value if clean else storable(value)


def _decode_again(body: bytes) -> Any:
    """Return the value of a body that msgspec refused, or say why it is none.

    The vendor cuts texts at UTF-16 units, so half an emoji comes as a lone surrogate: legal JSON, which the standard
    library reads and msgspec does not.
    """
    if not body.strip():
        raise InvalidEventError("empty")
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError as exc:
        raise InvalidEventError("too_deep") from exc
    except UnicodeDecodeError as exc:
        raise InvalidEventError("not_utf8", f"byte {exc.start}") from exc
    except json.JSONDecodeError as exc:
        raise InvalidEventError("not_json", f"character {exc.pos}") from exc
    except ValueError as exc:  # an integer of more digits than the interpreter converts
        raise InvalidEventError("number", "integer") from exc


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidEventError("not_json", name)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise InvalidEventError("number", "float")
    return value


def _too_deep(value: JsonObject) -> bool:
    """Walk level by level, without recursion."""
    level: list[Any] = [value]
    for _ in range(DEPTH_LIMIT):
        inside = (child for item in level for child in (item.values() if type(item) is dict else item))
        level = [child for child in inside if type(child) is dict or type(child) is list]
        if not level:
            return False
    return True


def storable(value: T) -> T:
    """Return a text or a JSON value that a database can hold: with U+FFFD for each NUL and each lone surrogate.

    PostgreSQL refuses NUL, and UTF-8 has no lone surrogates.
    """
    clean: Any = value
    match value:
        case str():
            clean = _UNSTORABLE.sub("\ufffd", value)
        case dict():
            clean = {storable(key): storable(item) for key, item in value.items()}
        case list():
            clean = [storable(item) for item in value]
    return clean  # type: ignore[no-any-return]  # of the same type


def is_storable(text: str) -> bool:
    """Tell whether a database can hold the text as it is."""
    return _UNSTORABLE.search(text) is None
