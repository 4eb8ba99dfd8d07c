"""When a webhook secret may go: the rule by its cases."""

from datetime import UTC, datetime, timedelta

import pytest

from whatsms_events.domain.rotation import QUIET, SecretUse, standings

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def use(name: str, first: float, last: float) -> SecretUse:
    """Return the use of a secret that first and last fitted so many days ago."""
    return SecretUse("t1", name, NOW - first * DAY, NOW - last * DAY, 5)


@pytest.mark.parametrize(
    ("old", "new", "state", "safe"),
    [
        pytest.param(use("old", 90, 0), None, "in use", False, id="it is alone"),
        pytest.param(use("old", 90, 9), None, "in use", False, id="alone, and silent for days"),
        pytest.param(use("old", 90, 0.5), use("new", 1, 0.6), "retiring", False, id="it still fits"),
        pytest.param(use("old", 90, 1), use("new", 1, 0), "retiring", False, id="silent for a day only"),
        pytest.param(use("old", 90, 3), use("new", 3, 0), "retiring", False, id="silent for no longer than the limit"),
        pytest.param(use("old", 90, 3.1), use("new", 3.1, 0), "retiring", True, id="silent for longer"),
        pytest.param(use("old", 90, 4), use("new", 30, 0), "retiring", False, id="side by side for longer than silent"),
        pytest.param(use("old", 90, 4), use("new", 7, 0), "retiring", True, id="silent for longer than side by side"),
        pytest.param(use("old", 90, 4), use("new", 9, 5), "retiring", False, id="the new one fell silent first"),
        pytest.param(use("old", 9, 4), use("new", 90, 0), "in use", False, id="the other one is older"),
    ],
)
def test_an_old_secret_is_safe_to_retire_once_a_newer_one_fits_and_it_was_silent_for_long(
    old: SecretUse, new: SecretUse | None, state: str, safe: bool
) -> None:
    """Neither silence alone nor a newer secret alone is enough, and two webhooks with two secrets never look safe."""
    uses = {one.name: one for one in (old, new) if one is not None}
    (found, *_) = standings(["old", "new"], uses, NOW)
    assert (found.name, found.state, found.safe_to_retire) == ("old", state, safe)
    assert found.why


def test_a_secret_that_never_fitted_is_never_safe_to_retire() -> None:
    """It may be the next one; and uses of secrets that the configuration no longer has decide nothing."""
    uses = {"old": use("old", 90, 30), "gone": use("gone", 20, 0)}
    found = {one.name: one for one in standings(["old", "next"], uses, NOW)}
    assert (found["next"].state, found["next"].safe_to_retire, found["next"].last_at) == ("never matched", False, None)
    assert (found["old"].state, found["old"].safe_to_retire) == ("in use", False)


def test_a_clock_that_was_set_back_makes_nothing_safe() -> None:
    """A use in the future is no silence."""
    found = standings(["old", "new"], {"old": use("old", 90, -QUIET / DAY), "new": use("new", 4, -9)}, NOW)
    assert not found[0].safe_to_retire
