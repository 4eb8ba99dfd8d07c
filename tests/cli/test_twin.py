"""`whatsms-events twin` as a user runs it: a program of its own, between his webhook receiver and his REST client."""

import asyncio
import json
import os
import re
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from cli.commands import run
from servers import warm
from whatsms_events.domain import signature
from whatsms_events.errors import SignatureError
from whatsms_events.twin.rest.faults import RestFault

pytestmark = pytest.mark.process

DEADLINE_S = 120.0


class Receiver:
    """A consumer's webhook URL: checks each signature by the one secret, keeps what was right."""

    def __init__(self, secret: bytes) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.refused = 0
        self._secret = secret

    async def take(self, request: web.Request) -> web.Response:
        """Take one webhook."""
        body = await request.read()
        try:
            signature.verify(body, request.headers.getall(signature.HEADER, []), {"only": self._secret})
        except SignatureError:
            self.refused += 1
            return web.Response(status=401)
        self.bodies.append(json.loads(body))
        return web.Response()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Listen, and give the URL."""
        app = web.Application()
        app.router.add_post("/hook", self.take)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
        finally:
            await runner.cleanup()


class Running:
    """The command, running: what it said on its first lines, and a session with its key."""

    def __init__(self, program: warm.Spoken, said: dict[str, str], session: aiohttp.ClientSession) -> None:
        self.program = program
        self.said = said
        self.session = session

    async def ask(self, method: str, url: str, body: object = None) -> Any:
        """Ask, with the key; return the JSON of what has to succeed."""
        headers = {"Authorization": f"Bearer {self.said['API key']}"}
        async with self.session.request(method, url, json=body, headers=headers) as response:
            assert response.status < 300, await response.text()
            return await response.json()

    async def api(self, method: str, path: str, body: object = None) -> Any:
        """Ask the API."""
        return await self.ask(method, self.said["API"] + path, body)

    async def control(self, method: str = "GET", path: str = "", body: object = None) -> Any:
        """Ask the twin itself."""
        return await self.ask(method, self.said["control"] + path, body)

    async def interrupt(self) -> tuple[int, str]:
        """Press Ctrl-C; return the status and what it said since its introduction."""
        self.program.send_signal(signal.SIGINT)
        async with asyncio.timeout(DEADLINE_S):
            status, out, err = await self.program.ended()
        assert err == b""
        return status, out.decode()


@asynccontextmanager
async def twin(folder: Path, *words: str, environ: dict[str, str] | None = None) -> AsyncIterator[Running]:
    """Run the command on a free port until the block ends."""
    words = ("twin", "--port", "0", *words)
    program = await warm.spawn(words, folder, environ=os.environ | {"COLUMNS": "40"} | (environ or {}))
    said: dict[str, str] = {}
    try:
        async with asyncio.timeout(DEADLINE_S), aiohttp.ClientSession() as session:
            while "control" not in said:
                text = (await program.stdout.readline()).decode()
                assert text, (await program.ended())[2].decode()
                if found := re.fullmatch(r"(\S+(?: key)?) {2,}(.*)\n", text):
                    said[found[1]] = found[2]
            yield Running(program, said, session)
    finally:
        program.send_signal(signal.SIGKILL)
        await program.ended()


async def until(condition: Callable[[], bool]) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - a receiver's list has no event
            await asyncio.sleep(0.02)


async def test_one_world_sends_the_webhooks_and_serves_the_api(tmp_path: Path) -> None:
    """What the receiver heard of is what the API shows; what is written to the API comes back as a webhook."""
    receiver = Receiver(b"a secret of the test")
    environ = {"WHATSMS_TWIN_SECRET": "a secret of the test"}
    async with receiver.listening() as url, twin(tmp_path, "--target", url, "--rate", "40", environ=environ) as one:
        assert one.said["webhooks"] == f"to {url}"
        assert one.said["secret"] == "from WHATSMS_TWIN_SECRET"
        await until(lambda: len(receiver.bodies) > 40)
        told = {body["data"]["ticket"]["id"] for body in receiver.bodies if body["event"] == "ticket.created"}
        shown = {ticket["id"] for ticket in (await one.api("GET", "/tickets?limit=100"))["tickets"]}
        assert told
        assert told <= shown
        assert {body["tenantId"] for body in receiver.bodies} == {"twin"} == {one.said["tenantId"]}
        ticket_id = next(iter(told))
        await one.control("POST", "/pause")
        sent = await one.api("POST", f"/tickets/{ticket_id}/messages", {"body": "Olá da API"})
        await until(lambda: any(b["data"].get("message", {}).get("body") == "Olá da API" for b in receiver.bodies))
        await one.control("POST", "/resume")
        acked = sent["message"]["id"]
        await until(
            lambda: any(b["event"] == "message.ack" and b["data"]["message"]["id"] == acked for b in receiver.bodies)
        )
        state = await one.control()
        assert state["webhooks"]["outcomes"]["accepted"] >= 40
        assert state["api"]["requests"]["GET /tickets"] == 1
        assert receiver.refused == 0
        status, out = await one.interrupt()
    assert status == 0
    assert re.search(r"\d+ webhooks made, \d+ POSTs sent\n", out)
    assert "POST /tickets/{id}/messages 1" in out
    assert "a secret of the test" not in out


async def test_faults_are_switched_while_it_runs(tmp_path: Path) -> None:
    """Webhooks are dropped for a while and the API answers 429, as told by the control endpoint."""
    receiver = Receiver(b"whsec_test_twin")
    async with receiver.listening() as url, twin(tmp_path, "--target", url, "--rate", "100") as one:
        assert one.said["secret"].startswith("whsec_test_twin (for tests")
        await until(lambda: len(receiver.bodies) > 5)
        await one.control("POST", "/faults", {"webhooks": {"drop": 1}, "api": {"limited": 1, "retry_after_s": 7}})
        async with one.session.get(one.said["API"] + "/tickets", headers={"Authorization": "Bearer sk_test_twin"}) as r:
            assert (r.status, r.headers["Retry-After"]) == (429, "7")
        dropped = 0
        async with asyncio.timeout(DEADLINE_S):
            while dropped < 10:
                dropped = (await one.control())["webhooks"]["outcomes"].get("dropped", 0)
        heard = len(receiver.bodies)
        await one.control("POST", "/faults", {"webhooks": {"drop": 0}, "api": {"limited": 0}})
        await until(lambda: len(receiver.bodies) > heard + 5)
        await one.api("GET", "/tickets")
        async with one.session.post(one.said["control"] + "/faults", json={"api": {"slow": 2}}) as response:
            assert response.status == 400
            assert "api.slow" in (await response.json())["error"]
        status, out = await one.interrupt()
    assert status == 0
    assert "dropped" in out


async def test_without_a_target_it_counts_and_a_past_is_there_to_be_read(tmp_path: Path) -> None:
    """With `--past` there is an account to read at once; nobody gets webhooks, which are counted; it ends by itself."""
    (tmp_path / "secret").write_text("from a file\n")
    words = ["--past", "600", "--rate", "30", "--dialect", "integers", "--secret-file", "secret", "--seconds", "3"]
    words += ["--api-key", "sk_mine", "--tenant-id", "acme", "--seed", "9"]
    async with twin(tmp_path, *words) as one:
        assert one.said["API key"] == "sk_mine"
        assert one.said["tenantId"] == "acme"
        assert one.said["secret"] == "from secret"
        assert one.said["webhooks"].startswith("made and counted, not sent")
        shown = await one.api("GET", "/tickets")
        assert shown["count"] > 20
        assert isinstance(shown["tickets"][0]["id"], int)
        async with asyncio.timeout(DEADLINE_S):
            status, out, err = await one.program.ended()
    assert (status, err) == (0, b"")
    assert re.search(r"webhooks +unsent \d+", out.decode())


async def test_every_fault_of_the_api_has_a_flag(tmp_path: Path) -> None:
    """What the control endpoint sets later is set from the start: shares, and how they are told."""
    names = [fault.value for fault in RestFault]
    shares = [word for number, name in enumerate(names) for word in ("--api-fault", f"{name}=0.0{number + 1:02}")]
    words = ["--api-fault", "slow_s=0.5", "--api-fault", "retry_after=date", "--api-fault", "retry_after_s=9"]
    async with twin(tmp_path, "--paused", *shares, *words) as one:
        faults = (await one.control())["faults"]["api"]
    assert [faults[name] for name in names] == [float(f"0.0{number + 1:02}") for number in range(len(names))]
    assert (faults["slow_s"], faults["retry_after"], faults["retry_after_s"]) == (0.5, "date", 9)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--target", "localhost:8080"], "--target: has to be a URL"),
        (["--target", "http://127.0.0.1:99999/x"], "--target: has to be a URL"),
        (["--dialect", "klingon"], "--dialect klingon: unknown; there are documented, seconds"),
        (["--secret-file", "nowhere"], "--secret-file nowhere: no such file"),
        (["--secret-file", "empty"], "--secret-file empty: is empty"),
        (["--api-fault", "html=1"], "--api-fault html: unknown; there are page_ignored, has_more, count_null"),
        (["--api-fault", "seed=1"], "--api-fault seed: unknown"),
        (["--api-fault", "cut"], "--api-fault cut: write it as NAME=VALUE"),
        (["--api-fault", "cut=1.5"], "--api-fault cut=1.5: expected `float` <= 1.0"),
        (["--api-fault", "cut=much"], "--api-fault cut=much: expected `float`"),
        (["--api-fault", "retry_after=soon"], "--api-fault retry_after=soon: invalid"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(tmp_path: Path, words: list[str], said: str) -> None:
    """A mistake in the call ends the command with status 2 and names the flag."""
    (tmp_path / "empty").write_text("\n")
    done = run(tmp_path, "twin", *words, config=None)
    assert (done.status, len(done.err)) == (2, 1)
    assert said in done.err[0]


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    """Status 1 and a line with the address and the flags to change it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run(tmp_path, "twin", "--port", str(port), config=None)
    assert done.status == 1
    assert done.err == [f"cannot listen on 127.0.0.1:{port}: address already in use; see --host and --port"]


def test_shares_are_checked(tmp_path: Path) -> None:
    """A share beyond 1 is refused before anything starts."""
    done = run(tmp_path, "twin", "--drop", "1.5", config=None)
    assert done.status != 0
    assert any("--drop" in text for text in done.err)
