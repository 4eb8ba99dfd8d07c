"""The tables of a backfill: what an odd answer means for the run, the list and the item; that every run ends, and every
item in one final state; and how much may go.
"""

import re
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Literal, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servers.examples import examples
from whatsms_events import errors
from whatsms_events.domain import repair, walk
from whatsms_events.domain.events import Entity
from whatsms_events.domain.repair import (
    BY_ID,
    COMPARED,
    FIRST,
    GONE_FLOOR,
    ITEMS,
    PAGE_TRIES,
    PHASES,
    RELISTED,
    ROUNDS,
    WAITING,
    Answered,
    AskedFor,
    ItemCame,
    Meaning,
    Phase,
    State,
    advice,
    asked_page,
    classify,
    compared,
    decide,
    following,
    gone_limit,
    looked,
)
from whatsms_events.domain.walk import MESSAGE_PASSES, PASSES, Walks
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

LISTS: tuple[AskedFor, ...] = ("first_page", "filtered_page", "second_page", "later_page")
EVERY: tuple[AskedFor, ...] = get_args(AskedFor)
NONSENSE = UpstreamUnavailableError("x", status=200)
AWAY = (UpstreamUnavailableError("x", status=502), UpstreamUnavailableError("x"))


def means(error: UpstreamError, asked: AskedFor, tries: int = 0) -> Meaning:
    """Return what an error of the client means."""
    return decide(asked, classify(error), tries)


def test_the_table_has_an_answer_to_everything() -> None:
    """Each answer has a step for each thing that can be asked for, and each class of the client's errors is read."""
    assert set(repair.ANSWERS) == set(get_args(Answered))
    assert all(len(rules) == len(EVERY) for rules in repair.ANSWERS.values())
    assert repair.COLUMNS == EVERY
    refusals = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, UpstreamError)]
    for kind in refusals:
        for asked in EVERY:
            assert means(kind("x"), asked) in get_args(Meaning)


@pytest.mark.parametrize("asked", EVERY)
def test_a_key_that_is_refused_halts_whatever_was_asked_for(asked: AskedFor) -> None:
    """401 is about everything."""
    assert means(UpstreamUnauthorizedError("x"), asked) == "halt"


@pytest.mark.parametrize("asked", EVERY)
def test_without_a_right_a_list_halts_and_an_item_is_left_out(asked: AskedFor) -> None:
    """403 is about what was asked for: all of a list, or one item, or the messages of one ticket."""
    assert means(UpstreamForbiddenError("x"), asked) == ("halt" if asked in LISTS else "leave_out")


@pytest.mark.parametrize("kind", [UpstreamInvalidError, UpstreamNotFoundError, UpstreamGoneError, UpstreamRefusedError])
def test_a_refused_page_ends_its_list_but_for_the_first_one(kind: type[UpstreamError]) -> None:
    """Behind a good first page, or a filter that the vendor does not know, it is the end of that list alone."""
    assert [means(kind("x"), asked) for asked in LISTS] == ["halt", "end", "end", "end"]
    assert [means(kind("x"), asked) for asked in ("messages", "more_messages")] == ["leave", "end"]


def test_of_one_item_404_is_absence_and_410_is_the_end() -> None:
    """404 is said once, 410 clearly; what is refused in another way says nothing."""
    said = (UpstreamNotFoundError("x"), UpstreamGoneError("x"), UpstreamRefusedError("x", status=451))
    assert [means(error, "item") for error in said] == ["absent", "gone", "leave"]


@pytest.mark.parametrize("asked", EVERY)
def test_nonsense_is_asked_for_a_bounded_number_of_times(asked: AskedFor) -> None:
    """A good status without what was asked for: some times more, then the list ends, or the item is left."""
    bound = PAGE_TRIES if asked in LISTS else ROUNDS if asked == "item" else ROUNDS + 1
    for tries in range(bound):
        assert means(NONSENSE, asked, tries) == "again"
    assert means(NONSENSE, asked, bound) == ("end" if asked in LISTS else "leave")


@pytest.mark.parametrize("error", AWAY)
def test_a_vendor_that_is_away_ends_no_list_by_itself(error: UpstreamError) -> None:
    """Where a page has no answer, it is the page or the vendor: whether anything else is answered decides."""
    for asked in LISTS:
        assert means(error, asked, PAGE_TRIES - 1) == "again"
        assert means(error, asked, 10**9) == "doubt"


@pytest.mark.parametrize("asked", EVERY)
def test_a_pause_is_no_failure(asked: AskedFor) -> None:
    """429 is waited for, however often it comes."""
    assert means(UpstreamLimitedError("x", status=429), asked, 10**9) == "wait"


def test_pages_that_never_move_on_halt_and_a_repeated_end_is_an_end() -> None:
    """Page 2 like page 1 is a parameter that is ignored; the same further on is the way of a server to end a list."""
    error = UpstreamPagingError("x")
    assert [means(error, asked, 0) for asked in LISTS] == ["anew"] * 4
    assert [means(error, asked, 1) for asked in LISTS] == ["halt", "halt", "halt", "end"]


def test_a_page_is_named_by_its_number() -> None:
    """The first page of a list, of a filter, the second one, and those behind."""
    assert [asked_page(number, filtered=False) for number in (1, 2, 3, 99)] == [LISTS[0], *LISTS[2:], LISTS[3]]
    assert [asked_page(number, filtered=True) for number in (1, 2)] == [LISTS[1], LISTS[2]]
    assert [asked_page(number, of_messages=True) for number in (1, 2, 9)] == ["messages", *["more_messages"] * 2]


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


# The tables as graphs.

ENTITIES: tuple[Entity, ...] = get_args(Entity)
VERDICTS: tuple[Literal["same", "differs", "waits"], ...] = ("same", "differs", "waits")


def test_every_state_and_everything_that_can_come_has_a_step() -> None:
    """Each answer to a look and each comparison has a step in each state in which it can come."""
    assert set(ITEMS) == set(get_args(State))
    assert {came for steps in ITEMS.values() for came in steps} == set(get_args(ItemCame))
    for state in BY_ID:
        for answered in get_args(Answered):
            for rounds in (0, ROUNDS):
                came = looked(decide("item", answered, rounds))
                assert came is None or came in ITEMS[state]
    for state in COMPARED:
        for entity in ENTITIES:
            for verdict in VERDICTS:
                assert compared(verdict, entity, state, 0) in ITEMS[state]
                assert compared(verdict, entity, state, ROUNDS) in ITEMS[state]
    assert {*WAITING, "new", "missing", "done"} == set(ITEMS)


def test_an_item_goes_round_only_for_one_of_its_rounds_or_a_page_that_shows_it_again() -> None:
    """Without those steps the table has no circle, and each path through it ends in the one final state."""

    def ends(state: State, passed: frozenset[State]) -> bool:
        assert state not in passed, (state, passed)
        steps = [one for came, one in ITEMS[state].items() if not one.rounds and not came.startswith("listed")]
        return state == "done" if not ITEMS[state] else all(ends(one.state, passed | {state}) for one in steps)

    assert all(ends(state, frozenset()) for state in ITEMS)
    assert [state for state, steps in ITEMS.items() if not steps] == ["done"]


def test_an_item_that_was_read_again_often_enough_is_not_read_again() -> None:
    """Whatever costs a round is no longer decided once all rounds are used."""
    for state in COMPARED:
        for entity in ENTITIES:
            for verdict in VERDICTS:
                assert not ITEMS[state][compared(verdict, entity, state, ROUNDS)].rounds
    assert "again" not in {decide("item", answered, ROUNDS) for answered in get_args(Answered)}


@pytest.mark.parametrize("first", FIRST.values())
def test_phases_follow_each_other_to_the_end(first: Phase) -> None:
    """Each phase is met at most once on the way, and the only way back is from the last one."""
    met = [first]
    while met[-1] != "finished":
        met.append(following(met[-1]))
        assert len(met) == len(set(met))
    assert [phase for phase, one in PHASES.items() if one.touched is not None] == ["gone"]


# The tables driven without I/O.

Kind = Literal["reconcile", "repair"]
KINDS: tuple[Kind, ...] = get_args(Kind)
LIST_OF: dict[Phase, Entity] = {
    "contacts": "contact",
    "tickets": "ticket",
    "campaigns": "campaign",
    "again": "campaign",
}
SETTLE, ABSENCE = 10, 60
WAIT = {"now": 0, "settled": SETTLE, "absence": ABSENCE}
PIECES = 3000
"""More than a run of six things takes, whatever comes."""


@dataclass
class Thing:
    """One item as it is saved."""

    entity: Entity
    state: State = "new"
    rounds: int = 0
    due: int = 0
    messages: bool = False
    steps: list[tuple[State, ItemCame]] = field(default_factory=list)


@dataclass
class Saved:
    """What survives a kill."""

    phase: Phase
    walks: Walks = field(default_factory=Walks)
    page: int = 1
    again: bool = False
    things: dict[str, Thing] = field(default_factory=dict)


class Driven:
    """A run that asks the tables and does what they say; what the vendor and the database say is drawn at random.

    `patience`: how often the vendor may be away, ask for a pause or refuse everything, the process be killed, and the
    clock be set back: the run waits through each of these, so a world that never stops with them is no fair one.
    """

    def __init__(self, random: Random, kind: Kind, *, patience: int) -> None:
        self.random, self.patience = random, patience
        self.now = 10**6
        self.saved = Saved(FIRST[kind], again=kind == "repair")
        self.held = [(entity, f"{entity}{number}") for entity in LIST_OF.values() for number in range(2)]
        if kind == "repair":
            for entity, one in dict.fromkeys(self.held):
                self._step(self._meet(entity, one), "hidden" if entity == "campaign" else "unlisted")

    def run(self) -> int:
        """Drive it to its end and return after how many pieces."""
        for piece in range(PIECES):
            if self.saved.phase == "finished":
                return piece
            killed = self._spend(8)
            before = deepcopy(self.saved) if killed else self.saved
            worked = self._compare() or self._work()
            self.saved = before if killed else self.saved  # killed before it was saved
            if self._spend(8):
                self.now -= self.random.choice((1, 100, 10**5))
            if not worked:
                self.now += self.random.choice((1, SETTLE, ABSENCE))
                for thing in self.saved.things.values():  # nothing waits longer than anything waits
                    thing.due = min(thing.due, self.now + ABSENCE)
        raise AssertionError(f"never ends: {self.saved}")

    def _spend(self, one_in: int) -> bool:
        """Tell whether one of the mishaps comes now."""
        comes = self.patience > 0 and self.random.randrange(one_in) == 0
        self.patience -= comes
        return comes

    def _meet(self, entity: Entity, one: str) -> Thing:
        return self.saved.things.setdefault(one, Thing(entity))

    def _step(self, thing: Thing, came: ItemCame) -> None:
        step = ITEMS[thing.state][came]
        thing.steps.append((thing.state, came))
        thing.state, thing.due, thing.rounds = step.state, self.now + WAIT[step.due], thing.rounds + step.rounds

    def _due(self, states: tuple[State, ...]) -> list[Thing]:
        return [one for one in self.saved.things.values() if one.state in states and one.due <= self.now]

    def _waits(self, states: tuple[State, ...] = WAITING) -> bool:
        return any(one.state in states for one in self.saved.things.values())

    def _compare(self) -> bool:
        found = [one for one in self.saved.things.values() if one.state == "found"]
        for thing in found:
            self._step(thing, "appended")
        ready = [] if found else self._due(COMPARED)
        for thing in ready:
            verdict = self.random.choice(VERDICTS)
            came = compared(verdict, thing.entity, thing.state, thing.rounds)
            thing.messages = thing.entity == "ticket" and self.random.random() < 0.5
            self._step(thing, self.random.choice((came, came, "leave")))
        return bool(found or ready)

    def _answered(self) -> Answered:
        """Return an odd answer; one that ends nothing costs patience."""
        while True:
            answered: Answered = self.random.choice(get_args(Answered))
            if answered not in ("unauthorized", "limited"):
                return answered
            if self.patience > 0:
                self.patience -= 1
                return answered

    def _work(self) -> bool:
        match PHASES[self.saved.phase].do:
            case "list" if self.saved.phase == "again" and not self.saved.again:
                self._over()
            case "list":
                self._read_list(LIST_OF[self.saved.phase], 4 if self.saved.phase == "tickets" else 1)
            case "scan":
                for entity, one in dict.fromkeys(self.held):
                    if one not in self.saved.things:
                        self._step(self._meet(entity, one), "hidden" if entity == "campaign" else "unlisted")
                        self.saved.again |= entity == "campaign"
                self._over()
            case "look":
                return self._look()
            case "list_messages":
                tickets = [one for one, thing in self.saved.things.items() if thing.messages]
                self._read_list("message", 1, tickets[0]) if tickets else self._over()
            case "judge":
                return self._judge()
        return True

    def _over(self) -> None:
        self.saved.phase = following(self.saved.phase)
        self.saved.walks, self.saved.page = Walks(), 1

    def _read_list(self, entity: Entity, in_pass: int, ticket: str | None = None) -> None:
        saved, more, passes = self.saved, self.random.random() < 0.5, MESSAGE_PASSES if ticket else PASSES
        if self.random.random() < 0.3:
            answered, filtered = self._answered(), saved.walks.number > 0
            asked = asked_page(saved.page, filtered=filtered, of_messages=ticket is not None)
            meaning = decide(asked, answered, walk.tries(saved.walks, answered))
            if meaning == "doubt":
                meaning = "again" if self._spend(2) else "end"
            if meaning in ("halt", "wait"):
                return
            if meaning in ("again", "anew"):
                saved.walks, saved.page = walk.failed(saved.walks, meaning), 1 if meaning == "anew" else saved.page
                return
            more, stops = False, ticket is not None
        else:
            shown = self.random.sample(range(4), 2)
            fresh = 0
            for one in (f"{entity}{number}" for number in shown):
                fresh += one not in saved.things
                thing = self._meet(entity, one)
                if thing.state == "new" or thing.state in RELISTED:
                    came: ItemCame = self.random.choice(("listed", "listed_in_part"))
                    self._step(thing, "shown" if ticket else "listed" if entity == "campaign" else came)
            saved.walks, stops = walk.read(saved.walks, fresh=fresh, paged=more or saved.page > 1), False
        once = 1 if saved.phase == "again" else passes
        saved.walks, then = walk.step(saved.walks, more=more, in_pass=in_pass, passes=once)
        saved.page = saved.page + 1 if then == "page" else 1
        if not stops and then in ("page", "walk", "pass"):
            return
        if ticket is None:
            saved.again &= saved.phase != "again"
            self._over()
        else:
            saved.things[ticket].messages, saved.walks, saved.page = False, Walks(), 1

    def _look(self) -> bool:
        ready = self._due(BY_ID)
        if ready:
            odd = self.random.random() < 0.6
            came = looked(decide("item", self._answered(), ready[0].rounds)) if odd else "shown"
            if came is not None:
                self._step(ready[0], came)
        elif not self._waits():
            self._over()
        else:
            return False
        return True

    def _judge(self) -> bool:
        if self._waits(BY_ID):
            self.saved.phase = following(self.saved.phase, "touched")
            return True
        if self._waits():
            return False
        missing = [one for one in self.saved.things.values() if one.state == "missing"]
        for thing in missing:
            self._step(thing, self.random.choice(("may_go", "held_back", "unproven")))
        if not missing:
            self._over()
        return True


@given(st.integers(0, 2**32), st.sampled_from(KINDS), st.integers(0, 60))
@settings(max_examples=examples(1000), deadline=None)
def test_every_run_ends_and_every_item_in_one_final_state(seed: int, kind: Kind, patience: int) -> None:
    """Whatever is answered, found and judged, with kills between any two steps and clocks set back in between."""
    driven = Driven(Random(seed), kind, patience=patience)
    driven.run()
    for thing in driven.saved.things.values():
        assert thing.state == "done"
        closing = [(state, came) for state, came in thing.steps if ITEMS[state][came].state == "done"]
        assert len(closing) == 1
        assert thing.steps[-1] == closing[0]
        assert thing.rounds <= ROUNDS


# The page that shows them.

PAGE = (Path(__file__).parents[2] / "docs/design/backfill.md").read_text(encoding="utf-8")


def test_the_design_page_shows_the_tables() -> None:
    """Each phase and each step of an item is a row of the page, and no other row names a state."""
    phases = {(phase, one.do, one.over, *filter(None, [one.touched])) for phase, one in PHASES.items()}
    steps = {(state, came, one.state) for state, steps in ITEMS.items() for came, one in steps.items()}
    rows = [tuple(re.findall(r"`(\w+)`", line)) for line in PAGE.splitlines() if line.startswith("| `")]
    assert set(rows) == phases | steps
    assert len(rows) == len(phases) + len(steps)
