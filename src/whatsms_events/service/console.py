"""Make the console of a process from its settings and its parts."""

from collections.abc import Callable, Mapping

from whatsms_events.clock import now
from whatsms_events.config.settings import Settings
from whatsms_events.domain.trail import Trail
from whatsms_events.service.parts import Stores, kafka_target
from whatsms_events.service.record_finder import RecordFinder
from whatsms_events.storage.log.secret_uses import SecretUses
from whatsms_events.storage.pulse import Pulse
from whatsms_events.storage.reads import Queries
from whatsms_events.storage.repair.reports import Reports
from whatsms_events.storage.trace import Traces
from whatsms_events.web.access import Access
from whatsms_events.web.console.acks import AcksPage
from whatsms_events.web.console.assets import Assets
from whatsms_events.web.console.console import Console, ConsolePage
from whatsms_events.web.console.conversations import AskRest, ConversationsPage
from whatsms_events.web.console.frame import ConsoleTenant, Frame
from whatsms_events.web.console.live import LivePage
from whatsms_events.web.console.now import NowPage, NowParts
from whatsms_events.web.console.passport import PassportPage
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
    settings: Settings, stores: Stores, access: Access, health: Health, trail: Trail, *, ask: AskRest
) -> Console:
    """Return the console; its pages stand in the menu in this order. `ask` has WhatSMS asked about a ticket."""
    assets, sessions = Assets(), Sessions(access, now=now)
    frame = Frame(sessions, assets, console_tenants(settings), now=now)
    prefix = None if settings.kafka.bootstrap_servers is None else settings.kafka.topic_prefix
    seen = NowParts(
        health, Pulse(stores.log, stores.projection), Reports(stores.log), SecretUses(stores.log), trail, lambda: prefix
    )
    queries, traces = Queries(stores.log, stores.projection), Traces(stores.log, stores.projection)
    finder = RecordFinder(stores.log, kafka_target(settings), settings.kafka.topic_prefix)
    pages: list[ConsolePage] = [
        NowPage(frame, seen),
        ConversationsPage(frame, queries, traces, ask),
        PassportPage(frame, queries, traces, finder.find),
        AcksPage(frame, queries),
        LivePage(frame, queries),
    ]
    return Console(access, sessions, frame, assets, pages)
