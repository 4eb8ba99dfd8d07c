"""This module reads the mark of a log that has moved, or that is a copy and not whole yet: `log.moving` writes it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import Connection, select

from whatsms_events.domain.events import from_micros
from whatsms_events.storage.tables import log_move

MoveState = Literal["coming", "gone"]


@dataclass(frozen=True, slots=True)
class MoveMark:
    """What a log says of its move: whether it is the copy or the original, and where the other one is."""

    state: MoveState
    place: str
    at: datetime

    @property
    def problem(self) -> str:
        """Return why this log cannot be used, and what to do."""
        if self.state == "coming":
            return (
                f"this log is a copy of {self.place}, and not whole yet: run the same `whatsms-events log copy` again"
            )
        return f"this log has moved to {self.place}: set database.url (or data_dir) to that place"


def mark_of(connection: Connection) -> MoveMark | None:
    """Return the mark of a log, None where it is neither copied nor moved."""
    row = connection.execute(select(log_move.c.state, log_move.c.place, log_move.c.at)).one_or_none()
    return None if row is None else MoveMark(row.state, row.place, from_micros(row.at))


def moved_problem(connection: Connection) -> str | None:
    """Return None where the log may be used, else where it is or what it lacks."""
    mark = mark_of(connection)
    return None if mark is None else mark.problem
