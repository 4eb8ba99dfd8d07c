"""This module migrates and checks the schema. alembic runs inside the package, without an ini file.

Log and projection each have their own migrations (`migrations/log`, `migrations/projection`) and version table. So
they can be in two SQLite files or in one PostgreSQL database.

alembic itself is imported when something is to be migrated: every start would pay a tenth of its time for it, and finds
the schema at head.
"""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from sqlalchemy import Connection, inspect, text

if TYPE_CHECKING:
    from alembic.config import Config

Part = Literal["log", "projection"]

_HERE: Final = Path(__file__).parent / "migrations"
_MIGRATION_LOCK: Final = 0x77_68_61_74  # "what": several processes may start at once, one of them migrates


def configuration(part: Part, connection: Connection | None = None) -> "Config":
    """Return what alembic has to know to migrate one part over a connection, or to read its scripts without one."""
    from alembic.config import Config  # noqa: PLC0415 - see above

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
    """Return every migration this program knows, the newest first. Their files are named after them, in one line."""
    return tuple(sorted((path.stem for path in (_HERE / part).glob("*.py")), reverse=True))


def current(connection: Connection, part: Part) -> str | None:
    """Return the migration the database is at, None for an empty one."""
    if not inspect(connection).has_table(version_table(part)):
        return None
    found = connection.execute(text(f"SELECT version_num FROM {version_table(part)}"))  # noqa: S608 - a name of ours
    return found.scalar_one_or_none()


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
    from alembic import command  # noqa: PLC0415 - see above

    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
    command.upgrade(configuration(part, connection), "head")
