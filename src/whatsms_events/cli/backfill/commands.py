"""`backfill run`, `status` and `stop`: repair a tenant now, say how its last runs went, end one before its end."""

import sys
from collections.abc import Mapping
from typing import Final, Literal

from whatsms_events import logs
from whatsms_events.cli.backfill.foreground import Foreground
from whatsms_events.cli.backfill.view import RECEIPTS, View, print_report, status_line
from whatsms_events.cli.options import DEFAULTS, SettingsOptions, tenant_named
from whatsms_events.cli.running import run
from whatsms_events.cli.terminal import say_json
from whatsms_events.clock import now
from whatsms_events.config.settings import Settings
from whatsms_events.errors import ConfigError, NotFoundError
from whatsms_events.service.stores import opened_log
from whatsms_events.service.upstream import keyed
from whatsms_events.storage.repair import reports
from whatsms_events.storage.repair.reports import Reports, RunInfo
from whatsms_events.storage.repair.runs import Checkpoints
from whatsms_events.web.api import RUNS
from whatsms_events.web.views import shown_page, shown_run, shown_runs

SHOWN: Final = 10
"""Runs of a tenant that a person sees; JSON has all that are kept."""


def run_(
    *,
    tenant: str | None = None,
    wait: bool = False,
    details: Literal["all", "changed"] | None = None,
    messages: Literal["off", "narrow", "full"] | None = None,
    allow_gone: bool = False,
    json: bool = False,
    options: SettingsOptions = DEFAULTS,
) -> int:
    """Compare everything with the vendor's REST API now, repair what differs, and say what it was.

    It runs beside a `serve` or alone. Ctrl-C stops it; the next run, or a `serve`, goes on from its checkpoint. The
    status is 0 once the run has finished, whatever it found, and 1 where it stopped or another process has the tenant.

    Parameters
    ----------
    tenant
        The tenant's slug; it may be left out where there is one tenant.
    wait
        Where another run of the tenant goes on, such as the service's own: wait for its end, and then run.
    details
        Which tickets and contacts are also read by id: all, or those that changed; else `backfill.details`.
    messages
        Whose messages are read: off, narrow (tickets with a known gap) or full; else `backfill.messages`. Careful:
        reading them may send read receipts to the people who wrote them.
    allow_gone
        Mark as gone whatever the vendor does not have, however much that is; else no more than `backfill.gone_share`.
    json
        Print the run as the read API shows it, with the first page of its drift, alone on standard output.
    """
    settings = options.load()
    slug = tenant_named(settings, tenant)
    if slug not in keyed(settings):
        raise ConfigError(f"tenants.{slug}.api_key: is not set, and without it nothing can be read")
    usual = settings.backfill
    wanted = reports.Options(
        details=details or usual.details, messages=messages or usual.messages, allow_gone=allow_gone
    )
    return _reported(settings, slug, wanted, wait=wait, json=json)


def _reported(settings: Settings, slug: str, wanted: reports.Options, *, wait: bool, json: bool) -> int:
    """Run it in the foreground, print what it found, and return the exit status."""
    with View(slug) as view:
        # A terminal shows the bar; lines of what goes well would only push it down.
        quiet = view.lines is not None and settings.logs.level in ("debug", "info")
        logs.configure("warning" if quiet else settings.logs.level, view.lines)
        if wanted.messages != "off":
            view.say(f"warning: {RECEIPTS} (--messages {wanted.messages})")
        done = run(Foreground(settings, slug, wanted, view, wait=wait).run())
    if isinstance(done, str):
        print(done, file=sys.stderr)
        return 1
    if json:
        say_json(shown_run(done.info) | shown_page("drift", done.names))
    else:
        print_report(slug, done.info, done.names)
    return 0


def status_(*, tenant: str | None = None, json: bool = False, options: SettingsOptions = DEFAULTS) -> int:
    """Say how the last backfills went and how far the one is that is not finished; asks the database alone.

    Parameters
    ----------
    tenant
        The tenant's slug; without it, every tenant.
    json
        Print, by slug, what the read API answers at `/api/v1/SLUG/backfill`.
    """
    settings = options.load()
    slugs = list(settings.tenants) if tenant is None else [tenant_named(settings, tenant)]
    found = run(_runs(settings, slugs))
    if json:
        say_json({slug: shown_runs(runs) for slug, runs in found.items()})
        return 0
    for slug, runs in found.items():
        for one in runs[:SHOWN]:
            print(status_line(slug, one))
        if not runs:
            print(f"{slug}  never ran" + ("" if slug in keyed(settings) else ": it has no api_key"))
    return 0


def stop_(*, tenant: str | None = None, options: SettingsOptions = DEFAULTS) -> int:
    """End a run before its end, whichever process has it; what it repaired stays.

    The process that has the run is fenced off: it begins no other by itself until the next one is due.

    Parameters
    ----------
    tenant
        The tenant's slug; it may be left out where there is one tenant.
    """
    settings = options.load()
    slug = tenant_named(settings, tenant)

    async def stopped() -> int | None:
        async with opened_log(settings) as log:
            return await Checkpoints(log).stop(settings.tenants[slug].tenant_id, "command", now())

    number = run(stopped())
    if number is None:
        raise NotFoundError(f"no run of {slug} is under way")
    print(f"run {number} of {slug} is stopped")
    return 0


async def _runs(settings: Settings, slugs: list[str]) -> Mapping[str, list[RunInfo]]:
    async with opened_log(settings) as log:
        asked = Reports(log)
        return {slug: await asked.runs(settings.tenants[slug].tenant_id, RUNS) for slug in slugs}
