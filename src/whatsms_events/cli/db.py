"""`db upgrade`: bring log and projection to the schema that this release needs."""

from whatsms_events.cli.options import DEFAULTS, SettingsOptions
from whatsms_events.cli.running import run
from whatsms_events.service.stores import log_target, projection_target
from whatsms_events.storage import database


def upgrade(*, options: SettingsOptions = DEFAULTS) -> int:
    """Migrate log and projection to what this release needs.

    On SQLite `serve` does it by itself, and `serve` alone makes a log that is not there.
    """
    settings = options.load()

    database.expect_log(log_target(settings))

    async def main() -> None:
        await database.upgrade("log", log_target(settings))
        await database.upgrade("projection", projection_target(settings))

    run(main())
    print("log and projection are at head")
    return 0
