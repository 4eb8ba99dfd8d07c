"""The roles that a process may have, and what each of them needs."""

from typing import Final, Literal, get_args

from whatsms_events.config.checks import NO_TENANTS
from whatsms_events.config.settings import Settings
from whatsms_events.errors import ConfigError
from whatsms_events.service.upstream import keyed

Role = Literal["receiver", "relay", "consumer", "backfill"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)

LACKING: Final[dict[Role, str]] = {
    "relay": "the relay needs kafka.bootstrap_servers",
    "backfill": "a backfill needs tenants.<slug>.api_key",
}
"""Why a role cannot run."""

CHECKS: Final[dict[Role, tuple[str, ...]]] = {
    # A delivery is accepted where the log is: that is enough. The start has checked the schema, and a newer release
    # that adds to it must not take every running receiver out at once.
    "receiver": ("log_writable",),
    "relay": ("log_writable", "log_schema"),
    "consumer": ("log_schema", "projection_schema"),
    "backfill": ("log_writable", "log_schema", "projection_schema"),
}
"""The checks of /readyz that each role needs."""


def possible(settings: Settings, roles: frozenset[Role]) -> frozenset[Role]:
    """Return the roles without those that cannot run: a relay without a Kafka, a backfill without any API key.

    Raise ConfigError where no role is left, and where a receiver has no tenant.
    """
    has = {"relay": settings.kafka.bootstrap_servers is not None, "backfill": bool(keyed(settings))}
    lacking = {role: why for role, why in LACKING.items() if role in roles and not has[role]}
    left = roles - lacking.keys()
    if not left:
        raise ConfigError(*(f"roles: {why}" for why in lacking.values()))
    if "receiver" in left and not settings.tenants:
        raise ConfigError(NO_TENANTS)
    return left
