"""Settings that change while the service runs: applied at once, or refused, and no delivery notices."""

import signal
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from servers.compare import LONG, until
from servers.service import SECRET, SLUG, Service, toml
from servers.steady import Steady
from whatsms_events.domain.signature import HEADER, sign

pytestmark = pytest.mark.process

ROTATIONS = 10
LIMIT_S = 60
BODY = b'{"event":"ticket.created","data":{"ticket":{"id":"t-1"}}}'


def said(service: Service, event: str) -> list[dict[str, object]]:
    """Return the log lines of one name."""
    return [line for line in service.lines() if line["event"] == event]


def rewrite(service: Service, secrets: dict[str, str], more: dict[str, dict[str, object]] | None = None) -> None:
    """Give the service other secrets, and perhaps other sections, as an editor does: by a new file in the old place."""
    sections = {name: dict(values) for name, values in service.sections.items()}
    sections[f"tenants.{SLUG}.webhook_secrets"] = dict(secrets)
    for name, values in (more or {}).items():
        sections.setdefault(name, {}).update(values)
    new = service.config.with_suffix(".new")
    new.write_text(toml(sections))
    new.replace(service.config)


async def reloaded(
    service: Service, event: str, change: Callable[[], object], *, hup: bool = False
) -> dict[str, object]:
    """Make a change, wait until the service says what it made of it, and return that line."""
    before = len(said(service, event))
    change()
    if hup:
        service.signal(signal.SIGHUP)
    await until(lambda: len(said(service, event)) > before, LIMIT_S, event)
    return said(service, event)[-1]


async def post(service: Service, secret: str, slug: str = SLUG) -> int:
    """Deliver once, and return the status."""
    url = service.webhook_url.replace(SLUG, slug)
    headers = {HEADER: sign(BODY, secret.encode())}
    async with aiohttp.ClientSession() as session, session.post(url, data=BODY, headers=headers) as answer:
        return answer.status


async def gauges(service: Service) -> dict[tuple[str, str], float]:
    """Return the values of our gauges, by name and tenant."""
    async with aiohttp.ClientSession() as session, session.get(f"{service.private_url}/metrics") as answer:
        families = list(text_string_to_metric_families(await answer.text()))
    return {
        (one.name, one.labels.get("tenant", "")): one.value
        for family in families
        if family.type == "gauge" and not family.name.endswith("_created")
        for one in family.samples
    }


async def rotated(
    service: Service, load: Steady, old: tuple[str, str], new: tuple[str, str], *, hup: bool
) -> tuple[str, str]:
    """Add a secret, let the sender use it, and remove the one before once nothing is signed with it any more."""
    applied = await reloaded(service, "settings.applied", lambda: rewrite(service, dict([old, new])), hup=hup)
    assert applied["fields"] == [f"tenants.{SLUG}.webhook_secrets.{new[0]}"]
    load.secret = new[1]
    wanted = len(load.accepted) + 20

    def in_use() -> bool:
        return load.under_way[old[1]] == 0 and len(load.accepted) >= wanted

    await until(in_use, LIMIT_S, "the new secret in use")
    await reloaded(service, "settings.applied", lambda: rewrite(service, dict([new])), hup=True)
    assert await post(service, old[1]) == 401
    return new


async def test_a_rotation_under_load_refuses_no_delivery(tmp_path: Path) -> None:
    """Ten secrets are rotated, each added, used by the sender and the one before removed, while deliveries come on kept
    and fresh connections: every answer is a 2xx. Files that change are enough for it, and so is SIGHUP.
    """
    service = Service(tmp_path / "service")
    await service.start()
    load = Steady(service.public_port, SECRET, kept=2, fresh=2)
    used = ("current", SECRET)
    async with load.sending():
        for number in range(ROTATIONS):
            hup = number != 0 or LONG  # looking at the files takes seconds
            used = await rotated(service, load, used, (f"next_{number}", f"whsec-rotated-{number}"), hup=hup)
    assert load.failures == []
    assert len(load.accepted) >= ROTATIONS * 20
    await service.stop()


async def test_a_bad_file_keeps_the_old_settings_and_says_so(tmp_path: Path) -> None:
    """A mistake, a file that is no TOML, an empty file and none at all change nothing: a line and a gauge say so, until
    the mistake is mended. A setting that needs a restart is named, and what can change beside it is applied.
    """
    service = Service(tmp_path / "service")
    await service.start()
    text = service.config.read_text()
    for bad, reason in (
        ("[tenants.acme\n", "not valid TOML"),
        (text.replace(SECRET, "short"), "webhook_secrets.current: should have 8 to 1024"),
        ("", "tenants: none is set"),
        (None, "cannot be read"),
    ):
        change = service.config.unlink if bad is None else lambda bad=bad: service.config.write_text(bad)
        line = await reloaded(service, "settings.refused", change, hup=True)
        assert reason in str(line["reason"]), line
        assert "short" not in str(line["reason"])
        assert (await gauges(service))["whatsms_events_settings_refused", ""] == 1
        assert await post(service, SECRET) == 200
    await reloaded(service, "service.looking", lambda: service.config.write_text(text), hup=True)

    async def mended() -> bool:
        return (await gauges(service))["whatsms_events_settings_refused", ""] == 0

    await until(mended, LIMIT_S, "the gauge shows that the mistake is mended")
    assert not said(service, "settings.applied")
    both = {"current": SECRET, "next": "whsec-the-next-one"}
    more: dict[str, dict[str, object]] = {"receiver": {"body_limit_bytes": 2048, "deadline_s": 9.0}}
    applied = await reloaded(service, "settings.applied", lambda: rewrite(service, both, more), hup=True)
    assert applied["fields"] == ["receiver.deadline_s", f"tenants.{SLUG}.webhook_secrets.next"]
    await until(lambda: bool(said(service, "settings.waiting")), LIMIT_S, "what waits for a restart")
    assert [line["fields"] for line in said(service, "settings.waiting")] == [["receiver.body_limit_bytes"]]
    assert await post(service, "whsec-the-next-one") == 200
    await service.stop()


async def test_swapped_links_of_secret_files_are_noticed(tmp_path: Path) -> None:
    """Kubernetes changes mounted secrets by swapping a link: the new secret is valid without a signal, and the log says
    its name and no more.
    """
    mounted = tmp_path / "secrets"
    for number, names in enumerate((["old"], ["old", "new"])):
        folder = mounted / f"..{number}"
        folder.mkdir(parents=True)
        for name in names:
            (folder / f"tenants__{SLUG}__webhook_secrets__{name}").write_text(f"whsec-{name}-canary")
    (mounted / "..data").symlink_to("..0")
    (mounted / f"tenants__{SLUG}__webhook_secrets__old").symlink_to(f"..data/tenants__{SLUG}__webhook_secrets__old")
    service = Service(tmp_path / "service", secrets_dir=mounted)
    await service.start()
    assert (await post(service, "whsec-old-canary"), await post(service, "whsec-new-canary")) == (200, 401)

    def swap() -> None:
        (mounted / f"tenants__{SLUG}__webhook_secrets__new").symlink_to(f"..data/tenants__{SLUG}__webhook_secrets__new")
        (mounted / "..tmp").symlink_to("..1")
        (mounted / "..tmp").replace(mounted / "..data")

    applied = await reloaded(service, "settings.applied", swap)
    assert applied["fields"] == [f"tenants.{SLUG}.webhook_secrets.new"]
    assert (await post(service, "whsec-old-canary"), await post(service, "whsec-new-canary")) == (200, 200)
    await service.stop()
    assert "canary" not in (service.folder / "output.log").read_text()


async def test_tenants_and_tokens_come_and_go_without_a_restart(tmp_path: Path) -> None:
    """A new tenant's door is open at once; its watchdog and backfill wait for a restart, which one line says. A tenant
    that has gone gets 404, its watchdog ends, and no gauge shows it any more. The token changes with them.
    """
    service = Service(tmp_path / "service", settings={"private": {"token": "the-first-token-of-all"}})
    await service.start()
    more: dict[str, dict[str, object]] = {
        "tenants.shop": {"tenant_id": "t-shop"},
        "tenants.shop.webhook_secrets": {"current": "whsec-of-the-shop"},
        "private": {"token": "the-second-token-of-all"},
    }
    assert await post(service, "whsec-of-the-shop", "shop") == 404
    await reloaded(service, "settings.waiting", lambda: rewrite(service, {"current": SECRET}, more), hup=True)
    assert said(service, "settings.waiting")[-1]["fields"] == ["tenants.shop (its watchdog and backfill)"]
    assert (await post(service, "whsec-of-the-shop", "shop"), await post(service, SECRET)) == (200, 200)
    async with aiohttp.ClientSession() as session:
        for token, status in (("the-first-token-of-all", 401), ("the-second-token-of-all", 200)):
            for path in ("/api/v1/events?tenant=shop", "/api/v1/settings", "/api/v1/shop/rejects", "/contracts"):
                headers = {"Authorization": f"Bearer {token}"}
                async with session.get(f"{service.private_url}{path}", headers=headers) as answer:
                    assert answer.status == status, path

    def remove_acme() -> None:
        text = service.config.read_text()
        gone = text[text.index(f"[tenants.{SLUG}]") : text.index("[tenants.shop]")]
        service.config.write_text(text.replace(gone, ""))

    assert ("whatsms_events_silent", SLUG) in await gauges(service)
    await reloaded(service, "settings.applied", remove_acme, hup=True)
    assert (await post(service, SECRET), await post(service, "whsec-of-the-shop", "shop")) == (404, 200)

    async def forgotten() -> bool:
        return not [key for key in await gauges(service) if key[1] == SLUG]

    await until(forgotten, LIMIT_S, "no gauge shows the tenant that has gone")
    async with aiohttp.ClientSession() as session, session.get(f"{service.private_url}/readyz") as answer:
        ready = await answer.json()
    assert answer.status == 200, ready
    assert f"watchdog.{SLUG}" not in ready["roles"]
    await service.stop()


async def test_an_empty_file_takes_no_tenant_from_a_process_without_a_receiver(tmp_path: Path) -> None:
    """A file that is empty or cut off is a mistake for a consumer too: its read API goes on to know the tenants."""
    service = Service(tmp_path / "service", roles="consumer")
    await service.start()
    line = await reloaded(service, "settings.refused", lambda: service.config.write_text(""), hup=True)
    assert "tenants: none is set" in str(line["reason"])
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{service.private_url}/api/v1/{SLUG}/tickets") as answer,
    ):
        assert answer.status == 200
    await service.stop()
