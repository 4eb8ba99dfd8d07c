"""TOML file, secret files, environment and flags in; frozen Settings out, or every problem at once as ConfigError.

A problem names a setting and a rule, never a value, so that no secret is ever printed.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import SecretStr, ValidationError

from whatsms_events import config_checks, config_sources
from whatsms_events.config_checks import NO_TENANTS, advice
from whatsms_events.config_sources import Given, Name
from whatsms_events.errors import ConfigError
from whatsms_events.settings import Settings, known

__all__ = ["NO_TENANTS", "Settings", "advice", "describe", "load", "render"]


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
    """
    given, problems = config_sources.read(path, secrets_dir, environ, flags, known)
    settings, faults = _validate(given)
    # What is wrong already says so once: no second complaint about what hangs on it.
    wrong = {name[:2] for name, _ in faults}
    faults += config_checks.faults(settings, wrong)
    for name, text in faults:
        spelled = given[name].spelled if name in given else config_sources.dotted(name)
        problems.append(f"{spelled}: {text}")
    if problems:
        raise ConfigError(*("".join(c if c.isprintable() else "?" for c in line) for line in problems))
    settings._origins.update({name: one.origin for name, one in given.items()})  # noqa: SLF001 - our own class
    return settings


def _validate(given: Mapping[Name, Given]) -> tuple[Settings, list[tuple[Name, str]]]:
    """Return the settings less what is wrong, and what is wrong, so that the rest can be checked in the same run."""
    try:
        return Settings(**_nested(given)), []
    except ValidationError as exc:
        errors = exc.errors(include_input=False, include_url=False, include_context=False)
    faults = [(tuple(str(at) for at in error["loc"] if at != "[key]"), _say(error["msg"])) for error in errors]
    wrong = {name[:2] for name, _ in faults}
    settings, more = _validate({name: one for name, one in given.items() if name[:2] not in wrong})
    return settings, faults + more


def _nested(given: Mapping[Name, Given]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, one in given.items():
        at = tree
        for key in name[:-1]:
            at = at.setdefault(key, {})
        at[name[-1]] = one.value
    return tree


def _say(message: str) -> str:
    if message == "Field required":
        return "is missing"
    return re.sub(r"^(Value error, |Input (?=should)|String (?=should))", "", message)


def describe(settings: Settings) -> Iterator[tuple[Name, object, str]]:
    """Yield each setting's name, value and origin; a secret is "********", what is not set is None."""
    dumped = settings.model_dump()
    for name, value in config_sources.flat(dumped):
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
