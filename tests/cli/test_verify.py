"""`verify` says why a saved delivery got 401, and prints nothing of what it reads."""

import json
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from cli.commands import CONFIG, make_log, run
from servers.service import SECRET, SLUG, TENANT, Service
from whatsms_events.domain.signature import HEADER, sign

pytestmark = pytest.mark.process

OTHER = "whsec-of-the-other-tenant"
TWO = f"""{CONFIG}
[tenants.other]
tenant_id = "tenant-of-the-other"
webhook_secrets = {{ current = "{OTHER}" }}
"""
BODY = json.dumps({"event": "message.received", "tenantId": TENANT, "data": {"message": {"id": "Zaphod"}}}).encode()


def saved(folder: Path, body: bytes, header: str, path: str = f"/webhooks/{SLUG}") -> str:
    """Write a request as the API gives a reject; its file."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\n{HEADER}: {header}\r\nContent-Length: {len(body)}\r\n\r\n"
    (folder / "reject").write_bytes(head.encode() + body)
    return "reject"


def test_a_saved_request_is_explained(tmp_path: Path) -> None:
    """The tenant comes from the path; the mistake, the secret that fits and what to do are told; nothing is quoted."""
    done = run(tmp_path, "verify", saved(tmp_path, BODY + b"\n", sign(BODY, OTHER.encode())), config=TWO)
    assert done.status == 1
    text = "\n".join(done.out)
    assert "tenants.other.webhook_secrets.current" in text
    assert "newline" in text
    for secret in (OTHER, SECRET, "Zaphod", sign(BODY, OTHER.encode())[7:20]):
        assert secret not in text
    right = run(tmp_path, "verify", saved(tmp_path, BODY, sign(BODY, SECRET.encode())), config=TWO)
    assert (right.status, right.out) == (0, [f"right: signed with tenants.{SLUG}.webhook_secrets.current"])


def test_a_body_and_a_header_are_explained_as_json(tmp_path: Path) -> None:
    """The header is given beside the body; `--json` has the same answer for a program."""
    (tmp_path / "body").write_bytes(BODY)
    header = f"{HEADER}: {sign(BODY, SECRET.encode()).removeprefix('sha256=')}"
    done = run(tmp_path, "verify", "body", "--header", header, "--json")
    told = json.loads("".join(done.out))
    assert done.status == 1
    assert (told["right"], [one["name"] for one in told["mistakes"]]) == (False, ["prefix"])


def test_standard_input_is_read(tmp_path: Path) -> None:
    """`-` is what another command writes, such as curl."""
    (tmp_path / "config.toml").write_text(CONFIG)
    words = [sys.executable, "-m", "whatsms_events", "verify", "-", "--config", "config.toml"]
    words += ["--header", f"{HEADER}: {sign(BODY, b'unknown to us')}"]
    done = subprocess.run(words, cwd=tmp_path, input=BODY, capture_output=True, check=False)
    assert done.returncode == 1
    assert b"none of" in done.stdout


def test_a_delivery_without_a_tenant_asks_for_one(tmp_path: Path) -> None:
    """With two tenants and no path the answer is status 2, and names both; a wrong --header too."""
    (tmp_path / "body").write_bytes(BODY)
    done = run(tmp_path, "verify", "body", config=TWO)
    assert (done.status, done.err) == (
        2,
        [f"the delivery does not name its tenant: give --tenant, one of {SLUG}, other"],
    )
    assert run(tmp_path, "verify", "body", "--tenant", "nobody", config=TWO).status == 2
    assert run(tmp_path, "verify", "body", "--header", "no colon").status == 2
    assert run(tmp_path, "verify", "missing").err == ["missing: No such file or directory"]
    written = saved(tmp_path, BODY, sign(BODY, SECRET.encode()), f"/webhooks/%{ord(SLUG[0]):x}{SLUG[1:]}/?x=1")
    assert run(tmp_path, "verify", written, config=TWO).status == 0


async def test_the_signature_of_another_delivery_is_found_in_the_log(tmp_path: Path) -> None:
    """A service accepts one delivery and refuses the next, which has the first one's signature: `--log` finds it."""
    service = Service(tmp_path / "service", settings={"receiver": {"keep_rejects": 3}})
    await service.start()
    header = {HEADER: sign(BODY, SECRET.encode())}
    async with aiohttp.ClientSession() as session:
        assert (await session.post(service.webhook_url, data=BODY, headers=header)).status == 200
        assert (await session.post(service.webhook_url, data=BODY + b" ", headers=header)).status == 401
        url = f"{service.private_url}/api/v1/{SLUG}/rejects"
        async with session.get(url) as answer:
            (one,) = (await answer.json())["rejects"]
        async with session.get(f"{url}/{one['number']}") as answer:
            (service.folder / "reject").write_bytes(await answer.read())
    words = ("reject", "--json", "--config", str(service.config))
    told = json.loads("".join(run(service.folder, "verify", *words, config=None).out))
    assert [mistake["name"] for mistake in told["mistakes"]] == ["blanks"]
    (service.folder / "other").write_bytes(b"{}")
    header_words = ("--header", f"{HEADER}: {header[HEADER]}", "--log", "--config", str(service.config))
    done = run(service.folder, "verify", "other", *header_words, config=None)
    assert "position 1" in "\n".join(done.out)
    await service.stop()
    # The secret is taken out, and a delivery that nothing explains comes: perhaps its sender has the old one still.
    renamed = service.config.read_text().replace(f'current = "{SECRET}"', 'may = "whsec-of-may"')
    (service.folder / "renamed.toml").write_text(renamed)
    header_words = ("--header", f"{HEADER}: {sign(b'gone', SECRET.encode())}", "--log", "--config", "renamed.toml")
    done = run(service.folder, "verify", "other", *header_words, config=None)
    assert any("the secret current fitted until" in line for line in done.out)
    told = json.loads("".join(run(service.folder, "verify", "other", *header_words, "--json", config=None).out))
    assert [one["name"] for one in told["removed_secrets"]] == ["current"]


def test_the_log_is_only_opened_where_it_is_asked_for(tmp_path: Path) -> None:
    """Without `--log` no database is needed; with it, an empty one is fine."""
    (tmp_path / "body").write_bytes(BODY)
    assert run(tmp_path, "verify", "body", "--header", f"{HEADER}: x").status == 1
    make_log(tmp_path / "var")
    done = run(tmp_path, "verify", "body", "--header", f"{HEADER}: {sign(BODY, SECRET.encode())}", "--log")
    assert done.status == 0
