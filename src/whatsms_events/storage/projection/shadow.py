"""The shadow: a second projection that a replay fills, beside the live one, with the same tables and the same code.

On SQLite the shadow is a file beside the projection's file. On PostgreSQL it is a schema of its own in the same
database, so that the names of tables and indexes are the same.
"""

from dataclasses import replace
from pathlib import Path
from typing import Final

from sqlalchemy import text

from whatsms_events.errors import ConfigError, StorageUnavailableError
from whatsms_events.storage import engines
from whatsms_events.storage.database import Database, DatabaseTarget, is_there, open_projection
from whatsms_events.storage.projection.apply import ProjectionState, load_state
from whatsms_events.storage.tables import projection_metadata
from whatsms_events.storage.trouble import state_of

SCHEMA: Final = "whatsms_shadow"

_INDEXES: Final = sorted(str(index.name) for table in projection_metadata.tables.values() for index in table.indexes)
"""A shadow is filled and compared by its keys alone, so the indexes for questions would only cost time and room."""

_MAY_NOT: Final = "42501"
_LEFT: Final = ("", "-wal", "-shm", "-journal", ".migrate.lock")


def patient(target: DatabaseTarget) -> DatabaseTarget:
    """Return the same database for a replay, whose questions read whole tables."""
    return replace(target, statement_timeout_s=engines.MIGRATION_TIMEOUT_S)


def shadow_of(live: DatabaseTarget) -> DatabaseTarget:
    """Return where the shadow of a projection is."""
    target = patient(live)
    if not live.is_sqlite:
        return replace(target, schema=SCHEMA)
    path = Path(live.url.removeprefix("sqlite:///"))
    return replace(target, url=f"sqlite:///{path.with_name(f'{path.stem}.shadow{path.suffix}')}")


async def has_shadow(projection: Database, target: DatabaseTarget) -> bool:
    """Tell whether there is a shadow, be it whole or only begun."""
    if target.is_sqlite:
        return is_there(target)
    async with projection.read() as connection:
        found = await connection.execute(text("SELECT to_regnamespace(:name) IS NOT NULL"), {"name": SCHEMA})
        return bool(found.scalar_one())


async def open_shadow(projection: Database, target: DatabaseTarget) -> Database:
    """Open the shadow, made where there is none. Raise ConfigError where the user may not make a schema."""
    if not target.is_sqlite and not await has_shadow(projection, target):
        try:
            async with projection.write() as connection:
                await connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
        except StorageUnavailableError as error:
            if error.__cause__ is None or state_of(getattr(error.__cause__, "orig", None)) != _MAY_NOT:
                raise
            raise ConfigError(
                f"a replay builds its tables in the schema {SCHEMA}, which this user may not make: as the owner of the "
                "database, GRANT CREATE ON DATABASE ... TO that user"
            ) from error
    shadow = await open_projection(target, migrate=True)
    try:
        async with shadow.write() as connection:
            for name in _INDEXES:
                await connection.execute(text(f"DROP INDEX IF EXISTS {name}"))
    except BaseException:
        await shadow.close()
        raise
    return shadow


async def shadow_state(target: DatabaseTarget) -> ProjectionState | None:
    """Return how far the shadow is, None where nothing was read yet. Nothing is written.

    Raise ConfigError where the shadow is not whole, or its schema is not that of this release.
    """
    shadow = await open_projection(target, migrate=False)
    try:
        async with shadow.read() as connection:
            return await load_state(connection)
    finally:
        await shadow.close()


async def analyse(shadow: Database) -> None:
    """Let PostgreSQL count what the shadow holds, so that it joins it with the live tables in a good way."""
    if shadow.path is None:
        names = ", ".join(name for name in projection_metadata.tables)
        async with shadow.write() as connection:
            await connection.execute(text(f"ANALYZE {names}"))


async def remove_shadow(projection: Database, target: DatabaseTarget) -> None:
    """Remove the shadow. Nobody may have it open."""
    if not target.is_sqlite:
        async with projection.write() as connection:
            await connection.execute(text(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE"))
        return
    path = Path(target.url.removeprefix("sqlite:///"))
    for suffix in _LEFT:  # the file first: what is left beside it is of no use alone
        path.with_name(path.name + suffix).unlink(missing_ok=True)
