"""This module copies the two SQLite files while the service writes to them, and proves the copies before it keeps them.

The projection is copied first and the log afterwards, each as of one moment. So the log of a backup is never older than
what its projection has applied, and after a restore the consumer goes on from its own checkpoint.

A backup is a folder that appears at its place as a whole: its files are on the disk before it gets its name.
"""

import asyncio
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from sqlalchemy import select

from whatsms_events.errors import ConfigError, IntegrityError, NotFoundError, StorageUnavailableError
from whatsms_events.storage import engines
from whatsms_events.storage.database import Database, DatabaseTarget, expect_log, is_there, open_log, open_projection
from whatsms_events.storage.log.verify import CheckedLog, verify
from whatsms_events.storage.tables import event_log, projection
from whatsms_events.storage.trouble import translated

UNFINISHED_PREFIX: Final = ".unfinished-"
PAGES: Final = 4096
"""Pages in one step (16 MiB): a signal is obeyed between two steps."""

STEPS: Final = 100_000
"""Instructions of SQLite's machine between two looks whether the check of the copy shall stop."""

LOG_FILE: Final = "log.db"
PROJECTION_FILE: Final = "projection.db"
_PRIVATE_FOLDER: Final = 0o700


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that was proven: its folder, and how far its log and its projection are."""

    folder: Path
    log_through: int
    applied_through: int
    size: int


async def back_up(
    log: Path, tables: Path, folder: Path, now: datetime, *, on_progress: Callable[[int, int], None]
) -> Backup:
    """Copy both files into a new folder below `folder`, prove the copies, and return what they hold.

    Raise ConfigError where the folder cannot be used, StorageUnavailableError where a copy cannot be written, and
    IntegrityError where a copy is not right, so the database is not; then nothing is left that looks like a backup.
    Where a file is not there, NotFoundError says what makes it.
    """
    expect_log(_target(log))
    if not is_there(_target(tables)):
        raise NotFoundError(
            f"there are no tables at {tables}: `serve` with the role consumer makes them from the log; else see "
            "--config and data_dir"
        )
    target = folder / f"{now:%Y%m%dT%H%M%SZ}"
    unfinished = folder / f"{UNFINISHED_PREFIX}{target.name}"
    _make_room(log, tables, folder, target, unfinished)
    try:
        for source, name in ((tables, PROJECTION_FILE), (log, LOG_FILE)):
            with translated():
                await _copied(source, unfinished / name)
        checked, applied_through = await _prove(unfinished, on_progress)
        size = sum(path.stat().st_size for path in unfinished.iterdir())
        with translated():
            _keep(unfinished, target)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return Backup(target, checked.through, applied_through, size)


def _make_room(log: Path, tables: Path, folder: Path, target: Path, unfinished: Path) -> None:
    needed = sum(_size(path) for path in (log, tables))
    try:
        folder.mkdir(mode=_PRIVATE_FOLDER, parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if target.exists():
            raise ConfigError(f"--to: {target} is there already")
        unfinished.mkdir(mode=_PRIVATE_FOLDER)
    except OSError as exc:
        raise ConfigError(f"--to: {folder} cannot be used: {exc.strerror or type(exc).__name__}") from exc
    if free < needed:
        unfinished.rmdir()
        raise ConfigError(f"--to: {folder} has {free} free bytes, and {needed} are needed")


def _size(path: Path) -> int:
    """Return the bytes of a database: what is still beside it is written into it."""
    return sum(one.stat().st_size for one in (path, path.with_name(f"{path.name}-wal")) if one.exists())


async def _copied(source: Path, target: Path) -> None:
    """Copy a database in a thread; where the caller is cancelled, wait until the thread has stopped.

    It would go on writing into a folder that is removed, or that the next backup has made again.
    """
    stop = threading.Event()
    copying = asyncio.get_running_loop().run_in_executor(None, _copy, source, target, stop)
    try:
        await asyncio.shield(copying)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([copying])
        copying.exception()  # that it was stopped, which needs no telling
        raise


def _copy(source: Path, target: Path, stop: threading.Event) -> None:
    """Copy a database as of one moment, however much is written to it meanwhile; raise IntegrityError where it is bad.

    The transaction that reads is open all the time: otherwise SQLite would begin anew whenever somebody commits. Once
    `stop` is set it ends after the step under way, with an error.
    """

    def obey(_status: int, _left: int, _total: int) -> None:
        if stop.is_set():
            raise StorageUnavailableError("stopped")

    os.close(os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL, engines.PRIVATE_MODE))
    with (
        closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None)) as reader,
        closing(sqlite3.connect(target, isolation_level=None)) as writer,
    ):
        reader.execute("PRAGMA query_only=ON")
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        reader.backup(writer, pages=PAGES, progress=obey)
        writer.set_progress_handler(stop.is_set, STEPS)
        reader.execute("ROLLBACK")
        found = [row[0] for row in writer.execute("PRAGMA integrity_check(3)")]
    if found != ["ok"]:
        raise IntegrityError(f"{source} is damaged: {'; '.join(found)}")


async def _prove(folder: Path, on_progress: Callable[[int, int], None]) -> tuple[CheckedLog, int]:
    """Check the copied log from its bytes up, and that the projection's checkpoint is a row of it."""
    log = await open_log(_target(folder / LOG_FILE), migrate=False, even_moved=True)
    try:
        checked = await verify(log, on_progress=lambda seen: on_progress(seen.through, seen.end))
        if checked.flaw is not None:
            raise IntegrityError(
                f"the log is wrong at position {checked.flaw.position} ({checked.flaw.fault}): see `log verify`"
            )
        tables = await open_projection(_target(folder / PROJECTION_FILE), migrate=False)
        try:
            return checked, await _applied_through(log, tables)
        finally:
            await tables.close()
    finally:
        await log.close()


def _target(file: Path) -> DatabaseTarget:
    return DatabaseTarget(url=f"sqlite:///{file.absolute()}")


async def _applied_through(log: Database, tables: Database) -> int:
    async with tables.read() as connection:
        state = (await connection.execute(select(projection))).one_or_none()
    if state is None or state.event_id is None:
        return 0
    async with log.read() as connection:
        query = select(event_log.c.id).where(event_log.c.position == state.position)
        found = (await connection.execute(query)).scalar_one_or_none()
    if found != state.event_id:
        raise IntegrityError(
            f"the tables have applied event {state.event_id} at position {state.position}, and the log holds "
            f"{found or 'nothing'} there: they do not belong together"
        )
    return int(state.position)


def _keep(unfinished: Path, target: Path) -> None:
    """Bring every file to the disk, and give the folder its name."""
    for path in unfinished.iterdir():
        if path.name not in (LOG_FILE, PROJECTION_FILE):
            path.unlink()  # locks and what SQLite left beside the copies when they were closed
    for path in (*unfinished.iterdir(), unfinished):
        _sync(path)
    try:
        unfinished.rename(target)
    except OSError as exc:
        raise StorageUnavailableError(f"{target}: {exc.strerror}") from exc
    _sync(target.parent)


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
