"""How much each of the last minutes brought, whoever looked when."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from whatsms_events.domain.trail import Trail

START = datetime(2026, 11, 29, 12, tzinfo=UTC)


def at(minute: float) -> datetime:
    """Return a moment so many minutes after the start."""
    return START + timedelta(minutes=minute)


def test_each_minute_has_what_it_brought() -> None:
    """The first minute counts from the first look on, the one under way so far, and one without a look its share."""
    trail = Trail(5)
    trail.note(at(0.1), {"received": 100})
    trail.note(at(0.9), {"received": 110})
    trail.note(at(1.5), {"received": 113})
    trail.note(at(3.2), {"received": 121, "applied": 7})
    assert trail.rates("received", at(3.5)) == [None, 10, 3, 4, 4]
    assert trail.rates("applied", at(3.5)) == [None] * 5
    assert trail.rates("received", at(6)) == [4, 4, None, None, None]
    assert trail.rates("received", at(600)) == [None] * 5


def test_when_a_position_was_passed_is_known_to_who_looked() -> None:
    """To the minute, or between the looks before and after; nothing is known of what was there at the first look."""
    trail = Trail(5)
    trail.note(at(0.1), {"applied": 100})
    trail.note(at(0.9), {"applied": 110})
    trail.note(at(1.5), {})
    trail.note(at(3.2), {"applied": 121})
    assert trail.passed("applied", 100) is None
    assert trail.passed("applied", 101) == trail.passed("applied", 110) == (at(0), at(1))
    assert trail.passed("applied", 111) == trail.passed("applied", 121) == (at(1), at(4))
    assert trail.passed("applied", 122) is trail.passed("published", 1) is None


def test_a_position_was_passed_after_the_last_look_that_did_not_show_it() -> None:
    """A minute whose last look came early, as where the database went away, may have seen it pass behind that look."""
    trail = Trail(5)
    trail.note(at(0.1), {"applied": 100})
    trail.note(at(1.1), {"applied": 110})
    trail.note(at(3.2), {"applied": 121})
    assert trail.passed("applied", 111) == (at(1), at(4))
    trail.note(at(3.99), {"applied": 121})
    trail.note(at(4.1), {"applied": 130})
    assert trail.passed("applied", 130) == (at(4), at(5)), "it was looked at until the minute was over"


def test_a_counter_that_fell_or_a_clock_set_back_is_no_negative_rate() -> None:
    """After a restored backup the minute has nothing, and after a clock was set back the trail begins anew."""
    trail = Trail(3)
    trail.note(at(0), {"received": 50})
    trail.note(at(1), {"received": 20})
    assert trail.rates("received", at(1)) == [None, 0, 0]
    trail.note(at(-30), {"received": 25})
    assert trail.rates("received", at(1)) == [None] * 3
    assert trail.rates("received", at(-30)) == [None, None, 0]


@given(st.lists(st.tuples(st.integers(0, 120), st.integers(0, 50)), min_size=1, max_size=60))
def test_nothing_is_counted_twice_and_nothing_is_lost(steps: list[tuple[int, int]]) -> None:
    """However seldom somebody looked, the rates of a long enough trail add up to what came."""
    trail, second, total = Trail(200), 0, 0
    for pause, came in steps:
        second, total = second + pause, total + came
        trail.note(START + timedelta(seconds=second), {"received": total})
    first = steps[0][1]
    seen = trail.rates("received", START + timedelta(seconds=second))
    assert round(sum(one or 0 for one in seen), 6) == total - first
