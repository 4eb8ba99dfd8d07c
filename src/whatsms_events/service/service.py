"""Settings and roles in, a running service out: the roles of one process, started and stopped in order.

start   both listeners, databases (waited for: until then 503), observer, committer, relay, consumer, backfills
stop    not ready any more, no new deliveries, those in flight answered, committer, workers, databases
"""

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, get_args

import structlog

from whatsms_events import __version__, metrics
from whatsms_events.backfill.worker import Backfill
from whatsms_events.config.checks import NO_TENANTS
from whatsms_events.config.settings import Settings
from whatsms_events.errors import ConfigError
from whatsms_events.service.parts import (
    kafka_target,
    log_target,
    make_api,
    make_committer,
    make_consumer,
    make_receiver,
    make_relay,
    projection_target,
)
from whatsms_events.service.standings import Standings
from whatsms_events.service.start import Start
from whatsms_events.service.upstream import GRACE_S, IDLE_S, WATCH_S, Upstream, keyed, lock_of, plan_of, role_of
from whatsms_events.storage.database import Database, make_ready, schema_problem, unopened
from whatsms_events.storage.engines import REPAIR_TURNS
from whatsms_events.storage.log.committer import Committer
from whatsms_events.storage.reads import write_problem
from whatsms_events.web.app import Listener, private_app, public_app
from whatsms_events.web.health import Check, Health
from whatsms_events.workers.loop import AGAIN, Bell, RoleState, Worker, run, run_within
from whatsms_events.workers.observer import Observer
from whatsms_events.workers.watchdog import Watchdog

log = structlog.get_logger()

Role = Literal["receiver", "relay", "consumer", "backfill"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)

_LACKING: Final[dict[Role, str]] = {
    "relay": "the relay needs kafka.bootstrap_servers",
    "backfill": "a backfill needs tenants.<slug>.api_key",
}

NEEDS: Final[dict[Role, tuple[str, ...]]] = {
    "receiver": ("log_writable", "log_schema"),  # a delivery is accepted where the log is: that is enough
    "relay": ("log_writable", "log_schema"),
    "consumer": ("log_schema", "projection_schema"),
    "backfill": ("log_writable", "log_schema", "projection_schema"),
}
"""Which checks each role needs."""

CHECKS: Final = 3
"""The relay's place moves when it checks what is visible; it may miss some."""

RUN_STILL_S: Final = 900.0
"""A run is saved at each answer of the vendor's; a pause after 429 is two minutes at most, and may come again."""

OBSERVE_S: Final = 1.0
OBSERVE_BACKFILLS: Final = 5
"""Looks at the backfills are dearer: one of so many."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the two listeners are; `public` is None without the receiver's role."""

    public: str | None
    private: str


@dataclass(frozen=True, slots=True)
class Stores:
    """The open databases, and the one writer of the log."""

    log: Database
    projection: Database
    committer: Committer


@dataclass(frozen=True, slots=True)
class Post:
    """A worker and how it is repeated; with a grace the piece that still goes on so long after the stop is cut off."""

    role: str
    worker: Worker
    bell: Bell
    idle_s: float
    grace_s: float | None = None


class Service:
    """One process of the service: its parts, and the order in which they start and stop."""

    def __init__(self, settings: Settings, roles: frozenset[Role] = frozenset(ROLES)) -> None:
        """Take what is to run; the relay needs a Kafka and a backfill an API key: without them a role is left out."""
        self._settings = settings
        self._kafka = kafka_target(settings)
        self._keyed = keyed(settings)
        lacking = {role: why for role, why in _LACKING.items() if not self._has(role) and role in roles}
        self.roles = roles - lacking.keys()
        if not self.roles:
            raise ConfigError(*(f"roles: {why}" for why in lacking.values()))
        if "receiver" in self.roles and not settings.tenants:
            raise ConfigError(NO_TENANTS)
        self._unkeyed = sorted(settings.tenants.keys() - self._keyed.keys()) if "backfill" in roles else []
        self._reading = {"relay": Bell(), "consumer": Bell()}
        self._repairing = Bell()
        self._observing = Bell()
        self._states: dict[str, tuple[RoleState, str]] = {}
        self._watchdogs: dict[str, Watchdog] = {}
        self._senders: Callable[[], Mapping[str, object]] = dict
        self._refused: Callable[[str], int] = lambda _slug: 0
        self._standings: Standings | None = None
        self._draining = False

    def _has(self, role: Role) -> bool:
        """Tell whether the settings have what a role needs."""
        return {"relay": self._kafka is not None, "backfill": bool(self._keyed)}.get(role, True)

    def look_again(self) -> None:
        """Let every role that halted, or backs off, look at once."""
        log.info("service.looking")
        for bell in (*self._reading.values(), self._repairing):
            bell.hurry()

    async def run(self, stop: asyncio.Event, *, on_ready: Callable[[Addresses], None]) -> None:
        """Serve until `stop` is set.

        A database that is away is waited for; `on_ready` is called after that. Raises ConfigError, or OSError for a
        port that is taken, in a group.
        """
        metrics.BUILD.info({"version": __version__})
        async with AsyncExitStack() as stack:
            log_database = unopened("log", log_target(self._settings))
            stack.push_async_callback(log_database.close)
            projection = unopened("projection", projection_target(self._settings))
            stack.push_async_callback(projection.close)
            stores = Stores(log_database, projection, make_committer(self._settings, log_database, self._ring))
            for slug in self._unkeyed:
                log.info("backfill.off", tenant=slug, reason="the tenant has no api_key")
            await self._run(stop, on_ready, stores, stack)

    async def _run(
        self, stop: asyncio.Event, on_ready: Callable[[Addresses], None], stores: Stores, stack: AsyncExitStack
    ) -> None:
        """Start the parts, wait, and stop them in order."""
        settings, committer = self._settings, stores.committer
        start = Start(committer.refuse)
        receiver = make_receiver(settings, committer)
        if "receiver" in self.roles:
            self._senders, self._refused = receiver.details, receiver.refused_signatures
        public = Listener(public_app(receiver), on_unparsable=receiver.count_unparsable)
        private = Listener(private_app(make_api(settings, stores.log, stores.projection), self._health(stores, start)))
        observer = self._observer(stores)
        flushed = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            try:
                private_url = await private.start(settings.private.host, settings.private.port)
                public_url = None
                if "receiver" in self.roles:
                    public_url = await public.start(settings.public.host, settings.public.port)
                posts = await start.prepared(partial(self._prepare, stores, stack), stop)
                if posts is not None:
                    self._standings = self._stand(posts, committer)
                    await self._look(observer, 0)
                    tasks.create_task(self._observe(observer))
                    if self.roles & {"receiver", "backfill"}:
                        tasks.create_task(committer.run(flushed))
                    for post in posts:
                        tasks.create_task(self._repeat(post))
                    on_ready(Addresses(public_url, private_url))
                    await stop.wait()
            finally:
                self._draining = True
                log.info("service.stopping")
                self._repairing.stop()
                await public.stop(settings.receiver.drain_s)
                flushed.set()
                for bell in (*self._reading.values(), self._observing):
                    bell.stop()
        await private.stop(1.0)
        log.info("service.stopped")

    async def _prepare(self, stores: Stores, stack: AsyncExitStack) -> Sequence[Post]:
        """Open the databases and make the workers; may be repeated where a database is away."""
        on_sqlite = stores.log.path is not None  # one process, one file: it migrates by itself
        await make_ready(stores.log, log_target(self._settings), migrate=on_sqlite)
        await make_ready(stores.projection, projection_target(self._settings), migrate=on_sqlite)
        return [*self._readers(stores), *await self._repairers(stores, stack)]

    async def _repeat(self, post: Post) -> None:
        """Run one worker. Halted workers end no process: its restart would fence others, and a look does not."""
        on_state = partial(self._note, post.role)
        running = run if post.grace_s is None else partial(run_within, grace_s=post.grace_s)
        await running(post.role, post.worker, post.bell, idle_s=post.idle_s, on_state=on_state)

    def _note(self, role: str, state: RoleState, why: str) -> None:
        self._states[role] = (state, f"{why}. {AGAIN}" if state == "halted" else why)

    async def _observe(self, observer: Observer) -> None:
        """Keep the gauges true whatever the workers do: one that has halted or backs off measures nothing."""
        for turn in itertools.count(1):
            await self._observing.wait(OBSERVE_S)
            if self._observing.stopping:
                return
            await self._look(observer, turn)

    async def _look(self, observer: Observer, turn: int) -> None:
        await observer.look()
        if self._standings is not None:
            self._standings.look(asyncio.get_running_loop().time(), self._states, observer.seen)
        if turn % OBSERVE_BACKFILLS == 0:
            await observer.look_at_backfills({slug for slug in self._keyed if role_of(slug) in self._halted()})

    def _halted(self) -> set[str]:
        return {role for role, (state, _why) in self._states.items() if state == "halted"}

    def _ring(self, _end: int) -> None:
        """Wake whoever reads the log in this process."""
        for bell in self._reading.values():
            bell.ring()

    def _observer(self, stores: Stores) -> Observer:
        return Observer(
            stores.log,
            stores.projection,
            prefix=self._settings.kafka.topic_prefix if self._kafka is not None else None,
            slugs={tenant.tenant_id: slug for slug, tenant in self._keyed.items()},
        )

    def _readers(self, stores: Stores) -> list[Post]:
        settings, posts = self._settings, []
        if self._kafka is not None and "relay" in self.roles:
            relay = make_relay(settings, self._kafka, stores.log)
            posts.append(Post("relay", relay, self._reading["relay"], settings.relay.poll_interval_s))
        if "consumer" in self.roles:
            consumer = make_consumer(settings, stores.log, stores.projection)
            posts.append(Post("consumer", consumer, self._reading["consumer"], settings.consumer.poll_interval_s))
        return posts

    async def _repairers(self, stores: Stores, stack: AsyncExitStack) -> list[Post]:
        """Return a backfill for each tenant with a key, and a watchdog for each whose webhooks come in here."""
        shared = [store.in_turns(REPAIR_TURNS) for store in (stores.log, stores.projection)]
        upstream, posts = Upstream(self._settings, *shared), []
        backfills: dict[str, Backfill] = {}
        if "backfill" in self.roles:
            plan = plan_of(self._settings)
            for slug in self._keyed:
                backfills[slug] = await upstream.backfill(slug, stores.committer, lock_of(stores.log, slug), plan)
        for slug, backfill in backfills.items():
            posts.append(Post(role_of(slug), backfill, self._repairing, IDLE_S, GRACE_S))
        if "receiver" in self.roles:
            for slug in self._settings.tenants:
                watchdog = await upstream.watchdog(slug, stack, backfills.get(slug), partial(self._refused, slug))
                self._watchdogs[slug] = watchdog
                posts.append(Post(f"watchdog.{slug}", watchdog, self._repairing, WATCH_S, GRACE_S))
        return posts

    def _stand(self, posts: Sequence[Post], committer: Committer) -> Standings:
        """Return the watch over what runs in this process."""
        waits_s = max(self._settings.backfill.settle_s, self._settings.backfill.absence_s)
        return Standings(
            [post.role for post in posts],
            (lambda: committer.problem) if "receiver" in self.roles else None,
            kafka=self._kafka is not None,
            limits={"relay": CHECKS * self._settings.relay.check_interval_s, "backfill": RUN_STILL_S + waits_s},
        )

    def _health(self, stores: Stores, start: Start) -> Health:
        checks: dict[str, Check] = {
            "log_writable": lambda: write_problem(stores.log),
            "log_schema": lambda: schema_problem(stores.log),
            "projection_schema": lambda: schema_problem(stores.projection),
        }
        needs: dict[str, tuple[str, ...]] = {role: NEEDS[role] for role in self.roles}
        wanted = {name for names in needs.values() for name in names}
        return Health(
            checks={name: check for name, check in checks.items() if name in wanted},
            needs=needs,
            roles=lambda: {} if self._standings is None else self._standings.problems(self._states),
            details=self._details,
            starting=lambda: start.problem,
            draining=lambda: self._draining,
        )

    def _details(self) -> dict[str, object]:
        """Say how each worker is; a watchdog says what it sees, and the door what it thinks of its senders."""
        states: dict[str, object] = {role: {"state": state, "why": why} for role, (state, why) in self._states.items()}
        states |= {f"watchdog.{slug}": watchdog.detail for slug, watchdog in self._watchdogs.items()}
        return states | dict(self._senders())
