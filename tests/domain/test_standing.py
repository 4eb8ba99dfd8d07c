"""What a role says of itself and where it is, against what makes it a fault."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from whatsms_events.domain.standing import LOOK_LIMIT_S, RETRY_S, STILL_S, RolePlace, RoleState, Standing


def looked(state: RoleState, why: str, *places: RolePlace | None, step_s: float = 1.0) -> Standing:
    """Return a role that was looked at once for each place, `step_s` apart."""
    standing = Standing()
    for number, place in enumerate(places):
        standing.look(number * step_s, state, why, place)
    return standing


def test_a_role_that_works_or_stands_by_for_one_that_does_is_no_fault() -> None:
    """Whoever moves the place, and however far behind it is: while it moves, nothing stands still."""
    moving = [RolePlace(at, 10**6) for at in range(1000)]
    assert looked("active", "", *moving).problem is None
    assert looked("standby", "", *moving).stalled_s == 0


def test_a_role_that_has_nothing_to_do_is_no_fault() -> None:
    """At its target, or beyond it, it may stay for ever."""
    assert looked("active", "", *[RolePlace(7, 7)] * 1000).stalled_s == 0
    assert looked("standby", "", *[RolePlace(8, 7)] * 1000).problem is None


def test_standing_by_while_nobody_moves_is_a_fault() -> None:
    """An active one elsewhere that is frozen: after STILL_S the one that stands by says so, and how long it is."""
    for state in ("standby", "active"):
        frozen = [RolePlace(7, 8)] * int(STILL_S)
        assert looked(state, "", *frozen).problem is None
        standing = looked(state, "", *frozen, RolePlace(7, 9))
        assert "at 7 for 60 s" in str(standing.problem)
        standing.look(STILL_S + 1, state, "", RolePlace(8, 9))
        assert standing.stalled_s == 0
        assert standing.problem is None


def test_new_work_does_not_make_an_idle_role_late() -> None:
    """The time in which there was nothing to do does not count."""
    standing = looked("active", "", *[RolePlace(7, 7)] * 1000)
    standing.look(1000, "active", "", RolePlace(7, 8))
    assert standing.stalled_s <= 1


def test_failing_for_longer_than_a_grace_is_a_fault() -> None:
    """A failover passes unseen; what fails for RETRY_S is told with its reason; one success ends it."""
    standing = looked("standby", "broker away", *[None] * int(RETRY_S))
    assert standing.problem is None
    standing.look(RETRY_S, "standby", "broker away")
    assert standing.problem == "has failed for 30 s: broker away"
    standing.look(RETRY_S + 1, "standby", "")
    assert standing.problem is None


def test_a_halted_role_is_a_fault_at_once() -> None:
    """A person must decide, so there is no grace; where it goes on by itself it is none any more."""
    standing = looked("halted", "another log", None)
    assert standing.problem == "halted: another log"
    standing.look(1, "active", "")
    assert standing.problem is None


def test_a_database_that_does_not_answer_proves_nothing() -> None:
    """Looks without a place neither count nor forgive."""
    standing = looked("active", "", *[RolePlace(7, 8)] * 50)
    for second in range(50, 500):
        standing.look(second, "active", "", None)
    assert standing.stalled_s == 49


@given(st.lists(st.floats(-1e9, 1e9, allow_nan=False), min_size=2, max_size=5))
def test_a_clock_that_jumps_makes_nothing_stand_still(moments: list[float]) -> None:
    """Set back, set forward, or a process that was frozen: what nobody looked at does not count."""
    standing = Standing()
    for moment in moments:
        standing.look(moment, "standby", "away", RolePlace(7, 8))
    assert 0 <= standing.stalled_s <= LOOK_LIMIT_S * (len(moments) - 1)


def test_a_longer_patience_is_kept() -> None:
    """A role whose place moves rarely has its own limit."""
    standing = Standing(still_s=900)
    for second in range(0, 900, 5):
        standing.look(second, "active", "", RolePlace(7, 8))
    assert standing.problem is None
    standing.look(900, "active", "", RolePlace(7, 8))
    assert standing.problem is not None


NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


def test_a_role_says_how_it_is_in_words_that_stay_the_same_while_it_is_so() -> None:
    """It waits at first, and stands still after RETRY_S; since when is the first failure. The text has no duration."""
    standing = looked("standby", "broker away", None)
    found = [standing.report(NOW)]
    for second in range(1, int(RETRY_S) + 9):
        standing.look(second, "standby", "broker away")
        found.append(standing.report(NOW + timedelta(seconds=second)))
    assert [one.word for one in found] == ["waits"] * 30 + ["stands still"] * 9
    assert {(one.why, one.since, one.fine) for one in found} == {("broker away", NOW, False)}
    standing.look(100, "active", "")
    later = NOW + timedelta(seconds=100)
    well = standing.report(later)
    assert (well.word, well.why, well.todo, well.since) == ("works", "", "", later)
    standing.look(101, "standby", "")
    assert (standing.report(NOW + timedelta(seconds=101)).word, well.fine) == ("stands by", True)


def test_a_role_that_gets_no_further_says_what_to_do() -> None:
    """Who has it is looked at, and who stands by for one that is frozen has that one ended."""
    frozen = [RolePlace(7, 8)] * (int(STILL_S) + 1)
    ours, theirs = (looked(state, "", *frozen).report(NOW) for state in ("active", "standby"))
    assert (ours.word, theirs.word) == ("stands still", "stands still")
    assert ours.since == NOW - timedelta(seconds=STILL_S)
    assert "start it again" in ours.todo
    assert theirs.todo == "End that process, and another one takes over."
    halted = looked("halted", "another log", None).report(NOW)
    assert (halted.word, halted.why) == ("stands still", "another log")
