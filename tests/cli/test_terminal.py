"""What a command prints of a value that a stranger wrote."""

import contextlib
import io
import json
import os
import pty

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatsms_events.cli.terminal import printable, say, say_json, write

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@given(TEXTS)
def test_no_text_moves_a_terminal(text: str) -> None:
    """Whatever a text holds, it is printed as one line of characters that can be seen, as long as it is."""
    out = io.StringIO()
    say(text, file=out)
    line = out.getvalue().removesuffix("\n")
    assert line.isprintable()
    assert len(line) == len(text)
    assert [one for one in text if one.isprintable()] == [
        one for one, was in zip(line, text, strict=True) if was.isprintable()
    ]


@given(st.recursive(TEXTS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3)))
def test_json_is_the_same_and_moves_no_terminal(value: object) -> None:
    """JSON that is printed has no character that a terminal obeys, and reads as the value."""
    for indented in (False, True):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            say_json(value, indented=indented)
        assert json.loads(out.getvalue()) == value
        assert out.getvalue().replace("\n", "").isprintable()


def test_bytes_go_out_as_they_are_but_not_to_a_terminal(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """A file gets every byte; a terminal gets text with marks, in which lines stay lines."""
    raw = b"a\x1b[2J\xff\n\xc2\x9bb"
    write(raw)
    there, here = pty.openpty()
    with os.fdopen(here, "w") as terminal, contextlib.redirect_stdout(terminal):
        write(raw)
    shown = os.read(there, 1000).decode()
    os.close(there)
    assert capfdbinary.readouterr().out == raw
    assert shown.splitlines() == ["a\ufffd[2J\ufffd", "\ufffdb"]
    assert printable("a\tb\n", kept="\t") == "a\tb\ufffd"
