"""What a changed configuration means for a process that runs: applied, or waiting for a restart, never half."""

from typing import Any

import pytest

from whatsms_events.config.change import change
from whatsms_events.config.load import load
from whatsms_events.config.settings import Settings

BEGIN: dict[str, object] = {
    "tenants.acme.tenant_id": "t1",
    "tenants.acme.api_key": "key-of-acme",
    "tenants.acme.webhook_secrets.current": "whsec-current",
    "private.token": "a-token-of-twenty-letters",
}


def settings(**changed: Any) -> Settings:
    """Return settings: those above, with changes; None removes one. Names have two underscores for a dot."""
    given = BEGIN | {name.replace("__", "."): value for name, value in changed.items()}
    return load(None, environ={}, flags={name: value for name, value in given.items() if value is not None})


@pytest.mark.parametrize(
    ("changed", "applied", "waiting"),
    [
        ({}, [], []),
        ({"tenants__acme__webhook_secrets__next": "whsec-next"}, ["tenants.acme.webhook_secrets.next"], []),
        ({"tenants__acme__webhook_secrets__current": "whsec-other"}, ["tenants.acme.webhook_secrets.current"], []),
        ({"private__token": "another-token-of-letters"}, ["private.token"], []),
        (
            {"receiver__deadline_s": 1, "receiver__queue_limit": 9, "receiver__keep_rejects": 3},
            ["receiver.deadline_s", "receiver.keep_rejects", "receiver.queue_limit"],
            [],
        ),
        (
            {"receiver__body_limit_bytes": 4096, "receiver__deadline_s": 1},
            ["receiver.deadline_s"],
            ["receiver.body_limit_bytes"],
        ),
        ({"tenants__acme__api_key": "another-key"}, [], ["tenants.acme.api_key"]),
        ({"tenants__acme__tenant_id": "t2"}, [], ["tenants.acme.tenant_id"]),
        ({"kafka__bootstrap_servers": "k:9092", "public__port": 1234}, [], ["kafka.bootstrap_servers", "public.port"]),
        (
            {"tenants__shop__tenant_id": "t2", "tenants__shop__webhook_secrets__current": "whsec-shop"},
            ["tenants.shop.tenant_id", "tenants.shop.webhook_secrets.current"],
            ["tenants.shop (its watchdog and backfill)"],
        ),
        (
            {name.replace(".", "__"): None for name in BEGIN if name.startswith("tenants")}
            | {"tenants__shop__tenant_id": "t2", "tenants__shop__webhook_secrets__current": "whsec-shop"},
            [
                *("tenants.acme.api_key", "tenants.acme.tenant_id", "tenants.acme.webhook_secrets.current"),
                *("tenants.shop.tenant_id", "tenants.shop.webhook_secrets.current"),
            ],
            ["tenants.shop (its watchdog and backfill)"],
        ),
    ],
)  # fmt: skip
def test_each_changed_setting_is_applied_or_waits(
    changed: dict[str, Any], applied: list[str], waiting: list[str]
) -> None:
    """Every name that differs is in one of the two lists, and the mixture has the new value of the first alone."""
    running, wanted = settings(), settings(**changed)
    found = change(running, wanted, watched=running.tenants)
    assert (sorted(found.applied), list(found.waiting)) == (applied, waiting)
    again = change(found.settings, wanted, watched=running.tenants)
    assert (again.applied, again.settings) == ((), found.settings)
    assert list(again.waiting) == waiting


def test_a_mixture_that_would_be_a_mistake_is_not_applied() -> None:
    """A token that goes together with an address from which it was needed waits with the address."""
    running = settings(private__host="0.0.0.0")  # not bound
    found = change(running, settings(private__token=None, receiver__deadline_s=1), watched=["acme"])
    assert found.settings is running
    assert (found.applied, found.waiting) == ((), ("private.host", "private.token", "receiver.deadline_s"))


def test_a_tenant_that_becomes_another_account_waits_whole() -> None:
    """Until the restart the old account delivers, so its secrets stay, whatever else is applied at once."""
    running = settings()
    new = {f"tenants__acme__webhook_secrets__{name}": f"whsec-{name}-of-t2" for name in ("current", "next")}
    found = change(running, settings(tenants__acme__tenant_id="t2", **new, receiver__deadline_s=1), watched=["acme"])
    assert found.settings.tenants == running.tenants
    assert found.applied == ("receiver.deadline_s",)
    names = ("tenant_id", "webhook_secrets.current", "webhook_secrets.next")
    assert found.waiting == tuple(f"tenants.acme.{name}" for name in names)


def test_a_new_tenant_comes_without_its_key() -> None:
    """A backfill begins with the process: until the restart the key is not in force, and is named."""
    shop = {"tenant_id": "t2", "api_key": "key-of-shop", "webhook_secrets__current": "whsec-shop"}
    wanted = settings(**{f"tenants__shop__{name}": value for name, value in shop.items()})
    found = change(settings(), wanted, watched=["acme"])
    assert found.settings.tenants["shop"].api_key is None
    assert found.waiting == ("tenants.shop.api_key", "tenants.shop (its watchdog and backfill)")
