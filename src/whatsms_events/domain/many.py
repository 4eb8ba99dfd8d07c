"""Whether a delivery is about several things at once, by the lists that it carries.

Vendors of this kind send one ack with a list of ids when a whole chat was read. Such a delivery is parked whole:
to apply one of the list and leave the rest would be worse, and an event of ours names one thing.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from whatsms_events.domain.events import Entity, Extra
from whatsms_events.domain.values import shorten

_PLURAL: Final[Mapping[Entity, tuple[str, ...]]] = {
    "message": ("messages", "messageIds", "message_ids", "ids", "acks"),
    "ticket": ("tickets", "ticketIds", "ticket_ids", "ids"),
    "contact": ("contacts", "contactIds", "contact_ids", "ids"),
    "campaign": ("campaigns", "campaignIds", "campaign_ids", "ids"),
}
_SINGULAR: Final[Mapping[Entity, tuple[str, ...]]] = {name: (name, f"{name}Id", "id") for name in _PLURAL}
_NAMES: Final = {name: frozenset((*_PLURAL[name], *_SINGULAR[name])) for name in _PLURAL}


def listed(entity: Entity, subject: str | None, places: tuple[Extra, ...]) -> str | None:
    """Return the name of a list that names others of the entity than `subject`, and how many it has; None for none.

    `places` hold what was not read: beside the resource, and within it. Where the event names no subject, any list
    with items counts as several things, and so does an object whose names are ids.
    """
    names = _NAMES[entity]
    for place in places:
        if names.isdisjoint(place):  # so nearly always, and told without making a set
            continue
        for name in names & place.keys():
            found = place[name]
            by_id = subject is None and type(found) is dict and name in _PLURAL[entity]
            if not found or (type(found) is not list and not by_id):
                continue
            if subject is None or any(one != subject for one in _ids(entity, found)):
                return f"{name}: {len(found)}"
    return None


def _ids(entity: Entity, found: list[Any]) -> Iterator[str]:
    for item in found:
        one = item.get("id", item.get(f"{entity}Id")) if type(item) is dict else item
        if type(one) is str or type(one) is int:
            yield shorten(str(one))
