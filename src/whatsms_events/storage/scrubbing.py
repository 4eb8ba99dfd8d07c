"""This module lets SQLite's files hold nothing of what was blanked or deleted; PostgreSQL's VACUUM does it there.

Theory of operation. Every connection has `secure_delete` on, so what a statement takes away is overwritten with zeros
in its page, and a page that becomes free is zeroed. The page as it was before is still in two places: in the database
file until a checkpoint, and in the WAL until that begins anew. A truncating checkpoint ends both: the file has the new
pages, and the WAL has no byte.

One place is left. Where SQLite moves rows between pages, because rows grew or their neighbours became small, the unused
middle of a page may keep a copy of a row that stood there. The copy is made while the row still has what it holds, so
whatever is done to the row later does not reach it: neither zeros of the same length, nor deleting and inserting it.
It was seen for one row in 27,000 of a log in which a dozen people were blanked one after another, for one in 200 of a
table whose rows grow as items of a backfill do (until the run's rows go, and their pages with them), and never where
a log is blanked from its oldest row on. Only `rewrite` is sure: it writes the whole file anew, while nobody else can
write. The projection is small enough and nobody waits for it, so a worker does that; a log is rewritten by a command,
or by `log copy`.

Free pages stay in the file, and new rows take them before the file grows. `rewrite` gives them back to the disk.
`auto_vacuum` does it as well, but costs each append the pages that say who points to which page.
"""

from typing import Any, Final

from whatsms_events.storage.database import Database

REWRITE_BYTES: Final = 256 * 1024 * 1024
"""A SQLite file up to this size is written anew within a second or two; deliveries wait meanwhile."""

WAIT_MS: Final = 200
"""For a reader that is in the way; nobody can append meanwhile, so the next call may try again instead."""


def is_small(database: Database) -> bool:
    """Tell whether the file of SQLite may be written anew while others wait."""
    return database.path is not None and database.path.stat().st_size <= REWRITE_BYTES


async def scrub(database: Database, *, rewrite: bool = False) -> bool:
    """Let the files of SQLite hold nothing of what was blanked; return False where a reader was in the way.

    Call it again then. On PostgreSQL nothing is done. `rewrite` first writes the whole file anew, and keeps writers
    waiting meanwhile. Raise StorageUnavailableError, also where another writer has the file for too long.
    """
    if database.path is None:
        return True
    async with database.driver() as connection:
        await connection.execute_fetchall(f"PRAGMA busy_timeout={WAIT_MS}")
        if rewrite:
            await connection.execute_fetchall("PRAGMA temp_store=FILE")  # else a copy of the file is in memory
            await connection.execute_fetchall("VACUUM")
        # Without the writers' lock first, so that they wait only while the rest is copied.
        await connection.execute_fetchall("PRAGMA wal_checkpoint(PASSIVE)")
        found: Any = await connection.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")
    return not found[0][0]
