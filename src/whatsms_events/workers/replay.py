"""A replay to the projection: the log is read again into a shadow, which is compared with the live tables and swapped.

The shadow is filled by an ordinary consumer with a projection of its own, so it has a checkpoint, and a replay that
was stopped or killed goes on from there. The live consumer works on meanwhile. The log has texts whose days are over in
the tables: they are blanked in the shadow too, before it is compared, so that a swap brings none of them back.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from whatsms_events.domain.replay import WHOLE
from whatsms_events.domain.retention import Group
from whatsms_events.domain.rows import Key
from whatsms_events.errors import FencedError, IntegrityError
from whatsms_events.storage.database import Database
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.log.selected import Selected
from whatsms_events.storage.projection.apply import Offset, Projection, ProjectionState
from whatsms_events.storage.projection.shadow import analyse
from whatsms_events.storage.projection.swap import SwapOutcome, Terms, carried, compare
from whatsms_events.storage.projection.texts import Texts
from whatsms_events.storage.role_lock import RoleLock
from whatsms_events.workers.consumer import Consumer
from whatsms_events.workers.rereading import DISCARD, RereadSource

ROLE: Final = "replay"

NEAR_LIMIT: Final = 1000
"""Where so many events are left at most, and no more than a batch, they are read while the live consumer waits."""

BEHIND: Final = 5000
"""Where the live tables lack so many events, a swap does not wait for them: it goes to the log's end."""

TEXT_ROWS: Final = 5000
"""Rows of the shadow that are looked at for old texts at a time."""

Offsets = Mapping[tuple[str, int], Offset]


@dataclass(frozen=True, slots=True)
class ReplayAim:
    """How far the shadow is, and how far it shall come before the two are compared."""

    position: int
    through: int


class ProjectionReplay:
    """A replay into the shadow of one projection, which may take its place. Whoever runs it has the role lock.

    `texts` are the groups of tenants whose texts have an end: see `storage.projection.texts`.
    """

    def __init__(
        self,
        event_log: EventLog,
        selected: Selected,
        live: Database,
        shadow: Database,
        lock: RoleLock,
        *,
        batch_limit: int,
        swap: bool,
        texts: Sequence[Group],
        now: Callable[[], datetime],
    ) -> None:
        self._swap = swap
        self._texts, self._now = texts, now
        self._log = event_log
        self._selected = selected
        self._live, self._shadow = live, shadow
        self._lock = lock
        self._near = min(NEAR_LIMIT, batch_limit)
        self._source = RereadSource(event_log)
        self._consumer = Consumer(Projection(shadow), self._source, lock, batch_limit=batch_limit)
        self._cleared: int | None = None  # up to where the shadow has no text whose days are over

    async def aim(self) -> ReplayAim:
        """Look how far both sides are: the shadow goes to where the live tables are.

        It goes to the log's end where these were made from another log, or from a later copy of this one; for a swap
        also where they are far behind.
        """
        through = await self._through(await Projection(self._live).state())
        return ReplayAim((await Projection(self._shadow).state()).applied_through, through)

    async def run_once(self, aim: ReplayAim) -> int:
        """Read one batch into the shadow, and return how many events it had; 0 where the shadow is near enough."""
        return 0 if aim.through - aim.position <= self._near else await self._step(aim.through)

    async def finish(
        self,
        *,
        examples: int,
        personal: bool = False,
        stand: Callable[[Offsets], Awaitable[bool]] | None = None,
    ) -> SwapOutcome:
        """Compare the shadow with the live tables at one position, and perhaps swap, while the live consumer waits.

        `stand` tells whether saved offsets can still be read from; where they cannot, they are forgotten. Raise
        IntegrityError where there must be no swap: retention blanked what would be read, or the shadow, which an
        earlier command may have kept, is not of this log any more.
        """

        async def reach(before: ProjectionState) -> ProjectionState:
            return await self._without_old_texts(await self._reach(await self._through(before)))

        async def settle(before: ProjectionState) -> ProjectionState:
            replayed = await self._without_old_texts(await self._reach(await self._log.end()))
            if blanked := self._source.blanked:
                raise _lacking(len(blanked), min(blanked))
            keeps = await belongs(before, self._log) and (stand is None or await stand(before.offsets))
            return carried(before, replayed) if keeps else replayed

        await Projection(self._live).state()  # makes its row where there is none yet
        await self._without_old_texts(await Projection(self._shadow).state())  # most of them, without a lock
        await analyse(self._shadow)
        terms = Terms(reach=reach, settle=settle if self._swap else None, examples=examples, personal=personal)
        return await compare(self._live, self._shadow, terms)

    async def expect_bytes(self) -> None:
        """Raise IntegrityError where retention has blanked rows. This reads the whole log, so it is no work for a lock.

        What is blanked later, before it is read here, is found when it is read; behind that it does no harm.
        """
        blanked = await self._selected.blanked(WHOLE)
        if blanked.first is not None:
            raise _lacking(blanked.count, blanked.first)

    async def close(self) -> None:
        """Give up the role."""
        await self._consumer.close()

    async def _step(self, through: int) -> int:
        self._source.through = through
        done = await self._consumer.run_once()
        if not done and not await self._lock.take():
            raise FencedError("another process took the replay over")
        return done

    async def _reach(self, through: int) -> ProjectionState:
        while (state := await Projection(self._shadow).state()).applied_through < through:
            if not await self._step(through):
                break
        if not await belongs(state, self._log):  # nothing need have been read, so the source may not have noticed
            raise IntegrityError(
                f"the shadow does not fit: it shows position {state.applied_through}, and the log ends before or holds "
                f"another event there: it was restored from an older copy, or it is another log. {DISCARD}"
            )
        return state

    async def _without_old_texts(self, replayed: ProjectionState) -> ProjectionState:
        """Blank the texts in the shadow whose days are over, and return its state."""
        if not self._texts or replayed.applied_through == self._cleared:
            return replayed
        place: Key | None = None
        while True:
            found = await Texts(self._shadow).expire(place, self._texts, self._now(), TEXT_ROWS)
            if found.blanked:
                await self._consumer.begin_anew()
            place = found.place
            if place is None:
                break
        self._cleared = replayed.applied_through
        return await Projection(self._shadow).state()

    async def _through(self, live: ProjectionState) -> int:
        end = await self._log.end()
        behind = self._swap and end - reached(live) > BEHIND
        return end if behind or not await belongs(live, self._log) else reached(live)


async def belongs(state: ProjectionState, event_log: EventLog) -> bool:
    """Tell whether tables, live ones or a shadow, were made from this very log."""
    if state.log_id is None or state.log_id != await event_log.log_id():
        return state.log_id is None
    if reached(state) > await event_log.end():
        return False
    try:
        await event_log.read_from(state.checkpoint, 1)
    except IntegrityError:
        return False
    return True


def reached(state: ProjectionState) -> int:
    """Return the highest position that was applied; while Kafka is the source, some below it may still be missing."""
    return max((state.applied_through, *(one.last_position for one in state.offsets.values())))


def _lacking(count: int, first: int) -> IntegrityError:
    return IntegrityError(
        f"retention blanked {count:,} events, the first one at position {first}: their bytes cannot be read again, so "
        "the tables would lose what these events told. The tables are not swapped"
    )
