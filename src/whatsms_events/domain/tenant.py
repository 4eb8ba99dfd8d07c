"""Whether two spellings of a tenant's id name the same account.

The vendor's ids are UUIDs (RFC 9562), which are values and not texts: capitals, braces, hyphens and blanks around them
say nothing. An id that is no UUID is a text, and only the same text is the same id.
"""

import re
from typing import Final

_UUID: Final = re.compile(
    r"\s*(?:urn:uuid:)?(?P<brace>\{)?"
    r"([0-9a-f]{8})(?P<dash>-?)([0-9a-f]{4})(?P=dash)([0-9a-f]{4})(?P=dash)([0-9a-f]{4})(?P=dash)([0-9a-f]{12})"
    r"(?(brace)\})\s*",
    re.IGNORECASE,
)


def canonical(tenant: str) -> str:
    """Return a UUID's 32 digits in small letters, and every other text as it is."""
    found = _UUID.fullmatch(tenant)
    return tenant if found is None else re.sub(r"[^0-9a-f]", "", found[0].lower().replace("urn:uuid:", ""))


def same(one: str, other: str) -> bool:
    """Tell whether two ids name the same account."""
    return one == other or canonical(one) == canonical(other)
