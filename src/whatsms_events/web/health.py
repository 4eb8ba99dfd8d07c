"""This module answers /livez, /readyz and /metrics on the private listener; `access` says that they are open.

/readyz is for people and alarms: 200 while each role of this process does its work or stands by for one that does.
/readyz/{role} is for one role: /readyz/receiver tells whether a delivery would be accepted now, and that is what a load
balancer asks. Kafka plays no part in that: events wait in the log.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
from aiohttp import hdrs, web
from prometheus_client.aiohttp import make_aiohttp_handler

from whatsms_events.errors import WhatsmsEventsError

CHECK_TIMEOUT_S: Final = 3.0
CACHE_S: Final = 1.0
"""How long the answers of the checks are kept: a storm of probes costs one write a second."""

Check = Callable[[], Awaitable[str | None]]

_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Readiness:
    """What /readyz says: problems by check and by role, None where all is well; `details` decide nothing."""

    ready: bool
    draining: bool
    checks: Mapping[str, str | None]
    roles: Mapping[str, str | None]
    details: Mapping[str, object]


class Health:
    """The probes. A check or a role gives None where all is well, else the problem; `details` decides nothing.

    `needs` has each role of this process with the names of the checks that it needs. `roles` gives what runs here with
    its problem, by role or, where there are several of one role, by `role.name`.
    """

    def __init__(
        self,
        *,
        checks: Mapping[str, Check],
        needs: Mapping[str, Collection[str]],
        roles: Callable[[], Mapping[str, str | None]],
        details: Callable[[], Mapping[str, object]],
        starting: Callable[[], str | None],
        draining: Callable[[], bool],
        check_timeout_s: float = CHECK_TIMEOUT_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._checks = checks
        self._needs = needs
        self._roles = roles
        self._details = details
        self._starting = starting
        self._draining = draining
        self._check_timeout_s = check_timeout_s
        self._monotonic = monotonic
        self._turn = asyncio.Lock()
        self._found: dict[str, str | None] = {}
        self._found_at: float | None = None

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the four routes."""
        return [
            web.get("/livez", self._livez),
            web.get("/readyz", self._readyz),
            web.get("/readyz/{role}", self._readyz_of),
            web.get("/metrics", make_aiohttp_handler()),
        ]

    async def _livez(self, _request: web.Request) -> web.Response:
        return _json(200, {"alive": True})

    async def _readyz(self, _request: web.Request) -> web.Response:
        return await self._answer(self._checks.keys(), self._roles)

    async def _readyz_of(self, request: web.Request) -> web.Response:
        role = request.match_info["role"]
        if role not in self._needs:
            raise web.HTTPNotFound
        return await self._answer(
            self._needs[role],
            lambda: {name: problem for name, problem in self._roles().items() if name.split(".")[0] == role},
        )

    async def readiness(self) -> Readiness:
        """Return how this process is, as /readyz answers."""
        return await self._judged(self._checks.keys(), self._roles)

    async def _answer(self, wanted: Collection[str], roles: Callable[[], Mapping[str, str | None]]) -> web.Response:
        found = await self._judged(wanted, roles)
        body = {
            "ready": found.ready,
            "draining": found.draining,
            "checks": {name: problem or "ok" for name, problem in found.checks.items()},
            "roles": {name: problem or "ok" for name, problem in found.roles.items()},
            "details": found.details,
        }
        return _json(200 if found.ready else 503, body)

    async def _judged(self, wanted: Collection[str], roles: Callable[[], Mapping[str, str | None]]) -> Readiness:
        # These are asked each time: a sender of deliveries must know at once that this process stops.
        draining, starting = self._draining(), self._starting()
        found: dict[str, str | None] = {}
        if starting is not None:
            found = {"start": starting}
        elif not draining:
            found = {name: problem for name, problem in (await self._problems()).items() if name in wanted}
        standing = roles()
        ready = not draining and not any(found.values()) and not any(standing.values())
        return Readiness(ready, draining, found, standing, self._details())

    async def _problems(self) -> dict[str, str | None]:
        """Return each check's problem, at most CACHE_S old. Probes that come while the checks run share that run."""
        async with self._turn:
            if self._found_at is None or self._monotonic() - self._found_at >= CACHE_S:
                async with asyncio.TaskGroup() as group:
                    tasks = {name: group.create_task(self._problem(check)) for name, check in self._checks.items()}
                self._found = {name: task.result() for name, task in tasks.items()}
                self._found_at = self._monotonic()
            return self._found

    async def _problem(self, check: Check) -> str | None:
        try:
            async with asyncio.timeout(self._check_timeout_s):
                return await check()
        except TimeoutError:
            return f"no answer within {self._check_timeout_s:g} s"
        except WhatsmsEventsError as exc:
            return str(exc) or type(exc).__name__


def _json(status: int, value: object) -> web.Response:
    headers = {hdrs.CACHE_CONTROL: "no-store"}
    return web.Response(status=status, body=_encoder.encode(value), content_type="application/json", headers=headers)
