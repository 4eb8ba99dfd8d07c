"""Make the console of a process from its settings and its parts."""

from collections.abc import Callable, Mapping
from functools import partial

from whatsms_events.backfill.worker import Backfill
from whatsms_events.clock import now
from whatsms_events.config.settings import Settings
from whatsms_events.domain.trail import Trail
from whatsms_events.service.parts import kafka_target, privacy_key, terms_of
from whatsms_events.service.record_finder import RecordFinder
from whatsms_events.service.stores import Stores
from whatsms_events.service.upstream import plan_of, role_of
from whatsms_events.storage.difference import Differences
from whatsms_events.storage.engines import CONSOLE_TURNS
from whatsms_events.storage.log.blanking import BLANKING
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.log.parked import Parked
from whatsms_events.storage.log.peers import Peers
from whatsms_events.storage.log.retry import DeliveryRetry
from whatsms_events.storage.log.secret_uses import SecretUses
from whatsms_events.storage.projection.apply import Projection
from whatsms_events.storage.projection.parked import ParkedEvents
from whatsms_events.storage.projection.retry import Retry
from whatsms_events.storage.pulse import Pulse
from whatsms_events.storage.reads import Queries
from whatsms_events.storage.repair.reports import Options, Reports
from whatsms_events.storage.repair.runs import Checkpoints
from whatsms_events.storage.role_holders import role_holders
from whatsms_events.storage.trace import Traces
from whatsms_events.web.access import Access
from whatsms_events.web.console.acks import AcksPage
from whatsms_events.web.console.assets import shipped_assets
from whatsms_events.web.console.console import Console, ConsolePage
from whatsms_events.web.console.conversations import AskRest, ConversationsPage
from whatsms_events.web.console.frame import ConsoleTenant, Frame
from whatsms_events.web.console.live import LivePage
from whatsms_events.web.console.now import NowPage, NowParts, OwnNow
from whatsms_events.web.console.parked import ParkedPage, ParkedParts
from whatsms_events.web.console.passport import PassportPage
from whatsms_events.web.console.repair import RepairPage, RepairVerbs
from whatsms_events.web.console.sessions import Sessions
from whatsms_events.web.health import Health
from whatsms_events.workers.observer import DatabaseView


def console_tenants(settings: Settings) -> Mapping[str, ConsoleTenant]:
    """Return what the console knows of each tenant, by slug."""
    return {
        slug: ConsoleTenant(one.tenant_id, tuple(one.webhook_secrets), one.api_key is not None)
        for slug, one in settings.tenants.items()
    }


def noted(trail: Trail, rejected: Callable[[], int], seen: DatabaseView) -> None:
    """Note how far everything is; `rejected` counts the signatures that this process refused."""
    far = {"received": seen.end, "published": seen.published, "applied": seen.applied}
    trail.note(now(), {**far, "rejected": rejected()})


def make_console(
    settings: Settings,
    stores: Stores,
    access: Access,
    *,
    health: Health,
    own: OwnNow,
    verbs: RepairVerbs,
    ask: AskRest,
) -> Console:
    """Return the console; its pages stand in the menu in this order. `ask` has WhatSMS asked about a ticket."""
    stores = Stores(stores.log.in_turns(CONSOLE_TURNS), stores.projection.in_turns(CONSOLE_TURNS))
    assets, sessions = shipped_assets(), Sessions(access, now=now)
    frame = Frame(sessions, assets, console_tenants(settings), now=now)
    kafka, prefix = kafka_target(settings), settings.kafka.topic_prefix
    find = RecordFinder(stores.log, kafka, prefix).find
    pulse, reports, event_log = Pulse(stores.log, stores.projection), Reports(stores.log), EventLog(stores.log)
    queries, traces = Queries(stores.log, stores.projection), Traces(stores.log, stores.projection)
    published = prefix if kafka is not None else None
    seen = NowParts(
        health, pulse, reports, SecretUses(stores.log),
        prefix=lambda: published,
        own=own,
        peers=Peers(stores.log).all,
        holders=lambda: role_holders(stores.log, _locked(frame, relays=kafka is not None)),
    )  # fmt: skip
    pages: list[ConsolePage] = [
        NowPage(frame, seen),
        ConversationsPage(frame, queries, traces, ask),
        PassportPage(frame, queries, traces, find, partial(own.trail.passed, "applied")),
        AcksPage(frame, queries),
        ParkedPage(frame, _parked_parts(settings, stores, frame, pulse)),
        RepairPage(frame, reports, Differences(traces, event_log), verbs),
        LivePage(frame, queries),
    ]
    return Console(access, sessions, frame, assets, pages)


def _locked(frame: Frame, *, relays: bool) -> list[str]:
    """Return the roles that one process has at a time, as their locks are called."""
    keyed = [role_of(slug) for slug, one in frame.tenants.items() if one.keyed]
    return [*(["relay"] if relays else []), "consumer", "sealer", BLANKING, *keyed]


def _parked_parts(settings: Settings, stores: Stores, frame: Frame, pulse: Pulse) -> ParkedParts:
    """Return what the page of parked things asks, and what its buttons do."""
    parked, events = Parked(stores.log, privacy_key(settings)), ParkedEvents(stores.projection)
    retry = Retry(Projection(stores.projection), events, EventLog(stores.log))
    tenants = DeliveryRetry(parked, lambda: [one.tenant_id for one in frame.tenants.values()])
    return ParkedParts(pulse, parked, events, tenants, retry, terms_of(settings))


def repair_verbs(
    settings: Settings, stores: Stores, backfills: Mapping[str, Backfill], halted: Callable[[str], str | None]
) -> RepairVerbs:
    """Return what the console's buttons do about runs; `backfills` are those of this process, once it has started.

    `halted` says why the backfill of a tenant has halted, None where it has not.
    """

    def ask(slug: str, options: Options) -> str | None:
        why = halted(slug)
        if why is None and (waits := backfills[slug].ask("reconcile", "console", options)) is not None:
            why = f"Nothing was begun: {waits}. Ask again once that one has begun."
        return why

    async def stop(tenant: str, holder: str, run: int | None) -> int | None:
        return await Checkpoints(stores.log).stop(tenant, holder, now(), run=run)

    usual = plan_of(settings).options
    return RepairVerbs(here=backfills.keys, ask=ask, stop=stop, usual=lambda: usual, halted=halted)
