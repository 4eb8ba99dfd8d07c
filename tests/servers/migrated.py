"""A new database of a test gets its schema by the statements of one real migration, which alembic ran in this session.

Thousands of tests make a database, and alembic takes four times as long to find its statements out again as the
database takes to execute them: it was a third of the processor time of the tests that use one. A database that is at
an older migration, or is to be left at one, is alembic's as ever.
"""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from unittest import mock

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, event, inspect, update
from sqlalchemy.util import await_only

from whatsms_events.storage import tables

Statements = list[tuple[str, Any]]

READS: Final = ("SELECT", "PRAGMA", "WITH")


@contextmanager
def once_a_session() -> Iterator[None]:
    """Let alembic's "upgrade to head" of an empty database run once for each part and kind of database."""
    real, known = command.upgrade, dict[tuple[str, str], Statements]()

    def upgrade(config: Config, revision: str) -> None:
        connection: Connection = config.attributes["connection"]
        versions: str = config.attributes["version_table"]
        if revision != "head" or inspect(connection).has_table(versions):
            real(config, revision)
        elif (key := (connection.dialect.name, versions)) not in known:
            with _noted(connection) as statements:
                real(config, revision)
            known[key] = statements
        else:
            _repeat(connection, known[key])

    with mock.patch.object(command, "upgrade", upgrade):
        yield


@contextmanager
def _noted(connection: Connection) -> Iterator[Statements]:
    noted: Statements = []

    def note(_connection: object, _cursor: object, statement: str, values: Any, _context: object, many: bool) -> None:
        assert not many, statement
        if not statement.lstrip().upper().startswith(READS):  # what was read of an empty database changes nothing
            noted.append((statement, values))

    event.listen(connection, "before_cursor_execute", note)
    try:
        yield noted
    finally:
        event.remove(connection, "before_cursor_execute", note)


def _repeat(connection: Connection, statements: Statements) -> None:
    """Execute the statements: those without values, nearly all, in one go, which takes a third of the time."""
    driver = connection.connection.driver_connection
    assert driver is not None
    plain = ";\n".join(statement for statement, values in statements if not values)
    if connection.dialect.name == "sqlite":
        await_only(driver.executescript(f"BEGIN IMMEDIATE;\n{plain}"))  # the driver commits before a script begins
    else:
        await_only(driver.execute(plain))
    for statement, values in statements:
        if values:
            connection.exec_driver_sql(statement, values)
    if inspect(connection).has_table(tables.log.name):  # no two logs have one id
        connection.execute(update(tables.log).values(log_id=uuid.uuid4(), created_at=time.time_ns() // 1000))
