"""A worker and a bell in, its repetition out: the one place that waits, backs off, and decides what an error means.

TransientError   back off with jitter, then again
FencedError      somebody else has the role: stand by, then again as a candidate
IntegrityError, ConfigError, UpstreamRefusedError   the role halts; a person decides

A halted role looks again every minute, by reading alone, and goes on by itself where the cause is gone.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Final, Literal, Protocol

import structlog

from whatsms_events.clock import within
from whatsms_events.errors import (
    ConfigError,
    FencedError,
    IntegrityError,
    StorageUnavailableError,
    TransientError,
    UnstorableError,
    UpstreamRefusedError,
)
from whatsms_events.metrics import ROLE_STATE

log = structlog.get_logger()

BACKOFF_FIRST_S: Final = 0.2
BACKOFF_LIMIT_S: Final = 10.0
STORAGE_BACKOFF_LIMIT_S: Final = 2.0
"""A database that changed its primary is there again at once, and every role waits for it."""

STANDBY_S: Final = 1.0
LOOK_S: Final = 60.0
LOOK_LIMIT_S: Final = 3600.0

HALTING: Final = (IntegrityError, ConfigError, UnstorableError, UpstreamRefusedError)

AGAIN: Final = "The role looks again every minute, at once on SIGHUP, and goes on by itself where the cause is gone."

RoleState = Literal["standby", "active", "halted"]
_GAUGE: Final[dict[RoleState, int]] = {"standby": 0, "active": 1, "halted": 2}


class Worker(Protocol):
    """One role: relay, consumer, or one tenant's backfill or watchdog."""

    @property
    def active(self) -> bool:
        """Tell whether this process holds the role now."""

    async def run_once(self) -> int:
        """Do one bounded piece and return how much it was; 0 means that there is nothing to do now."""

    async def look(self) -> None:
        """Look, by reading alone, whether the cause of a halt is still there: return where it is gone, else raise it.

        Called only after `run_once` has raised, so that the worker holds no role.
        """

    async def close(self) -> None:
        """Give up the role and its connections; bounded in time."""


class Bell:
    """Wakes a waiting loop: rung when there is work, and once for all when the process stops."""

    def __init__(self) -> None:
        self.hurries = 0  # how often somebody asked not to wait any longer
        self._event = asyncio.Event()
        self._stopped = asyncio.Event()

    @property
    def stopping(self) -> bool:
        """Tell whether no further piece shall begin."""
        return self._stopped.is_set()

    def ring(self) -> None:
        """Say that there is work."""
        self._event.set()

    def hurry(self) -> None:
        """Say that whoever waits after an error shall look now."""
        self.hurries += 1
        self._event.set()

    def stop(self) -> None:
        """Say that no further piece shall begin."""
        self._stopped.set()
        self._event.set()

    async def stopped(self) -> None:
        """Wait until stopped."""
        await self._stopped.wait()

    async def wait(self, seconds: float) -> None:
        """Wait until rung, stopped, or `seconds` are over."""
        if self.stopping:
            return
        if await within(self._event, seconds) and not self.stopping:
            self._event.clear()


async def run(
    role: str,
    worker: Worker,
    bell: Bell,
    *,
    idle_s: float,
    on_state: Callable[[RoleState, str], None] = lambda _state, _why: None,
    look_s: float = LOOK_S,
) -> None:
    """Repeat `worker.run_once` until the bell stops it; the worker is closed in any case.

    A halted role does nothing but look whether the cause is gone, every `look_s`.
    """
    say = _announcer(role, on_state)
    looks, clock = Looks(look_s), asyncio.get_running_loop().time
    try:
        while not bell.stopping:
            try:
                await _repeat(role, worker, bell, say, idle_s)
            except HALTING as exc:
                await _halt(role, worker, bell, say, cause=exc, look_s=looks.wait_s(clock()))
                looks.went_on(clock())
        say("standby", "stopped")
    finally:
        await worker.close()


async def _repeat(role: str, worker: Worker, bell: Bell, say: Callable[..., None], idle_s: float) -> None:
    failures = 0
    while not bell.stopping:
        try:
            done = await worker.run_once()
        except TransientError as exc:
            failures += 1
            say("standby", str(exc))
            log.warning("role.retrying", role=role, error=type(exc).__name__, reason=str(exc), failures=failures)
            limit_s = STORAGE_BACKOFF_LIMIT_S if isinstance(exc, StorageUnavailableError) else BACKOFF_LIMIT_S
            await _pause(bell, backoff(failures, limit_s), bell.hurries)
            continue
        except FencedError as exc:
            say("standby", str(exc))
            log.warning("role.fenced", role=role, reason=str(exc))
            await _pause(bell, STANDBY_S, bell.hurries)
            continue
        failures = 0
        say("active" if worker.active else "standby")
        if done == 0:
            await bell.wait(idle_s if worker.active else STANDBY_S)


async def _halt(
    role: str, worker: Worker, bell: Bell, say: Callable[..., None], *, cause: Exception, look_s: float
) -> None:
    """Say what halted the role, and return when it is gone, or when the process stops."""
    said, hurries = "", bell.hurries
    while not bell.stopping:
        say("halted", str(cause))
        if str(cause) != said:  # once, but for a cause that is another one by now
            said = str(cause)
            log.error("role.halted", role=role, error=type(cause).__name__, reason=said, look_s=look_s)
        await _pause(bell, look_s, hurries)
        if bell.stopping:
            return
        hurries = bell.hurries
        try:
            await worker.look()
        except HALTING as exc:
            cause = exc
        except TransientError as exc:
            log.warning("role.unlooked", role=role, error=type(exc).__name__, reason=str(exc))
        else:
            log.info("role.resumed", role=role, halted=said)
            return


class Looks:
    """How long a halted role waits before it looks: `first_s`, longer where looks do not see what halts it.

    A role that goes on after a look and halts again within that time would raise and clear an alarm once a minute. So
    the time then doubles, up to an hour.
    """

    def __init__(self, first_s: float) -> None:
        self._first_s = self._wait_s = first_s
        self._went_on_at: float | None = None

    def went_on(self, now: float) -> None:
        """Note that a look saw no cause any more."""
        self._went_on_at = now

    def wait_s(self, now: float) -> float:
        """Return how long to wait for a look, for a role that has just halted."""
        in_vain = self._went_on_at is not None and now - self._went_on_at < self._wait_s
        self._wait_s = min(max(LOOK_LIMIT_S, self._first_s), 2 * self._wait_s) if in_vain else self._first_s
        return self._wait_s


async def run_within(
    role: str,
    worker: Worker,
    bell: Bell,
    *,
    idle_s: float,
    grace_s: float,
    on_state: Callable[[RoleState, str], None] = lambda _state, _why: None,
    look_s: float = LOOK_S,
) -> None:
    """Run, and cancel the piece that still goes on `grace_s` after the bell stopped.

    For workers whose pieces may wait for minutes (a pause that the vendor asked for) and can be cut off anywhere.
    """
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(run(role, worker, bell, idle_s=idle_s, on_state=on_state, look_s=look_s))
        watching = tasks.create_task(_cancel_late(running, bell, grace_s))
        await asyncio.wait({running})
        watching.cancel()


async def _cancel_late(running: asyncio.Task[None], bell: Bell, grace_s: float) -> None:
    await bell.stopped()
    await asyncio.wait({running}, timeout=grace_s)
    running.cancel()


def _announcer(role: str, on_state: Callable[[RoleState, str], None]) -> Callable[..., None]:
    """Return what tells the state of a role: to the metric and the caller each time, to the log when it changes."""
    last: RoleState | None = None

    def say(state: RoleState, why: str = "") -> None:
        nonlocal last
        if state == "active" != last:
            log.info("role.active", role=role)
        elif state == "standby" != last:
            log.info("role.standby", role=role)
        last = state
        ROLE_STATE.labels(role).set(_GAUGE[state])
        on_state(state, why)

    return say


def backoff(failures: int, limit_s: float = BACKOFF_LIMIT_S) -> float:
    """Return seconds to wait after this many failures in a row: doubling, capped, with jitter against herds."""
    return float(min(limit_s, BACKOFF_FIRST_S * 2.0 ** min(failures - 1, 10)) * random.uniform(0.5, 1.0))  # noqa: S311 - jitter


async def _pause(bell: Bell, seconds: float, hurries: int) -> None:
    """Wait the whole time, whoever rings, but not when the process stops or somebody has hurried meanwhile."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not bell.stopping and bell.hurries == hurries and (left := end - loop.time()) > 0:
        await bell.wait(left)
