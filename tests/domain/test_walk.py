"""How a list is read: page by page, in passes until one brings nothing new."""

from hypothesis import given
from hypothesis import strategies as st

from whatsms_events.domain import walk
from whatsms_events.domain.walk import PASSES, Walks


def test_a_list_on_one_page_is_read_once() -> None:
    """It is seen at one moment, however much of it is new."""
    walks = walk.read(Walks(), fresh=100, paged=False)
    assert walk.step(walks, more=False, in_pass=1, passes=PASSES).then == "over"


def test_a_pass_that_brings_something_new_is_followed_by_another() -> None:
    """What moved while the first pass went on may have been missed; the second one brings nothing, and is the last."""
    walks = walk.read(Walks(), fresh=100, paged=True)
    walks, then = walk.step(walks, more=False, in_pass=1, passes=PASSES)
    assert (then, walks.pass_number, walks.fresh) == ("pass", 2, 0)
    walks = walk.read(walks, fresh=0, paged=True)
    assert walk.step(walks, more=False, in_pass=1, passes=PASSES).then == "over"


def test_a_walk_that_was_given_up_is_the_last_pass() -> None:
    """What comes without end is not asked for in further passes."""
    walks = walk.read(Walks(stuck=True), fresh=100, paged=True)
    assert walk.step(walks, more=False, in_pass=1, passes=PASSES).then == "over"


def test_each_purpose_has_its_counter() -> None:
    """A page without an answer, and pages that lead nowhere, are counted apart; a page that is read ends the first."""
    walks = walk.failed(walk.failed(Walks(), "again"), "anew")
    assert (walk.tries(walks, "away"), walk.tries(walks, "paging")) == (1, 1)
    walks = walk.read(walks, fresh=0, paged=True)
    assert (walk.tries(walks, "nonsense"), walk.tries(walks, "paging")) == (0, 1)
    assert walk.step(walks, more=False, in_pass=2, passes=1).walks.anew == 0


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 4), st.lists(st.booleans(), max_size=40))
def test_passes_over_a_list_are_bounded(fresh: int, in_pass: int, passes: int, more: list[bool]) -> None:
    """However much each page brings that is new: after the last pass the list is read, and it is named not stable."""
    walks, ended = Walks(), 0
    for one in [*more, *[False] * (in_pass * passes)]:
        walks = walk.read(walks, fresh=fresh, paged=True)
        walks, then = walk.step(walks, more=one, in_pass=in_pass, passes=passes)
        ended += then in ("walk", "pass")
        if then in ("over", "unstable"):
            assert ended < in_pass * passes
            assert then == ("over" if fresh == 0 or passes == 1 else "unstable")
            return
    raise AssertionError("never ends")
