"""The read API of a real process, asked by schemathesis whatever its OpenAPI allows, and what it does not."""

import asyncio
import json
import os
import re
import sys
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from servers.service import SECRET, SLUG, Service
from whatsms_events.contracts.published import published
from whatsms_events.domain.signature import HEADER, sign

pytestmark = pytest.mark.process

TOKEN: Final = "token-of-the-tests"
DELIVERIES: Final = [
    path.read_bytes()
    for path in sorted((Path(__file__).parents[1] / "deliveries").glob("*.json"))
    if not path.name.endswith(".event.json")
]
TENANT: Final = "7c1e0b9a-3f5d-4a86-9a53-0c6f3e1d2b44"
"""Of most samples; those of another tenant are parked, and so shown too."""

LONG: Final = "WHATSMS_TEST_LONG" in os.environ
SEEDS: Final = (1, 77, 78) if LONG else (1,)
EXAMPLES: Final = 50 if LONG else 3
BUDGET_S: Final = 180 if LONG else 40
"""Of each seed. schemathesis waits most of the time, for answers to wrong tokens. How much it asks in that time
depends on the machine, so the test asserts only that it asked.
"""


def configuration(document: dict[str, Any]) -> str:
    """Return what schemathesis has to know: a slug that there is, and that an `after` made up is rightly refused."""
    paged = [
        operation["operationId"]
        for operations in document["paths"].values()
        for operation in operations.values()
        if any(one["name"] == "after" for one in operation.get("parameters", ()))
    ]
    assert paged
    return f"""\
[parameters]
"path.slug" = "{SLUG}"

[[operations]]
include-operation-id = {json.dumps(paged)}
[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", "400", "404"]
"""


@pytest.mark.parametrize("seed", SEEDS)
async def test_the_read_api_keeps_to_its_contract_whatever_it_is_asked(tmp_path: Path, seed: int) -> None:
    """Every check of schemathesis passes against a process whose log holds the samples: no answer that OpenAPI does not
    describe, no 5xx, nothing served without the token, no bad request taken for a good one, nor the other way round;
    also where one answer leads to the next question.
    """
    settings: dict[str, dict[str, object]] = {
        "private": {"token": TOKEN},
        f"tenants.{SLUG}": {"tenant_id": TENANT},
        "receiver": {"keep_rejects": 3},
    }
    service = Service(tmp_path / "service", roles="receiver,consumer", settings=settings)
    await service.start()
    async with aiohttp.ClientSession() as session:
        for body in DELIVERIES:
            signed = {HEADER: sign(body, SECRET.encode())}
            async with session.post(service.webhook_url, data=body, headers=signed) as answer:
                assert answer.status in (200, 202)
        async with session.post(service.webhook_url, data=b"{}", headers={HEADER: sign(b"", b"wrong")}) as answer:
            assert answer.status == 401
    (tmp_path / "openapi.json").write_bytes(published()["openapi.json"])
    (tmp_path / "schemathesis.toml").write_text(configuration(json.loads(published()["openapi.json"])))
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "--no-color", "--config-file", "schemathesis.toml"),
        *("run", "openapi.json", "--url", service.private_url, "--header", f"Authorization: Bearer {TOKEN}"),
        *("--checks", "all", "--max-examples", str(EXAMPLES), "--max-time", str(BUDGET_S), "--request-timeout", "30"),
        *("--continue-on-failure", "--seed", str(seed)),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(BUDGET_S + 300):
        printed = (await program.communicate())[0].decode()
    await service.stop()
    assert program.returncode == 0, printed
    assert re.search(r"Tested: [1-9]", printed), printed
