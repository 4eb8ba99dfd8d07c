"""The servers that are measured, and those that they need, each started on its core."""

import asyncio
import sys
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeVar

from bench.load import Cores, FailedError, on

from servers.kafka import Broker, have_jars
from servers.ports import HOST, free_port
from servers.postgres import Postgres, create_database, programs
from servers.process import Server
from servers.service import SLUG, Service, command

BENCH: Final = Path(__file__).resolve().parent
PATH: Final = f"/webhooks/{SLUG}"

T = TypeVar("T", bound=Server)


class Program(Server):
    """A server of the bench itself, or of somebody else, that takes its port as an argument."""

    def __init__(self, folder: Path, command: Sequence[str]) -> None:
        super().__init__(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.public_port = free_port()
        self._command = command

    def command(self) -> Sequence[str]:
        """Say what to run."""
        return [*self._command, str(self.public_port)]

    async def serves(self) -> bool:
        """Tell whether its port is open."""
        try:
            _, writer = await asyncio.open_connection(HOST, self.public_port)
        except OSError:
            return False
        writer.close()
        return True


def bare(folder: Path) -> Program:
    """Return bare aiohttp."""
    return Program(folder / "bare", [sys.executable, str(BENCH / "bare.py")])


def pid_of(server: Server) -> int:
    """Return the process id of a running server; raise FailedError where it has ended."""
    if server.pid is None:
        raise FailedError(f"{server} has ended with {server.status}")
    return server.pid


@asynccontextmanager
async def running(server: T, cores: Collection[int]) -> AsyncIterator[T]:
    """Run a server on these cores, and stop it at the end."""
    with on(cores):
        await server.start()
    try:
        yield server
    finally:
        await server.stop()


def service(
    folder: Path,
    *,
    roles: str = "receiver",
    database: str | None = None,
    kafka: Mapping[str, str] | None = None,
    retention: Mapping[str, float] | None = None,
) -> Service:
    """Return the service with its default configuration, but for ports, database, Kafka, retention and tenant."""
    settings: dict[str, dict[str, object]] = {}
    if retention:
        settings["retention"] = dict(retention)
    if database is not None:
        settings["database"] = {"url": database}
    if kafka:
        settings["kafka"] = dict(kafka)
    return Service(folder, roles=roles, settings=settings)


def upgrade(made: Service) -> None:
    """Make the tables of a service on PostgreSQL."""
    command(made, "db", "upgrade")


def create_topics(made: Service) -> None:
    """Make the topics of a service with Kafka."""
    command(made, "topics", "create")


@asynccontextmanager
async def postgres(cores: Cores) -> AsyncIterator[Postgres]:
    """Run PostgreSQL beside the measured server's core, durable as by its own defaults."""
    server = Postgres(programs())
    try:
        server.initialise()
        with on(cores.others):
            await server.start()
        yield server
    finally:
        await server.remove()


@asynccontextmanager
async def broker(folder: Path, cores: Cores) -> AsyncIterator[Broker]:
    """Run Apache Kafka beside the measured server's core."""
    have_jars()
    made = Broker(_new(folder))
    try:
        with on(cores.others):
            await made.start()
        yield made
    finally:
        await made.remove()


def _new(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


async def database(server: Postgres) -> str:
    """Return the URL of a new, empty database."""
    return await create_database(server.url)
