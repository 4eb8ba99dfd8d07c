"""The page Now tells whether everything is receiving, verifying, publishing, applying, repairing."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from aiohttp import web

from whatsms_events.domain.rotation import SecretStanding, SecretUse, standings
from whatsms_events.domain.standing import RoleReport
from whatsms_events.domain.trail import Trail
from whatsms_events.storage.log.peers import Peer, PeerId
from whatsms_events.storage.log.secret_uses import SecretUses
from whatsms_events.storage.pulse import Flow, ParkedCounts, Pulse
from whatsms_events.storage.repair.reports import Overview, Reports
from whatsms_events.storage.role_holders import RoleHolder
from whatsms_events.web.console import stations
from whatsms_events.web.console.frame import Brought, Frame, Visit
from whatsms_events.web.console.roles import Roles
from whatsms_events.web.console.stations import Station, Tone
from whatsms_events.web.health import Health, Readiness

REFRESH_S: Final = 5
"""How often the page asks again."""

LOST_LIMIT: Final = 3
"""So many processes that are not heard of are named in the first sentence."""

RATES: Final = (
    ("received", "Taken in"),
    ("published", "Published"),
    ("applied", "Applied"),
    ("rejected", "Refused signatures"),
)
"""What is drawn, by the name that `Trail` has for it."""


@dataclass(frozen=True, slots=True)
class TenantNow:
    """How a tenant's deliveries are: when the last one came, its secrets, and what its watchdog says if it is here."""

    slug: str
    heard_at: datetime | None
    secrets: Sequence[SecretStanding]
    watchdog: Mapping[str, Any]
    door: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class OwnNow:
    """This process, how its roles are, and how fast everything went in the last hour as it saw it."""

    which: PeerId
    reports: Callable[[], Mapping[str, RoleReport]]
    trail: Trail


@dataclass(frozen=True, slots=True)
class NowParts:
    """What the page asks.

    `prefix` tells the topic prefix, None where nothing is published. `peers` tells what all
    processes told of themselves, and `holders` which one has each lock.
    """

    health: Health
    pulse: Pulse
    reports: Reports
    uses: SecretUses
    prefix: Callable[[], str | None]
    own: OwnNow
    peers: Callable[[], Awaitable[Sequence[Peer]]]
    holders: Callable[[], Awaitable[Mapping[str, RoleHolder]]]


class NowPage:
    """The first page; a piece of it is asked for again every few seconds."""

    title = "Now"
    path = "/"

    def __init__(self, frame: Frame, parts: NowParts) -> None:
        self._frame = frame
        self._parts = parts

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return the page, and the piece that changes."""
        return [self._frame.get(self.path, self._page), self._frame.get("/now", self._piece)]

    async def _page(self, visit: Visit) -> web.Response:
        return visit.page("now.html", **await self._values(visit))

    async def _piece(self, visit: Visit) -> web.Response:
        return visit.page("now_piece.html", **await self._values(visit))

    async def _values(self, visit: Visit) -> dict[str, Any]:
        own, seen, now = self._parts.own, await self._look(visit), visit.now
        trail, roles = own.trail, Roles(own.which, own.reports(), seen.peers.value or [], seen.holders.value or {})
        everywhere = replace(seen.readiness, details={**roles.details(), **seen.readiness.details})
        undone = roles.undone(_needed(seen))
        judged = _stations(visit, seen, everywhere, undone, trail.rates("rejected", now))
        return {
            "refresh_s": REFRESH_S,
            "seen": seen,
            "roles": roles,
            "stations": judged,
            "verdict": _verdict(seen, judged, roles),
            "tenants": _tenants(visit, everywhere, seen.uses.value or []),
            "rates": [(name, words, trail.rates(name, now)) for name, words in RATES],
            "empty": seen.flow.value is not None and seen.flow.value.end == 0,
        }

    async def _look(self, visit: Visit) -> "NowSeen":
        """Ask everything at once; what does not answer is left out."""
        parts = self._parts
        async with asyncio.TaskGroup() as tasks:
            readiness = tasks.create_task(parts.health.readiness())
            flow = tasks.create_task(visit.asked("The log", parts.pulse.flow(parts.prefix())))
            applied = tasks.create_task(visit.asked("The tables", parts.pulse.applied()))
            uses = tasks.create_task(visit.asked("The use of secrets", parts.uses.all()))
            overviews = tasks.create_task(visit.asked("The backfills", parts.reports.overview()))
            peers = tasks.create_task(visit.asked("The processes", parts.peers()))
            holders = tasks.create_task(visit.asked("Where roles run", parts.holders()))
            door = tasks.create_task(visit.asked("What is parked at the door", parts.pulse.parked_at_door()))
            fold = tasks.create_task(visit.asked("What is parked at the fold", parts.pulse.parked_at_fold()))
        return NowSeen(
            readiness=readiness.result(),
            flow=flow.result(),
            applied=applied.result(),
            uses=uses.result(),
            overviews=overviews.result(),
            peers=peers.result(),
            holders=holders.result(),
            parked=(door.result(), fold.result()),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NowSeen:
    """What one look brought."""

    readiness: Readiness
    flow: Brought[Flow]
    applied: Brought[tuple[int, datetime | None]]
    uses: Brought[list[SecretUse]]
    overviews: Brought[list[Overview]]
    peers: Brought[Sequence[Peer]]
    holders: Brought[Mapping[str, RoleHolder]]
    parked: tuple[Brought[ParkedCounts], Brought[ParkedCounts]]


def _needed(seen: NowSeen) -> Sequence[str]:
    """Return the roles without which events get no further; none where nobody knows who has them."""
    if seen.peers.value is None or seen.holders.value is None:
        return ()
    relays = seen.flow.value is not None and seen.flow.value.published is not None
    return ("receiver", "consumer", *(["relay"] if relays else []))


def _stations(
    visit: Visit,
    seen: NowSeen,
    readiness: Readiness,
    undone: Mapping[str, str],
    rejected: Sequence[float | None],
) -> list[Station]:
    """Judge each station; of one that could not be looked at, say why. `undone` are the roles that nobody does."""
    now, found = visit.now, []
    if seen.flow.value is None:
        found.append(Station("Receiving", "bad", "unknown", seen.flow.trouble))
    else:
        heard = max((use.last_at for use in seen.uses.value or ()), default=None)
        found.append(stations.receiving(readiness, undone, seen.flow.value, heard, now))
    found.append(stations.verifying(readiness, undone, rejected))
    if seen.flow.value is not None:
        found.append(stations.publishing(readiness, undone, seen.flow.value, now))
    if seen.applied.value is None:
        found.append(Station("Applying", "bad", "unknown", seen.applied.trouble))
    else:
        found.append(stations.applying(readiness, undone, *seen.applied.value, now))
    if seen.overviews.value is None:
        found.append(Station("Repairing", "bad", "unknown", seen.overviews.trouble))
    else:
        keyed = any(one.keyed for one in visit.frame.tenants.values())
        found.append(stations.repairing(readiness, undone, seen.overviews.value, keyed=keyed, now=now))
    return found


def _verdict(seen: NowSeen, judged: Sequence[Station], roles: Roles) -> tuple[Tone, str]:
    """Return the one sentence that stands above everything."""
    readiness = seen.readiness
    if readiness.draining:
        return "warn", "This process is stopping."
    if starting := readiness.checks.get("start"):
        return "bad", f"This process has not started: {starting}."
    bad = [one.title.lower() for one in judged if one.tone == "bad"]
    if bad:
        return "bad", f"Something is wrong with {', '.join(bad)}."
    checks = [f"{name}: {problem}" for name, problem in {**readiness.checks, **readiness.roles}.items() if problem]
    if checks := [*checks, *roles.wrong()]:
        return "bad", f"{'. '.join(checks)}."
    asked: tuple[Brought[Any], ...] = (seen.uses, seen.peers, seen.holders, *seen.parked)
    if unread := [one.trouble for one in asked if one.trouble]:
        return "bad", f"{'. '.join(unread)}."
    odd = [one.title.lower() for one in judged if one.tone == "warn"]
    lost = roles.odd()
    odd += [f"{name}, which is not heard of any more" for name in lost[:LOST_LIMIT]]
    odd += [f"{len(lost) - LOST_LIMIT} more that are not heard of"] if len(lost) > LOST_LIMIT else []
    return ("warn", f"It works; have a look at {', '.join(odd)}.") if odd else ("good", "All is well.")


def _tenants(visit: Visit, readiness: Readiness, uses: Sequence[SecretUse]) -> list[TenantNow]:
    found = []
    for slug, tenant in visit.frame.tenants.items():
        mine = {use.name: use for use in uses if use.tenant == tenant.tenant_id}
        found.append(
            TenantNow(
                slug=slug,
                heard_at=max((use.last_at for use in mine.values()), default=None),
                secrets=standings(tenant.secrets, mine, visit.now),
                watchdog=_detail(readiness, f"watchdog.{slug}"),
                door=_detail(readiness, f"door.{slug}"),
            )
        )
    return found


def _detail(readiness: Readiness, name: str) -> Mapping[str, Any]:
    found = readiness.details.get(name)
    return found if isinstance(found, Mapping) else {}
