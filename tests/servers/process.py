"""A server in a process of its own that can be started, stopped, killed and frozen, and that never outlives us."""

import asyncio
import atexit
import contextlib
import ctypes
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Final, TypeVar

from servers.warm import Program

START_DEADLINE_S: Final = 120.0
STOP_DEADLINE_S: Final = 120.0
POLL_S: Final = 0.05
PR_SET_PDEATHSIG: Final = 1
T = TypeVar("T")
_libc: Final = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_running: Final[set["Server"]] = set()


class UnavailableError(Exception):
    """This machine has no such server, and the message says what is missing."""


class StartError(Exception):
    """The server did not come up; the message holds the end of its log."""


def run_apart(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` in a loop of its own that touches nobody else's: for fixtures that outlive a test's loop."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def running() -> list["Server"]:
    """List our servers that are still there."""
    return [server for server in _running if server.pid is not None]


@atexit.register
def kill_all() -> None:
    """Kill whatever is left, by pid: the last resort, also where the operating system cannot do it for us."""
    for server in running():
        server.kill_now()


def die_with_parent() -> None:
    """Ask Linux, in the new process, for a SIGKILL when the thread that started it ends."""
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Server:
    """One server process on one port and one data folder; after `stop` or `kill`, `start` brings it back with its data.

    Call `start` in the main thread: the server dies with the thread that started it.
    """

    stop_signal = signal.SIGTERM
    environ: Mapping[str, str] = MappingProxyType({})
    """What its environment has beside ours."""

    def __init__(self, folder: Path, *, user: str | None = None) -> None:
        self.folder = folder
        self.user = user
        self._child: subprocess.Popen[bytes] | Program | None = None

    @property
    def pid(self) -> int | None:
        """The process id, or None while it does not run."""
        if self._child is None or self._child.poll() is not None:
            return None
        return self._child.pid

    @property
    def status(self) -> int | None:
        """The exit status once it has ended, or None."""
        return None if self._child is None else self._child.poll()

    def forget(self) -> None:
        """Know of no process any more: for a copy, which is to be another one."""
        self._child = None

    def command(self) -> Sequence[str]:
        """Say what to run."""
        raise NotImplementedError

    def logs(self) -> Sequence[Path]:
        """Name the files whose ends explain a failed start."""
        return [self.folder / "output.log"]

    async def serves(self) -> bool:
        """Tell whether it answers by now."""
        raise NotImplementedError

    async def start(self, *, deadline_s: float = START_DEADLINE_S) -> None:
        """Start it and return when it serves. Raises StartError, with the end of its log, when it does not."""
        if self.pid is not None:
            raise StartError(f"{self} runs already, as {self.pid}")
        self.spawn()
        until = time.monotonic() + deadline_s
        while not await self.serves():
            if self.pid is None:
                raise StartError(f"{self} ended with {self._child and self._child.returncode}{self._tail()}")
            if time.monotonic() > until:
                await self.kill()
                raise StartError(f"{self} does not serve after {deadline_s:.0f} s{self._tail()}")
            await asyncio.sleep(POLL_S)

    async def stop(self) -> None:
        """Let it end in good order; kill it when that takes too long. Nothing happens where it does not run."""
        self.signal(signal.SIGCONT)
        self.signal(self.stop_signal)
        await self.gone(STOP_DEADLINE_S)
        await self.kill()

    async def kill(self) -> None:
        """Kill it with SIGKILL and return when it is gone."""
        self.signal(signal.SIGKILL)
        await self.gone(STOP_DEADLINE_S)
        _running.discard(self)

    async def freeze(self) -> None:
        """Stop it in the middle of whatever it does (SIGSTOP): connections stay open, nothing answers."""
        self.signal(signal.SIGSTOP)

    async def thaw(self) -> None:
        """Let a frozen server go on."""
        self.signal(signal.SIGCONT)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it runs."""
        if self._child is not None and self.pid is not None:
            self._child.send_signal(number)

    def kill_now(self) -> None:
        """Kill it without a loop, for the end of the session."""
        self.signal(signal.SIGKILL)
        if self._child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(STOP_DEADLINE_S)
        _running.discard(self)

    def spawn(self) -> None:
        """Start it, and do not wait until it serves."""
        with (self.folder / "output.log").open("ab") as output:
            self._child = self.launch(output)
        _running.add(self)

    def launch(self, output: IO[bytes]) -> subprocess.Popen[bytes] | Program:
        """Make the process, which writes to `output`, is in a session of its own and dies with us."""
        return subprocess.Popen(
            self.command(), cwd=self.folder, env=os.environ | self.environ,
            stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True,  # Ctrl-C is for pytest, which then stops us
            preexec_fn=die_with_parent,  # noqa: PLW1509
            **identity(self.user),
        )  # fmt: skip

    async def gone(self, deadline_s: float) -> None:
        """Wait for its end, at most so long."""
        until = time.monotonic() + deadline_s
        while self.pid is not None and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S / 5)  # the loop's own child watcher knows nothing of a Popen

    def _tail(self) -> str:
        ends = [f"\n--- {path}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-40:])
                for path in self.logs() if path.exists()]  # fmt: skip
        return "".join(ends)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.folder})"


def identity(user: str | None) -> dict[str, Any]:
    """Say what `subprocess` needs to run a program as `user` and in no group but theirs; None is who we are."""
    if user is None:
        return {}
    account = pwd.getpwnam(user)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def as_user() -> str | None:
    """Name the user that a server runs as which refuses to be root; None where we are not root."""
    if os.getuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"
