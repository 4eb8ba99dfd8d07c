"""This module turns what databases and drivers raise into our errors, and says what a person can do about it.

A message has the error's class and its SQLSTATE. The server's own text is shown only for those classes of errors whose
text holds no value of a row.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import asyncpg
from sqlalchemy import exc

from whatsms_events.errors import StorageUnavailableError, UnstorableError

# A connection whose backend died in the middle of an answer raises asyncpg's internal error.
_POSTGRESQL_ERRORS: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

# What no retry can mend: class 22 data, class 23 constraints, 54 a program limit such as an index row too large.
_REFUSED: Final = ("22", "23", "54")

READ_ONLY: Final = "25006"
READ_ONLY_SAYS: Final = "the server is read-only: a standby, or demoted (default_transaction_read_only)"

# Connection, authorisation, database name, resources, intervention: these tell of servers and accounts, not of rows.
_SHOWN: Final = ("08", "28", "3D", "53", "57")

# That a table or column is not there: the text names it and nothing else. SQLite has one state for this and for more.
_ABSENT: Final = ("42P01", "42703")
_ABSENT_IN_SQLITE: Final = ("no such table: ", "no such column: ")
_TEXT_LIMIT: Final = 300
_MOVED: Final = "this log has moved to "
"""So the triggers begin that shut a log which has moved; any other trigger's refusal is of one row."""

POOLER_SAYS: Final = (
    "a pooler gives each transaction another session: set it to session pooling (PgBouncer: pool_mode=session), or "
    "name the server itself in database.url"
)

_ADVICE: Final = {
    READ_ONLY: READ_ONLY_SAYS,
    "26000": POOLER_SAYS,
    "42P05": POOLER_SAYS,
    "08P01": "behind a pooler, see its own log: it may refuse a parameter, or reach no server",
    "28": "look at the user in database.url, database.password, database.tls and the server's pg_hba.conf",
    "3D": "create the database, or mend its name in database.url",
    "53100": "the server's disk is full",
    "53300": "raise max_connections of the server, or run fewer processes",
    "53": "the server is short of memory, disk or connections",
    "57P03": "the server is starting or stopping",
    "SQLITE_FULL": "the disk is full",
    "SQLITE_IOERR": "the disk could not be read or written: see the system's log",
    "SQLITE_CORRUPT": "the file is damaged",
    "SQLITE_NOTADB": "the file is no database",
    "SQLITE_READONLY": "the file or its folder cannot be written by this user",
    "SQLITE_CANTOPEN": "the file cannot be opened: is it there, and may this user open it?",
}
"""What to do, by SQLSTATE or its class, or by SQLite's name for what went wrong."""

_ABSENT_SAYS: Final = "somebody removed it, or another release made this database"


@contextmanager
def translated() -> Iterator[None]:
    """Raise StorageUnavailableError, or UnstorableError for refused data, for what databases and drivers raise."""
    try:
        yield
    except exc.DBAPIError as error:
        raise _translate(error.orig or error) from error
    except (exc.SQLAlchemyError, sqlite3.Error, *_POSTGRESQL_ERRORS, OSError) as error:
        raise _translate(error) from error
    except (OverflowError, UnicodeEncodeError) as error:  # a value that a driver could not bind
        raise UnstorableError(type(error).__name__) from error


def state_of(error: BaseException | None) -> str:
    """Return SQLSTATE, or SQLite's own name such as SQLITE_FULL: what went wrong, and never a value."""
    return str(getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or _sqlite_name(error))


def _sqlite_name(error: BaseException | None) -> str:
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorname", "")
    return "" if error is None or error.__cause__ is None else _sqlite_name(error.__cause__)


def _translate(error: BaseException) -> StorageUnavailableError | UnstorableError:
    state = state_of(error)
    # By name, since SQLAlchemy wraps the drivers' classes in its own of the same names.
    names = {cls.__name__ for cls in type(error).__mro__}
    # SQLAlchemy says "Error" for most of PostgreSQL's.
    said = error.__cause__ if isinstance(error.__cause__, asyncpg.PostgresError) else error
    summary = f"{type(said).__name__} {state}".strip()
    if state == "SQLITE_CONSTRAINT_TRIGGER" and _text(said).startswith(_MOVED):
        return StorageUnavailableError(f"{summary}: {_text(said)}")
    if state.startswith(_REFUSED) or names & {"IntegrityError", "DataError"}:
        return UnstorableError(summary)
    absent = state in _ABSENT or (state == "SQLITE_ERROR" and _text(said).startswith(_ABSENT_IN_SQLITE))
    words = [_text(said)] if absent or state.startswith(_SHOWN) else []
    advice = _ABSENT_SAYS if absent else _advice(state)
    words += [advice] if advice is not None else []
    return StorageUnavailableError(": ".join([summary, "; ".join(words)] if words else [summary]))


def _advice(state: str) -> str | None:
    """Return what to do: for the state itself, else for its class. SQLite's are words, as in `SQLITE_IOERR_WRITE`."""
    kind = "_".join(state.split("_")[:2]) if "_" in state else state[:2]
    return _ADVICE.get(state) or _ADVICE.get(kind)


def _text(error: BaseException) -> str:
    text = str(error.args[0]) if error.args else ""
    return "".join(letter if letter.isprintable() else " " for letter in text)[:_TEXT_LIMIT]
