"""The loop: what it repeats, what it waits for, and what each error means."""

import asyncio
from collections.abc import Iterable, Iterator

import pytest
from structlog.testing import capture_logs

from servers.compare import until
from servers.virtual_time import virtual
from whatsms_events.domain.standing import RoleState
from whatsms_events.errors import FencedError, IntegrityError, StorageUnavailableError, UpstreamUnauthorizedError
from whatsms_events.workers.loop import Bell, Looks, backoff, run, run_within


class Steps:
    """A worker that does what it is told, step by step, and then stops the bell; `looks` is what it finds by looking.

    After those it finds nothing.
    """

    active = True

    def __init__(self, bell: Bell, *steps: int | Exception, looks: Iterable[Exception] = ()) -> None:
        self._bell = bell
        self._steps: Iterator[int | Exception] = iter(steps)
        self._looks = iter(looks)
        self.looked = 0
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

    async def look(self) -> None:
        """Find what was to be found."""
        self.looked += 1
        if (found := next(self._looks, None)) is not None:
            raise found

    async def close(self) -> None:
        """Remember it."""
        self.closed = True


@virtual
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


@virtual
async def test_a_halted_role_looks_again_and_goes_on_where_the_cause_is_gone() -> None:
    """It does nothing while a look finds something, or fails; it says what halts it once, and that it goes on."""
    bell = Bell()
    disagree, still = IntegrityError("log and Kafka disagree"), IntegrityError("log and Kafka disagree")
    looks = [still, StorageUnavailableError("away"), UpstreamUnauthorizedError("401", status=401)]
    steps = Steps(bell, disagree, 2, looks=looks)
    states: list[tuple[RoleState, str]] = []
    with capture_logs() as lines:
        await run(
            "relay", steps, bell, idle_s=0.001, look_s=0.001, on_state=lambda state, why: states.append((state, why))
        )
    assert (steps.done, steps.looked, steps.closed) == (2, 4, True)
    assert [state for state, _ in states] == ["halted"] * 4 + ["active", "active", "standby"]
    assert [line["event"] for line in lines if line["event"].startswith("role.")] == [
        "role.halted", "role.unlooked", "role.halted", "role.resumed", "role.active", "role.standby",
    ]  # fmt: skip
    halted = [line for line in lines if line["event"] == "role.halted"]
    assert [(line["log_level"], line["reason"]) for line in halted] == [("error", str(disagree)), ("error", "401")]


@virtual
async def test_a_halted_role_does_nothing_until_it_is_time_to_look() -> None:
    """However often the bell rings: a look comes when its time is over, or when somebody asks for it."""
    bell = Bell()
    refused = UpstreamUnauthorizedError("GET /tickets: 401", status=401)
    steps = Steps(bell, refused, 1, looks=[refused])
    states: list[tuple[RoleState, str]] = []
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        tasks.create_task(
            run("backfill.acme", steps, bell, idle_s=600, on_state=lambda state, why: states.append((state, why)))
        )
        for looks in (0, 1):
            for _ in range(20):
                bell.ring()
                await asyncio.sleep(0)
            assert steps.looked == looks
            assert states[-1] == ("halted", str(refused))
            bell.hurry()
            await until(lambda looks=looks: steps.looked > looks, 60, "it looks")  # type: ignore[misc]
    assert steps.done == 1
    assert states[-1] == ("standby", "stopped")


@virtual
@pytest.mark.parametrize(
    "trouble",
    [UpstreamUnauthorizedError("401", status=401), StorageUnavailableError("away"), FencedError("taken over")],
    ids=["halted", "retrying", "fenced"],
)
async def test_who_asks_while_a_piece_goes_on_is_heard_after_it(trouble: Exception) -> None:
    """The cause may be gone since that piece met it: where it fails, the loop does not wait as if nobody had asked."""
    bell = Bell()
    loop = asyncio.get_running_loop()
    began: list[float] = []

    class Asked(Steps):
        async def run_once(self) -> int:
            began.append(loop.time())
            if len(began) == 1:
                bell.hurry()
            return await super().run_once()

    async with asyncio.timeout(60):
        await run("backfill.acme", Asked(bell, trouble, 1), bell, idle_s=600)
    assert began[1] == began[0]


@virtual
async def test_a_stop_ends_a_halted_role() -> None:
    """It waits for no look."""
    bell = Bell()
    steps = Steps(bell, IntegrityError("log and Kafka disagree"))
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        tasks.create_task(run("relay", steps, bell, idle_s=600))
        await asyncio.sleep(0)
        bell.stop()
    assert (steps.looked, steps.closed) == (0, True)


def test_looks_that_do_not_see_the_cause_become_rare() -> None:
    """A role that goes on and halts again at once looks later each time, up to an hour; one that ran looks soon."""
    looks = Looks(60)
    assert looks.wait_s(0) == 60
    waits, now = [], 0.0
    for _ in range(8):
        looks.went_on(now)
        waits.append(looks.wait_s(now + 1))
        now += waits[-1] + 1
    assert waits == [120, 240, 480, 960, 1920, 3600, 3600, 3600]
    looks.went_on(now)
    assert looks.wait_s(now + 3600) == 60


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

    async def look(self) -> None:
        """Find nothing."""

    async def close(self) -> None:
        """Remember it."""
        self.closed = True


@virtual
async def test_a_stop_does_not_wait_for_a_piece_that_waits() -> None:
    """With a grace a piece that goes on after the stop is cut off, and the worker is closed."""
    bell, worker = Bell(), Paused()
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        tasks.create_task(run_within("backfill.acme", worker, bell, idle_s=1, grace_s=0.01))
        await worker.begun.wait()
        bell.stop()
    assert worker.closed


@virtual
async def test_within_the_grace_a_piece_is_finished() -> None:
    """A worker that ends by itself, well or with a bug, is not cut off, and a bug is no less one."""
    bell = Bell()
    steps = Steps(bell, 2, 3)
    async with asyncio.timeout(60):
        await run_within("backfill.acme", steps, bell, idle_s=0.001, grace_s=60)
    assert (steps.done, steps.closed) == (5, True)
    with pytest.raises(ExceptionGroup) as caught:
        await run_within("backfill.acme", Steps(Bell(), ZeroDivisionError()), Bell(), idle_s=1, grace_s=60)
    assert caught.group_contains(ZeroDivisionError)


@virtual
async def test_a_bug_ends_the_process_and_still_closes_the_worker() -> None:
    """What is not ours is not caught: the task fails, and with it the process."""
    bell = Bell()
    steps = Steps(bell, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        await run("relay", steps, bell, idle_s=0.001)
    assert steps.closed


@virtual
async def test_the_bell_wakes_an_idle_loop() -> None:
    """With nothing to do the loop waits for the bell, not for its idle time."""
    bell = Bell()
    steps = Steps(bell, 0, 5)
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        tasks.create_task(run("consumer", steps, bell, idle_s=600))
        while steps.done == 0:
            bell.ring()
            await asyncio.sleep(0)
        bell.stop()
    assert steps.done == 5


@virtual
async def test_a_ring_before_the_wait_is_not_lost() -> None:
    """Work that came in while a piece was done is seen at once; a stopped bell never waits."""
    bell = Bell()
    bell.ring()
    async with asyncio.timeout(60):
        await bell.wait(600)
        bell.stop()
        await bell.wait(600)
        await bell.wait(600)


def test_backoff_grows_and_is_capped() -> None:
    """Pauses double up to the limit and never exceed it, for any number of failures."""
    assert 0.1 <= backoff(1) <= 0.2
    assert 0.4 <= backoff(3) <= 0.8
    assert all(5.0 <= backoff(failures) <= 10.0 for failures in (7, 50, 10_000))
