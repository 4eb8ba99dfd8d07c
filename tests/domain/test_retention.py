"""What is due, and how far retention may go on, whatever the clocks of receivers said."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from whatsms_events.domain.events import to_micros
from whatsms_events.domain.retention import Group, KeptRow, Place, RetentionKind, RetentionTerms, groups, sweep

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def row(
    position: int, age: timedelta, *, tenant: str = "t", size: int = 1, raw: bool = True, data: bool = True
) -> KeptRow:
    """Return a row that came so long ago."""
    return KeptRow(position, tenant, to_micros(NOW - age), size, raw, data)


def all_but(*tenants: str, kind: RetentionKind = "data", days: float = 30) -> Group:
    """Return a group of every tenant but these."""
    return Group(kind, timedelta(days=days), frozenset(tenants), but=True)


def test_bytes_never_outlive_their_data() -> None:
    """Whatever `raw` says, the bytes go at the latest with the data; without an end of the data, by their own."""
    terms = RetentionTerms(
        {"raw": 90 * DAY, "data": 30 * DAY}, {"a": {"data": None}, "b": {"raw": DAY}, "c": {"raw": None}}
    )
    assert [terms.kept(one, "raw") for one in (None, "a", "b", "c", "else")] == [
        30 * DAY,
        90 * DAY,
        DAY,
        30 * DAY,
        30 * DAY,
    ]


def test_what_was_discarded_is_kept_for_its_own_term_or_for_that_of_what_is_parked() -> None:
    """Whichever is over sooner; where both are for ever it is kept for ever, and a tenant may have terms of its own."""
    day = timedelta(days=1)
    came, gone = NOW - 80 * day, NOW - day
    terms = RetentionTerms({"parked": 90 * day, "discarded": 7 * day}, {"b": {"parked": 81 * day, "discarded": None}})
    assert terms.restorable_until("a", came, gone) == gone + 7 * day
    assert terms.restorable_until(None, NOW - 89 * day, gone) == NOW + day
    assert terms.restorable_until("b", came, gone) == NOW + day
    assert RetentionTerms({}).restorable_until("a", came, gone) is None


def test_tenants_with_one_term_are_one_group() -> None:
    """Those with the default are one group, with all who are not configured; bytes that go with data are in none."""
    terms = RetentionTerms(
        {"raw": DAY, "data": 30 * DAY},
        {"a": {"raw": DAY, "data": 30 * DAY}, "b": {"data": None}, "c": {"data": 7 * DAY}, "d": {"data": 7 * DAY}},
    )
    data = groups(terms, "data")
    assert data == [
        Group("data", 30 * DAY, frozenset("bcd"), but=True),
        Group("data", 7 * DAY, frozenset("cd"), but=False),
    ]
    assert [[one.has(tenant) for tenant in ("a", "b", "c", "new", None)] for one in data] == [
        [True, False, False, True, True],
        [False, False, True, False, False],
    ]
    assert groups(terms, "raw") == [Group("raw", DAY, frozenset(), but=True)]
    assert groups(RetentionTerms({"raw": 30 * DAY, "data": 30 * DAY}), "raw") == []
    assert groups(RetentionTerms({}), "texts") == []
    assert len({one.key for one in (*data, *groups(terms, "raw"))}) == 3


def test_a_piece_ends_with_its_last_row_that_is_old() -> None:
    """Rows of others and blank rows are passed; what is younger than its days is not, but where older rows follow."""
    rows = [
        row(1, 40 * DAY),
        row(2, 39 * DAY, tenant="other"),
        row(4, 29 * DAY),  # a receiver whose clock was ahead
        row(5, 31 * DAY, raw=False, data=False),
        row(6, 30 * DAY),
        row(7, 29 * DAY),
    ]
    found = sweep(rows, Place(), all_but("other"), NOW, size_limit=100)
    assert found.due == (1, 6)
    assert found.place == Place(6, 4, to_micros(NOW + DAY))
    again = found.place.at(NOW + DAY)
    assert again == Place(3)
    assert sweep(rows[2:], again, all_but("other"), NOW + DAY, size_limit=100).due == (4, 6, 7)


def test_a_piece_is_bounded_in_bytes_but_never_empty() -> None:
    """Only what is due counts, and a row that is larger than the bound goes alone."""
    rows = [row(1, 40 * DAY, size=60), row(2, 40 * DAY, size=900, tenant="other"), row(3, 40 * DAY, size=60)]
    assert sweep(rows, Place(), all_but("other"), NOW, size_limit=100).place == Place(2)
    assert sweep(rows[2:], Place(2), all_but("other"), NOW, size_limit=10).due == (3,)


def test_rows_from_the_future_do_not_hold_up_what_follows() -> None:
    """A whole piece that came from beyond tomorrow is passed, and looked at again when its time is over."""
    rows = [row(number, -100 * DAY) for number in (1, 2)]
    found = sweep(rows, Place(), all_but(), NOW, size_limit=100)
    assert (found.due, found.place) == ((), Place(2, 1, to_micros(NOW + 130 * DAY)))
    assert sweep([row(1, -0.5 * DAY)], Place(), all_but(), NOW, size_limit=100).place == Place()


def test_bytes_alone_leave_the_data() -> None:
    """Where only bytes have an end, a row that has data alone is done."""
    rows = [row(1, 40 * DAY, raw=False), row(2, 40 * DAY)]
    assert sweep(rows, Place(), all_but(kind="raw"), NOW, size_limit=100).due == (2,)
    assert sweep(rows, Place(), all_but(), NOW, size_limit=100).due == (1, 2)


AGES = st.lists(st.tuples(st.sampled_from("ab"), st.integers(-40, 60), st.integers(0, 50)), max_size=30)


@given(AGES, st.lists(st.integers(0, 60), max_size=12), st.integers(1, 7), st.integers(1, 120), st.integers(0, 30))
def test_nothing_young_is_taken_and_everything_old_in_the_end(
    rows: list[tuple[str, int, int]], waits: list[int], limit: int, size_limit: int, taken: int
) -> None:
    """In whatever order rows came, however clocks stood and time passed: no row before its days, none behind what the
    others have, none of another tenant; and once all are old, every one of the tenant's.
    """
    group, place, now = all_but("b", days=20), Place(), NOW
    kept = {
        number: KeptRow(number, tenant, to_micros(NOW - age * DAY), size, True, True)
        for number, (tenant, age, size) in enumerate(rows, 1)
    }
    blanked: set[int] = set()
    for wait, through in [*((wait, taken) for wait in waits), (200, 10**6)]:
        now += wait * DAY
        while True:
            at = place.at(now)
            some = [kept[one] for one in sorted(kept) if at.through < one <= through][:limit]
            found = sweep(some, at, group, now, size_limit=size_limit)
            for one in found.due:
                assert kept[one].received_at <= to_micros(now - 20 * DAY)
                assert (one <= through, kept[one].tenant, kept[one].has_raw) == (True, "a", True)
                kept[one] = kept[one]._replace(has_raw=False, has_data=False, size=0)
                blanked.add(one)
            if found.place == place:
                break
            place = found.place
    assert blanked == {one for one, row in kept.items() if row.tenant == "a"}
    assert place.through == len(rows)
