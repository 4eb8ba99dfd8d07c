"""Open the two databases of a process, the event log and the projection, as its settings name them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from whatsms_events.config.settings import Settings
from whatsms_events.storage.database import Database, DatabaseTarget, open_log, open_projection, unopened


@dataclass(frozen=True, slots=True)
class Stores:
    """The two databases of a process: the event log, and the projection."""

    log: Database
    projection: Database


def log_target(settings: Settings) -> DatabaseTarget:
    """Return where the event log is."""
    return _target(settings, settings.data_dir.absolute() / "log.db")


def projection_target(settings: Settings) -> DatabaseTarget:
    """Return where the projection is: a file beside the log on SQLite, the same database on PostgreSQL."""
    url = settings.database.url
    if url is not None and url.startswith("sqlite"):
        beside = Path(log_target(settings).url.removeprefix("sqlite:///")).with_name("projection.db")
        return DatabaseTarget(url=f"sqlite:///{beside}")
    return _target(settings, settings.data_dir.absolute() / "projection.db")


def _target(settings: Settings, file: Path) -> DatabaseTarget:
    database = settings.database
    return DatabaseTarget(
        url=database.url or f"sqlite:///{file}",
        password=database.password.get_secret_value() if database.password else None,
        tls=database.tls,
        tls_ca_file=database.tls_ca_file,
    )


@asynccontextmanager
async def unopened_stores(settings: Settings) -> AsyncIterator[Stores]:
    """Give both databases before anything is asked of them; they may be away. They are closed at the end."""
    log = unopened("log", log_target(settings))
    try:
        projection = unopened("projection", projection_target(settings))
        try:
            yield Stores(log, projection)
        finally:
            await projection.close()
    finally:
        await log.close()


@asynccontextmanager
async def opened_log(settings: Settings, *, migrate: bool = False, even_moved: bool = False) -> AsyncIterator[Database]:
    """Give the log, checked and perhaps migrated; raise StorageUnavailableError where it is away."""
    log = await open_log(log_target(settings), migrate=migrate, even_moved=even_moved)
    try:
        yield log
    finally:
        await log.close()


@asynccontextmanager
async def opened_stores(settings: Settings, *, migrate: bool = False) -> AsyncIterator[Stores]:
    """Give both databases, checked and perhaps migrated; raise StorageUnavailableError where one is away."""
    async with opened_log(settings, migrate=migrate) as log:
        projection = await open_projection(projection_target(settings), migrate=migrate)
        try:
            yield Stores(log, projection)
        finally:
            await projection.close()


def on_sqlite(settings: Settings) -> bool:
    """Tell whether log and projection are files: those are this process's own, so it migrates them by itself."""
    return log_target(settings).url.startswith("sqlite")
