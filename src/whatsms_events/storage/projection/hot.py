"""Rows that stay in memory between batches, so that an event about a row of the last minutes asks the database nothing.

Theory of operation. Whoever writes rows, mostly the consumer, moves the generation in the same transaction by
compare-and-swap. Rows that were read or written by the transaction that made generation G are therefore the database's
rows as long as the generation is G. So the store knows its generation, and is asked only by a transaction that begins
at that generation and that loses as a whole where the database is at another one. Whatever fails, also a commit whose
answer is not known, empties the store.
"""

from collections.abc import Callable, Mapping
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


class HotRows:
    """The rows of one generation; those that were not used for the longest time leave first."""

    def __init__(self, *, rows: int = HOT_ROWS, size_bytes: int = HOT_BYTES) -> None:
        self._rows_limit = rows
        self._bytes_limit = size_bytes
        self._generation = -1
        self._rows: dict[Key, Row] = {}  # in the order of last use
        self._sizes: dict[Key, int] = {}
        self._bytes = 0

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
        for key, row in rows.items():
            held = self._rows.pop(key, None)
            self._rows[key] = row
            if held is not row:
                size = _size(key, row)
                self._bytes += size - self._sizes.get(key, 0)
                self._sizes[key] = size
        self._shrink()

    def drop(self) -> None:
        """Forget all rows."""
        self._generation = -1
        self._rows = {}
        self._sizes = {}
        self._bytes = 0

    def _shrink(self) -> None:
        over = len(self._rows) - self._rows_limit
        leaving: list[Key] = []
        for number, key in enumerate(self._rows):
            if number >= over and self._bytes <= self._bytes_limit:
                break
            leaving.append(key)
            self._bytes -= self._sizes[key]
        for key in leaving:
            del self._rows[key], self._sizes[key]


def _long(table: Table) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    """Return what takes the columns of a table that may hold a long text; ids and words have at most 256 bytes."""
    if table == "message_revision":
        return itemgetter("content", "media_url")
    fields = RESOURCES[table]
    long = [one.name for one in fields if one.read in (values.text, values.items)]
    named = [GROUPS[one.name][1] for one in fields if one.stored == "reference"]
    return itemgetter(*long, *named)


_LONG: Final = {table: _long(table) for table in COLUMNS}


def _size(key: Key, row: Row) -> int:
    return ROW_BYTES + sum([len(text) for text in _LONG[key.table](row.values) if text is not None])
