"""A ticket's last message, as its list shows it, and the messages we hold in; whether one of them explains it out.

Webhooks of messages do not carry it, so it is no difference where a message that was told is it.
"""

from collections.abc import Sequence
from typing import Final

CUT_FROM: Final = 100
"""UTF-16 units from which a text may be a longer one's beginning: nobody cuts shorter, and "ok" explains no "ok then".
The vendor's relatives cut at 255."""

BODY_LIMIT: Final = 4096
"""Characters of a text that are compared: bodies may have 5 MiB."""


def explained(last_message: str | None, held: Sequence[str]) -> bool:
    """Tell whether a ticket's last message is one of those held (newest first): the same text, or the beginning of one.

    Vendors cut it, and half an emoji at the cut is read as U+FFFD. A newest one without text is media, for which they
    show a file's name or a word of their own. Of those held BODY_LIMIT characters are enough.
    """
    if not last_message or last_message in held:
        return True
    if held and not held[0] and len(last_message.split()) <= 2:  # "🎤 Áudio", or a file's name: more is somebody's text
        return True
    if len(last_message.encode("utf-16-le", "surrogatepass")) // 2 < CUT_FROM:
        return False
    start = last_message.removesuffix("\ufffd")[:BODY_LIMIT]
    return any(text.startswith(start) for text in held)
