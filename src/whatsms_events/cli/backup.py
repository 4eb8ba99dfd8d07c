"""`backup`: copy the SQLite files of a running service, proven."""

from pathlib import Path

from whatsms_events.cli.options import DEFAULTS, SettingsOptions
from whatsms_events.cli.progress import Steps
from whatsms_events.cli.running import run
from whatsms_events.clock import now
from whatsms_events.errors import ConfigError
from whatsms_events.service.stores import log_target, on_sqlite, projection_target
from whatsms_events.storage.backup import back_up
from whatsms_events.storage.database import place_of


def backup(*, to: Path, options: SettingsOptions = DEFAULTS) -> int:
    """Copy log and tables into a new folder while the service runs, and prove the copies; for SQLite.

    The copies are checked by SQLite and by `log verify`, on the disk, and named after the time in UTC. They hold names
    and texts of people, so only their owner can read them.

    Parameters
    ----------
    to
        The folder in which each backup gets a folder of its own.
    """
    settings = options.load()
    if not on_sqlite(settings):
        raise ConfigError(
            "backup: is for SQLite; of a PostgreSQL server take pg_dump or pg_basebackup, which copy log and tables as "
            "of one moment"
        )
    log, tables = (Path(place_of(target)) for target in (log_target(settings), projection_target(settings)))
    steps = Steps("backup: checking")
    made = run(back_up(log, tables, to, now(), on_progress=steps.at))
    print(f"{made.folder}: {made.size} bytes")
    print(
        f"the log up to position {made.log_through}, the tables up to position {made.applied_through}; both are right"
    )
    return 0
