"""`secrets status`: which secret of each tenant deliveries fit, and which one may be taken out of the configuration."""

import sys
from collections.abc import Mapping
from datetime import datetime

import msgspec

from whatsms_events.cli.options import DEFAULTS, SettingsOptions
from whatsms_events.cli.running import run
from whatsms_events.clock import now
from whatsms_events.config.settings import Settings
from whatsms_events.domain.rotation import SecretStanding, SecretUse, standings
from whatsms_events.errors import ConfigError
from whatsms_events.service.stores import opened_log
from whatsms_events.storage.log.secret_uses import SecretUses


def status_(*, tenant: str | None = None, json: bool = False, options: SettingsOptions = DEFAULTS) -> int:
    """Say of each webhook secret when it last fitted a delivery, how many it fitted, and whether it may go.

    It asks the log's database, where every receiver adds what it saw within five seconds. No secret is shown.

    Parameters
    ----------
    tenant
        The tenant's slug; without it, every tenant.
    json
        Print one object: by slug, a list of secrets.
    """
    settings = options.load()
    if tenant is not None and tenant not in settings.tenants:
        raise ConfigError(f"--tenant: unknown {tenant}; there are {', '.join(settings.tenants) or 'none'}")
    slugs = list(settings.tenants) if tenant is None else [tenant]
    found = _standings(settings, slugs, run(_uses(settings)), now())
    if json:
        sys.stdout.buffer.write(msgspec.json.encode(found) + b"\n")
        return 0
    for slug, secrets in found.items():
        for one in secrets:
            print(_line(slug, one))
    return 0


async def _uses(settings: Settings) -> list[SecretUse]:
    async with opened_log(settings) as log:
        return await SecretUses(log).all()


def _standings(
    settings: Settings, slugs: list[str], uses: list[SecretUse], at: datetime
) -> Mapping[str, list[SecretStanding]]:
    by_tenant: dict[str, dict[str, SecretUse]] = {}
    for use in uses:
        by_tenant.setdefault(use.tenant, {})[use.name] = use
    tenants = settings.tenants
    return {
        slug: standings(tenants[slug].webhook_secrets, by_tenant.get(tenants[slug].tenant_id, {}), at) for slug in slugs
    }


def _line(slug: str, one: SecretStanding) -> str:
    last = "never" if one.last_at is None else f"{one.last_at:%Y-%m-%dT%H:%M:%SZ}"
    safe = "safe to retire" if one.safe_to_retire else "keep"
    return f"{slug}  {one.name}  {one.state}  last {last}  {one.count} deliveries  {safe}: {one.why}"
