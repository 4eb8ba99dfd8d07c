"""The programs in examples/ run as they stand, each against the real thing."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from conftest import missing
from servers.compare import until
from servers.kafka import RunningKafka
from servers.service import TENANT, Service, command
from servers.witness import read_committed
from test_journey import delivery, post, see, told
from whatsms.vendor import KEY, Say, Seen, say, serving

pytestmark = pytest.mark.process

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


async def ran(name: str, *words: str, **environment: str) -> list[str]:
    """Run an example to its end; return what it printed."""
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, str(EXAMPLES / name), *words),
        env=os.environ | environment | {"PYTHONIOENCODING": "utf-8"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(120):
        out, complaints = await program.communicate()
    assert program.returncode == 0, complaints.decode()
    return out.decode().splitlines()


async def test_the_reader_of_the_log_meets_each_event_once(tmp_path: Path) -> None:
    """`events.py` prints the whole log in order, and after a restart only what came since."""
    service = Service(tmp_path / "service")
    await service.start()
    place = str(tmp_path / "place.txt")
    async with aiohttp.ClientSession() as session:
        await told(session, service)
        first = await ran("events.py", service.private_url, place, "--until-end")
        assert [line.split()[1] for line in first] == [
            *("message.ack", "message.received", "message.sent", "ticket.updated", "ticket.closed"),
        ]
        await post(session, service, delivery("ticket.updated", "2026-01-15T11:00:00Z", ticket={"id": "t-2"}))
        second = await ran("events.py", service.private_url, place, "--until-end")
    assert [line.split()[1:] for line in second] == [["ticket.updated", "t-2"]]
    await service.stop()


async def test_the_reader_of_the_feed_meets_each_message_once(tmp_path: Path) -> None:
    """`feed.py` prints a message that was there, and after a restart of both sides the next one alone, as it comes."""
    service = Service(tmp_path / "service")
    await service.start()
    asked = (service.private_url, str(tmp_path / "place.txt"), "--messages", "1")
    async with aiohttp.ClientSession() as session:
        await told(session, service)
        assert await ran("feed.py", *asked) == ["2 t-1 wrote Olá"]
        await service.stop()
        following = asyncio.create_task(ran("feed.py", *asked))  # it waits for the service
        await service.start()
        message = {"id": "m-9", "body": "E agora?", "fromMe": False}
        again = delivery("message.received", "2026-01-15T11:00:00Z", message=message, ticket={"id": "t-1"})
        await post(session, service, again)
        assert await following == ["6 t-1 wrote E agora?"]
    await service.stop()


async def published(kafka: RunningKafka, topic_prefix: str, folder: Path) -> Service:
    """Return a service that runs, after its relay has published the whole story."""
    settings: dict[str, dict[str, object]] = {
        "kafka": {"bootstrap_servers": kafka.bootstrap, "topic_prefix": topic_prefix, "partitions": 3}
    }
    service = Service(folder, settings=settings)
    command(service, "topics", "create")
    await service.start()
    async with aiohttp.ClientSession() as session:
        await told(session, service)
        await see(session, service)
    topic = f"{topic_prefix}.conversations"
    await until(lambda: len(read_committed(kafka.bootstrap, [topic])) == 5, 60, "everything published")
    return service


async def test_the_consumer_counts_each_message_once(kafka: RunningKafka, topic_prefix: str, tmp_path: Path) -> None:
    """`consumer.py` counts what the relay published, and counts nothing twice: neither when it is started again, nor
    when its places are lost and it reads every record once more. `typed.py` reads the same records as typed events.
    """
    service = await published(kafka, topic_prefix, tmp_path / "service")
    typed = await ran("typed.py", kafka.bootstrap, "--prefix", topic_prefix, "--until-end")
    assert typed == ["t-1 wrote Olá", "t-1 closed"]
    file = tmp_path / "counts.db"
    asked = (kafka.bootstrap, str(file), "--prefix", topic_prefix, "--until-end")
    assert await ran("consumer.py", *asked) == [f"{TENANT} t-1 2"]
    assert await ran("consumer.py", *asked) == [f"{TENANT} t-1 2"]
    with sqlite3.connect(file) as database:
        database.execute("UPDATE progress SET next = 0")
    database.close()
    assert await ran("consumer.py", *asked) == [f"{TENANT} t-1 2"]
    await service.stop()


def npm(folder: Path, *words: str) -> str:
    """Run npm in a folder; return what was printed."""
    done = subprocess.run(["npm", *words], cwd=folder, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif("WHATSMS_TEST_LONG" not in os.environ, reason="npm and the type checker take a quarter of a minute")
async def test_the_consumer_in_javascript_has_types_of_the_schemas(
    kafka: RunningKafka, topic_prefix: str, tmp_path: Path
) -> None:
    """Types are made from our JSON Schemas, `consumer.mjs` passes TypeScript's strict check with them and not where a
    text is taken for a number, and it reads what the relay published.
    """
    if shutil.which("npm") is None:
        missing("npm is not installed, so the consumer in JavaScript was not run")
    folder = tmp_path / "examples" / "node"
    shutil.copytree(EXAMPLES / "node", folder, ignore=shutil.ignore_patterns("node_modules", "types"))
    made = Path("src/whatsms_events/contracts/made")
    shutil.copytree(EXAMPLES.parent / made, tmp_path / made)
    await asyncio.to_thread(npm, folder, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline")
    await asyncio.to_thread(npm, folder, "run", "types")
    await asyncio.to_thread(npm, folder, "run", "check")
    program = folder / "consumer.mjs"
    right = program.read_text(encoding="utf-8")
    program.write_text(right.replace("data.message.body", "data.message.body?.toFixed()"), encoding="utf-8")
    with pytest.raises(AssertionError, match="Property 'toFixed' does not exist on type 'string'"):
        await asyncio.to_thread(npm, folder, "run", "check")
    program.write_text(right, encoding="utf-8")
    service = await published(kafka, topic_prefix, tmp_path / "service")
    node = await asyncio.create_subprocess_exec(
        *("node", "consumer.mjs", kafka.bootstrap, topic_prefix, "10"), cwd=folder, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(120):
        printed = (await node.communicate())[0].decode()
    assert node.returncode == 0
    assert printed.splitlines() == ["t-1 wrote Olá", "t-1 closed"]
    await service.stop()


async def test_the_list_of_tickets_reads_messages_only_where_asked_to() -> None:
    """`tickets.py` prints tickets, and asks for messages with `--messages` alone: reading them may be seen."""
    asked: list[str] = []

    def answers(seen: Seen) -> Say:
        asked.append(seen.path)
        if seen.path == "/tickets":
            return say({"tickets": [{"id": "t1", "status": "open", "channel": "sms"}], "count": 1, "hasMore": False})
        return say({"messages": [{"id": "m1", "body": "Olá"}], "count": 1, "hasMore": False})

    async with serving(answers) as vendor:
        environment = {"WHATSMS_URL": vendor.url, "WHATSMS_API_KEY": KEY}
        assert await ran("tickets.py", **environment) == ["t1 sms"]
        assert set(asked) == {"/tickets"}
        shown = await ran("tickets.py", "--messages", **environment)
    assert shown[0] == "t1 sms"
    assert shown[1].endswith("Olá")


def test_each_example_is_run() -> None:
    """No program stands in the folder that no test above runs."""
    text = Path(__file__).read_text(encoding="utf-8")
    assert all(f'ran("{path.name}"' in text for path in EXAMPLES.glob("*.py"))
    assert all(f'"{path.name}"' in text for path in EXAMPLES.glob("*/*.mjs"))
