"""What the twin sent and what was answered: counts, hashes, and a file that outlives the process."""

import hashlib
from collections import Counter, deque
from io import SEEK_END, FileIO
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import msgspec

AttemptOutcome = Literal[
    "accepted", "duplicate", "parked", "rejected", "unavailable", "error", "given_up", "dropped", "unsent"
]
"""`unavailable`: 429 or 5xx, tried again. `error`: no answer (refused, cut, timed out), tried again. `rejected`: any
other status, final. `given_up`: the last try was in vain. `dropped`: on purpose, never sent.
`unsent`: nobody to send it to."""


class ReceiverAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The receiver's answer as far as it said so; all of it may be missing."""

    id: str | None = None
    position: int | None = None
    duplicate: bool | None = None
    parked: str | None = None


class Attempt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the ledger: the hex SHA-256 of the exact body, when it was sent (seconds since 1970), what came back.

    `number` counts the tries of one delivery from 1; it is 0 where nothing was sent.
    """

    sha256: str
    event_type: str
    outcome: AttemptOutcome
    sent_at: float
    number: int
    took_s: float = 0.0
    status: int | None = None
    id: str | None = None
    position: int | None = None
    duplicate: bool | None = None
    parked: str | None = None
    error: str | None = None
    fault: str | None = None


_decode_answer = msgspec.json.Decoder(ReceiverAnswer).decode
_decode_line = msgspec.json.Decoder(Attempt).decode
_encode = msgspec.json.Encoder().encode
_RECENT = 100_000
_LINE_LIMIT_BYTES = 65536


def outcome_of(status: int, body: bytes) -> tuple[AttemptOutcome, ReceiverAnswer]:
    """Return what an answer means, and what it says; a body that says nothing is no error."""
    try:
        answer = _decode_answer(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        answer = ReceiverAnswer()
    if status == 202:
        return "parked", answer
    if 200 <= status < 300:
        return "duplicate" if answer.duplicate else "accepted", answer
    return "unavailable" if status >= 500 or status in {408, 429} else "rejected", answer


class Ledger:
    """Collects attempts. Counters may be read at any time; `accepted` and `parked` hold the SHA-256 of such bodies.

    With `path`, each attempt is appended there as a JSON line and flushed. With `counts_only`, for a run without an
    end, neither hashes nor attempts are kept in memory; `attempts` are the last 100,000 in any case.
    """

    def __init__(self, path: Path | None = None, *, counts_only: bool = False) -> None:
        self.counts: Counter[tuple[str, AttemptOutcome]] = Counter()
        self.accepted: set[bytes] = set()
        self.parked: set[bytes] = set()
        self.dropped: set[bytes] = set()
        self.given_up: set[bytes] = set()
        self.attempts: deque[Attempt] = deque(maxlen=_RECENT)
        self.sent = 0
        self._counts_only = counts_only
        self._file = None if path is None else _open_behind_last_line(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, if any."""
        if self._file is not None:
            self._file.close()

    def record(self, attempt: Attempt) -> None:
        """Count the attempt, keep it, and write it to the file before returning."""
        if self._file is not None:
            self._file.write(_encode(attempt) + b"\n")
        self.counts[attempt.event_type, attempt.outcome] += 1
        self.sent += attempt.number > 0
        if self._counts_only:
            return
        self.attempts.append(attempt)
        digest = bytes.fromhex(attempt.sha256)
        match attempt.outcome:
            case "accepted" | "duplicate":
                self.accepted.add(digest)
            case "parked":
                self.parked.add(digest)
            case "dropped":
                self.dropped.add(digest)
            case "given_up":
                self.given_up.add(digest)

    @property
    def by_outcome(self) -> Counter[AttemptOutcome]:
        """Attempts by outcome."""
        totals: Counter[AttemptOutcome] = Counter()
        for (_, outcome), count in self.counts.items():
            totals[outcome] += count
        return totals

    @property
    def by_type(self) -> Counter[str]:
        """Attempts that were sent, by event type; `other` is what a fault made up."""
        totals: Counter[str] = Counter()
        for (event_type, outcome), count in self.counts.items():
            if outcome not in {"given_up", "dropped", "unsent"}:
                totals[event_type] += count
        return totals

    @classmethod
    def read(cls, path: Path) -> "Ledger":
        """Return the ledger in that file; a last line that a kill cut short is left out."""
        ledger = cls()
        with path.open("rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):
                    ledger.record(_decode_line(line))
        return ledger


def _open_behind_last_line(path: Path) -> FileIO:
    """Open the file for appending, without what a kill cut short; unbuffered: a line is out when `write` returns."""
    file = FileIO(path, "a+")
    end = file.seek(0, SEEK_END)
    start = file.seek(max(0, end - _LINE_LIMIT_BYTES))
    tail = file.read()
    if tail and not tail.endswith(b"\n"):
        file.truncate(start + tail.rfind(b"\n") + 1)
    file.seek(0, SEEK_END)
    return file


def digest_of(body: bytes) -> str:
    """Return the hex SHA-256 of a body, as the ledger writes it."""
    return hashlib.sha256(body).hexdigest()
