"""The sealer hashes closed ranges of the log behind the receivers, so that `log verify` can tell what was changed.

Appending pays nothing for it: the sealer reads what is committed, and writes one row for each thousand. It does so in
processes with the role `consumer`: every installation has one, and it reads the whole log anyway.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Final

from whatsms_events.domain.seals import Seal
from whatsms_events.errors import FencedError, IntegrityError, UnstorableError
from whatsms_events.storage.log.seals import Seals
from whatsms_events.storage.role_lock import RoleLock

LOOK_S: Final = 5.0
"""The loop is woken by each commit, and a range takes longer than this to fill, unless the log is busy."""


class Sealer:
    """The one that seals. A range is sealed when it is full, or `interval_s` after its first row was seen."""

    def __init__(
        self,
        seals: Seals,
        lock: RoleLock,
        *,
        interval_s: float,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
    ) -> None:
        self._seals = seals
        self._lock = lock
        self._interval_s = interval_s
        self._now = now
        self._monotonic = monotonic
        self._look_at = 0.0
        self._waiting: tuple[int, float] | None = None  # behind which position rows wait, and since when
        self._active = False

    @property
    def active(self) -> bool:
        """Tell whether this process seals now."""
        return self._active

    async def run_once(self) -> int:
        """Seal the next range where it is due, and return how many rows that were."""
        if self._monotonic() < self._look_at:
            return 0
        self._active = await self._lock.take()
        done = await self._seal() if self._active else 0
        self._look_at = 0.0 if done else self._monotonic() + min(LOOK_S, self._interval_s)
        return done

    async def _seal(self) -> int:
        before = await self._own()
        after = 0 if before is None else before.last
        count, last, full = await self._seals.unsealed(after)
        if not count or not (full or self._is_due(after)):
            return 0
        try:
            await self._seals.add(before, last, self._now())
        except UnstorableError as exc:
            raise FencedError("another process sealed the same range") from exc
        self._waiting = None
        return count

    async def _own(self) -> Seal | None:
        """Return the last seal; raise IntegrityError where the log is shorter than what was sealed of it."""
        last = await self._seals.last()
        if last is not None and (end := await self._seals.end()) < last.last:
            raise IntegrityError(
                f"the log is sealed up to position {last.last} and ends at {end}: rows at its end are gone. "
                "`whatsms-events log verify` names the first"
            )
        return last

    def _is_due(self, after: int) -> bool:
        if self._waiting is None or self._waiting[0] != after:
            self._waiting = after, self._monotonic()
        return self._monotonic() - self._waiting[1] >= self._interval_s

    async def look(self) -> None:
        """Raise again what halted the role, where it is still so."""
        await self._own()

    async def close(self) -> None:
        """Give the role up."""
        self._active = False
        await self._lock.release()
