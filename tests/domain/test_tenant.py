"""When two ids name the same tenant."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatsms_events.domain.tenant import canonical, same

ID = "3f2b8c1e-0d4a-4b9e-9a77-5c6d7e8f9012"
SPELLINGS = (
    ID,
    ID.upper(),
    ID.replace("-", ""),
    ID.replace("-", "").upper(),
    f"{{{ID}}}",
    f"{{{ID.upper()}}}",
    f" {ID}\n",
    f"\t{{{ID}}} ",
    f"urn:uuid:{ID}",
    f"URN:UUID:{ID.upper()}",
)


@pytest.mark.parametrize("one", SPELLINGS)
@pytest.mark.parametrize("other", SPELLINGS)
def test_spellings_of_a_uuid_are_one_tenant(one: str, other: str) -> None:
    """Capitals, braces, blanks, the URN's form and missing hyphens say nothing, on either side."""
    assert same(one, other)


@given(st.uuids(), st.uuids())
def test_two_uuids_are_the_same_where_their_values_are(one: UUID, other: UUID) -> None:
    """Equal values are equal in each spelling, and others in none."""
    assert canonical(str(one)) == one.hex
    assert same(str(one).upper(), f"{{{other}}}") == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ID, ID[:-1] + "3"),
        (ID, ID[:-1]),
        (ID, f"{{{ID}"),
        (ID, f"{ID}}}"),
        (ID, "3f2b8c1e0d4a-4b9e-9a77-5c6d7e8f9012"),  # hyphens where none belong are no UUID
        (ID, f"x{ID}"),
        ("Acme", "acme"),
        ("acme", "acme "),
        ("acme", "{acme}"),
        ("42", "042"),
    ],
)
def test_everything_else_is_compared_as_text(one: str, other: str) -> None:
    """What is no UUID is the same only where it is the same text."""
    assert not same(one, other)
    assert same(one, one)
    assert same(other, other)
