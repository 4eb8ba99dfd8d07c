"""This module shows the settings as TOML, each with the place that it comes from. Secrets are not shown."""

import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import SecretStr

from whatsms_events.config.settings import Settings
from whatsms_events.config.sources import Name, flat


def describe(settings: Settings) -> Iterator[tuple[Name, object, str]]:
    """Yield each setting's name, value and origin; a secret is "********", a setting that is not set is None."""
    dumped = settings.model_dump()
    for name, value in flat(dumped):
        shown = "********" if isinstance(value, SecretStr) else value
        yield name, shown, settings._origins.get(name, "default")  # noqa: SLF001 - our own class


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
