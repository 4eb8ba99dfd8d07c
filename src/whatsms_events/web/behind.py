"""What readers of the event feed hold of the log, together: a large piece once for all of them, and not more than fits.

A reader takes a piece as fast as its connection lets it, so one large event may be held for minutes, and there are
hundreds of readers. Each piece is counted once, however many readers hold it. A piece that does not fit waits until
others are let go. Where that takes too long, the reader that has held one the longest is cut off: who waits may be
fast, and the slow one comes again behind the last event that it had.
"""

import asyncio
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Protocol

from whatsms_events.clock import within
from whatsms_events.web.tail import FeedPiece


class Holding(Protocol):
    """A reader that may be cut off."""

    def cut_off(self) -> None:
        """Let go of what is held, as soon as may be."""


@dataclass(slots=True)
class _Held:
    piece: FeedPiece
    key: Hashable
    readers: set[Holding] = field(default_factory=set)


class HeldPieces:
    """The pieces that are held; `patience_s` is how long one waits for room before somebody is cut off for it."""

    def __init__(self, limit_bytes: int, patience_s: float, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit_bytes
        self._patience_s = patience_s
        self._monotonic = monotonic
        self._held: dict[int, _Held] = {}
        self._by_reader: dict[Holding, _Held] = {}
        """In the order in which readers began to hold what they hold."""
        self._freed = asyncio.Event()
        self.size = 0
        """How many bytes are held."""

    def shared(self, key: Hashable) -> FeedPiece | None:
        """Return what somebody holds under this key."""
        return next((one.piece for one in self._held.values() if one.key == key), None)

    async def hold(self, piece: FeedPiece, key: Hashable, reader: Holding) -> None:
        """Hold a piece for a reader until it is let go, once there is room for it; one fits always."""
        size, waits_until = len(piece.data), self._monotonic() + self._patience_s
        while id(piece.data) not in self._held and self._held and self.size + size > self._limit:
            self._freed.clear()
            if not await within(self._freed, max(0.0, waits_until - self._monotonic())):
                next(iter(self._by_reader)).cut_off()
                waits_until = self._monotonic() + self._patience_s
        held = self._held.get(id(piece.data))
        if held is None:
            held = self._held[id(piece.data)] = _Held(piece, key)
            self.size += size
        held.readers.add(reader)
        self._by_reader[reader] = held

    def let_go(self, reader: Holding) -> None:
        """Let go of what a reader holds, if it holds anything."""
        held = self._by_reader.pop(reader, None)
        if held is None:
            return
        held.readers.discard(reader)
        if not held.readers:
            del self._held[id(held.piece.data)]
            self.size -= len(held.piece.data)
            self._freed.set()
