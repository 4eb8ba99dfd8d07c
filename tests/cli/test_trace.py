"""`trace` beside a running service, and the same by the read API."""

import hashlib
import json
from pathlib import Path

import aiohttp
import pytest

from servers import warm
from servers.compare import until
from servers.ports import HOST, free_port
from servers.service import SLUG, TENANT, Service
from test_journey import delivery, get, post, see, told

pytestmark = pytest.mark.process

TEXTS = ("Olá", "Bom dia", "João", "351910000000", "Suporte")
"""What people wrote or are called in the story: nothing of it may be shown."""


async def test_an_event_is_followed_by_its_id_its_hash_and_what_it_is_about(tmp_path: Path) -> None:
    """The command and the read API show the same passport; a name that two things have is listed, with status 1, until
    a kind is given; and nothing that anybody wrote is shown.
    """
    service = Service(tmp_path / "service", settings={"sealer": {"enabled": False}})
    await service.start()
    said: list[str] = []

    def ours(*words: str, status: int = 0) -> str:
        done = warm.run(["trace", *words, "--config", str(service.config)], service.folder)
        assert done.returncode == status, done.stderr
        said.append(done.stdout)
        return done.stdout

    async with aiohttp.ClientSession() as session:
        await told(session, service)
        await see(session, service)
        opened = delivery("ticket.updated", "2026-01-15T10:33:00Z", ticket={"id": "t-1", "status": "pending"})
        accepted = await post(session, service, opened)
        await post(session, service, opened)
        # A message and a contact of one id.
        both = delivery("message.received", "2026-01-15T10:50:00Z", message={"id": "z"}, contact={"id": "z"})
        await post(session, service, both)

        async def applied() -> bool:
            found = await get(session, service, f"/api/v1/{SLUG}/contacts")
            return "z" in [contact["id"] for contact in found["contacts"]]

        await until(applied, 60, "the last event is applied")
        assert "sealer" not in (await get(session, service, "/readyz"))["roles"]  # it is off here
        name = accepted["id"]
        text = ours(name)
        assert f"event {name} of acme: ticket.updated t-1" in text
        assert "again      1x, at last" in text
        assert "signed with current" in text
        assert "Kafka is off" in text
        assert "ticket t-1 status: lost to an event about it of 2026-01-15T10:40:00Z at position 5" in text
        shown = json.loads(ours(name, "--json"))
        asked = await get(session, service, f"/api/v1/{SLUG}/trace/{name}")
        assert shown == asked
        assert (shown["trace"]["log"]["position"], shown["trace"]["tenant_id"]) == (6, TENANT)
        assert json.loads(ours(hashlib.sha256(opened).hexdigest(), "--json")) == shown
        assert "message m-2 of acme" in ours("m-2", "--tenant", SLUG)
        assert "ack        delivered" in said[-1]
        listed = ours("z", status=1)
        assert listed.splitlines() == [
            "this may be several things: give --kind or --tenant",
            "  message z of acme",
            "  contact z of acme",
        ]
        assert "contact z of acme" in ours("z", "--kind", "contact")
        asked = await get(session, service, f"/api/v1/{SLUG}/trace/z?kind=contact")
        assert json.loads(ours("z", "--kind", "contact", "--json")) == asked
        for path in (f"/api/v1/{SLUG}/trace/nobody", f"/api/v1/other/trace/{name}"):
            async with session.get(f"{service.private_url}{path}") as answer:
                assert answer.status == 404
        assert ours("nobody", status=1) == ""
    await service.stop()
    assert not [text for text in TEXTS if text in "".join(said)]


async def test_a_kafka_that_is_away_ends_no_trace(tmp_path: Path) -> None:
    """The rest of the passport is shown, and of Kafka that it does not answer."""
    service = Service(tmp_path / "service", roles="receiver")
    await service.start()
    async with aiohttp.ClientSession() as session:
        accepted = await post(session, service, delivery("ticket.closed", "2026-01-15T10:40:00Z", ticket={"id": "t-1"}))
    away = ["--set", f"kafka.bootstrap_servers={HOST}:{free_port()}", "--set", "kafka.timeout_s=0.5"]
    done = warm.run(["trace", accepted["id"], "--config", str(service.config), *away], service.folder)
    await service.stop()
    assert done.returncode == 0, done.stderr
    assert "Kafka does not answer" in done.stdout
    assert "not applied yet" in done.stdout
