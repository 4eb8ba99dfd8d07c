"""Which fields of a row differ from what the REST API shows, and which of these differences say nothing.

`resources` names the rule for each field. All rules agree in this: if nothing is held, whatever is shown differs; if a
value is held, another value differs, and so does null.
"""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from whatsms_events.domain import gone, last_message
from whatsms_events.domain.events import Entity
from whatsms_events.domain.resources import GROUPS, RESOURCES, Compared
from whatsms_events.domain.rows import Claim, Row, Table, value_of

_RULES: Final[Mapping[Table, Mapping[str, Compared]]] = {
    entity: {one.name: one.compared for one in fields if one.compared is not None}
    for entity, fields in RESOURCES.items()
}

COMPARED: Final[Mapping[Table, tuple[str, ...]]] = {
    entity: tuple(name for name, rule in rules.items() if rule not in ("ack", "place"))
    for entity, rules in _RULES.items()
}
"""The registers that make a difference: every one that the vendor can show. The ack of a message of ours makes one too,
and so do a message's ticket and contact where none is known."""

LISTED_ONLY: Final[Mapping[Entity, tuple[str, ...]]] = {
    entity: tuple(one.name for one in fields if one.listed_only) for entity, fields in RESOURCES.items()
}
"""What the vendor's lists show and its details do not."""

_QUIET: Final[Mapping[Table, frozenset[str]]] = {
    entity: frozenset(one.name for one in fields if one.quiet) for entity, fields in RESOURCES.items()
}
_SECOND: Final = 1_000_000
_canonical: Final = msgspec.json.Encoder(order="deterministic")


def differing(claim: Claim, place: Mapping[str, Any], row: Row | None) -> tuple[str, ...]:
    """Return the compared registers that differ; null is in every column that nobody wrote."""
    rules = _RULES[claim.key.table]
    found = [name for name, shown in _compared(claim).items() if _differs(rules[name], shown, _held(row, name))]
    found += [name for name, most in _acks(claim, row).items() if most > (_held(row, name) or 0)]  # it never goes down
    return (*found, *(name for name, shown in place.items() if shown is not None and _held(row, name) is None))


def _held(row: Row | None, name: str) -> Any:
    if name in GROUPS:
        return (None, None) if row is None else tuple(row.values[column] or None for column in GROUPS[name])
    if row is None:
        return None
    return gone.is_gone(row.values["gone"], row.versions) if name == "gone" else value_of(row.values, name)


def _differs(rule: Compared, shown: Any, held: Any) -> bool:
    """Tell whether what is shown is another value. Nothing held differs from all that is shown, be it false or empty.

    What is held and empty is as good as nothing shown.
    """
    if rule == "reference":
        return bool(shown[0] != held[0] or (shown[0] is not None and shown[1] not in (None, held[1])))
    if rule == "presence":
        return bool(shown) is not held
    if held is None or shown is None:
        return bool(shown != held and (held is None or _plain(rule, held) is not None))
    if rule == "preview":
        return not last_message.is_same(str(shown), str(held))
    if rule == "time":
        return bool(shown != held) and not _is_same_second(shown, held)
    return bool(_plain(rule, shown) != _plain(rule, held))


def _is_same_second(one: int, other: int) -> bool:
    """Tell whether it is one time, which a webhook shows in milliseconds and a list in seconds, or the other way."""
    return abs(one - other) < _SECOND and (one % _SECOND == 0 or other % _SECOND == 0)


def is_quiet(claim: Claim, row: Row | None, name: str, *, explained: bool) -> bool:
    """Tell whether no webhook need have told of a difference: it is mended, and is no sign of one that was missed.

    Tickets move in time with each message, which explains their last message (`explained`). Webhooks show half of what
    there is: no URL of the media, as on the vendor's page, no name beside an agent's id, and nothing that is empty.
    """
    shown, held, table, rule = (
        claim.registers.get(name),
        _held(row, name),
        claim.key.table,
        _RULES[claim.key.table][name],
    )
    if rule == "ack":
        return False
    if name in _QUIET[table]:
        return True
    if rule == "preview":
        return explained or not shown
    if rule == "reference":
        return bool(_who(claim, name)[0] == held[0] and held[1] is None)
    if held is None and _plain(rule, shown) is None:
        return True
    return table == "contact" and name in LISTED_ONLY["contact"] and (row is None or name not in row.versions)


def _compared(claim: Claim) -> dict[str, Any]:
    names = (name for name in COMPARED[claim.key.table] if name in claim.registers)
    return {name: _who(claim, name) if name in GROUPS else claim.registers[name] for name in names}


def _who(claim: Claim, name: str) -> tuple[str | None, str | None]:
    """Return id and name of the agent or the queue that is claimed; null where no name is told."""
    told: Any = claim.registers.get(f"{name}_named")
    one: Any = claim.registers.get(name)
    return one or None, None if told is None else msgspec.json.decode(told)[1]


def _acks(claim: Claim, row: Row | None) -> Mapping[str, int]:
    """Return the ack of a message of ours; what a contact wrote has one without a dependable meaning."""
    ours = claim.registers.get("from_me", None if row is None else row.values.get("from_me"))
    return claim.most if ours is True else {}


def identity(claim: Claim, row: Row | None) -> dict[str, Any]:
    """Return what the claim says of each compared register, in a form in which equal means the same."""
    rules = _RULES[claim.key.table]
    return {name: _plain(rules[name], value) for name, value in _compared(claim).items()} | dict(_acks(claim, row))


def _plain(rule: Compared, value: Any) -> Any:
    """Return the value; null for what is as good as absent: an empty text or list, false, zero.

    A URL is its path: it is signed anew on each read, in its query, and another machine may serve it.
    """
    if rule == "path" and value:
        return _path_of(value)
    if rule == "pairs" and value is not None:
        # In an order of our own: that table has none.
        return sorted(_canonical.encode(_pair(item)).decode() for item in msgspec.json.decode(value)) or None
    return value or None


def _path_of(url: str) -> str:
    """Return the path of a URL, all of it where it has none, or is none."""
    try:
        path = urlsplit(url).path
    except ValueError:
        return url
    return path if path.strip("/") else url


def _pair(item: Any) -> Any:
    """Return of a contact's further field what is documented: webhooks of relatives show more columns of its table."""
    named = isinstance(item, dict) and "name" in item
    return {"name": item["name"], "value": item.get("value")} if named else item
