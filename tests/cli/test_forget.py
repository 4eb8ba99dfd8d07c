"""`forget` and `suppressions`, beside a running service and after a restore, as the runbook says."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cli.test_parked import get, post
from servers import warm
from servers.compare import until
from servers.kafka import RunningKafka
from servers.service import SLUG, TENANT, Service, command
from servers.witness import read_committed
from whatsms_events.domain.records import TOPICS
from workers.test_forgetting import ANA, RUI, in_group, needles, wrote

pytestmark = pytest.mark.process

SETTINGS = {"privacy": {"key": "a-long-random-key-of-the-tests"}, "logs": {"level": "debug"}}


def stored(service: Service) -> bytes:
    """Return every byte of every file of the databases, and of the log lines."""
    files = [one for one in service.folder.iterdir() if ".db" in one.name or one.name.endswith(".log")]
    assert {one.name for one in files} >= {"log.db", "projection.db"}
    return b"".join(one.read_bytes() for one in files)


def left_of_ana(service: Service) -> list[bytes]:
    """Return what is left of the person, in the spellings that are found."""
    found = stored(service)
    return [needle for needle in needles(ANA) if needle in found]


async def filled(session: aiohttp.ClientSession, service: Service) -> None:
    """Let the service hold two people."""
    for one in (ANA, RUI):
        unknown = {"event": "x.y", "tenantId": TENANT, "data": {"contact": {"id": one.contact, "name": one.mark}}}
        group = in_group(one, f"{one.contact}-2", f"{one.mark} cá", f"{one.mark} cá")
        for payload in (wrote(one, f"{one.contact}-1", "olá"), group, json.dumps(unknown).encode()):
            assert (await post(session, service, payload))["status"] < 300

    async def applied() -> bool:
        return await get(session, service, f"{SLUG}/messages/{RUI.contact}-2") is not None

    await until(applied, 30, "everything is applied")


async def told(session: aiohttp.ClientSession, service: Service) -> str:
    """Return what the read API and the metrics say."""
    messages = (f"tickets/{ANA.ticket}/messages", f"messages/{ANA.contact}-1", "messages/ana-3")
    paths = [f"{SLUG}/{path}" for path in ("contacts", "tickets", *messages)]
    said = [json.dumps(await get(session, service, path), ensure_ascii=False) for path in (*paths, "events")]
    async with session.get(f"{service.private_url}/metrics") as answer:
        said.append(await answer.text())
    return "".join(said)


def ran(service: Service, *words: str) -> tuple[int, str]:
    """Run a command that may fail; return its status and what it said."""
    done = warm.run([*words, "--config", str(service.config)], service.folder)
    return done.returncode, done.stdout + done.stderr


async def test_somebody_is_forgotten_beside_a_running_service(tmp_path: Path) -> None:
    """Dry run, then for good: no byte of any file, no answer, no metric and no log line has them; what is new comes.

    A log that is restored from before is not opened until it has learnt who was forgotten, and then holds nothing.
    """
    kept = tmp_path / "kept" / "suppressions.json"
    kept.parent.mkdir()
    settings: dict[str, Any] = {**SETTINGS, "privacy": {**SETTINGS["privacy"], "suppressions_file": str(kept)}}
    service = Service(tmp_path / "service", settings=settings)
    await service.start()
    async with aiohttp.ClientSession() as session:
        await filled(session, service)
        preview = json.loads(command(service, "forget", "--tenant", SLUG, "--contact", ANA.number, "--json"))
        assert preview["rows"].keys() >= {"event_log", "contact", "message", "parked_delivery"}
        assert preview["forgotten_at"] is None
        assert ANA.mark in await told(session, service)
        command(service, "backup", "--to", str(tmp_path / "backups"))
        done = json.loads(command(service, "forget", "--tenant", SLUG, "--contact", ANA.number, "--go", "--json"))
        assert done["rows"] == preview["rows"]
        assert (done["contact_ids"], done["named_elsewhere"]) == ([ANA.contact], [])
        assert [needle.decode() for needle in needles(ANA) if needle.decode() in await told(session, service)] == []
        assert left_of_ana(service) == []
        assert RUI.mark in await told(session, service)
        assert (await post(session, service, wrote(ANA, f"{ANA.contact}-1", "olá", note="again")))["status"] == 200
        assert left_of_ana(service) == []
        assert 'whatsms_events_suppressed_total{type="message.received"} 1.0' in await told(session, service)
        new = wrote(ANA, "ana-3", "voltei", seconds=60 * 60 * 24 * 3650)
        assert (await post(session, service, new))["status"] == 200
        assert ANA.mark.encode() in stored(service)
        command(service, "forget", "--tenant", SLUG, "--contact", ANA.contact, "--go")
        assert left_of_ana(service) == []
    await service.stop()
    assert left_of_ana(service) == []
    (backup,) = (tmp_path / "backups").iterdir()
    for one in service.folder.glob("*.db*"):
        one.unlink()
    for one in backup.glob("*.db"):
        shutil.copy(one, service.folder / one.name)
    assert left_of_ana(service) != []
    status, said = ran(service, "serve")
    assert (status, "suppressions import" in said) == (2, True), said
    assert "event_log" in command(service, "suppressions", "import", str(kept))
    assert left_of_ana(service) == []
    exported = tmp_path / "exported.json"
    command(service, "suppressions", "export", str(exported))
    assert len(json.loads(exported.read_bytes())["marks"]) >= len(json.loads(kept.read_bytes())["marks"]) - 1
    await service.start()
    await service.stop()


async def test_forget_says_what_is_missing(tmp_path: Path) -> None:
    """Without a key, for a tenant or a contact that is none, and for a group it changes nothing and says why."""
    service = Service(tmp_path / "service")
    await service.start()
    async with aiohttp.ClientSession() as session:
        await filled(session, service)
    asked = ("forget", "--tenant", SLUG, "--contact")
    for words, status, said in (
        ((*asked, ANA.contact, "--go"), 2, "privacy.key: is needed"),
        (("forget", "--tenant", "nobody", "--contact", "x"), 2, "no tenant has the slug nobody"),
        ((*asked, "nobody-at-all"), 1, "nothing is held of a contact nobody-at-all"),
        ((*asked, "contact-of-group"), 2, "is a group"),
    ):
        done, text = ran(service, *words)
        assert (done, said in text) == (status, True), text
    await service.stop()


async def until_published(bootstrap: str, prefix: str, since: int, count: int) -> list[Any]:
    """Wait until so many records from a position on are visible; return them in the log's order."""
    found: list[Any] = []

    def place(one: Any) -> int:
        return int(dict(one.headers())["ce_sequence"])

    async def there() -> bool:
        visible = await asyncio.to_thread(read_committed, bootstrap, [f"{prefix}.{name}" for name in TOPICS])
        found[:] = sorted((one for one in visible if place(one) >= since), key=place)
        return len(found) >= count

    await until(there, 30, "everything is published")
    return found


@pytest.mark.kafka
@pytest.mark.postgres
async def test_with_kafka_and_postgresql_the_event_is_published_and_names_a_date(
    tmp_path: Path, postgres_url: str, kafka: RunningKafka, topic_prefix: str
) -> None:
    """Roles in processes of their own: the relay has published everything before anything is blanked. From then on the
    topics get `contact.forgotten` with ids alone, and of what comes late nothing of the person.
    """
    settings: dict[str, Any] = {
        **SETTINGS,
        "database": {"url": postgres_url},
        "kafka": {"bootstrap_servers": kafka.bootstrap, "topic_prefix": topic_prefix, "partitions": 1},
    }
    receiver = Service(tmp_path / "receiver", roles="receiver", settings=settings)
    workers = Service(tmp_path / "workers", roles="relay,consumer", settings=settings)
    command(receiver, "db", "upgrade")
    command(receiver, "topics", "create")
    await receiver.start()
    await workers.start()
    async with aiohttp.ClientSession() as session:
        await filled(session, receiver)
        done = json.loads(command(receiver, "forget", "--tenant", SLUG, "--contact", ANA.contact, "--go", "--json"))
        assert done["kafka_until"] is not None
        said = await told(session, receiver)
        assert [needle.decode() for needle in needles(ANA) if needle.decode() in said] == []
        assert "contact.forgotten" in said
        late = wrote(ANA, f"{ANA.contact}-1", "olá", note="again"), wrote(RUI, "r-last", "fim")
        assert [(await post(session, receiver, one))["status"] for one in late] == [200, 200]
        since = await until_published(kafka.bootstrap, topic_prefix, done["log_end"], 3)
        types = [dict(one.headers())["ce_type"].decode() for one in since]
        assert [one.split(".")[-2:] for one in types] == [["contact", "forgotten"], *[["message", "received"]] * 2]
        whole = [str(one.headers()).encode() + (one.key() or b"") + (one.value() or b"") for one in since]
        assert [needle for needle in needles(ANA) if needle in b"".join(whole)] == []
        assert RUI.mark.encode() in whole[-1]
    await receiver.stop()
    await workers.stop()
