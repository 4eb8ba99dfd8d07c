"""A thread for work that may hang, such as reading from a file server: nothing waits for it but who asked for it."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Final, TypeVar

T = TypeVar("T")

_END: Final = None


class SideThread:
    """One thread, which works on one piece at a time; the next is given when the one before has ended.

    Unlike the threads of an executor, the end of the process does not wait for it. Starting it raises RuntimeError
    where the system gives no thread, so that this happens at the start of the process and not later.
    """

    def __init__(self, name: str) -> None:
        self._pieces: SimpleQueue[Callable[[], None] | None] = SimpleQueue()  # holds one piece, and the end
        Thread(target=self._run, name=name, daemon=True).start()

    def do(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Begin the piece, and return where its result or its exception will be."""
        answer: Future[T] = Future()
        self._pieces.put(partial(_answer, work, answer))
        return asyncio.wrap_future(answer)

    def close(self) -> None:
        """Let the thread end after its piece; return at once."""
        self._pieces.put(_END)

    def _run(self) -> None:
        while (piece := self._pieces.get()) is not _END:
            piece()


def _answer(work: Callable[[], T], answer: Future[T]) -> None:
    if answer.set_running_or_notify_cancel():
        try:
            result = work()
        except BaseException as exc:  # noqa: BLE001 - raised again where the answer is awaited
            answer.set_exception(exc)
        else:
            answer.set_result(result)
