"""Retention blanks what was kept for its time, behind everybody else: what a person wrote does not stay for ever.

Theory of operation. One process at a time blanks (the role lock BLANKING, which a copy of the log and `forget` take
too), one piece at a time, and gives the lock back after each piece. A piece of the log is taken only up to where the
relay has published and the projection has applied. After a piece it rests for nine times as long as the piece took, so
that those who append have nine tenths of the time. At the end of a spell the files of SQLite are scrubbed.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog

from whatsms_events import metrics
from whatsms_events.domain.retention import KINDS, Group, KeptRow, Place, RetentionKind, RetentionTerms, groups, sweep
from whatsms_events.storage.database import Database
from whatsms_events.storage.expiry import ByProduct, by_products
from whatsms_events.storage.log.blanking import BLANKING, PIECE_BYTES, Blanking
from whatsms_events.storage.log.relay_row import RelayRows
from whatsms_events.storage.log.retention_places import RetentionPlaces
from whatsms_events.storage.projection.apply import Projection
from whatsms_events.storage.role_lock import RoleLock
from whatsms_events.storage.scrubbing import scrub

log = structlog.get_logger()

PIECE_ROWS: Final = 1000
REST: Final = 9.0
"""Rest after a piece, in the time that the piece took."""

LOOK_S: Final = 60.0
"""How often is looked whether something is due."""

POLL_S: Final = 0.1
"""How often the loop asks: a rest may be short."""


@dataclass(frozen=True, slots=True)
class BlankingPace:
    """How much is done at a time, and how often is looked."""

    rows: int = PIECE_ROWS
    size_bytes: int = PIECE_BYTES
    rest: float = REST
    look_s: float = LOOK_S


class Retention:
    """The one that blanks. `prefix` is that of the topics, None without Kafka."""

    def __init__(
        self,
        log: Database,
        projection: Database,
        terms: RetentionTerms,
        *,
        prefix: str | None,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
        pace: BlankingPace = BlankingPace(),
    ) -> None:
        self._log, self._tables = log, projection
        self._terms = terms
        self._prefix = prefix
        self._now = now
        self._monotonic = monotonic
        self._pace = pace
        self._blanking = Blanking(log)
        self._places = RetentionPlaces(log)
        self._relay_rows = RelayRows(log)
        self._projection = Projection(projection)
        self._lock = RoleLock(log, BLANKING)
        self._in_log = [group for kind in ("data", "raw") for group in groups(terms, kind)]
        self._expiring = _expiring(terms, by_products(log, projection))
        self._done = Counter[RetentionKind]()
        self._unscrubbed = False
        self._active = False
        self._due_at = 0.0
        self._kept = False

    @property
    def active(self) -> bool:
        """Tell whether this process was the one that blanks when it asked last."""
        return self._active

    async def run_once(self) -> int:
        """Blank a piece where it is time and something is due, and return how many rows that were."""
        if self._monotonic() < self._due_at:
            return 0
        started = self._monotonic()
        self._active = await self._lock.take()
        try:
            done = await self._piece() if self._active else 0
            if not done and self._active:
                await self._end_spell()
        finally:
            await self._lock.release()
        spent_s = self._monotonic() - started
        self._due_at = started + spent_s + (self._pace.rest * spent_s if done else self._pace.look_s)
        return done

    async def look(self) -> None:
        """Raise nothing: what halted the role, a database that refuses, shows at the next piece."""

    async def close(self) -> None:
        """Give the role up."""
        self._active = False
        await self._lock.release()

    async def _piece(self) -> int:
        """Do the first piece that is due of all kinds; 0 where nothing is."""
        now = self._now()
        for group in self._in_log:
            if done := await self._blank(group, now):
                return done
        for group, product in self._expiring:
            if done := await product.expire(group, now):
                self._count(group.kind, done)
                return done
        return 0

    def _count(self, kind: RetentionKind, done: int) -> None:
        if done:
            metrics.RETENTION_BLANKED.labels(kind).inc(done)
            self._done[kind] += done
            self._unscrubbed = True

    async def _blank(self, group: Group, now: datetime) -> int:
        """Judge the next rows of the log and blank what is due; return how many rows the place moved over."""
        place = (await self._places.load()).get(group.key, Place()).at(now)
        rows = await self._blanking.rows(place.through, await self._taken(), self._pace.rows)
        found = sweep(rows, place, group, now, size_limit=self._pace.size_bytes)
        if found.place == place:
            return 0
        self._count(group.kind, await self._places.take(group, found, now))
        return sum(row.position <= found.place.through for row in rows)

    async def _taken(self) -> int:
        """Return the last position that everybody has who reads the log: nothing behind it is blanked."""
        applied = (await self._projection.state()).applied_through
        if self._prefix is None:
            return applied
        published = await self._relay_rows.load(self._prefix)
        return min(applied, 0 if published is None else published.published_through)

    async def _end_spell(self) -> None:
        """Scrub what was written over, say what was done, and show how far everything is."""
        if self._unscrubbed and await scrub(self._log) and await scrub(self._tables):
            self._unscrubbed = False
        for kind, rows in self._done.items():
            log.info("retention.blanked", kind=kind, rows=rows)
        self._done.clear()
        if not self._kept:
            await self._places.keep([group.key for group in self._in_log])
            self._kept = True
        await self._show()

    async def _show(self) -> None:
        now, places = self._now(), await self._places.load()
        oldest: dict[RetentionKind, list[int]] = {kind: [] for kind in KINDS}
        behind: dict[RetentionKind, list[int]] = {kind: [0] for kind in KINDS}
        for group in self._in_log:
            place = places.get(group.key, Place())
            came = [*await self._first(place), *group.left(place)]
            oldest[group.kind] += came
            behind[group.kind] += [group.cutoff(now) - one for one in came]
        for group, product in self._expiring:
            if (one := await product.oldest(group)) is not None:
                oldest[group.kind].append(one)
                behind[group.kind].append(group.cutoff(now) - one)
        for kind in KINDS:
            metrics.RETENTION_OLDEST.labels(kind).set(min(oldest[kind], default=0) / 1e6)
            metrics.RETENTION_BEHIND.labels(kind).set(max(behind[kind]) / 1e6)

    async def _first(self, place: Place) -> list[int]:
        """Return when the first row behind a place came; nothing where none is there."""
        rows: Sequence[KeptRow] = await self._blanking.rows(place.through, 2**63 - 1, 1)
        return [row.received_at for row in rows]


def _expiring(
    terms: RetentionTerms, products: Mapping[RetentionKind, tuple[ByProduct, ...]]
) -> Sequence[tuple[Group, ByProduct]]:
    return [(group, one) for kind, some in products.items() for group in groups(terms, kind) for one in some]
