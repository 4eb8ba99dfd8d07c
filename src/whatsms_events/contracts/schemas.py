"""JSON Schema (draft 2020-12) of what the service publishes, from the structs that encode it."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from whatsms_events.domain.bodies import JsonObject
from whatsms_events.domain.events import SHAPES, EventType, entity
from whatsms_events.domain.personal import EXTRA
from whatsms_events.domain.personal import PERSONAL as FIELDS

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

Words = Mapping[str, Mapping[str, str]]
"""What the documentation says of fields: component -> field -> sentence."""

PERSONAL: Final[Mapping[str, frozenset[str]]] = {
    **{shape.__name__: frozenset((EXTRA,)) for shape in SHAPES.values()},
    **{name.capitalize(): names | {EXTRA} for name, names in FIELDS.items()},
}
"""The fields of each struct that name, quote or show a contact. Unknown fields count as personal."""

_OWN_WORDS: Final = frozenset(("ack", "gone"))
"""Fields that the read API shows in another way than an event: what the documentation says there does not fit here."""

TEXT: Final[JsonObject] = {"type": "string"}
INTEGER: Final[JsonObject] = {"type": "integer", "format": "int64"}
FLAG: Final[JsonObject] = {"type": "boolean"}
TIME: Final[JsonObject] = {"type": "string", "format": "date-time"}
IDENTIFIER: Final[JsonObject] = {"type": "string", "format": "uuid"}
HEX: Final[JsonObject] = {"type": "string", "pattern": "^([0-9a-f]{64}|hidden)$"}
"""A hash of bytes; hidden from who has no scope `personal`."""
_NULL: Final = {"type": "null"}


def components(types: Iterable[Any], template: str, *, words: Words | None = None) -> dict[str, JsonObject]:
    """Return the schemas of structs and of all that stands in them, by name; `template` is the form of references."""
    _, found = msgspec.json.schema_components(types, ref_template=template)
    return {name: _described(name, _tidy(schema), words or {}) for name, schema in found.items()}


def orderly(schema: JsonObject) -> JsonObject:
    """Return the schema in the form that all of ours have: null is one of its types, not an alternative."""
    tidied: JsonObject = _tidy(schema)
    return tidied


def nullable(schema: JsonObject) -> JsonObject:
    """Return the schema of the same thing or null."""
    return orderly({"anyOf": [schema, _NULL]})


def listed(schema: JsonObject) -> JsonObject:
    """Return the schema of a list of such things."""
    return {"type": "array", "items": schema}


def enum(values: Iterable[str]) -> JsonObject:
    """Return the schema of one of these words."""
    return {"type": "string", "enum": [str(one) for one in values]}


def row(properties: Mapping[str, JsonObject], *, optional: Iterable[str] = ()) -> JsonObject:
    """Return the schema of an object that always has all of these, but for the optional ones."""
    left_out = set(optional)
    return {
        "type": "object",
        "properties": dict(properties),
        "required": [name for name in properties if name not in left_out],
    }


def event_schema(event_type: EventType, words: Words) -> JsonObject:
    """Return the schema of an event's `data`, which is the value of its Kafka record, as a document of its own."""
    shape = SHAPES[entity(event_type)]
    found = components([shape], "#/$defs/{name}", words=words)
    whole = found.pop(shape.__name__)
    return {
        "$schema": DIALECT,
        "$id": f"urn:whatsms-events:{event_type}",
        **whole,
        "title": "".join(part.capitalize() for part in event_type.split(".")),
        "description": f"The data of `{event_type}`, an event about a {entity(event_type)}.",
        "$defs": found,
    }


def _described(name: str, schema: JsonObject, words: Words) -> JsonObject:
    """Return the schema of a struct with what the documentation says of its fields, and which of them are personal."""
    for field, inner in schema.get("properties", {}).items():
        if field not in _OWN_WORDS and field in words.get(name, {}):
            inner.setdefault("description", words[name][field])
        if field in PERSONAL.get(name, ()):
            inner["x-personal"] = True
    return schema


def _tidy(schema: Any) -> Any:
    """Return a schema without what msgspec leaves in docstrings, defaults and unions."""
    if isinstance(schema, list):
        return [_tidy(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    shown = {name: _tidy(one) for name, one in schema.items() if name != "default" and one not in ([], {}, None)}
    if isinstance(shown.get("description"), str):
        shown["description"] = inspect.cleandoc(shown["description"])
    if "enum" in shown and "type" not in shown and all(isinstance(one, str) for one in shown["enum"]):
        shown = {"type": "string", **shown}
    return _with_null(shown)


def _with_null(schema: JsonObject) -> JsonObject:
    """Return `type: [..., "null"]` in the place of two alternatives of which one is null, where that says the same."""
    match schema.get("anyOf"):
        case [{"type": str(kind)} as some, {"type": "null"}]:
            shown: JsonObject = {**some, "type": [kind, "null"]}
            if "enum" in some:
                shown["enum"] = [*some["enum"], None]
            return {**shown, **{name: one for name, one in schema.items() if name != "anyOf"}}
        case _:
            return schema
