"""Kafka over TLS with a password, as an operator sets it up: a TOML file, and the password as a secret file."""

from pathlib import Path

import aiohttp
import pytest

from cli.commands import run
from servers.compare import until
from servers.kafka import Broker
from servers.service import SECRET, TENANT, Service
from servers.witness import read_committed
from whatsms_events.domain.records import TOPICS
from whatsms_events.domain.signature import HEADER, sign

pytestmark = pytest.mark.process

BODY = (
    f'{{"event":"contact.created","tenantId":"{TENANT}","timestamp":"2026-01-15T10:30:00Z",'
    '"data":{"contact":{"id":"c-1","name":"Ana"}}}'
).encode()


async def test_a_post_arrives_in_kafka_over_tls_with_a_password(
    sasl_broker: Broker, topic_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With SASL_SSL and SCRAM-SHA-512 by settings alone, `topics create` and `serve` work, and one POST is one record;
    a wrong password is refused, and neither is ever shown.
    """
    security = sasl_broker.sasl_ssl
    assert security is not None
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    password = secrets / "kafka__password"
    kafka = {
        "bootstrap_servers": sasl_broker.bootstrap, "topic_prefix": topic_prefix, "partitions": 3,
        "security_protocol": "SASL_SSL", "sasl_mechanism": "SCRAM-SHA-512", "username": security.user,
        "ca_file": str(security.ca_file),
    }  # fmt: skip
    service = Service(tmp_path / "service", settings={"kafka": kafka})
    environ = {"WHATSMS_EVENTS_SECRETS_DIR": str(secrets), "WHATSMS_EVENTS_CONFIG": str(service.config)}

    password.write_text("another password")
    refused = run(service.folder, "topics", "create", environ=environ, config=None)
    assert refused.status == 1
    assert len(refused.err) == 1
    assert "another password" not in refused.err[0]

    password.write_text(f"{security.password}\n")
    topics = [f"{topic_prefix}.{suffix}" for suffix in TOPICS]
    created = run(service.folder, "topics", "create", environ=environ, config=None)
    assert (created.status, created.out) == (0, [f"created {name}" for name in topics])

    monkeypatch.setenv("WHATSMS_EVENTS_SECRETS_DIR", str(secrets))
    await service.start()
    headers = {HEADER: sign(BODY, SECRET.encode())}
    async with aiohttp.ClientSession() as session:
        async with session.post(service.webhook_url, data=BODY, headers=headers) as answer:
            assert answer.status == 200
            event_id = (await answer.json())["id"]
        await until(lambda: read_committed(sasl_broker.direct, topics), 60, "the record in Kafka")
    await service.stop()
    (message,) = read_committed(sasl_broker.direct, topics)
    assert dict(message.headers() or [])["ce_id"] == event_id.encode()
    assert message.topic() == f"{topic_prefix}.contacts"
    assert security.password not in (service.folder / "output.log").read_text()
