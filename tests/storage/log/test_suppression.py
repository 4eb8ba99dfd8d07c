"""Whoever appends has looked at the marks a moment before: a look that took long is done again."""

import asyncio
import functools
import itertools
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from servers.compare import until
from servers.metric import sample
from whatsms_events.clock import now
from whatsms_events.domain.marks import Marker
from whatsms_events.errors import StorageUnavailableError
from whatsms_events.storage.database import DatabaseTarget, open_log, unopened
from whatsms_events.storage.log.key_holders import LIVE_S, KeyHolder, KeyHolders, unlike
from whatsms_events.storage.log.suppression import LOOKS, REFRESH_S, HeldSuppressions, MarkRow


class Marks:
    """A table without marks that counts how often it was asked, and a clock that goes on while it is read."""

    def __init__(self, *took_s: float) -> None:
        self.looks = 0
        self.clock = 1000.0
        self._took: Iterator[float] = itertools.chain(took_s, itertools.repeat(0.0))

    async def behind(self, _number: int) -> Sequence[MarkRow]:
        """Return nothing, after a while."""
        self.looks += 1
        self.clock += next(self._took)
        return []

    def monotonic(self) -> float:
        """Return the time."""
        return self.clock


def held(folder: Path, marks: Marks) -> HeldSuppressions:
    """Return what one who appends holds; its database is not asked, since the marks come from elsewhere."""
    return HeldSuppressions(
        unopened("log", DatabaseTarget(f"sqlite:///{folder / 'log.db'}")),
        b"a key of the tests",
        monotonic=marks.monotonic,
    )


async def test_a_commit_is_never_made_with_marks_that_are_old(tmp_path: Path) -> None:
    """It looks at the first commit, not again within a moment, again after it, and twice where the look itself was
    longer than that moment.
    """
    marks = Marks(0.0, 0.0, REFRESH_S)
    one = held(tmp_path, marks)
    assert [await one.refresh(marks.behind), await one.refresh(marks.behind)] == [True, False]
    marks.clock += REFRESH_S
    assert await one.refresh(marks.behind)
    assert marks.looks == 2
    marks.clock += REFRESH_S
    assert await one.refresh(marks.behind)
    assert marks.looks == 4


async def test_a_database_that_is_too_slow_for_marks_is_not_committed_to(tmp_path: Path) -> None:
    """After LOOKS slow ones the senders are told to come again: nothing is committed that was not looked at."""
    marks = Marks(*[REFRESH_S] * LOOKS)
    with pytest.raises(StorageUnavailableError, match="too long"):
        await held(tmp_path, marks).refresh(marks.behind)
    assert marks.looks == LOOKS


async def test_who_has_another_key_or_none_is_seen_by_all(database_url: str) -> None:
    """A process that appends shows the fingerprint of its key while it runs, and says by a metric that it differs."""
    log = await open_log(DatabaseTarget(database_url), migrate=True)
    first = HeldSuppressions(log, b"a key of the tests")
    await first.look()
    await first.show_key()
    marker, shown = Marker(b"a key of the tests"), KeyHolders(log)
    for key, differs in ((b"a key of the tests", 0), (b"another key of tests", 1), (None, 1)):
        stop = asyncio.Event()
        running = asyncio.create_task(HeldSuppressions(log, key).run(stop))
        await until(functools.partial(_shows, shown, differs), 30, "it shows its key")
        (one,) = await shown.live(now())
        assert one.fingerprint == (None if key is None else Marker(key).fingerprint)
        assert len(unlike(marker, [one])) == differs
        stop.set()
        await running
        assert list(await shown.live(now())) == []
    await shown.show(KeyHolder("killed 1", None, now(), now() - timedelta(seconds=2 * LIVE_S)))
    assert list(await shown.live(now())) == []
    await log.close()


async def _shows(shown: KeyHolders, differs: int) -> bool:
    return bool(await shown.live(now())) and sample("whatsms_events_privacy_key_differs") == differs
