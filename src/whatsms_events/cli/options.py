"""The options that every command takes; `load` makes the settings from them."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter
from cyclopts.validators import Number

from whatsms_events.config.checks import NO_TENANTS
from whatsms_events.config.load import load
from whatsms_events.config.settings import Settings
from whatsms_events.config.sources import fingerprint
from whatsms_events.errors import ConfigError

Positive = Annotated[float, Parameter(validator=Number(gt=0))]


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class SettingsOptions:
    """What every command takes."""

    config: Annotated[Path | None, Parameter(help="TOML file; also WHATSMS_EVENTS_CONFIG.")] = None
    secrets_dir: Annotated[Path | None, Parameter(help="Folder of secret files; also WHATSMS_EVENTS_SECRETS_DIR.")] = (
        None
    )
    set: Annotated[
        tuple[str, ...],
        Parameter(help="A setting over all others, as in --set public.port=9000.", show_default=False),
    ] = ()

    def load(self) -> Settings:
        """Return the settings; raise ConfigError with every problem."""
        flags: dict[str, object] = {}
        for given in self.set:
            name, equals, value = given.partition("=")
            if not equals:
                raise ConfigError(f"--set {name}: write it as NAME=VALUE")
            flags[name] = value
        return load(self.config, environ=os.environ, secrets_dir=self.secrets_dir, flags=flags)

    def fingerprint(self) -> bytes:
        """Return what changes with the content of the files that `load` reads."""
        return fingerprint(self.config, self.secrets_dir, os.environ)


DEFAULTS: Final = SettingsOptions()


def tenant_named(settings: Settings, slug: str | None) -> str:
    """Return the slug, or that of the only tenant; raise ConfigError for an unknown one, or where it must be said."""
    known = list(settings.tenants)
    if slug is not None and slug not in known:
        raise ConfigError(f"--tenant: unknown {slug}; there are {', '.join(known) or 'none'}")
    if slug is None and not known:
        raise ConfigError(NO_TENANTS)
    if slug is None and len(known) > 1:
        raise ConfigError(f"--tenant: say which of {', '.join(known)}")
    return slug or known[0]
