"""The form of the event feed."""

from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatsms_events.domain.feed import Place, block, last_words, place_of, progress, rest_of_block, unescaped


@given(position=st.integers(0, 10**19 - 1), event_id=st.none() | st.uuids())
def test_a_place_is_read_as_it_is_written(position: int, event_id: UUID | None) -> None:
    """Every place is the one that its text names."""
    assert place_of(str(Place(position, event_id))) == Place(position, event_id)


@pytest.mark.parametrize("text", ["", "-1", "x", "1-", "1-x", "1 ", "٣", f"1-{UUID(int=1)}\n", f"1-{UUID(int=1)}0"])
def test_what_names_no_place_is_none(text: str) -> None:
    """A text that is not such a place to the letter names none: digits of other scripts, and what stands behind."""
    assert place_of(text) is None


@given(
    st.lists(
        st.characters(codec="utf-8")
        | st.sampled_from(["\x85", "\u2028", "\u2029", "\v", "\f", "\x1c", "\r", "\n", "\\", "u2028"])
    ).map("".join)
)
def test_an_event_is_one_line_however_lines_are_told_apart(words: str) -> None:
    """Python's `splitlines` ends lines at more letters than Server-Sent Events do. No text cuts an event, whoever wrote
    it, and its reader has it to the byte.
    """
    data = msgspec.json.encode({"body": words})
    sent = block(Place(1), "message.received", data).decode()
    assert sent.splitlines() == sent.split("\n")[:-1]
    shown = sent.splitlines()[2].removeprefix("data: ")
    assert msgspec.json.decode(shown) == {"body": words}
    assert unescaped(shown).encode() == data


@given(names=st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=4), cut=st.integers(0, 300))
def test_the_rest_of_a_block_ends_it(names: list[str], cut: int) -> None:
    """Wherever a cut goes through blocks, what is before it and the rest are whole blocks; last words can follow."""
    text = b"".join(block(Place(n), name, b'{\n"a":\r1}') for n, name in enumerate(names)) + progress(Place(9))
    whole = text[:cut] + rest_of_block(text[cut:])
    assert text.startswith(whole)
    assert whole == b"" or whole.endswith(b"\n\n")
    assert (whole + last_words(b"{}")).count(b"\n\n") == whole.count(b"\n\n") + 1
