"""Virtual time for what also works in threads: while a database is at work the clock stands still.

As in `virtual_time`, hours pass in seconds and both ends of every connection live in this loop. Whatever waits for a
thread does so within `held()`; the databases do once `hold_databases` has been called.
"""

import asyncio
import contextlib
import functools
import selectors
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Final, ParamSpec, TypeVar

import pytest

from servers.virtual_time import VirtualTimeLoop, _Clock, _JumpingSelector
from whatsms_events.storage.database import Database

P = ParamSpec("P")
T = TypeVar("T")

LOOK_S: Final = 0.05
"""Real time; a thread that is done wakes the selector at once."""


class _HeldSelector(_JumpingSelector):
    """Jumps only while nobody waits for a thread."""

    def __init__(self, clock: _Clock) -> None:
        super().__init__(clock)
        self.held = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready; where a thread is at work, wait for that alone."""
        if not self.held:
            return super().select(timeout)
        return selectors.DefaultSelector.select(self, LOOK_S if timeout is None else min(timeout, LOOK_S))


class HeldTimeLoop(VirtualTimeLoop):
    """A loop with a clock of its own, which begins at 0 and can be held."""

    def __init__(self) -> None:
        self._virtual = _Clock()
        self.waiting = _HeldSelector(self._virtual)
        asyncio.SelectorEventLoop.__init__(self, self.waiting)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Keep the clock of the running loop where it is."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, HeldTimeLoop)
    loop.waiting.held += 1
    try:
        yield
    finally:
        loop.waiting.held -= 1


def hold_databases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every transaction of our databases hold the clock."""
    for name in ("read", "write"):
        open_one: Callable[[Database], contextlib.AbstractAsyncContextManager[Any]] = getattr(Database, name)

        @contextlib.asynccontextmanager
        async def holding(self: Database, open_one: Any = open_one) -> AsyncIterator[Any]:
            with held():
                async with open_one(self) as connection:
                    yield connection

        monkeypatch.setattr(Database, name, holding)


def held_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Make a test out of a coroutine function, which runs in time that can be held."""

    @functools.wraps(test)
    def in_held_time(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=HeldTimeLoop) as runner:
            runner.run(test(*args, **kwargs))

    return in_held_time
