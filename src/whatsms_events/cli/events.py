"""`events list` and `show`: the event log as a person reads it. What is printed as JSON is the read API's."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from whatsms_events.cli.options import DEFAULTS, SettingsOptions
from whatsms_events.cli.running import run
from whatsms_events.cli.terminal import say, say_json, write
from whatsms_events.config.settings import Settings
from whatsms_events.domain.events import EventType
from whatsms_events.errors import ConfigError, NotFoundError
from whatsms_events.service.stores import opened_log
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.reads import PAGE_LIMIT, Queries, RowView
from whatsms_events.web.views import of_tenant

ListLength = Annotated[int, Parameter(validator=Number(gte=1, lte=PAGE_LIMIT))]
After = Annotated[int | None, Parameter(validator=Number(gte=0, lt=2**63))]
LogPosition = Annotated[int, Parameter(validator=Number(gte=1, lt=2**63))]


def list_(
    *,
    after: After = None,
    limit: ListLength = 50,
    tenant: str | None = None,
    type: str | None = None,  # noqa: A002 - the name of the option
    json: bool = False,
    options: SettingsOptions = DEFAULTS,
) -> int:
    """List events of the log in their order: position, when, tenant, type, what it is about.

    Parameters
    ----------
    after
        Begin behind this position. Without it: the last ones.
    limit
        How many at most, 500 or fewer.
    tenant
        Only those of this tenant, by its slug.
    type
        Only those of this type.
    json
        Print each as the read API shows it, a line of JSON each.
    """
    settings = options.load()
    wanted, written = _tenant_id(settings, tenant), _writer(settings, json=json)
    _check_type(type)

    async def listed() -> list[RowView]:
        async with _asking(settings) as (queries, log):
            if after is None:
                return await _last(queries, await log.end(), limit, wanted, type)
            return await _behind(queries, after, limit, wanted, type)

    for row in run(listed()):
        written(row)
    return 0


def show_(position: LogPosition, /, *, raw: bool = False, options: SettingsOptions = DEFAULTS) -> int:
    """Print one event of the log as JSON, or the bytes it came as.

    Parameters
    ----------
    position
        As `events list` shows it.
    raw
        Write the bytes as they were received to standard output, and nothing else.
    """
    settings = options.load()

    async def shown() -> RowView | None:
        async with _asking(settings) as (queries, _):
            return await queries.event(position, raw=raw)

    row = run(shown())
    if row is None:
        raise NotFoundError(f"no event at position {position}")
    if not raw:
        say_json(of_tenant(row, _slugs(settings)), indented=True)
    elif isinstance(found := row["raw"], bytes):
        write(found)
    else:
        raise NotFoundError(f"the bytes of the event at position {position} are gone")
    return 0


async def _behind(
    queries: Queries, after: int, limit: int, tenant: str | None, event_type: str | None
) -> list[RowView]:
    """Return events behind a position, over as many pages as a filter leaves short."""
    found: list[RowView] = []
    while True:
        page = await queries.events(after=after, limit=limit - len(found), tenant=tenant, event_type=event_type)
        found += page.rows
        after = page.next
        if after >= page.end or len(found) >= limit:
            return found


async def _last(queries: Queries, end: int, limit: int, tenant: str | None, event_type: str | None) -> list[RowView]:
    """Return the last events: of ever more of the log, until there are enough or it is read whole."""
    width = limit
    while True:
        found: list[RowView] = []
        after = max(0, end - width)
        while after < end and (rows := await _behind(queries, after, PAGE_LIMIT, tenant, event_type)):
            found = (found + rows)[-limit:]
            after = int(str(rows[-1]["position"]))
        if len(found) >= limit or width >= end:
            return found
        width *= 8


def _writer(settings: Settings, *, json: bool) -> Callable[[RowView], None]:
    slugs = _slugs(settings)

    def written(row: RowView) -> None:
        if json:
            say_json(of_tenant(row, slugs))
        else:
            say(event_line(row, slugs))

    return written


def event_line(row: RowView, slugs: Mapping[str, str]) -> str:
    """Return a row of the log as a line for people."""
    tenant = slugs.get(str(row["tenant"]), str(row["tenant"]))
    when = str(row["received_at"])[:19].replace(" ", "T")
    ticket = "" if row["ticket_id"] in (None, row["subject"]) else f"  ticket {row['ticket_id']}"
    return f"{row['position']}  {when}Z  {tenant}  {row['type']}  {row['subject'] or '-'}{ticket}"


def _slugs(settings: Settings) -> dict[str, str]:
    return {tenant.tenant_id: slug for slug, tenant in settings.tenants.items()}


def _tenant_id(settings: Settings, slug: str | None) -> str | None:
    if slug is not None and slug not in settings.tenants:
        raise ConfigError(f"--tenant: unknown {slug}; there are {', '.join(settings.tenants) or 'none'}")
    return None if slug is None else settings.tenants[slug].tenant_id


def _check_type(name: str | None) -> None:
    types = [str(one) for one in EventType]
    if name is not None and name not in types:
        raise ConfigError(f"--type: unknown {name}; there are {', '.join(types)}")


@asynccontextmanager
async def _asking(settings: Settings) -> AsyncIterator[tuple[Queries, EventLog]]:
    async with opened_log(settings) as log:
        yield Queries(log, log), EventLog(log)
