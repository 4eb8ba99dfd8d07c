"""The vendor's JSON objects in, resources out: the structs of `domain.events`, read by `domain.fields`, and `Agent`.

What the vendor's page leaves open is tolerated: ids may be integers, fields may be missing or null, unknown ones are
kept in `extra`. Only what names nothing at all is refused.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from msgspec import UNSET, Struct, UnsetType

from whatsms_events.domain.bodies import Source
from whatsms_events.domain.events import Campaign, Contact, Extra, Flag, Message, Text, Ticket, Time
from whatsms_events.domain.times import read_time
from whatsms_events.errors import InvalidEventError
from whatsms_events.whatsms.pages import Listing

T = TypeVar("T")


class Agent(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An AI agent that can answer tickets by itself. `model` names the language model."""

    id: Text = UNSET
    name: Text = UNSET
    model: Text = UNSET
    is_active: Flag = UNSET
    enabled_integrations: list[Any] | None | UnsetType = UNSET
    handoff_enabled: Flag = UNSET
    created_at: Time = UNSET
    extra: Extra = {}


R = TypeVar("R", Ticket, Message, Contact, Campaign, Agent)
Read = Callable[[Source, Extra], R]


@dataclass(frozen=True, slots=True)
class Observed(Generic[T]):
    """What the vendor showed, and as of when: its clock, less the time that the request took."""

    value: T
    as_of: datetime


def single(key: str, read: Read[R]) -> Callable[[Source], R]:
    """Return what reads `{"<key>": {...}}`, or the object itself where the wrapping is missing.

    It raises InvalidEventError for anything without a usable id.
    """

    def read_answer(source: Source) -> R:
        found = source.get(key, source)
        resource = read(found, {}) if type(found) is dict else None
        if resource is None or not _names_something(resource):
            raise InvalidEventError(f"no_{key}")
        return resource

    return read_answer


def listing(key: str, read: Read[R]) -> Callable[[Source], Listing[R]]:
    """Return what reads `{"<key>": [...], "count": ..., "hasMore": ...}`; items without a usable id are counted only.

    A list that is null is empty: so it comes from servers whose language has one word for both. It raises
    InvalidEventError where the list is missing: a proxy's or an error's JSON must not pass for an empty list.
    """

    def read_answer(source: Source) -> Listing[R]:
        found = source.get(key)
        if found is None and key in source and not source.get("error"):
            found = []
        if type(found) is not list:
            raise InvalidEventError(f"no_{key}")
        items: list[R] = []
        names: list[str] = []
        for item in found:
            resource = read(item, {}) if type(item) is dict else None
            if resource is not None and _names_something(resource):
                items.append(resource)
                names.append(str(resource.id))
            else:
                names.append(repr(item))
        count, has_more = source.get("count"), source.get("hasMore")
        return Listing(
            items=items,
            unusable=len(found) - len(items),
            count=count if type(count) is int and count >= 0 else None,
            has_more=has_more if type(has_more) is bool else None,
            names=tuple(names),
        )

    return read_answer


def _names_something(resource: Ticket | Message | Contact | Campaign | Agent) -> bool:
    return isinstance(resource.id, str) and bool(resource.id)


def read_agent(source: Source, _beside: Extra) -> Agent:
    """Return the AI agent in `source`."""
    extra = dict(source)
    values: dict[str, Any] = {}
    for key, (name, usable) in _AGENT.items():
        if key in source and (source[key] is None or usable(source[key])):
            values[name] = extra.pop(key)
    if type(values.get("id")) is int:
        values["id"] = str(values["id"])
    if "created_at" in values and values["created_at"] is not None:
        values["created_at"] = read_time(values["created_at"])
    return Agent(**values, extra=extra)


def _is(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: type(value) in kinds


_AGENT = {
    "id": ("id", _is(str, int)),
    "name": ("name", _is(str)),
    "model": ("model", _is(str)),
    "isActive": ("is_active", _is(bool)),
    "enabledIntegrations": ("enabled_integrations", _is(list)),
    "handoffEnabled": ("handoff_enabled", _is(bool)),
    "createdAt": ("created_at", lambda value: read_time(value) is not None),
}
