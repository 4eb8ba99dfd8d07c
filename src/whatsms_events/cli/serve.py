"""`serve`: the service itself, until a signal asks it to stop."""

import asyncio
import os
import signal

import structlog

from whatsms_events import logs
from whatsms_events.cli.options import DEFAULTS, SettingsOptions
from whatsms_events.cli.running import run, spare_the_collector, stop_on_signals
from whatsms_events.errors import ConfigError
from whatsms_events.service.doors import Addresses
from whatsms_events.service.reload import SettingsFiles
from whatsms_events.service.roles import ROLES
from whatsms_events.service.service import Service
from whatsms_events.web.sockets import activated

log = structlog.get_logger()


def serve(*, roles: str = "receiver,relay,consumer,backfill", options: SettingsOptions = DEFAULTS) -> int:
    """Run the service until SIGTERM or SIGINT. SIGHUP lets it read its settings again, and halted roles look at once.

    Parameters
    ----------
    roles
        Which of receiver, relay, consumer and backfill this process has, with commas. The relay needs a Kafka, a
        backfill an API key.
    """
    settings = options.load()
    logs.configure(settings.logs.level)
    wanted = frozenset(role for role in ROLES if role in [name.strip() for name in roles.split(",")])
    unknown = [name for name in roles.split(",") if name.strip() not in ROLES]
    if unknown:
        raise ConfigError(f"--roles: unknown {', '.join(unknown)}; there are {', '.join(ROLES)}")
    files = SettingsFiles(options.load, options.fingerprint)
    service = Service(settings, wanted, given=activated(os.environ, os.getpid()), files=files)

    def on_ready(addresses: Addresses) -> None:
        spare_the_collector()
        log.info("service.ready", public=addresses.public, private=addresses.private, roles=sorted(service.roles))

    async def main() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, service.look_again)
        await service.run(stop_on_signals(), on_ready=on_ready)

    run(main())
    return 0
