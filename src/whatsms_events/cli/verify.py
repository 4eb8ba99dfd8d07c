"""`verify`: why a saved delivery got 401, and what would have matched."""

import re
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple
from urllib.parse import unquote_to_bytes

import msgspec
from cyclopts import Parameter

from whatsms_events.cli.options import DEFAULTS, SettingsOptions
from whatsms_events.cli.running import run
from whatsms_events.clock import now
from whatsms_events.config.settings import Settings
from whatsms_events.domain.mismatch import Explanation, Secret, explain
from whatsms_events.domain.rotation import SecretUse
from whatsms_events.errors import ConfigError
from whatsms_events.service.stores import opened_log
from whatsms_events.storage.log.event_log import EventLog
from whatsms_events.storage.log.secret_uses import SecretUses

OTHERS: Final = 1000
"""So many of a tenant's last deliveries are tried too, with --log: a sender mixes up what it sends at one time."""

REMOVED_FOR: Final = timedelta(days=30)
"""A secret that was removed longer ago is no likely explanation."""

_REQUEST_LINE: Final = re.compile(rb"[A-Z]{3,16} (\S+)(?: HTTP/\d(?:\.\d)?)?")
_PATH: Final = re.compile(rb"(?:https?://[^/]*)?/webhooks/([^/?]+)/?(?:\?.*)?")
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*)")


class Saved(NamedTuple):
    """A saved delivery: the slug in its path where it has one, its headers, and its body."""

    slug: str | None
    headers: list[tuple[str, str]]
    body: bytes


class Logged(NamedTuple):
    """What the log knows: other bodies with the places they are kept at, and secrets that are no longer configured."""

    others: Sequence[tuple[str, bytes]] = ()
    removed: Sequence[SecretUse] = ()


def verify(
    saved: Annotated[str, Parameter(allow_leading_hyphen=True)],
    /,
    *,
    header: tuple[str, ...] = (),
    tenant: str | None = None,
    log: bool = False,
    json: bool = False,
    options: SettingsOptions = DEFAULTS,
) -> int:
    """Say why a saved delivery got 401: which secret, header or change of the body would have matched.

    Status 0: its signature is right. Status 1: it is not. Nothing of the body, no secret and no signature is printed.

    Parameters
    ----------
    saved
        A file with the body, or with the whole request as `GET /api/v1/<slug>/rejects/<number>` gives it; "-" reads
        standard input.
    header
        A header of the delivery, as in --header "X-WhatSMS-Signature: sha256=..."; it may be given several times.
    tenant
        The slug of the tenant it was for. Not needed where the request names it, or where there is one tenant.
    log
        Try the tenant's last 1,000 deliveries in the log too: perhaps the signature belongs to one of them. And name
        secrets that fitted within 30 days and are no longer configured.
    json
        Print JSON.
    """
    settings = options.load()
    found = _with_headers(_read(saved), header)
    slug = _slug(settings, tenant or found.slug)
    logged = run(_logged(settings, slug)) if log else Logged()
    explanation = explain(found.body, found.headers, _secrets(settings, slug), logged.others)
    removed = [] if explanation.right or explanation.secret is not None else logged.removed
    told = (
        msgspec.json.encode(_plain(explanation, removed)).decode() if json else "\n".join(_lines(explanation, removed))
    )
    print(told)
    return 0 if explanation.right else 1


def _read(saved: str) -> Saved:
    try:
        raw = sys.stdin.buffer.read() if saved == "-" else Path(saved).read_bytes()
    except OSError as exc:
        raise ConfigError(f"{saved}: {exc.strerror or type(exc).__name__}") from exc
    line, _, rest = raw.partition(b"\n")
    request = _REQUEST_LINE.fullmatch(line.rstrip(b"\r"))
    if request is None:
        return Saved(None, [], raw)
    headers: list[tuple[str, str]] = []
    while rest:
        line, _, rest = rest.partition(b"\n")
        line = line.rstrip(b"\r")
        if not line:
            break
        field = _FIELD.fullmatch(line)
        if field is None:
            return Saved(None, [], raw)  # a body that only looks like a request
        headers.append((field[1].decode(), field[2].decode("latin-1")))
    path = _PATH.fullmatch(request[1])
    slug = None if path is None else unquote_to_bytes(path[1]).decode("utf-8", "replace")  # as the door reads it
    return Saved(slug, headers, rest)


def _with_headers(saved: Saved, given: Sequence[str]) -> Saved:
    more = [text.partition(":") for text in given]
    if wrong := [name for name, colon, _ in more if not colon]:
        raise ConfigError(f"--header {wrong[0]}: write it as NAME: VALUE")
    return saved._replace(headers=saved.headers + [(name.strip(), value.strip()) for name, _, value in more])


def _slug(settings: Settings, named: str | None) -> str:
    slugs = sorted(settings.tenants)
    if named is None and len(slugs) == 1:
        return slugs[0]
    if named is None or named not in settings.tenants:
        whose = "the delivery does not name its tenant" if named is None else f"there is no tenant {named!r}"
        raise ConfigError(f"{whose}: give --tenant, one of {', '.join(slugs) or 'none'}")
    return named


def _secrets(settings: Settings, slug: str) -> list[Secret]:
    """Return every secret of the configuration, the tenant's own first."""
    found = [
        Secret(f"tenants.{name}.webhook_secrets.{secret}", value.get_secret_value().encode(), name == slug)
        for name, tenant in settings.tenants.items()
        for secret, value in tenant.webhook_secrets.items()
    ]
    return sorted(found, key=lambda secret: not secret.own)


async def _logged(settings: Settings, slug: str) -> Logged:
    tenant = settings.tenants[slug]
    async with opened_log(settings) as log:
        latest = await EventLog(log).latest_raw(tenant.tenant_id, OTHERS)
        uses = await SecretUses(log).all()
    removed = [
        use
        for use in uses
        if use.tenant == tenant.tenant_id
        and use.name not in tenant.webhook_secrets
        and now() - use.last_at < REMOVED_FOR
    ]
    return Logged([(f"position {position}", raw) for position, raw in latest], removed)


def _lines(found: Explanation, removed: Sequence[SecretUse]) -> list[str]:
    if found.right:
        return [f"right: signed with {found.secret}"]
    if not found.mistakes and removed:
        lines = [
            f"wrong, and none of {found.tried} usual mistakes explains it: perhaps the sender has a removed secret"
        ]
        lines += [
            f"  the secret {one.name} fitted until {one.last_at:%Y-%m-%d %H:%M} UTC, and is no longer configured"
            for one in removed
        ]
        return [
            *lines,
            "  do: add it again, give the sender the current one, and remove it once it is safe to retire",
        ]
    if not found.mistakes:
        return [
            f"wrong, and none of {found.tried} usual mistakes explains it: most likely the sender has another secret",
            "  do: compare the webhook secret at the vendor with the one in tenants.<slug>.webhook_secrets",
        ]
    fits = "" if found.secret is None else f": it would be right with {found.secret}, but"
    lines = [f"wrong{fits}"]
    for mistake in found.mistakes:
        lines += [f"  {mistake.says}", f"    do: {mistake.advice}"]
    return lines


def _plain(found: Explanation, removed: Sequence[SecretUse]) -> dict[str, Any]:
    mistakes = [mistake._asdict() for mistake in found.mistakes]
    gone = [{"name": one.name, "last_match": one.last_at} for one in removed]
    told = {"right": found.right, "secret": found.secret, "mistakes": mistakes, "tried": found.tried}
    return {**told, "removed_secrets": gone}
