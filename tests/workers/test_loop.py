"""The loop: what it repeats, what it waits for, and what each error means."""

import asyncio
from collections.abc import Iterator

import pytest

from whatsms_events.errors import FencedError, IntegrityError, StorageUnavailableError, UpstreamUnauthorizedError
from whatsms_events.workers import loop
from whatsms_events.workers.loop import Bell, RoleState, backoff, run, run_within


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


async def test_what_the_vendor_refuses_halts_the_role() -> None:
    """A key that is refused is refused the next time too: the role ends, and nothing is tried again."""
    bell = Bell()
    refused = UpstreamUnauthorizedError("GET /tickets: 401", status=401)
    steps = Steps(bell, refused, 1)
    states: list[tuple[RoleState, str]] = []
    await run("backfill.acme", steps, bell, idle_s=0.001, on_state=lambda state, why: states.append((state, why)))
    assert steps.done == 0
    assert steps.closed
    assert states[-1] == ("halted", str(refused))


class Paused:
    """A worker whose piece waits for minutes, as one that the vendor told to."""

    active = True

    def __init__(self) -> None:
        self.begun, self.closed = asyncio.Event(), False

    async def run_once(self) -> int:
        """Wait."""
        self.begun.set()
        await asyncio.Event().wait()
        return 1

    async def close(self) -> None:
        """Remember it."""
        self.closed = True


async def test_a_stop_does_not_wait_for_a_piece_that_waits() -> None:
    """With a grace a piece that goes on after the stop is cut off, and the worker is closed."""
    bell, worker = Bell(), Paused()
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(run_within("backfill.acme", worker, bell, idle_s=1, grace_s=0.01))
        await worker.begun.wait()
        bell.stop()
    assert worker.closed


async def test_within_the_grace_a_piece_is_finished() -> None:
    """A worker that ends by itself, well or with a bug, is not cut off, and a bug is no less one."""
    bell = Bell()
    steps = Steps(bell, 2, 3)
    async with asyncio.timeout(5):
        await run_within("backfill.acme", steps, bell, idle_s=0.001, grace_s=60)
    assert (steps.done, steps.closed) == (5, True)
    with pytest.raises(ExceptionGroup) as caught:
        await run_within("backfill.acme", Steps(Bell(), ZeroDivisionError()), Bell(), idle_s=1, grace_s=60)
    assert caught.group_contains(ZeroDivisionError)


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
