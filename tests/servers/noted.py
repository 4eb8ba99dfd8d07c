"""What the databases are asked, noted by SQLAlchemy's own events."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from sqlalchemy import event
from sqlalchemy.engine import Engine


@contextmanager
def noted(name: Literal["commit", "before_cursor_execute"]) -> Iterator[list[str]]:
    """Give the statements, or the commits, of every database that is open in this process."""
    found: list[str] = []

    def note(_connection: object, _cursor: object = None, statement: str = "COMMIT", *_more: object) -> None:
        found.append(statement)

    event.listen(Engine, name, note)
    try:
        yield found
    finally:
        event.remove(Engine, name, note)
