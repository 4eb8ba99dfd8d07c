"""The loop: what it repeats, what it waits for, and what each error means."""

import asyncio
from collections.abc import Iterator

import pytest

from whatsms_events.errors import FencedError, IntegrityError, StorageUnavailableError
from whatsms_events.workers import loop
from whatsms_events.workers.loop import Bell, RoleState, backoff, run


class Steps:
    """A worker that does what it is told, step by step, and then stops the bell."""

    active = True

    def __init__(self, bell: Bell, *steps: int | Exception) -> None:
        self._bell = bell
        self._steps: Iterator[int | Exception] = iter(steps)
        self.done = 0
        self.closed = False

    async def run_once(self) -> int:
        """Take the next step."""
        step = next(self._steps, None)
        if step is None:
            self._bell.stop()
            return 0
        if isinstance(step, Exception):
            raise step
        self.done += step
        return step

    async def close(self) -> None:
        """Remember it."""
        self.closed = True


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "BACKOFF_FIRST_S", 0.001)
    monkeypatch.setattr(loop, "BACKOFF_LIMIT_S", 0.002)
    monkeypatch.setattr(loop, "STANDBY_S", 0.001)


async def test_transient_errors_are_tried_again_and_fencing_stands_by() -> None:
    """After trouble or a takeover the same worker goes on; it is closed once, at the end."""
    bell = Bell()
    steps = Steps(bell, 3, StorageUnavailableError("away"), 2, FencedError("taken over"), 1)
    states: list[tuple[RoleState, str]] = []
    await run("consumer", steps, bell, idle_s=0.001, on_state=lambda state, why: states.append((state, why)))
    assert steps.done == 6
    assert steps.closed
    assert ("standby", "away") in states
    assert ("standby", "taken over") in states
    assert states[-1] == ("standby", "stopped")


async def test_an_integrity_error_halts_the_role_and_says_why() -> None:
    """Where two places disagree the role ends at once, and nothing is tried again."""
    bell = Bell()
    steps = Steps(bell, IntegrityError("log and Kafka disagree"), 1)
    states: list[tuple[RoleState, str]] = []
    await run("relay", steps, bell, idle_s=0.001, on_state=lambda state, why: states.append((state, why)))
    assert steps.done == 0
    assert steps.closed
    assert states[-1] == ("halted", "log and Kafka disagree")


async def test_a_bug_ends_the_process_and_still_closes_the_worker() -> None:
    """What is not ours is not caught: the task fails, and with it the process."""
    bell = Bell()
    steps = Steps(bell, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        await run("relay", steps, bell, idle_s=0.001)
    assert steps.closed


async def test_the_bell_wakes_an_idle_loop() -> None:
    """With nothing to do the loop waits for the bell, not for its idle time."""
    bell = Bell()
    steps = Steps(bell, 0, 5)
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(run("consumer", steps, bell, idle_s=600))
        while steps.done == 0:
            bell.ring()
            await asyncio.sleep(0)
        bell.stop()
    assert steps.done == 5


async def test_a_ring_before_the_wait_is_not_lost() -> None:
    """Work that came in while a piece was done is seen at once; a stopped bell never waits."""
    bell = Bell()
    bell.ring()
    async with asyncio.timeout(1):
        await bell.wait(600)
        bell.stop()
        await bell.wait(600)
        await bell.wait(600)


def test_backoff_grows_and_is_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses double up to the limit and never exceed it, for any number of failures."""
    monkeypatch.setattr(loop, "BACKOFF_FIRST_S", 0.2)
    monkeypatch.setattr(loop, "BACKOFF_LIMIT_S", 10.0)
    assert 0.1 <= backoff(1) <= 0.2
    assert 0.4 <= backoff(3) <= 0.8
    assert all(5.0 <= backoff(failures) <= 10.0 for failures in (7, 50, 10_000))
