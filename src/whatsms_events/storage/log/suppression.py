"""The marks of everybody who was forgotten, as they are kept beside the log, and as one who appends has them.

Theory of operation. Whoever appends holds all marks in memory, and looks for new ones every REFRESH_S seconds: before
it commits, and once more if the look took as long as that. The statement that follows is given up after
STATEMENT_TIMEOUT_S. So once a mark has stood in the table for SETTLE_S, whoever committed an event looked at it with
that mark. What was committed meanwhile is blanked by `forget`, which reads up to the log's end after that time.
The price: `forget` takes some seconds. What is left: a process that is stopped for longer than that between its look
and its statement, which are some milliseconds apart.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from sqlalchemy import insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from whatsms_events import metrics
from whatsms_events.clock import now, within
from whatsms_events.domain.marks import Marker, Suppressions
from whatsms_events.errors import StorageUnavailableError, UnstorableError
from whatsms_events.storage.database import CHUNK, Database
from whatsms_events.storage.log.key_holders import SHOW_S, KeyHolder, KeyHolders, own_name
from whatsms_events.storage.tables import suppression

REFRESH_S: Final = 1.0

STATEMENT_TIMEOUT_S: Final = 5.0
"""One who appends gives a statement up after this. The wait for a lock is shorter, so that its own error shows."""

SETTLE_S: Final = REFRESH_S + STATEMENT_TIMEOUT_S + 1.0
"""After so long whatever was committed with older marks is in the log; the last second is for judging a batch."""

LOOKS: Final = 3
"""Looks before one commit. A database that takes longer than REFRESH_S for each of them cannot be committed to."""

LEAVE_S: Final = 2.0
"""A process that stops waits for so long at most to remove its row. A row that stays is soon too old to count."""

TIES_LIMIT: Final = 1000
"""So many contacts are remembered until their marks are written, which is every SHOW_S seconds."""

READ_LIMIT: Final = 10_000
"""Marks in one question."""

MarkRow: TypeAlias = tuple[int, str, bytes, int, bytes]
"""A row of the table: its number, and the fields of `KeptMark`."""

ReadMarks: TypeAlias = Callable[[int], Awaitable[Sequence[MarkRow]]]


@dataclass(frozen=True, slots=True)
class KeptMark:
    """One row of the table. `mark` is empty in the row by which a process shows its key."""

    tenant: str
    mark: bytes
    forgotten_at: int
    key_check: bytes


class SuppressionTable:
    """The table. All verbs raise StorageUnavailableError where the database is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def behind(self, number: int) -> list[MarkRow]:
        """Return the rows behind a number, in order: READ_LIMIT at most."""
        table = suppression.c
        columns = (table.number, table.tenant, table.mark, table.forgotten_at, table.key_check)
        query = select(*columns).where(table.number > number).order_by(table.number).limit(READ_LIMIT)
        async with self._database.read() as connection:
            return [(*row,) for row in (await connection.execute(query)).all()]

    async def all(self) -> list[KeptMark]:
        """Return every mark there is, in the order in which they were added."""
        found: list[KeptMark] = []
        number = 0
        while some := await self.behind(number):
            found += [KeptMark(*row[1:]) for row in some]
            number = some[-1][0]
        return found

    async def add(self, marks: Iterable[KeptMark]) -> None:
        """Add marks, in one transaction: see `add_marks`."""
        async with self._database.write() as connection:
            await add_marks(connection, marks)


async def add_marks(connection: AsyncConnection, marks: Iterable[KeptMark]) -> None:
    """Add marks in the caller's transaction.

    Who adds waits for the others who add: a number that is committed behind a higher one would be passed over by those
    who hold the marks. A process that shows its key holds no role lock.
    """
    if connection.dialect.name == "postgresql":
        await connection.execute(text("LOCK TABLE suppression IN SHARE ROW EXCLUSIVE MODE"))
    rows = [
        {"tenant": one.tenant, "mark": one.mark, "forgotten_at": one.forgotten_at, "key_check": one.key_check}
        for one in marks
    ]
    for start in range(0, len(rows), CHUNK):
        await connection.execute(insert(suppression), rows[start : start + CHUNK])


class HeldSuppressions:
    """What one who appends holds of the marks. `key` is the setting `privacy.key`, None where it is not given.

    `now` are the marks as of the last look. `problem` says why some of them cannot be looked for, None where all can.
    """

    def __init__(
        self, database: Database, key: bytes | None = None, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._table = SuppressionTable(database)
        self._holders = KeyHolders(database)
        self._marker = None if key is None else Marker(key)
        self._held: dict[bytes, int] = {}
        self._checks = set[bytes]()
        self._number = 0
        self._looked_at: float | None = None
        self._monotonic = monotonic
        self._ties: dict[tuple[str, str], int] = {}
        self.now = Suppressions()

    @property
    def due(self) -> bool:
        """Tell whether it must look before the next commit."""
        return self._looked_at is None or not 0 <= self._monotonic() - self._looked_at < REFRESH_S

    @property
    def problem(self) -> str | None:
        """Say why some marks cannot be looked for."""
        return key_problem(self._marker, self._checks)

    async def refresh(self, read: ReadMarks) -> bool:
        """Look if it must, until what it saw is younger than REFRESH_S; return whether it looked.

        Raise StorageUnavailableError where the database is too slow for that.
        """
        if not self.due:
            return False
        for _ in range(LOOKS):
            await self.look(read)
            if not self.due:
                return True
        raise StorageUnavailableError("the marks of people who were forgotten take too long to read")

    async def look(self, read: ReadMarks | None = None) -> Suppressions:
        """Take new marks and return all of them; `read` gives the next rows of the table, over another connection."""
        began, read = self._monotonic(), read or self._table.behind
        while found := await read(self._number):
            for row in found:
                number, one = row[0], KeptMark(*row[1:])
                self._checks.add(one.key_check)
                if one.mark:
                    self._held[one.mark] = max(one.forgotten_at, self._held.get(one.mark, one.forgotten_at))
                self._number = number
        self._looked_at = began
        if len(self._held) != len(self.now.held):
            self.now = Suppressions(self._marker, dict(self._held))
        return self.now

    def tie(self, tenant: str, tied: Mapping[str, int]) -> None:
        """Remember contacts that turned out to be of people who were forgotten, until their marks are written.

        A process that is killed before loses them: the next event that has the number tells of them again.
        """
        for contact, at in tied.items() if len(self._ties) < TIES_LIMIT else ():
            self._ties[tenant, contact] = at

    async def keep_ties(self) -> None:
        """Write the marks of these contacts: see `late_ties`."""
        if self._marker is None or not self._ties:
            return
        told, self._ties = self._ties, {}
        marks = [
            KeptMark(tenant, self._marker.mark(tenant, "tied", contact), at, self._marker.check)
            for (tenant, contact), at in told.items()
        ]
        try:
            await self._table.add([one for one in marks if one.mark not in self._held])
        except BaseException:
            self._ties = told | self._ties
            raise

    async def run(self, stop: asyncio.Event) -> None:
        """Show every SHOW_S seconds which key this process has, until `stop`; and tell by a metric whether it fits."""
        fingerprint = None if self._marker is None else self._marker.fingerprint
        one = KeyHolder(own_name(), fingerprint, now(), now())
        while not stop.is_set():
            with suppress(StorageUnavailableError, UnstorableError):  # the committer has the same database, and tells
                await self._holders.show(replace(one, seen_at=now()))
                await self.keep_ties()
                await self.look()
                metrics.PRIVACY_KEY_DIFFERS.set(self.problem is not None)
            await within(stop, SHOW_S)
        with suppress(StorageUnavailableError, UnstorableError, TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                await self.keep_ties()
                await self._holders.leave(one)

    async def show_key(self) -> None:
        """Leave a row that tells which key a process that appends has, where there is none yet: see `forget`."""
        if self._marker is not None and not self._checks:
            await self._table.add([key_row(self._marker)])
            await self.look()


def key_row(marker: Marker) -> KeptMark:
    """Return the row without a mark, by which a process that appends shows the key that it has."""
    return KeptMark("", b"", 0, marker.check)


def key_problem(marker: Marker | None, checks: Collection[bytes]) -> str | None:
    """Say what is wrong where marks were made with another key than this one; None where nothing is."""
    if not set(checks) - ({marker.check} if marker is not None else set()):
        return None
    return (
        "privacy.key is "
        + ("not set" if marker is None else "not the key that this log knows")
        + ": what comes late of people who were forgotten could not be told from news"
    )
