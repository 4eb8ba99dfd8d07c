"""`config diff` tells how a running process differs from the configuration as it is now, and shows no secret."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cli.commands import CONFIG, Done
from cli.commands import run as run_in
from servers.ports import HOST, free_port
from servers.service import SECRET, Service

pytestmark = pytest.mark.process

TOKEN = "token-of-the-tests-0123"


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Service]:
    """Give a running service with a token."""
    service = Service(tmp_path / "service", roles="receiver", settings={"private": {"token": TOKEN}})
    await service.start()
    try:
        yield service
    finally:
        await service.stop()


def diff(service: Service, *words: str) -> Done:
    """Run `config diff` on the service's file."""
    return run_in(service.folder, "config", "diff", "--config", str(service.config), *words, config=None)


def edit(service: Service, pattern: str, text: str) -> None:
    """Change the service's file while it runs."""
    before = service.config.read_text()
    after = re.sub(pattern, text, before)
    assert after != before
    service.config.write_text(after)


async def test_differences_are_named_and_secrets_are_not_shown(running: Service) -> None:
    """Nothing differs at first: status 0. Then each change is a line, a changed secret says only that: status 1."""
    assert diff(running) == Done(0, [], [])
    edit(running, SECRET, "another-secret-0123456789")
    done = diff(running, "--set", "receiver.queue_limit=77", "--set", "kafka.bootstrap_servers=broker:9092")
    assert done == Done(
        1,
        [
            'kafka.bootstrap_servers: running not set, configured "broker:9092"',
            "receiver.queue_limit: running 10000, configured 77",
            "tenants.acme.webhook_secrets.current: the configuration has another secret",
        ],
        [],
    )
    told = diff(running, "--json", "--set", "receiver.queue_limit=77")
    assert told.status == 1
    assert json.loads(told.out[0])["receiver.queue_limit"] == {"running": 10000, "configured": 77}


async def test_a_process_that_cannot_be_asked_is_named(running: Service) -> None:
    """No process, another token, another kind of service: one line that says which, and status 1; no traceback."""
    nobody = f"http://{HOST}:{free_port()}"
    done = diff(running, "--url", nobody)
    assert (done.status, done.out, len(done.err)) == (1, [], 1)
    assert f"{nobody}: no process answers there" in done.err[0]
    done = diff(running, "--url", f"http://{HOST}:{running.public_port}")
    assert (done.status, len(done.err)) == (1, 1)
    assert done.err[0].endswith("it answers 404")
    edit(running, TOKEN, "another-token-0123456")
    done = diff(running)
    assert (done.status, len(done.err)) == (1, 1)
    assert done.err[0].endswith("private.token is not the one that it takes")
    done = diff(running, "--url", f"http://{HOST}:80a")
    assert (done.status, len(done.err)) == (2, 1)
    done = diff(running, "--url", "file:///etc/passwd")
    assert (done.status, len(done.err)) == (2, 1)


def test_a_configuration_whose_tokens_may_not_ask_is_told_so(tmp_path: Path) -> None:
    """Named tokens without the scopes that the settings of a process ask for: status 2 before anybody is asked."""
    reader = '[private.tokens.reader]\ntoken = "a-token-that-only-reads"\nscopes = "read"\n'
    done = run_in(tmp_path, "config", "diff", "--url", "http://127.0.0.1:9", config=f"{CONFIG}\n{reader}")
    assert (done.status, len(done.err)) == (2, 1)
    assert "no configured token has the scopes read and operate" in done.err[0]
