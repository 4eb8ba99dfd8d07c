"""The end of the log, read once for all readers of the event feed; the last part of it stays in memory.

Theory of operation. One loop reads the log on, page after page, while there are readers, and keeps what it read: the
*ring*, bounded in bytes and in age. `begin` and `end` are positions, and every event between them is in the ring.

    place in the ring       a reader takes bytes from it; readers at one place that want the same get the same bytes
    place at its end        a reader waits until the loop wakes it, and so waits for nothing but what is new
    place before its begin  the ring cannot help: the reader reads pages of the log itself
    place with another id   the log was restored since the reader was there: it looks at the log itself, and ends

Positions show in order of commit (`EventLog`), and the loop reads on from its own `end`, so no place is passed by. Each
turn looks whether the log still holds, at the end of the ring, the event that was read there: a log that was restored
from an older copy may have grown past that place between two turns. Then all readers end.

The receiver may be in the same process, and its deliveries come first. So the loop rests after each turn for a multiple
of the time that reading, and all readers' writing, took: a flood of deliveries makes the feed late and not the door
slow. What is late is late for all readers at once, since none of them is ahead of the loop.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import msgspec

from whatsms_events.clock import first_of, within
from whatsms_events.domain.events import EventType
from whatsms_events.domain.feed import Place, block, progress
from whatsms_events.errors import StorageUnavailableError
from whatsms_events.storage.reads import EventPage, Queries, RowView

LOOK_S: Final = 0.1
"""How often the loop looks for what was appended meanwhile, by this process or by others."""

RETRY_S: Final = 1.0
BEAT_S: Final = 15.0
"""How long a reader is sent nothing: proxies end connections that are silent for half a minute or more."""

REST: Final = 4
"""For how many times the time that it worked the loop rests: so the feed has a fifth of the process at most."""

REST_LIMIT_S: Final = 2.0
"""A database that is slow is no work of ours."""

PAGE: Final = 500
PAGE_BYTES: Final = 512 * 1024
"""About so much of the log is read in one turn; a single event may be larger."""

RING_BYTES: Final = 8 * 1024 * 1024
RING_S: Final = 60.0
"""What is older is forgotten: what retention blanks in the log must not live on here. An erasure empties the ring."""

TAKE_BYTES: Final = 64 * 1024
PRELOADED: Final = 500
"""So many positions before the end the loop begins, since readers that come again after a restart are there."""

SLICE: Final = 32
"""So many readers are woken before others have their turn: a delivery waits for these at most."""


@dataclass(frozen=True, slots=True)
class FeedFilter:
    """Which events a reader wants, by the id of the tenant, the type and the ticket's id; None is any.

    `personal` tells whether it may see what is personal.
    """

    tenant: str | None = None
    event_type: str | None = None
    ticket: str | None = None
    personal: bool = False

    @property
    def everything(self) -> bool:
        """Tell whether nothing is left out."""
        return self.tenant is self.event_type is self.ticket is None


@dataclass(frozen=True, slots=True)
class FeedPiece:
    """What a reader is sent next, and its place then; `told` is the place that the data names last.

    Without data nothing up to the place is for this reader.
    """

    data: bytes
    place: Place
    told: Place


@dataclass(frozen=True, slots=True)
class _Kept:
    place: Place
    read_at: float
    tenant: str
    event_type: str
    ticket: str | None
    row: RowView
    size: int
    blocks: dict[bool, bytes]
    """The event as it is sent, by whether what is personal is shown; made when it is asked for."""

    def fits(self, wanted: FeedFilter) -> bool:
        """Tell whether a reader wants it."""
        return (
            wanted.tenant in (None, self.tenant)
            and wanted.event_type in (None, self.event_type)
            and wanted.ticket in (None, self.ticket)
        )


class Tail:
    """The loop and its ring. `shown` gives a row of the log the form of the read API, with what is personal or not."""

    def __init__(
        self,
        queries: Queries,
        shown: Callable[[RowView, bool], RowView],
        *,
        on_restored: Callable[[], None],
        look_s: float = LOOK_S,
        beat_s: float = BEAT_S,
        ring_bytes: int = RING_BYTES,
        ring_s: float = RING_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queries = queries
        self._shown = shown
        self._on_restored = on_restored
        self._look_s, self._beat_s = look_s, beat_s
        self._ring_bytes, self._ring_s = ring_bytes, ring_s
        self._monotonic = monotonic
        self._encoder = msgspec.json.Encoder()
        self._needed, self._stopped = asyncio.Event(), asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []
        self._woke_at = 0.0
        self.emptied = 0
        """How often the ring was emptied: what was taken before is nobody's to share, as it may be blanked now."""
        self._clear()

    def _clear(self) -> None:
        self.emptied += 1
        self._kept: deque[_Kept] = deque()
        self._size = 0
        self._begin: Place | None = None
        self._end = Place(0)
        self._made: dict[tuple[Place, FeedFilter], FeedPiece] = {}

    def begin(self) -> None:
        """Look from now on: there is a reader."""
        self._needed.set()

    def rest(self) -> None:
        """Look no more, and forget the ring: there is no reader."""
        self._needed.clear()
        self._clear()

    def forget(self) -> None:
        """Forget the ring: what is in it is to be shown in another way."""
        self._clear()

    def stop(self) -> None:
        """Let `run` end."""
        self._stopped.set()

    async def run(self) -> None:
        """Look for new events while there are readers, until `stop`."""
        while not self._stopped.is_set():
            if not self._needed.is_set():
                await first_of(self._needed, self._stopped)
                continue
            begun, pause_s = self._monotonic(), self._look_s
            try:
                if await self.look():
                    pause_s = 0.0
            except StorageUnavailableError:
                pause_s = RETRY_S  # readers wait, and are told that we are still here
            if self._monotonic() - self._woke_at >= self._beat_s:
                await self._wake()
            rest_s = min(REST_LIMIT_S, REST * (self._monotonic() - begun))
            await within(self._stopped, max(pause_s, rest_s))

    async def look(self) -> bool:
        """Read what was appended, keep it and wake the readers; return whether there is more.

        Where the log ends before what was read of it, or holds another event there, it was restored from an older copy:
        the readers are to end. Raise StorageUnavailableError.
        """
        queries = self._queries
        if self._begin is None:
            end = (await queries.events(after=0, limit=1)).end
            self._begin = self._end = Place(max(0, end - PRELOADED))
        before = self._end
        page = await queries.events(after=before.position, limit=PAGE, text_limit=PAGE_BYTES, name_after=True)
        if self._begin is None or self._end != before:  # forgotten meanwhile
            return True
        if page.end < before.position or not before.fits(page.after_id):
            self._clear()
            self._on_restored()
            return False
        for row in page.rows:
            self._keep(row)
        self._drop()
        if page.rows:
            await self._wake()
        return page.next < page.end

    def _keep(self, row: RowView) -> None:
        place = place_in_log(row)
        if row["type"] == EventType.CONTACT_FORGOTTEN:
            # What came before may hold what is being blanked in the log now: who has not had it reads it there.
            self.emptied += 1
            self._kept.clear()
            self._size, self._begin = 0, self._end
        ticket, whole = row["ticket_id"], self.block(row, personal=True)
        kept = _Kept(
            place=place,
            read_at=self._monotonic(),
            tenant=str(row["tenant"]),
            event_type=str(row["type"]),
            ticket=None if ticket is None else str(ticket),
            row=row,
            size=len(whole),
            blocks={True: whole},
        )
        self._kept.append(kept)
        self._size += kept.size
        self._end = place

    def _drop(self) -> None:
        """Forget what is too old or too much; the last event may be too large by itself."""
        kept, oldest = self._kept, self._monotonic() - self._ring_s
        while kept and (kept[0].read_at < oldest or (self._size > self._ring_bytes and len(kept) > 1)):
            gone = kept.popleft()
            self._size -= gone.size
            self._begin = gone.place
        self._made.clear()

    def block(self, row: RowView, *, personal: bool) -> bytes:
        """Return a row of the log as the feed sends it, with what is personal or without."""
        return block(place_in_log(row), str(row["type"]), self._encoder.encode(self._shown(row, personal)))

    def page(self, page: EventPage, place: Place, wanted: FeedFilter) -> FeedPiece:
        """Return what a page of the log is for a reader at a place; its filter was asked of the log."""
        data = b"".join(self.block(row, personal=wanted.personal) for row in page.rows)
        last = place_in_log(page.rows[-1]) if page.rows else place
        if page.next > last.position and not wanted.everything:
            last = Place(page.next, page.next_id)
            data += progress(last)
        return FeedPiece(data, last, last)

    def take(self, place: Place, wanted: FeedFilter) -> FeedPiece | None:
        """Return what is next for a reader at a place, about 64 KiB; None where it must read the log itself."""
        if self._begin is None or not self._begin.position <= place.position <= self._end.position:
            return None  # past the end: the log may be shorter than what the reader has seen of it
        if not self._holds(place):
            return None
        key = place, wanted
        taken = self._made.get(key)
        if taken is None:
            taken = self._made[key] = self._take(place, wanted)
        return taken

    def _holds(self, place: Place) -> bool:
        """Tell whether the ring knows of no other event at a place than the reader had there."""
        known = next((one.place for one in reversed(self._kept) if one.place.position <= place.position), self._begin)
        if known is None or known.position != place.position or known.event_id is None:
            return True
        return place.fits(known.event_id)

    def _take(self, place: Place, wanted: FeedFilter) -> FeedPiece:
        parts: list[bytes] = []
        size, reached, told = 0, place, place
        for kept in self._behind(place):
            if size >= TAKE_BYTES or (parts and kept.size > TAKE_BYTES):
                break  # what is large goes alone: all readers then hold the ring's own bytes, and no copy
            reached = kept.place
            if kept.fits(wanted):
                data = kept.blocks.get(wanted.personal)
                if data is None:
                    data = kept.blocks[wanted.personal] = self.block(kept.row, personal=wanted.personal)
                parts.append(data)
                size, told = size + len(data), reached
        return FeedPiece(b"".join(parts), reached, told)

    def _behind(self, place: Place) -> list[_Kept]:
        found: list[_Kept] = []
        for kept in reversed(self._kept):  # most readers are at the end
            if kept.place.position <= place.position:
                break
            found.append(kept)
        return found[::-1]

    async def moved(self) -> None:
        """Wait until there is something new, or until it is time to say that we are still here."""
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        await waiting

    def wake(self) -> None:
        """Let every reader look at once: it is to end."""
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if not one.done():
                one.set_result(None)

    async def _wake(self) -> None:
        """Wake the readers some at a time; when this returns they have written what does not have to wait."""
        self._woke_at = self._monotonic()
        waiting, self._waiting = self._waiting, []
        for number, one in enumerate(waiting, 1):
            if not one.done():
                one.set_result(None)
            if number % SLICE == 0:
                await asyncio.sleep(0)  # others have their turn here, deliveries among them
        await asyncio.sleep(0)


def place_in_log(row: RowView) -> Place:
    """Return the place of a row of the log."""
    position, event_id = row["position"], row["id"]
    assert isinstance(position, int)  # noqa: S101 - rows are plain, so mypy knows no column of them
    assert isinstance(event_id, UUID)  # noqa: S101
    return Place(position, event_id)
