"""Why something is parked, in words: whoever looks at the page may not know what a reason is called."""

from collections.abc import Mapping
from typing import Final

WHY: Final[Mapping[str, str]] = {
    "collision": "another delivery has the same id",
    "data": "its data has another shape than this release reads",
    "empty": "its body is blank",
    "encoding": "its body is compressed",
    "many": "it is about several things at once",
    "no_data": "it has no data",
    "no_id": "it does not name the message, ticket, contact or campaign that it is about",
    "not_json": "its body is not JSON",
    "not_object": "its body is a list or a bare value",
    "not_utf8": "its body is not text in UTF-8",
    "number": "it holds a number that no program can hold",
    "other_tenant": "its tenantId is not the one that the configuration has for this URL",
    "record": "the record in Kafka has another shape than ours",
    "stray": "somebody else wrote this record into our topic",
    "too_deep": "its JSON is nested too deeply",
    "too_large": "it is too large to be kept in our form",
    "unknown_event": "it is an event of a type that this release does not know",
    "unstorable": "the database refused it",
}
"""Every reason that this release parks for."""


def why(reason: str) -> str:
    """Return the reason in words; nothing for one of another release."""
    return WHY.get(reason, "")
