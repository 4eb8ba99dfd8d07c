"""Kafka lost its topics: the relay halts, and the runbook's steps bring every event into new ones."""

import asyncio
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
from confluent_kafka.admin import AdminClient

from servers.compare import until
from servers.kafka import RunningKafka
from servers.ports import free_port
from servers.witness import read_committed
from walk.terminal import Terminal
from whatsms_events.domain.records import TOPICS

README, OPERATE, QUICKSTART = "README.md", "docs/operate.md", "docs/quickstart.md"
CREATE = "whatsms-events topics create --config whatsms.toml"
SERVE = "whatsms-events serve --config whatsms.toml"
PATIENCE_S = 120.0


def published(bootstrap: str, prefix: str) -> list[dict[str, Any]]:
    """Return the headers of every visible record of the topics."""
    found = read_committed(bootstrap, [f"{prefix}.{name}" for name in TOPICS])
    return [dict(one.headers() or ()) for one in found]


def remove_topics(bootstrap: str, prefix: str) -> None:
    """Remove the topics, as a cluster does that lost its disks."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    for removed in admin.delete_topics([f"{prefix}.{name}" for name in TOPICS]).values():
        removed.result(60)


async def test_when_kafka_lost_its_topics_the_runbook_publishes_the_whole_log_again(
    kafka: RunningKafka, topic_prefix: str, tmp_path: Path
) -> None:
    """The relay halts on topics that were made anew. In topics of another name every event is visible, once and with
    its id, and the tables go on.
    """
    ports = {"8080": str(free_port()), "8081": str(free_port())}
    terminal = Terminal(
        tmp_path / "terminal",
        {"kafka.example:9092": kafka.bootstrap, **ports},
        {},
        {
            "WHATSMS_EVENTS_PUBLIC__PORT": ports["8080"],
            "WHATSMS_EVENTS_PRIVATE__PORT": ports["8081"],
            "WHATSMS_EVENTS_TENANTS__ACME__WEBHOOK_SECRETS__CURRENT": "YOUR-WEBHOOK-SECRET",
        },
    )
    config, other = terminal.folder / "whatsms.toml", f"t{uuid4().hex[:12]}"
    brokers = terminal.block(QUICKSTART, "[kafka]").partition("[kafka]")[2]
    tenant = terminal.block(QUICKSTART, 'tenant_id = "YOUR-TENANT-ID"\n').strip()
    config.write_text(f'{tenant}\n[kafka]\ntopic_prefix = "{topic_prefix}"{brokers}', encoding="utf-8")

    terminal.run(QUICKSTART, CREATE)
    async with terminal.window(README, SERVE):
        await until(lambda: accepted(terminal), PATIENCE_S, "the webhook of the quickstart is accepted")
        await until(lambda: is_shown(terminal), PATIENCE_S, "its contact is shown")
    (before,) = published(kafka.bootstrap, topic_prefix)

    remove_topics(kafka.bootstrap, topic_prefix)
    terminal.run(QUICKSTART, CREATE)
    async with terminal.window(README, SERVE):
        await until(lambda: says(terminal, "recreated"), PATIENCE_S, "the relay says that the topics were recreated")

    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace(topic_prefix, other), encoding="utf-8")
    terminal.run(OPERATE, CREATE)
    terminal.run(OPERATE, "whatsms-events replay projection --config whatsms.toml --go --swap")
    async with terminal.window(README, SERVE):
        await until(lambda: says(terminal, '"ready":true'), PATIENCE_S, "every role is ready")
        await until(lambda: is_shown(terminal), PATIENCE_S, "the contact is shown")
        (after,) = await until_published(kafka.bootstrap, other)
    assert after["ce_id"] == before["ce_id"]


async def accepted(terminal: Terminal) -> bool:
    """Send the webhook of the quickstart as it stands there; tell whether it was accepted."""
    sending = terminal.block(QUICKSTART, "BODY=").partition("curl http")[0]
    return '"position":1' in await asyncio.to_thread(terminal.paste, sending)


async def is_shown(terminal: Terminal) -> bool:
    """Tell whether the read API has the contact of that webhook."""
    return '"id":"c1"' in await answer(terminal, "/api/v1/acme/contacts/c1")


async def says(terminal: Terminal, text: str) -> bool:
    """Tell whether /readyz says this."""
    return text in await answer(terminal, "/readyz")


async def answer(terminal: Terminal, path: str) -> str:
    """Return what the private listener answers, nothing where it is not there."""
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session,
            session.get(terminal.here(f"http://127.0.0.1:8081{path}")) as answered,
        ):
            return await answered.text()
    except (aiohttp.ClientError, TimeoutError):
        return ""


async def until_published(bootstrap: str, prefix: str) -> list[dict[str, Any]]:
    """Wait until something is visible in the topics; return the headers of what is."""
    found: list[dict[str, Any]] = []

    async def there() -> bool:
        nonlocal found
        found = await asyncio.to_thread(published, bootstrap, prefix)
        return bool(found)

    await until(there, PATIENCE_S, "the event is published")
    return found
