"""How WhatSMS may write a webhook where its page leaves that open: dialects as data, and their bodies."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from whatsms_events.domain.events import EventType

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Dialect:
    """One reading of what the vendor's page leaves open; the defaults are the documented one.

    `sends_time`: `timestamp` is the time of the sending, so that a retry has another one. `rewrites`: a retry is
    serialised anew, so that its bytes differ. `zero_acks`: messages are shown with ack 0, the column's default.
    """

    flat: bool = False
    integer_ids: bool = False
    milliseconds: bool = True
    sends_time: bool = False
    rewrites: bool = False
    updated_at: bool = True
    zero_acks: bool = False

    def time(self, moment: datetime) -> str:
        """Return the moment as this dialect writes it: `toISOString()`, or whole seconds as on the vendor's page."""
        precision = "milliseconds" if self.milliseconds else "seconds"
        return moment.astimezone(UTC).isoformat(timespec=precision).removesuffix("+00:00") + "Z"


DIALECTS: Final[Mapping[str, Dialect]] = {
    "documented": Dialect(),
    "seconds": Dialect(milliseconds=False),
    "flat": Dialect(flat=True),
    "integers": Dialect(integer_ids=True),
    "send-time": Dialect(sends_time=True),
    "rewritten": Dialect(rewrites=True),
    "no-updated-at": Dialect(updated_at=False),
    "zero-acks": Dialect(zero_acks=True),
}
"""The dialects of the design; "flat" and "integers" are what the relatives of the vendor's product do."""

_RETRY_AFTER = timedelta(seconds=30)
_LONE = re.compile("[\ud800-\udfff]")


def write(value: object) -> bytes:
    """Return the JSON that Node's `JSON.stringify` writes: no blanks, UTF-8, half a surrogate pair as an escape."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        return _LONE.sub(lambda half: f"\\u{ord(half[0]):04x}", text).encode("utf-8")


def bodies(
    dialect: Dialect, event_type: EventType, tenant_id: str, data: Json, *, occurred: datetime, sent: datetime
) -> tuple[bytes, bytes | None]:
    """Return the body of a webhook, and the body of its retries where this dialect writes a retry differently."""
    shown = _flat(event_type, data) if dialect.flat else data
    if not dialect.updated_at:
        shown = _without_updated_at(shown)
    stamp = dialect.time(sent if dialect.sends_time else occurred)
    envelope = {"event": event_type.value, "tenantId": tenant_id, "timestamp": stamp, "data": shown}
    body = write(envelope)
    if dialect.sends_time:
        return body, write(envelope | {"timestamp": dialect.time(sent + _RETRY_AFTER)})
    if dialect.rewrites:
        return body, json.dumps(dict(reversed(envelope.items()))).encode("ascii")
    return body, None


def _flat(event_type: EventType, data: Json) -> Json:
    """Return `data` itself as the resource, with ids in place of what was beside or inside it."""
    resource = event_type.split(".")[0]
    flat = dict(data[resource])
    if event_type is EventType.MESSAGE_ACK:
        flat["messageId"] = flat.pop("id")
    for name in ("ticket", "contact", "user", "queue"):
        if name != resource and name in (beside := data | flat):
            flat.pop(name, None)
            flat[f"{name}Id"] = None if beside[name] is None else beside[name]["id"]
    return flat


def _without_updated_at(data: Json) -> Json:
    return {
        key: _without_updated_at(value) if isinstance(value, dict) else value
        for key, value in data.items()
        if key != "updatedAt"
    }
