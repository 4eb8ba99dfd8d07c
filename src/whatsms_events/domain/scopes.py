"""What the holder of a token may do: a closed set of scopes, which nothing implies of one another.

`metrics` reads `/metrics`. `read` reads all the rest, without what names, quotes or shows a person. `personal` shows
that too. `operate` changes something: retries, discards, begins and stops. The last two go with `read`.
"""

from collections.abc import Iterable
from typing import Final, Literal, TypeAlias, get_args

Scope: TypeAlias = Literal["metrics", "read", "personal", "operate"]

SCOPES: Final[frozenset[Scope]] = frozenset(get_args(Scope))


def scopes(text: str) -> frozenset[Scope]:
    """Return the scopes that a text names, with spaces in between as in RFC 6749, 3.3; raise ValueError for others."""
    names = text.split()
    unknown = sorted(set(names) - SCOPES)
    if unknown or not names:
        raise ValueError(f"should be one or more of {listed(SCOPES)}, with spaces in between")
    return frozenset(one for one in SCOPES if one in names)


def listed(names: Iterable[str]) -> str:
    """Return names in a fixed order, for people."""
    return ", ".join(one for one in get_args(Scope) if one in set(names))
