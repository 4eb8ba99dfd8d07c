"""What verified deliveries say of their sender: whether any is understood, and whether its clock is right."""

from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatsms_events.domain.door import (
    OFFSET_LASTING,
    OFFSET_LIMIT_S,
    OFFSET_MINIMUM,
    OFFSET_WINDOW,
    PARKED_AGAIN,
    PARKED_MINIMUM,
    ClockOffset,
    ParkedInARow,
)

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
HOUR_S = 3600.0


def parked(run: ParkedInARow, reasons: str, now: datetime = NOON) -> list[bool]:
    """Park one delivery for each letter, `-` is one that is accepted; return which of them are told."""
    return [run.accepted() if reason == "-" else run.parked(reason, now) for reason in reasons]


def test_several_parked_for_one_reason_are_told_once() -> None:
    """The fifth in a row is the alarm, and it stays one, without another word."""
    run = ParkedInARow()
    assert parked(run, "aaaaaaa") == [False] * (PARKED_MINIMUM - 1) + [True, False, False]
    assert (run.alarm, run.count, run.reason) == (True, 7, "a")


@pytest.mark.parametrize("reasons", ["aaaa-aaaa-aaaa", "aaaabaaaabaaaa", "ababababab", ""])
def test_an_accepted_one_or_another_reason_begins_anew(reasons: str) -> None:
    """Others that are accepted between them, or parked for another reason, are no fault of the configuration."""
    run = ParkedInARow()
    assert not any(parked(run, reasons))
    assert not run.alarm


def test_an_accepted_one_ends_the_alarm() -> None:
    """The end is told once too."""
    run = ParkedInARow()
    parked(run, "aaaaa")
    assert [run.accepted(), run.accepted()] == [True, False]
    assert (run.alarm, run.count) == (False, 0)


def test_an_alarm_that_comes_and_goes_is_told_once_an_hour() -> None:
    """Bursts of a new type of event between accepted deliveries fill no log; a clock set back silences nothing."""
    run = ParkedInARow()
    assert any(parked(run, "aaaaa-"))
    assert parked(run, "aaaaa") == [False] * 5
    assert run.alarm
    parked(run, "-")
    assert any(parked(run, "bbbbb-"))
    assert any(parked(run, "aaaaa-", NOON + PARKED_AGAIN))
    assert any(parked(run, "aaaaa-", NOON))


def heard(clock: ClockOffset, late_s: list[float], every: timedelta, begin: datetime = NOON) -> list[str]:
    """Tell of accepted deliveries that were so late, and return the changes."""
    times = [begin + number * every for number in range(len(late_s))]
    changes = [clock.accepted(now - timedelta(seconds=one), now) for now, one in zip(times, late_s, strict=True)]
    return [change for change in changes if change is not None]


@pytest.mark.parametrize("offset_s", [OFFSET_LIMIT_S, HOUR_S, 3 * HOUR_S, -OFFSET_LIMIT_S, -HOUR_S])
@pytest.mark.parametrize("every", [timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=5)])
def test_a_clock_that_stays_wrong_is_an_alarm_both_ways(offset_s: float, every: timedelta) -> None:
    """A vendor's clock that is behind or ahead is told once, whether deliveries are rare or come every second."""
    clock, random = ClockOffset(), Random(1)
    number = OFFSET_WINDOW + int(OFFSET_LASTING / every) + 2
    transit = 0 if offset_s > 0 else -2.0
    changes = heard(clock, [offset_s + transit + random.uniform(0, 2) for _ in range(number)], every)
    assert changes == ["differs"]
    assert clock.alarm
    assert clock.offset_s == pytest.approx(offset_s, abs=2)


def test_a_clock_that_is_put_right_ends_the_alarm() -> None:
    """Deliveries that are prompt again end it, once."""
    clock = ClockOffset()
    assert heard(clock, [HOUR_S] * 40, timedelta(minutes=1)) == ["differs"]
    assert heard(clock, [1.0] * 40, timedelta(minutes=1), NOON + timedelta(hours=1)) == ["agrees"]
    assert not clock.alarm


@given(st.integers(0, 1 << 32))
def test_retries_and_odd_stamps_are_no_alarm(seed: int) -> None:
    """A clock that is right stays so where half the deliveries are retried for hours and some are stamped oddly."""
    random, clock = Random(seed), ClockOffset()
    late = []
    for _ in range(200):
        late += random.sample([1.0, 2.0, 0.5, 1.0, 30.0, 7200.0, 3600.0, 600.0, 90.0, -86_400.0], 10)
    assert heard(clock, late, timedelta(minutes=1)) == []
    assert clock.offset_s is not None
    assert abs(clock.offset_s) < OFFSET_LIMIT_S


def test_a_queue_that_is_worked_off_is_no_alarm() -> None:
    """A vendor that is ten minutes late for less than a quarter of an hour is late, and has no wrong clock."""
    clock = ClockOffset()
    heard(clock, [1.0] * OFFSET_WINDOW, timedelta(seconds=10))
    late = [600.0 - second for second in range(540)]
    assert heard(clock, late, timedelta(seconds=1), NOON + timedelta(hours=1)) == []


def test_few_deliveries_say_nothing() -> None:
    """One delivery that was retried for an hour is no clock."""
    clock = ClockOffset()
    assert heard(clock, [HOUR_S] * (OFFSET_MINIMUM - 1), timedelta(hours=1)) == []
    assert clock.offset_s is None


def test_our_clock_that_was_set_back_begins_the_wait_anew() -> None:
    """What began in a future that is none any more neither hides an alarm for ever nor raises one at once."""
    clock = ClockOffset()
    heard(clock, [HOUR_S] * OFFSET_WINDOW, timedelta(seconds=1), NOON + timedelta(days=900))
    assert heard(clock, [HOUR_S] * 2, timedelta(seconds=1)) == []
    assert heard(clock, [HOUR_S] * 2, OFFSET_LASTING, NOON + timedelta(seconds=2)) == ["differs"]
