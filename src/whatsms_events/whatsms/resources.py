"""How the client reads an answer of the REST API: one resource, or a list of them.

Tickets, messages, contacts and campaigns are the structs of `domain.events`, read by `domain.fields`; `Agent` is here.

What the vendor's page leaves open is tolerated: ids may be integers, fields may be missing or null, unknown ones are
kept in `extra`. Only what names nothing at all is refused.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from msgspec import UNSET, Struct, UnsetType

from whatsms_events.domain import values
from whatsms_events.domain.bodies import JsonObject
from whatsms_events.domain.events import Campaign, Contact, Extra, Flag, Message, Text, Ticket, Time
from whatsms_events.domain.fields import read, readers
from whatsms_events.domain.resources import Field
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
Read = Callable[[JsonObject, Extra], R]


@dataclass(frozen=True, slots=True)
class Observed(Generic[T]):
    """What the vendor showed, and as of when: its clock, less the time that the request took."""

    value: T
    as_of: datetime


def single(key: str, read: Read[R]) -> Callable[[JsonObject], R]:
    """Return what reads `{"<key>": {...}}`, or the object itself where the wrapping is missing.

    It raises InvalidEventError for anything without a usable id.
    """

    def read_answer(source: JsonObject) -> R:
        found = source.get(key, source)
        resource = read(found, {}) if type(found) is dict else None
        if resource is None or not _names_something(resource):
            raise InvalidEventError(f"no_{key}")
        return resource

    return read_answer


def listing(key: str, read: Read[R]) -> Callable[[JsonObject], Listing[R]]:
    """Return what reads `{"<key>": [...], "count": ..., "hasMore": ...}`; items without a usable id are counted only.

    A list that is null counts as empty: the languages of some servers do not tell the two apart. It raises
    InvalidEventError where the list is missing: a proxy's or an error's JSON must not pass for an empty list.
    """

    def read_answer(source: JsonObject) -> Listing[R]:
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


_AGENT = readers((
    Field("id", "id", values.identifier),
    Field("name", "name", values.text),
    Field("model", "model", values.text),
    Field("isActive", "is_active", values.flag),
    Field("enabledIntegrations", "enabled_integrations", values.items),
    Field("handoffEnabled", "handoff_enabled", values.flag),
    Field("createdAt", "created_at", values.moment),
))  # fmt: skip


def read_agent(source: JsonObject, _beside: Extra) -> Agent:
    """Return the AI agent in `source`."""
    found, extra = read(source, _AGENT)
    return Agent(**found, extra=extra)
