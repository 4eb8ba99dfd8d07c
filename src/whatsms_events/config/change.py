"""Which settings of a running process may take another value, and what a changed configuration means for it.

A setting that is not in LIVE waits for a restart, whole: what one part of the process would have and another not yet is
never applied by halves.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from whatsms_events.config import checks
from whatsms_events.config.settings import Settings, TenantRetention, TenantSettings
from whatsms_events.config.sources import Name, dotted, flat

LIVE: Final[frozenset[Name]] = frozenset(
    {
        ("private", "token"),
        *(
            ("receiver", name)
            for name in (
                *("in_flight_limit_bytes", "queue_limit", "batch_limit", "deadline_s"),
                *("drain_s", "leave_s", "idle_s", "keep_rejects"),
            )
        ),
    }
)
"""Beside these: the named tokens, the webhook secrets of each tenant, and whole tenants that come or go.

Not `receiver.body_limit_bytes`: the relay has asked the topics whether they take such records when it opened.
"""

SECRETS: Final = "webhook_secrets"


@dataclass(frozen=True, slots=True)
class Change:
    """What a process shall work with, the names that have another value now, and those that wait for a restart."""

    settings: Settings
    applied: tuple[str, ...]
    waiting: tuple[str, ...]


def change(running: Settings, wanted: Settings, *, watched: Collection[str]) -> Change:
    """Return what becomes of a process that works with `running` when its configuration is `wanted`.

    `watched` are the slugs whose watchdog and backfill this process has: those of all other tenants wait for a restart.
    Nothing is applied where the mixture of both would be a mistake, such as a token that goes with an address that must
    wait.
    """
    mixed = _mixed(running, wanted)
    differing = _differing(running, wanted)
    if checks.faults(mixed, ()):
        return Change(running, (), (*map(dotted, differing), *_unwatched(running, watched)))
    waiting = _differing(mixed, wanted)
    applied = [name for name in differing if name not in set(waiting)]
    return Change(mixed, tuple(map(dotted, applied)), (*map(dotted, waiting), *_unwatched(mixed, watched)))


def _unwatched(settings: Settings, watched: Collection[str]) -> list[str]:
    return [f"tenants.{slug} (its watchdog and backfill)" for slug in sorted(settings.tenants.keys() - set(watched))]


def _mixed(running: Settings, wanted: Settings) -> Settings:
    receiver = {name: getattr(wanted.receiver, name) for section, name in LIVE if section == "receiver"}
    tenants = {slug: _tenant(running.tenants.get(slug), one) for slug, one in wanted.tenants.items()}
    return running.model_copy(
        update={
            "private": running.private.model_copy(
                update={"token": wanted.private.token, "tokens": wanted.private.tokens}
            ),
            "receiver": running.receiver.model_copy(update=receiver),
            "tenants": tenants,
        }
    )


def _tenant(running: TenantSettings | None, wanted: TenantSettings) -> TenantSettings:
    """Return a tenant with the wanted secrets. A new one comes without its key: a backfill begins with a restart.

    So do retentions of its own; until then it has the default ones.

    One that becomes another account waits whole: its new secrets are no use to the old account, which still delivers.
    """
    if running is None:
        return wanted.model_copy(update={"api_key": None, "retention": TenantRetention()})
    if wanted.tenant_id != running.tenant_id:
        return running
    return running.model_copy(update={SECRETS: wanted.webhook_secrets})


def _differing(one: Settings, other: Settings) -> list[Name]:
    """Return the settings that differ, in order. A setting of one alone is one that differs."""
    left, right = _values(one), _values(other)
    return sorted(name for name in left.keys() | right.keys() if left.get(name) != right.get(name))


def _values(settings: Settings) -> Mapping[Name, object]:
    return {name: value for name, value in flat(settings.model_dump()) if value != {}}
