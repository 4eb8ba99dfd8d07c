"""How the vendor's JSON object becomes one of our structs, for messages, tickets, contacts and campaigns.

The tables of `resources` say which field becomes which. Absent stays absent, null stays None. A field nobody knows, or
whose value cannot be used, is kept in the struct's `extra` under the vendor's name, but for secrets.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeAlias

from msgspec import UNSET, UnsetType

from whatsms_events.domain import resources, values
from whatsms_events.domain.bodies import JsonObject
from whatsms_events.domain.events import Campaign, Contact, Event, Extra, Message, Payload, Ref, Ticket
from whatsms_events.domain.resources import Field
from whatsms_events.domain.secrets import without_secrets
from whatsms_events.domain.values import Reader

Readers: TypeAlias = Mapping[str, tuple[str, Reader]]
"""By the vendor's name of a field: our name, and the function that reads the value."""


def readers(fields: Iterable[Field]) -> Readers:
    """Return how the fields are read, but for those that a rule of this module reads."""
    return {one.vendor: (one.name, one.read) for one in fields if one.vendor is not None and one.read is not None}


_MESSAGE: Final = readers(resources.MESSAGE)
_TICKET: Final = readers(resources.TICKET)
_CONTACT: Final = readers(resources.CONTACT)
_CAMPAIGN: Final = readers(resources.CAMPAIGN)
_REFS: Final = {name: f"{name}Id" for name in resources.GROUPS}
_REF: Final[Readers] = {"id": ("id", values.identifier), "name": ("name", values.text)}

ENVELOPE_TIME: Final = "timestamp"
TIMES: Final = frozenset(
    one.vendor
    for fields in resources.RESOURCES.values()
    for one in fields
    if one.vendor is not None and one.read is values.moment
)
"""The vendor's names of every time within a resource."""

_ENDING: Final = b'At"'
"""How each of these names ends in JSON; none of ours does."""


def read(source: JsonObject, by_vendor: Readers) -> tuple[dict[str, Any], Extra]:
    """Return our values by our names, and everything else by the vendor's."""
    found: dict[str, Any] = {}
    extra: Extra = {}
    for key, value in source.items():
        field = by_vendor.get(key)
        if field is not None:
            usable = field[1](value)
            if usable is not UNSET:
                found[field[0]] = usable
                continue
        extra[key] = value
    return found, without_secrets(extra) if extra else extra


def _fill(found: dict[str, Any], name: str, place: Extra, flat: str, reader: Reader = values.identifier) -> None:
    """Move the flat field out of `place` into `found` where nothing better is known."""
    if flat in place and found.get(name) is None:
        usable = reader(place[flat])
        if usable is not UNSET and (usable is not None or name not in found):
            found[name] = usable
            del place[flat]


def _take_ref(extra: Extra, name: str, flat_name: str) -> Ref | None | UnsetType:
    """Take an agent or a queue out of `extra`: the object, and the flat id (`userId`) where that has none.

    `Ref` has no `extra` of its own: what else stood in the object stays in the owner's, under the same name.
    """
    flat = values.identifier(extra.get(flat_name, UNSET))
    whole = extra.get(name, UNSET)
    found, rest = read(whole, _REF) if type(whole) is dict else ({}, {})
    if found:
        if rest:
            extra[name] = rest
        else:
            del extra[name]
    elif whole is None:
        del extra[name]
    if flat is not UNSET and (found.get("id") is None or found["id"] == flat):
        del extra[flat_name]
        if flat is not None:
            found["id"] = flat
    if found:
        return Ref(**found)
    return None if whole is None or flat is None else UNSET


def read_message(source: JsonObject, beside: Extra) -> Message:
    """Return the message in `source`; flat names found in `beside` fill what it lacks and are removed there."""
    found, extra = read(source, _MESSAGE)
    if extra:
        _fill(found, "id", extra, "messageId")
    if beside:
        _fill(found, "id", beside, "messageId")
        _fill(found, "ticket_id", beside, "ticketId")
        _fill(found, "contact_id", beside, "contactId")
        _fill(found, "ack", beside, "ack", values.ack)
    return Message(**found, extra=extra)


def read_ticket(source: JsonObject, beside: Extra) -> Ticket:
    """Return the ticket in `source`; flat names found in `beside` fill what it lacks and are removed there."""
    found, extra = read(source, _TICKET)
    if found.get("contact") is not None:
        found["contact"] = read_contact(found["contact"], {})
    if extra:
        _fill(found, "id", extra, "ticketId")
        for name, flat in _REFS.items():
            if name in extra or flat in extra:
                ref = _take_ref(extra, name, flat)
                if ref is not UNSET:
                    found[name] = ref
    if beside:
        _fill(found, "id", beside, "ticketId")
        _fill(found, "contact_id", beside, "contactId")
    return Ticket(**found, extra=extra)


def read_contact(source: JsonObject, beside: Extra) -> Contact:
    """Return the contact in `source`; `contactId` in `source` or `beside` is its id where it names none itself."""
    found, extra = read(source, _CONTACT)
    if extra:
        _fill(found, "id", extra, "contactId")
    if beside:
        _fill(found, "id", beside, "contactId")
    return Contact(**found, extra=extra)


def read_campaign(source: JsonObject, beside: Extra) -> Campaign:
    """Return the campaign in `source`; `campaignId` in `source` or `beside` is its id where it names none itself."""
    found, extra = read(source, _CAMPAIGN)
    if extra:
        _fill(found, "id", extra, "campaignId")
    if beside:
        _fill(found, "id", beside, "campaignId")
    return Campaign(**found, extra=extra)


def may_be_unreadable(event: Event) -> bool:
    """Tell whether a time of the event may be unreadable, by its bytes: nearly never, and told without reading them."""
    return event.occurred_at is None or _ENDING in event.data


def unreadable(event: Event, payload: Payload) -> list[str]:
    """Return the name of each time of the event that could not be read, once for each place where it stood.

    What cannot be read stays where unknown fields are kept, under the vendor's name.
    """
    if not may_be_unreadable(event):
        return []
    found = [name for extra in _extras(payload) if extra for name in sorted(TIMES & extra.keys())]
    if event.occurred_at is not None:
        return found
    # Where `data` has a field of that name too, the envelope's stands under a prefix.
    kept = ENVELOPE_TIME in payload.extra or f"envelope.{ENVELOPE_TIME}" in payload.extra
    return [ENVELOPE_TIME, *found] if kept else found


def _extras(payload: Payload) -> Iterator[Mapping[str, Any]]:
    """Yield what is unknown of each resource in the payload."""
    for name in payload.__struct_fields__:
        resource = getattr(payload, name)
        if isinstance(resource, (Message, Ticket, Contact, Campaign)):
            yield resource.extra
            if isinstance(resource, Ticket) and isinstance(resource.contact, Contact):
                yield resource.contact.extra
