"""The programs in examples/ run as they stand, each against the real thing."""

import asyncio
import os
import sqlite3
import sys
from pathlib import Path

import aiohttp
import pytest

from servers.compare import until
from servers.kafka import Broker, RunningKafka
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


async def test_the_consumer_counts_each_message_once(
    kafka: Broker | RunningKafka, topic_prefix: str, tmp_path: Path
) -> None:
    """`consumer.py` counts what the relay published, and counts nothing twice: neither when it is started again, nor
    when its places are lost and it reads every record once more. `typed.py` reads the same records as typed events.
    """
    settings: dict[str, dict[str, object]] = {
        "kafka": {"bootstrap_servers": kafka.bootstrap, "topic_prefix": topic_prefix, "partitions": 3}
    }
    service = Service(tmp_path / "service", settings=settings)
    command(service, "topics", "create")
    await service.start()
    async with aiohttp.ClientSession() as session:
        await told(session, service)
        await see(session, service)
    topic = f"{topic_prefix}.conversations"
    await until(lambda: len(read_committed(kafka.bootstrap, [topic])) == 5, 60, "everything published")
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
