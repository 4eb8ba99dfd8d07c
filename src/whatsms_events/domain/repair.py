"""What the vendor's API answered to a backfill in, what that means for its page, list, item and run out.

Theory of operation. A run reads lists page by page, then tickets and contacts by id, then (where asked for) lists of
messages. An odd answer ends as little as it can:

* Only what is wrong for every request halts the run, and a person decides: a key that is refused, a first page that is
  refused, pages that never move on.
* A list that goes on badly behind a good first page ends there. What it showed is compared and repaired, and the report
  names it as not stable. So does a list that shows the same nonsense at each try, or none while others are answered.
* What is wrong with one item is that item's: without the right to it it is left out, without a usable answer it is left
  to the next run.
* No answer at all means that the vendor is away: nothing ends, the run waits.

How often the same thing is tried is a part of the table, so no answer is asked for without end.
"""

from typing import Final, Literal, NamedTuple

from whatsms_events.errors import (
    UpstreamError,
    UpstreamForbiddenError,
    UpstreamGoneError,
    UpstreamLimitedError,
    UpstreamNotFoundError,
    UpstreamPagingError,
    UpstreamRefusedError,
    UpstreamUnauthorizedError,
)

Asked = Literal["first_page", "filtered_page", "second_page", "later_page", "messages", "more_messages", "item"]
"""What was asked for: the first page of a list, whole or filtered; its second one, which tells whether pages move on;
one behind that; the first or a later page of a ticket's messages; one ticket or contact by its id."""

Answered = Literal["unauthorized", "forbidden", "not_found", "gone", "refused", "paging", "limited", "nonsense", "away"]
"""What came: 401; 403; 404; 410 or moved to another id; refused in any other way; pages that lead nowhere; 429; a good
status with something else than what was asked for; no answer, or a server's own error."""

Meaning = Literal[
    "halt",  # the run stops until a person did something
    "wait",  # the vendor asks for a pause
    "again",  # the same once more, later
    "anew",  # the list once more from its first page
    "end",  # the list ends here and is not stable
    "doubt",  # the list ends here if the vendor answers anything else; if not, it is away: again
    "leave",  # this item is left to the next run
    "leave_out",  # this item is not ours to see
    "absent",  # there is no such thing, said once
    "gone",  # there is no such thing any more, said clearly
]


class Step(NamedTuple):
    """What an answer means the first `tries` times, and what `then`."""

    then: Meaning
    tries: int = 0
    first: Meaning = "again"


PAGE_TRIES: Final = 2
"""How often a page is asked for again that has no usable answer, each time with all tries of the client."""

ROUNDS: Final = 5
"""How often an entity is read again that events keep touching, or that the vendor stumbles over; then it is left to the
next run."""

_HALT, _WAIT, _END = Step("halt"), Step("wait"), Step("end")
_LEAVE, _LEAVE_OUT, _ABSENT, _GONE = Step("leave"), Step("leave_out"), Step("absent"), Step("gone")
_ANEW_HALT, _ANEW_END, _ANEW_LEAVE = (Step(then, 1, "anew") for then in ("halt", "end", "leave"))
_TRY_END, _TRY_DOUBT = Step("end", PAGE_TRIES), Step("doubt", PAGE_TRIES)
_TRY_ITEM, _TRY_LIST = Step("leave", ROUNDS), Step("leave", ROUNDS + 1)

_COLUMNS: Final[tuple[Asked, ...]] = (
    *("first_page", "filtered_page", "second_page", "later_page"),
    *("messages", "more_messages", "item"),
)
_TABLE: Final[dict[Answered, tuple[Step, ...]]] = {
    # lists: first, filtered, second, later; messages: first, later; one by id
    "unauthorized": (*(_HALT, _HALT, _HALT, _HALT), *(_HALT, _HALT), _HALT),
    "forbidden": (*(_HALT, _HALT, _HALT, _HALT), *(_LEAVE_OUT, _LEAVE_OUT), _LEAVE_OUT),
    "not_found": (*(_HALT, _END, _END, _END), *(_LEAVE, _END), _ABSENT),
    "gone": (*(_HALT, _END, _END, _END), *(_LEAVE, _END), _GONE),
    "refused": (*(_HALT, _END, _END, _END), *(_LEAVE, _END), _LEAVE),
    # Page 2 like page 1 is a parameter that is ignored; a later one like the one before is a list behind its end.
    "paging": (*(_ANEW_HALT, _ANEW_HALT, _ANEW_HALT, _ANEW_END), *(_ANEW_LEAVE, _ANEW_LEAVE), _LEAVE),
    "limited": (*(_WAIT, _WAIT, _WAIT, _WAIT), *(_WAIT, _WAIT), _WAIT),
    "nonsense": (*(_TRY_END, _TRY_END, _TRY_END, _TRY_END), *(_TRY_LIST, _TRY_LIST), _TRY_ITEM),
    "away": (*(_TRY_DOUBT, _TRY_DOUBT, _TRY_DOUBT, _TRY_DOUBT), *(_TRY_LIST, _TRY_LIST), _TRY_ITEM),
}

_CLASSES: Final[tuple[tuple[type[UpstreamError], Answered], ...]] = (
    (UpstreamUnauthorizedError, "unauthorized"),
    (UpstreamForbiddenError, "forbidden"),
    (UpstreamGoneError, "gone"),
    (UpstreamNotFoundError, "not_found"),
    (UpstreamPagingError, "paging"),
    (UpstreamRefusedError, "refused"),
    (UpstreamLimitedError, "limited"),
)
"""The first that fits: a subclass stands before its parent."""


def classify(error: UpstreamError, asked: Asked, tries: int = 0) -> Meaning:
    """Return what an answer means that is not what was asked for, the same having failed `tries` times before."""
    step = _TABLE[_answered(error)][_COLUMNS.index(asked)]
    return step.first if tries < step.tries else step.then


def _answered(error: UpstreamError) -> Answered:
    for kind, answered in _CLASSES:
        if isinstance(error, kind):
            return answered
    return "nonsense" if error.status is not None and 200 <= error.status < 300 else "away"


def asked_page(number: int, *, filtered: bool) -> Asked:
    """Return what a page of a list of entities is."""
    if number == 1:
        return "filtered_page" if filtered else "first_page"
    return "second_page" if number == 2 else "later_page"


GONE_FLOOR: Final = 20
"""So many of an entity may always go: a tenth of a small account is next to nothing."""


def gone_limit(held: int, share: float) -> int:
    """Return how many entities of `held` one run may mark as gone by itself."""
    return max(GONE_FLOOR, int(held * share))


def advice(missed: int, extra: int) -> str:
    """Return what to look at where too many of an entity would be marked as gone."""
    if missed * 2 >= extra:
        return "about as many were missed as are extra: do the ids of the webhooks and of the REST API meet?"
    return "may the API key see all of them, and is it the key of this account?"
