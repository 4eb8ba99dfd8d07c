"""The ledger: what was sent, what was answered, and a file that outlives the process."""

import hashlib
from pathlib import Path

import pytest

from whatsms_events.twin.ledger import Attempt, AttemptOutcome, Ledger, digest_of, outcome_of

BODY = b'{"event":"x"}'


def attempt(outcome: AttemptOutcome, body: bytes = BODY, *, number: int = 1) -> Attempt:
    """Make an attempt with that outcome."""
    return Attempt(
        sha256=digest_of(body), event_type="message.ack", outcome=outcome, sent_at=1.5, number=number, status=200
    )


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (200, b'{"id":"i","position":1,"duplicate":false}', "accepted"),
        (200, b'{"id":"i","position":1,"duplicate":true}', "duplicate"),
        (204, b"", "accepted"),
        (200, b"<html>\xff", "accepted"),
        (200, b'{"position":"one"}', "accepted"),
        (202, b'{"id":"i","parked":"not_json"}', "parked"),
        (401, b'{"title":"Unauthorized"}', "rejected"),
        (404, b"", "rejected"),
        (413, b"", "rejected"),
        (429, b"", "unavailable"),
        (503, b"", "unavailable"),
    ],
)
def test_an_answer_means_what_the_receiver_promises(status: int, body: bytes, outcome: AttemptOutcome) -> None:
    """2xx is kept, 202 parked, 429 and 5xx to be tried again, all else final."""
    assert outcome_of(status, body)[0] == outcome


def test_only_a_2xx_for_an_event_is_accepted() -> None:
    """`accepted` holds the hashes of new and duplicate, `parked` those of 202, and neither any other."""
    ledger = Ledger()
    outcomes: tuple[AttemptOutcome, ...] = (
        "accepted",
        "duplicate",
        "parked",
        "rejected",
        "unavailable",
        "error",
        "given_up",
    )
    for outcome in outcomes:
        ledger.record(attempt(outcome, outcome.encode()))
    assert ledger.accepted == {hashlib.sha256(body).digest() for body in (b"accepted", b"duplicate")}
    assert ledger.parked == {hashlib.sha256(b"parked").digest()}
    assert ledger.given_up == {hashlib.sha256(b"given_up").digest()}
    assert ledger.by_outcome == dict.fromkeys(outcomes, 1)


def test_the_file_survives_and_reads_back(tmp_path: Path) -> None:
    """Each line is on the file when `record` returns; what a kill cut short at the end is left out."""
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.record(attempt("accepted"))
    ledger.record(attempt("dropped", b"never", number=0))
    with path.open("ab") as file:
        file.write(b'{"sha256":"00')
    again = Ledger.read(path)
    assert list(again.attempts) == list(ledger.attempts)
    assert (again.accepted, again.dropped, again.counts, again.sent) == (
        ledger.accepted,
        ledger.dropped,
        ledger.counts,
        1,
    )
    ledger.close()


def test_a_file_that_exists_is_appended_to(tmp_path: Path) -> None:
    """A second run adds to the first one's ledger, also behind a line that was cut short."""
    path = tmp_path / "ledger.jsonl"
    for body in (b"one", b"two"):
        with Ledger(path) as ledger:
            ledger.record(attempt("accepted", body))
        with path.open("ab") as file:
            file.write(b'{"sha256":"00')
    assert len(Ledger.read(path).accepted) == 2


def test_a_run_without_end_keeps_counts_alone() -> None:
    """With `counts_only`, nothing grows with the number of attempts."""
    ledger = Ledger(counts_only=True)
    for number in range(100):
        ledger.record(attempt("accepted", str(number).encode()))
    assert ledger.counts["message.ack", "accepted"] == ledger.sent == 100
    assert not ledger.accepted
    assert not ledger.attempts
