"""`config check` and `config show`: what is wrong with the configuration, and where each setting comes from."""

from whatsms_events.cli.options import DEFAULTS, SettingsOptions
from whatsms_events.config.checks import NO_TENANTS, advice, kept_for_ever
from whatsms_events.config.render import render
from whatsms_events.config.settings import Settings
from whatsms_events.errors import ConfigError, StorageUnavailableError


def check(*, options: SettingsOptions = DEFAULTS) -> int:
    """Say every mistake of the configuration, a line each, and end with status 2; or say that it can be used.

    Beside that it says what is worth a second look, and what is kept of people for ever.
    """
    settings = options.load()
    if not settings.tenants:
        raise ConfigError(NO_TENANTS)
    for line in (*advice(settings), *_server_advice(settings), *kept_for_ever(settings)):
        print(line)
    print("the configuration can be used")
    return 0


def _server_advice(settings: Settings) -> list[str]:
    """Look at the PostgreSQL server, if it is there; raise ConfigError where no log can be on it."""
    if settings.database.url is None or not settings.database.url.startswith("postgresql:"):
        return []
    # Here, so that `config show` and `config check` do not wait for what only a server needs.
    from whatsms_events.cli.running import run  # noqa: PLC0415
    from whatsms_events.service.stores import log_target  # noqa: PLC0415
    from whatsms_events.storage.database import check_server  # noqa: PLC0415

    try:
        run(check_server(log_target(settings)))
    except StorageUnavailableError as exc:
        return [f"database.url: {exc}"]
    return []


def show(*, options: SettingsOptions = DEFAULTS) -> int:
    """Print every setting and where it comes from; secrets are not shown."""
    print(render(options.load()), end="")
    return 0
