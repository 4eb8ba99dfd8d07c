"""Deliveries with their media in them, from a signed POST over Kafka to the read API."""

import base64
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import aiohttp
import pytest

from servers.compare import until
from servers.kafka import RunningKafka
from servers.service import SECRET, SLUG, Service, command
from servers.witness import read_committed
from test_journey import delivery, get
from test_metrics import sample, scrape
from whatsms_events.domain.records import TOPICS
from whatsms_events.domain.signature import HEADER, sign

pytestmark = pytest.mark.process

MIB = 1024 * 1024


def with_media(number: int, size: int) -> bytes:
    """Return a delivery of at least so many bytes, which no compression makes small."""
    media = base64.b64encode(Random(number).randbytes(size * 3 // 4)).decode()
    message = {
        "id": f"m-{number}",
        "fromMe": False,
        "mediaType": "image",
        "mediaUrl": f"data:image/jpeg;base64,{media}",
    }
    return delivery("message.received", "2026-01-15T10:30:00Z", message=message, ticket={"id": f"t-{number}"})


async def chunks(body: bytes) -> AsyncIterator[bytes]:
    """Send a body without saying how large it is."""
    for start in range(0, len(body), MIB):
        yield body[start : start + MIB]


@pytest.mark.parametrize("case", [(16 * MIB, 12_000_000, 2), (64 * MIB, 64 * MIB - 1024, 1)], ids=["12 MB", "largest"])
async def test_large_deliveries_reach_kafka_and_the_projection(
    kafka: RunningKafka, topic_prefix: str, tmp_path: Path, case: tuple[int, int, int]
) -> None:
    """Announced and chunked, a body up to the raised limit is committed, published and applied; more is 413."""
    limit, size, number = case
    settings: dict[str, dict[str, object]] = {
        "receiver": {"body_limit_bytes": limit, "deadline_s": 60},
        "kafka": {
            "bootstrap_servers": kafka.bootstrap,
            "topic_prefix": topic_prefix,
            "partitions": 1,
            "timeout_s": 60,
        },
        "relay": {"transaction_timeout_s": 120},
    }
    service = Service(tmp_path / "service", settings=settings)
    command(service, "topics", "create")
    await service.start()
    bodies = {f"t-{one}": with_media(one, size) for one in range(1, number + 1)}
    async with aiohttp.ClientSession() as session:
        for ticket, body in bodies.items():
            data = io.BytesIO(body) if ticket == "t-1" else chunks(body)
            assert size <= len(body) <= limit
            headers = {HEADER: sign(body, SECRET.encode())}
            async with session.post(service.webhook_url, data=data, headers=headers) as answer:
                assert answer.status == 200, await answer.text()
        over, headers = b" " * (limit + 1), {HEADER: sign(b"", SECRET.encode())}
        async with session.post(service.webhook_url, data=io.BytesIO(over), headers=headers) as answer:
            assert answer.status == 413
        assert (await scrape(session, service))[sample("largest_refused_bytes")] == limit + 1

        async def applied() -> bool:
            async with session.get(f"{service.private_url}/api/v1/{SLUG}/tickets") as answer:
                # 503: the one thread of Python is busy with the media.
                return answer.status == 200 and {one["id"] for one in (await answer.json())["tickets"]} == set(bodies)

        await until(applied, 900, "all are applied")
        for ticket, body in bodies.items():
            message = await get(session, service, f"/api/v1/{SLUG}/messages/{ticket.replace('t', 'm')}")
            assert message["media_url"] == json.loads(body)["data"]["message"]["mediaUrl"]
    records = read_committed(kafka.bootstrap, [f"{topic_prefix}.{suffix}" for suffix in TOPICS])
    assert [len(record.value() or b"") > size for record in records] == [True] * number
    await service.stop()


async def test_topics_that_are_too_small_for_the_limit_halt_the_relay_only(
    kafka: RunningKafka, topic_prefix: str, tmp_path: Path
) -> None:
    """A limit that was raised over what the topics take: the relay says how large they must be, the door goes on."""
    target = {"bootstrap_servers": kafka.bootstrap, "topic_prefix": topic_prefix, "partitions": 1}
    command(Service(tmp_path / "before", settings={"kafka": target}), "topics", "create")
    service = Service(
        tmp_path / "service", settings={"kafka": target, "receiver": {"body_limit_bytes": 16 * MIB, "deadline_s": 60}}
    )
    await service.start()

    async def halted() -> bool:
        return any(line["event"] == "role.halted" for line in service.lines())

    await until(halted, 60, "the relay halts")
    (line,) = [line for line in service.lines() if line["event"] == "role.halted"]
    assert line["role"] == "relay"
    assert "max.message.bytes 8388608" in str(line["reason"])
    assert "25296896 for receiver.body_limit_bytes 16777216" in str(line["reason"])
    body = with_media(1, 12_000_000)
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            service.webhook_url, data=io.BytesIO(body), headers={HEADER: sign(body, SECRET.encode())}
        ) as answer,
    ):
        assert answer.status == 200
    await service.stop()
