"""What of a contract would break those who rely on an older one: removed, narrowed, or asked for anew.

A contract says more than schemas: a record's key and media type, who sends and who receives, and which token a path
asks for. Three kinds of programs rely on it. A program that reads breaks where a field that it knew is gone, or where a
field has a value that it could not have before, such as a longer text. A program that reads events also reads old
ones, so a field that is promised from now on breaks it too; answers of the API are never old. A program that asks
breaks where a path or a parameter is gone, where more is demanded, or where a refusal that it knows how to take is
another one. An optional field may be added, and so may a word of an enumeration: readers are told to expect fields and
words that they do not know.

References are followed within each document; what is the same pair of references once more is not compared again.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from whatsms_events.domain.bodies import JsonObject

_FIXED: Final = ("const", "format", "pattern", "contentEncoding", "contentMediaType")
"""Rules that say what a value is: another one, or none, is another value."""

_INNER: Final = ("items", "additionalProperties", "contentSchema")
"""Where the schema of what a value holds stands."""

_LOWER: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems")
_UPPER: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems")
_Side = Literal["event", "answer", "request"]
"""Whether what is compared is kept for years, is answered now, or is what a client sends."""

_METHODS: Final = ("get", "put", "post", "delete", "patch")


def breaking(old: JsonObject, new: JsonObject) -> list[str]:
    """Return each change between two documents of one kind that breaks somebody, in words; none is the aim.

    Both are JSON Schema, both OpenAPI or both AsyncAPI.
    """
    pair = _Pair(old, new)
    if "openapi" in old:
        return list(_paths(pair))
    if "asyncapi" in old:
        return list(_channels(pair))
    return list(_schemas(pair, old, new, "data"))


@dataclass(frozen=True, slots=True)
class _Pair:
    """The two documents, and which pairs of references in them were compared."""

    old: JsonObject
    new: JsonObject
    side: _Side = "event"
    done: set[tuple[str, str, str]] = field(default_factory=set)

    def of(self, side: _Side) -> "_Pair":
        """Return the same pair for another side."""
        return _Pair(self.old, self.new, side, self.done)


def _found(document: JsonObject, value: Any) -> Any:
    """Return what a reference leads to, or the value itself."""
    while isinstance(value, dict) and "$ref" in value:
        target: Any = document
        for part in value["$ref"].removeprefix("#/").split("/"):
            target = target.get(part, {}) if isinstance(target, dict) else {}
        value = target
    return value


def _paths(pair: _Pair) -> Iterator[str]:
    for path, operations in pair.old["paths"].items():
        for method in (one for one in _METHODS if one in operations):
            place = f"{method.upper()} {path}"
            new = pair.new["paths"].get(path, {}).get(method)
            if new is None:
                yield f"{place} is gone"
                continue
            yield from _tokens(pair, operations[method], new, place)
            yield from _parameters(pair, operations[method], new, place)
            yield from _contents(
                pair.of("request"), operations[method].get("requestBody"), new.get("requestBody"), f"{place} body"
            )
            yield from _responses(pair, operations[method], new, place)


def _tokens(pair: _Pair, old: JsonObject, new: JsonObject, place: str) -> Iterator[str]:
    """Yield where a token that opened a path does not open it any more."""
    ways_now = new.get("security", pair.new.get("security")) or [{}]
    for way in old.get("security", pair.old.get("security")) or [{}]:
        if not any(_enough(way, one) for one in ways_now):
            yield f"{place}: it asks for another token than before"
    schemes, schemes_now = (each.get("components", {}).get("securitySchemes", {}) for each in (pair.old, pair.new))
    for name in {name for way in ways_now for name in way if name in schemes}:
        if _form(schemes[name]) != _form(schemes_now.get(name, {})):
            yield f"{place}: the token {name} is shown in another way"


def _enough(shown: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    return all(name in shown and set(scopes) <= set(shown[name]) for name, scopes in asked.items())


def _form(scheme: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: value for name, value in scheme.items() if name != "description"}


def _parameters(pair: _Pair, old: JsonObject, new: JsonObject, place: str) -> Iterator[str]:
    was, now = ({(one["in"], one["name"]): one for one in each.get("parameters", ())} for each in (old, new))
    for key, parameter in was.items():
        if key not in now:
            yield f"{place}: the parameter {key[1]} is gone"
            continue
        schema, new_schema = parameter["schema"], now[key]["schema"]
        if schema.get("default") != new_schema.get("default"):
            yield f"{place} ?{key[1]}: it is {new_schema.get('default')} by default now, not {schema.get('default')}"
        yield from _schemas(pair.of("request"), schema, new_schema, f"{place} ?{key[1]}")
    for key, parameter in now.items():
        if parameter.get("required") and not was.get(key, {}).get("required"):
            yield f"{place}: the parameter {key[1]} is required now"


def _responses(pair: _Pair, old: JsonObject, new: JsonObject, place: str) -> Iterator[str]:
    for status, answer in old["responses"].items():
        if status not in new["responses"]:
            yield f"{place}: it does not answer {status} any more"
            continue
        answers = pair.of("answer"), answer, new["responses"][status], f"{place} {status}"
        yield from _contents(*answers)
        yield from _headers(*answers)


def _headers(pair: _Pair, old: Any, new: Any, place: str) -> Iterator[str]:
    """Yield what breaks in the headers of an answer."""
    was, now = (_found(whole, one).get("headers", {}) for whole, one in ((pair.old, old), (pair.new, new)))
    for name, held in was.items():
        if name not in now:
            yield f"{place}: the header {name} is gone"
            continue
        header, header_now = _found(pair.old, held), _found(pair.new, now[name])
        if header.get("required") and not header_now.get("required"):
            yield f"{place}: the header {name} may be missing now"
        yield from _schemas(pair, header.get("schema", {}), header_now.get("schema", {}), f"{place} {name}")


def _contents(pair: _Pair, old: Any, new: Any, place: str) -> Iterator[str]:
    was, now = _found(pair.old, old) or {}, _found(pair.new, new) or {}
    if pair.side == "request" and now.get("required") and not was.get("required"):
        yield f"{place}: it is required now"
    for media_type, content in was.get("content", {}).items():
        if media_type not in now.get("content", {}):
            yield f"{place}: {media_type} is gone"
            continue
        yield from _schemas(pair, content.get("schema", {}), now["content"][media_type].get("schema", {}), place)


def _channels(pair: _Pair) -> Iterator[str]:
    yield from _servers(pair)
    for name, channel in pair.old["channels"].items():
        new = pair.new["channels"].get(name)
        if new is None:
            yield f"the channel {name} is gone"
            continue
        if new["address"] != channel["address"]:
            yield f"the channel {name} is at {new['address']} now, not at {channel['address']}"
        if channel.get("servers") != new.get("servers"):
            yield f"the channel {name} is at another server now"
        for parameter, was in channel.get("parameters", {}).items():
            yield from _place_in_address(was, new.get("parameters", {}).get(parameter), f"{name} {{{parameter}}}")
        for message, held in channel["messages"].items():
            if message not in new["messages"]:
                yield f"{name}: the message {message} is gone"
                continue
            was, now = _found(pair.old, held), _found(pair.new, new["messages"][message])
            yield from _messages(pair, was, now, f"{name} {message}")
    yield from _operations(pair)


def _servers(pair: _Pair) -> Iterator[str]:
    for name, server in pair.old.get("servers", {}).items():
        now = pair.new.get("servers", {}).get(name, {})
        for part in ("protocol", "host"):
            if server[part] != now.get(part):
                yield f"the server {name}: its {part} is {now.get(part)} now, not {server[part]}"


def _place_in_address(old: JsonObject, new: JsonObject | None, place: str) -> Iterator[str]:
    if new is None:
        yield f"{place} is gone"
        return
    yield from _words(old, new, place)
    if "default" in old and old["default"] != new.get("default"):
        yield f"{place} is {new.get('default')} by default now, not {old['default']}"


def _messages(pair: _Pair, old: JsonObject, new: JsonObject, place: str) -> Iterator[str]:
    for part in ("headers", "payload"):
        yield from _schemas(pair, old[part], new.get(part, {}), f"{place} {part}")
    was, now = (
        one.get("contentType", whole.get("defaultContentType")) for one, whole in ((old, pair.old), (new, pair.new))
    )
    if was != now:
        yield f"{place}: it is {now} now, not {was}"
    yield from _bindings(pair, old, new, place)


def _operations(pair: _Pair) -> Iterator[str]:
    for name, operation in pair.old.get("operations", {}).items():
        new = pair.new.get("operations", {}).get(name)
        if new is None:
            yield f"the operation {name} is gone"
            continue
        for part in ("action", "channel"):
            if operation[part] != new[part]:
                yield f"{name}: its {part} is {new[part]} now, not {operation[part]}"
        yield from _bindings(pair, operation, new, name)


def _bindings(pair: _Pair, old: JsonObject, new: JsonObject, place: str) -> Iterator[str]:
    """Yield what breaks in how something is carried by Kafka or HTTP: a record's key, above all."""
    for protocol, binding in old.get("bindings", {}).items():
        now = new.get("bindings", {}).get(protocol, {})
        for part, value in binding.items():
            if part not in now:
                yield f"{place}: {protocol} says no {part} any more"
            elif isinstance(value, dict):
                yield from _schemas(pair, value, now[part], f"{place} {protocol} {part}")
            elif now[part] != value:
                yield f"{place}: its {part} of {protocol} is {now[part]} now, not {value}"


def _schemas(pair: _Pair, old: Any, new: Any, place: str) -> Iterator[str]:
    """Yield what breaks between two schemas."""
    if isinstance(old, dict) and isinstance(new, dict) and "$ref" in old and "$ref" in new:
        key = (old["$ref"], new["$ref"], pair.side)
        if key in pair.done:
            return
        pair.done.add(key)
    was, now = _found(pair.old, old), _found(pair.new, new)
    yield from _types(pair, was, now, place)
    yield from _rules(pair, was, now, place)
    yield from _words(was, now, place)
    yield from _objects(pair, was, now, place)
    for part in _INNER:
        if isinstance(was.get(part), dict):
            yield from _schemas(pair, was[part], now.get(part) or {}, f"{place}[]")
    for number, (one, other) in enumerate(zip(was.get("allOf", ()), now.get("allOf", ()), strict=False)):
        yield from _schemas(pair, one, other, f"{place}&{number}")
    if len(was.get("allOf", ())) > len(now.get("allOf", ())):
        yield f"{place}: a part of it is gone"


def _alternatives(document: JsonObject, schema: JsonObject) -> Mapping[str, Any]:
    """Return what a value may be: plain types by their name, others by the component's.

    Where two have one name, such as two kinds of objects, the later ones are told apart by their number.
    """
    found: dict[str, Any] = {}
    for one in schema.get("anyOf", (schema,)):
        target = _found(document, one)
        kinds = target.get("type", "anything")
        for kind in kinds if isinstance(kinds, list) else [kinds]:
            name = one["$ref"].rpartition("/")[2] if "$ref" in one and "anyOf" in schema else str(kind)
            same = sum(known.partition(" ")[0] == name for known in found)
            found[name if not same else f"{name} {same + 1}"] = one
    return found


def _types(pair: _Pair, old: JsonObject, new: JsonObject, place: str) -> Iterator[str]:
    was, now = _alternatives(pair.old, old), _alternatives(pair.new, new)
    for name in was.keys() - now.keys():
        yield f"{place}: it is never {name} any more"
    for name in now.keys() - was.keys():
        # A client may send what it sent before. A reader takes a new kind of thing as news, but not null or a number.
        if pair.side != "request" and "$ref" not in now[name]:
            yield f"{place}: it may be {name} now"
    if "anyOf" in old and "anyOf" in new:
        for name in was.keys() & now.keys():
            yield from _schemas(pair, was[name], now[name], place)


def _rules(pair: _Pair, old: JsonObject, new: JsonObject, place: str) -> Iterator[str]:
    for rule in _FIXED:
        if old.get(rule) != new.get(rule):
            yield f"{place}: {rule} is {new.get(rule)} now, not {old.get(rule)}"
    for rule, sign in [*((rule, 1) for rule in _LOWER), *((rule, -1) for rule in _UPPER)]:
        tighter = rule in new and (rule not in old or sign * new[rule] > sign * old[rule])
        looser = rule in old and (rule not in new or sign * new[rule] < sign * old[rule])
        # What is sent must keep within the new bound, and so must what was kept; who reads was promised the old one.
        if (tighter and pair.side != "answer") or (looser and pair.side != "request"):
            yield f"{place}: {rule} is {new.get(rule)} now, not {old.get(rule)}"
    if new.get("additionalProperties") is False and old.get("additionalProperties") is not False:
        yield f"{place}: no further fields are allowed now"


def _words(old: JsonObject, new: JsonObject, place: str) -> Iterator[str]:
    if "enum" in new:
        # Where every word was allowed before, a list of the allowed ones refuses all others.
        for word in [one for one in old.get("enum", ["anything"]) if one not in new["enum"]]:
            yield f"{place}: it is never {word} any more"
    elif "enum" in old:
        yield f"{place}: its words are not closed any more"


def _objects(pair: _Pair, old: JsonObject, new: JsonObject, place: str) -> Iterator[str]:
    was, now = old.get("properties", {}), new.get("properties", {})
    for name, schema in was.items():
        if name not in now:
            yield f"{place}.{name} is gone"
        else:
            yield from _schemas(pair, schema, now[name], f"{place}.{name}")
    required, required_now = set(old.get("required", ())), set(new.get("required", ()))
    if pair.side != "answer":
        for name in sorted(required_now - required):
            yield f"{place}.{name} is required now, and older ones may lack it"
    if pair.side != "request":
        for name in sorted((required - required_now) & now.keys()):
            yield f"{place}.{name} may be missing now"
