"""Retention blanks what was kept for its time, behind everybody else: what a person wrote does not stay for ever.

Theory of operation. One process at a time blanks (the role lock BLANKING, which a copy of the log and `forget` take
too), one piece at a time, and gives the lock back after each piece. A piece of the log is taken only up to where the
relay has published and the projection has applied. After a piece it rests for nine times as long as the piece kept
others from appending, so that these have nine tenths of the time. Pieces of all kinds take turns, and a spell blanks
what was due when it began: what falls due meanwhile, as under a steady load, waits for the next one. At the end of a
spell, or after SPELL_S of a long one, the files of SQLite are scrubbed; that of the projection is written anew where
texts were blanked, since rows that grow leave copies of themselves in it.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Final

import structlog

from whatsms_events import metrics
from whatsms_events.domain.retention import KINDS, Group, KeptRow, Place, RetentionKind, RetentionTerms, groups, sweep
from whatsms_events.domain.rows import Key
from whatsms_events.storage.database import Database
from whatsms_events.storage.expiry import ByProduct, by_products
from whatsms_events.storage.log.blanking import BLANKING, PIECE_BYTES, Blanking
from whatsms_events.storage.log.relay_row import RelayRows
from whatsms_events.storage.log.retention_places import RetentionPlaces
from whatsms_events.storage.projection.apply import Projection
from whatsms_events.storage.projection.texts import Texts
from whatsms_events.storage.role_lock import RoleLock
from whatsms_events.storage.scrubbing import scrub

log = structlog.get_logger()

PIECE_ROWS: Final = 1000
REST: Final = 9.0
"""The rest after a piece, as a multiple of the time for which it held the log; waiting for the log does not count."""

REST_LIMIT_S: Final = 5.0
"""The longest rest. A saturated door makes each piece slow, and nine times that would bring retention to no end."""

LOOK_S: Final = 60.0
"""How often is looked whether something is due."""

SPELL_S: Final = 600.0
"""So long at most the files of SQLite keep what was blanked, and the metrics show how far things were."""

TEXT_ROWS: Final = 5000
FENCE_S: Final = 10.0
"""After each piece that blanks texts the consumer begins anew, which takes it a second."""

PASS_S: Final = 6 * 3600.0
"""How often all texts are looked at: the tables have no order of age."""

POLL_S: Final = 0.1
"""How often the loop asks: a rest may be short."""


@dataclass(frozen=True, slots=True)
class BlankingPace:
    """How much is done at a time, and how often is looked."""

    rows: int = PIECE_ROWS
    size_bytes: int = PIECE_BYTES
    rest: float = REST
    rest_limit_s: float = REST_LIMIT_S
    look_s: float = LOOK_S
    texts: int = TEXT_ROWS
    fence_s: float = FENCE_S
    pass_s: float = PASS_S


@dataclass(slots=True)
class _Pass:
    """One reading of all texts: where it is, what it blanked so far, the oldest text that it left, when it is due."""

    place: Key | None = None
    blanked: int = 0
    oldest: dict[str, int] = field(default_factory=dict)
    due_at: float = 0.0


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
        self._texts = Texts(projection)
        self._of_texts = groups(terms, "texts")
        self._pass = _Pass()
        self._turns = deque(self._works())
        self._began: tuple[datetime, float] | None = None  # when this spell did: by the clock, and as time passes
        self._oldest_texts: Mapping[str, int] = {}
        self._active = False
        self._due_at = 0.0
        self._pause_s = 0.0
        self._held_s = 0.0
        self._kept = False
        self._rewrite = False

    @property
    def active(self) -> bool:
        """Tell whether this process was the one that blanks when it asked last."""
        return self._active

    async def run_once(self) -> int:
        """Blank a piece where it is time and something is due, and return how many rows that were."""
        if self._monotonic() < self._due_at:
            return 0
        self._held_s, self._pause_s = 0.0, 0.0
        self._active = await self._lock.take()
        try:
            done = await self._piece() if self._active else 0
            if self._active and (not done or self._spell_is_long()):
                await self._end_spell()
        finally:
            await self._lock.release()
        held_s = min(self._pace.rest * self._held_s, self._pace.rest_limit_s)
        rest_s = max(held_s, self._pause_s) if done else self._pace.look_s
        self._due_at = self._monotonic() + rest_s
        return done

    async def look(self) -> None:
        """Raise nothing: what halted the role, a database that refuses, shows at the next piece."""

    async def close(self) -> None:
        """Give the role up."""
        self._active = False
        await self._lock.release()

    def _works(self) -> list[Callable[[datetime], Awaitable[int]]]:
        """Return what does a piece of each kind, and returns 0 where nothing of that kind is due."""
        works: list[Callable[[datetime], Awaitable[int]]] = [partial(self._blank, group) for group in self._in_log]
        works += [partial(self._expire, group, product) for group, product in self._expiring]
        return [*works, self._blank_texts] if self._of_texts else works

    async def _piece(self) -> int:
        """Do a piece of the kind whose turn it is, or of the next one that has something due; 0 where none has."""
        self._began = now, _ = self._began or (self._now(), self._monotonic())
        for _ in range(len(self._turns)):
            self._turns.rotate(-1)
            if done := await self._turns[-1](now):
                return done
        return 0

    def _spell_is_long(self) -> bool:
        return self._began is not None and self._monotonic() - self._began[1] >= SPELL_S

    async def _expire(self, group: Group, product: ByProduct, now: datetime) -> int:
        """Remove a piece of what is no part of the log; return how many rows that were."""
        clock = asyncio.get_running_loop().time
        began = clock()
        if done := await product.expire(group, now):
            self._held_s = clock() - began
            self._count(group.kind, done)
        return done

    async def _blank_texts(self, now: datetime) -> int:
        """Go on with a pass over the texts; return how many rows were looked at, 0 at its end and until the next."""
        if self._monotonic() < self._pass.due_at:
            return 0
        clock = asyncio.get_running_loop().time
        began = clock()
        found = await self._texts.expire(self._pass.place, self._of_texts, now, self._pace.texts)
        self._held_s = clock() - began
        self._pass.place = found.place
        self._pass.blanked += found.blanked
        for key, at in found.oldest.items():
            self._pass.oldest[key] = min(at, self._pass.oldest.get(key, at))
        self._count("texts", found.blanked)
        self._pause_s = self._pace.fence_s if found.blanked else 0.0
        if found.place is not None:
            return max(found.rows, 1)
        self._oldest_texts, self._rewrite = self._pass.oldest, self._rewrite or self._pass.blanked > 0
        self._pass = _Pass(due_at=self._monotonic() + self._pace.pass_s)
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
        taken = await self._places.take(group, found, now)
        self._held_s = taken.held_s
        self._count(group.kind, taken.rows)
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
        self._began = None
        if self._unscrubbed and await scrub(self._log) and await scrub(self._tables, rewrite=self._rewrite):
            self._unscrubbed = self._rewrite = False
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
        for group in self._of_texts:
            if (one := self._oldest_texts.get(group.key)) is not None:
                oldest["texts"].append(one)
                behind["texts"].append(group.cutoff(now) - one)
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
