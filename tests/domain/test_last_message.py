"""Whether a ticket's last message is one that we hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatsms_events.domain import bodies
from whatsms_events.domain.last_message import BODY_LIMIT, explained
from whatsms_events.twin import texts
from whatsms_events.twin.dialects import write


@pytest.mark.parametrize(
    ("last_message", "held", "known"),
    [
        (None, [], True),
        ("", [], True),
        ("Olá", [], False),
        ("Olá", ["Adeus", "Olá"], True),
        ("ok", ["ok, até logo"], False),
        ("ok, até logo", ["ok"], False),
        ("x" * 99, ["x" * 100], False),
        ("x" * 100, ["x" * 100 + "y"], True),
        ("😀" * 50, ["😀" * 51], True),
        ("x" * 254 + "\ufffd", ["x" * 254 + "😀 E foi assim."], True),
        ("x" * 254 + "\ufffd", ["x" * 253 + "😀 E foi assim."], False),
        ("x" * 255, ["y" * 300], False),
        ("voz-1234.ogg", ["", "Olá"], True),
        ("🎤 Áudio", [""], True),
        ("Preciso de ajuda urgente", ["", "Bom dia"], False),
        ("voz-1234.ogg", ["Olá", ""], False),
        ("x" * 9999, ["x" * BODY_LIMIT], True),
        ("x" * 9999, ["x" * (BODY_LIMIT - 1)], False),
        ("x" * (BODY_LIMIT - 1) + "y" * 99, ["x" * BODY_LIMIT], False),
    ],
)
def test_a_last_message_is_explained_by_a_message_or_its_beginning(
    last_message: str | None, held: list[str], *, known: bool
) -> None:
    """The same text, one so long that the vendor may have cut it, or a name where the newest is media; or no text."""
    assert explained(last_message, held) is known


@given(text=st.text(st.characters(), max_size=400) | st.builds(texts.long_text, st.integers(0, 1)))
def test_a_cut_text_is_explained_whatever_it_is(text: str) -> None:
    """As the vendor cuts it at 255 UTF-16 units, half an emoji and all, and as it comes through our reader."""
    whole = bodies.decode(write({"body": text}))["body"]
    cut = bodies.decode(write({"lastMessage": texts.cut(text)}))["lastMessage"]
    assert explained(cut, ["another", whole])
