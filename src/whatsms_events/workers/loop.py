"""A worker and a bell in, its repetition out: the one place that waits, backs off, and decides what an error means.

TransientError   back off with jitter, then again
FencedError      somebody else has the role: stand by, then again as a candidate
IntegrityError, ConfigError, UpstreamRefusedError   the role halts; a person decides
"""

import asyncio
import random
from collections.abc import Callable
from typing import Final, Literal, Protocol

import structlog

from whatsms_events.errors import (
    ConfigError,
    FencedError,
    IntegrityError,
    TransientError,
    UnstorableError,
    UpstreamRefusedError,
)
from whatsms_events.metrics import ROLE_STATE

log = structlog.get_logger()

BACKOFF_FIRST_S: Final = 0.2
BACKOFF_LIMIT_S: Final = 10.0
STANDBY_S: Final = 1.0

RoleState = Literal["standby", "active", "halted"]
_GAUGE: Final[dict[RoleState, int]] = {"standby": 0, "active": 1, "halted": 2}


class Worker(Protocol):
    """One role: relay, consumer, or one tenant's backfill or watchdog."""

    @property
    def active(self) -> bool:
        """Tell whether this process holds the role now."""

    async def run_once(self) -> int:
        """Do one bounded piece and return how much it was; 0 means that there is nothing to do now."""

    async def close(self) -> None:
        """Give up the role and its connections; bounded in time."""


class Bell:
    """Wakes a waiting loop: rung when there is work, and once for all when the process stops."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._stopped = asyncio.Event()

    @property
    def stopping(self) -> bool:
        """Tell whether no further piece shall begin."""
        return self._stopped.is_set()

    def ring(self) -> None:
        """Say that there is work."""
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
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return
        if not self.stopping:
            self._event.clear()


async def run(
    role: str,
    worker: Worker,
    bell: Bell,
    *,
    idle_s: float,
    on_state: Callable[[RoleState, str], None] = lambda _state, _why: None,
) -> None:
    """Repeat `worker.run_once` until the bell stops it or the role halts; the worker is closed in any case."""
    failures = 0
    say = _announcer(role, on_state)
    try:
        while not bell.stopping:
            try:
                done = await worker.run_once()
            except TransientError as exc:
                failures += 1
                say("standby", str(exc))
                log.warning("role.retrying", role=role, error=type(exc).__name__, reason=str(exc), failures=failures)
                await _pause(bell, backoff(failures))
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
        say("standby", "stopped")
    except (IntegrityError, ConfigError, UnstorableError, UpstreamRefusedError) as exc:
        say("halted", str(exc))
        log.error("role.halted", role=role, error=type(exc).__name__, reason=str(exc))  # noqa: TRY400 - the message is written for the operator, a traceback is not
    finally:
        await worker.close()


async def run_within(
    role: str,
    worker: Worker,
    bell: Bell,
    *,
    idle_s: float,
    grace_s: float,
    on_state: Callable[[RoleState, str], None] = lambda _state, _why: None,
) -> None:
    """Run, and cancel the piece that still goes on `grace_s` after the bell stopped.

    For workers whose pieces may wait for minutes (a pause that the vendor asked for) and can be cut off anywhere.
    """
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(run(role, worker, bell, idle_s=idle_s, on_state=on_state))
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


def backoff(failures: int) -> float:
    """Return seconds to wait after this many failures in a row: doubling, capped, with jitter against herds."""
    return float(min(BACKOFF_LIMIT_S, BACKOFF_FIRST_S * 2.0 ** min(failures - 1, 10)) * random.uniform(0.5, 1.0))  # noqa: S311 - jitter


async def _pause(bell: Bell, seconds: float) -> None:
    """Wait the whole time, whoever rings, but not when the process stops."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not bell.stopping and (left := end - loop.time()) > 0:
        await bell.wait(left)
