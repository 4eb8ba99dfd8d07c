"""What the numbers of an ack mean: the level that a message reached, or that sending failed."""

import re
from typing import Final

LEVELS: Final = {1: "pending", 2: "sent", 3: "delivered", 4: "read", 5: "played"}
"""Baileys' `WebMessageInfo.Status`, the only numbering with a 5 and a first value of 1; the vendor's page names none of
them ("ack 1-5") and shows 1 for a message just sent."""

DELIVERED: Final = 3
"""From this level on a later failure is not believed: the contact has the message."""

_TEXT = re.compile(r"-?[0-9]{1,9}")


def parse(value: object) -> int | None:
    """Return the raw ack as an integer, also from text such as "3"; None for anything else."""
    match value:
        case bool():
            return None
        case int():
            return value
        case str() if _TEXT.fullmatch(value):
            return int(value)
        case _:
            return None


def failed(ack: int) -> bool:
    """Tell whether the raw value means that sending failed: 0 in Baileys, -1 and below in its relatives."""
    return ack <= 0
