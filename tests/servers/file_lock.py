"""This module locks a SQLite file as another process would, while this process goes on."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path


@asynccontextmanager
async def locked(path: Path) -> AsyncIterator[None]:
    """Hold the writers' lock of a file during the block.

    A thread asks for the lock: a writer of this process may have it just then, and needs the loop to give it back.
    """
    with closing(sqlite3.connect(path, isolation_level=None, timeout=60, check_same_thread=False)) as other:
        await asyncio.to_thread(other.execute, "BEGIN IMMEDIATE")
        yield
