"""Which events a replay takes, as options."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final

from cyclopts import Parameter
from cyclopts.validators import Number

from whatsms_events.config.settings import Settings
from whatsms_events.domain.events import EventType, parse_time
from whatsms_events.domain.replay import Selection
from whatsms_events.errors import ConfigError


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class SelectionOptions:
    """Which events; without any of these options the whole log."""

    from_position: Annotated[
        int | None, Parameter(validator=Number(gte=1, lt=2**63), help="Only events from this position on.")
    ] = None
    to_position: Annotated[
        int | None, Parameter(validator=Number(gte=1, lt=2**63), help="Only events up to this position.")
    ] = None
    since: Annotated[str | None, Parameter(help="Only events received from this time on, as in 2026-01-31T00:00Z.")] = (
        None
    )
    until: Annotated[str | None, Parameter(help="Only events received before this time.")] = None
    tenant: Annotated[str | None, Parameter(help="Only events of this tenant, by its slug.")] = None
    type: Annotated[str | None, Parameter(help="Only events of this type.")] = None

    def selection(self, settings: Settings) -> Selection:
        """Return what is selected; raise ConfigError with every mistake."""
        mistakes: list[str] = []
        since, until = _time("since", self.since, mistakes), _time("until", self.until, mistakes)
        if self.tenant is not None and self.tenant not in settings.tenants:
            mistakes.append(f"--tenant {self.tenant}: the configuration has no such tenant")
        if self.type is not None and self.type not in set(EventType):
            mistakes.append(f"--type {self.type}: the types are {', '.join(EventType)}")
        if mistakes:
            raise ConfigError(*mistakes)
        return Selection(
            first=self.from_position or 1,
            last=self.to_position,
            since=since,
            until=until,
            tenant=None if self.tenant is None else settings.tenants[self.tenant].tenant_id,
            type=None if self.type is None else EventType(self.type),
        )


EVERYTHING: Final = SelectionOptions()


def _time(name: str, given: str | None, mistakes: list[str]) -> datetime | None:
    if given is None:
        return None
    for form in (given, f"{given}T00:00:00", f"{given.removesuffix('Z')}:00Z"):  # a day or a minute is enough
        if (found := parse_time(form)) is not None:
            return found
    mistakes.append(f"--{name} {given}: no time in the form 2026-01-31T12:00:00Z")
    return None
