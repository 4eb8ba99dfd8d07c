"""The ack lattice: the names of the levels, and what counts as an ack at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatsms_events.domain.acks import DELIVERED, LEVELS, failed, parse


def test_levels_are_frozen() -> None:
    """1 to 5 mean pending, sent, delivered, read, played; the projection's columns are named after them."""
    assert LEVELS == {1: "pending", 2: "sent", 3: "delivered", 4: "read", 5: "played"}
    assert LEVELS[DELIVERED] == "delivered"
    assert max(LEVELS) == 5


@pytest.mark.parametrize(
    ("value", "ack"),
    [
        (1, 1),
        (5, 5),
        (0, 0),
        (-1, -1),
        (99, 99),
        (2**70, 2**70),
        ("3", 3),
        ("-1", -1),
        ("03", 3),
        ("999999999", 999999999),
    ],
)
def test_integers_and_their_text_are_acks(value: object, ack: int) -> None:
    """The raw integer is kept, also outside 1 to 5; text is read as a number."""
    assert parse(value) == ack


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        3.0,
        "",
        "-",
        "+3",
        " 3",
        "3\n",
        "3.0",
        "three",
        "٣",
        "³",
        "1_0",
        "1234567890",
        "9" * 5000,
        b"3",
        [3],
        {},
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_anything_else_is_no_ack(value: object) -> None:
    """What is no integer is not guessed at."""
    assert parse(value) is None


@given(value=st.text() | st.integers() | st.floats() | st.booleans() | st.none())
def test_parse_never_raises(value: object) -> None:
    """Whatever comes, the answer is an integer or None."""
    ack = parse(value)
    assert ack is None or type(ack) is int


@given(ack=st.integers())
def test_failure_is_zero_and_below(ack: int) -> None:
    """A value is a failure or may be a level, never both."""
    assert failed(ack) == (ack <= 0)
    assert not (failed(ack) and ack in LEVELS)
