"""Rows that stay in memory between batches, so that an event about a row of the last minutes asks the database nothing.

Theory of operation. Whoever writes rows, mostly the consumer, moves the generation in the same transaction by
compare-and-swap. Rows that were read or written by the transaction that made generation G are therefore the database's
rows as long as the generation is G. So the store knows its generation, and is asked only by a transaction that begins
at that generation and that loses as a whole where the database is at another one. Whatever fails, also a commit whose
answer is not known, empties the store.
"""

from collections.abc import Callable, Mapping
from itertools import islice
from operator import itemgetter
from typing import Any, Final

from whatsms_events.domain import values
from whatsms_events.domain.resources import GROUPS, RESOURCES
from whatsms_events.domain.rows import COLUMNS, Key, Row, Table

HOT_ROWS: Final = 20_000
HOT_BYTES: Final = 64 * 1024 * 1024
"""A consumer's store at most: the messages of a busy hour with their tickets and contacts."""

ROW_BYTES: Final = 2000
"""What a row takes beside its long texts: dictionaries of 26 values and some ten versions, measured."""

SHORT: Final = 200
"""Texts of a row that have so many characters together are in ROW_BYTES: nearly all rows have no longer ones."""


class HotRows:
    """The rows of one generation; those that were not used for the longest time leave first."""

    def __init__(self, *, rows: int = HOT_ROWS, size_bytes: int = HOT_BYTES) -> None:
        self._rows_limit = rows
        self._bytes_limit = size_bytes
        self._generation = -1
        self._rows: dict[Key, Row] = {}  # in the order of last use
        self._texts: dict[Key, int] = {}  # how large the texts of a row are, where they are not SHORT
        self._texts_bytes = 0

    def __len__(self) -> int:
        """Return how many rows there are."""
        return len(self._rows)

    def at(self, generation: int) -> Mapping[Key, Row]:
        """Return the rows of this generation; where the store is of another one, it is emptied."""
        if generation != self._generation:
            self.drop()
        return self._rows

    def keep(self, rows: Mapping[Key, Row], generation: int) -> None:
        """Take the rows that a transaction used, once it is committed; `generation` is the one that it made.

        The rows that it did not use are those of this generation too, if the store was asked at the one before.
        """
        if generation != self._generation + 1:
            self.drop()
        self._generation = generation
        held, texts = self._rows, self._texts
        for key, row in rows.items():
            before = held.pop(key, None)
            held[key] = row
            if before is row:
                continue
            size = 0
            for text in _LONG[key.table](row.values):
                if text is not None:
                    size += len(text)
            if size > SHORT or key in texts:
                self._texts_bytes += size - texts.get(key, 0)
                texts[key] = size
        self._shrink()

    def drop(self) -> None:
        """Forget all rows."""
        self._generation = -1
        self._rows = {}
        self._texts = {}
        self._texts_bytes = 0

    def _shrink(self) -> None:
        held = self._rows
        for key in list(islice(held, max(0, len(held) - self._rows_limit))):
            self._leave(key)
        while len(held) * ROW_BYTES + self._texts_bytes > self._bytes_limit:
            self._leave(next(iter(held)))

    def _leave(self, key: Key) -> None:
        del self._rows[key]
        if self._texts:
            self._texts_bytes -= self._texts.pop(key, 0)


def _long(table: Table) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    """Return what takes the columns of a table that may hold a long text; ids and words have at most 256 bytes."""
    if table == "message_revision":
        return itemgetter("content", "media_url")
    fields = RESOURCES[table]
    long = [one.name for one in fields if one.read in (values.text, values.items)]
    named = [GROUPS[one.name][1] for one in fields if one.stored == "reference"]
    return itemgetter(*long, *named)


_LONG: Final = {table: _long(table) for table in COLUMNS}
