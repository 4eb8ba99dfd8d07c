"""One process of the service: its roles, its parts, and the order in which they start and stop.

start   both listeners, the databases (waited for: deliveries get 503 then), observer, committer, workers, and only then
        deliveries are accepted
stop    not ready any more, no new deliveries after `leave_s`, those under way answered, backfills and watchdogs,
        committer flushed, relay and consumer, observer, databases
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

import structlog

from whatsms_events import __version__, metrics
from whatsms_events.backfill.worker import Backfill
from whatsms_events.clock import now
from whatsms_events.config.checks import NO_TENANTS
from whatsms_events.config.settings import Settings
from whatsms_events.domain.standing import RoleReport
from whatsms_events.domain.trail import Trail
from whatsms_events.errors import ConfigError
from whatsms_events.service.console import make_console, noted, repair_verbs
from whatsms_events.service.doors import Addresses, Doors
from whatsms_events.service.live import LiveParts
from whatsms_events.service.parts import (
    kafka_target,
    make_api,
    make_committer,
    make_consumer,
    make_contracts,
    make_feed,
    make_health,
    make_observer,
    make_person_export,
    make_privacy_report,
    make_receiver,
    make_rejects,
    make_relay,
    make_retention,
    make_running,
    make_sealer,
    make_standings,
    make_tracing,
    open_metrics,
    privacy_key,
    tokens,
)
from whatsms_events.service.presence import Presence
from whatsms_events.service.reload import Reload, SettingsFiles
from whatsms_events.service.roles import ROLES, Role, possible
from whatsms_events.service.standings import Watch
from whatsms_events.service.start import Start
from whatsms_events.service.stores import Stores, log_target, on_sqlite, projection_target, unopened_stores
from whatsms_events.service.supervisor import Job, Supervisor, beside
from whatsms_events.service.suppressions import check_suppressions, make_late_forgetting
from whatsms_events.service.upstream import (
    GRACE_S,
    IDLE_S,
    WATCH_S,
    Upstream,
    keyed,
    lock_of,
    role_of,
    submit_to,
)
from whatsms_events.storage.database import make_ready
from whatsms_events.storage.engines import REPAIR_TURNS, REPORT_TURNS
from whatsms_events.storage.log.committer import Committer
from whatsms_events.storage.log.key_holders import own_name
from whatsms_events.storage.log.peers import PeerId, Peers
from whatsms_events.web.access import Access
from whatsms_events.web.app import Listener, private_app
from whatsms_events.web.console.now import OwnNow
from whatsms_events.web.health import Health
from whatsms_events.web.receiver import Receiver
from whatsms_events.web.sockets import Sockets
from whatsms_events.workers import late_ties
from whatsms_events.workers.loop import AGAIN
from whatsms_events.workers.retention import POLL_S
from whatsms_events.workers.sealer import LOOK_S
from whatsms_events.workers.watchdog import Watchdog

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Jobs:
    """The workers of this process, in the two groups that the supervisor knows."""

    writers: list[Job]
    readers: list[Job]


class Service:
    """One process of the service, with the roles that can run of those that were asked for."""

    def __init__(
        self,
        settings: Settings,
        roles: frozenset[Role] = frozenset(ROLES),
        *,
        given: Sockets = MappingProxyType({}),
        files: SettingsFiles | None = None,
    ) -> None:
        """Raise ConfigError where none of the roles can run.

        `given` are listening sockets that systemd holds; changed settings are read from `files` while it runs.
        """
        self.roles = possible(settings, roles)
        self._asked = roles
        self._settings = settings
        self._given = given
        self._files = files
        self._reload: Reload | None = None
        self._keyed = keyed(settings)
        self._unkeyed = sorted(settings.tenants.keys() - self._keyed.keys()) if "backfill" in roles else []
        self._supervisor = Supervisor(advice=AGAIN)
        self._own = OwnNow(PeerId(own_name(), now()), self._reports, Trail())
        self._watch: Watch | None = None
        self._watchdogs: dict[str, Watchdog] = {}
        self._backfills: dict[str, Backfill] = {}
        self._draining = False

    def look_again(self) -> None:
        """Read the settings again, and let every role that has halted look at once whether it can go on."""
        self._supervisor.look_again()
        if self._reload is not None:
            self._reload.ask()

    async def run(self, stop: asyncio.Event, *, on_ready: Callable[[Addresses], None]) -> None:
        """Serve until `stop` is set.

        A database that is away is waited for; `on_ready` is called after that. Raise OSError for a port that is
        taken; ConfigError, and what a worker raises that no loop retries, come in a group.
        """
        metrics.BUILD.info({"version": __version__})
        for slug in self._unkeyed:
            log.info("backfill.off", tenant=slug, reason="the tenant has no api_key")
        async with AsyncExitStack() as stack:
            stores = await stack.enter_async_context(unopened_stores(self._settings))
            await self._run(stop, on_ready, stores, stack)
        log.info("service.stopped")

    async def _run(
        self, stop: asyncio.Event, on_ready: Callable[[Addresses], None], stores: Stores, stack: AsyncExitStack
    ) -> None:
        """Start the parts, wait, and stop them in order."""
        settings = self._settings
        committer = make_committer(settings, stores.log, self._supervisor.wake)
        rejects = make_rejects(settings, committer)
        away = asyncio.Event()
        start, receiver = Start(committer.refuse, away.set), make_receiver(settings, committer, rejects)
        public = Listener(receiver.handle, on_unparsable=receiver.count_unparsable, take=receiver.take)
        health, running = self._health(stores, start, receiver), make_running(settings)
        api, observer = make_api(settings, stores), make_observer(settings, stores)
        reports = Stores(stores.log.in_turns(REPORT_TURNS), stores.projection.in_turns(REPORT_TURNS))
        tracing, contracts = make_tracing(settings, reports), make_contracts()
        feed, exports = make_feed(settings, stores), make_person_export(settings, reports)
        privacy = make_privacy_report(settings, reports)
        access = Access(tokens(settings), open_metrics=open_metrics(settings))
        verbs = repair_verbs(settings, stores, self._backfills, self._halted)
        console = make_console(settings, stores, access, health=health, own=self._own, verbs=verbs, ask=self._ask_about)
        shown = private_app(
            access, health, rejects, running, tracing, exports, privacy, contracts, console, feed, api,
            dress=console.dress,
        )  # fmt: skip
        private = Listener(shown)
        parts = LiveParts(
            committer, receiver, rejects, api, running, feed, tracing, exports, privacy, access, observer, console
        )
        presence = Presence(Peers(stores.log), self._own.which, self._reports, partial(self._details, receiver))
        door = public if "receiver" in self.roles else None
        doors = Doors(settings, door, private, roles=self._asked, given=self._given, away=away, on_taken=stop.set)
        stack.push_async_callback(doors.close_private)
        try:
            addresses = await doors.listen()
            async with beside([doors.accept_in_time()], doors.stop_waiting):
                jobs = await start.prepared(partial(self._prepare, stores, committer, receiver, stack), stop)
                if jobs is not None:  # else `stop` came first
                    on_ready = partial(on_ready, addresses)
                    await self._work(jobs, parts, presence, doors=doors, stop=stop, on_ready=on_ready)
        finally:
            await self._close_door(doors)

    async def _work(
        self,
        jobs: Jobs,
        parts: LiveParts,
        presence: Presence,
        *,
        doors: Doors,
        stop: asyncio.Event,
        on_ready: Callable[[], None],
    ) -> None:
        """Run the workers until `stop`; deliveries are accepted once they can be committed."""
        committer = parts.committer
        receiving = committer if "receiver" in self.roles else None
        standings = make_standings(self._settings, [*jobs.readers, *jobs.writers], receiving)
        note = partial(noted, self._own.trail, parts.receiver.refused_in_all)
        self._watch = Watch(parts.observer, standings, self._supervisor.states, note=note)
        await self._watch.look()
        committing = committer if self.roles & {"receiver", "backfill"} else None
        close_door = partial(self._close_door, doors)
        async with (
            beside([self._watch.run()], self._watch.stop),
            beside([presence.run()], presence.stop),
            self._supervisor.running(committing, writers=jobs.writers, readers=jobs.readers, close_door=close_door),
            beside([parts.feed.run()], parts.feed.stop),
        ):
            if committing is None:
                committer.connected.set()  # nothing is committed here, so nothing is waited for
            if await doors.open(committer.connected, stop):
                on_ready()
                await self._reloading(parts, stop)

    async def _reloading(self, parts: LiveParts, stop: asyncio.Event) -> None:
        """Let the parts have changed settings until `stop`."""
        files = self._files
        if files is None:
            await stop.wait()
            return

        def load() -> Settings:
            settings = files.load()
            if self._settings.tenants and not settings.tenants:
                raise ConfigError(NO_TENANTS)  # a file that is empty or cut off is valid
            possible(settings, self.roles)
            return settings

        self._reload = Reload(replace(files, load=load), self._settings, partial(self._apply, parts))
        async with beside([self._reload.run()], self._reload.stop):
            await stop.wait()

    def _apply(self, parts: LiveParts, settings: Settings) -> None:
        """Let all parts have changed settings in one go; the workers of tenants that have gone end."""
        gone = self._settings.tenants.keys() - settings.tenants.keys()
        roles = {*map(role_of, gone), *(f"watchdog.{slug}" for slug in gone)}
        self._supervisor.end(roles)
        if self._watch is not None:
            self._watch.forget(roles)
        for slug in gone:
            self._watchdogs.pop(slug, None)
            self._backfills.pop(slug, None)
        self._settings = settings
        parts.change(settings)

    async def _close_door(self, doors: Doors) -> None:
        """Show that the process stops, take no new delivery, and answer those that are under way."""
        if not self._draining:
            self._draining = True
            log.info("service.stopping")
            receiver = self._settings.receiver
            await doors.close_public(receiver.drain_s, leave_s=receiver.leave_s, idle_s=receiver.idle_s)

    async def _prepare(self, stores: Stores, committer: Committer, receiver: Receiver, stack: AsyncExitStack) -> Jobs:
        """Open the databases and make the workers; may be repeated where a database is away."""
        migrate = on_sqlite(self._settings)
        await make_ready(stores.log, log_target(self._settings), migrate=migrate)
        await make_ready(stores.projection, projection_target(self._settings), migrate=migrate)
        await check_suppressions(
            stores.log,
            privacy_key(self._settings),
            self._settings.privacy.suppressions_file,
            appends=bool(self.roles & {"receiver", "backfill"}),
        )
        return Jobs(await self._writers(stores, committer, receiver, stack), self._readers(stores))

    def _readers(self, stores: Stores) -> list[Job]:
        """Return the relay and the consumer, each where this process has the role; the latter also seals and blanks."""
        settings, kafka, jobs = self._settings, kafka_target(self._settings), []
        if kafka is not None and "relay" in self.roles:
            jobs.append(Job("relay", make_relay(settings, kafka, stores.log), settings.relay.poll_interval_s))
        if "consumer" in self.roles:
            jobs.append(Job("consumer", make_consumer(settings, stores), settings.consumer.poll_interval_s))
            if settings.sealer.enabled:
                look_s = min(LOOK_S, settings.sealer.interval_s)  # receivers elsewhere ring no bell here
                jobs.append(Job("sealer", make_sealer(settings, stores.log), look_s))
            jobs.append(Job("retention", make_retention(settings, stores), POLL_S))
            if (key := privacy_key(settings)) is not None:
                jobs.append(Job("forgetting", make_late_forgetting(settings, stores, key), late_ties.POLL_S))
        return jobs

    async def _writers(
        self, stores: Stores, committer: Committer, receiver: Receiver, stack: AsyncExitStack
    ) -> list[Job]:
        """Return a backfill for each tenant with a key, and a watchdog for each whose webhooks come in here."""
        upstream = Upstream(self._settings, stores.log.in_turns(REPAIR_TURNS), stores.projection.in_turns(REPAIR_TURNS))
        backfills = self._backfills
        backfills.clear()
        for slug in self._keyed if "backfill" in self.roles else ():
            accepted, lock = await upstream.accepted(slug), lock_of(stores.log, slug)
            backfills[slug] = upstream.backfill(slug, submit_to(committer), lock, accepted)
        for slug in self._settings.tenants if "receiver" in self.roles else ():
            rejects = partial(receiver.refused_signatures, slug)
            self._watchdogs[slug] = await upstream.watchdog(slug, stack, rejects)
            if slug in self._keyed and slug not in backfills:
                await upstream.ask_after_outage(slug)
        return [
            *(Job(role_of(slug), backfill, IDLE_S, GRACE_S) for slug, backfill in backfills.items()),
            *(Job(f"watchdog.{slug}", watchdog, WATCH_S, GRACE_S) for slug, watchdog in self._watchdogs.items()),
        ]

    async def _ask_about(self, slug: str, ticket_id: str) -> str | None:
        """Let the backfill look at one ticket; return in words why it cannot, None where it will."""
        backfill = self._backfills.get(slug)
        if backfill is None:
            return "This process has no backfill of this tenant: ask in the console of the one that has the role."
        if (why := self._halted(slug)) is not None:
            return why
        return None if backfill.ask_about(ticket_id) else "Enough tickets wait for an answer already: try again later."

    def _halted(self, slug: str) -> str | None:
        """Say why the backfill of a tenant has halted, None where it has not."""
        why = self._supervisor.halted.get(role_of(slug))
        return None if why is None else f"The backfill has halted: {why}"

    def _health(self, stores: Stores, start: Start, receiver: Receiver) -> Health:
        """Return the probes: they ask what this process knows of its roles at that moment."""
        return make_health(
            stores,
            self.roles,
            state=lambda: {} if self._watch is None else self._watch.problems(),
            details=lambda: self._details(receiver),
            starting=lambda: start.problem,
            draining=lambda: self._draining,
        )

    def _reports(self) -> Mapping[str, RoleReport]:
        """Say how each role of this process is, once it has any."""
        return {} if self._watch is None else self._watch.reports(now())

    def _details(self, receiver: Receiver) -> dict[str, object]:
        """Say how each worker is; a watchdog says what it sees, and the door what it thinks of its senders."""
        states = self._supervisor.states.items()
        details: dict[str, object] = {role: {"state": state, "why": why} for role, (state, why) in states}
        details |= {f"watchdog.{slug}": watchdog.detail for slug, watchdog in self._watchdogs.items()}
        return {**details, **receiver.details()} if "receiver" in self.roles else details
