"""This module migrates and checks the schema. alembic runs inside the package, without an ini file.

Log and projection each have their own migrations (`migrations/log`, `migrations/projection`) and version table. So
they can be in two SQLite files or in one PostgreSQL database.
"""

from functools import cache
from pathlib import Path
from typing import Final, Literal

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

Part = Literal["log", "projection"]

_HERE: Final = Path(__file__).parent / "migrations"
_MIGRATION_LOCK: Final = 0x77_68_61_74  # "what": several processes may start at once, one of them migrates


def configuration(part: Part, connection: Connection | None = None) -> Config:
    """Return what alembic has to know to migrate one part over a connection, or to read its scripts without one."""
    config = Config()
    config.set_main_option("script_location", str(_HERE).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.set_main_option("version_locations", str(_HERE / part).replace("%", "%%"))
    config.attributes["connection"] = connection
    config.attributes["version_table"] = version_table(part)
    return config


def version_table(part: Part) -> str:
    """Return the name of the table that says which migration this part is at."""
    return f"alembic_version_{part}"


@cache
def revisions(part: Part) -> tuple[str, ...]:
    """Return every migration this program knows, the newest first; loaded once, since readiness asks every second."""
    return tuple(script.revision for script in ScriptDirectory.from_config(configuration(part)).walk_revisions())


def current(connection: Connection, part: Part) -> str | None:
    """Return the migration the database is at, None for an empty one."""
    return MigrationContext.configure(connection, opts={"version_table": version_table(part)}).get_current_revision()


def problem(connection: Connection, part: Part) -> str | None:
    """Return None where the schema is at head, else one line that says what to do."""
    there, known = current(connection, part), revisions(part)
    if there == known[0]:
        return None
    if there is not None and there not in known:
        return f"the {part} schema is at {there}, which this release does not know: run the release that migrated it"
    wanted = f"this release needs {known[0]}: run `whatsms-events db upgrade`"
    return f"the {part} schema is at {there or 'nothing'}, {wanted}"


def upgrade(connection: Connection, part: Part) -> None:
    """Migrate to head inside the caller's transaction; a second process that waited finds nothing to do."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
    command.upgrade(configuration(part, connection), "head")
