"""Make the parts that speak to the vendor's REST API from the settings: clients, backfills, watchdogs."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Final

from whatsms_events import clock
from whatsms_events.backfill.run import Plan
from whatsms_events.backfill.schedule import Accepted, was_away
from whatsms_events.backfill.worker import Backfill
from whatsms_events.config.checks import kept_days
from whatsms_events.config.settings import Settings, TenantSettings
from whatsms_events.domain.normalize import BODY_BYTES, data_limit_bytes
from whatsms_events.domain.verdicts import Append
from whatsms_events.storage.database import Database
from whatsms_events.storage.log.arrivals import Arrivals
from whatsms_events.storage.log.commit import Outcome
from whatsms_events.storage.log.committer import Committer
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.log.suppression import HeldSuppressions
from whatsms_events.storage.projection.holdings import Holdings
from whatsms_events.storage.repair.reports import Options, Reports
from whatsms_events.storage.repair.requests import Requests
from whatsms_events.storage.repair.runs import Checkpoints
from whatsms_events.storage.role_lock import RoleLock
from whatsms_events.whatsms import Client
from whatsms_events.whatsms.endpoint import Parameters
from whatsms_events.whatsms.limits import Budget, Limits
from whatsms_events.whatsms.transport import Waits, announce_retries
from whatsms_events.workers.watchdog import TicketProbe, Watchdog

Submit = Callable[[Append], Awaitable[Outcome]]

ATTEMPTS: Final = 6
"""Tries of one request to the vendor."""

SUBMIT_S: Final = 30.0
"""How long an observation may wait for its commit: longer than a delivery, whose sender waits for the answer."""

IDLE_S: Final = 1.0
WATCH_S: Final = 5.0
GRACE_S: Final = 3.0
"""How long a stopping process waits for the vendor's answer; a piece that is cut off goes on from its checkpoint."""


def keyed(settings: Settings) -> dict[str, TenantSettings]:
    """Return the tenants whose REST API can be read, by slug."""
    return {slug: tenant for slug, tenant in settings.tenants.items() if tenant.api_key is not None}


def role_of(slug: str) -> str:
    """Return the name of a tenant's backfill, as states, locks and log lines have it."""
    return f"backfill.{slug}"


def lock_of(log: Database, slug: str) -> RoleLock:
    """Return the lock that keeps a tenant's backfill to one process at a time."""
    return RoleLock(log, role_of(slug))


def plan_of(settings: Settings) -> Plan:
    """Return how backfills are made and when they are due."""
    backfill = settings.backfill
    return Plan(
        options=Options(details=backfill.details, messages=backfill.messages),
        page_size=backfill.page_size,
        interval_s=backfill.interval_s,
        outage_s=backfill.outage_s,
        repair_interval_s=backfill.repair_interval_s,
        settle_s=backfill.settle_s,
        absence_s=backfill.absence_s,
        gone_share=backfill.gone_share,
        data_limit_bytes=data_limit_bytes(max(BODY_BYTES, settings.receiver.body_limit_bytes)),
    )


def submit_to(committer: Committer) -> Submit:
    """Return what appends an observation, and waits for its commit."""
    return partial(committer.submit, deadline_s=SUBMIT_S)


class Upstream:
    """Makes what speaks to the vendor's API.

    All clients that have one key share its limits and its pauses; those of one tenant share the backfill's budget.
    """

    def __init__(
        self, settings: Settings, log: Database, projection: Database, *, now: Callable[[], datetime] = clock.now
    ) -> None:
        self._settings = settings
        self._log = log
        self._projection = projection
        self._now = now
        self._limits: dict[str, Limits] = {}
        self._budgets: dict[str, Budget] = {}
        announce_retries()

    def client(
        self,
        slug: str,
        *,
        limits: Limits | None = None,
        budget: Budget | None = None,
        attempts: int = ATTEMPTS,
        waits: Waits = Waits(),  # noqa: B008 - frozen
    ) -> Client:
        """Return a client with the tenant's key, which it must have."""
        whatsms, key = self._settings.whatsms, keyed(self._settings)[slug].api_key
        assert key is not None  # noqa: S101 - keyed
        secret = key.get_secret_value()
        shared = self._limits.setdefault(secret, Limits(requests_per_minute=whatsms.requests_per_minute))
        return Client(
            whatsms.base_url,
            secret,
            limits=limits or shared,
            parameters=Parameters(
                page=whatsms.page_parameter,
                limit=whatsms.limit_parameter,
                status=whatsms.status_parameter,
                campaign_status=whatsms.status_parameter,
            ),
            timeout_s=whatsms.timeout_s,
            attempts=attempts,
            waits=waits,
            budget=budget or self._budgets.setdefault(slug, Budget(self._settings.backfill.requests_per_minute)),
            now=self._now,
        )

    async def accepted(self, slug: str) -> Accepted:
        """Return what tells when the tenant's last webhook was accepted before now.

        It is called before the receiver opens: what was accepted until then shows how long an outage was.
        """
        tenant = self._settings.tenants[slug].tenant_id
        last = (await Arrivals(self._log, tenant).latest()).last

        async def last_accepted() -> datetime | None:
            return last

        return last_accepted

    def backfill(
        self,
        slug: str,
        submit: Submit,
        lock: RoleLock,
        accepted: Accepted,
        *,
        plan: Plan | None = None,
        client: Client | None = None,
    ) -> Backfill:
        """Return a tenant's backfill, which appends by `submit`."""
        key = self._settings.privacy.key
        plan, days = plan or plan_of(self._settings), kept_days(self._settings, slug, "texts_days")
        return Backfill(
            slug,
            self._settings.tenants[slug].tenant_id,
            client=client or self.client(slug),
            checkpoints=Checkpoints(self._log),
            requests=Requests(self._log),
            holdings=Holdings(self._projection),
            event_log=EventLog(self._log),
            submit=submit,
            lock=lock,
            plan=replace(plan, texts_s=plan.texts_s or 86_400 * days),
            now=self._now,
            last_accepted=accepted,
            suppressions=HeldSuppressions(self._log, None if key is None else key.get_secret_value().encode()),
        )

    async def reconcile(self, slug: str, committer: Committer, lock: RoleLock, options: Options) -> Backfill:
        """Return a backfill that makes the one reconcile that a command asked for: nothing is due by itself."""
        plan = replace(plan_of(self._settings), interval_s=0, outage_s=0, repair_interval_s=0)
        backfill = self.backfill(slug, submit_to(committer), lock, await self.accepted(slug), plan=plan)
        backfill.ask("reconcile", "command", options)  # the first that it is asked, so nothing waits before it
        return backfill

    async def ask_after_outage(self, slug: str) -> None:
        """Ask for a reconcile where no webhook was accepted for long before this receiver; once for each outage.

        The tenant's backfill is in another process, which did not start anew.
        """
        tenant, now, outage_s = self._settings.tenants[slug].tenant_id, self._now(), self._settings.backfill.outage_s
        if await was_away(Reports(self._log), tenant, await self.accepted(slug), outage_s, now):
            await Requests(self._log).ask(tenant, "outage", now)

    async def watchdog(self, slug: str, stack: AsyncExitStack, rejects: Callable[[], int]) -> Watchdog:
        """Return a tenant's watchdog, which asks for a reconcile of what was missed; the stack closes its client.

        Without a key it has no client, and only `rejects`, the signatures refused so far, show that silence is a fault.
        """
        settings, tenant = self._settings.watchdog, self._settings.tenants[slug].tenant_id
        probe = None
        if slug in keyed(self._settings):
            client = await stack.enter_async_context(self.client(slug))
            probe = TicketProbe(client, Holdings(self._projection), tenant)

        async def ask(cause: str) -> None:
            if probe is not None:  # else nobody can read what was missed
                await Requests(self._log).ask(tenant, cause, self._now())

        return Watchdog(
            slug,
            tenant,
            arrivals=Arrivals(self._log, tenant),
            rejects=rejects,
            probe=probe,
            gaps=settings.gaps,
            floor_s=settings.floor_s,
            probe_interval_s=settings.probe_interval_s,
            now=self._now,
            ask=ask,
        )
