"""Durable ingest as a ratio to bare aiohttp: both servers started here, rounds taken in turns, medians printed.

The receiver is the service itself, `whatsms-events serve --roles receiver`; bare aiohttp reads the body and answers
204. Where there are two cores, the servers get one and this process, which sends, the other (Linux only).
"""
# ruff: noqa: INP001, T201 - a script outside every package, and printing is what it is for

import argparse
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from statistics import median, quantiles
from typing import Final

from aiohttp import web

from whatsms_events.domain.signature import HEADER, sign
from whatsms_events.twin.world import World

SECRET: Final = "bench-secret"  # noqa: S105 - of a service that lives for a minute
PATH: Final = "/webhooks/bench"
START_S: Final = 30.0
ANSWER_S: Final = 10.0
WARM_UP_S: Final = 0.5
RATE_LIMIT: Final = 40_000
"""Deliveries a second that are prepared for a round; a faster server ends it early."""

REDELIVER_EVERY: Final = 100
REDELIVER_BACK: Final = 1000
"""One delivery in a hundred comes again, a thousand later."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    name: str
    port: int
    pid: int

    def cpu_s(self) -> float:
        """Return the processor time it used so far, of all its threads, user and system."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Round:
    """What one server did in one round: deliveries a second, seconds each took, and processor time for each."""

    rate: float
    took_s: list[float]
    cpu_us: float


class Client:
    """One kept connection with one delivery on its way."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent_at = 0.0

    def send(self, request: bytes, now: float) -> None:
        """Send a delivery; it fits the socket's buffer."""
        self.socket.sendall(request)
        self.sent_at = now

    def receive(self) -> None:
        """Take the answer: small, so it comes in one piece. Exit where it is no 2xx."""
        answer = self.socket.recv(4096)
        if answer[9:10] != b"2":
            raise SystemExit(f"not a 2xx: {answer!r}")


def send(server: Server, requests: list[bytes], connections: int, seconds: float) -> Round:
    """Keep one delivery on its way on each connection until the time or the deliveries are over."""
    with ExitStack() as stack, select.epoll() as poll:
        clients: dict[int, Client] = {}
        waiting = iter(requests)
        for _ in range(connections):
            client = Client(server.port)
            stack.enter_context(client.socket)
            clients[client.socket.fileno()] = client
            poll.register(client.socket, select.EPOLLIN)
        took_s: list[float] = []
        cpu_s, started = server.cpu_s(), time.perf_counter()
        on_way = 0
        for client, request in zip(clients.values(), waiting, strict=False):
            client.send(request, started)
            on_way += 1
        now = started
        while on_way:
            ready = poll.poll(ANSWER_S)
            if not ready:
                raise SystemExit(f"{server.name} stopped answering")
            now = time.perf_counter()
            for number, _ in ready:
                client = clients[number]
                client.receive()
                took_s.append(now - client.sent_at)
                request = next(waiting, b"") if now - started < seconds else b""
                if request:
                    client.send(request, now)
                else:
                    on_way -= 1
        return Round(len(took_s) / (now - started), took_s, (server.cpu_s() - cpu_s) / len(took_s) * 1e6)


def deliveries(world: World) -> Iterator[bytes]:
    """Yield signed requests for ever: the twin's life-like webhooks, all different but for the redeliveries."""
    kept: list[bytes] = []
    for webhook in world.webhooks():
        body = webhook.body
        head = (
            f"POST {PATH} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
            f"{HEADER}: {sign(body, SECRET.encode())}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        request = head.encode("ascii") + body
        yield request
        kept.append(request)
        if len(kept) == REDELIVER_BACK:
            yield from kept[::REDELIVER_EVERY]
            kept.clear()


async def _take(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(status=204)


def serve_bare(port: int) -> None:
    """Serve what everything is compared with: aiohttp with a router, a body and an empty answer."""
    app = web.Application()
    app.add_routes([web.post(PATH, _take)])
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None)


@contextmanager
def running(name: str, command: list[str], port: int, environ: dict[str, str], output: Path) -> Iterator[Server]:
    """Start a server, wait until it listens, and stop it at the end."""
    with output.open("wb") as file:
        process = subprocess.Popen(command, env=os.environ | environ, stderr=file)  # noqa: S603 - our own commands
    try:
        deadline = time.monotonic() + START_S
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{name} did not start:\n{output.read_text()}")
            time.sleep(0.05)
        yield Server(name, port, process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(START_S)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _service(database: str, port: int, folder: Path) -> tuple[list[str], dict[str, str]]:
    """Return command and environment of the receiver."""
    url = {} if database == "sqlite" else {"WHATSMS_EVENTS_DATABASE__URL": database}
    settings = {
        "DATA_DIR": str(folder),
        "PUBLIC__HOST": "127.0.0.1",
        "PUBLIC__PORT": str(port),
        "PRIVATE__PORT": "0",
        "TENANTS__BENCH__TENANT_ID": "bench",
        "TENANTS__BENCH__WEBHOOK_SECRETS__CURRENT": SECRET,
    }
    environ = {f"WHATSMS_EVENTS_{name}": value for name, value in settings.items()}
    return [sys.executable, "-m", "whatsms_events", "serve", "--roles", "receiver"], environ | url


@contextmanager
def both(database: str, folder: Path) -> Iterator[list[Server]]:
    """Run bare aiohttp and the receiver, pinned to the first core, with this process on the second."""
    cores = sorted(os.sched_getaffinity(0))
    bare_port, our_port = _free_port(), _free_port()
    os.sched_setaffinity(0, cores[:1])  # for the servers, which inherit it
    with ExitStack() as stack:
        bare = [sys.executable, __file__, "--serve-bare", str(bare_port)]
        command, environ = _service(database, our_port, folder)
        servers = [
            stack.enter_context(running("bare aiohttp", bare, bare_port, {}, folder / "bare.log")),
            stack.enter_context(running("receiver", command, our_port, environ, folder / "receiver.log")),
        ]
        os.sched_setaffinity(0, cores[1:2] or cores)
        yield servers


def measure(servers: list[Server], rounds: int, seconds: float, connections: int) -> dict[str, list[Round]]:
    """Let each server have each round's deliveries, the first one of a round being the second of the next."""
    requests = deliveries(World(1, start=datetime.now(UTC), tenant_id="bench", pace=RATE_LIMIT))
    done: dict[str, list[Round]] = {server.name: [] for server in servers}
    for server in servers:
        send(server, list(islice(requests, int(RATE_LIMIT * WARM_UP_S))), connections, WARM_UP_S)
    for number in range(rounds):
        batch = list(islice(requests, int(RATE_LIMIT * seconds)))
        for server in servers if number % 2 == 0 else servers[::-1]:
            done[server.name].append(send(server, batch, connections, seconds))
            time.sleep(0.2)
        print(" ".join(f"{name} {made[-1].rate:.0f}/s {made[-1].cpu_us:.1f} us," for name, made in done.items()))
    return done


def report(done: dict[str, list[Round]]) -> None:
    """Print medians over the rounds, and the ratios with their spread."""
    print(f"\n{'':14}{'per s':>9}{'p50 ms':>9}{'p99 ms':>9}{'CPU us':>9}")
    for name, rounds in done.items():
        cuts = [quantiles(one.took_s, n=100) for one in rounds]
        p50, p99 = (median(cut[at] for cut in cuts) * 1000 for at in (49, 98))
        rate, cpu_us = median(one.rate for one in rounds), median(one.cpu_us for one in rounds)
        print(f"{name:14}{rate:9.0f}{p50:9.2f}{p99:9.2f}{cpu_us:9.1f}")
    bare, ours = done.values()
    rates = sorted(our.rate / base.rate for base, our in zip(bare, ours, strict=True))
    cpus = sorted(base.cpu_us / our.cpu_us for base, our in zip(bare, ours, strict=True))
    print(f"\nratio of rates {median(rates):.2f} ({rates[0]:.2f} to {rates[-1]:.2f}), ", end="")
    print(f"of CPU per delivery {median(cpus):.2f} ({cpus[0]:.2f} to {cpus[-1]:.2f}); 1 is bare aiohttp")


def main() -> None:
    """Read the command line, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each server in each round")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--database", default="sqlite", help="sqlite, or the URL of an empty PostgreSQL database")
    parser.add_argument("--serve-bare", type=int, metavar="PORT", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve_bare is not None:
        serve_bare(given.serve_bare)
        return
    with tempfile.TemporaryDirectory() as folder, both(given.database, Path(folder)) as servers:
        done = measure(servers, given.rounds, given.seconds, given.connections)
    report(done)


if __name__ == "__main__":
    main()
