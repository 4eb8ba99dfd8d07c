"""The page of an export, for whoever it is about: what is held, in words, without a script and without a link.

Whatever somebody wrote stands as text, also where it looks like markup or like a URL. The page asks for nothing from
anywhere: its policy forbids everything but its own style.
"""

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, Final

import msgspec

from whatsms_events.web.export import Section

STYLE: Final = (
    "body{font:16px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:0 0 1.5rem;width:100%;table-layout:fixed}"
    "th,td{border:1px solid #bbb;padding:.3rem .5rem;text-align:left;vertical-align:top}"
    "td{overflow-wrap:anywhere;white-space:pre-wrap}"
    "th{width:14rem;font-weight:600}pre{white-space:pre-wrap;overflow-wrap:anywhere}"
    "@media(prefers-color-scheme:dark){body{background:#111;color:#eee}}"
)
_HASH: Final = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY: Final = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'"

_KEPT: Final = "\n\t\u200d"
"""Signs that are kept although they cannot be seen; the last one joins the parts of a picture."""

TITLES: Final[Mapping[Section, tuple[str, str]]] = {
    "contacts": ("Contact", "What is known of the person."),
    "tickets": ("Conversations", "Conversations with the person, without their texts."),
    "messages": ("Messages", "What the person wrote, and what was written to them; earlier wordings under revisions."),
    "events": (
        "History",
        "What was received, in its order. Where own is no, somebody else named the person, and only the place is told.",
    ),
    "parked_deliveries": ("Not understood", "What came in and could not be understood."),
    "parked_events": ("Not applied", "What could not be entered into the tables."),
    "comparisons": ("Comparisons", "What is kept of comparisons with WhatSMS."),
}


class PersonPage:
    """The page while it is written, by `write`."""

    def __init__(self, write: Callable[[str], object], heading: Mapping[str, object]) -> None:
        self._write = write
        write(
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">\n'
            '<meta name="referrer" content="no-referrer"><meta name="robots" content="noindex">\n'
            '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
            f"<title>What is held of a person</title><style>{STYLE}</style></head>\n"
            "<body><h1>What is held of a person</h1>\n"
            "<p>Times are in UTC. The same is in person.json, for programs.</p>\n"
        )
        self._table(heading)

    def begin(self, section: Section) -> None:
        """Begin a section."""
        title, about = TITLES[section]
        self._write(f"<h2>{escape(title)}</h2>\n<p>{escape(about)}</p>\n")

    def add(self, section: Section, row: Mapping[str, Any]) -> None:
        """Write one row: its fields that have a value, one beneath the other."""
        del section
        self._table({name: value for name, value in row.items() if value not in (None, [], {})})

    def end(self, urls: Sequence[str]) -> None:
        """Write the addresses of media, and end the page."""
        self._write("<h2>Media</h2>\n<p>Where pictures, sounds and files were when they were told of.</p>\n<ul>\n")
        self._write("".join(f"<li><code>{_text(url)}</code></li>\n" for url in urls))
        self._write("</ul>\n</body></html>\n")

    def _table(self, row: Mapping[str, Any]) -> None:
        cells = (f'<tr><th scope="row">{_text(name)}</th><td>{_cell(value)}</td></tr>\n' for name, value in row.items())
        self._write(f"<table>\n{''.join(cells)}</table>\n")


def _cell(value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case str() | int() | float():
            return _text(str(value))
        case list() if all(isinstance(one, str) for one in value):
            return ", ".join(map(_text, value))
        case _:
            return f"<pre>{_text(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())}</pre>"


def _text(value: str) -> str:
    """Return a text as HTML shows it: nothing in it is markup, and no sign in it turns the direction around."""
    return escape("".join(one if one.isprintable() or one in _KEPT else "�" for one in value))
