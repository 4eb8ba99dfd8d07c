"""A parent process that has imported the package once, and forks for each command or service that a test starts.

Python needs seconds of a slow processor to import the service, and the suite starts hundreds of processes; a fork needs
milliseconds. A fork has its own pid, session, arguments, environment, folder and outputs, takes signals and dies of
SIGKILL like any process, and ends by the interpreter's own exit. All of one test run have one hash seed.

How the two sides talk: for each process the tests make a pair of sockets and send one end over the control socket,
with the three files that the process is to have. The request goes over that pair as a line of JSON; the parent
answers the pid, and the exit status when the process has ended. The control socket closes when the tests end, however
they end; then the parent ends, and Linux kills what it forked. Nothing is forked where a thread or a loop runs.
"""

import asyncio
import contextlib
import ctypes
import fcntl
import gc
import importlib
import json
import os
import pkgutil
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

PACKAGE: Final = "whatsms_events"
NOT_IMPORTED: Final = (f"{PACKAGE}.__main__", f"{PACKAGE}.storage.migrations")
PR_SET_PDEATHSIG: Final = 1
NO_FILE: Final = -1
SOCKETS_LIMIT: Final = 4


class Program:
    """`python -m whatsms_events ...` as a process of its own: the part of `subprocess.Popen` that tests use."""

    def __init__(self, channel: socket.socket, args: Sequence[str]) -> None:
        self.args = args
        self.returncode: int | None = None
        self._channel = channel
        self._answers = channel.makefile("rb", 0)  # unbuffered: `select` must see what was not read yet
        self.pid = int(self._answers.readline() or NO_FILE)
        if self.pid == NO_FILE:
            raise RuntimeError("the warm parent is gone; what it said is in the output of the tests")

    def poll(self) -> int | None:
        """Return the exit status, negative after a signal; None while it runs."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit status; raise subprocess.TimeoutExpired."""
        status = self._ended(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(list(self.args), timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended, and its status is on the way
                os.kill(self.pid, number)

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            with selectors.DefaultSelector() as ready:
                ready.register(self._channel, selectors.EVENT_READ)
                if ready.select(timeout):
                    # Without an answer the parent is gone, and has taken the process along.
                    self.returncode = int(self._answers.readline() or -signal.SIGKILL)
                    self._answers.close()
                    self._channel.close()
        return self.returncode

    def __del__(self) -> None:
        self._answers.close()
        self._channel.close()


class Parent:
    """The warm parent, as the tests see it."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            line = [sys.executable, __file__, str(theirs.fileno())]
            # In a session of its own: Ctrl-C is for pytest.
            self._process = subprocess.Popen(
                line, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
            )
        self.pid = self._process.pid

    def fork(
        self,
        words: Sequence[str],
        folder: Path,
        environ: Mapping[str, str],
        files: Sequence[IO[bytes]],
        sockets: Sequence[socket.socket] = (),
    ) -> Program:
        """Start a command in a folder; `files` are its standard input, output and error.

        The sockets are passed as systemd does.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            passed = [*(file.fileno() for file in files), theirs.fileno(), *(one.fileno() for one in sockets)]
            socket.send_fds(self._control, [b"."], passed)
        request = {"words": list(words), "folder": str(folder), "environ": dict(environ)}
        ours.sendall(json.dumps(request).encode() + b"\n")
        return Program(ours, words)

    def end(self) -> None:
        """End it, and all that it forked."""
        self._control.close()
        self._process.wait()


_parents: Final[list[Parent]] = []
_one_at_a_time: Final = threading.Lock()


def parent() -> Parent:
    """Return the warm parent of this test run, started now where there is none.

    Raises RuntimeError in a run that leaves out the tests which start processes.
    """
    if os.environ.get("WHATSMS_TEST_NO_PROCESS") == "1":
        raise RuntimeError("this test starts a process: mark it with pytest.mark.process")
    with _one_at_a_time:
        if not _parents:
            _parents.append(Parent())
        return _parents[0]


def end() -> None:
    """End the warm parent, if there is one."""
    with _one_at_a_time:
        while _parents:
            _parents.pop().end()


def start(
    words: Sequence[str],
    folder: Path,
    *,
    stdout: IO[bytes],
    stderr: IO[bytes],
    environ: Mapping[str, str] | None = None,
    sockets: Sequence[socket.socket] = (),
) -> Program:
    """Start `python -m whatsms_events` with these words in a folder; `environ` is all that it has, or what we have."""
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - no path of ours
        return parent().fork(
            words, folder, os.environ if environ is None else environ, (nothing, stdout, stderr), sockets
        )


def run_raw(
    words: Sequence[str], folder: Path, *, environ: Mapping[str, str] | None = None, timeout_s: float = 300
) -> subprocess.CompletedProcess[bytes]:
    """Run `python -m whatsms_events` with these words to its end; return its status and the bytes that it wrote."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        program = start(words, folder, stdout=out, stderr=err, environ=environ)
        try:
            status = program.wait(timeout_s)
        finally:
            program.send_signal(signal.SIGKILL)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(list(words), status, out.read(), err.read())


def run(
    words: Sequence[str], folder: Path, *, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command like `run_raw`; what it wrote is text."""
    done = run_raw(words, folder, environ=environ)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


class Spoken:
    """A program whose outputs are read while it runs: the part of `asyncio.subprocess.Process` that tests use."""

    def __init__(self, program: Program, stdout: asyncio.StreamReader, stderr: asyncio.StreamReader) -> None:
        self.stdout, self.stderr = stdout, stderr
        self.send_signal = program.send_signal
        self._program = program

    async def ended(self) -> tuple[int, bytes, bytes]:
        """Wait for the end; return the status and what was not read yet of the two outputs."""
        out, err = await asyncio.gather(self.stdout.read(), self.stderr.read())
        return await asyncio.to_thread(self._program.wait), out, err


async def spawn(words: Sequence[str], folder: Path, *, environ: Mapping[str, str] | None = None) -> Spoken:
    """Start `python -m whatsms_events` with these words; its outputs are pipes."""
    await asyncio.to_thread(parent)
    out, their_out = await _pipe()
    err, their_err = await _pipe()
    with their_out, their_err:
        return Spoken(start(words, folder, stdout=their_out, stderr=their_err, environ=environ), out, err)


async def _pipe() -> tuple[asyncio.StreamReader, IO[bytes]]:
    ours, theirs = os.pipe()
    reader = asyncio.StreamReader()
    pipe = os.fdopen(ours, "rb", 0)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    return reader, os.fdopen(theirs, "wb", 0)


# The other side.


def serve(control: socket.socket) -> None:
    """Fork for each request until the control socket closes. Returns in each fork, and at the end."""
    children: dict[int, tuple[int, socket.socket]] = {}
    with selectors.DefaultSelector() as ready:
        ready.register(control, selectors.EVENT_READ)
        while True:
            for key, _events in ready.select():
                if key.fileobj is not control:
                    ready.unregister(key.fileobj)
                    _report(key.fd, *children.pop(key.fd))
                    continue
                _said, files, *_rest = socket.recv_fds(control, 1, 4 + SOCKETS_LIMIT)
                if not files:  # the tests have ended
                    _kill(pid for pid, _channel in children.values())
                    return
                if (forked := _fork(files)) is None:
                    break
                alive, pid, channel = forked
                children[alive] = pid, channel
                ready.register(alive, selectors.EVENT_READ)
            else:
                continue
            break
    for alive, (_pid, channel) in children.items():
        os.close(alive)
        channel.close()
    control.close()


def _fork(files: Sequence[int]) -> tuple[int, int, socket.socket] | None:
    """Fork: None in the new process, else the pipe that closes when it is dead, its pid, and the line to the tests."""
    if threading.active_count() != 1:
        raise RuntimeError("importing the package has started a thread, so it cannot be forked")
    channel, us = socket.socket(fileno=files[3]), os.getpid()
    alive, held = os.pipe()  # nobody but the new process has the other end
    if pid := os.fork():
        os.close(held)
        for file in (*files[:3], *files[4:]):
            os.close(file)
        _tell(channel, pid)
        return alive, pid, channel
    os.close(alive)
    with channel, channel.makefile("r") as lines:
        request = json.loads(lines.readline())
    _become(request, files[:3], us)
    _passed.extend(files[4:])
    return None


def _become(request: Mapping[str, object], files: Sequence[int], us: int) -> None:
    """Take on the files, the session, the folder, the environment and the arguments of the process that is wanted."""
    os.setsid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != us:  # it ended before that
        os.kill(os.getpid(), signal.SIGKILL)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    environ, words = request["environ"], request["words"]
    assert isinstance(environ, dict)
    assert isinstance(words, list)
    os.chdir(str(request["folder"]))
    os.environ.clear()
    os.environ.update(environ)
    time.tzset()
    sys.argv[1:] = words
    # These remember whether they were a terminal.
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", 1, errors="backslashreplace", closefd=False)  # type: ignore[misc]  # noqa: SIM115


def _report(alive: int, pid: int, channel: socket.socket) -> None:
    """Tell the tests how a process ended."""
    os.close(alive)
    _pid, status = os.waitpid(pid, 0)
    _tell(channel, os.waitstatus_to_exitcode(status))
    channel.close()


def _tell(channel: socket.socket, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # the test does not want to know
        channel.sendall(f"{number}\n".encode())


def _kill(pids: Iterable[int]) -> None:
    """Kill what still runs: where the system is not Linux nobody else does."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


_passed: Final[list[int]] = []
"""The sockets for this fork, which get the numbers that systemd gives them when all else is closed."""


def pass_sockets() -> None:
    """Do what systemd does for a service with a socket unit (sd_listen_fds(3))."""
    high = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 100) for number in _passed]
    for number in _passed:
        os.close(number)
    for place, number in enumerate(high, start=3):
        os.dup2(number, place)
        os.close(number)
    if _passed:
        os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(_passed))}


def warm_up() -> None:
    """Import every module of the package, and what only some commands import."""
    importlib.import_module(PACKAGE)
    for module in pkgutil.walk_packages([str(Path(__file__).parents[2] / "src" / PACKAGE)], f"{PACKAGE}."):
        if not module.name.startswith(NOT_IMPORTED):
            importlib.import_module(module.name)
    for name in ("alembic.command", "aiosqlite", "uvloop", "sqlalchemy.dialects.sqlite.aiosqlite"):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # so that the collector of a fork writes to none of the pages that it shares


if __name__ == "__main__":
    sys.path.pop(0)  # this file's folder; modules in it have names that others have too
    warm_up()
    before = os.getpid()
    serve(socket.socket(fileno=int(sys.argv[1])))
    if os.getpid() != before:
        pass_sockets()
        runpy.run_module(PACKAGE, run_name="__main__", alter_sys=True)
