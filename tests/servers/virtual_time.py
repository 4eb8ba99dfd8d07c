"""An event loop whose clock jumps: hours pass in seconds, with real sockets on loopback between client and server.

`run(main)` is `asyncio.run` on such a loop. While anything is ready, time stands nearly still; when nothing has been
ready for a real millisecond, `loop.time()` jumps to the next timer. Both ends of every connection must live in this
loop, and at an address, not a name: a thread (name resolution, aiosqlite) or another process takes real time, in which
the clock may jump over any deadline.
"""

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

GRACE_S: Final = 0.001
"""Real time for the kernel to hand over what was sent on loopback; epoll knows no shorter one."""

TURN_S: Final = 1e-6
"""What one turn of the loop takes: a timer that is late by a rounding error must not be set for ever."""


class _Clock:
    """The time of one loop."""

    def __init__(self) -> None:
        self.now = 0.0


class _JumpingSelector(selectors.DefaultSelector):
    """Waits for what is ready, hardly ever for time."""

    def __init__(self, clock: _Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready; where nothing is, and a timer is next, let its time come."""
        self._clock.now += TURN_S
        if timeout is None:
            return super().select(None)
        ready = super().select(0)
        if not ready and timeout > 0:
            ready = super().select(GRACE_S)
            if not ready:
                self._clock.now += timeout
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop with a clock of its own, which begins at 0."""

    def __init__(self) -> None:
        self._virtual = _Clock()
        super().__init__(_JumpingSelector(self._virtual))

    def time(self) -> float:
        """Return the virtual time, in seconds."""
        return self._virtual.now


def run(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run `main` to its end in virtual time, and close the loop."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main())


def virtual(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Make a test out of a coroutine function, which runs in virtual time."""

    @functools.wraps(test)
    def in_virtual_time(*args: P.args, **kwargs: P.kwargs) -> None:
        run(lambda: test(*args, **kwargs))

    return in_virtual_time
