"""How long a silence is usual, and what a longer one means."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatsms_events.domain.silence import (
    GAPS_MINIMUM,
    LIMIT_S,
    PROBES_MINIMUM,
    REJECTS_MINIMUM,
    patience,
    usual_gap,
    verdict,
)

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
GAPS, FLOOR_S = 20.0, 600.0

seconds = st.floats(0, 10 * LIMIT_S, allow_nan=False)
few = st.integers(0, 20)


def arrivals(*gaps_s: float) -> list[datetime]:
    """Return arrivals with these seconds between them."""
    moments = [NOON]
    for gap_s in gaps_s:
        moments.append(moments[-1] + timedelta(seconds=gap_s))
    return moments


def working_days(days: int, conversations: int, gap_s: float) -> list[datetime]:
    """Return arrivals of an office: conversations of five webhooks within seconds, by day only."""
    return [
        NOON + timedelta(days=day, seconds=number * gap_s + webhook)
        for day in range(days)
        for number in range(conversations)
        for webhook in range(5)
    ]


def patient(moments: list[datetime]) -> float:
    """Return how long a silence after these arrivals is left alone."""
    return patience(usual_gap(moments), gaps=GAPS, floor_s=FLOOR_S)


def test_even_arrivals_have_their_gap() -> None:
    """Where one comes every minute, the usual gap is a minute and patience twenty of them."""
    moments = arrivals(*[60.0] * 50)
    assert usual_gap(moments) == 60
    assert patient(moments) == 1200


@pytest.mark.parametrize("count", range(GAPS_MINIMUM))
def test_few_arrivals_tell_nothing(count: int) -> None:
    """With fewer than ten gaps the floor decides."""
    assert usual_gap(arrivals(*[3600.0] * count)) is None
    assert usual_gap([]) is None
    assert patient(arrivals(*[3600.0] * count)) == FLOOR_S


def test_conversations_count_and_nights_do_not() -> None:
    """Five webhooks within seconds every fifteen minutes, by day only, make a gap of about a quarter of an hour: not
    the second within a conversation, nor the night.
    """
    gap = usual_gap(working_days(5, 30, 900.0))
    assert gap is not None
    assert 800 < gap < 1000


def test_a_burst_never_makes_it_wait_longer() -> None:
    """After a campaign's burst it looks early, never late: patience is the floor."""
    assert patient(working_days(5, 30, 900.0)[-40:] + arrivals(*[0.2] * 400)[-200:]) == FLOOR_S


@given(st.lists(seconds, min_size=GAPS_MINIMUM, max_size=220), st.randoms(use_true_random=False))
def test_the_usual_gap_is_a_gap_that_nine_tenths_do_not_exceed(gaps: list[float], random: Random) -> None:
    """It is one of the gaps, at least nine tenths are no longer, and order does not matter."""
    moments = arrivals(*gaps)
    found = usual_gap(moments)
    steps = [(b - a).total_seconds() for a, b in pairwise(moments)]
    assert found in steps
    assert sum(step <= found for step in steps) >= 0.9 * len(steps)
    shuffled = list(moments)
    random.shuffle(shuffled)
    assert usual_gap(shuffled) == found


@given(st.lists(st.floats(0, 3600), min_size=30, max_size=200), st.lists(seconds, max_size=3))
def test_a_tenth_of_outliers_moves_nothing_beyond_the_rest(usual: list[float], nights: list[float]) -> None:
    """However long the nights are, they never make the usual gap longer than the longest of the others."""
    found = usual_gap(arrivals(*usual, *nights))
    assert found is not None
    assert found <= max(usual) + 0.001


@given(st.none() | seconds, st.floats(1, 10_000), st.floats(1, 604_800))
def test_patience_stays_within_its_bounds(gap: float | None, gaps: float, floor_s: float) -> None:
    """It is never shorter than the floor, and never longer than a day or the floor."""
    found = patience(gap, gaps=gaps, floor_s=floor_s)
    assert floor_s <= found <= max(floor_s, LIMIT_S)
    assert patience((gap or 0) + 1, gaps=gaps, floor_s=floor_s) >= found


@given(seconds, seconds, few, few)
def test_quiet_alone_is_no_alarm(silent_s: float, patience_s: float, probes: int, rejects: int) -> None:
    """An alarm needs both: a silence beyond the usual, and something that speaks against peace."""
    found = verdict(silent_s, patience_s, probes=probes, rejects=rejects)
    assert verdict(silent_s, patience_s, probes=0, rejects=0) in ("heard", "quiet")
    assert (found == "heard") == (silent_s < patience_s)
    assert (found == "quiet") == (silent_s >= patience_s and probes < PROBES_MINIMUM and rejects < REJECTS_MINIMUM)


@given(st.tuples(seconds, few, few), st.tuples(seconds, few, few), seconds)
def test_an_alarm_never_ends_by_more_of_the_same(
    first: tuple[float, int, int], added: tuple[float, int, int], patience_s: float
) -> None:
    """More silence, more news and more refusals never take an alarm back."""
    silent_s, probes, rejects = first
    if verdict(silent_s, patience_s, probes=probes, rejects=rejects) in ("activity", "rejects"):
        silent_s, probes, rejects = silent_s + added[0], probes + added[1], rejects + added[2]
        assert verdict(silent_s, patience_s, probes=probes, rejects=rejects) in ("activity", "rejects")


def test_one_look_is_not_enough() -> None:
    """News that a single look shows may be of a webhook on its way; so may a single wrong signature be a person's."""
    assert verdict(700, 600, probes=1, rejects=0) == "quiet"
    assert verdict(700, 600, probes=2, rejects=0) == "activity"
    assert verdict(700, 600, probes=0, rejects=2) == "quiet"
    assert verdict(700, 600, probes=2, rejects=3) == "rejects"
