"""The observer reads log, projection and backfill tables and sets the gauges, since a halted worker sets none."""

import asyncio
import itertools
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import Final, get_args

import msgspec

from whatsms_events import metrics
from whatsms_events.domain.delays import STUCK_AFTER, STUCK_UNTIL
from whatsms_events.domain.drift import DriftKind
from whatsms_events.domain.events import Entity, to_micros
from whatsms_events.errors import WhatsmsEventsError
from whatsms_events.storage.database import Database
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.log.relay_row import RelayRows
from whatsms_events.storage.log.seals import Seals
from whatsms_events.storage.log.secret_uses import SecretUses
from whatsms_events.storage.privacy import OF_LOG, PLACES, HeldPlace, PrivacyCounts
from whatsms_events.storage.projection.apply import Projection
from whatsms_events.storage.projection.holdings import Holdings
from whatsms_events.storage.repair.reports import Overview, Reports

LOOK_LIMIT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class DatabaseView:
    """What the databases said last; None where one did not answer. `runs` says when each unfinished run last moved."""

    end: int | None = None
    published: int | None = None
    applied: int | None = None
    trouble: str = ""
    runs: Mapping[str, int] = field(default_factory=dict)


class Observer:
    """Looks at what the databases say. `prefix` is None without Kafka.

    `slugs` maps the ids of all tenants to their slugs, `keyed` has the ids of those that a backfill can read, `secrets`
    the id of each tenant with the names of its webhook secrets.
    """

    def __init__(
        self,
        log: Database,
        projection: Database,
        *,
        prefix: str | None,
        slugs: Mapping[str, str],
        keyed: Collection[str],
        secrets: Mapping[str, Collection[str]] = MappingProxyType({}),
        now: Callable[[], datetime],
    ) -> None:
        self._log = log
        self._event_log = EventLog(log)
        self._seals = Seals(log)
        self._relay_rows = RelayRows(log)
        self._reports = Reports(log)
        self._projection = Projection(projection)
        self._holdings = Holdings(projection)
        self._prefix = prefix
        self._slugs = slugs
        self._keyed = {tenant: slugs[tenant] for tenant in keyed}
        self._secrets = secrets
        self._uses = SecretUses(log)
        self._gone: set[str] = set()  # slugs that the configuration no longer has
        self._now = now
        self._counts = PrivacyCounts(log, projection)
        self._places = itertools.cycle((None, *PLACES))
        self._counted = False
        self.seen = DatabaseView()
        for gauge in (
            metrics.LOG_END, metrics.APPLIED_THROUGH, metrics.RELAY_THROUGH, metrics.RELAY_LAG, metrics.RELAY_OLDEST,
            metrics.SEALED_THROUGH, metrics.SEAL_LAG, metrics.FREE_BYTES,
        ):  # fmt: skip
            gauge.set(math.nan)  # a start may wait for its databases, and a zero would look as if it were measured

    def change(self, slugs: Mapping[str, str], keyed: Collection[str], secrets: Mapping[str, Collection[str]]) -> None:
        """Look at these tenants from now on; no gauge shows one that has gone, or a secret that has."""
        self._gone = (self._gone | {*self._slugs.values()}) - {*slugs.values()}
        for tenant, names in self._secrets.items():
            for name in {*names} - {*secrets.get(tenant, ())}:
                for gauge in (metrics.SECRET_FIRST_MATCH, metrics.SECRET_LAST_MATCH):
                    gauge.remove_by_labels({"tenant": self._slugs[tenant], "secret": name})
        self._slugs, self._secrets = slugs, secrets
        self._keyed = {tenant: slugs[tenant] for tenant in keyed}

    async def look(self) -> None:
        """Set the gauges of log, relay and projection. Readiness and the workers report a database that is away."""
        seen = DatabaseView(runs=self.seen.runs)
        free = self._log.free_bytes()
        metrics.FREE_BYTES.set(math.nan if free is None else free)
        try:
            async with asyncio.timeout(LOOK_LIMIT_S):
                seen = replace(seen, end=await self._event_log.end())
                metrics.LOG_END.set(seen.end or 0)
                sealed = await self._seals.sealed_through()
                metrics.SEALED_THROUGH.set(sealed)
                metrics.SEAL_LAG.set(max(0, (seen.end or 0) - sealed))
                if self._prefix is not None:
                    seen = replace(seen, published=await self._see_published(self._prefix))
        except (WhatsmsEventsError, TimeoutError) as exc:
            seen = replace(seen, trouble=str(exc) or f"no answer within {LOOK_LIMIT_S:g} s")
        with suppress(WhatsmsEventsError, TimeoutError):
            async with asyncio.timeout(LOOK_LIMIT_S):
                through = (await self._projection.state()).applied_through
                metrics.APPLIED_THROUGH.set(through)
                metrics.CONSUMER_LAG.labels("log", "0").set(await self._event_log.end() - through)
                seen = replace(seen, applied=through)
        self.seen = seen

    async def _see_published(self, prefix: str) -> int:
        """Set the relay's gauges from its row, and return up to which position Kafka is known to show the log."""
        published = await self._relay_rows.load(prefix)
        through = published.published_through if published is not None else 0
        waiting = await self._event_log.read(through, 1)
        metrics.RELAY_THROUGH.set(through)
        metrics.RELAY_LAG.set(await self._event_log.end() - through if waiting else 0)
        metrics.RELAY_OLDEST.set(waiting[0].event.received_at.timestamp() if waiting else 0)
        return through

    async def look_at_backfills(self, stopped: Collection[str]) -> None:
        """Set the gauges of all backfills, whichever process runs them. `stopped`: slugs whose backfill halted here."""
        with suppress(WhatsmsEventsError, TimeoutError):
            async with asyncio.timeout(LOOK_LIMIT_S):
                overviews = {one.tenant: one for one in await self._reports.overview()}
                runs: dict[str, int] = {}
                for tenant, slug in self._keyed.items():
                    overview = overviews.get(tenant)
                    _show(slug, overview, stopped=slug in stopped)
                    if overview is not None and overview.moved_at is not None:
                        runs[slug] = to_micros(overview.moved_at)
                self.seen = replace(self.seen, runs=runs)
                _show_drift([one for tenant, one in overviews.items() if tenant in self._keyed])

    async def look_at_secrets(self) -> None:
        """Set the gauges of when each configured secret first and last fitted, whichever process took a delivery in."""
        for slug in self._gone:  # each time: what ends with its tenant may still show something
            metrics.forget(slug)
        with suppress(WhatsmsEventsError, TimeoutError):
            async with asyncio.timeout(LOOK_LIMIT_S):
                uses = {(use.tenant, use.name): use for use in await self._uses.all()}
                for tenant, names in self._secrets.items():
                    for name in names:
                        use, labels = uses.get((tenant, name)), (self._slugs[tenant], name)
                        metrics.SECRET_FIRST_MATCH.labels(*labels).set(use.first_at.timestamp() if use else 0)
                        metrics.SECRET_LAST_MATCH.labels(*labels).set(use.last_at.timestamp() if use else 0)

    async def look_at_messages(self) -> None:
        """Set the gauge of messages that are stuck: it moves within hours, and each look costs an index a few pages."""
        now = self._now()
        with suppress(WhatsmsEventsError, TimeoutError):
            async with asyncio.timeout(LOOK_LIMIT_S):
                for tenant, slug in self._slugs.items():
                    stuck = await self._holdings.undelivered(tenant, now - STUCK_UNTIL, now - STUCK_AFTER)
                    metrics.UNDELIVERED.labels(slug).set(stuck)

    async def look_at_held(self) -> None:
        """Set the gauges of what is held of people: at first of every place, then each time of one.

        A count may take a second, and other gauges wait meanwhile.
        """
        with suppress(WhatsmsEventsError, TimeoutError):
            async with asyncio.timeout(LOOK_LIMIT_S):
                for tenant, slug in self._slugs.items():
                    count, until = await self._counts.forgotten_in_all(tenant)
                    metrics.FORGOTTEN_PEOPLE.labels(slug).set(count)
                    metrics.FORGOTTEN_KAFKA_UNTIL.labels(slug).set(0 if until is None else until / 1_000_000)
                    unread = await self._counts.unread(tenant) if count else ()
                    metrics.FORGOTTEN_UNREAD.labels(slug).set(len(unread))
        places = [next(self._places)] if self._counted else [None, *PLACES]
        self._counted = True
        for place in places:
            with suppress(WhatsmsEventsError, TimeoutError):
                async with asyncio.timeout(LOOK_LIMIT_S):
                    await self._see_held(place)

    async def _see_held(self, place: HeldPlace | None) -> None:
        """Set the gauge of one place for every tenant; None: of how many people."""
        sample = await self._counts.sample() if place in OF_LOG else None
        for tenant, slug in self._slugs.items():
            if place is None:
                metrics.HELD_PEOPLE.labels(slug).set((await self._counts.people(tenant)).rows)
                continue
            held = await self._counts.one(place, tenant) if sample is None else sample.held(place, tenant)
            metrics.HELD_ROWS.labels(slug, place).set(held.rows)


class _HeldBack(msgspec.Struct):
    """How many of an entity were not marked as gone."""

    extra: int = 0


class _Left(msgspec.Struct):
    """The part of a report that says what its run left undone. Another release may have written the report."""

    unsettled: int = 0
    unstable: tuple[str, ...] = ()
    forbidden: int = 0
    held_back: dict[Entity, _HeldBack] = {}


_left = msgspec.json.Decoder(_Left | None)


def _show(slug: str, overview: Overview | None, *, stopped: bool) -> None:
    running = overview is not None and overview.running is not None
    finished_at = None if overview is None else overview.finished_at
    metrics.BACKFILL_STATE.labels(slug).set(2 if stopped else int(running))
    metrics.BACKFILL_REMAINING.labels(slug).set(0 if overview is None else overview.remaining)
    report = None if overview is None or overview.report is None else _left.decode(overview.report)
    left = report or _Left()
    metrics.BACKFILL_UNSETTLED.labels(slug).set(left.unsettled)
    metrics.BACKFILL_UNSTABLE.labels(slug).set(len(left.unstable))
    metrics.BACKFILL_FORBIDDEN.labels(slug).set(left.forbidden)
    for entity in get_args(Entity):
        held_back = left.held_back.get(entity, _HeldBack())
        metrics.BACKFILL_HELD_BACK.labels(slug, entity).set(held_back.extra)
    metrics.BACKFILL_LAST_SUCCESS.labels(slug).set(0 if finished_at is None else finished_at.timestamp())


def _show_drift(overviews: Collection[Overview]) -> None:
    """Show the drift, zeros too, once a reconcile has finished: before that nobody knows the drift."""
    metrics.DRIFT.clear()
    finished = [one for one in overviews if one.finished_at is not None]
    if not finished:
        return
    drift: Counter[tuple[str, str]] = Counter()
    for one in finished:
        drift.update(one.drift)
    for entity in get_args(Entity):
        for kind in get_args(DriftKind):
            metrics.DRIFT.labels(entity, kind).set(drift[entity, kind])
