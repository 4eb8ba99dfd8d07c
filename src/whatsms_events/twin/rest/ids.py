"""Other ids of a ticket or contact: that of the one it was merged into, or an id that only the API uses for it."""

from collections.abc import Mapping
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

from aiohttp import hdrs, web

from whatsms_events.twin.account import Account
from whatsms_events.twin.dialects import Json
from whatsms_events.twin.entities import Id
from whatsms_events.twin.rest.answers import refused
from whatsms_events.twin.rest.faults import RestFault, RestFaults, Target, is_merged

_TARGETS: Final[Mapping[Target, str]] = {
    "other": "{list}/{other}",
    "relative": "{other}",
    "itself": "{list}/{asked}/",
    "list": "{list}",
    "login": "/login",
    "elsewhere": "https://elsewhere.example{list}/{other}",
}


def merged(account: Account, settings: RestFaults, faults: frozenset[RestFault], request: web.Request) -> web.Response:
    """Return the answer for a ticket or contact that was merged into another one of the account."""
    path, asked = request.path.rsplit("/", 1)
    entities: Mapping[Id, object] = account.tickets if path.endswith("/tickets") else account.contacts
    ids = (str(one) for one in entities)
    other = next((one for one in ids if one != asked and not is_merged(settings, one)), "another")
    if RestFault.ITEM_410 in faults:
        response = refused(410)
        response.headers[hdrs.LINK] = f'<{path}/{other}>; rel="canonical"'
        return response
    response = refused(settings.moved_status)
    response.headers[hdrs.LOCATION] = _TARGETS[settings.moved_to].format(list=path, other=other, asked=asked)
    return response


def outer_id(one: Id) -> str:
    """Return the id that only the API uses for what webhooks call by this id."""
    return str(uuid5(NAMESPACE_URL, str(one)))


def inner_id(account: Account, asked: str) -> str:
    """Return the id that webhooks use for what the API knows by this id; an unknown id gives one that nothing has."""
    known = (str(one) for ids in (account.tickets, account.contacts) for one in ids)
    return next((one for one in known if outer_id(one) == asked), outer_id(asked))


def with_outer_ids(shown: Json) -> Json:
    """Return what an answer shows, with the API's own ids."""
    return {name: _outer(name, value) for name, value in shown.items()}


def _outer(name: str, value: Any) -> Any:
    match value:
        case dict():
            return with_outer_ids(value)
        case list():
            return [_outer(name, one) for one in value]
        case str() | int() if name == "id" or name.endswith("Id"):
            return outer_id(value)
        case _:
            return value
