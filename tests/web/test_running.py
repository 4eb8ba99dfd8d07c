"""The settings of a running process are for holders of the token, and no secret is among them."""

import hashlib
import hmac
import json
from collections.abc import Mapping

import pytest
from pytest_aiohttp import AiohttpClient

from web.listener import listener
from whatsms_events.config.load import load
from whatsms_events.config.render import MARK_BYTES, comparable
from whatsms_events.config.settings import Settings
from whatsms_events.web.running import RunningSettings

TOKEN = "token-of-the-tests"
SECRET = "whsec-canary-of-the-tests"


def settings(secret: str = SECRET, **environ: str) -> Settings:
    """Return the settings of one tenant, with a token, a key and a password too."""
    return load(
        environ=environ,
        flags={
            "private.token": TOKEN,
            "database.url": "postgresql://events@localhost/events",
            "database.password": SECRET,
            "tenants.acme.tenant_id": "7",
            "tenants.acme.api_key": SECRET,
            "tenants.acme.webhook_secrets.current": secret,
        },
    )


async def asked(aiohttp_client: AiohttpClient, token: str | None, path: str = "/api/v1/settings") -> tuple[int, str]:
    """Return the status and the text of an answer."""
    ours = settings()
    application = listener(RunningSettings(lambda salt: comparable(ours, salt)), token=TOKEN)
    headers: Mapping[str, str] = {} if token is None else {"Authorization": f"Bearer {token}"}
    client = await aiohttp_client(application)
    async with client.get(path, headers=headers) as answer:
        return answer.status, await answer.text()


async def test_every_setting_is_told_by_its_name_and_no_secret_is(aiohttp_client: AiohttpClient) -> None:
    """The answer has plain settings as they are; of a secret it has the mark that its holder can compute, no more."""
    status, text = await asked(aiohttp_client, TOKEN)
    assert status == 200
    assert SECRET not in text
    assert TOKEN not in text
    told = json.loads(text)
    assert told["settings"]["receiver.body_limit_bytes"] == settings().receiver.body_limit_bytes
    assert told["settings"]["data_dir"] == str(settings().data_dir)
    assert told["settings"]["kafka.bootstrap_servers"] is None
    digest = hmac.digest(bytes.fromhex(told["salt"]), SECRET.encode(), hashlib.sha256)
    marks = {name: value for name, value in told["settings"].items() if isinstance(value, dict)}
    assert marks.pop("private.token") != {"mark": digest[:MARK_BYTES].hex()}
    same = {"mark": digest[:MARK_BYTES].hex()}
    assert marks == {
        "database.password": same,
        "tenants.acme.api_key": same,
        "tenants.acme.webhook_secrets.current": same,
    }


async def test_many_answers_tell_no_more_than_one(aiohttp_client: AiohttpClient) -> None:
    """A process has one salt, so marks of several answers do not add up to a proof of what a secret is; and the next
    process has another one.
    """
    ours = settings()
    client = await aiohttp_client(listener(RunningSettings(lambda salt: comparable(ours, salt)), token=None))
    answers = [await (await client.get("/api/v1/settings")).text() for _ in range(2)]
    assert answers[0] == answers[1]
    _, other = await asked(aiohttp_client, TOKEN)
    assert json.loads(other)["salt"] != json.loads(answers[0])["salt"]


@pytest.mark.parametrize(("token", "path", "status"), [(None, "", 401), ("wrong", "", 401), (TOKEN, "?all=1", 400)])
async def test_settings_need_the_token_and_take_no_parameter(
    aiohttp_client: AiohttpClient, token: str | None, path: str, status: int
) -> None:
    """Without the token nothing is told; a parameter that nobody knows is named."""
    found, text = await asked(aiohttp_client, token, f"/api/v1/settings{path}")
    assert found == status
    assert "salt" not in text
