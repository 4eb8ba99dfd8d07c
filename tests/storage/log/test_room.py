"""Tenants share the queue: none may take all of it, nor all the turns."""

from collections import Counter, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatsms_events.errors import OverloadedError
from whatsms_events.storage.log.room import Room, take_fairly

Thing = tuple[str, int, int]
"""Tenant, size, and its place in the order of arrival."""


def taken(things: list[Thing], *, count: int, size: int = 1 << 30) -> tuple[list[Thing], list[Thing]]:
    """Return what is taken, and what is left."""
    queue = deque(things)
    found = take_fairly(queue, count=count, size=size, tenant_of=lambda one: one[0], size_of=lambda one: one[1])
    return found, list(queue)


THINGS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 50)), max_size=40).map(
    lambda found: [(tenant, size, place) for place, (tenant, size) in enumerate(found)]
)


@given(THINGS, st.integers(1, 20), st.integers(0, 200))
def test_what_is_taken_and_what_is_left_keep_their_order(things: list[Thing], count: int, size: int) -> None:
    """Nothing is lost or doubled, both parts are in the order of arrival, and something is always taken."""
    found, left = taken(things, count=count, size=size)
    assert sorted(found + left, key=lambda one: one[2]) == things
    assert found == sorted(found, key=lambda one: one[2])
    assert left == sorted(left, key=lambda one: one[2])
    assert len(found) <= count
    assert bool(found) == bool(things)
    assert sum(one[1] for one in found) <= size or len(found) == 1


@given(THINGS, st.integers(1, 20))
def test_no_tenant_gets_more_than_one_that_still_waits(things: list[Thing], count: int) -> None:
    """Whoever has something left got as much as any other tenant, but for the one that a remainder gives."""
    found, left = taken(things, count=count)
    assert len(found) == min(count, len(things))
    got = Counter(one[0] for one in found)
    if count >= len({one[0] for one in things}):
        for tenant in {one[0] for one in left}:
            assert got[tenant] >= max(got.values()) - 1


def test_a_flood_of_one_tenant_waits_behind_the_few_of_another() -> None:
    """Of ten places a tenant with a thousand waiting gets those that the other, with three, does not need."""
    things = [("flood", 1, place) for place in range(1000)] + [("calm", 1, 1000 + place) for place in range(3)]
    found, _ = taken(things, count=10)
    assert Counter(one[0] for one in found) == {"flood": 7, "calm": 3}


def test_a_tenant_alone_may_take_all_of_the_room() -> None:
    """With one tenant the limit is the only limit."""
    room = Room(10, "places", shared=False)
    for _ in range(10):
        room.take("only", 1)
    with pytest.raises(OverloadedError, match="places"):
        room.take("only", 1)


def test_tenants_that_share_leave_room_to_the_next_one() -> None:
    """One that floods gets half of the room, and another one still finds some; what is given back can be taken."""
    room = Room(12, "places", shared=True)
    held = Counter[str]()
    for tenant in ("one", "two", "three"):
        for _ in range(12):
            try:
                room.take(tenant, 1)
                held[tenant] += 1
            except OverloadedError:
                pass
    assert held == {"one": 6, "two": 3, "three": 1}
    for _ in range(6):
        room.give_back("one", 1)
    for _ in range(3):
        room.take("three", 1)


def test_the_first_thing_of_a_tenant_may_be_larger_than_what_is_left_after_it() -> None:
    """A tenant that holds nothing is refused by the limit alone: its one large body is no flood."""
    room = Room(10, "bytes", shared=True)
    room.take("one", 8)
    room.take("two", 2)
    with pytest.raises(OverloadedError):
        room.take("three", 1)
