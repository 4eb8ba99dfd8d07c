"""Make the demo's settings from those of the user: with a folder, a tenant and ports of its own."""

import fcntl
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from whatsms_events.config.settings import (
    BackfillSettings,
    DatabaseSettings,
    Settings,
    TenantSettings,
    WatchdogSettings,
)
from whatsms_events.errors import ConfigError
from whatsms_events.twin.rest.server import API_KEY

SLUG: Final = "demo"

REQUESTS_PER_MINUTE: Final = 60_000
"""What the twin's REST API allows: with the vendor's 300 the repair of 20 seconds would take a minute."""


@contextmanager
def prepared(settings: Settings) -> Iterator[Settings]:
    """Give settings for one run: fresh SQLite files, loopback, one tenant with a secret of its own.

    Raises ConfigError where there is no room for the files, or where another demo uses them.
    """
    folder = settings.data_dir / "demo"
    lock = folder / "demo.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()) and not lock.exists():
            raise ConfigError(f"data_dir: {folder} holds something that is not the demo's, choose another data_dir")
        file = lock.open("w")
    except OSError as exc:
        raise ConfigError(f"data_dir: cannot make the folder {folder}: {(exc.strerror or '').lower()}") from exc
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"data_dir: another demo runs in {folder}, give this one --set data_dir=FOLDER") from None
        for path in folder.iterdir():
            if path != lock:
                path.unlink()
        yield _demo_settings(settings, folder)


def _demo_settings(settings: Settings, folder: Path) -> Settings:
    tenant = TenantSettings.model_validate(
        {
            "tenant_id": f"demo-{secrets.token_hex(4)}",
            "webhook_secrets": {"current": secrets.token_hex(32)},
            "api_key": API_KEY,
        }
    )
    # One topic prefix belongs to one log, and this log is new.
    prefix = f"{settings.kafka.topic_prefix}-demo-{secrets.token_hex(4)}"
    return settings.model_copy(
        update={
            "data_dir": folder,
            "database": DatabaseSettings(),
            "kafka": settings.kafka.model_copy(update={"topic_prefix": prefix}),
            "public": settings.public.model_copy(update={"host": "127.0.0.1", "port": _free(settings.public.port)}),
            "private": settings.private.model_copy(update={"host": "127.0.0.1", "port": _free(settings.private.port)}),
            "backfill": BackfillSettings(
                requests_per_minute=REQUESTS_PER_MINUTE,
                messages="full",  # nobody gets a read receipt: it is the twin
                # Only when it is asked to, so that all of it is seen at the end.
                interval_s=0,
                outage_s=0,
                repair_interval_s=0,
                # The sending has stopped, so nothing is on its way.
                settle_s=0.2,
                absence_s=0.5,
            ),
            "watchdog": WatchdogSettings(),
            "tenants": {SLUG: tenant},
        }
    )


def while_sending(settings: Settings) -> Settings:
    """Return the settings of the service's own backfill: webhooks on their way have time to come."""
    changes = {"settle_s": 3.0, "absence_s": 3.0, "requests_per_minute": REQUESTS_PER_MINUTE // 10}
    return settings.model_copy(update={"backfill": settings.backfill.model_copy(update=changes)})


def _free(port: int) -> int:
    """Return the port if nobody listens there, else 0, which lets the system choose."""
    with socket.socket() as probe:
        return 0 if probe.connect_ex(("127.0.0.1", port)) == 0 else port
