"""Writes the folder of an export as it is read: JSON, a page, a list of media. It appears whole, or not at all."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, TextIO

import msgspec

from whatsms_events.cli.export.page import PersonPage
from whatsms_events.errors import ConfigError
from whatsms_events.storage.reads import RowView
from whatsms_events.web.export import SECTIONS, Section, links

JSON_FILE: Final = "person.json"
PAGE_FILE: Final = "person.html"
LINKS_FILE: Final = "media_urls.txt"

_UNFINISHED: Final = ".unfinished-"
_PRIVATE_FOLDER: Final = 0o700
_PRIVATE_FILE: Final = 0o600


class Folder:
    """The folder while it is written. Only its owner can read it. `counts` has the rows of each section.

    Raise ConfigError where there is something at its place already.
    """

    def __init__(self, place: Path) -> None:
        self._place = place.absolute()
        self._unfinished = self._place.with_name(f"{_UNFINISHED}{self._place.name}")
        self.counts: dict[Section, int] = dict.fromkeys(SECTIONS, 0)
        self._urls: dict[str, None] = {}
        self._section: Section | None = None
        self._make()

    def _make(self) -> None:
        try:
            if self._place.exists() and (not self._place.is_dir() or any(self._place.iterdir())):
                raise ConfigError(f"--out: {self._place} is there already and not empty")
            shutil.rmtree(self._unfinished, ignore_errors=True)  # of an export that was killed
            self._unfinished.mkdir(mode=_PRIVATE_FOLDER)
            self._json, self._html = self._open(JSON_FILE), self._open(PAGE_FILE)
        except OSError as exc:
            raise ConfigError(f"--out: {self._place} cannot be used: {exc.strerror or type(exc).__name__}") from exc

    def _open(self, name: str) -> TextIO:
        number = os.open(self._unfinished / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE_FILE)
        return os.fdopen(number, "w", encoding="utf-8", newline="\n")

    def begin(self, heading: Mapping[str, object]) -> None:
        """Write who it is about, and when it was made."""
        fields = [f"{_json(name)}: {_json(value)}" for name, value in heading.items()]
        self._json.write("{\n" + ",\n".join(fields))
        self._page = PersonPage(self._html.write, heading)

    def add(self, section: Section, rows: Sequence[RowView]) -> None:
        """Write a page of rows; sections come in their order."""
        if rows:
            self._move_to(section)
        for row in rows:
            self._json.write(f"{',' if self.counts[section] else ''}\n{_json(row)}")
            self._urls |= dict.fromkeys(links(row))
            self.counts[section] += 1
            self._page.add(section, msgspec.to_builtins(row, enc_hook=_decoded))

    def _move_to(self, section: Section | None) -> None:
        """Close the section that is open, and open those up to and with this one."""
        at = -1 if self._section is None else SECTIONS.index(self._section)
        to = len(SECTIONS) - 1 if section is None else SECTIONS.index(section)
        for name in SECTIONS[at + 1 : to + 1]:
            self._json.write(("\n]" if self._section is not None else "") + f",\n{_json(name)}: [")
            self._page.begin(name)
            self._section = name

    def finish(self) -> int:
        """Close the files, bring them to the disk, and give the folder its name; return how many media URLs there are.

        Raise ConfigError where the folder cannot get its name, because somebody put something there meanwhile.
        """
        self._move_to(None)
        self._json.write(f'\n],\n"media_urls": {_json(list(self._urls))}\n}}\n')
        self._page.end(list(self._urls))
        with self._open(LINKS_FILE) as listed:
            listed.writelines(f"{_one_line(url)}\n" for url in self._urls)
            _sync(listed.fileno())
        for file in (self._json, self._html):
            file.flush()
            _sync(file.fileno())
            file.close()
        try:
            self._unfinished.rename(self._place)  # over an empty folder too
        except OSError as exc:
            raise ConfigError(f"--out: {self._place} cannot be used: {exc.strerror}") from exc
        return len(self._urls)

    def remove(self) -> None:
        """Remove what is unfinished."""
        for file in (self._json, self._html):
            file.close()
        shutil.rmtree(self._unfinished, ignore_errors=True)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _decoded(value: object) -> object:
    if isinstance(value, msgspec.Raw):
        return msgspec.json.decode(value)
    raise NotImplementedError


def _one_line(url: str) -> str:
    """Return a URL as one line of text, whatever is in it."""
    return "".join(one if one.isprintable() else "�" for one in url)


def _sync(number: int) -> None:
    os.fsync(number)
