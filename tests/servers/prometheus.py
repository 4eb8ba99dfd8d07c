"""Real Prometheus for the tests, with the rules and the configuration of `deploy/prometheus`."""

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp

from servers.ports import HOST, free_port
from servers.process import Server, UnavailableError

DEPLOY: Final = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"


def program(name: str) -> str:
    """Return where a program of Debian's package `prometheus` is. Raises UnavailableError where it is not installed."""
    found = shutil.which(name) or shutil.which(name, path="/usr/bin")
    if found is None:
        raise UnavailableError(f"no {name}: Prometheus is not installed")
    return found


class Prometheus(Server):
    """One Prometheus that scrapes `target` and evaluates the rules each second.

    `durations` are replaced in the rules, or it is a function that writes them with others. With a `token` the line
    about a token in the shipped configuration is taken in, and the file that it names has the token.
    """

    def __init__(
        self,
        folder: Path,
        target: str,
        durations: Mapping[str, str] | Callable[[str], str],
        *,
        token: str | None = None,
    ) -> None:
        """Raise UnavailableError where Prometheus is not installed."""
        self._program = program("prometheus")
        super().__init__(folder)
        folder.mkdir(parents=True)
        self.port = free_port()
        rules = (DEPLOY / "rules.yml").read_text(encoding="utf-8")
        if callable(durations):
            rules = durations(rules)
        else:
            for long, short in durations.items():
                assert long in rules, long
                rules = rules.replace(long, short)
        (folder / "rules.yml").write_text(rules, encoding="utf-8")
        config = (DEPLOY / "prometheus.yml").read_text(encoding="utf-8")
        config = re.sub(r"(_interval|_timeout): \d+s", r"\1: 1s", config).replace("127.0.0.1:8081", target)
        if token is not None:
            config, found = re.subn(r"# (authorization: \{credentials_file: metrics-token\})", r"\1", config)
            assert found == 1
            (folder / "metrics-token").write_text(token, encoding="utf-8")
        (folder / "prometheus.yml").write_text(config, encoding="utf-8")

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{HOST}:{self.port}"

    def command(self) -> Sequence[str]:
        """Say what to run."""
        return [
            self._program,
            f"--config.file={self.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address={HOST}:{self.port}",
            "--log.level=warn",
        ]

    async def serves(self) -> bool:
        """Tell whether it answers queries."""
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session,
                session.get(f"{self.url}/-/ready") as answer,
            ):
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def ask(self, path: str, **params: str) -> Any:
        """Return the data of an answer of its API."""
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session,
            session.get(f"{self.url}/api/v1/{path}", params=params) as answer,
        ):
            told = await answer.json()
        assert told["status"] == "success", told
        return told["data"]
