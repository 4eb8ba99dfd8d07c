"""A terminal in which somebody types commands of README and docs as they stand there, and nothing else."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Final

from servers.process import Server, die_with_parent

ROOT: Final = Path(__file__).resolve().parents[2]
LIMIT_S: Final = 300.0


class Window(Server):
    """A command that stays in the foreground of a window of its own."""

    def __init__(self, folder: Path, line: str, environment: Mapping[str, str]) -> None:
        super().__init__(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.line = line
        self._environment = environment

    def command(self) -> Sequence[str]:
        """Run it in a shell, which becomes the command."""
        return ["bash", "-c", f"exec {self.line}"]

    def launch(self, output: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start it in the folder of all windows, with the environment of the terminal."""
        return subprocess.Popen(
            self.command(), cwd=self.folder.parent, env=self._environment, stdin=subprocess.DEVNULL,
            stdout=output, stderr=output, start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509
        )  # fmt: skip

    async def serves(self) -> bool:
        """Tell nothing: who started it waits for what it is to do."""
        return True


class Terminal:
    """Windows in one folder. `addresses` are texts of the pages that mean another place here: ports, names of machines.

    `options` are added to the commands that begin with a text: ports that the pages leave at their default.
    """

    def __init__(
        self, folder: Path, addresses: Mapping[str, str], options: Mapping[str, str], environment: Mapping[str, str]
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._addresses = addresses
        self._options = options
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._environment = {"HOME": os.environ.get("HOME", "/"), "PATH": path, **environment}
        (folder / "deploy").symlink_to(ROOT / "deploy")
        self._count = 0

    def here(self, text: str) -> str:
        """Return a text of a page with the addresses of this machine."""
        for shown, real in self._addresses.items():
            text = re.sub(rf"(?<![\w.]){re.escape(shown)}(?!\w)", real, text)
        return text

    def block(self, page: str, holding: str) -> str:
        """Return the one block of a page that holds a text, with the addresses of this machine."""
        found = re.findall(r"^```\w+\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        (block,) = {one for one in found if holding in one}
        return self.here(block)

    def run(self, page: str, line: str, *, status: int = 0) -> str:
        """Give a command of the page, as it stands there; return what it printed. It ends with `status`."""
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail\n{self._typed(page, line)}"], cwd=self.folder, env=self._environment,
            capture_output=True, text=True, check=False, timeout=LIMIT_S,
        )  # fmt: skip
        assert done.returncode == status, f"{line}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    async def open(self, page: str, line: str) -> Window:
        """Give a command of the page that stays in the foreground, in a window of its own."""
        self._count += 1
        window = Window(self.folder / f"window-{self._count}", self._typed(page, line), self._environment)
        await window.start()
        return window

    @asynccontextmanager
    async def window(self, page: str, line: str) -> AsyncIterator[Window]:
        """Let a command of the page stay in the foreground of a window, which is closed at the end."""
        window = await self.open(page, line)
        try:
            yield window
        finally:
            await window.stop()

    def paste(self, block: str) -> str:
        """Give several commands, which `block` has found on a page; return what they printed, however they end."""
        return subprocess.run(
            ["bash", "-c", block], cwd=self.folder, env=self._environment,
            capture_output=True, text=True, check=False, timeout=LIMIT_S,
        ).stdout  # fmt: skip

    def _typed(self, page: str, line: str) -> str:
        """Return the command, which has to stand on the page: a line of a block, or within backquotes."""
        text = (ROOT / page).read_text(encoding="utf-8")
        assert line in [one.strip() for one in text.splitlines()] or f"`{line}`" in text, f"{page} has no `{line}`"
        more = " ".join(option for begin, option in self._options.items() if line.startswith(begin))
        python = re.sub(r"^python3 ", f"{shlex.quote(sys.executable)} ", self.here(line))
        return f"{python} {more}".strip()
