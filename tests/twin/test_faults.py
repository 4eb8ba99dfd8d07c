"""Faults: a stream of webhooks in, a disordered one of deliveries out."""

import json
from collections import Counter
from datetime import UTC, datetime
from itertools import islice

import pytest

from whatsms_events.domain.normalize import normalize
from whatsms_events.errors import InvalidEventError
from whatsms_events.twin.dialects import DIALECTS
from whatsms_events.twin.faults import MAX_COPIES, Demand, Disorder, Dispatch, Faults
from whatsms_events.twin.world import World

START = datetime(2026, 1, 15, 10, 30, tzinfo=UTC)
BAD_DAY = Faults(seed=7, redeliver=0.1, reorder=0.2, reorder_window=10, delay=0.1, delay_s=2.0, drop=0.05)


def disordered(
    faults: Faults, count: int, dialect: str = "documented", demands: dict[Demand, int] | None = None
) -> tuple[list[bytes], list[Dispatch]]:
    """Give the bodies that went in and the deliveries that came out."""
    disorder = Disorder(faults, oversized_bytes=1000)
    for kind, times in (demands or {}).items():
        disorder.demand(kind, times)
    bodies: list[bytes] = []
    out: list[Dispatch] = []
    world = World(1, start=START, tenant_id="t", dialect=DIALECTS[dialect])
    for webhook in islice(world.webhooks(), count):
        bodies.append(webhook.body)
        out.extend(disorder.take(webhook))
    out.extend(disorder.rest())
    return bodies, out


def test_without_faults_nothing_is_touched() -> None:
    """A good day: every webhook once, in order, at once."""
    bodies, out = disordered(Faults(), 500)
    assert [delivery.body for delivery in out] == bodies
    assert all(delivery.fault is None and delivery.delay_s == 0 for delivery in out)


def test_the_same_seed_makes_the_same_bad_day() -> None:
    """Faults are drawn from their own seed alone."""
    assert disordered(BAD_DAY, 1000) == disordered(BAD_DAY, 1000)


def test_no_webhook_is_lost_by_disorder() -> None:
    """Every webhook comes out at least once, dropped ones marked as such."""
    bodies, out = disordered(BAD_DAY, 2000)
    assert {delivery.body for delivery in out} == set(bodies)
    dropped = [delivery for delivery in out if delivery.fault == Demand.DROP]
    assert 50 < len(dropped) < 150


def test_redeliveries_are_byte_equal() -> None:
    """A redelivery is the same bytes again, at most three times more, some at once and some later."""
    bodies, out = disordered(Faults(redeliver=0.2, delay_s=5.0), 2000)
    copies = [delivery for delivery in out if delivery.fault == "redelivery"]
    assert 400 < len(copies) < 1200
    assert {copy.body for copy in copies} <= set(bodies)
    assert max(Counter(delivery.body for delivery in out if delivery.fault).values()) <= MAX_COPIES * 2
    assert {copy.delay_s > 0 for copy in copies} == {True, False}


def test_a_dialect_that_writes_anew_redelivers_other_bytes() -> None:
    """Where the dialect says so, a retry and a redelivery are the same fact in other bytes."""
    bodies, out = disordered(Faults(redeliver=0.5), 200, "rewritten")
    copies = [delivery for delivery in out if delivery.fault == "redelivery"]
    facts = [json.loads(body) for body in bodies]
    assert copies
    assert all(copy.body not in bodies and json.loads(copy.body) in facts for copy in copies)


def test_reordering_stays_within_its_window() -> None:
    """A webhook held back comes behind later ones, but not behind more than the window."""
    bodies, out = disordered(Faults(reorder=0.3, reorder_window=10), 2000)
    place = {body: index for index, body in enumerate(bodies)}
    assert len(place) == len(bodies)
    moved = [index - place[delivery.body] for index, delivery in enumerate(out)]
    assert any(moved)
    assert max(abs(distance) for distance in moved) <= 10


@pytest.mark.parametrize("kind", [Demand.WRONG_SECRET, Demand.GARBAGE, Demand.OVERSIZED])
def test_forgeries_come_beside_the_stream(kind: Demand) -> None:
    """What a demand makes up has bytes of its own, so the world's events stay what they were."""
    bodies, out = disordered(Faults(), 100, demands={kind: 40})
    made_up = [delivery for delivery in out if delivery.fault == kind]
    assert len(made_up) == 40
    assert not {delivery.body for delivery in made_up} & set(bodies)
    assert [delivery.body for delivery in out if delivery.fault is None] == bodies
    assert len({delivery.body for delivery in made_up}) == (1 if kind is Demand.OVERSIZED else 40)


def test_garbage_cannot_be_understood() -> None:
    """Signed garbage is refused by the reader of bodies, in several ways."""
    _, out = disordered(Faults(), 1, demands={Demand.GARBAGE: 60})
    reasons = set()
    for delivery in out:
        if delivery.fault == Demand.GARBAGE:
            with pytest.raises(InvalidEventError) as refused:
                normalize(delivery.body, tenant="t", received_at=START)
            reasons.add(refused.value.reason)
    assert len(reasons) >= 5


def test_demanded_drops_and_cuts_befall_the_next_webhooks() -> None:
    """A drop and a cut take one webhook each, drops first."""
    _, out = disordered(Faults(), 10, demands={Demand.DROP: 2, Demand.CUT: 3})
    assert [delivery.fault for delivery in out] == ["drop"] * 2 + ["cut"] * 3 + [None] * 5
