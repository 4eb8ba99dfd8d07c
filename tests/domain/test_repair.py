"""What an odd answer means: for the run, the list, the item; and how much may go."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatsms_events import errors
from whatsms_events.domain import repair
from whatsms_events.domain.repair import (
    GONE_FLOOR,
    PAGE_TRIES,
    ROUNDS,
    Answered,
    Asked,
    Meaning,
    advice,
    asked_page,
    classify,
    gone_limit,
)
from whatsms_events.errors import (
    UpstreamError,
    UpstreamForbiddenError,
    UpstreamGoneError,
    UpstreamInvalidError,
    UpstreamLimitedError,
    UpstreamNotFoundError,
    UpstreamPagingError,
    UpstreamRefusedError,
    UpstreamUnauthorizedError,
    UpstreamUnavailableError,
)

LISTS: tuple[Asked, ...] = ("first_page", "filtered_page", "second_page", "later_page")
EVERY: tuple[Asked, ...] = get_args(Asked)
NONSENSE = UpstreamUnavailableError("x", status=200)
AWAY = (UpstreamUnavailableError("x", status=502), UpstreamUnavailableError("x"))


def test_the_table_has_an_answer_to_everything() -> None:
    """Each answer has a step for each thing that can be asked for, and each class of the client's errors is read."""
    assert set(repair._TABLE) == set(get_args(Answered))
    assert all(len(steps) == len(EVERY) for steps in repair._TABLE.values())
    assert repair._COLUMNS == EVERY
    refusals = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, UpstreamError)]
    for kind in refusals:
        for asked in EVERY:
            assert classify(kind("x"), asked) in get_args(Meaning)


@pytest.mark.parametrize("asked", EVERY)
def test_a_key_that_is_refused_halts_whatever_was_asked_for(asked: Asked) -> None:
    """401 is about everything."""
    assert classify(UpstreamUnauthorizedError("x"), asked) == "halt"


@pytest.mark.parametrize("asked", EVERY)
def test_without_a_right_a_list_halts_and_an_item_is_left_out(asked: Asked) -> None:
    """403 is about what was asked for: all of a list, or one item, or the messages of one ticket."""
    assert classify(UpstreamForbiddenError("x"), asked) == ("halt" if asked in LISTS else "leave_out")


@pytest.mark.parametrize("kind", [UpstreamInvalidError, UpstreamNotFoundError, UpstreamGoneError, UpstreamRefusedError])
def test_a_refused_page_ends_its_list_but_for_the_first_one(kind: type[UpstreamError]) -> None:
    """Behind a good first page, or a filter that the vendor does not know, it is the end of that list alone."""
    assert [classify(kind("x"), asked) for asked in LISTS] == ["halt", "end", "end", "end"]
    assert [classify(kind("x"), asked) for asked in ("messages", "more_messages")] == ["leave", "end"]


def test_of_one_item_404_is_absence_and_410_is_the_end() -> None:
    """404 is said once, 410 clearly; what is refused in another way says nothing."""
    said = (UpstreamNotFoundError("x"), UpstreamGoneError("x"), UpstreamRefusedError("x", status=451))
    assert [classify(error, "item") for error in said] == ["absent", "gone", "leave"]


@pytest.mark.parametrize("asked", EVERY)
def test_nonsense_is_asked_for_a_bounded_number_of_times(asked: Asked) -> None:
    """A good status without what was asked for: some times more, then the list ends, or the item is left."""
    bound = PAGE_TRIES if asked in LISTS else ROUNDS if asked == "item" else ROUNDS + 1
    for tries in range(bound):
        assert classify(NONSENSE, asked, tries) == "again"
    assert classify(NONSENSE, asked, bound) == ("end" if asked in LISTS else "leave")


@pytest.mark.parametrize("error", AWAY)
def test_a_vendor_that_is_away_ends_no_list_by_itself(error: UpstreamError) -> None:
    """Where a page has no answer, it is the page or the vendor: whether anything else is answered decides."""
    for asked in LISTS:
        assert classify(error, asked, PAGE_TRIES - 1) == "again"
        assert classify(error, asked, 10**9) == "doubt"


@pytest.mark.parametrize("asked", EVERY)
def test_a_pause_is_no_failure(asked: Asked) -> None:
    """429 is waited for, however often it comes."""
    assert classify(UpstreamLimitedError("x", status=429), asked, 10**9) == "wait"


def test_pages_that_never_move_on_halt_and_a_repeated_end_is_an_end() -> None:
    """Page 2 like page 1 is a parameter that is ignored; the same further on is the way of a server to end a list."""
    error = UpstreamPagingError("x")
    assert [classify(error, asked, 0) for asked in LISTS] == ["anew"] * 4
    assert [classify(error, asked, 1) for asked in LISTS] == ["halt", "halt", "halt", "end"]


def test_a_page_is_named_by_its_number() -> None:
    """The first page of a list, of a filter, the second one, and those behind."""
    assert [asked_page(number, filtered=False) for number in (1, 2, 3, 99)] == [LISTS[0], *LISTS[2:], LISTS[3]]
    assert [asked_page(number, filtered=True) for number in (1, 2)] == [LISTS[1], LISTS[2]]


@given(st.integers(0, 10**7), st.floats(0, 1))
def test_a_run_marks_a_share_or_a_few(held: int, share: float) -> None:
    """Never more than the share, but for the few that may always go."""
    limit = gone_limit(held, share)
    assert limit >= GONE_FLOOR
    assert limit == GONE_FLOOR or limit <= held * share


def test_as_many_missed_as_extra_ask_whether_ids_meet() -> None:
    """That is what two kinds of ids look like; without missed ones something else is wrong."""
    assert "ids" in advice(200, 200)
    assert "key" in advice(3, 200)
