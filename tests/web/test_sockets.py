"""Sockets that systemd holds, as `sd_listen_fds(3)` describes them, and those that we bind."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from servers.ports import HOST
from whatsms_events.errors import ConfigError
from whatsms_events.web.sockets import activated, bound, port_of


@contextmanager
def passed(*kinds: socket.SocketKind) -> Iterator[tuple[int, list[int]]]:
    """Give sockets with descriptors in a row, as systemd passes them; return the first descriptor, and their ports."""
    with ExitStack() as stack:
        made = [stack.enter_context(socket.socket(socket.AF_INET, kind)) for kind in kinds]
        first = max(int(one.name) for one in Path("/proc/self/fd").iterdir()) + 10  # behind all that are open
        for place, one in enumerate(made, first):
            one.bind((HOST, 0))
            os.dup2(one.fileno(), place)
        yield first, [port_of(one) for one in made]


STREAM, DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM


@pytest.mark.parametrize("names", ["private:public", "", "whatsms-events.socket:whatsms-events.socket"])
def test_sockets_of_systemd_are_known_by_name_or_by_place(names: str) -> None:
    """Names decide; without names of ours the first is the public listener's. The variables are gone afterwards."""
    with passed(STREAM, STREAM) as (first, ports):
        environ = {"LISTEN_PID": "7", "LISTEN_FDS": "2", "LISTEN_FDNAMES": names, "PATH": "p"}
        given = activated(environ, 7, first=first)
        found = {name: [port_of(one) for one in some] for name, some in given.items()}
        for some in given.values():
            for one in some:
                assert not one.get_inheritable()
                one.close()
    assert environ == {"PATH": "p"}
    public, private = reversed(ports) if names == "private:public" else ports
    assert found == {"public": [public], "private": [private]}


def test_sockets_of_another_process_are_left_alone() -> None:
    """`LISTEN_PID` names whom they are for; without the variables there are none."""
    assert activated({"LISTEN_PID": "8", "LISTEN_FDS": "1"}, 7) == {}
    assert activated({"LISTEN_PID": "7", "LISTEN_FDS": "x"}, 7) == {}
    assert activated({}, 7) == {}


@pytest.mark.parametrize(
    ("kinds", "names", "message"),
    [
        ((DATAGRAM,), "public", r"descriptor \d+ is no TCP socket"),
        ((STREAM, STREAM), "public:metrics", "unknown metrics"),
        ((STREAM, STREAM, STREAM), "", "3 sockets without names"),
    ],
)
def test_sockets_that_cannot_be_used_are_refused(
    kinds: tuple[socket.SocketKind, ...], names: str, message: str
) -> None:
    """A socket unit of the wrong kind gets a line that says so."""
    environ = {"LISTEN_PID": "7", "LISTEN_FDS": str(len(kinds)), "LISTEN_FDNAMES": names}
    with passed(*kinds) as (first, _ports):
        with pytest.raises(ConfigError, match=message):
            activated(environ, 7, first=first)
        for place in range(first, first + len(kinds)):
            os.close(place)


async def test_a_host_of_several_addresses_has_one_port() -> None:
    """Port 0 is one free port for all addresses; a port that is taken is an OSError, and nothing stays open."""
    found = await bound("localhost", 0)
    assert len({port_of(one) for one in found}) == 1
    found[0].listen()
    with pytest.raises(OSError, match="in use"):
        await bound("localhost", port_of(found[0]))
    for one in found:
        one.close()
