"""What the databases are asked, noted by SQLAlchemy's own events."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from sqlalchemy import event
from sqlalchemy.engine import Engine


@contextmanager
def noted(name: Literal["commit", "before_cursor_execute"]) -> Iterator[list[tuple[str, Any]]]:
    """Give the statements with their parameters, or the commits, of every database that is open in this process."""
    found: list[tuple[str, Any]] = []

    def note(
        _connection: object,
        _cursor: object = None,
        statement: str = "COMMIT",
        parameters: object = (),
        _context: object = None,
        _many: bool = False,
    ) -> None:
        found.append((statement, parameters))

    event.listen(Engine, name, note)
    try:
        yield found
    finally:
        event.remove(Engine, name, note)
