"""Whether a message that we hold explains what the vendor shows as a ticket's last message.

That is a preview: line breaks are blanks in it, it is cut at either end, with dots or without, through the middle of an
emoji too, and of media it shows a sign, a word or a file's name instead of the text. Webhooks of messages do not carry
it. Reading a ticket's messages may tell its contact that they were read, so a preview that may fit counts as explained.
The price: a text of 20 UTF-16 units or more that is a part of a longer one is taken for its preview; and if the newest
message is media, a few words, or any words behind a sign, are taken for the vendor's name for media.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

CUT_FROM: Final = 20
"""UTF-16 units from which a text may be a part of a longer one: nobody cuts shorter, and "ok" explains no "ok then"."""

CUT_UNSEEN_FROM: Final = 100
"""Units from which one preview may be another one's part although no dots say so: the vendor's relatives cut at 255."""

BODY_LIMIT: Final = 4096
"""Characters of a message's text that are compared: bodies may have many MiB."""

SHOWN_LIMIT: Final = 2048
"""Characters of a preview that are compared, with its blanks folded: fewer than of a message's text."""

LABEL_WORDS: Final = 2
NAMED_LABEL_WORDS: Final = 5
"""The most words of a name for media, without and with one of LABELS among them: more are somebody's text."""

TEXT_TYPES: Final = frozenset({"", "chat", "text", "conversation", "extendedtextmessage"})
"""What the vendor's relatives call the media type of a message that is only text."""

SIGNS: Final = "📎🖇📷📸🖼🎥📹📽🎞🎬🎤🎙🔊🔉🎵🎶🎧📄📃📑📝📁📂🗂📍📌🗺👤📇🏷💟🎭👾🚫🗑"

LABELS: Final = frozenset({
    *("image", "imagem", "imagen", "foto", "fotografia", "photo", "picture", "video", "vídeo", "gif", "sticker"),
    *("figurinha", "autocolante", "audio", "áudio", "voz", "voice", "nota", "note", "som", "sound", "document"),
    *("documento", "file", "ficheiro", "arquivo", "archivo", "pdf", "anexo", "adjunto", "attachment", "media", "mídia"),
    *("multimédia", "multimedia", "location", "localização", "ubicación", "contact", "contacto", "contato", "vcard"),
    *("poll", "sondagem", "enquete", "encuesta", "mensagem", "mensaje", "message", "apagada", "eliminada", "deleted"),
})  # fmt: skip

_EDGE = r"(?:[\[(](?:\.\.\.|…)[\])]|\.\.\.|…|\ufffd|\s)+"
_EDGES: Final = re.compile(rf"\A{_EDGE}|{_EDGE}\Z")
_WRAPPED: Final = re.compile(r"\[.*\]|<.*>|\(.*\)|\{.*\}|\*.*\*|_.*_")
_FILE: Final = re.compile(r".*\w\.[A-Za-z0-9]{2,5}")
_LEADING: Final = re.compile(r"\A[^\w]+")


class Told(NamedTuple):
    """What is held of one message: every wording, `plain`; whether the vendor may show something else; its time."""

    texts: tuple[str, ...]
    veiled: bool = False
    at: int | None = None


def plain(text: str) -> str:
    """Return a text as a preview may show it: runs of blanks are one blank, none stand at its ends."""
    return " ".join(text[:BODY_LIMIT].split())


def is_veiled(body: str | None, media_type: str | None, *, linked: bool, deleted: bool | None) -> bool:
    """Tell whether a list may show a sign, a word or a name instead of the text: for media and deleted messages.

    `linked`: the message has a URL of its media.
    """
    return not body or linked or (media_type or "").lower() not in TEXT_TYPES or bool(deleted)


def explained(shown: str | None, held: Sequence[Told]) -> bool:
    """Tell whether a ticket's last message in a list is one of those held (newest first), or says nothing."""
    text = _preview(shown)
    parts = _parts(text)
    if not text or any(_shows(text, parts, one) for told in held for one in told.texts):
        return True
    return any(told.veiled for told in _newest(held)) and _is_label(text)


def is_same(shown: str | None, held: str | None) -> bool:
    """Tell whether two previews are of the same text: one may be cut, where dots or its length say so."""
    one, other = _preview(shown), _preview(held)
    return one == other or _is_cut_of(one, other) or _is_cut_of(other, one)


def _preview(text: str | None) -> str:
    return plain(text or "")[:SHOWN_LIMIT]


def _newest(held: Sequence[Told]) -> Iterable[Told]:
    """Return the newest one, and those of the very same time: nobody knows which of them came last."""
    return (told for told in held if told.at == held[0].at)


def _parts(text: str) -> list[str]:
    """Return what may be a message's text in a preview: without what marks a cut, and without a sign in front."""
    core = _EDGES.sub("", text)
    return [part for part in dict.fromkeys((core, _LEADING.sub("", core))) if part]


def _shows(text: str, parts: Sequence[str], whole: str) -> bool:
    return text == whole or any(part == whole or (_units(part) >= CUT_FROM and part in whole) for part in parts)


def _is_cut_of(text: str, whole: str) -> bool:
    core = _EDGES.sub("", text)
    told = core != text or _units(core) >= CUT_UNSEEN_FROM
    return told and _units(core) >= CUT_FROM and core in whole


def _is_label(text: str) -> bool:
    """Tell whether it may be a vendor's name for media: "[image]", "📎 fatura.pdf", "Mensagem de voz"."""
    words = text.split()
    named = any(word.strip("[]()<>*_:.,").casefold() in LABELS for word in words)
    return (
        len(words) <= (NAMED_LABEL_WORDS if named else LABEL_WORDS)
        or text[0] in SIGNS
        or _WRAPPED.fullmatch(text) is not None
        or _FILE.fullmatch(text) is not None
    )


def _units(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2
