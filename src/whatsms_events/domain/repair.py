"""Every decision of a backfill: which phase comes next, what an answer means, and what becomes of an item.

Theory of operation. A run is four small state machines, and each has one table in this module or in `walk`. The tables
know nothing of the network, the database or the clock: `backfill/` asks a table and does what the table says.

1. **The run** (`PHASES`). A reconcile first reads the lists of contacts, tickets and campaigns. Then it looks which
   ids we hold that no list showed, reads tickets and contacts by their ids, lists the campaigns once more where some
   were hidden, reads messages where somebody asked for them, and last decides about everything that is not there. A
   repair begins with the details, since it knows what it is about. Each phase ends only when its work is done, so
   phases follow each other in one direction. There is one way back: a thing that was to be marked as gone, and of
   which a webhook told meanwhile, is read by its id again.
2. **A list** (`walk.Walks`). Pages follow each other until the last one; passes over a list repeat until one brings
   nothing new.
3. **An answer** that is not what was asked for (`decide`). It ends as little as it can:

   * Only what is wrong for every request halts the run, and a person decides: a key that is refused, a first page that
     is refused, pages that never move on.
   * A list that goes on badly behind a good first page ends there. What it showed is compared and repaired, and the
     report names the list as not stable. The same holds for a list that answers nonsense at each try, or that gives no
     answer while other lists are answered.
   * What is wrong with one item concerns that item alone: without the right to it, the item is left out; without a
     usable answer, the item is left to the next run.
   * Where a list gets no answer, and no other list does either, the vendor is away: the run waits. One item, or the
     messages of one ticket, are left to the next run after their tries, even then.
4. **An item** (`ITEMS`). An item is one entity that the run looks at. Each step of an item is saved in one transaction
   together with what was learned, so a process that dies between two steps repeats the last request and nothing else.

Why a run ends. A phase leads back only for an item that is read again, and each state leads to such a reading a bounded
number of times (`ROUNDS` at most for what changes while it is looked at). The passes over a list are bounded, and so is
the number of tries for each page. Nothing bounds a vendor that is away, a pause that the vendor asked for, a halt, a
database that is away, and a projection that no consumer brings up to date. Each of them leaves the run where it stands.
No table looks at a clock: a clock that is set back can change when a step is due, but never which step it is. Beside
that, a person may stop a run in any phase (`stop` in `storage/repair/runs`), which ends it.
"""

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

from whatsms_events.domain.events import Entity
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

# The run.

Phase = Literal["contacts", "tickets", "campaigns", "absences", "details", "again", "messages", "gone", "finished"]

Duty = Literal[
    "list",  # read the next page of a list of entities
    "scan",  # look which of our ids no list showed
    "look",  # ask for the next item by its id
    "list_messages",  # read the next page of a ticket's messages
    "judge",  # decide whether what is missing is marked as gone
    "report",  # close the run
]

PhaseEnd = Literal[
    "over",  # nothing is left to do in this phase
    "touched",  # something that was to be marked as gone has to be read again
]

FIRST: Final[Mapping[str, Phase]] = {"reconcile": "contacts", "repair": "details"}
"""The phase with which each kind of run begins."""


class PhaseStep(NamedTuple):
    """What is done in a phase, and which phase follows."""

    do: Duty
    over: Phase
    touched: Phase | None = None


PHASES: Final[Mapping[Phase, PhaseStep]] = {
    "contacts": PhaseStep("list", over="tickets"),
    "tickets": PhaseStep("list", over="campaigns"),
    "campaigns": PhaseStep("list", over="absences"),
    "absences": PhaseStep("scan", over="details"),
    "details": PhaseStep("look", over="again"),
    "again": PhaseStep("list", over="messages"),
    "messages": PhaseStep("list_messages", over="gone"),
    "gone": PhaseStep("judge", over="finished", touched="details"),
    "finished": PhaseStep("report", over="finished"),
}


def following(phase: Phase, end: PhaseEnd = "over") -> Phase:
    """Return the phase that comes after `phase` has ended in this way."""
    step = PHASES[phase]
    to = step.over if end == "over" else step.touched
    assert to is not None, (phase, end)  # noqa: S101 - only `gone` leads back
    return to


# An answer.

AskedFor = Literal["first_page", "filtered_page", "second_page", "later_page", "messages", "more_messages", "item"]
"""What was asked for: the first page of a list, whole or filtered; its second one, which tells whether pages move on;
one behind that; the first or a later page of a ticket's messages; one ticket or contact by its id."""

Answered = Literal["unauthorized", "forbidden", "not_found", "gone", "refused", "paging", "limited", "nonsense", "away"]
"""What came: 401; 403; 404; 410 or moved to another id; refused in any other way; pages that lead nowhere; 429; a good
status with something else than what was asked for; no answer, or a server's own error."""

UNUSABLE: Final[frozenset[Answered]] = frozenset({"nonsense", "away"})
"""Answers that may come without end: a list that ends because of them is not read in further passes."""

Meaning = Literal[
    "halt",  # the run stops until a person did something
    "wait",  # the vendor asks for a pause
    "again",  # the same request once more, later
    "anew",  # the list once more from its first page
    "end",  # the list ends here and is not stable
    "doubt",  # another list is asked: if that one is answered, this one ends here; if not, ask again later
    "leave",  # this item is left to the next run
    "leave_out",  # this item is not ours to see
    "absent",  # there is no such thing, said once
    "gone",  # there is no such thing any more, said clearly
]


class Rule(NamedTuple):
    """What an answer means the first `tries` times, and what it means `then`."""

    then: Meaning
    tries: int = 0
    first: Meaning = "again"


PAGE_TRIES: Final = 2
"""How often a page is asked for again that has no usable answer, each time with all tries of the client."""

ROUNDS: Final = 5
"""How often an entity is read again because events keep touching it, or because the vendor stumbles over it; then it is
left to the next run."""

_HALT, _WAIT, _END = Rule("halt"), Rule("wait"), Rule("end")
_LEAVE, _LEAVE_OUT, _ABSENT, _GONE = Rule("leave"), Rule("leave_out"), Rule("absent"), Rule("gone")
_ANEW_HALT, _ANEW_END, _ANEW_LEAVE = (Rule(then, 1, "anew") for then in ("halt", "end", "leave"))
_TRY_END, _TRY_DOUBT = Rule("end", PAGE_TRIES), Rule("doubt", PAGE_TRIES)
_TRY_ITEM, _TRY_LIST = Rule("leave", ROUNDS), Rule("leave", ROUNDS + 1)

COLUMNS: Final[tuple[AskedFor, ...]] = (
    *("first_page", "filtered_page", "second_page", "later_page"),
    *("messages", "more_messages", "item"),
)
ANSWERS: Final[Mapping[Answered, tuple[Rule, ...]]] = {
    # lists: first, filtered, second, later; messages: first, later; one by id
    "unauthorized": (*(_HALT, _HALT, _HALT, _HALT), *(_HALT, _HALT), _HALT),
    "forbidden": (*(_HALT, _HALT, _HALT, _HALT), *(_LEAVE_OUT, _LEAVE_OUT), _LEAVE_OUT),
    "not_found": (*(_HALT, _END, _END, _END), *(_LEAVE, _END), _ABSENT),
    "gone": (*(_HALT, _END, _END, _END), *(_LEAVE, _END), _GONE),
    "refused": (*(_HALT, _END, _END, _END), *(_LEAVE, _END), _LEAVE),
    # If page 2 is page 1 again, the parameter is ignored; if a later page repeats the one before it, the list is over.
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


def classify(error: UpstreamError) -> Answered:
    """Return what came in place of what was asked for."""
    for kind, answered in _CLASSES:
        if isinstance(error, kind):
            return answered
    return "nonsense" if error.status is not None and 200 <= error.status < 300 else "away"


def decide(asked: AskedFor, answered: Answered, tries: int = 0) -> Meaning:
    """Return what an answer means. `tries` counts how often this request failed before: this page, or this item."""
    rule = ANSWERS[answered][COLUMNS.index(asked)]
    return rule.first if tries < rule.tries else rule.then


def asked_page(number: int, *, filtered: bool = False, of_messages: bool = False) -> AskedFor:
    """Return the kind of request that asks for this page of a list."""
    if of_messages:
        return "messages" if number == 1 else "more_messages"
    if number == 1:
        return "filtered_page" if filtered else "first_page"
    return "second_page" if number == 2 else "later_page"


# An item.

State = Literal[
    "new",  # the run has not met it
    "listed",  # a list showed it; to be compared
    "wanted",  # a list, or an earlier answer of this run, showed it; to be read by its id
    "refuted",  # it was shown, but its id was answered with "no such thing"; to be read once more
    "absent",  # nothing showed it in this run yet; to be read by its id
    "absent_once",  # its id was answered with "no such thing" once; to be read once more
    "read",  # everything about it is known; to be compared
    "found",  # it differs; its observation is made, but not surely appended
    "missing",  # it is not there; to be judged together with all the others at the run's end
    "done",  # closed
]

ItemCame = Literal[
    "listed",  # a page showed it, and it is compared with what the page showed
    "listed_in_part",  # a page showed it, and all of it is to be read by its id
    "unlisted",  # we hold it, and no list showed it; or it is in doubt, and no list is read
    "hidden",  # the same of a campaign, which cannot be asked for by its id
    "shown",  # an answer showed all of it
    "absent",  # there is no such thing, said once
    "gone",  # there is no such thing any more, said clearly
    "failed",  # no usable answer yet
    "leave",  # no usable answer, or none that can be compared
    "leave_out",  # the key has no right to it
    "same",  # compared: nothing to observe
    "in_part",  # compared: it differs from the half that a list showed
    "differs",  # compared: to be observed
    "touched",  # compared: an event is newer than the answer
    "appended",  # its observation is in the log
    "may_go",  # judged: it may be marked as gone
    "held_back",  # judged: too many are missing, none is marked
    "unproven",  # judged: nothing proves that it is not there
]

Due = Literal["now", "settled", "absence"]
"""When the next step is due: at once; when webhooks that were on their way have arrived; when something that was not
there may be looked for once more."""


class ItemStep(NamedTuple):
    """What an item becomes, when its next step is due, and whether that costs one of its ROUNDS."""

    state: State
    due: Due = "now"
    rounds: int = 0
    unsettled: bool = False  # it counts as left to the next run


_DONE, _LEFT = ItemStep("done"), ItemStep("done", unsettled=True)
_READ, _MISSING = ItemStep("read", "settled"), ItemStep("missing")


def _by_id(state: State, absent: ItemStep) -> dict[ItemCame, ItemStep]:
    """Return the steps of an item that is asked for by its id; they differ in what "no such thing" means."""
    failed = ItemStep(state, "settled", rounds=1)
    return {"shown": _READ, "absent": absent, "gone": _MISSING, "failed": failed, "leave": _LEFT, "leave_out": _DONE}


_LISTED: Final[Mapping[ItemCame, ItemStep]] = {
    "listed": ItemStep("listed", "settled"),
    "listed_in_part": ItemStep("wanted"),
}

ITEMS: Final[Mapping[State, Mapping[ItemCame, ItemStep]]] = {
    "new": {**_LISTED, "unlisted": ItemStep("absent"), "hidden": _MISSING, "shown": _READ},
    "listed": {
        **_LISTED,
        "same": _DONE,
        "in_part": ItemStep("wanted"),
        "differs": ItemStep("found"),
        "leave": _LEFT,
    },
    # One answer that there is none proves nothing: lists and details may be served by different machines.
    "wanted": _by_id("wanted", absent=ItemStep("refuted", "absence")),
    "refuted": _by_id("refuted", absent=_LEFT),  # two answers disagree: neither proves anything
    "absent": _by_id("absent", absent=ItemStep("absent_once", "absence")),
    "absent_once": _by_id("absent_once", absent=_MISSING),
    "read": {
        "same": _DONE,
        "differs": ItemStep("found"),
        "touched": ItemStep("wanted", "settled", rounds=1),
        "leave": _LEFT,
    },
    "found": {"appended": _DONE},
    "missing": {**_LISTED, "may_go": _READ, "held_back": _DONE, "unproven": _LEFT},
    "done": {},
}
"""The step for each state and each thing that may come; what has no step cannot come. Pages are the exception: they
show items in any state, and an item in a state without a step for a page (see `RELISTED`) stays as it is."""

BY_ID: Final[tuple[State, ...]] = tuple(state for state, steps in ITEMS.items() if "absent" in steps)
"""The states of items that are to be asked for by their ids."""

COMPARED: Final[tuple[State, ...]] = tuple(state for state, steps in ITEMS.items() if "same" in steps)
"""The states of items that are to be compared."""

WAITING: Final[tuple[State, ...]] = (*BY_ID, *COMPARED, "found")
"""The states of items that have something of their own to wait for: what is missing waits for all the others."""

RELISTED: Final[tuple[State, ...]] = tuple(state for state in ITEMS if state != "new" and "listed" in ITEMS[state])
"""The states in which an item takes over what a page shows once more."""

ASKED_BY_ID: Final[frozenset[Entity]] = frozenset({"ticket", "contact"})
"""What the vendor shows in full by its id, and in part in lists; the rest is only in lists, and in full."""


def is_left(state: State, came: ItemCame) -> bool:
    """Tell whether this step leaves the item to the next run."""
    return ITEMS[state][came].unsettled


def compared(verdict: Literal["same", "differs", "waits"], entity: Entity, state: State, rounds: int) -> ItemCame:
    """Return what a comparison means for an item that was read again `rounds` times."""
    if verdict == "same":
        return "same"
    if state == "listed" and entity in ASKED_BY_ID:
        return "in_part"
    if verdict == "differs":
        return "differs"
    return "touched" if entity in ASKED_BY_ID and rounds < ROUNDS else "leave"


_LOOKED: Final[Mapping[Meaning, ItemCame]] = {
    "absent": "absent",
    "gone": "gone",
    "again": "failed",
    "leave": "leave",
    "leave_out": "leave_out",
}


def looked(meaning: Meaning) -> ItemCame | None:
    """Return what an answer that shows nothing means for its item; None where it concerns every request."""
    return _LOOKED.get(meaning)


# How much may go.

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
