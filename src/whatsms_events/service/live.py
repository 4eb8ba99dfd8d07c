"""The parts of a running process that take changed settings, and how all of them take them in one go."""

from dataclasses import dataclass
from functools import partial

from whatsms_events.config.render import comparable
from whatsms_events.config.settings import Settings
from whatsms_events.service.console import console_tenants
from whatsms_events.service.parts import door_tenants, observed, open_metrics, tenant_ids, tokens
from whatsms_events.storage.log.committer import Committer
from whatsms_events.web.access import Access
from whatsms_events.web.api import Api
from whatsms_events.web.console.console import Console
from whatsms_events.web.export import PersonExport
from whatsms_events.web.feed import Feed
from whatsms_events.web.privacy import PrivacyReport
from whatsms_events.web.receiver import Receiver
from whatsms_events.web.rejects import Rejects
from whatsms_events.web.running import RunningSettings
from whatsms_events.web.trace import Tracing
from whatsms_events.workers.observer import Observer


@dataclass(frozen=True, slots=True)
class LiveParts:
    """What `config.change.LIVE` is about. `change` waits for nothing, so that no delivery is judged in between."""

    committer: Committer
    receiver: Receiver
    rejects: Rejects
    api: Api
    running: RunningSettings
    feed: Feed
    tracing: Tracing
    exports: PersonExport
    privacy: PrivacyReport
    access: Access
    observer: Observer
    console: Console

    def change(self, settings: Settings) -> None:
        """Let every part have the settings."""
        limits = settings.receiver
        self.committer.change(
            batch_limit=limits.batch_limit,
            queue_limit=limits.queue_limit,
            queue_limit_bytes=limits.in_flight_limit_bytes,
            shared=len(settings.tenants) > 1,
        )
        self.receiver.change(
            door_tenants(settings), in_flight_limit_bytes=limits.in_flight_limit_bytes, deadline_s=limits.deadline_s
        )
        self.rejects.change(tenant_ids(settings), limits.keep_rejects)
        self.api.change(tenant_ids(settings))
        self.feed.change(tenant_ids(settings), tokens(settings))
        self.running.change(partial(comparable, settings))
        self.tracing.change(tenant_ids(settings))
        self.exports.change(tenant_ids(settings))
        self.privacy.change(tenant_ids(settings))
        self.access.change(tokens(settings), open_metrics=open_metrics(settings))
        self.observer.change(*observed(settings))
        self.console.change(console_tenants(settings))
