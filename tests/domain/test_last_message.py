"""Whether a ticket's last message is one that we hold."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from whatsms_events.domain import bodies
from whatsms_events.domain.last_message import BODY_LIMIT, CUT_FROM, Told, explained, is_same, is_veiled, plain
from whatsms_events.twin import texts
from whatsms_events.twin.dialects import write

LONG = "Preciso de ajuda com a fatura de maio"


def texts_of(*said: str) -> list[Told]:
    """Return messages that are only text, newest first."""
    return [Told((plain(one),), veiled=not one, at=-number) for number, one in enumerate(said)]


@pytest.mark.parametrize(
    ("last_message", "held", "known"),
    [
        (None, [], True),
        ("", [], True),
        (" \n ", [], True),
        ("Olá", [], False),
        ("Olá", ["Adeus", "Olá"], True),
        ("ok", ["ok, até logo"], False),
        ("ok...", ["ok, até logo"], False),
        ("ok, até logo", ["ok"], False),
        ("x" * 19, ["x" * 20], False),
        ("x" * 20, ["x" * 21], True),
        ("x" * 20, ["y" * 21], False),
        ("😀" * 10, ["😀" * 11], True),
        ("A morada é: Rua das Flores, 12", ["A morada é:\r\n\tRua das Flores,  12\n"], True),
        ("A morada é: Rua das Fl…", ["A morada é:\nRua das Flores, 12"], True),
        ("… é: Rua das Flores, 12", ["A morada é:\nRua das Flores, 12"], True),
        ("...é: Rua das Flores, 1...", ["A morada é:\nRua das Flores, 12"], True),
        ("é: Rua das Flores, 1", ["A morada é:\nRua das Flores, 12"], True),
        ("🢅 Olá", ["Olá"], True),
        ("x" * 254 + "\ufffd", ["x" * 254 + "😀 E foi assim."], True),
        ("x" * 255, ["y" * 300], False),
        ("voz-1234.ogg", ["", "Olá"], True),
        ("🎤 Áudio", [""], True),
        ("Preciso de ajuda urgente", ["", "Bom dia"], False),
        ("voz-1234.ogg", ["Olá", ""], False),
        ("lorem ipsum " * 900, ["lorem ipsum " * 900], True),
        ("x" * 9999, ["x" * 9999], True),
        ("x" * 9999, ["x" * 1000], False),
        ("y" + "x" * 9999, ["x" * BODY_LIMIT], False),
    ],
)
def test_a_last_message_is_explained_by_a_message_or_a_part_of_it(
    last_message: str | None, held: list[str], *, known: bool
) -> None:
    """The same text, its blanks folded or not, or a part of it that is long enough; or no text at all."""
    assert explained(last_message, texts_of(*held)) is known


@pytest.mark.parametrize(
    ("shown", "known"),
    [
        ("Segue a fatura", True),
        ("📎 Segue a fatura", True),
        ("fatura.pdf", True),
        ("📎 fatura.pdf", True),
        ("📎 Relatório de contas do ano de 2025.pdf", True),
        ("Relatório de contas do ano de 2025.pdf", True),
        ("📷 Fotografia enviada por Ana Silva", True),
        ("[image]", True),
        ("<Media omitted>", True),
        ("imageMessage", True),
        ("Mensagem de voz", True),
        ("Nota de voz (0:12)", True),
        ("*Documento*", True),
        (LONG, False),
        ("Qual é o preço da consulta?", False),
        ("🌻 bom dia a todos", False),
    ],
)
def test_media_is_shown_by_a_sign_a_word_or_a_name(shown: str, *, known: bool) -> None:
    """Where the newest message is media with a caption, what a vendor shows for media may be it; a sentence may not."""
    media = Told(("Segue a fatura",), veiled=True, at=7)
    assert explained(shown, [media, *texts_of("Olá")]) is known
    assert explained(shown, [Told(("Olá",), at=7), media]) is known, "of the same moment, so it may be the last one"
    if known and "Segue a fatura" not in shown:
        assert explained(shown, [Told(("Olá",), at=8), media]) is False
    assert explained(shown, texts_of("Olá")) is False


@pytest.mark.parametrize(
    ("body", "media_type", "linked", "deleted", "veiled"),
    [
        ("Olá", None, False, None, False),
        ("Olá", "chat", False, False, False),
        ("Olá", "extendedTextMessage", False, False, False),
        ("", None, False, None, True),
        (None, "image", False, None, True),
        ("Segue", "document", False, None, True),
        ("Segue", None, True, None, True),
        ("Olá", None, False, True, True),
    ],
)
def test_what_a_list_may_show_otherwise(
    body: str | None, media_type: str | None, *, linked: bool, deleted: bool | None, veiled: bool
) -> None:
    """Media, by its type, its URL or for want of a text, and what was deleted."""
    assert is_veiled(body, media_type, linked=linked, deleted=deleted) is veiled


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=400)
BLANKS = st.text(st.sampled_from(" \n\t\r\u00a0\u2028"), min_size=1, max_size=3)


@given(
    words=st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12), min_size=20, max_size=60
    ),
    data=st.data(),
)
def test_any_preview_of_any_text_is_explained(words: list[str], data: st.DataObject) -> None:
    """However its blanks are folded, wherever it is cut, through an emoji too, with dots or without."""
    text = "".join(word + data.draw(BLANKS) for word in words)
    folded = " ".join(text.split()) if data.draw(st.booleans()) else text.replace("\n", " ")
    wide = folded.encode("utf-16-le")
    units = len(wide) // 2
    start, end = data.draw(st.integers(0, units // 4)), data.draw(st.integers(units * 3 // 4, units))
    cut = wide[2 * start : 2 * end].decode("utf-16-le", "surrogatepass")
    before, after = (data.draw(st.sampled_from(["", "...", "…", " …", "... "])) for _ in range(2))
    shown = bodies.decode(write({"lastMessage": before + cut + after}))["lastMessage"]
    core = plain(cut.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore")).strip("\ufffd.… ")
    assume(len(core.encode("utf-16-le")) // 2 >= CUT_FROM)
    assert explained(shown, texts_of("another", bodies.decode(write({"body": text}))["body"]))


@given(text=TEXT | st.builds(texts.long_text, st.integers(0, 1)))
def test_a_text_as_the_twin_cuts_it_is_explained(text: str) -> None:
    """At 255 UTF-16 units, half an emoji and all, and as it comes through our reader; and it is the same preview."""
    whole = bodies.decode(write({"body": text}))["body"]
    cut = bodies.decode(write({"lastMessage": texts.cut(text)}))["lastMessage"]
    assert explained(cut, texts_of("another", whole))
    assert is_same(cut, whole)


@given(
    shown=st.lists(st.text("abcdefgh", min_size=1, max_size=9), min_size=3, max_size=40),
    held=st.lists(st.lists(st.text("tuvwxyz", min_size=1, max_size=9), min_size=1, max_size=40), max_size=5),
    veiled=st.booleans(),
)
def test_an_unrelated_text_is_not_explained(shown: list[str], held: list[list[str]], *, veiled: bool) -> None:
    """Three words or more that no message has are none of ours, also where the newest message is media."""
    told = [Told((" ".join(one),), veiled=veiled, at=-number) for number, one in enumerate(held)]
    assert not explained(" ".join(shown), told)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Olá", "Olá", True),
        ("uma\nduas", "uma duas", True),
        (None, "", True),
        ("", " ", True),
        ("Olá", "", False),
        ("Olá", "Adeus", False),
        (LONG, LONG + " e de junho", False),
        (LONG + "...", LONG + " e de junho", True),
        (LONG + " e de junho", "…" + LONG[8:], True),
        ("x" * 99, "x" * 120, False),
        ("x" * 100, "x" * 120, True),
    ],
)
def test_two_previews_of_one_text_are_the_same(one: str | None, other: str | None, *, same: bool) -> None:
    """Folded blanks are no difference, nor is a cut that dots or the length show; a text with more words is another."""
    assert is_same(one, other) is same
    assert is_same(other, one) is same
