"""This module collects the values of settings from TOML file, secret files, environment and flags, and checks names.

pydantic-settings' own sources are not used: they ignore a misspelt variable, a missing file and a secret file behind a
link, and cut white space off secrets silently.
"""

import hashlib
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from whatsms_events.errors import ConfigError

PREFIX: Final = "WHATSMS_EVENTS_"
FILE_VARIABLE: Final = PREFIX + "CONFIG"
SECRETS_DIR_VARIABLE: Final = PREFIX + "SECRETS_DIR"

_FILE_LIMIT_BYTES: Final = 1024 * 1024
_SECRET_LIMIT_BYTES: Final = 64 * 1024
_LINKS: Final = 40
"""The number of links that Linux follows."""

_LABEL: Final = re.compile(r"[a-z0-9_]{1,31}")

Name = tuple[str, ...]
"""The name of a setting by its parts: ("kafka", "timeout_s")."""

Known = Callable[[Name], list[Name]]
"""Returns the names of all settings; keys of mappings (tenants, secrets) are those of the name it is given."""


@dataclass(frozen=True, slots=True)
class Given:
    """A value, which kind of source it came from, and how that source spells its name."""

    value: object
    origin: str
    spelled: str


class UnreadableError(Exception):
    """A file could not be read as text. The message says why and holds nothing of the file."""


def dotted(name: Name) -> str:
    """Spell a name as TOML does. A secret written where its own name belongs is left out."""
    if name[2:3] == ("webhook_secrets",) and not _LABEL.fullmatch(".".join(name[3:])):
        name = name[:3]
    if name[:2] == ("private", "tokens") and not _LABEL.fullmatch(".".join(name[2:3])):
        name = name[:2]
    return ".".join(name)


def _double(name: Name) -> str:
    return "__".join(name)


def _variable(name: Name) -> str:
    return PREFIX + "__".join(name).upper()


def read(
    path: Path | None, secrets_dir: Path | None, environ: Mapping[str, str], flags: Mapping[str, object], known: Known
) -> tuple[dict[Name, Given], list[str], set[Name]]:
    """Return every value given, what is wrong with the rest, and the names of the misplaced ones.

    A flag goes over the environment, that over a secret file, that over the file.

    Raise ConfigError where the file or the folder is missing as a whole: nothing else could be judged then.
    """
    problems: list[str] = []
    missing: list[str] = []
    in_file = _from_file(path or _location(environ, FILE_VARIABLE), missing)
    in_folder = _from_folder(secrets_dir or _location(environ, SECRETS_DIR_VARIABLE), missing, problems)
    if missing:
        raise ConfigError(*missing)
    given: dict[Name, Given] = {}
    misplaced: set[Name] = set()
    for origin, spell, values in (
        ("file", dotted, in_file),
        ("secret file", _double, in_folder),
        ("environment", _variable, _from_environ(environ, problems)),
        ("flag", dotted, {tuple(name.split(".")): value for name, value in flags.items() if value is not None}),
    ):
        for name, value in values.items():
            problem = _misplaced(name, value, known, spell)
            if problem is None:
                given[name] = Given(value, origin, spell(name))
            else:
                problems.append(f"{spell(name)}: {problem}")
                misplaced.add(name)
    return given, problems, misplaced


def _location(environ: Mapping[str, str], variable: str) -> Path | None:
    value = environ.get(variable)
    return Path(value) if value else None


def folder(path: Path | None, environ: Mapping[str, str]) -> Path:
    """Return where relative paths of the configuration file begin: its own folder; without a file the working folder.

    A link leads to the file, so that one file means one log by whatever name it is called. Kubernetes' own links are
    not followed: the folder behind them is another one after each change.
    """
    file = path or _location(environ, FILE_VARIABLE)
    if file is None:
        return Path.cwd()
    for _ in range(_LINKS):
        if not file.is_symlink() or _made_by_kubernetes(file.readlink()):
            break
        file = file.parent / file.readlink()
    return file.absolute().parent


def _made_by_kubernetes(target: Path) -> bool:
    """Tell whether a link leads to where Kubernetes keeps mounted files: `..data`, and `..` with a time behind it."""
    return any(part.startswith("..") and part != ".." for part in target.parts)


def _misplaced(name: Name, value: object, known: Known, spell: Callable[[Name], str]) -> str | None:
    """Return why a setting of this name cannot have this value, or None where it can."""
    names = known(name)
    if name in names:
        return None
    inside = [one for one in names if one[: len(name)] == name]
    if not inside:
        others = [("config",), ("secrets_dir",)] if spell is _variable else []
        spelled = {_double(one): spell(one) for one in names + others}
        near = get_close_matches(_double(name), spelled, n=1)
        return "no such setting" + (f"; did you mean {spelled[near[0]]}?" if near else "")
    if value == {}:
        return None  # an empty table in TOML; pydantic says what must be in it
    return f"is a section, not a setting; set its fields one by one, such as {spell(inside[0])}"


def text_of(path: Path, limit_bytes: int) -> str:
    """Return the text of a file; raise UnreadableError with a reason that holds nothing of it."""
    try:
        with path.open("rb") as file:
            content = file.read(limit_bytes + 1)
    except OSError as exc:
        raise UnreadableError((exc.strerror or type(exc).__name__).lower()) from exc
    if len(content) > limit_bytes:
        raise UnreadableError(f"larger than {limit_bytes} bytes")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise UnreadableError("not UTF-8") from None


def fingerprint(path: Path | None, secrets_dir: Path | None, environ: Mapping[str, str]) -> bytes:
    """Return a hash that changes with the content of the configuration file and of the secret files; never raise."""
    found = hashlib.sha256()
    folder = secrets_dir or _location(environ, SECRETS_DIR_VARIABLE)
    try:
        files = [] if folder is None else sorted(one for one in folder.iterdir() if not one.name.startswith("."))
    except OSError:
        files = []
    for file in (path or _location(environ, FILE_VARIABLE), *files):
        try:
            text = "" if file is None else text_of(file, _FILE_LIMIT_BYTES)
        except UnreadableError as exc:
            text = f"{exc}\0"
        for part in (str(file), text):
            found.update(hashlib.sha256(part.encode("utf-8", "surrogateescape")).digest())
    return found.digest()


def _from_file(path: Path | None, missing: list[str]) -> dict[Name, object]:
    if path is None:
        return {}
    try:
        return dict(flat(tomllib.loads(text_of(path, _FILE_LIMIT_BYTES))))
    except UnreadableError as exc:
        missing.append(f"{path}: cannot be read: {exc}")
    except tomllib.TOMLDecodeError as exc:
        # The place alone: the rest of the message may quote the line.
        place = re.search(r"line \d+, column \d+|end of document", str(exc))
        missing.append(f"{path}: not valid TOML at {place[0] if place else 'an unknown place'}")
    except ValueError:  # Python's own, which says nothing of a place
        missing.append(f"{path}: holds a number of more digits than any setting takes")
    except RecursionError:
        missing.append(f"{path}: nested too deeply")
    return {}


def flat(table: Mapping[str, object], above: Name = ()) -> Iterator[tuple[Name, object]]:
    """Yield each value with its name; an empty table is a value."""
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from flat(value, (*above, key))
        else:
            yield (*above, key), value


def _from_folder(folder: Path | None, missing: list[str], problems: list[str]) -> dict[Name, object]:
    """Read each file as one secret. Names that begin with a dot are Kubernetes' own links."""
    if folder is None:
        return {}
    try:
        files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as exc:
        missing.append(f"{folder}: cannot be read: {(exc.strerror or type(exc).__name__).lower()}")
        return {}
    values: dict[Name, object] = {}
    for file in files:
        try:
            secret = re.sub(r"\r?\n\Z", "", text_of(file, _SECRET_LIMIT_BYTES))
        except UnreadableError as exc:
            problems.append(f"secret file {file.name}: cannot be read: {exc}")
            continue
        if secret:
            values[tuple(file.name.split("__"))] = secret
        else:
            problems.append(f"secret file {file.name}: is empty")
    return values


def _from_environ(environ: Mapping[str, str], problems: list[str]) -> dict[Name, object]:
    values: dict[Name, object] = {}
    for variable, value in sorted(environ.items()):
        if not variable.upper().startswith(PREFIX):
            continue
        if variable != variable.upper():
            problems.append(f"{variable}: write it in capital letters")
        elif not value:
            problems.append(f"{variable}: is empty; give it a value or unset it")
        elif any("\ud800" <= letter <= "\udfff" for letter in value):  # how Python shows bytes that are not UTF-8
            problems.append(f"{variable}: is not UTF-8")
        elif variable not in (FILE_VARIABLE, SECRETS_DIR_VARIABLE):
            values[tuple(variable.removeprefix(PREFIX).lower().split("__"))] = value
    return values
