"""The control of a running twin over HTTP: what it did so far, and its faults and pauses from now on."""

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final, NoReturn, TypeVar

import msgspec
from aiohttp import web

from whatsms_events.twin.dialects import Json
from whatsms_events.twin.faults import Demand, Faults
from whatsms_events.twin.rest.faults import RestFault, RestFaults
from whatsms_events.twin.rest.server import Rest
from whatsms_events.twin.sender import Sender
from whatsms_events.twin.world import World

PATH: Final = "/control"
DEMAND_LIMIT: Final = 10_000
_FIXED: Final = frozenset({"seed"})
"""Fields of faults that the twin reads only when it starts, so nobody can set them later."""

Shares = TypeVar("Shares", Faults, RestFaults)


class Control:
    """What a person or a test tells a running twin over HTTP. It has no key: it belongs on a private address."""

    def __init__(self, world: World, rest: Rest, sender: Sender) -> None:
        self._world = world
        self._rest = rest
        self._sender = sender

    def routes(self) -> list[web.RouteDef]:
        """Return the routes to mount."""
        return [
            web.get(PATH, self._show),
            web.post(f"{PATH}/faults", self._set_faults),
            web.post(f"{PATH}/pause", self._pause),
            web.post(f"{PATH}/resume", self._resume),
        ]

    def state(self) -> Json:
        """Return what the twin did and does: clock, entities, webhooks, requests, faults."""
        account, ledger = self._world.account, self._sender.ledger
        return {
            "now": account.now.isoformat(timespec="milliseconds"),
            "paused": self._world.paused,
            "entities": {
                name: len(getattr(account, name)) for name in ("contacts", "tickets", "messages", "campaigns")
            },
            "webhooks": {
                "made": self._sender.webhooks,
                "sent": ledger.sent,
                "pending": self._sender.pending,
                "outcomes": dict(ledger.by_outcome),
            },
            "api": {
                "requests": {f"{method} {template}": count for (method, template), count in self._rest.counts.items()},
                "statuses": {str(status): count for status, count in sorted(self._rest.statuses.items())},
                "message_list_reads": self._rest.message_list_reads,
            },
            "faults": {
                "webhooks": asdict(self._sender.faults),
                "api": asdict(self._rest.faults),
                "demanded": {
                    "webhooks": {kind.value: count for kind, count in self._sender.demanded.items()},
                    "api": {fault.value: count for fault, count in self._rest.demanded.items()},
                },
            },
        }

    async def _show(self, _request: web.Request) -> web.Response:
        return _answer(self.state())

    async def _pause(self, _request: web.Request) -> web.Response:
        self._world.pause()
        return _answer({"paused": True})

    async def _resume(self, _request: web.Request) -> web.Response:
        self._world.resume()
        return _answer({"paused": False})

    async def _set_faults(self, request: web.Request) -> web.Response:
        """Set what is given, all of it or, where one thing is wrong, nothing."""
        try:
            given = msgspec.json.decode(await request.read())
        except (msgspec.MsgspecError, UnicodeDecodeError):
            _refuse("the body is not JSON")
        given = _section(given, "the body", {"webhooks", "api", "demand"})
        demands = _section(given.get("demand", {}), "demand", {"webhooks", "api"})
        webhooks = _merged(self._sender.faults, given.get("webhooks", {}), "webhooks")
        api = _merged(self._rest.faults, given.get("api", {}), "api")
        of_webhooks = _counts(demands.get("webhooks", {}), "demand.webhooks", [kind.value for kind in Demand])
        of_api = _demands(demands.get("api", {}), "demand.api", [fault.value for fault in RestFault])
        self._sender.faults, self._rest.faults = webhooks, api
        for name, count in of_webhooks.items():
            self._sender.demand(Demand(name), count)
        for name, (count, after) in of_api.items():
            self._rest.demand(RestFault(name), count, after=after)
        return _answer(self.state()["faults"])


def _answer(body: Json) -> web.Response:
    return web.Response(body=msgspec.json.encode(body) + b"\n", content_type="application/json")


def _refuse(text: str) -> NoReturn:
    raise web.HTTPBadRequest(text=msgspec.json.encode({"error": text}).decode() + "\n", content_type="application/json")


def _section(given: object, place: str, known: set[str]) -> Mapping[str, Any]:
    """Return the JSON object at this place of the request; an unknown name or anything that is no object is a 400."""
    if not isinstance(given, dict):
        _refuse(f"{place}: has to be an object")
    for name in given:
        if name not in known:
            _refuse(f"{place}: {name[:100]!r} is unknown; there are {', '.join(sorted(known))}")
    return given


def _merged(faults: Shares, given: object, place: str) -> Shares:
    """Return the faults, with the given values in place of those that were set."""
    fields = {field.name for field in dataclasses.fields(faults)} - _FIXED
    for name, value in _section(given, place, fields).items():
        try:
            faults = msgspec.convert(asdict(faults) | {name: value}, type(faults))
        except msgspec.ValidationError as exc:
            _refuse(f"{place}.{name}: {str(exc).partition(' - at ')[0].lower()}")
    return faults


def _counts(given: object, place: str, known: list[str]) -> Mapping[str, int]:
    """Return how often each fault is demanded."""
    counts = _section(given, place, set(known))
    return {name: _whole(count, f"{place}.{name}", 1) for name, count in counts.items()}


def _demands(given: object, place: str, known: list[str]) -> Mapping[str, tuple[int, int]]:
    """Return how often each fault of the API is demanded, and how many requests that it could befall pass before."""
    found = {}
    for name, wanted in _section(given, place, set(known)).items():
        asked = wanted if isinstance(wanted, dict) else {"count": wanted}
        here = f"{place}.{name}"
        _section(asked, here, {"count", "after"})
        found[name] = (
            _whole(asked.get("count", 1), here if asked is not wanted else f"{here}.count", 1),
            _whole(asked.get("after", 0), f"{here}.after", 0),
        )
    return found


def _whole(value: object, place: str, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= DEMAND_LIMIT:
        _refuse(f"{place}: has to be a whole number from {least} to {DEMAND_LIMIT}")
    return value
