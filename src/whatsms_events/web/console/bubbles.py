"""A conversation as it is drawn: days, and in each the messages with all that a person asks of one."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from whatsms_events.domain.events import to_micros
from whatsms_events.domain.last_message import Told, explained, is_veiled, plain
from whatsms_events.storage.conversations import TEXT_CHARS
from whatsms_events.storage.reads import RowView

Side = Literal["ours", "theirs", "unknown"]

_SIDES: Final[Mapping[object, Side]] = {True: "ours", False: "theirs"}
_TICKS: Final[Mapping[object, str]] = {
    "pending": "\N{WHITE SQUARE}",
    "sent": "\N{CHECK MARK}",
    "delivered": "\N{CHECK MARK}\N{CHECK MARK}",
    "read": "\N{CHECK MARK}\N{CHECK MARK}",
    "played": "\N{BLACK RIGHT-POINTING TRIANGLE}",
}
_WORDING: Final = ("body", "media_type", "deleted")


@dataclass(frozen=True, slots=True)
class AckStep:
    """A level that a message reached, and when. `by_then`: a backfill saw by that time that it had been reached."""

    name: str
    at: datetime
    by_then: bool


@dataclass(frozen=True, slots=True)
class Bubble:
    """One message. `word` and `ticks` say how far it got, None where that means nothing.

    `earlier` are the wordings that it had before, oldest first. `remarks` are what a person should doubt, in words.
    """

    row: RowView
    side: Side
    word: str | None
    ticks: str
    steps: Sequence[AckStep]
    earlier: Sequence[RowView]
    remarks: Sequence[str]


@dataclass(frozen=True, slots=True)
class Day:
    """The messages of one day (UTC); `date` is None for those whose time nobody told."""

    date: str | None
    bubbles: Sequence[Bubble]


def days(messages: Iterable[RowView]) -> list[Day]:
    """Return messages, oldest first, by the day of their creation."""
    return [Day(date, [bubble(one) for one in some]) for date, some in itertools.groupby(messages, key=_date)]


def _date(row: RowView) -> str | None:
    at = row["created_at"]
    return f"{at:%A, %Y-%m-%d}" if isinstance(at, datetime) else None


def bubble(row: RowView) -> Bubble:
    """Return a message as it is drawn."""
    ack: Any = row["ack"]
    failed = ack["failed_at"] is not None
    word = "failed" if failed else ack["name"]
    steps = [
        AckStep(name, at, name in ack["by_then"])
        for name in ("pending", "sent", "delivered", "read", "played")
        if (at := ack[f"{name}_at"]) is not None
    ]
    steps += [AckStep("failed", ack["failed_at"], by_then=False)] if failed else []
    return Bubble(
        row=row,
        side=_SIDES.get(row["from_me"], "unknown"),
        word=word,
        ticks="\N{BALLOT X}" if failed else _TICKS.get(word, ""),
        steps=steps,
        earlier=_earlier(row),
        remarks=list(_remarks(row)),
    )


def _earlier(row: RowView) -> list[RowView]:
    """Return the wordings that differ from what is shown now; a text that is cut is compared as it is cut."""
    found: list[RowView] = []
    revisions: Any = row["revisions"]
    for one in revisions:
        told = {name: one[name] for name in _WORDING if name in one}
        if isinstance(told.get("body"), str):
            told["body"] = told["body"][:TEXT_CHARS]
        if one["long"] or any(row[name] != value for name, value in told.items()):
            found.append({**dict.fromkeys(_WORDING), **one})
    return found


def _remarks(row: RowView) -> Iterable[str]:
    doubtful: Any = row["doubtful"]
    if doubtful:
        yield f"in doubt: {', '.join(doubtful)}"
    if not row["known"]:
        yield "only named by others so far: no event about the message itself has come"
    if row["gone"]:
        yield "WhatSMS no longer has it"
    if row["from_me"] is None:
        yield "nobody said whether it was sent or received"


def unexplained(last_message: object, newest: Sequence[RowView]) -> bool:
    """Tell whether the vendor shows a last message of a ticket that none of its newest messages (oldest first) is.

    Then a message is missing here, and no webhook brought it.
    """
    return isinstance(last_message, str) and not explained(last_message, [_told(one) for one in reversed(newest)])


def _told(row: RowView) -> Told:
    revisions: Any = row["revisions"]
    bodies = [row["body"], *(one.get("body") for one in revisions)]
    texts = dict.fromkeys(plain(text) for text in bodies if isinstance(text, str))
    body, media_type, deleted = row["body"], row["media_type"], row["deleted"]
    veiled = is_veiled(
        body if isinstance(body, str) else None,
        media_type if isinstance(media_type, str) else None,
        linked=row["media_url"] is not None,
        deleted=bool(deleted),
    )
    at = row["created_at"]
    return Told(tuple(texts), veiled, to_micros(at) if isinstance(at, datetime) else None)
