"""A twin with its REST API, and log, projection and backfill beside it; the test moves the one clock that they share.

What stands for the door is `take`: it normalises a webhook and appends it, as the receiver does behind HTTP. The REST
half is spoken to over real HTTP.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any, Final

from whatsms_events.backfill.run import Plan, Report
from whatsms_events.backfill.worker import Backfill
from whatsms_events.config.settings import Privacy, Settings, TenantSettings, Whatsms
from whatsms_events.domain.events import from_micros
from whatsms_events.domain.normalize import normalize
from whatsms_events.domain.rows import COLUMNS, Table
from whatsms_events.domain.verdicts import Append
from whatsms_events.errors import FencedError, TransientError
from whatsms_events.service.parts import make_committer, make_consumer
from whatsms_events.service.stores import Stores
from whatsms_events.service.supervisor import Supervisor
from whatsms_events.service.upstream import Upstream, lock_of
from whatsms_events.storage import tables
from whatsms_events.storage.database import Database, DatabaseTarget, open_log, open_projection
from whatsms_events.storage.log.commit import Outcome
from whatsms_events.storage.log.committer import Committer
from whatsms_events.storage.repair.reports import Options
from whatsms_events.twin.account import Webhook
from whatsms_events.twin.entities import Ticket
from whatsms_events.twin.rest.limits import RestLimits
from whatsms_events.twin.rest.server import Rest, RestServer
from whatsms_events.twin.world import World
from whatsms_events.whatsms.limits import Budget, Limits
from whatsms_events.whatsms.transport import Waits
from whatsms_events.workers.consumer import Consumer

SLUG: Final = "acme"
TENANT: Final = "5f0c9a52-7d0f-4f0e-9c1f-2d6a5b1b7a10"
MAY: Final = datetime(2026, 5, 1, 8, tzinfo=UTC)
PIECES: Final = 2000
"""More than any run of these tests takes."""

KEY: Final = "sk_test_reconciling"
ALL: Final = Options(details="all", messages="off")
PATIENT = Waits()
HASTY = Waits(first_s=0.001, limit_s=0.002, jitter_s=0.0)
"""For tests in which the vendor's API fails: nobody waits long between two tries."""

PLAN: Final = Plan(
    options=ALL,
    page_size=100,
    interval_s=0,
    outage_s=0,
    repair_interval_s=0,
    settle_s=10,
    absence_s=60,
    gone_share=0.1,
)


@dataclass
class House:
    """The parts of one tenant, each open. `moving`: whether people go on living while the clock moves.

    While a backfill is driven the clock moves by `tick_s` whenever it waits, and after each `apply_each` of its pieces
    the projection is brought up to the log's end.
    """

    world: World
    rest: Rest
    url: str
    log: Database
    projection: Database
    committer: Committer
    consumer: Consumer
    plan: Plan = PLAN
    moving: bool = False
    dropping: bool = False
    attempts: int = 6
    waits: Waits = PATIENT
    tick_s: float = 1
    apply_each: int = 5
    privacy: Privacy = field(default_factory=Privacy)

    def now(self) -> datetime:
        """Return the world's time: nobody here has another."""
        return self.world.now

    def open_ticket(self) -> Ticket:
        """Return a ticket that is open."""
        return next(one for one in self.world.account.tickets.values() if one.status == "open")

    @property
    def tenant(self) -> str:
        """The tenant's id."""
        return self.world.account.tenant_id

    async def tick(self, seconds: float) -> None:
        """Let time pass; what people do meanwhile is announced, and taken in unless `dropping`."""
        to = self.world.now + timedelta(seconds=seconds)
        if self.moving:
            webhooks = self.world.advance(to)
            await self.take([] if self.dropping else webhooks)
        else:
            self.world.account.now = to

    def announced(self) -> list[Webhook]:
        """Return what the test's own changes to the account announce, without letting anybody live on."""
        webhooks = list(self.world.account.outbox)
        self.world.account.outbox.clear()
        return webhooks

    async def take(self, webhooks: Iterable[Webhook]) -> list[Outcome]:
        """Take webhooks in, in this order, and apply them."""
        async with asyncio.TaskGroup() as tasks:  # begun in this order, so appended in this order
            taken = [tasks.create_task(self.take_body(webhook.body)) for webhook in webhooks]
        await self.apply()
        return [one.result() for one in taken]

    async def take_body(self, body: bytes) -> Outcome:
        """Append one delivery."""
        event = normalize(body, tenant=self.tenant, received_at=self.now())
        return await self.committer.submit(Append(event, body, hashlib.sha256(body).digest()), deadline_s=60)

    async def apply(self) -> None:
        """Bring the projection up to the log's end; begin anew where somebody else moved it, as the loop does."""
        try:
            while await self.consumer.run_once():
                pass
        except FencedError:
            while await self.consumer.run_once():
                pass

    def backfill(self, *, limits: Limits | None = None, budget: Budget | None = None) -> Backfill:
        """Return a new backfill, as a process that just started has it."""
        settings = settings_of(self.world, self.url).model_copy(update={"privacy": self.privacy})
        upstream = Upstream(settings, self.log, self.projection, now=self.now)
        limits = limits or Limits(requests_per_minute=600_000)
        client = upstream.client(
            SLUG, limits=limits, budget=budget or Budget(), attempts=self.attempts, waits=self.waits
        )
        lock = lock_of(self.log, SLUG)
        return upstream.backfill(SLUG, self._submit, lock, self._last_accepted, plan=self.plan, client=client)

    async def _submit(self, item: Append) -> Outcome:
        return await self.committer.submit(item, deadline_s=60)

    async def _last_accepted(self) -> datetime | None:
        column = tables.event_log.c.received_at
        async with self.log.read() as connection:
            rows = await connection.execute(
                tables.event_log.select().with_only_columns(column).where(tables.event_log.c.origin == "webhook")
            )
            last = max(rows.scalars(), default=None)
        return None if last is None else from_micros(last)

    async def reconcile(self, options: Options = ALL, *, limit_s: float = 86_400) -> Report:
        """Run one reconcile to its end, the clock moving whenever it waits."""
        backfill = self.backfill()
        try:
            backfill.ask("reconcile", "command", options)
            return await self.drive(backfill, limit_s=limit_s)
        finally:
            await backfill.close()

    async def insist(self, options: Options = ALL) -> Report:
        """Run one reconcile to its end, again after each TransientError, as the loop does."""
        backfill = self.backfill()
        try:
            backfill.ask("reconcile", "command", options)
            for _ in range(PIECES):
                try:
                    return await self.drive(backfill)
                except TransientError:
                    await self.tick(10)
            raise AssertionError(f"never ends: {backfill.progress}")
        finally:
            await backfill.close()

    async def until(self, backfill: Backfill, reached: Callable[[], bool]) -> None:
        """Repeat the backfill's pieces until the moment is reached; let time pass for each that it waits."""
        for _ in range(PIECES):
            if reached():
                return
            if not await backfill.run_once():
                await self.tick(1)
            await self.apply()
        raise AssertionError(f"not reached: {backfill.progress}")

    async def drive(self, backfill: Backfill, *, limit_s: float = 86_400) -> Report:
        """Repeat the backfill's pieces until its run has finished; let time pass for each that it waits."""
        end = self.now() + timedelta(seconds=limit_s)
        for piece in count(1):
            if backfill.progress.finished:
                break
            assert self.now() < end, f"not finished within {limit_s:g} s: {backfill.progress}"
            worked = await backfill.run_once()
            if not worked:
                await self.tick(self.tick_s)
            if not worked or piece % self.apply_each == 0:
                await self.apply()
        await self.apply()
        report = backfill.progress.report
        assert report is not None
        return report

    async def events(self, origin: str | None = None) -> Counter[str]:
        """Count the log's events by type."""
        table = tables.event_log
        query = table.select().with_only_columns(table.c.type)
        if origin is not None:
            query = query.where(table.c.origin == origin)
        async with self.log.read() as connection:
            return Counter((await connection.execute(query)).scalars())

    async def held(self, name: Table) -> dict[str, dict[str, Any]]:
        """Return the rows of an entity's table by id, with `known` and `doubtful`."""
        table = getattr(tables, name)
        async with self.projection.read() as connection:
            rows = (await connection.execute(table.select())).mappings().all()
        return {row["id"]: {key: row[key] for key in ("known", "doubtful", *COLUMNS[name])} for row in rows}


@asynccontextmanager
async def house(
    database_url: str,
    projection_url: str,
    world: World,
    *,
    rest: Rest | None = None,
    plan: Plan = PLAN,
    moving: bool = False,
    kind: type[House] = House,
    privacy: Privacy | None = None,
) -> AsyncIterator[House]:
    """Open everything; the databases are migrated, the committer runs, the REST half listens."""
    rest = rest or Rest(world.account, api_key=KEY)
    rest.limits = RestLimits(requests=600_000)  # real minutes: the limits have tests of their own
    async with AsyncExitStack() as stack:
        log = await open_log(DatabaseTarget(url=database_url), migrate=True)
        stack.push_async_callback(log.close)
        projection = await open_projection(DatabaseTarget(url=projection_url), migrate=True)
        stack.push_async_callback(projection.close)
        server = await stack.enter_async_context(RestServer(rest))
        settings, supervisor = settings_of(world, server.url), Supervisor()
        settings = settings.model_copy(update={"privacy": privacy or Privacy()})
        committer = make_committer(settings, log, supervisor.wake)
        consumer = make_consumer(settings, Stores(log, projection))
        stack.push_async_callback(consumer.close)
        async with supervisor.running(committer, writers=[], readers=[]):
            made = kind(world, rest, server.url, log, projection, committer, consumer, plan=plan, moving=moving)
            made.privacy = settings.privacy
            yield made


def settings_of(world: World, url: str) -> Settings:
    """Return the settings of a service of the one tenant, whose REST API is at this URL."""
    tenant = {"tenant_id": world.account.tenant_id, "api_key": KEY, "webhook_secrets": {"current": "whsec-tests-only"}}
    return Settings(whatsms=Whatsms(base_url=url), tenants={SLUG: TenantSettings.model_validate(tenant)})


@asynccontextmanager
async def half_an_hour(folder: Path, privacy: Privacy | None = None) -> AsyncIterator[House]:
    """Give a house on SQLite, whose account lived for half an hour and whose webhooks all came."""
    world = World(7, start=MAY, tenant_id=TENANT, pace=0.2)
    urls = f"sqlite:///{folder}/log.db", f"sqlite:///{folder}/projection.db"
    async with house(*urls, world, privacy=privacy) as opened:
        await opened.take(world.advance(world.now + timedelta(minutes=30)))
        yield opened


def truth(world: World) -> Mapping[Table, dict[str, dict[str, Any]]]:
    """Return what the vendor's account holds, in the columns that REST can tell and that are right after one run.

    A ticket's time and last message move with each message: `servers.week` compares those, of an account at rest.
    """
    account = world.account
    contacts = {
        str(one.id): {
            "name": one.name,
            "number": one.number,
            "email": one.email,
            "is_group": one.is_group,
            "profile_pic_url": one.profile_pic_url,
        }
        for one in account.contacts.values()
    }
    tickets = {
        str(one.id): {
            "status": one.status,
            "channel": one.channel,
            "contact_id": str(one.contact.id),
            "user_id": None if one.user is None else str(one.user.id),
            "queue_id": None if one.queue is None else str(one.queue.id),
        }
        for one in account.tickets.values()
    }
    campaigns = {
        str(one.id): {
            "name": one.name,
            "status": one.status,
            "sent_count": one.sent_count,
            "failed_count": one.failed_count,
        }
        for one in account.campaigns.values()
    }
    return {"contact": contacts, "ticket": tickets, "campaign": campaigns}


def true_messages(world: World) -> dict[str, dict[str, Any]]:
    """Return the messages that stand in a ticket's list, in the columns that REST can tell."""
    return {
        str(one.id): {
            "body": one.body,
            "from_me": one.from_me,
            "media_type": one.media_type,
            "media_url": one.media_url,
            "deleted": one.deleted,
            "ticket_id": str(one.ticket.id),
        }
        for one in world.account.messages.values()
        if one.ticket is not None
    }


def differences(
    held: Mapping[str, Mapping[str, Any]], wanted: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, tuple[Any, Any]]]:
    """Return per id the columns that differ, held and wanted; nothing, empty and false are the same."""
    found: dict[str, dict[str, tuple[Any, Any]]] = {}
    for one, columns in wanted.items():
        row = held.get(one)
        if row is None or not row["known"]:
            found[one] = {"known": (False, True)}
            continue
        different = {
            name: (row[name], value) for name, value in columns.items() if (row[name] or None) != (value or None)
        }
        if different:
            found[one] = different
    return found


def with_plan(plan: Plan, **changes: Any) -> Plan:
    """Return the plan with these values."""
    return replace(plan, **changes)
