"""This module shows the settings, but no secret: as TOML with the place that each comes from, or to be compared."""

import hashlib
import hmac
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from whatsms_events.config.settings import Settings
from whatsms_events.config.sources import Name, dotted, flat

MARK_BYTES: Final = 2
"""So much of a secret's digest tells whether two secrets are the same. Of many candidates that somebody guesses, one in
65,536 fits by chance, so a mark does not prove a guess. A secret of a few characters is guessed all the same.
"""


def describe(settings: Settings) -> Iterator[tuple[Name, object, str]]:
    """Yield each setting's name, value and origin; a secret is "********", a setting that is not set is None."""
    dumped = settings.model_dump()
    for name, value in flat(dumped):
        shown = "********" if isinstance(value, SecretStr) else value
        yield name, shown, settings._origins.get(name, "default")  # noqa: SLF001 - our own class


def comparable(settings: Settings, salt: bytes) -> Mapping[str, object]:
    """Return each setting's value by its dotted name, in plain JSON: a path as text, a setting that is not set as None.

    A secret is `{"mark": ...}`: the beginning of its digest with `salt`. Marks with the same salt can be compared, and
    tell little else. Whoever gives many salts gets many marks, which together prove a guess: so a process has one salt.
    """
    shown: dict[str, object] = {}
    for name, value in flat(settings.model_dump()):
        if isinstance(value, SecretStr):
            digest = hmac.digest(salt, value.get_secret_value().encode(), hashlib.sha256)
            shown[dotted(name)] = {"mark": digest[:MARK_BYTES].hex()}
        elif value != {}:  # a mapping without entries is no setting
            shown[dotted(name)] = str(value) if isinstance(value, Path) else value
    return shown


def render(settings: Settings) -> str:
    """Return what `describe` yields as TOML, each line with its origin as a comment."""
    lines: list[str] = []
    section: Name = ()
    for name, value, origin in describe(settings):
        if value == {}:
            continue
        if name[:-1] != section:
            section = name[:-1]
            lines += ["", f"[{'.'.join(section)}]"]
        shown = f"# {name[-1]} is not set" if value is None else f"{name[-1]} = {_toml(value)}  # {origin}"
        lines.append(shown)
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    # A JSON string is a TOML string but for DEL, which TOML wants escaped.
    text = json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)
    return text.replace("\x7f", "\\u007f")
