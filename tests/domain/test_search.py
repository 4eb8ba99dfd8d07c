"""How names and numbers are folded so that they are found."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatsms_events.domain.search import KEPT_CHARS, Asked, asked, digits, folded, searched

NAMES = st.text(max_size=80) | st.text(alphabet="JOÃOjoãoÁÉçñ ßİΣς'-🌸\u200d\u202e", max_size=40)


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("João da Silva", "joao da silva"),
        ("JOÃO", "joao"),
        ("Joa\u0303o", "joao"),
        ("  🌸 Maria—Clara ", "maria clara"),
        ("D'Ávila", "d avila"),
        ("Straße", "strasse"),
        ("\u202eאבא", "אבא"),
        ("<b>Ana</b>", "b ana b"),
        ("🌸", ""),
    ],
)
def test_a_name_is_kept_as_it_is_typed(name: str, kept: str) -> None:
    """Small letters, no accents, and neither pictures nor marks."""
    assert folded(name) == kept


@given(NAMES)
def test_folding_twice_changes_nothing(name: str) -> None:
    """What is kept is found by itself, and is no longer than an index takes."""
    once = folded(name)
    assert folded(once) == once
    assert len(once) <= KEPT_CHARS


@given(NAMES, NAMES)
def test_the_beginning_of_a_name_finds_it(start: str, rest: str) -> None:
    """Whatever the name begins with, and in capitals or not, what was typed is a prefix of what is kept."""
    whole = folded(f"{start} {rest}")
    assert whole.startswith(folded(start))
    assert folded(start.swapcase().swapcase()) in ("", whole[: len(folded(start.swapcase().swapcase()))])


@given(st.text(max_size=40), st.integers(min_value=0, max_value=12))
def test_a_number_is_its_digits(text: str, count: int) -> None:
    """Only the digits 0 to 9 are kept, and the end of a number is the beginning of what is kept backwards."""
    found = digits(text)
    assert found == "".join(one for one in text if one in "0123456789")
    _, forwards, backwards, _last = searched({"name": None, "number": text})
    assert (forwards or "") == found
    assert (backwards or "").startswith(found[len(found) - min(count, len(found)) :][::-1])


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        (" João ", Asked("João", "joao", None, None)),
        ("+55 (11) 9", Asked("+55 (11) 9", "55 11 9", "55119", "91155")),
        ("987", Asked("987", "987", "987", None)),
        ("98", Asked("98", "98", None, None)),
        ("cmb4x2", Asked("cmb4x2", "cmb4x2", None, None)),
        ("🌸", Asked("🌸", None, None, None)),
    ],
)
def test_what_is_typed_is_looked_for_as_what_it_may_be(typed: str, found: Asked) -> None:
    """A text is always an id; a name where it has words; a number where nothing but one is written."""
    assert asked(typed) == found


@given(NAMES)
def test_a_family_name_finds_who_bears_it(name: str) -> None:
    """The last word of a name is a prefix of what is kept, with the others behind it; of one word nothing more is."""
    kept, _, _, turned = searched({"name": name, "number": None})
    words = (kept or "").split()
    assert turned == (None if len(words) < 2 else " ".join([words[-1], *words[:-1]]))
