"""The vendor's JSON objects in, our structs out: one table per resource says which field becomes which.

Absent stays absent, null stays None. A field nobody knows, or whose value cannot be used (wrong type, unreadable time,
integer beyond 64 bit, empty id), is kept in the struct's `extra` under the vendor's name, but for secrets.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from msgspec import UNSET, UnsetType

from whatsms_events.domain import acks
from whatsms_events.domain.bodies import Source
from whatsms_events.domain.events import Campaign, Contact, Extra, Message, Ref, Ticket
from whatsms_events.domain.secrets import without_secrets
from whatsms_events.domain.times import read_time

SHORT_LIMIT_BYTES: Final = 256
"""Far above every id and enum word seen (uuids, up to 36), and three of them fit into one index row: PostgreSQL refuses
rows over 2,704 bytes there."""

_HASH_CHARS: Final = 64
_INT64_LIMIT: Final = 1 << 63
_DIGITS: Final = re.compile(r"-?[0-9]{1,19}")


def shorten(text: str) -> str:
    """Return `text`, or a prefix, "~" and its SHA-256 where it is over 256 bytes: distinct, and fit for an index."""
    if len(text) <= SHORT_LIMIT_BYTES // 4:  # no character is longer than four bytes
        return text
    encoded = text.encode("utf-8")
    if len(encoded) <= SHORT_LIMIT_BYTES:
        return text
    prefix = encoded[: SHORT_LIMIT_BYTES - 1 - _HASH_CHARS].decode("utf-8", "ignore")
    return f"{prefix}~{hashlib.sha256(encoded).hexdigest()}"


# Each reader returns the value for our field, or UNSET where the vendor's value cannot be used.


def _text(value: Any) -> str | None | UnsetType:
    return value if value is None or type(value) is str else UNSET


def _word(value: Any) -> str | None | UnsetType:
    """Read a word of an open set: a status, a channel, a media type."""
    return shorten(value) if type(value) is str else _text(value)


def _opaque(value: Any) -> str | None | UnsetType:
    """Read an id or a contact's number: text for us, an integer in some of the vendor's relatives."""
    return shorten(str(value)) if type(value) is int else _word(value)


def _id(value: Any) -> str | None | UnsetType:
    """Read an id, which names nothing where it is empty."""
    if type(value) is str:
        return shorten(value) if value else UNSET
    return _opaque(value)


def _flag(value: Any) -> bool | None | UnsetType:
    return value if value is None or type(value) is bool else UNSET


def _count(value: Any) -> int | None | UnsetType:
    """Read a count, also from text ("148"): big integers of a database come so."""
    if type(value) is str and _DIGITS.fullmatch(value):
        value = int(value)
    if type(value) is int:
        return value if -_INT64_LIMIT <= value < _INT64_LIMIT else UNSET
    return None if value is None else UNSET


def _ack(value: Any) -> int | None | UnsetType:
    """Read a raw ack, also from text ("3")."""
    if value is None:
        return None
    ack = acks.parse(value)
    return UNSET if ack is None else _count(ack)


def _time(value: Any) -> datetime | None | UnsetType:
    return None if value is None else (read_time(value) or UNSET)


def _list(value: Any) -> list[Any] | None | UnsetType:
    return value if value is None or type(value) is list else UNSET


def _nested_contact(value: Any) -> Contact | None | UnsetType:
    if type(value) is dict:
        return read_contact(value, {})
    return None if value is None else UNSET


_Fields = Mapping[str, tuple[str, Callable[[Any], Any]]]

_TIMES: Final[_Fields] = {"createdAt": ("created_at", _time), "updatedAt": ("updated_at", _time)}

_REF: Final[_Fields] = {"id": ("id", _id), "name": ("name", _text)}

_MESSAGE: Final[_Fields] = {
    "id": ("id", _id),
    "body": ("body", _text),
    "fromMe": ("from_me", _flag),
    "mediaType": ("media_type", _word),
    "mediaUrl": ("media_url", _text),
    "quotedMsgId": ("quoted_message_id", _id),
    "ack": ("ack", _ack),
    "isDeleted": ("deleted", _flag),
    "ticketId": ("ticket_id", _id),
    "contactId": ("contact_id", _id),
    **_TIMES,
}

_TICKET: Final[_Fields] = {
    "id": ("id", _id),
    "status": ("status", _word),
    "channel": ("channel", _word),
    "contact": ("contact", _nested_contact),
    "contactId": ("contact_id", _id),
    "aiAgentId": ("ai_agent_id", _id),
    "lastMessage": ("last_message", _text),
    **_TIMES,
}

_CONTACT: Final[_Fields] = {
    "id": ("id", _id),
    "name": ("name", _text),
    "number": ("number", _opaque),
    "email": ("email", _text),
    "profilePicUrl": ("profile_pic_url", _text),
    "isGroup": ("is_group", _flag),
    "extraInfo": ("extra_info", _list),
    **_TIMES,
}

_CAMPAIGN: Final[_Fields] = {
    "id": ("id", _id),
    "name": ("name", _text),
    "status": ("status", _word),
    "message": ("message", _text),
    "scheduledAt": ("scheduled_at", _time),
    "sentCount": ("sent_count", _count),
    "failedCount": ("failed_count", _count),
    **_TIMES,
}


def _read(source: Source, fields: _Fields) -> tuple[dict[str, Any], Extra]:
    """Return our values by our names, and everything else by the vendor's."""
    values: dict[str, Any] = {}
    extra: Extra = {}
    for key, value in source.items():
        field = fields.get(key)
        if field is not None:
            usable = field[1](value)
            if usable is not UNSET:
                values[field[0]] = usable
                continue
        extra[key] = value
    return values, without_secrets(extra) if extra else extra


def _fill(values: dict[str, Any], name: str, place: Extra, flat: str, read: Callable[[Any], Any] = _id) -> None:
    """Move the flat field out of `place` into `values` where nothing better is known."""
    if flat in place and values.get(name) is None:
        usable = read(place[flat])
        if usable is not UNSET and (usable is not None or name not in values):
            values[name] = usable
            del place[flat]


def _take_ref(extra: Extra, name: str) -> Ref | None | UnsetType:
    """Take an agent or a queue out of `extra`: the object, and the flat id (`userId`) where that has none.

    `Ref` has no `extra` of its own: what else stood in the object stays in the owner's, under the same name.
    """
    flat_name = name + "Id"
    flat = _id(extra.get(flat_name, UNSET))
    whole = extra.get(name, UNSET)
    values, rest = _read(whole, _REF) if type(whole) is dict else ({}, {})
    if values:
        if rest:
            extra[name] = rest
        else:
            del extra[name]
    elif whole is None:
        del extra[name]
    if flat is not UNSET and (values.get("id") is None or values["id"] == flat):
        del extra[flat_name]
        if flat is not None:
            values["id"] = flat
    if values:
        return Ref(**values)
    return None if whole is None or flat is None else UNSET


def read_message(source: Source, beside: Extra) -> Message:
    """Return the message in `source`; flat names found in `beside` fill what it lacks and are removed there."""
    values, extra = _read(source, _MESSAGE)
    if extra:
        _fill(values, "id", extra, "messageId")
    if beside:
        _fill(values, "id", beside, "messageId")
        _fill(values, "ticket_id", beside, "ticketId")
        _fill(values, "contact_id", beside, "contactId")
        _fill(values, "ack", beside, "ack", _ack)
    return Message(**values, extra=extra)


def read_ticket(source: Source, beside: Extra) -> Ticket:
    """Return the ticket in `source`; flat names found in `beside` fill what it lacks and are removed there."""
    values, extra = _read(source, _TICKET)
    if extra:
        _fill(values, "id", extra, "ticketId")
        for name in ("user", "queue"):
            ref = _take_ref(extra, name)
            if ref is not UNSET:
                values[name] = ref
    if beside:
        _fill(values, "id", beside, "ticketId")
        _fill(values, "contact_id", beside, "contactId")
    return Ticket(**values, extra=extra)


def read_contact(source: Source, beside: Extra) -> Contact:
    """Return the contact in `source`; `contactId` in `source` or `beside` is its id where it names none itself."""
    values, extra = _read(source, _CONTACT)
    if extra:
        _fill(values, "id", extra, "contactId")
    if beside:
        _fill(values, "id", beside, "contactId")
    return Contact(**values, extra=extra)


def read_campaign(source: Source, beside: Extra) -> Campaign:
    """Return the campaign in `source`; `campaignId` in `source` or `beside` is its id where it names none itself."""
    values, extra = _read(source, _CAMPAIGN)
    if extra:
        _fill(values, "id", extra, "campaignId")
    if beside:
        _fill(values, "id", beside, "campaignId")
    return Campaign(**values, extra=extra)
