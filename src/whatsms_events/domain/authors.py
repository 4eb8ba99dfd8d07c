"""Whose a message is where no known field tells: unknown fields may name its author, or whom it was written to."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from whatsms_events.domain.events import Contact, EventType, MessagePayload
from whatsms_events.domain.forms import whole_json
from whatsms_events.domain.marks import Find, is_number_of_group
from whatsms_events.domain.named import latest, named_in, plain_name

_AUTHORS: Final = frozenset(("participant", "author", "sender"))
"""What the channels call who wrote a message in a group: "participant", "author_id"."""

_CHAT: Final = frozenset(("remotejid", "chat"))
_FROM: Final = frozenset((*_CHAT, "from"))
_TO: Final = frozenset((*_CHAT, "to", "recipient"))
"""And with whom it was exchanged; at the other end is the business. Ids of channels stand here too, so a short id names
nobody."""

SPELLINGS: Final = ('"participant', '"author', '"sender', '"from"', '"to"', '"remote', '"chat', '"recipient')
"""How these begin in JSON, in small letters; they stand under "extra" alone."""


def authored_at(kind: EventType, payload: MessagePayload, find: Find) -> int | None:
    """Return when the person was forgotten whose message this is by unknown fields, where no known one tells.

    In the chat of one person, whoever is named so, the message is that person's; in a group it is the author's. An ack
    names who has read, and not who wrote.
    """
    message = payload.message
    if kind is EventType.MESSAGE_ACK or isinstance(message.contact_id, str):
        return None
    if any(one.is_group is not True and not is_number_of_group(one.number) for one in contacts_shown(payload)):
        return None
    ours = message.from_me if isinstance(message.from_me, bool) else kind is EventType.MESSAGE_SENT
    # Of what the business wrote the participant is the business.
    authors = () if ours else _told(message.extra, _AUTHORS)
    return latest(
        *(named_in(one, find, name="contact") for one in authors),
        *(named_in(one, find) for one in _told(message.extra, _TO if ours else _FROM)),
    )


def contacts_shown(payload: Any) -> list[Contact]:
    """Return the contacts that an event shows, in their places."""
    ticket = getattr(payload, "ticket", None)
    places = (getattr(payload, "contact", None), getattr(ticket, "contact", None))
    return [one for one in places if isinstance(one, Contact)]


def _told(extra: Mapping[str, Any], names: frozenset[str]) -> Iterator[Any]:
    """Yield the values under these names, also in the channel's own record, under `key`."""
    for name, one in extra.items():
        plain = plain_name("", name)
        if plain in names or plain.removesuffix("id") in names:
            yield one
            continue
        inside = whole_json(one) if isinstance(one, str) and one[:1] == "{" else one
        key = inside if plain == "key" else inside.get("key") if isinstance(inside, dict) else None
        if isinstance(key, dict):
            yield from _told(key, names)
