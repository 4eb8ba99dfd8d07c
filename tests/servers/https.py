"""Real Caddy and nginx for the tests, with the files of `deploy/proxy` and a certificate of their own."""

import os
import re
import shutil
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import aiohttp
import trustme

from servers.ports import HOST, free_port
from servers.process import Server, UnavailableError

DEPLOY: Final = Path(__file__).resolve().parents[2] / "deploy" / "proxy"
NAME: Final = "localhost"


class HttpsProxy(Server):
    """A proxy that speaks HTTPS on `port` and leads to a receiver."""

    program = ""

    def __init__(self, folder: Path, receiver: str) -> None:
        """Raise UnavailableError where the program is not installed."""
        # Caddy is the one of the test environment; nginx is Debian's, and not on everybody's path.
        found = shutil.which(self.program, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin")
        if found is None:
            raise UnavailableError(f"no {self.program}: it is not installed")
        super().__init__(folder)
        folder.mkdir(parents=True)
        self.found = found
        self.port = free_port()
        self.receiver = receiver

    @property
    def url(self) -> str:
        """Its address."""
        return f"https://{NAME}:{self.port}"

    @property
    def authority(self) -> Path:
        """The certificate of whoever signed its own."""
        raise NotImplementedError

    def trusting(self) -> ssl.SSLContext:
        """Return what a client needs to trust it and nobody else."""
        return ssl.create_default_context(cafile=str(self.authority))

    async def serves(self) -> bool:
        """Tell whether it answers over TLS."""
        if not self.authority.exists():
            return False
        connector = aiohttp.TCPConnector(ssl=self.trusting())
        timeout = aiohttp.ClientTimeout(total=5)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
                session.get(f"{self.url}/") as answer,
            ):
                return answer.status == 404
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False


class Caddy(HttpsProxy):
    """Caddy, which for the name `localhost` is its own authority."""

    program = "caddy"

    def __init__(self, folder: Path, receiver: str, *, patience: str = "1s") -> None:
        """Copy the file with an address of this machine alone, and a port for plain HTTP that nobody else has.

        A delivery waits for a receiver for as long as `patience` says.
        """
        super().__init__(folder, receiver)
        text = (DEPLOY / "Caddyfile").read_text(encoding="utf-8")
        begin = "\n{\n"
        assert text.count(begin) == 1
        text = text.replace(begin, f"{begin}\thttp_port {free_port()}\n\tdefault_bind {HOST}\n")
        text, count = re.subn(r"(?<=lb_try_duration )\w+", patience, text)
        assert count == 1
        (folder / "Caddyfile").write_text(text, encoding="utf-8")

    @property
    def authority(self) -> Path:
        """Made by Caddy when it starts."""
        return self.folder / "caddy" / "pki" / "authorities" / "local" / "root.crt"

    def command(self) -> Sequence[str]:
        """Say what to run, with the two variables that the file asks for, and all that it keeps in our folder."""
        return [
            "env", f"XDG_DATA_HOME={self.folder}", f"XDG_CONFIG_HOME={self.folder}", f"HOME={self.folder}",
            f"CADDY_ADMIN={HOST}:{free_port()}",
            f"WHATSMS_SITE={NAME}:{self.port}", f"WHATSMS_RECEIVER={self.receiver}",
            self.found, "run", "--config", str(self.folder / "Caddyfile"), "--adapter", "caddyfile",
        ]  # fmt: skip


class Nginx(HttpsProxy):
    """nginx with the file as one of its conf.d."""

    program = "nginx"

    def __init__(self, folder: Path, receiver: str) -> None:
        """Copy the file with names, ports and certificate of the test; all that nginx writes is in our folder."""
        super().__init__(folder, receiver)
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.authority))
        own = authority.issue_cert(NAME)
        own.private_key_and_cert_chain_pem.write_to_path(str(folder / "own.pem"))
        text = (DEPLOY / "nginx.conf").read_text(encoding="utf-8")
        for here, there in (
            ("listen 443 ssl", f"listen {HOST}:{self.port} ssl"),
            ("server_name hooks.example.com", f"server_name {NAME}"),
            ("server 127.0.0.1:8080 ", f"server {receiver} "),
            ("/etc/ssl/whatsms-events/fullchain.pem", str(folder / "own.pem")),
            ("/etc/ssl/whatsms-events/privkey.pem", str(folder / "own.pem")),
        ):
            assert text.count(here) == 1, here
            text = text.replace(here, there)
        (folder / "whatsms.conf").write_text(text, encoding="utf-8")
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "".join(f"{kind}_temp_path {folder / kind};\n" for kind in kinds)
        (folder / "nginx.conf").write_text(
            f"daemon off;\npid {folder / 'pid'};\nerror_log stderr;\nworker_processes 1;\nevents {{}}\n"
            f"http {{\naccess_log off;\n{temporary}include {folder / 'whatsms.conf'};\n}}\n",
            encoding="utf-8",
        )

    @property
    def authority(self) -> Path:
        """Made with the test's own certificate."""
        return self.folder / "authority.pem"

    def command(self) -> Sequence[str]:
        """Say what to run."""
        return [self.found, "-p", str(self.folder), "-e", "stderr", "-c", str(self.folder / "nginx.conf")]
