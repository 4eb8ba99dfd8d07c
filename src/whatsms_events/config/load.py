"""This module loads the settings from TOML file, secret files, environment and flags, and reports all problems at once.

A problem names a setting and a rule, never a value, so that no secret is ever printed.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from pydantic import ValidationError

from whatsms_events.config import checks, sources
from whatsms_events.config.settings import Settings, known, places
from whatsms_events.config.sources import Given, Name
from whatsms_events.errors import ConfigError

_DATA_DIR: Final = ("data_dir",)
_URL: Final = ("database", "url")
_SQLITE: Final = "sqlite:///"
_MISSING: Final = "is missing"


def load(
    path: Path | None = None,
    *,
    environ: Mapping[str, str],
    secrets_dir: Path | None = None,
    flags: Mapping[str, object] = MappingProxyType({}),
) -> Settings:
    """Return the settings: flags over environment over secret files over the TOML file over defaults.

    `flags` are named as in TOML ("public.port"); None means not given. `path` and `secrets_dir` are also taken from
    WHATSMS_EVENTS_CONFIG and WHATSMS_EVENTS_SECRETS_DIR. Raise ConfigError with every problem, a line each.

    Paths come out absolute: a relative one in the file, and the default of `data_dir`, begin at the file's folder;
    one from elsewhere begins at the working folder. `~` is the home folder.
    """
    given, problems, misplaced = sources.read(path, secrets_dir, environ, flags, known)
    given.setdefault(_DATA_DIR, Given(str(Settings().data_dir), "default", sources.dotted(_DATA_DIR)))
    folder = partial(sources.folder, path, environ)
    for name in given.keys() & {*places(), _URL}:
        given[name] = _placed(given[name], folder, _SQLITE if name == _URL else "")
    settings, faults = _validate(given)
    # A misplaced value is reported already: what it leaves missing is no second fault.
    faults = [
        (name, text) for name, text in faults if text != _MISSING or name[:2] not in {one[:2] for one in misplaced}
    ]
    wrong = {name[:2] for name, _ in faults}
    faults += checks.faults(settings, wrong)
    for name, text in faults:
        spelled = given[name].spelled if name in given else sources.dotted(name)
        problems.append(f"{spelled}: {text}")
    if problems:
        raise ConfigError(*("".join(c if c.isprintable() else "?" for c in line) for line in problems))
    settings._origins.update({name: one.origin for name, one in given.items()})  # noqa: SLF001 - our own class
    return settings


def _placed(one: Given, folder: Callable[[], Path], scheme: str) -> Given:
    """Return the value with the path after `scheme` made absolute. A value without such a path stays as it is.

    The working folder is asked for only where a path begins there: an upgrade may have removed that folder.
    """
    value = str(one.value) if isinstance(one.value, Path) else one.value
    if not isinstance(value, str) or not value.startswith(scheme) or "\0" in value:
        return one
    path = os.path.expanduser(value.removeprefix(scheme))  # noqa: PTH111 - pathlib's raises where nobody has the name
    if path.startswith("~") or (scheme and path in ("", ":memory:")):
        return one
    placed = Path(path)
    if not placed.is_absolute():
        placed = (folder() if one.origin in ("file", "default") else Path.cwd()) / placed
    return replace(one, value=f"{scheme}{placed}")


def _validate(given: Mapping[Name, Given]) -> tuple[Settings, list[tuple[Name, str]]]:
    """Return the settings that are valid, and the faults of the others, so that all are checked in one run."""
    faults: list[tuple[Name, str]] = []
    left = dict(given)
    while True:  # each turn has fewer of them, and the defaults alone are valid
        try:
            return Settings(**_nested(left)), faults
        except ValidationError as exc:
            errors = exc.errors(include_input=False, include_url=False, include_context=False)
        found = [(_name(error["loc"]), _say(error["msg"])) for error in errors]
        faults += found
        wrong = {name[:2] for name, _ in found}
        kept = {name: one for name, one in left.items() if name[:2] not in wrong}
        left = kept if len(kept) < len(left) else {}


def _name(place: tuple[int | str, ...]) -> Name:
    """Return the name of the setting at pydantic's location, which ends in "[key]" where the key itself is wrong."""
    return tuple(map(str, place[:-1] if place[-1:] == ("[key]",) else place))


def _nested(given: Mapping[Name, Given]) -> dict[str, Any]:
    """Return values as a tree of new dicts: an empty table that was given must not be filled by another source."""
    tree: dict[str, Any] = {}
    for name, one in given.items():
        at = tree
        for key in name[:-1]:
            at = at.setdefault(key, {})
        if one.value == {}:
            at.setdefault(name[-1], {})
        else:
            at[name[-1]] = one.value
    return tree


def _say(message: str) -> str:
    """Return a rule in our words: pydantic's own text begins with the kind of fault, or names a class of Python."""
    if message == "Field required" or message.startswith("Dictionary should have at least 1 item"):
        return _MISSING
    if message.startswith("Input is not a valid path"):
        return "should be a path"
    return re.sub(r"^(Value error, |Input (?=should)|String (?=should))", "", message)
