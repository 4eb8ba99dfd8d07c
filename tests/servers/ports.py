"""Ports for our servers: free, below the range of outgoing connections, and ours until this process ends."""

import asyncio
import fcntl
import os
import random
import socket
import tempfile
import time
from pathlib import Path
from typing import Any, Final

HOST: Final = "127.0.0.1"
# Linux gives outgoing connections ports from 32768 on: below, nobody can take one between two starts of a server.
PORTS: Final = range(20_000, 32_768)
CLOSE_DEADLINE_S: Final = 120.0
_reserved: Final[list[int]] = []  # file descriptors: the locks go with the process


def free_port() -> int:
    """Reserve a free port until this process ends: a lock on a file keeps other test runs away from it."""
    folder = Path(tempfile.gettempdir()) / f"whatsms-events-ports-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for port in random.sample(PORTS, 500):
        claim = os.open(folder / str(port), os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as probe:
                probe.bind((HOST, port))
        except OSError:
            os.close(claim)
        else:
            _reserved.append(claim)
            return port
    raise OSError(f"no free port among 500 of {PORTS}")


def watched_sockets() -> int:
    """Count the sockets that the running loop watches."""
    loop: Any = asyncio.get_running_loop()
    return len(loop._selector.get_map())  # noqa: SLF001 - asyncio has no public name for it


async def until_watched(count: int) -> None:
    """Wait until the loop watches no more than `count` sockets.

    aiokafka closes its connections without waiting, and over TLS that takes a few turns of the loop: a loop that ends
    first leaves sockets open, and the warning about them fails the test.
    """
    until = time.monotonic() + CLOSE_DEADLINE_S
    while watched_sockets() > count:
        if time.monotonic() > until:
            raise TimeoutError(f"{watched_sockets()} sockets are open, {count} expected")
        await asyncio.sleep(0.01)
