"""Socket activation as the runbook tries it by hand: the tool has the socket, and the first delivery starts us."""

import asyncio
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import aiohttp
import pytest

from servers.ports import HOST
from servers.process import Server
from servers.service import SECRET, Service
from servers.tools import found
from test_journey import delivery
from whatsms_events.domain.signature import HEADER, sign

pytestmark = pytest.mark.process


class ByHand(Service):
    """A service that `systemd-socket-activate` starts when somebody comes."""

    def command(self) -> Sequence[str]:
        """Say what the runbook says, with the port of the test."""
        listen = ("--listen", f"{HOST}:{self.public_port}", "--fdname", "public")
        return [found("systemd-socket-activate"), *listen, *super().command()]

    def launch(self, output: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start the tool itself, which then becomes the service: no fork of ours can stand for it."""
        started = Server.launch(self, output)
        assert isinstance(started, subprocess.Popen)
        return started

    async def serves(self) -> bool:
        """Come to the door, as the first sender does, and tell whether somebody is behind it."""
        try:
            _, writer = await asyncio.open_connection(HOST, self.public_port)
            writer.close()
        except OSError:
            return False
        return await super().serves()


async def test_a_socket_that_is_held_for_us_is_served(tmp_path: Path) -> None:
    """The tool hands its socket over by the name that the unit gives it, and a delivery is accepted."""
    service = ByHand(tmp_path / "service", roles="receiver")
    await service.start()
    body = delivery("message.received", "2026-01-15T12:00:00Z", message={"id": "m-1", "body": "Olá"})
    headers = {HEADER: sign(body, SECRET.encode())}
    async with aiohttp.ClientSession() as session:
        answer = await session.post(service.webhook_url, data=body, headers=headers)
        assert answer.status == 200
    await service.stop()
