"""Who blanks a person is alone: nobody else blanks, copies the log, or fills a shadow from it meanwhile.

A replay that read what was not yet blanked would bring it back with its swap. So the role of the replay is held too,
and only then is looked for one that was begun and is not finished: its shadow holds people.
"""

from types import TracebackType
from typing import Self

from whatsms_events.errors import IntegrityError, TransientError
from whatsms_events.storage.database import Database
from whatsms_events.storage.log.blanking import BLANKING
from whatsms_events.storage.log.replays import Replays
from whatsms_events.storage.role_lock import RoleLock
from whatsms_events.workers.replay import ROLE


class Alone:
    """Holds the roles `BLANKING` and that of the replay from `async with` on; within it may be entered again.

    Entering raises TransientError where another process has one of them, and IntegrityError where a replay is not
    finished.
    """

    def __init__(self, log: Database) -> None:
        self._locks = (RoleLock(log, BLANKING), RoleLock(log, ROLE))
        self._replays = Replays(log)
        self._depth = 0

    async def __aenter__(self) -> Self:
        """Take the roles."""
        self._depth += 1
        try:
            await self.sure()
            if not await self.possible():
                raise IntegrityError(
                    "a replay is not finished, and its shadow holds people too: finish it or discard it"
                )
        except BaseException:
            await self._leave()
            raise
        return self

    async def possible(self) -> bool:
        """Tell whether no replay is unfinished, so that it is worth while to try."""
        return await self._replays.unfinished("projection") is None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the roles up at the outermost end."""
        await self._leave()

    async def sure(self) -> None:
        """Raise TransientError where a role is not held any more. Made to be called before each piece."""
        for lock in self._locks:
            if not await lock.take():
                raise TransientError(
                    "somebody else blanks, copies or replays the log just now: run this again in a minute"
                )

    async def _leave(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            for lock in self._locks:
                await lock.release()
