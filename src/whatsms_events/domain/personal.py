"""Which stored values are about a person, and what stays of an event or a row without them.

The tables of `resources` say it of each field (`personal`); everything else follows here, for all who blank, hide,
export or count. Unknown fields (`extra`) count as personal: nobody knows what the vendor puts there. Ids are not
personal by this rule. They tie an event to its thing, and without them nobody could find what is to be erased.

One rule for what is blanked: a personal value becomes null, unknown fields go, and what was absent stays absent. So
the fold makes of blanked events the very rows that blanking makes of the rows.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import msgspec
from msgspec import UNSET

from whatsms_events.domain import fold, values
from whatsms_events.domain.events import (
    Campaign,
    Contact,
    Entity,
    Event,
    EventType,
    Extra,
    Message,
    Payload,
    Ticket,
    decode,
    decode_as,
    encode,
)
from whatsms_events.domain.resources import RESOURCES
from whatsms_events.domain.rows import Key, Row, Table, Value, Version

Content = Ticket | Message | Contact | Campaign | Payload
"""What may hold personal values: a resource, or a payload with its nested ones."""

_Told = TypeVar("_Told", bound=Content)

EXTRA: Final = "extra"
"""The field of every struct that holds what nobody knows."""

HIDDEN: Final = "hidden"
"""What is shown in the place of a personal value to those who may not see it."""

PERSONAL: Final[Mapping[str, frozenset[str]]] = {
    entity: frozenset(one.name for one in fields if one.personal) for entity, fields in RESOURCES.items()
}
"""The fields of each resource that name, quote or show a contact; beside them always `extra`."""

UNSHOWN: Final[Mapping[str, frozenset[str]]] = {**PERSONAL, "campaign": PERSONAL["campaign"] | {"message"}}
"""The fields that are shown to nobody without the scope `personal`: beside the personal ones the text of a campaign. It
is the business's own and about nobody, so nothing blanks it; but texts are not for everybody who may read."""

COLUMNS: Final[Mapping[Table, frozenset[str]]] = {
    **{
        entity: frozenset(one.name for one in fields if one.personal and one.stored)
        for entity, fields in RESOURCES.items()
    },
    "message_revision": frozenset(("content", "media_url")),
}
"""The columns of the projection that hold a personal value. Of `content` only the wording is one.

`user_named` and `queue_named` are agents and queues of the tenant: they work there, and are nobody's contact."""

BYTES: Final[Mapping[str, frozenset[str]]] = {
    "event_log": frozenset(("raw", "data")),
    "parked_delivery": frozenset(("raw",)),
    "parked_event": frozenset(("raw", "headers")),
    "backfill_item": frozenset(("payload", "raw", "found")),
}
"""The columns of the other tables that may hold personal values. A drift has the names of fields, and no value."""

_NAMES: Final[Mapping[type[Content], Entity]] = {
    Ticket: "ticket",
    Message: "message",
    Contact: "contact",
    Campaign: "campaign",
}
_LISTS: Final = frozenset(one.name for fields in RESOURCES.values() for one in fields if one.read is values.items)

_WORDING: Final = PERSONAL["message"] | COLUMNS["message_revision"]  # a revision in a row, and one in an answer

_json: Final = msgspec.json.Decoder()
_encoder: Final = msgspec.json.Encoder()

Retold = Callable[[str, Any], Any]
"""What becomes of the value of a personal field, or of `extra`, by the field's name."""


def blanked(told: _Told) -> _Told:
    """Return a payload or a resource without its personal values, also in what is nested in it."""
    return _changed(told, _blank, PERSONAL)


def blanked_data(event: Event) -> bytes:
    """Return an event's data without personal values; raise InvalidEventError where it cannot be read."""
    return encode(blanked(decode(event)))


def hidden_data(event_type: EventType, data: bytes | str) -> bytes:
    """Return the data of an event of this type with "hidden" for each personal value; raise as `blanked_data` does."""
    return encode(_changed(decode_as(event_type, data), _hide, UNSHOWN))


def hidden(entity: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with "hidden" for each personal value, and for those of a message's `revisions`; null stays null.

    `row` is a row of the projection or of the read API, `entity` one of its tables. A list becomes ["hidden"].
    """
    names = _WORDING if entity == "message_revision" else UNSHOWN.get(entity, frozenset())
    shown = {name: _hide(name, value) if name in names else value for name, value in row.items()}
    if entity == "message" and isinstance(shown.get("revisions"), list):
        shown["revisions"] = [hidden("message_revision", one) for one in shown["revisions"]]
    return shown


def personal_values(told: Content) -> list[Any]:
    """Return every personal value of a payload or a resource, also of what is nested in it: texts, lists, `extra`."""
    found: list[Any] = []

    def keep(_name: str, value: Any) -> Any:
        if value:
            found.append(value)
        return value

    _changed(told, keep, PERSONAL)
    return found


def blanked_row(key: Key, row: Row) -> tuple[Key, Row]:
    """Return a row of the projection without its personal values, and its key: a revision's is made of its wording.

    The registers keep who wrote them last, but no longer remember the digests of other values, and are not in doubt:
    all values that anybody claimed of them are null now.
    """
    if key.table == "message_revision":
        content, digest = fold.revision_of(_wordless(str(row.values["content"])))
        emptied: dict[str, Value] = {"content": content, "media_url": None}
        key = Key(key.table, key.tenant, key.id, digest)
    else:
        emptied = dict.fromkeys(COLUMNS[key.table])
    versions = {
        name: Version(one.time, one.rank, one.position) if name in emptied else one
        for name, one in row.versions.items()
    }
    return key, Row(known=row.known, values={**row.values, **emptied}, versions=versions)


def _wordless(content: str) -> dict[str, Any]:
    return {
        name: _blank(name, one) if name in PERSONAL["message"] else one for name, one in _json.decode(content).items()
    }


def _changed(told: _Told, change: Retold, names: Mapping[str, frozenset[str]]) -> _Told:
    """Return the struct with the values that the change gives to fields of these names; so also in nested resources."""
    entity = _NAMES.get(type(told))  # type: ignore[arg-type]
    chosen = names[entity] if entity is not None else frozenset()
    fields: dict[str, Any] = {}
    for name in told.__struct_fields__:
        value = getattr(told, name)
        if type(value) in _NAMES:
            fields[name] = _changed(value, change, names)
        elif name == EXTRA or (name in chosen and value is not None and value is not UNSET):
            fields[name] = change(name, value)
    return msgspec.structs.replace(told, **fields)


def _blank(name: str, _value: Any) -> Extra | None:
    return {} if name == EXTRA else None


def _hide(name: str, value: Any) -> Any:
    if name == EXTRA:
        return {HIDDEN: True} if value else {}
    if value is None:
        return None
    return [HIDDEN] if name in _LISTS else HIDDEN


def texts_in(value: Any) -> list[str]:
    """Return every text of a JSON value."""
    match value:
        case str():
            return [value]
        case dict():
            return [text for one in value.values() for text in texts_in(one)]
        case list():
            return [text for one in value for text in texts_in(one)]
        case _:
            return []


def spellings(value: str) -> set[bytes]:
    """Return a text as JSON spells it: as it is, and with escapes alone, as many a vendor's library does."""
    plain = _encoder.encode(value)[1:-1]
    return {plain, "".join(one if one.isascii() else _escape(one) for one in plain.decode()).encode()}


def _escape(letter: str) -> str:
    units = letter.encode("utf-16-be")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
