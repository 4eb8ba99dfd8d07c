"""What the vendor's answers said about an item, as it is kept until the item is compared."""

from datetime import datetime
from typing import Final

import msgspec
from msgspec import UNSET, Struct
from msgspec.structs import replace

from whatsms_events.domain import drift
from whatsms_events.domain.differences import LISTED_ONLY
from whatsms_events.domain.events import SHAPES, Entity, Payload, TicketPayload, encode
from whatsms_events.storage.repair.runs import Item


class Shown(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was shown of an item: the payload's JSON, and beside it what only lists show, with a time of its own.

    `gone`: the vendor answered that there is no such thing.
    """

    payload: bytes
    listed: bytes = b""
    listed_as_of: datetime | None = None
    listed_log_end: int = 0
    gone: bool = False


_decoder: Final = msgspec.msgpack.Decoder(Shown)
_encoder: Final = msgspec.msgpack.Encoder()
_payloads: Final = {entity: msgspec.json.Decoder(shape) for entity, shape in SHAPES.items()}


def unpack(item: Item) -> Shown:
    """Return what was shown of an item that is to be compared."""
    return _decoder.decode(item.payload or b"")


def listed(entity: Entity, payload: Payload, as_of: datetime, log_end: int) -> bytes:
    """Return `Item.payload` of what a page showed: what only lists show stands by itself."""
    shown = getattr(payload, entity)
    names = [name for name in LISTED_ONLY.get(entity, ()) if getattr(shown, name) is not UNSET]
    rest = replace(payload, **{entity: replace(shown, **dict.fromkeys(names, UNSET))})
    alone = type(shown)(id=shown.id, **{name: getattr(shown, name) for name in names})
    beside = encode(type(payload)(**{entity: alone})) if names else b""
    return _encoder.encode(Shown(payload=encode(rest), listed=beside, listed_as_of=as_of, listed_log_end=log_end))


def detailed(item: Item, payload: Payload) -> bytes:
    """Return `Item.payload` of what an answer about the item alone showed, beside what its list showed before."""
    before = unpack(item) if item.payload else Shown(payload=b"")
    return _encoder.encode(replace(before, payload=encode(payload), gone=False))


def absent(item: Item, as_of: datetime, log_end: int, *, merged_into: str | None = None) -> bytes:
    """Return `Item.payload` of an item that is not there."""
    sighting = drift.absence(item.entity, item.id, as_of=as_of, log_end=log_end, merged_into=merged_into)
    return _encoder.encode(Shown(payload=encode(sighting.payload), gone=True))


def shown_payload(entity: Entity, shown: Shown, *, with_listed: bool = False) -> Payload:
    """Return the payload that was shown; if `with_listed`, fields that it lacks are taken from the list."""
    payload = _payloads[entity].decode(shown.payload)
    if not with_listed or not shown.listed:
        return payload
    seen, beside = (getattr(one, entity) for one in (payload, _payloads[entity].decode(shown.listed)))
    lacking = [name for name in LISTED_ONLY[entity] if getattr(seen, name) is UNSET]
    return replace(payload, **{entity: replace(seen, **{name: getattr(beside, name) for name in lacking})})


def last_shown(item: Item) -> str | None:
    """Return the last message that a list showed of a ticket, None where no list did or there is none."""
    beside = unpack(item).listed
    payload = _payloads[item.entity].decode(beside) if beside else None
    last = payload.ticket.last_message if isinstance(payload, TicketPayload) else None
    return last if isinstance(last, str) else None
