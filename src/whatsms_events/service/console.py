"""Make the console of a process from its settings and its parts."""

from collections.abc import Callable, Mapping

from whatsms_events.clock import now
from whatsms_events.config.settings import Settings
from whatsms_events.domain.trail import Trail
from whatsms_events.service.parts import Stores
from whatsms_events.storage.log.secret_uses import SecretUses
from whatsms_events.storage.pulse import Pulse
from whatsms_events.storage.repair.reports import Reports
from whatsms_events.web.access import Access
from whatsms_events.web.console.assets import Assets
from whatsms_events.web.console.console import Console
from whatsms_events.web.console.frame import ConsoleTenant, Frame
from whatsms_events.web.console.now import NowPage, NowParts
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


def make_console(settings: Settings, stores: Stores, access: Access, health: Health, trail: Trail) -> Console:
    """Return the console; its pages stand in the menu in this order."""
    assets, sessions = Assets(), Sessions(access, now=now)
    frame = Frame(sessions, assets, console_tenants(settings), now=now)
    prefix = None if settings.kafka.bootstrap_servers is None else settings.kafka.topic_prefix
    seen = NowParts(
        health, Pulse(stores.log, stores.projection), Reports(stores.log), SecretUses(stores.log), trail, lambda: prefix
    )
    return Console(access, sessions, frame, assets, [NowPage(frame, seen)])
