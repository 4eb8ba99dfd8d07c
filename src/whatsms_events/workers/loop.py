"""Repeat the pieces of one worker until the process stops, and decide what each error means.

TransientError   the worker waits for a time that grows with each failure, and tries again
FencedError      another process has the role: the worker stands by, and then tries to take the role again
IntegrityError, ConfigError, UnstorableError, UpstreamRefusedError   the role halts: a person must decide

A halted role looks by reading alone whether the cause is gone, and then goes on by itself. It looks after a minute, and
then after twice as long each time, up to an hour.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from whatsms_events.clock import within
from whatsms_events.domain.standing import RoleState
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
"""Shorter than for other errors: a database is back soon after a failover, and every role waits for the database."""

STANDBY_S: Final = 1.0
LOOK_S: Final = 60.0
LOOK_LIMIT_S: Final = 3600.0

HALTING: Final = (IntegrityError, ConfigError, UnstorableError, UpstreamRefusedError)

AGAIN: Final = "The role looks again every minute, at once on SIGHUP, and goes on by itself where the cause is gone."

_GAUGE: Final[dict[RoleState, int]] = {"standby": 0, "active": 1, "halted": 2}


class Worker(Protocol):
    """The work of one role: of the relay, of the consumer, or of one tenant's backfill or watchdog."""

    @property
    def active(self) -> bool:
        """Tell whether this process holds the role now."""

    async def run_once(self) -> int:
        """Do one bounded piece and return how much was done; 0 means that there is nothing to do now."""

    async def look(self) -> None:
        """Look, by reading alone, for the cause of a halt: raise it again where it is still there.

        This is called only after `run_once` has raised, when the worker holds no role.
        """

    async def close(self) -> None:
        """Give up the role and its connections; this takes a limited time."""


class Bell:
    """Wakes a loop that waits: there is work, somebody asks to look at once, or the process stops."""

    def __init__(self) -> None:
        self._hurried = False
        self._event = asyncio.Event()
        self._stopped = asyncio.Event()

    @property
    def stopping(self) -> bool:
        """Tell whether no further piece shall begin."""
        return self._stopped.is_set()

    def ring(self) -> None:
        """Say that there is work."""
        self._event.set()

    @property
    def hurried(self) -> bool:
        """Tell whether somebody has asked not to wait since the last piece or look began."""
        return self._hurried

    def hurry(self) -> None:
        """End the wait that follows an error. If a piece is running, no wait follows its error."""
        self._hurried = True
        self._event.set()

    def begin(self) -> None:
        """Forget who has hurried: the piece or the look that begins now comes after all of them."""
        self._hurried = False

    def stop(self) -> None:
        """Say that no further piece shall begin."""
        self._stopped.set()
        self._event.set()

    async def stopped(self) -> None:
        """Wait until stopped."""
        await self._stopped.wait()

    async def wait(self, seconds: float) -> None:
        """Wait until somebody rings, hurries or stops the bell, or until `seconds` are over."""
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

    A role that has halted does nothing but look, every `look_s`, whether the cause is gone.
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
        bell.begin()
        try:
            done = await worker.run_once()
        except TransientError as exc:
            failures += 1
            say("standby", str(exc))
            log.warning("role.retrying", role=role, error=type(exc).__name__, reason=str(exc), failures=failures)
            limit_s = STORAGE_BACKOFF_LIMIT_S if isinstance(exc, StorageUnavailableError) else BACKOFF_LIMIT_S
            await _pause(bell, backoff(failures, limit_s))
            continue
        except FencedError as exc:
            say("standby", str(exc))
            log.warning("role.fenced", role=role, reason=str(exc))
            await _pause(bell, STANDBY_S)
            continue
        failures = 0
        say("active" if worker.active else "standby")
        if done == 0:
            await bell.wait(idle_s if worker.active else STANDBY_S)


async def _halt(
    role: str, worker: Worker, bell: Bell, say: Callable[..., None], *, cause: Exception, look_s: float
) -> None:
    """Say what halted the role, and return when the cause is gone or the process stops."""
    said = ""
    while not bell.stopping:
        say("halted", str(cause))
        if str(cause) != said:  # each cause is logged once
            said = str(cause)
            log.error("role.halted", role=role, error=type(cause).__name__, reason=said, look_s=look_s)
        await _pause(bell, look_s)
        if bell.stopping:
            return
        bell.begin()
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
    """How long a halted role waits before it looks: `first_s`, and longer where a look cannot see the cause.

    Such a role goes on after the look and halts again at once, and so would raise and clear an alarm once a minute.
    Therefore the wait doubles each time, up to an hour.
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
    """Do what `run` does, and cancel a piece that still goes on `grace_s` after the bell was stopped.

    This is for workers whose pieces may wait for minutes, such as for a pause that the vendor asked for, and may be cut
    off at any point.
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
    """Return a function that sets the role's metric, calls `on_state`, and logs a state that has changed."""
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
    """Return how many seconds to wait after so many failures in a row.

    The time doubles up to the limit. A random part of it keeps many processes from trying at the same moment.
    """
    return float(min(limit_s, BACKOFF_FIRST_S * 2.0 ** min(failures - 1, 10)) * random.uniform(0.5, 1.0))  # noqa: S311 - jitter


async def _pause(bell: Bell, seconds: float) -> None:
    """Wait so long although the bell is rung; end early only when the process stops or somebody hurries."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not bell.stopping and not bell.hurried and (left := end - loop.time()) > 0:
        await bell.wait(left)
