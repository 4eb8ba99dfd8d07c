"""The marks of everybody who was forgotten, as a file beside the log: a log restored from a backup needs them.

The file has marks and moments alone, and tells nothing to who does not have the key. Here is also made who looks for
what turns out later to be theirs.
"""

import os
import time
from pathlib import Path
from typing import Final

import msgspec

from whatsms_events.clock import now
from whatsms_events.config.settings import Settings
from whatsms_events.domain.marks import Marker
from whatsms_events.errors import ConfigError
from whatsms_events.service.stores import Stores
from whatsms_events.storage.database import Database
from whatsms_events.storage.log.suppression import HeldSuppressions, KeptMark, SuppressionTable
from whatsms_events.workers.forgetting import Forgetting
from whatsms_events.workers.late_ties import LateForgetting

MODE: Final = 0o600
_FORMAT: Final = 1


class MarkFile(msgspec.Struct, frozen=True, kw_only=True):
    """The content of the file."""

    format: int = _FORMAT
    marks: list[KeptMark]


def write_file(path: Path, marks: list[KeptMark]) -> None:
    """Write the file, whole or not at all; raise ConfigError where that cannot be."""
    temporary = path.with_name(f"{path.name}.new")
    try:
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, MODE)
        with os.fdopen(file, "wb") as stream:
            stream.write(msgspec.json.encode(MarkFile(marks=marks)))
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as exc:
        raise ConfigError(f"{path} cannot be written: {(exc.strerror or type(exc).__name__).lower()}") from exc


def read_file(path: Path) -> list[KeptMark]:
    """Return the marks of a file; raise ConfigError where it is none."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=MarkFile)
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {(exc.strerror or type(exc).__name__).lower()}") from exc
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path} is no file of `suppressions export`") from exc
    if found.format != _FORMAT:
        raise ConfigError(f"{path} was written by a later release")
    return found.marks


async def keep_file(path: Path | None, log: Database) -> None:
    """Write all marks of the log into the file; nothing where there is no path."""
    if path is not None:
        write_file(path, await SuppressionTable(log).all())


def make_late_forgetting(settings: Settings, stores: Stores, key: bytes) -> LateForgetting:
    """Return the worker that blanks what turns out later to be a forgotten person's. It appends no event."""
    forgetting = Forgetting(
        stores.log,
        stores.projection,
        Marker(key),
        prefix=None if settings.kafka.bootstrap_servers is None else settings.kafka.topic_prefix,
        keeps_until=lambda _now: None,
        now=now,
        marked=lambda: keep_file(settings.privacy.suppressions_file, stores.log),
    )
    return LateForgetting(stores.log, stores.projection, Marker(key), forgetting, monotonic=time.monotonic)


async def check_suppressions(log: Database, key: bytes | None, file: Path | None, *, appends: bool) -> None:
    """Raise ConfigError where the log must not be opened: the key is another one, or marks of the file are missing.

    A process that appends shows its key, so that `forget` knows that what comes late will be recognised.
    """
    held = HeldSuppressions(log, key)
    await held.look()
    if held.problem is not None:
        raise ConfigError(f"privacy.key: {held.problem}")
    if file is not None and (lacking := await missing(_kept(file), log)):
        raise ConfigError(
            f"the log lacks {len(lacking)} marks of people who were forgotten, so it was restored from a backup: run "
            f"`whatsms-events suppressions import {file}` first"
        )
    if appends:
        await held.show_key()


def _kept(file: Path) -> list[KeptMark]:
    """Return the marks of the file; none where nobody was forgotten yet, so that it is not there."""
    return read_file(file) if file.exists() else []


async def missing(marks: list[KeptMark], log: Database) -> list[KeptMark]:
    """Return those of the marks that the log lacks."""
    held = {(one.mark, one.forgotten_at) for one in await SuppressionTable(log).all()}
    return [one for one in marks if one.mark and (one.mark, one.forgotten_at) not in held]
