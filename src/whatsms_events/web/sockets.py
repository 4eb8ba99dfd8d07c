"""The sockets that a process listens on: bound by itself, or held open for it by systemd (socket activation).

A socket that somebody else holds open too outlives the process: connections that come while it is replaced wait in the
kernel's queue, and none is refused or reset.
"""

import asyncio
import os
import socket
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import ExitStack
from typing import Final

from whatsms_events.errors import ConfigError

Sockets = Mapping[str, Sequence[socket.socket]]
"""The listening sockets by the name of their listener, `public` or `private`."""

LISTENERS: Final = ("public", "private")
BACKLOG: Final = 1024
"""So many connections wait in the kernel; Linux takes no more than its `net.core.somaxconn`, 4096."""

FIRST: Final = 3
"""The first descriptor that systemd passes (sd_listen_fds(3))."""


async def bound(host: str, port: int) -> list[socket.socket]:
    """Return a socket for each address of the host, not listening yet; port 0 takes a free one, the same for all.

    Raise OSError where an address cannot be had.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    with ExitStack() as stack:
        sockets: list[socket.socket] = []
        for family, kind, protocol, _name, address in dict.fromkeys(found):
            one = stack.enter_context(socket.socket(family, kind, protocol))
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            taken = port or (port_of(sockets[0]) if sockets else 0)
            one.bind((address[0], taken, *address[2:]))
            sockets.append(one)
        stack.pop_all()
    return sockets


def port_of(one: socket.socket) -> int:
    """Return the port that a socket is bound to."""
    return int(one.getsockname()[1])


def activated(environ: MutableMapping[str, str], pid: int, *, first: int = FIRST) -> Sockets:
    """Return the sockets that systemd passed to the process `pid`, by the names that the socket unit gives them.

    Without names the first one is the public listener's, and the second one the private listener's. The variables are
    removed, so that no process that we start takes the sockets for its own. Raise ConfigError for another name, and for
    what does not listen on TCP.
    """
    count, names = environ.pop("LISTEN_FDS", ""), environ.pop("LISTEN_FDNAMES", "")
    if environ.pop("LISTEN_PID", "") != str(pid) or not count.isdigit():
        return {}
    numbers = range(first, first + int(count))
    found: dict[str, list[socket.socket]] = {}
    for name, number in zip(_named(names.split(":") if names else [], len(numbers)), numbers, strict=True):
        os.set_inheritable(number, False)
        found.setdefault(name, []).append(_listening(number))
    return found


def _named(names: Sequence[str], count: int) -> Sequence[str]:
    """Return the listener of each socket. systemd's own name for one without a name is that of its unit."""
    if any(name in LISTENERS for name in names):
        wrong = [name for name in names if name not in LISTENERS]
        if wrong:
            raise ConfigError(f"LISTEN_FDNAMES: unknown {', '.join(wrong)}; there are {', '.join(LISTENERS)}")
        return names
    if count > len(LISTENERS):
        raise ConfigError(f"LISTEN_FDS: {count} sockets without names; give each FileDescriptorName=public or private")
    return LISTENERS[:count]


def _listening(number: int) -> socket.socket:
    try:
        one = socket.socket(fileno=number)
        if one.type == socket.SOCK_STREAM and one.family in (socket.AF_INET, socket.AF_INET6):
            return one
        one.detach()
    except OSError:
        pass
    raise ConfigError(f"LISTEN_FDS: descriptor {number} is no TCP socket: use ListenStream= with a port, no Accept=yes")
