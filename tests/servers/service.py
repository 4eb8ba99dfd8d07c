"""whatsms-events itself as a process of its own, as an operator runs it: `serve` with a TOML file; it may be killed."""

import asyncio
import copy
import json
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final, Self

import aiohttp

from servers import warm
from servers.ports import HOST, free_port
from servers.process import START_DEADLINE_S, Server

SLUG: Final = "acme"
TENANT: Final = "5f0c9a52-7d0f-4f0e-9c1f-2d6a5b1b7a10"
SECRET: Final = "whsec-tests-only-0123456789abcdef"


class Service(Server):
    """One process of the service. `settings` are sections and their values over the defaults.

    Where a folder of secret files is given, the configuration has no webhook secret.
    """

    def __init__(
        self,
        folder: Path,
        *,
        roles: str = "receiver,relay,consumer",
        settings: Mapping[str, Mapping[str, object]] | None = None,
        secrets_dir: Path | None = None,
    ) -> None:
        super().__init__(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.roles = roles
        self.sockets: Sequence[socket.socket] = ()  # listening ones that it is given, as systemd would
        self.public_port, self.private_port = free_port(), free_port()
        self.config = folder / "whatsms.toml"
        sections: dict[str, dict[str, object]] = {
            "public": {"host": HOST, "port": self.public_port},
            "private": {"host": HOST, "port": self.private_port},
            f"tenants.{SLUG}": {"tenant_id": TENANT},
            f"tenants.{SLUG}.webhook_secrets": {"current": SECRET},
        }
        if secrets_dir is not None:
            del sections[f"tenants.{SLUG}.webhook_secrets"]
        for name, values in (settings or {}).items():
            sections.setdefault(name, {}).update(values)
        self.sections, self.secrets_dir = sections, secrets_dir
        self.config.write_text(toml(sections))

    @property
    def webhook_url(self) -> str:
        """The URL that the vendor would have."""
        return f"http://{HOST}:{self.public_port}/webhooks/{SLUG}"

    @property
    def private_url(self) -> str:
        """The private listener."""
        return f"http://{HOST}:{self.private_port}"

    def successor(self) -> Self:
        """Return another process with the same configuration, folder and ports, which is not started yet."""
        other = copy.copy(self)
        other.forget()
        return other

    def words(self) -> Sequence[str]:
        """Say which command to run, with its arguments."""
        words = ["serve", "--config", str(self.config), "--roles", self.roles]
        return words if self.secrets_dir is None else [*words, "--secrets-dir", str(self.secrets_dir)]

    def command(self) -> Sequence[str]:
        """Say how an operator would start it."""
        return [sys.executable, "-m", "whatsms_events", *self.words()]

    async def start(self, *, deadline_s: float = START_DEADLINE_S) -> None:
        """Start it like any server; what it is forked from may take seconds to start, while the test's loop goes on."""
        await asyncio.to_thread(warm.parent)
        await super().start(deadline_s=deadline_s)

    def launch(self, output: IO[bytes]) -> subprocess.Popen[bytes] | warm.Program:
        """Fork it from the warm parent: the import alone takes seconds."""
        return warm.start(self.words(), self.folder, stdout=output, stderr=output, sockets=self.sockets)

    async def serves(self) -> bool:
        """Tell whether its door is open; without one, whether it has started, however its roles are."""
        receiving = "receiver" in self.roles
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session,
                session.get(f"{self.private_url}/readyz{'/receiver' if receiving else ''}") as answer,
            ):
                ready = answer.status == 200 or (not receiving and "start" not in (await answer.json())["checks"])
            if ready and receiving:
                _, writer = await asyncio.open_connection(HOST, self.public_port)
                writer.close()
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False
        return ready

    def lines(self) -> list[dict[str, object]]:
        """Return its log lines; the last may be cut short by a kill."""
        text = (self.folder / "output.log").read_text(errors="replace")
        return [json.loads(line) for line in text.splitlines() if line.startswith("{") and line.endswith("}")]


def command(service: Service, *words: str) -> str:
    """Run another command of the same program with the service's configuration; return what it printed."""
    done = warm.run([*words, "--config", str(service.config)], service.folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def toml(sections: Mapping[str, Mapping[str, object]]) -> str:
    """Return the text of a configuration file."""
    parts = ['data_dir = "."\n']
    for name, values in sections.items():
        body = "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
        parts.append(f"[{name}]\n{body}")
    return "\n".join(parts)
