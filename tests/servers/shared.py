"""One Kafka broker for all processes of a test run: who needs it first has it started, who leaves last ends it.

A keeper, which is a process of its own, owns the broker. Everybody who uses the broker holds one file's lock together
with the others; the keeper waits until it gets that lock alone, and then ends the broker and itself. A process that
is killed gives its lock back too, so no broker is left behind, however a test run ends.
"""

import asyncio
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from servers.kafka import Broker, RunningKafka
from servers.process import START_DEADLINE_S, StartError

TESTS: Final = Path(__file__).resolve().parents[1]
ADDRESS: Final = "address"
"""The file that says where the broker is. It is there as long as the broker is."""

USERS: Final = "users"
"""The file whose lock everybody holds who uses the broker."""

POLL_S: Final = 0.05


def folder_of(run: str) -> Path:
    """Name the folder that is there as long as a test run's broker is."""
    return Path(tempfile.gettempdir()) / f"whatsms-kafka-{os.getuid()}-{run}"


@contextmanager
def shared_broker(run: str) -> Iterator[RunningKafka]:
    """Use the broker of the test run with this name during the block. Raises StartError, with the keeper's words."""
    folder, keeper = folder_of(run), None
    with _users(folder):
        with (folder / "start").open("a") as start:
            fcntl.flock(start, fcntl.LOCK_EX)  # one at a time asks whether there is a broker
            if not (folder / ADDRESS).exists():
                keeper = _start_keeper(folder)
        yield RunningKafka((folder / ADDRESS).read_text())
    if keeper is not None:
        # Python would warn of a process that nobody waited for. This one ends after us, with its last user.
        keeper.returncode = 0


def _users(folder: Path) -> IO[str]:
    """Join those who use the folder's broker. A keeper that ends removes the folder: then it is made anew."""
    while True:
        folder.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):
            file = (folder / USERS).open("a")
            fcntl.flock(file, fcntl.LOCK_SH)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), (folder / USERS).stat()):
                    return file
            file.close()


def _start_keeper(folder: Path) -> "subprocess.Popen[bytes]":
    """Start a process that has a broker, and return when the broker serves."""
    with (folder / "keeper.log").open("ab") as output:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "servers.shared", str(folder)],
            cwd=TESTS, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    until = time.monotonic() + 2 * START_DEADLINE_S
    while not (folder / ADDRESS).exists():
        if keeper.poll() is not None or time.monotonic() > until:
            keeper.kill()
            raise StartError(f"no broker for this test run: {(folder / 'keeper.log').read_text()[-2000:]}")
        time.sleep(POLL_S)  # the file is the only sign that another process gives
    return keeper


async def keep(folder: Path) -> None:
    """Run a broker until nobody uses it any more, and remove the folder."""
    (folder / "broker").mkdir()
    broker = Broker(folder / "broker")
    try:
        await broker.start()
        _publish(folder / ADDRESS, broker.bootstrap)
        with (folder / USERS).open("a") as users:
            fcntl.flock(users, fcntl.LOCK_EX)
            await broker.remove()
            shutil.rmtree(folder)
    finally:
        await broker.remove()


def _publish(path: Path, text: str) -> None:
    """Write a file that others see whole or not at all."""
    beside = path.with_suffix(".new")
    beside.write_text(text)
    beside.rename(path)


if __name__ == "__main__":
    asyncio.run(keep(Path(sys.argv[1])))
