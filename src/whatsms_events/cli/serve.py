"""`serve`: the service itself, until a signal asks it to stop."""

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from whatsms_events import logs
from whatsms_events.cli.options import DEFAULTS, SettingsOptions
from whatsms_events.cli.running import cause, run, spare_the_collector, stop_on_signals
from whatsms_events.config.settings import Settings
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

    with _addressed(settings):
        run(main())
    return 0


@contextmanager
def _addressed(settings: Settings) -> Iterator[None]:
    """Raise OSError again with the address that cannot be had and its setting, where a listener could not start."""
    try:
        yield
    except (OSError, BaseExceptionGroup) as raised:
        found = cause(raised)
        if isinstance(found, OSError) and (lines := list(_listeners_in_the_way(settings))):
            raise OSError(found.errno, "; ".join(lines)) from raised
        raise


def _listeners_in_the_way(settings: Settings) -> Iterator[str]:
    """Yield a line for each address that cannot be had. Each is tried again: event loops word the error differently."""
    for section, listener in (("public", settings.public), ("private", settings.private)):
        host, port = listener.host, listener.port
        try:
            for family, kind, protocol, _name, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                with socket.socket(family, kind, protocol) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(address)
        except OSError as exc:
            shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            says = (exc.strerror or type(exc).__name__).lower()
            yield f"cannot listen on {shown}: {says}; see {section}.host and {section}.port"
