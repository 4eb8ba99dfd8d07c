"""What every replay command opens, and how a replay is repeated piece by piece until it is done or shall stop."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import uuid4

from whatsms_events import __version__, domain
from whatsms_events.clock import now, within
from whatsms_events.config.settings import Settings
from whatsms_events.domain.replay import Selection
from whatsms_events.errors import ConfigError, FencedError, TransientError
from whatsms_events.service.stores import log_target, projection_target
from whatsms_events.storage.database import Database, DatabaseTarget, open_log, open_projection
from whatsms_events.storage.log.replays import ReplayRun, Replays, ReplayTarget
from whatsms_events.storage.projection.shadow import patient, shadow_of
from whatsms_events.storage.role_lock import RoleLock
from whatsms_events.workers.loop import backoff
from whatsms_events.workers.replay import ROLE

TRIES: Final = 10
"""After so many failures in a row a replay stops; the same command goes on with it."""


@dataclass(frozen=True, slots=True)
class ReplayStage:
    """The log, the live projection, and where its shadow is; `lock` is for the one process that replays."""

    settings: Settings
    log: Database
    live: Database
    shadow: DatabaseTarget
    lock: RoleLock


@asynccontextmanager
async def opened_stage(settings: Settings) -> AsyncIterator[ReplayStage]:
    """Open log and projection, neither of which is made or migrated; raise ConfigError, StorageUnavailableError."""
    live_target = projection_target(settings)
    log = await open_log(patient(log_target(settings)), migrate=False)
    try:
        live = await open_projection(patient(live_target), migrate=False)
        try:
            yield ReplayStage(settings, log, live, shadow_of(live_target), RoleLock(log, ROLE))
        finally:
            await live.close()
    finally:
        await log.close()


@asynccontextmanager
async def alone(stage: ReplayStage) -> AsyncIterator[None]:
    """Have the role for the block; raise FencedError where another process replays."""
    if not await stage.lock.take():
        raise FencedError("another process replays now: `whatsms-events replay status` shows how far it is")
    try:
        yield
    finally:
        await stage.lock.release()


async def begun(
    stage: ReplayStage, target: ReplayTarget, selection: Selection, prefix: str = ""
) -> tuple[ReplayRun, bool]:
    """Return the unfinished replay of this place, or a new one, and whether it was begun before.

    Raise ConfigError where the unfinished one takes other events, or another release began it: that read them with
    other code.
    """
    rules = rules_name(Path(domain.__file__).parent)
    asked = ReplayRun(uuid4(), target, prefix, selection, rules, now())
    run = await Replays(stage.log).begin(asked)
    discard = "`whatsms-events replay discard" + (f" --prefix {prefix}`" if prefix else "`") + " removes it"
    since = run.started_at.isoformat(timespec="seconds")
    if run.release != rules:
        raise ConfigError(f"release {run.release} began a replay at {since}, this is {rules}: {discard}")
    if run.selection != selection:
        raise ConfigError(f"a replay of other events was begun at {since} and is not finished: {discard}")
    return run, run.id != asked.id


def rules_name(folder: Path) -> str:
    """Return the release, with a digest of the rules that read and fold events: a build may differ within a release."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        digest.update(path.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:12]}"


class Pace:
    """Repeats pieces until none is left or somebody asks to stop, no faster than `rate` events a second.

    `tell` is told why a piece has to be tried again.
    """

    def __init__(self, stop: asyncio.Event, rate: float | None, tell: Callable[[str], None]) -> None:
        self._stop = stop
        self._rate = rate
        self._tell = tell

    def limit(self, usual: int) -> int:
        """Return how many events a piece may have, so that a piece takes a second at most."""
        return usual if self._rate is None else max(1, min(usual, int(self._rate)))

    async def repeat(self, piece: Callable[[], Awaitable[int]]) -> bool:
        """Return True once a piece has nothing left to do, False where it was asked to stop; raise TransientError."""
        loop, failures = asyncio.get_running_loop(), 0
        while not self._stop.is_set():
            started = loop.time()
            try:
                done = await piece()
            except TransientError as exc:
                failures += 1
                if failures == TRIES:
                    raise
                self._tell(f"tries again: {exc}")
                await within(self._stop, backoff(failures))
                continue
            failures = 0
            if not done:
                return True
            if self._rate is not None:
                await within(self._stop, max(0.0, done / self._rate - (loop.time() - started)))
        return False


async def ended(stage: ReplayStage, run: ReplayRun, outcome: str) -> None:
    """Say in the log's database how the replay ended."""
    await Replays(stage.log).finish(run, outcome, now())
