"""What a command prints for a person: a terminal obeys control characters, and a sender may write them into any id.

A line stays one line, and shows a mark in the place of each character that cannot be seen. JSON spells them with
escapes, which every reader of JSON takes for the same text. Bytes that were asked for go out as they are, but to a
terminal as text.
"""

import sys
from typing import Final, TextIO

import msgspec

UNSEEN: Final = "\N{REPLACEMENT CHARACTER}"


def printable(text: str, *, kept: str = "") -> str:
    """Return a text with a mark for each character that cannot be seen, or moves what stands beside it."""
    return text if text.isprintable() else "".join(one if one.isprintable() or one in kept else UNSEEN for one in text)


def say(*lines: str, file: TextIO | None = None) -> None:
    """Print lines, to standard output or another file, at once; what breaks a line within one is marked too."""
    for line in lines:
        print(printable(line), file=file, flush=True)


def say_json(value: object, *, indented: bool = False) -> None:
    """Print a value as JSON: on one line, or for a person to read."""
    encoded = msgspec.json.encode(value)
    say_encoded((msgspec.json.format(encoded) if indented else encoded).decode())


def say_encoded(text: str) -> None:
    """Print JSON that is encoded already; line breaks stand between its values alone."""
    print(text if text.isprintable() else "".join(map(_escaped, text)), flush=True)


def _escaped(letter: str) -> str:
    if letter.isprintable() or letter == "\n":
        return letter
    units = letter.encode("utf-16-be")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def write(raw: bytes) -> None:
    """Write bytes to standard output to the byte, but to a terminal as text that it does not obey."""
    if sys.stdout.isatty():
        print(printable(raw.decode(errors="replace"), kept="\n\t"))
    else:
        sys.stdout.buffer.write(raw)
