"""This module marks a log that is a copy which is not whole yet, and one that has moved; and shuts the latter.

A log has one writer's place. Two live logs of one identity would give the same positions to different events, so the
old place is shut in the database itself, below every process that still holds it open: each statement that would write
fails with the name of the new place, deliveries get 503, and nothing can be appended that the copy does not have.
"""

from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, Table, func, insert, literal, select, text, update

from whatsms_events.domain.events import to_micros
from whatsms_events.errors import IntegrityError
from whatsms_events.storage.database import Database
from whatsms_events.storage.move_mark import MoveMark, mark_of
from whatsms_events.storage.tables import event_log, log, log_metadata, log_move

SHUT: Final = tuple(table for table in log_metadata.sorted_tables if table is not log_move)
"""Every table of the log: nothing of them may change once they are copied."""

_CODE: Final = "57WEM"
"""An SQLSTATE of our own, in the class that says that somebody intervened: it counts as a database that is away."""

_VERBS: Final = ("INSERT", "UPDATE", "DELETE")


class Moving:
    """The mark of one log. All verbs raise StorageUnavailableError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def mark(self) -> MoveMark | None:
        """Return the mark, None where there is none."""
        async with self._database.read() as connection:
            return await connection.run_sync(mark_of)

    async def log_id(self) -> UUID:
        """Return the log's identity as it is now: that of a copy changes once."""
        async with self._database.read() as connection:
            found: UUID = (await connection.execute(select(log.c.log_id))).scalar_one()
        return found

    async def begin(self, log_id: UUID, created_at: int, place: str, now: datetime) -> None:
        """Make an empty log the copy of another one, under that one's identity.

        Nothing happens where it is that copy already. Raise IntegrityError where it holds anything else.
        """
        async with self._database.write() as connection:
            mark = await connection.run_sync(mark_of)
            own = (await connection.execute(select(log.c.log_id))).scalar_one()
            if mark is not None and mark.state == "coming" and own == log_id:
                return
            if mark is not None:
                raise IntegrityError(f"the target: {mark.problem}")
            for table in SHUT:
                if table is not log and await connection.scalar(select(literal(1)).select_from(table).limit(1)):
                    whose = "this very log, whole already" if own == log_id else f"log {own}"
                    raise IntegrityError(f"the target holds {whose}: a log is copied into an empty database")
            await connection.execute(insert(log_move).values(one=1, state="coming", place=place, at=to_micros(now)))
            await connection.execute(update(log).values(log_id=log_id, created_at=created_at))

    async def whole(self) -> None:
        """Take the mark away: the copy is whole, and may be used."""
        async with self._database.write() as connection:
            await connection.execute(log_move.delete())

    async def shut(self, place: str, now: datetime) -> int:
        """Shut this log for good, and return its last position; whoever writes already is waited for.

        From this commit on no statement of any process changes anything here. Nothing happens where it is shut.
        """
        async with self._database.write() as connection:
            if await connection.run_sync(mark_of) is None:
                await connection.execute(insert(log_move).values(one=1, state="gone", place=place, at=to_micros(now)))
                await connection.run_sync(_shut, place)
            found = await connection.scalar(select(func.max(event_log.c.position)))
        return int(found or 0)

    async def open_again(self) -> None:
        """Take the mark and the lock away: this log takes in again."""
        async with self._database.write() as connection:
            await connection.run_sync(_open)
            await connection.execute(log_move.delete())


def _shut(connection: Connection, place: str) -> None:
    # DDL takes no parameters, and text() would take `:name` in a place for one: so quoted, and handed to the driver.
    says = _quoted(f"this log has moved to {place}")
    if connection.dialect.name == "postgresql":
        body = f"BEGIN RAISE EXCEPTION USING ERRCODE = '{_CODE}', MESSAGE = {says}; END"
        connection.exec_driver_sql(f"CREATE FUNCTION log_moved() RETURNS trigger LANGUAGE plpgsql AS {_quoted(body)}")
        for table in SHUT:
            # Making the trigger waits for transactions that have written into the table, and keeps others out.
            connection.execute(
                text(
                    f"CREATE TRIGGER a_log_moved BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {table.name} "
                    "FOR EACH STATEMENT EXECUTE FUNCTION log_moved()"
                )
            )
        return
    for name, table, verb in _triggers():
        connection.exec_driver_sql(
            f"CREATE TRIGGER {name} BEFORE {verb} ON {table.name} BEGIN SELECT RAISE(ABORT, {says}); END"
        )


def _quoted(words: str) -> str:
    return "'" + words.replace("'", "''") + "'"


def _open(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("DROP FUNCTION IF EXISTS log_moved() CASCADE"))  # its triggers too
        return
    for name, _table, _verb in _triggers():
        connection.execute(text(f"DROP TRIGGER IF EXISTS {name}"))


def _triggers() -> list[tuple[str, Table, str]]:
    return [(f"log_moved_{table.name}_{verb.lower()}", table, verb) for table in SHUT for verb in _VERBS]
