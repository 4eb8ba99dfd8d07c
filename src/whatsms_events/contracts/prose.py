"""Reads the pages of the documentation, so that the contracts say of a path or a field what the pages say of it."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

_LINK: Final = re.compile(r"\[([^\]]+)\]\([^)]*\)")
_ROW: Final = re.compile(r"^\| (.*) \|$", re.MULTILINE)
_NAMED: Final = re.compile(r"`([^`]+)`")


@dataclass(frozen=True, slots=True)
class PathWords:
    """What the page about the read API says of a path: the names of its parameters, and what it answers."""

    parameters: tuple[str, ...]
    answers: str
    section: str


@dataclass(frozen=True, slots=True)
class Prose:
    """The page about the read API: its paths, and by section what it says of each field."""

    paths: Mapping[str, PathWords]
    fields: Mapping[str, Mapping[str, str]]


def read_api_prose(page: str) -> Prose:
    """Return what `docs/read-api.md` says."""
    paths: dict[str, PathWords] = {}
    fields: dict[str, dict[str, str]] = {}
    for part in page.split("\n## ")[1:]:
        title = part.partition("\n")[0]
        for first, *others in _rows(part):
            name = _NAMED.fullmatch(first)
            if name is None:
                continue
            if name[1].startswith("/") and len(others) == 2:
                parameters = tuple(re.findall(r"`(\w+)`", others[0]))
                paths[name[1]] = PathWords(parameters, _sentence(others[1]), title)
            elif len(others) == 1:
                fields.setdefault(title, {})[name[1]] = _sentence(others[0])
    return Prose(paths, fields)


def header_prose(page: str) -> Mapping[str, str]:
    """Return what `docs/events-and-kafka.md` says of each header of a record."""
    return {
        name: _sentence(meaning)
        for names, meaning, *more in _rows(page)
        if not more
        for name in _NAMED.findall(names)
        if name.startswith("ce_") or name == "content-type"
    }


def topic_prose(page: str) -> Mapping[str, str]:
    """Return what the same page says of the key in each topic, by the end of the topic's name."""
    found = (_NAMED.fullmatch(name) for name, *_ in _rows(page))
    keys = {name[1]: cells[2] for name, cells in zip(found, _rows(page), strict=True) if name and len(cells) == 3}
    return {name.removeprefix("whatsms."): key for name, key in keys.items() if name.startswith("whatsms.")}


def _rows(text: str) -> Iterator[list[str]]:
    """Yield the cells of every row of the tables in a text; heads too, which name nothing between backticks."""
    for line in _ROW.findall(text):
        yield line.split(" | ")


def _sentence(cell: str) -> str:
    return _LINK.sub(r"\1", cell).replace("\\|", "|")
