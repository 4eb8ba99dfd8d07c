"""This module checks the log from its bytes up: raw bytes -> stored hash -> seal -> chain, one range at a time.

It names the first position at which something is wrong. Rows that are not sealed yet are checked by their stored hash
alone. What it holds in memory is one range. It may run beside a service that appends and seals.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from uuid import UUID

from whatsms_events.domain.seals import START, Flaw, Seal, SealedRow, bytes_flaw, check_seal
from whatsms_events.storage.database import Database
from whatsms_events.storage.log.seals import Seals


@dataclass(frozen=True, slots=True)
class CheckedLog:
    """What a check has seen so far: positions up to `through` are right, but for `flaw`.

    `blanked` rows have no bytes any more; `sealed_through` is the last position whose seal was checked. `head` is the
    hash of the last seal that was checked; `head_found`: the chain that was checked has the head that was asked for.
    """

    log_id: UUID
    after: int
    through: int
    end: int
    rows: int = 0
    blanked: int = 0
    seals: int = 0
    sealed_through: int = 0
    head: bytes | None = None
    head_found: bool = False
    flaw: Flaw | None = None


async def verify(
    database: Database,
    *,
    after: int = 0,
    through: int | None = None,
    head: bytes | None = None,
    on_progress: Callable[[CheckedLog], None] = lambda _seen: None,
) -> CheckedLog:
    """Check the log behind a position, up to another one or to its present end; stop at the first flaw.

    A log that ends before `after` misses the row behind its end.

    A seal is checked whole, so where `after` lies within a sealed range, the check begins where that range does. With
    `after` 0 the whole chain is checked; otherwise from the seal before on, or from the seal with the hash `head` where
    that is further back, so that the chain leads from there to here.
    """
    check = _Check(database, head)
    seen = await check.begin(after, through)
    on_progress(seen)
    while seen.flaw is None and seen.through < seen.end:
        seen = await check.next(seen)
        on_progress(seen)
    return seen


class _Check:
    """One pass over the log."""

    def __init__(self, database: Database, head: bytes | None) -> None:
        self._seals = Seals(database)
        self._head = head
        self._before: Seal | None = None
        self._sealed = 0  # when the check began: rows that are sealed meanwhile are checked as those that are not

    async def begin(self, after: int, through: int | None) -> CheckedLog:
        # The end of what is sealed first: rows may be appended meanwhile, and they are left to the next check. Where
        # rows are missing at the end of the log, the seals tell how far it went.
        self._sealed = sealed = await self._seals.sealed_through()
        end = await self._seals.end()
        whole = max(sealed, end)
        if after > whole:  # an earlier check saw these rows
            return CheckedLog(await self._seals.log_id(), after, whole, whole, flaw=Flaw(whole + 1, "row_missing"))
        end = whole if through is None else min(through, whole)
        covering = await self._seals.covering(after + 1) if after else None
        start = after if covering is None else covering.first - 1
        named = None if self._head is None else await self._seals.named(self._head)
        if named is not None and named.last < start:
            start = named.last
        self._before = before = await self._seals.before(start + 1)
        seen = CheckedLog(await self._seals.log_id(), start, start, end)
        if before is None:
            return seen
        return replace(seen, head_found=before.hash == self._head, flaw=await self._overlap(before))

    async def _overlap(self, found: Seal) -> Flaw | None:
        """Return a flaw where a seal does not begin right behind its predecessor: the chain passes it by."""
        earlier = await self._seals.before(found.first)
        follows = 1 if earlier is None else earlier.last + 1
        return None if found.first == follows else Flaw(found.first, "seal_differs")

    async def next(self, seen: CheckedLog) -> CheckedLog:
        """Check the next range: that of a seal, or rows behind the last seal."""
        first = seen.through + 1
        if first > self._sealed:
            return await self._unsealed(seen)
        found = await self._seals.next(first)
        if found is None or found.first > first:
            return replace(seen, flaw=Flaw(first, "seal_missing"))
        rows = await self._seals.rows(found.first, found.last)
        before = START if self._before is None else self._before.hash
        flaw = check_seal(seen.log_id, before, found, rows)
        inside = await self._seals.next(first + 1)
        if flaw is None and inside is not None and inside.first <= found.last:
            flaw = Flaw(inside.first, "seal_differs")
        if flaw is not None:
            return replace(seen, through=max(seen.through, flaw.position - 1), flaw=flaw)
        self._before = found
        counted = replace(_counted(seen, rows), through=found.last, sealed_through=found.last, head=found.hash)
        return replace(counted, seals=seen.seals + 1, head_found=seen.head_found or found.hash == self._head)

    async def _unsealed(self, seen: CheckedLog) -> CheckedLog:
        count, last, _full = await self._seals.unsealed(seen.through)
        last = min(last, seen.end) if count else seen.end
        rows = await self._seals.rows(seen.through + 1, last)
        flaw = next((found for row in rows if (found := bytes_flaw(row)) is not None), None)
        if flaw is not None:
            right = list(itertools.takewhile(lambda row: row.position < flaw.position, rows))
            return replace(_counted(seen, right), through=flaw.position - 1, flaw=flaw)
        return replace(_counted(seen, rows), through=last)


def _counted(seen: CheckedLog, rows: list[SealedRow]) -> CheckedLog:
    blanked = sum(row.raw is None for row in rows)
    return replace(seen, rows=seen.rows + len(rows), blanked=seen.blanked + blanked)
