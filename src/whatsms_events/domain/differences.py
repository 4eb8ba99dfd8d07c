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
"""The registers that are always compared: all that the vendor can show. A message's ack is compared only if the message
is ours, and its ticket and contact only where none is known."""

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
    """Return the compared registers that differ. A column that was never written is null."""
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
    """Tell whether the shown value is another one. Where nothing is held, every shown value differs, even an empty one.

    A held value that is empty does not differ from null.
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
    """Tell whether both are one time, shown in milliseconds by a webhook and in seconds by a list, or the reverse."""
    return abs(one - other) < _SECOND and (one % _SECOND == 0 or other % _SECOND == 0)


def is_quiet(claim: Claim, row: Row | None, name: str, *, explained: bool) -> bool:
    """Tell whether a difference may arise without any webhook: it is mended, but it is no sign of a missed webhook.

    Each message changes its ticket's time and last message; a known message explains the latter (`explained`). Webhooks
    leave out the URL of media (as the vendor's page does), the name beside an agent's id, and everything that is empty.
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
    """Return the ack of a message of ours, else nothing: the ack of a contact's message has no dependable meaning."""
    ours = claim.registers.get("from_me", None if row is None else row.values.get("from_me"))
    return claim.most if ours is True else {}


def identity(claim: Claim, row: Row | None) -> dict[str, Any]:
    """Return the claim's value of each compared register, in a form in which equal values mean the same."""
    rules = _RULES[claim.key.table]
    return {name: _plain(rules[name], value) for name, value in _compared(claim).items()} | dict(_acks(claim, row))


def _plain(rule: Compared, value: Any) -> Any:
    """Return the value; null for what is as good as absent: an empty text or list, false, zero.

    A URL is its path: it is signed anew on each read, in its query, and another machine may serve it.
    """
    if rule == "path" and value:
        return _path_of(value)
    if rule == "pairs" and value is not None:
        # Sorted by us: the vendor's table has no order.
        return sorted(_canonical.encode(_pair(item)).decode() for item in msgspec.json.decode(value)) or None
    return value or None


def _path_of(url: str) -> str:
    """Return the path of a URL, or the whole text where it has no path or is no URL."""
    try:
        path = urlsplit(url).path
    except ValueError:
        return url
    return path if path.strip("/") else url


def _pair(item: Any) -> Any:
    """Return the documented part of one of a contact's further fields: some relatives' webhooks show more columns."""
    named = isinstance(item, dict) and "name" in item
    return {"name": item["name"], "value": item.get("value")} if named else item
