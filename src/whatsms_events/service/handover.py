"""How a process takes the listening sockets of the one that it replaces, over a UNIX socket (SCM_RIGHTS).

Theory of operation. The running process offers its sockets at a path; the next one is started beside it:

    next        connects to the path, and gets the roles and the sockets with their names; nothing answers there: it
                binds its own; it has other roles: it ends, since it could not take the place of the running one
    next        opens its databases, starts its roles, and accepts: both processes take from the same kernel queue
    next        offers the sockets at the path itself, and says READY
    running     stops: it accepts no more, answers what it has begun, and ends

Both have the very same sockets, so the kernel's queue never closes: no connection is refused or reset. If the next one
ends before READY, the running one goes on as if nothing had happened. If the running one ends before READY, the next
one does as in a start with nobody before it. One process at a time may take over.
"""

import asyncio
import json
import os
import socket
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from whatsms_events.errors import ConfigError
from whatsms_events.web.sockets import LISTENERS, Sockets

READY: Final = b"ready"
ANSWER_S: Final = 5.0
"""How long the running process may take to give its sockets: its loop may be in the middle of a batch."""

WORDS_BYTES: Final = 1024
SOCKETS_LIMIT: Final = 16
_CREDENTIALS: Final = struct.Struct("3i")  # of the process at the other end: pid, uid, gid
_OURS: Final = "handover.socket"

log = structlog.get_logger()


class TakenOver:
    """The sockets that the running process gave us; it waits for our word to stop.

    `ended` is set where that process ends, or begins to, before our word; only where `watch` was called.
    """

    def __init__(self, line: socket.socket, sockets: Sockets) -> None:
        self.sockets = sockets
        self.ended = asyncio.Event()
        self._line = line

    def watch(self) -> None:
        """Begin to notice the end of the process before us. It says nothing more, so whatever comes is that end."""
        self._line.setblocking(False)
        asyncio.get_running_loop().add_reader(self._line.fileno(), self._on_end)

    def _on_end(self) -> None:
        self._hang_up()
        self.ended.set()

    def _hang_up(self) -> None:
        if self._line.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._line.fileno())
            self._line.close()

    def ready(self) -> None:
        """Let the process before us stop: we accept now."""
        with suppress(OSError):  # it may have ended
            self._line.sendall(READY)
        self._hang_up()

    def keep(self, used: Iterable[socket.socket]) -> None:
        """Close all sockets but those: in a queue that nobody reads, connections would wait for ever."""
        kept = list(used)
        for sockets in self.sockets.values():
            for one in sockets:
                if one not in kept:
                    one.close()

    def close(self) -> None:
        """Leave the process before us as it is, and its sockets to that one alone."""
        self._hang_up()
        self.keep(())


def take(path: Path, roles: frozenset[str]) -> TakenOver | None:
    """Return the sockets of the process that offers them at the path; None where none does.

    Raise ConfigError where the path cannot be used, another process is taking over just now, or the running process was
    started with other roles than ours.
    """
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    line.settimeout(ANSWER_S)
    try:
        line.connect(str(path))
        words, numbers, _flags, _address = socket.recv_fds(line, WORDS_BYTES, SOCKETS_LIMIT)
    except (FileNotFoundError, ConnectionRefusedError):  # the last one was killed, or there never was one
        line.close()
        return None
    except OSError as exc:
        line.close()
        raise ConfigError(f"{_OURS}: {path} cannot be used: {(exc.strerror or type(exc).__name__).lower()}") from exc
    if not words:
        line.close()
        raise ConfigError(f"{_OURS}: another process is taking over at {path} just now, or is not of this user")
    offered, found = json.loads(words), {name: list[socket.socket]() for name in LISTENERS}
    for name, number in zip(offered["sockets"], numbers, strict=True):
        found[name].append(socket.socket(fileno=number))
    taken = TakenOver(line, found)
    if set(offered["roles"]) != roles:
        line.close()
        taken.keep(())
        theirs, ours = ", ".join(sorted(offered["roles"])), ", ".join(sorted(roles))
        raise ConfigError(
            f"{_OURS}: the process at {path} has the roles {theirs} and goes on; this one has {ours}: "
            "each set of roles needs a path of its own"
        )
    return taken


class Offer:
    """The sockets of this process, offered at a path to one with the same roles.

    `on_taken` is called once that one is ready.
    """

    def __init__(self, path: Path, roles: frozenset[str], sockets: Sockets, on_taken: Callable[[], None]) -> None:
        self._path = path
        self._roles = roles
        self._sockets = sockets
        self._on_taken = on_taken
        self._taker: socket.socket | None = None
        self._door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._door.setblocking(False)

    def open(self) -> None:
        """Offer, in the place of the process before us. Raise ConfigError where the path cannot be used."""
        beside = self._path.with_name(f".{os.getpid()}")  # no longer than an address may be
        try:
            beside.unlink(missing_ok=True)
            self._door.bind(str(beside))
            beside.chmod(0o600)
            self._door.listen(1)
            beside.replace(self._path)
        except OSError as exc:
            self._door.close()
            with suppress(OSError):
                beside.unlink()
            raise ConfigError(f"{_OURS}: cannot listen at {self._path}: {(exc.strerror or str(exc)).lower()}") from exc
        asyncio.get_running_loop().add_reader(self._door.fileno(), self._on_caller)

    def close(self) -> None:
        """Offer no more. The path is left alone: the next process may have it already."""
        for one in (self._door, self._taker):
            if one is not None and one.fileno() >= 0:
                asyncio.get_running_loop().remove_reader(one.fileno())
                one.close()

    def _on_caller(self) -> None:
        try:
            line, _address = self._door.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        line.setblocking(False)
        if self._taker is not None or not _is_ours(line):
            line.close()
            return
        named = list(_each(self._sockets))
        try:
            words = json.dumps({"roles": sorted(self._roles), "sockets": [name for name, _one in named]}).encode()
            socket.send_fds(line, [words], [one.fileno() for _name, one in named])
        except OSError:  # it has gone
            line.close()
            return
        self._taker = line
        asyncio.get_running_loop().add_reader(line.fileno(), self._on_word, line)

    def _on_word(self, line: socket.socket) -> None:
        """Take in that the next process is ready, or that it has ended before that."""
        try:
            word = line.recv(len(READY))
        except BlockingIOError:
            return
        except OSError:
            word = b""
        asyncio.get_running_loop().remove_reader(line.fileno())
        line.close()
        self._taker = None
        if word == READY:
            self._on_taken()
        else:
            log.warning("service.not_taken", reason="the next process ended before it was ready")


def _each(sockets: Sockets) -> Iterable[tuple[str, socket.socket]]:
    return ((name, one) for name in LISTENERS for one in sockets.get(name, ()))


def _is_ours(line: socket.socket) -> bool:
    """Tell whether the other end is of our user, or root."""
    found = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return _CREDENTIALS.unpack(found)[1] in (os.getuid(), 0)
