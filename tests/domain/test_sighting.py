"""As of when an answer counts, whatever the clocks of vendor, proxy and our own say."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from whatsms_events.domain.sighting import ABSURD, LAG_S, SKEW, as_of, seen_at

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
SETTLE_S = 10.0
apart = st.timedeltas(timedelta(days=-900), timedelta(days=900))


@given(apart, st.timedeltas(timedelta(), timedelta(minutes=10)))
def test_no_answer_is_later_than_our_clock_when_it_was_asked_for(ahead: timedelta, waited: timedelta) -> None:
    """A clock that is ahead makes nothing newer than it is; what is compared is older by the lag."""
    seen = seen_at(NOW + ahead, NOW)
    assert NOW - ABSURD <= seen <= NOW
    assert as_of(seen, NOW + waited, settle_s=SETTLE_S) == seen - timedelta(seconds=LAG_S)


@given(apart)
def test_a_clock_that_was_set_back_makes_no_observation_from_the_future(moved: timedelta) -> None:
    """Nothing is compared as of a time that the fold would not believe."""
    assert as_of(NOW, NOW + moved, settle_s=SETTLE_S) <= min(NOW, NOW + moved + SKEW)


def test_the_lag_is_no_longer_than_the_settle_delay() -> None:
    """Who waits less for webhooks believes that the API is that much behind at most."""
    assert as_of(NOW, NOW, settle_s=1) == NOW - timedelta(seconds=1)


def test_a_date_that_is_no_date_is_replaced_by_our_clock() -> None:
    """A day behind or more: a proxy without a clock says 1970."""
    assert seen_at(datetime(1970, 1, 1, tzinfo=UTC), NOW) == NOW
    assert seen_at(NOW - ABSURD, NOW) == NOW - ABSURD
